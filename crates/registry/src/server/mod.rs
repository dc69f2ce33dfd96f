//! A registry: the distribution specification's server over a folder (`hull registry serve`).
//!
//! ```text
//! connection ─ accept, TLS, deadlines; one task a connection
//! action ───── method and path → the one thing that is asked for (pure)
//! auth ─────── who asks, and whether they may (rights and tokens are pure)
//! blobs, uploads, manifests, lists ── one module for each kind of endpoint
//! ranges, pages ─ headers and parameters → what part is wanted (pure)
//! store ────── the folder: blobs by digest, and for each repository what it has of them
//! answer ───── bodies, and failures in the specification's codes
//! ```
//!
//! A request is parsed into an [`action::Action`], which says itself what right it needs; nothing is
//! done before that right is checked, and no handler looks at the path again. The store's calls
//! block, so they run on tokio's threads for such; bytes stream through in pieces, hashed on their way.

mod action;
mod answer;
mod auth;
mod blobs;
mod body;
mod connection;
mod lists;
mod manifests;
mod metrics;
mod pages;
mod ranges;
mod routes;
mod store;
mod uploads;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};

pub use auth::AuthError;
pub use store::gc::{Collected, Policy};
pub use store::{Store, StoreError};

use metrics::Metrics;

/// What a registry is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder that it keeps everything in.
    pub root: PathBuf,
    pub address: SocketAddr,
    pub tls: Option<Tls>,
    pub auth: Auth,
    /// How clients reach it, as `https://HOST[:PORT]`; it stands in the challenge. `None`: as the
    /// request says.
    pub url: Option<String>,
    /// Nothing is pushed or deleted.
    pub read_only: bool,
    /// Sent with each answer, as `Warning`.
    pub warnings: Vec<String>,
    /// Where health and figures are shown, without any question of who asks.
    pub metrics: Option<SocketAddr>,
    pub collection: Policy,
    /// Between two collections of garbage; `None`: only when asked.
    pub collect_every: Option<Duration>,
    pub limits: Limits,
}

/// A certificate chain and its key, as files in PEM.
#[derive(Debug, Clone)]
pub struct Tls {
    pub certificates: PathBuf,
    pub key: PathBuf,
}

/// How it is decided who may do what.
#[derive(Debug, Clone, Default)]
pub enum Auth {
    /// Everybody may do everything.
    #[default]
    Open,
    /// Who is in this file (of `htpasswd -B`) may do everything.
    Htpasswd(PathBuf),
    /// Users, and what each may do, by this file; tokens are given out at `/token`.
    Users(PathBuf),
}

/// What one client can make the registry hold.
#[derive(Debug, Clone)]
pub struct Limits {
    pub connections: usize,
    /// Uploads that are begun and not finished.
    pub uploads: usize,
    /// Of these, one user's.
    pub uploads_of_one: usize,
    /// For a request's head to arrive, and for the next request to begin.
    pub head: Duration,
    /// For each further piece of a body, in either direction.
    pub idle: Duration,
    /// For requests under way when the registry is told to stop.
    pub stop: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 1024,
            uploads: 10_000,
            uploads_of_one: 1000,
            head: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            stop: Duration::from_secs(30),
        }
    }
}

impl Options {
    /// A registry in `root` at `address` that anybody may use.
    pub fn open(root: PathBuf, address: SocketAddr) -> Options {
        Options {
            root,
            address,
            tls: None,
            auth: Auth::Open,
            url: None,
            read_only: false,
            warnings: Vec::new(),
            metrics: None,
            collection: Policy::default(),
            collect_every: None,
            limits: Limits::default(),
        }
    }
}

/// Why a registry does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {address}")]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error("cannot use the certificate {} with the key {}: {why}", certificates.display(), key.display())]
    Tls { certificates: PathBuf, key: PathBuf, why: String },
    #[error("the warnings have {found} bytes, and at most {limit} may be sent")]
    Warnings { found: usize, limit: usize },
    #[error("the warning {0:?} has characters that a header cannot carry, such as a line break")]
    Warning(String),
}

/// What its owner tells a running registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Read users and certificates again.
    Reload,
    /// Remove what nobody refers to.
    Collect,
    /// Take no more requests, end those under way, return.
    Stop,
}

/// What all requests share.
pub(crate) struct Shared {
    pub store: Arc<Store>,
    pub uploads: uploads::Uploads,
    pub auth: auth::Authority,
    pub metrics: Metrics,
    pub limits: Limits,
    pub read_only: bool,
    pub warnings: Vec<http::HeaderValue>,
    pub url: Option<String>,
    pub tls: bool,
    /// KiB that manifests under way may take.
    pub documents: Arc<Semaphore>,
    pub syncs: manifests::Syncs,
}

/// A registry whose folder is open and whose address is bound.
pub struct Registry {
    options: Options,
    shared: Arc<Shared>,
    listener: TcpListener,
    metrics: Option<TcpListener>,
    tls: connection::Acceptor,
}

/// KiB of manifests that are received at the same time.
const DOCUMENTS: usize = 32 << 10;
/// Before the first collection.
const FIRST: Duration = Duration::from_secs(60);
/// distribution-spec, `spec.md#warnings`.
const WARNINGS: usize = 4096;

impl Registry {
    /// Opens the folder, reads the files that are named, and binds the address.
    pub async fn open(options: Options) -> Result<Registry, ServeError> {
        let warnings = warnings(&options.warnings)?;
        let tls = connection::Acceptor::new(options.tls.as_ref())?;
        let store = Arc::new(Store::open(&options.root)?);
        let auth = auth::Authority::open(&options.auth, &options.root)?;
        let bind = |address: SocketAddr| async move {
            TcpListener::bind(address).await.map_err(|source| ServeError::Bind { address, source })
        };
        let listener = bind(options.address).await?;
        store.announce()?;
        let metrics = match options.metrics {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let shared = Arc::new(Shared {
            uploads: uploads::Uploads::new(
                Arc::clone(&store),
                options.limits.uploads,
                options.limits.uploads_of_one,
            ),
            store,
            auth,
            metrics: Metrics::default(),
            limits: options.limits.clone(),
            read_only: options.read_only,
            warnings,
            url: options.url.clone(),
            tls: options.tls.is_some(),
            documents: Arc::new(Semaphore::new(DOCUMENTS)),
            syncs: manifests::Syncs::default(),
        });
        Ok(Registry { options, shared, listener, metrics, tls })
    }

    /// Where it listens; of use if port 0 was asked for.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where health and figures are shown.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref()?.local_addr().ok()
    }

    /// Serves until it is told to stop, or nobody is left to tell it.
    pub async fn serve(self, mut orders: mpsc::Receiver<Order>) {
        let (stop, stopped) = watch::channel(false);
        let listener = connection::Listener {
            listener: self.listener,
            places: Arc::new(Semaphore::new(self.shared.limits.connections)),
        };
        tokio::spawn(connection::accept(
            Arc::clone(&self.shared),
            listener,
            self.tls.clone(),
            stopped.clone(),
        ));
        if let Some(metrics) = self.metrics {
            tokio::spawn(metrics::serve(Arc::clone(&self.shared), metrics, stopped.clone()));
        }
        let mut collecting = None;
        let mut ticks = self.options.collect_every.filter(|every| !every.is_zero()).map(ticks);
        loop {
            let order = tokio::select! {
                order = orders.recv() => order.unwrap_or(Order::Stop),
                () = tick(ticks.as_mut()) => Order::Collect,
            };
            match order {
                Order::Stop => break,
                Order::Reload => reload(&self.shared, &self.tls, &self.options),
                Order::Collect => {
                    let running = collecting
                        .as_ref()
                        .is_some_and(|task: &tokio::task::JoinHandle<()>| !task.is_finished());
                    if !running {
                        let shared = Arc::clone(&self.shared);
                        collecting = Some(tokio::spawn(collect(shared, self.options.collection.clone())));
                    }
                }
            }
        }
        // Ignored only if no connection is left to hear it.
        let _ = stop.send(true);
        drop(stopped);
        if tokio::time::timeout(self.shared.limits.stop, stop.closed()).await.is_err() {
            tracing::warn!("some clients were cut off");
        }
    }
}

/// The first soon after the start: a registry that is started often collects, too.
fn ticks(every: Duration) -> Interval {
    let mut ticks = tokio::time::interval_at(Instant::now() + every.min(FIRST), every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn tick(ticks: Option<&mut Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => std::future::pending().await,
    }
}

fn reload(shared: &Shared, tls: &connection::Acceptor, options: &Options) {
    let users = shared.auth.reload(&options.auth);
    if let Err(error) = &users {
        tracing::error!(error = %chain(error), "the users cannot be read: the old ones stay");
    }
    let certificate = tls.reload(options.tls.as_ref());
    if let Err(error) = &certificate {
        tracing::error!(error = %chain(error), "the certificate cannot be read: the old one stays");
    }
    if users.is_ok() && certificate.is_ok() {
        tracing::info!("read again");
    }
}

async fn collect(shared: Arc<Shared>, policy: Policy) {
    let store = Arc::clone(&shared.store);
    let collected = tokio::task::spawn_blocking(move || store.collect(&policy)).await;
    match collected {
        Ok(Ok(collected)) => {
            shared.uploads.forget(&collected.uploads);
            shared.metrics.collected(&collected);
            tracing::info!(
                blobs = collected.blobs,
                bytes = collected.bytes,
                links = collected.links,
                uploads = collected.uploads.len(),
                "garbage collected"
            );
        }
        Ok(Err(error)) => tracing::error!(error = %chain(&error), "the collection of garbage failed"),
        Err(error) => tracing::error!(%error, "the collection of garbage failed"),
    }
}

fn warnings(texts: &[String]) -> Result<Vec<http::HeaderValue>, ServeError> {
    let value = |text: &String| {
        let quoted = format!("299 - \"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        http::HeaderValue::from_str(&quoted).map_err(|_| ServeError::Warning(text.clone()))
    };
    let values = texts.iter().map(value).collect::<Result<Vec<_>, _>>()?;
    let found: usize = values.iter().map(http::HeaderValue::len).sum();
    if found > WARNINGS {
        return Err(ServeError::Warnings { found, limit: WARNINGS });
    }
    Ok(values)
}

/// An error and what it comes from, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_quoted_or_refused_for_what_is_wrong_with_them() {
        let given = |text: &str| warnings(&[text.to_owned()]);
        assert_eq!(given("moves \"soon\"").unwrap(), ["299 - \"moves \\\"soon\\\"\""]);
        assert!(matches!(given("two\nlines"), Err(ServeError::Warning(_))));
        assert!(matches!(given(&"x".repeat(WARNINGS)), Err(ServeError::Warnings { .. })));
    }
}
