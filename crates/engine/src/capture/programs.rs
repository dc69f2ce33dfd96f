//! Programs: where a name leads, what interprets a script, what an interpreter needs
//! besides its libraries, and what BusyBox can be called.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Programs whose own package, with all it depends on, is taken as a whole if they
/// belong to one: they load most of what they need at run time. The name begins so.
const INTERPRETERS: &[&str] = &["python", "perl", "ruby", "php", "tclsh", "guile", "node", "Rscript"];

pub(crate) fn is_interpreter(name: &str) -> bool {
    INTERPRETERS.iter().any(|interpreter| name.starts_with(interpreter))
}

/// Looks a name up in the folders of `search`, below `root`.
pub(crate) fn find(root: &Path, name: &str, search: &[PathBuf]) -> Option<PathBuf> {
    let host = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    let runs = |path: &PathBuf| {
        let meta = fs::metadata(host(path));
        meta.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(runs);
    }
    let path = search.iter().map(|folder| folder.join(name)).find(runs)?;
    Some(behind_shim(root, &path).filter(runs).unwrap_or(path))
}

/// Version switchers (pyenv, rbenv, nodenv) put a script for each program into
/// `HOME/shims`, and the program itself into `HOME/versions/VERSION/bin`; the file
/// `HOME/version` names the version in use.
fn behind_shim(root: &Path, path: &Path) -> Option<PathBuf> {
    let (name, folder) = (path.file_name()?, path.parent()?);
    if folder.file_name()? != "shims" {
        return None;
    }
    let home = folder.parent()?;
    let file = root.join(home.strip_prefix("/").unwrap_or(home)).join("version");
    let version = fs::read_to_string(file).ok()?;
    let version = version.split_whitespace().next().filter(|version| !version.contains('/'))?;
    Some(home.join("versions").join(version).join("bin").join(name))
}

/// What runs a script, from its first line (execve(2), "Interpreter scripts").
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Interpreter {
    pub(crate) path: String,
    /// `env` looks this name up.
    pub(crate) by_env: Option<String>,
}

/// Reads `#!PATH [ARGUMENT]` from the start of a file.
pub(crate) fn interpreter(start: &[u8]) -> Option<Interpreter> {
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace();
    let path = words.next().filter(|path| path.starts_with('/'))?.to_owned();
    let by_env = match path.ends_with("/env") {
        true => words.find(|word| !word.starts_with('-') && !word.contains('=')).map(str::to_owned),
        false => None,
    };
    Some(Interpreter { path, by_env })
}

/// The standard library of `PREFIX/bin/NAMEx.y`: `PREFIX/lib/NAMEx.y`, if it is there.
pub(crate) fn standard_library(root: &Path, program: &Path) -> Option<PathBuf> {
    let name = program.file_name()?.to_str()?;
    let bin = program.parent()?;
    if bin.file_name()? != "bin" || !name.ends_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let library = bin.parent()?.join("lib").join(name);
    let host = root.join(library.strip_prefix("/").unwrap_or(&library));
    host.is_dir().then_some(library)
}

/// What of a standard library is left out: its own tests, its static build, and packages
/// that somebody installed beside it.
pub(crate) fn is_left_out(library: &Path, path: &Path) -> bool {
    let Some(name) = path.strip_prefix(library).ok().and_then(Path::to_str) else {
        return false;
    };
    matches!(name, "test" | "site-packages" | "dist-packages") || name.starts_with("config-")
}

/// Of a script that runs an installed module of the same name (`pip3` runs `pip`): the
/// module and its description, in `PREFIX/lib/NAMEx.y/site-packages` or, as Debian has
/// it, `PREFIX/lib/NAMEx/dist-packages`.
pub(crate) fn module_of_script(root: &Path, library: &Path, script: &str) -> Vec<PathBuf> {
    let module = script.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    if module.is_empty() {
        return Vec::new();
    }
    let mut folders = vec![library.join("site-packages")];
    if let Some((major, _)) = library.to_str().and_then(|library| library.rsplit_once('.')) {
        folders.push(Path::new(major).join("dist-packages"));
    }
    let mut found = Vec::new();
    for folder in folders {
        let host = root.join(folder.strip_prefix("/").unwrap_or(&folder));
        for entry in fs::read_dir(host).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(text) = name.to_str() else { continue };
            let described = text.strip_prefix(module).is_some_and(|rest| rest.starts_with('-'));
            if text == module || described && text.ends_with("-info") {
                found.push(folder.join(&name));
            }
        }
    }
    found.sort();
    found
}

/// The names a BusyBox executable answers to. It holds them sorted, each ended by a NUL;
/// `[` and `[[` are the first two.
pub(crate) fn applets(executable: &[u8]) -> Vec<String> {
    const START: &[u8] = b"\0[\0[[\0";
    let Some(start) = executable.windows(START.len()).position(|window| window == START) else {
        return Vec::new();
    };
    let mut applets: Vec<String> = Vec::new();
    for name in executable[start + 1..].split(|byte| *byte == 0) {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"[-_.".contains(byte);
        let sorted = applets.last().is_none_or(|last| last.as_bytes() < name);
        if name.is_empty() || name.len() > 32 || !name.iter().all(plain) || !sorted {
            break;
        }
        applets.push(String::from_utf8_lossy(name).into_owned());
    }
    applets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_names_the_interpreter() {
        let read = |text: &str| interpreter(text.as_bytes()).map(|found| (found.path, found.by_env));
        assert_eq!(read("#!/bin/sh -e\nx"), Some(("/bin/sh".into(), None)));
        assert_eq!(read("#! /usr/bin/env python3\n"), Some(("/usr/bin/env".into(), Some("python3".into()))));
        assert_eq!(
            read("#!/usr/bin/env -S A=1 node --x\n"),
            Some(("/usr/bin/env".into(), Some("node".into())))
        );
        assert_eq!(read("#!relative\n"), None);
        assert_eq!(read("no script"), None);
    }

    #[test]
    fn a_shim_leads_to_the_version_in_use() {
        let root = tempfile::tempdir().unwrap();
        let home = root.path().join("home/.pyenv");
        for folder in ["shims", "versions/3.9/bin"] {
            fs::create_dir_all(home.join(folder)).unwrap();
        }
        for file in ["shims/python3", "shims/only", "versions/3.9/bin/python3"] {
            fs::write(home.join(file), "").unwrap();
            fs::set_permissions(home.join(file), fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(home.join("version"), "3.9\n3.8\n").unwrap();
        let search = [PathBuf::from("/home/.pyenv/shims")];
        let look = |name: &str| find(root.path(), name, &search).map(|path| path.display().to_string());
        assert_eq!(look("python3").as_deref(), Some("/home/.pyenv/versions/3.9/bin/python3"));
        assert_eq!(look("only").as_deref(), Some("/home/.pyenv/shims/only"));
        assert_eq!(look("none"), None);
    }

    #[test]
    fn busybox_tells_its_names() {
        assert_eq!(applets(b"x\0[\0[[\0acpid\0ash\0\0zz\0"), ["[", "[[", "acpid", "ash"]);
        assert_eq!(applets(b"x\0[\0[[\0ash\0acpid\0"), ["[", "[[", "ash"]);
        assert!(applets(b"nothing").is_empty());
    }
}
