//! A thin client of the Docker Engine API.
//!
//! It sends what it is given and hands back what came: status, headers, raw
//! bytes. Commands that print a document pass it through untouched, so fields
//! that this build has never heard of are not lost.
//!
//! Two habits keep a short command short. Connections are kept alive and used
//! again, and **no ping precedes the first request**: it is sent as
//! [`ApiVersion::NEWEST`], and every answer names the newest version its server
//! speaks. A server that is older refuses the request unread (status 400, header
//! `Api-Version`); the client then lowers its version and sends it again. Only
//! a request whose body is a stream, which cannot be sent twice, pings first.
//!
//! Streams (`attach`, `exec`) are taken over after `101 Switching Protocols`;
//! [`Upgraded`] is then the plain socket, whose write side can be closed alone.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;

use crate::ApiVersion;

/// An error document larger than this is cut: it is only ever shown.
const ERROR_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("unable to parse docker host `{host}`: {reason}")]
    Host { host: String, reason: &'static str },
    /// Nothing listens at the end point.
    #[error("Cannot connect to the Docker daemon at {endpoint}. Is the docker daemon running?")]
    Unreachable { endpoint: Endpoint, source: io::Error },
    /// The socket is there, and this user may not use it.
    #[error("permission denied while trying to connect to the Docker daemon socket at {endpoint}")]
    Denied { endpoint: Endpoint, source: io::Error },
    /// The daemon refused; `message` is its own.
    #[error("Error response from daemon: {message}")]
    Refused { status: StatusCode, message: String },
    #[error("error during connect: {method} {path}")]
    Broken { method: Method, path: String, source: hyper::Error },
    #[error("cannot make the request {method} {path}")]
    Request { method: Method, path: String, source: http::Error },
    /// A connection that was taken over from HTTP.
    #[error("{path}: the connection to the daemon is lost")]
    Lost { path: String, source: io::Error },
    #[error("the daemon's answer to {path} is not what was expected")]
    Answer { path: String, source: serde_json::Error },
    #[error("{path}: the daemon answered {status} where it should have handed over the connection")]
    NotUpgraded { path: String, status: StatusCode },
}

impl Error {
    /// The status of the daemon's refusal, if it was one.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Error::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    pub fn is_not_found(&self) -> bool {
        self.status() == Some(StatusCode::NOT_FOUND)
    }
}

pub type Result<T> = std::result::Result<T, Error>;

/// Where a daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    Unix(PathBuf),
    /// `host:port`
    Tcp(String),
}

impl Endpoint {
    /// Reads `unix://PATH`, `tcp://HOST[:PORT]` (port 2375 if none is given).
    pub fn parse(host: &str) -> Result<Endpoint> {
        let refuse = |reason| Error::Host { host: host.to_owned(), reason };
        let (scheme, rest) = host
            .split_once("://")
            .ok_or_else(|| refuse("it has no scheme; use unix://PATH or tcp://HOST:PORT"))?;
        match scheme {
            "unix" if rest.is_empty() => Err(refuse("it names no socket")),
            "unix" => Ok(Endpoint::Unix(PathBuf::from(rest))),
            "tcp" | "http" => {
                let address = rest.trim_end_matches('/');
                let port = address.rsplit_once(':').map(|(_, port)| port);
                match port {
                    _ if address.is_empty() => Err(refuse("it names no host")),
                    Some(port) if port.parse::<u16>().is_ok() => Ok(Endpoint::Tcp(address.to_owned())),
                    Some(port) if !port.ends_with(']') => Err(refuse("its port is not a number")),
                    _ => Ok(Endpoint::Tcp(format!("{address}:2375"))),
                }
            }
            "ssh" => Err(refuse("ssh is not supported by this build yet")),
            "npipe" => Err(refuse("named pipes exist on Windows only")),
            _ => Err(refuse("its scheme is not one of unix, tcp")),
        }
    }

    async fn connect(&self) -> Result<Stream> {
        let opened = match self {
            Endpoint::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
            Endpoint::Tcp(address) => TcpStream::connect(address.as_str()).await.map(|tcp| {
                // Keystrokes must not wait for an acknowledgement.
                let _ = tcp.set_nodelay(true);
                Stream::Tcp(tcp)
            }),
        };
        opened.map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => Error::Denied { endpoint: self.clone(), source },
            _ => Error::Unreachable { endpoint: self.clone(), source },
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "unix://{}", path.display()),
            Endpoint::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// A connection, whatever it runs over.
#[derive(Debug)]
pub enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

macro_rules! on_stream {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream.get_mut() {
            Stream::Unix($inner) => $call,
            Stream::Tcp($inner) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_stream!(self, inner => Pin::new(inner).poll_read(context, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        on_stream!(self, inner => Pin::new(inner).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_stream!(self, inner => Pin::new(inner).poll_write_vectored(context, pieces))
    }

    // Asked by hyper, which else copies every body once more to have it in one piece.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, inner => Pin::new(inner).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, inner => Pin::new(inner).poll_shutdown(context))
    }
}

/// A connection taken over from HTTP.
#[derive(Debug)]
pub struct Upgraded {
    pub stream: Stream,
    /// Bytes of the new protocol that arrived together with the answer's head.
    pub early: Bytes,
    /// Output comes in frames that name their stream, not as one raw stream.
    pub multiplexed: bool,
    /// Of the answer.
    pub headers: HeaderMap,
}

/// Query parameters, encoded in the order of their names as Go does it.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(&'static str, String)>);

impl Query {
    pub fn new() -> Query {
        Query::default()
    }

    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Query {
        self.0.push((name, value.into()));
        self
    }

    /// Adds `name=1` if `on`: Docker leaves a false switch out.
    #[must_use]
    pub fn switch(self, name: &'static str, on: bool) -> Query {
        if on { self.with(name, "1") } else { self }
    }

    /// Adds the parameter unless its value is empty.
    #[must_use]
    pub fn unless_empty(self, name: &'static str, value: &str) -> Query {
        if value.is_empty() { self } else { self.with(name, value) }
    }

    fn encode(&self) -> String {
        let mut pairs: Vec<_> = self.0.iter().collect();
        pairs.sort_by_key(|(name, _)| *name);
        let mut text = String::new();
        for (name, value) in pairs {
            text.push(if text.is_empty() { '?' } else { '&' });
            text.push_str(name);
            text.push('=');
            escape(value, "", true, &mut text);
        }
        text
    }
}

/// Escapes a name so that it can stand in a path; `/`, `:` and `@` stay.
pub fn segment(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    escape(name, "/:@!$&'()*+,;=", false, &mut text);
    text
}

fn escape(value: &str, keep: &str, form: bool, out: &mut String) {
    use fmt::Write as _;
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b' ' if form => out.push('+'),
            _ if keep.as_bytes().contains(&byte) => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}

/// What a request carries.
pub enum Body {
    Empty,
    Json(Bytes),
    /// An archive or another long stream; it can be sent only once.
    Stream(UnsyncBoxBody<Bytes, io::Error>),
}

impl Body {
    pub fn json(value: &impl serde::Serialize) -> Body {
        // The values sent are trees of strings and numbers: they always encode.
        Body::Json(serde_json::to_vec(value).unwrap_or_default().into())
    }
}

type Sender = SendRequest<UnsyncBoxBody<Bytes, io::Error>>;

/// A client of one daemon. Cheap to clone; clones share the connections.
#[derive(Clone)]
pub struct Client {
    endpoint: Endpoint,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    version: ApiVersion,
    /// The server has named its version, or the user has pinned one.
    settled: bool,
    idle: Vec<Sender>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Client {
    /// A client that connects on its first request. `pinned` is an API version
    /// the user insists on: it is neither raised nor lowered.
    pub fn new(endpoint: Endpoint, pinned: Option<ApiVersion>) -> Client {
        Client {
            endpoint,
            shared: Arc::new(Mutex::new(Shared {
                version: pinned.unwrap_or(ApiVersion::NEWEST),
                settled: pinned.is_some(),
                idle: Vec::new(),
            })),
        }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The version in use: settled after the first answer.
    pub fn version(&self) -> ApiVersion {
        self.shared().version
    }

    pub async fn get(&self, path: &str, query: &Query) -> Result<Response> {
        self.send(Method::GET, path, query, Body::Empty).await
    }

    /// The same with headers of the caller's.
    pub async fn get_with(&self, path: &str, query: &Query, headers: &HeaderMap) -> Result<Response> {
        self.negotiate(Method::GET, path, query, headers, Body::Empty, false).await?.success().await
    }

    /// Only the headers of the answer say anything.
    pub async fn head(&self, path: &str, query: &Query) -> Result<Response> {
        self.send(Method::HEAD, path, query, Body::Empty).await
    }

    pub async fn put(&self, path: &str, query: &Query, body: Body) -> Result<Response> {
        self.send(Method::PUT, path, query, body).await
    }

    pub async fn post(&self, path: &str, query: &Query, body: Body) -> Result<Response> {
        self.send(Method::POST, path, query, body).await
    }

    /// The same with headers of the caller's.
    pub async fn post_with(
        &self,
        path: &str,
        query: &Query,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response> {
        self.negotiate(Method::POST, path, query, headers, body, false).await?.success().await
    }

    pub async fn delete(&self, path: &str, query: &Query) -> Result<Response> {
        self.send(Method::DELETE, path, query, Body::Empty).await
    }

    /// Asks which version the server speaks, and gives what it calls itself (`Hull/0.1.0 (linux)`).
    pub async fn ping(&self) -> Result<String> {
        let answer = self
            .exchange(Method::GET, "/_ping", &HeaderMap::new(), UnsyncBoxBody::default(), None, false)
            .await?;
        self.settle(answer.headers());
        let server = answer.headers().get(header::SERVER).and_then(|name| name.to_str().ok());
        let server = server.unwrap_or_default().to_owned();
        answer.success().await?.bytes().await?;
        Ok(server)
    }

    /// Sends a request; an answer of 400 or above becomes [`Error::Refused`].
    pub async fn send(&self, method: Method, path: &str, query: &Query, body: Body) -> Result<Response> {
        self.negotiate(method, path, query, &HeaderMap::new(), body, false).await?.success().await
    }

    /// Sends a request that takes the connection over.
    pub async fn upgrade(&self, path: &str, query: &Query, body: Body) -> Result<Upgraded> {
        let answer =
            self.negotiate(Method::POST, path, query, &HeaderMap::new(), body, true).await?.success().await?;
        let status = answer.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            return Err(Error::NotUpgraded { path: path.to_owned(), status });
        }
        let multiplexed = answer
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind == "application/vnd.docker.multiplexed-stream");
        let broken = |source| Error::Broken { method: Method::POST, path: path.to_owned(), source };
        let headers = answer.headers().clone();
        let upgraded = hyper::upgrade::on(answer.response).await.map_err(broken)?;
        match upgraded.downcast::<TokioIo<Stream>>() {
            Ok(parts) => {
                Ok(Upgraded { stream: parts.io.into_inner(), early: parts.read_buf, multiplexed, headers })
            }
            // Every connection of this client is made by `Endpoint::connect`.
            Err(_) => Err(Error::NotUpgraded { path: path.to_owned(), status }),
        }
    }

    async fn negotiate(
        &self,
        method: Method,
        path: &str,
        query: &Query,
        headers: &HeaderMap,
        body: Body,
        upgrade: bool,
    ) -> Result<Response> {
        let (bytes, stream) = match body {
            Body::Empty => (None, None),
            Body::Json(bytes) => (Some(bytes), None),
            Body::Stream(stream) => (None, Some(stream)),
        };
        if stream.is_some() && !self.shared().settled {
            self.ping().await?;
        }
        let kind = match (&bytes, &stream) {
            (Some(_), _) => Some("application/json"),
            (None, Some(_)) => Some("application/x-tar"),
            (None, None) => None,
        };
        let mut stream = stream;
        loop {
            let version = self.version();
            let target = match path.starts_with("/hull/") {
                // What Docker's API has no word for has versions of its own.
                true => format!("{path}{}", query.encode()),
                false => format!("/v{version}{path}{}", query.encode()),
            };
            let replayable = stream.is_none();
            let body = match (&bytes, stream.take()) {
                (_, Some(stream)) => stream,
                (Some(bytes), None) => full(bytes.clone()),
                (None, None) => UnsyncBoxBody::default(),
            };
            let answer = self.exchange(method.clone(), &target, headers, body, kind, upgrade).await?;
            self.settle(answer.headers());
            let refused = answer.status() == StatusCode::BAD_REQUEST;
            if refused && replayable && self.version() < version {
                // Read to its end, so that the connection serves again.
                answer.bytes().await?;
                continue;
            }
            return Ok(answer);
        }
    }

    /// Takes note of the version the server names; the first answer decides.
    fn settle(&self, headers: &HeaderMap) {
        let mut shared = self.shared();
        let named = headers.get("api-version").and_then(|value| ApiVersion::parse(value.to_str().ok()?));
        if let Some(named) = named
            && !shared.settled
        {
            shared.version = shared.version.min(named);
            shared.settled = true;
        }
    }

    async fn exchange(
        &self,
        method: Method,
        target: &str,
        headers: &HeaderMap,
        body: UnsyncBoxBody<Bytes, io::Error>,
        kind: Option<&str>,
        upgrade: bool,
    ) -> Result<Response> {
        let mut request = http::Request::builder()
            .method(method.clone())
            .uri(target)
            .header(header::HOST, "hull")
            .header(header::USER_AGENT, concat!("Hull-Client/", env!("CARGO_PKG_VERSION"), " (linux)"));
        if let Some(kind) = kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        if upgrade {
            request = request.header(header::CONNECTION, "Upgrade").header(header::UPGRADE, "tcp");
        }
        let mut request = request.body(body).map_err(|source| Error::Request {
            method: method.clone(),
            path: target.to_owned(),
            source,
        })?;
        request.headers_mut().extend(headers.clone());
        let broken = |source| Error::Broken { method: method.clone(), path: target.to_owned(), source };
        let mut sender = self.sender().await?;
        let response = sender.send_request(request).await.map_err(broken)?;
        Ok(Response {
            response,
            path: target.to_owned(),
            method,
            lease: Some((sender, Arc::clone(&self.shared))),
        })
    }

    /// A connection that is free: an idle one, else a new one.
    async fn sender(&self) -> Result<Sender> {
        loop {
            let idle = self.shared().idle.pop();
            let Some(mut sender) = idle else { break };
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let stream = self.endpoint.connect().await?;
        let handshake = Builder::new().handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|source| Error::Broken {
            method: Method::GET,
            path: self.endpoint.to_string(),
            source,
        })?;
        tokio::spawn(async move {
            // A broken connection shows itself in the request that used it.
            let _ = connection.with_upgrades().await;
        });
        Ok(sender)
    }

    fn shared(&self) -> std::sync::MutexGuard<'_, Shared> {
        // Nothing panics while holding the lock: it guards plain assignments.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn full(bytes: Bytes) -> UnsyncBoxBody<Bytes, io::Error> {
    UnsyncBoxBody::new(Full::new(bytes).map_err(|never| match never {}))
}

/// A body that reads `source` to its end in pieces of 64 KiB.
pub fn stream_of(source: impl AsyncRead + Send + 'static) -> Body {
    struct Pieces<R> {
        source: Pin<Box<R>>,
        buffer: BytesMut,
    }
    impl<R: AsyncRead> http_body::Body for Pieces<R> {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<io::Result<http_body::Frame<Bytes>>>> {
            let this = &mut *self;
            this.buffer.resize(64 * 1024, 0);
            let mut piece = ReadBuf::new(&mut this.buffer);
            match this.source.as_mut().poll_read(context, &mut piece) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
                Poll::Ready(Ok(())) => {
                    let length = piece.filled().len();
                    if length == 0 {
                        return Poll::Ready(None);
                    }
                    let piece = this.buffer.split_to(length).freeze();
                    Poll::Ready(Some(Ok(http_body::Frame::data(piece))))
                }
            }
        }
    }
    Body::Stream(UnsyncBoxBody::new(Pieces { source: Box::pin(source), buffer: BytesMut::new() }))
}

/// A body of pieces that come from elsewhere; an error breaks the request off.
pub fn body_of(pieces: mpsc::Receiver<io::Result<Bytes>>) -> Body {
    struct Pieces(mpsc::Receiver<io::Result<Bytes>>);
    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<io::Result<http_body::Frame<Bytes>>>> {
            self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(http_body::Frame::data)))
        }
    }
    Body::Stream(UnsyncBoxBody::new(Pieces(pieces)))
}

/// An answer whose head has arrived.
pub struct Response {
    response: http::Response<Incoming>,
    path: String,
    method: Method,
    /// The connection, to be given back once the body has been read.
    lease: Option<(Sender, Arc<Mutex<Shared>>)>,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("path", &self.path)
            .field("status", &self.response.status())
            .finish_non_exhaustive()
    }
}

impl Response {
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The next piece of the body, as it arrives; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.response.body_mut().frame().await {
                None => {
                    if let Some((sender, shared)) = self.lease.take() {
                        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
                        shared.idle.push(sender);
                    }
                    return Ok(None);
                }
                Some(Err(source)) => {
                    return Err(Error::Broken {
                        method: self.method.clone(),
                        path: self.path.clone(),
                        source,
                    });
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The whole body.
    pub async fn bytes(mut self) -> Result<Bytes> {
        let Some(first) = self.chunk().await? else {
            return Ok(Bytes::new());
        };
        let Some(second) = self.chunk().await? else {
            return Ok(first);
        };
        let mut all = BytesMut::from(&first[..]);
        all.extend_from_slice(&second);
        while let Some(piece) = self.chunk().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    pub async fn json<T: DeserializeOwned>(self) -> Result<T> {
        let path = self.path.clone();
        let bytes = self.bytes().await?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Answer { path, source })
    }

    async fn success(self) -> Result<Response> {
        let status = self.status();
        if status.as_u16() < 400 {
            return Ok(self);
        }
        let mut answer = self;
        let mut text = Vec::new();
        while let Some(piece) = answer.chunk().await? {
            let room = ERROR_BYTES_MAX - text.len();
            text.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        Err(Error::Refused { status, message: refusal(status, &text) })
    }
}

/// The message of an error document, or what stands for it.
fn refusal(status: StatusCode, body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Document {
        message: String,
    }
    if let Ok(document) = serde_json::from_slice::<Document>(body) {
        return document.message.trim().to_owned();
    }
    let text = String::from_utf8_lossy(body);
    match text.trim() {
        "" => format!("request returned {status} and no message"),
        text => text.to_owned(),
    }
}

/// The end point to use: what the user named, else the environment's, else
/// the default socket. `exists` tells whether a socket is there.
pub fn choose(
    named: Option<&str>,
    environment: Option<&str>,
    exists: impl Fn(&Path) -> bool,
) -> Result<Endpoint> {
    if let Some(host) = named.or(environment).filter(|host| !host.is_empty()) {
        return Endpoint::parse(host);
    }
    let own = Path::new("/var/run/hull.sock");
    let other = Path::new("/var/run/docker.sock");
    let path = if !exists(own) && exists(other) { other } else { own };
    Ok(Endpoint::Unix(path.to_owned()))
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
