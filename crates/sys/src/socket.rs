//! Unix sockets that carry messages with descriptors (unix(7)).
//!
//! All of Hull's processes on a host talk over `SOCK_SEQPACKET`: one `send` is one `receive`, no
//! framing, no partial messages, and the end of the peer is an empty message.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::error::{During, Errno, Result, ShowFd};

/// Descriptors that one message can carry. The kernel's own bound is 253 (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 32;

pub use rustix::net::UCred;
pub use rustix::net::sockopt::socket_peercred;

/// A connected pair of message sockets, closed on exec.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .during("socketpair", || "AF_UNIX, SOCK_SEQPACKET")
}

/// Sends one message with `fds` (at most [`MAX_FDS`], else EINVAL). A peer that has gone is EPIPE,
/// never a signal.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let socket = socket.as_fd();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let args = || format!("{}, {} bytes, {} descriptors", ShowFd(socket), bytes.len(), fds.len());
    if fds.len() > MAX_FDS || (!fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds))) {
        return Err(Errno::INVAL).during("sendmsg", args);
    }
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)
    })
    .during("sendmsg", args)?;
    Ok(())
}

/// What [`receive`] got.
#[derive(Debug)]
pub struct Received {
    /// Bytes written to the buffer. Zero with no descriptors: the peer has gone.
    pub len: usize,
    /// Closed on exec.
    pub fds: Vec<OwnedFd>,
    /// The message or its descriptors did not fit: it must not be believed.
    pub truncated: bool,
}

/// Receives one message. On a non-blocking socket with nothing to read the error is EAGAIN.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<Received> {
    let socket = socket.as_fd();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })
    .during("recvmsg", || ShowFd(socket))?;
    let mut fds = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    let truncated = message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    Ok(Received { len: message.bytes, fds, truncated })
}

/// The number of this thread's network namespace, never used again while the machine runs (Linux
/// 5.14, SO_NETNS_COOKIE).
///
/// # Errors
/// ENOPROTOOPT from older kernels.
pub fn network_namespace() -> Result<u64> {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .during("socket", || "AF_INET, SOCK_DGRAM")?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the socket is open, and the kernel writes at most `length` bytes, the size of `cookie`.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if done == 0 {
        return Ok(cookie);
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)).during("getsockopt", || "SO_NETNS_COOKIE")
}

/// Who is at the other end, as the kernel saw it when the connection was made.
pub fn peer(socket: impl AsFd) -> Result<UCred> {
    let socket = socket.as_fd();
    socket_peercred(socket).during("getsockopt", || format!("{}, SO_PEERCRED", ShowFd(socket)))
}

/// Makes a message socket at `path` and listens. `path` may be longer than the 108 bytes of
/// `sun_path`: its folder is opened and the socket named through `/proc/self/fd`. What is at `path`
/// already is an error (EADDRINUSE). The file's mode is 0600: the umask is never relied upon.
pub fn listen(path: &Path, kind: SocketType, flags: SocketFlags) -> Result<OwnedFd> {
    let (_dir, address) = address(path)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags | SocketFlags::CLOEXEC, None)
        .during("socket", || "AF_UNIX")?;
    // The socket file takes its mode from the socket's inode and the umask (unix(7), "Pathname
    // socket ownership and permissions"): narrowed before it has a name, nobody can connect early.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).during("fchmod", || ShowFd(&socket))?;
    rustix::net::bind(&socket, &address).during("bind", || format!("{path:?}"))?;
    rustix::net::listen(&socket, 128).during("listen", || format!("{path:?}"))?;
    Ok(socket)
}

/// Connects to the socket at `path`, of any length.
pub fn connect(path: &Path, kind: SocketType, flags: SocketFlags) -> Result<OwnedFd> {
    let (_dir, address) = address(path)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags | SocketFlags::CLOEXEC, None)
        .during("socket", || "AF_UNIX")?;
    rustix::net::connect(&socket, &address).during("connect", || format!("{path:?}"))?;
    Ok(socket)
}

/// The address of `path` and, where it needed one, the folder's descriptor that it stands on.
fn address(path: &Path) -> Result<(Option<OwnedFd>, SocketAddrUnix)> {
    if let Ok(address) = SocketAddrUnix::new(path) {
        return Ok((None, address));
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().ok_or(Errno::INVAL).during("bind", || format!("{path:?}"))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(parent, flags, Mode::empty()).during("open", || format!("{parent:?}"))?;
    let mut short = std::path::PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    short.push(name);
    let address = SocketAddrUnix::new(&short).during("bind", || format!("{path:?}"))?;
    Ok((Some(dir), address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_message_arrives_whole_with_its_descriptors() {
        let (a, b) = pair().unwrap();
        let (mut read, mut write) = std::io::pipe().unwrap();
        send(&a, b"hello", &[write.as_fd()]).unwrap();
        send(&a, b"again", &[]).unwrap();
        let mut buffer = [0; 16];
        let got = receive(&b, &mut buffer).unwrap();
        assert_eq!((&buffer[..got.len], got.fds.len(), got.truncated), (&b"hello"[..], 1, false));
        write.flush().unwrap();
        drop(write);
        std::fs::File::from(got.fds.into_iter().next().unwrap()).write_all(b"through").unwrap();
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        assert_eq!(receive(&b, &mut buffer).unwrap().len, 5);
        drop(a);
        assert_eq!(receive(&b, &mut buffer).unwrap().len, 0);
    }

    #[test]
    fn a_message_longer_than_the_buffer_is_marked() {
        let (a, b) = pair().unwrap();
        send(&a, &[0; 100], &[]).unwrap();
        assert!(receive(&b, &mut [0; 10]).unwrap().truncated);
    }

    #[test]
    fn a_socket_path_may_be_longer_than_108_bytes_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(100)).join("e".repeat(60));
        std::fs::create_dir_all(&deep).unwrap();
        let path = deep.join("shim.sock");
        let server = listen(&path, SocketType::SEQPACKET, SocketFlags::empty()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let client = connect(&path, SocketType::SEQPACKET, SocketFlags::empty()).unwrap();
        let (peer_side, _) = rustix::net::acceptfrom(&server).unwrap();
        assert_eq!(peer(&peer_side).unwrap().pid, rustix::process::getpid());
        send(&client, b"x", &[]).unwrap();
        assert_eq!(receive(&peer_side, &mut [0; 4]).unwrap().len, 1);
    }
}
