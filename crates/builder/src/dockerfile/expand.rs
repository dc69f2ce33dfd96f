//! What words mean: variables are replaced, quotes and escapes go.
//!
//! ```text
//! $x ${x}                 its value, nothing if it has none
//! ${x:-w} ${x-w}          w if x is empty or not set; only if it is not set
//! ${x:+w} ${x+w}          w if it is set and not empty; if it is set
//! ${x:?w} ${x?w}          the build ends with the message w if it is empty or not set; if it is not set
//! ${x#p} ${x##p}          without the shortest, longest beginning that matches p
//! ${x%p} ${x%%p}          without the shortest, longest end that matches p
//! ${x/p/w} ${x//p/w}      with w in place of the first match, of all matches
//! 'literally'  "only $variables and \" \$ \\"  \c
//! ```
//!
//! `w` is a word again. Nothing else of a shell is known. What is not chosen, such as `w` of `${x:-w}` where x is
//! set, is read but cannot fail.
//!
//! docs.docker.com/reference/dockerfile "Environment replacement" says which instruction replaces what;
//! [`instruction`] does that.

use super::ast::{Add, Arg, Copy, From, Heredoc, Instruction, Kind, Pair, Pairs, Source, Word};
use super::pattern::Pattern;
use super::span::{Problem, Span};

/// Longest value of a word (bytes): the kernel takes no longer variable (execve(2), `MAX_ARG_STRLEN`).
pub const MAX_VALUE: usize = 128 << 10;
/// Longest content of a here-document (bytes).
pub const MAX_HEREDOC: usize = 4 << 20;
/// `${a:-${b:-…}}` at most so deep.
const MAX_DEPTH: usize = 64;

/// Says what a variable is worth; `None` if it is not set.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Is told what each word has come to (bytes), and says whether that is too much for the whole file.
pub type Spend<'a> = &'a dyn Fn(usize, Span) -> Result<(), Problem>;

/// The value of a word.
pub fn word(word: &Word, escape: char, lookup: Lookup<'_>) -> Result<String, Problem> {
    let mut expander = Expander::new(word, escape, lookup);
    let mut out = Out::new(MAX_VALUE);
    expander.run(&mut out, Until::End)?;
    Ok(out.whole())
}

/// The values of a word that falls into several where a variable's value has spaces (EXPOSE).
pub fn words(word: &Word, escape: char, lookup: Lookup<'_>) -> Result<Vec<String>, Problem> {
    let mut expander = Expander::new(word, escape, lookup);
    let mut out = Out { split: true, ..Out::new(MAX_VALUE) };
    expander.run(&mut out, Until::End)?;
    Ok(out.words())
}

/// The content of a here-document of COPY or ADD. Quotes mean nothing in it.
pub fn heredoc(heredoc: &Heredoc, escape: char, lookup: Lookup<'_>) -> Result<String, Problem> {
    if !heredoc.expand {
        return Ok(heredoc.content.text.clone());
    }
    let mut expander = Expander::new(&heredoc.content, escape, lookup);
    let mut out = Out::new(MAX_HEREDOC);
    expander.document(&mut out)?;
    Ok(out.whole())
}

/// Variables of a word that are used as they are, and are not set.
pub fn unset(word: &Word, escape: char, lookup: Lookup<'_>) -> Vec<String> {
    let mut expander = Expander::new(word, escape, lookup);
    // A word that is wrong is told elsewhere.
    let _ = expander.run(&mut Out::new(MAX_VALUE), Until::End);
    expander.unset
}

/// The instruction with all its words replaced that it replaces. EXPOSE may have other words then. FROM sees
/// global variables only, so `lookup` has to be another one for it. What is in RUN, CMD, ENTRYPOINT, HEALTHCHECK,
/// SHELL and ONBUILD is for the shell or for later; mounts of RUN are [resolved](super::mount::resolve).
pub fn instruction(
    instruction: &Instruction,
    escape: char,
    lookup: Lookup<'_>,
    spend: Spend<'_>,
) -> Result<Instruction, Problem> {
    let paid = |text: String, span: Span| spend(text.len(), span).map(|()| Word { text, span });
    let one = |from: &Word| paid(word(from, escape, lookup)?, from.span);
    let maybe = |from: &Option<Word>| from.as_ref().map(one).transpose();
    let all = |from: &[Word]| from.iter().map(one).collect::<Result<Vec<_>, Problem>>();
    let source = |from: &Source| match from {
        Source::Path(path) => one(path).map(Source::Path),
        Source::Inline(document) => {
            let content = paid(heredoc(document, escape, lookup)?, document.content.span)?;
            Ok(Source::Inline(Heredoc { content, ..document.clone() }))
        }
    };
    let sources = |from: &[Source]| from.iter().map(source).collect::<Result<Vec<_>, Problem>>();
    let kind = match &instruction.kind {
        Kind::From(from) => Kind::From(From {
            image: one(&from.image)?,
            platform: maybe(&from.platform)?,
            stage: from.stage.clone(),
        }),
        Kind::Label(pairs) => Kind::Label(expand_pairs(pairs, &one)?),
        Kind::Env(pairs) => Kind::Env(expand_pairs(pairs, &one)?),
        Kind::Expose(ports) => {
            let mut expanded = Vec::new();
            for port in ports {
                for text in words(port, escape, lookup)? {
                    expanded.push(paid(text, port.span)?);
                }
            }
            Kind::Expose(expanded)
        }
        Kind::Add(add) => Kind::Add(Add {
            sources: sources(&add.sources)?,
            destination: one(&add.destination)?,
            checksum: maybe(&add.checksum)?,
            chown: maybe(&add.chown)?,
            chmod: maybe(&add.chmod)?,
            exclude: all(&add.exclude)?,
            ..add.clone()
        }),
        Kind::Copy(copy) => Kind::Copy(Copy {
            sources: sources(&copy.sources)?,
            destination: one(&copy.destination)?,
            chown: maybe(&copy.chown)?,
            chmod: maybe(&copy.chmod)?,
            exclude: all(&copy.exclude)?,
            ..copy.clone()
        }),
        Kind::Volume(volumes) => Kind::Volume(all(volumes)?),
        Kind::User(user) => Kind::User(one(user)?),
        Kind::Workdir(folder) => Kind::Workdir(one(folder)?),
        Kind::Stopsignal(signal) => Kind::Stopsignal(one(signal)?),
        Kind::Arg(arguments) => {
            let argument = |arg: &Arg| Ok(Arg { name: one(&arg.name)?, default: maybe(&arg.default)? });
            Kind::Arg(arguments.iter().map(argument).collect::<Result<_, Problem>>()?)
        }
        kind @ (Kind::Run(_)
        | Kind::Cmd(_)
        | Kind::Maintainer(_)
        | Kind::Entrypoint(_)
        | Kind::Onbuild(_)
        | Kind::Healthcheck(_)
        | Kind::Shell(_)) => kind.clone(),
    };
    Ok(Instruction { kind, ..instruction.clone() })
}

fn expand_pairs(pairs: &Pairs, one: &dyn Fn(&Word) -> Result<Word, Problem>) -> Result<Pairs, Problem> {
    let pair = |pair: &Pair| Ok(Pair { key: one(&pair.key)?, value: one(&pair.value)? });
    Ok(Pairs { pairs: pairs.pairs.iter().map(pair).collect::<Result<_, Problem>>()?, legacy: pairs.legacy })
}

fn path(source: &Source) -> Option<&Word> {
    match source {
        Source::Path(path) => Some(path),
        Source::Inline(_) => None,
    }
}

/// The words of an instruction in which variables are replaced, here-documents aside.
pub fn expanded(kind: &Kind) -> Vec<&Word> {
    match kind {
        Kind::Copy(copy) => {
            let sources = copy.sources.iter().filter_map(path);
            sources
                .chain([&copy.destination])
                .chain(&copy.chown)
                .chain(&copy.chmod)
                .chain(&copy.exclude)
                .collect()
        }
        Kind::Add(add) => {
            let sources = add.sources.iter().filter_map(path).chain([&add.destination]).chain(&add.checksum);
            sources.chain(&add.chown).chain(&add.chmod).chain(&add.exclude).collect()
        }
        Kind::Env(pairs) | Kind::Label(pairs) => {
            pairs.pairs.iter().flat_map(|pair| [&pair.key, &pair.value]).collect()
        }
        Kind::Arg(arguments) => {
            arguments.iter().flat_map(|arg| [&arg.name].into_iter().chain(&arg.default)).collect()
        }
        Kind::Expose(words) | Kind::Volume(words) => words.iter().collect(),
        Kind::User(word) | Kind::Workdir(word) | Kind::Stopsignal(word) => vec![word],
        Kind::Run(run) => {
            run.mounts.iter().flat_map(|mount| &mount.options).filter_map(|o| o.value.as_ref()).collect()
        }
        Kind::From(from) => [&from.image].into_iter().chain(&from.platform).collect(),
        Kind::Cmd(_)
        | Kind::Maintainer(_)
        | Kind::Entrypoint(_)
        | Kind::Onbuild(_)
        | Kind::Healthcheck(_)
        | Kind::Shell(_) => Vec::new(),
    }
}

/// Where the result goes.
struct Out {
    done: Vec<String>,
    text: String,
    /// There is a word, even if it is empty (`""`).
    begun: bool,
    split: bool,
    limit: usize,
}

impl Out {
    fn new(limit: usize) -> Out {
        Out { done: Vec::new(), text: String::new(), begun: false, split: false, limit }
    }

    /// Text that stays together.
    fn push(&mut self, text: &str) {
        self.begun = true;
        self.text.push_str(text);
    }

    /// A variable's value outside of quotes.
    fn push_value(&mut self, text: &str) {
        if !self.split {
            return self.push(text);
        }
        for (index, piece) in text.split(char::is_whitespace).enumerate() {
            if index > 0 {
                self.finish();
            }
            if !piece.is_empty() {
                self.push(piece);
            }
        }
    }

    fn finish(&mut self) {
        if std::mem::take(&mut self.begun) {
            self.done.push(std::mem::take(&mut self.text));
        }
    }

    fn whole(self) -> String {
        self.text
    }

    fn words(mut self) -> Vec<String> {
        self.finish();
        self.done
    }
}

/// Where a word within a word ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    End,
    /// `}`
    Brace,
    /// `/` or `}`
    Slash,
}

struct Expander<'a> {
    word: &'a Word,
    at: usize,
    escape: char,
    lookup: Lookup<'a>,
    /// What is read now was chosen.
    live: bool,
    /// Escapes stay: a pattern has its own.
    raw: bool,
    depth: usize,
    unset: Vec<String>,
}

impl<'a> Expander<'a> {
    fn new(word: &'a Word, escape: char, lookup: Lookup<'a>) -> Expander<'a> {
        Expander { word, at: 0, escape, lookup, live: true, raw: false, depth: 0, unset: Vec::new() }
    }

    fn peek(&self) -> Option<char> {
        self.word.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    /// About what stands from `start` to here; about the whole word where something was taken out of it.
    fn problem(&self, start: usize, message: impl Into<String>, remedy: impl Into<String>) -> Problem {
        let span = self.word.span;
        let exact = span.end - span.start == self.word.text.len();
        let span = if exact { Span::new(span.start + start, span.start + self.at) } else { span };
        Problem::new(span, message, remedy)
    }

    fn check_size(&self, out: &Out, start: usize) -> Result<(), Problem> {
        if out.text.len() <= out.limit {
            return Ok(());
        }
        let message = format!("the value has more than {} bytes", out.limit);
        Err(self.problem(start, message, "keep large values in files"))
    }

    fn run(&mut self, out: &mut Out, until: Until) -> Result<(), Problem> {
        while let Some(c) = self.peek() {
            let start = self.at;
            match c {
                '}' if until != Until::End => return Ok(()),
                '/' if until == Until::Slash => return Ok(()),
                '\'' => self.single(out)?,
                '"' => self.double(out)?,
                '$' => {
                    if let Some(value) = self.variable()? {
                        out.push_value(&value);
                    } else {
                        out.push("$");
                    }
                }
                _ => {
                    self.next();
                    if c != self.escape {
                        out.push(c.encode_utf8(&mut [0; 4]));
                    } else if let Some(escaped) = self.next() {
                        if self.raw {
                            out.push("\\");
                        }
                        out.push(escaped.encode_utf8(&mut [0; 4]));
                    }
                }
            }
            self.check_size(out, start)?;
        }
        Ok(())
    }

    fn single(&mut self, out: &mut Out) -> Result<(), Problem> {
        let start = self.at;
        self.next();
        let Some(length) = self.word.text[self.at..].find('\'') else {
            self.at = self.word.text.len();
            return Err(self.problem(
                start,
                "unexpected end of statement while looking for matching single-quote",
                format!("close the quote, or write {}' for a quote that is meant", self.escape),
            ));
        };
        out.push(&self.word.text[self.at..self.at + length]);
        self.at += length + 1;
        Ok(())
    }

    fn double(&mut self, out: &mut Out) -> Result<(), Problem> {
        let start = self.at;
        self.next();
        out.push("");
        while let Some(c) = self.peek() {
            match c {
                '"' => {
                    self.next();
                    return Ok(());
                }
                '$' => {
                    let value = self.variable()?;
                    out.push(value.as_deref().unwrap_or("$"));
                }
                _ => {
                    let plain = self.unescaped(&['"', '$', self.escape]);
                    out.push(plain.unwrap_or(c).encode_utf8(&mut [0; 4]));
                }
            }
            self.check_size(out, start)?;
        }
        Err(self.problem(
            start,
            "unexpected end of statement while looking for matching double-quote",
            format!("close the quote, or write {}\" for a quote that is meant", self.escape),
        ))
    }

    /// Shell Command Language 2.7.4: only variables, and escapes of what would be one.
    fn document(&mut self, out: &mut Out) -> Result<(), Problem> {
        while let Some(c) = self.peek() {
            let start = self.at;
            if c == '$' {
                let value = self.variable()?;
                out.push(value.as_deref().unwrap_or("$"));
            } else {
                let plain = self.unescaped(&['$', self.escape, '`']);
                out.push(plain.unwrap_or(c).encode_utf8(&mut [0; 4]));
            }
            self.check_size(out, start)?;
        }
        Ok(())
    }

    /// Takes one character; if it escapes one of the `special` ones, takes that and gives it.
    fn unescaped(&mut self, special: &[char]) -> Option<char> {
        let escapes = self.peek() == Some(self.escape);
        self.next();
        let escaped = self.peek().filter(|c| escapes && special.contains(c))?;
        self.next();
        Some(escaped)
    }

    /// What begins with `$`; `None` if it is no variable but this character.
    fn variable(&mut self) -> Result<Option<String>, Problem> {
        let start = self.at;
        self.next();
        if !self.eat('{') {
            let name = self.name();
            return Ok((!name.is_empty()).then(|| self.plain(name)));
        }
        if self.depth == MAX_DEPTH {
            return Err(self.problem(start, "variables are nested too deeply", "use an ARG in between"));
        }
        self.depth += 1;
        let name = self.name();
        if name.is_empty() {
            return Err(self.problem(start, "bad substitution: a name is missing", "write ${NAME}"));
        }
        let value = self.substitution(start, name)?;
        if !self.eat('}') {
            return Err(self.problem(start, "syntax error: missing '}'", "close the brace"));
        }
        self.depth -= 1;
        Ok(Some(value))
    }

    /// As POSIX has them: a name, a number or one special character.
    fn name(&mut self) -> &'a str {
        let rest = &self.word.text[self.at..];
        let first = rest.chars().next().unwrap_or(' ');
        let length = if first.is_ascii_digit() {
            rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())
        } else if "@*#?-$!".contains(first) {
            1
        } else {
            rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len())
        };
        self.at += length;
        &rest[..length]
    }

    fn plain(&mut self, name: &str) -> String {
        let value = (self.lookup)(name);
        if value.is_none() && self.live && !self.unset.iter().any(|known| known == name) {
            self.unset.push(name.to_owned());
        }
        value.unwrap_or_default()
    }

    /// What stands between the name and the brace.
    fn substitution(&mut self, start: usize, name: &str) -> Result<String, Problem> {
        let at = self.at;
        match self.peek() {
            None | Some('}') => Ok(self.plain(name)),
            Some('#' | '%' | '/') => self.edit(start, name),
            Some(c) => {
                self.next();
                let colon = c == ':';
                let operator = if colon { self.next() } else { Some(c) };
                if !operator.is_some_and(|operator| "-+?".contains(operator)) {
                    let modifier = &self.word.text[at..self.at];
                    return Err(self.problem(
                        start,
                        format!("unsupported modifier ({modifier}) in substitution"),
                        "the modifiers are :- - :+ + :? ? # ## % %% / and //",
                    ));
                }
                let value = (self.lookup)(name).filter(|value| !(colon && value.is_empty()));
                match (operator, value) {
                    (Some('+'), Some(_)) => self.inner(true, Until::Brace),
                    (Some('+'), None) => self.inner(false, Until::Brace).map(|_| String::new()),
                    (_, Some(value)) => self.inner(false, Until::Brace).map(|_| value),
                    (Some('-'), None) => self.inner(true, Until::Brace),
                    (_, None) => self.refusal(start, name, colon),
                }
            }
        }
    }

    fn refusal(&mut self, start: usize, name: &str, colon: bool) -> Result<String, Problem> {
        let message = self.inner(self.live, Until::Brace)?;
        if !self.live {
            return Ok(String::new());
        }
        let unset = if colon && (self.lookup)(name).is_some() { "empty" } else { "unset" };
        let message = if message.is_empty() { format!("not allowed to be {unset}") } else { message };
        Err(self.problem(start, format!("{name}: {message}"), format!("give it by --build-arg {name}=VALUE")))
    }

    /// `#`, `%` and `/`.
    fn edit(&mut self, start: usize, name: &str) -> Result<String, Problem> {
        let operator = self.next().unwrap_or_default();
        let double = self.eat(operator);
        let value = self.plain(name);
        let until = if operator == '/' { Until::Slash } else { Until::Brace };
        let outer = std::mem::replace(&mut self.raw, true);
        let pattern = self.inner(self.live, until);
        self.raw = outer;
        let pattern = Pattern::new(&pattern?);
        let replacement = if operator == '/' && self.eat('/') {
            self.inner(self.live, Until::Brace)?
        } else {
            String::new()
        };
        let edited = match (operator, double) {
            ('#', longest) => pattern.strip_prefix(&value, longest),
            ('%', longest) => pattern.strip_suffix(&value, longest),
            (_, all) => pattern.replace(&value, &replacement, all, MAX_VALUE),
        };
        edited.ok_or_else(|| {
            self.problem(
                start,
                "the pattern takes too long for this value, or the result is too long",
                "use a shorter value or pattern",
            )
        })
    }

    /// A word within a word. What is not chosen cannot fail for its variables' sake.
    fn inner(&mut self, chosen: bool, until: Until) -> Result<String, Problem> {
        let outer = self.live;
        self.live &= chosen;
        let mut out = Out::new(MAX_VALUE);
        let result = self.run(&mut out, until);
        self.live = outer;
        result.map(|()| out.whole())
    }
}
