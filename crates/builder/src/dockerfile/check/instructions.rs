//! Checks of single instructions, and of how often they stand in a stage.

use super::super::ast::{Command, Instruction, Kind, Pairs, Source, Word};
use super::super::span::Span;
use super::Checker;

pub(super) fn check(checker: &mut Checker<'_>) {
    casing(checker);
    continuations(checker);
    let file = checker.file;
    for instruction in &file.instructions {
        match &instruction.kind {
            Kind::Maintainer(_) => {
                let message = "Maintainer instruction is deprecated in favor of using label";
                checker.warn("MaintainerDeprecated", instruction.span, message);
            }
            Kind::Env(pairs) => {
                legacy(checker, instruction, pairs);
                for pair in &pairs.pairs {
                    secret(checker, "ENV", &pair.key);
                }
            }
            Kind::Label(pairs) => legacy(checker, instruction, pairs),
            Kind::Arg(arguments) => {
                for argument in arguments {
                    secret(checker, "ARG", &argument.name);
                }
            }
            Kind::Expose(ports) => ports.iter().for_each(|port| expose(checker, port)),
            Kind::Copy(copy) if copy.from.is_none() => ignored(checker, "Copy", &copy.sources),
            Kind::Add(add) => ignored(checker, "Add", &add.sources),
            _ => {}
        }
    }
    for stage in super::stages(file) {
        once(checker, stage);
        workdir(checker, stage);
    }
    json(checker);
}

/// All names should be in upper or all in lower case: as most of them are.
fn casing(checker: &mut Checker<'_>) {
    let (text, file) = (checker.text, checker.file);
    let name = |instruction: &Instruction| instruction.name.of(text).to_owned();
    let is_lower = |name: &str| name.chars().all(|c| !c.is_ascii_uppercase());
    let is_upper = |name: &str| name.chars().all(|c| !c.is_ascii_lowercase());
    let lower = file.instructions.iter().filter(|i| is_lower(&name(i))).count();
    let upper = file.instructions.iter().filter(|i| is_upper(&name(i))).count();
    let (fits, majority): (&dyn Fn(&str) -> bool, _) =
        if lower > upper { (&is_lower, "lowercase") } else { (&is_upper, "uppercase") };
    for instruction in &file.instructions {
        let name = name(instruction);
        if !fits(&name) {
            let message =
                format!("Command '{name}' should match the case of the command majority ({majority})");
            checker.warn("ConsistentInstructionCasing", instruction.name, message);
        }
    }
}

/// One warning for an instruction, however many empty lines it has.
fn continuations(checker: &mut Checker<'_>) {
    let file = checker.file;
    let mut last = None;
    for blank in &file.blanks {
        let after = file.instructions.partition_point(|i| i.span.start <= blank.start);
        let Some(instruction) = after.checked_sub(1).map(|index| &file.instructions[index]) else { continue };
        // Behind the last word of what is continued to the end of the file.
        if blank.start > instruction.span.end {
            continue;
        }
        if last.replace(instruction.span) == Some(instruction.span) {
            continue;
        }
        let lines = instruction.span.of(checker.text).lines();
        let joined: String = lines.map(|line| line.trim_end().trim_end_matches(file.escape)).collect();
        let shown: String = joined.chars().take(120).collect();
        let message = format!("Empty continuation line found in: {}", shown.trim());
        checker.warn("NoEmptyContinuation", Span::new(blank.start, blank.start), message);
    }
}

fn legacy(checker: &mut Checker<'_>, instruction: &Instruction, pairs: &Pairs) {
    if pairs.legacy {
        let name = instruction.name.of(checker.text).to_uppercase();
        let message =
            format!("\"{name} key=value\" should be used instead of legacy \"{name} key value\" format");
        checker.warn("LegacyKeyValueFormat", instruction.span, message);
    }
}

/// A name one of whose parts, between underscores, is a word for secrets; what is public is none.
fn secret(checker: &mut Checker<'_>, instruction: &str, name: &Word) {
    const WORDS: &[&str] = &[
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    let lower = name.text.to_lowercase();
    let mut parts = lower.split('_');
    if lower.split('_').any(|part| part == "public") || !parts.any(|part| WORDS.contains(&part)) {
        return;
    }
    let message =
        format!("Do not use ARG or ENV instructions for sensitive data ({instruction} {:?})", name.text);
    checker.warn("SecretsUsedInArgOrEnv", name.span, message);
}

fn expose(checker: &mut Checker<'_>, port: &Word) {
    let Word { text, span } = port;
    if text.contains('$') {
        return;
    }
    if text.contains(':') {
        let message = format!(
            "EXPOSE instruction should not define an IP address or host-port mapping, found '{text}'"
        );
        checker.warn("ExposeInvalidFormat", *span, message);
    }
    if text.split_once('/').is_some_and(|(_, protocol)| protocol.chars().any(|c| c.is_ascii_uppercase())) {
        let message = format!("Defined protocol '{text}' in EXPOSE instruction should be lowercase");
        checker.warn("ExposeProtoCasing", *span, message);
    }
}

/// Only paths that are known now: no patterns, no variables, no URLs.
fn ignored(checker: &mut Checker<'_>, verb: &str, sources: &[Source]) {
    for source in sources {
        let Source::Path(path) = source else { continue };
        let text = path.text.trim_matches(['"', '\'']);
        if text.contains(['$', '*', '?', '[', '\\']) || text.contains("://") || text.starts_with("git@") {
            continue;
        }
        let clean: Vec<&str> = text.split('/').filter(|part| !["", "."].contains(part)).collect();
        if clean.is_empty() || clean.contains(&"..") || !(checker.facts.ignored)(&clean.join("/")) {
            continue;
        }
        let message = format!("Attempting to {verb} file {text:?} that is excluded by .dockerignore");
        checker.warn("CopyIgnoredFile", path.span, message);
    }
}

fn once(checker: &mut Checker<'_>, stage: &[Instruction]) {
    for name in ["CMD", "ENTRYPOINT", "HEALTHCHECK"] {
        let is = |kind: &Kind| match kind {
            Kind::Cmd(_) => name == "CMD",
            Kind::Entrypoint(_) => name == "ENTRYPOINT",
            Kind::Healthcheck(_) => name == "HEALTHCHECK",
            _ => false,
        };
        let all: Vec<&Instruction> = stage.iter().filter(|instruction| is(&instruction.kind)).collect();
        for instruction in all.iter().rev().skip(1) {
            let message = format!(
                "Multiple {name} instructions should not be used in the same stage because only the last one \
                 will be used"
            );
            checker.warn("MultipleInstructionsDisallowed", instruction.span, message);
        }
    }
}

/// The first of a stage on an image should be absolute. A stage on `scratch` or on another one knows
/// where it is.
fn workdir(checker: &mut Checker<'_>, stage: &[Instruction]) {
    let file = checker.file;
    if let Kind::From(from) = &stage[0].kind {
        let earlier = file.instructions.iter().take_while(|i| i.span.start < stage[0].span.start);
        let mut names = earlier.filter_map(|i| match &i.kind {
            Kind::From(from) => from.stage.as_ref(),
            _ => None,
        });
        if from.image.text == "scratch" || names.any(|n| n.text.eq_ignore_ascii_case(&from.image.text)) {
            return;
        }
    }
    let first = stage.iter().find_map(|instruction| match &instruction.kind {
        Kind::Workdir(folder) => Some(folder),
        _ => None,
    });
    let Some(folder) = first else { return };
    let text = folder.text.trim_matches(['"', '\'']);
    if !text.starts_with('/') && !text.contains('$') {
        let message =
            format!("Relative workdir '{text}' can have unexpected results if the base image changes");
        checker.warn("WorkdirRelativePath", folder.span, message);
    }
}

/// Who has chosen a shell, in this stage or in one below it, wants one.
fn json(checker: &mut Checker<'_>) {
    let file = checker.file;
    let (mut names, mut shells): (Vec<Option<String>>, Vec<bool>) = (Vec::new(), Vec::new());
    for stage in super::stages(file) {
        let Kind::From(from) = &stage[0].kind else { continue };
        let mut shell = super::find_stage(&names, &from.image.text).is_some_and(|parent| shells[parent]);
        for instruction in stage {
            let (name, command) = match &instruction.kind {
                Kind::Cmd(command) => ("CMD", command),
                Kind::Entrypoint(command) => ("ENTRYPOINT", command),
                Kind::Shell(_) => {
                    shell = true;
                    continue;
                }
                _ => continue,
            };
            if matches!(command, Command::Shell(_)) && !shell {
                let message = format!(
                    "JSON arguments recommended for {name} to prevent unintended behavior related to OS signals"
                );
                checker.warn("JSONArgsRecommended", instruction.span, message);
            }
        }
        names.push(from.stage.as_ref().map(|stage| stage.text.clone()));
        shells.push(shell);
    }
}
