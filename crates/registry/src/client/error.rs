//! Why a registry did not give what was asked for. Where scripts look at the reference's words, these are them.

use http::StatusCode;
use hull_fetch::Address;
use hull_oci::Digest;
use hull_oci::image::DocumentError;
use serde::Deserialize;

/// Addresses in it have no credentials, and no part of it has a token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What is configured or written by a registry is no address.
    #[error(transparent)]
    Address(hull_fetch::Error),
    /// No answer. `reason` is what the reference says of it, where that is known.
    #[error("{method} {address:?}: {reason}")]
    Unreachable { method: String, address: String, reason: String },
    /// An answer, but not the wanted one.
    #[error("{method} {address:?}: {problem}")]
    Answered { method: String, address: String, status: StatusCode, problem: Problem },
    /// The registry wants to know who asks, and nobody has told.
    #[error("{method} {address:?}: no basic auth credentials")]
    NoCredentials { method: String, address: String },
    /// The server that gives the registry's tokens gives none.
    #[error("{method} {address:?}: {problem}")]
    NoToken { method: String, address: String, status: StatusCode, problem: Problem },
    /// Tokens are to be had from where nobody may be sent.
    #[error("the registry {registry} sends its clients to {realm} for tokens: {why}")]
    Realm { registry: String, realm: String, why: &'static str },
    #[error("login attempt to {address} failed with status: {status}")]
    Login { address: String, status: StatusCode },
    #[error("what {address} sends is not what was asked for: it is {found}, not {expected}")]
    Digest { address: String, expected: Digest, found: Digest },
    #[error("what {address} sends has {found} bytes, not {expected}")]
    Size { address: String, expected: u64, found: u64 },
    #[error("{address} sends more than the {most} bytes that it may have")]
    Large { address: String, most: u64 },
    /// Other bytes than those that were asked for.
    #[error("{address} was asked for the bytes from {from} on, and answers with {answer:?}")]
    Range { address: String, from: u64, answer: String },
    #[error("what {address} sends is no manifest")]
    Document { address: String, source: DocumentError },
    #[error("{address} sends a document of the type {found:?} where {expected:?} was asked for")]
    MediaType { address: String, expected: String, found: String },
    /// A document that is none, or says what cannot be.
    #[error("what {address} sends cannot be used: {why}")]
    Nonsense { address: String, why: String },
    /// A folder of certificates cannot be read.
    #[error("cannot read {path}")]
    Certificates { path: String, source: std::io::Error },
}

/// What an error means for whoever asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is not there.
    NotFound,
    /// It is not there, or not for everybody: registries do not tell which.
    Denied,
    /// The credentials are missing or wrong.
    Unauthorized,
    /// What the registry sends is wrong.
    Invalid,
    /// The registry, or the way to it, is broken.
    Unreachable,
}

impl Error {
    pub fn kind(&self) -> Kind {
        match self {
            Error::Answered { status, problem, .. } => match (problem.code.as_str(), status.as_u16()) {
                ("DENIED", _) | (_, 403) => Kind::Denied,
                ("MANIFEST_UNKNOWN" | "NAME_UNKNOWN" | "BLOB_UNKNOWN", _) | (_, 404) => Kind::NotFound,
                (_, 401) => Kind::Unauthorized,
                (_, 429 | 500..) => Kind::Unreachable,
                _ => Kind::Invalid,
            },
            Error::NoCredentials { .. } | Error::NoToken { .. } | Error::Login { .. } => Kind::Unauthorized,
            Error::Unreachable { .. } | Error::Certificates { .. } => Kind::Unreachable,
            _ => Kind::Invalid,
        }
    }

    /// The registry's own word for it, `MANIFEST_UNKNOWN` or so.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Error::Answered { problem, .. } | Error::NoToken { problem, .. } => Some(problem),
            _ => None,
        }
    }

    pub(super) fn unreachable(method: &str, address: &Address, error: &hull_fetch::Error) -> Error {
        let reason = reason(address, &hull_fetch_chain(error));
        Error::Unreachable { method: shown(method), address: address.to_string(), reason }
    }
}

/// What a registry says is wrong (distribution-spec `spec.md#error-codes`). As text it is what the
/// reference makes of that: `manifest unknown: manifest unknown`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `MANIFEST_UNKNOWN`; empty if it has no word for it.
    pub code: String,
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.code.is_empty() {
            return f.write_str(&self.message);
        }
        write!(f, "{}: {}", self.code.to_lowercase().replace('_', " "), self.message)
    }
}

#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    errors: Vec<One>,
    /// What servers of tokens send instead.
    #[serde(default)]
    details: String,
}

#[derive(Deserialize)]
#[serde(default)]
struct One {
    code: String,
    message: String,
}

impl Default for One {
    fn default() -> One {
        One { code: "UNKNOWN".to_owned(), message: String::new() }
    }
}

/// Characters of a message that are passed on.
const MESSAGE: usize = 500;

impl Problem {
    /// From the body of an answer that is an error.
    pub(super) fn read(status: StatusCode, body: &[u8]) -> Problem {
        let plain =
            |text: &str| -> String { text.chars().filter(|c| !c.is_control()).take(MESSAGE).collect() };
        let listed = serde_json::from_slice::<Listed>(body).ok();
        let details = listed.as_ref().map(|listed| plain(&listed.details)).unwrap_or_default();
        if let Some(one) = listed.and_then(|listed| listed.errors.into_iter().next()) {
            let code = plain(&one.code);
            let message = if one.message.is_empty() { usual(&code).to_owned() } else { plain(&one.message) };
            return Problem { code, message };
        }
        match status {
            StatusCode::UNAUTHORIZED => {
                let message = if details.is_empty() { usual("UNAUTHORIZED").to_owned() } else { details };
                Problem { code: "UNAUTHORIZED".to_owned(), message }
            }
            StatusCode::FORBIDDEN => {
                Problem { code: "DENIED".to_owned(), message: usual("DENIED").to_owned() }
            }
            status => {
                Problem { code: String::new(), message: format!("received unexpected HTTP status: {status}") }
            }
        }
    }
}

/// Of a code that came without a message.
fn usual(code: &str) -> &'static str {
    match code {
        "UNAUTHORIZED" => "authentication required",
        "DENIED" => "requested access to the resource is denied",
        "MANIFEST_UNKNOWN" => "manifest unknown",
        "NAME_UNKNOWN" => "repository name not known to registry",
        "BLOB_UNKNOWN" => "blob unknown to registry",
        "TOOMANYREQUESTS" => "too many requests",
        _ => "unknown error",
    }
}

/// A method as Go's errors have it: `Get`.
pub(super) fn shown(method: &str) -> String {
    let mut shown = method.to_ascii_lowercase();
    if let Some(first) = shown.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    shown
}

fn hull_fetch_chain(error: &hull_fetch::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let next = error.to_string();
        // Some errors repeat what is below them.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

/// What the reference says where nobody answers: people look for these words.
fn reason(address: &Address, told: &str) -> String {
    let host = address.host();
    if told.contains("Connection refused") {
        return format!("dial tcp {host}:{}: connect: connection refused", address.port());
    }
    if told.contains("dns error") || told.contains("failed to lookup address") {
        return format!("dial tcp: lookup {host}: no such host ({told})");
    }
    if told.contains("UnknownIssuer") {
        return format!(
            "tls: failed to verify certificate: x509: certificate signed by unknown authority: put the authority's \
             certificate into certs.d/{host}:{}/ca.crt",
            address.port()
        );
    }
    if told.contains("invalid peer certificate") {
        return format!("tls: failed to verify certificate: x509: {told}");
    }
    told.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(status: u16, body: &str) -> String {
        Problem::read(StatusCode::from_u16(status).unwrap(), body.as_bytes()).to_string()
    }

    #[test]
    fn what_a_registry_says_becomes_the_references_words() {
        let known =
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#;
        assert_eq!(problem(404, known), "manifest unknown: manifest unknown");
        assert_eq!(
            problem(403, r#"{"errors":[{"code":"DENIED"}]}"#),
            "denied: requested access to the resource is denied"
        );
        assert_eq!(
            problem(401, r#"{"details":"incorrect username or password"}"#),
            "unauthorized: incorrect username or password"
        );
        assert_eq!(problem(401, ""), "unauthorized: authentication required");
        assert_eq!(problem(403, "<html>"), "denied: requested access to the resource is denied");
        assert_eq!(problem(502, "<html>"), "received unexpected HTTP status: 502 Bad Gateway");
        let loud = format!(r#"{{"errors":[{{"code":"X","message":"a\u001b[2J{}"}}]}}"#, "y".repeat(10_000));
        let told = problem(400, &loud);
        assert!(told.len() < 600 && !told.contains('\u{1b}'), "{told}");
    }

    #[test]
    fn what_an_answer_means_is_told_by_its_code_before_its_status() {
        let kind = |status: u16, body: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            let problem = Problem::read(status, body.as_bytes());
            Error::Answered { method: "Get".into(), address: "a".into(), status, problem }.kind()
        };
        assert_eq!(kind(404, ""), Kind::NotFound);
        assert_eq!(kind(404, r#"{"errors":[{"code":"DENIED"}]}"#), Kind::Denied);
        assert_eq!(kind(401, ""), Kind::Unauthorized);
        assert_eq!(kind(403, ""), Kind::Denied);
        assert_eq!((kind(429, ""), kind(503, "")), (Kind::Unreachable, Kind::Unreachable));
        assert_eq!(kind(400, ""), Kind::Invalid);
    }
}
