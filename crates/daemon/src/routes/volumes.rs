//! Volumes: made, listed, shown, removed.

use http::{Method, StatusCode};
use hull_api::system::Usage;
use hull_api::volume::{CreateRequest, UsageData, Volume, Volumes, VolumesPruned};
use hull_engine::volumes::{self, Create, View};

use super::show;
use crate::http::{Call, Failure, Handled, empty, json, ok};

pub(super) use hull_engine::volumes::DRIVER;

pub(super) async fn volumes(call: Call, method: &Method, path: &[&str]) -> Handled {
    match (method.as_str(), path) {
        ("GET", []) => list(&call),
        ("POST", ["create"]) => create(call).await,
        ("POST", ["prune"]) => prune(&call).await,
        ("GET", [name]) => {
            let volume = call.server.engine.volumes().find(name)?;
            ok(&shown(&call, &volume))
        }
        ("PUT", [_]) => Err(Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "volume update only valid for cluster volumes, but swarm is unavailable",
        )),
        ("DELETE", [name]) => remove(&call, name).await,
        _ => Err(Failure::no_page()),
    }
}

async fn create(mut call: Call) -> Handled {
    let request: CreateRequest = call.json_or_default("volume.CreateRequest").await?;
    if request.cluster_volume_spec.is_some() {
        return Err(Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this \
             node to swarm and try again.",
        ));
    }
    let wanted = Create {
        name: Some(request.name).filter(|name| !name.is_empty()),
        driver: request.driver,
        options: request.driver_opts.unwrap_or_default(),
        labels: request.labels.unwrap_or_default(),
    };
    let volume = call.server.engine.volumes().create(&wanted).await?;
    Ok(json(StatusCode::CREATED, &shown(&call, &volume)))
}

/// A volume in the API's words.
fn shown(call: &Call, volume: &volumes::Volume) -> Volume {
    let map = |map: &std::collections::BTreeMap<String, String>| (!map.is_empty()).then(|| map.clone());
    const SECOND: i64 = 1_000_000_000;
    Volume {
        // Whole seconds, as the reference tells it.
        created_at: show::time(Some(volume.created / SECOND * SECOND)),
        driver: DRIVER.to_owned(),
        labels: map(&volume.labels),
        mountpoint: call.server.engine.volumes().data(volume).to_string_lossy().into_owned(),
        name: volume.name.clone(),
        options: map(&volume.options),
        scope: "local".to_owned(),
        usage_data: None,
    }
}

fn list(call: &Call) -> Handled {
    let filters = call
        .query
        .filters()
        .map_err(|error| Failure::invalid(format!("error reading volume filters: {}", error.message)))?;
    filters.check(&["dangling", "driver", "label", "name"])?;
    let dangling = filters.boolean("dangling")?;
    let admitted = |View { volume, users }: &View| {
        (!filters.has("name") || filters.values("name").any(|name| volume.name.contains(name)))
            && filters.admits("driver", DRIVER)
            && filters.labels_match("label", &volume.labels)
            && dangling.is_none_or(|dangling| dangling == users.is_empty())
    };
    let views = call.server.engine.volumes().views();
    let rows = views.iter().filter(|view| admitted(view)).map(|view| shown(call, &view.volume));
    ok(&Volumes { volumes: rows.collect(), warnings: None })
}

async fn remove(call: &Call, name: &str) -> Handled {
    match call.server.engine.volumes().remove(name).await {
        Err(hull_engine::Error::NoSuchVolume(_)) if call.query.flag("force") => {}
        outcome => outcome?,
    }
    Ok(empty(StatusCode::NO_CONTENT))
}

async fn prune(call: &Call) -> Handled {
    let filters = call.query.filters()?;
    filters.check(&["all", "label", "label!"])?;
    // Before 1.42 those that have a name went, too.
    let all = filters.boolean("all")?.unwrap_or(call.version.before(42));
    let wanted = |volume: &volumes::Volume| {
        (all || volume.is_anonymous())
            && filters.labels_match("label", &volume.labels)
            && !(filters.has("label!") && filters.labels_match("label!", &volume.labels))
    };
    let pruned = call.server.engine.volumes().prune(wanted).await;
    ok(&VolumesPruned { volumes_deleted: pruned.names, space_reclaimed: pruned.bytes })
}

/// What all volumes take.
pub(super) async fn usage(call: &Call) -> Usage<Volume> {
    let volumes = call.server.engine.volumes();
    let mut usage = Usage::default();
    for View { volume, users } in volumes.views() {
        // One that goes meanwhile takes nothing.
        let bytes = volumes.usage(&volume).await.unwrap_or(0);
        let size = i64::try_from(bytes).unwrap_or(i64::MAX);
        let ref_count = i64::try_from(users.len()).unwrap_or(i64::MAX);
        usage.total_count += 1;
        usage.total_size += size;
        if ref_count > 0 {
            usage.active_count += 1;
        } else {
            usage.reclaimable += size;
        }
        let usage_data = Some(UsageData { ref_count, size });
        usage.items.push(Volume { usage_data, ..shown(call, &volume) });
    }
    usage
}
