//! Random file operations in a container, and what a commit makes of them: compared file by file with
//! what the container saw.
//!
//! The operations go through the container's own mounts (`/proc/PID/root`), by descriptors and without
//! following any link, so that nothing of the host can be met. `HULL_TEST_SEED` chooses others than the
//! usual ones.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::io::Read as _;
use std::os::fd::OwnedFd;

use hull_oci::Digest;
use hull_testkit::{Host, Random};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::Errno;

use super::{CLIENTS, bare};

/// That succeed, in each of two containers, of which the second one is made from the first one's image.
const OPERATIONS: usize = 5000;
/// The folder that the operations are in.
const PLACE: &str = "t";
/// Operations after which it is looked again what there is.
const LOOK: usize = 100;

/// One name of a tree as a process sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    kind: FileType,
    /// Everything of it but its other names.
    what: String,
    /// The first of its names.
    first: Vec<u8>,
}

type Tree = BTreeMap<Vec<u8>, Seen>;

fn folder(root: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(root, if path.is_empty() { b"." } else { path }, flags, Mode::empty(), inside)
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

/// All of a container's own file system; what is mounted in it is left out, and so is its root.
fn look(root: &OwnedFd) -> Tree {
    let mut tree = Tree::new();
    walk(root, root, b"", &mut HashMap::new(), &mut tree);
    tree
}

fn names(folder: &OwnedFd) -> Vec<Vec<u8>> {
    let names = Dir::read_from(folder).unwrap().map(|entry| entry.unwrap().file_name().to_bytes().to_vec());
    let mut names: Vec<_> = names.filter(|name| !matches!(&name[..], b"." | b"..")).collect();
    names.sort();
    names
}

fn walk(root: &OwnedFd, here: &OwnedFd, path: &[u8], firsts: &mut HashMap<u64, Vec<u8>>, tree: &mut Tree) {
    let device = rustix::fs::fstat(root).unwrap().st_dev;
    for name in names(here) {
        let path = join(path, &name);
        let stat = rustix::fs::statat(here, &name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        if stat.st_dev != device {
            continue;
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        let (mode, time) = (stat.st_mode & 0o7777, (stat.st_mtime, stat.st_mtime_nsec));
        let mut what = format!("{kind:?} {mode:o} {}:{} {time:?}", stat.st_uid, stat.st_gid);
        let mut first = path.clone();
        if kind != FileType::Directory {
            first.clone_from(firsts.entry(stat.st_ino).or_insert_with(|| path.clone()));
        }
        let open = |flags| {
            rustix::fs::openat(here, &name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
                .unwrap()
        };
        match kind {
            FileType::RegularFile => {
                let fd = open(OFlags::RDONLY);
                write!(what, "{}", attributes(&fd)).unwrap();
                let mut bytes = Vec::new();
                std::fs::File::from(fd).read_to_end(&mut bytes).unwrap();
                write!(what, " {} {}", bytes.len(), Digest::sha256(&bytes).short()).unwrap();
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(here, &name, Vec::new()).unwrap();
                write!(what, " -> {target:?}").unwrap();
            }
            FileType::CharacterDevice | FileType::BlockDevice => write!(what, " {}", stat.st_rdev).unwrap(),
            _ => {}
        }
        if kind == FileType::Directory {
            let inner = open(OFlags::RDONLY | OFlags::DIRECTORY);
            write!(what, "{}", attributes(&inner)).unwrap();
            walk(root, &inner, &path, firsts, tree);
        }
        tree.insert(path, Seen { kind, what, first });
    }
}

fn attributes(fd: &OwnedFd) -> String {
    let mut list = vec![0; 65536];
    let length = rustix::fs::flistxattr(fd, &mut list[..]).unwrap();
    let names: BTreeSet<&[u8]> =
        list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
    let mut text = String::new();
    for name in names {
        let mut value = vec![0; 65536];
        let length = rustix::fs::fgetxattr(fd, name, &mut value[..]).unwrap();
        write!(text, " {}={}", name.escape_ascii(), value[..length].escape_ascii()).unwrap();
    }
    text
}

/// Names are few, so that operations meet each other's.
fn name(random: &mut Random) -> Vec<u8> {
    const NAMES: [&str; 12] =
        ["a", "b", "c", "d0", "d1", "d2", "f0", "f1", "größe", "with space", ".hidden", "-"];
    match random.below(40) {
        0 => vec![b'n'; 200],
        choice => NAMES[choice % NAMES.len()].as_bytes().to_vec(),
    }
}

struct Actor<'a> {
    root: &'a OwnedFd,
    random: Random,
    folders: Vec<Vec<u8>>,
    others: Vec<Vec<u8>>,
}

impl Actor<'_> {
    fn look(&mut self) {
        (self.folders, self.others) = (vec![PLACE.into()], Vec::new());
        let mut waiting = self.folders.clone();
        while let Some(path) = waiting.pop() {
            let Ok(here) = folder(self.root, &path) else { continue };
            for name in names(&here) {
                let stat = rustix::fs::statat(&here, &name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
                let path = join(&path, &name);
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    self.folders.push(path.clone());
                    waiting.push(path);
                } else {
                    self.others.push(path);
                }
            }
        }
    }

    fn any(&mut self) -> Vec<u8> {
        let count = self.folders.len() + self.others.len();
        let choice = self.random.below(count);
        self.folders.iter().chain(&self.others).nth(choice).cloned().unwrap()
    }

    /// A name, taken or not, in a folder.
    fn place(&mut self) -> Vec<u8> {
        let choice = self.random.below(self.folders.len());
        join(&self.folders[choice].clone(), &name(&mut self.random))
    }

    fn file(&mut self) -> Vec<u8> {
        match self.others.len() {
            0 => self.place(),
            count => self.others[self.random.below(count)].clone(),
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = [0, 1, 511, 512, 513, 5000, 70_000][self.random.below(7)];
        vec![b'a' + u8::try_from(self.random.below(26)).unwrap(); length]
    }

    /// One operation. That it cannot be done (the name is taken, is of another kind, is gone) is as
    /// good as any.
    fn act(&mut self) -> Result<(), Errno> {
        match self.random.below(20) {
            0..3 => self.write(OFlags::CREATE | OFlags::TRUNC),
            3 | 4 => self.write(OFlags::empty()),
            5 => self.write(OFlags::APPEND),
            6 => self.resize(),
            7 | 8 => {
                let path = self.any();
                self.remove(&path)
            }
            9 => self.make_folder(),
            10 | 11 => self.rename(),
            12 => self.link(),
            13 => self.node(),
            14 => self.again(),
            15 => self.own(),
            16 => self.date(),
            _ => self.note(),
        }
    }

    fn parent<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p [u8]), Errno> {
        let (parent, base) = split(path);
        Ok((folder(self.root, parent)?, base))
    }

    fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let (parent, base) = self.parent(path)?;
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(parent, base, flags, Mode::from_raw_mode(0o640))
    }

    fn write(&mut self, flags: OFlags) -> Result<(), Errno> {
        let path = if flags.contains(OFlags::CREATE) { self.place() } else { self.file() };
        let (bytes, at) = (self.bytes(), self.random.below(20_000) as u64);
        let fd = self.open(&path, OFlags::WRONLY | flags)?;
        if flags.is_empty() {
            rustix::io::pwrite(fd, &bytes, at)?
        } else {
            rustix::io::write(fd, &bytes)?
        };
        Ok(())
    }

    /// Shorter, or longer by a hole.
    fn resize(&mut self) -> Result<(), Errno> {
        let (path, length) = (self.file(), self.random.below(3 << 20) as u64);
        rustix::fs::ftruncate(self.open(&path, OFlags::WRONLY)?, length)
    }

    fn remove(&mut self, path: &[u8]) -> Result<(), Errno> {
        if path == PLACE.as_bytes() {
            return Ok(());
        }
        let (parent, base) = self.parent(path)?;
        match rustix::fs::unlinkat(&parent, base, AtFlags::empty()) {
            Err(Errno::ISDIR) => {}
            result => return result,
        }
        for name in names(&folder(self.root, path)?) {
            self.remove(&join(path, &name))?;
        }
        rustix::fs::unlinkat(&parent, base, AtFlags::REMOVEDIR)
    }

    fn make_folder(&mut self) -> Result<(), Errno> {
        let path = self.place();
        let mode = Mode::from_raw_mode(0o700 | self.random.below(0o100) as u32);
        let (parent, base) = self.parent(&path)?;
        rustix::fs::mkdirat(parent, base, mode)
    }

    fn rename(&mut self) -> Result<(), Errno> {
        let (from, to) = (self.any(), self.place());
        let (old, new) = (self.parent(&from)?, self.parent(&to)?);
        let flags = if self.random.below(4) == 0 { RenameFlags::EXCHANGE } else { RenameFlags::empty() };
        rustix::fs::renameat_with(old.0, old.1, new.0, new.1, flags)
    }

    fn link(&mut self) -> Result<(), Errno> {
        let (from, to) = (self.file(), self.place());
        let (old, new) = (self.parent(&from)?, self.parent(&to)?);
        rustix::fs::linkat(old.0, old.1, new.0, new.1, AtFlags::empty())
    }

    fn node(&mut self) -> Result<(), Errno> {
        let path = self.place();
        let (parent, base) = self.parent(&path)?;
        let mode = Mode::from_raw_mode(0o600);
        match self.random.below(6) {
            0 => rustix::fs::mknodat(parent, base, FileType::Fifo, mode, 0),
            1 => rustix::fs::mknodat(parent, base, FileType::Socket, mode, 0),
            2 => {
                rustix::fs::mknodat(parent, base, FileType::CharacterDevice, mode, rustix::fs::makedev(1, 3))
            }
            _ => rustix::fs::symlinkat(
                [&b"../../a"[..], b"/etc/passwd", b"nowhere"][self.random.below(3)],
                parent,
                base,
            ),
        }
    }

    /// Something in the place of something else: of a folder, one that hides it.
    fn again(&mut self) -> Result<(), Errno> {
        let path = self.any();
        if path == PLACE.as_bytes() {
            return Ok(());
        }
        self.remove(&path)?;
        let (parent, base) = self.parent(&path)?;
        if self.random.below(3) == 0 {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            return rustix::fs::openat(parent, base, flags, Mode::from_raw_mode(0o644)).map(drop);
        }
        rustix::fs::mkdirat(&parent, base, Mode::from_raw_mode(0o755))?;
        let inner = join(&path, &name(&mut self.random));
        self.open(&inner, OFlags::WRONLY | OFlags::CREATE).map(drop)
    }

    fn own(&mut self) -> Result<(), Errno> {
        let path = self.any();
        let (parent, base) = self.parent(&path)?;
        let (uid, gid) = (self.random.below(70_000) as u32, self.random.below(1000) as u32);
        rustix::fs::chownat(
            &parent,
            base,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        let mode = Mode::from_raw_mode(self.random.below(0o10000) as u32);
        rustix::fs::fchmod(self.open(&path, OFlags::RDONLY)?, mode)
    }

    fn date(&mut self) -> Result<(), Errno> {
        let path = self.any();
        let (parent, base) = self.parent(&path)?;
        let time = Timespec {
            tv_sec: self.random.below(2_000_000_000) as i64 - 1000,
            tv_nsec: self.random.below(1_000_000_000) as i64,
        };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(parent, base, &times, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn note(&mut self) -> Result<(), Errno> {
        /// Effective `cap_net_raw`, as setcap(8) writes it.
        const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let path = self.any();
        let fd = self.open(&path, OFlags::RDONLY)?;
        let value = [self.random.below(256) as u8; 9];
        match self.random.below(6) {
            0 => rustix::fs::fremovexattr(fd, "user.note"),
            1 => rustix::fs::fsetxattr(fd, "trusted.note", &value, XattrFlags::empty()),
            2 => rustix::fs::fsetxattr(fd, "security.capability", &CAPABILITY, XattrFlags::empty()),
            _ => rustix::fs::fsetxattr(fd, "user.note", &value, XattrFlags::empty()),
        }
    }
}

/// The root of a running container.
fn root(host: &Host, container: &str) -> OwnedFd {
    let pid = host.hull(&["inspect", "-f", "{{.State.Pid}}", container]).ok().to_owned();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, format!("/proc/{pid}/root"), flags, Mode::empty()).unwrap()
}

fn run(host: &Host, name: &str, image: &str) -> OwnedFd {
    host.hull(&["run", "-d", "--name", name, "--network", "none", image, "sleep", "1000000"]).ok();
    root(host, name)
}

/// Without sockets, which mean nothing without who listened: no image has them.
fn without_sockets(tree: &Tree) -> Tree {
    tree.iter()
        .filter(|(_, seen)| seen.kind != FileType::Socket)
        .map(|(path, seen)| (path.clone(), seen.clone()))
        .collect()
}

#[track_caller]
fn same(found: &Tree, expected: &Tree, of: &str) {
    let names: BTreeSet<&Vec<u8>> = found.keys().chain(expected.keys()).collect();
    for name in names {
        assert_eq!(found.get(name), expected.get(name), "{} {of}", name.escape_ascii());
    }
}

/// What `diff` has to tell of a container that saw `before` and sees `after`.
#[track_caller]
fn check_diff(told: &str, before: &Tree, after: &Tree, seed: u64) {
    let told: BTreeSet<(char, Vec<u8>)> =
        told.lines().map(|line| (line.chars().next().unwrap(), line.as_bytes()[3..].to_vec())).collect();
    let of = |letter| {
        told.iter()
            .filter(move |(kind, _)| *kind == letter)
            .map(|(_, path)| path.clone())
            .collect::<BTreeSet<_>>()
    };
    let added: BTreeSet<Vec<u8>> = after.keys().filter(|path| !before.contains_key(*path)).cloned().collect();
    assert_eq!(of('A'), added, "seed {seed}");
    // Of what went with its folder only the folder is told.
    let folder =
        |path: &[u8]| path.is_empty() || after.get(path).is_some_and(|seen| seen.kind == FileType::Directory);
    let gone =
        before.keys().filter(|path| !after.contains_key(*path) && folder(split(path).0)).cloned().collect();
    assert_eq!(of('D'), gone, "seed {seed}");
    let changed = of('C');
    for (path, seen) in after {
        match before.get(path) {
            Some(known) if known.what != seen.what => {
                assert!(changed.contains(path), "{} seed {seed}", path.escape_ascii())
            }
            Some(_) => {}
            None => assert!(!changed.contains(path), "{} seed {seed}", path.escape_ascii()),
        }
    }
    assert!(changed.iter().all(|path| after.contains_key(path)), "seed {seed}");
}

/// An image with folders, files, links and names for one file.
fn base(host: &Host) {
    let tree = host.folder().join("tree").join(PLACE);
    for outer in ["d0", "d1", "d2", "e"] {
        for inner in ["d0", "d1", "a/b/c"] {
            let folder = tree.join(outer).join(inner);
            std::fs::create_dir_all(&folder).unwrap();
            for file in ["f0", "f1", "größe"] {
                std::fs::write(folder.join(file), format!("{outer}/{inner}/{file}")).unwrap();
            }
            std::fs::hard_link(folder.join("f0"), folder.join("b")).unwrap();
            std::os::unix::fs::symlink("f0", folder.join("c")).unwrap();
        }
    }
    let add = format!("{}:/{PLACE}", tree.display());
    host.hull(&["image", "capture", "base", "busybox", "--add", &add]).ok();
}

#[test]
fn what_is_committed_is_what_the_container_saw_after_any_operations() {
    let seed = std::env::var("HULL_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    let host = bare();
    base(&host);
    let mut image = "base".to_owned();
    for (generation, client) in CLIENTS.into_iter().enumerate() {
        let (name, made) = (format!("c{generation}"), format!("image{generation}"));
        let inside = run(&host, &name, &image);
        let before = look(&inside);
        let random = Random::new(seed + generation as u64 * 1000);
        let mut actor = Actor { root: &inside, random, folders: Vec::new(), others: Vec::new() };
        let mut done = 0;
        while done < OPERATIONS {
            if done % LOOK == 0 {
                actor.look();
            }
            done += usize::from(actor.act().is_ok());
        }
        let after = look(&inside);
        check_diff(client(&host, &["diff", &name]).ok(), &before, &after, seed);
        client(&host, &["commit", &name, &made]).ok();
        let seen = without_sockets(&after);
        let committed = format!("{made}-committed");
        same(&look(&run(&host, &committed, &made)), &seen, &format!("as committed, seed {seed}"));
        // The same by way of the archive.
        host.hull(&["rm", "-f", &committed]).ok();
        let file = host.folder().join("saved.tar").display().to_string();
        client(&host, &["save", "-o", &file, &made]).ok();
        client(&host, &["rmi", &made]).ok();
        client(&host, &["load", "-i", &file]).ok();
        same(&look(&run(&host, &committed, &made)), &seen, &format!("as loaded, seed {seed}"));
        image = made;
    }
}
