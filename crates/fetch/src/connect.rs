//! The way to a server: straight, or through a proxy that the environment names.
//!
//! ```text
//!            no proxy      proxy
//! http://    connect       connect to the proxy, which is asked for the whole address (RFC 9112, 3.2.2)
//! https://   connect, TLS  CONNECT through the proxy (RFC 9110, 9.3.6), then TLS with the server itself
//! ```

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use http::uri::Scheme;
use http::{Extensions, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::near::{self, Place};

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Whether a connection has answered a request already: its server may have closed it while the next one was
/// on its way, which says nothing of that request (RFC 9112, 9.3.1 and 9.5).
#[derive(Debug, Clone, Default)]
pub(crate) struct Served(Arc<AtomicBool>);

impl Served {
    /// Notes that the connection has answered.
    pub(crate) fn note(extensions: &Extensions) {
        if let Some(Served(served)) = extensions.get() {
            served.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn before(connection: &Connected) -> bool {
        let mut extensions = Extensions::new();
        connection.get_extras(&mut extensions);
        extensions.get().is_some_and(|Served(served)| served.load(Ordering::Relaxed))
    }
}

/// Makes connections, without TLS.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    pub(crate) http: HttpConnector,
    pub(crate) proxies: Arc<Matcher>,
    /// Where servers may be that are reached without a proxy; `None`: anywhere.
    pub(crate) places: Option<Arc<[Place]>>,
}

impl Connector {
    async fn straight(mut http: HttpConnector, to: Uri, places: Option<Arc<[Place]>>) -> Connecting {
        let Some(places) = places else { return Ok(http.call(to).await?) };
        let mut failed: Failed = io::Error::other("it has no address").into();
        for to in near::reachable(&to, &places).await? {
            match http.call(to).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error.into(),
            }
        }
        Err(failed)
    }
}

type Connecting = Result<TokioIo<TcpStream>, Failed>;

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = Failed;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, Failed>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        self.http.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let mut http = self.http.clone();
        let Some(proxy) = self.proxies.intercept(&to) else {
            let straight = Connector::straight(http, to, self.places.clone());
            return Box::pin(async move { Ok(Stream { stream: straight.await?, asks_proxy: false }) });
        };
        if proxy.uri().scheme() != Some(&Scheme::HTTP) {
            let scheme = proxy.uri().scheme_str().unwrap_or_default().to_owned();
            let error = format!("proxies are reached by http, not by {scheme}: name one as http://HOST:PORT");
            return Box::pin(async move { Err(error.into()) });
        }
        let tunnelled = to.scheme() == Some(&Scheme::HTTPS);
        Box::pin(async move {
            let stream = if tunnelled {
                tunnel(http, &proxy, to).await?
            } else {
                http.call(proxy.uri().clone()).await?
            };
            Ok(Stream { stream, asks_proxy: !tunnelled })
        })
    }
}

async fn tunnel(http: HttpConnector, proxy: &Intercept, to: Uri) -> Result<TokioIo<TcpStream>, Failed> {
    let mut tunnel = Tunnel::new(proxy.uri().clone(), http);
    if let Some(credentials) = proxy.basic_auth() {
        tunnel = tunnel.with_auth(credentials.clone());
    }
    Ok(tunnel.call(to).await?)
}

#[derive(Debug)]
pub(crate) struct Stream {
    stream: TokioIo<TcpStream>,
    /// At its other end is a proxy, not the server.
    asks_proxy: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.asks_proxy).extra(Served::default())
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Makes connections, with TLS where the address says so; some servers have a configuration of their own.
#[derive(Debug, Clone)]
pub(crate) struct Secured {
    pub(crate) usual: HttpsConnector<Connector>,
    /// By `host:port`.
    pub(crate) own: Arc<BTreeMap<String, HttpsConnector<Connector>>>,
}

impl Service<Uri> for Secured {
    type Response = MaybeHttpsStream<Stream>;
    type Error = Failed;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Failed>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        self.usual.poll_ready(context)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let port = to.port_u16().unwrap_or(if to.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 });
        let server = format!("{}:{port}", to.host().unwrap_or_default().to_ascii_lowercase());
        match self.own.get(&server) {
            Some(own) => own.clone().call(to),
            None => self.usual.call(to),
        }
    }
}
