//! The writer's bytes, and reader and writer against each other. (Against GNU tar and against
//! hostile archives both stand in `layer::tests`.)

use proptest::prelude::*;

use super::*;

fn written(entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    writer.begin(entry).unwrap();
    let stored = usize::try_from(entry.kind.stored()).unwrap();
    writer.data(&vec![b'd'; stored]).unwrap();
    writer.finish().unwrap();
    bytes
}

fn read(bytes: &[u8]) -> Vec<Entry> {
    let mut source = bytes;
    let mut reader = Reader::new(&mut source, Limits::default());
    let mut entries = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        let data = reader.read_all(1 << 20).unwrap();
        assert_eq!(data, vec![b'd'; data.len()]);
        assert_eq!(data.len() as u64, entry.kind.stored());
        entries.push(entry);
    }
    entries
}

/// An extended header is two blocks; without it an entry is one.
fn is_extended(entry: &Entry) -> bool {
    match written(entry).len() / BLOCK {
        3 => false,
        5 => true,
        other => panic!("{other} blocks"),
    }
}

#[test]
fn only_what_ustar_cannot_hold_gets_an_extended_header() {
    let empty = |name: &str| Entry::new(name.as_bytes(), Kind::File { size: 0, extents: None });
    let plain = empty("file");
    assert!(!is_extended(&plain));
    assert!(!is_extended(&empty(&"n".repeat(100))));
    assert!(is_extended(&empty(&"n".repeat(101))));
    // Prefix and name.
    assert!(!is_extended(&empty(&format!("{}/{}", "p".repeat(155), "n".repeat(100)))));
    assert!(is_extended(&empty(&format!("{}/{}", "p".repeat(156), "n".repeat(100)))));
    assert!(!is_extended(&Entry { uid: 0o7777777, ..plain.clone() }));
    assert!(is_extended(&Entry { uid: 0o10000000, ..plain.clone() }));
    let at = |seconds, nanoseconds| Entry { mtime: Time { seconds, nanoseconds }, ..plain.clone() };
    assert!(!is_extended(&at(0o77777777777, 0)));
    assert!(is_extended(&at(0o100000000000, 0)));
    assert!(is_extended(&at(0, 1)));
    assert!(is_extended(&at(-1, 0)));
    assert!(is_extended(&Entry { xattrs: vec![(b"user.a".to_vec(), Vec::new())], ..plain }));
    let link = |length| Entry::new(b"l", Kind::Symlink { target: vec![b't'; length] });
    assert!(!is_extended(&link(100)));
    assert!(is_extended(&link(101)));
}

#[test]
fn the_writer_refuses_more_or_less_data_than_announced() {
    let entry = Entry::new(b"f", Kind::File { size: 3, extents: None });
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    writer.begin(&entry).unwrap();
    assert!(matches!(writer.data(b"four"), Err(WriteError::Excess { count: 1 })));
    writer.data(b"ab").unwrap();
    assert!(matches!(writer.begin(&entry), Err(WriteError::Unfinished { left: 1 })));
    writer.data(b"c").unwrap();
    writer.finish().unwrap();
    assert_eq!(bytes.len(), 4 * BLOCK);
}

#[test]
fn sizes_beyond_eight_gigabytes_are_told_by_the_extended_header() {
    let size = 9 << 30;
    let mut bytes = Vec::new();
    Writer::new(&mut bytes).begin(&Entry::new(b"f", Kind::File { size, extents: None })).unwrap();
    let mut source = &bytes[..];
    let entry = Reader::new(&mut source, Limits::default()).next().unwrap().unwrap();
    assert_eq!(entry.kind, Kind::File { size, extents: None });
}

#[test]
fn what_a_reader_with_the_same_limits_refuses_is_not_written() {
    let limits = Limits { entries: 3, name: 10, pax: 200, extents: 4, total: 100 };
    let file = |name: &str, size| Entry::new(name.as_bytes(), Kind::File { size, extents: None });
    let sparse = |parts, size| {
        let extents = (0..parts).map(|part| Extent { offset: part * 2, length: 1 }).collect();
        Entry::new(b"s", Kind::File { size, extents: Some(extents) })
    };
    let link = |length| Entry::new(b"l", Kind::Symlink { target: vec![b't'; length] });
    let folder = |length| Entry::new(&vec![b'd'; length], Kind::Directory);
    let noted = |length| Entry { xattrs: vec![(b"user.a".to_vec(), vec![b'v'; length])], ..file("a", 0) };
    let written = |writer: Writer<'_>, entries: &[Entry]| {
        let mut writer = writer;
        for entry in entries {
            writer.begin(entry)?;
            writer.data(&vec![b'd'; usize::try_from(entry.kind.stored()).unwrap()])?;
        }
        writer.finish()
    };
    let refused = |entries: &[Entry]| {
        let (mut limited, mut free) = (Vec::new(), Vec::new());
        let limited = written(Writer::limited(&mut limited, limits.clone()), entries);
        written(Writer::new(&mut free), entries).unwrap();
        let mut source = &free[..];
        let mut reader = Reader::new(&mut source, limits.clone());
        let read = std::iter::from_fn(|| reader.next().transpose()).find_map(Result::err);
        assert_eq!(limited.is_err(), read.is_some(), "{limited:?} {read:?}");
        limited.err().map(|error| error.to_string())
    };
    for (fits, exceeds, what) in [
        (vec![file("a", 0); 3], vec![file("a", 0); 4], "3 entries"),
        (vec![file("a", 50); 2], vec![file("a", 51); 2], "100 bytes of files"),
        (vec![file(&"n".repeat(10), 0)], vec![file(&"n".repeat(12), 0)], "10 bytes of a name"),
        (vec![folder(10)], vec![folder(11)], "10 bytes of a name"),
        (vec![link(10)], vec![link(11)], "10 bytes of a link's target"),
        (vec![sparse(4, 7)], vec![sparse(5, 9)], "4 parts of a sparse file"),
        (vec![sparse(3, 7)], vec![sparse(4, 8)], "4 parts of a sparse file"),
        (vec![noted(100)], vec![noted(200)], "200 bytes of an extended header"),
    ] {
        assert_eq!(refused(&fits), None);
        let text = refused(&exceeds).unwrap_or_default();
        assert!(text.contains(&format!("exceed the limit of {what}:")), "{text}");
    }
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let part = proptest::collection::vec(any::<u8>().prop_filter("", |b| *b != 0 && *b != b'/'), 1..120);
    let part = part.prop_filter("dots", |part| part != b"." && part != b"..");
    proptest::collection::vec(part, 1..5).prop_map(|parts| parts.join(&b'/'))
}

fn kind() -> impl Strategy<Value = Kind> {
    let target = proptest::collection::vec(1..=255u8, 1..300);
    let extents = proptest::collection::vec((1..50u64, 1..50u64), 0..30).prop_map(|gaps| {
        let mut at = 0;
        let extent = |(gap, length): (u64, u64)| {
            let extent = Extent { offset: at + gap, length };
            at = extent.offset + length;
            extent
        };
        let extents: Vec<Extent> = gaps.into_iter().map(extent).collect();
        Kind::File { size: at + 7, extents: Some(extents) }
    });
    prop_oneof![
        (0..2000u64).prop_map(|size| Kind::File { size, extents: None }),
        extents,
        Just(Kind::Directory),
        target.prop_map(|target| Kind::Symlink { target }),
        name().prop_map(|target| Kind::Link { target }),
        (0..4096u32, 0..1u32 << 20).prop_map(|(major, minor)| Kind::Character { major, minor }),
        (0..4096u32, 0..1u32 << 20).prop_map(|(major, minor)| Kind::Block { major, minor }),
        Just(Kind::Fifo),
    ]
}

prop_compose! {
    fn entry()(
        name in name(),
        kind in kind(),
        mode in 0..0o10000u32,
        ids in (0..u32::MAX, 0..u32::MAX),
        mtime in (any::<i64>(), 0..1_000_000_000u32),
        xattrs in proptest::collection::btree_map("[a-z=%.]{1,20}", proptest::collection::vec(any::<u8>(), 0..40), 0..4),
    ) -> Entry {
        let xattrs = xattrs.into_iter().map(|(key, value)| (key.into_bytes(), value)).collect();
        let mtime = Time { seconds: mtime.0, nanoseconds: mtime.1 };
        Entry { name, kind, mode, uid: ids.0, gid: ids.1, mtime, xattrs }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(entry in entry()) {
        let mut found = read(&written(&entry));
        prop_assert_eq!(found.len(), 1);
        // Attributes come back in the order of their keys as the archive spells them.
        found[0].xattrs.sort();
        prop_assert_eq!(&found[0], &entry);
    }
}
