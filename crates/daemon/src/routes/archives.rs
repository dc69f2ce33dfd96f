//! Archives of images, in and out.
//!
//! The engine reads and writes plain descriptors, in a jail where the archive is not ours; a pipe
//! connects them with the connection, so that neither side is ever ahead by more than the pipe.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::StatusCode;
use hull_api::{ErrorDetail, ProgressMessage};
use hull_engine::images::{Fed, Import, Progress, Pull, Source, Transfer};
use hull_oci::{Digest, Platform, Reference};
use rustix::pipe::PipeFlags;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

use super::images::{self, reference};
use super::{credentials, transfers};
use crate::http::{Call, Failure, Handled, chain, json, stream, try_stream};
use crate::upload::Upload;

/// Bytes that a pipe holds, where the host allows it (pipe(7), `pipe-max-size`).
const PIPE: usize = 1 << 20;

pub(super) fn pipe() -> Result<(OwnedFd, OwnedFd), Failure> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
        .map_err(|error| Failure::internal(format!("make a pipe: {}", io::Error::from(error))))?;
    // A smaller one does as well, more slowly.
    let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE);
    Ok((read, write))
}

/// The body's bytes into a pipe, whose other end it gives.
pub(super) fn feed(body: Upload) -> Result<Source, Failure> {
    let (read, write) = pipe()?;
    Ok(Source::fed(read, feed_into(body, write)?))
}

/// The body's bytes into a pipe. How that ended is known when the pipe has: its end alone does not tell a
/// whole body from one that broke off.
pub(super) fn feed_into(body: Upload, write: OwnedFd) -> Result<oneshot::Receiver<Fed>, Failure> {
    let write = pipe::Sender::from_owned_fd(write).map_err(|error| Failure::internal(error.to_string()))?;
    let (tell, fed) = oneshot::channel();
    tokio::spawn(async move {
        // Nobody asks about an archive that was refused.
        let _ = tell.send(pass_on(body, write).await);
    });
    Ok(fed)
}

async fn pass_on(mut body: Upload, mut write: pipe::Sender) -> Fed {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let error = chain(&error);
            tracing::warn!(error, "an archive broke off: its sender has gone");
            error
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if write.write_all(&data).await.is_err() {
            // The reader has what it wants, or has refused.
            break;
        }
    }
    Ok(())
}

/// To be asked when the end of the pipe was read.
pub(super) async fn whole(fed: oneshot::Receiver<Fed>) -> Result<(), Failure> {
    let fed = fed.await.unwrap_or_else(|_| Err("the daemon is shutting down".to_owned()));
    fed.map_err(|error| Failure::invalid(format!("unexpected EOF: the archive broke off: {error}")))
}

pub(super) fn line(message: &ProgressMessage) -> Bytes {
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.extend_from_slice(b"\r\n");
    line.into()
}

pub(super) fn failed(error: &hull_engine::Error) -> Bytes {
    let message = chain(error);
    line(&ProgressMessage {
        error_detail: Some(ErrorDetail { code: 0, message: message.clone() }),
        error: message,
        ..ProgressMessage::default()
    })
}

/// `{"os":…,"architecture":…}`, or `os/arch[/variant]`.
pub(super) fn platform(text: &str) -> Result<Option<Platform>, Failure> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.starts_with('{') {
        return serde_json::from_str(text)
            .map(Some)
            .map_err(|error| Failure::invalid(format!("invalid platform: {error}")));
    }
    let mut parts = text.split('/').map(str::to_owned);
    let (Some(os), Some(architecture), variant, None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Failure::invalid(format!("{text:?}: cannot parse platform specifier: invalid argument")));
    };
    Ok(Some(Platform { os, architecture, variant: variant.unwrap_or_default(), ..Platform::default() }))
}

/// `?platform=` where the request's version knows it, since `since`; several of them since 1.52.
pub(super) fn platforms(call: &Call, since: u32) -> Result<Vec<Platform>, Failure> {
    let texts: Vec<&str> = call.query.all("platform").filter(|text| !text.is_empty()).collect();
    if call.version.before(since) {
        return Ok(Vec::new());
    }
    if texts.len() > 1 && call.version.before(52) {
        return Err(Failure::invalid(
            "multiple platform parameters are not supported in this API version; use API version 1.52 or later",
        ));
    }
    Ok(texts.into_iter().map(platform).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// The answer begins at once and tells what goes on; so even a failure has the status 200.
pub(super) async fn load(call: Call) -> Handled {
    let platforms = platforms(&call, 48)?;
    let source = feed(call.body)?;
    let (tell, told) = mpsc::unbounded_channel::<Progress>();
    let server = call.server;
    let work = tokio::spawn(async move { server.engine.images().load(source, platforms, tell).await });
    let lines = futures_util::stream::unfold((told, Some(work)), |(mut told, work)| async move {
        loop {
            if let Some(progress) = told.recv().await {
                let Some(text) = progress.line() else { continue };
                let message = ProgressMessage { stream: text, ..ProgressMessage::default() };
                return Some((line(&message), (told, work)));
            }
            // The channel ends with the work.
            return match work?.await {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some((failed(&error), (told, None))),
                Err(_) => Some((failed(&hull_engine::Error::ShuttingDown), (told, None))),
            };
        }
    });
    Ok(stream("application/json", lines))
}

/// All images of one archive.
pub(super) async fn save(call: &Call, names: Vec<String>) -> Handled {
    // The reference takes a list in one parameter, too.
    let names: Vec<String> = names
        .iter()
        .flat_map(|name| name.split(','))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    let wanted = platforms(call, 48)?;
    for name in &names {
        // Unknown ones are told below.
        let Ok(image) = call.server.engine.images().resolve(name) else { continue };
        if let Some((_, wanted)) = images::other_platform(&wanted, &image) {
            return Err(Failure::not_found(format!("no suitable export target found for platform {wanted}")));
        }
    }
    let (read, write) = pipe()?;
    let read = pipe::Receiver::from_owned_fd(read).map_err(|error| Failure::internal(error.to_string()))?;
    let work = call.server.engine.images().save(&names, write)?;
    let work = tokio::spawn(work);
    let blocks = futures_util::stream::unfold((read, Some(work)), |(mut read, work)| async move {
        let mut block = vec![0; 64 << 10];
        match read.read(&mut block).await {
            Ok(0) => {
                let error = match work?.await {
                    Ok(Ok(())) => return None,
                    Ok(Err(error)) => chain(&error),
                    Err(error) => error.to_string(),
                };
                // The connection is cut, so that half an archive is not taken for a whole one.
                tracing::error!(error, "an archive of images could not be written");
                Some((Err(io::Error::other(error)), (read, None)))
            }
            Ok(count) => {
                block.truncate(count);
                Some((Ok(Bytes::from(block)), (read, work)))
            }
            Err(error) => Some((Err(error), (read, None))),
        }
    });
    Ok(try_stream("application/x-tar", blocks.boxed()))
}

/// `POST /images/create`: an import, or a pull.
pub(super) async fn create(call: Call) -> Handled {
    let query = &call.query;
    if !query.text("fromImage").is_empty() {
        return pull(&call).await;
    }
    let source = query.text("fromSrc");
    if source != "-" {
        return Err(Failure::later(
            "importing from an address comes in a later build: use - and the archive as body",
        ));
    }
    let repo = query.text("repo");
    let name = if repo.is_empty() { None } else { Some(reference(repo, query.text("tag"))?) };
    let import = Import {
        name,
        source: source.to_owned(),
        message: query.text("message").to_owned(),
        changes: query.all("changes").map(str::to_owned).collect(),
        platform: if call.version.before(32) { None } else { platform(query.text("platform"))? },
    };
    let server = call.server;
    let id = server.engine.images().import(feed(call.body)?, import).await?;
    Ok(json(StatusCode::OK, &ProgressMessage { status: id.to_string(), ..ProgressMessage::default() }))
}

/// The answer begins with the first thing that is told: what fails before has a status of its own.
async fn pull(call: &Call) -> Handled {
    let reference = pulled(call.query.text("fromImage"), call.query.text("tag"))?;
    let wanted = if call.version.before(32) { None } else { platform(call.query.text("platform"))? };
    let asked = Pull { reference, platform: wanted.clone(), credentials: credentials::of(call) };
    let name = asked.reference.familiar();
    let (tell, mut told) = mpsc::unbounded_channel::<Transfer>();
    let server = Arc::clone(&call.server);
    let work = async move {
        let images = server.engine.images().pull(asked, tell.clone()).await?;
        for (own, wanted) in
            images.iter().filter_map(|image| images::other_platform(wanted.as_slice(), image))
        {
            let warning = format!(
                "WARNING: image with reference {name} was found but its platform ({own}) does not match the \
                 specified platform ({wanted})"
            );
            let _ = tell.send(Transfer::line(warning));
        }
        Ok::<_, hull_engine::Error>(())
    };
    // A client that goes away drops the answer, and that ends the work.
    let mut work = AbortOnDrop(tokio::spawn(work));
    let Some(first) = told.recv().await else {
        (&mut work.0).await.map_err(|_| hull_engine::Error::ShuttingDown)??;
        return Ok(stream("application/json", futures_util::stream::empty()));
    };
    let state = (Some(first), told, Some(work));
    let lines = futures_util::stream::unfold(state, |(first, mut told, work)| async move {
        let next = match first {
            Some(first) => Some(first),
            None => told.recv().await,
        };
        if let Some(transfer) = next {
            return Some((line(&transfers::message(transfer)), (None, told, work)));
        }
        // The channel ends with the work.
        let mut work = work?;
        let failure = match (&mut work.0).await {
            Ok(Ok(())) => return None,
            Ok(Err(error)) => error,
            Err(_) => hull_engine::Error::ShuttingDown,
        };
        Some((failed(&failure), (None, told, None)))
    });
    Ok(stream("application/json", lines))
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is to be pulled: `tag` may be a digest, too. Without any of them it is all tags.
fn pulled(image: &str, tag: &str) -> Result<Reference, Failure> {
    match Digest::parse(tag) {
        Ok(digest) => Ok(reference(image, "")?.with_digest(digest)),
        Err(_) => reference(image, tag),
    }
}
