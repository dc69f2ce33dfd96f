//! Build checks: what works and should not be so, as warnings (docs.docker.com/reference/build-checks).
//!
//! `# check=skip=A,B;error=true` at the top of the file leaves checks out, and makes errors of warnings;
//! `experimental=A` switches on those that are off otherwise, whatever is skipped. A build argument
//! BUILDKIT_DOCKERFILE_CHECK says the same instead of the file. Every check is a function here or in the
//! modules below, and pushes what it finds.

mod instructions;
mod stages;
mod variables;

use super::ast::{Dockerfile, Instruction, Kind};
use super::span::{Problem, Span, excerpt};

/// More are not told.
const MAX_WARNINGS: usize = 1000;

/// Checks that run only when a file asks for them.
const EXPERIMENTAL: &[&str] = &["InvalidDefinitionDescription"];

/// Something that a check has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The check's name, as `skip` takes it.
    pub check: &'static str,
    pub message: String,
    pub span: Span,
}

impl Warning {
    /// As `--check` tells it: what, why, where, in several lines, the last one without its end. `text` is the
    /// Dockerfile, `name` what it is called.
    pub fn show(&self, name: &str, text: &str) -> String {
        let Warning { check, message, span } = self;
        let shown = excerpt(name, text, &span.lines(text));
        format!("WARNING: {check} - {}\n{message}\n\n{shown}", self.page())
    }

    /// Where the reference explains the check.
    pub fn page(&self) -> String {
        format!("https://docs.docker.com/go/dockerfile/rule/{}/", page(self.check))
    }
}

/// The check's name as its page has it: `StageNameCasing` is `stage-name-casing`.
fn page(check: &str) -> String {
    let mut page = String::new();
    let chars: Vec<char> = check.chars().collect();
    for (index, c) in chars.iter().enumerate() {
        let after_lower = index > 0 && chars[index - 1].is_ascii_lowercase();
        let ends_capitals = index > 0 && chars.get(index + 1).is_some_and(char::is_ascii_lowercase);
        if c.is_ascii_uppercase() && (after_lower || ends_capitals) {
            page.push('-');
        }
        page.push(c.to_ascii_lowercase());
    }
    page
}

/// What a Dockerfile alone does not say.
pub struct Facts<'a> {
    /// Names of the variables that an image sets; `None` if that is not known.
    pub variables: &'a dyn Fn(&str) -> Option<Vec<String>>,
    /// The ignore file keeps this path of the main context out.
    pub ignored: &'a dyn Fn(&str) -> bool,
}

/// What the `check` directive says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    skip: Vec<String>,
    experimental: Vec<String>,
    /// A build with warnings fails.
    pub error: bool,
}

impl Settings {
    /// Of a file without the directive they are the default.
    pub fn of(file: &Dockerfile) -> Result<Settings, Problem> {
        match file.directives.iter().find(|directive| directive.name == "check") {
            Some(directive) => Settings::parse(&directive.value, directive.span),
            None => Ok(Settings::default()),
        }
    }

    /// `skip=A,B;experimental=C;error=true`, which stands at `span`.
    pub fn parse(text: &str, span: Span) -> Result<Settings, Problem> {
        let mut settings = Settings::default();
        for option in text.split(';').map(str::trim).filter(|option| !option.is_empty()) {
            let refused = || {
                Problem::new(
                    span,
                    format!("invalid check option {option:?}"),
                    "the options are skip=CHECKS, experimental=CHECKS and error=true|false, with ; between",
                )
            };
            let (name, value) = option.split_once('=').ok_or_else(refused)?;
            let names = || value.split(',').map(|name| name.trim().to_owned()).collect();
            match (name.trim(), value.trim()) {
                ("skip", _) => settings.skip = names(),
                ("experimental", _) => settings.experimental = names(),
                ("error", "true" | "1") => settings.error = true,
                ("error", "false" | "0") => settings.error = false,
                _ => return Err(refused()),
            }
        }
        Ok(settings)
    }

    fn wants(&self, check: &str) -> bool {
        let has = |names: &[String]| names.iter().any(|name| name == check || name == "all");
        match EXPERIMENTAL.contains(&check) {
            true => has(&self.experimental),
            false => !has(&self.skip),
        }
    }
}

/// A file, and where warnings go.
struct Checker<'a> {
    text: &'a str,
    file: &'a Dockerfile,
    facts: &'a Facts<'a>,
    found: Vec<Warning>,
}

impl Checker<'_> {
    fn warn(&mut self, check: &'static str, span: Span, message: impl Into<String>) {
        if !self.is_full() {
            self.found.push(Warning { check, message: message.into(), span });
        }
    }

    fn is_full(&self) -> bool {
        self.found.len() == MAX_WARNINGS
    }
}

/// The warnings in the order of their places. `text` is what `file` was read from.
pub fn check(text: &str, file: &Dockerfile, settings: &Settings, facts: &Facts<'_>) -> Vec<Warning> {
    let mut checker = Checker { text, file, facts, found: Vec::new() };
    stages::check(&mut checker);
    instructions::check(&mut checker);
    variables::check(&mut checker);
    let mut found = checker.found;
    found.retain(|warning| settings.wants(warning.check));
    found.sort_by_key(|warning| warning.span);
    found
}

/// The instructions of each stage, its FROM first.
fn stages(file: &Dockerfile) -> impl Iterator<Item = &[Instruction]> {
    let is_from = |instruction: &Instruction| matches!(instruction.kind, Kind::From(_));
    file.instructions.chunk_by(move |_, next| !is_from(next)).filter(move |stage| is_from(&stage[0]))
}

/// The place of the stage that `name` means, among those before `index`.
fn find_stage(names: &[Option<String>], name: &str) -> Option<usize> {
    names.iter().rposition(|known| known.as_deref().is_some_and(|known| known.eq_ignore_ascii_case(name)))
}
