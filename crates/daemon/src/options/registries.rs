//! What the daemon's configuration says of registries.

use std::collections::BTreeMap;

use hull_engine::registries::Hosts;

use super::{Given, Key, Kind, OptionsError, Result, key};

pub(super) const KEYS: &[Key] = &[
    key(
        "registry-mirror",
        None,
        "registry-mirrors",
        Kind::List,
        "Address that is asked before the default registry; may be repeated",
    ),
    key(
        "insecure-registry",
        None,
        "insecure-registries",
        Kind::List,
        "HOST[:PORT] or network of registries without TLS, or with certificates that nobody knows; may be repeated \
         [loopback]",
    ),
];

/// Which registries are not like all others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Registries {
    /// `http[s]://HOST[:PORT][/PATH]/`.
    pub mirrors: Vec<String>,
    /// `HOST[:PORT]` and networks.
    pub insecure: Vec<String>,
}

impl Registries {
    pub(crate) fn hosts(&self) -> Hosts {
        let Registries { mirrors, insecure } = self.clone();
        Hosts { mirrors, insecure, ..Hosts::default() }
    }
}

pub(super) fn resolve(given: &BTreeMap<&'static str, Given>) -> Result<Registries> {
    let list = |name: &str| match given.get(name) {
        Some(Given::List(items)) => items.clone(),
        _ => Vec::new(),
    };
    let wrong = |key: &str, value: &str| {
        let (key, value) = (key.to_owned(), value.to_owned());
        move |why: &str| OptionsError::Value { key, value, why: why.to_owned() }
    };
    let mut registries = Registries::default();
    for text in list("registry-mirrors") {
        registries.mirrors.push(mirror(&text).map_err(wrong("registry-mirror", &text))?);
    }
    for text in list("insecure-registries") {
        if text.is_empty() || text.contains("://") || text.starts_with('-') {
            return Err(wrong("insecure-registry", &text)(
                "write HOST, HOST:PORT or a network, without a scheme",
            ));
        }
        registries.insecure.push(text);
    }
    Ok(registries)
}

/// With a slash at its end, as the reference shows it.
fn mirror(text: &str) -> Result<String, &'static str> {
    let (scheme, rest) = text.split_once("://").ok_or("it has to begin with https:// or http://")?;
    if !matches!(scheme, "http" | "https") {
        return Err("it has to begin with https:// or http://");
    }
    if rest.contains(['?', '#', '@']) {
        return Err("a query, a fragment or credentials have no place in it");
    }
    if rest.split('/').next().is_none_or(str::is_empty) {
        return Err("it names no host");
    }
    Ok(format!("{}/", text.trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(mirrors: &[&str], insecure: &[&str]) -> Result<Registries, String> {
        let list = |items: &[&str]| Given::List(items.iter().map(|item| (*item).to_owned()).collect());
        let given =
            BTreeMap::from([("registry-mirrors", list(mirrors)), ("insecure-registries", list(insecure))]);
        resolve(&given).map_err(|error| error.to_string())
    }

    #[test]
    fn mirrors_are_addresses_and_insecure_registries_are_not() {
        let found =
            resolved(&["https://m.example", "http://n.example:5000/a/"], &["r:5000", "10.0.0.0/8"]).unwrap();
        assert_eq!(found.mirrors, ["https://m.example/", "http://n.example:5000/a/"]);
        assert_eq!(found.insecure, ["r:5000", "10.0.0.0/8"]);
        for wrong in
            ["m.example", "ftp://m.example", "https://", "https:///x", "https://u:p@m.example", "http://m?x"]
        {
            let why = resolved(&[wrong], &[]).unwrap_err();
            assert!(why.starts_with("invalid value"), "{why}");
        }
        for wrong in ["", "http://r.example", "-x"] {
            assert!(resolved(&[], &[wrong]).is_err(), "{wrong}");
        }
    }
}
