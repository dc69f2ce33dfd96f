//! Words to values, and which variables there are where.
//!
//! A case of a modifier or of quoting is `NAME=value` lines, `--`, and a word on each line. Cases of `heredoc`
//! have a content behind the `--`; cases of `scope` and `instruction` have `NAME=value` of `--build-arg`, and a
//! Dockerfile, which is walked as a build walks it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hull_builder::dockerfile::ast::{Heredoc, Word};
use hull_builder::dockerfile::scope::{Global, Stage};
use hull_builder::dockerfile::{Kind, Problem, Span, expand, mount, parse};
use hull_oci::Platform;

use crate::cases::{self, Can, Case};
use crate::dump;

const RULES: &[(&str, Can)] = &[
    ("alternative", Can::OnlyGood),
    ("default", Can::OnlyGood),
    ("double-quotes", Can::Both),
    ("escape", Can::OnlyGood),
    ("heredoc", Can::Both),
    ("instruction", Can::Both),
    ("limits", Can::Both),
    ("mount", Can::Both),
    ("name", Can::Both),
    ("nested", Can::Both),
    ("prefix", Can::OnlyGood),
    ("replace", Can::Both),
    ("required", Can::Both),
    ("scope", Can::Both),
    ("scope-stages", Can::OnlyGood),
    ("single-quotes", Can::Both),
    ("suffix", Can::OnlyGood),
    ("words", Can::Both),
];

#[test]
fn every_rule_has_cases_and_they_hold() {
    cases::run("expansion", RULES, |case| {
        let (output, failed) = actual(case);
        let mark = if failed == case.good { "not what the title says\n" } else { "" };
        format!("{mark}{output}")
    });
}

/// What comes out, and whether anything failed.
fn actual(case: &Case) -> (String, bool) {
    let (variables, rest) = case.input.split_once("--\n").unwrap();
    let variables: BTreeMap<String, String> = variables
        .lines()
        .map(|line| line.split_once('=').map(|(name, value)| (name.to_owned(), long(value))).unwrap())
        .collect();
    let lookup = |name: &str| variables.get(name).cloned();
    match case.rule.as_str() {
        "scope" | "scope-stages" | "instruction" | "mount" => walk(rest, variables),
        "heredoc" => {
            let content = Word { text: rest.to_owned(), span: Span::new(0, rest.len()) };
            let heredoc = Heredoc { name: "E".to_owned(), content, expand: true };
            show(rest, expand::heredoc(&heredoc, '\\', &lookup).map(|value| format!("{value:?}")))
        }
        rule => {
            let (mut output, mut failed) = (String::new(), false);
            for line in rest.lines() {
                let text = long(line);
                let word = Word { span: Span::new(0, text.len()), text };
                let value = match rule {
                    "words" => expand::words(&word, '\\', &lookup).map(|words| format!("{words:?}")),
                    _ => expand::word(&word, '\\', &lookup).map(|value| format!("{value:?}")),
                };
                let (line, bad) = show(&word.text, value);
                output += &line;
                failed |= bad;
            }
            (output, failed)
        }
    }
}

/// What no editor holds.
fn long(text: &str) -> String {
    text.replace("<LONG>", &"x".repeat(expand::MAX_VALUE)).replace("<DEEP>", &"${a:-".repeat(65))
}

fn show(text: &str, result: Result<String, Problem>) -> (String, bool) {
    match result {
        Ok(value) if value.len() > 1000 => (format!("{} bytes\n", value.len()), false),
        Ok(value) => (value + "\n", false),
        Err(problem) => {
            let Span { start, end } = problem.span;
            (format!("{start}-{end} {} = {}\n", problem.message, problem.remedy), !text.is_empty())
        }
    }
}

/// Each instruction as it is after expansion; of a RUN also what it sees.
fn walk(text: &str, given: BTreeMap<String, String>) -> (String, bool) {
    let mut output = String::new();
    match walk_to(text, given, &mut output) {
        Ok(()) => (output, false),
        Err(problem) => (output + &problem.show("Dockerfile", text) + "\n", true),
    }
}

fn walk_to(text: &str, given: BTreeMap<String, String>, output: &mut String) -> Result<(), Problem> {
    let file = parse(text.as_bytes()).map_err(|problems| problems[0].clone())?;
    let (build, target) = (Platform::new("linux", "amd64", ""), Platform::new("linux", "arm", "v7"));
    let mut global = Global::new(given, &build, &target);
    let mut stages: Vec<(String, Stage)> = Vec::new();
    for instruction in &file.instructions {
        let expanded = match (&instruction.kind, stages.last()) {
            (Kind::From(_), _) | (_, None) => {
                expand::instruction(instruction, file.escape, &|name| global.get(name), &|_, _| Ok(()))?
            }
            (_, Some((_, stage))) => {
                expand::instruction(instruction, file.escape, &|name| stage.get(name), &|_, _| Ok(()))?
            }
        };
        *output += &dump::instruction(text, &expanded);
        match (&instruction.kind, &expanded.kind) {
            (_, Kind::From(from)) => {
                let name = from.stage.as_ref().map_or_else(String::new, |stage| stage.text.clone());
                let parent = stages.iter().find(|(known, _)| *known == from.image.text);
                let image = Stage::new(&["PATH=/bin".to_owned()]);
                stages.push((name, parent.map_or(image, |(_, stage)| stage.clone())));
            }
            (Kind::Arg(arguments), _) => {
                for argument in arguments {
                    let _bytes = match stages.last_mut() {
                        Some((_, stage)) => stage.declare(argument, file.escape, &mut global)?,
                        None => global.declare(argument, file.escape)?,
                    };
                }
            }
            (_, Kind::Env(pairs)) => {
                let (_, stage) = stages.last_mut().unwrap();
                pairs.pairs.iter().for_each(|pair| stage.set(&pair.key.text, &pair.value.text));
            }
            (_, Kind::Run(run)) => {
                let (_, stage) = stages.last().unwrap();
                let seen = (stage.environment(), stage.arguments(), stage.proxies(&global));
                writeln!(output, "  env {:?} args {:?} proxies {:?}", seen.0, seen.1, seen.2).unwrap();
                for flag in &run.mounts {
                    let value = &mut |word: &Word| expand::word(word, file.escape, &|name| stage.get(name));
                    writeln!(output, "  {:?}", mount::resolve(flag, value)?).unwrap();
                }
            }
            _ => {}
        }
    }
    if !global.unused().is_empty() {
        writeln!(output, "unused {:?}", global.unused()).unwrap();
    }
    Ok(())
}
