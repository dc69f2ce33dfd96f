//! Bytes to instructions, or to all that is wrong.

use hull_builder::dockerfile::{Problem, parse};

use crate::cases::{self, Can, Case};
use crate::dump;

const RULES: &[(&str, Can)] = &[
    ("add", Can::Both),
    ("arg", Can::Both),
    ("bom", Can::Both),
    ("cmd", Can::Both),
    ("comment", Can::OnlyGood),
    ("continuation", Can::Both),
    ("copy", Can::Both),
    ("copy-heredoc", Can::Both),
    ("directive", Can::Both),
    ("entrypoint", Can::Both),
    ("env", Can::Both),
    ("escape", Can::Both),
    ("expose", Can::Both),
    ("file", Can::Both),
    ("flags", Can::Both),
    ("from", Can::Both),
    ("healthcheck", Can::Both),
    ("heredoc", Can::Both),
    ("json", Can::Both),
    ("label", Can::Both),
    ("line-ends", Can::Both),
    ("maintainer", Can::Both),
    ("mount-bind", Can::Both),
    ("mount-cache", Can::Both),
    ("mount-secret", Can::Both),
    ("mount-ssh", Can::Both),
    ("mount-tmpfs", Can::Both),
    ("name", Can::Both),
    ("onbuild", Can::Both),
    ("run", Can::Both),
    ("run-device", Can::Both),
    ("run-network", Can::Both),
    ("run-security", Can::Both),
    ("shell", Can::Both),
    ("stage-name", Can::Both),
    ("stopsignal", Can::Both),
    ("user", Can::Both),
    ("volume", Can::Both),
    ("workdir", Can::Both),
];

pub(crate) fn problems(text: &str, problems: &[Problem]) -> String {
    problems.iter().map(|problem| problem.show("Dockerfile", text) + "\n").collect()
}

fn actual(case: &Case) -> String {
    match parse(case.input.as_bytes()) {
        Ok(file) => {
            let kept = if case.good { "" } else { "it should be refused\n" };
            kept.to_owned() + &dump::dockerfile(&case.input, &file)
        }
        Err(found) => {
            let kept = if case.good { "it should be accepted\n" } else { "" };
            kept.to_owned() + &problems(&case.input, &found)
        }
    }
}

#[test]
fn every_rule_has_cases_and_they_hold() {
    cases::run("grammar", RULES, actual);
}
