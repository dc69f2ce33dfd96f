//! Signals that reach the client are meant for the container's process.

use std::sync::Arc;

use hull_api::client::{Body, Client, Query, segment};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::command::{Failure, fail};

/// Number and name of each signal that is handed on. `SIGCHLD`, `SIGPIPE` and
/// `SIGURG` are the client's own; the rest either cannot be caught or is
/// raised by faults of the client itself.
const FORWARDED: [(i32, &str); 12] = [
    (1, "HUP"),
    (2, "INT"),
    (3, "QUIT"),
    (10, "USR1"),
    (12, "USR2"),
    (14, "ALRM"),
    (15, "TERM"),
    (18, "CONT"),
    (20, "TSTP"),
    (21, "TTIN"),
    (22, "TTOU"),
    (30, "PWR"),
];

/// After so many SIGINTs and SIGTERMs somebody wants the client itself to end: the container's process
/// does not heed them.
const ENOUGH: usize = 3;

/// Hands signals on to container `id` from now on, as long as this lives.
pub(crate) struct Forwarding {
    tasks: Vec<tokio::task::JoinHandle<()>>,
    /// SIGINTs and SIGTERMs by now.
    pleas: watch::Receiver<usize>,
}

impl Forwarding {
    pub(crate) fn start(client: &Client, id: &str) -> Forwarding {
        let path = format!("/containers/{}/kill", segment(id));
        let mut tasks = Vec::new();
        let (counter, pleas) = watch::channel(0);
        let counter = Arc::new(counter);
        for (number, name) in FORWARDED {
            let Ok(mut arrivals) = signal(SignalKind::from_raw(number)) else {
                continue;
            };
            let (client, path, counter) = (client.clone(), path.clone(), Arc::clone(&counter));
            tasks.push(tokio::spawn(async move {
                while arrivals.recv().await.is_some() {
                    if matches!(name, "INT" | "TERM") {
                        counter.send_modify(|count| *count += 1);
                    }
                    let query = Query::new().with("signal", name);
                    // The container may just have ended: nobody to tell then.
                    if let Ok(answer) = client.post(&path, &query, Body::Empty).await {
                        let _ = answer.bytes().await;
                    }
                }
            }));
        }
        Forwarding { tasks, pleas }
    }

    /// Comes back, with what is then said, when the client was told to end often enough.
    pub(crate) async fn given_up(&self) -> Failure {
        if self.pleas.clone().wait_for(|count| *count >= ENOUGH).await.is_err() {
            // No such signal can come.
            std::future::pending::<()>().await;
        }
        fail(format!("\ngot {ENOUGH} SIGTERM/SIGINTs, forcefully exiting"))
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Tells the terminal of a container or exec how large ours is, now and after
/// each change. `path` is the resource: `/containers/ID` or `/exec/ID`.
pub(crate) fn follow_size(client: &Client, path: &str) -> Option<tokio::task::JoinHandle<()>> {
    if crate::terminal::size() == (0, 0) {
        return None;
    }
    let changes = signal(SignalKind::window_change()).ok();
    let (client, path) = (client.clone(), format!("{path}/resize"));
    Some(tokio::spawn(async move {
        // The process may not have its terminal yet: a few tries, then let be.
        for attempt in 0..10_u64 {
            if resize(&client, &path).await {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10 * (attempt + 1))).await;
        }
        let Some(mut changes) = changes else { return };
        while changes.recv().await.is_some() {
            resize(&client, &path).await;
        }
    }))
}

async fn resize(client: &Client, path: &str) -> bool {
    let (rows, columns) = crate::terminal::size();
    let query = Query::new().with("h", rows.to_string()).with("w", columns.to_string());
    match client.post(path, &query, Body::Empty).await {
        Ok(answer) => answer.bytes().await.is_ok(),
        Err(_) => false,
    }
}

/// Makes the terminal one larger for a moment.
pub(crate) async fn nudge_size(client: &Client, path: &str) {
    let (rows, columns) = crate::terminal::size();
    if (rows, columns) == (0, 0) {
        return;
    }
    let query = Query::new().with("h", (rows + 1).to_string()).with("w", (columns + 1).to_string());
    if let Ok(answer) = client.post(&format!("{path}/resize"), &query, Body::Empty).await {
        let _ = answer.bytes().await;
    }
}
