//! What a build needs of the host: images, processes, files and a memory.
//!
//! The engine implements both traits; tests implement them with operations that only count. All
//! futures may be dropped at any time: that ends what they do, and leaves nothing.

use std::future::Future;

use hull_oci::image::Config;
use hull_oci::{Digest, Platform, Reference};

use crate::progress::Stream;

/// One layer of a file system: what it changes of those below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub diff_id: Digest,
    /// Sum of the sizes of its files (bytes).
    pub size: u64,
}

/// Why an operation of the host did not do what a step needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The process of a RUN ended with another code than 0.
    #[error("process did not complete successfully: exit code: {code}")]
    Exit { code: i32 },
    /// The Dockerfile, the context or an image is to blame.
    #[error("{0}")]
    Invalid(String),
    /// No such image, stage, context or file.
    #[error("{0}")]
    Missing(String),
    /// The host is to blame.
    #[error("{0}")]
    Host(String),
}

/// An image that a stage begins with.
#[derive(Debug, Clone)]
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A context of this build by its name; the main one is `""`.
    Context(String),
    /// A file system made of layers, lowest first: another stage, or an image.
    Layers(Vec<Layer>),
    /// Files that the Dockerfile itself holds (here-documents): names and bytes.
    Inline(Vec<(String, Vec<u8>)>),
}

/// A process that changes a file system (RUN).
#[derive(Debug, Clone)]
pub struct Run {
    /// Lowest first.
    pub below: Vec<Layer>,
    pub arguments: Vec<String>,
    /// `NAME=value`.
    pub environment: Vec<String>,
    pub user: String,
    /// Absolute.
    pub folder: String,
    // mounts, network, security: with the language
}

/// Which files of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Paths below the source's root, with wildcards. Without any nothing is copied: the destination
    /// is a folder that is made (WORKDIR).
    pub patterns: Vec<String>,
    /// `--exclude`, as in an ignore file.
    pub exclude: Vec<String>,
    /// `--parents`: what stands after a pattern's `/./`, or all of it, is kept below the destination.
    pub parents: bool,
}

/// Files that are copied into a file system (COPY, ADD), or a folder that is made (WORKDIR).
#[derive(Debug, Clone)]
pub struct Copy {
    /// Lowest first.
    pub below: Vec<Layer>,
    pub source: Source,
    pub selection: Selection,
    /// Absolute; with a `/` at its end it is a folder.
    pub destination: String,
    /// `--chown`, or whose a folder is that is made: names mean those of the file system below.
    /// Without it all is root's.
    pub owner: Option<String>,
    /// `--chmod`: permission bits.
    pub mode: Option<u32>,
    /// Local archives are unpacked (ADD).
    pub unpack: bool,
    /// `--link`: links of the file system below are not followed.
    pub link: bool,
    /// Nothing is newer than this (SOURCE_DATE_EPOCH; seconds since the epoch).
    pub newest: Option<i64>,
}

/// What the host does for a build. `layer` in the answers is `None` where nothing has changed.
pub trait Executor: Send + Sync + 'static {
    fn image(&self, wanted: Wanted) -> impl Future<Output = Result<Base, Failure>> + Send;

    /// `output` receives what the process writes, as it writes it.
    fn run(
        &self,
        run: Run,
        output: impl Fn(Stream, &[u8]) + Send + Sync + 'static,
    ) -> impl Future<Output = Result<Option<Layer>, Failure>> + Send;

    fn copy(&self, copy: Copy) -> impl Future<Output = Result<Option<Layer>, Failure>> + Send;

    /// The digest of what `selection` means in `source`: names, kinds, modes, link targets, contents;
    /// no times, no owners.
    fn fingerprint(
        &self,
        source: Source,
        selection: Selection,
    ) -> impl Future<Output = Result<Digest, Failure>> + Send;
}

/// A step that was done before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// What it changed, if anything.
    pub layer: Option<Layer>,
}

/// What earlier builds did. Shared by all builds; outlives the daemon.
pub trait Cache: Send + Sync + 'static {
    /// Only what can be used: the layers below it, too, are there.
    fn find(&self, key: &Digest) -> impl Future<Output = Option<Known>> + Send;
    /// `below`: what `known.layer` stands on, lowest first.
    fn keep(
        &self,
        key: Digest,
        known: Known,
        below: Vec<Layer>,
        description: String,
    ) -> impl Future<Output = ()> + Send;
}
