//! The way from a caller to a container's task: commands in, answers out, and a view that can be
//! read at any time.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::requests::{Attach, Attachment, Condition, ExecSettings, Remove, Update, WaitResult};
use super::view::View;
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
        attach: Attach,
        reply: Reply<Attachment>,
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
        heard: super::link::Word,
    },
}

#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) id: String,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) commands: mpsc::Sender<Command>,
}

impl Handle {
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
