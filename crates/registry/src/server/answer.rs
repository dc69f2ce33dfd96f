//! Answers, and failures in the codes of the specification (distribution-spec, `spec.md#error-codes`).

use std::collections::BTreeSet;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Method, Response, StatusCode};
use hull_oci::Digest;
use serde_json::{Value, json};

use super::body::Body;
use super::store::StoreError;

pub(crate) type Answer = Response<Body>;
pub(crate) type Handled = Result<Answer, Failure>;

/// What went wrong, in the words of the specification; `Unknown` is ours to explain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    Unauthorized,
    Denied,
    Unsupported,
    TooManyRequests,
    Unknown,
}

impl Code {
    fn text(self) -> &'static str {
        match self {
            Code::BlobUnknown => "BLOB_UNKNOWN",
            Code::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Code::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Code::DigestInvalid => "DIGEST_INVALID",
            Code::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Code::ManifestInvalid => "MANIFEST_INVALID",
            Code::ManifestUnknown => "MANIFEST_UNKNOWN",
            Code::NameInvalid => "NAME_INVALID",
            Code::NameUnknown => "NAME_UNKNOWN",
            Code::SizeInvalid => "SIZE_INVALID",
            Code::Unauthorized => "UNAUTHORIZED",
            Code::Denied => "DENIED",
            Code::Unsupported => "UNSUPPORTED",
            Code::TooManyRequests => "TOOMANYREQUESTS",
            Code::Unknown => "UNKNOWN",
        }
    }

    /// The specification's own sentence, which clients show.
    fn message(self) -> &'static str {
        match self {
            Code::BlobUnknown => "blob unknown to registry",
            Code::BlobUploadInvalid => "blob upload invalid",
            Code::BlobUploadUnknown => "blob upload unknown to registry",
            Code::DigestInvalid => "provided digest did not match uploaded content",
            Code::ManifestBlobUnknown => "manifest references a manifest or blob unknown to registry",
            Code::ManifestInvalid => "manifest invalid",
            Code::ManifestUnknown => "manifest unknown to registry",
            Code::NameInvalid => "invalid repository name",
            Code::NameUnknown => "repository name not known to registry",
            Code::SizeInvalid => "provided length did not match content length",
            Code::Unauthorized => "authentication required",
            Code::Denied => "requested access to the resource is denied",
            Code::Unsupported => "the operation is unsupported",
            Code::TooManyRequests => "too many requests",
            Code::Unknown => "the registry failed",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Code::BlobUnknown | Code::BlobUploadUnknown | Code::ManifestUnknown | Code::NameUnknown => {
                StatusCode::NOT_FOUND
            }
            Code::BlobUploadInvalid
            | Code::DigestInvalid
            | Code::ManifestBlobUnknown
            | Code::ManifestInvalid
            | Code::NameInvalid
            | Code::SizeInvalid => StatusCode::BAD_REQUEST,
            Code::Unauthorized => StatusCode::UNAUTHORIZED,
            Code::Denied => StatusCode::FORBIDDEN,
            Code::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
            Code::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Code::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A request that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    errors: Vec<Value>,
}

impl Failure {
    /// `what` is the detail: which, and why.
    pub(crate) fn new(code: Code, what: impl Into<String>) -> Failure {
        Failure::with_detail(code, json!(what.into()))
    }

    pub(crate) fn with_detail(code: Code, detail: Value) -> Failure {
        Failure { status: code.status(), headers: Vec::new(), errors: vec![problem(code, detail)] }
    }

    /// One error for each of them, as the specification wants it.
    pub(crate) fn unknown_parts(missing: &BTreeSet<Digest>) -> Failure {
        let errors = missing
            .iter()
            .map(|digest| problem(Code::ManifestBlobUnknown, json!({ "digest": digest.to_string() })));
        Failure { status: StatusCode::BAD_REQUEST, headers: Vec::new(), errors: errors.collect() }
    }

    pub(crate) fn no_page() -> Failure {
        Failure { status: StatusCode::NOT_FOUND, headers: Vec::new(), errors: Vec::new() }
    }

    pub(crate) fn no_method(method: &Method) -> Failure {
        Failure::new(Code::Unsupported, format!("{method} has no meaning here"))
    }

    #[must_use]
    pub(crate) fn status(mut self, status: StatusCode) -> Failure {
        self.status = status;
        self
    }

    #[must_use]
    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Failure {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }

    pub(crate) fn answer(self) -> Answer {
        let mut answer = if self.errors.is_empty() {
            empty(self.status)
        } else {
            json_answer(self.status, &json!({ "errors": self.errors }))
        };
        for (name, value) in self.headers {
            answer.headers_mut().insert(name, value);
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            // RFC 9110, 15.5.6, wants the header; what is allowed depends on more than the path.
            answer.headers_mut().entry(ALLOW).or_insert(HeaderValue::from_static("GET, HEAD"));
        }
        answer
    }
}

fn problem(code: Code, detail: Value) -> Value {
    json!({ "code": code.text(), "message": code.message(), "detail": detail })
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        // What the disk says is the owner's to read, not the client's.
        tracing::error!(error = %super::chain(&error), "the registry's folder");
        Failure::new(Code::Unknown, "its folder could not be read or written: see its log")
    }
}

pub(crate) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Body::Empty);
    *answer.status_mut() = status;
    if status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED {
        set(&mut answer, CONTENT_LENGTH, "0");
    }
    answer
}

pub(crate) fn json_answer(status: StatusCode, value: &Value) -> Answer {
    bytes_answer(status, "application/json", value.to_string())
}

pub(crate) fn bytes_answer(status: StatusCode, media: &str, bytes: impl Into<Bytes>) -> Answer {
    let bytes = bytes.into();
    let length = bytes.len();
    let mut answer = Response::new(Body::Whole(Some(bytes)));
    *answer.status_mut() = status;
    set(&mut answer, CONTENT_TYPE, media);
    set(&mut answer, CONTENT_LENGTH, &length.to_string());
    answer
}

/// Sets a header, if the value may stand in one.
pub(crate) fn set(answer: &mut Answer, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}

pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
pub(crate) const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
pub(crate) const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
pub(crate) const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
pub(crate) const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");

/// Where a blob can be got.
pub(crate) fn blob_location(name: &super::action::Name, digest: &Digest) -> String {
    format!("/v2/{name}/blobs/{digest}")
}
