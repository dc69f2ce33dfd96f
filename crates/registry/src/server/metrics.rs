//! Figures and health, on an address of their own: `/metrics` in Prometheus' text format, `/healthz`.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::Shared;
use super::answer::{Answer, bytes_answer, empty};
use super::store::gc::Collected;

/// Who asks here at the same time.
const PLACES: usize = 16;
const HEAD: Duration = Duration::from_secs(10);

const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PATCH", "PUT", "DELETE"];

/// What has happened since the start.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// By method, and by the first digit of the status.
    requests: [[AtomicU64; 6]; 7],
    received: AtomicU64,
    connections: AtomicU64,
    refused: AtomicU64,
    collections: AtomicU64,
    collected_blobs: AtomicU64,
    collected_bytes: AtomicU64,
}

impl Metrics {
    pub(crate) fn answered(&self, method: &Method, status: StatusCode) {
        let row = METHODS.iter().position(|known| *known == method.as_str()).unwrap_or(METHODS.len());
        let column = usize::from(status.as_u16() / 100).min(5);
        self.requests[row][column].fetch_add(1, Ordering::Relaxed);
        if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn disconnected(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn collected(&self, collected: &Collected) {
        self.collections.fetch_add(1, Ordering::Relaxed);
        self.collected_blobs.fetch_add(collected.blobs, Ordering::Relaxed);
        self.collected_bytes.fetch_add(collected.bytes, Ordering::Relaxed);
    }

    fn text(&self, uploads: usize) -> String {
        let mut text = String::from(
            "# HELP hull_registry_requests_total Requests that were answered.\n\
             # TYPE hull_registry_requests_total counter\n",
        );
        for (row, method) in METHODS.iter().chain(&["other"]).enumerate() {
            for (column, count) in self.requests[row].iter().enumerate() {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    // Writing to a string does not fail.
                    let _ = writeln!(
                        text,
                        "hull_registry_requests_total{{method=\"{method}\",code=\"{column}xx\"}} {count}"
                    );
                }
            }
        }
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let figures = [
            ("received_bytes_total", "counter", "Bytes of bodies that came.", load(&self.received)),
            ("refused_total", "counter", "Requests without the right to be done.", load(&self.refused)),
            ("connections", "gauge", "Connections that are open.", load(&self.connections)),
            ("uploads", "gauge", "Uploads that are open.", uploads as u64),
            ("collections_total", "counter", "Collections of garbage.", load(&self.collections)),
            ("collected_blobs_total", "counter", "Blobs that were removed.", load(&self.collected_blobs)),
            ("collected_bytes_total", "counter", "Bytes that were removed.", load(&self.collected_bytes)),
        ];
        for (name, kind, help, value) in figures {
            let _ = write!(
                text,
                "# HELP hull_registry_{name} {help}\n# TYPE hull_registry_{name} {kind}\n\
                 hull_registry_{name} {value}\n"
            );
        }
        text
    }
}

/// Serves both until `stop` says so.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(PLACES));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let (Ok((stream, _)), Ok(place)) = (accepted, Arc::clone(&places).try_acquire_owned()) else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let handler = service_fn(|request: Request<Incoming>| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, io::Error>(answer(&shared, request.method(), request.uri().path()).await) }
            });
            let connection = http1::Builder::new()
                .header_read_timeout(HEAD)
                .keep_alive(false)
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), handler);
            if let Ok(Err(error)) = tokio::time::timeout(3 * HEAD, connection).await {
                tracing::debug!(%error, "a connection for figures ended badly");
            }
            drop(place);
        });
    }
}

async fn answer(shared: &Arc<Shared>, method: &Method, path: &str) -> Answer {
    match (method, path) {
        (&Method::GET, "/metrics") => {
            let text = shared.metrics.text(shared.uploads.count());
            bytes_answer(StatusCode::OK, "text/plain; version=0.0.4", text)
        }
        (&Method::GET | &Method::HEAD, "/healthz") => {
            let store = Arc::clone(&shared.store);
            match tokio::task::spawn_blocking(move || store.is_well()).await {
                Ok(true) => bytes_answer(StatusCode::OK, "text/plain", "ok\n"),
                _ => bytes_answer(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "text/plain",
                    "its folder cannot be written\n",
                ),
            }
        }
        _ => empty(StatusCode::NOT_FOUND),
    }
}
