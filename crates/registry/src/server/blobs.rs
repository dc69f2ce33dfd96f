//! Blobs: whole or in part, and their end (distribution-spec, `spec.md#pulling-blobs`).

use std::io::Seek as _;
use std::sync::Arc;

use http::header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG};
use http::{Method, Response, StatusCode};
use hull_oci::Digest;

use super::action::Name;
use super::answer::{Answer, CONTENT_DIGEST, Code, Failure, Handled, empty, set};
use super::body::{Body, Part};
use super::ranges;
use super::routes::{Call, blocking};
use super::store::{Found, io};

pub(crate) async fn get(call: &Call, name: &Name, digest: &Digest) -> Handled {
    let (store, head) = (Arc::clone(&call.shared.store), call.method == Method::HEAD);
    let (of, wanted) = (name.clone(), digest.clone());
    let found = blocking(move || {
        // A push asks before it sends, and relies on the answer.
        if head && store.promise_blob(&of, &wanted)?.is_none() {
            return Ok(None);
        }
        store.open_blob(&of, &wanted)
    })
    .await?;
    let mut found = found.ok_or_else(|| unknown(digest))?;
    found.media_type = "application/octet-stream".to_owned();
    let mut answer = send(call, found, digest).await?;
    set(&mut answer, CACHE_CONTROL, "max-age=31536000, immutable");
    Ok(answer)
}

pub(crate) async fn delete(call: &Call, name: &Name, digest: &Digest) -> Handled {
    let (store, of, wanted) = (Arc::clone(&call.shared.store), name.clone(), digest.clone());
    if blocking(move || store.delete_blob(&of, &wanted)).await? {
        return Ok(empty(StatusCode::ACCEPTED));
    }
    Err(unknown(digest))
}

fn unknown(digest: &Digest) -> Failure {
    Failure::with_detail(Code::BlobUnknown, serde_json::json!({ "digest": digest.to_string() }))
}

/// Sends what of a file the request wants.
pub(crate) async fn send(call: &Call, found: Found, digest: &Digest) -> Handled {
    let Found { mut file, size, media_type } = found;
    let etag = format!("\"{digest}\"");
    let part = ranges::wanted(&call.headers, size, &etag);
    let mut answer = match part {
        ranges::Part::NotModified => empty(StatusCode::NOT_MODIFIED),
        ranges::Part::Unsatisfiable => {
            let mut answer = empty(StatusCode::RANGE_NOT_SATISFIABLE);
            set(&mut answer, CONTENT_RANGE, &format!("bytes */{size}"));
            return Ok(answer);
        }
        ranges::Part::Whole => content(call, file, size, StatusCode::OK),
        ranges::Part::Range { from, length } => {
            file = blocking(move || {
                file.seek(std::io::SeekFrom::Start(from)).map_err(io("read", "a blob".as_ref()))?;
                Ok(file)
            })
            .await?;
            let mut answer = content(call, file, length, StatusCode::PARTIAL_CONTENT);
            set(&mut answer, CONTENT_RANGE, &format!("bytes {from}-{}/{size}", from + length - 1));
            answer
        }
    };
    if part != ranges::Part::NotModified {
        set(&mut answer, CONTENT_TYPE, &media_type);
        set(&mut answer, ACCEPT_RANGES, "bytes");
    }
    set(&mut answer, ETAG, &etag);
    set(&mut answer, CONTENT_DIGEST, &digest.to_string());
    Ok(answer)
}

fn content(call: &Call, file: std::fs::File, length: u64, status: StatusCode) -> Answer {
    let body = if call.method == Method::HEAD { Body::Empty } else { Body::File(Part::new(file, length)) };
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    set(&mut answer, CONTENT_LENGTH, &length.to_string());
    answer
}
