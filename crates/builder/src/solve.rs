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
//! All of it is one future, and no task is spawned: to drop it is to end whatever runs, and so the first error ends the
//! other steps.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, try_join, try_join_all};
use hull_oci::Digest;
use tokio::sync::{OnceCell, OwnedMutexGuard, Semaphore};

use crate::executor::{Cache, Change, Executor, Failure, Known, Layer, Selection, Source, Stack};
use crate::graph::{Graph, Operation, Task, base_key, operation_key, result_key};
use crate::progress::{Progress, Step};

/// Receives what happens. It is called where it happens, so it must not block.
pub type Report = Arc<dyn Fn(Progress) + Send + Sync>;

/// Keys of the steps that run now, in all builds: a second one of the same key waits for the first, and then
/// finds it in the cache, or, if the first was ended, runs.
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
}

/// The step that failed; the build has ended with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct StepError {
    pub step: Step,
    pub name: String,
    /// Of the Dockerfile, from 1.
    pub line: usize,
    /// What a RUN ran, in one line.
    pub command: Option<String>,
    pub failure: Failure,
    /// What it was done to, if that was there already: the last good state of its stage.
    pub below: Option<Stack>,
}

impl StepError {
    fn text(&self) -> String {
        match (&self.failure, &self.command) {
            (Failure::Exit { code }, Some(command)) => {
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
) -> Result<Stack, StepError> {
    let each = graph.vertices.len();
    let solver = Solver {
        graph,
        permits: Semaphore::new(host.parallel.max(1)),
        host,
        again: again(graph),
        told: std::iter::repeat_with(AtomicBool::default).take(each).collect(),
        looked: std::iter::repeat_with(OnceCell::default).take(each).collect(),
        defined: std::iter::repeat_with(OnceCell::default).take(each).collect(),
        made: std::iter::repeat_with(OnceCell::default).take(each).collect(),
    };
    let known = solver.make(target).await?;
    Ok(known.stack.clone())
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

struct Solver<'a, E, C> {
    graph: &'a Graph,
    host: Host<'a, E, C>,
    permits: Semaphore,
    again: Vec<bool>,
    /// Whoever watches knows of the step.
    told: Vec<AtomicBool>,
    /// Fingerprints of what a step reads from elsewhere than from other steps.
    looked: Vec<OnceCell<Vec<Option<Digest>>>>,
    defined: Vec<OnceCell<Digest>>,
    made: Vec<OnceCell<Known>>,
}

impl<E: Executor, C: Cache> Solver<'_, E, C> {
    fn operation(&self, step: Step) -> Option<&Operation<Step>> {
        match &self.graph.vertices[step].task {
            Task::Base(_) => None,
            Task::Operation(operation) => Some(operation),
        }
    }

    /// The file system of a step, out of the cache or made.
    fn make(&self, step: Step) -> BoxFuture<'_, Result<&Known, StepError>> {
        self.made[step].get_or_try_init(move || self.make_once(step)).boxed()
    }

    async fn make_once(&self, step: Step) -> Result<Known, StepError> {
        let operation = match &self.graph.vertices[step].task {
            Task::Base(layers) => {
                self.tell_cached(step);
                let stack = Stack { base: layers.clone(), changes: Vec::new() };
                return Ok(Known { key: base_key(layers), stack });
            }
            Task::Operation(operation) => operation,
        };
        let definition = self.define(step).await?;
        if !self.again[step]
            && let Some(known) = self.host.cache.find(definition).await
        {
            self.tell_cached(step);
            return Ok(known);
        }
        let (below, contents) = try_join(self.make(*operation.below()), self.contents(step)).await?;
        let key = operation_key(operation, &below.key, &contents);
        if self.graph.vertices[step].fresh {
            return self.perform(step, operation, &key, below).await;
        }
        let _turn = self.host.running.lock(&key).await;
        if let Some(known) = self.host.cache.find(&key).await {
            self.keep(step, &[definition], &known).await;
            self.tell_cached(step);
            return Ok(known);
        }
        self.perform(step, operation, &key, below).await
    }

    /// The key of a step that needs nothing to be made.
    fn define(&self, step: Step) -> BoxFuture<'_, Result<&Digest, StepError>> {
        self.defined[step].get_or_try_init(move || self.define_once(step)).boxed()
    }

    async fn define_once(&self, step: Step) -> Result<Digest, StepError> {
        let operation = match &self.graph.vertices[step].task {
            Task::Base(layers) => return Ok(base_key(layers)),
            Task::Operation(operation) => operation,
        };
        let stages = operation.reads().into_iter().map(|(source, _)| async move {
            match source {
                Source::Layers(stage) => self.define(*stage).await.map(|key| Some(key.clone())),
                _ => Ok(None),
            }
        });
        let inputs = try_join(self.define(*operation.below()), try_join_all(stages));
        let ((below, stages), looked) = try_join(inputs, self.look(step)).await?;
        let contents: Vec<_> = stages.into_iter().zip(looked).map(|(a, b)| a.or_else(|| b.clone())).collect();
        Ok(operation_key(operation, below, &contents))
    }

    /// Fingerprints of all that a step reads; stages are made for it.
    async fn contents(&self, step: Step) -> Result<Vec<Option<Digest>>, StepError> {
        let reads = self.operation(step).map(Operation::reads).unwrap_or_default();
        let stages = reads.into_iter().map(|(source, selection)| async move {
            let Source::Layers(stage) = source else { return Ok(None) };
            let layers = self.make(*stage).await?.stack.layers();
            self.fingerprint(step, Source::Layers(layers), selection).await.map(Some)
        });
        let (stages, looked) = try_join(try_join_all(stages), self.look(step)).await?;
        Ok(stages.into_iter().zip(looked).map(|(a, b)| a.or_else(|| b.clone())).collect())
    }

    /// Fingerprints of what a step reads from contexts and addresses.
    async fn look(&self, step: Step) -> Result<&Vec<Option<Digest>>, StepError> {
        let look = || {
            let reads = self.operation(step).map(Operation::reads).unwrap_or_default();
            try_join_all(reads.into_iter().map(move |(source, selection)| async move {
                let source = match source {
                    Source::Layers(_) | Source::Inline(_) => return Ok(None),
                    Source::Context(name) => Source::Context(name.clone()),
                    Source::Url { address, checksum } => {
                        Source::Url { address: address.clone(), checksum: checksum.clone() }
                    }
                    Source::Git { address, checksum, keep_git_dir } => Source::Git {
                        address: address.clone(),
                        checksum: checksum.clone(),
                        keep_git_dir: *keep_git_dir,
                    },
                };
                self.fingerprint(step, source, selection).await.map(Some)
            }))
        };
        self.looked[step].get_or_try_init(look).await
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
        step: Step,
        operation: &Operation<Step>,
        key: &Digest,
        below: &Known,
    ) -> Result<Known, StepError> {
        let stages = operation
            .needs()
            .map(|stage| async move { self.make(stage).await.map(|known| (stage, known.stack.layers())) });
        let stages: HashMap<Step, Vec<Layer>> = try_join_all(stages).await?.into_iter().collect();
        let operation = operation
            .clone()
            .map(below.stack.layers(), &|stage| stages.get(&stage).cloned().unwrap_or_default());
        let _permit = self.permits.acquire().await;
        self.start(step);
        let layer = self.execute(step, operation).await;
        let layer = layer.map_err(|failure| self.fail(step, failure, Some(below.stack.clone())))?;
        let mut stack = below.stack.clone();
        stack.changes.push(Change { layer: layer.clone(), created: self.host.created.to_owned() });
        let fresh = self.graph.vertices[step].fresh;
        let known = Known { key: if fresh { result_key(key, layer.as_ref()) } else { key.clone() }, stack };
        let definition = self.define(step).await?;
        self.keep(step, &[key, definition], &known).await;
        self.tell(Progress::Done { step, layer: layer.map(|layer| layer.diff_id) });
        Ok(known)
    }

    async fn execute(&self, step: Step, operation: Operation<Vec<Layer>>) -> Result<Option<Layer>, Failure> {
        match operation {
            Operation::Run(run) => {
                let report = self.host.report.clone();
                let output = move |stream, bytes: &[u8]| {
                    report(Progress::Output { step, stream, bytes: bytes.to_vec() });
                };
                self.host.executor.run(run, output).await
            }
            Operation::Copy(copy) => self.host.executor.copy(copy).await,
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
        self.told[step].store(true, Ordering::Relaxed);
        self.tell(Progress::Started { step, name: self.graph.vertices[step].name.clone() });
    }

    fn fail(&self, step: Step, failure: Failure, below: Option<Stack>) -> StepError {
        let vertex = &self.graph.vertices[step];
        let command = match &vertex.task {
            Task::Operation(Operation::Run(run)) => Some(run.arguments.join(" ")),
            _ => None,
        };
        let (name, line) = (vertex.name.clone(), vertex.line);
        let error = StepError { step, name, line, command, failure, below };
        self.tell(Progress::Failed { step, message: error.to_string() });
        error
    }

    /// Tells that nothing had to be done for a step, nor for those that it needs.
    fn tell_cached(&self, step: Step) {
        let mut ahead = vec![step];
        let mut steps = Vec::new();
        while let Some(step) = ahead.pop() {
            if !self.told[step].swap(true, Ordering::Relaxed) {
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

#[cfg(test)]
#[path = "solve_tests.rs"]
mod tests;
