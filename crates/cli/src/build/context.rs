//! A folder on its way to the daemon: walked by descriptor, without what its ignore file names.
//!
//! A daemon gets the list of what is there, and the files that it asks for: opened, if it is on this host, else
//! their bytes. What is too much for a list is an archive that is made while it is sent. In that, as in those of
//! the reference's client, the Dockerfile and the ignore file always are, and a Dockerfile from elsewhere has a
//! name that nobody else has.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hull_context::{
    DIGESTS_MAX, Entry, Folder, Ignore, Kind, LISTING_MAX, Tree as _, contents, files, listing, reading, walk,
};
use hull_image::tar::{self, Time, Writer};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;

use super::known;
use crate::command::{Failure, chain, fail};
use crate::create::reason;

/// What is to be sent, found and checked.
pub(super) struct Context {
    root: File,
    /// As they were at the last look.
    entries: Mutex<Arc<Vec<Entry>>>,
    /// They have been told to somebody.
    told: AtomicBool,
    /// The Dockerfile, if it is ignored: only an archive has it.
    hidden: Option<Entry>,
    /// The Dockerfile's name in the archive.
    pub(super) dockerfile: String,
    /// Its bytes, where it is not among the entries.
    extra: Option<Vec<u8>>,
    /// The ignore file's.
    pub(super) ignore: Vec<u8>,
}

/// Bytes moved at once.
const BUFFER: usize = 128 << 10;
const DOCKERFILE: &str = "Dockerfile";
/// Bytes of a Dockerfile or ignore file that are read at most.
const LIMIT: u64 = 16 << 20;

fn fresh(entries: Vec<Entry>) -> Mutex<Arc<Vec<Entry>>> {
    Mutex::new(Arc::new(entries))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Context {
    /// Looks at `folder`; `file` is the Dockerfile as it was given, empty for the usual one.
    pub(super) fn open(folder: &str, file: &str) -> Result<Context, Failure> {
        let failed = |text: String| fail(format!("unable to prepare context: {text}"));
        let root = std::fs::canonicalize(folder)
            .ok()
            .filter(|root| root.is_dir())
            .ok_or_else(|| failed(format!("path {folder:?} not found")))?;
        let asked = match file {
            "-" => None,
            "" => Some(root.join(DOCKERFILE)),
            file => Some(PathBuf::from(file)),
        };
        let found = asked.map(|asked| {
            std::fs::canonicalize(&asked).map_err(|error| {
                failed(format!(
                    "unable to evaluate symlinks in Dockerfile path: lstat {}: {}",
                    asked.display(),
                    reason(&error)
                ))
            })
        });
        let found = found.transpose()?;
        let inside = found.as_ref().and_then(|found| found.strip_prefix(&root).ok());
        let (dockerfile, extra) = match (inside, &found) {
            (Some(inside), _) => (inside.to_string_lossy().into_owned(), None),
            (None, found) => {
                let bytes = match found {
                    Some(found) => read(found)?,
                    None => stdin()?,
                };
                (format!(".dockerfile.{:x}", std::process::id()), Some(bytes))
            }
        };
        let own = found.map(|found| {
            let mut own = found.into_os_string();
            own.push(".dockerignore");
            PathBuf::from(own)
        });
        let file = own.filter(|own| own.is_file()).unwrap_or_else(|| root.join(".dockerignore"));
        let (ignore, text) = ignored(&file).map_err(failed)?;
        let root = File::open(&root)?;
        let entries = walk(&Folder::new(root.as_fd(), ignore))?;
        let listed = extra.is_some() || entries.iter().any(|entry| entry.path == Path::new(&dockerfile));
        let hidden = match listed {
            true => None,
            false => Folder::new(root.as_fd(), Ignore::default()).entry(Path::new(&dockerfile))?,
        };
        Ok(Context {
            root,
            entries: fresh(entries),
            told: AtomicBool::default(),
            hidden,
            dockerfile,
            extra,
            ignore: text,
        })
    }

    /// One of other files (`--build-context`), without those that its own ignore file names.
    pub(super) fn other(folder: &str) -> Result<Context, Failure> {
        let failed = |text: String| fail(format!("unable to prepare context: {text}"));
        let (ignore, text) = ignored(&Path::new(folder).join(".dockerignore")).map_err(failed)?;
        let root =
            File::open(folder).map_err(|error| failed(format!("open {folder}: {}", reason(&error))))?;
        let entries = walk(&Folder::new(root.as_fd(), ignore))?;
        let (entries, told) = (fresh(entries), AtomicBool::default());
        let (hidden, dockerfile, extra) = (None, String::new(), None);
        Ok(Context { root, entries, told, hidden, dockerfile, extra, ignore: text })
    }

    fn entries(&self) -> Arc<Vec<Entry>> {
        Arc::clone(&self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The entries as they are now, and whether they are asked for again: who does wants to know what has changed.
    fn look(&self) -> io::Result<(Arc<Vec<Entry>>, bool)> {
        let again = self.told.swap(true, Ordering::Relaxed);
        if again {
            let ignore = Ignore::parse(&self.ignore).map_err(io::Error::other)?;
            let now = walk(&Folder::new(self.root.as_fd(), ignore)).map_err(io::Error::other)?;
            self.know(now);
        }
        Ok((self.entries(), again))
    }

    fn know(&self, entries: Vec<Entry>) {
        *self.entries.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(entries);
    }

    /// The list of what is there, sealed, and the folder; `None` where it is too long for a list.
    pub(super) fn list(&self) -> io::Result<Option<(OwnedFd, OwnedFd)>> {
        let bytes = listing::encode(&self.look()?.0);
        if bytes.len() as u64 > LISTING_MAX {
            return Ok(None);
        }
        let list =
            rustix::fs::memfd_create(c"hull-context", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let mut list = File::from(list);
        list.write_all(&bytes)?;
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        rustix::fs::fcntl_add_seals(&list, seals)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&self.root, ".", flags, Mode::empty())?;
        Ok(Some((list.into(), folder)))
    }

    /// The same for a daemon elsewhere: the list, and the digests of its files.
    pub(super) fn far_list(&self, cache: Option<&Path>) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        let (entries, again) = self.look()?;
        let mut entries = entries.to_vec();
        let list = listing::encode(&entries);
        if list.len() as u64 > LISTING_MAX {
            return Ok(None);
        }
        let digests = known::digests(&self.root, &mut entries, cache, again)?.encode();
        let list = listing::encode(&entries);
        self.know(entries);
        Ok(Some((list, digests)).filter(|(_, digests)| digests.len() as u64 <= DIGESTS_MAX))
    }

    /// Writes the bytes of listed files, each as long as it was when it was listed.
    pub(super) fn contents(&self, numbers: &[u32], out: OwnedFd) -> io::Result<()> {
        let entries = self.entries();
        let mut out = BufWriter::with_capacity(BUFFER, File::from(out));
        let mut block = vec![0; BUFFER];
        for &number in numbers {
            let mut file = match entries.get(number as usize) {
                Some(Entry { path, kind: Kind::File { size }, .. }) => {
                    self.regular(path).map(|file| (File::from(file), *size))
                }
                _ => Err(Errno::NOENT),
            };
            let file =
                file.as_mut().map(|(file, size)| (file as &mut dyn Read, *size)).map_err(|errno| *errno);
            contents::write(&mut out, file, &mut block)?;
        }
        out.flush()
    }

    fn regular(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let file = files::open(self.root.as_fd(), path)?;
        // It has become something else.
        reading::stamp(file.as_fd())?.map(|_| file).ok_or(Errno::STALE)
    }

    /// Opens the listed files that are asked for, until nobody asks any more.
    pub(super) fn serve(&self, socket: &OwnedFd) {
        let entries = self.entries();
        let open = |number: u32| {
            let entry = entries.get(number as usize).ok_or(Errno::NOENT)?;
            match entry.kind {
                Kind::File { .. } => files::open(self.root.as_fd(), &entry.path),
                _ => Err(Errno::INVAL),
            }
        };
        // Who breaks off knows why.
        let _ = files::serve(socket.as_fd(), open);
    }

    /// The Dockerfile's bytes.
    pub(super) fn dockerfile_bytes(&self) -> io::Result<Vec<u8>> {
        if let Some(bytes) = &self.extra {
            return Ok(bytes.clone());
        }
        let file = files::open(self.root.as_fd(), Path::new(&self.dockerfile))?;
        let mut bytes = Vec::new();
        File::from(file).take(LIMIT).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes all of it as an archive.
    pub(super) fn send(&self, out: OwnedFd) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(BUFFER, File::from(out));
        let mut writer = Writer::new(&mut out);
        let mut buffer = vec![0; BUFFER];
        for entry in self.entries().iter().chain(&self.hidden) {
            self.put(&mut writer, entry, &mut buffer)?;
        }
        if let Some(bytes) = &self.extra {
            let kind = tar::Kind::File { size: bytes.len() as u64, extents: None };
            writer
                .file(&tar::Entry::new(self.dockerfile.as_bytes(), kind), bytes)
                .map_err(io::Error::other)?;
        }
        writer.finish().map_err(io::Error::other)?;
        out.flush()
    }

    /// A file that has become shorter since it was looked at is filled up with zeros; what has become
    /// longer is cut off.
    fn put(&self, writer: &mut Writer<'_>, entry: &Entry, buffer: &mut [u8]) -> io::Result<()> {
        let name = entry.path.as_os_str().as_bytes();
        let mut opened = None;
        let kind = match &entry.kind {
            Kind::Folder => tar::Kind::Directory,
            Kind::File { .. } => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = File::from(rustix::fs::openat(&self.root, &entry.path, flags, Mode::empty())?);
                let size = file.metadata()?.len();
                opened = Some((file, size));
                tar::Kind::File { size, extents: None }
            }
            Kind::Link(target) => tar::Kind::Symlink { target: target.as_os_str().as_bytes().to_vec() },
            Kind::Fifo => tar::Kind::Fifo,
            Kind::CharacterDevice(major, minor) => tar::Kind::Character { major: *major, minor: *minor },
            Kind::BlockDevice(major, minor) => tar::Kind::Block { major: *major, minor: *minor },
        };
        // Whole seconds, as the reference's client has them.
        let mtime = Time { seconds: entry.modified.0, nanoseconds: 0 };
        let entry = tar::Entry { mode: entry.mode, mtime, ..tar::Entry::new(name, kind) };
        writer.begin(&entry).map_err(io::Error::other)?;
        let Some((mut file, mut left)) = opened else { return Ok(()) };
        while left > 0 {
            let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = match file.read(&mut buffer[..most])? {
                0 => {
                    buffer[..most].fill(0);
                    most
                }
                count => count,
            };
            writer.data(&buffer[..count]).map_err(io::Error::other)?;
            left -= count as u64;
        }
        Ok(())
    }
}

/// What an ignore file says, and its text; one that is not there says nothing.
fn ignored(file: &Path) -> Result<(Ignore, Vec<u8>), String> {
    let text = match read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(format!("open {}: {}", file.display(), reason(&error))),
    };
    let ignore = Ignore::parse(&text)
        .map_err(|error| format!("error reading {}: {}", file.display(), chain(&error)))?;
    Ok((ignore, text))
}

fn stdin() -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::stdin().lock().take(LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A Dockerfile alone, as an archive.
pub(super) fn alone(dockerfile: &[u8]) -> io::Result<Vec<u8>> {
    let mut archive = Vec::new();
    let mut writer = Writer::new(&mut archive);
    let kind = tar::Kind::File { size: dockerfile.len() as u64, extents: None };
    writer.file(&tar::Entry::new(DOCKERFILE.as_bytes(), kind), dockerfile).map_err(io::Error::other)?;
    writer.finish().map_err(io::Error::other)?;
    Ok(archive)
}

/// Whether the bytes begin an archive, compressed or not; else they are a Dockerfile.
pub(super) fn is_archive(bytes: &[u8]) -> bool {
    use hull_image::compress::Compression;
    Compression::detect(bytes) != Compression::Plain
        || bytes.get(257..262).is_some_and(|magic| OsStr::from_bytes(magic) == "ustar")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(context: &Context) -> Vec<String> {
        let mut pipe = io::pipe().unwrap();
        context.send(pipe.1.into()).unwrap();
        let mut bytes = Vec::new();
        pipe.0.read_to_end(&mut bytes).unwrap();
        let mut source = &bytes[..];
        let mut reader = tar::Reader::new(&mut source, tar::Limits::default());
        let mut names = Vec::new();
        while let Some(entry) = reader.next().unwrap() {
            names.push(String::from_utf8(entry.name).unwrap());
        }
        names
    }

    #[test]
    fn what_is_ignored_is_not_sent_but_the_dockerfile_is() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("context");
        std::fs::create_dir_all(root.join("dir")).unwrap();
        for name in ["Dockerfile", "a", "b.md", "dir/c.md", "keep.md"] {
            std::fs::write(root.join(name), name).unwrap();
        }
        std::fs::write(root.join(".dockerignore"), "**/*.md\n!keep.md\nDockerfile\n").unwrap();
        let folder = root.to_str().unwrap();
        let context = Context::open(folder, "").unwrap();
        assert_eq!(names(&context), [".dockerignore", "a", "dir", "keep.md", "Dockerfile"]);
        let outside = scratch.path().join("Elsewhere");
        std::fs::write(&outside, "FROM scratch").unwrap();
        let context = Context::open(folder, outside.to_str().unwrap()).unwrap();
        assert!(context.dockerfile.starts_with(".dockerfile."));
        assert_eq!(names(&context).last(), Some(&context.dockerfile));
        let missing = Context::open(folder, "/nosuch/file").err().unwrap();
        assert!(missing.message.starts_with("unable to prepare context: unable to evaluate symlinks"));
        let missing = Context::open("/nosuch", "").err().unwrap();
        assert_eq!(missing.message, "unable to prepare context: path \"/nosuch\" not found");
    }

    #[test]
    fn who_asks_again_is_told_what_is_there_and_not_what_is_remembered() {
        let scratch = tempfile::tempdir().unwrap();
        let (root, cache) = (scratch.path().join("context"), scratch.path().join("cache"));
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("a"), "a").unwrap();
        let open = || Context::other(root.to_str().unwrap()).unwrap();
        let told = |context: &Context| {
            let (_, digests) = context.far_list(Some(&cache)).unwrap().unwrap();
            let digests = hull_context::Digests::decode(&digests);
            digests.promised(Path::new("a"), 0).unwrap().clone()
        };
        let right = told(&open());
        let mut table = hull_context::Digests::default();
        let digest = hull_oci::Digest::sha256(b"wrong");
        table.put("a".into(), hull_context::Remembered { digest, settled: true, build: 1, ..right });
        let file = std::fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
        std::fs::write(&file, table.encode()).unwrap();
        let context = open();
        assert_ne!(told(&context).digest, right.digest);
        assert_eq!(told(&context).digest, right.digest);
        assert_eq!(told(&open()).digest, right.digest);
    }

    #[test]
    fn a_dockerfile_alone_is_told_from_an_archive() {
        let archive = alone(b"FROM scratch\n").unwrap();
        assert!(is_archive(&archive) && !is_archive(b"FROM scratch\n") && is_archive(&[0x1f, 0x8b, 8, 0]));
    }
}
