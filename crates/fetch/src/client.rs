//! Requests and their answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, LOCATION, PROXY_AUTHORIZATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self, Client as Pool};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::Error;
use crate::address::{Address, Credentials};
use crate::connect::{Connector, Served};

/// What a client is patient with, and whom it trusts besides those whom the host does.
#[derive(Debug, Clone)]
pub struct Options {
    /// For a connection to be there.
    pub connect: Duration,
    /// For an answer to begin, and for each further piece of it.
    pub idle: Duration,
    /// Most redirects, one after the other.
    pub redirects: usize,
    /// Certificates of authorities, in DER.
    pub roots: Vec<Vec<u8>>,
    /// `None`: those of the environment (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`, in either
    /// case, as curl reads them).
    pub proxies: Option<Proxies>,
}

/// Proxies by the scheme of what is asked for, as `http://[USER:PASSWORD@]HOST[:PORT]`; empty is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    pub http: String,
    pub https: String,
    /// Hosts, domains and networks that are asked without, parted by commas.
    pub without: String,
}

impl Default for Options {
    fn default() -> Options {
        let (connect, idle) = (Duration::from_secs(30), Duration::from_secs(60));
        Options { connect, idle, redirects: 10, roots: Vec::new(), proxies: None }
    }
}

/// A request without a body.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: Method,
    pub address: Address,
    /// `Authorization` among them goes to the address' own host alone.
    pub headers: HeaderMap,
}

impl Request {
    pub fn get(address: Address) -> Request {
        Request { method: Method::GET, address, headers: HeaderMap::new() }
    }
}

/// Keeps connections for the next request to the same host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    pool: Pool<HttpsConnector<Connector>, Empty<Bytes>>,
    proxies: Arc<Matcher>,
    options: Options,
}

impl Client {
    /// Reads the certificates that the host trusts (some milliseconds of disk), and which proxies the
    /// environment names.
    ///
    /// # Errors
    /// [`Error::Roots`]. A host without any certificate is none: only https fails there.
    pub fn new(options: Options) -> Result<Client, Error> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(options.connect));
        let proxies = match &options.proxies {
            None => Matcher::from_env(),
            Some(Proxies { http, https, without }) => {
                Matcher::builder().http(http.as_str()).https(https.as_str()).no(without.as_str()).build()
            }
        };
        let proxies = Arc::new(proxies);
        let connector = Connector { http, proxies: Arc::clone(&proxies) };
        let connector = HttpsConnector::from((connector, trust(&options.roots)?));
        let mut pool = Pool::builder(TokioExecutor::new());
        pool.pool_timer(TokioTimer::new()).pool_idle_timeout(options.idle);
        Ok(Client { pool: pool.build(connector), proxies, options })
    }

    /// Asks, and follows where the answer leads. Any other status is an answer, too.
    pub async fn ask(&self, request: Request) -> Result<Answer, Error> {
        let Request { method, mut address, mut headers } = request;
        let first = address.clone();
        for _ in 0..=self.options.redirects {
            let answer = self.once(&method, &address, &headers).await?;
            if !redirects(answer.status) || !matches!(method, Method::GET | Method::HEAD) {
                return Ok(answer);
            }
            let location = answer.headers.get(LOCATION).and_then(|location| location.to_str().ok());
            let missing = || Error::Location { address: address.to_string(), status: answer.status.as_u16() };
            let next = address.join(location.ok_or_else(missing)?)?;
            if address.is_https() && !next.is_https() {
                return Err(Error::Downgrade { from: address.to_string(), to: next.to_string() });
            }
            let credentials = address.credentials.take();
            let same = address.same_origin(&next);
            if !same {
                headers.remove(AUTHORIZATION);
            }
            // A server that names credentials of its own names them for where it leads.
            let credentials = next.credentials.clone().or(credentials.filter(|_| same));
            address = Address { credentials, ..next };
        }
        Err(Error::Redirects { address: first.to_string(), most: self.options.redirects })
    }

    async fn once(&self, method: &Method, address: &Address, headers: &HeaderMap) -> Result<Answer, Error> {
        let mut request = http::Request::new(Empty::new());
        *request.method_mut() = method.clone();
        *request.uri_mut() = address.uri.clone();
        *request.headers_mut() = headers.clone();
        let headers = request.headers_mut();
        headers.remove(HOST);
        headers
            .entry(USER_AGENT)
            .or_insert(HeaderValue::from_static(concat!("hull/", env!("CARGO_PKG_VERSION"))));
        if let Some(credentials) = &address.credentials {
            headers.entry(AUTHORIZATION).or_insert(basic(credentials));
        }
        let proxy = self.proxies.intercept(&address.uri);
        if let Some(credentials) =
            proxy.as_ref().filter(|_| !address.is_https()).and_then(|proxy| proxy.basic_auth())
        {
            headers.insert(PROXY_AUTHORIZATION, credentials.clone());
        }
        let limit = self.options.idle;
        let late = |_| Error::Late { address: address.to_string(), what: "answered", limit };
        // The time that the connection may take has its own limit within.
        let answered = timeout(limit + self.options.connect, self.send(request)).await.map_err(late)?;
        let answer = answered.map_err(|source| Error::Connect {
            address: address.to_string(),
            proxy: proxy.map(|proxy| proxy.uri().to_string()),
            source: source.into(),
        })?;
        let (parts, body) = answer.into_parts();
        Ok(Answer { status: parts.status, headers: parts.headers, address: address.clone(), body, limit })
    }

    /// Sends a request until a connection answers it, or a new one fails. Each one
    /// that was closed while it was kept is gone after its try, so that the tries end.
    async fn send(
        &self,
        request: http::Request<Empty<Bytes>>,
    ) -> Result<http::Response<Incoming>, legacy::Error> {
        loop {
            match self.pool.request(request.clone()).await {
                Err(error)
                    if request.method().is_idempotent()
                        && error.connect_info().is_some_and(Served::before) => {}
                Err(error) => return Err(error),
                Ok(answer) => {
                    Served::note(answer.extensions());
                    return Ok(answer);
                }
            }
        }
    }
}

fn redirects(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// RFC 7617.
fn basic(Credentials(text): &Credentials) -> HeaderValue {
    let mut bytes = text.clone();
    if !bytes.contains(&b':') {
        bytes.push(b':');
    }
    let text = format!("Basic {}", base64(&bytes));
    let mut value = HeaderValue::from_str(&text).expect("the alphabet of base64 is fit for a header");
    value.set_sensitive(true);
    value
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let sign = ALPHABET[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place > chunk.len() { '=' } else { char::from(sign) });
        }
    }
    text
}

fn trust(more: &[Vec<u8>]) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if let (0, Some(error)) = (added, found.errors.first()) {
        return Err(Error::Roots { why: error.to_string() });
    }
    for root in more {
        let root = CertificateDer::from(root.as_slice());
        roots.add(root).map_err(|error| Error::Roots { why: error.to_string() })?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| Error::Roots { why: error.to_string() })?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Where it came from in the end.
    pub address: Address,
    body: Incoming,
    limit: Duration,
}

impl Answer {
    /// A header as text; `None` too if it is none.
    pub fn header(&self, name: http::HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The next piece of the body, `None` at its end.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let late =
                |_| Error::Late { address: self.address.to_string(), what: "gone on", limit: self.limit };
            let Some(frame) = timeout(self.limit, self.body.frame()).await.map_err(late)? else {
                return Ok(None);
            };
            let cut = |source: hyper::Error| Error::Cut {
                address: self.address.to_string(),
                source: source.into(),
            };
            // Trailers are nobody's business.
            if let Ok(piece) = frame.map_err(cut)?.into_data() {
                return Ok(Some(piece));
            }
        }
    }

    /// Writes the body, of `most` bytes at most, and has `seen` look at each piece of it. Gives its length.
    pub async fn save(
        &mut self,
        to: &mut (impl AsyncWrite + Unpin),
        most: u64,
        mut seen: impl FnMut(&[u8]),
    ) -> Result<u64, Error> {
        let mut length = 0;
        while let Some(piece) = self.piece().await? {
            length += piece.len() as u64;
            if length > most {
                return Err(Error::Large { address: self.address.to_string(), most });
            }
            seen(&piece);
            let failed = |source| Error::Write { address: self.address.to_string(), source };
            to.write_all(&piece).await.map_err(failed)?;
        }
        let failed = |source| Error::Write { address: self.address.to_string(), source };
        to.flush().await.map_err(failed)?;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_written_as_the_standard_says() {
        assert_eq!(base64(b"Aladdin:open sesame"), "QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(["", "f", "fo", "foo"].map(|text| base64(text.as_bytes())), ["", "Zg==", "Zm8=", "Zm9v"]);
        let token = basic(&Credentials(b"token".to_vec()));
        assert!(token.is_sensitive() && token == "Basic dG9rZW46");
    }
}
