//! Copies between the user's streams and a container's.
//!
//! After the API has handed the connection over it is a plain socket, so two
//! threads do the copying with blocking calls: one socket → standard output
//! and error, one standard input → socket. A reader that is slow or stuck
//! (`run … | less`) then never keeps signals from being forwarded, and no byte
//! is copied twice. The threads are not joined: the process ends when the
//! command does, whatever standard input is waiting for.
//!
//! Without a terminal the socket carries frames: stream (1 output, 2 error),
//! three zero bytes, length (big-endian, 4 bytes), data.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;

use hull_api::client::{Stream, Upgraded};
use tokio::sync::oneshot;

use crate::terminal::{DetachWatch, Raw, stdin_is_terminal};

const PIECE_BYTES: usize = 64 * 1024;

/// What is copied, and how.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) terminal: bool,
    /// As in `--detach-keys`; empty for the default.
    pub(crate) detach_keys: String,
}

/// Why the copying of output ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum OutputEnd {
    /// The container, or the daemon, closed its end.
    Closed,
    /// Nobody reads our standard output any more.
    ReaderGone,
}

/// A running copy; dropping it gives the terminal back.
pub(crate) struct Copying {
    output: oneshot::Receiver<OutputEnd>,
    detached: Option<oneshot::Receiver<()>>,
    _raw: Option<Raw>,
}

/// How an attached session ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    Closed,
    ReaderGone,
    /// The user typed the detach keys.
    Detached,
}

impl Copying {
    /// Starts to copy.
    pub(crate) fn start(upgraded: Upgraded, wanted: &Wanted) -> io::Result<Copying> {
        let socket = Socket::take(upgraded.stream)?;
        let writer = socket.try_clone()?;
        let raw = if wanted.stdin && wanted.terminal { Raw::enter() } else { None };
        let framed = !wanted.terminal;
        let (output_done, output) = oneshot::channel();
        let source = io::Cursor::new(upgraded.early).chain(socket);
        std::thread::Builder::new().name("output".to_owned()).spawn(move || {
            let end = if framed { demultiplex(source) } else { copy_raw(source) };
            let _ = output_done.send(end);
        })?;
        let detached = if wanted.stdin {
            let watch =
                (wanted.terminal && stdin_is_terminal()).then(|| DetachWatch::new(&wanted.detach_keys));
            let (tell, told) = oneshot::channel();
            std::thread::Builder::new().name("input".to_owned()).spawn(move || {
                if copy_input(writer, watch) {
                    let _ = tell.send(());
                }
            })?;
            Some(told)
        } else {
            // As the reference: no input means an end of input.
            let _ = writer.shutdown_write();
            None
        };
        Ok(Copying { output, detached, _raw: raw })
    }

    /// Waits for the end of the session.
    pub(crate) async fn finish(&mut self) -> SessionEnd {
        loop {
            let Some(detached) = self.detached.as_mut() else {
                return session_end((&mut self.output).await);
            };
            tokio::select! {
                biased;
                end = &mut self.output => return session_end(end),
                told = detached => {
                    if told.is_ok() {
                        return SessionEnd::Detached;
                    }
                    // Input has ended; output goes on.
                    self.detached = None;
                }
            }
        }
    }
}

fn session_end(end: Result<OutputEnd, oneshot::error::RecvError>) -> SessionEnd {
    match end {
        Ok(OutputEnd::ReaderGone) => SessionEnd::ReaderGone,
        Ok(OutputEnd::Closed) | Err(_) => SessionEnd::Closed,
    }
}

enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    fn take(stream: Stream) -> io::Result<Socket> {
        Ok(match stream {
            Stream::Unix(stream) => {
                let stream = stream.into_std()?;
                stream.set_nonblocking(false)?;
                Socket::Unix(stream)
            }
            Stream::Tcp(stream) => {
                let stream = stream.into_std()?;
                stream.set_nonblocking(false)?;
                Socket::Tcp(stream)
            }
        })
    }

    fn try_clone(&self) -> io::Result<Socket> {
        Ok(match self {
            Socket::Unix(stream) => Socket::Unix(stream.try_clone()?),
            Socket::Tcp(stream) => Socket::Tcp(stream.try_clone()?),
        })
    }

    fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Socket::Unix(stream) => stream.shutdown(Shutdown::Write),
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Unix(stream) => stream.read(buffer),
            Socket::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Unix(stream) => stream.write(bytes),
            Socket::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard output or error of this process, unbuffered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sink {
    Output,
    Error,
}

impl Sink {
    /// Writes all of it; false if nobody reads any more.
    fn write_all(self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let written = match self {
                Sink::Output => rustix::io::write(rustix::stdio::stdout(), bytes),
                Sink::Error => rustix::io::write(rustix::stdio::stderr(), bytes),
            };
            match written {
                Ok(count) => bytes = &bytes[count..],
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    // Somebody left the descriptor non-blocking.
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                Err(_) => return false,
            }
        }
        true
    }
}

/// Writes to standard output (1) or error (2); false if nobody reads it.
pub(crate) fn write_stream(stream: u8, data: &[u8]) -> bool {
    match stream {
        2 => Sink::Error.write_all(data),
        _ => Sink::Output.write_all(data),
    }
}

fn copy_raw(mut source: impl Read) -> OutputEnd {
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return OutputEnd::Closed,
            Ok(count) => {
                if !Sink::Output.write_all(&buffer[..count]) {
                    return OutputEnd::ReaderGone;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return OutputEnd::Closed,
        }
    }
}

fn demultiplex(source: impl Read) -> OutputEnd {
    let mut frames = Frames::default();
    let mut source = source;
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return OutputEnd::Closed,
            Ok(count) => {
                let alive = frames.feed(&buffer[..count], write_stream);
                if !alive {
                    return OutputEnd::ReaderGone;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return OutputEnd::Closed,
        }
    }
}

/// Takes a framed stream apart, in whatever pieces it arrives.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    head: Vec<u8>,
    stream: u8,
    left: usize,
}

impl Frames {
    /// Hands each piece of data to `write` with its stream's number, until
    /// `write` returns false.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut write: impl FnMut(u8, &[u8]) -> bool) -> bool {
        while !bytes.is_empty() {
            if self.left == 0 {
                let wanted = (8 - self.head.len()).min(bytes.len());
                self.head.extend_from_slice(&bytes[..wanted]);
                bytes = &bytes[wanted..];
                if let [stream, _, _, _, a, b, c, d] = self.head[..] {
                    self.stream = stream;
                    self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                    self.head.clear();
                }
                continue;
            }
            let count = self.left.min(bytes.len());
            if !write(self.stream, &bytes[..count]) {
                return false;
            }
            self.left -= count;
            bytes = &bytes[count..];
        }
        true
    }
}

/// Copies standard input until it ends; true if the detach keys were typed.
fn copy_input(mut socket: Socket, mut watch: Option<DetachWatch>) -> bool {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut pass = Vec::new();
    loop {
        let count = match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => break,
        };
        let typed = &buffer[..count];
        let sent = match watch.as_mut() {
            None => socket.write_all(typed),
            Some(watch) => {
                pass.clear();
                let detach = watch.feed(typed, &mut pass);
                let sent = socket.write_all(&pass);
                if detach {
                    return true;
                }
                sent
            }
        };
        if sent.is_err() {
            return false;
        }
    }
    let _ = socket.shutdown_write();
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_in_whatever_pieces_they_arrive() {
        let bytes = b"\x01\0\0\0\0\0\0\x03hi\n\x02\0\0\0\0\0\0\x01e\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x01!";
        for size in [1, 2, 7, 8, 9, bytes.len()] {
            let mut frames = Frames::default();
            let (mut out, mut err) = (Vec::new(), Vec::new());
            for piece in bytes.chunks(size) {
                frames.feed(piece, |stream, data| {
                    match stream {
                        2 => err.extend_from_slice(data),
                        _ => out.extend_from_slice(data),
                    }
                    true
                });
            }
            assert_eq!((&out[..], &err[..]), (&b"hi\n!"[..], &b"e"[..]), "{size}");
        }
    }
}
