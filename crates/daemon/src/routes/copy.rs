//! `/containers/{id}/archive`: what is at a path, as an archive, and an archive put there; and all of
//! a container's files as one.

use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::header::HeaderValue;
use http::{Method, StatusCode};
use hull_api::archive::{self, PathStat};
use hull_engine::containers::archive::{Extract, Outgoing, PathStat as Seen};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use super::archives::{feed_into, whole};
use super::{identity, show};
use crate::hijack::{Takeover, Then, head};
use crate::http::{Answer, Call, Failure, Handled, chain, empty, try_stream};
use crate::piped::Piped;

/// Bytes taken from the pipe at once.
const BLOCK: usize = 256 << 10;

/// `?path=`.
fn path(call: &Call) -> Result<String, Failure> {
    match call.query.text("path") {
        // The missing space is the reference's.
        "" => Err(Failure::invalid("bad parameter: pathcannot be empty")),
        path => Ok(path.to_owned()),
    }
}

fn extract(call: &Call) -> Extract {
    Extract { keep_kinds: call.query.flag("noOverwriteDirNonDir"), own: call.query.flag("copyUIDGID") }
}

pub(super) async fn archive(call: Call, key: &str) -> Handled {
    let path = path(&call)?;
    match call.method {
        Method::HEAD => Ok(describe(empty(StatusCode::OK), call.server.engine.examine(key, &path).await?)),
        Method::GET => {
            let (outgoing, pipe) = call.server.engine.read_archive(key, &path).await?;
            let stat = outgoing.stat.clone();
            Ok(describe(stream("application/x-tar", outgoing, pipe)?, stat))
        }
        _ => {
            let (incoming, pipe) = call.server.engine.write_archive(key, &path, extract(&call)).await?;
            let fed = feed_into(call.body, pipe)?;
            incoming.end().await?;
            // What had come by then is in the container, as with a copy that fails at any other file.
            whole(fed).await?;
            Ok(empty(StatusCode::OK))
        }
    }
}

/// `POST /hull/v1/containers/{id}/archive/{read,write}`: the same through a pipe of the client's own
/// ([`hull_api::piped`]).
pub(super) async fn piped(call: &Call, key: &str, write: bool) -> Handled {
    let (path, engine) = (path(call)?, &call.server.engine);
    let (stat, piped) = if write {
        let (incoming, pipe) = engine.write_archive(key, &path, extract(call)).await?;
        (String::new(), Piped::new(pipe, incoming.end()))
    } else {
        let (outgoing, pipe) = engine.read_archive(key, &path).await?;
        let stat = format!("{}: {}\r\n", archive::HEADER, stat(outgoing.stat.clone()).to_header());
        (stat, Piped::new(pipe, outgoing.end()))
    };
    let head = head(true, "application/x-tar", &(identity() + &stat));
    call.slot.put(Takeover { head, then: Then::Pipe(piped) });
    Ok(empty(StatusCode::OK))
}

fn describe(mut answer: Answer, seen: Seen) -> Answer {
    // Base64 is fit for a header, always.
    if let Ok(value) = HeaderValue::from_str(&stat(seen).to_header()) {
        answer.headers_mut().insert(archive::HEADER, value);
    }
    answer
}

fn stat(seen: Seen) -> PathStat {
    let (seconds, nanos) = seen.found.modified;
    PathStat {
        name: seen.name,
        size: i64::try_from(seen.found.size).unwrap_or(i64::MAX),
        mode: archive::mode(seen.found.mode),
        mtime: show::time(seconds.checked_mul(1_000_000_000).map(|whole| whole + i64::from(nanos))),
        link_target: seen.found.target.unwrap_or_default(),
    }
}

/// The files of a container, without what is mounted in it.
pub(super) async fn export(call: &Call, key: &str) -> Handled {
    let (outgoing, pipe) = call.server.engine.export(key).await?;
    stream("application/octet-stream", outgoing, pipe)
}

fn stream(content_type: &'static str, outgoing: Outgoing, pipe: OwnedFd) -> Handled {
    let pipe = pipe::Receiver::from_owned_fd(pipe).map_err(|error| Failure::internal(error.to_string()))?;
    let blocks = futures_util::stream::unfold((pipe, Some(outgoing)), |(mut pipe, outgoing)| async move {
        let mut block = Vec::with_capacity(BLOCK);
        match pipe.read_buf(&mut block).await {
            Ok(0) => match outgoing?.end().await {
                Ok(()) => None,
                // The connection is cut, so that half an archive is not taken for a whole one.
                Err(error) => {
                    let error = chain(&error);
                    tracing::error!(error, "an archive of a container's files could not be written");
                    Some((Err(io::Error::other(error)), (pipe, None)))
                }
            },
            Ok(_) => Some((Ok(Bytes::from(block)), (pipe, outgoing))),
            Err(error) => Some((Err(error), (pipe, None))),
        }
    });
    Ok(try_stream(content_type, blocks.boxed()))
}
