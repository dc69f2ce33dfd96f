//! A container's start, up to the moment at which its shim has been asked for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hull_network::pool::Turn;
use hull_oci::runtime::NamespaceKind;
use hull_runtime::bundle::{Bundle, Exec, Rootfs, StartError, StartErrorKind, Upper};
use hull_runtime::protocol::{Attach, Kind};
use hull_runtime::shim;
use hull_runtime::spawner::Launch;

use super::link::Link;
use super::requests::ExecSettings;
use super::services::Services;
use super::settings::{ImageRef, IpcMode, NetworkMode, PidMode, Settings};
use super::view::{Record, RootfsPaths};
use super::{create, files, fill, mounts};
use crate::networks::{self, links, plug};
use crate::spec::identity::{self, Identity};
use crate::spec::{self, devices};
use crate::{Error, Result, rootfs, users};

/// Bytes of the image's passwd or group file that are read at most.
const USERS_LIMIT: u64 = 4 << 20;

/// A stream that waits for a process.
pub(crate) type Stream = (Attach, OwnedFd);

/// What one run has besides its settings, and no record knows of.
#[derive(Debug, Default)]
pub(crate) struct Besides {
    pub(crate) mounts: Vec<spec::Own>,
    /// A layer between the image and the writable one.
    pub(crate) layer: Option<PathBuf>,
}

/// Everything a shim needs.
struct Prepared<T> {
    document: T,
    warnings: Vec<String>,
    namespaces: Vec<(NamespaceKind, OwnedFd)>,
    seccomp: Option<Arc<OwnedFd>>,
    /// The mount namespace in which the /dev/shm is that this container shares.
    shared_memory: Option<OwnedFd>,
    /// For the shim to keep, with their names.
    keep: Vec<(&'static str, OwnedFd)>,
    /// Held until the shim was asked for: others' namespaces are made after that.
    _turn: Option<Turn>,
}

/// Prepares the container and asks for its shim. Gives warnings beside the link.
pub(crate) async fn container(
    services: &Arc<Services>,
    record: &Record,
    besides: Besides,
    streams: &[Stream],
) -> Result<(Link, Vec<String>)> {
    let (shared, owned) = (Arc::clone(services), record.clone());
    let prepared = services.blocking(move || prepare(&shared, owned, besides)).await?;
    hull_runtime::failpoint!("engine.start.before-launch");
    let namespaces: Vec<_> = prepared.namespaces.iter().map(|(kind, fd)| (*kind, fd.as_fd())).collect();
    let attach = borrowed(streams);
    let keep: Vec<_> = prepared.keep.iter().map(|(name, fd)| (*name, fd.as_fd())).collect();
    let launch = Launch::Container {
        bundle: &prepared.document,
        namespaces: &namespaces,
        seccomp: prepared.seccomp.as_ref().map(|fd| fd.as_fd()),
        hold: None,
        shared_memory: prepared.shared_memory.as_ref().map(|fd| fd.as_fd()),
        attach: &attach,
        keep: &keep,
    };
    let connection = services.spawner.launch(launch).await?;
    hull_runtime::failpoint!("engine.start.after-launch");
    Ok((Link::new(connection)?, prepared.warnings))
}

/// The same for one more process; `target` is the pidfd of the container's first one.
pub(crate) async fn exec(
    services: &Arc<Services>,
    record: &Record,
    (id, settings, stdin): (&str, &ExecSettings, bool),
    target: BorrowedFd<'_>,
    streams: &[Stream],
) -> Result<Link> {
    let (shared, owned, id, settings) =
        (Arc::clone(services), record.clone(), id.to_owned(), settings.clone());
    let prepared = services.blocking(move || prepare_exec(&shared, owned, &id, &settings, stdin)).await?;
    hull_runtime::failpoint!("engine.exec.before-launch");
    let attach = borrowed(streams);
    let launch = Launch::Exec {
        exec: &prepared.document,
        target,
        seccomp: prepared.seccomp.as_ref().map(|fd| fd.as_fd()),
        attach: &attach,
    };
    let connection = services.spawner.launch(launch).await?;
    hull_runtime::failpoint!("engine.exec.after-launch");
    Link::new(connection)
}

/// Whether the container has the user whom the exec asks for.
///
/// # Errors
/// [`Error::Invalid`] in the reference's words when it has not.
pub(crate) async fn exec_user(
    services: &Arc<Services>,
    record: &Record,
    settings: &ExecSettings,
) -> Result<()> {
    if settings.user.is_empty() {
        // The container's own, which was found when it started.
        return Ok(());
    }
    let (shared, owned, user) = (Arc::clone(services), record.clone(), settings.user.clone());
    let find = move || identity(&create::rootfs_paths(&shared, &owned), &owned.settings, &user);
    match services.blocking(find).await {
        Ok(_) => Ok(()),
        Err(Error::Start(error)) => Err(Error::Invalid(error.message)),
        Err(error) => Err(error),
    }
}

fn borrowed(streams: &[Stream]) -> Vec<(Attach, BorrowedFd<'_>)> {
    streams.iter().map(|(attach, fd)| (*attach, fd.as_fd())).collect()
}

/// The record with these variables in front of its own.
fn with_environment(mut record: Record, variables: Vec<String>) -> Record {
    if !variables.is_empty() {
        let mut settings = Settings::clone(&record.settings);
        settings.env.splice(0..0, variables);
        record.settings = Arc::new(settings);
    }
    record
}

/// Waits until the files of the container's layers, and of the images that it mounts, are there. Nothing
/// to do, unless a power cut has taken some that could not be brought again. Blocks.
pub(super) fn unpack(services: &Services, image: &ImageRef, settings: &Settings) -> Result<()> {
    services.images.unpack(&hull_oci::image::chain_ids(&image.layers))?;
    mounts::unpack_images(services, settings)
}

fn prepare(services: &Services, record: Record, besides: Besides) -> Result<Prepared<Bundle>> {
    let linked = links::environment(services, &record)?;
    let record = &with_environment(record, linked);
    let settings = &record.settings;
    mounts::make_sources(settings)?;
    mounts::check_propagation(settings)?;
    unpack(services, &record.image, settings)?;
    services.volumes.mount(&record.id, &record.id)?;
    fill::resume(services, settings);
    files::write_etc(&services.config, &record.id, settings, &networks::default_gateways(services))?;
    if settings.auto_remove {
        // Of an earlier run: a restart.
        let forgotten = services.images.snapshots().forget_volatile(&record.id);
        forgotten.map_err(|source| Error::Snapshot { source })?;
    }
    let mut found = devices::find(&settings.devices).map_err(Error::Start)?;
    if settings.security.privileged {
        let asked: Vec<_> = found.iter().map(|device| device.node.path.clone()).collect();
        found.extend(devices::of_the_host().into_iter().filter(|device| !asked.contains(&device.node.path)));
    }
    let identity = identity(&create::rootfs_paths(services, record), settings, &settings.user)?;
    let (mut namespaces, mut keep, mut turn) = (joined(services, record)?, Vec::new(), None);
    let shared_memory = shared_memory(services, record)?;
    let (given, _) = spec::given_capabilities(settings, &services.facts)?;
    let seccomp = services.seccomp.filter(&settings.security, &given).map_err(Error::Start)?;
    let mut inputs = inputs(services, record, &identity, &found)?;
    if let Rootfs::Overlay { lower, .. } = &mut inputs.rootfs {
        lower.splice(0..0, besides.layer);
    }
    inputs.shown.own = besides.mounts;
    let (document, warnings) = spec::compile(inputs)?;
    shim::expect(services.exec_root(), Kind::Container, &record.id)
        .map_err(|source| Error::System { doing: "make a shim's folder".to_owned(), source })?;
    if matches!(settings.network, NetworkMode::Default | NetworkMode::Named(_)) {
        // A network namespace belongs to the user namespace that it was made in: they are a pair.
        let pair = settings.users.as_ref().map(|maps| services.spawner.pair(maps)).transpose()?;
        let (user, own) = pair.map(|pair| (pair.user, pair.network)).unzip();
        if user.is_some() {
            hull_runtime::failpoint!("engine.users.made");
        }
        namespaces.extend(user.map(|fd| (NamespaceKind::User, fd)));
        let plugged = plug::plug(services, record, own).inspect_err(|_| {
            // Nobody was asked for: there is nothing that could come. Left behind, it is swept.
            let _ = shim::forget(services.exec_root(), Kind::Container, &record.id);
        })?;
        namespaces.push((NamespaceKind::Network, plugged.namespace));
        turn = plugged.turn;
        for fd in plugged.sockets.fds() {
            let copy = fd.try_clone_to_owned();
            let copy =
                copy.map_err(|source| Error::Io { call: "dup", path: "a resolver's socket".into(), source })?;
            keep.push((networks::KEPT_SOCKETS, copy));
        }
    }
    Ok(Prepared { document, warnings, namespaces, seccomp, shared_memory, keep, _turn: turn })
}

fn prepare_exec(
    services: &Services,
    record: Record,
    id: &str,
    exec: &ExecSettings,
    stdin: bool,
) -> Result<Prepared<Exec>> {
    let linked = links::present(services, &record);
    let record = &with_environment(record, linked);
    let user = if exec.user.is_empty() { &record.settings.user } else { &exec.user };
    let identity = identity(&create::rootfs_paths(services, record), &record.settings, user)?;
    let inputs = inputs(services, record, &identity, &[])?;
    let document = spec::compile_exec(&inputs, id, exec, stdin)?;
    let bounding = document.process.capabilities.as_ref().map_or(&[][..], |sets| &sets.bounding);
    let mut security = record.settings.security.clone();
    security.privileged |= exec.privileged;
    let seccomp = services.seccomp.filter(&security, bounding).map_err(Error::Start)?;
    Ok(Prepared {
        document,
        warnings: Vec::new(),
        namespaces: Vec::new(),
        seccomp,
        shared_memory: None,
        keep: Vec::new(),
        _turn: None,
    })
}

fn inputs<'a>(
    services: &'a Services,
    record: &'a Record,
    identity: &'a Identity,
    devices: &'a [devices::Found],
) -> Result<spec::Inputs<'a>> {
    let data_root = &services.config.data_root;
    let paths = create::rootfs_paths(services, record);
    let log = spec::log_settings(&record.settings.log, files::log_dir(data_root, &record.id))?;
    // Who shares another's network has its names too.
    let names = match &record.settings.network {
        NetworkMode::Container(other) => other,
        _ => &record.id,
    };
    Ok(spec::Inputs {
        id: &record.id,
        settings: &record.settings,
        host: &services.facts,
        identity,
        files: files::etc(data_root, names),
        rootfs: Rootfs::Overlay {
            lower: paths.lower,
            upper: Some(Upper {
                upper: paths.upper,
                work: paths.work,
                // It goes with the run. After a power cut recovery removes it, unread.
                volatile: record.settings.auto_remove,
            }),
        },
        shown: mounts::shown(services, &record.settings),
        devices,
        seccomp: None,
        log,
        cgroup: services.cgroup_path(record),
    })
}

/// Who `user` is in the container with these layers.
pub(super) fn identity(paths: &RootfsPaths, settings: &Settings, user: &str) -> Result<Identity> {
    let layers: Vec<_> = std::iter::once(&paths.upper).chain(&paths.lower).cloned().collect();
    let text = |path: &str| match rootfs::read(&layers, Path::new(path), USERS_LIMIT) {
        Ok(bytes) => Ok(bytes.unwrap_or_default()),
        Err(source @ rootfs::LookupError::Call { .. }) => Err(Error::Lookup { source }),
        // The image is to blame.
        Err(error) => {
            Err(Error::Start(StartError { kind: StartErrorKind::Invalid, message: error.to_string() }))
        }
    };
    let (passwd, group) = (text("/etc/passwd")?, text("/etc/group")?);
    identity::resolve(user, &settings.group_add, &passwd, &group).map_err(Error::Start)
}

/// Descriptors of the namespaces of other containers that this one shares.
fn joined(services: &Services, record: &Record) -> Result<Vec<(NamespaceKind, OwnedFd)>> {
    let settings = &record.settings;
    let mut joined = Vec::new();
    // Power over a namespace is power in the user namespace that it belongs to.
    if let (Some(_), Some((noun, id))) = (&settings.users, users::donors(settings).next()) {
        joined.push((NamespaceKind::User, namespace(services, id, "user", noun)?));
    }
    if let NetworkMode::Container(id) = &settings.network {
        joined.push((NamespaceKind::Network, namespace(services, id, "net", "network")?));
    }
    if let PidMode::Container(id) = &settings.pid {
        joined.push((NamespaceKind::Pid, namespace(services, id, "pid", "PID namespace")?));
    }
    if let IpcMode::Container(id) = &settings.ipc {
        let donor = services.registry.find(id).map_err(|_| Error::NoSuchContainer(id.to_owned()))?.view();
        if matches!(donor.settings.ipc, IpcMode::Private | IpcMode::None) {
            return Err(Error::Invalid(format!(
                "can't join IPC of container {id}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
            )));
        }
        joined.push((NamespaceKind::Ipc, namespace(services, id, "ipc", "IPC namespace")?));
    }
    Ok(joined)
}

/// Who joins another's IPC namespace has its /dev/shm too: POSIX' half of the same thing.
fn shared_memory(services: &Services, record: &Record) -> Result<Option<OwnedFd>> {
    let settings = &record.settings;
    let IpcMode::Container(id) = &settings.ipc else { return Ok(None) };
    if settings.mounts.iter().any(|mount| mount.target() == "/dev/shm") {
        return Ok(None);
    }
    namespace(services, id, "mnt", "IPC namespace").map(Some)
}

fn namespace(services: &Services, id: &str, file: &str, noun: &str) -> Result<OwnedFd> {
    let handle = services.registry.find(id).map_err(|_| Error::NoSuchContainer(id.to_owned()))?;
    let stopped = || Error::Conflict(format!("cannot join {noun} of a non running container: {id}"));
    let (pid, process) = (handle.view().pid(), handle.process());
    let (Some(pid), Some(process)) = (pid, process) else { return Err(stopped()) };
    let opened = std::fs::File::open(format!("/proc/{pid}/ns/{file}")).map_err(|_| stopped())?;
    // If the process is still there now, the number was its own when it was used.
    hull_sys::process::signal(&process, 0).map_err(|_| stopped())?;
    Ok(opened.into())
}
