//! Uploads: bytes that come in one request or in many, until a digest says that they are all
//! (distribution-spec, `spec.md#pushing-blobs`).
//!
//! ```text
//! POST ──202──► PATCH* ──202──► PUT?digest= ──201──► a blob
//!   │                             │
//!   └─ ?digest= and the bytes ────┴─ wrong: the upload is gone
//! ```
//!
//! What has come is a file, so that an upload survives a restart of either side; how far it is, is the
//! file's length. The hash goes along with the writing, on the thread that writes; only an upload that is
//! taken up after a restart is read again. Requests for one upload follow each other: a newer one that
//! sends bytes ends the older, because that one's client has mostly gone without a word.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, LOCATION, RANGE};
use http::{HeaderMap, StatusCode};
use hull_oci::{Algorithm, Digest, Hasher};
use hyper::body::Incoming;
use tokio::sync::{OwnedMutexGuard, mpsc, watch};

use super::action::Name;
use super::answer::{CONTENT_DIGEST, Code, Failure, Handled, UPLOAD_UUID, blob_location, empty, set};
use super::pages::Query;
use super::ranges;
use super::routes::{Call, blocking};
use super::store::Store;

/// Pieces of a body that wait for the disk.
const WAITING: usize = 8;
/// An older request for the same upload ends within.
const TURN: Duration = Duration::from_secs(30);

/// How far an upload is. Whoever holds it is the one who writes.
#[derive(Debug)]
struct Progress {
    length: u64,
    /// Of all that has come; `None` after a restart, until it is read again.
    hash: Option<(Algorithm, Hasher)>,
}

#[derive(Debug)]
struct Session {
    name: Name,
    id: String,
    /// As in `progress`, for who only asks.
    length: AtomicU64,
    progress: Arc<tokio::sync::Mutex<Progress>>,
    /// Who began it, or has gone on with it first since a restart.
    owner: Option<String>,
    /// The number of the newest request that sends bytes.
    newest: watch::Sender<u64>,
}

/// The uploads that this process knows of.
pub(crate) struct Uploads {
    store: Arc<Store>,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    most: usize,
    /// Of one user.
    share: usize,
}

impl Uploads {
    pub(crate) fn new(store: Arc<Store>, most: usize, share: usize) -> Uploads {
        Uploads { store, sessions: Mutex::new(HashMap::new()), most, share }
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self) -> usize {
        self.sessions().len()
    }

    /// Uploads whose files were removed as garbage.
    pub(crate) fn forget(&self, ids: &[String]) {
        let mut sessions = self.sessions();
        for id in ids {
            sessions.remove(id);
        }
    }

    async fn start(
        &self,
        name: &Name,
        algorithm: Algorithm,
        owner: Option<String>,
    ) -> Result<Arc<Session>, Failure> {
        let id = new_id()?;
        let progress = Progress { length: 0, hash: Some((algorithm, Hasher::new(algorithm))) };
        let session = Arc::new(Session::new(name, &id, progress, owner));
        {
            let mut sessions = self.sessions();
            if sessions.len() >= self.most {
                let what = format!("{} uploads are open: finish or cancel some", sessions.len());
                return Err(Failure::new(Code::TooManyRequests, what));
            }
            let same = |other: &&Arc<Session>| other.owner == session.owner;
            if session.owner.is_some() && sessions.values().filter(same).count() >= self.share {
                let what = format!("{} uploads of yours are open: finish or cancel some", self.share);
                return Err(Failure::new(Code::TooManyRequests, what));
            }
            sessions.insert(id.clone(), Arc::clone(&session));
        }
        let (store, name) = (Arc::clone(&self.store), name.clone());
        let made = blocking({
            let id = id.clone();
            move || store.start_upload(&name, &id)
        });
        if let Err(error) = made.await {
            self.sessions().remove(&id);
            return Err(error);
        }
        Ok(session)
    }

    /// An upload of this repository; also one from before a restart.
    async fn find(&self, name: &Name, id: &str, owner: Option<String>) -> Result<Arc<Session>, Failure> {
        let unknown = || Failure::new(Code::BlobUploadUnknown, "no such upload");
        let known = self.sessions().get(id).cloned();
        if let Some(session) = known {
            return if session.name == *name { Ok(session) } else { Err(unknown()) };
        }
        let length = self.length(name, id).await?.ok_or_else(unknown)?;
        let session = Arc::new(Session::new(name, id, Progress { length, hash: None }, owner));
        // Somebody else may have been faster; also with its end.
        let session = Arc::clone(self.sessions().entry(id.to_owned()).or_insert(session));
        if self.length(name, id).await?.is_none() {
            self.sessions().remove(id);
            return Err(unknown());
        }
        Ok(session)
    }

    async fn length(&self, name: &Name, id: &str) -> Result<Option<u64>, Failure> {
        let (store, name, id) = (Arc::clone(&self.store), name.clone(), id.to_owned());
        blocking(move || store.upload_length(&name, &id)).await
    }

    /// The file first: one that has no session would get a new one.
    async fn discard(&self, session: &Session) -> Result<bool, Failure> {
        let (store, name, id) = (Arc::clone(&self.store), session.name.clone(), session.id.clone());
        let dropped = blocking(move || store.drop_upload(&name, &id)).await?;
        self.sessions().remove(&session.id);
        Ok(dropped)
    }
}

impl Session {
    fn new(name: &Name, id: &str, progress: Progress, owner: Option<String>) -> Session {
        Session {
            name: name.clone(),
            id: id.to_owned(),
            length: AtomicU64::new(progress.length),
            progress: Arc::new(tokio::sync::Mutex::new(progress)),
            owner,
            newest: watch::Sender::new(0),
        }
    }

    fn location(&self) -> String {
        format!("/v2/{}/blobs/uploads/{}", self.name, self.id)
    }

    /// How far it is, as every answer about it says.
    fn answer(&self, status: StatusCode) -> Handled {
        let mut answer = empty(status);
        set(&mut answer, LOCATION, &self.location());
        set(&mut answer, RANGE, &ranges::received(self.length.load(Ordering::Relaxed)));
        set(&mut answer, UPLOAD_UUID, &self.id);
        Ok(answer)
    }

    /// The turn to write, and who hears when it is over because a newer request came.
    async fn turn(&self) -> Result<(OwnedMutexGuard<Progress>, watch::Receiver<u64>, u64), Failure> {
        let mut number = 0;
        self.newest.send_modify(|newest| {
            *newest += 1;
            number = *newest;
        });
        let mut newest = self.newest.subscribe();
        let turn = tokio::select! {
            turn = tokio::time::timeout(TURN, Arc::clone(&self.progress).lock_owned()) => {
                turn.map_err(|_| taken_over())?
            }
            _ = newest.wait_for(|newest| *newest > number) => return Err(taken_over()),
        };
        Ok((turn, newest, number))
    }

    /// Appends a request's body, and gives the turn back with what has come. On a failure that is the
    /// client's, what had come before it stays.
    async fn append(&self, call: &mut Call, algorithm: Option<Algorithm>) -> Result<Written, Failure> {
        let (mut turn, mut newest, number) = self.turn().await?;
        let told = self.expected(&call.headers, turn.length)?;
        if let (0, Some(algorithm)) = (turn.length, algorithm) {
            turn.hash = Some((algorithm, Hasher::new(algorithm)));
        }
        let before = (turn.length, turn.hash.clone());
        let Some(file) = self.file(call).await? else {
            call.shared.uploads.sessions().remove(&self.id);
            return Err(Failure::new(Code::BlobUploadUnknown, "no such upload"));
        };
        let (send, pieces) = mpsc::channel(WAITING);
        let writer = tokio::task::spawn_blocking(move || write(turn, file, pieces));
        let received = tokio::select! {
            received = receive(call, &send, told) => received,
            _ = newest.wait_for(|newest| *newest > number) => Err(Broken::Gone(taken_over())),
        };
        drop(send);
        let (turn, file, written) = writer.await.map_err(|error| {
            tracing::error!(%error, "a writer failed");
            Failure::new(Code::Unknown, "a fault in the registry: see its log")
        })?;
        let mut written_all = Written { turn, file };
        self.length.store(written_all.turn.length, Ordering::Relaxed);
        if let Err(error) = written {
            tracing::error!(%error, upload = self.id, "an upload cannot be written");
            return Err(Failure::new(Code::Unknown, "the bytes could not be stored: see the registry's log"));
        }
        match received {
            // Other bytes than it said: none of them are any good.
            Err(Broken::Size(failure)) => {
                written_all.cut(before)?;
                self.length.store(written_all.turn.length, Ordering::Relaxed);
                Err(failure)
            }
            Err(Broken::Gone(failure)) => Err(failure),
            Ok(()) => Ok(written_all),
        }
    }

    /// How many bytes the request says it has, if they follow on those that are here.
    fn expected(&self, headers: &HeaderMap, length: u64) -> Result<Option<u64>, Failure> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let announced: Option<u64> = text(CONTENT_LENGTH).and_then(|length| length.parse().ok());
        let Some(range) = headers.get(CONTENT_RANGE) else { return Ok(announced) };
        let range = range.to_str().ok().and_then(ranges::chunk);
        match range {
            Some((from, told)) if from == length => {
                if announced.is_some_and(|announced| announced != told) {
                    let what = format!("Content-Range tells {told} bytes, Content-Length another number");
                    return Err(Failure::new(Code::SizeInvalid, what));
                }
                Ok(Some(told))
            }
            _ => Err(self.out_of_order(length)),
        }
    }

    fn out_of_order(&self, length: u64) -> Failure {
        Failure::new(Code::BlobUploadInvalid, format!("the next byte is {length}"))
            .status(StatusCode::RANGE_NOT_SATISFIABLE)
            .header(LOCATION, &self.location())
            .header(RANGE, &ranges::received(length))
            .header(UPLOAD_UUID, &self.id)
    }

    async fn file(&self, call: &Call) -> Result<Option<File>, Failure> {
        let (store, name, id) = (Arc::clone(&call.shared.store), self.name.clone(), self.id.clone());
        blocking(move || store.open_upload(&name, &id)).await
    }
}

fn taken_over() -> Failure {
    Failure::new(Code::BlobUploadInvalid, "another request for this upload came").status(StatusCode::CONFLICT)
}

/// Why a body did not come as it should have.
enum Broken {
    Gone(Failure),
    Size(Failure),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Broken {
        Broken::Gone(failure)
    }
}

/// Hands a body on, piece by piece; `told` is how long it must be.
async fn receive(call: &mut Call, send: &mpsc::Sender<Bytes>, told: Option<u64>) -> Result<(), Broken> {
    let mut received = 0;
    while let Some(piece) = call.piece().await? {
        received += piece.len() as u64;
        if told.is_some_and(|told| received > told) {
            return Err(wrong_size(told, received));
        }
        // A writer that has failed says why itself.
        if send.send(piece).await.is_err() {
            return Ok(());
        }
    }
    if told.is_some_and(|told| received < told) {
        return Err(wrong_size(told, received));
    }
    Ok(())
}

fn wrong_size(told: Option<u64>, found: u64) -> Broken {
    let what = format!("{} bytes were announced, and {found} came", told.unwrap_or(0));
    Broken::Size(Failure::new(Code::SizeInvalid, what))
}

/// The turn and the file, after a body was written.
#[derive(Debug)]
struct Written {
    turn: OwnedMutexGuard<Progress>,
    file: File,
}

impl Written {
    fn cut(&mut self, (length, hash): (u64, Option<(Algorithm, Hasher)>)) -> Result<(), Failure> {
        self.turn.length = length;
        self.turn.hash = hash;
        self.file.set_len(length).map_err(|error| {
            tracing::error!(%error, "an upload cannot be cut");
            Failure::new(Code::Unknown, "the bytes could not be stored: see the registry's log")
        })
    }

    /// The digest of all of it.
    async fn digest(&self, algorithm: Algorithm) -> Result<Digest, Failure> {
        let length = self.turn.length;
        if let Some((_, hash)) = self.turn.hash.as_ref().filter(|(known, _)| *known == algorithm) {
            return Ok(hash.clone().finish());
        }
        // Chunks came before it was known which digest is wanted.
        let hashed = match self.file.try_clone() {
            Ok(file) => tokio::task::spawn_blocking(move || hash_file(&file, length, algorithm))
                .await
                .map_err(io::Error::other)
                .and_then(|hash| hash),
            Err(error) => Err(error),
        };
        hashed.map(Hasher::finish).map_err(|error| {
            tracing::error!(%error, "an upload cannot be read");
            Failure::new(Code::Unknown, "the bytes could not be read: see the registry's log")
        })
    }
}

type Turn = OwnedMutexGuard<Progress>;

/// Writes and hashes pieces as they come. A failure of the disk leaves what was whole.
fn write(mut turn: Turn, file: File, mut pieces: mpsc::Receiver<Bytes>) -> (Turn, File, io::Result<()>) {
    let written = write_all(&mut turn, &file, &mut pieces);
    if written.is_err() {
        // What a failed write left behind the last whole piece.
        let _ = file.set_len(turn.length);
    }
    (turn, file, written)
}

fn write_all(progress: &mut Progress, file: &File, pieces: &mut mpsc::Receiver<Bytes>) -> io::Result<()> {
    let (algorithm, mut hash) = match progress.hash.take() {
        Some(known) => known,
        None => (Algorithm::Sha256, hash_file(file, progress.length, Algorithm::Sha256)?),
    };
    let mut outcome = Ok(());
    while let Some(piece) = pieces.blocking_recv() {
        if let Err(error) = file.write_all_at(&piece, progress.length) {
            outcome = Err(error);
            break;
        }
        hash.update(&piece);
        progress.length += piece.len() as u64;
    }
    progress.hash = Some((algorithm, hash));
    outcome
}

fn hash_file(file: &File, length: u64, algorithm: Algorithm) -> io::Result<Hasher> {
    let mut hasher = Hasher::new(algorithm);
    let mut file = file.try_clone()?;
    io::Seek::rewind(&mut file)?;
    let copied = io::copy(&mut io::BufReader::with_capacity(256 << 10, file.take(length)), &mut hasher)?;
    if copied == length { Ok(hasher) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// A random UUID (RFC 9562, version 4).
fn new_id() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(|error| {
        tracing::error!(%error, "no random bytes");
        Failure::new(Code::Unknown, "no random bytes")
    })?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

fn digest_of(query: &Query) -> Result<Option<Digest>, Failure> {
    let Some(text) = query.get("digest") else { return Ok(None) };
    Digest::parse(text)
        .map(Some)
        .map_err(|error| Failure::new(Code::DigestInvalid, format!("{text:?}: {error}")))
}

/// `POST`: begins an upload; with `mount` it may not be needed, with `digest` it is all of it.
pub(crate) async fn start(call: &mut Call, name: &Name) -> Handled {
    if let Some(mounted) = mount(call, name).await? {
        return Ok(mounted);
    }
    let digest = digest_of(&call.query)?;
    let algorithm = match call.query.get("digest-algorithm") {
        Some("sha512") => Algorithm::Sha512,
        None | Some("sha256") => digest.as_ref().map_or(Algorithm::Sha256, Digest::algorithm),
        Some(other) => {
            let what = format!("{other:?} is no algorithm that is known here");
            return Err(Failure::new(Code::DigestInvalid, what));
        }
    };
    let shared = Arc::clone(&call.shared);
    let session = shared.uploads.start(name, algorithm, call.owner()).await?;
    match digest {
        None => session.answer(StatusCode::ACCEPTED),
        Some(digest) => {
            let finished = close(call, &session, &digest).await;
            if finished.is_err() {
                shared.uploads.discard(&session).await?;
            }
            finished
        }
    }
}

/// A blob of another repository, if the caller may read that one. What cannot be mounted is uploaded:
/// whether it is there is not told to who may not know.
async fn mount(call: &Call, name: &Name) -> Result<Option<super::answer::Answer>, Failure> {
    let Some(digest) = call.query.get("mount").and_then(|digest| Digest::parse(digest).ok()) else {
        return Ok(None);
    };
    let from = match call.query.get("from").map(Name::parse) {
        None => name.clone(),
        Some(Some(from)) if call.may_pull(&from) => from,
        Some(_) => return Ok(None),
    };
    let (store, to, wanted) = (Arc::clone(&call.shared.store), name.clone(), digest.clone());
    let mounted = blocking(move || store.mount(&from, &to, &wanted)).await?;
    Ok(mounted.then(|| created(name, &digest)))
}

fn created(name: &Name, digest: &Digest) -> super::answer::Answer {
    let mut answer = empty(StatusCode::CREATED);
    set(&mut answer, LOCATION, &blob_location(name, digest));
    set(&mut answer, CONTENT_DIGEST, &digest.to_string());
    answer
}

pub(crate) async fn status(call: &Call, name: &Name, id: &str) -> Handled {
    call.shared.uploads.find(name, id, call.owner()).await?.answer(StatusCode::NO_CONTENT)
}

pub(crate) async fn chunk(call: &mut Call, name: &Name, id: &str) -> Handled {
    let shared = Arc::clone(&call.shared);
    let session = shared.uploads.find(name, id, call.owner()).await?;
    session.append(call, None).await?;
    session.answer(StatusCode::ACCEPTED)
}

/// `PUT`: the last bytes, if any are missing, and the digest of all.
pub(crate) async fn finish(call: &mut Call, name: &Name, id: &str) -> Handled {
    let shared = Arc::clone(&call.shared);
    let session = shared.uploads.find(name, id, call.owner()).await?;
    let digest = digest_of(&call.query)?
        .ok_or_else(|| Failure::new(Code::DigestInvalid, "the parameter digest is missing"))?;
    close(call, &session, &digest).await
}

async fn close(call: &mut Call, session: &Session, digest: &Digest) -> Handled {
    let shared = Arc::clone(&call.shared);
    // The turn is kept until the file has its other name: nobody writes to a blob.
    let written = session.append(call, Some(digest.algorithm())).await?;
    let (found, size) = (written.digest(digest.algorithm()).await?, written.turn.length);
    if found != *digest {
        // It can become nothing that anybody wants.
        shared.uploads.discard(session).await?;
        let detail = serde_json::json!({ "digest": digest.to_string(), "found": found.to_string() });
        return Err(Failure::with_detail(Code::DigestInvalid, detail));
    }
    let (store, name, id) = (Arc::clone(&shared.store), session.name.clone(), session.id.clone());
    blocking(move || store.finish_upload(&name, &id, &found, size)).await?;
    shared.uploads.sessions().remove(&session.id);
    drop(written);
    Ok(created(&session.name, digest))
}

pub(crate) async fn cancel(call: &Call, name: &Name, id: &str) -> Handled {
    let session = call.shared.uploads.find(name, id, call.owner()).await?;
    // Who is writing to it hears that it is over.
    drop(session.turn().await?);
    if call.shared.uploads.discard(&session).await? {
        return Ok(empty(StatusCode::NO_CONTENT));
    }
    Err(Failure::new(Code::BlobUploadUnknown, "no such upload"))
}

/// What a handler left of a body, received within limits, so that who was refused hears why: in ten seconds
/// at most, and little of it from somebody who is not known.
pub(crate) async fn drain(mut body: Incoming, idle: Duration, known: bool) {
    use http_body_util::BodyExt as _;
    let mut left: u64 = if known { 64 << 20 } else { 1 << 20 };
    let receive = async {
        while let Some(Ok(frame)) = body.frame().await {
            match left.checked_sub(frame.data_ref().map_or(0, |data| data.len() as u64)) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // Who is late is cut off.
    let _ = tokio::time::timeout(idle.min(Duration::from_secs(10)), receive).await;
}
