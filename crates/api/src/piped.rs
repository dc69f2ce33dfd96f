//! An archive of a daemon on the same host, which does not come through the daemon.
//!
//! The daemon gives the client an end of the very pipe that the worker in the container's files reads
//! or writes; so the bytes are copied once, and by nobody between. Over a connection taken over from
//! HTTP (`POST /hull/v1/containers/{id}/archive/{read,write}`, Unix sockets only) they say:
//!
//! | who | says |
//! |---|---|
//! | daemon | `101`; of a reader's with the header of [`crate::archive`] |
//! | client | one byte: it has read the head and nothing behind it |
//! | daemon | one byte, and beside it the pipe's end (`SCM_RIGHTS`, unix(7)) |
//! | client or worker | the archive into the pipe, and its end |
//! | daemon | [`Ended`] as JSON, and its end |
//!
//! The client's byte comes first because who reads a socket without asking for descriptors loses them.
//! No descriptor goes the other way: the client opens its own files, the worker those of the
//! container, and neither opens anything for the other.
//!
//! A client that goes before [`Ended`] has been said breaks the copy off.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use http::{HeaderMap, StatusCode};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use crate::client::{Body, Client, Endpoint, Error, Query, Result, Stream};

/// Bytes of [`Ended`]: an error is only ever shown.
const ENDED_MAX: u64 = 64 << 10;

/// How the copy ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// As an answer without a pipe would have had it: 200, or why not.
    pub status: u16,
    pub message: String,
}

/// The client's end of a pipe, and the connection that tells what becomes of it.
#[derive(Debug)]
pub struct Piped {
    /// Of the answer.
    pub headers: HeaderMap,
    path: String,
    connection: UnixStream,
}

impl Piped {
    /// Asks for a pipe. `None`: the daemon is on another host, or has no such path.
    ///
    /// # Errors
    /// Any other refusal, and a connection that breaks.
    pub async fn open(client: &Client, path: &str, query: &Query) -> Result<Option<(Piped, OwnedFd)>> {
        if !matches!(client.endpoint(), Endpoint::Unix(_)) {
            return Ok(None);
        }
        let upgraded = match client.upgrade(path, query, Body::Empty).await {
            Err(error) if error.is_not_found() => return Ok(None),
            upgraded => upgraded?,
        };
        let Stream::Unix(mut connection) = upgraded.stream else { return Ok(None) };
        let lost = |source| Error::Lost { path: path.to_owned(), source };
        connection.write_all(b"\n").await.map_err(lost)?;
        let pipe = connection.async_io(Interest::READABLE, || receive(&connection)).await.map_err(lost)?;
        Ok(Some((Piped { headers: upgraded.headers, path: path.to_owned(), connection }, pipe)))
    }

    /// Waits until the daemon's side has done its work. The pipe must have been closed.
    ///
    /// # Errors
    /// What the daemon says against it, as a refusal; a connection that breaks.
    pub async fn end(self) -> Result<()> {
        let mut text = Vec::new();
        let read = self.connection.take(ENDED_MAX).read_to_end(&mut text).await;
        read.map_err(|source| Error::Lost { path: self.path.clone(), source })?;
        let ended: Ended =
            serde_json::from_slice(&text).map_err(|source| Error::Answer { path: self.path, source })?;
        match StatusCode::from_u16(ended.status) {
            Ok(status) if status.is_success() => Ok(()),
            status => {
                let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                Err(Error::Refused { status, message: ended.message })
            }
        }
    }
}

/// One byte with one descriptor, which is a pipe's.
fn receive(connection: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let read = &mut [IoSliceMut::new(&mut byte)];
    let message = recvmsg(connection, read, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let none = || io::Error::new(io::ErrorKind::InvalidData, "it came without a pipe");
    if message.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut rights = ancillary.drain().filter_map(|part| match part {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    let pipe = rights.next().and_then(|mut rights| rights.next()).ok_or_else(none)?;
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(pipe.as_fd())?.st_mode);
    if kind == rustix::fs::FileType::Fifo { Ok(pipe) } else { Err(none()) }
}
