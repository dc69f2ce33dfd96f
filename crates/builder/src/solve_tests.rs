//! Graphs with operations that only count: what runs, how often, at the same time as what.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::poll_immediate;
use hull_oci::image::Config;
use tokio::sync::{Barrier, Notify};

use super::*;
use crate::executor::{Base, Copy, Folder, Left, Network, Run, Unpack, Wanted};
use crate::graph::Vertex;
use crate::progress::{ROOM, Stream};

/// Counts. What it is told to do is in a RUN's only argument: see [`Fake::run`].
struct Fake {
    calls: Mutex<Vec<String>>,
    /// The main context: names and contents.
    files: Mutex<BTreeMap<String, String>>,
    /// Files of a stage that stay the same whatever the stage does.
    same_output: bool,
    /// Each RUN comes out differently.
    differs: bool,
    /// So many copies never end.
    stuck: AtomicUsize,
    salt: AtomicUsize,
    meet: Barrier,
    entered: Notify,
    now: AtomicUsize,
    most: AtomicUsize,
    ended: Arc<AtomicUsize>,
}

impl Default for Fake {
    fn default() -> Fake {
        Fake {
            calls: Mutex::default(),
            files: Mutex::new(
                [("a", "1"), ("b", "1")].map(|(name, text)| (name.to_owned(), text.to_owned())).into(),
            ),
            same_output: false,
            differs: false,
            stuck: AtomicUsize::new(0),
            salt: AtomicUsize::new(0),
            meet: Barrier::new(2),
            entered: Notify::new(),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            ended: Arc::default(),
        }
    }
}

impl Fake {
    fn note(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }

    /// What was done since the last question, without looks.
    fn done(&self) -> Vec<String> {
        let calls = std::mem::take(&mut *self.calls.lock().unwrap());
        calls.into_iter().filter(|call| !call.starts_with("look")).collect()
    }

    fn layer(&self, call: &str, below: &[Layer]) -> Option<Layer> {
        let salt = if self.differs { self.salt.fetch_add(1, Ordering::SeqCst) } else { 0 };
        let ids: Vec<_> = below.iter().map(|layer| layer.diff_id.hex()).collect();
        let diff_id = Digest::sha256(format!("{call} {salt} {}", ids.concat()).as_bytes());
        Some(Layer { diff_id, size: 1 })
    }

    fn file(&self, name: &str) -> Result<String, Failure> {
        let files = self.files.lock().unwrap();
        files.get(name).cloned().ok_or_else(|| Failure::Missing(format!("\"/{name}\": not found")))
    }
}

/// Counts when it goes.
struct Ends(Arc<AtomicUsize>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Executor for Fake {
    async fn image(&self, wanted: Wanted) -> Result<Base, Failure> {
        let config = Config::default();
        Ok(Base { id: Digest::sha256(wanted.reference.name().as_bytes()), config, layers: Vec::new() })
    }

    async fn run(&self, run: Run, output: Output) -> Result<Option<Layer>, Failure> {
        let what = run.arguments.concat();
        self.note(what.clone());
        output.write(Stream::Out, what.as_bytes()).await;
        let _ends = Ends(self.ended.clone());
        self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        self.entered.notify_one();
        match what.split(' ').next().unwrap() {
            "fail" => {
                tokio::task::yield_now().await;
                return Err(Failure::Exit { code: 7, left: Left::default() });
            }
            "nothing" => return Ok(None),
            "talk" => {
                for _ in 0..(3 * ROOM) >> 10 {
                    output.write(Stream::Out, &[b'x'; 1 << 10]).await;
                }
            }
            "forever" => std::future::pending().await,
            "meet" => {
                self.meet.wait().await;
            }
            "slow" => {
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
            }
            _ => {}
        }
        self.now.fetch_sub(1, Ordering::SeqCst);
        Ok(self.layer(&what, &run.below))
    }

    async fn copy(&self, copy: Copy) -> Result<Option<Layer>, Failure> {
        let (source, selection) = &copy.files[0];
        let name = selection.patterns.concat();
        let content = match source {
            Source::Context(_) => self.file(&name)?,
            _ => "stage".to_owned(),
        };
        self.note(format!("copy {name}"));
        let stuck = |left: usize| left.checked_sub(1);
        if self.stuck.fetch_update(Ordering::SeqCst, Ordering::SeqCst, stuck).is_ok() {
            self.entered.notify_one();
            std::future::pending::<()>().await;
        }
        Ok(self.layer(&format!("copy {name} {content}"), &copy.below))
    }

    async fn folder(&self, folder: Folder) -> Result<Option<Layer>, Failure> {
        self.note(format!("folder {}", folder.path));
        Ok(None)
    }

    async fn fingerprint(&self, source: Source, selection: Selection) -> Result<Digest, Failure> {
        let name = selection.patterns.concat();
        self.note(format!("look {name}"));
        let what = match source {
            Source::Context(_) => self.file(&name)?,
            _ if self.same_output => "the same".to_owned(),
            source => format!("{source:?}"),
        };
        Ok(Digest::sha256(what.as_bytes()))
    }
}

#[derive(Default)]
struct Memory {
    known: Mutex<HashMap<Digest, (Known, String)>>,
    forgets: bool,
}

impl Cache for Memory {
    async fn find(&self, key: &Digest) -> Option<Known> {
        self.known.lock().unwrap().get(key).map(|(known, _)| known.clone())
    }

    async fn keep(&self, key: Digest, known: Known, description: String) {
        if !self.forgets {
            self.known.lock().unwrap().insert(key, (known, description));
        }
    }
}

impl Memory {
    /// Drops all that was kept of steps of these names.
    fn forget(&self, names: &[&str]) {
        let before = self.known.lock().unwrap().len();
        self.known.lock().unwrap().retain(|_, (_, name)| !names.contains(&name.as_str()));
        assert!(self.known.lock().unwrap().len() < before, "there was nothing of {names:?}");
    }
}

fn base() -> Vertex {
    let layer = Layer { diff_id: Digest::sha256(b"base"), size: 1 };
    Vertex { name: "FROM base".into(), lines: 1..=1, task: Task::Base(vec![layer]), fresh: false }
}

fn vertex(name: &str, operation: Operation<Step>) -> Vertex {
    Vertex { name: name.to_owned(), lines: 2..=2, task: Task::Operation(operation), fresh: false }
}

fn run(below: Step, what: &str) -> Vertex {
    let run = Run {
        below,
        arguments: vec![what.to_owned()],
        environment: Vec::new(),
        proxies: Vec::new(),
        user: String::new(),
        folder: "/".into(),
        mounts: Vec::new(),
        network: Network::Default,
        surroundings: Vec::new(),
        insecure: false,
        devices: Vec::new(),
        newest: None,
    };
    vertex(what, Operation::Run(run))
}

fn copy(below: Step, source: Source<Step>, name: &str) -> Vertex {
    let selection = Selection { patterns: vec![name.to_owned()], ..Selection::default() };
    let copy = Copy {
        below,
        files: vec![(source, selection)],
        destination: "/".into(),
        owner: None,
        mode: None,
        link: false,
        unpack: Unpack::Never,
        newest: None,
    };
    vertex(&format!("copy {name}"), Operation::Copy(copy))
}

fn context(below: Step, name: &str) -> Vertex {
    copy(below, Source::Context(String::new()), name)
}

/// What builds share, and a list of what they told.
#[derive(Default)]
struct World {
    fake: Fake,
    memory: Memory,
    running: Running,
    told: Arc<Mutex<Vec<Progress>>>,
    parallel: Option<usize>,
}

impl World {
    /// Makes the last vertex.
    async fn solve(&self, vertices: &[Vertex]) -> Result<Stack, StepError> {
        self.solved(vertices).await.map(|solved| solved.stack)
    }

    async fn solved(&self, vertices: &[Vertex]) -> Result<Solved, StepError> {
        let told = self.told.clone();
        let host = Host {
            executor: &self.fake,
            cache: &self.memory,
            running: &self.running,
            report: Arc::new(move |progress| told.lock().unwrap().push(progress)),
            parallel: self.parallel.unwrap_or(4),
            created: "2026-01-01T00:00:00Z",
            rows: true,
        };
        let graph = Graph { vertices: vertices.to_vec() };
        let solved = solve(&graph, vertices.len() - 1, host);
        tokio::time::timeout(Duration::from_secs(20), solved).await.expect("it ends")
    }

    /// What the next build does.
    async fn does(&self, vertices: &[Vertex]) -> Vec<String> {
        self.solve(vertices).await.unwrap();
        self.fake.done()
    }

    fn told(&self) -> Vec<Progress> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

/// Polls a future as long as it could go on by itself.
async fn waits<F: Future + Unpin>(future: &mut F) -> bool {
    for _ in 0..100 {
        let poll = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx).is_pending()));
        if !poll.await {
            return false;
        }
    }
    true
}

const NOTHING: Vec<String> = Vec::new();

#[tokio::test]
async fn when_nothing_has_changed_nothing_runs() {
    let world = World::default();
    let graph = [base(), context(0, "a"), run(1, "make")];
    assert_eq!(world.does(&graph).await, ["copy a", "make"]);
    let first = world.told();
    assert!(first.contains(&Progress::Output {
        step: 2,
        stream: Stream::Out,
        bytes: b"make".to_vec().into()
    }));
    let stack = world.solve(&graph).await.unwrap();
    assert_eq!(world.fake.done(), NOTHING);
    assert_eq!(stack.layers().len(), 3);
    let started = |step: Step| Progress::Started { step, name: graph[step].name.clone() };
    let expected = [
        started(0),
        Progress::Done { step: 0, layer: None },
        started(1),
        Progress::Cached { step: 1 },
        started(2),
        Progress::Cached { step: 2 },
    ];
    assert_eq!(world.told(), expected);
}

#[tokio::test]
async fn when_one_file_changes_only_what_depends_on_it_runs() {
    let world = World::default();
    let graph = [base(), context(0, "a"), run(1, "one"), context(2, "b"), run(3, "two")];
    world.does(&graph).await;
    world.fake.files.lock().unwrap().insert("b".into(), "2".into());
    assert_eq!(world.does(&graph).await, ["copy b", "two"]);
    world.fake.files.lock().unwrap().insert("b".into(), "1".into());
    assert_eq!(world.does(&graph).await, NOTHING, "what was there before is still known");
}

#[tokio::test]
async fn a_step_without_a_change_adds_no_layer() {
    let world = World::default();
    let folder = Folder { below: 0, path: "/w".into(), user: String::new(), newest: None };
    let graph = [base(), vertex("folder", Operation::Folder(folder)), run(1, "nothing"), run(2, "x")];
    for _ in 0..2 {
        let stack = world.solve(&graph).await.unwrap();
        let made: Vec<_> = stack.changes.iter().map(|change| change.layer.is_some()).collect();
        assert_eq!(made, [false, false, true]);
        assert_eq!(stack.layers().len(), 2);
    }
    assert_eq!(world.fake.done(), ["folder /w", "nothing", "x"]);
}

#[tokio::test]
async fn stages_run_at_the_same_time() {
    let world = World::default();
    let graph = [
        base(),
        run(0, "meet 1"),
        run(0, "meet 2"),
        copy(0, Source::Layers(1), "x"),
        copy(3, Source::Layers(2), "y"),
    ];
    assert_eq!(world.does(&graph).await, ["meet 1", "meet 2", "copy x", "copy y"]);
    // So does a stage with what its files are copied to.
    let graph = [base(), run(0, "meet 3"), run(0, "meet 4"), copy(1, Source::Layers(2), "x")];
    assert_eq!(world.does(&graph).await.len(), 3);
}

#[tokio::test]
async fn no_more_run_at_a_time_than_allowed() {
    let world = World { parallel: Some(2), ..World::default() };
    let mut graph = vec![base()];
    graph.extend((0..6).map(|n| run(0, &format!("slow {n}"))));
    let mut below = 0;
    for stage in 1..=6 {
        graph.push(copy(below, Source::Layers(stage), "x"));
        below = graph.len() - 1;
    }
    assert_eq!(world.does(&graph).await.len(), 12);
    assert_eq!(world.fake.most.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn what_is_not_needed_does_not_run() {
    let world = World::default();
    assert_eq!(world.does(&[base(), run(0, "unused"), run(0, "used")]).await, ["used"]);
}

#[tokio::test]
async fn the_same_step_runs_once_in_two_builds_at_once_and_in_two_stages() {
    let world = World::default();
    let graph = [base(), run(0, "slow"), context(1, "a")];
    let (one, other) = tokio::join!(world.solve(&graph), world.solve(&graph));
    assert_eq!(one.unwrap(), other.unwrap());
    assert_eq!(world.fake.done(), ["slow", "copy a"]);
    let twice = [base(), run(0, "slow 2"), run(0, "slow 2"), copy(1, Source::Layers(2), "x")];
    assert_eq!(world.does(&twice).await, ["slow 2", "copy x"]);
}

#[tokio::test]
async fn nobody_waits_for_files_of_another_builds_client() {
    let world = World::default();
    world.fake.stuck.store(1, Ordering::SeqCst);
    let graph = [base(), context(0, "a")];
    let mut first = Box::pin(world.solve(&graph));
    tokio::select! {
        _ = &mut first => unreachable!("its files never come"),
        () = world.fake.entered.notified() => {}
    }
    assert_eq!(world.does(&graph).await, ["copy a", "copy a"]);
    // In one build they come once.
    let twice = [base(), context(0, "b"), context(0, "b"), copy(1, Source::Layers(2), "x")];
    assert_eq!(world.does(&twice).await, ["copy b", "copy x"]);
    drop(first);
}

#[tokio::test]
async fn a_build_that_is_dropped_ends_its_steps_and_others_go_on() {
    let world = World::default();
    let graph = [base(), run(0, "forever")];
    tokio::select! {
        _ = world.solve(&graph) => unreachable!("it runs for ever"),
        () = world.fake.entered.notified() => {}
    }
    assert_eq!(world.fake.ended.load(Ordering::SeqCst), 1);
    assert!(world.memory.known.lock().unwrap().is_empty());
    // Another build that waits for the same step does it itself once the first is dropped.
    world.fake.done();
    let mut first = Box::pin(world.solve(&graph));
    tokio::select! {
        _ = &mut first => unreachable!("it runs for ever"),
        () = world.fake.entered.notified() => {}
    }
    let mut second = Box::pin(world.solve(&graph));
    assert!(waits(&mut second).await);
    assert_eq!(world.fake.done(), ["forever"], "the second waits");
    drop(first);
    assert!(waits(&mut second).await);
    assert_eq!(world.fake.done(), ["forever"], "the second runs");
}

#[tokio::test]
async fn a_step_that_fails_ends_the_build_and_says_where() {
    let world = World::default();
    let graph = [base(), context(0, "a"), run(1, "fail"), run(0, "forever"), copy(2, Source::Layers(3), "x")];
    let error = world.solve(&graph).await.unwrap_err();
    assert_eq!((error.step, error.lines.clone(), error.name.as_str()), (2, 2..=2, "fail"));
    assert_eq!(error.to_string(), "process \"fail\" did not complete successfully: exit code: 7");
    assert_eq!(error.below.as_ref().unwrap().layers().len(), 2, "what was good before it");
    assert_eq!(world.fake.ended.load(Ordering::SeqCst), 2, "the other was ended");
    let failed = world.told().into_iter().filter(|told| matches!(told, Progress::Failed { .. })).count();
    assert_eq!(failed, 1);
    world.fake.done();
    assert!(world.solve(&graph[..3]).await.is_err());
    assert_eq!(world.fake.done(), ["fail"], "what was good is known, what failed is not");
}

#[tokio::test]
async fn a_file_that_is_missing_is_told_before_anything_runs() {
    let world = World::default();
    let error = world.solve(&[base(), run(0, "long"), context(1, "none")]).await.unwrap_err();
    assert_eq!((error.step, error.to_string().as_str()), (2, "\"/none\": not found"));
    assert_eq!(world.fake.done(), NOTHING);
}

#[tokio::test]
async fn a_cache_that_forgets_costs_time_and_nothing_else() {
    let world = World { memory: Memory { forgets: true, ..Memory::default() }, ..World::default() };
    let graph = [base(), context(0, "a"), run(1, "x")];
    let first = world.solve(&graph).await.unwrap();
    assert_eq!(world.solve(&graph).await.unwrap(), first);
    assert_eq!(world.fake.done(), ["copy a", "x", "copy a", "x"]);
}

#[tokio::test]
async fn what_a_known_step_was_made_of_may_be_forgotten() {
    let world = World::default();
    let graph = [base(), context(0, "a"), run(1, "make"), run(0, "x"), copy(3, Source::Layers(2), "y")];
    world.does(&graph).await;
    world.memory.forget(&["copy a", "make", "x"]);
    world.fake.calls.lock().unwrap().clear();
    world.solve(&graph).await.unwrap();
    assert_eq!(*world.fake.calls.lock().unwrap(), ["look a"], "a context is looked at, a stage is not");
}

#[tokio::test]
async fn a_stage_that_comes_out_the_same_changes_nothing_above() {
    let fake = Fake { same_output: true, ..Fake::default() };
    let world = World { fake, ..World::default() };
    let graph = [base(), context(0, "a"), run(1, "make"), copy(0, Source::Layers(2), "x"), run(3, "test")];
    world.does(&graph).await;
    world.fake.files.lock().unwrap().insert("a".into(), "a comment".into());
    assert_eq!(world.does(&graph).await, ["copy a", "make"]);
    // From now on it is known by its definition, too.
    world.memory.forget(&["copy a", "make"]);
    assert_eq!(world.does(&graph).await, NOTHING);
}

#[tokio::test]
async fn without_the_cache_all_is_done_and_kept_anew() {
    let fake = Fake { differs: true, ..Fake::default() };
    let world = World { fake, ..World::default() };
    let graph = [base(), run(0, "one"), run(1, "two"), copy(0, Source::Layers(2), "x")];
    let old = world.solve(&graph).await.unwrap();
    let fresh = graph.clone().map(|vertex| Vertex { fresh: true, ..vertex });
    world.fake.done();
    let new = world.solve(&fresh).await.unwrap();
    assert_eq!(world.fake.done(), ["one", "two", "copy x"]);
    assert_ne!(old, new);
    assert_eq!(world.solve(&graph).await.unwrap(), new, "the next build has the new results");
    assert_eq!(world.fake.done(), NOTHING);
}

#[tokio::test]
async fn what_depends_on_a_fresh_step_is_done_again_unless_that_came_out_as_the_last_fresh_one() {
    for differs in [true, false] {
        let world = World { fake: Fake { differs, ..Fake::default() }, ..World::default() };
        let mut graph = [
            base(),
            run(0, "one"),
            run(1, "two"),
            copy(0, Source::Layers(2), "x"),
            copy(3, Source::Context(String::new()), "a"),
        ];
        world.solve(&graph).await.unwrap();
        graph[1].fresh = true;
        let all: &[&str] = &["copy a", "copy x", "one", "two"];
        // If it comes out the same, what is copied from the stage does, too.
        let expected = if differs { [all, all] } else { [&["one", "two"][..], &["one"]] };
        for expected in expected {
            world.fake.done();
            world.solve(&graph).await.unwrap();
            let mut done = world.fake.done();
            done.sort();
            assert_eq!(done, expected, "{differs}");
        }
    }
}

#[tokio::test]
async fn mounts_count_by_their_files_and_proxies_not_at_all() {
    use crate::executor::{Mount, MountKind};
    let world = World::default();
    let with = |proxy: &str| {
        let mut vertex = run(0, "x");
        let Task::Operation(Operation::Run(run)) = &mut vertex.task else { unreachable!("it is a RUN") };
        let source = Source::Context(String::new());
        let kind = MountKind::Bind { source, path: "a".into(), writable: false };
        run.mounts.push(Mount { target: "/m".into(), kind });
        run.proxies.push(proxy.to_owned());
        [base(), vertex]
    };
    assert_eq!(world.does(&with("HTTP_PROXY=1")).await, ["x"]);
    assert_eq!(world.does(&with("HTTP_PROXY=2")).await, NOTHING);
    world.fake.files.lock().unwrap().insert("a".into(), "2".into());
    assert_eq!(world.does(&with("HTTP_PROXY=2")).await, ["x"]);
}

#[tokio::test]
async fn a_long_chain_takes_no_stack() {
    let world = World::default();
    let mut graph = vec![base()];
    for step in 0..3000 {
        graph.push(copy(0, Source::Layers(step), &format!("x{step}")));
    }
    assert_eq!(world.does(&graph).await.len(), 3000);
    assert_eq!(world.does(&graph).await, NOTHING);
}

#[tokio::test]
async fn a_process_waits_while_nobody_takes_what_it_writes() {
    let graph = Graph { vertices: vec![base(), run(0, "talk")] };
    let (fake, memory, running) = (Fake::default(), Memory::default(), Running::default());
    let (tell, mut told) = unbounded_channel();
    let report: Report = Arc::new(move |progress| {
        tell.send(progress).ok();
    });
    let host = Host {
        executor: &fake,
        cache: &memory,
        running: &running,
        report,
        parallel: 1,
        created: "2020-01-01T00:00:00Z",
        rows: false,
    };
    let mut solving = std::pin::pin!(solve(&graph, 1, host));
    let mut taken = 0;
    let done = loop {
        let outcome = poll_immediate(solving.as_mut()).await;
        let mut pieces = Vec::new();
        while let Ok(progress) = told.try_recv() {
            if let Progress::Output { bytes, .. } = progress {
                pieces.push(bytes);
            }
        }
        let held: usize = pieces.iter().map(|piece| piece.len()).sum();
        assert!(held <= ROOM as usize, "{held} bytes are held");
        // It does not go on as long as they are there.
        if held == ROOM as usize {
            assert!(poll_immediate(solving.as_mut()).await.is_none());
        }
        taken += held;
        if let Some(done) = outcome {
            break done;
        }
        tokio::task::yield_now().await;
    };
    assert!(done.is_ok());
    assert_eq!(taken, "talk".len() + 3 * ROOM as usize);
}

#[tokio::test]
async fn what_one_cache_knows_of_a_build_is_enough_for_another() {
    let world = World::default();
    // A stage that the last step copies from.
    let graph = [base(), context(0, "a"), run(1, "make"), copy(0, Source::Layers(2), "out"), run(3, "last")];
    world.does(&graph).await;
    // All of it is in the cache, and nothing but the last step is asked for.
    let Solved { stack, rows } = world.solved(&graph).await.unwrap();
    assert_eq!(world.fake.done(), NOTHING);
    let other = World::default();
    for Row { key, known } in rows {
        other.memory.keep(key, known, String::new()).await;
    }
    assert_eq!(other.solve(&graph).await.unwrap(), stack);
    assert_eq!(other.fake.done(), NOTHING);
    let changed = [&graph[..4], &[run(3, "other")]].concat();
    assert_eq!(other.does(&changed).await, ["other"], "what is below is known, too");
}
