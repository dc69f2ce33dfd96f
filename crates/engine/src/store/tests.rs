//! What is committed comes back; what is damaged is refused and left as it was.

use super::*;

fn container(id: &str, name: &str) -> Change {
    Change::PutContainer { id: id.to_owned(), name: name.to_owned(), record: format!("{{\"id\":\"{id}\"}}") }
}

fn open(dir: &tempfile::TempDir) -> Result<(Store, Writer, Rows)> {
    Store::open(&dir.path().join("state.db"))
}

fn close(store: Store, writer: Writer) {
    drop(store);
    writer.join();
}

#[test]
fn what_was_committed_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let (store, writer, rows) = open(&dir).unwrap();
    assert_eq!(rows, Rows::default());
    store.commit_blocking(vec![container("a", "one"), container("b", "two")]).unwrap();
    store.commit_blocking(vec![Change::PutName { name: "x:1".into(), image: "i".into() }]).unwrap();
    store.queue(vec![Change::DeleteContainer { id: "a".into() }, container("b", "three")]);
    close(store, writer);
    let (store, writer, rows) = open(&dir).unwrap();
    assert_eq!(rows.containers, [("b".to_owned(), "{\"id\":\"b\"}".to_owned())]);
    assert_eq!(rows.names, [("x:1".to_owned(), "i".to_owned())]);
    close(store, writer);
}

#[test]
fn one_request_is_all_or_nothing_and_does_not_harm_its_neighbours() {
    let dir = tempfile::tempdir().unwrap();
    let (store, writer, _) = open(&dir).unwrap();
    // The second name is taken, so neither row of this request may stay.
    store.commit_blocking(vec![container("a", "one")]).unwrap();
    assert!(store.commit_blocking(vec![container("b", "two"), container("c", "one")]).is_err());
    store.queue(vec![container("d", "one")]);
    store.commit_blocking(vec![container("e", "five")]).unwrap();
    close(store, writer);
    let (store, writer, rows) = open(&dir).unwrap();
    assert_eq!(rows.containers.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["a", "e"]);
    close(store, writer);
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let bytes = b"this is not a database, however long one makes it".repeat(200);
    std::fs::write(&path, &bytes).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, Error::CorruptDatabase { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("state.db") && text.contains("move"), "{text}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was put beside it");
}

#[test]
fn a_damaged_page_is_found_at_start_and_nothing_is_rewritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let (store, writer, _) = open(&dir).unwrap();
    let many = (0..500).map(|n| container(&format!("{n:064}"), &format!("name{n}"))).collect();
    store.commit_blocking(many).unwrap();
    close(store, writer);
    let mut bytes = std::fs::read(&path).unwrap();
    assert!(bytes.len() > 5 * 4096);
    bytes[3 * 4096..4 * 4096].fill(0xa5);
    std::fs::write(&path, &bytes).unwrap();
    assert!(matches!(Store::open(&path).unwrap_err(), Error::CorruptDatabase { .. }));
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_newer_schema_and_a_foreign_file_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let (store, writer, _) = open(&dir).unwrap();
    close(store, writer);
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, Error::NewerSchema { found: 99, known: schema::VERSION, .. }), "{error}");
    let foreign = dir.path().join("foreign.db");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(matches!(Store::open(&foreign).unwrap_err(), Error::ForeignDatabase { .. }));
}

#[test]
fn a_killed_writer_loses_nothing_that_was_answered() {
    // A copy of the files at the moment of the answer is what a kill would leave.
    let dir = tempfile::tempdir().unwrap();
    let (store, writer, _) = open(&dir).unwrap();
    let copy = tempfile::tempdir().unwrap();
    for n in 0..20 {
        store.commit_blocking(vec![container(&format!("{n}"), &format!("n{n}"))]).unwrap();
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() != "state.db-shm" {
                std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
            }
        }
        let (other, other_writer, rows) = Store::open(&copy.path().join("state.db")).unwrap();
        assert_eq!(rows.containers.len(), n + 1);
        close(other, other_writer);
        for entry in std::fs::read_dir(copy.path()).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
    close(store, writer);
}
