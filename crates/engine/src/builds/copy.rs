//! COPY, ADD and WORKDIR: a worker changes the file system that a step stands on. And the contexts that
//! files come from.
//!
//! The worker's root is the tree itself, with the step's site on top: a link on the way to the
//! destination means what it means in a container of that image. What it copies from is a descriptor, and
//! nothing of the host is in sight.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hull_builder::executor::{Copy, Folder, Selection, Source, Unpack};
use hull_builder::{Failure, Layer};
use hull_context::Ignore;
use hull_oci::Digest;
use hull_oci::image::chain_ids;
use hull_runtime::bundle::{Rootfs, Source as Shown, Tree, Upper};
use hull_runtime::protocol::{self, Outcome, Work};
use hull_runtime::spawner::{Files, View};
use hull_sys::Errno;
use hull_sys::root::open_inside;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use super::remote::git;
use super::site::Site;
use super::{Build, Context, Kept, Listed, diff_ids, failure};
use crate::containers::files;
use crate::containers::services::Services;
use crate::containers::spawner::Working;
use crate::images::Packed;
use crate::spec::identity;
use crate::{Error, Result, rootfs};

/// Bytes of the image's passwd or group file that are read at most.
const USERS_LIMIT: u64 = 4 << 20;
/// Bytes of a Dockerfile, and of an ignore file, at most.
pub const DOCKERFILE_LIMIT: usize = 4 << 20;
const IGNORE_LIMIT: u64 = 1 << 20;
const IGNORE: &str = ".dockerignore";

/// Unpacks what is read from `source` into a folder of its own.
pub(crate) async fn receive(services: &Arc<Services>, source: OwnedFd) -> Result<Context> {
    let site = Site::make(services, &[]).await?;
    let folder = open(&site.rootfs.upper)?;
    let view = View::Folder(folder.as_fd());
    let working = services.spawner.work(Work::ApplyPlain, Some(source.as_fd()), view).await?;
    hull_runtime::failpoint!("engine.build.receiving");
    drop(source);
    match working.next().await {
        Outcome::Unpacked => Ok(Context(Kept::Folder(Arc::new(site)))),
        other => Err(unexpected(other)),
    }
}

impl Context {
    /// Its files are the client's, and so is the Dockerfile.
    pub fn is_listed(&self) -> bool {
        matches!(self.0, Kept::Listed(_))
    }

    /// Reads the Dockerfile of one whose files are here. What the ignore file names goes then, itself and the
    /// Dockerfile too: clients send them all the same.
    ///
    /// # Errors
    /// In the reference's words where there is none, or an empty one.
    pub async fn dockerfile(&self, name: &str) -> Result<Vec<u8>> {
        let Kept::Folder(site) = &self.0 else {
            return Err(Error::Invalid(format!("Cannot locate specified Dockerfile: {name}")));
        };
        let (root, name) = (open(&site.rootfs.upper)?, name.to_owned());
        site.services.blocking(move || dockerfile(&root, &name)).await
    }
}

fn dockerfile(root: &OwnedFd, name: &str) -> Result<Vec<u8>> {
    let missing = || Error::Invalid(format!("Cannot locate specified Dockerfile: {name}"));
    let bytes = text(root, name, DOCKERFILE_LIMIT as u64)?.ok_or_else(missing)?;
    if bytes.is_empty() {
        return Err(Error::Invalid(format!("the Dockerfile ({name}) cannot be empty")));
    }
    let ignore = text(root, IGNORE, IGNORE_LIMIT)?.unwrap_or_default();
    let ignore =
        Ignore::parse(&ignore).map_err(|error| Error::Invalid(format!("error reading {IGNORE}: {error}")))?;
    for file in [name, IGNORE] {
        let path = Path::new(file.trim_start_matches("./"));
        if path.components().count() == 1 && ignore.is_ignored(path) {
            // A name in the folder itself: nothing is followed.
            rustix::fs::unlinkat(root, path, AtFlags::empty()).ok();
        }
    }
    Ok(bytes)
}

/// A regular file of a context; links in it are followed within it.
fn text(root: &OwnedFd, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
    let failed = |source| Error::Io { call: "read", path: PathBuf::from(name), source };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let file = match open_inside(root, Path::new(name), flags, Mode::empty()) {
        Ok(file) => std::fs::File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(errno) => return Err(failed(errno.into())),
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(Error::Invalid(format!("{name} has more than {limit} bytes")));
    }
    Ok(Some(bytes))
}

pub(super) fn open(folder: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, folder, flags, Mode::empty()).map_err(|errno| Error::Io {
        call: "open",
        path: folder.to_owned(),
        source: errno.into(),
    })
}

pub(super) fn unexpected(outcome: Outcome) -> Error {
    match outcome {
        Outcome::Failed { message } | Outcome::Unfit { message } => Error::Archive(message),
        other => Error::Archive(format!("a worker answered {other:?}")),
    }
}

/// Where a worker finds files.
pub(super) enum Found {
    Folder {
        fd: OwnedFd,
        /// Where it is: not gone before this.
        site: Arc<Site>,
    },
    /// Top layer first.
    Layers(Vec<PathBuf>),
    Listed(Arc<Listed>),
}

impl Build {
    pub(super) async fn copy_files(&self, copy: Copy) -> std::result::Result<Option<Layer>, Failure> {
        let below = diff_ids(&copy.below);
        let site = Site::make(&self.0.services, &below).await.map_err(failure)?;
        let owner = match &copy.owner {
            Some(owner) => Some(self.owner(&below, owner).await.map_err(failure)?),
            None => None,
        };
        let several = copy.files.len() > 1 || copy.files.iter().any(|(_, chosen)| chosen.patterns.len() > 1);
        let only = copy.files.len() == 1;
        let beneath = if copy.link { &[][..] } else { &below[..] };
        for (source, selection) in copy.files {
            let unpack = match (copy.unpack, &source) {
                (Unpack::Never, _) => false,
                (Unpack::Always, _) => true,
                (Unpack::Local, Source::Context(_)) => true,
                (Unpack::Local, _) => false,
            };
            // Of a repository all is meant, and it is a folder.
            let (selection, several) = match &source {
                Source::Git { .. } => (Selection { patterns: vec![".".to_owned()], ..selection }, true),
                _ => (selection, several),
            };
            let work = protocol::Copy {
                selection: plain(selection),
                destination: copy.destination.clone(),
                several,
                owner,
                mode: copy.mode.clone(),
                unpack,
                newest: copy.newest,
                ..protocol::Copy::default()
            };
            let found = self.find(source, several || copy.destination.ends_with('/')).await?;
            if only {
                return self.change_once(&site, beneath, &below, Job::Copy(work, &found)).await;
            }
            self.change(&site, beneath, Job::Copy(work, &found), None).await?;
        }
        self.keep_site(&site, &below, None).await.map_err(failure)
    }

    pub(super) async fn make_folder(&self, folder: Folder) -> std::result::Result<Option<Layer>, Failure> {
        let below = diff_ids(&folder.below);
        let site = Site::make(&self.0.services, &below).await.map_err(failure)?;
        let owner = match folder.user.as_str() {
            "" => (0, 0),
            user => self.user(&below, user).await.map_err(failure)?,
        };
        let work = Work::MakeFolder { path: folder.path, owner, newest: folder.newest };
        self.change_once(&site, &below, &below, Job::Make(work)).await
    }

    pub(super) async fn look_at(
        &self,
        source: Source,
        selection: Selection,
    ) -> std::result::Result<Digest, Failure> {
        match source {
            Source::Url { address, checksum } => {
                return self.address_digest(&address, checksum).await.map_err(failure);
            }
            Source::Git { address, checksum, keep_git_dir } => {
                return self.repository_digest(&git::meant(&address, checksum, keep_git_dir)?).await;
            }
            _ => {}
        }
        let found = self.find(source, false).await?;
        if let Found::Listed(listed) = &found {
            return self.listed_digest(listed, selection).await;
        }
        let work = Work::Fingerprint(plain(selection));
        let working = self.look_with(work, None, &found).await?;
        match ended(working).await? {
            Outcome::Fingerprint { digest, .. } => Ok(digest),
            other => Err(failure(unexpected(other))),
        }
    }

    /// A worker that only reads what was found.
    pub(super) async fn look_with(
        &self,
        work: Work,
        beside: Option<BorrowedFd<'_>>,
        found: &Found,
    ) -> std::result::Result<Working, Failure> {
        let (tree, folder);
        let view = match found {
            Found::Folder { fd, .. } => View::Folder(fd.as_fd()),
            Found::Layers(lower) => {
                let rootfs = Rootfs::Overlay { lower: lower.clone(), upper: None };
                tree = plain_tree(rootfs, false);
                View::Stopped(&tree)
            }
            Found::Listed(listed) => {
                folder = open(&self.listed_folder(listed).await?.rootfs.upper).map_err(failure)?;
                View::Folder(folder.as_fd())
            }
        };
        self.0.services.spawner.work(work, beside, view).await.map_err(failure)
    }

    /// Makes what was written at the site no newer than `newest` (seconds since the epoch).
    pub(super) async fn clamp(&self, site: &Site, newest: Option<i64>) -> std::result::Result<(), Failure> {
        match newest {
            Some(newest) => self.change(site, &[], Job::Make(Work::Clamp { newest }), None).await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// The whole of a step whose work is one job, with the site on top of `beneath`: it is packed while it
    /// is done, where that can be.
    async fn change_once(
        &self,
        site: &Site,
        beneath: &[Digest],
        below: &[Digest],
        job: Job<'_>,
    ) -> std::result::Result<Option<Layer>, Failure> {
        let archive = self.0.services.images.archive().await.map_err(failure)?;
        let packed = self.change(site, beneath, job, Some(archive.file())).await?;
        let archive = packed.map(|packed| (archive, packed));
        self.keep_site(site, below, archive).await.map_err(failure)
    }

    /// Has a worker change what is seen with the site on top of `below`, and waits until it has gone. What
    /// it has packed into `archive` is all of the change.
    async fn change(
        &self,
        site: &Site,
        below: &[Digest],
        job: Job<'_>,
        archive: Option<BorrowedFd<'_>>,
    ) -> std::result::Result<Option<Packed>, Failure> {
        let spawner = &self.0.services.spawner;
        let (folder, tree);
        let view = if below.is_empty() {
            folder = open(&site.rootfs.upper).map_err(failure)?;
            View::Folder(folder.as_fd())
        } else {
            let Site { rootfs, .. } = site;
            let upper = Upper { upper: rootfs.upper.clone(), work: rootfs.work.clone(), volatile: true };
            let rootfs = Rootfs::Overlay { lower: rootfs.lower.clone(), upper: Some(upper) };
            tree = plain_tree(rootfs, true);
            // A second worker of one step finds the mark of the first one's mount.
            let forgotten = self.0.services.images.snapshots().forget_volatile(&site.id);
            forgotten.map_err(|source| failure(Error::Snapshot { source }))?;
            View::Stopped(&tree)
        };
        let working = match job {
            Job::Make(work) => spawner.work(work, archive, view).await,
            Job::Copy(copy, Found::Folder { fd: source, .. }) => {
                spawner.copy(copy, Files::Folder(source.as_fd()), archive, view).await
            }
            Job::Copy(copy, Found::Layers(lower)) => {
                let source = Shown::Layers { lower: lower.clone(), path: PathBuf::from("/"), upper: None };
                spawner.copy(copy, Files::Layers(&source), archive, view).await
            }
            Job::Copy(copy, Found::Listed(listed)) => self.copy_listed(listed, copy, archive, view).await,
        };
        let working = working.map_err(failure)?;
        hull_runtime::failpoint!("engine.build.copying");
        match ended(working).await? {
            Outcome::Made => Ok(None),
            Outcome::Committed { diff_id, archive_size, size } => {
                Ok(Some(Packed { diff_id, archive_size, size }))
            }
            other => Err(failure(unexpected(other))),
        }
    }

    fn context(&self, name: &str) -> std::result::Result<Found, Failure> {
        let missing = || Failure::Missing(format!("no build context named \"{name}\""));
        match self.0.given.contexts.get(name).ok_or_else(missing)? {
            Context(Kept::Listed(listed)) => Ok(Found::Listed(Arc::clone(listed))),
            Context(Kept::Folder(site)) => {
                let site = Arc::clone(site);
                Ok(Found::Folder { fd: open(&site.rootfs.upper).map_err(failure)?, site })
            }
        }
    }

    /// `into_folder`: they go into one, by their own names.
    pub(super) async fn find(
        &self,
        source: Source,
        into_folder: bool,
    ) -> std::result::Result<Found, Failure> {
        match source {
            Source::Context(name) => self.context(&name),
            Source::Layers(layers) if layers.is_empty() => self.empty(&[]).await.map_err(failure),
            Source::Layers(layers) => Ok(Found::Layers(self.lower(&diff_ids(&layers)))),
            Source::Inline(files) => self.empty(&files).await.map_err(failure),
            Source::Url { address, checksum } => {
                let site = self.address_file(&address, checksum, into_folder).await.map_err(failure)?;
                Ok(Found::Folder { fd: open(&site.rootfs.upper).map_err(failure)?, site })
            }
            Source::Git { address, checksum, keep_git_dir } => {
                let site = self.repository_files(&git::meant(&address, checksum, keep_git_dir)?).await?;
                Ok(Found::Folder { fd: open(&site.rootfs.upper).map_err(failure)?, site })
            }
        }
    }

    /// The folders of layers, top first.
    pub(super) fn lower(&self, below: &[Digest]) -> Vec<PathBuf> {
        let snapshots = self.0.services.images.snapshots();
        chain_ids(below).iter().rev().map(|chain| snapshots.diff(chain)).collect()
    }

    /// A folder with these files alone, until it is dropped.
    async fn empty(&self, files: &[(String, Vec<u8>)]) -> Result<Found> {
        let site = Site::make(&self.0.services, &[]).await?;
        for (name, bytes) in files {
            if name.is_empty() || name.contains(['/', '\0']) || name == "." || name == ".." {
                return Err(Error::Invalid(format!("{name:?} cannot be the name of a file")));
            }
            let path = site.rootfs.upper.join(name);
            write(&path, bytes, 0o644)?;
            // The Dockerfile says nothing of its time: the same text is the same file.
            let file = std::fs::File::open(&path);
            let aged = file.and_then(|file| file.set_modified(std::time::UNIX_EPOCH));
            aged.map_err(|source| Error::Io { call: "utimens", path, source })?;
        }
        Ok(Found::Folder { fd: open(&site.rootfs.upper)?, site: Arc::new(site) })
    }

    /// `user[:group]` as USER has it.
    async fn user(&self, below: &[Digest], user: &str) -> Result<(u32, u32)> {
        let (layers, user) = (self.lower(below), user.to_owned());
        let find = move || {
            let text = |path: &str| match rootfs::read(&layers, Path::new(path), USERS_LIMIT) {
                Ok(bytes) => Ok(bytes.unwrap_or_default()),
                Err(error) => Err(Error::Invalid(error.to_string())),
            };
            let found = identity::resolve(&user, &[], &text("/etc/passwd")?, &text("/etc/group")?);
            found.map(|found| (found.uid, found.gid)).map_err(|error| Error::Invalid(error.message))
        };
        self.0.services.blocking(find).await
    }

    /// The same as `--chown` has it: a user alone is the group of that number, too.
    async fn owner(&self, below: &[Digest], owner: &str) -> Result<(u32, u32)> {
        let (uid, gid) = self.user(below, owner).await?;
        Ok(if owner.contains(':') { (uid, gid) } else { (uid, uid) })
    }
}

/// What a worker is to do with the tree.
enum Job<'a> {
    Make(Work),
    Copy(protocol::Copy, &'a Found),
}

pub(super) fn plain(selection: Selection) -> protocol::Selection {
    let Selection { patterns, exclude, parents } = selection;
    protocol::Selection { patterns, exclude, parents }
}

fn plain_tree(rootfs: Rootfs, writable: bool) -> Tree {
    let (uids, gids) = (Vec::new(), Vec::new());
    Tree { rootfs, mounts: Vec::new(), sources: Default::default(), read_only: false, writable, uids, gids }
}

/// The worker's last word, when all that it had mounted has gone.
pub(super) async fn ended(working: Working) -> std::result::Result<Outcome, Failure> {
    let outcome = working.next().await;
    working.gone().await;
    match outcome {
        Outcome::Unfit { message } => Err(Failure::Invalid(message)),
        Outcome::Changed { message } => Err(Failure::Changed(message)),
        Outcome::Failed { message } => Err(Failure::Host(message)),
        outcome => Ok(outcome),
    }
}

/// A file of a container's or a context's, whatever the umask.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    files::write(path, "")?;
    let failed = |call| move |source| Error::Io { call, path: path.to_owned(), source };
    std::fs::write(path, bytes).map_err(failed("write"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed("chmod"))
}
