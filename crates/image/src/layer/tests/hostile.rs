//! Archives that try to reach the host. Beside the folder that is extracted into stands another
//! one, the host's, and nothing in it may change: not a byte, not a time, not an inode.
//!
//! Each attack on paths is also run against a control, an extractor as a beginner would write
//! it: if that one leaves the host unharmed, the attack is no attack and the test says so.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::against_tar::compress;
use super::{Limits, Mode, apply_bytes, open};
use crate::compress::{Compression, Unfolding};
use crate::layer::apply;
use crate::tar::BLOCK;

/// One header and its data, exactly as told, with a checksum that fits.
struct Raw {
    block: [u8; BLOCK],
    data: Vec<u8>,
}

fn raw(kind: u8, name: &str) -> Raw {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000777");
    block[108..115].copy_from_slice(b"0000000");
    block[116..123].copy_from_slice(b"0000000");
    block[124..135].copy_from_slice(b"00000000000");
    block[136..147].copy_from_slice(b"00000000000");
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    Raw { block, data: Vec::new() }
}

impl Raw {
    fn data(mut self, data: &[u8]) -> Raw {
        let size = format!("{:011o}", data.len());
        self.block[124..135].copy_from_slice(size.as_bytes());
        self.data = data.to_vec();
        self
    }

    fn link(mut self, target: &str) -> Raw {
        self.block[157..157 + target.len()].copy_from_slice(target.as_bytes());
        self
    }

    fn field(mut self, at: usize, bytes: &[u8]) -> Raw {
        self.block[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn write(mut self, out: &mut Vec<u8>) {
        self.block[148..156].fill(b' ');
        let sum: u32 = self.block.iter().map(|&byte| u32::from(byte)).sum();
        self.block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&self.block);
        out.extend_from_slice(&self.data);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
}

fn archive(entries: Vec<Raw>) -> Vec<u8> {
    let mut bytes = Vec::new();
    entries.into_iter().for_each(|entry| entry.write(&mut bytes));
    bytes.resize(bytes.len() + 2 * BLOCK, 0);
    bytes
}

fn file(name: &str) -> Raw {
    raw(b'0', name).data(b"attacked")
}

fn folder(name: &str) -> Raw {
    raw(b'5', name)
}

fn symlink(name: &str, target: &str) -> Raw {
    raw(b'2', name).link(target)
}

fn hard_link(name: &str, target: &str) -> Raw {
    raw(b'1', name).link(target)
}

/// Names, contents, kinds, inodes, modes and times of a folder.
fn fingerprint(folder: &Path) -> String {
    let mut names: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.push(folder.to_owned());
    names.sort();
    let mut text = String::new();
    for path in names {
        let meta = fs::symlink_metadata(&path).unwrap();
        let bytes = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        let facts = (meta.ino(), meta.mode(), meta.uid(), meta.nlink(), meta.mtime_nsec(), meta.mtime());
        text.push_str(&format!("{} {facts:?} {}\n", path.display(), bytes.escape_ascii()));
    }
    text
}

/// The control: names are joined to the folder and handed to the standard library.
fn naive(bytes: &[u8], root: &Path) {
    let mut source = bytes;
    while source.len() >= BLOCK && source[..BLOCK] != [0; BLOCK] {
        let text = |from: usize, to: usize| {
            let field = &source[from..to];
            let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
            String::from_utf8(field[..end].to_vec()).unwrap()
        };
        let path = root.join(text(0, 100));
        let target = text(157, 257);
        let size = usize::from_str_radix(&text(124, 135), 8).unwrap();
        let data = &source[BLOCK..BLOCK + size];
        let base = path.file_name().and_then(|name| name.to_str()).unwrap_or("").to_owned();
        let _ = fs::create_dir_all(path.parent().unwrap());
        let _ = match source[156] {
            _ if base == ".wh..wh..opq" => fs::read_dir(path.parent().unwrap())
                .and_then(|mut names| names.try_for_each(|name| fs::remove_file(name?.path()))),
            _ if base.starts_with(".wh.") => fs::remove_file(path.with_file_name(&base[4..])),
            b'0' => fs::write(&path, data),
            b'1' => fs::hard_link(root.join(&target), &path),
            b'2' => {
                let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
                std::os::unix::fs::symlink(&target, &path)
            }
            b'5' => {
                let _ = fs::create_dir_all(&path);
                fs::set_permissions(&path, fs::Permissions::from_mode(0o777))
            }
            _ => Ok(()),
        };
        source = &source[(BLOCK + size.next_multiple_of(BLOCK)).min(source.len())..];
    }
}

struct World {
    scratch: tempfile::TempDir,
    before: String,
}

impl World {
    fn new() -> World {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("root")).unwrap();
        fs::create_dir(scratch.path().join("host")).unwrap();
        fs::write(scratch.path().join("host/canary"), "alive").unwrap();
        fs::set_permissions(scratch.path().join("host"), fs::Permissions::from_mode(0o700)).unwrap();
        let before = fingerprint(&scratch.path().join("host"));
        World { scratch, before }
    }

    fn is_unharmed(&self) -> bool {
        self.scratch.path().join("host").exists()
            && fingerprint(&self.scratch.path().join("host")) == self.before
    }
}

/// Runs one attack against the control, which it must harm, and against us.
fn attack(what: &str, entries: impl Fn(&str) -> Vec<Raw>) {
    let run = |extract: &dyn Fn(&[u8], &Path)| {
        let world = World::new();
        let host = world.scratch.path().join("host").display().to_string();
        extract(&archive(entries(&host)), &world.scratch.path().join("root"));
        world
    };
    assert!(!run(&naive).is_unharmed(), "{what}: the control survives, so this is no attack");
    for mode in [Mode::Layer, Mode::Plain, Mode::Files] {
        let world = run(&|bytes, root| drop(apply_bytes(bytes, root, mode)));
        assert!(world.is_unharmed(), "{what}: the host was harmed in {mode:?}");
    }
}

#[test]
fn nothing_outside_of_the_folder_is_ever_touched() {
    attack("an absolute name", |host| vec![file(&format!("{host}/canary"))]);
    attack("a name with ..", |_| vec![file("../host/canary")]);
    attack("a name with .. further down", |_| vec![folder("a"), file("a/../../host/canary")]);
    attack("a file below an absolute link", |host| vec![symlink("l", host), file("l/canary")]);
    attack("a new file below an absolute link", |host| vec![symlink("l", host), file("l/planted")]);
    attack("a file below a relative link", |_| vec![symlink("l", "../host"), file("l/canary")]);
    attack("a file through a link to a file", |host| {
        vec![symlink("l", &format!("{host}/canary")), file("l")]
    });
    attack("a chain of links", |_| {
        vec![symlink("a", "."), symlink("a/b", ".."), symlink("c", "a/b/host"), file("c/canary")]
    });
    attack("a folder below a link", |host| vec![symlink("l", host), folder("l/planted")]);
    attack("a mode through a link", |host| vec![symlink("l", host), folder("l")]);
    attack("a folder that became a link", |host| {
        vec![folder("d"), file("d/x"), symlink("d", host), file("d/canary")]
    });
    attack("a link of a link", |host| vec![symlink("l", host), symlink("l/planted", "canary")]);
    attack("a hard link out, then written", |host| {
        vec![hard_link("h", &format!("{host}/canary")), file("h")]
    });
    attack("a hard link out by ..", |_| vec![hard_link("h", "../host/canary"), file("h")]);
    attack("a hard link through a link", |host| {
        vec![symlink("l", host), hard_link("h", "l/canary"), file("h")]
    });
    attack("a hard link planted outside", |host| {
        vec![file("x"), symlink("l", host), hard_link("l/planted", "x")]
    });
    attack("a whiteout through a link", |host| vec![symlink("l", host), file("l/.wh.canary")]);
    attack("a whiteout with ..", |_| vec![folder("d"), file("d/../../host/.wh.canary")]);
    attack("an opaque mark through a link", |host| vec![symlink("l", host), file("l/.wh..wh..opq")]);
    attack("a name with slashes", |host| vec![file(&format!("//.//{host}//canary"))]);
}

/// Times of folders are set last, when their names may stand for something else.
#[test]
fn times_are_not_set_through_links() {
    let world = World::new();
    let host = world.scratch.path().join("host").display().to_string();
    let entries =
        vec![folder("d").field(136, b"00000000001"), folder("e"), symlink("d", &host), symlink("e", "/")];
    apply_bytes(&archive(entries), &world.scratch.path().join("root"), Mode::Layer).unwrap();
    assert!(world.is_unharmed());
    assert!(world.scratch.path().join("root/d").is_symlink());
}

/// Links that lead nowhere, in a ring, or into /proc end in an error, at once.
#[test]
fn links_without_an_end_are_refused() {
    for entries in [
        vec![symlink("a", "b"), symlink("b", "a"), file("a/x")],
        vec![symlink("a", "a"), file("a/x")],
        vec![symlink("a", "/proc/self/root"), file("a/x")],
        vec![symlink("a", "gone"), file("a/x")],
    ] {
        let world = World::new();
        apply_bytes(&archive(entries), &world.scratch.path().join("root"), Mode::Layer).unwrap_err();
        assert!(world.is_unharmed());
    }
}

fn refusal(entries: Vec<Raw>) -> String {
    refusal_of(&archive(entries))
}

fn refusal_of(bytes: &[u8]) -> String {
    let world = World::new();
    let error = apply_bytes(bytes, &world.scratch.path().join("root"), Mode::Layer).unwrap_err();
    let error: &dyn std::error::Error = &error;
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

fn pax(records: &str) -> Raw {
    raw(b'x', "PaxHeaders/x").data(records.as_bytes())
}

#[test]
fn what_readers_understand_differently_is_refused() {
    let at = |reason: &str| format!("malformed archive at byte 0: {reason}");
    assert_eq!(
        refusal(vec![file("a/../b")]),
        "malformed archive at byte 0 (\"a/../b\"): the name holds `..`"
    );
    assert_eq!(refusal(vec![raw(b'0', "")]), at("the name is empty"));
    assert_eq!(
        refusal(vec![raw(b'0', "/")]),
        "malformed archive at byte 0 (\"/\"): a name ends with a slash and is no folder's"
    );
    assert_eq!(
        refusal(vec![raw(b'0', ".")]),
        "malformed archive at byte 0 (\".\"): the root can only be a folder"
    );
    assert_eq!(
        refusal(vec![file("x/")]),
        "malformed archive at byte 0 (\"x/\"): a name ends with a slash and is no folder's"
    );
    assert_eq!(
        refusal(vec![raw(b'5', "d").data(b"data")]),
        "malformed archive at byte 0 (\"d\"): an entry without data has a size"
    );
    assert_eq!(
        refusal(vec![symlink("l", "")]),
        "malformed archive at byte 0 (\"l\"): the link has no target"
    );
    assert_eq!(refusal(vec![raw(b'Z', "z")]), "malformed archive at byte 0 (\"z\"): unknown entry type 0x5a");
    assert_eq!(
        refusal(vec![file("x").field(124, b"0000000001x")]),
        "malformed archive at byte 0 (\"x\"): the field `size` is not a number in range"
    );
    assert_eq!(
        refusal(vec![file("x").field(124, &[0xff; 12])]),
        "malformed archive at byte 0 (\"x\"): the field `size` is not a number in range"
    );
    assert_eq!(
        refusal(vec![file("x").field(108, b"\x80\0\0\0\xff\xff\xff\xff")]),
        "malformed archive at byte 0 (\"x\"): the field `uid` is not a number in range"
    );
}

#[test]
fn extended_headers_say_one_thing_or_are_refused() {
    let at = |reason: &str| format!("malformed archive at byte 0: {reason}");
    assert_eq!(
        refusal(vec![raw(b'g', "g").data(b"12 path=abc\n")]),
        at("a global header changes values of entries")
    );
    assert_eq!(
        refusal(vec![pax("10 path=a\n"), pax("10 path=b\n"), file("x")]),
        "malformed archive at byte 1024: two extended headers for one entry"
    );
    assert_eq!(
        refusal(vec![pax("10 path=a\n")]),
        "malformed archive at byte 1024: an extended header has no entry after it"
    );
    for record in
        ["10 path=a", "99 path=a\n", "010 path=a\n", "9 path=a\n\n", "7 =abc\n", "path=a\n", "5 ab\n"]
    {
        assert_eq!(
            refusal(vec![pax(record), file("x")]),
            at("a PAX record is not `LENGTH KEY=VALUE`"),
            "{record:?}"
        );
    }
    assert_eq!(refusal(vec![pax("12 path=a\0b\n"), file("x")]), at("a name holds a NUL byte"));
    assert_eq!(
        refusal(vec![pax("11 size=-1\n"), file("x")]),
        at("the field `size` is not a number in range")
    );
    assert_eq!(refusal(vec![raw(b'L', "l").data(b"\0"), file("x")]), at("the name is empty"));
    assert_eq!(refusal(vec![raw(b'L', "l").data(b"a\0b\0"), file("x")]), at("a name holds a NUL byte"));
    assert_eq!(
        refusal(vec![raw(b'L', "l").data(b"long\0"), pax("10 path=a\n"), file("x")]),
        "malformed archive at byte 2048 (\"long\"): two extended headers for one entry"
    );
}

#[test]
fn damaged_archives_are_refused_where_the_damage_is() {
    let at = |reason: &str| format!("malformed archive at byte 0: {reason}");
    let mut bytes = archive(vec![file("x")]);
    bytes[0] ^= 1;
    assert_eq!(refusal_of(&bytes), at("the header's checksum is wrong"));
    let lone = [vec![0; BLOCK], archive(vec![file("x")])].concat();
    assert_eq!(refusal_of(&lone), at("a lone block of zeros in the middle"));
    assert_eq!(
        refusal_of(&archive(vec![file("x")])[..BLOCK + 3]),
        "the archive ends at byte 515 in the middle of an entry's data"
    );
    assert_eq!(refusal_of(b"short"), "the archive ends at byte 5 in the middle of a header");
    assert_eq!(refusal_of(&[b'x'; 2000]), at("the header's checksum is wrong"));
}

#[test]
fn what_has_no_place_in_a_layer_is_refused() {
    assert_eq!(
        refusal(vec![raw(b'3', "null")]),
        "\"null\" is a device or FIFO, which has no place in this archive"
    );
    assert_eq!(refusal(vec![file(".wh.")]), "\".wh.\" is not a valid whiteout");
    assert_eq!(refusal(vec![file("d/.wh...")]), "\"d/.wh...\" is not a valid whiteout");
    assert_eq!(refusal(vec![file(".wh.x/y")]), "\".wh.x/y\" is not a valid whiteout");
    assert_eq!(
        refusal(vec![hard_link("h", "gone")]),
        "\"h\" links to \"gone\", which this archive does not hold before it"
    );
    assert_eq!(
        refusal(vec![file(".wh.x"), hard_link("h", "x")]),
        "\"h\" links to \"x\", which this archive does not hold before it"
    );
    assert_eq!(
        refusal(vec![folder("d"), hard_link("h", "d")]),
        "cannot make the hard link \"h\" (Operation not permitted (os error 1))"
    );
    let text = refusal(vec![file("a"), file("a/b")]);
    assert_eq!(text, "cannot open the folder of \"a/b\" (Not a directory (os error 20))");
}

#[test]
fn the_size_of_a_pax_header_always_wins() {
    // The ustar field hides a second header as data; readers that believe it see `hidden`.
    let inner = archive(vec![file("hidden")]);
    let entries = vec![
        pax(&format!("{} size={}\n", 9 + inner.len().to_string().len(), inner.len())),
        raw(b'0', "outer"),
    ];
    let mut bytes = Vec::new();
    entries.into_iter().for_each(|entry| entry.write(&mut bytes));
    bytes.extend_from_slice(&inner);
    bytes.resize(bytes.len() + 2 * BLOCK, 0);
    let world = World::new();
    let root = world.scratch.path().join("root");
    apply_bytes(&bytes, &root, Mode::Layer).unwrap();
    assert_eq!(fs::read(root.join("outer")).unwrap(), inner);
    assert!(!root.join("hidden").exists());
    let listed = world.scratch.path().join("a.tar");
    fs::write(&listed, &bytes).unwrap();
    let output = std::process::Command::new("tar").arg("tf").arg(&listed).output().unwrap();
    assert_eq!(output.stdout, b"outer\n", "GNU tar agrees");
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    let map = |records: &[&str]| {
        let text: String = records
            .iter()
            .map(|record| {
                let length = record.len() + 3 + usize::from(record.len() > 6);
                let length =
                    if length.to_string().len() + record.len() + 2 == length { length } else { length + 1 };
                format!("{length} {record}\n")
            })
            .collect();
        refusal(vec![pax(&text), file("x")])
    };
    let wrong = "malformed archive at byte 1024 (\"x\"): the map of a sparse file is inconsistent";
    assert_eq!(map(&["GNU.sparse.map=0,8", "GNU.sparse.size=7"]), wrong);
    assert_eq!(map(&["GNU.sparse.map=0,4,2,4", "GNU.sparse.size=100"]), wrong);
    assert_eq!(map(&["GNU.sparse.map=0,9", "GNU.sparse.size=100"]), wrong);
    assert_eq!(map(&["GNU.sparse.map=9223372036854775807,8", "GNU.sparse.size=100"]), wrong);
    assert_eq!(map(&["GNU.sparse.map=0,8"]), wrong);
    assert_eq!(map(&["GNU.sparse.major=2", "GNU.sparse.minor=0"]), wrong);
    let bomb = map(&["GNU.sparse.map=0,8", "GNU.sparse.size=9223372036854775807"]);
    assert_eq!(bomb, "the archive exceeds the limit of 1099511627776 bytes of files (\"x\")");
}

#[test]
fn limits_hold() {
    let limited = |bytes: &[u8], change: &dyn Fn(&mut Limits)| {
        let world = World::new();
        let root = open(&world.scratch.path().join("root"));
        let mut limits = Limits::default();
        change(&mut limits);
        let error = apply(&mut &*bytes, std::os::fd::AsFd::as_fd(&root), Mode::Layer, &limits).unwrap_err();
        hull_sys::error::chain(&error)
    };
    let two = archive(vec![file("a"), file("b")]);
    let text = limited(&two, &|limits| limits.tar.entries = 1);
    assert_eq!(text, "the archive exceeds the limit of 1 entries");
    let text = limited(&two, &|limits| limits.tar.total = 15);
    assert_eq!(text, "the archive exceeds the limit of 15 bytes of files (\"b\")");
    let long = archive(vec![pax(&format!("109 path={}\n", "x".repeat(99))), file("a")]);
    assert!(
        limited(&long, &|limits| limits.tar.name = 90)
            .starts_with("the archive exceeds the limit of 90 bytes of a name")
    );
    let text = limited(&long, &|limits| limits.tar.pax = 100);
    assert_eq!(text, "the archive exceeds the limit of 100 bytes of an extended header");
    // 64 MiB of zeros in some 64 KiB or less.
    let zeros = vec![0; 64 << 20];
    for compression in [Compression::Gzip, Compression::Zstd, Compression::Bzip2, Compression::Xz] {
        let bomb = compress(compression, &[archive(vec![file("a")]), zeros.clone()].concat());
        let unfolding = Unfolding { total: 1 << 40, grace: 1 << 20, ratio: 100 };
        let text = limited(&bomb, &|limits| limits.unfolding = unfolding);
        assert!(text.contains("refused as a decompression bomb"), "{text}");
        let unfolding = Unfolding { total: 1 << 20, ..Unfolding::default() };
        let text = limited(&bomb, &|limits| limits.unfolding = unfolding);
        assert!(text.contains("more than 1048576 bytes after decompression"), "{text}");
    }
}

#[test]
fn damaged_compressed_streams_are_errors() {
    let plain = archive(vec![file("a")]);
    for compression in [Compression::Gzip, Compression::Zstd, Compression::Bzip2, Compression::Xz] {
        let packed = compress(compression, &plain);
        let text = refusal_of(&packed[..packed.len() - 5]);
        assert!(text.contains("cannot read the"), "{text}");
        let text = refusal_of(&[&packed[..], b"trailing"].concat());
        assert!(text.contains("cannot read the"), "{compression:?}: {text}");
    }
}

/// Any cut and any flipped byte of a good archive ends in an error or in a folder, never in a
/// panic, and never outside.
#[test]
fn mutations_of_a_good_archive_stay_inside() {
    let source = tempfile::tempdir().unwrap();
    super::tree::make_everything(source.path());
    fs::remove_file(source.path().join("sparse")).unwrap();
    fs::remove_file(source.path().join("many-holes")).unwrap();
    fs::remove_file(source.path().join("bin/tool")).unwrap();
    fs::remove_file(source.path().join("zz-link")).unwrap();
    let good = super::diff_bytes(source.path());
    let world = World::new();
    let root = world.scratch.path().join("root");
    let mut state = 1u64;
    for _ in 0..400 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let at = usize::try_from(state >> 33).unwrap() % good.len();
        let mut bytes = good.clone();
        // A header's checksum would catch a single change: repair it.
        let header = at / BLOCK * BLOCK;
        bytes[at] ^= u8::try_from(state >> 56).unwrap() | 1;
        if bytes.len() >= header + BLOCK && &bytes[header + 257..header + 262] == b"ustar" {
            bytes[header + 148..header + 156].fill(b' ');
            let sum: u32 = bytes[header..header + BLOCK].iter().map(|&byte| u32::from(byte)).sum();
            bytes[header + 148..header + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let _ = apply_bytes(&bytes, &root, Mode::Layer);
        let _ = apply_bytes(&bytes[..at], &root, Mode::Layer);
    }
    assert!(world.is_unharmed());
}
