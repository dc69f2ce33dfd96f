//! `POST /build`, the classic endpoint: an archive with a Dockerfile in it becomes an image, and what
//! happens is told line by line.
//!
//! The build is a task that goes with its answer: a client that leaves ends it, and one that does not read
//! stops what its steps write ([`hull_builder::progress::Output`]) and nothing else.

mod request;
pub(super) mod session;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use hull_api::build::classic::Classic;
use hull_api::build::{Begin, CacheFrom, Failed, Limits};
use hull_api::{ErrorDetail, ProgressMessage};
use hull_builder::Progress;
use hull_builder::build::Request;
use hull_builder::progress::Report;
use hull_engine::Error;
use hull_engine::builds::{Finished, Given, Nobody, Unbuilt};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::archives;
use crate::http::{Call, Failure, Handled, chain, stream};
use request::Wanted;

/// Most steps of one build at a time.
const PARALLEL: usize = 4;
/// Bytes of what a quiet build tells that are kept for its failure: the last ones.
const UNSAID: usize = 1 << 20;

/// A build that is going on.
struct Going {
    /// One task, or none when it has ended.
    work: JoinSet<Result<Finished, Unbuilt>>,
    told: mpsc::UnboundedReceiver<Progress>,
    classic: Classic,
    quiet: bool,
    /// Lines that wait for the client.
    lines: VecDeque<Bytes>,
    /// Of a quiet build: said only if it fails.
    unsaid: VecDeque<Bytes>,
}

/// What the query says, in the words of our own client.
fn begin(call: &Call) -> Result<Begin, Failure> {
    let query = &call.query;
    for (name, text) in [("outputs", "outputs come in a later build")] {
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
    let text = |name: &str| query.text(name).to_owned();
    let arguments: BTreeMap<String, Option<String>> = document(call, "buildargs")?;
    let cache_from: Vec<String> = document(call, "cachefrom")?;
    let hosts = query.all("extrahosts").flat_map(|hosts| hosts.split(','));
    Ok(Begin {
        tags: query.all("t").map(str::to_owned).collect(),
        dockerfile: text("dockerfile"),
        remote: text("remote"),
        arguments: arguments.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
        labels: document(call, "labels")?,
        target: text("target"),
        platform: text("platform"),
        pull: query.flag("pull"),
        no_cache: query.flag("nocache"),
        force_rm: query.flag("forcerm"),
        network: text("networkmode"),
        cache_from: cache_from.into_iter().map(CacheFrom::Image).collect(),
        hosts: hosts.filter(|host| !host.is_empty()).map(str::to_owned).collect(),
        limits: limits(call)?,
        ..Begin::default()
    })
}

fn limits(call: &Call) -> Result<Limits, Failure> {
    let query = &call.query;
    let signed = |name| query.number(name).map(Option::unwrap_or_default);
    let unsigned = |name| signed(name).map(|number| u64::try_from(number).unwrap_or(0));
    Ok(Limits {
        memory: signed("memory")?,
        swap: signed("memswap")?,
        cpu_shares: unsigned("cpushares")?,
        cpu_period: unsigned("cpuperiod")?,
        cpu_quota: signed("cpuquota")?,
        cpus: query.text("cpusetcpus").to_owned(),
        memory_nodes: query.text("cpusetmems").to_owned(),
        shm: unsigned("shmsize")?,
        ulimits: document(call, "ulimits")?,
        cgroup_parent: query.text("cgroupparent").to_owned(),
    })
}

pub(super) async fn build(call: Call) -> Handled {
    let Wanted { limits, options, names, dockerfile: name, remote, imports, inline_cache, .. } =
        request::wanted(begin(&call)?)?;
    let quiet = call.query.flag("q");
    let engine = call.server.engine.clone();
    let (context, name) = if remote.is_empty() {
        let (read, write) = archives::pipe()?;
        let fed = archives::feed_into(call.body, write)?;
        let context = engine.build_context(read).await;
        let unread = |error| Failure::invalid(format!("the context cannot be read: {}", chain(&error)));
        let context = context.map_err(unread)?;
        archives::whole(fed).await?;
        (context, name)
    } else {
        request::fetch(&engine, (&remote, name), Arc::new(Nobody)).await?
    };
    let dockerfile = context.dockerfile(&name).await?;
    let text = String::from_utf8_lossy(&dockerfile).into_owned();
    let request = Request { dockerfile, options, parallel: PARALLEL, now: now(), rows: inline_cache };
    let contexts = [(String::new(), context)].into();
    let build = engine.build(Given { contexts, imports, inline_cache, ..limits.into() });
    let (tell, told) = mpsc::unbounded_channel();
    let report: Report = Arc::new(move |progress| {
        // The build outlives its listener by moments.
        tell.send(progress).ok();
    });
    let mut work = JoinSet::new();
    work.spawn(async move { build.make(&request, names, report).await });
    let mut going = Going {
        work,
        told,
        classic: Classic::default(),
        quiet,
        lines: VecDeque::new(),
        unsaid: VecDeque::new(),
    };
    // What is wrong with the Dockerfile is the answer's status.
    if let Some(Err(error)) = going.step().await {
        let failed = request::failed(&error, &name, &text);
        if let Ok(status) = StatusCode::from_u16(failed.status) {
            return Err(Failure::new(status, failed.message));
        }
        going.fail(failed);
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
        let texts = self.classic.feed(session::plain(&progress));
        let lines = texts.into_iter().map(|text| said(&text));
        if !self.quiet {
            return self.lines.extend(lines);
        }
        self.unsaid.extend(lines);
        while self.unsaid.iter().map(Bytes::len).sum::<usize>() > UNSAID {
            self.unsaid.pop_front();
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

    fn fail(&mut self, failed: Failed) {
        self.lines.append(&mut self.unsaid);
        self.lines.extend(failed.advice.iter().map(|text| said(&format!("{text}\n"))));
        self.lines.push_back(said_last(failed));
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
                self.fail(request::failed(&error, "", ""));
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
fn said_last(failed: Failed) -> Bytes {
    line(&ProgressMessage {
        error_detail: Some(ErrorDetail { code: failed.code.into(), message: failed.message.clone() }),
        error: failed.message,
        ..ProgressMessage::default()
    })
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// A parameter that is a JSON document.
fn document<T: serde::de::DeserializeOwned + Default>(call: &Call, name: &str) -> Result<T, Failure> {
    match call.query.text(name) {
        "" => Ok(T::default()),
        // Programs that have nothing to say there say null.
        text => serde_json::from_str::<Option<T>>(text)
            .map(Option::unwrap_or_default)
            .map_err(|error| Failure::invalid(format!("error reading {name}: {error}"))),
    }
}
