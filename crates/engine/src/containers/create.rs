//! Making a container: everything is checked, then everything is made, then the record is
//! committed, and only then does anybody hear of it. What fails half-way is undone in reverse.

use std::sync::Arc;

use hull_image::lease::Lease;
use hull_network::record::{Attachment, Driver};
use hull_oci::image::RunConfig;

use super::requests::Created;
use super::services::Services;
use super::settings::{Create, ImageRef, IpcMode, NetworkMode, PidMode, Settings};
use super::view::{Record, short};
use super::{files, fill, mounts, task, validate};
use crate::images::Image;
use crate::networks::{self, Join, join, publish};
use crate::store::Change;
use crate::{Error, Result, names, spec};

/// Attempts to find an unused name before giving up.
const NAME_ATTEMPTS: u32 = 16;

pub(crate) async fn create(services: &Arc<Services>, request: Create) -> Result<Created> {
    if let Some(name) = &request.name {
        let bare = name.strip_prefix('/').unwrap_or(name);
        names::check(bare, name)?;
    }
    let image = services.images.resolve(&request.image)?;
    let mut settings = request.settings;
    merge(&mut settings, &image.config.config);
    resolve_sharing(services, &mut settings)?;
    let mounted = mounts::resolve(services, &mut settings)?;
    join_networks(services, &mut settings, &request.networks)?;
    let id = new_id();
    fill_defaults(services, &mut settings, &id);
    let mut warnings = validate::discard(&mut settings.resources, &services.facts);
    warnings.extend(validate::settings(&settings, &services.facts)?);
    if settings.publish_all || !settings.ports.is_empty() {
        let (shared, own) = (Arc::clone(services), settings.clone());
        warnings.extend(services.blocking(move || Ok(publish::obstacles(&shared, &own))).await?);
    }
    let donor = |id: &str| Some(Arc::clone(&services.registry.find(id).ok()?.view().settings));
    let users = services.users.claim(&settings, donor)?;
    settings.users.clone_from(&users.maps);
    let name = reserve_name(services, request.name.as_deref(), &id)?;
    let mut record = Record {
        id: id.clone(),
        name: name.clone(),
        created: hull_sys::time::now(),
        image: ImageRef {
            id: image.id.clone(),
            name: request.image,
            layers: image.config.rootfs.diff_ids.clone(),
        },
        settings: Arc::new(settings),
        request: request.request.into(),
        life: Default::default(),
        started: None,
        finished: None,
        failure: None,
        warnings: warnings.clone(),
        take_volumes: false,
    };
    let lease = match make(services, &mut record, image).await {
        Ok(lease) => lease,
        Err(error) => {
            services.registry.release(&name, &id);
            return Err(error);
        }
    };
    users.keep();
    hull_runtime::failpoint!("engine.create.after-commit");
    task::spawn(services, record, task::Found::default());
    // From here on the container itself keeps its layers.
    drop((lease, mounted));
    services.publish(&id, "create", &[]);
    Ok(Created { id, warnings })
}

/// Everything that a container has from its creation on: first of all its volumes, which have then
/// their names in the record. What fails is undone in reverse.
async fn make(services: &Arc<Services>, record: &mut Record, image: Arc<Image>) -> Result<Lease> {
    let rows = mounts::claim(services, record).await?;
    let made = make_files(services, record, image, rows).await;
    match &made {
        Ok(_) => services.volumes.settle(&record.id).await,
        Err(_) => {
            if let Err(error) = services.volumes.release(&record.id, false).await {
                tracing::warn!(%error, "a volume of a container that could not be made may be left");
            }
        }
    }
    made
}

/// The writable layer, the files, the first content of volumes, the row; undone in reverse. What it
/// gives holds the image's layers, which may lose their image at any moment.
async fn make_files(
    services: &Arc<Services>,
    record: &Record,
    image: Arc<Image>,
    mut rows: Vec<Change>,
) -> Result<Lease> {
    let (id, shared, settings) = (record.id.clone(), Arc::clone(services), Arc::clone(&record.settings));
    let lease = services
        .blocking(move || {
            let lease = shared.images.hold(&image)?;
            // What may take long or fail for reasons of its own comes first: it leaves nothing.
            mounts::unpack_images(&shared, &settings)?;
            shared.images.unpack(&image.chain())?;
            let made = || {
                files::make(&shared.config.data_root, &id)?;
                hull_runtime::failpoint!("engine.create.half-way");
                shared.images.prepare(&id, &image)?;
                fill::volumes(&shared, &id, &settings, &image)
            };
            match made() {
                Ok(()) => Ok(lease),
                Err(error) => Err(unmade(&shared, &id, error)),
            }
        })
        .await?;
    hull_runtime::failpoint!("engine.create.before-commit");
    let record_text = serde_json::to_string(record).map_err(|source| Error::Record {
        table: "container",
        id: record.id.clone(),
        source,
    })?;
    let row = Change::PutContainer { id: record.id.clone(), name: record.name.clone(), record: record_text };
    rows.push(row);
    let Err(error) = services.store.commit(rows).await else { return Ok(lease) };
    let (id, shared) = (record.id.clone(), Arc::clone(services));
    services.blocking(move || Err(unmade(&shared, &id, error))).await
}

/// Takes away what was made of a container; gives back why.
fn unmade(services: &Services, id: &str, why: Error) -> Error {
    let layer = services.images.snapshots().remove(id).map_err(|source| Error::Snapshot { source });
    if let Err(error) = layer.and_then(|()| files::remove(&services.config.data_root, id)) {
        // Swept at the next start, for no record names it.
        tracing::warn!(%error, "a container that could not be made was not wholly undone");
    }
    why
}

/// Lays the image's configuration under the caller's, by the reference's rules. What an image says
/// reaches only its own container's inside (K12).
fn merge(settings: &mut Settings, image: &RunConfig) {
    if settings.user.is_empty() {
        settings.user.clone_from(&image.user);
    }
    settings.env = spec::merge_env(&settings.env, &image.env);
    // What an image says badly opens nothing.
    let exposed = image.exposed_ports.iter().filter_map(|text| networks::exposed_port(text));
    settings.exposed = networks::joined(settings.exposed.iter().copied().chain(exposed).collect());
    settings.volumes.extend(image.volumes.iter().cloned());
    let entrypoint_given = settings.entrypoint.as_ref().is_some_and(|words| !words.is_empty());
    if !entrypoint_given {
        if settings.cmd.as_ref().is_none_or(Vec::is_empty) {
            settings.cmd.clone_from(&image.cmd);
        }
        if settings.entrypoint.is_none() {
            settings.entrypoint.clone_from(&image.entrypoint);
        }
    }
    // `--entrypoint ""` asks for none.
    if settings.entrypoint.as_ref().is_some_and(|words| words.len() == 1 && words[0].is_empty()) {
        settings.entrypoint = None;
    }
    if settings.working_dir.is_empty() && image.working_dir.starts_with('/') {
        settings.working_dir.clone_from(&image.working_dir);
    }
    for (key, value) in &image.labels {
        settings.labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    if settings.stop_signal.is_empty() {
        settings.stop_signal.clone_from(&image.stop_signal);
    }
    if settings.stop_timeout.is_none() {
        settings.stop_timeout = image.stop_timeout.and_then(|seconds| i32::try_from(seconds).ok());
    }
}

pub(crate) fn fill_defaults(services: &Services, settings: &mut Settings, id: &str) {
    let config = &services.config;
    if settings.hostname.is_empty() {
        let shares = settings.network == NetworkMode::Host || settings.uts_host;
        settings.hostname = if shares { services.facts.hostname.clone() } else { short(id).to_owned() };
    }
    if settings.log.name.is_empty() {
        let options = std::mem::take(&mut settings.log.options);
        settings.log = config.default_log.clone();
        settings.log.options.extend(options);
    }
    if settings.shm_bytes == 0 {
        settings.shm_bytes = config.default_shm_bytes;
    }
    for (kind, (soft, hard)) in &config.default_rlimits {
        if !settings.rlimits.iter().any(|limit| limit.kind == *kind) {
            settings.rlimits.push(hull_oci::runtime::Rlimit { kind: kind.clone(), hard: *hard, soft: *soft });
        }
    }
    let memory = &mut settings.resources.memory;
    match (memory.limit, memory.swap) {
        // As the reference: as much swap as memory.
        (Some(limit @ 1..), None | Some(0)) if services.facts.swap_limit => {
            memory.swap = Some(limit.saturating_mul(2))
        }
        (Some(1..), _) if !services.facts.swap_limit => memory.swap = None,
        _ => {}
    }
}

/// Other containers by their ids.
pub(crate) fn resolve_sharing(services: &Services, settings: &mut Settings) -> Result<()> {
    let id_of = |key: &str| match services.registry.find(key) {
        Ok(handle) => Ok(handle.id.clone()),
        Err(error) => Err(Error::Invalid(format!("could not get container for {key}: {error}"))),
    };
    if let NetworkMode::Container(key) = &settings.network {
        settings.network = NetworkMode::Container(id_of(key)?);
    }
    // Not a 404 here either: to the client of a `create` that would mean the image.
    let id_alone = |key: &str| match services.registry.find(key) {
        Ok(handle) => Ok(handle.id.clone()),
        Err(error) => Err(Error::Invalid(error.to_string())),
    };
    if let PidMode::Container(key) = &settings.pid {
        settings.pid = PidMode::Container(id_alone(key)?);
    }
    if let IpcMode::Container(key) = &settings.ipc {
        settings.ipc = IpcMode::Container(id_alone(key)?);
    }
    Ok(())
}

/// The wishes for networks, checked against those that exist by now. One that does not exist yet
/// may come before the start.
pub(crate) fn join_networks(services: &Services, settings: &mut Settings, joins: &[Join]) -> Result<()> {
    let mut attachments: Vec<Attachment> = Vec::new();
    for (index, join) in joins.iter().enumerate() {
        let found = services.networks.find(&join.network).ok();
        let name = found.as_ref().map_or(&join.network, |record| &record.network.name);
        let attachment = join::attachment(found.as_deref(), join).map_err(|error| match error {
            Error::Invalid(text) => Error::Invalid(format!("invalid config for network {name}: {text}")),
            other => other,
        })?;
        // An id that means one of the three.
        let driver = found.as_ref().map(|record| (&record.network.driver, record.predefined));
        match driver {
            Some((Driver::Host, true)) if index == 0 => settings.network = NetworkMode::Host,
            Some((Driver::Null, true)) if index == 0 => settings.network = NetworkMode::None,
            Some((Driver::Bridge(_), true)) if index == 0 => settings.network = NetworkMode::Default,
            _ => {}
        }
        if matches!(driver, Some((Driver::Host | Driver::Null, true))) {
            continue;
        }
        if attachments.iter().any(|other| other.network == attachment.network) {
            return Err(Error::Invalid(format!("network {} is named twice", attachment.network)));
        }
        attachments.push(attachment);
    }
    // Without a default network there is nothing to be on.
    if settings.network == NetworkMode::Default && services.networks.find("bridge").is_err() {
        settings.network = NetworkMode::None;
        attachments.clear();
    }
    if settings.network == NetworkMode::Default {
        for link in attachments.first().iter().flat_map(|own| &own.links) {
            let name = link.split(':').next().unwrap_or_default();
            if let Err(error) = services.registry.find(name) {
                return Err(Error::Invalid(format!("could not get container for {name}: {error}")));
            }
        }
    }
    settings.attachments = attachments;
    Ok(())
}

fn reserve_name(services: &Services, asked: Option<&str>, id: &str) -> Result<String> {
    if let Some(name) = asked {
        let name = name.strip_prefix('/').unwrap_or(name);
        services.registry.reserve(name, id)?;
        return Ok(name.to_owned());
    }
    let mut last = Ok(());
    for attempt in 0..NAME_ATTEMPTS {
        let name = names::generate(chance(), attempt);
        last = services.registry.reserve(&name, id);
        if last.is_ok() {
            return Ok(name);
        }
    }
    last.map(|()| String::new())
}

/// 64 hex digits; the first twelve are not all digits, so that a short id is never a number.
pub(crate) fn new_id() -> String {
    loop {
        let id: String = random::<32>().iter().map(|byte| format!("{byte:02x}")).collect();
        if short(&id).bytes().any(|byte| !byte.is_ascii_digit()) {
            return id;
        }
    }
}

fn chance() -> u64 {
    u64::from_ne_bytes(random::<8>())
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0u8; N];
    let mut filled = 0;
    while filled < N {
        // It blocks only before the host's pool is first filled (getrandom(2)).
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(_) => std::thread::yield_now(),
        }
    }
    bytes
}

/// The paths of a container's root file system.
pub(crate) fn rootfs_paths(services: &Services, record: &Record) -> super::view::RootfsPaths {
    let chain = hull_oci::image::chain_ids(&record.image.layers);
    let mut paths = services.images.snapshots().rootfs(&record.id, &chain);
    paths.lower.push(files::init_layer(&services.config.data_root));
    super::view::RootfsPaths { lower: paths.lower, upper: paths.upper, work: paths.work }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(words: &[&str]) -> Option<Vec<String>> {
        Some(words.iter().map(|&word| word.to_owned()).collect())
    }

    /// The reference's table of who says entrypoint and command.
    #[test]
    fn entrypoint_and_command_of_image_and_caller() {
        let image = RunConfig { entrypoint: list(&["ie"]), cmd: list(&["ic"]), ..RunConfig::default() };
        let check = |entrypoint, cmd, expected: &str| {
            let mut settings = Settings { entrypoint, cmd, ..Settings::default() };
            merge(&mut settings, &image);
            assert_eq!(spec::args(&settings).join(" "), expected);
        };
        check(None, None, "ie ic");
        check(None, list(&["c"]), "ie c");
        check(list(&["e"]), None, "e");
        check(list(&["e"]), list(&["c"]), "e c");
        check(list(&[""]), list(&["c"]), "c");
        check(list(&[""]), None, "");
        check(list(&[]), None, "ic");
    }

    #[test]
    fn the_image_fills_only_what_the_caller_left_open() {
        let image = RunConfig {
            user: "web".into(),
            working_dir: "relative".into(),
            stop_signal: "SIGQUIT".into(),
            labels: [("a".to_owned(), "image".to_owned()), ("b".to_owned(), "image".to_owned())].into(),
            stop_timeout: Some(i64::MAX),
            ..RunConfig::default()
        };
        let mut settings =
            Settings { labels: [("a".to_owned(), "mine".to_owned())].into(), ..Settings::default() };
        merge(&mut settings, &image);
        assert_eq!(
            (settings.user.as_str(), settings.stop_signal.as_str(), settings.working_dir.as_str()),
            ("web", "SIGQUIT", "")
        );
        assert_eq!((settings.labels["a"].as_str(), settings.labels["b"].as_str()), ("mine", "image"));
        assert_eq!((settings.stop_timeout, settings.annotations.len()), (None, 0));
    }

    #[test]
    fn ids_are_64_hex_digits_and_differ() {
        let (a, b) = (new_id(), new_id());
        assert!(a != b && a.len() == 64 && a.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}
