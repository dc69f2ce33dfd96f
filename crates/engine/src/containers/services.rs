//! What a container's task works with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hull_image::snapshot::Trash;
use hull_runtime::cgroup::{Cgroup, Hierarchies};

use super::files;
use super::fill::Turns;
use super::registry::Registry;
use super::settings::Settings;
use super::spawner::Spawner;
use super::view::{Record, View};
use crate::builds::Builds;
use crate::events::{Events, Kind};
use crate::host::HostFacts;
use crate::images::Images;
use crate::networks::Networks;
use crate::networks::wiring::Wiring;
use crate::seccomp::Profiles;
use crate::store::Store;
use crate::users::Users;
use crate::volumes::Volumes;
use crate::{Config, Error, Result};

#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) config: Config,
    pub(crate) facts: HostFacts,
    pub(crate) store: Store,
    pub(crate) events: Events,
    pub(crate) images: Images,
    pub(crate) networks: Networks,
    pub(crate) wiring: Wiring,
    pub(crate) volumes: Volumes,
    pub(crate) builds: Builds,
    pub(crate) filling: Turns,
    pub(crate) registry: Arc<Registry>,
    pub(crate) users: Users,
    pub(crate) spawner: Arc<Spawner>,
    pub(crate) cgroups: Option<Hierarchies>,
    pub(crate) seccomp: Profiles,
    /// Held by who frees the disk of what removed containers left: one at a time.
    pub(crate) freeing: tokio::sync::Mutex<()>,
}

/// What a removed container has left on the disk, out of sight.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    pub(crate) layer: Option<Trash>,
    pub(crate) files: Option<PathBuf>,
}

impl Services {
    /// Runs what may block away from the async threads.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        // A panic in the work is reported by the runtime; the caller sees an engine that leaves.
        tokio::task::spawn_blocking(work).await.map_err(|_| Error::ShuttingDown)?
    }

    /// Frees the disk of a removed container, behind everybody's back: that can take long (each
    /// folder's block is given back, on some disks with a command of its own) and changes nothing
    /// that anybody sees. What is not done when the daemon ends is swept by the next one.
    pub(crate) fn free(self: &Arc<Self>, remains: Remains) {
        let services = Arc::clone(self);
        tokio::spawn(async move {
            let _turn = services.freeing.lock().await;
            let shared = Arc::clone(&services);
            let freed = services
                .blocking(move || {
                    let snapshots = shared.images.snapshots();
                    let layer = remains.layer.map(|trash| snapshots.empty_trash(&trash)).transpose();
                    remains.files.map(|files| files::empty_trash(&files)).transpose()?;
                    layer.map(drop).map_err(|source| Error::Snapshot { source })
                })
                .await;
            if let Err(error) = freed {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a removed container still takes space"
                );
            }
        });
    }

    /// An event of a container, with the attributes that all of its events have.
    pub(crate) fn publish(&self, id: &str, action: &str, extra: &[(&str, &str)]) {
        let Ok(handle) = self.registry.find(id) else { return };
        self.publish_view(&handle.view(), action, extra);
    }

    pub(crate) fn publish_view(&self, view: &View, action: &str, extra: &[(&str, &str)]) {
        let mut attributes: BTreeMap<String, String> = view.settings.labels.clone();
        attributes.insert("image".to_owned(), view.image.name.clone());
        attributes.insert("name".to_owned(), view.name.clone());
        attributes.extend(extra.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())));
        self.events.publish(Kind::Container, action, &view.id, attributes);
    }

    /// Below each hierarchy's root.
    pub(crate) fn cgroup_path(&self, record: &Record) -> String {
        self.path(&record.id, &record.settings)
    }

    pub(crate) fn cgroup_path_of(&self, view: &View) -> String {
        self.path(&view.id, &view.settings)
    }

    fn path(&self, id: &str, settings: &Settings) -> String {
        let parent = match settings.cgroup_parent.trim_matches('/') {
            "" => self.config.cgroup_parent.trim_matches('/'),
            parent => parent,
        };
        format!("{parent}/{id}")
    }

    /// The container's cgroup, where there is one now.
    pub(crate) fn cgroup(&self, path: &str) -> Option<Cgroup> {
        Cgroup::open(self.cgroups.as_ref()?, path).ok()
    }

    pub(crate) fn exec_root(&self) -> &Path {
        &self.config.exec_root
    }
}
