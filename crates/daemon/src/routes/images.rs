//! Images: lists, one in full, archives in and out, names, and what is removed.

use std::collections::{BTreeMap, BTreeSet};

use http::StatusCode;
use hull_api::compat;
use hull_api::create::Healthcheck;
use hull_api::filters::Filters;
use hull_api::image::{
    DeletedImage, Empty, GraphDriver, HistoryEntry, ImageConfig, ImageInspect, ImageMetadata, ImageSummary,
    ImagesPruned, RootFs,
};
use hull_api::system::Usage;
use hull_engine::images::{Image, ListFilters, Listed, Removed};
use hull_oci::image::{Config, RunConfig};
use hull_oci::{Digest, Platform, Reference};

use super::{archives, show, system};
use crate::http::{Call, Failure, Handled, empty, ok};

fn number(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// The API's filters as the engine's.
fn list_filters(filters: &Filters) -> Result<ListFilters, Failure> {
    let map: BTreeMap<String, Vec<String>> =
        filters.0.iter().map(|(name, values)| (name.clone(), values.iter().cloned().collect())).collect();
    Ok(ListFilters::parse(&map, show::now())?)
}

pub(super) fn list(call: &Call) -> Handled {
    let mut filters = call.query.filters()?;
    // Before there were filters for it.
    let name = call.query.text("filter");
    if !name.is_empty() && call.version.before(25) && !filters.has("reference") {
        filters.insert("reference", name);
    }
    let mut wanted = list_filters(&filters)?;
    wanted.all = call.query.flag("all");
    let listed = call.server.engine.images().list(&wanted)?;
    let share = call.query.flag("shared-size") && !call.version.before(42);
    let shared = share.then(|| shared_layers(call)).transpose()?;
    let mut rows = Vec::new();
    for row in &listed {
        let mut value = system::value_of(&summary(call, row, shared.as_ref()))?;
        compat::image_row(call.version, &mut value);
        rows.push(value);
    }
    ok(&rows)
}

/// How many images stand on each chain of layers.
type Shared = BTreeMap<Digest, usize>;

fn shared_layers(call: &Call) -> Result<Shared, Failure> {
    let all = call.server.engine.images().list(&ListFilters { all: true, ..ListFilters::default() })?;
    let mut shared = Shared::new();
    for row in all {
        for chain in row.image.chain() {
            *shared.entry(chain).or_default() += 1;
        }
    }
    Ok(shared)
}

fn summary(call: &Call, row: &Listed, shared: Option<&Shared>) -> ImageSummary {
    let image = &row.image;
    let labels = &image.config.config.labels;
    let users = call.server.engine.containers().iter().filter(|view| view.image.id == image.id).count();
    let shared_size = shared.map_or(-1, |shared| {
        let sizes = image.chain().into_iter().zip(&image.layer_sizes);
        number(
            sizes
                .filter(|(chain, _)| shared.get(chain).is_some_and(|count| *count > 1))
                .map(|(_, size)| size)
                .sum(),
        )
    });
    ImageSummary {
        containers: i64::try_from(users).unwrap_or(i64::MAX),
        created: image.created(),
        id: image.id.to_string(),
        labels: (!labels.is_empty()).then(|| labels.clone()),
        parent_id: image.parent.as_ref().map(Digest::to_string).unwrap_or_default(),
        repo_digests: Some(row.digests.clone()),
        repo_tags: Some(row.tags.clone()),
        shared_size,
        size: number(image.size),
    }
}

/// For `system df`: every image with what it shares, and what those without a container would give
/// back.
pub(super) fn usage(call: &Call) -> Result<Usage<ImageSummary>, Failure> {
    let shared = shared_layers(call)?;
    let listed = call.server.engine.images().list(&ListFilters::default())?;
    let items: Vec<ImageSummary> = listed.iter().map(|row| summary(call, row, Some(&shared))).collect();
    let active: Vec<&ImageSummary> = items.iter().filter(|image| image.containers != 0).collect();
    let used: i64 = active.iter().map(|image| image.size - image.shared_size.max(0)).sum();
    let total_size = layers_size(call)?;
    Ok(Usage {
        active_count: i64::try_from(active.len()).unwrap_or(i64::MAX),
        reclaimable: (total_size - used).max(0),
        total_count: i64::try_from(items.len()).unwrap_or(i64::MAX),
        total_size,
        items,
    })
}

/// Bytes of all layers, each once.
fn layers_size(call: &Call) -> Result<i64, Failure> {
    let all = call.server.engine.images().list(&ListFilters { all: true, ..ListFilters::default() })?;
    let mut seen = BTreeSet::new();
    let mut sum = 0u64;
    for row in all {
        for (chain, size) in row.image.chain().into_iter().zip(&row.image.layer_sizes) {
            if seen.insert(chain) {
                sum += size;
            }
        }
    }
    Ok(number(sum))
}

/// The image's own platform and the wanted ones, if it is none of them.
pub(super) fn other_platform(wanted: &[Platform], image: &Image) -> Option<(String, String)> {
    let own = image.config.platform();
    let text = |platform: &Platform| {
        let parts = [&*platform.os, &*platform.architecture, &*platform.variant];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
    };
    let other = !wanted.is_empty() && wanted.iter().all(|wanted| wanted.rank(&own).is_none());
    other.then(|| (text(&own), wanted.iter().map(text).collect::<Vec<_>>().join(", ")))
}

/// `?platform=`, where one is known since `since`.
fn of_platform(call: &Call, since: u32, name: &str, image: &Image) -> Result<(), Failure> {
    match other_platform(&archives::platforms(call, since)?, image) {
        None => Ok(()),
        Some((own, wanted)) => Err(Failure::not_found(format!(
            "image with reference {name} was found but its platform ({own}) does not match the specified \
             platform ({wanted})"
        ))),
    }
}

pub(super) fn inspect(call: &Call, name: &str) -> Handled {
    let images = call.server.engine.images();
    let image = images.resolve(name)?;
    if call.query.flag("manifests") && !call.query.text("platform").is_empty() && !call.version.before(49) {
        return Err(Failure::invalid(
            "conflicting options: manifests and platform options cannot both be set",
        ));
    }
    of_platform(call, 49, name, &image)?;
    let names = images.names(&image.id);
    let (tags, digests): (Vec<&Reference>, Vec<&Reference>) =
        names.iter().partition(|name| name.digest.is_none());
    let familiar = |names: Vec<&Reference>| names.into_iter().map(Reference::familiar).collect();
    let Config { comment, docker_version, author, architecture, variant, os, os_version, created, .. } =
        image.config.clone();
    let inspected = ImageInspect {
        id: image.id.to_string(),
        repo_tags: familiar(tags),
        repo_digests: familiar(digests),
        parent: image.parent.as_ref().map(Digest::to_string).unwrap_or_default(),
        comment,
        created: created.unwrap_or_default(),
        docker_version,
        author,
        architecture,
        variant,
        os,
        os_version,
        size: number(image.size),
        graph_driver: graph_driver(call, &image),
        root_fs: RootFs {
            kind: "layers".to_owned(),
            layers: image.config.rootfs.diff_ids.iter().map(Digest::to_string).collect(),
        },
        metadata: ImageMetadata { last_tag_time: show::time(image.last_tagged) },
        config: config(&image.config.config),
    };
    let mut value = system::value_of(&inspected)?;
    compat::image_inspect(call.version, &mut value);
    ok(&value)
}

/// The folders of the layers: the top one is what the reference calls the upper.
fn graph_driver(call: &Call, image: &Image) -> GraphDriver {
    let folders = call.server.engine.images().layer_folders(image);
    let mut text: Vec<String> = folders.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    let mut data = BTreeMap::new();
    if let Some(top) = text.pop() {
        data.insert("UpperDir".to_owned(), top);
    }
    if !text.is_empty() {
        text.reverse();
        data.insert("LowerDir".to_owned(), text.join(":"));
    }
    GraphDriver { data: Some(data), name: show::DRIVER.to_owned() }
}

fn config(run: &RunConfig) -> ImageConfig {
    let list = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    let set = |set: &BTreeSet<String>| {
        (!set.is_empty()).then(|| set.iter().map(|key| (key.clone(), Empty {})).collect())
    };
    ImageConfig {
        args_escaped: run.args_escaped,
        cmd: run.cmd.clone(),
        entrypoint: run.entrypoint.clone(),
        env: list(&run.env),
        exposed_ports: set(&run.exposed_ports),
        healthcheck: run.healthcheck.as_ref().map(|check| Healthcheck {
            test: list(&check.test),
            interval: check.interval,
            timeout: check.timeout,
            start_period: check.start_period,
            start_interval: check.start_interval,
            retries: check.retries,
        }),
        labels: (!run.labels.is_empty()).then(|| run.labels.clone()),
        on_build: list(&run.on_build),
        shell: list(&run.shell),
        stop_signal: run.stop_signal.clone(),
        user: run.user.clone(),
        volumes: set(&run.volumes),
        working_dir: run.working_dir.clone(),
    }
}

pub(super) fn history(call: &Call, name: &str) -> Handled {
    let image = call.server.engine.images().resolve(name)?;
    of_platform(call, 48, name, &image)?;
    let steps = call.server.engine.images().history(name)?;
    let entry = |step: hull_engine::images::history::Step| HistoryEntry {
        comment: step.comment,
        created: step.created,
        created_by: step.created_by,
        id: step.image.map_or_else(|| "<missing>".to_owned(), |id| id.to_string()),
        size: number(step.size),
        tags: (!step.tags.is_empty()).then_some(step.tags),
    };
    ok(&steps.into_iter().map(entry).collect::<Vec<_>>())
}

/// A name from a client, in the reference's words where it is none.
pub(super) fn reference(repo: &str, tag: &str) -> Result<Reference, Failure> {
    let invalid = |error: &dyn std::error::Error| Failure::invalid(error.to_string());
    let name = Reference::parse(repo).map_err(|error| invalid(&error))?;
    if tag.is_empty() { Ok(name) } else { name.with_tag(tag).map_err(|error| invalid(&error)) }
}

pub(super) async fn tag(call: &Call, name: &str) -> Handled {
    let target = reference(call.query.text("repo"), call.query.text("tag"))?;
    call.server.engine.images().tag(name, &target).await?;
    Ok(empty(StatusCode::CREATED))
}

fn deleted(removed: Vec<Removed>) -> Vec<DeletedImage> {
    let one = |removed| match removed {
        Removed::Untagged(name) => DeletedImage { untagged: name, ..DeletedImage::default() },
        Removed::Deleted(id) => DeletedImage { deleted: id.to_string(), ..DeletedImage::default() },
    };
    removed.into_iter().map(one).collect()
}

pub(super) async fn remove(call: &Call, name: &str) -> Handled {
    let (force, keep_parents) = (call.query.flag("force"), call.query.flag("noprune"));
    let removed = call.server.engine.images().remove(name, force, keep_parents).await?;
    ok(&deleted(removed))
}

pub(super) async fn prune(call: &Call) -> Handled {
    let mut filters = call.query.filters()?;
    filters.check(&["dangling", "label", "label!", "until"])?;
    let all = filters.boolean("dangling")? == Some(false);
    filters.0.remove("dangling");
    let pruned = call.server.engine.images().prune(all, &list_filters(&filters)?).await?;
    ok(&ImagesPruned {
        images_deleted: (!pruned.removed.is_empty()).then(|| deleted(pruned.removed)),
        space_reclaimed: pruned.bytes,
    })
}
