//! What a fuzzer calls: any bytes, and nothing may panic, hang or grow without end.

use std::path::Path;

use crate::{Digests, Ignore, Kind, Listing, Tree as _};

/// Any bytes as an ignore file, and some of its own lines as paths.
pub fn fuzz_ignore(data: &[u8]) {
    let Ok(ignore) = Ignore::parse(data) else { return };
    for line in String::from_utf8_lossy(data).lines().take(20) {
        ignore.is_ignored(Path::new(line));
        ignore.may_include_below(Path::new(line));
    }
}

/// Any bytes as the list of a context and as a table of digests: what is in it lies inside of it.
pub fn fuzz_listing(data: &[u8]) {
    Digests::decode(data);
    let Ok(listing) = Listing::decode(data) else { return };
    let mut ahead = listing.children(Path::new("")).unwrap_or_default();
    while let Some(entry) = ahead.pop() {
        let plain = |part| matches!(part, std::path::Component::Normal(_));
        assert!(entry.path.components().all(plain), "{:?}", entry.path);
        if entry.kind == Kind::Folder {
            ahead.extend(listing.children(&entry.path).unwrap_or_default());
        }
    }
}
