//! Bodies of answers: nothing, some bytes, or a part of a file read in large blocks as the client takes
//! them, so that a transfer holds two blocks however long it is.

use std::fs::File;
use std::io::{self, Read as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Frame;
use tokio::task::{JoinHandle, spawn_blocking};

/// Bytes that are read at a time.
const BLOCK: u64 = 256 << 10;

pub(crate) enum Body {
    Empty,
    Whole(Option<Bytes>),
    File(Part),
}

/// What is left to send of a file, from where it stands.
pub(crate) struct Part {
    left: u64,
    step: Step,
}

enum Step {
    Idle(File),
    Reading(JoinHandle<io::Result<(File, Bytes)>>),
    Done,
}

impl Part {
    /// `length` bytes of the file, from its position.
    pub(crate) fn new(file: File, length: u64) -> Part {
        Part { left: length, step: Step::Idle(file) }
    }

    fn poll_block(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            match std::mem::replace(&mut self.step, Step::Done) {
                Step::Idle(_) if self.left == 0 => return Poll::Ready(None),
                Step::Idle(file) => {
                    let length = self.left.min(BLOCK);
                    self.step = Step::Reading(spawn_blocking(move || block(file, length)));
                }
                Step::Reading(mut reading) => {
                    let Poll::Ready(read) = Pin::new(&mut reading).poll(cx) else {
                        self.step = Step::Reading(reading);
                        return Poll::Pending;
                    };
                    let (file, bytes) = match read.map_err(io::Error::other).and_then(|read| read) {
                        Ok(read) => read,
                        Err(error) => return Poll::Ready(Some(Err(error))),
                    };
                    self.left -= bytes.len() as u64;
                    self.step = Step::Idle(file);
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Step::Done => return Poll::Ready(None),
            }
        }
    }
}

fn block(file: File, length: u64) -> io::Result<(File, Bytes)> {
    // As large as it will be, so that nothing is zeroed or copied.
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    (&file).take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != length {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the blob is shorter than it was"));
    }
    Ok((file, bytes.into()))
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(match self.get_mut() {
            Body::Empty => None,
            Body::Whole(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Body::File(part) => ready!(part.poll_block(cx)).map(|block| block.map(Frame::data)),
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty | Body::Whole(None) => true,
            Body::Whole(Some(_)) => false,
            Body::File(part) => part.left == 0,
        }
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(match self {
            Body::Empty | Body::Whole(None) => 0,
            Body::Whole(Some(bytes)) => bytes.len() as u64,
            Body::File(part) => part.left,
        })
    }
}
