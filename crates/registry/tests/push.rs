//! Uploads to a registry of the test's own, which breaks off, forgets, and leads elsewhere.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use hull_oci::{Digest, Reference};
use hull_registry::Credentials;
use hull_registry::client::push::{Mounted, Outgoing, Source};
use hull_registry::client::{Access, Client, Hosts, Kind, Repository};
use tokio::sync::{mpsc, oneshot};

/// What a registry has, and what it does wrong; each fault once.
#[derive(Default)]
struct State {
    blobs: BTreeMap<String, Vec<u8>>,
    sessions: BTreeMap<String, Vec<u8>>,
    /// `METHOD PATH`, and whether it was told who asks.
    asked: Vec<(String, bool)>,
    /// Bytes of bodies that have come.
    received: usize,
    /// A PATCH is cut after so many bytes, each time with the next number.
    cuts: Vec<usize>,
    /// A session is forgotten with its cut.
    forgets: bool,
    /// The answer to a PUT of a blob does not arrive.
    loses_answer: bool,
    /// Status of a mount; 0: there are none.
    mounts: u16,
    /// Where sessions are.
    elsewhere: Option<SocketAddr>,
    /// Status of every POST; 0: as it should be.
    refuses: u16,
}

type Shared = Arc<Mutex<State>>;

fn state(shared: &Shared) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Serves until the test's process ends.
fn serve(shared: &Shared) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, shared) = (stream.unwrap(), Arc::clone(&shared));
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            // Who has gone is not answered.
            std::thread::spawn(move || while matches!(one(&stream, &shared), Ok(true)) {});
        }
    });
    address
}

/// What has come.
struct Request {
    method: String,
    path: String,
    query: String,
    /// Where its `Content-Range` begins.
    begins: Option<usize>,
    body: Vec<u8>,
    whole: bool,
}

/// One request; false: the connection ends with it.
fn one(stream: &TcpStream, shared: &Shared) -> io::Result<bool> {
    let mut first = [0];
    // It speaks no TLS, and says so at once.
    if stream.peek(&mut first)? == 0 || first[0] == 0x16 {
        return Ok(false);
    }
    match read(stream, shared)? {
        Some(request) => reply(stream, &mut state(shared), request),
        None => Ok(false),
    }
}

fn read(stream: &TcpStream, shared: &Shared) -> io::Result<Option<Request>> {
    let mut reader = BufReader::with_capacity(1, stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(None);
        }
    }
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    let lower = head.to_ascii_lowercase();
    let header = |name: &str| lower.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    state(shared).asked.push((format!("{method} {target}"), lower.contains("\r\nauthorization:")));
    let limit = if method == "PATCH" { state(shared).cuts.pop() } else { None };
    let mut body = Vec::new();
    let whole = if lower.contains("transfer-encoding: chunked") {
        chunks(&mut reader, &mut body, limit)?
    } else {
        let length: usize = header("content-length: ").map_or(0, |text| text.parse().unwrap());
        body.resize(limit.map_or(length, |limit| limit.min(length)), 0);
        reader.read_exact(&mut body)?;
        limit.is_none()
    };
    state(shared).received += body.len();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    let begins = header("content-range: ").and_then(|range| range.split('-').next()?.parse().ok());
    Ok(Some(Request { method, path, query, begins, body, whole }))
}

fn reply(stream: &TcpStream, state: &mut State, request: Request) -> io::Result<bool> {
    let Request { method, path, query, .. } = &request;
    let id = path.rsplit('/').next().unwrap_or_default().to_owned();
    let place = match state.elsewhere {
        Some(address) => format!("http://{address}/elsewhere/"),
        // As some have it, not in full.
        None => "/v2/ns/app/blobs/uploads/".to_owned(),
    };
    match (method.as_str(), path.as_str()) {
        ("GET", "/v2/") => answer(stream, "401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n"),
        ("HEAD", _) => {
            let status = if state.blobs.contains_key(&id) { "200 OK" } else { "404 Not Found" };
            answer(stream, status, "")
        }
        ("POST", _) if state.refuses > 0 => answer(stream, &format!("{} Refused", state.refuses), ""),
        ("POST", _) if query.starts_with("mount=") && state.mounts != 202 => {
            answer(stream, &format!("{} Mount", state.mounts), "")
        }
        ("POST", _) => {
            let id = format!("s{}", state.asked.len());
            state.sessions.insert(id.clone(), Vec::new());
            answer(stream, "202 Accepted", &format!("Location: {place}{id}\r\n"))
        }
        ("PATCH", _) => match take(state, &id, &request) {
            Some(true) => answer(stream, "202 Accepted", &format!("Location: {place}{id}\r\n")),
            Some(false) => Ok(false),
            None => answer(stream, "404 Not Found", ""),
        },
        ("GET", _) => match state.sessions.get(&id) {
            Some(come) => {
                let last = come.len().saturating_sub(1);
                answer(stream, "204 No Content", &format!("Location: {place}{id}\r\nRange: 0-{last}\r\n"))
            }
            None => answer(stream, "404 Not Found", ""),
        },
        ("PUT", path) if path.contains("/manifests/") => answer(stream, "201 Created", ""),
        ("PUT", _) => {
            let Some(mut blob) = state.sessions.remove(&id) else {
                return answer(stream, "404 Not Found", "");
            };
            blob.extend_from_slice(&request.body);
            let digest = Digest::sha256(&blob).to_string();
            assert!(query.contains(&digest), "{query} is not of {digest}");
            state.blobs.insert(digest, blob);
            if std::mem::take(&mut state.loses_answer) {
                return Ok(false);
            }
            answer(stream, "201 Created", "")
        }
        _ => answer(stream, "404 Not Found", ""),
    }
}

/// Adds a piece to a session; whether it was whole. `None`: there is no such session.
fn take(state: &mut State, id: &str, request: &Request) -> Option<bool> {
    let session = state.sessions.get_mut(id)?;
    let begins = request.begins.unwrap_or(session.len());
    assert_eq!(begins, session.len(), "an upload goes on where it was broken off");
    session.extend_from_slice(&request.body);
    if !request.whole && state.forgets {
        state.sessions.remove(id);
    }
    Some(request.whole)
}

/// A chunked body, up to so many bytes of it; whether that was all.
fn chunks(reader: &mut impl io::BufRead, body: &mut Vec<u8>, limit: Option<usize>) -> io::Result<bool> {
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        let left = limit.map_or(size, |limit| size.min(limit - body.len()));
        let at = body.len();
        body.resize(at + left, 0);
        reader.read_exact(&mut body[at..])?;
        if left < size {
            return Ok(false);
        }
        reader.read_line(&mut String::new())?;
        if size == 0 {
            return Ok(true);
        }
    }
}

fn answer(mut stream: &TcpStream, status: &str, headers: &str) -> io::Result<bool> {
    write!(stream, "HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\n\r\n")?;
    Ok(true)
}

/// Bytes of a test; their length is told or not.
struct Given {
    bytes: Bytes,
    told: bool,
}

impl Source for Given {
    fn open(&self, from: u64) -> Outgoing {
        let (send, pieces) = mpsc::channel(1);
        let (known, end) = oneshot::channel();
        let rest = self.bytes.slice(from as usize..);
        known.send((Digest::sha256(&self.bytes), self.bytes.len() as u64)).ok();
        let length = self.told.then_some(rest.len() as u64);
        tokio::spawn(async move {
            for piece in rest.chunks(1000) {
                if send.send(Ok(Bytes::copy_from_slice(piece))).await.is_err() {
                    return;
                }
            }
        });
        Outgoing { pieces, length, end }
    }
}

fn bytes() -> Bytes {
    (0..50_000_u32).map(|index| (index * index / 7) as u8).collect::<Vec<u8>>().into()
}

fn repository(address: SocketAddr) -> Repository {
    let hosts = Hosts { attempts: 3, wait: Duration::from_millis(1), ..Hosts::default() };
    let name = Reference::parse(&format!("{address}/ns/app")).unwrap();
    let credentials = Credentials::Password { user: "alice".to_owned(), password: "secret".to_owned() };
    Client::new(hosts).repository(&name, credentials, Access::Push)
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("it ends")
}

/// Uploads in both ways; gives what the registry was asked.
async fn upload(make: impl Fn() -> State) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for told in [true, false] {
        let shared: Shared = Arc::new(Mutex::new(make()));
        let source = Given { bytes: bytes(), told };
        let repository = repository(serve(&shared));
        let sent = within(repository.upload(None, &source, &|_| {})).await.unwrap();
        assert_eq!(sent, (Digest::sha256(&bytes()), bytes().len() as u64));
        let state = state(&shared);
        assert!(state.blobs[&sent.0.to_string()] == bytes());
        if state.sessions.is_empty() && !state.forgets {
            assert_eq!(state.received, bytes().len(), "nothing is sent twice");
        }
        let methods = state.asked.iter().filter_map(|(line, _)| line.split(' ').next().map(str::to_owned));
        all.push(methods.collect());
    }
    all
}

#[tokio::test]
async fn a_blob_is_sent_in_one_piece() {
    for asked in upload(State::default).await {
        assert_eq!(asked, ["GET", "POST", "PATCH", "PUT"]);
    }
}

#[tokio::test]
async fn what_is_broken_off_goes_on_where_it_was() {
    let cuts = || State { cuts: vec![1, 30_000, 7], ..State::default() };
    for asked in upload(cuts).await {
        let (patches, puts) = (
            asked.iter().filter(|one| *one == "PATCH").count(),
            asked.iter().filter(|one| *one == "PUT").count(),
        );
        assert_eq!((patches, puts), (4, 1), "{asked:?}");
        assert_eq!(asked.iter().filter(|one| *one == "POST").count(), 1);
    }
}

#[tokio::test]
async fn an_upload_that_is_forgotten_begins_anew() {
    let forgets = || State { cuts: vec![30_000], forgets: true, ..State::default() };
    for asked in upload(forgets).await {
        assert_eq!(asked.iter().filter(|one| *one == "POST").count(), 2, "{asked:?}");
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_is_asked_for() {
    for asked in upload(|| State { loses_answer: true, ..State::default() }).await {
        assert_eq!(asked.last().map(String::as_str), Some("HEAD"), "{asked:?}");
    }
}

#[tokio::test]
async fn one_that_takes_nothing_is_given_up() {
    let shared: Shared = Arc::new(Mutex::new(State { cuts: vec![0; 100], ..State::default() }));
    let repository = repository(serve(&shared));
    let source = Given { bytes: bytes(), told: true };
    let waits = Mutex::new(Vec::new());
    let error =
        within(repository.upload(None, &source, &|wait| waits.lock().unwrap().push(wait))).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable, "{error}");
    assert_eq!(waits.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn who_asks_is_not_told_where_a_session_leads() {
    let there: Shared = Arc::default();
    let elsewhere = serve(&there);
    let here: Shared = Arc::new(Mutex::new(State { elsewhere: Some(elsewhere), ..State::default() }));
    let repository = repository(serve(&here));
    let source = Given { bytes: bytes(), told: true };
    // The other server knows nothing of the session.
    let error = within(repository.upload(None, &source, &|_| {})).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    let there = state(&there);
    assert!(there.asked.iter().any(|(line, _)| line.starts_with("PATCH /elsewhere/")));
    assert!(there.asked.iter().all(|(_, told)| !told), "{:?}", there.asked);
    // As a control: the registry itself was told.
    assert!(state(&here).asked.iter().any(|(line, told)| line.starts_with("POST") && *told));
}

#[tokio::test]
async fn a_mount_is_taken_or_the_blob_is_sent() {
    let digest = Digest::sha256(&bytes());
    for (status, sends) in [(201, false), (202, true), (403, true), (404, true), (405, true)] {
        let shared: Shared = Arc::new(Mutex::new(State { mounts: status, ..State::default() }));
        let repository = repository(serve(&shared));
        let begun = match within(repository.mount(&digest, "ns/other")).await.unwrap() {
            Mounted::Yes => {
                assert!(!sends, "{status}");
                continue;
            }
            Mounted::No(begun) => begun,
        };
        assert!(sends && begun.is_some() == (status == 202), "{status}");
        let source = Given { bytes: bytes(), told: true };
        within(repository.upload(begun, &source, &|_| {})).await.unwrap();
        let posts = state(&shared).asked.iter().filter(|(line, _)| line.starts_with("POST")).count();
        assert_eq!(posts, if status == 202 { 1 } else { 2 });
    }
}

#[tokio::test]
async fn a_refusal_is_told_in_the_registrys_words() {
    for (status, text) in [
        (401, "unauthorized: authentication required"),
        (403, "denied: requested access to the resource is denied"),
    ] {
        let shared: Shared = Arc::new(Mutex::new(State { refuses: status, ..State::default() }));
        let source = Given { bytes: bytes(), told: true };
        let error = within(repository(serve(&shared)).upload(None, &source, &|_| {})).await.unwrap_err();
        assert_eq!(error.problem().map(ToString::to_string).as_deref(), Some(text));
    }
}

#[tokio::test]
async fn small_blobs_and_manifests_go_in_one_request() {
    let shared: Shared = Arc::default();
    let repository = repository(serve(&shared));
    let digest = Digest::sha256(b"{}");
    assert!(!within(repository.has_blob(&digest)).await.unwrap());
    within(repository.put_blob(&digest, Bytes::from_static(b"{}"))).await.unwrap();
    assert!(within(repository.has_blob(&digest)).await.unwrap());
    within(repository.put_manifest("1", "application/json", Bytes::from_static(b"{}"))).await.unwrap();
}
