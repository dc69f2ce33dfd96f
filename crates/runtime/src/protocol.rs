//! The words that daemon, spawner, shims and workers say to each other.
//!
//! Everything travels over `SOCK_SEQPACKET` Unix sockets: one message is one JSON object of at
//! most [`MESSAGE_MAX`] bytes with descriptors beside it. What may be larger — a bundle — is a
//! sealed memfd among the descriptors. `roles` names the descriptors in their order.
//!
//! ```text
//! Launching. C is the requester's end, C' the other end of one socket pair made for this launch.
//!
//!   daemon                      spawner                      shim or worker
//!     │ (connects to spawner/<build id>.sock)
//!     │◄── hello {version, pid …} │
//!     │── launch {id, roles} ────►│   + C' + document + namespaces, streams …
//!     │                           │── fork; keeps a copy of C' ─►│
//!     │◄── on C: started ─────────┼──────────────────────────────│  + pidfd + root descriptor
//!     │    or   start-failed      │                              │  (then it leaves)
//!     │── on C: attach, resize ───┼─────────────────────────────►│
//!     │◄── on C: exited ──────────┼──────────────────────────────│  (then it leaves)
//!     │                           │◄─ SIGCHLD ───────────────────┘
//!     │◄── C is closed ───────────│
//!
//! A shim that is killed says nothing more. Its children become the spawner's, which
//!     │                           │  1. writes the exit record (137) if there is none,
//!     │                           │  2. kills and reaps them all, and says in the shim's place
//!     │◄── on C: exited ──────────│  (exited without started: killed while it was starting;
//!     │                           │   exited twice: killed after it had said so)
//!
//! A worker says one thing, `outcome` (before it packs what is at a path: `found`; while it hashes what it has
//! unpacked: `unpacked`); it is killed when C
//! is closed. So does the child that makes a user namespace, with the namespace beside it. The
//! forwarder is launched in
//! the same way, says nothing on C and is found at a socket of its own (see [`crate::forwarder`]).
//!
//! A new daemon finds a living shim at c/<id>/shim.sock (x/<id>/shim.sock for an exec):
//!
//!   daemon                                                   shim
//!     │── connects ─────────────────────────────────────────────►│  any number of times
//!     │◄── started ──────────────────────────────────────────────│  + pidfd + root descriptor
//!     │── attach, resize ───────────────────────────────────────►│
//!     │── keep, drop ───────────────────────────────────────────►│  (since 3)
//!     │── give-kept ────────────────────────────────────────────►│  (since 3)
//!     │◄── kept {more: true} ────────────────────────────────────│  + descriptors
//!     │◄── kept {more: false} ───────────────────────────────────│  + the last of them, if any
//!     │◄── exited ───────────────────────────────────────────────│
//!   If this connection closes without `exited`: the pidfd tells when the process is gone, and
//!   c/<id>/exit how it ended, for the record is always written before anybody is told.
//!
//! Descriptors are kept by a shim under names for as long as its process lives: what must outlive
//! the daemon and belongs to one container, as the sockets of its resolver or the reservations of
//! its ports. They come with the launch or later, and every daemon can have copies.
//!
//! A spawner leaves when told so and its last child has ended:
//!     │── retire ────────────────►│  (it unlinks its socket and takes no more launches)
//! ```
//!
//! **Versions.** Words are only ever added, fields only with a default. Who does not know a word
//! ignores it (`Unknown`): an old shim must outlive many daemons. [`VERSION`] counts additions, so
//! that a daemon can know what a shim will not do.
//!
//! **Who may speak.** The sockets lie in folders of mode 0700, there are no abstract ones, and
//! every accepted peer must be root or the listener's own user (SO_PEERCRED).
//!
//! ```text
//! <exec-root>/            on tmpfs
//!   spawner/<build id>.sock
//!   c/<container id>/     shim.sock, exit     x/<exec id>/ the same
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_oci::Digest;
use hull_oci::runtime::{IdMapping, NamespaceKind};
use hull_sys::{Errno, memfd, socket};
use rustix::net::SocketFlags;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::bundle::{Exit, StartError};
use crate::seccomp::Program;

/// Counts the additions to this page.
pub const VERSION: u32 = 3;
/// The first version whose shims keep descriptors.
pub const VERSION_KEEPS: u32 = 3;
/// Bytes of the longest message.
pub const MESSAGE_MAX: usize = 32 * 1024;
/// Descriptors that one shim keeps; more are closed.
pub const KEPT_MAX: usize = 256;
/// Bytes of the longest name under which descriptors are kept.
pub const KEPT_NAME_MAX: usize = 64;
/// Bytes of the longest document (a bundle or exec) beside a message.
pub const DOCUMENT_MAX: u64 = 4 * 1024 * 1024;

/// What a shim looks after; decides its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Container,
    Exec,
}

impl Kind {
    /// The folder of one shim.
    pub fn folder(self, exec_root: &Path, id: &str) -> PathBuf {
        self.all(exec_root).join(id)
    }

    /// The folder of all shims of this kind.
    pub fn all(self, exec_root: &Path) -> PathBuf {
        exec_root.join(match self {
            Kind::Container => "c",
            Kind::Exec => "x",
        })
    }
}

/// How output is laid into an attached socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Framing {
    /// As it comes.
    #[default]
    Raw,
    /// Each piece behind eight bytes: stream (1 or 2), three zeros, its length big-endian, as the
    /// Docker Engine API's "Stream format".
    Multiplexed,
}

/// What an attached socket is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attach {
    /// What is read from the socket is the process' standard input; its end is the input's end
    /// where `stdin_once` says so.
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub framing: Framing,
}

/// What a descriptor beside a launch is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// The shim's or worker's end of the control socket.
    Control,
    /// The bundle, exec or tree as JSON in a sealed memfd.
    Document,
    /// A namespace to join instead of making one.
    Namespace(NamespaceKind),
    /// The pidfd of the container's first process.
    Target,
    /// A compiled seccomp filter in a sealed memfd.
    Seccomp,
    /// Readable or closed when the container may execute its program.
    Hold,
    /// The mount namespace of the container whose /dev/shm this one shares.
    SharedMemory,
    /// A stream socket attached before the process starts.
    Attach(Attach),
    /// What a worker unpacks or packs.
    Archive,
    /// A worker's folder: becomes its root.
    Folder,
    /// The pidfd of a process whose files become a worker's root; with `below` all that it has mounted
    /// in them, too.
    Mounts { below: bool },
    /// A [`crate::bundle::Source`] in a sealed memfd: what a worker fills its folder with, or copies from.
    Source,
    /// The folder that a worker copies from.
    SourceFolder,
    /// The list of a context's files ([`hull_context::listing`]) that a worker copies from, or says the digest
    /// of, for the build of this number. A digest is remembered of files that were changed more than `settled`
    /// seconds ago.
    Listing { build: u64, settled: i64 },
    /// The socket at which a worker asks for them ([`hull_context::files`]), so many batches at a time.
    Files { ahead: usize },
    /// A table of [`hull_context::Digests`].
    Digests,
    /// Where a worker writes what that table has become.
    Learned,
    /// To be kept under this name.
    Keep(String),
    /// The listening socket that the forwarder takes connections from.
    Relay,
    /// The listening path socket at which the forwarder is found.
    Service,
}

/// What a worker does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Unpack the archive into the folder as an image layer: whiteouts become overlay's.
    ApplyLayer,
    /// Unpack it as it is.
    ApplyPlain,
    /// The same; nobody asks for its digests.
    ExtractLayer,
    /// Unpack only files, folders and links, without owners and modes. When they are there that is said,
    /// and then the digests of large files.
    ApplyFiles,
    /// Unpack it as dpkg(1) unpacks the files of a package: links to folders stay.
    ApplyPackage,
    /// Undo its compression alone, into one file.
    ApplyStream,
    /// Pack the folder, an overlay upper one, into the archive as an image layer.
    Commit,
    /// Copy what an image has at a place into the folder, which is empty.
    Fill,
    /// Bring again what was lost of such a copy.
    Repair,
    /// Say what is at the place.
    Examine(Place),
    /// Say it, then pack it into the archive, all names beginning with `name` in its place. With an
    /// empty `name` a folder is packed without an entry of its own. With the maps of a running process's
    /// user namespace, owners are those that it sees.
    Pack { place: Place, name: String, uids: Vec<IdMapping>, gids: Vec<IdMapping> },
    /// Unpack the archive into the folder at the path, all links of which are followed, as
    /// [`hull_image::layer::Unpack`] says.
    Unpack { path: String, keep_kinds: bool, owner: Option<(u32, u32)> },
    /// Copy files of the source into the root.
    Copy(Copy),
    /// Make the folder at the path, with its parents, for this user and group.
    MakeFolder { path: String, owner: (u32, u32), newest: Option<i64> },
    /// Say the digest of what is selected in the root, or in a list.
    Fingerprint(Selection),
    /// Give everything that is newer this time (seconds since the epoch).
    Clamp { newest: i64 },
}

/// Which files of a tree, as `hull_context::select` reads it; no pattern is everything in its root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    pub patterns: Vec<String>,
    pub exclude: Vec<String>,
    pub parents: bool,
}

/// Files that are copied into a worker's root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copy {
    pub selection: Selection,
    /// Absolute; with a `/` at its end it is a folder.
    pub destination: String,
    /// It is a folder in any case: more than one file comes.
    pub several: bool,
    pub owner: Option<(u32, u32)>,
    /// The files keep their own, and the root becomes like the folder whose content comes.
    pub keep_owners: bool,
    /// As in chmod(1).
    pub mode: Option<String>,
    /// Archives are unpacked.
    pub unpack: bool,
    /// Nothing is newer (seconds since the epoch).
    pub newest: Option<i64>,
}

/// A place in a worker's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Absolute. Links on the way are followed, inside the root.
    pub path: String,
    /// Follow a link at the path's end, too; what it leads to must be a folder.
    pub folder: bool,
}

/// What is at a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Type and permissions, as inode(7) has them.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Seconds and nanoseconds since the epoch.
    pub modified: (i64, u32),
    /// Of a symbolic link: where it leads in the root in the end, whether anything is there or not.
    pub target: Option<String>,
}

/// What the daemon says to the spawner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub(crate) enum ToSpawner {
    Shim {
        kind: Kind,
        id: String,
        roles: Vec<Role>,
        /// The container's cgroup, below each hierarchy: to be killed with a killed shim.
        #[serde(default)]
        cgroup: Option<String>,
    },
    Worker {
        work: Work,
        roles: Vec<Role>,
    },
    /// See [`crate::forwarder`].
    Forwarder {
        roles: Vec<Role>,
    },
    /// For a user namespace with these maps and a network namespace of it; answered by
    /// [`Outcome::Users`] from a child, as a worker answers.
    Users {
        uids: Vec<IdMapping>,
        gids: Vec<IdMapping>,
        roles: Vec<Role>,
    },
    Retire,
    #[serde(other)]
    Unknown,
}

/// What the spawner says on a new connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub(crate) enum FromSpawner {
    Hello {
        version: u32,
        pid: i32,
        /// The inode of its mount namespace.
        #[serde(default)]
        mounts: Option<u64>,
    },
    #[serde(other)]
    Unknown,
}

/// What is said to a shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub(crate) enum ToShim {
    /// With the stream socket.
    Attach(Attach),
    /// Of the terminal, in characters.
    Resize { rows: u16, columns: u16 },
    /// With descriptors, which join those that are kept under this name.
    Keep { name: String },
    /// Closes those of this name.
    Drop { name: String },
    /// Asks for copies of all that are kept.
    GiveKept,
    #[serde(other)]
    Unknown,
}

/// What a shim says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub(crate) enum FromShim {
    /// With the pidfd, and for a container the descriptor of its root folder.
    Started {
        pid: i32,
        /// Nanoseconds since the epoch.
        at: i64,
        #[serde(default)]
        version: u32,
        /// What could not be done and was left out, one line each.
        #[serde(default)]
        warnings: Vec<String>,
    },
    StartFailed(StartError),
    Exited(Exit),
    /// With as many descriptors as names, at most [`socket::MAX_FDS`].
    Kept {
        names: Vec<String>,
        /// Another such message follows.
        #[serde(default)]
        more: bool,
    },
    #[serde(other)]
    Unknown,
}

/// What a worker says, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum Outcome {
    Applied {
        /// Of the bytes as read.
        blob: Digest,
        blob_size: u64,
        /// Of the bytes unpacked.
        diff_id: Digest,
        /// Bytes of the files.
        size: u64,
        entries: u64,
        /// `gzip`, `zstd` …, as [`hull_image::compress::Compression::name`] has it.
        compression: String,
    },
    Committed {
        diff_id: Digest,
        /// Bytes of the archive.
        archive_size: u64,
        /// Bytes of the files.
        size: u64,
    },
    /// Entries and bytes that a folder was filled with.
    Filled {
        entries: u64,
        bytes: u64,
    },
    /// The files were copied, the folder is there.
    Made,
    Fingerprint {
        digest: Digest,
        /// Files that were read because their digests were not known.
        #[serde(default)]
        read: u64,
    },
    /// A listed file is not any more what it was when it was looked at; in one line.
    Changed {
        message: String,
    },
    /// What is at the place is no folder.
    NoFolder,
    Found(Found),
    Packed,
    Unpacked,
    /// Bytes of the files.
    Extracted {
        size: u64,
    },
    /// By the inodes' numbers.
    Hashed {
        files: Vec<(u64, Digest)>,
    },
    /// There is nothing at the place.
    Absent,
    /// What is there is no folder, to unpack into.
    NotFolder,
    /// What is there can only be read: the root itself, or something mounted in it.
    ReadOnly {
        root: bool,
    },
    /// The archive is no archive, or not one for this place; in one line.
    Unfit {
        message: String,
    },
    /// The process whose files were asked for has ended.
    Ended,
    /// With the descriptors of the user namespace and of the network namespace that belongs to it.
    Users,
    /// The archive or the host is to blame, in one line.
    Failed {
        message: String,
    },
    #[serde(other)]
    Unknown,
}

/// A message could not be sent or understood.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("send a message")]
    Send { source: hull_sys::Error },
    #[error("receive a message")]
    Receive { source: hull_sys::Error },
    #[error("a message of {size} bytes is over the limit of {MESSAGE_MAX}")]
    TooLong { size: usize },
    #[error("a message came truncated")]
    Truncated,
    #[error("a message is not of this protocol")]
    Malformed { source: serde_json::Error },
    #[error("the message {message} needs {wanted} descriptors and has {got}")]
    Descriptors { message: &'static str, wanted: usize, got: usize },
}

/// Sends one message.
pub(crate) fn send<T: Serialize>(to: impl AsFd, message: &T, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
    let bytes = serde_json::to_vec(message).map_err(|source| Error::Malformed { source })?;
    if bytes.len() > MESSAGE_MAX {
        return Err(Error::TooLong { size: bytes.len() });
    }
    socket::send(to, &bytes, fds).map_err(|source| Error::Send { source })
}

/// The document that came beside a message.
pub(crate) fn document<T: DeserializeOwned>(fd: &OwnedFd) -> Result<T, Error> {
    let bytes = memfd::read_sealed(fd, DOCUMENT_MAX).map_err(|source| Error::Receive { source })?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Malformed { source })
}

/// What a receiving end has got.
#[derive(Debug)]
pub(crate) enum Received<T> {
    Message(T, Vec<OwnedFd>),
    /// Nothing for now (the socket does not block).
    Nothing,
    /// The peer has gone.
    Closed,
}

/// Receives one message.
pub(crate) fn receive<T: DeserializeOwned>(from: impl AsFd) -> Result<Received<T>, Error> {
    let mut buffer = [0; MESSAGE_MAX];
    let got = match socket::receive(from, &mut buffer) {
        Ok(got) => got,
        Err(error) if error.errno == Errno::AGAIN => return Ok(Received::Nothing),
        Err(error) if error.errno == Errno::CONNRESET => return Ok(Received::Closed),
        Err(source) => return Err(Error::Receive { source }),
    };
    if got.truncated {
        return Err(Error::Truncated);
    }
    if got.len == 0 && got.fds.is_empty() {
        return Ok(Received::Closed);
    }
    let message = serde_json::from_slice(&buffer[..got.len]).map_err(|source| Error::Malformed { source })?;
    Ok(Received::Message(message, got.fds))
}

/// Accepts one connection that is allowed to speak; `None` when none is waiting, or the one that
/// was is not allowed (it is closed then).
pub(crate) fn accept(listener: impl AsFd) -> Result<Option<OwnedFd>, hull_sys::Error> {
    use hull_sys::During;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let peer = match rustix::net::accept_with(&listener, flags) {
        Ok(peer) => peer,
        Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => return Ok(None),
        Err(errno) => return Err(errno).during("accept4", || "a path socket"),
    };
    let uid = socket::peer(&peer)?.uid;
    Ok((uid.is_root() || uid == rustix::process::geteuid()).then_some(peer))
}

/// A compiled seccomp filter as a document: its flags, then its instructions, each a little-endian
/// word of 64 bits.
pub fn filter_to_bytes(program: &Program) -> Vec<u8> {
    let words = std::iter::once(&program.flags).chain(&program.filter);
    words.flat_map(|word| word.to_le_bytes()).collect()
}

/// `None` if these bytes are no filter.
pub(crate) fn filter_from_bytes(bytes: &[u8]) -> Option<Program> {
    let (words, rest) = bytes.as_chunks::<8>();
    let (flags, filter) = words.split_first()?;
    if !rest.is_empty() || filter.is_empty() {
        return None;
    }
    let filter = filter.iter().map(|word| u64::from_le_bytes(*word)).collect();
    Some(Program { flags: u64::from_le_bytes(*flags), filter })
}

/// Whether descriptors can be kept under `name`.
pub(crate) fn valid_kept(name: &str) -> bool {
    (1..=KEPT_NAME_MAX).contains(&name.len())
}

/// Ids become names of folders: ASCII letters, digits, `_`, `.`, `-`, at most 128, no leading dot.
pub(crate) fn valid_id(id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (1..=128).contains(&id.len()) && !id.starts_with('.') && id.bytes().all(plain)
}

/// Any bytes as each kind of message.
#[doc(hidden)]
pub mod fuzz {
    use super::*;

    pub fn fuzz_messages(data: &[u8]) {
        let _ = serde_json::from_slice::<ToSpawner>(data);
        let _ = serde_json::from_slice::<FromSpawner>(data);
        let _ = serde_json::from_slice::<ToShim>(data);
        let _ = serde_json::from_slice::<FromShim>(data);
        let _ = serde_json::from_slice::<Outcome>(data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check<T: Serialize>(message: &T, expected: Expect) {
        expected.assert_eq(&serde_json::to_string(message).unwrap());
    }

    /// These texts are a contract with shims of past builds: they may only grow.
    #[test]
    fn the_words_on_the_wire_do_not_change() {
        let attach = Attach { stdin: true, stdout: true, stderr: false, framing: Framing::Multiplexed };
        check(
            &ToSpawner::Shim {
                kind: Kind::Container,
                id: "abc".to_owned(),
                roles: vec![
                    Role::Control,
                    Role::Document,
                    Role::Namespace(NamespaceKind::Network),
                    Role::Attach(attach),
                ],
                cgroup: None,
            },
            expect![[
                r#"{"say":"shim","kind":"container","id":"abc","roles":["control","document",{"namespace":"network"},{"attach":{"stdin":true,"stdout":true,"stderr":false,"framing":"multiplexed"}}],"cgroup":null}"#
            ]],
        );
        check(&ToSpawner::Retire, expect![[r#"{"say":"retire"}"#]]);
        check(
            &ToSpawner::Forwarder { roles: vec![Role::Control, Role::Relay, Role::Service] },
            expect![[r#"{"say":"forwarder","roles":["control","relay","service"]}"#]],
        );
        check(
            &ToShim::Attach(attach),
            expect![[
                r#"{"say":"attach","stdin":true,"stdout":true,"stderr":false,"framing":"multiplexed"}"#
            ]],
        );
        check(
            &ToShim::Resize { rows: 24, columns: 80 },
            expect![[r#"{"say":"resize","rows":24,"columns":80}"#]],
        );
        check(
            &FromShim::Started { pid: 7, at: 5, version: 1, warnings: Vec::new() },
            expect![[r#"{"say":"started","pid":7,"at":5,"version":1,"warnings":[]}"#]],
        );
        check(&ToShim::Keep { name: "dns".to_owned() }, expect![[r#"{"say":"keep","name":"dns"}"#]]);
        check(&ToShim::Drop { name: "dns".to_owned() }, expect![[r#"{"say":"drop","name":"dns"}"#]]);
        check(&ToShim::GiveKept, expect![[r#"{"say":"give-kept"}"#]]);
        check(
            &FromShim::Kept { names: vec!["dns".to_owned()], more: true },
            expect![[r#"{"say":"kept","names":["dns"],"more":true}"#]],
        );
        check(&Role::Keep("dns".to_owned()), expect![[r#"{"keep":"dns"}"#]]);
        check(
            &FromShim::Exited(Exit { code: 137, oom: true, at: 9 }),
            expect![[r#"{"say":"exited","code":137,"oom":true,"at":9}"#]],
        );
    }

    #[test]
    fn a_word_of_a_later_version_is_ignored() {
        let later = br#"{"say":"dance","tempo":3}"#;
        assert_eq!(serde_json::from_slice::<ToShim>(later).unwrap(), ToShim::Unknown);
        assert_eq!(serde_json::from_slice::<ToSpawner>(later).unwrap(), ToSpawner::Unknown);
        assert_eq!(serde_json::from_slice::<FromShim>(later).unwrap(), FromShim::Unknown);
        let grown = br#"{"say":"resize","rows":1,"columns":2,"pixels":[3,4]}"#;
        let resize = ToShim::Resize { rows: 1, columns: 2 };
        assert_eq!(serde_json::from_slice::<ToShim>(grown).unwrap(), resize);
    }

    #[test]
    fn ids_cannot_leave_their_folder() {
        for good in ["a", "0f3c", "web_1.x-y", &"a".repeat(128)] {
            assert!(valid_id(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "../a", "a\0", "a b", ".hidden", &"a".repeat(129)] {
            assert!(!valid_id(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_message_over_the_limit_is_not_sent() {
        let (a, _b) = socket::pair().unwrap();
        let long = "x".repeat(MESSAGE_MAX);
        assert!(matches!(send(&a, &long, &[]), Err(Error::TooLong { .. })));
    }
}
