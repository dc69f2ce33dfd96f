//! Build checks. A good case has no warning of its rule, a bad one has; others are shown, too. An image called
//! `known` sets PYTHON_VERSION, of all others nothing is known; the ignore file keeps out all below `tmp`.

use hull_builder::dockerfile::check::{Facts, Settings, Warning, check};
use hull_builder::dockerfile::{Position, parse};

use crate::cases::{self, Can, Case};
use crate::grammar;

const RULES: &[(&str, Can)] = &[
    ("ConsistentInstructionCasing", Can::Both),
    ("CopyIgnoredFile", Can::Both),
    ("DuplicateStageName", Can::Both),
    ("ExposeInvalidFormat", Can::Both),
    ("ExposeProtoCasing", Can::Both),
    ("FromAsCasing", Can::Both),
    ("FromPlatformFlagConstDisallowed", Can::Both),
    ("InvalidDefaultArgInFrom", Can::Both),
    ("InvalidDefinitionDescription", Can::Both),
    ("JSONArgsRecommended", Can::Both),
    ("LegacyKeyValueFormat", Can::Both),
    ("MaintainerDeprecated", Can::Both),
    ("MultipleInstructionsDisallowed", Can::Both),
    ("NoEmptyContinuation", Can::Both),
    ("RedundantTargetPlatform", Can::Both),
    ("ReservedStageName", Can::Both),
    ("SecretsUsedInArgOrEnv", Can::Both),
    ("StageNameCasing", Can::Both),
    ("UndefinedArgInFrom", Can::Both),
    ("UndefinedVar", Can::Both),
    ("WorkdirRelativePath", Can::Both),
    ("settings", Can::Both),
];

#[test]
fn every_check_has_cases_and_they_hold() {
    cases::run("checks", RULES, actual);
}

fn actual(case: &Case) -> String {
    let text = &case.input;
    let file = match parse(text.as_bytes()) {
        Ok(file) => file,
        Err(problems) => return grammar::problems(text, &problems),
    };
    let settings = Settings::of(&file).unwrap();
    let variables = |image: &str| (image == "known").then(|| vec!["PYTHON_VERSION".to_owned()]);
    let facts = Facts { variables: &variables, ignored: &|path| path.starts_with("tmp/") };
    let warnings = check(text, &file, &settings, &facts);
    let found = warnings.iter().any(|warning| warning.check == case.rule);
    let mark = if case.rule != "settings" && found == case.good { "not what the title says\n" } else { "" };
    let error = if settings.error { "error\n" } else { "" };
    // The place, and what stands there as far as its line goes.
    let place = |warning: &Warning| {
        let Position { line, column } = Position::of(text, warning.span.start);
        let there = warning.span.of(text).lines().next().unwrap_or_default();
        format!("{line}:{column} {there}")
    };
    let shown = |warning: &Warning| {
        let text = format!("{}\n{}", place(warning), warning.show("Dockerfile", text));
        text.lines().map(|line| line.trim_end().to_owned() + "\n").collect::<String>()
    };
    let shown: String = warnings.iter().map(shown).collect();
    format!("{mark}{error}{shown}")
}
