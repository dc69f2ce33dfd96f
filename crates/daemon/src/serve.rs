//! Connections: one task each, HTTP/1.1 with limits, until the client goes or is taken over.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Request, StatusCode};
use hull_sys::memory;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::event::{PollFd, PollFlags};
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

use crate::Server;
use crate::hijack::{self, Slot};
use crate::http::{Answer, Failure};
use crate::routes;

/// Connections served at the same time; more wait in the sockets' queues.
const CONNECTIONS: usize = 4096;
/// Time for a request's head to arrive.
const HEAD_TIME: Duration = Duration::from_secs(60);
/// After so long without a new client, the memory that serving the last ones took is given back;
/// so is what the start took.
const QUIET: Duration = Duration::from_secs(5);
/// Bytes of a request's head.
const HEAD_LIMIT: usize = 64 << 10;

/// An open address.
#[derive(Debug)]
pub(crate) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A client's connection.
#[derive(Debug)]
pub(crate) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    /// Without its place in this process' reactor; it still does not block.
    pub(crate) fn into_fd(self) -> io::Result<OwnedFd> {
        match self {
            Socket::Unix(stream) => stream.into_std().map(OwnedFd::from),
            Socket::Tcp(stream) => stream.into_std().map(OwnedFd::from),
        }
    }
}

impl Listener {
    async fn accept(&self) -> io::Result<Socket> {
        match self {
            Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| Socket::Unix(stream)),
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Terminals are typed at: no waiting for more to send.
                stream.set_nodelay(true)?;
                keep_alive(&stream)?;
                Ok(Socket::Tcp(stream))
            }
        }
    }
}

/// Has the kernel ask after a peer that says nothing (tcp(7)): one whose host or network has gone says no end.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15))?;
    sockopt::set_tcp_keepcnt(stream, 4)?;
    Ok(())
}

/// Accepts until `stop` says so. Requests that run then are given their time by the caller.
pub(crate) async fn accept(
    server: Arc<Server>,
    listener: Listener,
    places: Arc<Semaphore>,
    mut stop: watch::Receiver<bool>,
) {
    let mut touched = true;
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        // The semaphore is never closed.
        let Ok(place) = place else { return };
        let socket = tokio::select! {
            socket = listener.accept() => socket,
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(QUIET), if touched => {
                touched = false;
                memory::trim_heap();
                memory::release_code();
                continue;
            }
        };
        touched = true;
        match socket {
            Ok(socket) => {
                let server = Arc::clone(&server);
                let stop = stop.clone();
                tokio::spawn(async move {
                    connection(server, socket, stop).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Mostly "too many open files": others have to go first.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// As many connections as may be open at once.
pub(crate) fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(CONNECTIONS))
}

/// Serves one connection to its end.
pub(crate) async fn connection(server: Arc<Server>, socket: Socket, mut stop: watch::Receiver<bool>) {
    let gone = match socket.as_fd().try_clone_to_owned() {
        Ok(fd) => hangup(fd),
        Err(error) => {
            tracing::warn!(%error, "cannot watch a connection");
            return;
        }
    };
    let slot = Slot::new(matches!(socket, Socket::Unix(_)));
    let handler = {
        let slot = slot.clone();
        service_fn(move |request| Box::pin(serve(Arc::clone(&server), request, slot.clone())))
    };
    let io = TokioIo::new(Gate { socket, slot: slot.clone() });
    let mut connection = http1::Builder::new()
        .half_close(true)
        .title_case_headers(true)
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_LIMIT)
        .timer(TokioTimer::new())
        .serve_connection(io, handler);
    tokio::pin!(gone);
    let mut stopping = false;
    loop {
        tokio::select! {
            biased;
            ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended badly");
                    if slot.is_taken() || error.is_parse() {
                        break;
                    }
                    return;
                }
                break;
            }
            () = &mut gone => return,
            _ = stop.wait_for(|stop| *stop), if !stopping => {
                stopping = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    }
    let parts = connection.into_parts();
    let mut socket = parts.io.into_inner().socket;
    let ended = match slot.take() {
        Some(takeover) => hijack::run(socket, parts.read_buf, takeover, gone).await,
        None => socket.shutdown().await,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client went away");
    }
}

/// Runs the handler in a task of its own: a client that goes away does not stop it half-way, and
/// a panic in it is one answer of 500.
async fn serve(server: Arc<Server>, request: Request<Incoming>, slot: Slot) -> Result<Answer, Infallible> {
    let head = request.method() == http::Method::HEAD;
    let unread = http_body::Body::size_hint(request.body()).upper() != Some(0);
    let task = {
        let (server, slot) = (Arc::clone(&server), slot.clone());
        tokio::spawn(async move { routes::handle(server, request, slot).await })
    };
    let mut answer = match task.await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::error!(%error, "a request's handler failed");
            Failure::internal("a fault in the daemon: see its log").answer()
        }
    };
    let failed_early = answer.status() == StatusCode::PAYLOAD_TOO_LARGE && unread;
    if slot.is_taken() || failed_early {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    routes::identify(&mut answer);
    if head {
        *answer.body_mut() = crate::http::Body::Whole(None);
    }
    Ok(answer)
}

/// Done when both halves of the connection are closed, or it is broken.
///
/// Waiting to write tells: epoll(7) always reports `EPOLLHUP`, which for a stream socket means
/// that nothing can be said in either direction any more; a client's half-close does not raise it.
pub(crate) fn hangup(fd: OwnedFd) -> impl Future<Output = ()> {
    async fn watch(fd: OwnedFd) -> io::Result<()> {
        // Whatever kind of socket it is: only its readiness is looked at.
        let stream = UnixStream::from_std(fd.into())?;
        loop {
            stream.writable().await?;
            let mut poll = [PollFd::new(&stream, PollFlags::empty())];
            rustix::event::poll(&mut poll, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 }))?;
            if poll[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
                return Ok(());
            }
            // Wait for the next change.
            let _ = stream.try_io(Interest::WRITABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
    }
    async move {
        if let Err(error) = watch(fd).await {
            tracing::debug!(%error, "cannot watch a connection");
            std::future::pending::<()>().await;
        }
    }
}

/// Passes bytes on, but drops what is written once the connection is taken over.
struct Gate {
    socket: Socket,
    slot: Slot,
}

impl AsyncRead for Gate {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Gate {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.slot.is_taken() {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.slot.is_taken() {
            return Poll::Ready(Ok(pieces.iter().map(|piece| piece.len()).sum()));
        }
        Pin::new(&mut self.socket).poll_write_vectored(cx, pieces)
    }

    // Asked by hyper, which else copies every body once more to have it in one piece.
    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Unix(stream) => stream.as_fd(),
            Socket::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Socket::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
