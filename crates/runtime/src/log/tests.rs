//! Logs written, torn, filled up, rotated and followed, on real files.

use std::fmt::Write as _;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use expect_test::{Expect, expect};
use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::*;
use crate::bundle::LogSettings;

fn settings(dir: &Path, segment_bytes: u64, segments: u32) -> LogSettings {
    LogSettings { dir: dir.to_path_buf(), segment_bytes, segments }
}

fn large(dir: &Path) -> LogSettings {
    settings(dir, 1 << 30, 3)
}

/// Everything a reader gives for now, one line of text per entry.
fn text(reader: &mut Reader) -> String {
    let mut out = String::new();
    while let Some(entry) = reader.next().unwrap() {
        match entry {
            Entry::Line { time, stream, partial, bytes } => {
                let cut = if partial { " (partial)" } else { "" };
                let bytes = String::from_utf8_lossy(bytes);
                writeln!(out, "{time} {stream:?} {bytes:?}{cut}").unwrap();
            }
            Entry::Lost { time, lines } => writeln!(out, "{time} lost {lines}").unwrap(),
        }
    }
    out
}

fn check(dir: &Path, options: Options, expected: Expect) {
    expected.assert_eq(&text(&mut Reader::open(dir, options).unwrap()));
}

/// Line n at time n, from `first` to `last`.
fn numbered(writer: &mut Writer, first: i64, last: i64) {
    for n in first..=last {
        writer.push(Stream::Out, format!("line {n}\n").as_bytes(), n);
        writer.flush();
    }
}

#[test]
fn lines_come_back_as_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(&large(dir.path()), 1).unwrap();
    writer.push(Stream::Out, b"one\ntw", 10);
    writer.push(Stream::Err, b"error\n\n", 11);
    writer.push(Stream::Out, b"o\nprompt> ", 12);
    writer.flush();
    check(
        dir.path(),
        Options::default(),
        expect![[r#"
            10 Out "one\n"
            11 Err "error\n"
            11 Err "\n"
            12 Out "two\n"
        "#]],
    );
    writer.finish(Stream::Out);
    writer.finish(Stream::Err);
    writer.flush();
    check(
        dir.path(),
        Options { tail: Some(1), ..Options::default() },
        expect![[r#"
            12 Out "prompt> " (partial)
        "#]],
    );
}

#[test]
fn a_line_over_16_kib_is_cut_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(&large(dir.path()), 1).unwrap();
    let mut long = vec![b'x'; 2 * LINE_MAX + 3];
    long.push(b'\n');
    for piece in long.chunks(1000) {
        writer.push(Stream::Out, piece, 5);
    }
    writer.push(Stream::Out, &long, 6);
    writer.flush();
    let mut reader = Reader::open(dir.path(), Options::default()).unwrap();
    let mut sizes = Vec::new();
    while let Some(Entry::Line { partial, bytes, .. }) = reader.next().unwrap() {
        sizes.push((bytes.len(), partial));
    }
    let whole = [(LINE_MAX, true), (LINE_MAX, true), (4, false)];
    assert_eq!(sizes, [whole, whole].concat());
}

#[test]
fn tail_since_and_until_choose_entries_across_segments() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(&settings(dir.path(), 4096, 1000), 1).unwrap();
    numbered(&mut writer, 1, 1000);
    let files = std::fs::read_dir(dir.path()).unwrap().count();
    assert!(files > 5, "{files} segments");
    check(
        dir.path(),
        Options { tail: Some(2), ..Options::default() },
        expect![[r#"
            999 Out "line 999\n"
            1000 Out "line 1000\n"
        "#]],
    );
    check(
        dir.path(),
        Options { since: Some(500), until: Some(502), ..Options::default() },
        expect![[r#"
            500 Out "line 500\n"
            501 Out "line 501\n"
            502 Out "line 502\n"
        "#]],
    );
    for tail in [0, 1, 146, 147, 148, 999, 1000, 5000] {
        let options = Options { tail: Some(tail), ..Options::default() };
        let mut reader = Reader::open(dir.path(), options).unwrap();
        assert_eq!(text(&mut reader).lines().count() as u64, tail.min(1000));
    }
}

#[test]
fn since_opens_no_segment_before_the_one_it_needs() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(&settings(dir.path(), 4096, 1000), 1).unwrap();
    numbered(&mut writer, 1, 1000);
    let options = Options { since: Some(900), ..Options::default() };
    let start = Reader::open(dir.path(), options).unwrap().cursor().unwrap();
    let folder = std::fs::File::open(dir.path()).unwrap().into();
    assert!(start.segment > segments(&folder).unwrap().len() as u64 / 2);
}

#[test]
fn only_so_many_segments_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(&settings(dir.path(), 4096, 3), 1).unwrap();
    numbered(&mut writer, 1, 5000);
    let folder = std::fs::File::open(dir.path()).unwrap().into();
    assert_eq!(segments(&folder).unwrap().len(), 3);
    let mut reader = Reader::open(dir.path(), Options::default()).unwrap();
    let kept = text(&mut reader);
    assert!(kept.ends_with("5000 Out \"line 5000\\n\"\n"));
    assert!(kept.lines().count() > 200);
}

#[test]
fn a_torn_tail_is_skipped_by_readers_and_repaired_by_the_next_writer() {
    let dir = tempfile::tempdir().unwrap();
    let name = dir.path().join("0000000001.log");
    let mut writer = Writer::open(&large(dir.path()), 1).unwrap();
    numbered(&mut writer, 1, 3);
    drop(writer);
    let whole = std::fs::read(&name).unwrap();
    for cut in 1..=23 {
        std::fs::write(&name, &whole[..whole.len() - cut]).unwrap();
        let two = || {
            expect![[r#"
            1 Out "line 1\n"
            2 Out "line 2\n"
        "#]]
        };
        check(dir.path(), Options::default(), two());
        let tail = Options { tail: Some(2), ..Options::default() };
        check(dir.path(), tail, two());
        let mut writer = Writer::open(&large(dir.path()), 1).unwrap();
        numbered(&mut writer, 4, 4);
        check(
            dir.path(),
            Options::default(),
            expect![[r#"
                1 Out "line 1\n"
                2 Out "line 2\n"
                4 Out "line 4\n"
            "#]],
        );
    }
}

#[test]
fn damage_in_one_segment_does_not_hide_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(&settings(dir.path(), 4096, 1000), 1).unwrap();
    numbered(&mut writer, 1, 300);
    let first = std::fs::File::options().write(true).open(dir.path().join("0000000001.log")).unwrap();
    first.write_all_at(&[0xff; 64], 100).unwrap();
    let mut reader = Reader::open(dir.path(), Options::default()).unwrap();
    let seen = text(&mut reader);
    assert!(seen.starts_with("1 Out \"line 1\\n\"\n2 Out"));
    assert!(seen.ends_with("300 Out \"line 300\\n\"\n"));
    assert!(seen.lines().count() < 300);
}

#[test]
fn a_follower_sees_each_line_once_while_segments_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), 64 * 1024, 1000);
    let mut writer = Writer::open(&settings, 1).unwrap();
    let lines: u64 = 50_000;
    let watch = Watch::new(dir.path()).unwrap();
    let mut reader = Reader::open(dir.path(), Options::default()).unwrap();
    let writing = std::thread::spawn(move || {
        for n in 0..lines {
            writer.push(Stream::Out, format!("{n}\n").as_bytes(), 1);
            if n % 7 == 0 {
                writer.flush();
            }
        }
        writer.flush();
    });
    let mut seen = 0;
    while seen < lines {
        while let Some(entry) = reader.next().unwrap() {
            let Entry::Line { bytes, .. } = entry else {
                panic!("{entry:?}");
            };
            assert_eq!(bytes, format!("{seen}\n").as_bytes());
            seen += 1;
        }
        if seen < lines {
            let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
            let mut polled = [PollFd::new(&watch, PollFlags::IN)];
            let ready = rustix::event::poll(&mut polled, Some(&limit)).unwrap();
            assert_eq!(ready, 1, "no word of line {seen}");
            watch.clear();
        }
    }
    writing.join().unwrap();
    assert!(reader.cursor().unwrap().segment > 10);
}

#[test]
fn a_cursor_goes_on_where_it_was_taken() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(&settings(dir.path(), 4096, 1000), 1).unwrap();
    numbered(&mut writer, 1, 200);
    let mut reader = Reader::open(dir.path(), Options::default()).unwrap();
    while reader.next().unwrap().is_some() {}
    let from = reader.cursor();
    numbered(&mut writer, 201, 202);
    let options = Options { from, ..Options::default() };
    check(
        dir.path(),
        options,
        expect![[r#"
            201 Out "line 201\n"
            202 Out "line 202\n"
        "#]],
    );
}

/// A detached file system of 64 KiB that no mount table shows; gone with its descriptor. Needs
/// root, as all tests that mount do.
fn small_disk() -> OwnedFd {
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    };
    let disk = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_set_string(disk.as_fd(), "size", "64k").unwrap();
    fsconfig_create(disk.as_fd()).unwrap();
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    fsmount(disk.as_fd(), flags, MountAttrFlags::empty()).unwrap()
}

#[test]
fn a_full_disk_costs_lines_and_says_how_many() {
    let disk = small_disk();
    let root = Path::new("/proc/self/fd").join(disk.as_raw_fd().to_string());
    let filler = root.join("filler");
    std::fs::write(&filler, vec![0; 40 * 1024]).unwrap();
    let dir = root.join("log");
    let mut writer = Writer::open(&large(&dir), 1).unwrap();
    let mut pushed: u64 = 0;
    for n in 0..300 {
        for _ in 0..5 {
            let line = format!("{n} {}\n", "x".repeat(100));
            writer.push(Stream::Out, line.as_bytes(), n);
            pushed += 1;
        }
        writer.flush();
    }
    std::fs::remove_file(&filler).unwrap();
    writer.push(Stream::Out, b"room again\n", 1000);
    writer.flush();
    let mut reader = Reader::open(&dir, Options::default()).unwrap();
    let (mut lines, mut lost, mut last) = (0, 0, Vec::new());
    while let Some(entry) = reader.next().unwrap() {
        match entry {
            Entry::Line { bytes, .. } => {
                lines += 1;
                last = bytes.to_vec();
            }
            Entry::Lost { lines: count, .. } => lost += count,
        }
    }
    assert_eq!(last, b"room again\n");
    assert!(lost > 1000 && lines > 100, "{lines} lines, {lost} lost");
    assert_eq!(lines + lost, pushed + 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_pushes_come_back_as_the_same_streams(
        pushes in prop::collection::vec(
            (any::<bool>(), prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..600), 1..60usize),
            1..20,
        ),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(&settings(dir.path(), 4096, 100_000), 1).unwrap();
        let mut wanted = [Vec::new(), Vec::new()];
        for (err, bytes, times) in &pushes {
            let stream = if *err { Stream::Err } else { Stream::Out };
            let bytes = bytes.repeat(*times);
            wanted[stream as usize].extend_from_slice(&bytes);
            writer.push(stream, &bytes, 1);
            writer.flush();
        }
        writer.finish(Stream::Out);
        writer.finish(Stream::Err);
        writer.flush();
        let mut reader = Reader::open(dir.path(), Options::default()).unwrap();
        let mut got = [Vec::new(), Vec::new()];
        while let Some(entry) = reader.next().unwrap() {
            let Entry::Line { stream, partial, bytes, .. } = entry else {
                panic!("{entry:?}");
            };
            prop_assert_eq!(partial, bytes.last() != Some(&b'\n'));
            got[stream as usize].extend_from_slice(bytes);
        }
        prop_assert_eq!(got, wanted);
    }

    #[test]
    fn any_bytes_are_walked_the_same_from_both_ends(data in prop::collection::vec(any::<u8>(), 0..2000)) {
        fuzz::fuzz_frames(&data);
    }

    #[test]
    fn damaged_frames_never_panic(at in 0usize..4000, with in any::<u8>()) {
        let mut bytes = Vec::new();
        for n in 0..100 {
            frame::put_line(&mut bytes, n, Stream::Out, b"some line of text\n");
        }
        let size = bytes.len();
        bytes[at % size] ^= with;
        fuzz::fuzz_frames(&bytes);
    }
}
