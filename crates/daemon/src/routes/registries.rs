//! Registries: who somebody is to them, what they have, and images that go there.

use hull_api::registry::{AuthConfig, Authenticated, DistributionInspect, SearchResult};
use hull_engine::images::Push;
use hull_engine::registries::{Access, Error, Kind, Repository};
use hull_oci::image::{Config, Descriptor, Document, MAX_CONFIG, media_type};
use hull_oci::{Platform, Reference};
use tokio::sync::mpsc;

use super::manifests::reference_in;
use super::{archives, credentials, images, transfers};
use crate::http::{Call, Failure, Handled, ok};

/// Results of a search that does not say how many it wants; and most that it can want.
const RESULTS: u32 = 25;
const RESULTS_MAX: u32 = 100;

/// What the registry that names without a domain belong to is called.
const DEFAULT: &str = hull_oci::reference::DEFAULT_DOMAIN;

pub(super) fn failure(error: &Error) -> Failure {
    let text = match error.problem() {
        Some(problem) => problem.to_string(),
        None => crate::http::chain(error),
    };
    match error.kind() {
        Kind::NotFound => Failure::not_found(text),
        Kind::Denied => Failure::new(http::StatusCode::FORBIDDEN, text),
        Kind::Unauthorized => Failure::new(http::StatusCode::UNAUTHORIZED, text),
        Kind::Invalid | Kind::Unreachable => Failure::internal(text),
    }
}

/// `POST /auth`: asks the registry whether it knows somebody.
pub(super) async fn auth(mut call: Call) -> Handled {
    let auth: AuthConfig = call.json("AuthConfig").await?;
    let server = host(&auth.serveraddress).to_owned();
    let client = call.server.engine.images().registry().clone();
    let checked = client.check(&server, credentials::from(auth)).await;
    let token = checked.map_err(|error| failure(&error))?;
    let (identity_token, status) = (token.unwrap_or_default(), "Login Succeeded".to_owned());
    ok(&Authenticated { identity_token, status })
}

/// The registry of a server's address, as names of images have it.
fn host(server: &str) -> &str {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    match rest.split(['/', '?', '#']).next().unwrap_or_default() {
        "" | "index.docker.io" | "registry-1.docker.io" => DEFAULT,
        host => host,
    }
}

/// `POST /images/NAME/push`.
pub(super) async fn push(call: &Call, name: &str) -> Handled {
    let tag = call.query.text("tag");
    let name = images::reference(name, tag)?;
    if name.digest.is_some() {
        return Err(Failure::invalid("cannot push a digest reference"));
    }
    let service = call.server.engine.images().clone();
    let wanted = archives::platforms(call, 46)?;
    if let Some(one) = name.tag.is_some().then(|| service.resolve(&name.to_string()).ok()).flatten()
        && let Some((own, wanted)) = images::other_platform(&wanted, &one)
    {
        return Err(Failure::not_found(format!(
            "image with reference {} was found but its platform ({own}) does not match the specified platform \
             ({wanted})",
            name.familiar()
        )));
    }
    let push = Push { name, single: !wanted.is_empty(), credentials: credentials::of(call) };
    let (tell, told) = mpsc::unbounded_channel();
    let work = async move { service.push(push, tell).await };
    Ok(transfers::answer(work, told))
}

/// `GET /distribution/NAME/json`: what a registry has under a name.
pub(super) async fn distribution(call: &Call, name: &str) -> Handled {
    let name = images::reference(name, "")?.with_default_tag();
    let client = call.server.engine.images().registry();
    let repository = client.repository(&name, credentials::of(call), Access::Pull);
    let inspected = inspect(&repository, &name).await.map_err(|error| failure(&error))?;
    ok(&inspected)
}

async fn inspect(repository: &Repository, name: &Reference) -> Result<DistributionInspect, Error> {
    let found = repository.manifest(&reference_in(name)).await?;
    let platforms = match &found.document {
        Document::Index(index) => index.manifests.iter().filter_map(|entry| entry.platform.clone()).collect(),
        Document::Manifest(manifest) => platform(repository, &manifest.config).await?.into_iter().collect(),
    };
    let Descriptor { media_type, digest, size, .. } = found.descriptor;
    Ok(DistributionInspect { descriptor: Descriptor::new(&media_type, digest, size), platforms })
}

/// The platform of an image; `None` of what is no image.
pub(super) async fn platform(
    repository: &Repository,
    config: &Descriptor,
) -> Result<Option<Platform>, Error> {
    if ![media_type::OCI_CONFIG, media_type::DOCKER_CONFIG].contains(&&*config.media_type) {
        return Ok(None);
    }
    let bytes = repository.bytes(config, MAX_CONFIG as u64).await?;
    Ok(Config::parse(&bytes).ok().map(|config| config.platform()))
}

/// `GET /images/search`: what a registry finds by a word.
pub(super) async fn search(call: &Call) -> Handled {
    let term = call.query.text("term");
    let limit = match call.query.number("limit")?.unwrap_or(0) {
        0 => RESULTS,
        limit => u32::try_from(limit).ok().filter(|limit| *limit <= RESULTS_MAX).ok_or_else(|| {
            Failure::invalid(format!("limit {limit} is outside the range of [1, {RESULTS_MAX}]"))
        })?,
    };
    let filters = call.query.filters()?;
    filters.check(&["is-automated", "is-official", "stars"])?;
    let (automated, official) = (filters.boolean("is-automated")?, filters.boolean("is-official")?);
    let stars = filters.0.get("stars").into_iter().flatten().map(|text| text.parse::<i64>());
    let stars =
        stars.collect::<Result<Vec<i64>, _>>().map_err(|_| Failure::invalid("invalid filter 'stars'"))?;
    let (domain, word) = match Reference::parse(term) {
        Ok(name) if name.domain != DEFAULT => {
            (name.domain, term.split_once('/').map_or(term, |(_, rest)| rest))
        }
        _ => (DEFAULT.to_owned(), term),
    };
    let client = call.server.engine.images().registry();
    let found = client.search(&domain, word, limit, credentials::of(call)).await;
    let found = found.map_err(|error| failure(&error))?.into_iter();
    let wanted = found.filter(|found| {
        automated.is_none_or(|wanted| wanted == found.is_automated)
            && official.is_none_or(|wanted| wanted == found.is_official)
            && stars.iter().all(|least| found.star_count >= *least)
    });
    let rows = wanted.map(|found| SearchResult {
        star_count: found.star_count,
        is_official: found.is_official,
        name: found.name,
        is_automated: found.is_automated,
        description: found.description,
    });
    ok(&rows.collect::<Vec<_>>())
}
