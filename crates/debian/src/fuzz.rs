//! What a fuzzer calls: any bytes, and nothing may panic, hang or grow without end.

use std::io::Cursor;

use crate::resolve::{Variant, resolve};
use crate::{Index, Keyring, Release, deb, signature, sources};

/// Any bytes as an index of packages; what is read of it, resolved.
pub fn fuzz_packages(data: &[u8]) {
    let mut index = Index::default();
    if index.read(data, "amd64", 0).is_ok() {
        let names: Vec<String> = index.iter().take(20).map(|package| package.name.clone()).collect();
        let _ = resolve(&index, Variant::Standard, &names);
        let _ = resolve(&index, Variant::Essential, &names);
    }
}

/// As the file of a package.
pub fn fuzz_deb(data: &[u8]) {
    if let Ok(part) = deb::files(Cursor::new(data)) {
        assert!(part.offset + part.size <= data.len() as u64);
    }
}

/// As a Release file, signed or not, as a keyring, and as apt's sources.
pub fn fuzz_release(data: &[u8]) {
    let mut keyring = Keyring::default();
    let _ = keyring.read(data);
    let _ = signature::verify(data, &keyring, 0);
    let text = String::from_utf8_lossy(data);
    let _ = Release::parse(&text);
    sources::parse_list(&text);
    let _ = sources::parse_stanzas(&text);
}
