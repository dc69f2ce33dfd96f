//! Variables should be declared before they are used.

use std::collections::BTreeSet;

use super::super::ast::{Instruction, Kind, Source, Word};
use super::super::expand;
use super::super::nearest;
use super::super::scope::PROXIES;
use super::Checker;

/// What a stage declares; `None` if its image is not known, and then nothing can be said.
type Declared = Option<BTreeSet<String>>;

pub(super) fn check(checker: &mut Checker<'_>) {
    let file = checker.file;
    let (mut names, mut stages): (Vec<Option<String>>, Vec<Declared>) = (Vec::new(), Vec::new());
    for stage in super::stages(file) {
        let Kind::From(from) = &stage[0].kind else { continue };
        let image = from.image.text.as_str();
        let mut declared = match super::find_stage(&names, image) {
            Some(parent) => stages[parent].clone(),
            None if image == "scratch" => Some(BTreeSet::new()),
            None => (checker.facts.variables)(image).map(|names| names.into_iter().collect()),
        };
        if let Some(declared) = &mut declared {
            // Every build has a PATH, and every RUN its proxies.
            declared.extend(PROXIES.iter().chain(&["PATH"]).map(|name| (*name).to_owned()));
            for instruction in &stage[1..] {
                uses(checker, instruction, declared);
                declared.extend(declares(instruction));
            }
        }
        names.push(from.stage.as_ref().map(|stage| stage.text.clone()));
        stages.push(declared);
    }
}

fn uses(checker: &mut Checker<'_>, instruction: &Instruction, declared: &BTreeSet<String>) {
    let escape = checker.file.escape;
    let lookup = |name: &str| declared.contains(name).then(|| "x".to_owned());
    for word in words(&instruction.kind) {
        for name in expand::unset(word, escape, &lookup) {
            let hint = nearest(&name, declared.iter().map(String::as_str));
            let hint = hint.map(|name| format!(" (did you mean ${name}?)")).unwrap_or_default();
            checker.warn("UndefinedVar", word.span, format!("Usage of undefined variable '${name}'{hint}"));
        }
    }
}

fn declares(instruction: &Instruction) -> Vec<String> {
    match &instruction.kind {
        Kind::Arg(arguments) => arguments.iter().map(|arg| arg.name.text.clone()).collect(),
        Kind::Env(pairs) => pairs.pairs.iter().map(|pair| pair.key.text.clone()).collect(),
        _ => Vec::new(),
    }
}

fn path(source: &Source) -> Option<&Word> {
    match source {
        Source::Path(path) => Some(path),
        Source::Inline(_) => None,
    }
}

/// The words that the builder expands, here-documents aside.
fn words(kind: &Kind) -> Vec<&Word> {
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
        Kind::Arg(arguments) => arguments.iter().filter_map(|arg| arg.default.as_ref()).collect(),
        Kind::Expose(words) | Kind::Volume(words) => words.iter().collect(),
        Kind::User(word) | Kind::Workdir(word) | Kind::Stopsignal(word) => vec![word],
        Kind::Run(run) => {
            run.mounts.iter().flat_map(|mount| &mount.options).filter_map(|o| o.value.as_ref()).collect()
        }
        Kind::From(_)
        | Kind::Cmd(_)
        | Kind::Maintainer(_)
        | Kind::Entrypoint(_)
        | Kind::Onbuild(_)
        | Kind::Healthcheck(_)
        | Kind::Shell(_) => Vec::new(),
    }
}
