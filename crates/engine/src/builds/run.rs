//! RUN: one process on a writable layer.
//!
//! The same road as a container's start ([`launch`]), with a record that nobody keeps: `ps` does not
//! list it, nothing is written into the database, no event tells of it. It ends with whoever asked for
//! it: the work is a task of its own, which is told when its asker has gone, kills the process, and
//! gives everything back. What a killed daemon leaves is swept by the next one like any shim without a
//! record.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use hull_builder::progress::{Output, Stream};
use hull_oci::{Digest, runtime};
use hull_runtime::bundle::Exit;
use hull_runtime::protocol::{Attach, Framing, Kind};
use hull_runtime::shim;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, SetOnce, mpsc, oneshot, watch};

use super::mounts::Mounts;
use super::site::Site;
use crate::containers::launch::Besides;
use crate::containers::link::{self, Link, Word};
use crate::containers::services::Services;
use crate::containers::settings::{ImageRef, LogDriver, Mount, NetworkMode, Security, Settings};
use crate::containers::view::Record;
use crate::containers::{attach, create, launch, recover, validate};
use crate::networks::{Join, unplug};
use crate::{Error, Result};

/// What all processes of one build have.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Limits {
    pub network: NetworkMode,
    pub resources: runtime::Resources,
    pub rlimits: Vec<runtime::Rlimit>,
    /// Bytes; 0 is the daemon's default.
    pub shm_bytes: u64,
    /// `NAME:ADDRESS`.
    pub extra_hosts: Vec<String>,
    pub cgroup_parent: String,
    /// Of one that fails no image is kept with what it had written.
    pub force_rm: bool,
}

/// A process to run.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<String>,
    pub(super) user: String,
    pub(super) folder: String,
    pub(super) network: NetworkMode,
    pub(super) mounts: Mounts,
    pub(super) security: Security,
}

/// Runs the process; gives its exit code.
///
/// # Errors
/// [`Error::Start`] where it cannot be executed, whatever is to blame; [`Error::ShuttingDown`] where the
/// daemon ends before it does.
pub(super) async fn run(
    services: &Arc<Services>,
    site: &Arc<Site>,
    (mut process, limits, below): (Process, Limits, Vec<Digest>),
    output: Output,
) -> Result<i32> {
    // Dropped with this future.
    let (_asker, asker_gone) = oneshot::channel::<()>();
    let (services, site) = (Arc::clone(services), Arc::clone(site));
    let closing = services.builds.closing();
    let work = tokio::spawn(async move {
        let mut mounts = std::mem::take(&mut process.mounts);
        process.environment.append(&mut mounts.environment);
        let record =
            record(&services, &site.id, (process, std::mem::take(&mut mounts.mounts)), limits, below)?;
        let besides = std::mem::take(&mut mounts.besides);
        let outcome = attend(&services, (&record, besides), (asker_gone, closing.clone()), output).await;
        end(&services, &record).await;
        for cache in mounts.caches.drain(..) {
            services.builds.caches.give_back(&services, cache).await;
        }
        drop(mounts);
        // Nothing is written to it any more, and nobody has to wait for this.
        drop((site, closing));
        outcome
    });
    work.await.map_err(|_| Error::ShuttingDown)?
}

/// As [`create`] makes one, of what a build says.
fn record(
    services: &Services,
    id: &str,
    (process, mounts): (Process, Vec<Mount>),
    limits: Limits,
    below: Vec<Digest>,
) -> Result<Record> {
    let mut settings = Settings {
        cmd: Some(process.arguments),
        env: process.environment,
        user: process.user,
        working_dir: process.folder,
        network: process.network,
        mounts,
        resources: limits.resources,
        rlimits: limits.rlimits,
        shm_bytes: limits.shm_bytes,
        extra_hosts: limits.extra_hosts,
        cgroup_parent: limits.cgroup_parent,
        // Its output goes to whoever asked for it alone.
        log: LogDriver { name: "none".to_owned(), ..LogDriver::default() },
        // What it writes need not be synced as long as nothing names it.
        auto_remove: true,
        security: process.security,
        ..Settings::default()
    };
    let joins: Vec<Join> = match &settings.network {
        NetworkMode::Default => vec![Join { network: "bridge".to_owned(), ..Join::default() }],
        NetworkMode::Named(name) => vec![Join { network: name.clone(), ..Join::default() }],
        NetworkMode::None | NetworkMode::Host | NetworkMode::Container(_) => Vec::new(),
    };
    create::resolve_sharing(services, &mut settings)?;
    create::join_networks(services, &mut settings, &joins)?;
    create::fill_defaults(services, &mut settings, id);
    validate::discard(&mut settings.resources, &services.facts);
    validate::settings(&settings, &services.facts)?;
    let donor = |id: &str| Some(Arc::clone(&services.registry.find(id).ok()?.view().settings));
    let users = services.users.claim(&settings, donor)?;
    settings.users.clone_from(&users.maps);
    users.keep();
    Ok(Record {
        id: id.to_owned(),
        name: id.to_owned(),
        created: hull_sys::time::now(),
        image: ImageRef { id: Digest::sha256(id.as_bytes()), name: String::new(), layers: below },
        settings: Arc::new(settings),
        request: "".into(),
        life: Default::default(),
        started: None,
        finished: None,
        failure: None,
        warnings: Vec::new(),
        take_volumes: false,
    })
}

/// Launches the shim and waits until it has gone.
async fn attend(
    services: &Arc<Services>,
    (record, besides): (&Record, Besides),
    (asker_gone, mut closing): (oneshot::Receiver<()>, watch::Receiver<bool>),
    output: Output,
) -> Result<i32> {
    let (client, shim) = attach::pair()?;
    let wanted = Attach { stdin: false, stdout: true, stderr: true, framing: Framing::Multiplexed };
    let streams = [(wanted, shim)];
    let (link, _) = launch::container(services, record, besides, &streams).await?;
    drop(streams);
    let mut ends = closing.clone();
    let stop = async move {
        tokio::select! {
            _ = asker_gone => {}
            _ = closing.wait_for(|closing| *closing) => {}
        }
    };
    let exited = SetOnce::new();
    let pumped = async {
        tokio::select! {
            () = pump(client, output, &exited) => {}
            // Nobody may be there to take what was written.
            _ = ends.wait_for(|closing| *closing) => {}
        }
    };
    // The shim closes the stream when all was written to it, and has gone when it closes its socket.
    let code = async {
        let code = exit_code(services, record, (&link, &exited), stop).await;
        exited.set(()).ok();
        code
    };
    let (code, ()) = tokio::join!(code, pumped);
    code
}

async fn exit_code(
    services: &Arc<Services>,
    record: &Record,
    (link, exited): (&Link, &SetOnce<()>),
    stop: impl Future<Output = ()>,
) -> Result<i32> {
    let mut stop = std::pin::pin!(stop);
    let (mut stopped, mut process, mut outcome) = (false, None::<OwnedFd>, None::<Result<Exit>>);
    loop {
        let word = tokio::select! {
            () = &mut stop, if !stopped => {
                stopped = true;
                kill(services, record, process.as_ref()).await;
                continue;
            }
            word = link.next() => word,
        };
        match word {
            Word::Started { pidfd, .. } => {
                if stopped {
                    kill(services, record, Some(&pidfd)).await;
                }
                process = Some(pidfd);
            }
            Word::StartFailed(error) => outcome = Some(Err(Error::Start(error))),
            Word::Exited(exit) => {
                exited.set(()).ok();
                outcome = Some(Ok(exit));
            }
            Word::Closed => break,
        }
    }
    if stopped {
        return Err(Error::ShuttingDown);
    }
    match outcome {
        Some(outcome) => outcome.map(|exit| exit.code),
        // The shim has gone without a word, and what it looked after goes, too.
        None => {
            recover::kill_cgroup(services, services.cgroup_path(record)).await;
            Ok(link::exit_of(services.exec_root(), Kind::Container, &record.id, process).await.code)
        }
    }
}

/// With the first process all others of its namespace end. Only where that is not known yet, all in the
/// cgroup do: freezing what dies would wait for what is frozen.
async fn kill(services: &Arc<Services>, record: &Record, process: Option<&OwnedFd>) {
    match process {
        // It may have ended by itself.
        Some(process) => {
            hull_sys::process::signal(process, crate::signals::SIGKILL).ok();
        }
        None => recover::kill_cgroup(services, services.cgroup_path(record)).await,
    }
}

/// Gives back all that the process had of the host, but for its layer.
async fn end(services: &Arc<Services>, record: &Record) {
    recover::kill_cgroup(services, services.cgroup_path(record)).await;
    unplug::unplug_later(services, &record.id).await;
    services.users.removed(&record.settings);
    if let Err(error) = shim::forget(services.exec_root(), Kind::Container, &record.id) {
        tracing::warn!(id = record.id, %error, "the folder of a build's shim stays");
    }
}

/// Bytes that are taken from a shim ahead of those who read them.
const AHEAD: usize = 128 << 10;

/// Gives on what the process writes, until its shim has no more of it. While nobody takes it, the
/// process waits; when it has ended, the shim does not, so the rest is taken at once.
async fn pump(mut from: UnixStream, output: Output, exited: &SetOnce<()>) {
    let ahead = Arc::new(Semaphore::new(AHEAD));
    let (give, mut given) = mpsc::unbounded_channel();
    let take = async move {
        let mut head = [0; 8];
        while from.read_exact(&mut head).await.is_ok() {
            let [stream, _, _, _, length @ ..] = head;
            let stream = if stream == 2 { Stream::Error } else { Stream::Out };
            let mut piece = vec![0; u32::from_be_bytes(length) as usize];
            let whole = from.read_exact(&mut piece).await.is_ok();
            if !whole {
                piece = b"[output cut off: it was not taken in time]\n".to_vec();
            }
            let room = u32::try_from(piece.len().min(AHEAD)).unwrap_or(u32::MAX);
            let room = tokio::select! {
                room = Arc::clone(&ahead).acquire_many_owned(room) => room.ok(),
                _ = exited.wait() => None,
            };
            give.send((stream, piece, room)).ok();
            if !whole {
                return;
            }
        }
    };
    let pass = async {
        while let Some((stream, piece, _room)) = given.recv().await {
            output.write(stream, &piece).await;
        }
    };
    tokio::join!(take, pass);
}
