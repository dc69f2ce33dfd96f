//! A connection taken over: after the answer's head it is a plain stream between client and
//! container.
//!
//! The reference hijacks in two ways: with `101 UPGRADED` when the client asks for an upgrade, and
//! with a plain `200` whose body is the raw stream when it does not. hyper knows only the first,
//! so both go the same way here: the handler leaves a [`Takeover`] in the connection's [`Slot`]
//! and answers hyper with a dummy that closes. The slot's mark makes the connection drop the
//! dummy's bytes; hyper then gives the socket back with what it has read ahead, and [`run`] writes
//! the real head and carries bytes both ways. Either side may close its half first. A local client
//! that only listens needs nobody to carry its bytes: its socket goes to the container whole.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hull_engine::containers::attach::Seat;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::detach::{Filter, Keys, Typed};
use crate::piped::{self, Piped};
use crate::serve::Socket;

/// What a handler wants done with its connection.
#[derive(Debug)]
pub(crate) struct Takeover {
    /// The answer's head, with the empty line.
    pub head: Vec<u8>,
    pub then: Then,
}

/// What follows the head.
#[derive(Debug)]
pub(crate) enum Then {
    /// These bytes, then the end.
    Say(Vec<u8>),
    /// The client's socket goes to the container, and the head with it.
    Seat(Seat),
    /// The client gets a pipe, and hears what became of it.
    Pipe(Piped),
    /// What the handler does itself.
    Own(Own),
    /// The container's stream.
    Stream {
        stream: UnixStream,
        /// What the client types goes to the container.
        stdin: bool,
        /// With a terminal: the keys that detach.
        keys: Option<Keys>,
    },
}

type Work = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// A protocol of our own: it has the socket, and the bytes of the client that were read already. Dropped
/// when the client has gone.
pub(crate) struct Own(Box<dyn FnOnce(Socket, Bytes) -> Work + Send>);

impl Own {
    pub(crate) fn new<F>(serve: impl FnOnce(Socket, Bytes) -> F + Send + 'static) -> Own
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        Own(Box::new(move |socket, ahead| Box::pin(serve(socket, ahead))))
    }
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Own").finish_non_exhaustive()
    }
}

/// Where a handler leaves its wish; one for each connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slot(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    local: bool,
    taken: AtomicBool,
    takeover: Mutex<Option<Takeover>>,
}

impl Slot {
    /// `local`: of a Unix socket.
    pub(crate) fn new(local: bool) -> Slot {
        Slot(Arc::new(Shared { local, ..Shared::default() }))
    }

    /// Whether the connection may be given away: the end of a TCP connection, unlike that of a Unix
    /// socket, has to be looked after until the client has read everything.
    pub(crate) fn is_local(&self) -> bool {
        self.0.local
    }

    /// From here on nothing that hyper writes reaches the client.
    pub(crate) fn put(&self, takeover: Takeover) {
        *self.0.takeover.lock().unwrap_or_else(PoisonError::into_inner) = Some(takeover);
        self.0.taken.store(true, Ordering::Release);
    }

    pub(crate) fn is_taken(&self) -> bool {
        self.0.taken.load(Ordering::Acquire)
    }

    pub(crate) fn take(&self) -> Option<Takeover> {
        self.0.takeover.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The head of a hijacked answer; `identity` are all other headers, each with its end of line.
pub(crate) fn head(upgrade: bool, content_type: &str, identity: &str) -> Vec<u8> {
    if upgrade {
        format!(
            "HTTP/1.1 101 UPGRADED\r\nContent-Type: {content_type}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n{identity}\r\n"
        )
    } else {
        format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n{identity}\r\n")
    }
    .into_bytes()
}

/// Writes the head and carries the stream until the container's side ends, the client detaches or
/// vanishes. `ahead` are bytes of the client that were already read; `gone` is done when the
/// client has closed both its halves, which reading alone does not tell.
pub(crate) async fn run(
    mut client: Socket,
    ahead: Bytes,
    takeover: Takeover,
    gone: impl Future<Output = ()>,
) -> io::Result<()> {
    match takeover.then {
        Then::Seat(seat) => {
            seat.take(client.into_fd()?, takeover.head).await;
            Ok(())
        }
        Then::Pipe(pipe) => {
            client.write_all(&takeover.head).await?;
            piped::run(client, ahead, pipe, gone).await
        }
        Then::Own(Own(serve)) => {
            client.write_all(&takeover.head).await?;
            tokio::select! {
                ended = serve(client, ahead) => ended,
                () = gone => Ok(()),
            }
        }
        Then::Say(bytes) => {
            client.write_all(&takeover.head).await?;
            client.write_all(&bytes).await?;
            client.shutdown().await
        }
        Then::Stream { mut stream, stdin, keys } => {
            client.write_all(&takeover.head).await?;
            let (from_container, to_container) = stream.split();
            let (mut from_client, mut to_client) = tokio::io::split(client);
            {
                let input = input(&mut from_client, to_container, ahead, stdin, keys);
                let output = output(from_container, &mut to_client);
                tokio::pin!(input, output);
                // The end of the input alone ends nothing (it is a half-close), except when the
                // client detached; the end of the output always does.
                tokio::select! {
                    result = &mut output => result?,
                    ended = &mut input => match ended {
                        Ended::Closed => tokio::select! {
                            result = &mut output => result?,
                            () = gone => return Ok(()),
                        },
                        Ended::Detached => {}
                    },
                }
            }
            to_client.shutdown().await?;
            // Closing while bytes of the client are unread would reset the connection, and its
            // last words to the client with it (a typical case: `yes | docker run -i … true`).
            let _ = tokio::time::timeout(LINGER, drain(&mut from_client)).await;
            Ok(())
        }
    }
}

/// How long a client may take to notice the end.
const LINGER: Duration = Duration::from_millis(500);

async fn drain(client: &mut (impl AsyncRead + Unpin)) {
    let mut block = vec![0; 4 << 10];
    while client.read(&mut block).await.is_ok_and(|count| count > 0) {}
}

/// Why the input ended.
enum Ended {
    Closed,
    Detached,
}

async fn input(
    client: &mut (impl AsyncRead + Unpin),
    mut container: impl AsyncWrite + Unpin,
    ahead: Bytes,
    stdin: bool,
    keys: Option<Keys>,
) -> Ended {
    let mut filter = keys.map(Filter::new);
    let mut block = vec![0; 32 << 10];
    let mut pending = ahead;
    loop {
        if pending.is_empty() {
            match client.read(&mut block).await {
                Ok(0) | Err(_) => break,
                Ok(count) => pending = Bytes::copy_from_slice(&block[..count]),
            }
        }
        let typed = std::mem::take(&mut pending);
        if !stdin {
            continue;
        }
        let written = match filter.as_mut().map(|filter| filter.feed(&typed)) {
            None => container.write_all(&typed).await,
            Some(Typed::Forward(bytes)) => container.write_all(&bytes).await,
            Some(Typed::Detach(bytes)) => {
                // The client goes whether or not its last words arrive.
                drop(container.write_all(&bytes).await);
                return Ended::Detached;
            }
        };
        if written.is_err() {
            return Ended::Closed;
        }
    }
    if stdin {
        if let Some(filter) = &filter {
            drop(container.write_all(filter.rest()).await);
        }
        // A container that is gone already needs no end of input.
        drop(container.shutdown().await);
    }
    Ended::Closed
}

async fn output(
    mut container: impl AsyncRead + Unpin,
    client: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut block = vec![0; 32 << 10];
    loop {
        let count = match container.read(&mut block).await {
            // It ended with input of the client unread, which is no fault of anybody's.
            Ok(0) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            count => count?,
        };
        client.write_all(&block[..count]).await?;
        client.flush().await?;
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    async fn start(
        stdin: bool,
        keys: Option<Keys>,
    ) -> (UnixStream, UnixStream, tokio::task::JoinHandle<io::Result<()>>) {
        let (client, ours) = UnixStream::pair().unwrap();
        let (stream, container) = UnixStream::pair().unwrap();
        let takeover =
            Takeover { head: b"HEAD\r\n\r\n".to_vec(), then: Then::Stream { stream, stdin, keys } };
        let gone = crate::serve::hangup(ours.as_fd().try_clone_to_owned().unwrap());
        let task = tokio::spawn(run(Socket::Unix(ours), Bytes::from_static(b"early "), takeover, gone));
        (client, container, task)
    }

    async fn all(stream: &mut UnixStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn the_client_may_close_its_half_first_and_still_hear_the_rest() {
        let (mut client, mut container, task) = start(true, None).await;
        client.write_all(b"late").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(all(&mut container).await, "early late");
        container.write_all(b"answer").await.unwrap();
        drop(container);
        assert_eq!(all(&mut client).await, "HEAD\r\n\r\nanswer");
        task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_containers_end_closes_the_clients_stream() {
        let (mut client, container, task) = start(true, None).await;
        drop(container);
        assert_eq!(all(&mut client).await, "HEAD\r\n\r\n");
        drop(task.await.unwrap());
    }

    #[tokio::test]
    async fn the_detach_keys_leave_without_closing_anything_but_the_attach() {
        let (mut client, mut container, task) = start(true, Some(Keys::default())).await;
        client.write_all(b"x\x10\x11y").await.unwrap();
        assert_eq!(all(&mut client).await, "HEAD\r\n\r\n");
        assert_eq!(all(&mut container).await, "early x");
        task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_vanished_client_ends_the_attach_of_a_silent_container() {
        let (mut client, mut container, task) = start(true, None).await;
        client.read_exact(&mut [0; 8]).await.unwrap();
        drop(client);
        assert_eq!(all(&mut container).await, "early ");
        task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_container_that_ends_with_unread_input_is_no_error_for_the_client() {
        let (mut client, mut container, task) = start(true, None).await;
        client.write_all(&[b'y'; 10_000]).await.unwrap();
        container.write_all(b"out").await.unwrap();
        container.read_exact(&mut [0; 100]).await.unwrap();
        drop(container);
        assert_eq!(all(&mut client).await, "HEAD\r\n\r\nout");
        drop(client);
        task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn input_of_a_client_that_did_not_ask_for_stdin_goes_nowhere() {
        let (mut client, mut container, task) = start(false, None).await;
        client.write_all(b"noise").await.unwrap();
        client.shutdown().await.unwrap();
        container.write_all(b"out").await.unwrap();
        container.shutdown().await.unwrap();
        assert_eq!(all(&mut client).await, "HEAD\r\n\r\nout");
        task.await.unwrap().unwrap();
        assert_eq!(all(&mut container).await, "");
    }
}
