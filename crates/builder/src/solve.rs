//! Runs a graph: what is needed is done, once, as much at a time as may be, and nothing that was done
//! before.
//!
//! A step is looked for by two keys:
//!
//! ```text
//! definition   operation + definition of what it is done to + definitions of the stages it copies from
//! content      operation + key of what it is done to        + fingerprints of the files it copies
//! ```
//!
//! Both have the fingerprints of files that come from a context: those are always looked at. The first is
//! known before anything is done: if it finds the step, neither what is below nor the stages that it
//! copies from have to be there any more. If not, those are made (out of the cache, if it has them), and the second is
//! known: it finds the step if a stage was built anew but the files that are copied came out the same. Without
//! COPY --from both are one. A step that was done is kept under both.
//!
//! What a RUN leads to cannot be known from its files: its command, its environment, its user and folder, its mounts
//! and their ids count, and the files of its bind mounts. What is in cache mounts, secrets and behind an agent does
//! not (docs.docker.com/build/cache/invalidation).
//!
//! A step that is done although it was known (`--no-cache`) gets a key of its own by its result, so whatever
//! was done to the former result is done again; but it is kept in the former's place for the next build.
//!
//! All of it is one future, and no task is spawned: to drop it is to end whatever runs, and so the first error ends
//! the other steps. Within it the questions that steps are asked are jobs that lie side by side in one set; a job that
//! needs another's answer asks for it and waits. So no chain of steps, however long, makes a deep stack of calls.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Poll;

use futures_util::future::{BoxFuture, try_join_all};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hull_oci::Digest;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OnceCell, OwnedMutexGuard, Semaphore, SetOnce};

use crate::executor::{Cache, Change, Executor, Failure, Known, Layer, Row, Selection, Source, Stack};
use crate::graph::{Graph, Operation, Task, base_key, operation_key, result_key};
use crate::progress::{Output, Progress, Report, Room, Step, Turn};

/// Keys of the steps that run now, in all builds: a second one of the same key waits for the first, and then
/// finds it in the cache, or, if the first was ended, runs. Nobody waits for another build's client: a step that does
/// gives its turn up.
#[derive(Debug, Default)]
pub struct Running {
    locks: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

impl Running {
    async fn lock(&self, key: &Digest) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| lock.strong_count() > 0);
            let lock = locks.get(key).and_then(Weak::upgrade).unwrap_or_default();
            locks.insert(key.clone(), Arc::downgrade(&lock));
            lock
        };
        lock.lock_owned().await
    }
}

/// What solving needs besides the graph.
pub struct Host<'a, E, C> {
    pub executor: &'a E,
    pub cache: &'a C,
    pub running: &'a Running,
    pub report: Report,
    /// Most operations at a time, at least 1.
    pub parallel: usize,
    /// What steps that are done now have in the image's history, in RFC 3339.
    pub created: &'a str,
    /// All that is known of the steps is wanted, for others.
    pub rows: bool,
}

/// What a graph has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Solved {
    /// The target's file system.
    pub stack: Stack,
    /// What another cache needs to do none of it again, if it was wanted.
    pub rows: Vec<Row>,
}

/// The step that failed; the build has ended with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct StepError {
    pub step: Step,
    pub name: String,
    /// Of the Dockerfile, from 1.
    pub lines: RangeInclusive<usize>,
    /// What a RUN ran, in one line.
    pub command: Option<String>,
    pub failure: Failure,
    /// What it was done to, if that was there already: the last good state of its stage.
    pub below: Option<Stack>,
}

impl StepError {
    fn text(&self) -> String {
        match (&self.failure, &self.command) {
            (Failure::Exit { code, .. }, Some(command)) => {
                format!("process {command:?} did not complete successfully: exit code: {code}")
            }
            (failure, _) => failure.to_string(),
        }
    }
}

/// Makes the file system of `target`.
pub async fn solve<E: Executor, C: Cache>(
    graph: &Graph,
    target: Step,
    host: Host<'_, E, C>,
) -> Result<Solved, StepError> {
    let (asks, asked) = unbounded_channel();
    let solver = Solver {
        graph,
        permits: Semaphore::new(host.parallel.max(1)),
        room: Room::default(),
        own: Running::default(),
        host,
        again: again(graph),
        steps: graph.vertices.iter().map(|_| State::default()).collect(),
        asks,
    };
    let stack = solver.drive(target, asked).await?;
    let rows = if solver.host.rows { solver.rows().await } else { Vec::new() };
    Ok(Solved { stack, rows })
}

/// Which steps must not be found by their definition: those that are fresh, and all that need such a one.
fn again(graph: &Graph) -> Vec<bool> {
    let mut again: Vec<bool> = Vec::with_capacity(graph.vertices.len());
    for vertex in &graph.vertices {
        let needs = match &vertex.task {
            Task::Base(_) => false,
            Task::Operation(operation) => operation.needs().any(|step| again[step]),
        };
        again.push(vertex.fresh || needs);
    }
    again
}

/// What a step is asked. Each question is asked of it once, however many need the answer.
#[derive(Debug, Clone, Copy)]
enum Job {
    /// Its key as far as nothing has to be made for it.
    Define(Step),
    /// Its file system.
    Make(Step),
}

/// What is known of a step while the graph is solved.
#[derive(Default)]
struct State {
    /// Whoever watches knows of the step.
    told: AtomicBool,
    /// Fingerprints of what it reads from elsewhere than from other steps.
    looked: OnceCell<Vec<Option<Digest>>>,
    define_asked: AtomicBool,
    defined: SetOnce<Digest>,
    make_asked: AtomicBool,
    made: SetOnce<Known>,
}

struct Solver<'a, E, C> {
    graph: &'a Graph,
    host: Host<'a, E, C>,
    permits: Semaphore,
    room: Room,
    /// Steps of this build alone.
    own: Running,
    again: Vec<bool>,
    steps: Vec<State>,
    asks: UnboundedSender<Job>,
}

impl<E: Executor, C: Cache> Solver<'_, E, C> {
    /// Does jobs as they are asked for, all at the same time, until `target` is made or one fails.
    async fn drive(&self, target: Step, mut asked: UnboundedReceiver<Job>) -> Result<Stack, StepError> {
        let mut jobs: FuturesUnordered<BoxFuture<'_, Result<(), StepError>>> = FuturesUnordered::new();
        self.ask(Job::Make(target));
        loop {
            let done = std::future::poll_fn(|cx| {
                while let Poll::Ready(Some(job)) = asked.poll_recv(cx) {
                    jobs.push(Box::pin(self.work(job)));
                }
                jobs.poll_next_unpin(cx)
            });
            done.await.transpose()?;
            if let Some(known) = self.steps[target].made.get() {
                return Ok(known.stack.clone());
            }
        }
    }

    /// What is known of each step, by the keys that others look for it by. Whoever made the target knows all
    /// definitions; a step that nothing was asked of but that is in the cache.
    async fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (step, state) in self.steps.iter().enumerate() {
            let (Some(_), Some(definition)) = (self.operation(step), state.defined.get()) else { continue };
            let known = match state.made.get() {
                Some(known) => Some(known.clone()),
                None => self.host.cache.find(definition).await,
            };
            let Some(known) = known else { continue };
            if known.key != *definition {
                rows.push(Row { key: known.key.clone(), known: known.clone() });
            }
            rows.push(Row { key: definition.clone(), known });
        }
        rows
    }

    fn ask(&self, job: Job) {
        let asked = match job {
            Job::Define(step) => &self.steps[step].define_asked,
            Job::Make(step) => &self.steps[step].make_asked,
        };
        if !asked.swap(true, Ordering::Relaxed) {
            // The receiver lives as long as any job.
            let _ = self.asks.send(job);
        }
    }

    async fn work(&self, job: Job) -> Result<(), StepError> {
        // A job is done once, so its answer is not there yet.
        match job {
            Job::Define(step) => {
                let _ = self.steps[step].defined.set(self.define(step).await?);
            }
            Job::Make(step) => {
                let _ = self.steps[step].made.set(self.make(step).await?);
            }
        }
        Ok(())
    }

    async fn defined(&self, step: Step) -> &Digest {
        self.ask(Job::Define(step));
        self.steps[step].defined.wait().await
    }

    async fn made(&self, step: Step) -> &Known {
        self.ask(Job::Make(step));
        self.steps[step].made.wait().await
    }

    fn operation(&self, step: Step) -> Option<&Operation<Step>> {
        match &self.graph.vertices[step].task {
            Task::Base(_) => None,
            Task::Operation(operation) => Some(operation),
        }
    }

    async fn make(&self, step: Step) -> Result<Known, StepError> {
        let operation = match &self.graph.vertices[step].task {
            Task::Base(layers) => {
                self.tell_cached(step);
                let stack = Stack { base: layers.clone(), changes: Vec::new() };
                return Ok(Known { key: base_key(layers), stack });
            }
            Task::Operation(operation) => operation,
        };
        let definition = self.defined(step).await;
        if !self.again[step]
            && let Some(known) = self.host.cache.find(definition).await
        {
            self.tell_cached(step);
            return Ok(known);
        }
        // All that it needs is made at the same time.
        operation.needs().for_each(|step| self.ask(Job::Make(step)));
        let contents = self.contents(step, operation).await?;
        let below = self.made(*operation.below()).await;
        let key = operation_key(operation, &below.key, &contents);
        if self.graph.vertices[step].fresh {
            return self.perform((step, Turn::default()), operation, &key, below).await;
        }
        let _own = self.own.lock(&key).await;
        let turn = Arc::new(Mutex::new(Some(self.host.running.lock(&key).await)));
        if let Some(known) = self.host.cache.find(&key).await {
            self.keep(step, &[definition], &known).await;
            self.tell_cached(step);
            return Ok(known);
        }
        self.perform((step, turn), operation, &key, below).await
    }

    async fn define(&self, step: Step) -> Result<Digest, StepError> {
        let operation = match &self.graph.vertices[step].task {
            Task::Base(layers) => return Ok(base_key(layers)),
            Task::Operation(operation) => operation,
        };
        operation.needs().for_each(|step| self.ask(Job::Define(step)));
        let mut contents = self.look(step, operation).await?.clone();
        for ((source, _), content) in operation.reads().into_iter().zip(&mut contents) {
            if let Source::Layers(stage) = source {
                *content = Some(self.defined(*stage).await.clone());
            }
        }
        Ok(operation_key(operation, self.defined(*operation.below()).await, &contents))
    }

    /// Fingerprints of all that a step reads; stages are made for it.
    async fn contents(
        &self,
        step: Step,
        operation: &Operation<Step>,
    ) -> Result<Vec<Option<Digest>>, StepError> {
        let looked = self.look(step, operation).await?;
        let reads = operation.reads().into_iter().zip(looked);
        let contents = reads.map(|((source, selection), looked)| async move {
            let Source::Layers(stage) = source else { return Ok(looked.clone()) };
            let layers = self.made(*stage).await.stack.layers();
            self.fingerprint(step, Source::Layers(layers), selection).await.map(Some)
        });
        try_join_all(contents).await
    }

    /// Fingerprints of what a step reads from contexts and addresses.
    async fn look(&self, step: Step, operation: &Operation<Step>) -> Result<&Vec<Option<Digest>>, StepError> {
        let look = || {
            try_join_all(operation.reads().into_iter().map(|(source, selection)| async move {
                match elsewhere(source) {
                    Some(source) => self.fingerprint(step, source, selection).await.map(Some),
                    None => Ok(None),
                }
            }))
        };
        self.steps[step].looked.get_or_try_init(look).await
    }

    async fn fingerprint(
        &self,
        step: Step,
        source: Source,
        selection: Selection,
    ) -> Result<Digest, StepError> {
        let _permit = self.permits.acquire().await;
        let result = self.host.executor.fingerprint(source, selection).await;
        result.map_err(|failure| {
            self.start(step);
            self.fail(step, failure, None)
        })
    }

    /// Does it, and keeps it.
    async fn perform(
        &self,
        (step, turn): (Step, Turn),
        operation: &Operation<Step>,
        key: &Digest,
        below: &Known,
    ) -> Result<Known, StepError> {
        let mut stages: HashMap<Step, Vec<Layer>> = HashMap::new();
        for stage in operation.needs() {
            stages.insert(stage, self.made(stage).await.stack.layers());
        }
        let operation = operation
            .clone()
            .map(below.stack.layers(), &|stage| stages.get(&stage).cloned().unwrap_or_default());
        let _permit = self.permits.acquire().await;
        self.start(step);
        let layer = self.execute((step, &turn), operation).await;
        let layer = layer.map_err(|failure| self.fail(step, failure, Some(below.stack.clone())))?;
        let mut stack = below.stack.clone();
        stack.changes.push(Change { layer: layer.clone(), created: self.host.created.to_owned() });
        let fresh = self.graph.vertices[step].fresh;
        let known = Known { key: if fresh { result_key(key, layer.as_ref()) } else { key.clone() }, stack };
        let definition = self.defined(step).await;
        self.keep(step, &[key, definition], &known).await;
        self.tell(Progress::Done { step, layer: layer.map(|layer| layer.diff_id) });
        Ok(known)
    }

    async fn execute(
        &self,
        (step, turn): (Step, &Turn),
        operation: Operation<Vec<Layer>>,
    ) -> Result<Option<Layer>, Failure> {
        match operation {
            Operation::Run(run) => {
                let output = Output::new(step, self.host.report.clone(), self.room.clone());
                let output = output.with_turn(Arc::clone(turn));
                self.host.executor.run(run, output).await
            }
            Operation::Copy(copy) => {
                if copy.files.iter().any(|(source, _)| matches!(source, Source::Context(_))) {
                    // Its client is asked for the files; other builds have clients of their own.
                    drop(turn.lock().unwrap_or_else(PoisonError::into_inner).take());
                }
                self.host.executor.copy(copy).await
            }
            Operation::Folder(folder) => self.host.executor.folder(folder).await,
        }
    }

    async fn keep(&self, step: Step, keys: &[&Digest], known: &Known) {
        let name = &self.graph.vertices[step].name;
        for (place, key) in keys.iter().enumerate() {
            if !keys[..place].contains(key) {
                self.host.cache.keep((*key).clone(), known.clone(), name.clone()).await;
            }
        }
    }

    fn tell(&self, progress: Progress) {
        (self.host.report)(progress);
    }

    fn start(&self, step: Step) {
        self.steps[step].told.store(true, Ordering::Relaxed);
        self.tell(Progress::Started { step, name: self.graph.vertices[step].name.clone() });
    }

    fn fail(&self, step: Step, failure: Failure, below: Option<Stack>) -> StepError {
        let vertex = &self.graph.vertices[step];
        let command = match &vertex.task {
            Task::Operation(Operation::Run(run)) => Some(run.arguments.join(" ")),
            _ => None,
        };
        let (name, lines) = (vertex.name.clone(), vertex.lines.clone());
        let error = StepError { step, name, lines, command, failure, below };
        self.tell(Progress::Failed { step, message: error.to_string() });
        error
    }

    /// Tells that nothing had to be done for a step, nor for those that it needs.
    fn tell_cached(&self, step: Step) {
        let mut ahead = vec![step];
        let mut steps = Vec::new();
        while let Some(step) = ahead.pop() {
            if !self.steps[step].told.swap(true, Ordering::Relaxed) {
                steps.push(step);
                ahead.extend(self.operation(step).into_iter().flat_map(Operation::needs));
            }
        }
        // Vertices come after those that they need.
        steps.sort_unstable();
        for step in steps {
            self.start(step);
            match self.graph.vertices[step].task {
                Task::Base(_) => self.tell(Progress::Done { step, layer: None }),
                Task::Operation(_) => self.tell(Progress::Cached { step }),
            }
        }
    }
}

/// A source that is neither another step's nor in the operation itself.
fn elsewhere(source: &Source<Step>) -> Option<Source> {
    Some(match source {
        Source::Layers(_) | Source::Inline(_) => return None,
        Source::Context(name) => Source::Context(name.clone()),
        Source::Url { address, checksum } => {
            Source::Url { address: address.clone(), checksum: checksum.clone() }
        }
        Source::Git { address, checksum, keep_git_dir } => {
            let (address, checksum) = (address.clone(), checksum.clone());
            Source::Git { address, checksum, keep_git_dir: *keep_git_dir }
        }
    })
}

#[cfg(test)]
#[path = "solve_tests.rs"]
mod tests;
