//! Sending: blobs, manifests, and what a registry can be asked for instead (distribution-spec `spec.md#push`).
//!
//! ```text
//! HEAD  blobs/DIGEST                            it is there
//! POST  blobs/uploads/?mount=DIGEST&from=NAME   201: it is there now; 202: a session, as without `mount`
//! PATCH session      all that is left           202, with the session's next address
//!   broken off:  GET session                    204: so far it has come (Range); else all begins again
//! PUT   session?digest=DIGEST                   201
//! ```
//!
//! A session's address may lead to another server: who asks is not told there.

use std::io;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use hull_fetch::{Address, Answer, Body};
use hull_oci::Digest;
use hull_oci::image::media_type;
use tokio::sync::{mpsc, oneshot};

use super::ask::{Ask, To, accept, wait};
use super::door::Door;
use super::error::{Error, Kind};
use super::{Repository, Result};

/// Bytes to be sent, which can be had again from any place on.
pub trait Source: Send + Sync {
    fn open(&self, from: u64) -> Outgoing;
}

/// Bytes on their way.
#[derive(Debug)]
pub struct Outgoing {
    pub pieces: mpsc::Receiver<io::Result<Bytes>>,
    /// Bytes that are to come, where that is known before.
    pub length: Option<u64>,
    /// Digest and length of the whole, with what is not sent of it. Known at the latest when the last piece is gone.
    pub end: oneshot::Receiver<(Digest, u64)>,
}

/// What has become of the wish for a blob of another repository.
#[derive(Debug)]
pub enum Mounted {
    Yes,
    /// The blob has to be sent. A session may have been begun for that.
    No(Option<Session>),
}

/// An upload that has begun.
#[derive(Debug, Clone)]
pub struct Session(Address);

const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");
const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

impl Repository {
    /// Whoever pushes asks the registry itself.
    fn own(&self) -> &Door {
        &self.0.doors[0]
    }

    pub async fn has_blob(&self, digest: &Digest) -> Result<bool> {
        self.has(format!("/blobs/{digest}"), HeaderMap::new()).await
    }

    pub async fn has_manifest(&self, digest: &Digest) -> Result<bool> {
        let accepted = media_type::MANIFESTS.iter().map(|kind| (ACCEPT, HeaderValue::from_static(kind)));
        self.has(format!("/manifests/{digest}"), accepted.collect()).await
    }

    async fn has(&self, path: String, headers: HeaderMap) -> Result<bool> {
        let wanted = [StatusCode::OK, StatusCode::NOT_FOUND];
        let answer = self.send(Method::HEAD, To::Path(path), headers, Body::Empty, &wanted).await?;
        Ok(answer.status == StatusCode::OK)
    }

    /// Wishes for a blob that the repository `from` of the same registry has.
    pub async fn mount(&self, digest: &Digest, from: &str) -> Result<Mounted> {
        let path = format!("/blobs/uploads/?mount={digest}&from={from}");
        let also = Some(format!("repository:{from}:pull"));
        let ask = Ask { method: Method::POST, also, called: "Post", ..Ask::get(path) };
        let answer = match self.ask(self.own(), ask).await {
            Ok(answer) => answer,
            // Who may not read there has to send it.
            Err(error) if error.kind() != Kind::Unreachable => return Ok(Mounted::No(None)),
            Err(error) => return Err(error),
        };
        match answer.status {
            StatusCode::CREATED => Ok(Mounted::Yes),
            StatusCode::ACCEPTED => Ok(Mounted::No(Some(session(&answer)?))),
            _ => Ok(Mounted::No(None)),
        }
    }

    /// Sends a small blob.
    pub async fn put_blob(&self, digest: &Digest, bytes: Bytes) -> Result<()> {
        let session = self.begin().await?;
        self.finish(session, digest, bytes).await
    }

    /// Sends a blob; it goes on where it was broken off, and so often as the hosts' settings say if nothing more
    /// arrives. `retrying` is told for how many seconds it waits. Gives digest and length.
    pub async fn upload(
        &self,
        begun: Option<Session>,
        source: &dyn Source,
        retrying: &(dyn Fn(u64) + Sync),
    ) -> Result<(Digest, u64)> {
        let mut way = Way { session: begun, come: 0 };
        let mut tries = 1;
        loop {
            let before = way.come;
            let error = match self.pass(&mut way, source).await {
                Ok(sent) => return Ok(sent),
                Err(error) => error,
            };
            if !may_go_on(&error) {
                return Err(error);
            }
            let Some(wait) = wait(self.hosts(), tries, None) else { return Err(error) };
            tracing::debug!(%error, "an upload is broken off");
            retrying(wait.as_secs().max(1));
            tokio::time::sleep(wait).await;
            self.look(&mut way).await?;
            tries = if way.come > before { 1 } else { tries + 1 };
        }
    }

    /// Sends what is left, and finishes.
    async fn pass(&self, way: &mut Way, source: &dyn Source) -> Result<(Digest, u64)> {
        let session = match way.session.clone() {
            Some(session) => session,
            None => self.begin().await?,
        };
        way.session = Some(session.clone());
        let Outgoing { pieces, length, end } = source.open(way.come);
        let mut session = session;
        if length != Some(0) {
            let mut headers: HeaderMap = [(CONTENT_TYPE, BYTES)].into_iter().collect();
            if let Some(length) = length.filter(|_| way.come > 0) {
                let range = format!("{}-{}", way.come, way.come + length - 1);
                headers.extend(HeaderValue::from_str(&range).ok().map(|range| (CONTENT_RANGE, range)));
            }
            let body = Body::Stream { length, pieces };
            let wanted = [StatusCode::ACCEPTED, StatusCode::NO_CONTENT, StatusCode::CREATED];
            let answer = self.send(Method::PATCH, To::Address(session.0), headers, body, &wanted).await?;
            session = self::session(&answer)?;
            way.session = Some(session.clone());
        }
        let unread = || Error::Nonsense {
            address: session.0.to_string(),
            why: "it has taken less than was to be sent".to_owned(),
        };
        let (digest, size) = end.await.map_err(|_| unread())?;
        match self.finish(session, &digest, Bytes::new()).await {
            // The answer to a first try may have been lost.
            Err(error) if error.kind() == Kind::NotFound && self.has_blob(&digest).await? => {}
            finished => finished?,
        }
        Ok((digest, size))
    }

    /// Asks how far an upload has come.
    async fn look(&self, way: &mut Way) -> Result<()> {
        let Some(session) = way.session.take() else { return Ok(()) };
        way.come = 0;
        let wanted = [StatusCode::NO_CONTENT, StatusCode::ACCEPTED];
        let to = To::Address(session.0.clone());
        let answer = match self.send(Method::GET, to, HeaderMap::new(), Body::Empty, &wanted).await {
            Ok(answer) => answer,
            Err(error) if error.kind() == Kind::Unreachable => return Err(error),
            // It has forgotten the upload.
            Err(_) => return Ok(()),
        };
        // A registry that has one byte says the same as one that has none.
        let come = answer.header(RANGE).and_then(so_far).filter(|last| *last > 0);
        if let Some(come) = come.and_then(|last| last.checked_add(1)) {
            way.come = come;
            way.session = Some(self::session(&answer).unwrap_or(session));
        }
        Ok(())
    }

    async fn begin(&self) -> Result<Session> {
        let to = To::Path("/blobs/uploads/".to_owned());
        session(&self.send(Method::POST, to, HeaderMap::new(), Body::Empty, &[StatusCode::ACCEPTED]).await?)
    }

    /// The last bytes of an upload, and what all of them are.
    async fn finish(&self, session: Session, digest: &Digest, bytes: Bytes) -> Result<()> {
        let text = session.0.to_string();
        let sign = if text.contains('?') { '&' } else { '?' };
        let address = Address::parse(&format!("{text}{sign}digest={digest}")).map_err(Error::Address)?;
        let headers: HeaderMap = [(CONTENT_TYPE, BYTES)].into_iter().collect();
        let wanted = [StatusCode::CREATED, StatusCode::NO_CONTENT];
        self.send(Method::PUT, To::Address(address), headers, Body::Bytes(bytes), &wanted).await.map(drop)
    }

    /// Stores a manifest or an index under a tag or its digest.
    pub async fn put_manifest(&self, name: &str, kind: &str, bytes: Bytes) -> Result<()> {
        let kind = HeaderValue::from_str(kind)
            .map_err(|error| Error::Nonsense { address: name.to_owned(), why: error.to_string() })?;
        let headers: HeaderMap = [(CONTENT_TYPE, kind)].into_iter().collect();
        let to = To::Path(format!("/manifests/{name}"));
        let ours = Digest::sha256(&bytes);
        let wanted = [StatusCode::CREATED, StatusCode::ACCEPTED, StatusCode::OK, StatusCode::NO_CONTENT];
        let answer = self.send(Method::PUT, to, headers, Body::Bytes(bytes), &wanted).await?;
        match answer.header(DIGEST).and_then(|text| Digest::parse(text).ok()) {
            Some(theirs) if theirs != ours => {
                Err(Error::Digest { address: answer.address.to_string(), expected: ours, found: theirs })
            }
            _ => Ok(()),
        }
    }

    async fn send(
        &self,
        method: Method,
        to: To,
        headers: HeaderMap,
        body: Body,
        wanted: &[StatusCode],
    ) -> Result<Answer> {
        let called = called(&method);
        let answer = self.ask(self.own(), Ask { method, to, headers, body, called, also: None }).await?;
        accept(called, answer, wanted).await
    }
}

/// An upload between two tries.
struct Way {
    session: Option<Session>,
    /// Bytes that the registry has.
    come: u64,
}

/// Where an upload goes on.
fn session(answer: &Answer) -> Result<Session> {
    let wrong = |why: String| Error::Nonsense { address: answer.address.to_string(), why };
    let location =
        answer.header(LOCATION).ok_or_else(|| wrong("it names no place for the upload".to_owned()))?;
    let address = answer.address.join(location).map_err(Error::Address)?;
    if answer.address.is_https() && !address.is_https() {
        return Err(wrong("the place that it names for the upload is not encrypted".to_owned()));
    }
    Ok(Session(address))
}

/// The last byte's place in `0-LAST`; some registries put `bytes=` before it.
fn so_far(range: &str) -> Option<u64> {
    let (first, last) = range.strip_prefix("bytes=").unwrap_or(range).split_once('-')?;
    (first == "0").then(|| last.parse().ok())?
}

/// Whether an upload can be taken up after that: nobody answered, or the session is of another opinion how far it
/// has come, or is gone.
fn may_go_on(error: &Error) -> bool {
    match error {
        Error::Answered { status, .. } => matches!(status.as_u16(), 401 | 404 | 408 | 416 | 429 | 500..),
        error => error.kind() == Kind::Unreachable,
    }
}

/// A method as the reference's errors have it.
fn called(method: &Method) -> &'static str {
    match method.as_str() {
        "HEAD" => "Head",
        "POST" => "Post",
        "PATCH" => "Patch",
        "PUT" => "Put",
        _ => "Get",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_tell_how_far_an_upload_has_come() {
        for (range, last) in [
            ("0-99", Some(99)),
            ("bytes=0-99", Some(99)),
            ("0-0", Some(0)),
            ("1-99", None),
            ("0--1", None),
            ("", None),
            ("0-18446744073709551616", None),
        ] {
            assert_eq!(so_far(range), last, "{range}");
        }
    }
}
