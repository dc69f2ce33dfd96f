//! What a build needs of the host: images, processes, files and a memory.
//!
//! The engine implements both traits; tests implement them with operations that only count. One
//! [`Executor`] serves one build: it knows that build's contexts, secrets, agents, limits and host
//! names. One [`Cache`] serves all. All futures may be dropped at any time: that ends what they do,
//! and leaves nothing.
//!
//! All paths are the Dockerfile's: `/` parts them, and an absolute one begins at the root of a
//! file system or of a context.
//!
//! An operation names file systems by `L`: for the executor those are layers, lowest first; in the
//! [graph](crate::graph) they are the vertices that will make them, and in a key the keys of those. What is
//! serialised is what an operation's key is made of.

use std::future::Future;

use hull_oci::image::Config;
use hull_oci::{Digest, Platform, Reference};
use serde::{Deserialize, Serialize};

use crate::progress::Output;

/// One layer of a file system: what it changes of those below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    pub diff_id: Digest,
    /// Sum of the sizes of its files (bytes).
    pub size: u64,
}

/// What one step changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// `None`: nothing.
    pub layer: Option<Layer>,
    /// When it was done, in RFC 3339; it becomes the image's history.
    pub created: String,
}

/// A file system: what a base image has, and what each step on top of it changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// The base image's layers, lowest first.
    pub base: Vec<Layer>,
    /// One for each step since, lowest first.
    pub changes: Vec<Change>,
}

impl Stack {
    /// All of its layers, lowest first.
    pub fn layers(&self) -> Vec<Layer> {
        let changes = self.changes.iter().filter_map(|change| change.layer.as_ref());
        self.base.iter().chain(changes).cloned().collect()
    }
}

/// Why an operation of the host did not do what a step needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The process of a RUN ended with another code than 0.
    #[error("process did not complete successfully: exit code: {code}")]
    Exit { code: i32, left: Left },
    /// The Dockerfile, the context or an image is to blame.
    #[error("{0}")]
    Invalid(String),
    /// A file of a context is not any more what it was when it was looked at.
    #[error("{0}")]
    Changed(String),
    /// No such image, stage, context or file.
    #[error("{0}")]
    Missing(String),
    /// The host is to blame.
    #[error("{0}")]
    Host(String),
}

/// What the host keeps of a RUN that has failed, for whoever wants to look around: ids of images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Left {
    /// What it was done to.
    pub below: Option<Digest>,
    /// That, with what it had written when it ended.
    pub failed: Option<Digest>,
}

/// An image that a stage begins with, or that files come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wanted {
    pub reference: Reference,
    pub platform: Option<Platform>,
    /// Look for a newer one even if it is here.
    pub pull: bool,
}

/// What it is.
#[derive(Debug, Clone)]
pub struct Base {
    /// The image's id.
    pub id: Digest,
    pub config: Config,
    /// Lowest first.
    pub layers: Vec<Layer>,
}

/// Where files come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Source<L = Vec<Layer>> {
    /// A context of this build by its name; the main one is `""`.
    Context(String),
    /// A file system: another stage, or an image.
    Layers(L),
    /// Files that the Dockerfile itself holds (here-documents): names and bytes. Their mode is 0644.
    Inline(Vec<(String, Vec<u8>)>),
    /// One file at an http or https address; its name is the last part of the address' path. With a
    /// checksum anything else is refused. Its mode is 0600, its time what the server says.
    Url { address: String, checksum: Option<Digest> },
    /// A git repository, as an address with `#reference:folder`.
    Git { address: String, checksum: Option<String>, keep_git_dir: bool },
}

/// Which files of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Selection {
    /// Paths below the source's root, with wildcards, as `hull_context::select` reads them; of a
    /// folder its content is meant. Of [`Source::Inline`], [`Source::Url`] and [`Source::Git`] all is
    /// meant, and there are none.
    pub patterns: Vec<String>,
    /// `--exclude`, as in an ignore file, below what a pattern means.
    pub exclude: Vec<String>,
    /// `--parents`: what stands after a pattern's `/./`, or all of it, is kept below the destination.
    pub parents: bool,
}

/// A process that changes a file system (RUN).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Run<L = Vec<Layer>> {
    pub below: L,
    pub arguments: Vec<String>,
    /// `NAME=value`.
    pub environment: Vec<String>,
    /// More of them, which do not count for the key: proxies that no ARG names.
    #[serde(skip)]
    pub proxies: Vec<String>,
    /// As USER says it; empty is root.
    pub user: String,
    /// Absolute; made if it is missing.
    pub folder: String,
    pub mounts: Vec<Mount<L>>,
    pub network: Network,
    /// What else of the host it can see, for the key: what the build was told of networks, and its own
    /// `NAME:ADDRESS`.
    pub surroundings: Vec<String>,
    /// Privileged (`--security=insecure`): refuse, if this build may not.
    pub insecure: bool,
    /// CDI devices, `vendor.example/class=name`, and whether the step fails without it.
    pub devices: Vec<(String, bool)>,
    /// Nothing in its layer is newer than this (SOURCE_DATE_EPOCH; seconds since the epoch).
    pub newest: Option<i64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum Network {
    /// Whatever the build was told.
    #[default]
    Default,
    None,
    Host,
}

/// What a RUN sees and its layer does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount<L = Vec<Layer>> {
    /// Absolute.
    pub target: String,
    pub kind: MountKind<L>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum MountKind<L = Vec<Layer>> {
    /// A folder or file of a context, a stage or an image. What is written to it is thrown away.
    Bind { source: Source<L>, path: String, writable: bool },
    /// A folder that outlives the build, named `id`. What is new begins as `path` of `source`.
    Cache {
        id: String,
        source: Option<Source<L>>,
        path: String,
        sharing: Sharing,
        writable: bool,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    /// In bytes; `None` is unlimited.
    Tmpfs { size: Option<u64> },
    /// A file with a secret of this build.
    Secret { id: String, required: bool, mode: u32, uid: u32, gid: u32 },
    /// An environment variable with a secret of this build; `target` is its name.
    SecretVariable { id: String, required: bool },
    /// The socket of an agent; the process finds it by `SSH_AUTH_SOCK`.
    Ssh { id: String, required: bool, mode: u32, uid: u32, gid: u32 },
    /// A file that stands in the Dockerfile.
    Inline { contents: Vec<u8>, mode: u32 },
}

/// Who uses a cache mount at the same time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum Sharing {
    #[default]
    Shared,
    /// Who comes while it is used gets another one.
    Private,
    /// Who comes while it is used waits.
    Locked,
}

/// Files that are copied into a file system (COPY, ADD).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Copy<L = Vec<Layer>> {
    pub below: L,
    /// At least one.
    pub files: Vec<(Source<L>, Selection)>,
    /// Absolute; with a `/` at its end it is a folder. A folder, too, where more than one file comes.
    pub destination: String,
    /// `--chown`: `user[:group]`, by names of the file system below or by numbers; `None` is root.
    pub owner: Option<String>,
    /// `--chmod`: octal digits, or symbolic as in chmod(1); `None` leaves the files' own.
    pub mode: Option<String>,
    /// `--link`: links of the file system below are not followed.
    pub link: bool,
    /// Archives become what is in them.
    pub unpack: Unpack,
    /// Nothing is newer than this (SOURCE_DATE_EPOCH; seconds since the epoch).
    pub newest: Option<i64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum Unpack {
    /// COPY, or ADD --unpack=false.
    #[default]
    Never,
    /// ADD: those of contexts, not those of addresses.
    Local,
    /// ADD --unpack.
    Always,
}

/// A folder that is made, with its parents (WORKDIR). One that exists is left as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Folder<L = Vec<Layer>> {
    pub below: L,
    /// Absolute.
    pub path: String,
    /// Whose it becomes, as USER says it; empty is root. Its mode is 0755.
    pub user: String,
    /// Nothing is newer than this (SOURCE_DATE_EPOCH; seconds since the epoch).
    pub newest: Option<i64>,
}

/// What the host does for one build. `layer` in the answers is `None` where nothing has changed.
pub trait Executor: Send + Sync + 'static {
    fn image(&self, wanted: Wanted) -> impl Future<Output = Result<Base, Failure>> + Send;

    /// `output` is given what the process writes, as it writes it.
    fn run(&self, run: Run, output: Output) -> impl Future<Output = Result<Option<Layer>, Failure>> + Send;

    fn copy(&self, copy: Copy) -> impl Future<Output = Result<Option<Layer>, Failure>> + Send;

    fn folder(&self, folder: Folder) -> impl Future<Output = Result<Option<Layer>, Failure>> + Send;

    /// The digest of what `selection` means in `source`, by `hull_context::fingerprint`: names, kinds,
    /// modes, link targets, contents, attributes; no times, no owners. Never asked for [`Source::Inline`].
    fn fingerprint(
        &self,
        source: Source,
        selection: Selection,
    ) -> impl Future<Output = Result<Digest, Failure>> + Send;
}

/// A step that was done before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// What names it to the steps above it: mostly the key that it was found by, but one step is found
    /// by several.
    pub key: Digest,
    /// All that it is: `stack.changes` ends with what it changed itself.
    pub stack: Stack,
}

/// What a [`Cache`] keeps under one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub key: Digest,
    pub known: Known,
}

/// What earlier builds did. Shared by all builds; outlives the daemon.
pub trait Cache: Send + Sync + 'static {
    /// Only what can be used: all layers of its stack are there, and stay as long as this build.
    fn find(&self, key: &Digest) -> impl Future<Output = Option<Known>> + Send;

    /// Replaces what was kept under `key`. `description` is the step as a person knows it.
    fn keep(&self, key: Digest, known: Known, description: String) -> impl Future<Output = ()> + Send;
}
