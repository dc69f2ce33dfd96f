//! Finding the containers again.
//!
//! A daemon may be killed at any instant while its containers go on. What the database says of
//! them is then old; what is true is observed (does a shim answer? is there an exit record?) and
//! given to the same [`super::phase::step`] as everything else. What nobody owns is swept away:
//! a container that was being made when the daemon died was never acknowledged.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hull_runtime::protocol::Kind;
use hull_runtime::shim;
use tokio::task::JoinSet;

use super::handle::Command;
use super::link::{self, Link, Word};
use super::phase::{Live, Observed, Phase};
use super::services::Services;
use super::task::{self, Found};
use super::view::Record;
use super::{files, fill, layer, mounts};
use crate::networks::{adopt, unplug};
use crate::{Error, Result};

/// How long a shim that was found may take to say its first word.
const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// How long a shim that was asked for may take to be there, and how often it is looked for.
const COMING_LIMIT: Duration = Duration::from_secs(2);
const COMING_STEP: Duration = Duration::from_millis(10);

/// Brings every recorded container to life and sweeps away what belongs to none.
pub(crate) async fn recover(services: &Arc<Services>, rows: Vec<(String, String)>) -> Result<()> {
    let parse = |(id, text): (String, String)| {
        serde_json::from_str::<Record>(&text).map_err(|source| Error::Record {
            table: "container",
            id,
            source,
        })
    };
    // All before any: a record that cannot be read stops the start before anything was touched.
    let records = rows.into_iter().map(parse).collect::<Result<Vec<_>>>()?;
    let known: BTreeSet<String> = records.iter().map(|record| record.id.clone()).collect();
    for record in &records {
        services.registry.reserve(&record.name, &record.id)?;
        services.users.found(record);
        mounts::adopt(services, record);
    }
    let mut observing = JoinSet::new();
    for record in records {
        let services = Arc::clone(services);
        observing.spawn(async move {
            let found = observe(&services, &record).await;
            (record, found)
        });
    }
    let mut observed = Vec::new();
    while let Some(one) = observing.join_next().await {
        observed.extend(one.ok());
    }
    let mut living = Vec::new();
    for (record, found) in &observed {
        // Of a run that ended with the last daemon, or was never begun: before anybody starts, who
        // may want the same address or port.
        let lives = matches!(found.observed, Some(Observed::Alive { .. }));
        living.extend(Some(record.id.clone()).filter(|_| lives));
        if !lives && matches!(record.life.phase, Phase::Created | Phase::Exited(_) | Phase::Restarting { .. })
        {
            unplug::unplug_later(services, &record.id).await;
        }
    }
    let shared = Arc::clone(services);
    let settled = services.blocking(move || {
        fill::settle(&shared)?;
        shared.volumes.reconcile(&living);
        Ok(())
    });
    settled.await?;
    let links = Arc::new(services.blocking(adopt::links).await?);
    let mut resuming = JoinSet::new();
    for (record, found) in observed {
        let (services, links) = (Arc::clone(services), Arc::clone(&links));
        resuming.spawn(async move {
            resume(&services, &record, &found, links).await;
            task::spawn(&services, record, found);
        });
    }
    while resuming.join_next().await.is_some() {}
    sweep(services, known).await?;
    let mut booting = JoinSet::new();
    for handle in services.registry.all() {
        // A container whose removal is finished meanwhile has gone, and that is all right.
        booting.spawn(async move { handle.ask(&handle.id, |reply| Command::Boot { reply }).await.ok() });
    }
    while booting.join_next().await.is_some() {}
    Ok(())
}

/// Has a container that lives on what it wants of networks, whatever was cut short.
async fn resume(services: &Arc<Services>, record: &Record, found: &Found, links: Arc<BTreeSet<String>>) {
    let Some(process) = found.process.as_ref().and_then(|fd| fd.try_clone().ok()) else { return };
    let (shared, own) = (Arc::clone(services), record.clone());
    let resumed = services.blocking(move || adopt::resume(&shared, &own, &links, &process)).await;
    if let Err(error) = resumed {
        tracing::error!(container = %record.id, %error, "a container's networks are not as they should be");
    }
}

async fn observe(services: &Arc<Services>, record: &Record) -> Found {
    let nothing = Found { observed: Some(Observed::Nothing), ..Found::default() };
    let found = match find(services, record).await {
        Ok(found) => found,
        Err(error) => {
            tracing::error!(container = %record.id, %error, "a container's shim cannot be looked for");
            return nothing;
        }
    };
    match found {
        shim::Found::Living(connection) => match Link::new(connection) {
            Ok(link) => first_word(services, record, link).await,
            Err(error) => {
                tracing::error!(container = %record.id, %error, "a container's shim cannot be heard");
                nothing
            }
        },
        shim::Found::Ended(exit) => Found { observed: Some(Observed::Ended(exit)), ..Found::default() },
        shim::Found::Gone => {
            let path = services.cgroup_path(record);
            kill_cgroup(services, path).await;
            nothing
        }
    }
}

/// Looks for the shim; and for a while, where one may have been asked for so shortly before the
/// last daemon died that it is not there yet.
async fn find(services: &Services, record: &Record) -> std::result::Result<shim::Found, hull_sys::Error> {
    let exec_root = services.exec_root();
    let may_come =
        !matches!(record.life.phase, Phase::Running(_) | Phase::Paused(_) | Phase::Removing { .. })
            && Kind::Container.folder(exec_root, &record.id).exists();
    let start = tokio::time::Instant::now();
    loop {
        let found = shim::find(exec_root, Kind::Container, &record.id)?;
        if !matches!(found, shim::Found::Gone) || !may_come {
            return Ok(found);
        }
        if start.elapsed() > COMING_LIMIT {
            forget(exec_root, Kind::Container, &record.id);
            return Ok(found);
        }
        tokio::time::sleep(COMING_STEP).await;
    }
}

async fn first_word(services: &Arc<Services>, record: &Record, link: Link) -> Found {
    let observed = match tokio::time::timeout(HELLO_LIMIT, link.next()).await {
        Ok(Word::Started { pid, at, pidfd, warnings: _ }) => {
            layer::thaw_abandoned(services, record).await;
            let frozen = services.cgroup(&services.cgroup_path(record)).is_some_and(|cgroup| cgroup.frozen());
            let observed = Observed::Alive { live: Live { pid, started: at }, frozen };
            return Found { link: Some(link), observed: Some(observed), process: Some(pidfd) };
        }
        Ok(Word::Exited(exit)) => Observed::Ended(exit),
        Ok(Word::StartFailed(_)) => Observed::Nothing,
        // It left while we looked.
        Ok(Word::Closed) => {
            kill_cgroup(services, services.cgroup_path(record)).await;
            Observed::Ended(link::exit_of(services.exec_root(), Kind::Container, &record.id, None).await)
        }
        Err(_) => {
            tracing::error!(container = %record.id, "the container's shim is silent; ending the container");
            kill_cgroup(services, services.cgroup_path(record)).await;
            Observed::Nothing
        }
    };
    Found { observed: Some(observed), ..Found::default() }
}

/// Ends whatever is in a container's cgroup, and removes it.
pub(crate) async fn kill_cgroup(services: &Arc<Services>, path: String) {
    let shared = Arc::clone(services);
    let killed = services
        .blocking(move || {
            let Some(cgroup) = shared.cgroup(&path) else { return Ok(()) };
            cgroup.kill().and_then(|()| cgroup.remove()).map_err(|source| Error::Cgroup { source })
        })
        .await;
    if let Err(error) = killed {
        tracing::warn!(%error, "a cgroup that was left over stays");
    }
}

/// Takes away what no record names.
async fn sweep(services: &Arc<Services>, known: BTreeSet<String>) -> Result<()> {
    let exec_root = services.exec_root().to_owned();
    for id in list(&exec_root, Kind::Container)?.into_iter().filter(|id| !known.contains(id)) {
        tracing::warn!(container = id, "a shim without a record; ending it");
        let path = format!("{}/{id}", services.config.cgroup_parent.trim_matches('/'));
        kill_cgroup(services, path).await;
        unplug::unplug_later(services, &id).await;
        forget(&exec_root, Kind::Container, &id);
    }
    for id in list(&exec_root, Kind::Exec)? {
        match shim::find(&exec_root, Kind::Exec, &id) {
            Ok(shim::Found::Living(connection)) => {
                let link = Link::new(connection)?;
                let exec_root = exec_root.clone();
                // It goes on until it ends by itself or with its container.
                tokio::spawn(async move {
                    while !matches!(link.next().await, Word::Exited(_) | Word::Closed) {}
                    forget(&exec_root, Kind::Exec, &id);
                });
            }
            _ => forget(&exec_root, Kind::Exec, &id),
        }
    }
    let shared = Arc::clone(services);
    services.blocking(move || sweep_data(&shared, &known)).await
}

fn sweep_data(services: &Services, known: &BTreeSet<String>) -> Result<()> {
    let snapshots = services.images.snapshots();
    let failed = |source| Error::Snapshot { source };
    for key in snapshots.keys().map_err(failed)?.into_iter().filter(|key| !known.contains(key)) {
        tracing::info!(container = key, "removing a writable layer without a record");
        snapshots.remove(&key).map_err(failed)?;
    }
    for name in names(&files::trash(&services.config.data_root))? {
        files::empty_trash(&files::trash(&services.config.data_root).join(name))?;
    }
    for name in names(&services.config.data_root.join("containers"))? {
        if !known.contains(&name) {
            tracing::info!(container = name, "removing files without a record");
            files::remove(&services.config.data_root, &name)?;
        }
    }
    Ok(())
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let failed = |source| Error::Io { call: "read", path: folder.to_owned(), source };
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    entries.map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned())).collect()
}

fn list(exec_root: &Path, kind: Kind) -> Result<Vec<String>> {
    shim::list(exec_root, kind)
        .map_err(|source| Error::System { doing: "list the shims' folders".to_owned(), source })
}

fn forget(exec_root: &Path, kind: Kind, id: &str) {
    if let Err(error) = shim::forget(exec_root, kind, id) {
        tracing::warn!(id, %error, "a shim's folder stays");
    }
}
