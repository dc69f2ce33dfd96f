//! Images made of a distribution's package archive.

use bytes::Bytes;
use hull_api::image::BootstrapRequest;
use hull_api::{ErrorDetail, ProgressMessage};
use hull_builder::Progress;
use hull_engine::Error;
use hull_engine::builds::{Bootstrap, Finished, Limits, Variant};
use hull_oci::reference::DEFAULT_TAG;
use serde_json::json;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::images::reference;
use crate::http::{Call, Failure, Handled, chain, stream};

/// One that is going on: it ends with its answer.
struct Going {
    /// One task, or none when it has ended.
    work: JoinSet<Result<Finished, Error>>,
    told: mpsc::UnboundedReceiver<Progress>,
}

/// `POST /hull/v1/images/bootstrap`.
pub(super) async fn bootstrap(mut call: Call) -> Handled {
    let request: BootstrapRequest = call.json("BootstrapRequest").await?;
    let wanted = wanted(request)?;
    let build = call.server.engine.build(Limits::default().into());
    let (tell, told) = mpsc::unbounded_channel();
    let report = Arc::new(move |progress| {
        // The work outlives its listener by moments.
        tell.send(progress).ok();
    });
    let mut work = JoinSet::new();
    work.spawn(async move { build.bootstrap(&wanted, report).await });
    let going = Going { work, told };
    Ok(stream("application/json", futures_util::stream::unfold(going, Going::next)))
}

fn wanted(request: BootstrapRequest) -> Result<Bootstrap, Failure> {
    let name = reference(&request.name, "")?;
    if name.digest.is_some() {
        return Err(Failure::invalid("the image's name cannot contain a digest: name it without @"));
    }
    let tag = name.tag.clone().filter(|tag| tag != DEFAULT_TAG);
    let suite = Some(request.suite).filter(|suite| !suite.is_empty()).or(tag);
    let unnamed =
        || Failure::invalid("no suite: name it as the image's tag (debian:bookworm) or with --suite");
    let variant = Variant::parse(&request.variant);
    let unknown = || {
        Failure::invalid(format!(
            "unknown variant {:?}: it is essential, minbase, important or standard",
            request.variant
        ))
    };
    Ok(Bootstrap {
        name,
        suite: suite.ok_or_else(unnamed)?,
        variant: variant.ok_or_else(unknown)?,
        include: request.include,
        mirror: Some(request.mirror).filter(|mirror| !mirror.is_empty()),
        keyring: Some(request.keyring).filter(|keyring| !keyring.is_empty()),
    })
}

impl Going {
    async fn next(mut self) -> Option<(Bytes, Going)> {
        loop {
            let ended = tokio::select! {
                // What was told before the end comes before it.
                biased;
                Some(progress) = self.told.recv() => match shown(progress) {
                    Some(line) => return Some((line, self)),
                    None => continue,
                },
                ended = self.work.join_next() => ended?,
            };
            // It can have panicked; that is in the log.
            let last = match ended.unwrap_or(Err(Error::ShuttingDown)) {
                Ok(Finished { id, .. }) => line(&json!({ "aux": { "ID": id } })),
                Err(error) => {
                    let message = chain(&error);
                    line(&ProgressMessage {
                        error_detail: Some(ErrorDetail { code: 0, message: message.clone() }),
                        error: message,
                        ..ProgressMessage::default()
                    })
                }
            };
            return Some((last, self));
        }
    }
}

fn shown(progress: Progress) -> Option<Bytes> {
    let text = match progress {
        Progress::Started { name, .. } => format!("{name}\n"),
        Progress::Output { bytes, .. } => String::from_utf8_lossy(&bytes).into_owned(),
        _ => return None,
    };
    Some(line(&ProgressMessage { stream: text, ..ProgressMessage::default() }))
}

fn line(value: &impl serde::Serialize) -> Bytes {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.extend_from_slice(b"\r\n");
    line.into()
}
