//! A file becomes a [`Dockerfile`], or all that is wrong with it.

use super::ast::{Dockerfile, Instruction, Kind};
use super::check::Settings;
use super::span::{Problem, Span};
use super::{instruction, lines};

/// Largest file, in bytes.
pub const MAX_FILE: usize = 4 << 20;
/// Most instructions of a file.
pub const MAX_INSTRUCTIONS: usize = 10_000;
/// Most variables that ARG and ENV name in a file, counted as often as they do.
pub const MAX_VARIABLES: usize = 4096;
/// More problems than these are not told.
const MAX_PROBLEMS: usize = 100;

/// Reads a Dockerfile. The problems come in the order of their places; there is at least one.
pub fn parse(bytes: &[u8]) -> Result<Dockerfile, Vec<Problem>> {
    let text = decode(bytes).map_err(|problem| vec![problem])?;
    let mut problems = Vec::new();
    let read = lines::read(text, &mut problems);
    if let Some(line) = read.lines.get(MAX_INSTRUCTIONS) {
        let message = format!("more than {MAX_INSTRUCTIONS} instructions");
        return Err(vec![Problem::new(line.span, message, "split the file, or do more in one RUN")]);
    }
    if read.lines.is_empty() && problems.is_empty() {
        let message = "file with no instructions";
        return Err(vec![Problem::new(Span::default(), message, "begin with FROM IMAGE")]);
    }
    let mut instructions = Vec::new();
    let mut stages = 0;
    let mut outside = false;
    for line in &read.lines {
        let name = line.whole().split_word().0.text();
        let parsed = instruction::parse(line, read.escape);
        // A FROM that is wrong is one all the same: what follows it has a stage.
        if name.eq_ignore_ascii_case("FROM") {
            stages += 1;
        } else if stages == 0 && !outside && !matches!(&parsed, Ok(Instruction { kind: Kind::Arg(_), .. })) {
            outside = true;
            if let Ok(instruction) = &parsed {
                problems.push(Problem::new(
                    instruction.name,
                    "no build stage in current context",
                    "begin with FROM IMAGE; only ARG may stand before it",
                ));
            }
        }
        match parsed {
            Ok(instruction) => instructions.push(instruction),
            Err(problem) => problems.push(problem),
        }
    }
    if stages == 0 && problems.is_empty() {
        let end = read.lines.last().map_or(Span::default(), |line| line.span);
        problems.push(Problem::new(end, "dockerfile contains no stages to build", "add FROM IMAGE"));
    }
    problems.extend(too_many_variables(&instructions));
    let file =
        Dockerfile { directives: read.directives, escape: read.escape, instructions, blanks: read.blanks };
    problems.extend(Settings::of(&file).err());
    if !problems.is_empty() {
        problems.sort();
        problems.truncate(MAX_PROBLEMS);
        return Err(problems);
    }
    Ok(file)
}

fn too_many_variables(instructions: &[Instruction]) -> Option<Problem> {
    let mut count = 0;
    let first = instructions.iter().find(|instruction| {
        count += match &instruction.kind {
            Kind::Arg(arguments) => arguments.len(),
            Kind::Env(pairs) => pairs.pairs.len(),
            _ => 0,
        };
        count > MAX_VARIABLES
    })?;
    let message = format!("more than {MAX_VARIABLES} variables");
    Some(Problem::new(first.span, message, "keep what a program is told in a file, and COPY it"))
}

/// Reads an ONBUILD trigger as an image's configuration keeps it (config.md `OnBuild`).
pub fn trigger(text: &str) -> Result<Instruction, Vec<Problem>> {
    let mut problems = Vec::new();
    let read = lines::read(text, &mut problems);
    let [line] = read.lines.as_slice() else {
        let message = format!("an ONBUILD trigger with {} instructions", read.lines.len());
        return Err(vec![Problem::new(Span::new(0, text.len()), message, "build the base image again")]);
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    let instruction = instruction::parse(line, read.escape).map_err(|problem| vec![problem])?;
    if matches!(instruction.kind, Kind::Onbuild(_) | Kind::From(_) | Kind::Maintainer(_)) {
        let name = instruction.name.of(text).to_uppercase();
        let message = format!("{name} isn't allowed as an ONBUILD trigger");
        return Err(vec![Problem::new(instruction.name, message, "build the base image again without it")]);
    }
    Ok(instruction)
}

fn decode(bytes: &[u8]) -> Result<&str, Problem> {
    if bytes.len() > MAX_FILE {
        let message = format!("the file has {} bytes, more than the allowed {MAX_FILE}", bytes.len());
        return Err(Problem::new(Span::default(), message, "COPY large content from files of the context"));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        Problem::new(
            Span::new(at, at),
            format!("byte {at} is not UTF-8"),
            "save the file as UTF-8; is it a Dockerfile at all?",
        )
    })?;
    if let Some(at) = text.find('\0') {
        let remedy = "save the file as UTF-8; is it a Dockerfile at all?";
        return Err(Problem::new(Span::new(at, at + 1), "the file has a NUL byte in it", remedy));
    }
    Ok(text)
}
