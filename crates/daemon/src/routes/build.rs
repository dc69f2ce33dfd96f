//! `POST /build`, the classic endpoint: an archive with a Dockerfile in it becomes an image, and what
//! happens is told line by line.
//!
//! The build is a task that goes with its answer: a client that leaves ends it, and one that does not read
//! stops what its steps write ([`hull_builder::progress::Output`]) and nothing else.

mod classic;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use hull_api::hostconfig::Ulimit;
use hull_api::{ErrorDetail, ProgressMessage};
use hull_builder::BuildError;
use hull_builder::build::Request;
use hull_builder::dockerfile::Position;
use hull_builder::plan::Options;
use hull_builder::progress::Report;
use hull_builder::{Failure as StepFailure, Progress};
use hull_engine::Error;
use hull_engine::builds::{Finished, Given, Limits, Unbuilt};
use hull_engine::containers::settings::NetworkMode;
use hull_oci::Reference;
use hull_oci::runtime::Rlimit;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{archives, images};
use crate::http::{Call, Failure, Handled, chain, stream};
use classic::Classic;

/// Most steps of one build at a time.
const PARALLEL: usize = 4;

/// A build that is going on.
struct Going {
    /// One task, or none when it has ended.
    work: JoinSet<Result<Finished, Unbuilt>>,
    told: mpsc::UnboundedReceiver<Progress>,
    classic: Classic,
    quiet: bool,
    /// Lines that wait for the client.
    lines: VecDeque<Bytes>,
}

/// What is asked for besides the context.
struct Wanted {
    limits: Limits,
    options: Options,
    names: Vec<Reference>,
    dockerfile: String,
    quiet: bool,
}

fn wanted(call: &Call) -> Result<Wanted, Failure> {
    let limits = limits(call)?;
    let query = &call.query;
    let options = Options { surroundings: surroundings(&limits), ..options(call)? };
    let mut names = Vec::new();
    for tag in query.all("t").filter(|tag| !tag.is_empty()) {
        let name = images::reference(tag, "")?;
        if name.digest.is_some() {
            return Err(Failure::invalid("build tag cannot contain a digest"));
        }
        names.push(name);
    }
    for (name, text) in [
        ("remote", "contexts at addresses come in a later build: send the files"),
        ("outputs", "outputs come in a later build"),
        ("cgroupparent", "a build's cgroup cannot be chosen yet"),
    ] {
        if !query.text(name).is_empty() {
            return Err(Failure::later(text));
        }
    }
    if query.text("version") == "2" {
        return Err(Failure::later("BuildKit's protocol comes in a later build: set DOCKER_BUILDKIT=0"));
    }
    if query.flag("squash") {
        return Err(Failure::invalid("squash is only supported with experimental mode"));
    }
    let dockerfile = Some(query.text("dockerfile")).filter(|name| !name.is_empty()).unwrap_or("Dockerfile");
    Ok(Wanted { limits, options, names, dockerfile: dockerfile.to_owned(), quiet: query.flag("q") })
}

pub(super) async fn build(call: Call) -> Handled {
    let Wanted { limits, options, names, dockerfile: name, quiet } = wanted(&call)?;
    let engine = call.server.engine.clone();
    let context = engine.build_context(archives::feed(call.body)?).await;
    let context = context
        .map_err(|error| Failure::invalid(format!("the context cannot be read: {}", chain(&error))))?;
    let dockerfile = context.dockerfile(&name).await?;
    let text = String::from_utf8_lossy(&dockerfile).into_owned();
    let request = Request { dockerfile, options, parallel: PARALLEL, now: now() };
    let contexts = [(String::new(), context)].into();
    let build = engine.build(Given { contexts, ..limits.into() });
    let (tell, told) = mpsc::unbounded_channel();
    let report: Report = Arc::new(move |progress| {
        // The build outlives its listener by moments.
        tell.send(progress).ok();
    });
    let mut work = JoinSet::new();
    work.spawn(async move { build.make(&request, names, report).await });
    let mut going = Going { work, told, classic: Classic::default(), quiet, lines: VecDeque::new() };
    // What is wrong with the Dockerfile is the answer's status.
    if let Some(Err(error)) = going.step().await {
        if let Some(message) = refusal(&error, &name, &text) {
            return Err(Failure::invalid(message));
        }
        going.lines.push_back(failed(&error));
    }
    Ok(stream("application/json", futures_util::stream::unfold(going, Going::next)))
}

impl Going {
    /// Waits for the next thing that happens; `Some` when the build has ended with it.
    async fn step(&mut self) -> Option<Result<(), Unbuilt>> {
        let ended = tokio::select! {
            // What was told before the end comes before it.
            biased;
            Some(progress) = self.told.recv() => {
                self.show(progress);
                return None;
            }
            ended = self.work.join_next() => ended?,
        };
        // It can have panicked; that is in the log.
        let outcome = ended.unwrap_or(Err(Unbuilt::Store(Error::ShuttingDown)));
        while let Ok(progress) = self.told.try_recv() {
            self.show(progress);
        }
        Some(outcome.map(|finished| self.finish(&finished)))
    }

    fn show(&mut self, progress: Progress) {
        let texts = self.classic.feed(progress);
        if !self.quiet {
            self.lines.extend(texts.into_iter().map(|text| said(&text)));
        }
    }

    fn finish(&mut self, finished: &Finished) {
        let id = &finished.id;
        self.lines.push_back(line(&json!({ "aux": { "ID": id } })));
        if self.quiet {
            self.lines.push_back(said(&format!("{id}\n")));
            return;
        }
        self.lines.push_back(said(&format!("Successfully built {}\n", id.short())));
        for name in &finished.names {
            self.lines.push_back(said(&format!("Successfully tagged {}\n", name.familiar())));
        }
    }

    async fn next(mut self) -> Option<(Bytes, Going)> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some((line, self));
            }
            if self.work.is_empty() {
                return None;
            }
            if let Some(Err(error)) = self.step().await {
                self.lines.push_back(failed(&error));
            }
        }
    }
}

fn line(value: &impl serde::Serialize) -> Bytes {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.extend_from_slice(b"\r\n");
    line.into()
}

fn said(text: &str) -> Bytes {
    line(&ProgressMessage { stream: text.to_owned(), ..ProgressMessage::default() })
}

/// The last word of a build that failed. Clients end with the code.
fn failed(error: &Unbuilt) -> Bytes {
    let (code, message) = match error {
        Unbuilt::Build(BuildError::Step(step)) => match (&step.failure, &step.command) {
            (StepFailure::Exit { code }, Some(command)) => {
                (*code, format!("The command '{command}' returned a non-zero code: {code}"))
            }
            (failure, _) => (0, failure.to_string()),
        },
        error => (0, chain(error)),
    };
    line(&ProgressMessage {
        error_detail: Some(ErrorDetail { code: code.into(), message: message.clone() }),
        error: message,
        ..ProgressMessage::default()
    })
}

/// What makes the whole request wrong, in the reference's words: the first problem, then all others.
fn refusal(error: &Unbuilt, name: &str, text: &str) -> Option<String> {
    let problems = match error {
        Unbuilt::Build(BuildError::Dockerfile(problems)) => problems,
        Unbuilt::Build(BuildError::Plan(error)) => return Some(chain(error)),
        Unbuilt::Build(BuildError::Image { .. } | BuildError::Step(_)) | Unbuilt::Store(_) => return None,
    };
    let told = |message: &str, line: usize| match message {
        "no build stage in current context" => message.to_owned(),
        "file with no instructions" => format!("failed to parse {name}: {message}"),
        message => format!("dockerfile parse error on line {line}: {message}"),
    };
    let all: Vec<String> = problems
        .iter()
        .map(|problem| {
            let told = told(&problem.message, Position::of(text, problem.span.start).line);
            if problem.remedy.is_empty() { told } else { format!("{told} ({})", problem.remedy) }
        })
        .collect();
    Some(all.join("\n"))
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// A parameter that is a JSON document.
fn document<T: serde::de::DeserializeOwned + Default>(call: &Call, name: &str) -> Result<T, Failure> {
    match call.query.text(name) {
        "" => Ok(T::default()),
        text => serde_json::from_str(text)
            .map_err(|error| Failure::invalid(format!("error reading {name}: {error}"))),
    }
}

fn options(call: &Call) -> Result<Options, Failure> {
    let query = &call.query;
    let arguments: BTreeMap<String, Option<String>> = document(call, "buildargs")?;
    Ok(Options {
        target: Some(query.text("target").to_owned()).filter(|target| !target.is_empty()),
        arguments: arguments.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
        labels: document(call, "labels")?,
        platform: archives::platform(query.text("platform"))?,
        pull: query.flag("pull"),
        no_cache: query.flag("nocache"),
        ..Options::default()
    })
}

fn limits(call: &Call) -> Result<Limits, Failure> {
    let query = &call.query;
    let network = match query.text("networkmode") {
        "" | "default" | "bridge" => NetworkMode::Default,
        "none" => NetworkMode::None,
        "host" => NetworkMode::Host,
        other => match other.strip_prefix("container:") {
            Some(key) => NetworkMode::Container(key.to_owned()),
            None => NetworkMode::Named(other.to_owned()),
        },
    };
    let mut limits = Limits { network, ..Limits::default() };
    let given = |name| query.number(name).map(|number| number.filter(|number| *number != 0));
    let unsigned = |name| given(name).map(|number| number.and_then(|number| u64::try_from(number).ok()));
    let resources = &mut limits.resources;
    resources.memory.limit = given("memory")?;
    resources.memory.swap = given("memswap")?;
    resources.cpu.shares = unsigned("cpushares")?;
    resources.cpu.period = unsigned("cpuperiod")?;
    resources.cpu.quota = given("cpuquota")?;
    resources.cpu.cpus = query.text("cpusetcpus").to_owned();
    resources.cpu.mems = query.text("cpusetmems").to_owned();
    limits.shm_bytes = unsigned("shmsize")?.unwrap_or(0);
    let ulimits: Vec<Ulimit> = document(call, "ulimits")?;
    limits.rlimits = ulimits
        .into_iter()
        .map(|limit| Rlimit {
            kind: format!("RLIMIT_{}", limit.name.to_ascii_uppercase()),
            // -1 is without limit.
            hard: u64::try_from(limit.hard).unwrap_or(u64::MAX),
            soft: u64::try_from(limit.soft).unwrap_or(u64::MAX),
        })
        .collect();
    limits.extra_hosts = query
        .all("extrahosts")
        .flat_map(|hosts| hosts.split(','))
        .filter(|host| !host.is_empty())
        .map(str::to_owned)
        .collect();
    Ok(limits)
}

/// What a RUN's outcome can depend on besides its own words.
fn surroundings(limits: &Limits) -> Vec<String> {
    let network = match &limits.network {
        NetworkMode::Default => None,
        NetworkMode::None => Some("network none".to_owned()),
        NetworkMode::Host => Some("network host".to_owned()),
        NetworkMode::Named(name) => Some(format!("network named {name}")),
        NetworkMode::Container(key) => Some(format!("network of {key}")),
    };
    network.into_iter().chain(limits.extra_hosts.iter().map(|host| format!("host {host}"))).collect()
}
