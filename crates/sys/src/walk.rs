//! What openat2(2) does for [`crate::root`], by hand: for hosts whose kernel or seccomp filter does
//! not have that call.
//!
//! A path is walked one component at a time, each opened below the descriptor of the one before
//! with `O_PATH | O_NOFOLLOW`. So no call of the kernel ever follows a link or climbs:
//!
//! - a symlink is read through its own descriptor and its text put in front of what is left of the
//!   path; an absolute one starts at the root again;
//! - `..` takes the last descriptor off the stack of those that led here, and the root stays. That
//!   is the parent that was walked through, whatever a rename has made of it meanwhile, so that
//!   nothing outside of the root is ever reached by a race;
//! - the last component is opened for use with `O_NOFOLLOW`, too: one that has become a symlink
//!   since it was looked at is looked at again.
//!
//! A link of /proc that the kernel would jump through instead of reading (proc(5): `exe`, `cwd`,
//! `root`, `fd/N`, `ns/KIND`) is told from one that is text by what it shows: an absolute path, or
//! a kind with a number behind a colon. Both answer ELOOP, as `RESOLVE_NO_MAGICLINKS` does.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags};

use crate::error::Errno;

/// As the kernel's own limit (path_resolution(7)).
const LINKS_MAX: usize = 40;
/// Attempts to open a last component that keeps turning into a symlink and back.
const ATTEMPTS: usize = 128;
/// statfs(2).
const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// What a path that leads out of the folder means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The folder is its root: what leads out ends inside (`RESOLVE_IN_ROOT`).
    InRoot,
    /// It is an error, EXDEV (`RESOLVE_BENEATH`).
    Beneath,
    /// The same, and any symlink is ELOOP (`RESOLVE_NO_SYMLINKS`).
    Entry,
}

/// Opens `path` below `root`.
pub(crate) fn open(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    mode: Mode,
    scope: Scope,
) -> Result<OwnedFd, Errno> {
    if path.is_empty() {
        return Err(Errno::NOENT);
    }
    if flags.contains(OFlags::CREATE) && path.ends_with(b"/") {
        return Err(Errno::ISDIR);
    }
    let mut walk = Walk {
        root,
        scope,
        above: Vec::new(),
        left: VecDeque::new(),
        links: 0,
        flags: flags | OFlags::CLOEXEC,
    };
    walk.prepend(path)?;
    let mut attempts = ATTEMPTS;
    while let Some(part) = walk.left.pop_front() {
        let last = walk.left.is_empty();
        if last && !matches!(part, Part::Name(_)) {
            walk.step(part)?;
            break;
        }
        match part {
            Part::Name(name) if last => match walk.last(&name, mode) {
                Ok(Some(fd)) => return Ok(fd),
                // It was a symlink, whose text is now what is left.
                Ok(None) => {}
                Err(Errno::LOOP) if attempts > 0 && walk.may_follow() => {
                    attempts -= 1;
                    walk.left.push_front(Part::Name(name));
                }
                Err(errno) => return Err(errno),
            },
            part => walk.step(part)?,
        }
    }
    // It ended with a folder that is open already.
    rustix::fs::openat(walk.current(), c".", walk.flags, mode)
}

#[derive(Debug, Clone)]
enum Part {
    /// `.`, or the slash at the end: what is here has to be a folder.
    Here,
    Up,
    Name(Vec<u8>),
}

struct Walk<'a> {
    root: BorrowedFd<'a>,
    scope: Scope,
    /// The folders from the root to the current one.
    above: Vec<OwnedFd>,
    left: VecDeque<Part>,
    links: usize,
    flags: OFlags,
}

impl Walk<'_> {
    fn current(&self) -> BorrowedFd<'_> {
        self.above.last().map_or(self.root, AsFd::as_fd)
    }

    fn may_follow(&self) -> bool {
        self.scope != Scope::Entry && !self.flags.contains(OFlags::NOFOLLOW)
    }

    /// Puts a path in front of what is left to walk.
    fn prepend(&mut self, path: &[u8]) -> Result<(), Errno> {
        if path.first() == Some(&b'/') {
            if self.scope != Scope::InRoot {
                return Err(Errno::XDEV);
            }
            self.above.clear();
        }
        let more = !self.left.is_empty();
        for (index, name) in path.split(|&byte| byte == b'/').rev().enumerate() {
            let part = match name {
                // Only the slash at the very end of the path means something.
                b"" if index > 0 || more => continue,
                b"" | b"." => Part::Here,
                b".." => Part::Up,
                name => Part::Name(name.to_vec()),
            };
            self.left.push_front(part);
        }
        Ok(())
    }

    /// Goes on to a component that has to be a folder, or to what its symlink names.
    fn step(&mut self, part: Part) -> Result<(), Errno> {
        match part {
            Part::Here => Ok(()),
            Part::Up => match (self.above.pop(), self.scope) {
                (Some(_), _) | (None, Scope::InRoot) => Ok(()),
                (None, Scope::Beneath | Scope::Entry) => Err(Errno::XDEV),
            },
            Part::Name(name) => {
                let fd = self.peek(&name)?;
                match kind(&fd)? {
                    FileType::Directory => self.above.push(fd),
                    FileType::Symlink => self.follow(&fd)?,
                    _ => return Err(Errno::NOTDIR),
                }
                Ok(())
            }
        }
    }

    /// Opens the last component; `None` if it is a symlink, which was followed.
    fn last(&mut self, name: &[u8], mode: Mode) -> Result<Option<OwnedFd>, Errno> {
        let fresh = OFlags::CREATE | OFlags::EXCL;
        let found = match self.peek(name) {
            Ok(found) => found,
            Err(Errno::NOENT) if self.flags.contains(OFlags::CREATE) => {
                return rustix::fs::openat(self.current(), name, self.flags | OFlags::NOFOLLOW, mode)
                    .map(Some);
            }
            Err(errno) => return Err(errno),
        };
        let is_link = kind(&found)? == FileType::Symlink;
        if is_link && self.may_follow() && !self.flags.contains(fresh) {
            self.follow(&found)?;
            return Ok(None);
        }
        if is_link && !self.flags.contains(OFlags::NOFOLLOW) && !self.flags.contains(fresh) {
            return Err(Errno::LOOP);
        }
        if self.flags.contains(OFlags::PATH) {
            let wants_folder = self.flags.contains(OFlags::DIRECTORY);
            return match wants_folder && kind(&found)? != FileType::Directory {
                true => Err(Errno::NOTDIR),
                false => Ok(Some(found)),
            };
        }
        rustix::fs::openat(self.current(), name, self.flags | OFlags::NOFOLLOW, mode).map(Some)
    }

    /// An entry of the current folder, itself.
    fn peek(&self, name: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self.current(), name, flags, Mode::empty())
    }

    fn follow(&mut self, link: &OwnedFd) -> Result<(), Errno> {
        self.links += 1;
        if self.links > LINKS_MAX || self.scope == Scope::Entry {
            return Err(Errno::LOOP);
        }
        let text = rustix::fs::readlinkat(link, c"", Vec::new())?.into_bytes();
        let on_proc = rustix::fs::fstatfs(link)?.f_type as u64 == PROC_SUPER_MAGIC;
        if on_proc && (text.first() == Some(&b'/') || text.contains(&b':') || text.first() == Some(&b'(')) {
            return Err(Errno::LOOP);
        }
        self.prepend(&text)
    }
}

fn kind(fd: &OwnedFd) -> Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode))
}

/// Whether a call that was answered with `errno` is one that this process does not have: ENOSYS
/// always says so, EPERM does if it is said to a call that nothing can be wrong with.
pub(crate) fn lacks_openat2(errno: Errno) -> bool {
    let probe = || {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat2(CWD, c"/", flags, Mode::empty(), rustix::fs::ResolveFlags::empty())
    };
    match errno {
        Errno::NOSYS => true,
        Errno::PERM => matches!(probe(), Err(Errno::PERM)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;
    use crate::root::{self, Root};

    /// A root with links of every sort, and a host around it.
    fn world() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("root/etc/deep/er")).unwrap();
        std::fs::create_dir_all(at("host/etc")).unwrap();
        for name in ["root/etc/file", "root/file", "host/etc/file", "host/secret"] {
            std::fs::write(at(name), name).unwrap();
        }
        for (name, target) in [
            ("root/absolute", "/etc"),
            ("root/outside", at("host").to_str().unwrap()),
            ("root/up", "../../../../../../host"),
            ("root/in", "etc/../etc/deep"),
            ("root/slash", "etc/deep/"),
            ("root/slashed-file", "file/"),
            ("root/etc/back", ".."),
            ("root/etc/deep/er/far", "../../../in/er"),
            ("root/to-file", "etc/file"),
            ("root/dangling", "etc/nothing"),
            ("root/loop", "loop"),
            ("root/ping", "pong"),
            ("root/pong", "ping"),
            ("root/self", "."),
            ("root/top", "/"),
        ] {
            symlink(target, at(name)).unwrap();
        }
        for link in 0..45 {
            symlink(format!("chain{}", link + 1), at(&format!("root/chain{link}"))).unwrap();
        }
        symlink("file", at("root/chain45")).unwrap();
        dir
    }

    const PATHS: [&str; 60] = [
        "",
        "/",
        ".",
        "..",
        "./",
        "../",
        "//",
        "/..",
        "../..",
        "file",
        "/file",
        "file/",
        "file/.",
        "file/..",
        "file/x",
        "./file",
        "etc//file",
        "etc/./file",
        "etc/../file",
        "etc/../../file",
        "../file",
        "../../host/secret",
        "nothing",
        "nothing/",
        "nothing/..",
        "nothing/../file",
        "etc/nothing",
        "absolute",
        "absolute/",
        "absolute/file",
        "absolute/../file",
        "outside",
        "outside/secret",
        "outside/../host/secret",
        "up",
        "up/secret",
        "in",
        "in/er",
        "in/../file",
        "in/..",
        "slash",
        "slash/er",
        "slashed-file",
        "etc/back",
        "etc/back/file",
        "etc/back/back",
        "etc/deep/er/far",
        "to-file",
        "to-file/",
        "to-file/..",
        "dangling",
        "dangling/x",
        "loop",
        "loop/x",
        "ping",
        "self/self/self/file",
        "top/file",
        "chain6",
        "chain3",
        "top/../../self/absolute/back/in/er/.././er",
    ];

    const FLAGS: [OFlags; 7] = [
        OFlags::PATH,
        OFlags::PATH.union(OFlags::NOFOLLOW),
        OFlags::PATH.union(OFlags::DIRECTORY),
        OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW),
        OFlags::RDONLY,
        OFlags::RDONLY.union(OFlags::NOFOLLOW),
        OFlags::RDONLY.union(OFlags::DIRECTORY),
    ];

    /// What was opened: the file, and whether for its path alone.
    fn seen(result: Result<OwnedFd, Errno>) -> Result<(u64, bool), Errno> {
        let fd = result?;
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        Ok((rustix::fs::fstat(&fd)?.st_ino, flags.contains(OFlags::PATH)))
    }

    /// The kernel's own answer. A rename anywhere on the host during a walk through `..` is EAGAIN
    /// (openat2(2)): then it is asked again.
    fn kernels(root: &Root, path: &str, flags: OFlags, mode: Mode, scope: Scope) -> Result<OwnedFd, Errno> {
        use rustix::fs::ResolveFlags as Flags;
        let resolve = match scope {
            Scope::InRoot => Flags::IN_ROOT | Flags::NO_MAGICLINKS,
            Scope::Beneath => Flags::BENEATH | Flags::NO_MAGICLINKS,
            Scope::Entry => Flags::BENEATH | Flags::NO_SYMLINKS,
        };
        loop {
            match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, mode, resolve) {
                Err(Errno::AGAIN) => {}
                answer => return answer,
            }
        }
    }

    #[test]
    fn by_hand_every_path_ends_where_the_kernel_ends() {
        let world = world();
        let root = Root::open(&world.path().join("root")).unwrap();
        let mut found = 0;
        for (path, flags, scope) in PATHS.iter().flat_map(|path| {
            let scopes = [Scope::InRoot, Scope::Beneath, Scope::Entry];
            FLAGS.iter().flat_map(move |flags| scopes.map(move |scope| (*path, *flags, scope)))
        }) {
            let kernels = kernels(&root, path, flags, Mode::empty(), scope);
            let ours = open(root.as_fd(), path.as_bytes(), flags, Mode::empty(), scope);
            let (kernels, ours) = (seen(kernels), seen(ours));
            assert_eq!(ours, kernels, "{path:?} {flags:?} {scope:?}");
            found += usize::from(ours.is_ok());
        }
        assert!(found > 300, "most of the corpus finds nothing: {found}");
    }

    #[test]
    fn by_hand_files_are_made_where_the_kernel_makes_them() {
        let create = OFlags::CREATE | OFlags::WRONLY;
        for path in [
            "new",
            "etc/new",
            "absolute/new",
            "outside/new",
            "up/new",
            "dangling",
            "file",
            "to-file",
            "new/",
            "etc",
        ] {
            for flags in [create, create | OFlags::EXCL, create | OFlags::NOFOLLOW] {
                let made = |by_hand: bool| {
                    let world = world();
                    let root = Root::open(&world.path().join("root")).unwrap();
                    let mode = Mode::RUSR | Mode::WUSR;
                    let result = match by_hand {
                        true => open(root.as_fd(), path.as_bytes(), flags, mode, Scope::InRoot),
                        false => kernels(&root, path, flags, mode, Scope::InRoot),
                    };
                    let names = ["root/new", "root/etc/new", "root/etc/nothing", "host/new"];
                    (result.map(drop), names.map(|name| world.path().join(name).exists()))
                };
                let (ours, kernels) = (made(true), made(false));
                assert_eq!(ours, kernels, "{path:?} {flags:?}");
                assert!(!ours.1[3], "{path:?} reached the host");
            }
        }
    }

    #[test]
    fn by_hand_links_of_proc_are_text_or_refused_as_the_kernel_does() {
        let proc = Root::open(Path::new("/proc")).unwrap();
        for path in [
            "self",
            "self/status",
            "mounts",
            "thread-self",
            "net",
            "self/exe",
            "self/root",
            "self/cwd",
            "self/root/etc",
            "self/fd/0",
            "self/ns/mnt",
        ] {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let kernels = kernels(&proc, path, flags, Mode::empty(), Scope::InRoot);
            let ours = open(proc.as_fd(), path.as_bytes(), flags, Mode::empty(), Scope::InRoot);
            assert_eq!(ours.map(drop), kernels.map(drop), "{path}");
        }
    }

    /// seccomp(2): `openat2` ends with this errno, for the calling thread alone.
    fn forbid_openat2(errno: Errno) {
        let statement = |code: u64, jt: u64, jf: u64, k: u64| code | jt << 16 | jf << 24 | k << 32;
        let number = u64::try_from(libc::SYS_openat2).unwrap();
        let answer = u64::from(libc::SECCOMP_RET_ERRNO) | u64::try_from(errno.raw_os_error()).unwrap();
        let filter = [
            statement(0x20, 0, 0, 0),
            statement(0x15, 0, 1, number),
            statement(0x06, 0, 0, answer),
            statement(0x06, 0, 0, u64::from(libc::SECCOMP_RET_ALLOW)),
        ];
        crate::seccomp::install(&filter, 0).unwrap();
    }

    #[test]
    fn a_thread_without_openat2_resolves_all_the_same() {
        for errno in [Errno::NOSYS, Errno::PERM] {
            let run = move || {
                let world = world();
                let root = Root::open(&world.path().join("root")).unwrap();
                let before = PATHS.map(|path| {
                    root.find(Path::new(path)).map(|found| found.map(|h| h.stat().unwrap().st_ino))
                });
                forbid_openat2(errno);
                let direct = kernels(&root, "file", OFlags::PATH, Mode::empty(), Scope::InRoot);
                assert_eq!(direct.unwrap_err(), errno, "the control: the call is there");
                for (path, before) in PATHS.iter().zip(before) {
                    let after =
                        root.find(Path::new(path)).map(|found| found.map(|h| h.stat().unwrap().st_ino));
                    let errnos = |result: crate::Result<Option<u64>>| result.map_err(|error| error.errno);
                    assert_eq!(errnos(after), errnos(before), "{path:?}");
                }
                root.create_dirs(Path::new("absolute/a/b"), Mode::RWXU).unwrap();
                assert!(world.path().join("root/etc/a/b").is_dir());
                assert!(root.create_dirs(Path::new("outside/a"), Mode::RWXU).is_err());
                assert!(
                    root::open_beneath(&root, Path::new("../host"), OFlags::PATH, Mode::empty()).is_err()
                );
                assert!(!world.path().join("host/a").exists());
            };
            std::thread::spawn(run).join().unwrap();
        }
    }

    /// A folder turns into a link to the host and back while it is walked through.
    #[test]
    fn no_race_of_renames_leads_out() {
        let world = world();
        let (at, host) = (world.path().join("root"), world.path().join("host"));
        std::fs::create_dir(at.join("swap")).unwrap();
        std::fs::write(at.join("swap/secret"), "inside").unwrap();
        symlink(&host, at.join("bait")).unwrap();
        let root = Root::open(&at).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        let outside = std::fs::metadata(host.join("secret"))
            .map(|meta| std::os::unix::fs::MetadataExt::ino(&meta))
            .unwrap();
        let (mut met, mut naive) = ([0; 2], 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    rustix::fs::renameat_with(&root, "swap", &root, "bait", exchange).unwrap();
                }
            });
            let attempts = if std::env::var_os("HULL_SOAK").is_some() { 1_000_000 } else { 10_000 };
            for attempt in 0..attempts {
                let up = ["swap/secret", "swap/../swap/secret"][attempt % 2];
                match seen(open(root.as_fd(), up.as_bytes(), OFlags::RDONLY, Mode::empty(), Scope::InRoot)) {
                    Ok((ino, _)) => {
                        assert_ne!(ino, outside, "it got out");
                        met[0] += 1;
                    }
                    Err(_) => met[1] += 1,
                }
                naive += usize::from(
                    std::fs::read_to_string(at.join("swap/secret"))
                        .is_ok_and(|text| text.starts_with("host")),
                );
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(met.iter().all(|count| *count > 0), "the walk never met both: {met:?}");
        assert!(naive > 0, "the control: a plain walk does get out");
    }
}
