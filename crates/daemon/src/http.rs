//! One request and its answer: query, body within limits, errors with their status.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body::Frame;
use hull_api::compat::request::Unfit;
use hull_api::filters::{FilterError, Filters};
use hull_api::{ApiVersion, ErrorResponse, gojson};
use hull_engine::Class;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use hull_engine::chain;

use crate::Server;
use crate::hijack::Slot;
use crate::upload::Upload;

/// Bytes of a JSON body; the largest real ones carry a few hundred kilobytes of seccomp profile.
pub(crate) const JSON_LIMIT: usize = 4 << 20;

/// A request on its way through the routes.
pub(crate) struct Call {
    pub server: Arc<Server>,
    pub version: ApiVersion,
    pub method: Method,
    pub headers: HeaderMap,
    pub query: Query,
    pub body: Upload,
    pub slot: Slot,
}

/// The parameters after `?`; the first of several values counts, as in the reference.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Query {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name, true), decode(value, true))
        });
        Query(pairs.collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The value, or an empty text.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// As the reference: absent, empty, `0`, `no`, `false` and `none` are false.
    pub(crate) fn flag(&self, name: &str) -> bool {
        let value = self.text(name).trim().to_ascii_lowercase();
        !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// # Errors
    /// 400 in the words of Go's number parser.
    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, Failure> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(None);
        }
        text.parse()
            .map(Some)
            .map_err(|_| Failure::invalid(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))
    }

    pub(crate) fn filters(&self) -> Result<Filters, Failure> {
        Ok(Filters::parse(self.text("filters"))?)
    }
}

/// Undoes percent-encoding; what is not well-formed stays as it is.
pub(crate) fn decode(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |offset: usize| {
            bytes
                .get(at + offset)
                .and_then(|b| char::from(*b).to_digit(16))
                .and_then(|d| u8::try_from(d).ok())
        };
        match (bytes[at], hex(1), hex(2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                at += 2;
            }
            (b'+', _, _) if plus_is_space => out.push(b' '),
            (byte, _, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

impl Call {
    /// The body, refused before it is read if it says that it is larger than `limit` bytes.
    pub(crate) async fn bytes(&mut self, limit: usize) -> Result<Bytes, Failure> {
        let too_large = || {
            Failure::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the request's body is larger than the {limit} bytes allowed here"),
            )
        };
        let announced = self.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if announced.is_some_and(|length: u64| length > limit as u64) {
            self.body.cut();
            return Err(too_large());
        }
        let mut bytes = BytesMut::new();
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| Failure::invalid(format!("reading the body: {error}")))?;
            if let Ok(data) = frame.into_data() {
                if bytes.len() + data.len() > limit {
                    self.body.cut();
                    return Err(too_large());
                }
                bytes.extend_from_slice(&data);
            }
        }
        Ok(bytes.freeze())
    }

    /// A body that has to be JSON, unread beyond [`JSON_LIMIT`].
    pub(crate) async fn json_bytes(&mut self) -> Result<Bytes, Failure> {
        let bytes = self.bytes(JSON_LIMIT).await?;
        if !bytes.is_empty() {
            let media = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
            check_json(media.unwrap_or_default())?;
        }
        Ok(bytes)
    }

    /// A body of type `T`; `go_name` stands in error texts.
    pub(crate) async fn json<T: DeserializeOwned>(&mut self, go_name: &str) -> Result<T, Failure> {
        let bytes = self.json_bytes().await?;
        Ok(gojson::decode(&bytes, go_name)?)
    }

    /// The same, where no body at all is the default value.
    pub(crate) async fn json_or_default<T: DeserializeOwned + Default>(
        &mut self,
        go_name: &str,
    ) -> Result<T, Failure> {
        let bytes = self.json_bytes().await?;
        if bytes.is_empty() { Ok(T::default()) } else { Ok(gojson::decode(&bytes, go_name)?) }
    }
}

/// Only JSON is taken for JSON: a browser cannot be made to send it across origins unasked.
fn check_json(media: &str) -> Result<(), Failure> {
    let kind = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/json" => Ok(()),
        "" => Err(Failure::invalid("malformed Content-Type header (): mime: no media type")),
        _ => Err(Failure::invalid(format!(
            "unsupported Content-Type header ({media}): must be 'application/json'"
        ))),
    }
}

/// A failed request: a status and the message for its body.
#[derive(Debug)]
pub(crate) struct Failure {
    pub status: StatusCode,
    pub message: String,
}

impl Failure {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Failure {
        Failure { status, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::NOT_FOUND, message)
    }

    /// What a later build will do.
    pub(crate) fn later(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The reference's answer to everything it does not know.
    pub(crate) fn no_page() -> Failure {
        Failure::not_found("page not found")
    }

    pub(crate) fn answer(&self) -> Answer {
        if self.status == StatusCode::NOT_MODIFIED {
            return empty(self.status);
        }
        json(self.status, &ErrorResponse { message: self.message.clone() })
    }
}

/// The one place where an engine's error becomes a status.
impl From<hull_engine::Error> for Failure {
    fn from(error: hull_engine::Error) -> Failure {
        let status = match error.class() {
            Class::NotFound => StatusCode::NOT_FOUND,
            Class::Conflict => StatusCode::CONFLICT,
            Class::Invalid => StatusCode::BAD_REQUEST,
            Class::NotModified => StatusCode::NOT_MODIFIED,
            Class::Forbidden => StatusCode::FORBIDDEN,
            Class::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Class::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Class::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Failure::new(status, chain(&error))
    }
}

impl From<gojson::Error> for Failure {
    fn from(error: gojson::Error) -> Failure {
        Failure::invalid(error.to_string())
    }
}

impl From<hull_api::create::CreateError> for Failure {
    fn from(error: hull_api::create::CreateError) -> Failure {
        Failure::invalid(error.to_string())
    }
}

impl From<Unfit> for Failure {
    fn from(error: Unfit) -> Failure {
        Failure::invalid(error.to_string())
    }
}

impl From<FilterError> for Failure {
    fn from(error: FilterError) -> Failure {
        Failure::invalid(error.to_string())
    }
}

pub(crate) type Answer = Response<Body>;
pub(crate) type Handled = Result<Answer, Failure>;

type Blocks = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// An answer's body: all at once, or blocks as they come.
pub(crate) enum Body {
    Whole(Option<Bytes>),
    Stream(Blocks),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Body::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Stream(blocks) => {
                blocks.as_mut().poll_next(cx).map(|block| block.map(|bytes| bytes.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Whole(None))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Body::Whole(bytes) => {
                http_body::SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Body::Stream(_) => http_body::SizeHint::default(),
        }
    }
}

/// JSON and a new line after it, as the reference ends every document.
pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Answer {
    let mut answer = match serde_json::to_vec(value) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            let mut answer = Response::new(Body::Whole(Some(bytes.into())));
            *answer.status_mut() = status;
            answer
        }
        // Only a map with keys that are no strings fails; none of the wire types has one.
        Err(error) => {
            tracing::error!(%error, "an answer could not be written as JSON");
            empty(StatusCode::INTERNAL_SERVER_ERROR)
        }
    };
    set(&mut answer, CONTENT_TYPE, "application/json");
    answer
}

pub(crate) fn ok<T: Serialize>(value: &T) -> Handled {
    Ok(json(StatusCode::OK, value))
}

pub(crate) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Body::Whole(None));
    *answer.status_mut() = status;
    answer
}

pub(crate) fn no_content() -> Handled {
    Ok(empty(StatusCode::NO_CONTENT))
}

/// Blocks as they come; the head goes out at once.
pub(crate) fn stream(
    content_type: &'static str,
    blocks: impl Stream<Item = Bytes> + Send + 'static,
) -> Answer {
    try_stream(content_type, blocks.map(Ok))
}

/// The same; an error cuts the connection, so that the client knows that something is missing.
pub(crate) fn try_stream(
    content_type: &'static str,
    blocks: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Answer {
    let mut answer = Response::new(Body::Stream(Box::pin(blocks)));
    set(&mut answer, CONTENT_TYPE, content_type);
    answer
}

pub(crate) fn set(answer: &mut Answer, name: HeaderName, value: &'static str) {
    answer.headers_mut().insert(name, HeaderValue::from_static(value));
}

/// A stream made of a state and a step that gives one block after another, `None` at the end.
pub(crate) fn blocks<S, F, Fut>(state: S, step: F) -> impl Stream<Item = Bytes>
where
    F: FnMut(S) -> Fut,
    Fut: Future<Output = Option<(Bytes, S)>>,
{
    futures_util::stream::unfold(state, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded_and_flags_read_as_the_reference_reads_them() {
        let query = Query::parse("name=a+b%2Fc&all=1&x=False&y=none&z&all=0&bad=%zz");
        assert_eq!(query.text("name"), "a b/c");
        assert!(query.flag("all"));
        assert!(!query.flag("x") && !query.flag("y") && !query.flag("z") && !query.flag("missing"));
        assert_eq!(query.text("bad"), "%zz");
        assert_eq!(query.all("all").collect::<Vec<_>>(), ["1", "0"]);
        assert_eq!(
            Query::parse("t=x").number("t").unwrap_err().message,
            "strconv.ParseInt: parsing \"x\": invalid syntax"
        );
    }

    #[test]
    fn only_json_is_taken_for_json() {
        assert!(check_json("application/json; charset=utf-8").is_ok());
        assert_eq!(
            check_json("text/plain").unwrap_err().message,
            "unsupported Content-Type header (text/plain): must be 'application/json'"
        );
        assert_eq!(
            check_json("").unwrap_err().message,
            "malformed Content-Type header (): mime: no media type"
        );
    }
}
