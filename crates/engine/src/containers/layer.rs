//! The writable layer of a container, read: what it changes, and an image made of it.
//!
//! Neither looks at the files of the image: the cost follows the change. What is mounted in the
//! container (volumes, the engine's own files) lies elsewhere, so it can be in neither; of it there
//! are the empty places.
//!
//! For a commit a running container is frozen through the same command as by `pause`, so everybody
//! sees it as paused. A file beside its shim's socket says that it is frozen for that alone: a daemon
//! that finds it when it starts thaws the container, whose commit ended with the last daemon.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hull_image::layer;
pub use hull_image::layer::{Change, ChangeKind};
use hull_oci::image::RunConfig;
use hull_oci::{Digest, Reference};
use hull_runtime::protocol::Kind;
use hull_runtime::shim;
use rustix::fs::{CWD, Mode, OFlags};
use tokio::sync::RwLockReadGuard;

use super::archive::ATTEMPTS;
use super::handle::{Command, Handle};
use super::launch;
use super::phase::Phase;
use super::services::Services;
use super::view::Record;
use crate::images::{self, changes};
use crate::{Error, Result};

/// Reads the writable layer alone, and of the image only the folders that it has, too.
pub(crate) async fn changes(services: &Arc<Services>, key: &str) -> Result<Vec<Change>> {
    let view = services.registry.find(key)?.view();
    let shared = Arc::clone(services);
    let read = move || {
        launch::unpack(&shared, &view.image, &view.settings)?;
        let upper =
            shared.images.snapshots().writable(&view.id).map_err(|source| Error::Snapshot { source })?;
        let layers =
            view.rootfs.lower.iter().map(|path| open_layer(path)).collect::<Result<Vec<OwnedFd>>>()?;
        layer::changes(upper.as_fd(), &layers).map_err(|source| Error::Changes { source })
    };
    services.blocking(read).await
}

fn open_layer(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|errno| Error::Io {
        call: "open",
        path: path.to_owned(),
        source: errno.into(),
    })
}

/// An image to be made of a container.
#[derive(Debug, Clone)]
pub struct Commit {
    pub name: Option<Reference>,
    pub author: String,
    pub comment: String,
    /// Lines of a Dockerfile that change how the image is run.
    pub changes: Vec<String>,
    /// How the container is run.
    pub own: RunConfig,
    /// How the image is to be run, instead of `own`, which still fills up what this does not say.
    pub given: Option<RunConfig>,
    /// Freeze a running container meanwhile.
    pub pause: bool,
}

pub(crate) async fn commit(services: &Arc<Services>, key: &str, commit: Commit) -> Result<Digest> {
    let handle = services.registry.find(key)?;
    let view = handle.view();
    if matches!(view.phase, Phase::Removing { .. }) {
        let text = format!("You cannot commit container {} which is being removed", view.id);
        return Err(Error::Conflict(text));
    }
    let mut config = commit.given.unwrap_or_else(|| commit.own.clone());
    changes::apply(&mut config, &commit.changes)?;
    lay_beneath(&mut config, &commit.own);
    let _turn = handle.committing.lock().await;
    let (frozen, still) = settle(services, &handle, commit.pause).await?;
    hull_runtime::failpoint!("engine.commit.frozen");
    let made = services
        .images
        .commit(images::Commit {
            container: view.id.clone(),
            image: view.image.id.clone(),
            config,
            name: commit.name.clone(),
            author: commit.author,
            comment: commit.comment.clone(),
            created_by: view.settings.cmd.clone().unwrap_or_default().join(" "),
        })
        .await;
    drop(still);
    if let Ok(image) = &made {
        let name = commit.name.map(|name| name.with_default_tag().familiar()).unwrap_or_default();
        let id = image.id.to_string();
        let told = [("comment", &commit.comment[..]), ("imageID", &id), ("imageRef", &name)];
        services.publish(&view.id, "commit", &told);
    }
    if let Some(marker) = frozen {
        thaw(&handle, &marker).await;
    }
    hull_runtime::failpoint!("engine.commit.thawed");
    Ok(made?.id.clone())
}

/// What `config` does not say is as the container has it, by the reference's rules.
fn lay_beneath(config: &mut RunConfig, own: &RunConfig) {
    if config.user.is_empty() {
        config.user.clone_from(&own.user);
    }
    config.exposed_ports.extend(own.exposed_ports.iter().cloned());
    config.volumes.extend(own.volumes.iter().cloned());
    config.env = crate::spec::merge_env(&config.env, &own.env);
    for (key, value) in &own.labels {
        config.labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    if config.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            config.cmd.clone_from(&own.cmd);
        }
        if config.entrypoint.is_none() {
            config.entrypoint.clone_from(&own.entrypoint);
        }
    }
    if config.healthcheck.is_none() {
        config.healthcheck.clone_from(&own.healthcheck);
    }
    if config.working_dir.is_empty() {
        config.working_dir.clone_from(&own.working_dir);
    }
    if config.stop_signal.is_empty() {
        config.stop_signal.clone_from(&own.stop_signal);
    }
    config.stop_timeout = config.stop_timeout.or(own.stop_timeout);
}

/// Sees to it that nobody writes to the layer: a container that runs is frozen if `pause` says so, one
/// that does not can neither be copied into nor started while the guard is held.
///
/// The guard is not held while it is frozen: a start that waits for the guard would not hear of it.
async fn settle<'a>(
    services: &Arc<Services>,
    handle: &'a Arc<Handle>,
    pause: bool,
) -> Result<(Option<PathBuf>, RwLockReadGuard<'a, ()>)> {
    for _ in 0..ATTEMPTS {
        let frozen = if pause { freeze(services, handle).await? } else { None };
        let still = handle.layer.read().await;
        let moves = matches!(handle.view().phase, Phase::Starting { .. } | Phase::Running(_));
        if !(pause && moves) {
            return Ok((frozen, still));
        }
        // It was started, or thawed, since it was looked at.
        drop(still);
        if let Some(marker) = frozen {
            thaw(handle, &marker).await;
        }
        let mut view = handle.view.clone();
        let begun = view.wait_for(|view| !matches!(view.phase, Phase::Starting { .. })).await;
        begun.map_err(|_| Error::ShuttingDown)?;
    }
    Err(Error::Conflict(format!("container {} starts and ends all the time", handle.id)))
}

fn marker(services: &Services, id: &str) -> PathBuf {
    Kind::Container.folder(services.exec_root(), id).join(shim::COMMITTING)
}

/// Freezes a container that runs; gives the file that says so. `None`: nothing runs in it, or
/// somebody has frozen it already and will thaw it.
async fn freeze(services: &Arc<Services>, handle: &Arc<Handle>) -> Result<Option<PathBuf>> {
    if !matches!(handle.view().phase, Phase::Running(_)) {
        return Ok(None);
    }
    let path = marker(services, &handle.id);
    super::files::write(&path, "")?;
    let Err(error) = handle.ask(&handle.id, |reply| Command::Pause { reply }).await else {
        return Ok(Some(path));
    };
    forget(&path);
    match handle.view().phase {
        Phase::Running(_) => Err(error),
        // It has ended, or was paused by somebody, since it was looked at.
        _ => Ok(None),
    }
}

async fn thaw(handle: &Arc<Handle>, marker: &Path) {
    // Somebody may have thawed or stopped it.
    if let Err(error) = handle.ask(&handle.id, |reply| Command::Unpause { reply }).await
        && matches!(handle.view().phase, Phase::Paused(_))
    {
        tracing::error!(container = handle.id, %error, "a container that was committed stays paused");
    }
    forget(marker);
}

/// Of a container whose shim was found: thaws it if it was frozen for a commit of the last daemon's.
pub(super) async fn thaw_abandoned(services: &Arc<Services>, record: &Record) {
    let path = marker(services, &record.id);
    if !path.exists() {
        return;
    }
    let (shared, cgroup) = (Arc::clone(services), services.cgroup_path(record));
    let thawed = services.blocking(move || match shared.cgroup(&cgroup) {
        Some(cgroup) => cgroup.thaw().map_err(|source| Error::Cgroup { source }),
        None => Ok(()),
    });
    match thawed.await {
        Ok(()) => forget(&path),
        Err(error) => {
            tracing::error!(container = record.id, %error, "a container that was to be committed stays paused")
        }
    }
}

fn forget(marker: &Path) {
    // With the container's end its folder has gone, and this with it.
    if let Err(error) = std::fs::remove_file(marker)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %marker.display(), %error, "a mark of a commit stays");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Option<Vec<String>> {
        Some(text.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn what_was_given_stands_and_the_container_s_own_fills_it_up() {
        let own = RunConfig {
            user: "5".to_owned(),
            cmd: words("own"),
            env: vec!["A=1".to_owned(), "B=1".to_owned()],
            exposed_ports: ["80/tcp".to_owned()].into(),
            labels: [("x".to_owned(), "own".to_owned())].into(),
            ..RunConfig::default()
        };
        let mut config = RunConfig { env: vec!["B=2".to_owned()], ..RunConfig::default() };
        config.labels.insert("x".to_owned(), "given".to_owned());
        lay_beneath(&mut config, &own);
        assert_eq!((config.user.as_str(), &config.cmd), ("5", &words("own")));
        assert_eq!(config.env, ["B=2", "A=1"]);
        assert_eq!((config.labels["x"].as_str(), config.exposed_ports.len()), ("given", 1));
        // A command belongs to its entrypoint.
        let mut config = RunConfig { entrypoint: words("other"), ..RunConfig::default() };
        lay_beneath(&mut config, &own);
        assert_eq!((config.cmd, config.entrypoint), (None, words("other")));
    }
}
