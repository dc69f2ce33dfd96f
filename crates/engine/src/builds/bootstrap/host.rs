//! Which archives, and whose signatures: what the host's own apt knows (apt-secure(8), sources.list(5)).
//!
//! No archive and no key is built in. The host is trusted here, as in a capture.

use std::fs;
use std::path::{Path, PathBuf};

use hull_debian::sources::{parse_list, parse_stanzas};
use hull_debian::{Keyring, Source};

use super::archive::without_credentials;
use super::{Bootstrap, Keys, wrong};
use crate::{Error, Result};

/// What updates of a suite are called behind its own name.
const UPDATES: [&str; 3] = ["", "-updates", "-security"];
/// What a distribution's archive has at least.
const COMPONENT: &str = "main";

/// A suite of an archive, and the keys that count for it.
#[derive(Debug)]
pub(super) struct Trusted {
    pub(super) source: Source,
    pub(super) keyring: Keyring,
}

/// The suite that is wanted, then its updates where apt has them. Blocks.
pub(super) fn sources(wanted: &Bootstrap, distribution: &str) -> Result<Vec<Trusted>> {
    find(Path::new("/"), wanted, distribution)
}

fn find(root: &Path, wanted: &Bootstrap, distribution: &str) -> Result<Vec<Trusted>> {
    let suite = &wanted.suite;
    let mut found = Vec::new();
    match &wanted.mirror {
        Some(mirror) => {
            let own = PathBuf::from(format!("/usr/share/keyrings/{distribution}-archive-keyring.gpg"));
            let files = vec![own.to_string_lossy().into_owned()];
            let has_own = root.join(own.strip_prefix("/").unwrap_or(&own)).exists();
            found.push(Source {
                address: mirror.trim_end_matches('/').to_owned(),
                suite: suite.clone(),
                components: vec![COMPONENT.to_owned()],
                keys: if has_own { Keys::Files(files) } else { Keys::Common },
            });
        }
        None => {
            let known = apt(root)?;
            for updates in UPDATES {
                let name = format!("{suite}{updates}");
                let fits = |source: &&Source| {
                    source.suite == name && source.components.iter().any(|component| component == COMPONENT)
                };
                found.extend(known.iter().find(fits).cloned());
            }
            if found.first().is_none_or(|first| first.suite != *suite) {
                return Err(Error::Invalid(format!(
                    "this host's apt has no source of {suite:?}: name the archive's address with --mirror, and the \
                     keys that have signed it with --keyring"
                )));
            }
        }
    }
    let trusted = |source: Source| {
        let keyring = match &wanted.keyring {
            Some(bytes) => {
                let mut keyring = Keyring::default();
                keyring.read(bytes).map_err(|error| Error::Invalid(error.to_string()))?;
                keyring
            }
            None => keyring(root, &source.keys)?,
        };
        if keyring.is_empty() {
            return Err(Error::Invalid(format!(
                "this host has no keys for {}: install the distribution's archive keyring, or name one with --keyring",
                without_credentials(&source.address)
            )));
        }
        Ok(Trusted { source, keyring })
    };
    found.into_iter().map(trusted).collect()
}

/// For people.
pub(super) fn shown(sources: &[Trusted]) -> String {
    let suites: Vec<&str> = sources.iter().map(|trusted| trusted.source.suite.as_str()).collect();
    let address = sources.first().map_or("", |trusted| trusted.source.address.as_str());
    match hull_fetch::Address::parse(address) {
        Ok(address) => format!("{} of {address}", suites.join(", ")),
        Err(_) => suites.join(", "),
    }
}

/// All sources that apt has.
fn apt(root: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    let folder = root.join("etc/apt/sources.list.d");
    for file in [vec![root.join("etc/apt/sources.list")], files(&folder, &["list", "sources"])].concat() {
        let Some(bytes) = read(&file)? else { continue };
        let text = String::from_utf8_lossy(&bytes);
        match file.extension().is_some_and(|ending| ending == "sources") {
            true => {
                let stanzas = parse_stanzas(&text);
                sources.extend(stanzas.map_err(|error| wrong(&file.to_string_lossy(), &error))?);
            }
            false => sources.extend(parse_list(&text)),
        }
    }
    Ok(sources)
}

fn keyring(root: &Path, keys: &Keys) -> Result<Keyring> {
    let mut keyring = Keyring::default();
    let below = |path: &str| root.join(path.trim_start_matches('/'));
    let paths = match keys {
        Keys::Inline(key) => {
            keyring.read(key.as_bytes()).map_err(|error| wrong("apt's source", &error))?;
            return Ok(keyring);
        }
        Keys::Files(paths) => paths.iter().map(|path| below(path)).collect(),
        Keys::Common => {
            let folder = files(&below("etc/apt/trusted.gpg.d"), &["asc", "gpg"]);
            [vec![below("etc/apt/trusted.gpg")], folder].concat()
        }
    };
    // One that cannot be read takes nothing from the others, as with apt.
    let mut failed = None;
    for path in paths {
        let added = read(&path).and_then(|bytes| match bytes {
            Some(bytes) => keyring.read(&bytes).map_err(|error| wrong(&path.to_string_lossy(), &error)),
            None => Ok(()),
        });
        failed = failed.or(added.err());
    }
    match failed {
        Some(error) if keyring.is_empty() => Err(error),
        _ => Ok(keyring),
    }
}

/// Sorted, as apt reads them.
fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let fits =
        |path: &PathBuf| path.extension().is_some_and(|ending| endings.iter().any(|known| ending == *known));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(fits).collect();
    paths.sort();
    paths
}

/// `None` where there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { call: "read", path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = include_bytes!("../../../../debian/testdata/keys.asc");

    fn wanted(mirror: Option<&str>) -> Bootstrap {
        Bootstrap {
            name: hull_oci::Reference::parse("some:wood").unwrap(),
            suite: "wood".to_owned(),
            variant: Default::default(),
            include: Vec::new(),
            mirror: mirror.map(str::to_owned),
            keyring: None,
        }
    }

    fn host(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, bytes) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        root
    }

    fn found(root: &tempfile::TempDir, wanted: &Bootstrap) -> Result<Vec<String>, String> {
        let sources = find(root.path(), wanted, "some").map_err(|error| error.to_string())?;
        let shown = |trusted: &Trusted| format!("{} {}", trusted.source.address, trusted.source.suite);
        Ok(sources.iter().map(shown).collect())
    }

    #[test]
    fn a_file_without_keys_takes_nothing_from_the_others_and_no_password_is_told() {
        let list: &[u8] = b"deb http://me:secret@a wood main\n";
        let files: [(&str, &[u8]); 3] = [
            ("etc/apt/sources.list", list),
            ("etc/apt/trusted.gpg", b""),
            ("etc/apt/trusted.gpg.d/a.asc", b"no key"),
        ];
        let error = found(&host(&files), &wanted(None)).unwrap_err();
        assert!(!error.contains("secret"), "{error}");
        let root = host(&[&files[..], &[("etc/apt/trusted.gpg.d/b.asc", KEY)]].concat());
        assert_eq!(found(&root, &wanted(None)).unwrap().len(), 1);
        let error = found(&host(&files[..1]), &wanted(None)).unwrap_err();
        assert!(error.contains("no keys for http://a") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn a_suite_comes_with_its_updates_from_where_apt_has_them() {
        let list: &[u8] =
            b"deb http://b/ wood-security main\ndeb http://c wood stable\ndeb http://a wood main\n\
            deb http://d wood main\ndeb http://e wood-backports main\n";
        let more =
            b"Types: deb\nURIs: http://f\nSuites: wood-updates\nComponents: main\nSigned-By: /keys.asc\n";
        let root = host(&[
            ("etc/apt/sources.list", list),
            ("etc/apt/sources.list.d/x.sources", more),
            ("etc/apt/trusted.gpg.d/x.asc", KEY),
            ("keys.asc", KEY),
        ]);
        assert_eq!(
            found(&root, &wanted(None)).unwrap(),
            ["http://a wood", "http://f wood-updates", "http://b wood-security"]
        );
    }

    #[test]
    fn without_a_source_or_a_key_the_error_says_what_to_name() {
        let root = host(&[("etc/apt/sources.list", b"deb http://b wood-updates main\n")]);
        let why = found(&root, &wanted(None)).unwrap_err();
        assert!(why.contains("no source of \"wood\"") && why.contains("--mirror"), "{why}");
        let why = found(&root, &wanted(Some("http://m/"))).unwrap_err();
        assert!(why.contains("no keys for http://m") && why.contains("--keyring"), "{why}");
    }

    #[test]
    fn a_mirrors_keys_are_those_of_the_distributions_keyring() {
        let root = host(&[("usr/share/keyrings/some-archive-keyring.gpg", KEY)]);
        assert_eq!(found(&root, &wanted(Some("http://m/"))).unwrap(), ["http://m wood"]);
        let root = host(&[("etc/apt/trusted.gpg", b"no key")]);
        let why = found(&root, &wanted(Some("http://m/"))).unwrap_err();
        assert!(why.contains("trusted.gpg: the keyring cannot be read"), "{why}");
    }
}
