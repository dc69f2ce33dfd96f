//! A request's body.
//!
//! Clients send all of it before they listen. So what a handler leaves of it is still received: a client
//! that was refused hears why, and not that its connection broke.

use bytes::Bytes;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::runtime::Handle;

/// Bytes that are received of what a handler left, at most.
const LEFTOVER: u64 = 64 << 20;

/// A body that is received to its end, whatever becomes of its handler.
#[derive(Debug)]
pub(crate) struct Upload(Option<Incoming>);

impl Upload {
    pub(crate) fn new(body: Incoming) -> Upload {
        Upload(Some(body))
    }

    /// The next piece; `None` at the end.
    pub(crate) async fn frame(&mut self) -> Option<hyper::Result<Frame<Bytes>>> {
        self.0.as_mut()?.frame().await
    }

    /// The rest is not received: the connection closes behind the answer.
    pub(crate) fn cut(&mut self) {
        self.0 = None;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let rest = self.0.take().filter(|body| !body.is_end_stream());
        if let (Some(rest), Ok(runtime)) = (rest, Handle::try_current()) {
            runtime.spawn(receive(rest));
        }
    }
}

async fn receive(mut rest: Incoming) {
    let mut received = 0;
    while let Some(Ok(frame)) = rest.frame().await {
        received += frame.data_ref().map_or(0, |data| data.len() as u64);
        if received > LEFTOVER {
            return;
        }
    }
}
