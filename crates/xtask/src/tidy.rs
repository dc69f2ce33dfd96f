//! The house rules that a program can check, so that nobody has to.
//!
//! Arrows: which crate may use which is the table of ARCHITECTURE.md, repeated here as data; a
//! `Cargo.toml` that says more fails. Text: files of at most 800 lines, functions of at most 70, a
//! `//!` on each module, `unsafe` in `sys` alone, no unfinished marks, no path of one machine, a
//! reason in deny.toml for each dependency.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::root;

const LINES_A_FILE: usize = 800;
const LINES_A_FUNCTION: usize = 70;

/// Crate, and what of ours it may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("oci", &[]),
    ("sys", &[]),
    ("template", &[]),
    ("context", &["oci"]),
    ("debian", &["oci"]),
    ("fetch", &[]),
    ("image", &["oci", "sys"]),
    ("runtime", &["oci", "sys", "context", "image"]),
    ("network", &["sys"]),
    ("registry", &["oci", "image", "fetch"]),
    ("builder", &["oci", "context", "image"]),
    (
        "engine",
        &[
            "oci", "sys", "template", "context", "image", "runtime", "network", "builder", "debian", "fetch",
            "registry",
        ],
    ),
    ("api", &["oci"]),
    ("cli", &["api", "template", "context", "oci", "image"]),
    (
        "daemon",
        &[
            "oci", "sys", "template", "context", "image", "runtime", "network", "builder", "registry",
            "engine", "api",
        ],
    ),
    ("hull", &["cli", "daemon"]),
    ("hull-runtime", &["oci", "sys", "runtime"]),
    ("testkit", &[]),
    ("xtask", &["sys"]),
];

/// Crates that must stay free of an async runtime and of HTTP.
const WITHOUT_ASYNC: &[&str] = &["oci", "sys", "template", "context", "image", "runtime", "network"];
const ASYNC: &[&str] = &["tokio", "hyper", "axum", "futures-util"];

/// Checks everything; the error lists every breach.
pub(crate) fn run() -> Result<()> {
    let mut breaches = Vec::new();
    let crates = root().join("crates");
    for (name, allowed) in ARROWS {
        check_arrows(&crates.join(name), name, allowed, &mut breaches)?;
    }
    for entry in fs::read_dir(&crates).context("read crates/")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !ARROWS.iter().any(|(known, _)| *known == name) {
            breaches.push(format!("crates/{name}: not in the table of crates (xtask tidy, ARCHITECTURE.md)"));
        }
    }
    let mut files = Vec::new();
    rust_files(&crates, &mut files)?;
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let shown = file.strip_prefix(root()).unwrap_or(file).display().to_string();
        check_text(&shown, &text, &mut breaches);
    }
    check_reasons(&mut breaches)?;
    if !breaches.is_empty() {
        bail!("{} breaches of the house rules:\n  {}", breaches.len(), breaches.join("\n  "));
    }
    Ok(())
}

fn check_arrows(folder: &Path, name: &str, allowed: &[&str], breaches: &mut Vec<String>) -> Result<()> {
    let file = folder.join("Cargo.toml");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let manifest: toml::Table = text.parse().with_context(|| format!("parse {}", file.display()))?;
    let empty = toml::Table::new();
    let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table).unwrap_or(&empty);
    for dependency in dependencies.keys() {
        if let Some(ours) = dependency.strip_prefix("hull-") {
            let ours = ours.strip_suffix("-lib").unwrap_or(ours);
            if !allowed.contains(&ours) {
                breaches.push(format!("crates/{name}: may not use {ours}"));
            }
        } else if WITHOUT_ASYNC.contains(&name) && ASYNC.contains(&dependency.as_str()) {
            breaches.push(format!("crates/{name}: must stay without async, but uses {dependency}"));
        }
    }
    Ok(())
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                rust_files(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

fn check_text(file: &str, text: &str, breaches: &mut Vec<String>) {
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() > LINES_A_FILE {
        breaches.push(format!("{file}: {} lines, at most {LINES_A_FILE}", lines.len()));
    }
    if !lines.first().is_some_and(|line| line.starts_with("//!")) {
        breaches.push(format!("{file}: opens without a `//!` that says why the module exists"));
    }
    // This file names the marks it looks for.
    if file.ends_with("xtask/src/tidy.rs") {
        return;
    }
    // Where this repository lies is nobody else's affair.
    let here = format!("{}/", root().display());
    for (number, line) in lines.iter().enumerate() {
        let number = number + 1;
        let code = line.split("//").next().unwrap_or_default();
        if !file.starts_with("crates/sys/") && says_unsafe(code) {
            breaches.push(format!("{file}:{number}: unsafe outside crates/sys"));
        }
        for mark in ["todo!(", "unimplemented!(", "dbg!(", "FIXME", "XXX", "HACK"] {
            if line.contains(mark) {
                breaches.push(format!("{file}:{number}: unfinished mark {mark}"));
            }
        }
        // A test that runs only as another test's process, or in the virtual machine, is no skipped test.
        let elsewhere = line.contains("#[ignore = \"a process for ") || line.contains(": cargo xtask vm ");
        if line.contains("#[ignore") && !elsewhere {
            breaches.push(format!("{file}:{number}: a skipped test"));
        }
        if line.contains(&here) {
            breaches.push(format!("{file}:{number}: a path of one machine"));
        }
    }
    for (name, start, length) in long_functions(&lines) {
        breaches
            .push(format!("{file}:{start}: function {name} has {length} lines, at most {LINES_A_FUNCTION}"));
    }
}

fn says_unsafe(code: &str) -> bool {
    ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"].iter().any(|word| code.contains(word))
}

/// Name, first line and length of each function that is too long. Leans on rustfmt: a function's
/// closing brace stands alone at the indentation of its first line.
fn long_functions(lines: &[&str]) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        // Tables and golden values are as long as they are.
        if index > 0 && is_test_attribute(&lines[..index]) {
            continue;
        }
        let indentation = &line[..line.len() - line.trim_start().len()];
        let closing = format!("{indentation}}}");
        let Some(length) = lines[index..].iter().position(|line| *line == closing) else { continue };
        // A one-line function has no closing line of its own: the next one's would be found.
        if line.trim_end().ends_with('}')
            || lines[index + 1..index + length].iter().any(|l| starts_item(l, indentation))
        {
            continue;
        }
        if length + 1 > LINES_A_FUNCTION {
            found.push((name.to_owned(), index + 1, length + 1));
        }
    }
    found
}

fn is_test_attribute(before: &[&str]) -> bool {
    let attributes = before.iter().rev().take_while(|line| line.trim_start().starts_with("#["));
    attributes.into_iter().any(|line| line.contains("test"))
}

fn starts_item(line: &str, indentation: &str) -> bool {
    line.strip_prefix(indentation).is_some_and(|rest| !rest.starts_with(' ') && function_name(line).is_some())
}

fn function_name(line: &str) -> Option<&str> {
    let mut words = line.trim_start();
    if words.starts_with("//") {
        return None;
    }
    loop {
        if let Some(rest) = words.strip_prefix("fn ") {
            return rest.split(['(', '<']).next();
        }
        let (first, rest) = words.split_once(' ')?;
        let qualifier = matches!(first, "pub" | "async" | "const" | "unsafe" | "extern" | "\"C\"")
            || first.starts_with("pub(");
        if !qualifier {
            return None;
        }
        words = rest;
    }
}

/// Every dependency of the workspace has a line `# name: why` in deny.toml.
fn check_reasons(breaches: &mut Vec<String>) -> Result<()> {
    let manifest: toml::Table = fs::read_to_string(root().join("Cargo.toml"))
        .context("read Cargo.toml")?
        .parse()
        .context("parse Cargo.toml")?;
    let reasons = fs::read_to_string(root().join("deny.toml")).context("read deny.toml")?;
    let given: BTreeSet<&str> = reasons
        .lines()
        .filter_map(|line| line.strip_prefix("# ")?.split_once(": ").map(|(name, _)| name))
        .collect();
    let dependencies = manifest
        .get("workspace")
        .and_then(|workspace| workspace.get("dependencies"))
        .and_then(toml::Value::as_table)
        .context("Cargo.toml has no [workspace.dependencies]")?;
    for name in dependencies.keys().filter(|name| !name.starts_with("hull-")) {
        if !given.contains(name.as_str()) {
            breaches.push(format!("deny.toml: no line `# {name}: why`"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_keeps_the_house_rules() {
        run().unwrap();
    }

    fn breaches_of(text: &str) -> Vec<String> {
        let mut breaches = Vec::new();
        check_text("crates/x/src/lib.rs", text, &mut breaches);
        breaches
    }

    #[test]
    fn a_long_function_is_found_and_a_short_one_is_not() {
        let body = "    let x = 1;\n".repeat(69);
        let long = format!("//! x\npub(crate) async fn long() {{\n{body}}}\n");
        assert_eq!(breaches_of(&long), ["crates/x/src/lib.rs:2: function long has 71 lines, at most 70"]);
        let short = format!("//! x\nfn a() {{}}\nfn b() {{\n{}}}\n", "    let x = 1;\n".repeat(68));
        assert_eq!(breaches_of(&short), Vec::<String>::new());
    }

    #[test]
    fn unsafe_marks_and_missing_headers_are_found() {
        let text = "fn a() {\n    unsafe { b() }\n}\n";
        assert_eq!(
            breaches_of(text),
            [
                "crates/x/src/lib.rs: opens without a `//!` that says why the module exists",
                "crates/x/src/lib.rs:2: unsafe outside crates/sys",
            ]
        );
    }
}
