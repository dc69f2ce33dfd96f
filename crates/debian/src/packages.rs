//! An index of packages, as far as it matters which are installed and where their files are.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io::{self, BufRead};

use hull_oci::{Algorithm, Digest};

use crate::control::{Failed, Stanza, Stanzas};
use crate::relation::{self, Relation};
use crate::{Error, version};

/// How much a system needs a package (Debian Policy, section 2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    Required,
    Important,
    Standard,
    Optional,
}

/// One version of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub architecture: String,
    /// It is never absent, so nobody names it.
    pub essential: bool,
    pub priority: Priority,
    /// Relations as the index has them ([`relation::parse`]).
    pub(crate) pre_depends: String,
    pub(crate) depends: String,
    pub(crate) provides: String,
    /// Of its file, below the archive's address: plain names, none of them `..`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    pub digest: Digest,
    /// Which of the archives has it; the caller's number.
    pub archive: usize,
}

impl Package {
    /// What apt calls its file in its cache.
    pub fn file_name(&self) -> String {
        format!("{}_{}_{}.deb", self.name, self.version.replace(':', "%3a"), self.architecture)
    }
}

/// What is kept of a stanza; the rest of an index is most of it.
const FIELDS: [&str; 11] = [
    "Package",
    "Version",
    "Architecture",
    "Essential",
    "Priority",
    "Pre-Depends",
    "Depends",
    "Provides",
    "Filename",
    "Size",
    "SHA256",
];

/// The newest version of each package, of one architecture.
#[derive(Debug, Default)]
pub struct Index {
    packages: BTreeMap<String, Package>,
}

/// Why an index cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    #[error(transparent)]
    Wrong(#[from] Error),
}

impl Index {
    /// Adds the packages that are for `architecture`, or for all.
    pub fn read(&mut self, from: impl BufRead, architecture: &str, archive: usize) -> Result<(), IndexError> {
        let mut stanzas = Stanzas::new(from);
        let wanted = |name: &str| FIELDS.iter().any(|field| field.eq_ignore_ascii_case(name));
        loop {
            let stanza = match stanzas.next(wanted) {
                Ok(Some(stanza)) => stanza,
                Ok(None) => return Ok(()),
                Err(Failed::Read(error)) => return Err(error.into()),
                Err(Failed::Wrong(error)) => return Err(error.into()),
            };
            let package = package(&stanza, archive)?;
            if package.architecture != architecture && package.architecture != "all" {
                continue;
            }
            let known = self.packages.get(&package.name);
            let newer =
                |known: &Package| version::compare(&package.version, &known.version) == Ordering::Greater;
            if known.is_none_or(newer) {
                self.packages.insert(package.name.clone(), package);
            }
        }
    }

    pub fn get(&self, name: &str) -> Option<&Package> {
        self.packages.get(name)
    }

    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = &Package> {
        self.packages.values()
    }

    /// Who else offers what `relation` names, the most needed first. A version that is asked for must be
    /// one that is offered (Debian Policy, section 7.5).
    pub(crate) fn providers(&self, wanted: &Relation<'_>) -> Vec<&Package> {
        let offers = |package: &&Package| package.name != wanted.name && provides(package, wanted);
        let mut found: Vec<&Package> = self.packages.values().filter(offers).collect();
        found.sort_by_key(|package| package.priority);
        found
    }
}

/// Whether the package offers what `wanted` names without being called so.
pub(crate) fn provides(package: &Package, wanted: &Relation<'_>) -> bool {
    // Most packages offer nothing, and of the others most something else.
    package.provides.contains(wanted.name)
        && relation::parse(&package.provides).iter().flatten().any(|offered| {
            offered.name == wanted.name
                && wanted
                    .bound
                    .is_none_or(|bound| offered.bound.is_some_and(|offered| bound.allows(offered.version)))
        })
}

fn package(stanza: &Stanza, archive: usize) -> Result<Package, Error> {
    let name = stanza.get("Package").filter(|name| is_name(name)).ok_or(Error::Field { field: "Package" })?;
    let wrong = |field| Error::Package { package: name.to_owned(), field };
    let field = |field, fit: fn(&str) -> bool| {
        let value = stanza.get(field).filter(|value| fit(value));
        value.map(str::to_owned).ok_or_else(|| wrong(field))
    };
    let relations = |field| stanza.get(field).unwrap_or_default().to_owned();
    let digest = stanza.get("SHA256").and_then(|hex| Digest::from_hex(Algorithm::Sha256, hex).ok());
    Ok(Package {
        name: name.to_owned(),
        version: field("Version", is_version)?,
        architecture: field("Architecture", is_name)?,
        essential: stanza.get("Essential") == Some("yes"),
        priority: match stanza.get("Priority") {
            Some("required") => Priority::Required,
            Some("important") => Priority::Important,
            Some("standard") => Priority::Standard,
            _ => Priority::Optional,
        },
        pre_depends: relations("Pre-Depends"),
        depends: relations("Depends"),
        provides: relations("Provides"),
        path: field("Filename", is_path)?,
        size: stanza.get("Size").and_then(|size| size.parse().ok()).ok_or_else(|| wrong("Size"))?,
        digest: digest.ok_or_else(|| wrong("SHA256"))?,
        archive,
    })
}

/// Debian Policy, section 5.6.1; what apt and dpkg take besides, no archive has.
pub fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|sign| sign.is_ascii_alphanumeric() || b"+-.".contains(&sign))
}

fn is_version(version: &str) -> bool {
    !version.is_empty()
        && version.bytes().all(|sign| sign.is_ascii_alphanumeric() || b".+-:~".contains(&sign))
}

/// Fit to be put behind an address.
fn is_path(path: &str) -> bool {
    let plain = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.bytes().all(|sign| sign.is_ascii_alphanumeric() || b".+-_~:%".contains(&sign))
    };
    path.split('/').all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "SHA256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n";

    fn index(text: &str) -> Result<Index, String> {
        let mut index = Index::default();
        let read = index.read(text.as_bytes(), "amd64", 3);
        read.map(|()| index).map_err(|error| error.to_string())
    }

    fn stanza(name: &str, version: &str, more: &str) -> String {
        format!(
            "Package: {name}\nVersion: {version}\nArchitecture: amd64\nFilename: pool/x.deb\nSize: 0\n{more}{DIGEST}\n"
        )
    }

    #[test]
    fn the_newest_version_of_each_package_counts() {
        let index =
            index(&(stanza("a", "1.9", "") + &stanza("a", "1.10", "") + &stanza("a", "1.2", ""))).unwrap();
        assert_eq!(index.get("a").unwrap().version, "1.10");
        assert_eq!(index.get("a").unwrap().archive, 3);
        assert_eq!(index.iter().count(), 1);
    }

    #[test]
    fn a_package_is_what_its_stanza_says() {
        let more = "Essential: yes\nPriority: required\nDepends: b,\n c\nDescription: d\n more\n";
        let index = index(&stanza("a", "1:2-3", more)).unwrap();
        let package = index.get("a").unwrap();
        assert!(package.essential && package.priority == Priority::Required);
        assert_eq!(package.depends, "b,\nc");
        assert_eq!(package.file_name(), "a_1%3a2-3_amd64.deb");
        assert_eq!(package.digest, Digest::sha256(b""));
    }

    #[test]
    fn other_architectures_are_left_out() {
        let other =
            stanza("a", "1", "").replace("amd64", "arm64") + &stanza("b", "1", "").replace("amd64", "all");
        let index = index(&other).unwrap();
        assert_eq!(index.iter().map(|package| package.name.as_str()).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn what_could_become_a_strange_path_is_refused() {
        let refused = |from: &str, to: &str| index(&stanza("a", "1", "").replace(from, to)).unwrap_err();
        assert_eq!(refused("Package: a", "Package: ../a"), r#"it has no usable field "Package""#);
        assert_eq!(refused("Version: 1", "Version: 1/2"), r#"package "a": field "Version" cannot be used"#);
        for path in ["/etc/passwd", "pool/../x", "pool//x", "pool/x y", "pool/x?y", "pool/x#", ""] {
            let why = refused("pool/x.deb", path);
            assert_eq!(why, r#"package "a": field "Filename" cannot be used"#, "{path}");
        }
        assert_eq!(refused("Size: 0", "Size: -1"), r#"package "a": field "Size" cannot be used"#);
        assert_eq!(refused("SHA256: e3", "SHA256: zz"), r#"package "a": field "SHA256" cannot be used"#);
    }

    #[test]
    fn providers_offer_the_version_that_is_asked_for_or_are_none() {
        let text = stanza("late", "1", "Provides: thing\n")
            + &stanza("first", "1", "Priority: required\nProvides: thing (= 2), other\n")
            + &stanza("thingy", "1", "");
        let index = index(&text).unwrap();
        let names = |relation: &str| {
            let relation = relation::parse(relation)[0][0].clone();
            index.providers(&relation).iter().map(|package| package.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names("thing"), ["first", "late"]);
        assert_eq!(names("thing (>= 2)"), ["first"]);
        assert_eq!(names("thing (>= 3)"), [""; 0]);
        assert_eq!(names("thingy"), [""; 0]);
    }
}
