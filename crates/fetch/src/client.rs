//! Requests and their answers.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, LOCATION, PROXY_AUTHORIZATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self, Client as Pool};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::Error;
use crate::address::{Address, Credentials};
use crate::body::{Body, Sending, Taken};
use crate::connect::{Connector, Secured, Served};
use crate::near::Place;
use crate::tls::{self, Tls};

/// What a client is patient with, and whom it trusts besides those whom the host does.
#[derive(Debug, Clone)]
pub struct Options {
    /// For a connection to be there.
    pub connect: Duration,
    /// For an answer to begin, for each further piece of it, and for each piece of what is sent.
    pub idle: Duration,
    /// Most redirects, one after the other.
    pub redirects: usize,
    /// Certificates of authorities, in DER.
    pub roots: Vec<Vec<u8>>,
    /// What holds for single servers besides: by host (lower case) and port, `registry.example:443`.
    pub hosts: BTreeMap<String, Tls>,
    /// Where servers may be, whatever their addresses say; `None`: anywhere. Of what a proxy reaches only the proxy
    /// knows where it is.
    pub places: Option<Vec<Place>>,
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
        Options {
            connect,
            idle,
            redirects: 10,
            roots: Vec::new(),
            hosts: BTreeMap::new(),
            places: None,
            proxies: None,
        }
    }
}

/// A request, but for its body.
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
    pool: Pool<Secured, Sending>,
    proxies: Arc<Matcher>,
    options: Options,
}

impl Client {
    /// Reads the certificates that the host trusts (some milliseconds of disk), and which proxies the
    /// environment names.
    ///
    /// # Errors
    /// [`Error::Roots`]. A host without any certificate is none: only https fails there. [`Error::Tls`] for a
    /// certificate or key of [`Options::hosts`] that is none.
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
        let places = options.places.as_deref().map(Arc::from);
        let connector = Connector { http, proxies: Arc::clone(&proxies), places };
        let roots = tls::roots(&options.roots)?;
        let own = options.hosts.iter().map(|(host, tls)| {
            let config = tls::config(host, roots.clone(), tls)?;
            Ok((host.clone(), HttpsConnector::from((connector.clone(), config))))
        });
        let own = Arc::new(own.collect::<Result<_, Error>>()?);
        let usual = tls::config("any server", roots, &Tls::default())?;
        let connector = Secured { usual: HttpsConnector::from((connector, usual)), own };
        let mut pool = Pool::builder(TokioExecutor::new());
        pool.pool_timer(TokioTimer::new()).pool_idle_timeout(options.idle);
        Ok(Client { pool: pool.build(connector), proxies, options })
    }

    /// Asks without a body, and follows where the answer leads. Any other status is an answer, too.
    pub async fn ask(&self, request: Request) -> Result<Answer, Error> {
        self.send(request, Body::Empty).await
    }

    /// The same with a body, which goes nowhere but to the address' own server.
    ///
    /// # Errors
    /// [`Error::Body`] where a redirect asks for more than that, or for a [`Body::Stream`] once more.
    pub async fn send(&self, request: Request, mut body: Body) -> Result<Answer, Error> {
        let Request { method, mut address, mut headers } = request;
        let first = address.clone();
        for _ in 0..=self.options.redirects {
            let again = body.again();
            let answer = self.once(&method, &address, &headers, body).await?;
            if !leads_on(&method, answer.status) {
                return Ok(answer);
            }
            let location = answer.headers.get(LOCATION).and_then(|location| location.to_str().ok());
            let missing = || Error::Location { address: address.to_string(), status: answer.status.as_u16() };
            let next = address.join(location.ok_or_else(missing)?)?;
            if address.is_https() && !next.is_https() {
                return Err(Error::Downgrade { from: address.to_string(), to: next.to_string() });
            }
            let same = address.same_origin(&next);
            let stays = || Error::Body { from: address.to_string(), to: next.to_string() };
            body = again.filter(|body| same || body.is_empty()).ok_or_else(stays)?;
            let credentials = address.credentials.take();
            if !same {
                headers.remove(AUTHORIZATION);
            }
            // A server that names credentials of its own names them for where it leads.
            let credentials = next.credentials.clone().or(credentials.filter(|_| same));
            address = Address { credentials, ..next };
        }
        Err(Error::Redirects { address: first.to_string(), most: self.options.redirects })
    }

    async fn once(
        &self,
        method: &Method,
        address: &Address,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Answer, Error> {
        let mut headers = headers.clone();
        headers.remove(HOST);
        headers
            .entry(USER_AGENT)
            .or_insert(HeaderValue::from_static(concat!("hull/", env!("CARGO_PKG_VERSION"))));
        if body.is_empty() && [Method::POST, Method::PUT, Method::PATCH].contains(method) {
            // RFC 9110, 8.6: some servers want to hear of a body that there is none.
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
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
        let taken = Taken::default();
        let mut answered = pin!(self.transmit(method, address, &headers, body, &taken));
        let answered = loop {
            let before = taken.count();
            // The time that the connection may take has its own limit within.
            match timeout(limit + self.options.connect, &mut answered).await {
                Ok(answered) => break answered,
                Err(_) if taken.count() > before => {}
                Err(_) => {
                    return Err(Error::Late { address: address.to_string(), what: "answered", limit });
                }
            }
        };
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
    async fn transmit(
        &self,
        method: &Method,
        address: &Address,
        headers: &HeaderMap,
        mut body: Body,
        taken: &Taken,
    ) -> Result<http::Response<Incoming>, legacy::Error> {
        loop {
            let again = body.again().filter(|_| method.is_idempotent());
            let mut request = http::Request::new(Sending::new(body, taken));
            *request.method_mut() = method.clone();
            *request.uri_mut() = address.uri.clone();
            *request.headers_mut() = headers.clone();
            match (self.pool.request(request).await, again) {
                (Err(error), Some(again)) if error.connect_info().is_some_and(Served::before) => body = again,
                (Err(error), _) => return Err(error),
                (Ok(answer), _) => {
                    Served::note(answer.extensions());
                    return Ok(answer);
                }
            }
        }
    }
}

/// Whether an answer sends the same request somewhere else (RFC 9110, 15.4). The older three may make a GET of
/// what is none, so of these they are answers.
fn leads_on(method: &Method, status: StatusCode) -> bool {
    match status.as_u16() {
        307 | 308 => true,
        301..=303 => matches!(*method, Method::GET | Method::HEAD),
        _ => false,
    }
}

/// RFC 7617.
fn basic(Credentials(text): &Credentials) -> HeaderValue {
    let mut bytes = text.clone();
    if !bytes.contains(&b':') {
        bytes.push(b':');
    }
    let text = format!("Basic {}", STANDARD.encode(&bytes));
    let mut value = HeaderValue::from_str(&text).expect("the alphabet of base64 is fit for a header");
    value.set_sensitive(true);
    value
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
        let known = basic(&Credentials(b"Aladdin:open sesame".to_vec()));
        assert_eq!(known, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        let token = basic(&Credentials(b"token".to_vec()));
        assert!(token.is_sensitive() && token == "Basic dG9rZW46");
    }
}
