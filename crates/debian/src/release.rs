//! A Release file: what a suite of an archive is, and the digests of its indices.

use std::collections::BTreeMap;

use hull_oci::{Algorithm, Digest};
use jiff::Timestamp;

use crate::Error;
use crate::control::{Stanzas, next};

/// What was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    pub suite: String,
    pub codename: String,
    /// When it was made, in seconds since the epoch.
    pub date: i64,
    /// When it stops counting; many never do.
    pub valid_until: Option<i64>,
    /// Indices are also found by their digests, so one that is replaced meanwhile is still there.
    pub by_hash: bool,
    /// By path below the suite: length and digest.
    files: BTreeMap<String, (u64, Digest)>,
}

/// An index of packages in one of the forms in which the archive has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    /// Below the suite's folder.
    pub path: String,
    /// Bytes.
    pub size: u64,
    pub digest: Digest,
}

impl Release {
    /// Reads the signed text.
    pub fn parse(text: &str) -> Result<Release, Error> {
        let stanza = next(&mut Stanzas::new(text.as_bytes()))?.ok_or(Error::Field { field: "Suite" })?;
        let date = stanza.get("Date").and_then(seconds).ok_or(Error::Field { field: "Date" })?;
        let valid_until = match stanza.get("Valid-Until") {
            None => None,
            Some(text) => Some(seconds(text).ok_or(Error::Field { field: "Valid-Until" })?),
        };
        let listed = stanza.get("SHA256").ok_or(Error::Field { field: "SHA256" })?;
        let mut files = BTreeMap::new();
        for line in listed.lines().filter(|line| !line.is_empty()) {
            let (path, file) = entry(line).ok_or(Error::Field { field: "SHA256" })?;
            files.insert(path.to_owned(), file);
        }
        let text = |name| stanza.get(name).unwrap_or_default().to_owned();
        Ok(Release {
            suite: text("Suite"),
            codename: text("Codename"),
            date,
            valid_until,
            by_hash: stanza.get("Acquire-By-Hash").is_some_and(|value| value.eq_ignore_ascii_case("yes")),
            files,
        })
    }

    /// Whether it is of `suite`, and counts `now` (seconds since the epoch): a mirror could give anything
    /// else that was ever signed by the same key.
    pub fn check(&self, suite: &str, now: i64) -> Result<(), Error> {
        if suite != self.suite && suite != self.codename {
            let found = format!("{:?} ({:?})", self.suite, self.codename);
            return Err(Error::Suite { found, wanted: suite.to_owned() });
        }
        if self.date > now {
            return Err(Error::Future { date: shown(self.date) });
        }
        match self.valid_until {
            Some(until) if until < now => Err(Error::Expired { until: shown(until) }),
            _ => Ok(()),
        }
    }

    /// The index of a component's packages: the shortest form first.
    pub fn packages(&self, component: &str, architecture: &str) -> Vec<Form> {
        let form = |ending: &str| {
            let path = format!("{component}/binary-{architecture}/Packages{ending}");
            let (size, digest) = self.files.get(&path)?.clone();
            Some(Form { path, size, digest })
        };
        [".xz", ".gz", ""].into_iter().filter_map(form).collect()
    }
}

fn entry(line: &str) -> Option<(&str, (u64, Digest))> {
    let mut words = line.split_whitespace();
    let (digest, size, path) = (words.next()?, words.next()?, words.next()?);
    let digest = Digest::from_hex(Algorithm::Sha256, digest).ok()?;
    words.next().is_none().then_some((path, (size.parse().ok()?, digest)))
}

/// Seconds since the epoch of a date as RFC 5322 has it, with `UTC` for its zone.
fn seconds(date: &str) -> Option<i64> {
    let date = match date.trim().strip_suffix("UTC") {
        Some(date) => format!("{date}+0000"),
        None => date.trim().to_owned(),
    };
    Some(jiff::fmt::rfc2822::parse(&date).ok()?.timestamp().as_second())
}

pub(crate) fn shown(seconds: i64) -> String {
    Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Origin: Some\nSuite: stable\nCodename: wood\nDate: Sat, 11 Jul 2026 10:16:37 UTC\n\
        Valid-Until: Sat, 18 Jul 2026 10:16:37 +0000\nAcquire-By-Hash: yes\nMD5Sum:\n 00 1 main/x\nSHA256:\n \
        e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 0 main/binary-amd64/Packages\n \
        ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb 1 main/binary-amd64/Packages.xz\n";

    #[test]
    fn a_release_says_what_it_is_and_which_indices_it_has() {
        let release = Release::parse(TEXT).unwrap();
        assert_eq!((release.suite.as_str(), release.codename.as_str()), ("stable", "wood"));
        assert!(release.by_hash);
        assert_eq!(shown(release.date), "2026-07-11T10:16:37Z");
        let forms = release.packages("main", "amd64");
        let short: Vec<_> = forms.iter().map(|form| (form.path.as_str(), form.size)).collect();
        assert_eq!(short, [("main/binary-amd64/Packages.xz", 1), ("main/binary-amd64/Packages", 0)]);
        assert_eq!(forms[0].digest, Digest::sha256(b"a"));
        assert_eq!(release.packages("main", "arm64"), []);
    }

    #[test]
    fn only_the_suite_that_was_asked_for_counts_and_only_in_its_time() {
        let release = Release::parse(TEXT).unwrap();
        let check = |suite, now| release.check(suite, now).map_err(|error| error.to_string());
        assert_eq!(check("wood", release.date), Ok(()));
        assert_eq!(check("stable", release.date + 7 * 86400), Ok(()));
        let other = check("iron", release.date).unwrap_err();
        assert_eq!(other, r#"it is for "stable" ("wood"), not for "iron""#);
        let late = check("wood", release.date + 7 * 86400 + 1).unwrap_err();
        assert!(late.contains("2026-07-18T10:16:37Z"), "{late}");
        let early = check("wood", release.date - 1).unwrap_err();
        assert!(early.contains("2026-07-11T10:16:37Z"), "{early}");
    }

    #[test]
    fn a_release_without_dates_or_digests_is_none() {
        for (without, field) in [("Date:", "Date"), ("Valid-Until:", "Valid-Until"), ("SHA256:", "SHA256")] {
            let text = TEXT.replace(without, &format!("{without} x\nX:"));
            assert_eq!(Release::parse(&text), Err(Error::Field { field }), "{without}");
        }
        assert_eq!(Release::parse(""), Err(Error::Field { field: "Suite" }));
    }
}
