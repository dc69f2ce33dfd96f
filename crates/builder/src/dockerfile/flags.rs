//! `--name=value` between an instruction's name and its arguments.

use super::ast::Word;
use super::lines::Part;
use super::nearest;
use super::span::Problem;
use super::words;

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing, `true` or `false`.
    Boolean,
    /// A value; the flag may stand once.
    Value,
    /// A value, as often as one likes.
    Values,
}

/// A flag as it is written.
#[derive(Debug, Clone)]
pub(super) struct Flag<'a> {
    /// All of it.
    pub(super) part: Part<'a>,
    pub(super) name: String,
    /// Without quotes.
    pub(super) value: Option<String>,
    /// As it is written; the flag itself if it has none.
    pub(super) written: Part<'a>,
}

impl Flag<'_> {
    pub(super) fn word(&self) -> Word {
        Word { text: self.value.clone().unwrap_or_default(), span: self.written.span() }
    }

    pub(super) fn problem(&self, message: impl Into<String>, remedy: impl Into<String>) -> Problem {
        Problem::new(self.part.span(), message, remedy)
    }
}

/// Flags that are known to be allowed and complete.
#[derive(Debug)]
pub(super) struct Flags<'a>(Vec<Flag<'a>>);

impl<'a> Flags<'a> {
    /// The flags in front of `arguments`, and what is left of these.
    pub(super) fn cut(arguments: Part<'a>, escape: char) -> (Vec<Flag<'a>>, Part<'a>) {
        let mut flags = Vec::new();
        for part in words::quoted_parts(arguments, escape) {
            let rest =
                |from: Part<'a>| arguments.sub(from.start - arguments.start, arguments.text().len()).trim();
            let Some(body) = part.text().strip_prefix("--") else { return (flags, rest(part)) };
            if body.is_empty() {
                return (flags, rest(part.sub(2, 2)));
            }
            let (name, value) =
                body.split_once('=').map_or((body, None), |(name, value)| (name, Some(value)));
            let written =
                value.map_or(part, |value| part.sub(part.text().len() - value.len(), part.text().len()));
            flags.push(Flag {
                part,
                name: name.to_owned(),
                value: value.map(|value| words::unquote(value, escape)),
                written,
            });
        }
        let end = arguments.text().len();
        (flags, arguments.sub(end, end))
    }

    /// Compares them with those that the instruction has.
    pub(super) fn check(flags: Vec<Flag<'a>>, known: &[(&str, Takes)]) -> Result<Flags<'a>, Problem> {
        for (index, flag) in flags.iter().enumerate() {
            let Some((_, takes)) = known.iter().find(|(name, _)| *name == flag.name) else {
                let names = known.iter().map(|(name, _)| *name);
                let hint =
                    nearest(&flag.name, names.clone()).map(|name| format!(" (did you mean --{name}?)"));
                let names: Vec<String> = names.map(|name| format!("--{name}")).collect();
                let remedy = if names.is_empty() {
                    "this instruction has no flags; put -- in front of arguments that look like one"
                        .to_owned()
                } else {
                    format!("its flags are {}", names.join(", "))
                };
                return Err(flag
                    .problem(format!("unknown flag: --{}{}", flag.name, hint.unwrap_or_default()), remedy));
            };
            if *takes != Takes::Values && flags[..index].iter().any(|other| other.name == flag.name) {
                return Err(
                    flag.problem(format!("duplicate flag specified: {}", flag.name), "keep one of them")
                );
            }
            match (takes, &flag.value) {
                (Takes::Boolean, Some(value))
                    if !["true", "false", ""].contains(&value.to_lowercase().as_str()) =>
                {
                    return Err(flag.problem(
                        format!("expecting boolean value for flag {}, not: {value}", flag.name),
                        "write true or false",
                    ));
                }
                (Takes::Value | Takes::Values, None) => {
                    return Err(flag.problem(
                        format!("missing a value on flag: {}", flag.name),
                        format!("write --{}=VALUE, without space", flag.name),
                    ));
                }
                _ => {}
            }
        }
        Ok(Flags(flags))
    }

    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &Flag<'a>> {
        self.0.iter().filter(move |flag| flag.name == name)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Flag<'a>> {
        self.all(name).next()
    }

    pub(super) fn word(&self, name: &str) -> Option<Word> {
        self.get(name).map(Flag::word)
    }

    pub(super) fn boolean(&self, name: &str) -> Option<bool> {
        self.get(name).map(|flag| !flag.value.as_deref().unwrap_or_default().eq_ignore_ascii_case("false"))
    }
}
