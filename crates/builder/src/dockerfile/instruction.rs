//! One logical line becomes one instruction.

use std::time::Duration;

use super::ast::{
    Add, Arg, Check, Command, Copy, Device, From, Healthcheck, Heredoc, Instruction, Kind, Network, Onbuild,
    Pair, Pairs, Program, Run, Security, Source, Word,
};
use super::flags::{Flags, Takes};
use super::lines::{Body, Line, Part};
use super::mount;
use super::nearest;
use super::span::Problem;
use super::words::{self, Json};

/// Names, and the flags that each has.
const INSTRUCTIONS: &[(&str, &[(&str, Takes)])] = &[
    (
        "ADD",
        &[
            ("checksum", Takes::Value),
            ("keep-git-dir", Takes::Boolean),
            ("unpack", Takes::Boolean),
            ("chown", Takes::Value),
            ("chmod", Takes::Value),
            ("link", Takes::Boolean),
            ("exclude", Takes::Values),
        ],
    ),
    ("ARG", &[]),
    ("CMD", &[]),
    (
        "COPY",
        &[
            ("from", Takes::Value),
            ("chown", Takes::Value),
            ("chmod", Takes::Value),
            ("link", Takes::Boolean),
            ("parents", Takes::Boolean),
            ("exclude", Takes::Values),
        ],
    ),
    ("ENTRYPOINT", &[]),
    ("ENV", &[]),
    ("EXPOSE", &[]),
    ("FROM", &[("platform", Takes::Value)]),
    (
        "HEALTHCHECK",
        &[
            ("interval", Takes::Value),
            ("timeout", Takes::Value),
            ("start-period", Takes::Value),
            ("start-interval", Takes::Value),
            ("retries", Takes::Value),
        ],
    ),
    ("LABEL", &[]),
    ("MAINTAINER", &[]),
    ("ONBUILD", &[]),
    (
        "RUN",
        &[
            ("mount", Takes::Values),
            ("network", Takes::Value),
            ("security", Takes::Value),
            ("device", Takes::Values),
        ],
    ),
    ("SHELL", &[]),
    ("STOPSIGNAL", &[]),
    ("USER", &[]),
    ("VOLUME", &[]),
    ("WORKDIR", &[]),
];

/// The instruction that the whole line is.
pub(super) fn parse(line: &Line, escape: char) -> Result<Instruction, Problem> {
    instruction(line.whole(), escape)
}

/// The instruction that begins with `part` and lasts to the end of its line.
fn instruction(part: Part<'_>, escape: char) -> Result<Instruction, Problem> {
    let (name, rest) = part.split_word();
    let upper = name.text().to_ascii_uppercase();
    let Some((known, flags)) = INSTRUCTIONS.iter().find(|(known, _)| *known == upper) else {
        let names = INSTRUCTIONS.iter().map(|(name, _)| *name);
        let hint = nearest(&upper, names.clone()).map(|name| format!(" (did you mean {name}?)"));
        return Err(Problem::new(
            name.span(),
            format!("unknown instruction: {}{}", name.text(), hint.unwrap_or_default()),
            if hint_needed(&upper) {
                "a line that belongs to the one before needs a \\ at the end of that one".to_owned()
            } else {
                format!("the instructions are {}", names.collect::<Vec<_>>().join(", "))
            },
        ));
    };
    let (found, arguments) = Flags::cut(rest, escape);
    let flags = Flags::check(found, flags)?;
    let reader = Reader { name, upper: known, arguments, flags, escape };
    let start = name.span().start;
    Ok(Instruction {
        span: super::span::Span { start, end: part.line.span.end },
        name: name.span(),
        kind: reader.kind()?,
    })
}

/// What does not even look like a name is rather the rest of a command.
fn hint_needed(name: &str) -> bool {
    !name.chars().all(|c| c.is_ascii_uppercase())
}

/// An instruction whose name and flags are known.
struct Reader<'a> {
    name: Part<'a>,
    upper: &'static str,
    arguments: Part<'a>,
    flags: Flags<'a>,
    escape: char,
}

impl<'a> Reader<'a> {
    fn kind(&self) -> Result<Kind, Problem> {
        Ok(match self.upper {
            "ADD" => Kind::Add(self.add()?),
            "ARG" => Kind::Arg(self.arg()?),
            "CMD" => Kind::Cmd(self.command(self.arguments)?),
            "COPY" => Kind::Copy(self.copy()?),
            "ENTRYPOINT" => Kind::Entrypoint(self.command(self.arguments)?),
            "ENV" => Kind::Env(self.pairs()?),
            "EXPOSE" => Kind::Expose(self.some(words::plain(self.arguments))?),
            "FROM" => Kind::From(self.from()?),
            "HEALTHCHECK" => Kind::Healthcheck(self.healthcheck()?),
            "LABEL" => Kind::Label(self.pairs()?),
            "MAINTAINER" => Kind::Maintainer(self.one()?),
            "ONBUILD" => Kind::Onbuild(self.onbuild()?),
            "RUN" => Kind::Run(self.run()?),
            "SHELL" => Kind::Shell(self.shell()?),
            "STOPSIGNAL" => Kind::Stopsignal(self.one()?),
            "USER" => Kind::User(self.one()?),
            "VOLUME" => Kind::Volume(self.volume()?),
            _ => Kind::Workdir(self.one()?),
        })
    }

    /// About the whole of the arguments, or of the name where there are none.
    fn problem(&self, message: impl Into<String>, remedy: impl Into<String>) -> Problem {
        let at = if self.arguments.text().is_empty() { self.name } else { self.arguments };
        Problem::new(at.span(), message, remedy)
    }

    fn one(&self) -> Result<Word, Problem> {
        if self.arguments.text().is_empty() {
            return Err(self.problem(
                format!("{} requires exactly one argument", self.upper),
                format!("write it behind {}", self.upper),
            ));
        }
        Ok(self.arguments.word())
    }

    fn some(&self, words: Vec<Part<'a>>) -> Result<Vec<Word>, Problem> {
        if words.is_empty() {
            return Err(self.nothing());
        }
        Ok(words.into_iter().map(Part::word).collect())
    }

    fn nothing(&self) -> Problem {
        self.problem(
            format!("{} requires at least one argument", self.upper),
            format!("write it behind {}", self.upper),
        )
    }

    /// The JSON form if it is one.
    fn json(&self, part: Part<'a>) -> Result<Option<Vec<Word>>, Problem> {
        match words::json(part) {
            Json::No => Ok(None),
            Json::Strings(strings) => Ok(Some(strings)),
            Json::Mixed => Err(Problem::new(
                part.span(),
                "when using JSON array syntax, arrays must be comprised of strings only",
                "put double quotes around each element",
            )),
        }
    }

    /// Nothing at all is the JSON form of nothing.
    fn command(&self, part: Part<'a>) -> Result<Command, Problem> {
        Ok(match self.json(part)? {
            Some(arguments) => Command::Exec(arguments),
            None if part.text().is_empty() => Command::Exec(Vec::new()),
            None => Command::Shell(part.word()),
        })
    }

    fn from(&self) -> Result<From, Problem> {
        let words = words::plain(self.arguments);
        let (image, stage) = match words.as_slice() {
            [image] => (image, None),
            [image, keyword, stage] if keyword.text().eq_ignore_ascii_case("AS") => (image, Some(stage)),
            _ => {
                return Err(self.problem(
                    "FROM requires either one or three arguments",
                    "write FROM IMAGE, or FROM IMAGE AS NAME",
                ));
            }
        };
        if let Some(stage) = stage
            && !is_stage_name(stage.text())
        {
            return Err(Problem::new(
                stage.span(),
                format!(
                    "invalid name for build stage: {:?}, name can't start with a number or contain symbols",
                    stage.text()
                ),
                "begin with a letter; letters, digits, - _ and . may follow",
            ));
        }
        Ok(From {
            image: image.word(),
            platform: self.flags.word("platform"),
            stage: stage.map(|stage| stage.word()),
        })
    }

    fn run(&self) -> Result<Run, Problem> {
        let bodies: Vec<&Body> = self.bodies();
        let program = match (self.json(self.arguments)?, bodies.as_slice()) {
            (Some(arguments), _) if !arguments.is_empty() => Program::Exec(arguments),
            (None, [body]) if self.is_only(body) => Program::Script(heredoc(body)),
            // Nothing at all is a shell that does nothing, as in the reference (rcjsuen/dockerfile-utils#102): of
            // use for what mounts leave behind.
            (None, _) => Program::Shell(self.shell_text(&bodies)),
            (Some(_), _) => return Err(self.nothing()),
        };
        let mounts = self.flags.all("mount").map(mount::parse).collect::<Result<_, _>>()?;
        let devices = self.flags.all("device").map(device).collect::<Result<_, _>>()?;
        let choice = |flag, values: &[&str]| choice(&self.flags, flag, values);
        let network = match choice("network", &["default", "none", "host"])? {
            1 => Network::None,
            2 => Network::Host,
            _ => Network::Default,
        };
        let security = match choice("security", &["sandbox", "insecure"])? {
            1 => Security::Insecure,
            _ => Security::Sandbox,
        };
        Ok(Run { program, mounts, network, security, devices })
    }

    /// The here-documents that the arguments announce.
    fn bodies(&self) -> Vec<&'a Body> {
        let line = self.arguments.line;
        line.heredocs.iter().filter(|body| body.word.start >= self.arguments.start).collect()
    }

    /// The arguments are this here-document and nothing else, not even the number of a descriptor.
    fn is_only(&self, body: &Body) -> bool {
        body.word.start == self.arguments.start
            && body.word.end == self.arguments.end
            && self.arguments.text().starts_with('<')
    }

    /// The command with its here-documents behind it, for the shell to read.
    fn shell_text(&self, bodies: &[&Body]) -> Word {
        let mut word = self.arguments.word();
        for body in bodies {
            word.text.push('\n');
            word.text.push_str(&body.raw);
            word.text.push_str(&body.name);
            word.span.end = word.span.end.max(body.span.end + body.name.len());
        }
        word.span.end = word.span.end.min(self.arguments.line.span.end).max(word.span.start);
        word
    }

    /// Sources and destination of COPY and ADD.
    fn paths(&self) -> Result<(Vec<Source>, Word), Problem> {
        let bodies = self.bodies();
        let mut sources: Vec<Source> = match self.json(self.arguments)? {
            Some(strings) => strings.into_iter().map(Source::Path).collect(),
            None => words::plain(self.arguments)
                .into_iter()
                .map(|part| match bodies.iter().find(|body| body.word.start == part.start) {
                    Some(body) => Source::Inline(heredoc(body)),
                    None => Source::Path(part.word()),
                })
                .collect(),
        };
        let remedy = format!("write {} SOURCE... DESTINATION", self.upper);
        let short = format!("{} requires at least two arguments", self.upper);
        match (sources.pop(), sources.is_empty()) {
            (Some(Source::Path(destination)), false) => Ok((sources, destination)),
            (None, _) => Err(self.problem(short, remedy)),
            (Some(Source::Path(_)), true) => Err(self.problem(
                format!("{short}, but only one was provided. Destination could not be determined"),
                remedy,
            )),
            (Some(Source::Inline(_)), _) => {
                Err(self.problem(format!("{} cannot accept a heredoc as a destination", self.upper), remedy))
            }
        }
    }

    fn copy(&self) -> Result<Copy, Problem> {
        let (sources, destination) = self.paths()?;
        if let Some(from) = self.flags.get("from").filter(|from| from.word().text.contains('$')) {
            return Err(from.problem(
                "variable expansion is not supported for --from, define a new stage with FROM using ARG from \
                 global scope as a workaround",
                "write ARG NAME and FROM $NAME AS stage above the first stage, and --from=stage here",
            ));
        }
        Ok(Copy {
            sources,
            destination,
            from: self.flags.word("from"),
            chown: self.flags.word("chown"),
            chmod: self.flags.word("chmod"),
            link: self.flags.boolean("link").unwrap_or(false),
            parents: self.flags.boolean("parents").unwrap_or(false),
            exclude: self.flags.all("exclude").map(|flag| flag.word()).collect(),
        })
    }

    fn add(&self) -> Result<Add, Problem> {
        let (sources, destination) = self.paths()?;
        Ok(Add {
            sources,
            destination,
            checksum: self.flags.word("checksum"),
            keep_git_dir: self.flags.boolean("keep-git-dir").unwrap_or(false),
            unpack: self.flags.boolean("unpack"),
            chown: self.flags.word("chown"),
            chmod: self.flags.word("chmod"),
            link: self.flags.boolean("link").unwrap_or(false),
            exclude: self.flags.all("exclude").map(|flag| flag.word()).collect(),
        })
    }

    /// ENV and LABEL: `key=value ...`, or in the old form `key value of many words`.
    fn pairs(&self) -> Result<Pairs, Problem> {
        let words = words::quoted_parts(self.arguments, self.escape);
        let Some(first) = words.first() else { return Err(self.nothing()) };
        if !first.text().contains('=') {
            let (key, value) = self.arguments.split_word();
            if value.text().is_empty() {
                return Err(self.problem(
                    format!("{} must have two arguments", self.upper),
                    format!("write {} {}=VALUE", self.upper, key.text()),
                ));
            }
            return Ok(Pairs { pairs: vec![Pair { key: key.word(), value: value.word() }], legacy: true });
        }
        let mut pairs = Vec::new();
        for word in words {
            let Some(equals) = word.text().find('=') else {
                return Err(Problem::new(
                    word.span(),
                    format!(
                        "Syntax error - can't find = in {:?}. Must be of the form: name=value",
                        word.text()
                    ),
                    "put quotes around a value that has spaces in it",
                ));
            };
            self.not_blank(word, equals)?;
            let (key, value) = (word.sub(0, equals), word.sub(equals + 1, word.text().len()));
            pairs.push(Pair { key: key.word(), value: value.word() });
        }
        Ok(Pairs { pairs, legacy: false })
    }

    fn not_blank(&self, word: Part<'_>, equals: usize) -> Result<(), Problem> {
        if equals > 0 {
            return Ok(());
        }
        let message = format!("{} names can not be blank", self.upper);
        Err(Problem::new(word.span(), message, "write a name in front of the =, without space between"))
    }

    fn arg(&self) -> Result<Vec<Arg>, Problem> {
        let words = words::quoted_parts(self.arguments, self.escape);
        if words.is_empty() {
            return Err(self.nothing());
        }
        let mut arguments = Vec::new();
        for word in words {
            let Some(equals) = word.text().find('=') else {
                arguments.push(Arg { name: word.word(), default: None });
                continue;
            };
            self.not_blank(word, equals)?;
            let default = word.sub(equals + 1, word.text().len()).word();
            arguments.push(Arg { name: word.sub(0, equals).word(), default: Some(default) });
        }
        Ok(arguments)
    }

    fn volume(&self) -> Result<Vec<Word>, Problem> {
        let volumes = match self.json(self.arguments)? {
            Some(strings) if strings.is_empty() => return Err(self.nothing()),
            Some(strings) => strings,
            None => self.some(words::plain(self.arguments))?,
        };
        if let Some(empty) = volumes.iter().find(|volume| volume.text.is_empty()) {
            return Err(Problem::new(
                empty.span,
                "VOLUME specified can not be an empty string",
                "write a path, or leave it out",
            ));
        }
        Ok(volumes)
    }

    fn shell(&self) -> Result<Vec<Word>, Problem> {
        match self.json(self.arguments)? {
            Some(words) if !words.is_empty() => Ok(words),
            None if !self.arguments.text().is_empty() => Err(self.problem(
                "SHELL requires the arguments to be in JSON form",
                "write it like SHELL [\"/bin/sh\", \"-c\"]",
            )),
            _ => Err(self.nothing()),
        }
    }

    fn onbuild(&self) -> Result<Onbuild, Problem> {
        let (name, _) = self.arguments.split_word();
        let refused = match name.text().to_ascii_uppercase().as_str() {
            "" => return Err(self.nothing()),
            "ONBUILD" => Some("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned()),
            name @ ("FROM" | "MAINTAINER") => Some(format!("{name} isn't allowed as an ONBUILD trigger")),
            _ => None,
        };
        if let Some(message) = refused {
            return Err(Problem::new(name.span(), message, "use another instruction, or leave it out"));
        }
        let trigger = Box::new(instruction(self.arguments, self.escape)?);
        Ok(Onbuild { text: self.shell_text(&self.bodies()).text, trigger })
    }

    fn healthcheck(&self) -> Result<Healthcheck, Problem> {
        let (kind, rest) = self.arguments.split_word();
        match kind.text().to_ascii_uppercase().as_str() {
            "" => return Err(self.nothing()),
            "NONE" if rest.text().is_empty() => return Ok(Healthcheck::None),
            "NONE" => {
                return Err(self.problem("HEALTHCHECK NONE takes no arguments", "leave them out"));
            }
            "CMD" if rest.text().is_empty() => {
                return Err(self.problem("Missing command after HEALTHCHECK CMD", "write it behind CMD"));
            }
            "CMD" => {}
            _ => {
                return Err(Problem::new(
                    kind.span(),
                    format!("Unknown type {:?} in HEALTHCHECK (try CMD)", kind.text()),
                    "write HEALTHCHECK CMD COMMAND, or HEALTHCHECK NONE",
                ));
            }
        }
        let time = |flag| duration_flag(&self.flags, flag);
        let retries = match self.flags.get("retries") {
            None => None,
            Some(flag) => Some(flag.word().text.parse().map_err(|_| {
                flag.problem(
                    format!("invalid value {:?} for --retries", flag.word().text),
                    "write a number that is not negative",
                )
            })?),
        };
        Ok(Healthcheck::Check(Check {
            command: self.command(rest)?,
            interval: time("interval")?,
            timeout: time("timeout")?,
            start_period: time("start-period")?,
            start_interval: time("start-interval")?,
            retries,
        }))
    }
}

/// `[a-z][a-z0-9-_.]*`, in whatever case.
fn is_stage_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn heredoc(body: &Body) -> Heredoc {
    let mut text = String::with_capacity(body.raw.len());
    for line in body.raw.split_inclusive('\n') {
        text.push_str(if body.strip { line.trim_start_matches('\t') } else { line });
    }
    Heredoc { name: body.name.clone(), content: Word { text, span: body.span }, expand: !body.quoted }
}

/// The flag's value as a place in `values`; 0 if it is not given.
fn choice(flags: &Flags<'_>, name: &str, values: &[&str]) -> Result<usize, Problem> {
    let Some(flag) = flags.get(name) else { return Ok(0) };
    let word = flag.word();
    values.iter().position(|value| *value == word.text).ok_or_else(|| {
        let message = format!("unsupported {name} mode {:?}", word.text);
        Problem::new(word.span, message, format!("write one of {}", values.join(", ")))
    })
}

fn device(flag: &super::flags::Flag<'_>) -> Result<Device, Problem> {
    let mut device = Device { name: String::new(), required: false };
    for field in flag.word().text.split(',') {
        match field.split_once('=') {
            None if field == "required" => device.required = true,
            Some(("required", value)) if ["true", "false"].contains(&value) => {
                device.required = value == "true";
            }
            Some(("name", name)) if device.name.is_empty() => device.name = name.to_owned(),
            _ if device.name.is_empty() => device.name = field.to_owned(),
            _ => {
                return Err(flag.problem(
                    format!("unexpected field {field:?} in device"),
                    "write NAME or NAME,required",
                ));
            }
        }
    }
    if device.name.is_empty() {
        return Err(flag.problem("device name is required", "write --device=vendor.example/class=name"));
    }
    Ok(device)
}

fn duration_flag(flags: &Flags<'_>, name: &str) -> Result<Option<Duration>, Problem> {
    let Some(flag) = flags.get(name) else { return Ok(None) };
    let word = flag.word();
    let Some(duration) = duration(&word.text) else {
        let message = format!("invalid duration {:?} for --{name}", word.text);
        return Err(Problem::new(word.span, message, "write it like 30s, 1m30s or 500ms"));
    };
    if !duration.is_zero() && duration < Duration::from_millis(1) {
        let message = format!("--{name} {:?} cannot be less than 1ms", word.text);
        return Err(Problem::new(word.span, message, "write 0 for the default, or at least 1ms"));
    }
    Ok(Some(duration))
}

/// Go's `time.ParseDuration`, without negative ones.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut nanoseconds = 0f64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit_end = rest[end..].find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len() - end);
        nanoseconds += number
            * match &rest[end..end + unit_end] {
                "ns" => 1.0,
                "us" | "µs" | "μs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 6e10,
                "h" => 3.6e12,
                _ => return None,
            };
        rest = &rest[end + unit_end..];
    }
    // What Go's type can hold.
    let whole = (!text.is_empty() && nanoseconds <= 9.2e18).then_some(nanoseconds)?;
    Duration::try_from_secs_f64(whole / 1e9).ok()
}
