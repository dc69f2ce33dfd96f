//! A daemon of a few lines for tests: it writes down what it is asked and
//! answers from a function.

use std::sync::{Arc, Mutex, PoisonError};

use hull_api::client::Endpoint;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::session::Session;

/// An answer; a status of 101 hands the connection over and closes it after
/// the body has been written.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

pub(crate) fn answer(status: u16, body: &str) -> Answer {
    Answer { status, body: body.to_owned() }
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// `METHOD TARGET` without the version.
    pub(crate) line: String,
    head: String,
    pub(crate) body: String,
}

impl Request {
    /// A header's value, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    }
}

pub(crate) struct Fake {
    folder: tempfile::TempDir,
    asked: Arc<Mutex<Vec<Request>>>,
    pub(crate) session: Session,
}

impl Fake {
    /// Starts to serve; `rule` is given `METHOD TARGET` without the version.
    pub(crate) fn start(rule: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Fake {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let rule = Arc::new(rule);
        let noted = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((peer, _)) = listener.accept().await {
                tokio::spawn(serve(peer, Arc::clone(&rule), Arc::clone(&noted)));
            }
        });
        let config = folder.path().to_str().map(str::to_owned);
        let session = Session::new("hull".to_owned(), Endpoint::Unix(path), None, config);
        Fake { folder, asked, session }
    }

    /// `METHOD TARGET` of all requests so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.requests().into_iter().map(|request| request.line).collect()
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Of the user's settings.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }
}

async fn serve(
    mut peer: UnixStream,
    rule: Arc<impl Fn(&str) -> Answer + Send + Sync>,
    asked: Arc<Mutex<Vec<Request>>>,
) {
    while let Some(request) = request(&mut peer).await {
        let Answer { status, body } = rule(&request.line);
        asked.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        let head = match status {
            101 => "Connection: Upgrade\r\nUpgrade: tcp\r\n".to_owned(),
            204 | 304 => String::new(),
            _ => format!("Content-Length: {}\r\n", body.len()),
        };
        let text = format!("HTTP/1.1 {status} X\r\nApi-Version: 1.53\r\n{head}\r\n{body}");
        if peer.write_all(text.as_bytes()).await.is_err() || status == 101 {
            return;
        }
    }
}

/// Reads one request.
async fn request(peer: &mut UnixStream) -> Option<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(peer.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    peer.read_exact(&mut body).await.ok()?;
    let mut words = head.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let target = target.strip_prefix("/v1.53").unwrap_or(target);
    let line = format!("{method} {target}");
    Some(Request { line, body: String::from_utf8_lossy(&body).into_owned(), head })
}
