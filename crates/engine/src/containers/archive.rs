//! Files of a container, in and out, as archives.
//!
//! Each request is the work of one jailed worker whose root is the container's tree; the daemon never
//! opens a path of a container. An archive streams through a pipe: nothing of it is kept anywhere.
//!
//! | the container | reading | writing |
//! |---|---|---|
//! | runs | a copy of its mounts | the same, [`Handle::layer`] shared |
//! | does not run | its layers, read-only | its layers, [`Handle::layer`] alone |
//!
//! Two overlays must not have one upper layer, so a start waits until nobody holds [`Handle::layer`];
//! whoever takes it afterwards sees that the container is starting. A removal does not wait: it ends
//! what is being written.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use hull_oci::path;
use hull_runtime::bundle::{Rootfs, Tree, Upper};
use hull_runtime::protocol::{Found, Outcome, Place, Work};
use hull_runtime::spawner::View as Files;
use rustix::pipe::PipeFlags;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard};

use super::handle::Handle;
use super::phase::Phase;
use super::services::Services;
use super::settings::NetworkMode;
use super::spawner::Working;
use super::view::View;
use super::{files, launch, mounts};
use crate::spec;
use crate::volumes::Held;
use crate::{Error, Result};

/// Bytes that a pipe holds, where the host allows it (pipe(7), `pipe-max-size`).
const PIPE: usize = 1 << 20;
/// How often a container may end or start between two looks at it.
pub(super) const ATTEMPTS: usize = 8;

/// What is at a path in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// The path's last component; `/` of the root itself.
    pub name: String,
    pub found: Found,
}

/// How an archive is put into a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extract {
    /// A folder never takes the place of anything else, nor the other way round.
    pub keep_kinds: bool,
    /// All is the container's user's, where it has one, and not whose the archive says.
    pub own: bool,
}

/// A path as its caller wrote it.
struct Asked {
    place: Place,
    /// What entries of an archive of it are called.
    name: String,
}

impl Asked {
    fn new(path: &str) -> Asked {
        let clean = path::clean(path);
        let dot = path == "." || path.ends_with("/.");
        let name = match clean.rsplit_once('/') {
            _ if dot => ".",
            Some((_, name)) if !name.is_empty() => name,
            _ => "/",
        };
        let name = name.to_owned();
        Asked { place: Place { path: clean, folder: dot || path.ends_with('/') }, name }
    }
}

/// Where a worker is to look; what it holds keeps others away.
enum Source {
    Running { process: Arc<OwnedFd>, _shared: Option<OwnedRwLockReadGuard<()>> },
    Stopped { tree: Box<Tree>, _alone: Option<OwnedRwLockWriteGuard<()>>, _held: Held },
}

impl Source {
    fn files(&self) -> Files<'_> {
        match self {
            Source::Running { process, .. } => Files::Running { process: process.as_fd(), below: true },
            Source::Stopped { tree, .. } => Files::Stopped(tree),
        }
    }
}

/// An archive that is being made.
pub struct Outgoing {
    pub stat: PathStat,
    working: Working,
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing").field("stat", &self.stat).finish_non_exhaustive()
    }
}

impl Outgoing {
    /// Whether all of it was written; to be asked when the pipe has ended.
    pub async fn end(self) -> Result<()> {
        match self.working.next().await {
            Outcome::Packed => Ok(()),
            other => Err(unexpected(other)),
        }
    }
}

/// An archive that is being unpacked.
pub struct Incoming {
    working: Working,
    handle: Arc<Handle>,
    /// Says of which path and container something is told.
    path: String,
    key: String,
    source: Source,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("path", &self.path).field("key", &self.key).finish_non_exhaustive()
    }
}

impl Incoming {
    /// Waits until all is unpacked. Dropped before, the worker is killed where it is.
    pub async fn end(self) -> Result<()> {
        let mut view = self.handle.view.clone();
        let removed = view.wait_for(|view| matches!(view.phase, Phase::Removing { .. }));
        let outcome = tokio::select! {
            outcome = self.working.next() => outcome,
            _ = removed => {
                return Err(Error::Conflict(format!("container {} is being removed", self.handle.id)));
            }
        };
        // What it has mounted is there until it has gone.
        self.working.gone().await;
        drop(self.source);
        match outcome {
            Outcome::Unpacked => Ok(()),
            Outcome::Absent => Err(absent(&self.path, &self.key)),
            Outcome::NotFolder => Err(Error::Invalid("extraction point is not a directory".to_owned())),
            Outcome::ReadOnly { root: true } => {
                Err(Error::Invalid("container rootfs is marked read-only".to_owned()))
            }
            Outcome::ReadOnly { root: false } => {
                Err(Error::Invalid("mounted volume is marked read-only".to_owned()))
            }
            other => Err(unexpected(other)),
        }
    }
}

fn absent(path: &str, key: &str) -> Error {
    Error::NotFound(format!("Could not find the file {path} in container {key}"))
}

fn unexpected(outcome: Outcome) -> Error {
    match outcome {
        Outcome::Failed { message } | Outcome::Unfit { message } => Error::Archive(message),
        other => Error::Archive(format!("a worker answered {other:?}")),
    }
}

/// What is at `path`; links in its folders are followed, one at its end only if the path ends with
/// a slash.
pub(crate) async fn examine(services: &Arc<Services>, key: &str, path: &str) -> Result<PathStat> {
    let handle = services.registry.find(key)?;
    let asked = Asked::new(path);
    for _ in 0..ATTEMPTS {
        let source = look(services, &handle).await?;
        let work = Work::Examine(asked.place.clone());
        let working = services.spawner.work(work, None, source.files()).await?;
        match working.next().await {
            Outcome::Found(found) => return Ok(PathStat { name: asked.name, found }),
            Outcome::Absent => return Err(absent(path, key)),
            Outcome::Ended => {}
            other => return Err(unexpected(other)),
        }
    }
    Err(Error::Archive(format!("container {key} starts and ends all the time")))
}

/// What is at `path` as an archive, which comes out of the pipe.
pub(crate) async fn read(services: &Arc<Services>, key: &str, path: &str) -> Result<(Outgoing, OwnedFd)> {
    let handle = services.registry.find(key)?;
    let asked = Asked::new(path);
    for _ in 0..ATTEMPTS {
        let (output, input) = pipe()?;
        let source = look(services, &handle).await?;
        let running = matches!(source, Source::Running { .. });
        let work = pack(&asked.place, &asked.name, running, &handle.view());
        let working = services.spawner.work(work, Some(input.as_fd()), source.files()).await?;
        drop(input);
        match working.next().await {
            Outcome::Found(found) => {
                services.publish(&handle.id, "archive-path", &[]);
                return Ok((Outgoing { stat: PathStat { name: asked.name, found }, working }, output));
            }
            Outcome::Absent => return Err(absent(path, key)),
            Outcome::Ended => {}
            other => return Err(unexpected(other)),
        }
    }
    Err(Error::Archive(format!("container {key} starts and ends all the time")))
}

/// The layers of a container that does not run have its own ids; what a running one shows has the host's.
fn pack(place: &Place, name: &str, running: bool, view: &View) -> Work {
    let maps = view.settings.users.clone().filter(|_| running);
    let (uids, gids) = maps.map_or_else(Default::default, |maps| (maps.uids, maps.gids));
    Work::Pack { place: place.clone(), name: name.to_owned(), uids, gids }
}

/// All files of the container as an archive, which comes out of the pipe. Of what is mounted in it
/// there are the empty places.
pub(crate) async fn export(services: &Arc<Services>, key: &str) -> Result<(Outgoing, OwnedFd)> {
    let handle = services.registry.find(key)?;
    let asked = Asked::new("/.");
    for _ in 0..ATTEMPTS {
        let (output, input) = pipe()?;
        let (process, view) = (handle.process(), handle.view());
        if process.is_none() {
            unpacked(services, &view).await?;
        }
        let tree = bare(&view);
        let files = match &process {
            Some(process) => Files::Running { process: process.as_fd(), below: false },
            None => Files::Stopped(&tree),
        };
        let work = pack(&asked.place, "", process.is_some(), &view);
        let working = services.spawner.work(work, Some(input.as_fd()), files).await?;
        drop(input);
        match working.next().await {
            Outcome::Found(found) => {
                services.publish(&handle.id, "export", &[]);
                return Ok((Outgoing { stat: PathStat { name: asked.name, found }, working }, output));
            }
            Outcome::Ended => {}
            other => return Err(unexpected(other)),
        }
    }
    Err(Error::Archive(format!("container {key} starts and ends all the time")))
}

/// Waits until the files of all layers that the container shows are there. They are, unless a power cut
/// has taken some that could not be brought again.
async fn unpacked(services: &Arc<Services>, view: &Arc<View>) -> Result<()> {
    let (shared, view) = (Arc::clone(services), Arc::clone(view));
    services.blocking(move || launch::unpack(&shared, &view.image, &view.settings)).await
}

/// The layers of a container alone, to be looked at.
fn bare(view: &View) -> Tree {
    let paths = &view.rootfs;
    let upper = Upper { upper: paths.upper.clone(), work: paths.work.clone(), volatile: false };
    Tree {
        rootfs: Rootfs::Overlay { lower: paths.lower.clone(), upper: Some(upper) },
        mounts: Vec::new(),
        sources: Default::default(),
        read_only: false,
        writable: false,
        uids: view.settings.users.as_ref().map_or_else(Vec::new, |maps| maps.uids.clone()),
        gids: view.settings.users.as_ref().map_or_else(Vec::new, |maps| maps.gids.clone()),
    }
}

/// Unpacks the archive that goes into the pipe into the folder `path`.
pub(crate) async fn write(
    services: &Arc<Services>,
    key: &str,
    path: &str,
    extract: Extract,
) -> Result<(Incoming, OwnedFd)> {
    let handle = services.registry.find(key)?;
    let owner = if extract.own { user(services, handle.view()).await? } else { None };
    let (output, input) = pipe()?;
    let source = reach(services, &handle).await?;
    let place = path::clean(path);
    let work = Work::Unpack { path: place, keep_kinds: extract.keep_kinds, owner };
    let working = services.spawner.work(work, Some(output.as_fd()), source.files()).await?;
    hull_runtime::failpoint!("engine.archive.after-launch");
    services.publish(&handle.id, "extract-to-dir", &[]);
    Ok((Incoming { working, handle, path: path.to_owned(), key: key.to_owned(), source }, input))
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let failed = |source: rustix::io::Errno| Error::Io {
        call: "pipe2",
        path: "an archive".into(),
        source: source.into(),
    };
    let (output, input) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
    // A smaller one does as well, more slowly.
    let _ = rustix::pipe::fcntl_setpipe_size(&input, PIPE);
    Ok((output, input))
}

/// The tree, for somebody who changes nothing in it.
async fn look(services: &Arc<Services>, handle: &Handle) -> Result<Source> {
    match handle.process() {
        Some(process) => Ok(Source::Running { process, _shared: None }),
        None => {
            let (tree, _held) = tree(services, handle.view(), false).await?;
            Ok(Source::Stopped { tree: Box::new(tree), _alone: None, _held })
        }
    }
}

/// The tree, for somebody who writes to it.
async fn reach(services: &Arc<Services>, handle: &Handle) -> Result<Source> {
    for _ in 0..ATTEMPTS {
        let shared = Arc::clone(&handle.layer).read_owned().await;
        if let Some(process) = handle.process() {
            return Ok(Source::Running { process, _shared: Some(shared) });
        }
        drop(shared);
        let alone = Arc::clone(&handle.layer).write_owned().await;
        let view = handle.view();
        match view.phase {
            Phase::Removing { .. } => {
                return Err(Error::Conflict(format!("container {} is being removed", handle.id)));
            }
            Phase::Starting { .. } => {
                // It waits for the layer that is held here, or for its shim.
                drop(alone);
                let mut view = handle.view.clone();
                let begun = view.wait_for(|view| !matches!(view.phase, Phase::Starting { .. })).await;
                begun.map_err(|_| Error::ShuttingDown)?;
            }
            Phase::Running(_) | Phase::Paused(_) => {}
            Phase::Created | Phase::Exited(_) | Phase::Restarting { .. } => {
                let (tree, _held) = tree(services, view, true).await?;
                return Ok(Source::Stopped { tree: Box::new(tree), _alone: Some(alone), _held });
            }
        }
    }
    Err(Error::Archive(format!("container {} starts and ends all the time", handle.id)))
}

async fn tree(services: &Arc<Services>, view: Arc<View>, writable: bool) -> Result<(Tree, Held)> {
    let shared = Arc::clone(services);
    unpacked(services, &view).await?;
    let make = move || {
        mounts::make_sources(&view.settings)?;
        let held = shared.volumes.hold(&view.id)?;
        if writable && view.settings.auto_remove {
            let forgotten = shared.images.snapshots().forget_volatile(&view.id);
            forgotten.map_err(|source| Error::Snapshot { source })?;
        }
        // Who shares another's network has its names too.
        let names = match &view.settings.network {
            NetworkMode::Container(other) => other,
            _ => &view.id,
        };
        let own = files::etc(&shared.config.data_root, names);
        let shown = mounts::shown(&shared, &view.settings);
        let (mut mounts, sources) = spec::bound(&view.settings, &own, &shared.facts, shown);
        // They are written at the first start.
        let ours = [&own.hostname, &own.hosts, &own.resolv];
        mounts.retain(|mount| {
            let source = Path::new(&mount.source);
            !ours.iter().any(|own| own.as_path() == source) || source.exists()
        });
        let tree = Tree { mounts, sources, read_only: view.settings.read_only, writable, ..bare(&view) };
        Ok((tree, held))
    };
    services.blocking(make).await
}

/// User and group of the container's process, where somebody has chosen them.
async fn user(services: &Arc<Services>, view: Arc<View>) -> Result<Option<(u32, u32)>> {
    if view.settings.user.is_empty() {
        return Ok(None);
    }
    let shared = Arc::clone(services);
    let found = services.blocking(move || {
        launch::unpack(&shared, &view.image, &view.settings)?;
        launch::identity(&view.rootfs, &view.settings, &view.settings.user)
    });
    found.await.map(|identity| Some((identity.uid, identity.gid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_by_its_end_whether_links_are_followed_and_how_its_archive_is_called() {
        let check = |path: &str, place: &str, folder: bool, name: &str| {
            let asked = Asked::new(path);
            assert_eq!(
                (asked.place.path.as_str(), asked.place.folder, asked.name.as_str()),
                (place, folder, name)
            );
        };
        check("/etc/passwd", "/etc/passwd", false, "passwd");
        check("etc/passwd", "/etc/passwd", false, "passwd");
        check("/etc/", "/etc", true, "etc");
        check("/etc/.", "/etc", true, ".");
        check("/etc/../var//log", "/var/log", false, "log");
        check("/../../x", "/x", false, "x");
        check("/", "/", true, "/");
        check(".", "/", true, ".");
        check("", "/", false, "/");
        check("/etc/..", "/", false, "/");
    }
}
