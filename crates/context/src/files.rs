//! How the bytes of listed files are asked for: by number, over a message socket, answered with descriptors.
//!
//! | who | says, in one message |
//! |---|---|
//! | asker | at most [`BATCH`] [`Ask`]s: number `u32`, size `u64` (little endian), 64 hex digits of the SHA-256 or zeros |
//! | owner of the files | for each in turn one byte, 0 or an errno; beside it a descriptor for each 0 |
//!
//! Several batches are under way at a time, so that neither side waits for the other. The owner is the client, if
//! that is on this host: it opens a file below the folder that it has listed, without following a link. Else the
//! daemon is, who gets the bytes from the client (`contents`), if it has not got them already: for that
//! alone size and digest are told. The asker believes nothing of what it gets but that it is a descriptor.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use hull_oci::Digest;
use hull_oci::digest::Algorithm;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// Files of one message.
pub const BATCH: usize = 32;
/// Batches that are under way to a client. All descriptors that a user has under way are limited
/// (`RLIMIT_NOFILE`, unix(7)).
pub const AHEAD: usize = 3;
/// Batches that are under way to a daemon whose client is far away: as much as waits for a network.
pub const FAR_AHEAD: usize = 24;
/// Bytes of an [`Ask`].
const ASK: usize = 4 + 8 + HEX;
/// Hex digits of a SHA-256.
const HEX: usize = 64;
/// How long a user's other descriptors are waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// A file that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Of its entry in the list.
    pub number: u32,
    /// Bytes that it is expected to have.
    pub size: u64,
    /// Of its bytes, if that is known.
    pub digest: Option<Digest>,
}

impl Ask {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.number.to_le_bytes());
        out.extend(self.size.to_le_bytes());
        let digest = self.digest.as_ref().filter(|digest| digest.hex().len() == HEX);
        out.extend(digest.map_or(&[0; HEX][..], |digest| digest.hex().as_bytes()));
    }

    fn decode(bytes: &[u8; ASK]) -> Option<Ask> {
        let (number, rest) = bytes.split_first_chunk()?;
        let (size, hex) = rest.split_first_chunk()?;
        let digest = match hex.iter().all(|&byte| byte == 0) {
            true => None,
            false => Some(Digest::from_hex(Algorithm::Sha256, str::from_utf8(hex).ok()?).ok()?),
        };
        Some(Ask { number: u32::from_le_bytes(*number), size: u64::from_le_bytes(*size), digest })
    }
}

/// The two ends; the first is the asker's.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Answers, until the asker ends. `open` gets the number of an entry.
///
/// # Errors
/// The asker has broken off, or does not keep to the protocol (EPROTO).
pub fn serve(
    socket: BorrowedFd<'_>,
    mut open: impl FnMut(u32) -> Result<OwnedFd, Errno>,
) -> Result<(), Errno> {
    while let Some(asked) = asked(socket)? {
        let files: Vec<_> = asked.iter().map(|ask| open(ask.number)).collect();
        give(socket, &files)?;
    }
    Ok(())
}

/// What the next message asks for; `None`: the asker has ended.
///
/// # Errors
/// EPROTO: it does not keep to the protocol.
pub fn asked(socket: BorrowedFd<'_>) -> Result<Option<Vec<Ask>>, Errno> {
    let mut bytes = [0u8; ASK * BATCH + 1];
    let length = retry_on_intr(|| rustix::net::recv(socket, &mut bytes[..], RecvFlags::empty()))?.0;
    let (asks, rest) = bytes[..length].as_chunks();
    if !rest.is_empty() || asks.len() > BATCH {
        return Err(Errno::PROTO);
    }
    let asks: Option<Vec<Ask>> = asks.iter().map(Ask::decode).collect();
    Ok(Some(asks.ok_or(Errno::PROTO)?).filter(|asks| !asks.is_empty()))
}

/// Gives the files of one message, in its order.
pub fn give(socket: BorrowedFd<'_>, files: &[Result<OwnedFd, Errno>]) -> Result<(), Errno> {
    let told: Vec<u8> = files
        .iter()
        .map(|file| match file {
            Ok(_) => 0,
            // All of Linux' are smaller (errno(3)).
            Err(errno) => u8::try_from(errno.raw_os_error()).unwrap_or(u8::MAX),
        })
        .collect();
    let beside: Vec<BorrowedFd<'_>> = files.iter().flatten().map(OwnedFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !beside.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&beside)) {
        return Err(Errno::PROTO);
    }
    send(socket, &told, &mut ancillary)
}

/// Where a user has too many descriptors under way, others take theirs soon: the kernel tells of it to nobody.
fn send(
    socket: BorrowedFd<'_>,
    told: &[u8],
    beside: &mut SendAncillaryBuffer<'_, '_, '_>,
) -> Result<(), Errno> {
    let until = Instant::now() + PATIENCE;
    let told = [IoSlice::new(told)];
    loop {
        match rustix::net::sendmsg(socket, &told, beside, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            Err(Errno::TOOMANYREFS) if Instant::now() < until => std::thread::sleep(Duration::from_millis(1)),
            sent => return sent.map(drop),
        }
    }
}

/// Opens a file below `root` to be read; no part of the path may be a link.
pub fn open(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        // Before Linux 5.6, and where a filter does not know it.
        Err(Errno::NOSYS | Errno::PERM) => step_by_step(root, path, flags),
        opened => opened,
    }
}

fn step_by_step(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let mut at = None;
    for part in path.parent().into_iter().flat_map(Path::components) {
        let std::path::Component::Normal(part) = part else { return Err(Errno::INVAL) };
        let from = at.as_ref().map_or(root, OwnedFd::as_fd);
        at = Some(rustix::fs::openat(from, part, folder, Mode::empty())?);
    }
    rustix::fs::openat(at.as_ref().map_or(root, OwnedFd::as_fd), name, flags, Mode::empty())
}

/// The asker's end.
#[derive(Debug)]
pub struct Files {
    socket: OwnedFd,
    /// Batches under way.
    ahead: usize,
}

/// What came in place of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The owner could not open it.
    Refused(Errno),
    /// The owner has gone, or does not keep to the protocol.
    Broken(Errno),
}

impl Files {
    /// `ahead`: how many batches are asked for before the first has come.
    pub fn new(socket: OwnedFd, ahead: usize) -> Files {
        Files { socket, ahead: ahead.clamp(1, FAR_AHEAD) }
    }

    /// Asks for these files and gives them to `take`, in their order, each with its place among them. After an error
    /// nothing more can be asked: files are still on their way.
    pub fn each<E>(
        &self,
        asks: &[Ask],
        mut take: impl FnMut(usize, Result<OwnedFd, Missing>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut under_way = VecDeque::new();
        let mut batches = asks.chunks(BATCH);
        let mut place = 0;
        loop {
            while under_way.len() < self.ahead
                && let Some(batch) = batches.next()
            {
                let mut bytes = Vec::with_capacity(ASK * batch.len());
                batch.iter().for_each(|ask| ask.encode(&mut bytes));
                let sent = retry_on_intr(|| rustix::net::send(&self.socket, &bytes, SendFlags::NOSIGNAL));
                if let Err(errno) = sent {
                    return take(place, Err(Missing::Broken(errno)));
                }
                under_way.push_back(batch.len());
            }
            let Some(count) = under_way.pop_front() else { return Ok(()) };
            match self.answer(count) {
                Err(errno) => return take(place, Err(Missing::Broken(errno))),
                Ok(files) => {
                    for file in files {
                        take(place, file.map_err(Missing::Refused))?;
                        place += 1;
                    }
                }
            }
        }
    }

    fn answer(&self, count: usize) -> Result<Vec<Result<OwnedFd, Errno>>, Errno> {
        let mut told = [0u8; BATCH + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let message = retry_on_intr(|| {
            let into = &mut [IoSliceMut::new(&mut told)];
            rustix::net::recvmsg(&self.socket, into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        })?;
        let mut beside = VecDeque::new();
        for part in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = part {
                beside.extend(rights);
            }
        }
        if message.bytes == 0 {
            return Err(Errno::CONNRESET);
        }
        let told = &told[..message.bytes];
        let whole = !message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
        if !whole || told.len() != count || beside.len() != told.iter().filter(|&&errno| errno == 0).count() {
            return Err(Errno::PROTO);
        }
        let file = |errno: &u8| match *errno {
            0 => beside.pop_front().ok_or(Errno::PROTO),
            errno => Err(Errno::from_raw_os_error(i32::from(errno))),
        };
        Ok(told.iter().map(file).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;

    /// What comes of asking for all `numbers`.
    fn ask(socket: OwnedFd, numbers: &[u32]) -> Result<Vec<Result<String, Missing>>, Missing> {
        let mut all = Vec::new();
        let asks: Vec<Ask> = numbers.iter().map(|&number| Ask { number, size: 1, digest: None }).collect();
        Files::new(socket, AHEAD).each(&asks, |place, file| {
            assert_eq!(place, all.len());
            match file {
                Ok(file) => {
                    let mut text = String::new();
                    File::from(file).read_to_string(&mut text).unwrap();
                    all.push(Ok(text));
                }
                Err(Missing::Refused(errno)) => all.push(Err(Missing::Refused(errno))),
                Err(broken) => return Err(broken),
            }
            Ok(())
        })?;
        Ok(all)
    }

    #[test]
    fn every_file_comes_in_its_turn() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("d")).unwrap();
        let count = 20 * BATCH as u32 + 3;
        for number in (0..count).filter(|number| number % 7 != 3) {
            std::fs::write(root.path().join(format!("d/{number}")), number.to_string()).unwrap();
        }
        let (ours, theirs) = pair().unwrap();
        let folder = File::open(root.path()).unwrap();
        let owner = std::thread::spawn(move || {
            serve(theirs.as_fd(), |number| open(folder.as_fd(), Path::new(&format!("d/{number}"))))
        });
        let numbers: Vec<u32> = (0..count).rev().collect();
        let all = ask(ours, &numbers).unwrap();
        let expected: Vec<_> = numbers
            .iter()
            .map(|number| match number % 7 {
                3 => Err(Missing::Refused(Errno::NOENT)),
                _ => Ok(number.to_string()),
            })
            .collect();
        assert_eq!(all, expected);
        assert_eq!(owner.join().unwrap(), Ok(()));
    }

    #[test]
    fn what_is_known_of_a_file_is_told() {
        let (ours, theirs) = pair().unwrap();
        let ask = |digest| Ask { number: u32::MAX, size: u64::MAX - 1, digest };
        let asks = [ask(Some(Digest::sha256(b"x"))), ask(None)];
        let told = asks.clone();
        let asker = std::thread::spawn(move || {
            Files::new(ours, 1).each(&told, |_, file| match file {
                Err(Missing::Refused(Errno::STALE)) => Ok(()),
                other => Err(other),
            })
        });
        assert_eq!(asked(theirs.as_fd()).unwrap().unwrap(), asks);
        give(theirs.as_fd(), &[Err(Errno::STALE), Err(Errno::STALE)]).unwrap();
        asker.join().unwrap().unwrap();
        assert_eq!(asked(theirs.as_fd()), Ok(None));
    }

    #[test]
    fn a_file_is_opened_inside_and_through_no_link() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("in")).unwrap();
        std::fs::write(root.path().join("in/file"), "x").unwrap();
        for (link, target) in [("out", "/etc"), ("here", "in"), ("passwd", "/etc/passwd")] {
            std::os::unix::fs::symlink(target, root.path().join(link)).unwrap();
        }
        let folder = File::open(root.path()).unwrap();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let both = |path: &str| {
            let (at, path) = (folder.as_fd(), Path::new(path));
            [open(at, path).is_ok(), step_by_step(at, path, flags).is_ok()]
        };
        assert_eq!(both("in/file"), [true, true]);
        for bad in ["out/passwd", "here/file", "passwd", "../x", "/etc/passwd"] {
            assert_eq!(both(bad), [false, false], "{bad}");
        }
    }

    #[test]
    fn who_breaks_the_protocol_is_not_believed() {
        let answers: [(&[u8], usize); 5] = [(&[0], 0), (&[0, 0], 1), (&[2], 1), (&[], 0), (&[0; 40], 1)];
        for (bytes, descriptors) in answers {
            let (ours, theirs) = pair().unwrap();
            let null = File::open("/dev/null").unwrap();
            let owner = std::thread::spawn(move || {
                assert_eq!(asked(theirs.as_fd()).unwrap().unwrap().len(), 1);
                if bytes.is_empty() {
                    return;
                }
                let beside = vec![null.as_fd(); descriptors];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
                let mut ancillary = SendAncillaryBuffer::new(&mut space);
                assert!(beside.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(&beside)));
                rustix::net::sendmsg(&theirs, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)
                    .unwrap();
            });
            assert!(matches!(ask(ours, &[1]), Err(Missing::Broken(_))), "{bytes:?} {descriptors}");
            owner.join().unwrap();
        }
        let mut digest = [b'a'; ASK];
        digest[ASK - 1] = b'x';
        for bad in [&[1u8, 2, 3][..], &[0; ASK * BATCH + ASK], &digest] {
            let (ours, theirs) = pair().unwrap();
            rustix::net::send(&ours, bad, SendFlags::NOSIGNAL).unwrap();
            assert_eq!(serve(theirs.as_fd(), |_| Err(Errno::NOENT)), Err(Errno::PROTO));
        }
    }
}
