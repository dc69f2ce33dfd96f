//! The schema of `state.db` and how an older one becomes the present one.
//!
//! A row is an id, the record as JSON, and the few columns that a person with `sqlite3` would
//! look by. What is in the JSON is the business of the room that owns the record; a field added
//! there needs a default, not a migration. A migration is for tables.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::database;
use crate::{Error, Result};

/// Statement lists, one for each version: the first makes version 1 out of nothing.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE container (id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL UNIQUE, record TEXT NOT NULL) STRICT;
    CREATE TABLE image (id TEXT PRIMARY KEY NOT NULL, record TEXT NOT NULL) STRICT;
    CREATE TABLE image_name (name TEXT PRIMARY KEY NOT NULL, image TEXT NOT NULL) STRICT;
",
    "
    CREATE TABLE network (id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL UNIQUE, record TEXT NOT NULL) STRICT;
",
    "
    CREATE TABLE volume (name TEXT PRIMARY KEY NOT NULL, record TEXT NOT NULL) STRICT;
",
    "
    CREATE TABLE build (key TEXT PRIMARY KEY NOT NULL, record TEXT NOT NULL) STRICT;
",
];

/// The version that this build writes.
pub(super) const VERSION: u32 = MIGRATIONS.len() as u32;

/// Written into the file's header, so that `file` and we know whose it is (`PRAGMA
/// application_id`): "Hull" in ASCII.
const APPLICATION: i32 = 0x4875_6c6c;

/// Checks whose file it is and of which version; brings it up to date in one transaction each.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<()> {
    let fail = |source| database(path, source);
    let application: i32 =
        connection.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(fail)?;
    let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(fail)?;
    let any: Option<i32> = connection
        .query_row("SELECT 1 FROM sqlite_schema LIMIT 1", [], |row| row.get(0))
        .optional()
        .map_err(fail)?;
    if application != APPLICATION && (any.is_some() || found != 0) {
        return Err(Error::ForeignDatabase { path: path.to_owned() });
    }
    if found > VERSION {
        return Err(Error::NewerSchema { path: path.to_owned(), found, known: VERSION });
    }
    for (index, statements) in MIGRATIONS.iter().enumerate().skip(found as usize) {
        let transaction = connection.transaction().map_err(fail)?;
        transaction.execute_batch(statements).map_err(fail)?;
        transaction.pragma_update(None, "application_id", APPLICATION).map_err(fail)?;
        transaction.pragma_update(None, "user_version", index as u32 + 1).map_err(fail)?;
        transaction.commit().map_err(fail)?;
    }
    Ok(())
}
