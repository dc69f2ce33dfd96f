//! The way from a caller to a container's task: commands in, answers out, and a view that can be
//! read at any time.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{RwLock, mpsc, oneshot, watch};

use super::attach::Seat;
use super::requests::{Attach, Attachment, Condition, ExecSettings, Remove, Update, WaitResult};
use super::view::View;
use crate::networks::Join;
use crate::{Error, Result};

/// Where an answer goes. A caller that has left is no error.
pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

/// What a task is asked. `key` is the caller's word for the container, for messages.
#[derive(Debug)]
pub(crate) enum Command {
    Start {
        reply: Reply<()>,
    },
    Stop {
        signal: Option<i32>,
        timeout: Option<i32>,
        restart: bool,
        reply: Reply<()>,
    },
    Kill {
        key: String,
        signal: i32,
        reply: Reply<()>,
    },
    Pause {
        reply: Reply<()>,
    },
    Unpause {
        reply: Reply<()>,
    },
    /// The new name is reserved in the registry already.
    Rename {
        name: String,
        reply: Reply<()>,
    },
    Connect {
        join: Box<Join>,
        reply: Reply<()>,
    },
    /// By the network's id.
    Disconnect {
        network: String,
        reply: Reply<()>,
    },
    /// The link of this alias; `key` is the caller's word for it.
    Unlink {
        key: String,
        alias: String,
        reply: Reply<()>,
    },
    Update {
        update: Box<Update>,
        reply: Reply<Vec<String>>,
    },
    Remove {
        key: String,
        options: Remove,
        reply: Reply<()>,
    },
    Wait {
        condition: Condition,
        exit: oneshot::Sender<WaitResult>,
        reply: Reply<()>,
    },
    Attach {
        key: String,
        attach: Attach,
        reply: Reply<Attachment>,
    },
    Seat {
        key: String,
        attach: Attach,
        reply: Reply<Seat>,
    },
    Resize {
        rows: u16,
        columns: u16,
        reply: Reply<()>,
    },
    ExecCreate {
        key: String,
        settings: Box<ExecSettings>,
        reply: Reply<String>,
    },
    ExecStart {
        id: String,
        detach: bool,
        size: Option<(u16, u16)>,
        reply: Reply<Option<Attachment>>,
    },
    ExecResize {
        id: String,
        rows: u16,
        columns: u16,
        reply: Reply<()>,
    },
    /// From the reader of an exec's socket.
    ExecHeard {
        id: String,
        word: super::link::Word,
    },
    /// The stream has had what comes first: now what the process writes (see `attach`).
    Join {
        attach: hull_runtime::protocol::Attach,
        stream: OwnedFd,
        head: Vec<u8>,
    },
    /// The daemon has found all containers and begins its work.
    Boot {
        reply: Reply<()>,
    },
    /// The daemon leaves; the container stays.
    Close,
}

#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) id: String,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) commands: mpsc::Sender<Command>,
    /// The pidfd of the first process while it lives, for who wants to join its namespaces.
    pub(crate) process: Mutex<Option<Arc<OwnedFd>>>,
    /// Held by who commits it: what one freezes, no other may thaw.
    pub(crate) committing: tokio::sync::Mutex<()>,
    /// Held by who writes to the container's files from outside: alone where that mounts the writable
    /// layer, with others where the container has it mounted. A start waits until nobody holds it.
    pub(crate) layer: Arc<RwLock<()>>,
}

impl Handle {
    pub(crate) fn process(&self) -> Option<Arc<OwnedFd>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_process(&self, pidfd: Option<Arc<OwnedFd>>) {
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = pidfd;
    }

    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    /// Sends a command and waits for its answer. `key` is the caller's word for the container,
    /// for the case that it has gone meanwhile.
    pub(crate) async fn ask<T>(&self, key: &str, command: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let gone = || Error::NoSuchContainer(key.to_owned());
        self.commands.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}
