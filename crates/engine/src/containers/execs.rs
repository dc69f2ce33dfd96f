//! More processes in a container: made, started, heard until their end. They die with the
//! container, and with the daemon's knowledge of them: a new daemon leaves what runs alone, but
//! their ids are gone, as in the reference.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use hull_runtime::bundle::{StartError, StartErrorKind};
use hull_runtime::protocol::{Attach as Wanted, Kind};
use hull_runtime::shim;

use super::attach::{framing, pair};
use super::handle::{Command, Handle, Reply};
use super::launch;
use super::link::{self, Link, Word};
use super::phase::{Phase, Refused};
use super::requests::{Attachment, ExecSettings, ExecView};
use super::task::Task;
use super::{create, services};
use crate::{Error, Result};

/// Execs of one container that are made or running.
const OPEN_MAX: usize = 1024;
/// Ended execs that can still be inspected.
const ENDED_MAX: usize = 64;

/// One exec, as the container's task knows it.
#[derive(Debug)]
pub(super) struct Running {
    settings: ExecSettings,
    state: State,
    /// Grows with each exec that ends.
    order: u64,
}

#[derive(Debug)]
enum State {
    Made,
    Starting { link: Arc<Link>, reply: Reply<Option<Attachment>>, client: Option<Attachment>, open: Open },
    Runs { link: Arc<Link>, pid: i32, open: Open },
    Ended { pid: i32, code: i32 },
}

/// The shim's end of the client's stream, held here too: the client must not see the end of the
/// stream before it can ask for the exit code, and the shim closes its end first.
type Open = Option<OwnedFd>;

impl Running {
    fn is_open(&self) -> bool {
        !matches!(self.state, State::Ended { .. })
    }
}

impl Task {
    pub(super) async fn exec_create(&mut self, key: &str, settings: ExecSettings) -> Result<String> {
        match self.record.life.phase {
            Phase::Running(_) => {}
            Phase::Paused(_) => {
                return Err(Error::Conflict(format!(
                    "Container {key} is paused, unpause the container before exec"
                )));
            }
            Phase::Restarting { .. } => return Err(self.refusal(Refused::Restarting)),
            _ => return Err(self.refusal(Refused::NotRunning)),
        }
        if settings.cmd.is_empty() {
            return Err(Error::Invalid("No exec command specified".to_owned()));
        }
        let bad = |text: &String| text.contains('\0');
        if settings.cmd.iter().any(bad)
            || settings.env.iter().any(|entry| bad(entry) || entry.starts_with('='))
        {
            return Err(Error::Invalid("the command or the environment of the exec is not valid".to_owned()));
        }
        if !settings.working_dir.is_empty() && !settings.working_dir.starts_with('/') {
            return Err(Error::Invalid(format!("Cwd must be an absolute path: {}", settings.working_dir)));
        }
        if self.execs.values().filter(|exec| exec.is_open()).count() >= OPEN_MAX {
            return Err(Error::Conflict(format!("container {key} has {OPEN_MAX} execs already")));
        }
        // Said now, as the reference does: at the start the client has its stream already.
        launch::exec_user(&self.services, &self.record, &settings).await?;
        let id = create::new_id();
        self.publish(&format!("exec_create: {}", settings.cmd.join(" ")), &[("execID", &id)]);
        self.execs.insert(id.clone(), Running { settings, state: State::Made, order: 0 });
        self.show_exec(&id);
        self.show();
        Ok(id)
    }

    /// Ids of the execs that run or have not been started, as inspect shows them.
    pub(super) fn open_execs(&self) -> Vec<String> {
        self.execs.iter().filter(|(_, exec)| exec.is_open()).map(|(id, _)| id.clone()).collect()
    }

    pub(super) async fn exec_start(
        &mut self,
        id: &str,
        detach: bool,
        size: Option<(u16, u16)>,
        reply: Reply<Option<Attachment>>,
    ) {
        match self.exec_launch(id, detach, size).await {
            Ok((link, client, open)) => {
                let link = Arc::new(link);
                tokio::spawn(read(
                    Arc::clone(&self.services),
                    Arc::clone(&self.handle),
                    id.to_owned(),
                    Arc::clone(&link),
                ));
                if let Some(exec) = self.execs.get_mut(id) {
                    exec.state = State::Starting { link, reply, client, open };
                }
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    async fn exec_launch(
        &mut self,
        id: &str,
        detach: bool,
        size: Option<(u16, u16)>,
    ) -> Result<(Link, Option<Attachment>, Open)> {
        let exec = self.execs.get_mut(id).ok_or_else(|| Error::NoSuchExec(id.to_owned()))?;
        match exec.state {
            State::Made => {}
            State::Ended { .. } => {
                return Err(Error::Conflict(format!("Error: Exec command {id} has already run")));
            }
            State::Starting { .. } | State::Runs { .. } => {
                return Err(Error::Conflict(format!("Error: Exec command {id} is already running")));
            }
        }
        if size.is_some() {
            exec.settings.console_size = size;
        }
        let settings = exec.settings.clone();
        if matches!(self.record.life.phase, Phase::Paused(_)) {
            let id = &self.record.id;
            return Err(Error::Conflict(format!(
                "Container {id} is paused, unpause the container before exec"
            )));
        }
        let process = self.handle.process().ok_or_else(|| self.refusal(Refused::NotRunning))?;
        let (mut streams, mut client, mut open) = (Vec::new(), None, None);
        if !detach {
            let (ours, theirs) = pair()?;
            let wanted = Wanted {
                stdin: settings.stdin,
                stdout: settings.stdout,
                stderr: settings.stderr,
                framing: framing(settings.tty),
            };
            open = theirs.try_clone().ok();
            streams.push((wanted, theirs));
            client = Some(Attachment { stream: ours, tty: settings.tty });
        }
        let stdin = settings.stdin && !detach;
        let ask = (id, &settings, stdin);
        let launched = launch::exec(&self.services, &self.record, ask, process.as_fd(), &streams).await;
        let link = match launched {
            Ok(link) => link,
            Err(error) => {
                // Over, with a code: a client that asks must not take the failure for a success.
                self.exec_becomes(id, State::Ended { pid: 0, code: 126 });
                return Err(error);
            }
        };
        self.publish(&format!("exec_start: {}", settings.cmd.join(" ")), &[("execID", id)]);
        Ok((link, client, open))
    }

    pub(super) fn exec_heard(&mut self, id: &str, word: Word) {
        let Some(exec) = self.execs.get_mut(id) else { return };
        let old = std::mem::replace(&mut exec.state, State::Made);
        let mut closing = None;
        // Given only after the exec is shown as it is then.
        let mut answer = None;
        let new = match (old, word) {
            (State::Starting { link, reply, client, open }, Word::Started { pid, .. }) => {
                hull_runtime::failpoint!("engine.exec.started");
                answer = Some((reply, Ok(client)));
                State::Runs { link, pid, open }
            }
            (State::Starting { reply, .. }, Word::StartFailed(error)) => {
                let code = match error.kind {
                    StartErrorKind::NotFound => 127,
                    _ => 126,
                };
                answer = Some((reply, Err(Error::Start(error))));
                State::Ended { pid: 0, code }
            }
            (State::Runs { pid, open, .. }, Word::Exited(exit)) => {
                closing = open;
                State::Ended { pid, code: exit.code }
            }
            (old, _) => old,
        };
        self.exec_becomes(id, new);
        if let Some((reply, answer)) = answer {
            reply.send(answer).ok();
        }
        drop(closing);
    }

    /// The exec is in this state from now on, and shown so.
    fn exec_becomes(&mut self, id: &str, state: State) {
        let Some(exec) = self.execs.get_mut(id) else { return };
        let ended = match state {
            State::Ended { code, .. } => Some(code),
            _ => None,
        };
        exec.state = state;
        if let Some(code) = ended {
            hull_runtime::failpoint!("engine.exec.ended");
            self.ended_execs += 1;
            exec.order = self.ended_execs;
            self.publish("exec_die", &[("execID", id), ("exitCode", &code.to_string())]);
        }
        self.show_exec(id);
        self.forget_old_execs();
        self.show();
    }

    pub(super) fn exec_resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        match self.execs.get(id).map(|exec| &exec.state) {
            Some(State::Runs { link, .. } | State::Starting { link, .. }) => link.resize(rows, columns),
            Some(State::Made) => Err(Error::Invalid("exec process is not started".to_owned())),
            Some(State::Ended { .. }) => {
                Err(Error::NoSuchProcess(format!("NotFound: process does not exist {id}: not found")))
            }
            None => Err(Error::NoSuchExec(id.to_owned())),
        }
    }

    /// The container's run is over: what was made or has ended is forgotten; what still runs is
    /// being killed by the kernel and tells so itself.
    pub(super) fn end_execs(&mut self) {
        let registry = &self.services.registry;
        self.execs.retain(|id, exec| {
            let stays = matches!(exec.state, State::Starting { .. } | State::Runs { .. });
            if !stays {
                registry.remove_exec(id);
            }
            stays
        });
        self.show();
    }

    fn forget_old_execs(&mut self) {
        let mut ended: Vec<(u64, String)> = self
            .execs
            .iter()
            .filter(|(_, exec)| !exec.is_open())
            .map(|(id, exec)| (exec.order, id.clone()))
            .collect();
        ended.sort_unstable();
        let surplus = ended.len().saturating_sub(ENDED_MAX);
        for (_, id) in ended.into_iter().take(surplus) {
            self.execs.remove(&id);
            self.services.registry.remove_exec(&id);
        }
    }

    fn show_exec(&self, id: &str) {
        let Some(exec) = self.execs.get(id) else { return };
        let (running, exit_code, pid) = match exec.state {
            State::Made | State::Starting { .. } => (false, None, 0),
            State::Runs { pid, .. } => (true, None, pid),
            State::Ended { pid, code } => (false, Some(code), pid),
        };
        self.services.registry.put_exec(ExecView {
            id: id.to_owned(),
            container: self.record.id.clone(),
            running,
            exit_code,
            pid,
            settings: exec.settings.clone(),
        });
    }
}

/// Hears an exec's shim until its end, tells the container's task, and clears up behind it.
async fn read(services: Arc<services::Services>, handle: Arc<Handle>, id: String, link: Arc<Link>) {
    let exec_root: PathBuf = services.exec_root().to_owned();
    let (mut process, mut started) = (None, false);
    loop {
        let mut word = link.next().await;
        if let Word::Started { pidfd, .. } = &word {
            process = pidfd.try_clone().ok();
            started = true;
        }
        // A shim says started before anything else: it was killed, its spawner perhaps with it.
        if !started && matches!(word, Word::Exited(_) | Word::Closed) {
            let message = "the shim ended before it could start the process".to_owned();
            word = Word::StartFailed(StartError { kind: StartErrorKind::Host, message });
        }
        if matches!(word, Word::Closed) {
            word = Word::Exited(link::exit_of(&exec_root, Kind::Exec, &id, process.take()).await);
        }
        let last = matches!(word, Word::Exited(_) | Word::StartFailed(_));
        handle.commands.send(Command::ExecHeard { id: id.clone(), word }).await.ok();
        if last {
            break;
        }
    }
    if let Err(error) = shim::forget(&exec_root, Kind::Exec, &id) {
        tracing::warn!(exec = id, %error, "an exec's folder stays");
    }
}
