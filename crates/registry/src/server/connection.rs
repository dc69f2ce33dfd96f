//! Connections: accepted as long as there is a place, with TLS or without, one task each, HTTP/1.1.
//!
//! A client that does nothing holds nothing for long: the handshake, the head of a request and the wait for
//! the next one have a deadline, each piece of a body has one (`routes::Call::piece`), and an answer that is
//! not taken ends with its connection ([`Patient`]).

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;

use super::{ServeError, Shared, Tls, routes};

/// Bytes of a request's head, and of a body that are read at a time.
const BUFFER: usize = 64 << 10;

pub(crate) struct Listener {
    pub listener: TcpListener,
    pub places: Arc<Semaphore>,
}

/// The two ends of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub address: SocketAddr,
    pub local: SocketAddr,
}

/// What speaks TLS, if anything does; its certificate can be read again.
#[derive(Clone)]
pub(crate) struct Acceptor(Option<Arc<RwLock<TlsAcceptor>>>);

impl Acceptor {
    pub(crate) fn new(tls: Option<&Tls>) -> Result<Acceptor, ServeError> {
        let acceptor = tls.map(acceptor).transpose()?;
        Ok(Acceptor(acceptor.map(|acceptor| Arc::new(RwLock::new(acceptor)))))
    }

    pub(crate) fn reload(&self, tls: Option<&Tls>) -> Result<(), ServeError> {
        if let (Some(current), Some(tls)) = (&self.0, tls) {
            let new = acceptor(tls)?;
            *current.write().unwrap_or_else(PoisonError::into_inner) = new;
        }
        Ok(())
    }

    fn current(&self) -> Option<TlsAcceptor> {
        Some(self.0.as_ref()?.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn acceptor(tls: &Tls) -> Result<TlsAcceptor, ServeError> {
    let failed =
        |why: String| ServeError::Tls { certificates: tls.certificates.clone(), key: tls.key.clone(), why };
    let chain = CertificateDer::pem_file_iter(&tls.certificates)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| failed(error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| failed(error.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Accepts until `stop` says so; connections under way end after their requests.
pub(crate) async fn accept(
    shared: Arc<Shared>,
    listener: Listener,
    tls: Acceptor,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let place = tokio::select! {
            place = Arc::clone(&listener.places).acquire_owned() => place,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        // The semaphore is never closed.
        let Ok(place) = place else { return };
        let accepted = tokio::select! {
            accepted = listener.listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, address)) => {
                let (shared, tls, stop) = (Arc::clone(&shared), tls.current(), stop.clone());
                tokio::spawn(async move {
                    shared.metrics.connected();
                    if let Err(error) = connection(&shared, stream, address, tls, stop).await {
                        tracing::debug!(%error, %address, "a connection ended badly");
                    }
                    shared.metrics.disconnected();
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

async fn connection(
    shared: &Arc<Shared>,
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    stop: watch::Receiver<bool>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let peer = Peer { address, local: stream.local_addr()? };
    let Some(tls) = tls else { return http(shared, stream, peer, stop).await };
    let handshake = tokio::time::timeout(shared.limits.head, tls.accept(stream));
    let stream = handshake.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    http(shared, stream, peer, stop).await
}

async fn http<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Arc<Shared>,
    stream: S,
    peer: Peer,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let patient = Patient { stream, limit: shared.limits.idle, deadline: None };
    let handler = service_fn(|request| serve(Arc::clone(shared), peer, request));
    let connection = http1::Builder::new()
        .header_read_timeout(shared.limits.head)
        .max_buf_size(BUFFER)
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(patient), handler);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended.map_err(io::Error::other),
        _ = stop.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
    }
    connection.await.map_err(io::Error::other)
}

/// Runs the handler in a task of its own: a client that goes away does not stop it half-way, and a panic in
/// it is one answer of 500.
async fn serve(
    shared: Arc<Shared>,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<super::answer::Answer, Infallible> {
    let task = tokio::spawn(routes::answer(shared, peer, request));
    Ok(task.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request's handler failed");
        routes::broken()
    }))
}

/// A stream whose other end has to take what is written within a limit.
struct Patient<S> {
    stream: S,
    limit: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// What a write comes to: waiting for too long is an error.
    fn judge<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.deadline = None;
            return poll;
        }
        let limit = self.limit;
        let deadline =
            self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + limit)));
        match deadline.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.judge(cx, poll)
    }

    // Asked by hyper, which else copies every body once more to have it in one piece.
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(cx);
        self.judge(cx, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.judge(cx, poll)
    }
}
