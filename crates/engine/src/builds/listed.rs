//! Contexts that a client has as a folder: it sends their list, and a file's bytes are asked for when they are
//! needed.
//!
//! ```text
//! client: list of the folder ──► worker: what is selected? whose digest is unknown? ──► fingerprint
//!            files, opened  ──────────────┘ reads those alone                └─► table of digests
//!            files, opened  ──► worker: copies what is selected, if nobody has built it before
//! ```
//!
//! The daemon passes descriptors on and reads none of it: list, table and files are the workers' to look
//! into. A folder of this host is known again by its device and inode and by the user whose client has opened
//! it, so nobody gets what was remembered for another.
//!
//! A client elsewhere remembers its digests itself and sends them with the list; it has no socket for files, so
//! that is served here ([`super::relay`]), with their bytes, of which those that have come before are here
//! already ([`super::contents`]).
//!
//! ```text
//! <data root>/contexts/      0700
//!   KEY                      hull_context::Digests; KEY: the digest of user, device and inode
//!   KEY-RANDOM.new           one in the making; swept at start
//! ```
//!
//! Nothing relies on a table: without it the files are read once more.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use hull_builder::executor::Selection;
use hull_builder::progress::Report;
use hull_builder::{Failure, Progress};
use hull_context::files::{AHEAD, FAR_AHEAD};
use hull_oci::Digest;
use hull_runtime::protocol::{self, Outcome};
use hull_runtime::spawner::{Files, View};
use rustix::fs::{FileType, MemfdFlags};
use tokio::sync::OnceCell;

use super::client::{List, Place};
use super::copy::{ended, open, plain, unexpected};
use super::site::Site;
use super::{Build, Context, Kept, failure, relay};
use crate::containers::{create, files};
use crate::{Error, Result};

/// Tables that are kept, and their bytes together.
const TABLES: usize = 256;
const BYTES: u64 = 512 << 20;

/// What is remembered of contexts' files.
#[derive(Debug)]
pub(crate) struct Tables {
    folder: PathBuf,
}

impl Tables {
    /// Blocks.
    pub(crate) fn open(data_root: &Path) -> Result<Tables> {
        let tables = Tables { folder: data_root.join("contexts") };
        files::private_dir(&tables.folder)?;
        for (path, _, _) in tables.list()? {
            if path.extension().is_some() {
                tables.remove(&path)?;
            }
        }
        Ok(tables)
    }

    /// Forgets everything. Blocks.
    pub(super) fn clear(&self) -> Result<()> {
        self.list()?.into_iter().try_for_each(|(path, _, _)| self.remove(&path))
    }

    fn failed(&self, call: &'static str) -> impl Fn(io::Error) -> Error {
        let path = self.folder.clone();
        move |source| Error::Io { call, path: path.clone(), source }
    }

    /// Each with its bytes, the one that was used last first.
    fn list(&self) -> Result<Vec<(PathBuf, u64, SystemTime)>> {
        let read = || -> io::Result<Vec<_>> {
            let mut all = Vec::new();
            for entry in std::fs::read_dir(&self.folder)? {
                let entry = entry?;
                match entry.metadata() {
                    // It has got its name, or was removed, meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    about => {
                        let about = about?;
                        all.push((entry.path(), about.len(), about.modified()?));
                    }
                }
            }
            all.sort_by_key(|(_, _, used)| std::cmp::Reverse(*used));
            Ok(all)
        };
        read().map_err(self.failed("read"))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed("remove")(error)),
            _ => Ok(()),
        }
    }

    /// The table of this name, or an empty one. Blocks.
    fn find(&self, key: &str) -> Result<OwnedFd> {
        match File::open(self.folder.join(key)) {
            Ok(table) => {
                // It is younger than those that nobody asks for.
                let _ = table.set_modified(SystemTime::now());
                Ok(table.into())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => memory(),
            Err(error) => Err(self.failed("open")(error)),
        }
    }

    /// Keeps a table. Blocks.
    fn keep(&self, key: &str, table: &OwnedFd) -> Result<()> {
        // Two builds of one folder may end at the same time.
        let chance = u64::from_ne_bytes(create::random::<8>());
        let new = self.folder.join(format!("{key}-{chance:016x}.new"));
        let write = || -> io::Result<()> {
            // Workers may be reading by the same descriptor: its position is nobody's.
            let (from, mut to) = (File::from(table.try_clone()?), File::create(&new)?);
            let (mut block, mut at) = (vec![0; 128 << 10], 0);
            loop {
                match from.read_at(&mut block, at)? {
                    0 => break,
                    count => {
                        to.write_all(&block[..count])?;
                        at += count as u64;
                    }
                }
            }
            std::fs::rename(&new, self.folder.join(key))
        };
        write().map_err(|error| {
            let _ = std::fs::remove_file(&new);
            self.failed("write")(error)
        })?;
        let mut bytes = 0;
        for (place, (path, size, _)) in self.list()?.into_iter().enumerate() {
            bytes += size;
            if place >= TABLES || bytes > BYTES {
                self.remove(&path)?;
            }
        }
        Ok(())
    }
}

/// A file in memory.
fn memory() -> Result<OwnedFd> {
    let made = rustix::fs::memfd_create(c"hull-digests", MemfdFlags::CLOEXEC);
    made.map_err(|errno| Error::Io { call: "memfd_create", path: "digests".into(), source: errno.into() })
}

/// One context, for one build.
#[derive(Debug)]
pub(super) struct Listed {
    /// As the client is asked for its files.
    name: String,
    /// Of the table; `None`: the files are elsewhere.
    key: Option<String>,
    look: Mutex<Look>,
    /// One reads at a time: what it has read, the others know then.
    turn: tokio::sync::Mutex<()>,
    digests: Mutex<Arc<OwnedFd>>,
    /// Files have changed while the build went on: what has come before is not believed any more.
    anew: AtomicBool,
    /// An empty folder: the root of those that only read.
    empty: Site,
}

/// A context as it was at a time.
#[derive(Debug, Clone)]
struct Look {
    list: Arc<OwnedFd>,
    /// What marks the digests that the build goes by.
    number: u64,
    /// All of it, for those that need a folder.
    whole: Arc<OnceCell<Arc<Site>>>,
}

impl Look {
    fn new(list: OwnedFd) -> Look {
        let number = u64::from_ne_bytes(create::random::<8>());
        Look { list: Arc::new(list), number, whole: Arc::default() }
    }
}

impl Context {
    /// One of which a client has sent the list. `name` is what the build calls it, its main one `""`.
    pub(crate) async fn listed(
        services: &Arc<crate::containers::services::Services>,
        name: String,
        List { list, place }: List,
    ) -> Result<Context> {
        let shared = Arc::clone(services);
        let find = move || {
            let wrong = |what: &str| Error::Invalid(format!("the context cannot be read: {what}"));
            let (folder, user) = match place {
                Place::Here { folder, user } => (folder, user),
                Place::Elsewhere { digests } => return Ok((digests, None)),
            };
            // Of a file system that does not answer it does not come back.
            let about = rustix::fs::fstat(&folder).map_err(|errno| wrong(&errno.to_string()))?;
            if FileType::from_raw_mode(about.st_mode) != FileType::Directory {
                return Err(wrong("it is no folder"));
            }
            let known = format!("{user} {} {}", about.st_dev, about.st_ino);
            let key = Digest::sha256(known.as_bytes()).hex().to_owned();
            Ok((shared.builds.tables.find(&key)?, Some(key)))
        };
        let (digests, key) = services.blocking(find).await?;
        let empty = Site::make(services, &[]).await?;
        hull_runtime::failpoint!("engine.build.receiving");
        Ok(Context(Kept::Listed(Arc::new(Listed {
            name,
            key,
            look: Mutex::new(Look::new(list)),
            turn: tokio::sync::Mutex::default(),
            digests: Mutex::new(Arc::new(digests)),
            anew: AtomicBool::new(false),
            empty,
        }))))
    }
}

impl Listed {
    fn look(&self) -> Look {
        self.look.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn digests(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.digests.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Build {
    /// The digest of what is selected.
    pub(super) async fn listed_digest(
        &self,
        listed: &Listed,
        selection: Selection,
    ) -> std::result::Result<Digest, Failure> {
        let _turn = listed.turn.lock().await;
        let services = &self.0.services;
        let files = self.files(listed).await.map_err(failure)?;
        let (learned, digests) = (Arc::new(memory().map_err(failure)?), listed.digests());
        let folder = open(&listed.empty.rootfs.upper).map_err(failure)?;
        let look = listed.look();
        let given = self.shown(listed, &look, &files, &digests);
        let working = services
            .spawner
            .fingerprint(plain(selection), given, learned.as_fd(), folder.as_fd())
            .await
            .map_err(failure)?;
        drop(files);
        let (digest, read) = match ended(working).await? {
            Outcome::Fingerprint { digest, read } => (digest, read),
            other => return Err(failure(unexpected(other))),
        };
        if read > 0 {
            *listed.digests.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&learned);
        }
        if read > 0
            && let Some(key) = listed.key.clone()
        {
            let shared = Arc::clone(services);
            let kept = services.blocking(move || shared.builds.tables.keep(&key, &learned)).await;
            if let Err(error) = kept {
                tracing::warn!(%error, "the next build reads the context's files once more");
            }
        }
        Ok(digest)
    }

    /// Has a worker copy files into what `view` shows, and pack them into `archive` if it can.
    pub(super) async fn copy_listed(
        &self,
        listed: &Listed,
        copy: protocol::Copy,
        archive: Option<BorrowedFd<'_>>,
        view: View<'_>,
    ) -> Result<crate::containers::spawner::Working> {
        let files = self.files(listed).await?;
        let digests = listed.digests();
        let look = listed.look();
        let source = Files::Listed(self.shown(listed, &look, &files, &digests));
        self.0.services.spawner.copy(copy, source, archive, view).await
    }

    /// Where a worker asks for files: the client's socket, or one that is served here.
    async fn files(&self, listed: &Listed) -> Result<OwnedFd> {
        let client = &self.0.given.client;
        if listed.key.is_some() {
            return client.files(&listed.name).await;
        }
        let anew = listed.anew.load(Ordering::Relaxed);
        relay::open(Arc::clone(&self.0.services), Arc::clone(client), listed.name.clone(), anew)
    }

    /// The folder of a context, for what is no step.
    pub(super) async fn unpacked(&self, context: &Context) -> Result<Arc<Site>> {
        match &context.0 {
            Kept::Folder(site) => Ok(Arc::clone(site)),
            Kept::Listed(listed) => {
                let site = self.listed_folder(listed).await;
                site.map_err(|failure| Error::Archive(failure.to_string()))
            }
        }
    }

    /// All files, as a folder.
    pub(super) async fn listed_folder(&self, listed: &Listed) -> std::result::Result<Arc<Site>, Failure> {
        let look = listed.look();
        let whole = look.whole.get_or_try_init(|| async {
            let site = Site::make(&self.0.services, &[]).await.map_err(failure)?;
            let folder = open(&site.rootfs.upper).map_err(failure)?;
            let selection = Selection { patterns: vec![".".to_owned()], ..Selection::default() };
            let copy = protocol::Copy {
                selection: plain(selection),
                destination: "/".to_owned(),
                several: true,
                ..protocol::Copy::default()
            };
            let working = self.copy_listed(listed, copy, None, View::Folder(folder.as_fd())).await;
            match ended(working.map_err(failure)?).await? {
                Outcome::Made => Ok(Arc::new(site)),
                other => Err(failure(unexpected(other))),
            }
        });
        whole.await.cloned()
    }

    fn shown<'a>(
        &self,
        listed: &Listed,
        look: &'a Look,
        files: &'a OwnedFd,
        digests: &'a OwnedFd,
    ) -> hull_runtime::spawner::Listed<'a> {
        hull_runtime::spawner::Listed {
            list: look.list.as_fd(),
            files: files.as_fd(),
            ahead: if listed.key.is_some() { AHEAD } else { FAR_AHEAD },
            digests: digests.as_fd(),
            build: look.number,
            settled: self.0.services.config.settled_after,
        }
    }

    /// Gets new lists of all contexts: files have changed since the last.
    pub(super) async fn look_again(&self, report: &Report) -> Result<()> {
        let message = "files have changed while the build went on: it looks at them again".to_owned();
        report(Progress::Warning { message, page: String::new(), line: 0 });
        for context in self.0.given.contexts.values() {
            if let Kept::Listed(listed) = &context.0 {
                let List { list, place } = self.0.given.client.list(&listed.name).await?;
                match (place, &listed.key) {
                    (Place::Here { .. }, Some(_)) => {}
                    (Place::Elsewhere { digests }, None) => {
                        listed.anew.store(true, Ordering::Relaxed);
                        *listed.digests.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(digests);
                    }
                    _ => return Err(Error::Invalid("the context is somewhere else all at once".to_owned())),
                }
                *listed.look.lock().unwrap_or_else(PoisonError::into_inner) = Look::new(list);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn table(text: &str) -> OwnedFd {
        let memory = memory().unwrap();
        File::from(memory.try_clone().unwrap()).write_all(text.as_bytes()).unwrap();
        memory
    }

    fn read(tables: &Tables, key: &str) -> String {
        let mut text = String::new();
        File::from(tables.find(key).unwrap()).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn tables_are_found_again_and_half_ones_are_not() {
        let scratch = tempfile::tempdir().unwrap();
        let tables = Tables::open(scratch.path()).unwrap();
        assert_eq!(read(&tables, "a"), "");
        tables.keep("a", &table("one")).unwrap();
        tables.keep("b", &table("other")).unwrap();
        tables.keep("a", &table("two")).unwrap();
        std::fs::write(scratch.path().join("contexts/c.new"), "half").unwrap();
        let tables = Tables::open(scratch.path()).unwrap();
        assert_eq!((read(&tables, "a"), read(&tables, "b")), ("two".to_owned(), "other".to_owned()));
        assert_eq!(tables.list().unwrap().len(), 2);
        tables.clear().unwrap();
        assert_eq!((read(&tables, "a"), tables.list().unwrap()), (String::new(), Vec::new()));
    }

    #[test]
    fn what_nobody_asks_for_goes_first() {
        let scratch = tempfile::tempdir().unwrap();
        let tables = Tables::open(scratch.path()).unwrap();
        for number in 0..TABLES {
            let key = format!("k{number}");
            tables.keep(&key, &table("x")).unwrap();
            let file = File::options().write(true).open(scratch.path().join("contexts").join(&key)).unwrap();
            let used = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000 + number as u64);
            file.set_modified(used).unwrap();
        }
        tables.find("k0").unwrap();
        tables.keep("new", &table("x")).unwrap();
        let names: Vec<_> = tables
            .list()
            .unwrap()
            .into_iter()
            .map(|(path, _, _)| path.file_name().unwrap().to_owned())
            .collect();
        assert_eq!(names.len(), TABLES);
        assert!(names.iter().any(|name| name == "k0") && !names.iter().any(|name| name == "k1"));
    }
}
