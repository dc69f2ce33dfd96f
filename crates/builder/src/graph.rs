//! What is to be done for an image, and what has to be done before: a graph without circles.
//!
//! ```text
//! [build 1/3] FROM gcc ◄── [build 2/3] COPY src /src ◄── [build 3/3] RUN make
//!                                                                        ▲
//! [stage-1 1/2] FROM scratch ◄───────────── [stage-1 2/2] COPY --from=build /app /
//! ```
//!
//! A vertex is named by its place, and comes after all that it needs. Across builds it is named by a key: the
//! digest of its operation, of the key of what it is done to, and of what names the files that it reads. So the same
//! operation on the same ground has the same key in every build, whatever the Dockerfile calls it.

use std::ops::RangeInclusive;

use hull_oci::{Digest, chain_ids};
use serde::Serialize;

use crate::executor::{Copy, Folder, Layer, Mount, MountKind, Run, Selection, Source};
use crate::progress::Step;

/// What makes one image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Graph {
    /// Each needs only those before it.
    pub vertices: Vec<Vertex>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vertex {
    /// As a person knows it: `[build 3/3] RUN make`.
    pub name: String,
    /// Its instruction's in the Dockerfile, from 1.
    pub lines: RangeInclusive<usize>,
    pub task: Task,
    /// Done even if it was done before (`--no-cache`).
    pub fresh: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// An image's layers, lowest first; `scratch` has none.
    Base(Vec<Layer>),
    Operation(Operation<Step>),
}

/// What changes a file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Operation<L> {
    Run(Run<L>),
    Copy(Copy<L>),
    Folder(Folder<L>),
}

impl Operation<Step> {
    /// The steps that must be there before: what it is done to, and the stages that it reads.
    pub fn needs(&self) -> impl Iterator<Item = Step> {
        let stages = self.reads().into_iter().filter_map(|(source, _)| match source {
            Source::Layers(stage) => Some(*stage),
            _ => None,
        });
        std::iter::once(*self.below()).chain(stages.collect::<Vec<_>>())
    }
}

impl<L> Operation<L> {
    /// What it is done to.
    pub fn below(&self) -> &L {
        match self {
            Operation::Run(run) => &run.below,
            Operation::Copy(copy) => &copy.below,
            Operation::Folder(folder) => &folder.below,
        }
    }

    /// Where it reads files, and which: what it is known by besides itself.
    pub fn reads(&self) -> Vec<(&Source<L>, Selection)> {
        let whole = |path: &String| Selection { patterns: vec![path.clone()], ..Selection::default() };
        match self {
            Operation::Copy(copy) => {
                copy.files.iter().map(|(source, selection)| (source, selection.clone())).collect()
            }
            Operation::Run(run) => run
                .mounts
                .iter()
                .filter_map(|mount| match &mount.kind {
                    MountKind::Bind { source, path, .. }
                    | MountKind::Cache { source: Some(source), path, .. } => Some((source, whole(path))),
                    _ => None,
                })
                .collect(),
            Operation::Folder(_) => Vec::new(),
        }
    }

    /// The same with other names for file systems: `below` for what it is done to, `source` of each that it
    /// reads.
    pub fn map<M>(self, below: M, source: &dyn Fn(L) -> M) -> Operation<M> {
        match self {
            Operation::Run(run) => Operation::Run(Run {
                below,
                arguments: run.arguments,
                environment: run.environment,
                proxies: run.proxies,
                user: run.user,
                folder: run.folder,
                mounts: run.mounts.into_iter().map(|mount| map_mount(mount, source)).collect(),
                network: run.network,
                surroundings: run.surroundings,
                insecure: run.insecure,
                devices: run.devices,
                newest: run.newest,
            }),
            Operation::Copy(copy) => Operation::Copy(Copy {
                below,
                files: copy.files.into_iter().map(|(from, what)| (map_source(from, source), what)).collect(),
                destination: copy.destination,
                owner: copy.owner,
                mode: copy.mode,
                link: copy.link,
                unpack: copy.unpack,
                newest: copy.newest,
            }),
            Operation::Folder(folder) => Operation::Folder(Folder {
                below,
                path: folder.path,
                user: folder.user,
                newest: folder.newest,
            }),
        }
    }
}

fn map_mount<L, M>(mount: Mount<L>, f: &dyn Fn(L) -> M) -> Mount<M> {
    let kind = match mount.kind {
        MountKind::Bind { source, path, writable } => {
            MountKind::Bind { source: map_source(source, f), path, writable }
        }
        MountKind::Cache { id, source, path, sharing, writable, mode, uid, gid } => {
            let source = source.map(|source| map_source(source, f));
            MountKind::Cache { id, source, path, sharing, writable, mode, uid, gid }
        }
        MountKind::Tmpfs { size } => MountKind::Tmpfs { size },
        MountKind::Secret { id, required, mode, uid, gid } => {
            MountKind::Secret { id, required, mode, uid, gid }
        }
        MountKind::SecretVariable { id, required } => MountKind::SecretVariable { id, required },
        MountKind::Ssh { id, required, mode, uid, gid } => MountKind::Ssh { id, required, mode, uid, gid },
        MountKind::Inline { contents, mode } => MountKind::Inline { contents, mode },
    };
    Mount { target: mount.target, kind }
}

fn map_source<L, M>(source: Source<L>, f: &dyn Fn(L) -> M) -> Source<M> {
    match source {
        Source::Layers(layers) => Source::Layers(f(layers)),
        Source::Context(name) => Source::Context(name),
        Source::Inline(files) => Source::Inline(files),
        Source::Url { address, checksum } => Source::Url { address, checksum },
        Source::Git { address, checksum, keep_git_dir } => Source::Git { address, checksum, keep_git_dir },
    }
}

/// Names an image's file system: its top chain id. What an image's configuration says has its place in
/// the operations themselves.
pub fn base_key(layers: &[Layer]) -> Digest {
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
    let top = chain_ids(&diff_ids).pop().map(|digest| digest.to_string());
    key("base", &top)
}

/// Names an operation by what it is, by the key of what it is done to, and for each of the files that it
/// reads, in their order, by what names those; `None` is for what stands in the operation itself.
pub fn operation_key(operation: &Operation<Step>, below: &Digest, contents: &[Option<Digest>]) -> Digest {
    key("operation", &(operation.clone().map(Some(below), &|_| None), contents))
}

/// Names an operation that was done again although it was known, by what came of it: what was done to the
/// former result was not done to this one.
pub fn result_key(operation: &Digest, layer: Option<&Layer>) -> Digest {
    key("result", &(operation, layer.map(|layer| &layer.diff_id)))
}

/// Version 2 of all keys: another meaning of an operation's fields, or of fingerprints, needs another number.
fn key(kind: &str, value: &impl Serialize) -> Digest {
    let text = serde_json::to_vec(&(2, kind, value)).expect("operations have no maps and no fallible parts");
    Digest::sha256(&text)
}
