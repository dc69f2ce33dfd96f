//! The daemon's side of [`hull_api::piped`]: an end of a worker's pipe for a client of this host.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;

use bytes::Bytes;
use http::StatusCode;
use hull_api::piped::Ended;
use hull_sys::socket;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};

use crate::http::Failure;
use crate::serve::Socket;

/// What is done while the client has the pipe; dropped, it is broken off.
type Work = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

pub(crate) struct Piped {
    pipe: OwnedFd,
    work: Work,
}

impl fmt::Debug for Piped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Piped").field("pipe", &self.pipe).finish_non_exhaustive()
    }
}

impl Piped {
    pub(crate) fn new(
        pipe: OwnedFd,
        work: impl Future<Output = hull_engine::Result<()>> + Send + 'static,
    ) -> Piped {
        Piped { pipe, work: Box::pin(async move { Ok(work.await?) }) }
    }
}

/// What follows the head. `gone` is done when the client is.
pub(crate) async fn run(
    mut client: Socket,
    ahead: Bytes,
    piped: Piped,
    gone: impl Future<Output = ()>,
) -> io::Result<()> {
    if ahead.is_empty() && client.read(&mut [0]).await? == 0 {
        return Ok(());
    }
    give(&client, piped.pipe).await?;
    let ended = tokio::select! {
        ended = piped.work => ended,
        () = gone => return Ok(()),
    };
    let ended = match ended {
        Ok(()) => Ended { status: StatusCode::OK.as_u16(), message: String::new() },
        Err(failure) => Ended { status: failure.status.as_u16(), message: failure.message },
    };
    client.write_all(&serde_json::to_vec(&ended)?).await?;
    client.shutdown().await
}

async fn give(client: &Socket, pipe: OwnedFd) -> io::Result<()> {
    let Socket::Unix(client) = client else {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "only a Unix socket carries descriptors"));
    };
    let send = || socket::send(client, b"\n", &[pipe.as_fd()]).map_err(|error| error.errno.into());
    client.async_io(Interest::WRITABLE, send).await
}
