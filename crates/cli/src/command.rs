//! The tree of commands, and how a command line finds its place in it.
//!
//! A [`Command`] is a constant: names, flags, what arguments it wants, the
//! function that does it. Nothing is built at start-up; a call looks its word
//! up in a table and parses its flags against another. `ps` and `container ls`
//! are one `Command` in two places.

use std::future::Future;
use std::pin::Pin;

use crate::flags::{self, Flag, Given, Stop};
use crate::session::Session;

/// A command as an entry of the tree.
pub(crate) struct Command {
    /// Every full name, the first in `container …`, `image …` form.
    pub(crate) paths: &'static [&'static str],
    /// What stands behind the name in the usage line.
    pub(crate) usage: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) arguments: Arguments,
    /// The first argument ends the flags.
    pub(crate) stop_at_argument: bool,
    pub(crate) flags: &'static [&'static [Flag]],
    pub(crate) run: Run,
}

/// How many arguments a command wants.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arguments {
    None,
    Exactly(usize),
    AtLeast(usize),
    AtMost(usize),
    Between(usize, usize),
}

pub(crate) type Outcome<'a> = Pin<Box<dyn Future<Output = Result<u8, Failure>> + 'a>>;

/// Does the command; the number is the exit code.
pub(crate) type Run = for<'a> fn(&'a Session, &'a Given) -> Outcome<'a>;

/// A word of the tree and what it stands for.
pub(crate) enum Entry {
    Command(&'static str, &'static Command),
    Group(&'static Group),
}

/// Commands below one word, such as `container`.
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) summary: &'static str,
    /// Name, other names, command.
    pub(crate) commands: &'static [(&'static str, &'static [&'static str], &'static Command)],
}

/// Why a command ends other than well: what to say and the exit code.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    /// Empty if all has been said.
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn said(code: u8) -> Failure {
        Failure { code, message: String::new() }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure { code: 1, message: chain(&error) }
    }
}

/// A failure of exit code 1 with a message.
pub(crate) fn fail(message: impl Into<String>) -> Failure {
    Failure { code: 1, message: message.into() }
}

/// An error with its causes, joined as Go joins them.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let quiet = text.starts_with("Cannot connect to the Docker daemon");
    let mut source = error.source().filter(|_| !quiet);
    while let Some(cause) = source {
        text.push_str(": ");
        match cause.downcast_ref::<std::io::Error>() {
            Some(error) => text.push_str(&crate::create::reason(error)),
            None => text.push_str(&cause.to_string()),
        }
        source = cause.source();
    }
    if text.starts_with("permission denied while trying to connect") {
        text.push_str(
            "\nUse the socket as root, or as a member of the group that owns it \
             (see its owner with: ls -l; join with: usermod -aG GROUP $USER, then log in again).",
        );
    }
    text
}

/// What a command line asks for.
pub(crate) enum Asked {
    Do(&'static Command, Given),
    /// Text for standard output, exit code 0.
    Show(String),
    Fail(Failure),
}

/// Finds the command that `words` name and reads its flags. `program` is the
/// name Hull was called by.
pub(crate) fn resolve(tree: &'static [Entry], program: &str, words: &[String]) -> Asked {
    let Some((first, rest)) = words.split_first() else {
        return Asked::Show(crate::help::top(program));
    };
    for entry in tree {
        match entry {
            Entry::Command(name, command) if name == first => {
                return invoke(command, program, name, rest);
            }
            Entry::Group(group) if group.name == first => {
                return within(group, program, rest);
            }
            Entry::Command(..) | Entry::Group(_) => {}
        }
    }
    if first == "help" {
        return topic(tree, program, rest);
    }
    if crate::LATER.contains(&first.as_str()) {
        return Asked::Fail(fail(format!("{program}: '{program} {first}' is not in this build yet")));
    }
    Asked::Fail(fail(format!(
        "{program}: unknown command: {program} {first}\n\nRun '{program} --help' for more information"
    )))
}

fn within(group: &'static Group, program: &str, words: &[String]) -> Asked {
    let Some((first, rest)) = words.split_first() else {
        return Asked::Show(crate::help::group(program, group));
    };
    for (name, others, command) in group.commands {
        if name == first || others.contains(&first.as_str()) {
            let path = format!("{} {name}", group.name);
            return invoke(command, program, &path, rest);
        }
    }
    let path = format!("{program} {}", group.name);
    match first.as_str() {
        "--help" | "-h" => Asked::Show(crate::help::group(program, group)),
        flag if flag.starts_with('-') => Asked::Fail(Failure {
            code: 125,
            message: format!(
                "unknown flag: {flag}\n\nUsage:  {path} COMMAND\n\nRun '{path} --help' for more information"
            ),
        }),
        _ => Asked::Fail(fail(format!(
            "{program}: unknown command: {path} {first}\n\nUsage:  {path}\n\nRun '{path} --help' for more information"
        ))),
    }
}

fn topic(tree: &'static [Entry], program: &str, words: &[String]) -> Asked {
    let mut asked: Vec<String> = words.to_vec();
    let unknown = fail(format!("unknown help topic: {}", words.join(" ")));
    if let Some(last) = words.last() {
        asked.push("--help".to_owned());
        return match resolve(tree, program, &asked) {
            Asked::Show(text) => Asked::Show(text),
            Asked::Fail(_) | Asked::Do(..) if last.starts_with('-') => Asked::Fail(unknown),
            Asked::Fail(_) | Asked::Do(..) => Asked::Fail(unknown),
        };
    }
    Asked::Show(crate::help::top(program))
}

fn invoke(command: &'static Command, program: &str, path: &str, words: &[String]) -> Asked {
    let given = match flags::parse(command.flags, command.stop_at_argument, words) {
        Ok(given) => given,
        Err(Stop::Help) => return Asked::Show(crate::help::command(program, path, command)),
        Err(Stop::Wrong(message)) => {
            let usage = crate::help::usage(program, path, command);
            return Asked::Fail(Failure {
                code: 125,
                message: format!(
                    "{message}\n\nUsage:  {usage}\n\nRun '{program} {path} --help' for more information"
                ),
            });
        }
    };
    if let Some(complaint) = miscount(command.arguments, given.arguments.len()) {
        let usage = crate::help::usage(program, path, command);
        let verb = match command.arguments {
            Arguments::AtLeast(_) => "See",
            _ => "Run",
        };
        return Asked::Fail(fail(format!(
            "{program}: '{program} {path}' {complaint}\n\nUsage:  {usage}\n\n{verb} '{program} {path} --help' for more information"
        )));
    }
    Asked::Do(command, given)
}

/// What is wrong with `count` arguments, if anything.
fn miscount(wanted: Arguments, count: usize) -> Option<String> {
    let plural = |count: usize| if count == 1 { "argument" } else { "arguments" };
    match wanted {
        Arguments::None if count > 0 => Some("accepts no arguments".to_owned()),
        Arguments::Exactly(n) if count != n => Some(format!("requires {n} {}", plural(n))),
        Arguments::AtLeast(n) if count < n => Some(format!("requires at least {n} {}", plural(n))),
        Arguments::AtMost(n) if count > n => Some(format!("requires at most {n} {}", plural(n))),
        Arguments::Between(low, high) if !(low..=high).contains(&count) => {
            Some(format!("requires at least {low} and at most {high} {}", plural(high)))
        }
        _ => None,
    }
}
