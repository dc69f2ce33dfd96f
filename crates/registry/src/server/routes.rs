//! From a request to its answer: who asks, what for, whether they may, and only then the handler.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderName, WARNING, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::action::{Action, Name, Need, Verb};
use super::answer::{API_VERSION, Answer, Code, Failure, Handled, empty, json_answer};
use super::auth::{Challenge, Identity};
use super::connection::Peer;
use super::pages::Query;
use super::store::StoreError;
use super::{Shared, blobs, lists, manifests, uploads};

/// A request whose sender is known.
pub(crate) struct Call {
    pub shared: Arc<Shared>,
    pub method: Method,
    pub headers: HeaderMap,
    pub query: Query,
    identity: Identity,
    body: Option<Incoming>,
    idle: Duration,
}

impl Call {
    pub(crate) fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn may_pull(&self, name: &Name) -> bool {
        self.shared.auth.allows(&self.identity, Need::Repository(name, Verb::Pull))
    }

    /// Whose the uploads are that it begins; `None` where nobody has a name, or need not have one.
    pub(crate) fn owner(&self) -> Option<String> {
        match &self.identity {
            Identity::User(user) | Identity::Token { user: Some(user), .. } => Some(user.clone()),
            // All who may push without a name are one.
            _ => (!self.shared.auth.is_open()).then(String::new),
        }
    }

    /// Which repositories the caller may know of.
    pub(crate) fn visible(&self) -> impl Fn(&Name) -> bool + Send + use<> {
        let (shared, identity) = (Arc::clone(&self.shared), self.identity.clone());
        move |name| shared.auth.may_list(&identity, name)
    }

    /// The next piece of the body, `None` at its end.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, Failure> {
        let Some(body) = &mut self.body else { return Ok(None) };
        loop {
            let late = |_| {
                Failure::new(Code::BlobUploadInvalid, "the body did not go on")
                    .status(StatusCode::REQUEST_TIMEOUT)
            };
            let Some(frame) = tokio::time::timeout(self.idle, body.frame()).await.map_err(late)? else {
                return Ok(None);
            };
            let frame = frame.map_err(|error| {
                Failure::new(Code::BlobUploadInvalid, format!("the body broke off: {error}"))
            })?;
            if let Ok(piece) = frame.into_data() {
                self.shared.metrics.received(piece.len());
                return Ok(Some(piece));
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Some(rest) = self.body.take().filter(|body| !body.is_end_stream()) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let known = self.shared.auth.is_open() || self.identity != Identity::Anonymous;
            runtime.spawn(uploads::drain(rest, self.idle, known));
        }
    }
}

/// Runs what blocks on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(error) => {
            tracing::error!(%error, "a request's work failed");
            Err(Failure::new(Code::Unknown, "a fault in the registry: see its log"))
        }
    }
}

/// Answers a request, whatever it is.
pub(crate) async fn answer(shared: Arc<Shared>, peer: Peer, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let method = head.method.clone();
    let handled = if head.uri.path() == "/token" {
        token(&shared, peer, &head, body).await
    } else {
        v2(&shared, peer, head, body).await
    };
    let mut answer = handled.unwrap_or_else(Failure::answer);
    let headers = answer.headers_mut();
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    for warning in &shared.warnings {
        headers.append(WARNING, warning.clone());
    }
    if method == Method::HEAD {
        *answer.body_mut() = super::body::Body::Empty;
    }
    shared.metrics.answered(&method, answer.status());
    answer
}

async fn v2(shared: &Arc<Shared>, peer: Peer, head: Parts, body: Incoming) -> Handled {
    let mut call = Call {
        shared: Arc::clone(shared),
        query: Query::parse(head.uri.query().unwrap_or_default()),
        method: head.method,
        headers: head.headers,
        identity: Identity::default(),
        idle: shared.limits.idle,
        body: Some(body),
    };
    let parsed = Action::parse(&call.method, head.uri.path());
    // Who may not come in is not told what there is, nor how it is spelled.
    call.identity = match shared.auth.identify(&call.headers, peer.address.ip()).await {
        Ok(identity) => identity,
        Err(failure) => return Err(challenged(&call, &head.uri, peer, parsed.as_ref().ok(), failure)),
    };
    let action = parsed?;
    if !shared.auth.allows(&call.identity, action.need()) {
        let failure = shared.auth.refusal(&call.identity, action.need());
        return Err(challenged(&call, &head.uri, peer, Some(&action), failure));
    }
    if shared.read_only && action.writes() {
        return Err(Failure::new(Code::Unsupported, "this registry is read-only"));
    }
    handle(&mut call, &action).await
}

async fn handle(call: &mut Call, action: &Action) -> Handled {
    match action {
        Action::Base => Ok(json_answer(StatusCode::OK, &serde_json::json!({}))),
        Action::Catalog => lists::catalog(call).await,
        Action::Tags(name) => lists::tags(call, name).await,
        Action::Referrers(name, subject) => lists::referrers(call, name, subject).await,
        Action::GetManifest(name, target) => manifests::get(call, name, target).await,
        Action::PutManifest(name, target) => manifests::put(call, name, target).await,
        Action::DeleteManifest(name, target) => manifests::delete(call, name, target).await,
        Action::GetBlob(name, digest) => blobs::get(call, name, digest).await,
        Action::DeleteBlob(name, digest) => blobs::delete(call, name, digest).await,
        Action::StartUpload(name) => uploads::start(call, name).await,
        Action::UploadStatus(name, id) => uploads::status(call, name, id).await,
        Action::UploadChunk(name, id) => uploads::chunk(call, name, id).await,
        Action::FinishUpload(name, id) => uploads::finish(call, name, id).await,
        Action::CancelUpload(name, id) => uploads::cancel(call, name, id).await,
    }
}

/// A 401 says how to do better (RFC 9110, 11.6.1), and for which right.
fn challenged(call: &Call, uri: &Uri, peer: Peer, action: Option<&Action>, failure: Failure) -> Failure {
    if failure.status != StatusCode::UNAUTHORIZED {
        return failure;
    }
    let challenge = match call.shared.auth.challenge() {
        Some(Challenge::Basic) => "Basic realm=\"Hull registry\"".to_owned(),
        Some(Challenge::Bearer { service }) => {
            let realm = realm(call, uri, peer);
            let scope = action.map(|action| scope(action, call)).unwrap_or_default();
            format!("Bearer realm=\"{realm}\",service=\"{service}\"{scope}")
        }
        None => return failure,
    };
    failure.header(WWW_AUTHENTICATE, &challenge)
}

/// Where tokens are: as its owner says, or as this client has found the registry.
fn realm(call: &Call, uri: &Uri, peer: Peer) -> String {
    if let Some(url) = &call.shared.url {
        return format!("{}/token", url.trim_end_matches('/'));
    }
    let scheme = if call.shared.tls { "https" } else { "http" };
    let fit = |host: &&str| {
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
    };
    let host = call.header(http::header::HOST).or(uri.authority().map(|host| host.as_str())).filter(fit);
    match host {
        Some(host) => format!("{scheme}://{host}/token"),
        None => format!("{scheme}://{}/token", peer.local),
    }
}

fn scope(action: &Action, call: &Call) -> String {
    match action.need() {
        Need::Known => String::new(),
        Need::Catalog => ",scope=\"registry:catalog:*\"".to_owned(),
        Need::Repository(name, verb) => {
            // Who pushes looks first at what is there.
            let verbs = if verb == Verb::Push { "pull,push" } else { verb.name() };
            let from =
                call.query.get("from").and_then(Name::parse).filter(|_| call.query.get("mount").is_some());
            let mount = from.map(|from| format!(" repository:{from}:pull")).unwrap_or_default();
            format!(",scope=\"repository:{name}:{verbs}{mount}\"")
        }
    }
}

/// `GET /token`, or `POST` with a form (the Docker token specification, and its OAuth2 variant).
async fn token(shared: &Arc<Shared>, peer: Peer, head: &Parts, body: Incoming) -> Handled {
    const FORM: usize = 64 << 10;
    let query = match head.method {
        Method::GET => Query::parse(head.uri.query().unwrap_or_default()),
        Method::POST => {
            let collected = http_body_util::Limited::new(body, FORM).collect();
            let form = tokio::time::timeout(shared.limits.idle, collected).await.ok().and_then(Result::ok);
            let invalid = || Failure::new(Code::Unsupported, "not a form").status(StatusCode::BAD_REQUEST);
            Query::parse(std::str::from_utf8(&form.ok_or_else(invalid)?.to_bytes()).map_err(|_| invalid())?)
        }
        _ => return Err(Failure::no_method(&head.method)),
    };
    match shared.auth.token(&head.headers, &query, peer.address.ip(), head.method == Method::POST).await {
        Ok(Some(document)) => {
            let mut answer = json_answer(StatusCode::OK, &document);
            answer.headers_mut().insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            Ok(answer)
        }
        Ok(None) => Err(Failure::no_page()),
        Err(failure) if failure.status == StatusCode::UNAUTHORIZED => {
            Err(failure.header(WWW_AUTHENTICATE, "Basic realm=\"Hull registry\""))
        }
        Err(failure) => Err(failure),
    }
}

/// The answer to a request whose handler has panicked.
pub(crate) fn broken() -> Answer {
    empty(StatusCode::INTERNAL_SERVER_ERROR)
}
