//! What a Dockerfile says, as plain data.
//!
//! A [`Word`] is unexpanded: quotes, escapes and variables stand in it as they were written, only
//! line continuations are gone: expansion makes values of words. Flags whose value
//! may hold variables are words, too; all others are what they mean.

use std::time::Duration;

use super::span::Span;

/// A whole file. There is at least one FROM, and nothing but ARG before the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    pub directives: Vec<Directive>,
    /// What takes the special meaning from the next character: `\` or, by directive, a backtick.
    pub escape: char,
    pub instructions: Vec<Instruction>,
    /// Empty lines between continued ones, of which a check warns.
    pub blanks: Vec<Span>,
}

/// `# name=value` at the top: `syntax`, `escape` or `check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// In lower case.
    pub name: String,
    pub value: String,
    pub span: Span,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// From its name to its last character, the end of the last here-document included; the newline
    /// is not.
    pub span: Span,
    /// Its name as it is written, in whatever case.
    pub name: Span,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    From(From),
    Run(Run),
    Cmd(Command),
    Label(Pairs),
    Maintainer(Word),
    Expose(Vec<Word>),
    Env(Pairs),
    Add(Add),
    Copy(Copy),
    Entrypoint(Command),
    Volume(Vec<Word>),
    User(Word),
    Workdir(Word),
    Arg(Vec<Arg>),
    Onbuild(Onbuild),
    Stopsignal(Word),
    Healthcheck(Healthcheck),
    Shell(Vec<Word>),
}

/// A piece of text, unexpanded, without line continuations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    pub text: String,
    /// What it was made from.
    pub span: Span,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// An image, an earlier stage, a named context or `scratch`.
    pub image: Word,
    pub platform: Option<Word>,
    /// The stage's name, as it is written; names are compared without regard to case. Not expanded.
    pub stage: Option<Word>,
}

/// The two forms of CMD, ENTRYPOINT and HEALTHCHECK's CMD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// For the shell, as it stands.
    Shell(Word),
    /// The JSON form: arguments, which nothing expands.
    Exec(Vec<Word>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub program: Program,
    pub mounts: Vec<MountFlag>,
    pub network: Network,
    pub security: Security,
    pub devices: Vec<Device>,
}

/// What a RUN does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// For the shell, as it stands, here-documents included: the shell reads those itself.
    Shell(Word),
    /// The JSON form: arguments, which nothing expands.
    Exec(Vec<Word>),
    /// `RUN <<EOF`, and nothing else on the line: a script for the shell, or for the interpreter that its first line
    /// names by `#!`. The builder expands nothing in it.
    Script(Heredoc),
}

/// `--mount` as it is written; [`resolve`](super::mount::resolve) tells what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountFlag {
    pub span: Span,
    /// `key[=value]` in their order.
    pub options: Vec<MountOption>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOption {
    /// In lower case.
    pub key: String,
    pub value: Option<Word>,
    pub span: Span,
}

/// RUN's `--network`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Network {
    /// Whatever the build was told.
    #[default]
    Default,
    None,
    Host,
}

/// RUN's `--security`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Security {
    #[default]
    Sandbox,
    /// Privileged; a build has to be allowed to.
    Insecure,
}

/// RUN's `--device`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// `vendor.example/class=name`, `vendor.example/class` or a class's name.
    pub name: String,
    /// Without it the step fails, else it runs without.
    pub required: bool,
}

/// ENV and LABEL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pairs {
    pub pairs: Vec<Pair>,
    /// The old form, `name value of many words`.
    pub legacy: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub key: Word,
    pub value: Word,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg {
    pub name: Word,
    pub default: Option<Word>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// At least one.
    pub sources: Vec<Source>,
    pub destination: Word,
    /// A stage (name or number), a named context or an image. Not expanded.
    pub from: Option<Word>,
    pub chown: Option<Word>,
    pub chmod: Option<Word>,
    pub link: bool,
    pub parents: bool,
    pub exclude: Vec<Word>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    /// At least one.
    pub sources: Vec<Source>,
    pub destination: Word,
    /// Of what one URL or git reference gives.
    pub checksum: Option<Word>,
    pub keep_git_dir: bool,
    /// `None`: archives of the context are unpacked, those of URLs are not.
    pub unpack: Option<bool>,
    pub chown: Option<Word>,
    pub chmod: Option<Word>,
    pub link: bool,
    pub exclude: Vec<Word>,
}

/// What COPY and ADD copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A pattern, or for ADD an URL.
    Path(Word),
    /// A file of the here-document's name.
    Inline(Heredoc),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    pub name: String,
    /// Its content as it is written, each line with its end (always `\n`); of `<<-` without tabs in front.
    pub content: Word,
    /// COPY and ADD replace variables in it: the name was not quoted.
    pub expand: bool,
}

/// What is to be done in a build on top of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Onbuild {
    /// For the image's configuration: without line continuations, with here-documents.
    pub text: String,
    /// Neither ONBUILD nor FROM nor MAINTAINER.
    pub trigger: Box<Instruction>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    /// The image's is switched off.
    None,
    Check(Check),
}

/// Times that are not said, or 0, are the host's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub command: Command,
    pub interval: Option<Duration>,
    pub timeout: Option<Duration>,
    pub start_period: Option<Duration>,
    pub start_interval: Option<Duration>,
    pub retries: Option<u32>,
}
