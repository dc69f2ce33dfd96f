//! Whoever asked for a build, as far as its steps ask back: for secrets, for agents and for files.
//!
//! What a client does not offer is not there. A Dockerfile that needs it says so (`required`), or goes on
//! without it.

use std::fmt;
use std::os::fd::OwnedFd;
use std::pin::Pin;

use bytes::Bytes;

use crate::{Error, Result};

/// An answer on its way. Dropped, the question is taken back.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Bytes that no log, record or message may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

/// What there is in a context, and where.
#[derive(Debug)]
pub struct List {
    /// [`hull_context::listing`], in a sealed memfd.
    pub list: OwnedFd,
    pub place: Place,
}

/// Where a context's files are.
#[derive(Debug)]
pub enum Place {
    /// On this host, in this folder (`O_PATH` is enough), which `user` has opened.
    Here { folder: OwnedFd, user: u32 },
    /// With a client elsewhere, who knows these [`hull_context::Digests`] of them; a file in memory.
    Elsewhere { digests: OwnedFd },
}

/// Bytes on their way. Dropped, nobody waits for them any more.
pub trait Pieces: Send {
    /// The next ones; `None`: that was all.
    fn next(&mut self) -> Answer<'_, Option<Bytes>>;
}

/// Answers the questions of one build's steps, several at the same time.
pub trait Client: fmt::Debug + Send + Sync + 'static {
    /// The secret of this name; `None`: it is not offered.
    fn secret<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Secret>>;

    /// A stream socket that is connected to the agent of this name, a new one each time; `None`: it is
    /// not offered.
    fn agent<'a>(&'a self, id: &'a str) -> Answer<'a, Option<OwnedFd>>;

    /// The list of this context as it is now.
    fn list<'a>(&'a self, context: &'a str) -> Answer<'a, List> {
        Box::pin(async move { Err(Error::Invalid(format!("nobody lists the context {context:?}"))) })
    }

    /// The asker's end of a socket at which the files of this context are asked for
    /// ([`hull_context::files`]), a new one each time, where they are on this host.
    fn files<'a>(&'a self, context: &'a str) -> Answer<'a, OwnedFd> {
        Box::pin(async move { Err(Error::Invalid(format!("nobody gives files of the context {context:?}"))) })
    }

    /// The files of these numbers, as [`hull_context::contents`] has them, where they are elsewhere.
    fn contents<'a>(&'a self, context: &'a str, _numbers: Vec<u32>) -> Answer<'a, Box<dyn Pieces>> {
        Box::pin(async move { Err(Error::Invalid(format!("nobody sends files of the context {context:?}"))) })
    }
}

/// One that offers nothing: that of the classic endpoint, which has no way to ask back.
#[derive(Debug, Clone, Copy)]
pub struct Nobody;

impl Client for Nobody {
    fn secret<'a>(&'a self, _id: &'a str) -> Answer<'a, Option<Secret>> {
        Box::pin(async { Ok(None) })
    }

    fn agent<'a>(&'a self, _id: &'a str) -> Answer<'a, Option<OwnedFd>> {
        Box::pin(async { Ok(None) })
    }
}
