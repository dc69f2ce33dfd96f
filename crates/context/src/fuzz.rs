//! What a fuzzer calls: any bytes, and nothing may panic, hang or grow without end.

use std::path::Path;

use crate::Ignore;

/// Any bytes as an ignore file, and some of its own lines as paths.
pub fn fuzz_ignore(data: &[u8]) {
    let Ok(ignore) = Ignore::parse(data) else { return };
    for line in String::from_utf8_lossy(data).lines().take(20) {
        ignore.is_ignored(Path::new(line));
        ignore.may_include_below(Path::new(line));
    }
}
