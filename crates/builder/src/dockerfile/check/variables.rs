//! Variables should be declared before they are used.

use std::collections::BTreeSet;

use super::super::ast::{Instruction, Kind};
use super::super::expand;
use super::super::nearest;
use super::super::scope::PROXIES;
use super::Checker;

/// Names that are copied from stage to stage; a file that has more of them is left alone.
const MAX_COPIED: usize = 1 << 18;

/// What a stage declares; `None` if its image is not known, and then nothing can be said.
type Declared = Option<BTreeSet<String>>;

pub(super) fn check(checker: &mut Checker<'_>) {
    let file = checker.file;
    let (mut names, mut stages): (Vec<Option<String>>, Vec<Declared>) = (Vec::new(), Vec::new());
    let mut copied = 0;
    for stage in super::stages(file) {
        let Kind::From(from) = &stage[0].kind else { continue };
        let image = from.image.text.as_str();
        let mut declared = match super::find_stage(&names, image) {
            Some(parent) => {
                copied += stages[parent].as_ref().map_or(0, BTreeSet::len);
                if copied > MAX_COPIED {
                    return;
                }
                stages[parent].clone()
            }
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
    for word in expand::expanded(&instruction.kind) {
        for name in expand::unset(word, escape, &lookup) {
            if checker.is_full() {
                return;
            }
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
