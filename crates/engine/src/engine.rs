//! The engine as its callers see it: every method finds the container and asks its task.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hull_network::explain::Finding;
use hull_network::record::Protocol;
use hull_oci::Digest;
use hull_runtime::cgroup::Hierarchies;
use hull_runtime::processes;
use rustix::fs::{FlockOperation, Mode, OFlags};
use tokio::sync::oneshot;

use crate::builds::{self, Build, Builds, CacheMount, Cached, Context, Forget, Forgotten, Given};
use crate::containers::archive::{self, Extract, Incoming, Outgoing, PathStat};
use crate::containers::attach::Seat;
use crate::containers::handle::Command;
use crate::containers::layer::{Change, Commit};
use crate::containers::registry::Registry;
use crate::containers::requests::{
    Attach, Attachment, Condition, Created, ExecSettings, ExecView, LogStream, Logs, Pruned, Remove, Top,
    Update, WaitResult,
};
use crate::containers::services::Services;
use crate::containers::settings::{Create, ImageRef, Mount};
use crate::containers::spawner::Spawner;
use crate::containers::stats::{self, Stats};
use crate::containers::view::View;
use crate::containers::{create, files, layer, logs, networking, recover};
use crate::events::{Events, Subscription};
use crate::host::{Host, HostFacts};
use crate::images::{Images, Pack, Setup, Unpack, Use, Uses};
use crate::networks::wiring::Wiring;
use crate::networks::{self, Networks, change, explain};
use crate::networks::{adopt, relay};
use crate::seccomp::Profiles;
use crate::store::Store;
use crate::users::Users;
use crate::volumes::Volumes;
use crate::{Config, Error, Result, names, signals};

/// How long an engine that is being closed goes on freeing what removed containers left.
const FREEING: Duration = Duration::from_secs(1);

/// How long it waits for the disk to have the first content of volumes: a server may not answer.
const SYNCING: Duration = Duration::from_secs(10);

/// All containers and images of one data root. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    services: Arc<Services>,
    /// Held as long as the engine: one daemon for one data root.
    _lock: OwnedFd,
}

impl Engine {
    /// Opens the data root, adopts or starts the spawner and finds the containers again.
    pub async fn open(config: Config) -> Result<Engine> {
        let opened = tokio::task::spawn_blocking(move || open_blocking(config));
        let Opened { services, lock, containers } = opened.await.map_err(|_| Error::ShuttingDown)??;
        let services = Arc::new(services);
        relay::watch(&services);
        recover::recover(&services, containers).await?;
        services.volumes.sweep()?;
        services.images.sweep().await?;
        Ok(Engine(Arc::new(Inner { services, _lock: lock })))
    }

    /// Ends the containers' tasks and writes what is still to be written. Containers go on running;
    /// where there is none, spawner and forwarder are sent away.
    pub async fn close(self) {
        let services = &self.0.services;
        services.builds.close().await;
        for handle in services.registry.all() {
            // One that has ended by itself has written its last word already.
            if handle.commands.send(Command::Close).await.is_ok() {
                handle.commands.closed().await;
            }
        }
        // What is not freed by then is swept at the next start.
        tokio::time::timeout(FREEING, services.freeing.lock()).await.ok();
        // What is not on the disk by then is looked through when the machine has been started again.
        tokio::time::timeout(SYNCING, services.filling.close()).await.ok();
        services.images.close().await;
        // The writer works in order: when this is answered, everything before it is written.
        if let Err(error) = services.store.commit(Vec::new()).await {
            tracing::error!(%error, "the last changes were not written");
        }
        // The next engine asks them for nothing then: no process of ours stays behind. With a
        // container running they stay, and the next engine finds them.
        let Host { running, paused, .. } = self.host();
        if running + paused == 0 {
            let services = Arc::clone(services);
            let leave = move || {
                services.wiring.relay.leave();
                services.spawner.leave();
            };
            tokio::task::spawn_blocking(leave).await.ok();
        }
    }

    pub fn images(&self) -> &Images {
        &self.0.services.images
    }

    pub fn volumes(&self) -> &Volumes {
        &self.0.services.volumes
    }

    pub fn config(&self) -> &Config {
        &self.0.services.config
    }

    /// Facts and counts for `info`.
    pub fn host(&self) -> Host {
        let mut host = Host {
            images: self.0.services.images.count(),
            data_root: self.0.services.config.data_root.clone(),
            facts: self.0.services.facts.clone(),
            user_namespaces: self.0.services.users.remaps(),
            ..Host::default()
        };
        for handle in self.0.services.registry.all() {
            host.containers += 1;
            match handle.view().phase.status() {
                "running" | "restarting" => host.running += 1,
                "paused" => host.paused += 1,
                _ => host.stopped += 1,
            }
        }
        host
    }

    /// What happens from now on, and with `since` what the ring still holds from there.
    pub fn events(&self, since: Option<i64>) -> Subscription {
        self.0.services.events.subscribe(since)
    }

    /// By id.
    pub fn networks(&self) -> Vec<networks::View> {
        self.0.services.networks.views()
    }

    /// By id, name or unambiguous prefix of an id.
    pub fn network(&self, key: &str) -> Result<networks::View> {
        self.0.services.networks.view(key)
    }

    pub async fn network_create(&self, request: networks::Create) -> Result<networks::Created> {
        change::create(&self.0.services, request).await
    }

    pub async fn network_remove(&self, key: &str) -> Result<()> {
        change::remove(&self.0.services, key).await
    }

    /// Connects a container, by its name or id, to a network.
    pub async fn network_connect(&self, container: &str, join: networks::Join) -> Result<()> {
        networking::connect(&self.0.services, container, join).await
    }

    /// With `force` also where the container is not known.
    pub async fn network_disconnect(&self, network: &str, container: &str, force: bool) -> Result<()> {
        networking::disconnect(&self.0.services, network, container, force).await
    }

    /// Why a port of the host is reachable or not; of one protocol, or of all.
    pub async fn network_explain(&self, port: u16, protocol: Option<Protocol>) -> Result<Vec<Finding>> {
        let services = Arc::clone(&self.0.services);
        self.0.services.blocking(move || explain::explain(&services, port, protocol)).await
    }

    /// Removes every network that nobody is on and that `wanted` accepts; gives their names.
    pub async fn prune_networks(&self, wanted: impl Fn(&networks::Record) -> bool) -> Vec<String> {
        change::prune(&self.0.services, wanted).await
    }

    pub async fn create(&self, request: Create) -> Result<Created> {
        // The request is large, and so would be every future that holds this one.
        Box::pin(create::create(&self.0.services, request)).await
    }

    /// Newest first.
    pub fn containers(&self) -> Vec<Arc<View>> {
        let mut views: Vec<_> = self.0.services.registry.all().iter().map(|handle| handle.view()).collect();
        views.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        views
    }

    /// By id, unambiguous prefix of one, or name.
    pub fn container(&self, key: &str) -> Result<Arc<View>> {
        Ok(self.0.services.registry.find(key)?.view())
    }

    /// `NotModified` when it runs already.
    pub async fn start(&self, key: &str) -> Result<()> {
        self.0.services.registry.find(key)?.ask(key, |reply| Command::Start { reply }).await
    }

    /// `NotModified` when it does not run. Without a signal the container's own; `timeout` in
    /// seconds until SIGKILL, -1 for ever, `None` for the container's own.
    pub async fn stop(&self, key: &str, signal: Option<&str>, timeout: Option<i32>) -> Result<()> {
        self.stop_or_restart(key, signal, timeout, false).await
    }

    pub async fn restart(&self, key: &str, signal: Option<&str>, timeout: Option<i32>) -> Result<()> {
        self.stop_or_restart(key, signal, timeout, true).await
    }

    async fn stop_or_restart(
        &self,
        key: &str,
        signal: Option<&str>,
        timeout: Option<i32>,
        restart: bool,
    ) -> Result<()> {
        let handle = self.0.services.registry.find(key)?;
        let signal = signal.filter(|text| !text.is_empty()).map(parse_signal).transpose()?;
        handle.ask(key, |reply| Command::Stop { signal, timeout, restart, reply }).await
    }

    /// An empty signal is SIGKILL.
    pub async fn kill(&self, key: &str, signal: &str) -> Result<()> {
        let handle = self.0.services.registry.find(key)?;
        let signal = match signal {
            "" => signals::SIGKILL,
            text => parse_signal(text)
                .map_err(|error| Error::Invalid(format!("cannot kill container: {key}: {error}")))?,
        };
        handle.ask(key, |reply| Command::Kill { key: key.to_owned(), signal, reply }).await
    }

    pub async fn pause(&self, key: &str) -> Result<()> {
        self.0.services.registry.find(key)?.ask(key, |reply| Command::Pause { reply }).await
    }

    pub async fn unpause(&self, key: &str) -> Result<()> {
        self.0.services.registry.find(key)?.ask(key, |reply| Command::Unpause { reply }).await
    }

    pub async fn rename(&self, key: &str, new_name: &str) -> Result<()> {
        let handle = self.0.services.registry.find(key)?;
        let name = new_name.strip_prefix('/').unwrap_or(new_name);
        if name.is_empty() {
            return Err(Error::Invalid("Neither old nor new names may be empty".to_owned()));
        }
        if handle.view().name == name {
            return Err(Error::Invalid(
                "Renaming a container with the same name as its current name".to_owned(),
            ));
        }
        let refuse = |error: Error| match error {
            Error::Conflict(text) => Error::Conflict(format!("Error when allocating new name: {text}")),
            Error::Invalid(text) => Error::Invalid(format!("Error when allocating new name: {text}")),
            other => other,
        };
        names::check(name, &format!("/{name}")).map_err(refuse)?;
        self.0.services.registry.reserve(name, &handle.id).map_err(refuse)?;
        let outcome = handle.ask(key, |reply| Command::Rename { name: name.to_owned(), reply }).await;
        if outcome.is_err() {
            self.0.services.registry.release(name, &handle.id);
        }
        outcome
    }

    /// Gives warnings.
    pub async fn update(&self, key: &str, update: Update) -> Result<Vec<String>> {
        let handle = self.0.services.registry.find(key)?;
        handle.ask(key, |reply| Command::Update { update: Box::new(update), reply }).await
    }

    /// Removes a link of the default bridge, `CONTAINER/ALIAS`; both containers stay.
    pub async fn unlink(&self, key: &str) -> Result<()> {
        networking::unlink(&self.0.services, key).await
    }

    pub async fn remove(&self, key: &str, options: Remove) -> Result<()> {
        let handle = self.0.services.registry.find(key)?;
        handle.ask(key, |reply| Command::Remove { key: key.to_owned(), options, reply }).await
    }

    /// The outer future ends when the container is known and the watch is set: from there on no
    /// exit is missed. The inner one ends with the exit.
    pub async fn wait(
        &self,
        key: &str,
        condition: Condition,
    ) -> Result<impl Future<Output = Result<WaitResult>> + Send + 'static + use<>> {
        let handle = self.0.services.registry.find(key)?;
        let (exit, exited) = oneshot::channel();
        handle.ask(key, |reply| Command::Wait { condition, exit, reply }).await?;
        Ok(async move { exited.await.map_err(|_| Error::ShuttingDown) })
    }

    /// Works on a container that does not run yet: the stream then begins with its start.
    pub async fn attach(&self, key: &str, attach: Attach) -> Result<Attachment> {
        let handle = self.0.services.registry.find(key)?;
        handle.ask(key, |reply| Command::Attach { key: key.to_owned(), attach, reply }).await
    }

    /// The same for a client that sends nothing and whose socket this process has: it can be given
    /// to the container.
    pub async fn seat(&self, key: &str, attach: Attach) -> Result<Seat> {
        let handle = self.0.services.registry.find(key)?;
        handle.ask(key, |reply| Command::Seat { key: key.to_owned(), attach, reply }).await
    }

    pub async fn resize(&self, key: &str, rows: u16, columns: u16) -> Result<()> {
        self.0.services.registry.find(key)?.ask(key, |reply| Command::Resize { rows, columns, reply }).await
    }

    pub async fn logs(&self, key: &str, options: Logs) -> Result<LogStream> {
        let handle = self.0.services.registry.find(key)?;
        if !options.stdout && !options.stderr {
            return Err(Error::Invalid("Bad parameters: you must choose at least one stream".to_owned()));
        }
        let view = handle.view();
        if view.settings.log.name == "none" {
            return Err(Error::NotImplemented(
                "configured logging driver does not support reading".to_owned(),
            ));
        }
        let follow = (options.follow && logs::goes_on(&view.phase)).then(|| handle.view.clone());
        Ok(logs::open(view, options, follow))
    }

    /// From /proc; nothing is executed.
    pub async fn top(&self, key: &str, ps_args: &str) -> Result<Top> {
        let handle = self.0.services.registry.find(key)?;
        let view = handle.view();
        let stopped = || Error::Conflict(format!("container {} is not running", view.id));
        if matches!(view.phase.status(), "restarting") {
            let text = format!("Container {} is restarting, wait until the container is running", view.id);
            return Err(Error::Conflict(text));
        }
        let first = view.pid().ok_or_else(stopped)?;
        let (services, path) = (Arc::clone(&self.0.services), self.0.services.cgroup_path_of(&view));
        let (args, memory) = (ps_args.to_owned(), self.0.services.facts.memory);
        let listed = self.0.services.blocking(move || {
            let pids = match services.cgroup(&path) {
                Some(cgroup) => cgroup.processes().map_err(|source| Error::Cgroup { source })?,
                None => Vec::new(),
            };
            let mut pids: Vec<i32> = pids.iter().map(|pid| pid.as_raw_nonzero().get()).collect();
            if pids.is_empty() {
                pids.push(first);
            }
            let table =
                processes::list(&pids, &args, memory).map_err(|error| Error::Ps(error.to_string()))?;
            Ok(Top { titles: table.titles, processes: table.processes })
        });
        listed.await
    }

    /// One reading; all zero when it does not run.
    pub async fn stats(&self, key: &str) -> Result<Stats> {
        let view = self.0.services.registry.find(key)?.view();
        let (services, path) = (Arc::clone(&self.0.services), self.0.services.cgroup_path_of(&view));
        self.0.services.blocking(move || stats::read(&services, &view, &path)).await
    }

    /// What the container has changed of its image's files, folders before what is in them.
    pub async fn changes(&self, key: &str) -> Result<Vec<Change>> {
        layer::changes(&self.0.services, key).await
    }

    /// Makes an image of the container's; gives its id. Goes on to its end though nobody waits.
    pub async fn commit(&self, key: &str, commit: Commit) -> Result<Digest> {
        let (services, key) = (Arc::clone(&self.0.services), key.to_owned());
        let done = tokio::spawn(async move { layer::commit(&services, &key, commit).await });
        done.await.map_err(|_| Error::ShuttingDown)?
    }

    /// The container's files, without what is mounted in it, as an archive, which comes out of the pipe.
    pub async fn export(&self, key: &str) -> Result<(Outgoing, OwnedFd)> {
        archive::export(&self.0.services, key).await
    }

    /// Bytes that the container's writable layer takes on the disk.
    pub async fn writable_bytes(&self, key: &str) -> Result<u64> {
        let id = self.0.services.registry.find(key)?.id.clone();
        let services = Arc::clone(&self.0.services);
        let measured = self.0.services.blocking(move || {
            services.images.snapshots().usage(&id).map_err(|source| Error::Snapshot { source })
        });
        measured.await
    }

    /// What is at a path in a container, running or not.
    pub async fn examine(&self, key: &str, path: &str) -> Result<PathStat> {
        archive::examine(&self.0.services, key, path).await
    }

    /// What is at the path as an archive, which comes out of the pipe.
    pub async fn read_archive(&self, key: &str, path: &str) -> Result<(Outgoing, OwnedFd)> {
        archive::read(&self.0.services, key, path).await
    }

    /// Unpacks the archive that is written into the pipe into the folder `path` of a container.
    pub async fn write_archive(
        &self,
        key: &str,
        path: &str,
        extract: Extract,
    ) -> Result<(Incoming, OwnedFd)> {
        archive::write(&self.0.services, key, path, extract).await
    }

    /// A build's context: the archive that is read from `source`, plain or compressed, unpacked.
    pub async fn build_context(&self, source: OwnedFd) -> Result<Context> {
        builds::receive(&self.0.services, source).await
    }

    /// A build's context whose files its client has, by its list. `name` is what the build calls it, its main
    /// one `""`.
    pub async fn listed_context(&self, name: String, list: builds::List) -> Result<Context> {
        Context::listed(&self.0.services, name, list).await
    }

    /// A build's context at an address: a git repository, an archive, or a file that is the Dockerfile
    /// alone (`true`). `client` has the agent for repositories that ask for keys.
    pub async fn remote_context(
        &self,
        address: &str,
        client: Arc<dyn builds::Client>,
    ) -> std::result::Result<(Context, bool), hull_builder::Failure> {
        let given = Given { client, ..builds::Limits::default().into() };
        Build::new(&self.0.services, given).remote_context(address).await
    }

    /// What one build has of the host.
    pub fn build(&self, given: Given) -> Build {
        Build::new(&self.0.services, given)
    }

    /// Steps that builds remember, the one that was used last first.
    pub fn build_cache(&self) -> Vec<Cached> {
        builds::list(&self.0.services)
    }

    /// Forgets some of them.
    pub async fn forget_builds(&self, wanted: &Forget) -> Result<Forgotten> {
        builds::forget(&self.0.services, wanted).await
    }

    /// Folders that steps of builds have left to later ones, the one that was used last first.
    pub fn cache_mounts(&self) -> Vec<CacheMount> {
        self.0.services.builds.caches.list()
    }

    /// Removes those of them that are wanted and that nobody uses; gives them.
    pub async fn forget_cache_mounts(&self, wanted: impl Fn(&CacheMount) -> bool) -> Result<Vec<CacheMount>> {
        self.0.services.builds.caches.forget(&self.0.services, wanted).await
    }

    /// Gives the exec's id.
    pub async fn exec_create(&self, key: &str, settings: ExecSettings) -> Result<String> {
        let handle = self.0.services.registry.find(key)?;
        let settings = Box::new(settings);
        handle.ask(key, |reply| Command::ExecCreate { key: key.to_owned(), settings, reply }).await
    }

    /// Without `detach` gives the stream.
    pub async fn exec_start(
        &self,
        id: &str,
        detach: bool,
        size: Option<(u16, u16)>,
    ) -> Result<Option<Attachment>> {
        let exec = self.exec(id)?;
        let handle = self.0.services.registry.find(&exec.container)?;
        let id = exec.id.clone();
        handle.ask(&exec.container, |reply| Command::ExecStart { id, detach, size, reply }).await
    }

    pub fn exec(&self, id: &str) -> Result<Arc<ExecView>> {
        self.0.services.registry.exec(id)
    }

    pub async fn exec_resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let exec = self.exec(id)?;
        let handle = self.0.services.registry.find(&exec.container)?;
        let id = exec.id.clone();
        handle.ask(&exec.container, |reply| Command::ExecResize { id, rows, columns, reply }).await
    }

    /// Removes every container that does not run and that `wanted` accepts.
    pub async fn prune_containers(&self, wanted: impl Fn(&View) -> bool) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        for view in self.containers() {
            if view.is_running() || matches!(view.phase.status(), "restarting" | "removing") || !wanted(&view)
            {
                continue;
            }
            let bytes = self.writable_bytes(&view.id).await.unwrap_or(0);
            // Started or removed meanwhile: not for us.
            if self.remove(&view.id, Remove::default()).await.is_ok() {
                pruned.ids.push(view.id.clone());
                pruned.bytes = pruned.bytes.saturating_add(bytes);
            }
        }
        Ok(pruned)
    }
}

/// What has to be there before the containers are looked for.
struct Opened {
    services: Services,
    lock: OwnedFd,
    /// Rows of the database.
    containers: Vec<(String, String)>,
}

fn open_blocking(config: Config) -> Result<Opened> {
    let root = config.data_root.clone();
    for dir in [&root, &config.exec_root] {
        if let Some(parent) = dir.parent() {
            std::fs::create_dir_all(parent).map_err(|source| Error::Io {
                call: "mkdir",
                path: parent.to_owned(),
                source,
            })?;
        }
        files::private_dir(dir)?;
    }
    let lock = lock(&root)?;
    files::private_dir(&root.join("containers"))?;
    files::keep_apart(&root.join("containers"))?;
    files::private_dir(&files::trash(&root))?;
    files::private_dir(&root.join("image"))?;
    files::make_init_layer(&root)?;
    let users = Users::open(&config.userns_remap)?;
    let (store, _writer, rows) = Store::open(&root.join("state.db"))?;
    let cgroups = match Hierarchies::detect() {
        Ok(cgroups) => Some(cgroups),
        Err(error) => {
            tracing::warn!(%error, "this host has no cgroups that could be used");
            None
        }
    };
    let facts = HostFacts { open_files: config.open_files, ..HostFacts::gather(cgroups.as_ref()) };
    let registry = Arc::new(Registry::default());
    let spawner = Arc::new(Spawner::open(config.runtime.clone(), config.exec_root.clone())?);
    let events = Events::default();
    let (memory, caches) = (builds::memory(&rows)?, builds::Caches::open(&root)?);
    let context_files = (builds::Tables::open(&root)?, builds::Contents::open(&root, &boot()?)?);
    let setup = images_setup((&store, &events, &root), (&spawner, &registry), (&memory, &config.registries))?;
    let images = Images::open(setup, &rows)?;
    let seccomp = Profiles::new(&facts.kernel);
    let freeing = tokio::sync::Mutex::default();
    let observed = change::observe()?;
    let (networks, changes) =
        Networks::open(config.network.clone(), host_prefix(), &rows.networks, &observed)?;
    store.commit_blocking(changes)?;
    let wiring = Wiring::open(&config, cgroups.as_ref())?;
    let volumes = Volumes::open(store.clone(), events.clone(), root.join("volumes"), &rows.volumes)?;
    let services = Services {
        config,
        facts,
        store,
        events,
        images,
        networks,
        wiring,
        volumes,
        builds: Builds::new(memory, caches, context_files),
        filling: Default::default(),
        registry,
        users,
        spawner,
        cgroups,
        seccomp,
        freeing,
    };
    adopt::adopt(&services)?;
    change::reconcile(&services)?;
    Ok(Opened { services, lock, containers: rows.containers })
}

/// What the images' room works with.
fn images_setup(
    (store, events, root): (&Store, &Events, &Path),
    (spawner, registry): (&Arc<Spawner>, &Arc<Registry>),
    (memory, registries): (&Arc<builds::Memory>, &hull_registry::client::Hosts),
) -> Result<Setup> {
    Ok(Setup {
        store: store.clone(),
        events: events.clone(),
        root: root.join("image"),
        boot: boot()?,
        unpack: unpack_by(spawner),
        extract: extract_by(spawner),
        pack: pack_by(spawner),
        uses: uses_of(registry),
        kept: builds::kept(memory),
        registry: hull_registry::client::Client::new(registries.clone()),
    })
}

/// What tells this boot from all others (random(4)).
fn boot() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let failed = |source| Error::Io { call: "read", path: path.to_owned(), source };
    Ok(std::fs::read_to_string(path).map_err(failed)?.trim().to_owned())
}

/// The 40 bits that make this host's unique local addresses its own (RFC 4193, 3.2.2): the same
/// at every start, made from what identifies the machine.
fn host_prefix() -> [u8; 5] {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let machine = match text("/etc/machine-id") {
        id if id.trim().is_empty() => text("/etc/hostname"),
        id => id,
    };
    let digest = Digest::sha256(format!("hull unique local {}", machine.trim()).as_bytes());
    let byte = |index: usize| {
        digest.hex().get(index * 2..index * 2 + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok())
    };
    std::array::from_fn(|index| byte(index).unwrap_or(0))
}

/// Archives are unpacked by jailed workers of the spawner.
fn unpack_by(spawner: &Arc<Spawner>) -> Unpack {
    let spawner = Arc::clone(spawner);
    Arc::new(move |archive, folder, stop| spawner.unpack(archive, folder, stop))
}

fn extract_by(spawner: &Arc<Spawner>) -> crate::images::Extract {
    let spawner = Arc::clone(spawner);
    Arc::new(move |mode, archive, folder| spawner.extract(mode, archive, folder))
}

/// Writable layers are packed by the same.
fn pack_by(spawner: &Arc<Spawner>) -> Pack {
    let spawner = Arc::clone(spawner);
    Arc::new(move |upper, archive| spawner.pack(upper, archive))
}

/// What the images' room has to know of containers.
fn uses_of(registry: &Arc<Registry>) -> Uses {
    let registry = Arc::clone(registry);
    Arc::new(move || {
        let in_use = |view: Arc<View>| {
            let of = |image: &ImageRef| Use {
                container: view.id.clone(),
                image: image.id.clone(),
                layers: hull_oci::image::chain_ids(&image.layers),
                running: view.is_running(),
            };
            let mounted = view.settings.mounts.iter().filter_map(Mount::image);
            std::iter::once(&view.image).chain(mounted).map(of).collect::<Vec<_>>()
        };
        registry.all().into_iter().flat_map(|handle| in_use(handle.view())).collect()
    })
}

/// How long a predecessor that was just killed may take to be gone: the kernel closes what it had
/// open one by one, and sockets and namespaces take it many milliseconds.
const PREDECESSOR: Duration = Duration::from_secs(2);

/// Keeps a second daemon away from the data root.
fn lock(root: &Path) -> Result<OwnedFd> {
    let path = root.join("lock");
    let failed =
        |source: rustix::io::Errno| Error::Io { call: "lock", path: path.clone(), source: source.into() };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => return Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {}
        Err(errno) => return Err(failed(errno)),
    }
    // flock(2) waits for ever: a thread does, and gives the lock back if it comes too late.
    let (got, waited) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let locked = rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive));
        let _ = got.send(locked.map(|()| file));
    });
    match waited.recv_timeout(PREDECESSOR) {
        Ok(locked) => locked.map_err(failed),
        Err(_) => Err(Error::DataRootInUse { path: root.to_owned() }),
    }
}

fn parse_signal(text: &str) -> Result<i32> {
    signals::parse(text).ok_or_else(|| Error::Invalid(format!("invalid signal: {text}")))
}
