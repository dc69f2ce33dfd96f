//! Checks of FROM, and of what stands above it and ARG.

use hull_oci::{Platform, Reference};

use super::super::ast::{From, Instruction, Kind};
use super::super::expand;
use super::super::nearest;
use super::super::scope::Global;
use super::super::span::Span;
use super::Checker;

pub(super) fn check(checker: &mut Checker<'_>) {
    let file = checker.file;
    let mut names: Vec<Option<String>> = Vec::new();
    // As the build is without any --build-arg.
    let host = Platform::default();
    let mut global = Global::new(Default::default(), &host, &host);
    for instruction in &file.instructions {
        match &instruction.kind {
            Kind::From(from) => {
                stage_name(checker, instruction, from, &names);
                platform(checker, from);
                image(checker, from, &global, &names);
                names.push(from.stage.as_ref().map(|stage| stage.text.clone()));
                let described: Vec<&str> = from.stage.iter().map(|stage| stage.text.as_str()).collect();
                description(checker, instruction, &described);
            }
            Kind::Arg(arguments) => {
                if names.is_empty() {
                    for argument in arguments {
                        // What cannot be expanded fails when the build is planned.
                        let _ = global.declare(argument, file.escape);
                    }
                }
                let described: Vec<&str> = arguments.iter().map(|arg| arg.name.text.as_str()).collect();
                description(checker, instruction, &described);
            }
            _ => {}
        }
    }
}

fn stage_name(checker: &mut Checker<'_>, instruction: &Instruction, from: &From, names: &[Option<String>]) {
    let Some(stage) = &from.stage else { return };
    let name = &stage.text;
    if name.chars().any(|c| c.is_ascii_uppercase()) {
        checker.warn("StageNameCasing", stage.span, format!("Stage name '{name}' should be lowercase"));
    }
    if super::find_stage(names, name).is_some() {
        let message = format!("Duplicate stage name '{name}', stage names should be unique");
        checker.warn("DuplicateStageName", stage.span, message);
    }
    if ["scratch", "context"].iter().any(|reserved| name.eq_ignore_ascii_case(reserved)) {
        let message = format!("'{name}' is reserved and should not be used as a stage name");
        checker.warn("ReservedStageName", stage.span, message);
    }
    let keyword = instruction.name.of(checker.text);
    let between = Span::new(from.image.span.end, stage.span.start);
    let lower = keyword.chars().all(|c| c.is_ascii_lowercase());
    let mut words = between.of(checker.text).split_whitespace();
    let Some(word) = words.find(|word| word.eq_ignore_ascii_case("as")) else { return };
    if word != if lower { "as" } else { "AS" } {
        let start = between.start + between.of(checker.text).find(word).unwrap_or(0);
        let message = format!("'{word}' and '{keyword}' keywords' casing do not match");
        checker.warn("FromAsCasing", Span::new(start, start + word.len()), message);
    }
}

fn platform(checker: &mut Checker<'_>, from: &From) {
    let Some(platform) = &from.platform else { return };
    if ["$TARGETPLATFORM", "${TARGETPLATFORM}"].contains(&platform.text.as_str()) {
        let message = format!(
            "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
            platform.text
        );
        checker.warn("RedundantTargetPlatform", platform.span, message);
    }
    if platform.text.contains('$') {
        return;
    }
    // A stage whose name says which platform it is for is meant to be so.
    let named = |stage: &str| platform.text.split('/').any(|part| stage.to_lowercase().contains(part));
    if !from.stage.as_ref().is_some_and(|stage| named(&stage.text)) {
        let message = format!("FROM --platform flag should not use constant value {:?}", platform.text);
        checker.warn("FromPlatformFlagConstDisallowed", platform.span, message);
    }
}

fn image(checker: &mut Checker<'_>, from: &From, global: &Global, names: &[Option<String>]) {
    let escape = checker.file.escape;
    let declared = |name: &str| global.is_declared(name).then(|| "x".to_owned());
    let mut undefined = false;
    for word in [Some(&from.image), from.platform.as_ref()].into_iter().flatten() {
        for name in expand::unset(word, escape, &declared) {
            undefined = true;
            let hint = nearest(&name, global.names()).map(|name| format!(" (did you mean {name}?)"));
            let message = format!("FROM argument '{name}' is not declared{}", hint.unwrap_or_default());
            checker.warn("UndefinedArgInFrom", word.span, message);
        }
    }
    if undefined || !from.image.text.contains('$') {
        return;
    }
    let image = expand::word(&from.image, escape, &|name| global.get(name)).unwrap_or_default();
    if super::find_stage(names, &image).is_none() && Reference::parse(&image).is_err() {
        let message =
            format!("Default value for ARG {} results in empty or invalid base image name", from.image.text);
        checker.warn("InvalidDefaultArgInFrom", from.image.span, message);
    }
}

/// The comment right above an ARG, or a FROM with a stage's name, describes it: it begins with the name.
fn description(checker: &mut Checker<'_>, instruction: &Instruction, names: &[&str]) {
    let before = checker.text[..instruction.span.start].trim_end_matches([' ', '\t']);
    let Some(before) = before.strip_suffix('\n') else { return };
    let line = before.rsplit('\n').next().unwrap_or_default();
    let Some(comment) = line.trim().strip_prefix('#') else { return };
    let start = before.len() - line.len();
    let span = Span::new(start, start + line.trim_end().len());
    if names.is_empty() || checker.file.directives.iter().any(|directive| directive.span.start == start) {
        return;
    }
    // A lone mark, or a comment of several lines' last one, is none either.
    let first = comment.split_whitespace().next().unwrap_or_default();
    if !comment.trim().is_empty() && !names.contains(&first) {
        checker.warn(
            "InvalidDefinitionDescription",
            span,
            "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. \
             If this is not intended to be a description comment, add an empty line or comment between the \
             instruction and the comment.",
        );
    }
}
