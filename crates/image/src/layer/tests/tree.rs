//! A folder as comparable lines, and a folder that holds everything Linux knows.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use hull_oci::Digest;
use rustix::fs::{FileType, Mode, XattrFlags};

/// One line for each entry: name, kind, mode, owner, time, contents, attributes,
/// and the first name of a file that has several.
pub(super) fn listing(root: &Path) -> String {
    let mut lines = Vec::new();
    walk(root, root, &mut HashMap::new(), &mut lines);
    lines.join("\n")
}

fn walk(root: &Path, folder: &Path, first: &mut HashMap<u64, String>, lines: &mut Vec<String>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().escape_ascii().to_string();
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        if kind.is_char_device() && meta.rdev() == 0 {
            // A whiteout has nothing that an archive could keep.
            lines.push(format!("{name} whiteout"));
            continue;
        }
        let mut line = format!("{name} {:o} {}:{} ", meta.mode() & 0o7777, meta.uid(), meta.gid());
        if !kind.is_dir() {
            let first = first.entry(meta.ino()).or_insert_with(|| name.clone());
            if *first != name {
                write!(line, "= {first}").unwrap();
                lines.push(line);
                continue;
            }
        }
        write!(line, "{}.{:09} ", meta.mtime(), meta.mtime_nsec()).unwrap();
        if kind.is_file() {
            let bytes = fs::read(&path).unwrap();
            write!(line, "file {} {}", bytes.len(), Digest::sha256(&bytes).short()).unwrap();
        } else if kind.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            write!(line, "-> {}", target.as_os_str().as_bytes().escape_ascii()).unwrap();
        } else if kind.is_dir() {
            line.push_str("dir");
        } else {
            let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
            let letter = if kind.is_fifo() { 'p' } else { if kind.is_char_device() { 'c' } else { 'b' } };
            write!(line, "{letter} {major}:{minor}").unwrap();
        }
        if kind.is_file() || kind.is_dir() {
            line.push_str(&attributes(&path));
        }
        lines.push(line);
        if kind.is_dir() {
            walk(root, &path, first, lines);
        }
    }
}

fn attributes(path: &Path) -> String {
    let mut list = vec![0; 65536];
    let length = rustix::fs::llistxattr(path, &mut list[..]).unwrap();
    let mut names: Vec<&[u8]> = list[..length].split(|byte| *byte == 0).filter(|n| !n.is_empty()).collect();
    names.sort_unstable();
    let mut text = String::new();
    for name in names {
        let mut value = vec![0; 65536];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        write!(text, " {}={}", name.escape_ascii(), value[..length].escape_ascii()).unwrap();
    }
    text
}

pub(super) fn set_attribute(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

pub(super) fn node(path: &Path, kind: FileType, mode: u32, device: (u32, u32)) {
    let device = rustix::fs::makedev(device.0, device.1);
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, Mode::empty(), device).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Effective `cap_net_raw`, as setcap(8) writes it (version 2).
pub(super) const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Everything: kinds, owners, set-id bits, times with nanoseconds and before 1970,
/// names of every length and of odd bytes, attributes, hard links, holes.
pub(super) fn make_everything(root: &Path) {
    let make = |name: &str, bytes: &[u8]| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    };
    make("empty", b"");
    make("bin/tool", &vec![b'x'; 70_000]);
    let set_id = make("bin/su", b"#!");
    std::os::unix::fs::chown(&set_id, Some(1000), Some(2000)).unwrap();
    fs::set_permissions(&set_id, fs::Permissions::from_mode(0o6755)).unwrap();
    let big_id = make("bin/far", b"ids beyond 21 bits");
    std::os::unix::fs::chown(&big_id, Some(3_000_000), Some(4_000_000_000)).unwrap();
    set_attribute(&make("bin/ping", b"ping"), "security.capability", &CAPABILITY);
    set_attribute(&make("etc/noted", b"n"), "user.note", b"with\nnew line, = and \xff");
    fs::hard_link(root.join("bin/tool"), root.join("zz-link")).unwrap();
    std::os::unix::fs::symlink("../nowhere/./at//all", root.join("etc/link")).unwrap();
    std::os::unix::fs::symlink("t".repeat(300), root.join("etc/long-target")).unwrap();
    for length in [99, 100, 101, 155, 255] {
        make(&format!("names/{}", "n".repeat(length)), b"name");
    }
    make(&format!("{0}/{0}/{0}/deep", "d".repeat(200)), b"deep");
    let odd = std::ffi::OsStr::from_bytes(b"names/\xff\xfe new\nline\\");
    fs::write(root.join(odd), b"odd").unwrap();
    fs::write(root.join("names/größe"), b"utf-8").unwrap();
    node(&root.join("fifo"), FileType::Fifo, 0o640, (0, 0));
    node(&root.join("null"), FileType::CharacterDevice, 0o666, (1, 3));
    node(&root.join("disk"), FileType::BlockDevice, 0o600, (300, 70_000));
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    rustix::io::pwrite(&sparse, b"begin", 0).unwrap();
    rustix::io::pwrite(&sparse, &[b'm'; 9000], 5 << 20).unwrap();
    rustix::fs::ftruncate(&sparse, 30 << 20).unwrap();
    let many = fs::File::create(root.join("many-holes")).unwrap();
    for part in 0..60 {
        rustix::io::pwrite(&many, b"part", part * 65536).unwrap();
    }
    fs::create_dir(root.join("sticky")).unwrap();
    fs::set_permissions(root.join("sticky"), fs::Permissions::from_mode(0o3777)).unwrap();
    make("sticky/inside", b"takes no group");
    let times: [(&str, i64, i64); 4] =
        [("empty", -2, 500_000_000), ("bin/su", 1, 1), ("bin", 1_700_000_000, 0), ("etc", 99, 999_999_999)];
    for (name, tv_sec, tv_nsec) in times {
        let time = rustix::fs::Timespec { tv_sec, tv_nsec };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, root.join(name), &times, rustix::fs::AtFlags::empty())
            .unwrap();
    }
}

/// Blocks of 512 bytes that a file takes on the disk.
pub(super) fn blocks(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks()
}
