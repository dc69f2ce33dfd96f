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
    /// What it is asked for, as Debian calls them; empty: all.
    pub architectures: Vec<String>,
    pub keys: Keys,
}

/// Whose signature counts for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys {
    /// Whomever apt trusts for all archives.
    Common,
    /// Those among them that have these fingerprints, in small letters.
    Fingerprints(Vec<String>),
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
    let option = |name: &str| options.split_whitespace().find_map(|option| option.strip_prefix(name));
    let signed_by = option("signed-by=").unwrap_or_default();
    let architectures = option("arch=").unwrap_or_default().split(',').filter(|name| !name.is_empty());
    let architectures = architectures.map(str::to_owned).collect();
    let mut words = rest.split_whitespace().map(str::to_owned);
    let (address, suite) = (words.next()?, words.next()?);
    let found = source(&address, &suite, words.collect(), keys(signed_by))?;
    Some(Source { architectures, ..found })
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
    let architectures: Vec<String> = stanza.words("Architectures").map(str::to_owned).collect();
    let keys = keys(stanza.get("Signed-By").unwrap_or_default());
    let each = |address: &str, suite: &str| {
        let found = source(address, suite, components.clone(), keys.clone())?;
        Some(Source { architectures: architectures.clone(), ..found })
    };
    let suites =
        |address| stanza.words("Suites").filter_map(move |suite| each(address, suite)).collect::<Vec<_>>();
    stanza.words("URIs").flat_map(suites).collect()
}

fn source(address: &str, suite: &str, components: Vec<String>, keys: Keys) -> Option<Source> {
    let is_http = address.starts_with("http://") || address.starts_with("https://");
    // A suite that is a path has no components, and is no distribution.
    let fit = is_http && is_suite(suite) && components.iter().all(|component| is_suite(component));
    let address = address.trim_end_matches('/').to_owned();
    let (suite, architectures) = (suite.to_owned(), Vec::new());
    (fit && !components.is_empty()).then_some(Source { address, suite, components, architectures, keys })
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
    let words = || signed_by.split([' ', ',', '\n']).filter(|word| !word.is_empty());
    let files: Vec<String> = words().filter(|word| word.starts_with('/')).map(str::to_owned).collect();
    // With a mark at its end it is one of a subkey.
    let named = words().map(|word| word.trim_end_matches('!').to_ascii_lowercase()).collect::<Vec<_>>();
    match (files.is_empty(), named.is_empty()) {
        (false, _) => Keys::Files(files),
        (true, true) => Keys::Common,
        (true, false) => Keys::Fingerprints(named),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(suite: &str, keys: Keys) -> Source {
        let components = vec!["main".to_owned(), "contrib".to_owned()];
        let (address, suite) = ("http://h/debian".to_owned(), suite.to_owned());
        Source { address, suite, components, architectures: Vec::new(), keys }
    }

    #[test]
    fn lines_are_read() {
        let files = Keys::Files(vec!["/k/a.gpg".to_owned(), "/k/b.asc".to_owned()]);
        let text = "# deb http://h/x y z\n\
            deb http://h/debian/ wood main contrib # this\n\
            deb [ arch=amd64,i386 signed-by=/k/a.gpg,/k/b.asc ] http://h/debian wood-updates main contrib\n\
            deb [signed-by=0123456789ABCDEF0123456789abcdef01234567!] http://h/debian wood main contrib\n\
            deb-src http://h/debian wood main\n\
            deb cdrom:[x]/ wood main\n\
            deb http://h/debian ./\n\
            deb http://h/debian ../x main\n\
            deb http://h/debian wood\n";
        let one = Keys::Fingerprints(vec!["0123456789abcdef0123456789abcdef01234567".to_owned()]);
        let architectures = vec!["amd64".to_owned(), "i386".to_owned()];
        let updates = Source { architectures, ..some("wood-updates", files) };
        assert_eq!(parse_list(text), [some("wood", Keys::Common), updates, some("wood", one)]);
    }

    #[test]
    fn stanzas_are_read() {
        let text = "Types: deb deb-src\nURIs: http://h/debian\nSuites: wood wood-updates\nComponents: main contrib\n\
            Architectures: amd64\nSigned-By: /k/a.gpg\n\n\
            Types: deb\nEnabled: no\nURIs: http://h/debian\nSuites: x\nComponents: main\n\n\
            Types: deb-src\nURIs: http://h/debian\nSuites: x\nComponents: main\n";
        let files = || Keys::Files(vec!["/k/a.gpg".to_owned()]);
        let expected = ["wood", "wood-updates"]
            .map(|suite| Source { architectures: vec!["amd64".to_owned()], ..some(suite, files()) });
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
