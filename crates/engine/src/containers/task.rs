//! The one task that owns a container: it hears commands, its shim and its clocks, asks
//! [`phase::step`], and does what that says.
//!
//! ```text
//! commands ──┐                         ┌─► store, shim, cgroup, files   (effects)
//! shim ──────┼─► Input ─► step ─► ─────┤
//! clocks ────┘      ▲                  └─► view, events, answers
//!                   └── what effects bring about (frozen, start failed)
//! ```
//!
//! Everything happens in one place and one after the other, so there is no lock to forget: whoever
//! wants to know the container's state reads the view, whoever wants to change it sends a
//! command.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use hull_network::record::Attachment;
use hull_runtime::bundle::{StartError, StartErrorKind};
use hull_runtime::protocol::Kind;
use hull_runtime::shim;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::execs::Running;
use super::handle::{Command, Handle, Reply};
use super::launch::{self, Stream};
use super::link::{self, Link, Word};
use super::phase::{self, Effect, Exit, Input, Live, Observed, Phase, Policy, Refused, Time, Wish};
use super::requests::{Condition, WaitResult};
use super::services::{Remains, Services};
use super::settings::NetworkMode;
use super::view::{Failure, Place, Record, RootfsPaths, View};
use super::{create, files, mounts, recover};
use crate::networks::unplug;
use crate::store::Change;
use crate::{Error, Result, spec};

/// Commands that may wait for a busy container.
const INBOX: usize = 64;
/// Streams that may wait for a start.
pub(super) const STREAMS_MAX: usize = 64;

/// What recovery has found out before the task begins.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) link: Option<Link>,
    pub(crate) observed: Option<Observed>,
    pub(crate) process: Option<OwnedFd>,
}

/// Who waits for what.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) starts: Vec<Reply<()>>,
    pub(super) stops: Vec<Reply<()>>,
    pub(super) restarts: Vec<Reply<()>>,
    pub(super) kills: Vec<Reply<()>>,
    pub(super) removals: Vec<Reply<()>>,
    pub(super) exits: Vec<oneshot::Sender<WaitResult>>,
    pub(super) gone: Vec<oneshot::Sender<WaitResult>>,
}

#[derive(Debug)]
pub(super) struct Task {
    pub(super) services: Arc<Services>,
    pub(super) handle: Arc<Handle>,
    pub(super) record: Record,
    view: watch::Sender<Arc<View>>,
    paths: RootfsPaths,
    pub(super) link: Option<Link>,
    grace: Option<Instant>,
    timer: Option<Instant>,
    pub(super) waiting: Waiting,
    /// Attached before the start.
    pub(super) streams: Vec<Stream>,
    pub(super) execs: BTreeMap<String, Running>,
    /// How many have ended.
    pub(super) ended_execs: u64,
    /// Inputs that effects brought about.
    follow: VecDeque<Input>,
    /// The first error of the effects since somebody last looked.
    pub(super) fault: Option<Error>,
    /// Why the start that is being given up failed.
    start_error: Option<Error>,
    /// The record in the database is older than the one here.
    unsaved: bool,
    ended: bool,
}

/// Enters a container into the registry and gives it its task. With something observed, the task
/// deals with that before it hears any command.
pub(crate) fn spawn(services: &Arc<Services>, record: Record, found: Found) {
    let (commands, inbox) = mpsc::channel(INBOX);
    let paths = create::rootfs_paths(services, &record);
    let (view, reader) = watch::channel(Arc::new(make_view(services, &record, &paths, Vec::new())));
    let process = found.process.map(Arc::new);
    let handle = Arc::new(Handle {
        id: record.id.clone(),
        view: reader,
        commands,
        process: process.into(),
        committing: Default::default(),
        layer: Arc::default(),
    });
    services.registry.insert(Arc::clone(&handle));
    let task = Task {
        services: Arc::clone(services),
        handle,
        record,
        view,
        paths,
        link: found.link,
        grace: None,
        timer: None,
        waiting: Waiting::default(),
        streams: Vec::new(),
        execs: BTreeMap::new(),
        ended_execs: 0,
        follow: VecDeque::new(),
        fault: None,
        start_error: None,
        unsaved: false,
        ended: false,
    };
    tokio::spawn(task.run(inbox, found.observed));
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>, observed: Option<Observed>) {
        if let Some(observed) = observed {
            self.handle(Input::Observed(observed)).await.ok();
        }
        while !self.ended {
            tokio::select! {
                command = inbox.recv() => match command {
                    None | Some(Command::Close) => break,
                    Some(command) => self.command(command).await,
                },
                word = hear(self.link.as_ref()) => self.heard(word).await,
                () = until(self.grace) => {
                    self.grace = None;
                    self.publish("kill", &[("signal", "9")]);
                    self.handle(Input::GraceOver).await.ok();
                }
                () = until(self.timer) => {
                    self.timer = None;
                    self.handle(Input::Timer).await.ok();
                }
            }
        }
        if self.unsaved && !self.ended {
            self.save_later();
        }
    }

    async fn heard(&mut self, word: Word) {
        match word {
            Word::Started { pid, at, pidfd, warnings } => self.started(pid, at, pidfd, warnings).await,
            Word::StartFailed(error) => {
                self.link = None;
                self.start_failed(Error::Start(error)).await;
                self.handle(Input::StartFailed).await.ok();
            }
            // A shim says started before anything else: this is its spawner, which tells its end.
            Word::Exited(_) | Word::Closed if matches!(self.record.life.phase, Phase::Starting { .. }) => {
                self.link = None;
                self.start_failed(Error::Start(StartError {
                    kind: StartErrorKind::Host,
                    message: "the shim ended before it could start the container".to_owned(),
                }))
                .await;
                self.handle(Input::StartFailed).await.ok();
            }
            Word::Exited(exit) => self.exited(exit).await,
            Word::Closed => {
                self.link = None;
                match self.record.life.phase {
                    Phase::Running(_) | Phase::Paused(_) | Phase::Removing { .. } => self.left_alone().await,
                    Phase::Created | Phase::Starting { .. } | Phase::Exited(_) | Phase::Restarting { .. } => {
                    }
                }
            }
        }
    }

    /// The shim has gone without a word; its container goes, too.
    async fn left_alone(&mut self) {
        recover::kill_cgroup(&self.services, self.services.cgroup_path(&self.record)).await;
        let pidfd = self.handle.process().and_then(|fd| fd.try_clone().ok());
        let exit = link::exit_of(self.services.exec_root(), Kind::Container, &self.record.id, pidfd).await;
        self.exited(exit).await;
    }

    async fn started(&mut self, pid: i32, at: Time, pidfd: OwnedFd, warnings: Vec<String>) {
        if !matches!(self.record.life.phase, Phase::Starting { .. }) {
            return;
        }
        hull_runtime::failpoint!("engine.start.started");
        self.handle.set_process(Some(Arc::new(pidfd)));
        self.record.started = Some(at);
        self.record.failure = None;
        for warning in warnings {
            if !self.record.warnings.contains(&warning) {
                tracing::warn!(container = %self.record.id, "{warning}");
                self.record.warnings.push(warning);
            }
        }
        self.handle(Input::Started(Live { pid, started: at })).await.ok();
        // Streams that came between the request and the start.
        for (wanted, stream) in std::mem::take(&mut self.streams) {
            self.join(wanted, stream, &[]);
        }
        mounts::publish(&self.services, &self.record, "mount");
        self.publish_places(&self.services.networks.places(&self.record.id), "connect");
        self.publish("start", &[]);
        for reply in self.waiting.starts.drain(..) {
            reply.send(Ok(())).ok();
        }
        if !self.waiting.restarts.is_empty() {
            self.publish("restart", &[]);
            for reply in std::mem::take(&mut self.waiting.restarts) {
                reply.send(Ok(())).ok();
            }
        }
    }

    async fn exited(&mut self, exit: Exit) {
        self.link = None;
        self.handle.set_process(None);
        self.grace = None;
        // A later exit of a run that was already counted changes nothing.
        if matches!(self.record.life.phase, Phase::Starting { .. } | Phase::Running(_) | Phase::Paused(_)) {
            self.record.finished = Some(exit.at);
        }
        hull_runtime::failpoint!("engine.exit.before-commit");
        self.handle(Input::Exited(exit)).await.ok();
    }

    /// Notes why a start failed; who waited for it is told when the phase says so too.
    async fn start_failed(&mut self, error: Error) {
        let code = match &error {
            Error::Start(StartError { kind: StartErrorKind::NotFound, .. }) => 127,
            Error::Start(StartError { kind: StartErrorKind::NotExecutable, .. }) => 126,
            _ => 128,
        };
        unplug::unplug_later(&self.services, &self.record.id).await;
        self.services.volumes.rest(&self.record.id).await;
        self.record.failure = Some(Failure { message: error.to_string(), code });
        self.streams.clear();
        self.start_error = Some(error);
    }

    fn tell_failed_start(&mut self) {
        let Some(error) = self.start_error.take() else { return };
        let waiting = &mut self.waiting;
        let mut replies: Vec<_> = waiting.starts.drain(..).chain(waiting.restarts.drain(..)).collect();
        let Some(first) = replies.pop() else {
            tracing::warn!(container = %self.record.id, %error, "a container could not be started");
            return;
        };
        let copy = || Error::Start(StartError { kind: StartErrorKind::Invalid, message: error.to_string() });
        for reply in replies {
            reply.send(Err(copy())).ok();
        }
        first.send(Err(error)).ok();
    }

    /// Takes one input, does what follows from it and from that.
    pub(super) async fn handle(&mut self, input: Input) -> Result<(), Refused> {
        self.take(input).await?;
        while let Some(next) = self.follow.pop_front() {
            // What effects bring about is never refused.
            self.take(next).await.ok();
        }
        Ok(())
    }

    async fn take(&mut self, input: Input) -> Result<(), Refused> {
        let policy =
            Policy { restart: self.record.settings.restart, auto_remove: self.record.settings.auto_remove };
        let (life, effects) = phase::step(&self.record.life, input, &policy, hull_sys::time::now())?;
        if life != self.record.life {
            self.record.life = life;
            self.unsaved = true;
        }
        self.show();
        if input == Input::StartFailed {
            self.tell_failed_start();
        }
        for effect in effects {
            if let Err(error) = self.perform(effect).await {
                tracing::warn!(container = %self.record.id, ?effect, error = &error as &dyn std::error::Error, "an effect failed");
                let removing = matches!(self.record.life.phase, Phase::Removing { .. });
                self.fail(error);
                if removing && effect == Effect::Commit {
                    // What is not noted as being removed must not be taken apart. It can be tried again.
                    break;
                }
            }
        }
        if self.unsaved && !self.ended {
            self.save_later();
        }
        Ok(())
    }

    /// Keeps the first error for whoever asked; a removal that cannot go on is told at once.
    fn fail(&mut self, error: Error) {
        if matches!(self.record.life.phase, Phase::Removing { .. }) && !self.waiting.removals.is_empty() {
            let mut replies = std::mem::take(&mut self.waiting.removals);
            let first = replies.swap_remove(0);
            for reply in replies {
                reply.send(Err(Error::Conflict(error.to_string()))).ok();
            }
            first.send(Err(error)).ok();
        } else {
            self.fault.get_or_insert(error);
        }
    }

    async fn perform(&mut self, effect: Effect) -> Result<()> {
        match effect {
            Effect::Commit => self.commit().await,
            Effect::Launch => {
                self.launch().await;
                Ok(())
            }
            Effect::Signal(number) => self.signal(number),
            Effect::ArmGrace(nanos) => {
                self.grace = Some(Instant::now() + Duration::from_nanos(nanos.unsigned_abs()));
                Ok(())
            }
            Effect::ArmTimer(due) => {
                let wait = due.saturating_sub(hull_sys::time::now()).clamp(0, phase::LONGEST_DELAY);
                self.timer = Some(Instant::now() + Duration::from_nanos(wait.unsigned_abs()));
                Ok(())
            }
            Effect::Freeze => self.freeze(true).await,
            Effect::Thaw => self.freeze(false).await,
            Effect::Finish(exit) => {
                self.finish(exit).await;
                Ok(())
            }
            Effect::Delete => self.delete().await,
        }
    }

    async fn launch(&mut self) {
        self.record.failure = None;
        let streams = std::mem::take(&mut self.streams);
        // Whoever comes now sees a phase in which this container mounts its layer.
        drop(self.handle.layer.write().await);
        match launch::container(&self.services, &self.record, Default::default(), &streams).await {
            Ok((link, warnings)) => {
                self.link = Some(link);
                for warning in warnings {
                    if !self.record.warnings.contains(&warning) {
                        self.record.warnings.push(warning);
                    }
                }
            }
            Err(error) => {
                self.start_failed(error).await;
                self.follow.push_back(Input::StartFailed);
            }
        }
    }

    fn signal(&mut self, number: i32) -> Result<()> {
        let Some(process) = self.handle.process() else {
            // No process is known yet: what there may be of one is in the cgroup.
            if let Some(cgroup) = self.services.cgroup(&self.services.cgroup_path(&self.record)) {
                cgroup.kill().map_err(|source| Error::Cgroup { source })?;
            }
            return Ok(());
        };
        hull_runtime::failpoint!("engine.signal.before");
        let sent = hull_sys::process::signal(&process, number);
        hull_runtime::failpoint!("engine.signal.sent");
        match sent {
            // It has ended; the shim's word is on its way.
            Err(error) if error.errno == hull_sys::Errno::SRCH => Ok(()),
            outcome => {
                outcome.map_err(|source| Error::System { doing: "signal the container".to_owned(), source })
            }
        }
    }

    async fn freeze(&mut self, frozen: bool) -> Result<()> {
        let (services, path) = (Arc::clone(&self.services), self.services.cgroup_path(&self.record));
        self.services
            .blocking(move || {
                let missing =
                    || Error::Conflict("this container has no cgroup that could be frozen".to_owned());
                let cgroup = services.cgroup(&path).ok_or_else(missing)?;
                let outcome = if frozen { cgroup.freeze() } else { cgroup.thaw() };
                outcome.map_err(|source| Error::Cgroup { source })
            })
            .await?;
        self.follow.push_back(if frozen { Input::Frozen } else { Input::Thawed });
        Ok(())
    }

    /// A run has ended.
    async fn finish(&mut self, exit: Exit) {
        hull_runtime::failpoint!("engine.exit.committed");
        self.handle.set_process(None);
        self.timer = None;
        self.end_execs();
        let nanos = exit.at.saturating_sub(self.record.started.unwrap_or(exit.at)).max(0);
        let (code, seconds) = (exit.code.to_string(), (nanos / 1_000_000_000).to_string());
        self.give_up_places().await;
        self.services.volumes.rest(&self.record.id).await;
        mounts::publish(&self.services, &self.record, "unmount");
        if exit.oom {
            self.publish("oom", &[]);
        }
        self.publish("die", &[("exitCode", &code), ("execDuration", &seconds)]);
        if !self.waiting.stops.is_empty() || !self.waiting.restarts.is_empty() {
            self.publish("stop", &[]);
        }
        for reply in self.waiting.stops.drain(..).chain(self.waiting.kills.drain(..)) {
            reply.send(Ok(())).ok();
        }
        let result = WaitResult { code: exit.code, error: None };
        for waiter in self.waiting.exits.drain(..) {
            waiter.send(result.clone()).ok();
        }
        // The record is committed, so the runtime's own is not needed; if it is not, it stays.
        if !self.unsaved
            && let Err(error) = shim::forget(self.services.exec_root(), Kind::Container, &self.record.id)
        {
            tracing::warn!(container = %self.record.id, %error, "a shim's folder stays");
        }
    }

    /// Takes the container away. Each part is no error if it is gone already, so that a removal
    /// can be begun again wherever it was broken off.
    async fn delete(&mut self) -> Result<()> {
        hull_runtime::failpoint!("engine.remove.committed");
        self.link = None;
        // Who writes to it has seen the phase, and stops.
        drop(self.handle.layer.write().await);
        let (services, id) = (Arc::clone(&self.services), self.record.id.clone());
        let path = services.cgroup_path(&self.record);
        let remains = self.services.blocking(move || take_apart(&services, &id, &path)).await?;
        let with_own = self.record.take_volumes || self.record.settings.auto_remove;
        if let Err(error) = self.services.volumes.release(&self.record.id, with_own).await {
            // The container goes all the same; the volume is nobody's then, and `volume rm` says why.
            tracing::warn!(container = %self.record.id, %error, "a container's own volume stays");
            self.services.volumes.release(&self.record.id, false).await?;
        }
        hull_runtime::failpoint!("engine.remove.before-row");
        self.services.store.commit(vec![Change::DeleteContainer { id: self.record.id.clone() }]).await?;
        hull_runtime::failpoint!("engine.remove.row-gone");
        self.ended = true;
        self.end_execs();
        self.publish("destroy", &[]);
        self.services.registry.remove(&self.record.id);
        self.services.users.removed(&self.record.settings);
        for reply in self.waiting.removals.drain(..).chain(self.waiting.stops.drain(..)) {
            reply.send(Ok(())).ok();
        }
        let result = WaitResult { code: exit_code(&self.record), error: None };
        for waiter in self.waiting.gone.drain(..).chain(self.waiting.exits.drain(..)) {
            waiter.send(result.clone()).ok();
        }
        self.services.free(remains);
        Ok(())
    }

    pub(super) async fn commit(&mut self) -> Result<()> {
        let row = self.row()?;
        self.services.store.commit(vec![row]).await?;
        self.unsaved = false;
        Ok(())
    }

    /// Hands the record over to the writer without waiting.
    pub(super) fn save_later(&mut self) {
        match self.row() {
            Ok(row) => self.services.store.queue(vec![row]),
            Err(error) => tracing::error!(%error, "a record cannot be written"),
        }
        self.unsaved = false;
    }

    fn row(&self) -> Result<Change> {
        let record = serde_json::to_string(&self.record).map_err(|source| Error::Record {
            table: "container",
            id: self.record.id.clone(),
            source,
        })?;
        Ok(Change::PutContainer { id: self.record.id.clone(), name: self.record.name.clone(), record })
    }

    /// Shows the container as it is now.
    pub(super) fn show(&mut self) {
        let execs = self.open_execs();
        self.view.send_replace(Arc::new(make_view(&self.services, &self.record, &self.paths, execs)));
    }

    pub(super) fn publish(&self, action: &str, extra: &[(&str, &str)]) {
        self.services.publish_view(&self.view.borrow(), action, extra);
    }

    /// Answers who waits for an end that came without one: a restart that was called off.
    pub(super) fn settle(&mut self) {
        if let Phase::Exited(exit) = self.record.life.phase {
            self.timer = None;
            for reply in self.waiting.stops.drain(..).chain(self.waiting.kills.drain(..)) {
                reply.send(Ok(())).ok();
            }
            for waiter in self.waiting.exits.drain(..) {
                waiter.send(WaitResult { code: exit.code, error: None }).ok();
            }
        }
    }

    /// Installs who waits, or answers at once.
    pub(super) fn wait(&mut self, condition: Condition, exit: oneshot::Sender<WaitResult>) {
        let phase = self.record.life.phase;
        // A container that waits for its restart counts as running, as in the reference.
        let running =
            phase.live().is_some() || matches!(phase, Phase::Starting { .. } | Phase::Restarting { .. });
        match condition {
            Condition::Removed => self.waiting.gone.push(exit),
            Condition::NextExit => self.waiting.exits.push(exit),
            Condition::NotRunning if running || self.record.life.wish == Wish::Start => {
                self.waiting.exits.push(exit)
            }
            Condition::NotRunning => {
                exit.send(WaitResult { code: exit_code(&self.record), error: None }).ok();
            }
        }
    }
}

/// Kills what is left and removes cgroup and exec-root folder; takes the writable layer, the log
/// and the files out of sight.
fn take_apart(services: &Services, id: &str, cgroup: &str) -> Result<Remains> {
    if let Some(cgroup) = services.cgroup(cgroup) {
        let failed = |source| Error::Cgroup { source };
        cgroup.kill().map_err(failed)?;
        cgroup.remove().map_err(failed)?;
    }
    unplug::unplug(services, id);
    let layer = services.images.snapshots().discard_writable(id);
    let layer = layer.map_err(|source| Error::Snapshot { source })?;
    hull_runtime::failpoint!("engine.remove.half-way");
    let files = files::discard(&services.config.data_root, id)?;
    shim::forget(services.exec_root(), Kind::Container, id)
        .map_err(|source| Error::System { doing: "remove a shim's folder".to_owned(), source })?;
    Ok(Remains { layer, files })
}

async fn hear(link: Option<&Link>) -> Word {
    match link {
        Some(link) => link.next().await,
        None => std::future::pending().await,
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// What inspect shows: of a failed start if that came last.
fn exit_code(record: &Record) -> i32 {
    match (&record.failure, record.life.phase.exit()) {
        (Some(failure), _) => failure.code,
        (None, Some(exit)) => exit.code,
        (None, None) => 0,
    }
}

fn make_view(services: &Services, record: &Record, paths: &RootfsPaths, execs: Vec<String>) -> View {
    let mut args = spec::args(&record.settings);
    let path = if args.is_empty() { String::new() } else { args.remove(0) };
    let data_root = &services.config.data_root;
    let etc = files::etc(data_root, &record.id);
    View {
        id: record.id.clone(),
        name: record.name.clone(),
        created: record.created,
        image: record.image.clone(),
        settings: Arc::clone(&record.settings),
        path,
        args,
        request: Arc::clone(&record.request),
        phase: record.life.phase,
        started: record.started,
        finished: record.finished,
        exit: record.life.phase.exit(),
        exit_code: if record.life.phase.live().is_some() { 0 } else { exit_code(record) },
        error: record.failure.as_ref().map_or_else(String::new, |failure| failure.message.clone()),
        restart_count: record.life.restarts,
        log_dir: files::log_dir(data_root, &record.id),
        rootfs: paths.clone(),
        hostname_path: etc.hostname,
        hosts_path: etc.hosts,
        resolv_path: etc.resolv,
        execs,
        warnings: record.warnings.clone(),
        volumes: mounts::volume_folders(services, &record.settings),
        places: places(services, record),
    }
}

/// The networks that the container wants, with what it has of them.
fn places(services: &Services, record: &Record) -> Vec<Place> {
    let plain = |name: &str| Attachment { network: name.to_owned(), ..Attachment::default() };
    let wanted = match &record.settings.network {
        NetworkMode::None => vec![plain("none")],
        NetworkMode::Host => vec![plain("host")],
        NetworkMode::Container(_) => Vec::new(),
        NetworkMode::Default | NetworkMode::Named(_) => record.settings.attachments.clone(),
    };
    let has = services.networks.places(&record.id);
    let place = |attachment: Attachment| {
        let network = services.networks.find(&attachment.network).ok();
        let id = network.map(|record| record.network.id.clone());
        let endpoint = has.iter().find(|place| Some(&place.endpoint.network) == id.as_ref());
        Place { id, endpoint: endpoint.map(|place| place.endpoint.clone()), attachment }
    };
    wanted.into_iter().map(place).collect()
}
