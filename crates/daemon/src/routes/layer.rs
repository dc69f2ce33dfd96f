//! What is made of a container's writable layer.

use http::StatusCode;
use hull_api::container::Change;
use hull_api::create::Config;
use hull_api::image::Committed;
use hull_engine::containers::layer::{self, ChangeKind, Commit};
use hull_oci::image::{Healthcheck, RunConfig};

use super::{images, show};
use crate::http::{Call, Failure, Handled, json, ok};

/// `null` where nothing has changed, as the reference prints it.
pub(super) async fn changes(call: &Call, key: &str) -> Handled {
    let changes = call.server.engine.changes(key).await?;
    let row = |change: layer::Change| Change {
        // JSON has no other bytes than text.
        path: String::from_utf8(change.path)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
        kind: match change.kind {
            ChangeKind::Modified => 0,
            ChangeKind::Added => 1,
            ChangeKind::Deleted => 2,
        },
    };
    let rows: Vec<Change> = changes.into_iter().map(row).collect();
    ok(&(!rows.is_empty()).then_some(rows))
}

/// `POST /commit`: how the image is to be run may come as body.
pub(super) async fn commit(mut call: Call) -> Handled {
    let key = call.query.text("container").to_owned();
    if key.is_empty() {
        return Err(Failure::invalid("invalid name or ID supplied: \"\""));
    }
    let given: Option<Config> = call.json_or_default("container.Config").await?;
    let view = call.server.engine.container(&key)?;
    let query = &call.query;
    let repo = query.text("repo");
    let name = if repo.is_empty() { None } else { Some(images::reference(repo, query.text("tag"))?) };
    if name.as_ref().is_some_and(|name| name.digest.is_some()) {
        return Err(Failure::invalid("cannot commit to digest reference"));
    }
    let commit = Commit {
        name,
        author: query.text("author").to_owned(),
        comment: query.text("comment").to_owned(),
        changes: query.all("changes").map(str::to_owned).collect(),
        own: run_config(show::inspect(&view).config),
        given: given.map(run_config),
        pause: query.text("pause").is_empty() || query.flag("pause"),
    };
    let id = call.server.engine.commit(&key, commit).await?;
    Ok(json(StatusCode::CREATED, &Committed { id: id.to_string() }))
}

/// What of a container's configuration belongs into an image: not what one container alone is, as
/// its host name.
fn run_config(config: Config) -> RunConfig {
    let keys = |map: Option<std::collections::BTreeMap<String, hull_api::image::Empty>>| {
        map.unwrap_or_default().into_keys().collect()
    };
    RunConfig {
        user: config.user,
        exposed_ports: keys(config.exposed_ports),
        env: config.env.unwrap_or_default(),
        entrypoint: config.entrypoint,
        cmd: config.cmd,
        healthcheck: config.healthcheck.map(|check| Healthcheck {
            test: check.test.unwrap_or_default(),
            interval: check.interval,
            timeout: check.timeout,
            start_period: check.start_period,
            start_interval: check.start_interval,
            retries: check.retries,
        }),
        args_escaped: config.args_escaped,
        volumes: keys(config.volumes),
        working_dir: config.working_dir,
        network_disabled: config.network_disabled,
        on_build: config.on_build.unwrap_or_default(),
        labels: config.labels.unwrap_or_default(),
        stop_signal: config.stop_signal,
        stop_timeout: config.stop_timeout,
        shell: config.shell.unwrap_or_default(),
        ..RunConfig::default()
    }
}
