//! A build as our own client and daemon talk about it: `POST /hull/v1/build`, a connection taken over from
//! HTTP on which both say [messages](frame).
//!
//! | who | says |
//! |---|---|
//! | daemon | `101` |
//! | client | [`Begin`]: all that is wished, and the names of what it has |
//! | daemon | [`Question`]s, each with a number, as the build comes to need something |
//! | client | to each an answer with that number: pieces and their end, a descriptor, or why not |
//! | daemon | meanwhile what happens, as [`Progress`] |
//! | daemon | what was built, in pieces, for each [`Output`] that was wished |
//! | daemon | [`Finished`], [`Failed`], or, if nothing was to be built, [`Checked`]; and its end |
//!
//! The daemon opens nothing on the client's word: whatever a build has of the client's host comes as bytes,
//! or, over a Unix socket, as a descriptor that the client has opened. Whoever ends the connection ends
//! the build. The messages are no interface for others: a client and a daemon of one version speak them.

pub mod classic;
pub mod frame;
pub mod link;

use std::collections::BTreeMap;

use hull_oci::Digest;
use serde::{Deserialize, Serialize};

use crate::hostconfig::Ulimit;

/// Where it is asked for.
pub const PATH: &str = "/hull/v1/build";

/// What is wished.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Begin {
    /// The image's names.
    pub tags: Vec<String>,
    /// The Dockerfile's name in the context; empty is `Dockerfile`.
    pub dockerfile: String,
    /// An address that the context comes from; empty: the client has it.
    pub remote: String,
    pub arguments: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// A stage; empty is the last.
    pub target: String,
    /// `os[/arch[/variant]]`, or JSON; empty is the host's.
    pub platform: String,
    /// Look for newer base images.
    pub pull: bool,
    pub no_cache: bool,
    /// Stages that are made anew.
    pub no_cache_filter: Vec<String>,
    /// What RUN has: `default`, `none`, `host`, a network, `container:NAME`; empty is `default`.
    pub network: String,
    /// `NAME:ADDRESS` of each RUN's hosts file.
    pub hosts: Vec<String>,
    pub limits: Limits,
    /// Nothing is kept of a RUN that fails.
    pub force_rm: bool,
    /// What the Dockerfile may take (`network.host`, `security.insecure`).
    pub allow: Vec<String>,
    /// Nothing is built: the Dockerfile is checked.
    pub check: bool,
    /// No image is kept of what was built.
    pub discard: bool,
    /// What is to be sent of it.
    pub outputs: Vec<Output>,
    /// Where else is looked for what was done before.
    pub cache_from: Vec<CacheFrom>,
    /// The image says in its configuration what was done for it.
    pub inline_cache: bool,
    /// Other contexts, by the names that the Dockerfile has for them.
    pub contexts: BTreeMap<String, Named>,
    /// The main context's ignore file: a check warns of copies of what it names.
    pub ignore: String,
    /// Secrets and agents that the client answers for.
    pub secrets: Vec<String>,
    pub agents: Vec<String>,
}

/// What was built, as an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    pub form: Form,
    /// Of the image in the archive.
    pub names: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// The files.
    Files,
    /// The image: Docker's archive with an OCI layout beside it.
    Image,
    /// What was done, for other builds' [`Begin::cache_from`], in the same form; `all`: not only what the
    /// image has.
    Cache { all: bool },
}

/// Where what was done before comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheFrom {
    /// A folder that the client has: it is asked for as a context of this name.
    Folder(String),
    /// An image, by its reference.
    Image(String),
}

/// What each RUN may use; 0 and empty are without limit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes.
    pub memory: i64,
    /// Bytes, memory included; -1 is without limit.
    pub swap: i64,
    pub cpu_shares: u64,
    /// Microseconds.
    pub cpu_period: u64,
    pub cpu_quota: i64,
    pub cpus: String,
    pub memory_nodes: String,
    /// Bytes of /dev/shm; 0 is the daemon's default.
    pub shm: u64,
    pub ulimits: Vec<Ulimit>,
    pub cgroup_parent: String,
}

/// What a name of `--build-context` stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Named {
    /// Files, which the client has.
    Files,
    /// An image, by its reference.
    Image(String),
    /// What is at an address: a repository or an archive.
    Address(String),
    /// An image of an OCI layout, which the client has as files: by its tag or its manifest's digest. Without
    /// either it is `latest`, or the only one.
    Layout { tag: String, digest: String },
}

/// What the daemon needs of its client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// A context. Over a Unix socket a folder is its list (`hull_context::listing`), a file in memory that is
    /// sealed, and the folder itself, opened with `O_PATH`: by that the daemon knows it again, it finds
    /// nothing in it. Over TCP it is its list and what is known of its files' digests, in pieces. What is no
    /// folder is an archive, compressed or not: in pieces, or as the end of a pipe, so that no byte of it
    /// passes through the daemon. The main context's name is empty.
    Context(String),
    /// The Dockerfile of the main context, in pieces. Asked where that came as a list.
    Dockerfile,
    /// Files of a context that came as a list: the asker's end of a socket of `hull_context::files`, a new one
    /// for each question. Over a Unix socket alone.
    Files(String),
    /// The bytes of these files, in this order, in pieces (`hull_context::contents`): each as long as it was
    /// when its list was told.
    Contents { context: String, numbers: Vec<u32> },
    /// A secret's bytes, in pieces.
    Secret(String),
    /// A connection to an agent: a connected stream socket. A new one for each question.
    Agent(String),
}

/// Something that happened, as `hull_builder` tells it. `step` is a number within the build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// All instructions of the stages that are needed, in the order of the Dockerfile.
    Planned {
        instructions: Vec<Planned>,
    },
    /// The step has begun; `name` has the stage's place in front, such as `[build 2/4] RUN make`.
    Started {
        step: u32,
        name: String,
    },
    /// Nothing had to be done for it.
    Cached {
        step: u32,
    },
    /// What its process wrote, cut anywhere. On the wire it is no JSON but a message of its own.
    #[serde(skip)]
    Output {
        step: u32,
        stream: Stream,
        bytes: Vec<u8>,
    },
    /// It has ended well; with what it changed, if it changed anything.
    Done {
        step: u32,
        layer: Option<Digest>,
    },
    Failed {
        step: u32,
        message: String,
    },
    /// The build goes on.
    Warning {
        message: String,
        /// An address that explains it; empty if there is none.
        page: String,
        /// Of the Dockerfile, from 1; 0: it is about no line.
        line: u32,
    },
}

/// One instruction, or one trigger of a base image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// On one line.
    pub text: String,
    /// `None` if it only changes the image's configuration.
    pub step: Option<u32>,
    /// It comes from the base image's ONBUILD.
    pub trigger: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Out,
    Error,
}

/// A build that has ended well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// The image's.
    pub id: Digest,
    /// As people write them.
    pub names: Vec<String>,
    /// The daemon has it.
    pub stored: bool,
}

/// What the checks of a Dockerfile come to: nothing was to be built.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Checked {
    /// Each as people read it, in several lines.
    pub warnings: Vec<String>,
    /// What a build says that fails for them; empty: none would.
    pub error: String,
}

/// Why there is no image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Failed {
    /// Of a request that is wrong as a whole, what an answer would have had as its status; 0 is a build
    /// that failed.
    pub status: u16,
    /// Of the process that failed; the client ends with it, or with 1.
    pub code: u8,
    pub message: String,
    /// What a person can do to find out why, a line each.
    pub advice: Vec<String>,
    /// The lines of the Dockerfile that it is about, with a marker; empty if it is about none.
    pub excerpt: String,
    /// What is wrong with the Dockerfile, in the order of their places.
    pub problems: Vec<Problem>,
}

/// What is wrong at one place of the Dockerfile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// From 1; characters.
    pub line: u32,
    pub column: u32,
    pub message: String,
    /// Message, place, the line itself, a marker and what to do, in several lines.
    pub shown: String,
}
