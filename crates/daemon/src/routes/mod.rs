//! From a path to a handler.
//!
//! The table is one `match` over the path's segments: names of images hold slashes, which the
//! reference allows in the middle of a path, and everything unknown (a wrong method too) is its
//! `404 page not found`.

mod absent;
mod archives;
mod bootstrap;
mod build;
mod build_cache;
mod capture;
mod containers;
mod copy;
mod credentials;
mod exec;
mod images;
mod layer;
mod lifecycle;
mod manifests;
mod networks;
mod registries;
mod show;
mod stats;
mod streams;
mod system;
mod transfers;
mod volumes;

use std::sync::Arc;

use http::header::{HeaderName, HeaderValue, LOCATION, SERVER};
use http::{Method, Request, StatusCode};
use hull_api::ApiVersion;
use hyper::body::Incoming;

use crate::Server;
use crate::hijack::Slot;
use crate::http::{Answer, Call, Failure, Handled, Query, decode, empty};
use crate::upload::Upload;

/// Answers a request, whatever it is.
pub(crate) async fn handle(server: Arc<Server>, request: Request<Incoming>, slot: Slot) -> Answer {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if path.contains("//") {
        return redirect(path);
    }
    let (version, path) = match version_of(path) {
        Ok(split) => split,
        Err(failure) => return failure.answer(),
    };
    let segments: Vec<String> =
        path.trim_start_matches('/').split('/').map(|segment| decode(segment, false)).collect();
    tracing::debug!(method = %head.method, path = %head.uri.path(), "request");
    let call = Call {
        server,
        version,
        method: head.method,
        headers: head.headers,
        query: Query::parse(head.uri.query().unwrap_or_default()),
        body: Upload::new(body),
        slot,
    };
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    route(call, &segments).await.unwrap_or_else(|failure| failure.answer())
}

/// The headers on every answer.
pub(crate) fn identify(answer: &mut Answer) {
    const API_VERSION: HeaderName = HeaderName::from_static("api-version");
    const EXPERIMENTAL: HeaderName = HeaderName::from_static("docker-experimental");
    const OS_TYPE: HeaderName = HeaderName::from_static("ostype");
    let headers = answer.headers_mut();
    headers.insert(API_VERSION, HeaderValue::from_static(API));
    headers.insert(EXPERIMENTAL, HeaderValue::from_static("false"));
    headers.insert(OS_TYPE, HeaderValue::from_static("linux"));
    headers.insert(SERVER, HeaderValue::from_static(SERVER_NAME));
}

/// The same for the head of a hijacked answer.
pub(crate) fn identity() -> String {
    format!("Api-Version: {API}\r\nDocker-Experimental: false\r\nOstype: linux\r\nServer: {SERVER_NAME}\r\n")
}

/// [`ApiVersion::NEWEST`] as a header's text.
const API: &str = "1.53";
const SERVER_NAME: &str = concat!("Hull/", env!("CARGO_PKG_VERSION"), " (linux)");

/// Splits `/v1.47/rest`; without a version the newest is meant.
fn version_of(path: &str) -> Result<(ApiVersion, &str), Failure> {
    let Some(rest) = path.strip_prefix("/v") else { return Ok((ApiVersion::NEWEST, path)) };
    let (word, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let Ok(version) = word.parse::<ApiVersion>() else { return Ok((ApiVersion::NEWEST, path)) };
    if rest.is_empty() {
        return Err(Failure::no_page());
    }
    let (oldest, newest) = (ApiVersion::OLDEST, ApiVersion::NEWEST);
    if version < oldest {
        return Err(Failure::invalid(format!(
            "client version {word} is too old. Minimum supported API version is {oldest}, please upgrade your client \
             to a newer version"
        )));
    }
    if version > newest {
        return Err(Failure::invalid(format!(
            "client version {word} is too new. Maximum supported API version is {newest}"
        )));
    }
    Ok((version, rest))
}

/// Go's router sends a path with empty segments to its clean form.
fn redirect(path: &str) -> Answer {
    let clean: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let mut answer = empty(StatusCode::MOVED_PERMANENTLY);
    if let Ok(place) = HeaderValue::from_str(&format!("/{}", clean.join("/"))) {
        answer.headers_mut().insert(LOCATION, place);
    }
    answer
}

async fn route(call: Call, path: &[&str]) -> Handled {
    let method = call.method.clone();
    if method == Method::OPTIONS {
        return Ok(empty(StatusCode::OK));
    }
    match path {
        ["containers", rest @ ..] => containers_route(call, &method, rest).await,
        ["images", rest @ ..] => images_route(call, &method, rest).await,
        ["exec", id, verb] => match (method.as_str(), *verb) {
            ("GET", "json") => exec::inspect(&call, id),
            ("POST", "start") => exec::start(call, id).await,
            ("POST", "resize") => exec::resize(&call, id).await,
            _ => Err(Failure::no_page()),
        },
        ["hull", "v1", "build"] if method == Method::POST => Ok(build::session::build(&call)),
        ["hull", "v1", "images", "bootstrap"] if method == Method::POST => bootstrap::bootstrap(call).await,
        ["hull", "v1", "images", "capture"] if method == Method::POST => capture::capture(call).await,
        ["hull", "v1", "containers", key, "archive", verb @ ("read" | "write")]
            if method == Method::POST && call.slot.is_local() =>
        {
            copy::piped(&call, key, *verb == "write").await
        }
        ["hull", "v1", "manifests", name @ ..] => match method.as_str() {
            "GET" => manifests::inspect(&call, &name.join("/")).await,
            "POST" => manifests::push(call, &name.join("/")).await,
            _ => Err(Failure::no_page()),
        },
        ["hull", "v1", "networks", "explain"] if method == Method::GET => networks::explain(&call).await,
        ["networks", rest @ ..] => networks::networks(call, &method, rest).await,
        ["volumes", rest @ ..] => volumes::volumes(call, &method, rest).await,
        _ => system_route(call, &method, path).await,
    }
}

async fn system_route(call: Call, method: &Method, path: &[&str]) -> Handled {
    match (method.as_str(), path) {
        ("GET" | "HEAD", ["_ping"]) => Ok(system::ping(method)),
        ("GET", ["version"]) => system::version(&call),
        ("GET", ["info"]) => system::info(&call),
        ("GET", ["events"]) => streams::events(&call),
        ("GET", ["system", "df"]) => system::disk_usage(&call).await,
        ("POST", ["auth"]) => registries::auth(call).await,
        ("POST", ["build"]) => build::build(call).await,
        ("POST", ["build", "prune"]) => build_cache::prune(&call).await,
        ("POST", ["commit"]) => layer::commit(call).await,
        ("GET", ["distribution", name @ .., "json"]) => {
            registries::distribution(&call, &name.join("/")).await
        }
        _ => absent::swarm(method, path),
    }
}

async fn containers_route(call: Call, method: &Method, path: &[&str]) -> Handled {
    match (method.as_str(), path) {
        ("GET", ["json"]) => return containers::list(&call).await,
        ("POST", ["create"]) => return containers::create(call).await,
        ("POST", ["prune"]) => return containers::prune(&call).await,
        _ => {}
    }
    // As in the reference, slashes within the name are part of it.
    if *method == Method::DELETE && !path.is_empty() {
        return lifecycle::remove(&call, &path.join("/")).await;
    }
    let [name @ .., verb] = path else { return Err(Failure::no_page()) };
    let (name, verb) = match name {
        [] => return Err(Failure::no_page()),
        [name @ .., "attach"] if *verb == "ws" => (name.join("/"), "ws"),
        name => (name.join("/"), *verb),
    };
    container_route(call, method, &name, verb).await
}

async fn container_route(call: Call, method: &Method, key: &str, verb: &str) -> Handled {
    match (method.as_str(), verb) {
        ("GET", "json") => containers::inspect(&call, key).await,
        ("GET", "top") => containers::top(&call, key).await,
        ("GET", "logs") => streams::logs(&call, key).await,
        ("GET", "stats") => stats::stats(&call, key).await,
        ("GET", "changes") => layer::changes(&call, key).await,
        ("GET", "export") => copy::export(&call, key).await,
        ("GET" | "HEAD" | "PUT", "archive") => copy::archive(call, key).await,
        ("GET", "ws") => Err(Failure::later("attaching over a web socket comes in a later build")),
        ("POST", "start") => lifecycle::start(call, key).await,
        ("POST", "stop") => lifecycle::stop(&call, key).await,
        ("POST", "restart") => lifecycle::restart(&call, key).await,
        ("POST", "kill") => lifecycle::kill(&call, key).await,
        ("POST", "pause") => lifecycle::pause(&call, key).await,
        ("POST", "unpause") => lifecycle::unpause(&call, key).await,
        ("POST", "rename") => lifecycle::rename(&call, key).await,
        ("POST", "resize") => lifecycle::resize(&call, key).await,
        ("POST", "update") => lifecycle::update(call, key).await,
        ("POST", "wait") => lifecycle::wait(&call, key).await,
        ("POST", "attach") => Ok(streams::attach(&call, key).await),
        ("POST", "exec") => exec::create(call, key).await,
        _ => Err(Failure::no_page()),
    }
}

async fn images_route(call: Call, method: &Method, path: &[&str]) -> Handled {
    match (method.as_str(), path) {
        ("GET", ["json"]) => images::list(&call),
        ("GET", ["get"]) => archives::save(&call, call.query.all("names").map(str::to_owned).collect()).await,
        ("GET", ["search"]) => registries::search(&call).await,
        ("POST", ["load"]) => archives::load(call).await,
        ("POST", ["create"]) => archives::create(call).await,
        ("POST", ["prune"]) => images::prune(&call).await,
        ("GET", [name @ .., "get"]) if !name.is_empty() => archives::save(&call, vec![name.join("/")]).await,
        ("GET", [name @ .., "json"]) if !name.is_empty() => images::inspect(&call, &name.join("/")),
        ("GET", [name @ .., "history"]) if !name.is_empty() => images::history(&call, &name.join("/")),
        ("POST", [name @ .., "tag"]) if !name.is_empty() => images::tag(&call, &name.join("/")).await,
        ("POST", [name @ .., "push"]) if !name.is_empty() => registries::push(&call, &name.join("/")).await,
        ("DELETE", name) if !name.is_empty() => images::remove(&call, &name.join("/")).await,
        _ => Err(Failure::no_page()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_split_off_and_checked() {
        let message = |path| version_of(path).unwrap_err().message;
        assert_eq!(version_of("/v1.47/info").unwrap(), (ApiVersion::new(1, 47), "/info"));
        assert_eq!(version_of("/info").unwrap(), (ApiVersion::NEWEST, "/info"));
        assert_eq!(version_of("/version").unwrap(), (ApiVersion::NEWEST, "/version"));
        assert_eq!(version_of("/vnonsense/version").unwrap(), (ApiVersion::NEWEST, "/vnonsense/version"));
        assert_eq!(message("/v1.51"), "page not found");
        assert_eq!(
            message("/v1.99/version"),
            "client version 1.99 is too new. Maximum supported API version is 1.53"
        );
        assert_eq!(
            message("/v1.12/_ping"),
            "client version 1.12 is too old. Minimum supported API version is 1.24, please upgrade your client to a \
             newer version"
        );
        assert_eq!(API, ApiVersion::NEWEST.to_string());
    }
}
