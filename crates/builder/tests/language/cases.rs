//! Reads case files, compares, and counts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Which outcomes a rule can have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Can {
    Both,
    OnlyGood,
}

pub(crate) struct Case {
    pub(crate) rule: String,
    pub(crate) good: bool,
    pub(crate) name: String,
    pub(crate) input: String,
    pub(crate) expected: String,
}

impl Case {
    pub(crate) fn title(&self) -> String {
        format!("{}: {} {}", self.rule, if self.good { "good" } else { "bad" }, self.name)
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dockerfile").join(name)
}

/// Every case of one folder.
pub(crate) fn read(kind: &str) -> Vec<Case> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder(kind)).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files.iter().flat_map(|file| parse(file)).collect()
}

fn parse(file: &Path) -> Vec<Case> {
    let rule = file.file_stem().unwrap().to_str().unwrap().to_owned();
    let text = std::fs::read_to_string(file).unwrap();
    let mut cases = Vec::new();
    for section in text.split("==== ").skip(1) {
        let (title, rest) = section.split_once('\n').unwrap();
        let (outcome, name) = title.split_once(' ').unwrap();
        let (input, expected) = rest.split_once("----\n").unwrap_or((rest, ""));
        assert!(["good", "bad"].contains(&outcome), "{rule}: a case is good or bad, not {outcome}");
        cases.push(Case {
            rule: rule.clone(),
            good: outcome == "good",
            name: name.to_owned(),
            input: unmark(input),
            expected: expected.to_owned(),
        });
    }
    assert!(!cases.is_empty(), "{}: no case", file.display());
    cases
}

fn unmark(input: &str) -> String {
    let marks = [("<CR>", "\r"), ("<BOM>", "\u{feff}"), ("<SP>", " "), ("<NUL>", "\0"), ("<NOEOL>\n", "")];
    marks.iter().fold(input.to_owned(), |text, (mark, meant)| text.replace(mark, meant))
}

/// Compares what `actual` makes of each case with what its file says, prints the table of coverage, and
/// refuses rules without cases.
pub(crate) fn run(kind: &str, rules: &[(&str, Can)], actual: impl Fn(&Case) -> String) {
    let cases = read(kind);
    let mut table: BTreeMap<&str, [usize; 2]> = rules.iter().map(|(rule, _)| (*rule, [0, 0])).collect();
    let mut wrong = Vec::new();
    for case in &cases {
        match table.get_mut(case.rule.as_str()) {
            Some(counts) => counts[usize::from(!case.good)] += 1,
            None => wrong.push(format!("{}: not in the table of rules", case.rule)),
        }
        let output = actual(case);
        if output != case.expected {
            wrong.push(format!("{}\n--- expected\n{}--- is\n{output}", case.title(), case.expected));
        }
    }
    print_table(kind, &table);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        return update(kind, &actual);
    }
    for (rule, can) in rules {
        let [good, bad] = table[rule];
        if good == 0 || (bad == 0 && *can == Can::Both) {
            wrong.push(format!("{rule}: {good} good cases and {bad} bad ones"));
        }
    }
    assert!(wrong.is_empty(), "{} things are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[expect(clippy::print_stdout, reason = "the table is for whoever runs the test")]
fn print_table(kind: &str, table: &BTreeMap<&str, [usize; 2]>) {
    println!("{kind:<34} good  bad");
    for (rule, [good, bad]) in table {
        println!("{rule:<34} {good:>4} {bad:>4}");
    }
    let sum = |index: usize| table.values().map(|counts| counts[index]).sum::<usize>();
    println!("{:<34} {:>4} {:>4}", "all", sum(0), sum(1));
}

fn update(kind: &str, actual: &impl Fn(&Case) -> String) {
    for entry in std::fs::read_dir(folder(kind)).unwrap() {
        let file = entry.unwrap().path();
        let text = std::fs::read_to_string(&file).unwrap();
        let mut out = String::new();
        for (section, case) in text.split("==== ").skip(1).zip(parse(&file)) {
            let input = section.split("----\n").next().unwrap();
            out.push_str(&format!("==== {input}----\n{}", actual(&case)));
        }
        std::fs::write(&file, out).unwrap();
    }
}
