//! The life of a container: one enum and one pure function.
//!
//! A pid exists exactly where a process does. [`step`] decides and touches nothing: it says the
//! next [`Life`] and which effects the container's task has to perform; each effect that ends in
//! something observable comes back as an [`Input`]. Recovery after a crash is the same function
//! fed with what was observed, so there is no second state machine for bad days.
//!
//! ```text
//!            start              started                pause
//! Created ─────────► Starting ─────────► Running ◄──────────────► Paused
//!                       │ failed            │ exited                 │ exited
//!                       ▼                   ▼                        ▼
//!                    Created/Exited      Exited ──(policy)──► Restarting ──timer──► Starting
//!                                           │ remove
//!                                           ▼
//!                                        Removing ──► gone
//! ```
//!
//! What somebody asked for while a process lives (stop, restart, remove by force) is a [`Wish`]:
//! it takes effect when the exit arrives, and it is part of the record, so that a daemon killed
//! between the signal and the exit still does what was asked.

use serde::{Deserialize, Serialize};

pub use hull_runtime::bundle::Exit;

use super::settings::RestartPolicy;

/// Nanoseconds since the epoch.
pub type Time = i64;

const SECOND: Time = 1_000_000_000;
/// The first delay of the restart policy; each short run doubles it.
pub const FIRST_DELAY: Time = SECOND / 10;
/// The longest delay.
pub const LONGEST_DELAY: Time = 60 * SECOND;
/// A run at least so long forgets the delays before it.
pub const LONG_RUN: Time = 10 * SECOND;
/// Exit code of a process that vanished without a record (the host went down under it).
pub const LOST: i32 = 255;
pub const SIGKILL: i32 = 9;

/// A living process: known from the shim's `Started`, or from a shim that was found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// Of the first process, in the host's pid namespace.
    pub pid: i32,
    pub started: Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    #[default]
    Created,
    /// The shim was asked for; no process is known yet. `last` is the exit before this start.
    Starting {
        last: Option<Exit>,
    },
    Running(Live),
    Paused(Live),
    /// Waiting for the restart policy's delay.
    Restarting {
        after: Exit,
        attempt: u32,
        due: Time,
    },
    Exited(Exit),
    /// Being taken away; what is left to do is in the effects.
    Removing {
        last: Option<Exit>,
    },
}

impl Phase {
    /// Docker's word for it.
    pub fn status(&self) -> &'static str {
        match self {
            Phase::Created => "created",
            Phase::Starting { last: None } => "created",
            Phase::Starting { last: Some(_) } => "exited",
            Phase::Running(_) => "running",
            Phase::Paused(_) => "paused",
            Phase::Restarting { .. } => "restarting",
            Phase::Exited(_) => "exited",
            Phase::Removing { .. } => "removing",
        }
    }

    pub fn live(&self) -> Option<Live> {
        match self {
            Phase::Running(live) | Phase::Paused(live) => Some(*live),
            _ => None,
        }
    }

    /// The last exit, where there was one.
    pub fn exit(&self) -> Option<Exit> {
        match self {
            Phase::Exited(exit) | Phase::Restarting { after: exit, .. } => Some(*exit),
            Phase::Starting { last } | Phase::Removing { last } => *last,
            Phase::Created | Phase::Running(_) | Phase::Paused(_) => None,
        }
    }
}

/// What is to become of the container once its process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wish {
    /// Nobody asked: the restart policy decides.
    #[default]
    Policy,
    /// Somebody stopped or killed it.
    Rest,
    /// Somebody asked for a restart.
    Start,
    /// Somebody removes it by force.
    Remove,
}

/// A stop that has not come to its end yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopping {
    pub signal: i32,
    pub asked: Time,
    /// Nanoseconds until SIGKILL; `None` waits for ever.
    pub grace: Option<Time>,
}

impl Stopping {
    /// What is left of the grace; never more than all of it, should the clock have been set back.
    fn rest(self, now: Time) -> Option<Time> {
        let grace = self.grace?.max(0);
        Some(self.asked.saturating_add(grace).saturating_sub(now).clamp(0, grace))
    }
}

/// Everything of a container that [`step`] changes; part of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Life {
    pub phase: Phase,
    /// Restarts by the policy since somebody last started it.
    pub restarts: u32,
    /// Runs shorter than [`LONG_RUN`] in a row: the exponent of the delay.
    pub short_runs: u32,
    /// When the current or last run began.
    pub run_began: Option<Time>,
    pub wish: Wish,
    /// Somebody stopped it since it was last started: `unless-stopped` leaves it alone.
    pub stopped: bool,
    /// Set while a stop waits for the process to end, so that the next daemon goes on with it.
    pub stopping: Option<Stopping>,
}

/// What of the settings bears on the decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    pub restart: RestartPolicy,
    pub auto_remove: bool,
}

/// What was found of a container whose daemon had died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observed {
    /// Its shim answers and its process lives.
    Alive { live: Live, frozen: bool },
    /// The process ended meanwhile and left its record.
    Ended(Exit),
    /// No shim and no record: the host went down, or the shim was killed.
    Nothing,
}

/// What can happen to a container: asked by somebody, or seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    Start,
    Started(Live),
    StartFailed,
    Exited(Exit),
    /// `grace` in nanoseconds until SIGKILL; `None` waits for ever. `then_start` is a restart.
    Stop {
        signal: i32,
        grace: Option<Time>,
        then_start: bool,
    },
    /// `stops`: the signal is one that is meant to end the container.
    Kill {
        signal: i32,
        stops: bool,
    },
    /// The grace of a stop is over.
    GraceOver,
    Pause,
    Frozen,
    Unpause,
    Thawed,
    /// The restart policy's delay may be over.
    Timer,
    Remove {
        force: bool,
    },
    /// Recovery.
    Observed(Observed),
    /// The daemon has begun its work (after every `Observed`).
    Boot,
}

/// What the task has to do, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The record has to be durable before any later effect and before anybody is answered.
    Commit,
    /// Ask for a shim.
    Launch,
    /// To the first process.
    Signal(i32),
    /// Send [`Input::GraceOver`] after so many nanoseconds.
    ArmGrace(Time),
    /// Send [`Input::Timer`] at that time.
    ArmTimer(Time),
    Freeze,
    Thaw,
    /// A run has ended: tell who waits, end the execs, publish, free what the run held.
    Finish(Exit),
    /// Take away everything the container has, then its record.
    Delete,
}

/// Why a request is refused in this phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Start: it runs already.
    AlreadyRunning,
    /// Stop: it does not run.
    AlreadyStopped,
    NotRunning,
    /// Start of a paused container.
    StartPaused,
    AlreadyPaused,
    NotPaused,
    Restarting,
    /// Removal without force.
    RemoveRunning,
    RemovePaused,
    RemoveRestarting,
    /// It is on its way out.
    BeingRemoved,
}

/// Decides; touches nothing. Inputs that are merely late (a timer, a second exit) change
/// nothing; a request that the phase forbids is [`Refused`].
pub fn step(life: &Life, input: Input, policy: &Policy, now: Time) -> Result<(Life, Vec<Effect>), Refused> {
    match input {
        Input::Start => start(life),
        Input::Started(live) => Ok(started(life, live)),
        Input::StartFailed => Ok(start_failed(life, policy)),
        Input::Exited(exit) => Ok(exited(life, exit, policy, now)),
        Input::Stop { signal, grace, then_start } => {
            stop(life, Stopping { signal, asked: now, grace }, then_start)
        }
        Input::Kill { signal, stops } => kill(life, signal, stops),
        Input::GraceOver => Ok((*life, signal_if_alive(life, SIGKILL))),
        Input::Pause => pause(life),
        Input::Unpause => unpause(life),
        Input::Frozen => Ok(match life.phase {
            Phase::Running(live) => (with(life, Phase::Paused(live)), vec![Effect::Commit]),
            _ => (*life, Vec::new()),
        }),
        Input::Thawed => Ok(match life.phase {
            Phase::Paused(live) => (with(life, Phase::Running(live)), vec![Effect::Commit]),
            _ => (*life, Vec::new()),
        }),
        Input::Timer => Ok(timer(life, now)),
        Input::Remove { force } => remove(life, force),
        Input::Observed(observed) => Ok(observe(life, observed, policy, now)),
        Input::Boot => Ok(match (life.phase, policy.restart) {
            (Phase::Exited(exit), RestartPolicy::Always) => launch(life, Some(exit)),
            _ => (*life, Vec::new()),
        }),
    }
}

fn with(life: &Life, phase: Phase) -> Life {
    Life { phase, ..*life }
}

/// A start that forgets what the policy counted.
fn launch(life: &Life, last: Option<Exit>) -> (Life, Vec<Effect>) {
    let life = Life {
        phase: Phase::Starting { last },
        restarts: 0,
        short_runs: 0,
        wish: Wish::Policy,
        stopped: false,
        stopping: None,
        ..*life
    };
    (life, vec![Effect::Launch])
}

fn start(life: &Life) -> Result<(Life, Vec<Effect>), Refused> {
    match life.phase {
        Phase::Created => Ok(launch(life, None)),
        Phase::Exited(exit) => Ok(launch(life, Some(exit))),
        Phase::Starting { .. } | Phase::Running(_) | Phase::Restarting { .. } => Err(Refused::AlreadyRunning),
        Phase::Paused(_) => Err(Refused::StartPaused),
        Phase::Removing { .. } => Err(Refused::BeingRemoved),
    }
}

fn started(life: &Life, live: Live) -> (Life, Vec<Effect>) {
    match life.phase {
        Phase::Starting { .. } => {
            let next = Life { phase: Phase::Running(live), run_began: Some(live.started), ..*life };
            // Somebody asked for its end while it was on its way.
            let effects = if life.wish == Wish::Policy { Vec::new() } else { vec![Effect::Signal(SIGKILL)] };
            (next, effects)
        }
        _ => (*life, Vec::new()),
    }
}

fn start_failed(life: &Life, policy: &Policy) -> (Life, Vec<Effect>) {
    let Phase::Starting { last } = life.phase else { return (*life, Vec::new()) };
    if policy.auto_remove || life.wish == Wish::Remove {
        return (with(life, Phase::Removing { last }), vec![Effect::Commit, Effect::Delete]);
    }
    let phase = last.map_or(Phase::Created, Phase::Exited);
    (Life { phase, wish: Wish::Policy, stopping: None, ..*life }, vec![Effect::Commit])
}

fn exited(life: &Life, exit: Exit, policy: &Policy, now: Time) -> (Life, Vec<Effect>) {
    let began = match life.phase {
        Phase::Running(live) | Phase::Paused(live) => live.started,
        // The process was faster than the word of its start.
        Phase::Starting { .. } => exit.at,
        Phase::Removing { last: None } => {
            return (
                with(life, Phase::Removing { last: Some(exit) }),
                vec![Effect::Commit, Effect::Finish(exit), Effect::Delete],
            );
        }
        Phase::Created | Phase::Exited(_) | Phase::Restarting { .. } | Phase::Removing { .. } => {
            return (*life, Vec::new());
        }
    };
    let long = exit.at.saturating_sub(began) >= LONG_RUN;
    let life = Life { short_runs: if long { 0 } else { life.short_runs }, stopping: None, ..*life };
    let (next, last) = match life.wish {
        Wish::Remove => (with(&life, Phase::Removing { last: Some(exit) }), Some(Effect::Delete)),
        Wish::Start => {
            let (next, _) = launch(&life, Some(exit));
            (next, Some(Effect::Launch))
        }
        Wish::Policy if restarts(&life, policy.restart, exit) => {
            let due = now.saturating_add(delay(life.short_runs));
            let restarts = life.restarts.saturating_add(1);
            let phase = Phase::Restarting { after: exit, attempt: restarts, due };
            let next = Life { phase, restarts, short_runs: life.short_runs.saturating_add(1), ..life };
            (next, Some(Effect::ArmTimer(due)))
        }
        Wish::Policy | Wish::Rest if policy.auto_remove => {
            (with(&life, Phase::Removing { last: Some(exit) }), Some(Effect::Delete))
        }
        Wish::Policy | Wish::Rest => (Life { phase: Phase::Exited(exit), wish: Wish::Policy, ..life }, None),
    };
    let mut effects = vec![Effect::Commit, Effect::Finish(exit)];
    effects.extend(last);
    (next, effects)
}

/// Whether the policy brings the container back after this exit.
fn restarts(life: &Life, policy: RestartPolicy, exit: Exit) -> bool {
    match policy {
        RestartPolicy::No => false,
        RestartPolicy::Always => true,
        RestartPolicy::UnlessStopped => !life.stopped,
        RestartPolicy::OnFailure { attempts } => {
            exit.code != 0 && (attempts == 0 || life.restarts < attempts)
        }
    }
}

/// The delay after so many short runs in a row.
fn delay(short_runs: u32) -> Time {
    FIRST_DELAY.saturating_mul(1 << short_runs.min(20)).min(LONGEST_DELAY)
}

fn signal_if_alive(life: &Life, signal: i32) -> Vec<Effect> {
    match life.phase {
        Phase::Running(_) => vec![Effect::Signal(signal)],
        // A frozen process takes its signal when it thaws.
        Phase::Paused(_) => vec![Effect::Signal(signal), Effect::Thaw],
        _ => Vec::new(),
    }
}

fn stop(life: &Life, stopping: Stopping, then_start: bool) -> Result<(Life, Vec<Effect>), Refused> {
    let wish = match life.wish {
        Wish::Remove => Wish::Remove,
        _ if then_start => Wish::Start,
        _ => Wish::Rest,
    };
    match life.phase {
        Phase::Running(_) | Phase::Paused(_) => {
            let next = Life { wish, stopped: !then_start, stopping: Some(stopping), ..*life };
            let mut effects = vec![Effect::Commit];
            effects.extend(go_on_stopping(&next, stopping.asked));
            Ok((next, effects))
        }
        // The process that may come up is ended by `started`; if none does, all is well too.
        Phase::Starting { .. } if then_start => Err(Refused::AlreadyRunning),
        Phase::Starting { .. } => Ok((Life { wish, stopped: true, ..*life }, vec![Effect::Signal(SIGKILL)])),
        Phase::Restarting { after, .. } | Phase::Exited(after) if then_start => Ok(launch(life, Some(after))),
        Phase::Created if then_start => Ok(launch(life, None)),
        Phase::Restarting { after, .. } => {
            let next = Life { phase: Phase::Exited(after), wish: Wish::Policy, stopped: true, ..*life };
            Ok((next, vec![Effect::Commit]))
        }
        Phase::Created | Phase::Exited(_) => Err(Refused::AlreadyStopped),
        Phase::Removing { .. } => Err(Refused::BeingRemoved),
    }
}

/// The effects of a stop, or of what is left of it.
fn go_on_stopping(life: &Life, now: Time) -> Vec<Effect> {
    let Some(stopping) = life.stopping else { return Vec::new() };
    let mut effects = signal_if_alive(life, stopping.signal);
    effects.extend(stopping.rest(now).map(Effect::ArmGrace));
    effects
}

fn kill(life: &Life, signal: i32, stops: bool) -> Result<(Life, Vec<Effect>), Refused> {
    match life.phase {
        Phase::Running(_) | Phase::Paused(_) => {
            let wish = if stops && life.wish == Wish::Policy { Wish::Rest } else { life.wish };
            let next = Life { wish, stopped: true, ..*life };
            let effects = if stops || signal == SIGKILL {
                signal_if_alive(life, signal)
            } else {
                vec![Effect::Signal(signal)]
            };
            Ok((next, effects))
        }
        Phase::Restarting { after, .. } => {
            let next = Life { phase: Phase::Exited(after), wish: Wish::Policy, stopped: true, ..*life };
            Ok((next, vec![Effect::Commit]))
        }
        Phase::Created | Phase::Starting { .. } | Phase::Exited(_) | Phase::Removing { .. } => {
            Err(Refused::NotRunning)
        }
    }
}

fn pause(life: &Life) -> Result<(Life, Vec<Effect>), Refused> {
    match life.phase {
        Phase::Running(_) => Ok((*life, vec![Effect::Freeze])),
        Phase::Paused(_) => Err(Refused::AlreadyPaused),
        Phase::Restarting { .. } => Err(Refused::Restarting),
        Phase::Created | Phase::Starting { .. } | Phase::Exited(_) | Phase::Removing { .. } => {
            Err(Refused::NotRunning)
        }
    }
}

fn unpause(life: &Life) -> Result<(Life, Vec<Effect>), Refused> {
    match life.phase {
        Phase::Paused(_) => Ok((*life, vec![Effect::Thaw])),
        _ => Err(Refused::NotPaused),
    }
}

fn timer(life: &Life, now: Time) -> (Life, Vec<Effect>) {
    match life.phase {
        Phase::Restarting { after, due, .. } if now >= due => {
            (with(life, Phase::Starting { last: Some(after) }), vec![Effect::Launch])
        }
        Phase::Restarting { due, .. } => (*life, vec![Effect::ArmTimer(due)]),
        _ => (*life, Vec::new()),
    }
}

fn remove(life: &Life, force: bool) -> Result<(Life, Vec<Effect>), Refused> {
    let removing = |last| (with(life, Phase::Removing { last }), vec![Effect::Commit, Effect::Delete]);
    match life.phase {
        Phase::Created => Ok(removing(None)),
        Phase::Exited(exit) => Ok(removing(Some(exit))),
        // An earlier attempt failed half-way: go on where it stopped.
        Phase::Removing { last } => Ok(removing(last)),
        Phase::Restarting { after, .. } if force => Ok(removing(Some(after))),
        Phase::Running(_) | Phase::Paused(_) if force => {
            let next = Life { wish: Wish::Remove, stopped: true, ..*life };
            let mut effects = vec![Effect::Commit];
            effects.extend(signal_if_alive(life, SIGKILL));
            Ok((next, effects))
        }
        Phase::Starting { .. } if force => Ok((
            Life { wish: Wish::Remove, stopped: true, ..*life },
            vec![Effect::Commit, Effect::Signal(SIGKILL)],
        )),
        Phase::Running(_) | Phase::Starting { .. } => Err(Refused::RemoveRunning),
        Phase::Paused(_) => Err(Refused::RemovePaused),
        Phase::Restarting { .. } => Err(Refused::RemoveRestarting),
    }
}

fn observe(life: &Life, observed: Observed, policy: &Policy, now: Time) -> (Life, Vec<Effect>) {
    match (observed, life.phase) {
        // Removal had begun while the process lived: end it; its exit goes on with the removal.
        (Observed::Alive { .. }, Phase::Removing { .. }) => {
            (with(life, Phase::Removing { last: None }), vec![Effect::Signal(SIGKILL)])
        }
        (Observed::Alive { live, frozen }, _) => {
            let phase = if frozen { Phase::Paused(live) } else { Phase::Running(live) };
            let next = Life { phase, run_began: Some(live.started), ..*life };
            // Whether the signal of a stop had been sent is not known: better twice than never.
            let effects = match life.wish {
                Wish::Remove => signal_if_alive(&next, SIGKILL),
                Wish::Policy | Wish::Rest | Wish::Start => go_on_stopping(&next, now),
            };
            (next, effects)
        }
        (Observed::Ended(_) | Observed::Nothing, Phase::Removing { .. }) => (*life, vec![Effect::Delete]),
        (Observed::Ended(_) | Observed::Nothing, Phase::Restarting { due, .. }) => {
            (*life, vec![Effect::ArmTimer(due)])
        }
        (Observed::Ended(exit), _) => exited(life, exit, policy, now),
        (Observed::Nothing, Phase::Running(_) | Phase::Paused(_)) => {
            exited(life, Exit { code: LOST, oom: false, at: now }, policy, now)
        }
        (Observed::Nothing, Phase::Starting { .. }) => start_failed(life, policy),
        (Observed::Nothing, Phase::Created | Phase::Exited(_)) => (*life, Vec::new()),
    }
}

#[cfg(test)]
#[path = "phase_tests.rs"]
mod tests;
