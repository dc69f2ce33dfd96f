//! Where apt gets packages from (sources.list(5)), in both styles.

use crate::Error;
use crate::control::{Stanza, Stanzas, next};

/// One suite of one archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// http or https, without a `/` at its end.
    pub address: String,
    pub suite: String,
    pub components: Vec<String>,
    pub keys: Keys,
}

/// Whose signature counts for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys {
    /// Whomever apt trusts for all archives.
    Common,
    /// Those in these files: absolute paths.
    Files(Vec<String>),
    /// This one, in ASCII.
    Inline(String),
}

/// Reads a `.list`: one source in a line. What is no source of packages over HTTP is left out.
pub fn parse_list(text: &str) -> Vec<Source> {
    text.lines().filter_map(line).collect()
}

fn line(text: &str) -> Option<Source> {
    let text = text.split('#').next().unwrap_or_default().trim();
    let rest = text.strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t', '[']))?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
    let mut words = rest.split_whitespace().map(str::to_owned);
    let (address, suite) = (words.next()?, words.next()?);
    source(&address, &suite, words.collect(), keys(signed_by.unwrap_or_default()))
}

/// Reads a `.sources`: stanzas, each of which may be several sources.
pub fn parse_stanzas(text: &str) -> Result<Vec<Source>, Error> {
    let mut stanzas = Stanzas::new(text.as_bytes());
    let mut sources = Vec::new();
    while let Some(stanza) = next(&mut stanzas)? {
        let is_off = stanza.get("Enabled").is_some_and(|value| matches!(value, "no" | "false" | "0"));
        if !is_off && stanza.words("Types").any(|kind| kind == "deb") {
            sources.extend(of_stanza(&stanza));
        }
    }
    Ok(sources)
}

fn of_stanza(stanza: &Stanza) -> Vec<Source> {
    let components: Vec<String> = stanza.words("Components").map(str::to_owned).collect();
    let keys = keys(stanza.get("Signed-By").unwrap_or_default());
    let each = |address: &str, suite: &str| source(address, suite, components.clone(), keys.clone());
    let suites =
        |address| stanza.words("Suites").filter_map(move |suite| each(address, suite)).collect::<Vec<_>>();
    stanza.words("URIs").flat_map(suites).collect()
}

fn source(address: &str, suite: &str, components: Vec<String>, keys: Keys) -> Option<Source> {
    let is_http = address.starts_with("http://") || address.starts_with("https://");
    // A suite that is a path has no components, and is no distribution.
    let fit = is_http && is_suite(suite) && components.iter().all(|component| is_suite(component));
    let address = address.trim_end_matches('/').to_owned();
    (fit && !components.is_empty()).then(|| Source { address, suite: suite.to_owned(), components, keys })
}

/// Fit to be part of an address: `bookworm`, `stable/updates`, `non-free`.
pub fn is_suite(text: &str) -> bool {
    text.split('/').all(crate::packages::is_name)
}

fn keys(signed_by: &str) -> Keys {
    if signed_by.contains("-----BEGIN PGP PUBLIC KEY BLOCK-----") {
        // A line that is empty is a dot in a stanza.
        let lines: Vec<&str> =
            signed_by.trim().lines().map(|line| if line.trim() == "." { "" } else { line.trim() }).collect();
        return Keys::Inline(lines.join("\n") + "\n");
    }
    let files = signed_by.split([' ', ',', '\n']).filter(|path| path.starts_with('/'));
    let files: Vec<String> = files.map(str::to_owned).collect();
    // Fingerprints instead of files narrow down whom apt trusts anyway.
    if files.is_empty() { Keys::Common } else { Keys::Files(files) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(suite: &str, keys: Keys) -> Source {
        let components = vec!["main".to_owned(), "contrib".to_owned()];
        Source { address: "http://h/debian".to_owned(), suite: suite.to_owned(), components, keys }
    }

    #[test]
    fn lines_are_read() {
        let files = Keys::Files(vec!["/k/a.gpg".to_owned(), "/k/b.asc".to_owned()]);
        let text = "# deb http://h/x y z\n\
            deb http://h/debian/ wood main contrib # this\n\
            deb [ arch=amd64 signed-by=/k/a.gpg,/k/b.asc ] http://h/debian wood-updates main contrib\n\
            deb-src http://h/debian wood main\n\
            deb cdrom:[x]/ wood main\n\
            deb http://h/debian ./\n\
            deb http://h/debian ../x main\n\
            deb http://h/debian wood\n";
        assert_eq!(parse_list(text), [some("wood", Keys::Common), some("wood-updates", files)]);
    }

    #[test]
    fn stanzas_are_read() {
        let text = "Types: deb deb-src\nURIs: http://h/debian\nSuites: wood wood-updates\nComponents: main contrib\n\
            Signed-By: /k/a.gpg\n\n\
            Types: deb\nEnabled: no\nURIs: http://h/debian\nSuites: x\nComponents: main\n\n\
            Types: deb-src\nURIs: http://h/debian\nSuites: x\nComponents: main\n";
        let files = || Keys::Files(vec!["/k/a.gpg".to_owned()]);
        let expected = [some("wood", files()), some("wood-updates", files())];
        assert_eq!(parse_stanzas(text).unwrap(), expected);
        assert!(parse_stanzas("Types deb").is_err());
    }

    #[test]
    fn a_key_may_stand_in_the_stanza() {
        let text = "Types: deb\nURIs: http://h/debian\nSuites: wood\nComponents: main contrib\nSigned-By:\n \
            -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n -----END PGP PUBLIC KEY BLOCK-----\n";
        let key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabc\n-----END PGP PUBLIC KEY BLOCK-----\n";
        assert_eq!(parse_stanzas(text).unwrap(), [some("wood", Keys::Inline(key.to_owned()))]);
    }
}
