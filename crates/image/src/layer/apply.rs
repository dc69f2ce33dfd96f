//! An archive becomes a folder.
//!
//! [`apply`] makes a folder of it, and what both of its digests are comes out; [`extract`] does so where
//! nobody asks for these; [`unpack`] puts it into a tree in use.

use std::cell::RefCell;
use std::io::{self, BufRead, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use hull_oci::Digest;
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode as Bits, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::behind::{Behind, LARGE};
use super::parents::{Missing, Parent, Parents, set_opaque};
use super::stream::{Bound, Hashed, Hashing, Piped, Side, Source};
use super::{AUFS, OPAQUE, WHITEOUT, is_portable, is_whiteout, shown};
use crate::compress::{Compression, Unfolding};
use crate::tar::{self, Entry, Extent, Kind, Time};

/// What names and metadata in the archive mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A layer of an image: whiteouts become overlayfs's.
    Layer,
    /// Any archive: names starting with `.wh.` are names as all others.
    Plain,
    /// Only contents: regular files (mode 0600), folders (0700) and symbolic links,
    /// owned by whoever extracts, without attributes; devices and FIFOs are
    /// refused. For archives that carry documents, as `docker load` gets them.
    Files,
    /// Nothing is unpacked: the uncompressed bytes, whatever they are, become the file
    /// [`STREAM`] of the folder. For compressions in which layers are not kept.
    Stream,
}

/// The one file that [`Mode::Stream`] makes (mode 0600).
pub const STREAM: &str = "stream";

/// What `apply` puts up with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    pub tar: tar::Limits,
    pub unfolding: Unfolding,
}

/// What came out of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Digest of the bytes as they were read.
    pub blob: Digest,
    /// How many bytes these were.
    pub blob_size: u64,
    /// Digest of the uncompressed archive.
    pub diff_id: Digest,
    /// Sum of the sizes of all files, holes counted too (bytes).
    pub size: u64,
    /// Entries, without extended headers.
    pub entries: u64,
    pub compression: Compression,
}

/// Why an archive could not be applied. The folder is then in an unknown state
/// and must be thrown away.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Archive(#[from] tar::Error),
    #[error("cannot read the {} stream", .compression.name())]
    Read { compression: Compression, source: io::Error },
    #[error("cannot {action} \"{name}\" ({errno})")]
    Entry { action: &'static str, name: String, errno: Errno },
    #[error("\"{name}\" links to \"{target}\", which this archive does not hold before it")]
    LinkTarget { name: String, target: String },
    #[error("\"{name}\" is not a valid whiteout")]
    Whiteout { name: String },
    #[error("\"{name}\" is a device or FIFO, which has no place in this archive")]
    Special { name: String },
    /// In the reference's words.
    #[error("cannot overwrite {} \"{name}\" with {}", noun(*.folder), noun(!.folder))]
    Overwrite { name: String, folder: bool },
}

fn noun(folder: bool) -> &'static str {
    if folder { "directory" } else { "non-directory" }
}

/// How an archive is put into a tree in use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unpack {
    /// A folder never takes the place of anything else, nor anything else that of a folder.
    pub keep_kinds: bool,
    /// Where the tree has a link to a folder, a folder of the archive is that one, as dpkg(1) takes it:
    /// the link stays as it is, and the folder too.
    pub keep_links: bool,
    pub owner: Owner,
    pub rename: Option<Rename>,
}

/// Who owns what is unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Owner {
    /// Whom the archive names.
    #[default]
    Named,
    /// This user and group.
    One(u32, u32),
    /// Whoever unpacks; needs no capability, and attributes that would are left out.
    Caller,
}

/// All names that begin with the folder `first` begin with `to` instead. Where `first` is `.` or `/`,
/// which are no names in an archive, all are put into `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rename {
    pub first: String,
    pub to: String,
}

impl Rename {
    fn apply(&self, name: &mut Vec<u8>) {
        let rest = match &*self.first {
            "." | "/" => Some(&name[..]),
            first => name.strip_prefix(first.as_bytes()),
        };
        let renamed = match rest {
            Some(b"") => self.to.clone().into_bytes(),
            Some(rest) if self.first == "." || self.first == "/" => [self.to.as_bytes(), b"/", rest].concat(),
            Some(rest) if rest.starts_with(b"/") => [self.to.as_bytes(), rest].concat(),
            _ => return,
        };
        *name = renamed;
    }
}

/// Extracts the archive in `source` into the folder `root`, compressed or not,
/// reading it to its end. Nothing outside of `root` is ever touched, whatever the
/// archive holds.
///
/// Needs, to give files what archives say: CAP_CHOWN, CAP_DAC_OVERRIDE,
/// CAP_FOWNER, CAP_FSETID, CAP_MKNOD, CAP_SETFCAP, and CAP_SYS_ADMIN for opaque
/// folders. Uses a second thread for the digests where one can be made.
pub fn apply(
    source: &mut dyn Read,
    root: BorrowedFd<'_>,
    mode: Mode,
    limits: &Limits,
) -> Result<Applied, ApplyError> {
    let hashing = RefCell::new(Hashing::start());
    let blob_size = AtomicU64::new(0);
    let mut extraction = Extraction::new(root, mode);
    let source = Source::Stream(source);
    let compression = read_through(source, &hashing, &blob_size, &mut extraction, limits)?;
    let read = |source| ApplyError::Read { compression, source };
    let [blob, diff] = hashing.into_inner().finish().map_err(read)?;
    let diff_id = if compression == Compression::Plain { blob.clone() } else { diff };
    let Extraction { size, entries, .. } = extraction;
    Ok(Applied { blob, blob_size: blob_size.into_inner(), diff_id, size, entries, compression })
}

/// The same where nobody asks for digests: the bytes of a large file go from a pipe into it unseen. Gives
/// the sum of the sizes of all files, in bytes.
pub fn extract(
    source: Source<'_>,
    root: BorrowedFd<'_>,
    mode: Mode,
    limits: &Limits,
) -> Result<u64, ApplyError> {
    let (hashing, count) = (RefCell::new(Hashing::Nothing), AtomicU64::new(0));
    let mut extraction = Extraction::new(root, mode);
    read_through(source, &hashing, &count, &mut extraction, limits)?;
    Ok(extraction.size)
}

/// The same in [`Mode::Files`], while large files are hashed, each by itself. They are there when this
/// returns; their digests come later. `None`: they have to be hashed by who wants that, because the archive
/// names something twice, so that an inode's number may not be one file's alone.
pub fn extract_files(
    source: Source<'_>,
    root: BorrowedFd<'_>,
    limits: &Limits,
) -> Result<Option<Behind>, ApplyError> {
    let (hashing, count) = (RefCell::new(Hashing::Nothing), AtomicU64::new(0));
    let mut extraction = Extraction::new(root, Mode::Files);
    extraction.behind = Behind::start();
    read_through(source, &hashing, &count, &mut extraction, limits)?;
    Ok(extraction.behind.filter(|_| !extraction.replaced))
}

/// Reads the archive to its end, whatever it is packed with. Nobody hashes what comes from a pipe.
fn read_through(
    source: Source<'_>,
    hashing: &RefCell<Hashing>,
    blob_size: &AtomicU64,
    extraction: &mut Extraction<'_>,
    limits: &Limits,
) -> Result<Compression, ApplyError> {
    let diff_size = AtomicU64::new(0);
    let (source, pipe): (Box<dyn Read + '_>, _) = match source {
        Source::Stream(stream) => (Box::new(stream), None),
        Source::Pipe(pipe) => (Box::new(Piped(pipe)), Some(pipe)),
    };
    let mut blob = Hashed::new(source, Side::Blob, hashing, blob_size, None);
    blob.pipe = pipe;
    let first = blob.fill_buf();
    let first = first.map_err(|source| ApplyError::Read { compression: Compression::Plain, source })?;
    let compression = Compression::detect(first);
    let read = |source| ApplyError::Read { compression, source };
    if compression == Compression::Plain {
        extraction.run(&mut blob, limits)?;
    } else {
        let decoder = compression.decoder(&mut blob).map_err(read)?;
        let bound = Bound { unfolding: limits.unfolding, compressed: blob_size };
        let mut diff = Hashed::new(decoder, Side::Diff, hashing, &diff_size, Some(bound));
        extraction.run(&mut diff, limits)?;
        diff.drain().map_err(read)?;
    }
    blob.drain().map_err(read)?;
    Ok(compression)
}

impl Unpack {
    fn adapt(&self, entry: &mut Entry) {
        if let Owner::One(uid, gid) = self.owner {
            (entry.uid, entry.gid) = (uid, gid);
        }
        if let Some(rename) = &self.rename {
            rename.apply(&mut entry.name);
            if let Kind::Link { target } = &mut entry.kind {
                rename.apply(target);
            }
        }
    }
}

/// Extracts the archive in `source`, compressed or not, into the folder `into` of the tree `root`,
/// reading it to its end; gives its length as it came, in bytes, which `count` is counted up to for who
/// watches. What is there stays, but for what the archive has, too; as in
/// [`Mode::Plain`] no name means anything. Links of the tree are followed as a process with `root` as
/// its root would follow them, wherever they are part of a name's folders.
///
/// The tree may be in use: a file that cannot be removed because something is mounted there gets the
/// new content.
pub fn unpack(
    source: Source<'_>,
    root: BorrowedFd<'_>,
    into: &[u8],
    options: &Unpack,
    limits: &Limits,
    count: &AtomicU64,
) -> Result<u64, ApplyError> {
    let hashing = RefCell::new(Hashing::Nothing);
    let mut extraction = Extraction::below(Parents::within(root, into), Mode::Plain);
    extraction.in_use = Some(options);
    read_through(source, &hashing, count, &mut extraction, limits)?;
    Ok(count.load(Ordering::Relaxed))
}

/// A file whose bytes are still to be written.
struct Unfinished {
    fd: OwnedFd,
    /// It has the group of its folder.
    inherited: bool,
}

/// Entries on their way into a folder.
struct Extraction<'a> {
    mode: Mode,
    /// Set where the tree is more than this archive's.
    in_use: Option<&'a Unpack>,
    parents: Parents<'a>,
    /// Folders whose times are set at the end, when nothing is made in them any more.
    folders: Vec<(Vec<u8>, Time)>,
    /// Hashes large files.
    behind: Option<Behind>,
    /// Something was removed for something that has its name.
    replaced: bool,
    user: (u32, u32),
    size: u64,
    entries: u64,
}

/// `Errno` to `ApplyError`, with what was tried on which entry.
fn failed(action: &'static str, name: &[u8]) -> impl Fn(Errno) -> ApplyError {
    move |errno| ApplyError::Entry { action, name: shown(name), errno }
}

/// Parent and last component of a normalised name.
fn split(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&name[..slash], &name[slash + 1..]),
        None => (b"", name),
    }
}

impl<'a> Extraction<'a> {
    fn new(root: BorrowedFd<'a>, mode: Mode) -> Self {
        Self::below(Parents::new(root), mode)
    }

    fn below(parents: Parents<'a>, mode: Mode) -> Self {
        let user = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let (folders, behind, replaced) = (Vec::new(), None, false);
        Self { mode, in_use: None, parents, folders, behind, replaced, user, size: 0, entries: 0 }
    }

    fn run(&mut self, archive: &mut dyn tar::Input, limits: &Limits) -> Result<(), ApplyError> {
        if self.mode == Mode::Stream {
            return self.keep(archive);
        }
        let mut reader = tar::Reader::new(archive, limits.tar.clone());
        while let Some(mut entry) = reader.next()? {
            self.entries += 1;
            if let Some(options) = self.in_use {
                options.adapt(&mut entry);
            }
            match &entry.kind {
                Kind::File { size, extents } if !entry.name.is_empty() && !self.is_whiteout(&entry) => {
                    let file = self.begin_file(&entry)?;
                    // Holes cost nothing to send, and much to hash: nobody does that unasked.
                    let large = *size >= LARGE && extents.is_none();
                    let behind = self.behind.as_mut().filter(|_| large);
                    let behind = behind.and_then(|behind| behind.begin(&file.fd).then_some(&*behind));
                    match extents {
                        None => write_whole(&file.fd, &mut reader, &entry.name, behind)?,
                        Some(extents) => write_sparse(&file.fd, &mut reader, &entry.name, *size, extents)?,
                    }
                    if let Some(behind) = behind {
                        let stat = rustix::fs::fstat(&file.fd).map_err(failed("examine", &entry.name))?;
                        behind.end(stat.st_ino);
                    }
                    self.end_file(&file, &entry)?;
                }
                _ => self.place(&entry)?,
            }
        }
        self.set_folder_times()
    }

    /// Whether the entry only says what of lower layers is not seen.
    fn is_whiteout(&self, entry: &Entry) -> bool {
        self.mode == Mode::Layer && entry.name.split(|&b| b == b'/').any(|c| c.starts_with(WHITEOUT))
    }

    /// Writes the stream down as it comes.
    fn keep(&mut self, stream: &mut dyn tar::Input) -> Result<(), ApplyError> {
        let name = STREAM.as_bytes();
        let parent = self.parents.open(b"", &Missing::Fail).map_err(failed("open the folder", b"."))?;
        let fd = self.create(&parent, name, name)?;
        loop {
            let bytes = stream.fill_buf().map_err(|source| tar::Error::Read { offset: self.size, source })?;
            if bytes.is_empty() {
                return Ok(());
            }
            let written = rustix::io::retry_on_intr(|| rustix::io::write(&fd, bytes));
            let written = written.map_err(failed("write", name))?;
            stream.consume(written);
            self.size += written as u64;
        }
    }

    fn missing(&self) -> Missing {
        Missing::Create { over_whiteouts: self.mode == Mode::Layer }
    }

    fn parent<'n>(&mut self, name: &'n [u8]) -> Result<(Rc<Parent>, &'n [u8]), ApplyError> {
        let (parent, base) = split(name);
        let missing = self.missing();
        let parent = self.parents.open(parent, &missing).map_err(failed("open the folder of", name))?;
        Ok((parent, base))
    }

    /// An entry that has no data.
    fn place(&mut self, entry: &Entry) -> Result<(), ApplyError> {
        if self.is_whiteout(entry) {
            return self.whiteout(entry);
        }
        let name = &entry.name[..];
        if name.is_empty() {
            return self.root(entry);
        }
        let (parent, base) = self.parent(name)?;
        match &entry.kind {
            Kind::File { .. } => {
                let file = self.begin_file(entry)?;
                self.end_file(&file, entry)
            }
            Kind::Directory => self.folder(&parent, base, entry),
            Kind::Symlink { target } => {
                let make = || rustix::fs::symlinkat(&target[..], &parent.fd, base);
                self.make(&parent, name, base, "make the link", &make)?;
                self.own_node(&parent, base, entry, None)
            }
            Kind::Link { target } => self.link(&parent, base, name, target),
            Kind::Character { major, minor } => {
                self.node(&parent, base, entry, FileType::CharacterDevice, (*major, *minor))
            }
            Kind::Block { major, minor } => {
                self.node(&parent, base, entry, FileType::BlockDevice, (*major, *minor))
            }
            Kind::Fifo => self.node(&parent, base, entry, FileType::Fifo, (0, 0)),
        }
    }

    /// Makes an empty file, to be written by the caller and then given to [`Self::end_file`].
    fn begin_file(&mut self, entry: &Entry) -> Result<Unfinished, ApplyError> {
        let (parent, base) = self.parent(&entry.name)?;
        let fd = self.create(&parent, &entry.name, base)?;
        // A file that was there already has an owner, too.
        Ok(Unfinished { fd, inherited: parent.set_gid || self.in_use.is_some() })
    }

    /// Gives a file that has its bytes all else.
    fn end_file(&mut self, file: &Unfinished, entry: &Entry) -> Result<(), ApplyError> {
        if let Kind::File { size, .. } = entry.kind {
            self.size += size;
        }
        self.own(file.fd.as_fd(), entry, file.inherited)?;
        self.attributes(file.fd.as_fd(), entry)?;
        rustix::fs::futimens(&file.fd, &times(entry.mtime)).map_err(failed("set the times of", &entry.name))
    }

    /// Refuses something else in the place of a folder, or the other way round, if that is asked for.
    fn keep_kind(&self, name: &[u8], there_is_folder: bool, comes_folder: bool) -> Result<(), ApplyError> {
        if there_is_folder == comes_folder || !self.in_use.is_some_and(|options| options.keep_kinds) {
            return Ok(());
        }
        Err(ApplyError::Overwrite { name: shown(name), folder: there_is_folder })
    }

    /// The entry for the root folder itself: its owner, mode, attributes, times.
    fn root(&mut self, entry: &Entry) -> Result<(), ApplyError> {
        let root = self.parents.open(b"", &Missing::Fail).map_err(failed("open the folder", b"."))?;
        self.own(root.fd.as_fd(), entry, true)?;
        self.attributes(root.fd.as_fd(), entry)?;
        self.parents.forget();
        self.folders.push((Vec::new(), entry.mtime));
        Ok(())
    }

    /// Runs `make`, which makes no folder; if the name is taken, removes what has it and runs it again.
    fn make<T>(
        &mut self,
        parent: &Parent,
        name: &[u8],
        base: &[u8],
        action: &'static str,
        make: &dyn Fn() -> Result<T, Errno>,
    ) -> Result<T, ApplyError> {
        match make() {
            Err(Errno::EXIST) => {
                if self.in_use.is_some() {
                    let there = rustix::fs::statat(&parent.fd, base, AtFlags::SYMLINK_NOFOLLOW);
                    let there = there.map_err(failed("examine", name))?;
                    self.keep_kind(name, is_folder(&there), false)?;
                }
                self.parents.forget();
                self.replaced = true;
                remove(parent.fd.as_fd(), base).map_err(failed("replace", name))?;
                make().map_err(failed(action, name))
            }
            result => result.map_err(failed(action, name)),
        }
    }

    fn create(&mut self, parent: &Parent, name: &[u8], base: &[u8]) -> Result<OwnedFd, ApplyError> {
        let access = if self.behind.is_some() { OFlags::RDWR } else { OFlags::WRONLY };
        let flags = access | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let make = || rustix::fs::openat(&parent.fd, base, flags, Bits::from_raw_mode(0o600));
        match self.make(parent, name, base, "create the file", &make) {
            Err(ApplyError::Entry { errno: Errno::BUSY, .. }) if self.in_use.is_some() => {
                rewrite(parent, base).map_err(failed("write to the mounted file", name))
            }
            made => made,
        }
    }

    fn folder(&mut self, parent: &Parent, base: &[u8], entry: &Entry) -> Result<(), ApplyError> {
        let name = &entry.name[..];
        let mut opaque = false;
        if let Err(errno) = rustix::fs::mkdirat(&parent.fd, base, Bits::from_raw_mode(0o700)) {
            let error = failed("make the folder", name);
            if errno != Errno::EXIST {
                return Err(error(errno));
            }
            let stat = rustix::fs::statat(&parent.fd, base, AtFlags::SYMLINK_NOFOLLOW).map_err(&error)?;
            self.keep_kind(name, is_folder(&stat), true)?;
            let keep_links = self.in_use.is_some_and(|options| options.keep_links);
            if keep_links && is_link(&stat) && self.parents.open(name, &Missing::Fail).is_ok() {
                return Ok(());
            }
            if !is_folder(&stat) {
                // A whiteout of the same layer hides what lower layers have here.
                opaque = self.mode == Mode::Layer && is_whiteout(&stat);
                self.parents.forget();
                self.replaced = true;
                rustix::fs::unlinkat(&parent.fd, base, AtFlags::empty()).map_err(failed("replace", name))?;
                rustix::fs::mkdirat(&parent.fd, base, Bits::from_raw_mode(0o700)).map_err(&error)?;
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&parent.fd, base, flags, Bits::empty())
            .map_err(failed("open the folder", name))?;
        self.own(fd.as_fd(), entry, true)?;
        self.attributes(fd.as_fd(), entry)?;
        if opaque {
            set_opaque(fd.as_fd()).map_err(failed("mark as opaque", name))?;
        }
        if entry.mode & 0o2000 != 0 {
            self.parents.forget();
        }
        self.folders.push((name.to_vec(), entry.mtime));
        Ok(())
    }

    /// Owner, then mode: a change of owner takes the set-id bits away. A new file
    /// has the process's owner already unless its folder hands down its group.
    fn own(&self, fd: BorrowedFd<'_>, entry: &Entry, inherited: bool) -> Result<(), ApplyError> {
        let folder = entry.kind == Kind::Directory;
        if self.mode == Mode::Files {
            let bits = Bits::from_raw_mode(if folder { 0o700 } else { 0o600 });
            return rustix::fs::fchmod(fd, bits).map_err(failed("set the mode of", &entry.name));
        }
        if !self.owned_by_caller() && (inherited || (entry.uid, entry.gid) != self.user) {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(failed("set the owner of", &entry.name))?;
        }
        rustix::fs::fchmod(fd, Bits::from_raw_mode(entry.mode))
            .map_err(failed("set the mode of", &entry.name))
    }

    fn owned_by_caller(&self) -> bool {
        self.in_use.is_some_and(|options| options.owner == Owner::Caller)
    }

    fn attributes(&self, fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), ApplyError> {
        if self.mode == Mode::Files {
            return Ok(());
        }
        for (attribute, value) in &entry.xattrs {
            if !is_portable(attribute) {
                continue;
            }
            match rustix::fs::fsetxattr(fd, &attribute[..], value, XattrFlags::empty()) {
                // The file system has no such attributes (tmpfs: none of user.*,
                // many: no ACLs). An image stays usable without, unless they
                // give capabilities.
                Err(Errno::OPNOTSUPP) if attribute != b"security.capability" => {}
                Err(Errno::OPNOTSUPP | Errno::PERM) if self.owned_by_caller() => {}
                result => result.map_err(failed("set an extended attribute of", &entry.name))?,
            }
        }
        Ok(())
    }

    /// Owner, mode and times of what is not opened. `mode`: the bits wanted, none
    /// for links, which have no mode.
    fn own_node(
        &self,
        parent: &Parent,
        base: &[u8],
        entry: &Entry,
        mode: Option<u32>,
    ) -> Result<(), ApplyError> {
        let name = &entry.name[..];
        let named = self.mode != Mode::Files && !self.owned_by_caller();
        if named && (parent.set_gid || (entry.uid, entry.gid) != self.user) {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            rustix::fs::chownat(&parent.fd, base, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed("set the owner of", name))?;
        }
        if let Some(mode) = mode {
            // chmod follows links, so it is used only if the umask took bits away.
            let stat = rustix::fs::statat(&parent.fd, base, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed("examine", name))?;
            let special =
                !matches!(FileType::from_raw_mode(stat.st_mode), FileType::Symlink | FileType::Directory);
            if special && stat.st_mode & 0o7777 != mode {
                rustix::fs::chmodat(&parent.fd, base, Bits::from_raw_mode(mode), AtFlags::empty())
                    .map_err(failed("set the mode of", name))?;
            }
        }
        rustix::fs::utimensat(&parent.fd, base, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("set the times of", name))
    }

    fn node(
        &mut self,
        parent: &Parent,
        base: &[u8],
        entry: &Entry,
        kind: FileType,
        (major, minor): (u32, u32),
    ) -> Result<(), ApplyError> {
        let name = &entry.name[..];
        let disguised = kind == FileType::CharacterDevice && (major, minor) == (0, 0);
        if self.mode == Mode::Files || disguised && self.mode == Mode::Layer {
            return Err(ApplyError::Special { name: shown(name) });
        }
        let device = rustix::fs::makedev(major, minor);
        let make = || rustix::fs::mknodat(&parent.fd, base, kind, Bits::from_raw_mode(entry.mode), device);
        self.make(parent, name, base, "make the node", &make)?;
        self.own_node(parent, base, entry, Some(entry.mode))
    }

    fn link(&mut self, parent: &Parent, base: &[u8], name: &[u8], target: &[u8]) -> Result<(), ApplyError> {
        let absent = || ApplyError::LinkTarget { name: shown(name), target: shown(target) };
        if self.mode == Mode::Layer && target.split(|&b| b == b'/').any(|c| c.starts_with(WHITEOUT)) {
            return Err(absent());
        }
        let (folder, target_base) = split(target);
        let folder = match self.parents.open(folder, &Missing::Fail) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(absent()),
            result => result.map_err(failed("open the target's folder of", name))?,
        };
        let stat = match rustix::fs::statat(&folder.fd, target_base, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Err(absent()),
            result => result.map_err(failed("examine the target of", name))?,
        };
        if self.mode == Mode::Layer && is_whiteout(&stat) {
            return Err(absent());
        }
        match rustix::fs::statat(&parent.fd, base, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(known) if (known.st_dev, known.st_ino) == (stat.st_dev, stat.st_ino) => return Ok(()),
            _ => {}
        }
        let make = || rustix::fs::linkat(&folder.fd, target_base, &parent.fd, base, AtFlags::empty());
        match self.make(parent, name, base, "make the hard link", &make) {
            // The target was inside the folder that the link has replaced.
            Err(ApplyError::Entry { errno: Errno::NOENT, .. }) => Err(absent()),
            result => result,
        }
    }

    fn whiteout(&mut self, entry: &Entry) -> Result<(), ApplyError> {
        let name = &entry.name[..];
        let invalid = || ApplyError::Whiteout { name: shown(name) };
        if name.starts_with(AUFS) && name != OPAQUE {
            return Ok(());
        }
        let (folder, base) = split(name);
        if folder.split(|&b| b == b'/').any(|component| component.starts_with(WHITEOUT)) {
            return Err(invalid());
        }
        let hidden = base.strip_prefix(WHITEOUT).ok_or_else(invalid)?;
        if base != OPAQUE && base.starts_with(AUFS) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(invalid());
        }
        let (parent, _) = self.parent(name)?;
        if base == OPAQUE {
            return set_opaque(parent.fd.as_fd()).map_err(failed("mark as opaque the folder of", name));
        }
        match rustix::fs::statat(&parent.fd, hidden, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {
                let nobody = rustix::fs::makedev(0, 0);
                rustix::fs::mknodat(&parent.fd, hidden, FileType::CharacterDevice, Bits::empty(), nobody)
                    .map_err(failed("make the whiteout", name))
            }
            // This layer has a folder there already: only lower layers' is hidden.
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(&parent.fd, hidden, flags, Bits::empty())
                    .and_then(|fd| set_opaque(fd.as_fd()))
                    .map_err(failed("mark as opaque", name))
            }
            // Anything else hides lower layers by being there.
            Ok(_) => Ok(()),
            Err(errno) => Err(failed("examine what is hidden by", name)(errno)),
        }
    }

    /// The last thing to do.
    fn set_folder_times(&mut self) -> Result<(), ApplyError> {
        for (name, mtime) in std::mem::take(&mut self.folders) {
            let (folder, base) = split(&name);
            let parent = match self.parents.open(folder, &Missing::Fail) {
                // A later entry has replaced the folder, or a folder above it.
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                result => result.map_err(failed("open the folder of", &name))?,
            };
            let result = if base.is_empty() {
                rustix::fs::futimens(&parent.fd, &times(mtime))
            } else {
                rustix::fs::utimensat(&parent.fd, base, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
            };
            match result {
                Err(Errno::NOENT) => {}
                result => result.map_err(failed("set the times of", &name))?,
            }
        }
        Ok(())
    }
}

fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn is_link(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
}

/// A file that something is mounted on, to be written anew: it can have no successor.
fn rewrite(parent: &Parent, base: &[u8]) -> Result<OwnedFd, Errno> {
    // NONBLOCK: it may be a FIFO, which is refused below.
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&parent.fd, base, flags, Bits::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) != FileType::RegularFile {
        return Err(Errno::BUSY);
    }
    rustix::fs::ftruncate(&fd, 0)?;
    Ok(fd)
}

/// Modification and access time: the archive's one.
fn times(time: Time) -> Timestamps {
    let time = Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn write_whole(
    fd: &OwnedFd,
    reader: &mut tar::Reader<'_>,
    name: &[u8],
    behind: Option<&Behind>,
) -> Result<(), ApplyError> {
    loop {
        if let Some(behind) = behind {
            behind.more();
        }
        if reader.move_to(fd.as_fd()).map_err(failed("write", name))? {
            continue;
        }
        let bytes = reader.data()?;
        if bytes.is_empty() {
            return Ok(());
        }
        match rustix::io::write(fd, bytes) {
            Err(Errno::INTR) => {}
            result => {
                let written = result.map_err(failed("write", name))?;
                reader.consume(written);
            }
        }
    }
}

/// Writes each extent at its place; the file's length makes the last hole.
fn write_sparse(
    fd: &OwnedFd,
    reader: &mut tar::Reader<'_>,
    name: &[u8],
    size: u64,
    extents: &[Extent],
) -> Result<(), ApplyError> {
    for extent in extents {
        let (mut at, end) = (extent.offset, extent.offset + extent.length);
        while at < end {
            let bytes = reader.data()?;
            let most = bytes.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            match rustix::io::pwrite(fd, &bytes[..most], at) {
                Err(Errno::INTR) => {}
                result => {
                    let written = result.map_err(failed("write", name))?;
                    reader.consume(written);
                    at += written as u64;
                }
            }
        }
    }
    rustix::fs::ftruncate(fd, size).map_err(failed("set the size of", name))
}

/// Removes a file, link or whole tree by descriptors; links in it are not followed.
pub(super) fn remove(parent: BorrowedFd<'_>, base: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, base, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        result => return result,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(parent, base, flags, Bits::empty())?;
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            remove(folder.as_fd(), name)?;
        }
    }
    rustix::fs::unlinkat(parent, base, AtFlags::REMOVEDIR)
}
