//! The builds' memory is kept within its limits: after each build, and when somebody asks for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hull_oci::Digest;

use super::books::{Books, Cached, Filters, Forget, Kind, Room, Step};
use crate::containers::services::Services;
use crate::{Error, Result};

const HOUR: i64 = 3600 * 1_000_000_000;

/// How much the builds' memory may keep, and what goes when that is too much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Nothing goes by itself without it.
    pub enabled: bool,
    /// Where a rule says nothing of its own.
    pub reserved: Space,
    pub max_used: Space,
    pub min_free: Space,
    /// One after the other; `None` are the usual ones.
    pub rules: Option<Vec<Rule>>,
}

/// One step of a collection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    pub all: bool,
    /// In nanoseconds; 0 is whatever its age.
    pub unused_for: i64,
    pub filters: Filters,
    pub reserved: Option<Space>,
    pub max_used: Option<Space>,
    pub min_free: Option<Space>,
}

/// A part of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    Bytes(u64),
    Percent(u8),
}

impl Space {
    fn bytes(self, disk: u64) -> u64 {
        match self {
            Space::Bytes(bytes) => bytes,
            Space::Percent(percent) => disk / 100 * u64::from(percent),
        }
    }
}

impl Default for Limit {
    /// The reference's.
    fn default() -> Limit {
        Limit {
            enabled: true,
            reserved: Space::Percent(10),
            max_used: Space::Percent(80),
            min_free: Space::Percent(20),
            rules: None,
        }
    }
}

impl Limit {
    /// What is easily made again goes early.
    fn easy(reserved: u64) -> Rule {
        Rule {
            unused_for: 48 * HOUR,
            filters: Filters { kinds: vec![Kind::CacheMount.name().to_owned()], ..Filters::default() },
            reserved: Some(Space::Bytes(0)),
            max_used: Some(Space::Bytes(reserved / 1000 * 138)),
            min_free: Some(Space::Bytes(0)),
            ..Rule::default()
        }
    }

    /// What is forgotten one after the other, on a disk of so many bytes.
    fn steps(&self, disk: u64) -> Vec<Forget> {
        let reserved = self.reserved.bytes(disk);
        let usual = || {
            let rule = |unused_for, all| Rule { unused_for, all, ..Rule::default() };
            vec![Limit::easy(reserved), rule(1440 * HOUR, false), rule(0, false), rule(0, true)]
        };
        let rules = self.rules.clone().unwrap_or_else(usual);
        let bytes = |own: Option<Space>, default: Space| own.unwrap_or(default).bytes(disk);
        let forget = |rule: Rule| Forget {
            all: rule.all,
            unused_for: rule.unused_for,
            room: Room {
                reserved: bytes(rule.reserved, self.reserved),
                max_used: bytes(rule.max_used, self.max_used),
                min_free: bytes(rule.min_free, self.min_free),
            },
            filters: rule.filters,
        };
        rules.into_iter().map(forget).collect()
    }
}

/// Steps that were forgotten.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forgotten {
    pub steps: Vec<Cached>,
    /// Bytes that they cost.
    pub bytes: u64,
}

/// Each remembered step once, and cache mounts; the one that was used last first.
pub(crate) fn list(services: &Services) -> Vec<Cached> {
    books(services).list()
}

/// Forgets steps. What only they had is freed.
pub(crate) async fn forget(services: &Arc<Services>, wanted: &Forget) -> Result<Forgotten> {
    if wanted.all && wanted.filters == Filters::default() && wanted.unused_for == 0 {
        let shared = Arc::clone(services);
        let clear = move || shared.builds.tables.clear().and_then(|()| shared.builds.contents.clear());
        services.blocking(clear).await?;
    }
    let (_, free) = disk(services)?;
    strike(services, |books| books.forget(wanted, free, hull_sys::time::now())).await
}

/// Forgets what is over the limit.
async fn keep_limits(services: &Arc<Services>) {
    if !services.config.build_cache.enabled {
        return;
    }
    let forget_all = async {
        let (total, free) = disk(services)?;
        let steps = services.config.build_cache.steps(total);
        strike(services, |books| {
            let now = hull_sys::time::now();
            let mut gone: Vec<Cached> =
                steps.iter().flat_map(|wanted| books.forget(wanted, free, now)).collect();
            gone.extend(books.forget_most());
            gone
        })
        .await
    };
    match forget_all.await {
        Ok(gone) if gone.steps.is_empty() => {}
        Ok(Forgotten { steps, bytes }) => {
            tracing::info!(steps = steps.len(), bytes, "builds have forgotten what was over their limit");
        }
        Err(error) => tracing::warn!(%error, "the builds' cache is larger than its limit"),
    }
}

/// Dropped, it has the memory looked after, and what a build has made that was not stored: nothing may lead
/// to that. A build holds one beside what it holds of layers, and longer.
#[derive(Debug)]
pub(super) struct Afterwards {
    services: Arc<Services>,
    stored: Arc<AtomicBool>,
}

impl Afterwards {
    pub(super) fn new(services: &Arc<Services>, stored: &Arc<AtomicBool>) -> Afterwards {
        Afterwards { services: Arc::clone(services), stored: Arc::clone(stored) }
    }
}

impl Drop for Afterwards {
    fn drop(&mut self) {
        // Without a runtime the daemon is on its way out.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (services, stored) = (Arc::clone(&self.services), self.stored.load(Ordering::Relaxed));
            runtime.spawn(async move {
                keep_limits(&services).await;
                if !stored && let Err(error) = services.images.collect().await {
                    tracing::warn!(%error, "what a build has left stays until the next start");
                }
            });
        }
    }
}

fn books(services: &Services) -> Books {
    let images: BTreeSet<Digest> = services.images.all().iter().flat_map(|image| image.chain()).collect();
    let mounts = services.builds.caches.list().into_iter().map(Step::mount);
    let steps = services.builds.memory.steps().into_iter().chain(mounts);
    Books::open(steps.collect(), &images)
}

async fn strike(
    services: &Arc<Services>,
    choose: impl FnOnce(&mut Books) -> Vec<Cached>,
) -> Result<Forgotten> {
    let mut books = books(services);
    let before = books.used();
    let steps = choose(&mut books);
    let ids: BTreeSet<Digest> = steps.iter().map(|step| step.id.clone()).collect();
    services.builds.caches.forget(services, |mount| ids.contains(&mount.id)).await?;
    let rows = services.builds.memory.forget_steps(&ids);
    if !rows.is_empty() {
        services.store.commit(rows).await?;
        services.images.collect().await?;
    }
    Ok(Forgotten { steps, bytes: before - books.used() })
}

/// Bytes of the disk, and those that are free.
pub(super) fn disk(services: &Services) -> Result<(u64, u64)> {
    let path = &services.config.data_root;
    let about = rustix::fs::statvfs(path).map_err(|errno| Error::Io {
        call: "statvfs",
        path: path.clone(),
        source: errno.into(),
    })?;
    Ok((about.f_blocks * about.f_frsize, about.f_bavail * about.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_have_the_limits_defaults_where_they_say_nothing() {
        let steps = Limit::default().steps(1000);
        let room = Room { reserved: 100, max_used: 800, min_free: 200 };
        assert_eq!(steps[0].filters.kinds, ["exec.cachemount"]);
        assert!(steps[1..].iter().all(|step| step.room == room));
        assert_eq!(
            steps[1..].iter().map(|step| (step.unused_for / HOUR, step.all)).collect::<Vec<_>>(),
            [(1440, false), (0, false), (0, true)]
        );
        let rule = Rule { max_used: Some(Space::Bytes(5)), ..Rule::default() };
        let limit = Limit { reserved: Space::Bytes(7), rules: Some(vec![rule]), ..Limit::default() };
        assert_eq!(limit.steps(1000)[0].room, Room { reserved: 7, max_used: 5, min_free: 200 });
    }
}
