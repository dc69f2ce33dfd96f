//! Files in memory that cannot change any more (memfd_create(2), fcntl(2) "File Sealing").
//!
//! Documents go from process to process as sealed memfds: of any size, read with one call, and the
//! sender cannot alter them after they were checked.

use std::ffi::CStr;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};

use crate::error::{During, Errno, Result, ShowFd};

const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// A sealed file in memory with `bytes`; `name` shows in /proc alone.
pub fn sealed(name: &CStr, bytes: &[u8]) -> Result<OwnedFd> {
    sealed_with(name, bytes, MemfdFlags::empty())
}

/// The same, executable: what the spawner runs from, so that a container that gets hold of
/// `/proc/PID/exe` finds a file that nobody can write to.
pub fn sealed_executable(name: &CStr, bytes: &[u8]) -> Result<OwnedFd> {
    match sealed_with(name, bytes, MemfdFlags::EXEC) {
        // Before Linux 6.3 there is no MFD_EXEC, and every memfd is executable.
        Err(error) if error.errno == Errno::INVAL => sealed_with(name, bytes, MemfdFlags::empty()),
        result => result,
    }
}

fn sealed_with(name: &CStr, bytes: &[u8], flags: MemfdFlags) -> Result<OwnedFd> {
    let mut file = std::fs::File::from(open_with(name, flags)?);
    file.write_all(bytes).during("write", || format!("memfd {name:?}, {} bytes", bytes.len()))?;
    seal(&file)?;
    Ok(file.into())
}

/// An empty one, for what comes piece by piece; to be [sealed](seal) then.
pub fn open(name: &CStr) -> Result<OwnedFd> {
    open_with(name, MemfdFlags::empty())
}

fn open_with(name: &CStr, flags: MemfdFlags) -> Result<OwnedFd> {
    let flags = flags | MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    rustix::fs::memfd_create(name, flags).during("memfd_create", || format!("{name:?}, {flags:?}"))
}

/// From now on it stays as it is.
pub fn seal(fd: impl AsFd) -> Result<()> {
    let fd = fd.as_fd();
    rustix::fs::fcntl_add_seals(fd, SEALS).during("fcntl", || format!("{}, F_ADD_SEALS", ShowFd(fd)))
}

/// The whole content of a memfd that a peer sent, wherever its position is. Not sealed against
/// every change is EPERM, more than `limit` bytes EFBIG.
pub fn read_sealed(fd: impl AsFd, limit: u64) -> Result<Vec<u8>> {
    let fd = fd.as_fd();
    let seals = rustix::fs::fcntl_get_seals(fd).during("fcntl", || format!("{}, F_GET_SEALS", ShowFd(fd)))?;
    let needed = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    if !seals.contains(needed) {
        return Err(Errno::PERM).during("fcntl", || format!("{}, F_GET_SEALS: {seals:?}", ShowFd(fd)));
    }
    let size = rustix::fs::fstat(fd).during("fstat", || ShowFd(fd))?.st_size;
    let size = u64::try_from(size).unwrap_or(u64::MAX);
    if size > limit {
        return Err(Errno::FBIG)
            .during("read", || format!("{}: {size} bytes of at most {limit}", ShowFd(fd)));
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    let mut filled = 0;
    while filled < bytes.len() {
        // Never the descriptor's own position: other processes may read the same memfd right now.
        match rustix::io::pread(fd, &mut bytes[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).during("pread", || ShowFd(fd)),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_document_can_be_read_and_not_written() {
        let fd = sealed(c"test", b"document").unwrap();
        assert_eq!(read_sealed(&fd, 8).unwrap(), b"document");
        assert_eq!(read_sealed(&fd, 8).unwrap(), b"document");
        assert_eq!(read_sealed(&fd, 7).unwrap_err().errno, Errno::FBIG);
        assert_eq!(rustix::io::write(&fd, b"x").unwrap_err(), Errno::PERM);
        let fd = open(c"pieces").unwrap();
        assert_eq!(rustix::io::write(&fd, b"one").unwrap(), 3);
        assert_eq!(rustix::io::write(&fd, b"two").unwrap(), 3);
        seal(&fd).unwrap();
        assert_eq!(read_sealed(&fd, 6).unwrap(), b"onetwo");
        assert_eq!(rustix::io::write(&fd, b"x").unwrap_err(), Errno::PERM);
    }

    #[test]
    fn a_document_that_could_still_change_is_refused() {
        let fd = rustix::fs::memfd_create(c"open", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        assert_eq!(read_sealed(&fd, 8).unwrap_err().errno, Errno::PERM);
    }
}
