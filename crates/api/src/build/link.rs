//! Either end of a build's connection: messages in, messages out, descriptors beside them.
//!
//! Both halves work on one socket at the same time, so neither side ever waits for the other to read
//! before it reads itself. A message is sent whole or the connection is broken: to drop a [`Sender::send`]
//! half-way is to give the connection up.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::Mutex;

use super::frame::{Decoder, Heard, Message, PIECE, Told};
use crate::client::{Client, Query, Result, Stream};

/// Descriptors that may have come and not be spoken of yet.
const WAITING: usize = 512;
/// Descriptors of one message (`SCM_MAX_FD`, unix(7)).
const BESIDE: usize = 253;

/// Asks for a build; the halves of the client's end.
///
/// # Errors
/// A refusal: 404 is a daemon that does not know of such builds.
pub async fn open(client: &Client) -> Result<(Sender<Heard>, Receiver<Told>)> {
    let body = crate::client::Body::Empty;
    let upgraded = client.upgrade(super::PATH, &Query::new(), body).await?;
    Ok(halves(upgraded.stream, &upgraded.early))
}

/// The halves of a connection. `early` are bytes of the other side that were already read.
pub fn halves<S, R>(stream: Stream, early: &Bytes) -> (Sender<S>, Receiver<R>) {
    let stream = Arc::new(stream);
    let mut decoder = Decoder::default();
    decoder.push(early);
    let sender = Sender { stream: Arc::clone(&stream), turn: Arc::default(), says: PhantomData };
    let receiver = Receiver {
        stream,
        decoder,
        beside: VecDeque::new(),
        buffer: vec![0; PIECE].into_boxed_slice(),
        hears: PhantomData,
    };
    (sender, receiver)
}

/// Clones say to the same connection, one message at a time.
#[derive(Debug)]
pub struct Sender<S> {
    stream: Arc<Stream>,
    turn: Arc<Mutex<()>>,
    says: PhantomData<fn(S)>,
}

impl<S> Clone for Sender<S> {
    fn clone(&self) -> Sender<S> {
        Sender { stream: Arc::clone(&self.stream), turn: Arc::clone(&self.turn), says: PhantomData }
    }
}

impl<S: Message> Sender<S> {
    /// Whether descriptors can go with messages.
    pub fn is_local(&self) -> bool {
        matches!(*self.stream, Stream::Unix(_))
    }

    pub async fn send(&self, message: &S) -> io::Result<()> {
        self.send_with(message, &[]).await
    }

    /// Sends a message with its descriptors.
    ///
    /// # Errors
    /// `Unsupported` where the connection carries none.
    pub async fn send_with(&self, message: &S, beside: &[BorrowedFd<'_>]) -> io::Result<()> {
        debug_assert_eq!(message.descriptors(), beside.len(), "a message is sent with its descriptors");
        let bytes = message.encode();
        let _turn = self.turn.lock().await;
        let mut sent = 0;
        if !beside.is_empty() {
            let Stream::Unix(stream) = &*self.stream else {
                let text = "only a Unix socket carries descriptors";
                return Err(io::Error::new(io::ErrorKind::Unsupported, text));
            };
            sent = stream.async_io(Interest::WRITABLE, || give(stream, &bytes, beside)).await?;
        }
        while sent < bytes.len() {
            sent += write(&self.stream, &bytes[sent..]).await?;
        }
        Ok(())
    }

    /// Says that nothing more will be said.
    pub fn close(&self) -> io::Result<()> {
        let closed = match &*self.stream {
            Stream::Unix(stream) => rustix::net::shutdown(stream, Shutdown::Write),
            Stream::Tcp(stream) => rustix::net::shutdown(stream, Shutdown::Write),
        };
        closed.map_err(io::Error::from)
    }
}

async fn write(stream: &Stream, bytes: &[u8]) -> io::Result<usize> {
    loop {
        let written = match stream {
            Stream::Unix(stream) => {
                stream.writable().await?;
                stream.try_write(bytes)
            }
            Stream::Tcp(stream) => {
                stream.writable().await?;
                stream.try_write(bytes)
            }
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            written => return written,
        }
    }
}

/// The beginning of `bytes`, and all descriptors with it.
fn give(stream: &UnixStream, bytes: &[u8], beside: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BESIDE))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(beside)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
}

#[derive(Debug)]
pub struct Receiver<R> {
    stream: Arc<Stream>,
    decoder: Decoder,
    /// Descriptors whose message is not whole yet, in the order in which they came.
    beside: VecDeque<OwnedFd>,
    buffer: Box<[u8]>,
    hears: PhantomData<fn() -> R>,
}

impl<R: Message> Receiver<R> {
    /// The next message and its descriptors; `None` when the other side has ended. May be dropped at any
    /// time: nothing is lost.
    ///
    /// # Errors
    /// A connection that breaks, or ends within a message; bytes that are none.
    pub async fn next(&mut self) -> io::Result<Option<(R, Vec<OwnedFd>)>> {
        loop {
            let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            if let Some(message) = self.decoder.take::<R>().map_err(invalid)? {
                let count = message.descriptors();
                if count > self.beside.len() {
                    let text = "a message has come without its descriptors";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                return Ok(Some((message, self.beside.drain(..count).collect())));
            }
            let read = match &*self.stream {
                Stream::Unix(stream) => {
                    let (buffer, beside) = (&mut self.buffer, &mut self.beside);
                    stream.async_io(Interest::READABLE, || receive(stream, buffer, beside)).await?
                }
                Stream::Tcp(stream) => {
                    let buffer = &mut self.buffer;
                    stream.async_io(Interest::READABLE, || stream.try_read(buffer)).await?
                }
            };
            match read {
                0 if self.decoder.is_empty() => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self.decoder.push(&self.buffer[..read]),
            }
        }
    }
}

fn receive(stream: &UnixStream, buffer: &mut [u8], beside: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BESIDE))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(stream, &mut [IoSliceMut::new(buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            beside.extend(rights);
        }
    }
    if message.flags.contains(ReturnFlags::CTRUNC) || beside.len() > WAITING {
        let text = "more descriptors have come than can be taken";
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(message.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    fn pair() -> (Sender<Heard>, Receiver<Heard>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (sender, _) = halves::<Heard, Told>(Stream::Unix(ours), &Bytes::new());
        let (_, receiver) = halves::<Told, Heard>(Stream::Unix(theirs), &Bytes::new());
        (sender, receiver)
    }

    #[tokio::test]
    async fn descriptors_come_with_the_message_that_they_were_sent_with() {
        let (sender, mut receiver) = pair();
        let piece = Heard::Piece { question: 1, bytes: Bytes::from(vec![7; 1 << 20]) };
        let saying = async {
            sender.send(&piece).await.unwrap();
            for question in 2..40 {
                let (read, mut write) = io::pipe().unwrap();
                io::Write::write_all(&mut write, question.to_string().as_bytes()).unwrap();
                // The other future reads up to the end.
                drop(write);
                let message = Heard::Descriptor { question };
                sender.send_with(&message, &[read.as_fd()]).await.unwrap();
                sender.send(&Heard::End { question }).await.unwrap();
            }
            sender.close().unwrap();
        };
        let hearing = async {
            assert_eq!(receiver.next().await.unwrap().unwrap().0, piece);
            let mut questions = 2..40;
            while let Some((message, mut beside)) = receiver.next().await.unwrap() {
                let Heard::Descriptor { question } = message else {
                    assert!(matches!(message, Heard::End { .. }) && beside.is_empty());
                    continue;
                };
                assert_eq!(Some(question), questions.next());
                let mut text = String::new();
                File::from(beside.remove(0)).read_to_string(&mut text).unwrap();
                assert_eq!(text, question.to_string());
            }
            assert_eq!(questions.next(), None);
        };
        tokio::join!(saying, hearing);
    }

    #[tokio::test]
    async fn a_message_without_its_descriptors_or_its_end_breaks_the_connection() {
        use tokio::io::AsyncWriteExt as _;
        let cases = [(Heard::Descriptor { question: 1 }.encode(), true), (vec![2, 0, 0], false)];
        for (bytes, whole) in cases {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            let (_sender, mut receiver) = halves::<Told, Heard>(Stream::Unix(theirs), &Bytes::new());
            ours.write_all(&bytes).await.unwrap();
            drop(ours);
            let kind = receiver.next().await.unwrap_err().kind();
            let expected = if whole { io::ErrorKind::InvalidData } else { io::ErrorKind::UnexpectedEof };
            assert_eq!(kind, expected);
        }
    }
}
