//! What must outlive the daemon: one SQLite file, one writer, everything else in memory.
//!
//! The rooms keep their records in memory and ask the database only once, at start ([`Rows`]).
//! Afterwards it is written by one thread: it takes all [`Change`]s that have come in, commits
//! them in one transaction and then answers all who wait (group commit), so that fifty containers
//! created at once cost a few commits. WAL with `synchronous=NORMAL` (sqlite.org/pragma.html):
//! a killed process loses nothing that was answered; a power cut may lose the last commits,
//! never the consistency.
//!
//! A file that cannot be read is left exactly as it is: the daemon refuses to start and says which
//! file it is and what to do. Nothing is moved, repaired or rewritten on its own, for what a
//! person can still save of a damaged database depends on nobody having touched it.

mod schema;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction};
use tokio::sync::oneshot;

use crate::{Error, Result};

/// Most requests that one transaction takes.
const GROUP: usize = 256;

/// One row to write or to delete. Those of one request are committed together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    PutContainer {
        id: String,
        name: String,
        record: String,
    },
    DeleteContainer {
        id: String,
    },
    PutImage {
        id: String,
        record: String,
    },
    DeleteImage {
        id: String,
    },
    /// `image` is the id of the image that the name stands for.
    PutName {
        name: String,
        image: String,
    },
    DeleteName {
        name: String,
    },
    PutNetwork {
        id: String,
        name: String,
        record: String,
    },
    DeleteNetwork {
        id: String,
    },
    PutVolume {
        name: String,
        record: String,
    },
    DeleteVolume {
        name: String,
    },
    /// `key` is a step's, of a build.
    PutBuild {
        key: String,
        record: String,
    },
    DeleteBuild {
        key: String,
    },
}

/// Everything that was in the database at start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// Id and record.
    pub containers: Vec<(String, String)>,
    pub images: Vec<(String, String)>,
    /// Name and the image's id.
    pub names: Vec<(String, String)>,
    pub networks: Vec<(String, String)>,
    /// Name and record.
    pub volumes: Vec<(String, String)>,
    /// Key and record.
    pub builds: Vec<(String, String)>,
}

/// The way to the writer; cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    requests: mpsc::Sender<Request>,
    path: PathBuf,
}

/// The writer's thread; ends when every [`Store`] is gone, with everything written.
#[derive(Debug)]
pub struct Writer(JoinHandle<()>);

#[derive(Debug)]
struct Request {
    changes: Vec<Change>,
    answer: Option<oneshot::Sender<Result<()>>>,
}

impl Store {
    /// Opens or makes the database, checks it and reads everything. Blocks.
    pub fn open(path: &Path) -> Result<(Store, Writer, Rows)> {
        let connection = connect(path)?;
        let rows = read(&connection).map_err(|source| database(path, source))?;
        let (requests, incoming) = mpsc::channel();
        let owned = path.to_owned();
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || write_until_closed(connection, &incoming, &owned))
            .map_err(|source| Error::Io { call: "start a thread for", path: path.to_owned(), source })?;
        Ok((Store { requests, path: path.to_owned() }, Writer(thread), rows))
    }

    /// Commits, and returns when the changes are safe from a kill of this process.
    pub async fn commit(&self, changes: Vec<Change>) -> Result<()> {
        self.send(changes)?.await.map_err(|_| Error::ShuttingDown)?
    }

    /// As [`Store::commit`], for threads outside the async runtime.
    pub fn commit_blocking(&self, changes: Vec<Change>) -> Result<()> {
        self.send(changes)?.blocking_recv().map_err(|_| Error::ShuttingDown)?
    }

    /// Hands over changes that nobody waits for: they are written in the order of all requests.
    /// An error is logged by the writer.
    pub fn queue(&self, changes: Vec<Change>) {
        // The writer is gone only when the whole engine goes.
        drop(self.requests.send(Request { changes, answer: None }));
    }

    fn send(&self, changes: Vec<Change>) -> Result<oneshot::Receiver<Result<()>>> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request { changes, answer: Some(answer) }).map_err(|_| Error::ShuttingDown)?;
        Ok(answered)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Writer {
    /// Waits until everything is written. Every [`Store`] must be dropped before, else it waits
    /// for that. Blocks.
    pub fn join(self) {
        // A panic of the writer has been reported by its own thread.
        drop(self.0.join());
    }
}

/// An SQLite error, told apart where the remedy differs.
fn database(path: &Path, source: rusqlite::Error) -> Error {
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            Error::CorruptDatabase { path: path.to_owned(), what: source.to_string() }
        }
        Some(ErrorCode::DiskFull) => {
            Error::Io { call: "write", path: path.to_owned(), source: std::io::ErrorKind::StorageFull.into() }
        }
        _ => Error::Database { path: path.to_owned(), source },
    }
}

fn connect(path: &Path) -> Result<Connection> {
    let fail = |source| database(path, source);
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(fail)?;
    // Until the file is known to be whole, closing it must not write into it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(fail)?;
    // The check reads every page; with some thousand rows that is a few milliseconds.
    let verdict: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(fail)?;
    if verdict != "ok" {
        return Err(Error::CorruptDatabase { path: path.to_owned(), what: verdict });
    }
    schema::migrate(&mut connection, path)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(fail)?;
    let mode: String = connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0)).map_err(fail)?;
    if mode != "wal" {
        tracing::warn!(path = %path.display(), mode, "the state database cannot use a write-ahead log here");
    }
    connection.pragma_update(None, "synchronous", "NORMAL").map_err(fail)?;
    connection.set_prepared_statement_cache_capacity(16);
    Ok(connection)
}

fn read(connection: &Connection) -> rusqlite::Result<Rows> {
    let pairs = |sql: &str| -> rusqlite::Result<Vec<(String, String)>> {
        connection.prepare(sql)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    };
    Ok(Rows {
        containers: pairs("SELECT id, record FROM container ORDER BY id")?,
        images: pairs("SELECT id, record FROM image ORDER BY id")?,
        names: pairs("SELECT name, image FROM image_name ORDER BY name")?,
        networks: pairs("SELECT id, record FROM network ORDER BY id")?,
        volumes: pairs("SELECT name, record FROM volume ORDER BY name")?,
        builds: pairs("SELECT key, record FROM build ORDER BY key")?,
    })
}

fn write_until_closed(mut connection: Connection, incoming: &mpsc::Receiver<Request>, path: &Path) {
    while let Ok(first) = incoming.recv() {
        let mut group = vec![first];
        group.extend(incoming.try_iter().take(GROUP - 1));
        match write(&mut connection, &group) {
            Ok(()) => group
                .into_iter()
                .filter_map(|request| request.answer)
                .for_each(|answer| drop(answer.send(Ok(())))),
            // One bad request must not take the others down with it: each for itself.
            Err(_) => group.into_iter().for_each(|request| write_alone(&mut connection, request, path)),
        }
    }
}

fn write_alone(connection: &mut Connection, request: Request, path: &Path) {
    let outcome = write(connection, std::slice::from_ref(&request)).map_err(|source| database(path, source));
    match (request.answer, outcome) {
        (Some(answer), outcome) => drop(answer.send(outcome)),
        (None, Ok(())) => {}
        (None, Err(error)) => tracing::error!(%error, "a change could not be written"),
    }
}

fn write(connection: &mut Connection, group: &[Request]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for change in group.iter().flat_map(|request| &request.changes) {
        apply(&transaction, change)?;
    }
    transaction.commit()
}

fn apply(transaction: &Transaction<'_>, change: &Change) -> rusqlite::Result<()> {
    let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
        transaction.prepare_cached(sql)?.execute(values).map(drop)
    };
    match change {
        Change::PutContainer { id, name, record } => run(
            "INSERT INTO container (id, name, record) VALUES (?1, ?2, ?3)
             ON CONFLICT (id) DO UPDATE SET name = ?2, record = ?3",
            &[id, name, record],
        ),
        Change::DeleteContainer { id } => run("DELETE FROM container WHERE id = ?1", &[id]),
        Change::PutImage { id, record } => run(
            "INSERT INTO image (id, record) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET record = ?2",
            &[id, record],
        ),
        Change::DeleteImage { id } => run("DELETE FROM image WHERE id = ?1", &[id]),
        Change::PutName { name, image } => run(
            "INSERT INTO image_name (name, image) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET image = ?2",
            &[name, image],
        ),
        Change::DeleteName { name } => run("DELETE FROM image_name WHERE name = ?1", &[name]),
        Change::PutNetwork { id, name, record } => run(
            "INSERT INTO network (id, name, record) VALUES (?1, ?2, ?3)
             ON CONFLICT (id) DO UPDATE SET name = ?2, record = ?3",
            &[id, name, record],
        ),
        Change::DeleteNetwork { id } => run("DELETE FROM network WHERE id = ?1", &[id]),
        Change::PutVolume { name, record } => run(
            "INSERT INTO volume (name, record) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET record = ?2",
            &[name, record],
        ),
        Change::DeleteVolume { name } => run("DELETE FROM volume WHERE name = ?1", &[name]),
        Change::PutBuild { key, record } => run(
            "INSERT INTO build (key, record) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET record = ?2",
            &[key, record],
        ),
        Change::DeleteBuild { key } => run("DELETE FROM build WHERE key = ?1", &[key]),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
