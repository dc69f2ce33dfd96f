//! A context that is known by its list: its files are asked for when their bytes are needed.
//!
//! Neither the list nor what the client gives for a number is believed: a file counts as what it is when it
//! is read, and a copy counts only if it has the bytes that the step's digest is of.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, mpsc};

use hull_context::files::{Ask, Files, Missing};
use hull_context::reading::{self, Part};
use hull_context::{
    DIGESTS_MAX, Digests, Entry, Inside, Kind, LISTING_MAX, Listing, Matched, Remembered, Stamp, fingerprint,
};
use hull_image::layer::{Archive, Bare, Copying, Dress, is_archive};
use hull_oci::Digest;
use hull_sys::memfd;
use hull_sys::root::open_inside;
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::build::{Error, Targets, chosen, dress, join};
use crate::protocol::{Copy, Role, Selection};

/// Bytes read at once.
const BLOCK: usize = 128 << 10;
/// Files that wait to be read.
const WAITING: usize = 64;
/// Most that are read at a time.
const READERS: usize = 4;

/// What came with the work.
#[derive(Debug, Default)]
pub(super) struct Given {
    list: Option<(OwnedFd, u64, i64)>,
    files: Option<Files>,
    digests: Option<OwnedFd>,
    learned: Option<OwnedFd>,
}

impl Given {
    pub(super) fn take(&mut self, role: Role, fd: OwnedFd) {
        match role {
            Role::Listing { build, settled } => self.list = Some((fd, build, settled)),
            Role::Files { ahead } => self.files = Some(Files::new(fd, ahead)),
            Role::Digests => self.digests = Some(fd),
            Role::Learned => self.learned = Some(fd),
            _ => {}
        }
    }

    pub(super) fn is_there(&self) -> bool {
        self.list.is_some()
    }

    /// Reads the list, and where to write what is learned is given back.
    pub(super) fn open(self) -> Result<(Listed, Option<OwnedFd>), Error> {
        let (Some((list, build, settled)), Some(files), Some(digests)) =
            (self.list, self.files, self.digests)
        else {
            return Err(Error::Given);
        };
        let listing = Listing::decode(&memfd::read_sealed(list, LISTING_MAX)?)?;
        let digests = Digests::decode(&whole(&digests).map_err(|source| Error::Table { source })?);
        Ok((Listed { listing, files, digests, build, settled }, self.learned))
    }
}

pub(super) struct Listed {
    listing: Listing,
    files: Files,
    digests: Digests,
    build: u64,
    /// Seconds.
    settled: i64,
}

impl Listed {
    /// The digest of what is selected, and how many files were read for it; without any, nothing was learned.
    pub(super) fn fingerprint(
        &mut self,
        selection: &Selection,
        learned: &OwnedFd,
    ) -> Result<(Digest, u64), Error> {
        let matched = chosen(&self.listing, selection)?;
        let unknown: Vec<u32> = self.unknown(&matched).into_iter().collect();
        for (path, remembered) in self.read(&unknown)? {
            self.digests.put(path, remembered);
        }
        let digest = fingerprint(&matched, |_, path| {
            let known = self.digests.promised(path, self.build);
            let contents = known.map(|known| known.digest.clone());
            Ok::<_, Error>(Inside { contents, attributes: Vec::new() })
        })?;
        if !unknown.is_empty() {
            let listing = &self.listing;
            self.digests.retain(|path| listing.find(path).is_some());
            write(learned, &self.digests.encode())?;
        }
        Ok((digest, unknown.len() as u64))
    }

    /// The numbers of those files whose digest nobody knows. The others' are promised.
    fn unknown(&mut self, matched: &[Matched]) -> BTreeSet<u32> {
        let mut unknown = BTreeSet::new();
        let all = matched.iter().flat_map(|one| {
            let below = one.below.iter().map(|entry| one.entry.path.join(&entry.path));
            std::iter::once(one.entry.path.clone()).chain(below)
        });
        for path in all {
            let Some((number, entry)) = self.listing.find(&path) else { continue };
            if let Some(stamp) = entry.stamp()
                && self.digests.promise(&path, stamp, self.build).is_none()
            {
                unknown.insert(number);
            }
        }
        unknown
    }

    /// Reads files, several at a time.
    fn read(&self, numbers: &[u32]) -> Result<Vec<(PathBuf, Remembered)>, Error> {
        let (listing, about) = (&self.listing, (self.build, self.settled));
        let (give, take) = mpsc::sync_channel::<(&Entry, OwnedFd)>(WAITING);
        let take = Mutex::new(take);
        let readers = std::thread::available_parallelism().map_or(1, |count| count.get().min(READERS));
        let reader = || -> Result<Vec<(PathBuf, Remembered)>, Error> {
            let (mut all, mut block) = (Vec::new(), vec![0; BLOCK]);
            loop {
                let next = take.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok((entry, file)) = next else { return Ok(all) };
                all.push((entry.path.clone(), digest(entry, &file, about, &mut block)?));
            }
        };
        std::thread::scope(|scope| {
            let reading: Vec<_> = (0..readers.min(numbers.len())).map(|_| scope.spawn(reader)).collect();
            let asks: Vec<Ask> = numbers.iter().filter_map(|&number| self.ask(number)).collect();
            let given = self.files.each(&asks, |place, file| {
                let entry = listing.entry_of(asks[place].number).ok_or(Error::Given)?;
                let file = file.map_err(|missing| gone(entry, missing))?;
                // The readers end early only after an error, which is told below.
                give.send((entry, file)).map_err(|_| Error::Given)
            });
            drop(give);
            let mut all = Vec::new();
            for reader in reading {
                all.extend(reader.join().map_err(|_| Error::Given)??);
            }
            given.map(|()| all)
        })
    }

    /// How a file is asked for: with all that is known of it.
    fn ask(&self, number: u32) -> Option<Ask> {
        let entry = self.listing.entry_of(number)?;
        let stamp = entry.stamp()?;
        // A build goes by what it has read, whatever the file has become.
        let promised = self.digests.promised(&entry.path, self.build);
        let size = promised.map_or(stamp.size, |promised| promised.stamp.size);
        Some(Ask { number, size, digest: self.digests.known(&entry.path, stamp, self.build).cloned() })
    }

    /// Copies what is selected: files in the order in which they are asked for, and what is none between them.
    pub(super) fn copy(
        &mut self,
        root: &OwnedFd,
        copy: &Copy,
        archive: Option<&mut Archive<'_>>,
    ) -> Result<(), Error> {
        // Whose files they are is the client's affair.
        let dress = Dress { keep_owners: false, ..dress(copy)? };
        let matched = chosen(&self.listing, &copy.selection)?;
        // The same list and table as the fingerprint was made of: so the same digests.
        self.unknown(&matched);
        let this = &*self;
        let mut copying = Copying::piece_by_piece(root.as_fd(), &dress);
        if let Some(archive) = archive {
            copying.pack(archive);
        }
        let targets = Targets::new(copy, &matched, &copying);
        let ways = ways(&matched, &targets);
        let files: Vec<(usize, u32)> = ways
            .iter()
            .enumerate()
            .filter(|(_, way)| matches!(way.entry.kind, Kind::File { .. }))
            .filter_map(|(at, way)| Some((at, this.listing.find(&way.entry.path)?.0)))
            .collect();
        let asks: Vec<Ask> = files.iter().filter_map(|(_, number)| this.ask(*number)).collect();
        let template = rustix::fs::fstat(root).map_err(|errno| unread(Path::new("/"), errno.into()))?;
        let (mut done, mut block) = (0, vec![0; BLOCK]);
        this.files.each(&asks, |place, file| {
            let (at, _) = files[place];
            ways[done..at].iter().try_for_each(|way| way.make(&mut copying, template))?;
            done = at + 1;
            let file = file.map_err(|missing| gone(&ways[at].entry, missing))?;
            if ways[at].unpacks && this.unpack(&mut copying, (&ways[at], &file), targets.to, &mut block)? {
                return Ok(());
            }
            this.write(&mut copying, (&ways[at], &file), root, &mut block)
        })?;
        ways[done..].iter().try_for_each(|way| way.make(&mut copying, template))?;
        Ok(copying.finish()?)
    }

    /// Copies one file. Its bytes are those that the step's digest is of, or it fails.
    fn write(
        &self,
        copying: &mut Copying<'_>,
        (way, file): (&Way, &OwnedFd),
        root: &OwnedFd,
        block: &mut [u8],
    ) -> Result<(), Error> {
        let entry = &way.entry;
        let before = stamp(entry, file)?;
        let promised = self.digests.promised(&entry.path, self.build);
        let mut stat = rustix::fs::fstat(file).map_err(|errno| unread(&entry.path, errno.into()))?;
        // What was added since then is cut off: a log that grows is no other file.
        let size = promised.map_or(before.size, |promised| promised.stamp.size);
        stat.st_size = i64::try_from(size).unwrap_or(i64::MAX);
        stat.st_nlink = 1;
        dress_as(entry, &mut stat);
        copying.opened(file.as_fd(), &stat, &way.to)?;
        let Some(promised) = promised else { return Ok(()) };
        if promised.settled && promised.stamp == before && stamp(entry, file)? == before {
            return Ok(());
        }
        // Of the copy, which nobody changes any more.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
        let copy = open_inside(root, Path::new(OsStr::from_bytes(&way.to)), flags, Mode::empty());
        let copy = copy.map_err(|errno| unread(&entry.path, errno.into()))?;
        check(entry, &copy, promised, block)
    }

    /// Unpacks a file if it is an archive.
    fn unpack(
        &self,
        copying: &mut Copying<'_>,
        (way, file): (&Way, &OwnedFd),
        to: &[u8],
        block: &mut [u8],
    ) -> Result<bool, Error> {
        let entry = &way.entry;
        let promised = self.digests.promised(&entry.path, self.build);
        let size = stamp(entry, file)?.size;
        let size = promised.map_or(size, |promised| promised.stamp.size);
        let mut begin = Part::new(file.as_fd(), size);
        if !is_archive(&mut begin) {
            return Ok(false);
        }
        let mut part = Part::new(file.as_fd(), size);
        copying.unpack(&mut part, entry.path.as_os_str().as_bytes(), to)?;
        // What is behind the archive's end belongs to the file, too.
        while part.read(block).map_err(|source| unread(&entry.path, source))? > 0 {}
        match promised {
            Some(promised) if part.hashed() != (promised.digest.clone(), size) => Err(changed(entry)),
            _ => Ok(true),
        }
    }
}

fn check(entry: &Entry, file: &OwnedFd, promised: &Remembered, block: &mut [u8]) -> Result<(), Error> {
    let hashed = Part::new(file.as_fd(), promised.stamp.size).hash(block);
    match hashed.map_err(|source| unread(&entry.path, source))?
        == (promised.digest.clone(), promised.stamp.size)
    {
        true => Ok(()),
        false => Err(changed(entry)),
    }
}

fn changed(entry: &Entry) -> Error {
    Error::Changed { path: entry.path.display().to_string() }
}

/// One thing of the list, and where it goes.
struct Way {
    entry: Entry,
    to: Vec<u8>,
    /// It may be an archive.
    unpacks: bool,
}

fn ways(matched: &[Matched], targets: &Targets<'_>) -> Vec<Way> {
    let mut ways = Vec::new();
    for one in matched {
        let (to, unpacks) = (targets.of(one), targets.unpacks(one));
        let below = one.below.iter().map(|entry| Way {
            entry: Entry { path: one.entry.path.join(&entry.path), ..entry.clone() },
            to: join(&to, &entry.path),
            unpacks: false,
        });
        let below: Vec<Way> = below.collect();
        ways.push(Way { entry: one.entry.clone(), to, unpacks });
        ways.extend(below);
    }
    ways
}

impl Way {
    /// What is no file.
    fn make(&self, copying: &mut Copying<'_>, mut stat: Stat) -> Result<(), Error> {
        let Way { entry, to, .. } = self;
        let (kind, device) = match entry.kind {
            Kind::Folder => (FileType::Directory, 0),
            Kind::Link(_) => (FileType::Symlink, 0),
            Kind::Fifo => (FileType::Fifo, 0),
            Kind::CharacterDevice(major, minor) => {
                (FileType::CharacterDevice, rustix::fs::makedev(major, minor))
            }
            Kind::BlockDevice(major, minor) => (FileType::BlockDevice, rustix::fs::makedev(major, minor)),
            Kind::File { .. } => return Ok(()),
        };
        stat.st_mode = kind.as_raw_mode();
        (stat.st_nlink, stat.st_rdev) = (1, device);
        dress_as(entry, &mut stat);
        // Overlay takes it for a mark of its own.
        if kind == FileType::CharacterDevice && device == 0 {
            return Ok(());
        }
        let what = match &entry.kind {
            Kind::Folder if entry.path.as_os_str().is_empty() => Bare::Root,
            Kind::Folder => Bare::Folder,
            Kind::Link(target) => Bare::Link(target.as_os_str().as_bytes()),
            _ => Bare::Node,
        };
        Ok(copying.bare(what, &stat, to)?)
    }
}

/// Mode and time are those that were listed; the time in whole seconds, as archives of contexts have it: the same
/// files are the same layer whoever sends them.
fn dress_as(entry: &Entry, stat: &mut Stat) {
    stat.st_mode = (stat.st_mode & !0o7777) | entry.mode;
    stat.st_mtime = entry.modified.0;
    stat.st_mtime_nsec = 0;
}

fn unread(path: &Path, source: std::io::Error) -> Error {
    Error::Read { path: path.display().to_string(), source }
}

/// Why a file did not come.
fn gone(entry: &Entry, missing: Missing) -> Error {
    match missing {
        Missing::Refused(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE) => changed(entry),
        Missing::Refused(errno) => unread(&entry.path, errno.into()),
        Missing::Broken(errno) => Error::Client { source: errno.into() },
    }
}

/// The stamp of what is given for a file.
///
/// # Errors
/// It is no regular file: opening was the client's, reading would be ours.
fn stamp(entry: &Entry, file: &OwnedFd) -> Result<Stamp, Error> {
    let stamp = reading::stamp(file.as_fd()).map_err(|errno| unread(&entry.path, errno.into()))?;
    stamp.ok_or_else(|| changed(entry))
}

/// Reads a file.
fn digest(entry: &Entry, file: &OwnedFd, about: (u64, i64), block: &mut [u8]) -> Result<Remembered, Error> {
    let read = reading::read(file.as_fd(), about, block).map_err(|source| unread(&entry.path, source))?;
    read.ok_or_else(|| changed(entry))
}

/// The daemon's own file, which nobody writes any more. Others read it by the same descriptor.
fn whole(table: &OwnedFd) -> std::io::Result<Vec<u8>> {
    let size = u64::try_from(rustix::fs::fstat(table)?.st_size).unwrap_or(0).min(DIGESTS_MAX);
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    File::from(table.try_clone()?).read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Into a file in memory.
fn write(learned: &OwnedFd, bytes: &[u8]) -> Result<(), Error> {
    let write = || File::from(learned.try_clone()?).write_all(bytes);
    write().map_err(|source| Error::Table { source })
}
