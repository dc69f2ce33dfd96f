//! What callers ask of a container, turned into inputs, and the answers they get.

use std::sync::Arc;

use hull_oci::runtime::Resources;

use super::handle::{Command, Reply};
use super::phase::{Input, Phase, Refused, Time};
use super::requests::{Remove, Update};
use super::settings::{RestartPolicy, Settings};
use super::task::Task;
use super::validate;
use crate::{Error, Result, signals};

const SECOND: Time = 1_000_000_000;

impl Task {
    pub(super) async fn command(&mut self, command: Command) {
        self.fault = None;
        match command {
            Command::Start { reply } => self.start(reply).await,
            Command::Stop { signal, timeout, restart, reply } => {
                self.stop(signal, timeout, restart, reply).await
            }
            Command::Kill { key, signal, reply } => self.kill(&key, signal, reply).await,
            Command::Pause { reply } => {
                let outcome = self.ask(Input::Pause).await;
                self.answer(outcome, "pause", reply);
            }
            Command::Unpause { reply } => {
                let outcome = self.ask(Input::Unpause).await;
                self.answer(outcome, "unpause", reply);
            }
            Command::Rename { name, reply } => drop(reply.send(self.rename(name).await)),
            Command::Connect { join, reply } => drop(reply.send(self.connect(&join.network, &join).await)),
            Command::Disconnect { network, reply } => drop(reply.send(self.disconnect(&network).await)),
            Command::Unlink { key, alias, reply } => drop(reply.send(self.unlink(key, alias).await)),
            Command::Update { update, reply } => drop(reply.send(self.update(*update).await)),
            Command::Remove { key, options, reply } => self.remove(&key, options, reply).await,
            Command::Wait { condition, exit, reply } => {
                self.wait(condition, exit);
                reply.send(Ok(())).ok();
            }
            Command::Attach { key, attach, reply } => drop(reply.send(self.attach(&key, attach))),
            Command::Seat { key, attach, reply } => drop(reply.send(self.seat(&key, attach))),
            Command::Join { attach, stream, head } => self.join(attach, stream, &head),
            Command::Resize { rows, columns, reply } => drop(reply.send(self.resize(rows, columns))),
            Command::ExecCreate { key, settings, reply } => {
                drop(reply.send(self.exec_create(&key, *settings).await))
            }
            Command::ExecStart { id, detach, size, reply } => self.exec_start(&id, detach, size, reply).await,
            Command::ExecResize { id, rows, columns, reply } => {
                drop(reply.send(self.exec_resize(&id, rows, columns)))
            }
            Command::ExecHeard { id, word } => self.exec_heard(&id, word),
            Command::Boot { reply } => {
                // Never refused: a phase that has nothing to begin ignores it.
                self.handle(Input::Boot).await.ok();
                reply.send(Ok(())).ok();
            }
            // Heard by the loop.
            Command::Close => {}
        }
    }

    /// A request whose effects end before the answer.
    async fn ask(&mut self, input: Input) -> Result<()> {
        self.handle(input).await.map_err(|refused| self.refusal(refused))?;
        self.fault.take().map_or(Ok(()), Err)
    }

    fn answer(&self, outcome: Result<()>, action: &str, reply: Reply<()>) {
        if outcome.is_ok() {
            self.publish(action, &[]);
        }
        reply.send(outcome).ok();
    }

    async fn start(&mut self, reply: Reply<()>) {
        // Kept before the input is taken: the answer may come with its effects.
        self.waiting.starts.push(reply);
        if let Err(refused) = self.handle(Input::Start).await {
            let error = self.refusal(refused);
            self.waiting.starts.pop().map(|reply| reply.send(Err(error)));
        }
    }

    async fn stop(&mut self, signal: Option<i32>, timeout: Option<i32>, restart: bool, reply: Reply<()>) {
        let settings = Arc::clone(&self.record.settings);
        let own = signals::parse(&settings.stop_signal).unwrap_or(signals::SIGTERM);
        let signal = signal.unwrap_or(own);
        let seconds = timeout.or(settings.stop_timeout).unwrap_or(self.services.config.stop_timeout);
        // Negative is for ever.
        let grace = (seconds >= 0).then(|| Time::from(seconds) * SECOND);
        let alive = self.record.life.phase.live().is_some();
        let list = if restart { &mut self.waiting.restarts } else { &mut self.waiting.stops };
        list.push(reply);
        match self.handle(Input::Stop { signal, grace, then_start: restart }).await {
            Ok(()) if alive => self.publish("kill", &[("signal", &signal.to_string())]),
            Ok(()) => self.settle(),
            Err(refused) => {
                let error = self.refusal(refused);
                let list = if restart { &mut self.waiting.restarts } else { &mut self.waiting.stops };
                list.pop().map(|reply| reply.send(Err(error)));
            }
        }
    }

    async fn kill(&mut self, key: &str, signal: i32, reply: Reply<()>) {
        // As the reference: without a stop signal of its own every signal counts as one.
        let own = signals::parse(&self.record.settings.stop_signal);
        let stops = signal == signals::SIGKILL || own.is_none_or(|own| own == signal);
        match self.handle(Input::Kill { signal, stops }).await {
            Ok(()) => {
                if let Some(fault) = self.fault.take() {
                    reply.send(Err(fault)).ok();
                    return;
                }
                self.publish("kill", &[("signal", &signal.to_string())]);
                let alive = self.record.life.phase.live().is_some();
                if signal == signals::SIGKILL && alive {
                    self.waiting.kills.push(reply);
                } else {
                    reply.send(Ok(())).ok();
                    self.settle();
                }
            }
            Err(refused) => {
                let error =
                    Error::Conflict(format!("cannot kill container: {key}: {}", self.refusal(refused)));
                reply.send(Err(error)).ok();
            }
        }
    }

    async fn remove(&mut self, key: &str, options: Remove, reply: Reply<()>) {
        self.waiting.removals.push(reply);
        // On record before anything of it goes: whoever finishes the removal knows.
        let before = std::mem::replace(&mut self.record.take_volumes, options.volumes);
        if let Err(refused) = self.handle(Input::Remove { force: options.force }).await {
            self.record.take_volumes = before;
            let reason = match refused {
                Refused::RemovePaused => "container is paused and must be unpaused first",
                Refused::RemoveRestarting => {
                    "container is restarting: stop the container before removing or force remove"
                }
                _ => "container is running: stop the container before removing or force remove",
            };
            let error = Error::Conflict(format!("cannot remove container \"{key}\": {reason}"));
            self.waiting.removals.pop().map(|reply| reply.send(Err(error)));
        }
    }

    async fn rename(&mut self, name: String) -> Result<()> {
        let old = std::mem::replace(&mut self.record.name, name);
        if let Err(error) = self.commit().await {
            self.record.name = old;
            return Err(error);
        }
        self.services.registry.release(&old, &self.record.id);
        self.rename_places().await;
        self.show();
        self.publish("rename", &[("oldName", &format!("/{old}"))]);
        Ok(())
    }

    async fn update(&mut self, update: Update) -> Result<Vec<String>> {
        let prefix = |error: Error| match error {
            Error::Conflict(text) => {
                Error::Conflict(format!("Cannot update container {}: {text}", self.record.id))
            }
            other => other,
        };
        if matches!(self.record.life.phase, Phase::Removing { .. }) {
            return Err(prefix(Error::Conflict(
                "container is marked for removal and cannot be \"update\"".to_owned(),
            )));
        }
        let mut settings = (*self.record.settings).clone();
        let mut asked = update.resources;
        let mut warnings = validate::discard(&mut asked, &self.services.facts);
        contradictions(&settings, &asked, update.whole_cpus).map_err(prefix)?;
        settings.whole_cpus |= update.whole_cpus;
        overlay(&mut settings.resources, asked);
        if let Some(restart) = update.restart {
            if settings.auto_remove && restart != RestartPolicy::No {
                return Err(prefix(Error::Conflict(
                    "Restart policy cannot be updated because AutoRemove is enabled for the container"
                        .to_owned(),
                )));
            }
            settings.restart = restart;
        }
        warnings.extend(validate::resources(&settings.resources, &self.services.facts)?);
        if self.record.life.phase.live().is_some() {
            let (services, path) = (Arc::clone(&self.services), self.services.cgroup_path(&self.record));
            let mut resources = settings.resources.clone();
            resources.devices.clear();
            let told = self.services.blocking(move || {
                let Some(cgroup) = services.cgroup(&path) else { return Ok(Vec::new()) };
                cgroup.update(&resources).map_err(|source| Error::Cgroup { source })
            });
            warnings.extend(told.await?.iter().map(ToString::to_string));
        }
        let old = std::mem::replace(&mut self.record.settings, Arc::new(settings));
        if let Err(error) = self.commit().await {
            self.record.settings = old;
            return Err(error);
        }
        self.show();
        self.publish("update", &[]);
        Ok(warnings)
    }

    fn resize(&mut self, rows: u16, columns: u16) -> Result<()> {
        match &self.link {
            Some(link) if self.record.life.phase.live().is_some() => link.resize(rows, columns),
            _ => Err(self.refusal(Refused::NotRunning)),
        }
    }

    /// The reference's words.
    pub(super) fn refusal(&self, refused: Refused) -> Error {
        let id = &self.record.id;
        match refused {
            Refused::AlreadyRunning => Error::NotModified("container is already running".to_owned()),
            Refused::AlreadyStopped => Error::NotModified("container is already stopped".to_owned()),
            Refused::NotRunning => Error::Conflict(format!("container {id} is not running")),
            Refused::StartPaused => {
                Error::Conflict("cannot start a paused container, try unpause instead".to_owned())
            }
            Refused::AlreadyPaused => Error::Conflict(format!("Container {id} is already paused")),
            Refused::NotPaused => Error::NotPaused { id: id.clone() },
            Refused::Restarting | Refused::RemoveRestarting => {
                Error::Conflict(format!("Container {id} is restarting, wait until the container is running"))
            }
            Refused::RemoveRunning | Refused::RemovePaused => {
                Error::Conflict(format!("container {id} is running"))
            }
            Refused::BeingRemoved => {
                Error::Conflict("container is marked for removal and cannot be started".to_owned())
            }
        }
    }
}

/// Limits that are measured in one way cannot be changed in the other.
fn contradictions(settings: &Settings, asked: &Resources, whole_cpus: bool) -> Result<()> {
    let conflict = |text: &str| Err(Error::Conflict(text.to_owned()));
    let (was, cpu) = (&settings.resources, &asked.cpu);
    let set = |number: Option<i64>| number.is_some_and(|number| number > 0);
    if whole_cpus && !settings.whole_cpus {
        if was.cpu.period.is_some_and(|period| period > 0) {
            return conflict(
                "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set",
            );
        }
        if set(was.cpu.quota) {
            return conflict(
                "Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set",
            );
        }
    }
    if settings.whole_cpus && !whole_cpus {
        if cpu.period.is_some_and(|period| period > 0) {
            return conflict(
                "Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set",
            );
        }
        if set(cpu.quota) {
            return conflict(
                "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set",
            );
        }
    }
    let swap = was.memory.swap.unwrap_or(0);
    if asked.memory.swap.is_none() && swap > 0 && asked.memory.limit.is_some_and(|limit| limit > swap) {
        return conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        );
    }
    Ok(())
}

/// Puts what is given over what was.
fn overlay(base: &mut Resources, over: Resources) {
    fn put<T>(base: &mut Option<T>, over: Option<T>) {
        if over.is_some() {
            *base = over;
        }
    }
    put(&mut base.memory.limit, over.memory.limit);
    put(&mut base.memory.reservation, over.memory.reservation);
    put(&mut base.memory.swap, over.memory.swap);
    put(&mut base.memory.kernel, over.memory.kernel);
    put(&mut base.memory.swappiness, over.memory.swappiness);
    put(&mut base.memory.disable_oom_killer, over.memory.disable_oom_killer);
    put(&mut base.cpu.shares, over.cpu.shares);
    put(&mut base.cpu.quota, over.cpu.quota);
    put(&mut base.cpu.burst, over.cpu.burst);
    put(&mut base.cpu.period, over.cpu.period);
    put(&mut base.cpu.realtime_runtime, over.cpu.realtime_runtime);
    put(&mut base.cpu.realtime_period, over.cpu.realtime_period);
    put(&mut base.pids, over.pids);
    put(&mut base.block_io.weight, over.block_io.weight);
    if !over.cpu.cpus.is_empty() {
        base.cpu.cpus = over.cpu.cpus;
    }
    if !over.cpu.mems.is_empty() {
        base.cpu.mems = over.cpu.mems;
    }
    base.unified.extend(over.unified);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Quota, period, swap and memory in bytes; 0 is unset.
    fn limits(quota: i64, period: u64, swap: i64, memory: i64) -> Resources {
        let mut resources = Resources::default();
        resources.cpu.quota = Some(quota).filter(|quota| *quota != 0);
        resources.cpu.period = Some(period).filter(|period| *period != 0);
        resources.memory.swap = Some(swap).filter(|swap| *swap != 0);
        resources.memory.limit = Some(memory).filter(|memory| *memory != 0);
        resources
    }

    #[test]
    fn cpus_are_changed_in_the_way_in_which_they_were_limited() {
        let check = |was: Resources, whole, asked: Resources, now_whole| {
            let settings = Settings { resources: was, whole_cpus: whole, ..Settings::default() };
            contradictions(&settings, &asked, now_whole).map_err(|error| error.to_string())
        };
        let refused = |text: Result<(), String>, end: &str| {
            let text = text.unwrap_err();
            assert!(text.contains(end), "{text}");
        };
        let half = || limits(50_000, 100_000, 0, 0);
        refused(check(half(), false, half(), true), "Nano CPUs cannot be updated as CPU Period");
        refused(check(limits(50_000, 0, 0, 0), false, half(), true), "as CPU Quota has already been set");
        refused(check(half(), true, half(), false), "CPU Period cannot be updated as NanoCPUs");
        refused(check(half(), true, limits(1000, 0, 0, 0), false), "CPU Quota cannot be updated as NanoCPUs");
        assert_eq!(check(half(), true, half(), true), Ok(()));
        assert_eq!(check(half(), false, half(), false), Ok(()));
        assert_eq!(check(Resources::default(), false, half(), true), Ok(()));
        let was = || limits(0, 0, 100, 50);
        refused(check(was(), false, limits(0, 0, 0, 101), false), "already set memoryswap limit");
        assert_eq!(check(was(), false, limits(0, 0, 200, 101), false), Ok(()));
        assert_eq!(check(was(), false, limits(0, 0, 0, 100), false), Ok(()));
    }
}
