//! What a container was asked to be, as values that can only be valid.
//!
//! The daemon's routes decode Docker's JSON into [`Create`]; everything the engine acts on is
//! typed here. What it merely has to give back (Docker's own spelling of the request) travels as
//! [`Create::request`], opaque to the engine: one place decides, one place echoes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hull_network::record::{Attachment, PortRange, Protocol};
use hull_oci::Digest;
use hull_oci::runtime::{Resources, Rlimit};
use serde::{Deserialize, Serialize};

use crate::networks::Join;
use crate::users::Maps;

/// A request to create a container.
#[derive(Debug, Clone)]
pub struct Create {
    /// Without a name the engine makes one.
    pub name: Option<String>,
    /// As asked: name, id, or digest. Resolved by the engine.
    pub image: String,
    pub settings: Settings,
    /// Networks to be on, the mode's own first; empty where the mode allows none.
    pub networks: Vec<Join>,
    /// The API's own document, kept and given back as it is, never read by the engine.
    pub request: String,
}

/// Everything the engine acts on. Fields that the image also speaks of (`env`, `entrypoint`,
/// `cmd`, `user`, `working_dir`, `labels`, `stop_signal`) hold what the caller said until
/// `create` merges the image's configuration under them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Empty: the short id.
    pub hostname: String,
    pub domainname: String,
    /// `name|uid[:group|gid]`, resolved inside the image at start.
    pub user: String,
    pub group_add: Vec<String>,
    /// `KEY=value`; a bare `KEY` removes what the image set.
    pub env: Vec<String>,
    /// `None`: the image's. An empty list clears the image's.
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub working_dir: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub tty: bool,
    pub open_stdin: bool,
    pub stdin_once: bool,
    /// Rows and columns for the terminal's first size, where the client told them.
    pub console_size: Option<(u16, u16)>,
    /// A signal's name or number; empty is SIGTERM.
    pub stop_signal: String,
    /// Seconds; -1 waits for ever; `None` is ten.
    pub stop_timeout: Option<i32>,
    pub network: NetworkMode,
    /// The networks to be on, the mode's own first.
    pub attachments: Vec<Attachment>,
    pub ports: Vec<PortRequest>,
    /// Every exposed port on a random one of the host's.
    pub publish_all: bool,
    /// By `EXPOSE`, `--expose` and `-p`.
    pub exposed: Vec<(Protocol, PortRange)>,
    pub pid: PidMode,
    pub ipc: IpcMode,
    /// Share the host's UTS namespace.
    pub uts_host: bool,
    /// Share the host's cgroup namespace.
    pub cgroupns_host: bool,
    pub cgroup_parent: String,
    pub mounts: Vec<Mount>,
    /// Where a volume is to be, whatever it is (`VOLUME` of images, `-v /PATH`), as it was written.
    pub volumes: BTreeSet<String>,
    /// The driver of volumes that are made for this container.
    pub volume_driver: String,
    pub volumes_from: Vec<String>,
    pub extra_hosts: Vec<String>,
    pub dns: Vec<String>,
    pub dns_search: Vec<String>,
    pub dns_options: Vec<String>,
    pub security: Security,
    /// The maps of its user namespace, chosen at create; `None`: it has the host's users.
    pub users: Option<Maps>,
    pub read_only: bool,
    /// Run a reaping pid 1 of ours.
    pub init: bool,
    pub resources: Resources,
    /// The quota in `resources` was asked for as a number of CPUs.
    pub whole_cpus: bool,
    pub rlimits: Vec<Rlimit>,
    pub oom_score_adj: i32,
    pub shm_bytes: u64,
    pub sysctls: BTreeMap<String, String>,
    pub devices: Vec<Device>,
    pub restart: RestartPolicy,
    pub auto_remove: bool,
    pub log: LogDriver,
    /// An OCI runtime by name; empty is Hull's own.
    pub runtime: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkMode {
    /// Asked for nothing, or for `default`/`bridge`.
    #[default]
    Default,
    None,
    Host,
    /// Another container's, by id (resolved at create).
    Container(String),
    /// A network that somebody made, as the caller named it.
    Named(String),
}

/// One `-p`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRequest {
    pub protocol: Protocol,
    /// `None`: where the network publishes.
    pub address: Option<IpAddr>,
    /// `None`: any free port. As many as the container's, or any one of them for a single port.
    pub host: Option<PortRange>,
    pub container: PortRange,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PidMode {
    #[default]
    Private,
    Host,
    Container(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IpcMode {
    #[default]
    Private,
    /// Private, and others may join it.
    Shareable,
    /// Private without /dev/shm.
    None,
    Host,
    Container(String),
}

/// A mount asked for by the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mount {
    Bind {
        /// Absolute on the host.
        source: String,
        /// Absolute in the container.
        target: String,
        read_only: bool,
        /// `rprivate` where the caller said nothing.
        propagation: String,
        /// `-v` makes a missing source a folder; `--mount` refuses.
        create_source: bool,
        non_recursive: bool,
        #[serde(default)]
        below: Below,
        /// The third part of a `-v`, as it was written: for inspect alone.
        #[serde(default)]
        mode: String,
        /// In a user namespace: whose ids on disk are those that the container knows.
        #[serde(default)]
        idmap: bool,
    },
    Tmpfs {
        target: String,
        /// Mount options as in fstab, `size=…`, `mode=…` among them.
        options: Vec<String>,
    },
    Volume(VolumeMount),
    /// An image's file system, read-only.
    Image {
        /// The image as the caller named it, and as it was found when the container was made.
        name: String,
        #[serde(default)]
        found: Option<ImageRef>,
        target: String,
        /// Below the image's root; empty: all of it.
        subpath: String,
    },
}

impl Mount {
    /// Its place in the container.
    pub fn target(&self) -> &str {
        match self {
            Mount::Bind { target, .. } | Mount::Tmpfs { target, .. } | Mount::Image { target, .. } => target,
            Mount::Volume(volume) => &volume.target,
        }
    }

    /// The image that is shown there, once it was found.
    pub fn image(&self) -> Option<&ImageRef> {
        match self {
            Mount::Image { found, .. } => found.as_ref(),
            Mount::Bind { .. } | Mount::Tmpfs { .. } | Mount::Volume(_) => None,
        }
    }

    /// The volume that is shown there.
    pub fn volume(&self) -> Option<&VolumeMount> {
        match self {
            Mount::Volume(volume) => Some(volume),
            Mount::Bind { .. } | Mount::Tmpfs { .. } | Mount::Image { .. } => None,
        }
    }
}

/// A volume in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeMount {
    /// Empty where nobody gave it one, until the container is made.
    pub name: String,
    pub target: String,
    pub read_only: bool,
    /// An empty volume first gets what the image has at the target.
    pub copy: bool,
    /// Nobody named it: it goes with its last container.
    pub own: bool,
    /// Below the volume's root; empty: all of it.
    pub subpath: String,
    /// As it was written, for inspect alone.
    pub mode: String,
    /// How to make it if it does not exist. Not kept: afterwards it does.
    #[serde(skip)]
    pub driver: String,
    #[serde(skip)]
    pub options: BTreeMap<String, String>,
    #[serde(skip)]
    pub labels: BTreeMap<String, String>,
}

/// What a read-only bind does to what is mounted below its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Below {
    /// Read-only too where the kernel can.
    #[default]
    ReadOnlyIfPossible,
    /// Left as it is.
    Untouched,
    /// Read-only too, or the container does not start.
    ReadOnly,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Security {
    pub privileged: bool,
    /// Without the `CAP_` prefix or with it, any case, `ALL` too.
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub no_new_privileges: bool,
    pub seccomp: SeccompChoice,
    pub apparmor: String,
    pub labels: Vec<String>,
    /// `None`: the default list. `systempaths=unconfined` is an empty list.
    pub masked_paths: Option<Vec<String>>,
    pub readonly_paths: Option<Vec<String>>,
    pub userns: Userns,
}

/// Whose users a container's are. The words are those that records of earlier builds have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Userns {
    /// As the daemon's `--userns-remap` says.
    #[default]
    #[serde(rename = "")]
    Default,
    /// The host's.
    #[serde(rename = "host")]
    Host,
    /// Its own, in a range of ids that nobody else has.
    #[serde(rename = "auto")]
    Auto,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SeccompChoice {
    #[default]
    Default,
    Unconfined,
    /// The text of a profile in Docker's JSON form.
    Profile(String),
}

/// A device of the host, shown in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub host: String,
    pub container: String,
    /// Some of `rwm`.
    pub permissions: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    #[default]
    No,
    Always,
    UnlessStopped,
    /// At most so many attempts; 0 is without limit.
    OnFailure {
        attempts: u32,
    },
}

/// The log driver that was asked for, with its options; Hull writes its own format whatever the
/// name, except `none`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LogDriver {
    /// Empty: the daemon's default, shown as `json-file`.
    pub name: String,
    pub options: BTreeMap<String, String>,
}

/// What the image contributed, frozen at create: a container does not change when its image's
/// name moves or the image is removed by force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRef {
    /// The image's id: the digest of its configuration.
    pub id: Digest,
    /// The name as the caller wrote it.
    pub name: String,
    /// Diff ids from the base up.
    pub layers: Vec<Digest>,
}
