//! The exit record: how a process ended, kept where no full disk can lose it.
//!
//! The file `exit` in a shim's folder (on tmpfs) is made with its whole size before the process is
//! started, all zero. It is filled by one write before the exit is announced. So after a shim has
//! gone, however it went, the file either tells the exit or there was none to tell.

use std::os::fd::OwnedFd;
use std::path::Path;

use hull_sys::{During, Errno, Result};
use rustix::fs::{AtFlags, Mode, OFlags};

use crate::bundle::Exit;
use crate::protocol::Kind;

/// Bytes of every record.
const SIZE: usize = 128;
const NAME: &str = "exit";
/// Beside them, the engine's own: what a container has of networks.
pub const ENDPOINTS: &str = "endpoints.json";
/// There while the container is frozen for a commit, and for nothing else.
pub const COMMITTING: &str = "committing";

/// Makes the shim's folder, 0700, empty but for an unwritten record, and gives the record.
pub(crate) fn create(folder: &Path) -> Result<OwnedFd> {
    for dir in [folder.parent().unwrap_or(folder), folder] {
        match rustix::fs::mkdir(dir, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).during("mkdir", || format!("{dir:?}")),
        }
    }
    let path = folder.join(NAME);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let record =
        rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).during("open", || format!("{path:?}"))?;
    rustix::io::pwrite(&record, &[0; SIZE], 0).during("pwrite", || format!("{path:?}"))?;
    Ok(record)
}

/// Makes the folder before the shim is asked for: whoever looks for the shim then, and finds the
/// folder alone, knows that it may be on its way.
pub fn expect(exec_root: &Path, kind: Kind, id: &str) -> Result<()> {
    create(&kind.folder(exec_root, id)).map(drop)
}

/// Writes the exit, once: a record that is written stays.
pub(crate) fn write(record: &OwnedFd, exit: Exit) -> Result<()> {
    if parse(record)?.is_some() {
        return Ok(());
    }
    let mut bytes = [b' '; SIZE];
    let text = serde_json::to_vec(&exit).unwrap_or_default();
    debug_assert!(text.len() < SIZE);
    bytes[..text.len()].copy_from_slice(&text);
    bytes[SIZE - 1] = b'\n';
    rustix::io::pwrite(record, &bytes, 0).during("pwrite", || "an exit record")?;
    Ok(())
}

/// The same by the folder, for a shim that can no longer do it.
pub(crate) fn write_in(folder: &Path, exit: Exit) -> Result<()> {
    let path = folder.join(NAME);
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let record = rustix::fs::open(&path, flags, Mode::empty()).during("open", || format!("{path:?}"))?;
    write(&record, exit)
}

/// The exit that a shim's folder tells of; `None` if it tells none.
pub(crate) fn read(folder: &Path) -> Result<Option<Exit>> {
    let path = folder.join(NAME);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match rustix::fs::open(&path, flags, Mode::empty()) {
        Ok(record) => parse(&record),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno).during("open", || format!("{path:?}")),
    }
}

fn parse(record: &OwnedFd) -> Result<Option<Exit>> {
    let mut bytes = [0; SIZE];
    let got = rustix::io::pread(record, &mut bytes, 0).during("pread", || "an exit record")?;
    if bytes[..got].last() != Some(&b'\n') {
        return Ok(None);
    }
    Ok(serde_json::from_slice(&bytes[..got]).ok())
}

/// Removes what a shim that has left leaves behind. Its exit has been noted elsewhere.
pub fn forget(exec_root: &Path, kind: Kind, id: &str) -> Result<()> {
    let folder = kind.folder(exec_root, id);
    for name in ["shim.sock", NAME, ENDPOINTS, COMMITTING] {
        let path = folder.join(name);
        match rustix::fs::unlink(&path) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(errno).during("unlink", || format!("{path:?}")),
        }
    }
    match rustix::fs::unlinkat(rustix::fs::CWD, &folder, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno).during("rmdir", || format!("{folder:?}")),
    }
}

/// The ids of all shims that have a folder, living or not.
pub fn list(exec_root: &Path, kind: Kind) -> Result<Vec<String>> {
    let all = kind.all(exec_root);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = match rustix::fs::open(&all, flags, Mode::empty()) {
        Ok(folder) => folder,
        Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(errno) => return Err(errno).during("open", || format!("{all:?}")),
    };
    let mut ids = Vec::new();
    for entry in rustix::fs::Dir::read_from(&folder).during("getdents64", || format!("{all:?}"))? {
        let entry = entry.during("getdents64", || format!("{all:?}"))?;
        let name = entry.file_name().to_string_lossy();
        if crate::protocol::valid_id(&name) {
            ids.push(name.into_owned());
        }
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_tells_nothing_until_written_and_then_never_changes() {
        let root = tempfile::tempdir().unwrap();
        let folder = Kind::Container.folder(root.path(), "abc");
        assert_eq!(read(&folder).unwrap(), None);
        let record = create(&folder).unwrap();
        assert_eq!(read(&folder).unwrap(), None);
        let exit = Exit { code: 255, oom: true, at: i64::MAX };
        write(&record, exit).unwrap();
        assert_eq!(read(&folder).unwrap(), Some(exit));
        write_in(&folder, Exit { code: 137, oom: false, at: 1 }).unwrap();
        assert_eq!(read(&folder).unwrap(), Some(exit));
        assert_eq!(list(root.path(), Kind::Container).unwrap(), ["abc"]);
        forget(root.path(), Kind::Container, "abc").unwrap();
        forget(root.path(), Kind::Container, "abc").unwrap();
        assert_eq!(list(root.path(), Kind::Container).unwrap(), [] as [&str; 0]);
    }
}
