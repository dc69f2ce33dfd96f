//! What a fuzzer calls: any bytes, and nothing may panic, hang or grow without end.

use crate::tar::{Limits, Reader, Writer};

/// Reads any bytes as an archive. What can be read is written again, and must come
/// back the same.
pub fn fuzz_tar(data: &[u8]) {
    let limits = Limits { entries: 1000, pax: 1 << 16, extents: 1000, total: 1 << 30, ..Limits::default() };
    let mut source = data;
    let mut reader = Reader::new(&mut source, limits.clone());
    let mut entries = Vec::new();
    while let Ok(Some(entry)) = reader.next() {
        let Ok(bytes) = reader.read_all(data.len() as u64) else { break };
        assert_eq!(bytes.len() as u64, entry.kind.stored());
        entries.push((entry, bytes));
    }
    let mut archive = Vec::new();
    let mut writer = Writer::new(&mut archive);
    for (entry, bytes) in &entries {
        writer.file(entry, bytes).expect("what was read can be written");
    }
    writer.finish().expect("memory takes all");
    // A sparse map or a PAX header may grow beyond the limits on the way.
    let limits = Limits { entries: 3000, pax: 1 << 18, extents: 2000, ..limits };
    let mut source = &archive[..];
    let mut reader = Reader::new(&mut source, limits);
    for (entry, bytes) in entries {
        let again = reader.next().expect("what was written can be read");
        assert_eq!(again, Some(sorted(entry)));
        assert_eq!(reader.read_all(bytes.len() as u64).expect("so can its data"), bytes);
    }
    assert_eq!(reader.next().expect("the end is there"), None);
}

/// The writer sorts attributes, as it sorts all PAX records.
fn sorted(mut entry: crate::tar::Entry) -> crate::tar::Entry {
    entry.xattrs.sort();
    entry
}

/// Reads any bytes as `manifest.json`.
#[cfg(feature = "store")]
pub fn fuzz_docker_manifest(data: &[u8]) {
    crate::archive::fuzz_docker(data);
}

/// Reads any bytes as `index.json`.
#[cfg(feature = "store")]
pub fn fuzz_oci_index(data: &[u8]) {
    crate::archive::fuzz_oci(data);
}
