//! What a container's first process and the shim say to each other before the program runs.
//!
//! ```text
//! shim                                   init (or exec's child)
//!        <--- Born + pidfd ----------    in a user namespace: init was made by a process between
//!        ---- go ------------------->
//!        <--- Failed ---------------     anything went wrong; init ends
//!        <--- Hooks ----------------     mounts are made, hooks of the runtime are due
//!        ---- go ------------------->
//!        <--- Prepared + fds --------    the root's descriptor, the terminal's master
//!        <--- Ready ----------------     only with a hold: waits for it, then execs
//!        <--- end of file ----------     the program runs (the socket closes on exec)
//! ```
//!
//! One seqpacket pair; every message is JSON in one packet.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hull_sys::error::During;
use rustix::event::{PollFd, PollFlags};
use serde::{Deserialize, Serialize};

use super::failure::{OrFail, Result};
use crate::bundle::StartError;

/// Room for one message: the longest StartError, warnings.
const MAX_PACKET: usize = 64 * 1024;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Message {
    Failed(StartError),
    /// By a process between the shim and init, which ends now.
    Born {
        pid: i32,
    },
    Hooks,
    Prepared {
        warnings: Vec<String>,
        terminal: bool,
    },
    Ready,
}

/// Sends with descriptors.
pub(super) fn send(socket: &OwnedFd, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<()> {
    let bytes = serde_json::to_vec(message).or_host()?;
    hull_sys::socket::send(socket, &bytes, fds).or_host()
}

/// Sends with write(2) alone: a container's own seccomp profile may be in force already.
pub(super) fn tell(socket: &OwnedFd, message: &Message) {
    if let Ok(bytes) = serde_json::to_vec(message) {
        // Nobody is left to hear of a failure here: the process ends and that says it.
        let _ = rustix::io::write(socket, &bytes);
    }
}

/// The next message with its descriptors; `None` is the end.
pub(super) fn receive(socket: &OwnedFd) -> Result<Option<(Message, Vec<OwnedFd>)>> {
    let mut buffer = vec![0; MAX_PACKET];
    let got = match hull_sys::socket::receive(socket.as_fd(), &mut buffer) {
        // Killed with our word unread.
        Err(error) if error.errno == hull_sys::Errno::CONNRESET => return Ok(None),
        got => got.or_host()?,
    };
    if got.len == 0 {
        return Ok(None);
    }
    let message = serde_json::from_slice(&buffer[..got.len]).or_host()?;
    Ok(Some((message, got.fds)))
}

/// Waits for a message, or the end of the process behind `pidfd`, whose child may keep the socket
/// open; whether there is a message.
pub(super) fn before(socket: &OwnedFd, pidfd: &OwnedFd) -> Result<bool> {
    let mut waiting = [socket, pidfd].map(|fd| PollFd::new(fd, PollFlags::IN));
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut waiting, None)).during("poll", || "").or_host()?;
    Ok(!waiting[0].revents().is_empty())
}

/// Says go.
pub(super) fn go(socket: &OwnedFd) -> Result<()> {
    hull_sys::socket::send(socket, b"go", &[]).or_host()
}

/// Waits for go; false when the other side has gone.
pub(super) fn wait_go(socket: &OwnedFd) -> bool {
    matches!(hull_sys::socket::receive(socket, &mut [0; 8]), Ok(got) if got.len > 0)
}
