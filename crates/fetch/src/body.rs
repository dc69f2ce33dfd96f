//! What a request carries, and how far that has got.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::mpsc::Receiver;

/// The body of a request.
#[derive(Debug, Default)]
pub enum Body {
    #[default]
    Empty,
    Bytes(Bytes),
    /// Sent once, never again: neither to another place nor on another connection.
    Stream {
        /// In bytes. A stream that ends sooner or goes on is an error. `None`: nobody knows it before.
        length: Option<u64>,
        pieces: Receiver<io::Result<Bytes>>,
    },
}

impl Body {
    /// The same once more, where that can be had.
    pub fn again(&self) -> Option<Body> {
        match self {
            Body::Empty => Some(Body::Empty),
            Body::Bytes(bytes) => Some(Body::Bytes(bytes.clone())),
            Body::Stream { .. } => None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Body::Empty)
    }

    fn length(&self) -> Option<u64> {
        match self {
            Body::Empty => Some(0),
            Body::Bytes(bytes) => Some(bytes.len() as u64),
            Body::Stream { length, .. } => *length,
        }
    }
}

/// Bytes that the connection has taken: as long as they grow, the other side lives.
#[derive(Debug, Clone, Default)]
pub(crate) struct Taken(Arc<AtomicU64>);

impl Taken {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A body on its way.
#[derive(Debug)]
pub(crate) struct Sending {
    body: Body,
    left: Option<u64>,
    taken: Taken,
}

impl Sending {
    pub(crate) fn new(body: Body, taken: &Taken) -> Sending {
        Sending { left: body.length(), body, taken: taken.clone() }
    }
}

impl hyper::body::Body for Sending {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        let piece = match &mut this.body {
            Body::Empty => None,
            Body::Bytes(bytes) => Some(std::mem::take(bytes)).filter(|bytes| !bytes.is_empty()),
            Body::Stream { pieces, .. } => match pieces.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(piece) => match piece.transpose() {
                    Err(error) => return Poll::Ready(Some(Err(error))),
                    Ok(piece) => piece,
                },
            },
        };
        let length = piece.as_ref().map_or(0, |piece| piece.len() as u64);
        let wrong = match &piece {
            Some(_) if this.left.is_some_and(|left| length > left) => "there is more to send than was said",
            None if this.left.is_some_and(|left| left > 0) => "there is less to send than was said",
            _ => "",
        };
        if !wrong.is_empty() {
            return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, wrong))));
        }
        this.left = this.left.map(|left| left - length);
        this.taken.0.fetch_add(length, Ordering::Relaxed);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
