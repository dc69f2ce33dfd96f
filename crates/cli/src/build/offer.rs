//! What the client has for a build, and how the daemon's questions are answered with it.
//!
//! Only what the command line names is ever given: the context, the secrets of `--secret`, the agents of
//! `--ssh`.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use hull_api::build::Question;
use hull_api::build::frame::{Heard, PIECE};
use hull_api::build::link::Sender;
use hull_context::files;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::context::{self, Context};
use super::known;
use crate::command::{Failure, fail};
use crate::create::reason;

/// Bytes of a secret, as the reference has it.
const SECRET_MAX: u64 = 500 << 10;
/// Bytes that a pipe of a context holds, where the host allows it (pipe(7), `pipe-max-size`).
const PIPE: usize = 1 << 20;

/// All of it.
#[derive(Default)]
pub(super) struct Offer {
    /// By name; the main one's is empty. Archives that have gone to the daemon are not there any more.
    contexts: Mutex<BTreeMap<String, Source>>,
    secrets: BTreeMap<String, Secret>,
    /// Sockets.
    agents: BTreeMap<String, PathBuf>,
}

/// Where a context is.
pub(super) enum Source {
    Folder(Arc<Context>),
    /// An archive that is made already.
    Archive(Vec<u8>),
    /// The archive's beginning; the rest is on standard input.
    Stdin(Vec<u8>),
}

#[derive(Debug, PartialEq, Eq)]
enum Secret {
    File(PathBuf),
    Variable(String),
}

impl Offer {
    pub(super) fn new<'a>(
        contexts: BTreeMap<String, Source>,
        secrets: impl Iterator<Item = &'a str>,
        agents: impl Iterator<Item = &'a str>,
    ) -> Result<Offer, Failure> {
        let secrets = secrets.map(|text| secret(text, |name| std::env::var_os(name).is_some()));
        let socket = std::env::var("SSH_AUTH_SOCK").unwrap_or_default();
        let agents = agents.map(|text| agent(text, &socket));
        Ok(Offer {
            contexts: Mutex::new(contexts),
            secrets: secrets.collect::<Result<_, _>>()?,
            agents: agents.collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn secrets(&self) -> Vec<String> {
        self.secrets.keys().cloned().collect()
    }

    pub(super) fn agents(&self) -> Vec<String> {
        self.agents.keys().cloned().collect()
    }

    fn contexts(&self) -> MutexGuard<'_, BTreeMap<String, Source>> {
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folder(&self, name: &str) -> Option<Arc<Context>> {
        match self.contexts().get(name)? {
            Source::Folder(context) => Some(Arc::clone(context)),
            _ => None,
        }
    }

    /// # Errors
    /// What is wrong here ends the build. A daemon that has closed its ear is none: it says why.
    pub(super) async fn answer(
        &self,
        number: u32,
        asked: Question,
        tell: &Sender<Heard>,
    ) -> Result<(), Failure> {
        match asked {
            Question::Context(name) => match (self.folder(&name), tell.is_local()) {
                (Some(context), true) => list(context, number, tell).await,
                (Some(context), false) => far_list(context, number, tell).await,
                (None, _) => {
                    let source = self.contexts().remove(&name);
                    match source {
                        Some(source) => return send_context(source, number, tell).await,
                        None => refuse(number, format!("no context {name:?} is offered"), tell).await,
                    }
                    Ok(())
                }
            },
            Question::Dockerfile => {
                let Some(context) = self.folder("") else {
                    refuse(number, "no folder is offered".to_owned(), tell).await;
                    return Ok(());
                };
                let failed = |error: io::Error| {
                    fail(format!("failed to read {}: {}", context.dockerfile, reason(&error)))
                };
                pieces(Cursor::new(context.dockerfile_bytes().map_err(failed)?), number, tell).await;
                Ok(())
            }
            Question::Files(name) => {
                let Some(context) = self.folder(&name).filter(|_| tell.is_local()) else {
                    refuse(number, format!("no files of a context {name:?} are offered"), tell).await;
                    return Ok(());
                };
                let (theirs, ours) = files::pair().map_err(io::Error::from)?;
                // It ends with its asker, at the latest when this process ends.
                std::thread::spawn(move || context.serve(&ours));
                tell.send_with(&Heard::Descriptor { question: number }, &[theirs.as_fd()]).await.ok();
                Ok(())
            }
            Question::Contents { context: name, numbers } => {
                let Some(context) = self.folder(&name) else {
                    refuse(number, format!("no files of a context {name:?} are offered"), tell).await;
                    return Ok(());
                };
                passed(number, tell, move |out| context.contents(&numbers, out)).await
            }
            Question::Secret(id) => {
                match self.secrets.get(&id) {
                    Some(secret) => pieces(Cursor::new(secret.read()?), number, tell).await,
                    None => refuse(number, format!("no secret {id:?} is offered"), tell).await,
                }
                Ok(())
            }
            Question::Agent(id) => {
                let Some(socket) = self.agents.get(&id) else {
                    refuse(number, format!("no agent {id:?} is offered"), tell).await;
                    return Ok(());
                };
                connect(socket, number, tell).await
            }
        }
    }
}

async fn send_context(source: Source, number: u32, tell: &Sender<Heard>) -> Result<(), Failure> {
    match source {
        Source::Archive(bytes) => pieces(Cursor::new(bytes), number, tell).await,
        Source::Stdin(first) => {
            let rest = AsyncReadExt::chain(Cursor::new(first), tokio::io::stdin());
            pieces(rest, number, tell).await;
        }
        Source::Folder(context) => return pack(context, number, tell).await,
    }
    Ok(())
}

fn unread(error: io::Error) -> Failure {
    fail(format!("the context cannot be read: {}", reason(&error)))
}

/// The list of a folder of this host.
async fn list(context: Arc<Context>, number: u32, tell: &Sender<Heard>) -> Result<(), Failure> {
    let (list, folder) = match context.list() {
        Ok(Some(list)) => list,
        Ok(None) => return pack(context, number, tell).await,
        Err(error) => {
            refuse(number, reason(&error), tell).await;
            return Ok(());
        }
    };
    let message = Heard::Listing { question: number };
    tell.send_with(&message, &[list.as_fd(), folder.as_fd()]).await.ok();
    Ok(())
}

/// The same for a daemon elsewhere.
async fn far_list(context: Arc<Context>, number: u32, tell: &Sender<Heard>) -> Result<(), Failure> {
    let shared = Arc::clone(&context);
    let look = tokio::task::spawn_blocking(move || shared.far_list(known::folder().as_deref()));
    let (list, digests) = match look.await? {
        Ok(Some(told)) => told,
        Ok(None) => return pack(context, number, tell).await,
        Err(error) => {
            refuse(number, reason(&error), tell).await;
            return Ok(());
        }
    };
    let size = u32::try_from(list.len()).unwrap_or(u32::MAX);
    // A daemon that hears nothing any more says why.
    tell.send(&Heard::FarListing { question: number, list: size }).await.ok();
    pieces(AsyncReadExt::chain(Cursor::new(list), Cursor::new(digests)), number, tell).await;
    Ok(())
}

/// Through a pipe, whose end a daemon of this host gets; to others its bytes are passed on.
async fn pack(context: Arc<Context>, number: u32, tell: &Sender<Heard>) -> Result<(), Failure> {
    if !tell.is_local() {
        return passed(number, tell, move |out| context.send(out)).await;
    }
    let (output, input) = pipe()?;
    // What is cut off is no end: until its reason has been told here the reader sees none.
    let _open = input.try_clone()?;
    let packing = tokio::task::spawn_blocking(move || context.send(input));
    tell.send_with(&Heard::Descriptor { question: number }, &[output.as_fd()]).await.ok();
    drop(output);
    written(packing.await)
}

/// What `write` writes, in pieces.
async fn passed(
    number: u32,
    tell: &Sender<Heard>,
    write: impl FnOnce(OwnedFd) -> io::Result<()> + Send + 'static,
) -> Result<(), Failure> {
    let (output, input) = pipe()?;
    // As above.
    let open = input.try_clone()?;
    let mut writing = tokio::task::spawn_blocking(move || write(input));
    let output = tokio::net::unix::pipe::Receiver::from_owned_fd(output)?;
    let mut sending = std::pin::pin!(pieces(output, number, tell));
    tokio::select! {
        ended = &mut writing => {
            if matches!(ended, Ok(Ok(()))) {
                drop(open);
                sending.await;
            }
            written(ended)
        }
        // The daemon hears no more, and says why.
        () = &mut sending => Ok(()),
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (output, input) = io::pipe()?;
    // A smaller one does as well, more slowly.
    let _ = rustix::pipe::fcntl_setpipe_size(&input, PIPE);
    Ok((output.into(), input.into()))
}

fn written(ended: Result<io::Result<()>, tokio::task::JoinError>) -> Result<(), Failure> {
    match ended {
        Ok(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => Err(unread(error)),
        _ => Ok(()),
    }
}

/// All that can be read, and its end. Where it cannot be, that is said.
async fn pieces(mut source: impl AsyncRead + Unpin, question: u32, tell: &Sender<Heard>) {
    let mut block = vec![0; PIECE];
    loop {
        let said = match source.read(&mut block).await {
            Ok(0) => Heard::End { question },
            Ok(count) => Heard::Piece { question, bytes: Bytes::copy_from_slice(&block[..count]) },
            Err(error) => Heard::Refused { question, why: reason(&error) },
        };
        let last = !matches!(said, Heard::Piece { .. });
        if tell.send(&said).await.is_err() || last {
            return;
        }
    }
}

async fn refuse(question: u32, why: String, tell: &Sender<Heard>) {
    // A daemon that hears nothing any more says why.
    tell.send(&Heard::Refused { question, why }).await.ok();
}

async fn connect(socket: &Path, question: u32, tell: &Sender<Heard>) -> Result<(), Failure> {
    if !tell.is_local() {
        let why = "an agent is given to a daemon on the same host only (unix://)";
        refuse(question, why.to_owned(), tell).await;
        return Ok(());
    }
    match UnixStream::connect(socket) {
        Ok(agent) => {
            tell.send_with(&Heard::Descriptor { question }, &[agent.as_fd()]).await.ok();
        }
        Err(error) => {
            refuse(question, format!("connect {}: {}", socket.display(), reason(&error)), tell).await;
        }
    }
    Ok(())
}

impl Secret {
    fn read(&self) -> Result<Vec<u8>, Failure> {
        use std::os::unix::ffi::OsStringExt;
        let bytes = match self {
            Secret::Variable(name) => std::env::var_os(name).unwrap_or_default().into_vec(),
            Secret::File(path) => {
                let failed = |error| fail(format!("open {}: {}", path.display(), reason(&error)));
                let mut bytes = Vec::new();
                let file = std::fs::File::open(path).map_err(failed)?;
                file.take(SECRET_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
                bytes
            }
        };
        if bytes.len() as u64 > SECRET_MAX {
            return Err(fail(format!("a secret has {SECRET_MAX} bytes at most: {self}")));
        }
        Ok(bytes)
    }
}

impl std::fmt::Display for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Secret::File(path) => write!(f, "{}", path.display()),
            Secret::Variable(name) => write!(f, "the variable {name}"),
        }
    }
}

/// `id=ID[,src=FILE|env=NAME][,type=file|env]`; without a source the variable of that name, else the file.
fn secret(text: &str, is_set: impl Fn(&str) -> bool) -> Result<(String, Secret), Failure> {
    let wrong = |what: &str| fail(format!("invalid secret {text:?}: {what}"));
    let (mut id, mut source, mut variable, mut kind) = (None, None, None, None);
    for field in text.split(',') {
        let (name, value) = field.split_once('=').ok_or_else(|| wrong("it is id=ID[,src=FILE|env=NAME]"))?;
        match name.to_ascii_lowercase().as_str() {
            "id" => id = Some(value.to_owned()),
            "src" | "source" => source = Some(value.to_owned()),
            "env" => variable = Some(value.to_owned()),
            "type" if matches!(value, "file" | "env") => kind = Some(value),
            "type" => return Err(wrong("its type is file or env")),
            _ => return Err(wrong(&format!("unexpected key {name:?}: use id, src, env or type"))),
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| wrong("it has no id"))?;
    let secret = match (kind, source, variable) {
        (_, Some(_), Some(_)) => return Err(wrong("it is of a file or of a variable, not of both")),
        (Some("env"), Some(name), None) | (_, None, Some(name)) => Secret::Variable(name),
        (_, Some(file), None) => Secret::File(file.into()),
        (Some("env"), None, None) => Secret::Variable(id.clone()),
        (None, None, None) if is_set(&id) => Secret::Variable(id.clone()),
        (_, None, None) => Secret::File(id.clone().into()),
    };
    match &secret {
        Secret::File(path) if !path.exists() => {
            Err(fail(format!("failed to stat {}: no such file or directory", path.display())))
        }
        _ => Ok((id, secret)),
    }
}

/// `default|ID[=SOCKET]`; without a socket that of the environment.
fn agent(text: &str, environment: &str) -> Result<(String, PathBuf), Failure> {
    let (id, path) = text.split_once('=').unwrap_or((text, environment));
    let id = if id.is_empty() { "default" } else { id };
    if path.is_empty() {
        return Err(fail("invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set"));
    }
    let kind = std::fs::metadata(path).map_err(|error| fail(format!("stat {path}: {}", reason(&error))))?;
    if !kind.file_type().is_socket() {
        return Err(fail(format!(
            "{path} is no agent's socket: start an agent and give it the key (ssh-add)"
        )));
    }
    Ok((id.to_owned(), path.into()))
}

/// What standard input is: an archive, or a Dockerfile without a context. With the Dockerfile's name in it.
pub(super) fn from_stdin(file: &str) -> Result<(Source, String), Failure> {
    if crate::terminal::stdin_is_terminal() {
        return Err(fail(
            "the context is read from STDIN, but STDIN is a terminal: redirect an archive or a Dockerfile",
        ));
    }
    let mut first = vec![0; 512];
    let mut have = 0;
    while have < first.len() {
        match io::stdin().read(&mut first[have..])? {
            0 => break,
            count => have += count,
        }
    }
    first.truncate(have);
    if context::is_archive(&first) {
        return Ok((Source::Stdin(first), file.to_owned()));
    }
    io::stdin().read_to_end(&mut first)?;
    Ok((Source::Archive(context::alone(&first)?), String::new()))
}

/// Of a task of its own.
pub(super) type Shared = Arc<Offer>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_of_files_or_of_variables() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let read =
            |text: &str| secret(text, |name| name == "SET").map(|(id, secret)| format!("{id} {secret}"));
        assert_eq!(read(&format!("id=a,src={path}")).unwrap(), format!("a {path}"));
        assert_eq!(read("id=a,env=B").unwrap(), "a the variable B");
        assert_eq!(read("type=env,id=a,src=B").unwrap(), "a the variable B");
        assert_eq!(read("id=a,type=env").unwrap(), "a the variable a");
        assert_eq!(read("id=SET").unwrap(), "SET the variable SET");
        for (bad, why) in [
            ("id=nosuchfile", "failed to stat nosuchfile: no such file or directory"),
            ("src=x", "it has no id"),
            ("x", "it is id=ID[,src=FILE|env=NAME]"),
            ("id=a,to=b", "unexpected key \"to\""),
            ("id=a,src=b,env=c", "not of both"),
            ("id=a,type=b", "its type is file or env"),
        ] {
            assert!(read(bad).unwrap_err().message.contains(why), "{bad}");
        }
    }

    #[test]
    fn agents_are_sockets() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("agent");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let socket = path.to_str().unwrap();
        assert_eq!(agent("default", socket).unwrap(), ("default".to_owned(), path.clone()));
        assert_eq!(agent(&format!("x={socket}"), "").unwrap(), ("x".to_owned(), path.clone()));
        let empty = agent("default", "").unwrap_err().message;
        assert_eq!(empty, "invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set");
        let key = scratch.path().join("key");
        std::fs::write(&key, "").unwrap();
        let key = agent(&format!("x={}", key.display()), "").unwrap_err().message;
        assert!(key.ends_with("is no agent's socket: start an agent and give it the key (ssh-add)"), "{key}");
    }
}
