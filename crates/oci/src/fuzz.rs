//! Entry points for fuzzing: each takes any bytes and must return.
//!
//! They assert what must hold of every input, so a harness needs no oracle.

use crate::image::{Config, Document};
use crate::{Digest, Platform, Reference};

pub fn fuzz_reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(reference) = Reference::parse(text) {
        assert_eq!(Reference::parse(&reference.to_string()).as_ref(), Ok(&reference));
        assert_eq!(Reference::parse(&reference.familiar()).as_ref(), Ok(&reference));
    }
}

pub fn fuzz_digest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(digest) = Digest::parse(text) {
        assert_eq!(digest.to_string(), text);
        assert!(!digest.hex().contains(['/', '.']));
    }
}

pub fn fuzz_platform(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(platform) = Platform::parse(text) {
        assert_eq!(platform.rank(&platform), Some(0));
    }
}

pub fn fuzz_manifest(data: &[u8]) {
    match Document::parse(data) {
        Ok(Document::Manifest(manifest)) => {
            let again = serde_json::to_vec(&manifest).expect("plain data serializes");
            assert_eq!(Document::parse(&again).ok(), Some(Document::Manifest(manifest)));
        }
        Ok(Document::Index(index)) => {
            let again = serde_json::to_vec(&index).expect("plain data serializes");
            assert_eq!(Document::parse(&again).ok(), Some(Document::Index(index)));
        }
        Err(_) => {}
    }
}

pub fn fuzz_config(data: &[u8]) {
    if let Ok(config) = Config::parse(data) {
        let again = serde_json::to_vec(&config).expect("plain data serializes");
        assert_eq!(Config::parse(&again).ok(), Some(config));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_break_a_parser(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            super::fuzz_reference(&data);
            super::fuzz_digest(&data);
            super::fuzz_platform(&data);
            super::fuzz_manifest(&data);
            super::fuzz_config(&data);
        }

        #[test]
        fn no_text_breaks_a_parser(text in "[a-zA-Z0-9./:@_-]{0,80}") {
            super::fuzz_reference(text.as_bytes());
            super::fuzz_digest(text.as_bytes());
            super::fuzz_platform(text.as_bytes());
        }
    }
}
