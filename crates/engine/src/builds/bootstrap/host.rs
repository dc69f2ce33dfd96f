//! Which archives, and whose signatures: what the host's own apt knows (apt-secure(8), sources.list(5)).
//!
//! No archive and no key is built in. The host is trusted here, as in a capture.

use std::fs;
use std::path::{Path, PathBuf};

use hull_debian::sources::{parse_list, parse_stanzas};
use hull_debian::{Keyring, Source};

use super::archive::{architecture, without_credentials};
use super::{Bootstrap, Keys, wrong};
use crate::{Error, Result, chain};

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

/// The suite that is wanted, then its updates where apt has them: all that apt has of them, as apt would install.
/// `warn` is told of what could not be used. Blocks.
pub(super) fn sources(wanted: &Bootstrap, distribution: &str, warn: &dyn Fn(String)) -> Result<Vec<Trusted>> {
    find(Path::new("/"), wanted, distribution, warn)
}

fn find(root: &Path, wanted: &Bootstrap, distribution: &str, warn: &dyn Fn(String)) -> Result<Vec<Trusted>> {
    let suite = &wanted.suite;
    let mut found: Vec<Source> = Vec::new();
    match &wanted.mirror {
        Some(mirror) => {
            let own = PathBuf::from(format!("/usr/share/keyrings/{distribution}-archive-keyring.gpg"));
            let files = vec![own.to_string_lossy().into_owned()];
            let has_own = root.join(own.strip_prefix("/").unwrap_or(&own)).exists();
            found.push(Source {
                address: mirror.trim_end_matches('/').to_owned(),
                suite: suite.clone(),
                components: vec![COMPONENT.to_owned()],
                architectures: Vec::new(),
                keys: if has_own { Keys::Files(files) } else { Keys::Common },
            });
        }
        None => {
            let known = apt(root)?;
            for updates in UPDATES {
                let name = format!("{suite}{updates}");
                let own = architecture();
                let fits = |source: &&Source| {
                    source.suite == name
                        && (source.architectures.is_empty() || source.architectures.contains(&own))
                };
                known.iter().filter(fits).for_each(|source| add(&mut found, source));
            }
            let is_base = |source: &Source| {
                source.suite == *suite && source.components.iter().any(|component| component == COMPONENT)
            };
            if !found.iter().any(is_base) {
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
            None => keyring(root, &source.keys, warn)?,
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

/// One source more, or more components of one that is there.
fn add(found: &mut Vec<Source>, source: &Source) {
    let is_same = |known: &&mut Source| {
        (&known.address, &known.suite, &known.keys) == (&source.address, &source.suite, &source.keys)
    };
    match found.iter_mut().find(is_same) {
        Some(known) => {
            let new = source.components.iter().filter(|component| !known.components.contains(component));
            let new: Vec<String> = new.cloned().collect();
            known.components.extend(new);
        }
        None => found.push(source.clone()),
    }
}

/// For people: the suites of each archive.
pub(super) fn shown(sources: &[Trusted]) -> String {
    let mut archives: Vec<(String, Vec<&str>)> = Vec::new();
    for Trusted { source, .. } in sources {
        let address = without_credentials(&source.address);
        match archives.iter_mut().find(|(known, _)| *known == address) {
            Some((_, suites)) => suites.push(&source.suite),
            None => archives.push((address, vec![&source.suite])),
        }
    }
    let shown = archives.iter().map(|(address, suites)| format!("{} of {address}", suites.join(", ")));
    shown.collect::<Vec<_>>().join("; ")
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

fn keyring(root: &Path, keys: &Keys, warn: &dyn Fn(String)) -> Result<Keyring> {
    let mut keyring = Keyring::default();
    let below = |path: &str| root.join(path.trim_start_matches('/'));
    let paths = match keys {
        Keys::Inline(key) => {
            keyring.read(key.as_bytes()).map_err(|error| wrong("apt's source", &error))?;
            return Ok(keyring);
        }
        Keys::Files(paths) => paths.iter().map(|path| below(path)).collect(),
        Keys::Common | Keys::Fingerprints(_) => {
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
        if let Err(error) = added {
            warn(format!("its keys do not count: {}", chain(&error)));
            failed = failed.or(Some(error));
        }
    }
    if let Some(error) = failed.filter(|_| keyring.is_empty()) {
        return Err(error);
    }
    if let Keys::Fingerprints(fingerprints) = keys {
        keyring.keep(fingerprints);
    }
    Ok(keyring)
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
        let sources = find(root.path(), wanted, "some", &|_| {}).map_err(|error| error.to_string())?;
        let shown = |trusted: &Trusted| format!("{} {}", trusted.source.address, trusted.source.suite);
        Ok(sources.iter().map(shown).collect())
    }

    #[test]
    fn all_sources_of_a_suite_count_for_this_machine() {
        let own = architecture();
        let list = format!(
            "deb [arch={own}] http://a wood extra\ndeb [arch=none] http://x wood main\ndeb http://a wood main extra\n\
             deb http://me:secret@ppa wood main\ndeb http://a wood-updates main\n"
        );
        let root = host(&[("etc/apt/sources.list", list.as_bytes()), ("etc/apt/trusted.gpg", KEY)]);
        let sources = find(root.path(), &wanted(None), "some", &|_| {}).unwrap();
        let lines: Vec<_> = sources
            .iter()
            .map(|Trusted { source, .. }| (source.address.as_str(), source.components.join(" ")))
            .collect();
        let main = || "main".to_owned();
        let expected =
            [("http://a", "extra main".to_owned()), ("http://me:secret@ppa", main()), ("http://a", main())];
        assert_eq!(lines, expected);
        assert_eq!(shown(&sources), "wood, wood-updates of http://a/; wood of http://ppa/");
    }

    #[test]
    fn a_fingerprint_is_one_key_among_the_common_ones() {
        let found = |signed_by: &str| {
            let list = format!("deb [signed-by={signed_by}] http://a wood main\n");
            let root =
                host(&[("etc/apt/sources.list", list.as_bytes()), ("etc/apt/trusted.gpg.d/x.asc", KEY)]);
            found(&root, &wanted(None))
        };
        let mut keys = Keyring::default();
        keys.read(KEY).unwrap();
        let known = keys.fingerprints().next().unwrap();
        assert!(found(&known).is_ok() && found(&known.to_uppercase()).is_ok());
        let why = found(&"0".repeat(40)).unwrap_err();
        assert!(why.contains("no keys for http://a"), "{why}");
        keys.keep(&[known]);
        assert_eq!(keys.fingerprints().count(), 1);
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
            [
                "http://c wood",
                "http://a wood",
                "http://d wood",
                "http://f wood-updates",
                "http://b wood-security"
            ]
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
