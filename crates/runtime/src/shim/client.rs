//! One attached socket: output goes to it at its own pace, input comes from it.

use std::io::IoSlice;
use std::os::fd::OwnedFd;

use hull_sys::Errno;
use rustix::event::epoll::EventFlags;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};

use crate::log::Stream;
use crate::protocol::{Attach, Framing};

/// Bytes that wait for one client before the process is made to wait for it.
pub(super) const BACKLOG_MAX: usize = 1024 * 1024;

/// Bytes that are read of a client that goes: more than a socket holds by default.
const UNWANTED_MAX: usize = 1024 * 1024;

/// The peer has closed the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

/// What a client has sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Bytes(usize),
    Nothing,
    /// It will send no more; it may still read.
    End,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) socket: OwnedFd,
    pub(super) attach: Attach,
    /// Its input is wanted and has not ended.
    pub(super) input: bool,
    /// It has gone, but sent more input than there was room for; epoll knows it no more.
    pub(super) hung_up: bool,
    /// What epoll waits for.
    pub(super) armed: EventFlags,
    /// `backlog[sent..]` found no room in the socket yet.
    backlog: Vec<u8>,
    sent: usize,
}

impl Client {
    /// `socket` is any connected stream socket; it may block, this code never does.
    pub(super) fn new(socket: OwnedFd, attach: Attach) -> Client {
        Client {
            socket,
            attach,
            input: attach.stdin,
            hung_up: false,
            armed: EventFlags::empty(),
            backlog: Vec::new(),
            sent: 0,
        }
    }

    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.backlog.len() - self.sent
    }

    /// Passes on what the process wrote. What does not fit waits.
    pub(super) fn offer(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), Gone> {
        let (wanted, number) = match stream {
            Stream::Out => (self.attach.stdout, 1),
            Stream::Err => (self.attach.stderr, 2),
        };
        if !wanted {
            return Ok(());
        }
        let mut head = [number, 0, 0, 0, 0, 0, 0, 0];
        head[4..].copy_from_slice(&(bytes.len() as u32).to_be_bytes());
        let head: &[u8] = match self.attach.framing {
            Framing::Raw => &[],
            Framing::Multiplexed => &head,
        };
        let mut done = 0;
        if self.waiting() == 0 {
            done = self.send(&[IoSlice::new(head), IoSlice::new(bytes)])?;
        }
        if done < head.len() + bytes.len() {
            let from = done.min(head.len());
            self.backlog.extend_from_slice(&head[from..]);
            self.backlog.extend_from_slice(&bytes[done - from..]);
        }
        Ok(())
    }

    /// Sends of what waits as much as the socket takes.
    pub(super) fn flush(&mut self) -> Result<(), Gone> {
        while self.waiting() > 0 {
            match self.send(&[IoSlice::new(&self.backlog[self.sent..])])? {
                0 => return Ok(()),
                done => self.sent += done,
            }
        }
        self.backlog = Vec::new();
        self.sent = 0;
        Ok(())
    }

    /// Bytes that the socket took.
    fn send(&self, parts: &[IoSlice<'_>]) -> Result<usize, Gone> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            match rustix::net::sendmsg(&self.socket, parts, &mut SendAncillaryBuffer::default(), flags) {
                Ok(done) => return Ok(done),
                Err(Errno::AGAIN | Errno::NOBUFS) => return Ok(0),
                Err(Errno::INTR) => {}
                Err(_) => return Err(Gone),
            }
        }
    }

    /// Takes input; the bytes are appended to `into`.
    pub(super) fn read(&mut self, into: &mut Vec<u8>, most: usize) -> Result<Sent, Gone> {
        let before = into.len();
        into.resize(before + most, 0);
        let got = loop {
            match rustix::net::recv(&self.socket, &mut into[before..], RecvFlags::DONTWAIT) {
                Err(Errno::INTR) => {}
                other => break other.map(|(_, got)| got),
            }
        };
        into.truncate(before + got.unwrap_or(0));
        match got {
            Ok(0) => {
                self.input = false;
                Ok(Sent::End)
            }
            Ok(got) => Ok(Sent::Bytes(got)),
            Err(Errno::AGAIN) => Ok(Sent::Nothing),
            Err(_) => Err(Gone),
        }
    }
}

/// Reads what the client has sent and nobody wants: a socket that is closed with unread bytes
/// tells its peer of a reset instead of an end (unix(7) is silent; Linux does so). It is closed and
/// not shut down: whoever keeps a copy decides when the client sees the end. The daemon does, until
/// it knows the code of an exec.
impl Drop for Client {
    fn drop(&mut self) {
        let mut block = [0; 4096];
        let mut left = UNWANTED_MAX;
        while left > 0 {
            match rustix::net::recv(&self.socket, &mut block, RecvFlags::DONTWAIT) {
                Ok((_, got)) if got > 0 => left = left.saturating_sub(got),
                Err(Errno::INTR) => {}
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn client(attach: Attach) -> (Client, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Client::new(ours.into(), attach), theirs)
    }

    const BOTH: Attach = Attach { stdin: true, stdout: true, stderr: true, framing: Framing::Multiplexed };

    #[test]
    fn pieces_are_framed_by_stream_and_length() {
        let (mut client, mut peer) = client(BOTH);
        client.offer(Stream::Out, b"one\n").unwrap();
        client.offer(Stream::Err, &[b'x'; 300]).unwrap();
        drop(client);
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes[..20], *b"\x01\0\0\0\0\0\0\x04one\n\x02\0\0\0\0\0\x01\x2c");
        assert_eq!(bytes.len(), 12 + 8 + 300);
    }

    #[test]
    fn a_stream_that_is_not_wanted_is_not_sent() {
        let (mut client, mut peer) = client(Attach { stdout: false, framing: Framing::Raw, ..BOTH });
        client.offer(Stream::Out, b"out").unwrap();
        client.offer(Stream::Err, b"err").unwrap();
        drop(client);
        let mut text = String::new();
        peer.read_to_string(&mut text).unwrap();
        assert_eq!(text, "err");
    }

    #[test]
    fn what_a_slow_peer_does_not_take_waits_in_order() {
        let (mut client, mut peer) = client(BOTH);
        let sent = 200;
        for n in 0..sent {
            client.offer(Stream::Out, &[n as u8; 10_000]).unwrap();
        }
        assert!(client.waiting() > BACKLOG_MAX);
        for n in 0..sent {
            let mut piece = vec![0; 10_008];
            let mut have = 0;
            while have < piece.len() {
                client.flush().unwrap();
                have += peer.read(&mut piece[have..]).unwrap();
            }
            assert_eq!(piece[..8], [1, 0, 0, 0, 0, 0, 0x27, 0x10]);
            assert!(piece[8..].iter().all(|&byte| byte == n as u8));
        }
        assert_eq!(client.waiting(), 0);
    }

    #[test]
    fn a_client_that_said_what_nobody_wanted_sees_an_end_and_no_reset() {
        let (mut client, mut peer) = client(Attach { stdin: false, ..BOTH });
        peer.write_all(&[b'x'; 10_000]).unwrap();
        client.offer(Stream::Out, b"out").unwrap();
        drop(client);
        let mut bytes = Vec::new();
        assert_eq!(peer.read_to_end(&mut bytes).unwrap(), 11);
    }

    #[test]
    fn a_peer_that_went_is_gone_and_one_that_shut_its_writing_is_not() {
        let (mut half, peer) = client(BOTH);
        (&peer).write_all(b"last words").unwrap();
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        let mut got = Vec::new();
        assert_eq!(half.read(&mut got, 100), Ok(Sent::Bytes(10)));
        assert_eq!(half.read(&mut got, 100), Ok(Sent::End));
        assert_eq!(got, b"last words");
        half.offer(Stream::Out, b"still").unwrap();
        drop(peer);
        assert_eq!(half.offer(Stream::Out, b"x"), Err(Gone));
    }
}
