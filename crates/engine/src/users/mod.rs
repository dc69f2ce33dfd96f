//! Which ids of the host the containers' users are.
//!
//! Without a user namespace they are the host's own. With one they are a range of ids that nobody
//! else has: one range for all containers of the daemon (`--userns-remap`), or one for each
//! container (`--userns=auto`, or `--userns-remap=auto` for all that say nothing).
//!
//! A container's maps are chosen when it is made and stay in its settings, so whatever it writes
//! outside of its own layer (a bind mount without `idmap`) is its own at the next start too. What is
//! taken is a function of the records: there is no file of ranges that could be wrong. A range is
//! given back when the last container that has it is removed.
//!
//! ```text
//! ids of a host   0 ‥ 65535           the host's users (systemd's "UIDS-GIDS" has the map)
//!                 100000 ‥ 600100000  useradd's for /etc/subuid (login.defs, SUB_UID_MAX)
//!                 524288 ‥ 0x6fffffff systemd-nspawn's
//!                 0x70000000 ‥ 0x7fffffff, in blocks of 65536 ids: ours
//!                     block 0         --userns-remap=default without a dockremap in /etc/subuid
//!                     1 ‥ 4095        auto
//! ```
//! A block that meets any range in /etc/subuid or /etc/subgid all the same is left alone.

mod subids;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hull_oci::runtime::IdMapping;
use serde::{Deserialize, Serialize};

use crate::containers::settings::{IpcMode, NetworkMode, PidMode, Settings, Userns};
use crate::containers::view::Record;
use crate::{Error, Result};

use subids::Files;

/// Ids of one block, as many as most images can name.
const BLOCK: u32 = 65_536;
const FIRST: u32 = 0x7000_0000;
const BLOCKS: u32 = 4096;

/// A user namespace's maps: each from the container's 0 upwards without a gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maps {
    pub uids: Vec<IdMapping>,
    pub gids: Vec<IdMapping>,
}

impl Maps {
    fn block(number: u32) -> Maps {
        let mapping = IdMapping { container_id: 0, host_id: FIRST + number * BLOCK, size: BLOCK };
        Maps { uids: vec![mapping], gids: vec![mapping] }
    }

    /// The number of a block for `auto`.
    fn auto(&self) -> Option<u32> {
        let first = self.uids.first()?.host_id.checked_sub(FIRST)?;
        (first % BLOCK == 0).then_some(first / BLOCK).filter(|number| (1..BLOCKS).contains(number))
    }

    /// The largest gid that the container has among those mapped first.
    pub(crate) fn last_gid(&self) -> u32 {
        self.gids.first().map_or(0, |mapping| mapping.size.saturating_sub(1))
    }
}

/// What containers get that do not say which users they want.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Default {
    Host,
    Auto,
    Maps(Maps),
}

/// The ids that containers have.
#[derive(Debug)]
pub(crate) struct Users {
    default: Default,
    taken: Arc<Taken>,
}

/// For each block of `auto` how many containers have it: those that share namespaces share it.
#[derive(Debug, Default)]
struct Taken(Mutex<BTreeMap<u32, usize>>);

impl Taken {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The maps of a container that is being made; given back when it is dropped without being kept.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) maps: Option<Maps>,
    taken: Arc<Taken>,
}

impl Claim {
    /// The container is recorded: from now on its record holds them.
    pub(crate) fn keep(mut self) {
        self.maps = None;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        give_back(&self.taken, self.maps.as_ref());
    }
}

fn give_back(taken: &Taken, maps: Option<&Maps>) {
    let Some(block) = maps.and_then(Maps::auto) else { return };
    let mut taken = taken.lock();
    match taken.get_mut(&block) {
        Some(count) if *count > 1 => *count -= 1,
        _ => drop(taken.remove(&block)),
    }
}

impl Users {
    /// `remap` as `--userns-remap` has it, or empty.
    pub(crate) fn open(remap: &str) -> Result<Users> {
        let default = match remap {
            "" => Default::Host,
            "auto" => Default::Auto,
            remap => Default::Maps(
                subids::remap(remap, &Files::read(), &Maps::block(0))
                    .map_err(|why| Error::Invalid(format!("--userns-remap={remap}: {why}")))?,
            ),
        };
        Ok(Users { default, taken: Arc::default() })
    }

    /// Whether containers that say nothing have a user namespace.
    pub(crate) fn remaps(&self) -> bool {
        self.default != Default::Host
    }

    /// Notes what a container that was found has.
    pub(crate) fn found(&self, record: &Record) {
        if let Some(block) = record.settings.users.as_ref().and_then(Maps::auto) {
            *self.taken.lock().entry(block).or_default() += 1;
        }
    }

    /// A container has been removed.
    pub(crate) fn removed(&self, settings: &Settings) {
        give_back(&self.taken, settings.users.as_ref());
    }

    /// The maps of a new container. `donor` gives the settings of another one by its id.
    pub(crate) fn claim(
        &self,
        settings: &Settings,
        donor: impl Fn(&str) -> Option<Arc<Settings>>,
    ) -> Result<Claim> {
        let claim = |maps| Claim { maps, taken: Arc::clone(&self.taken) };
        let default = match settings.security.userns {
            Userns::Host => return Ok(claim(None)),
            Userns::Auto => &Default::Auto,
            Userns::Default => &self.default,
        };
        if *default == Default::Host {
            return Ok(claim(None));
        }
        refuse_the_hosts(settings)?;
        let donors: Vec<_> = donors(settings).collect();
        let Some((_, first)) = donors.first() else {
            return match default {
                Default::Maps(maps) => Ok(claim(Some(maps.clone()))),
                _ => Ok(claim(Some(self.free_block(&Files::read())?))),
            };
        };
        let users = |id: &str| donor(id).and_then(|settings| settings.users.clone());
        let shared = users(first);
        if let Some((what, id)) = donors.iter().find(|(_, id)| users(id).is_none() || users(id) != shared) {
            return Err(Error::Invalid(format!(
                "cannot share the {what} of container {id}: it has other users than this one would have; start both with \
                 --userns=host, or let {id} have a user namespace of its own"
            )));
        }
        let claimed = claim(shared);
        if let Some(block) = claimed.maps.as_ref().and_then(Maps::auto) {
            *self.taken.lock().entry(block).or_default() += 1;
        }
        Ok(claimed)
    }

    /// Takes the lowest block that nobody has.
    fn free_block(&self, files: &Files) -> Result<Maps> {
        let reserved = files.reserved();
        let meets = |number: &u32| {
            let first = u64::from(FIRST + number * BLOCK);
            reserved.iter().any(|(from, count)| *from < first + u64::from(BLOCK) && first < from + count)
        };
        let mut taken = self.taken.lock();
        let free = (1..BLOCKS).find(|number| !taken.contains_key(number) && !meets(number));
        let number = free.ok_or_else(|| {
            Error::Conflict(format!(
                "no ids are left for --userns=auto: {} containers have {BLOCK} each, and /etc/subuid or /etc/subgid the \
                 rest of {FIRST} to {}; remove containers that are not needed",
                taken.len(),
                FIRST + (BLOCKS * BLOCK - 1)
            ))
        })?;
        taken.insert(number, 1);
        Ok(Maps::block(number))
    }
}

/// What a user namespace cannot be combined with, in the reference's words where it has some.
fn refuse_the_hosts(settings: &Settings) -> Result<()> {
    let refused = if settings.security.privileged {
        "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when \
         running privileged mode"
    } else if settings.network == NetworkMode::Host {
        "cannot share the host's network namespace when user namespaces are enabled"
    } else if settings.pid == PidMode::Host {
        "cannot share the host PID namespace when user namespaces are enabled"
    } else {
        return Ok(());
    };
    Err(Error::Invalid(refused.to_owned()))
}

/// The containers whose namespaces this one joins, and what of theirs that is.
pub(crate) fn donors(settings: &Settings) -> impl Iterator<Item = (&'static str, &str)> {
    let network = match &settings.network {
        NetworkMode::Container(id) => Some(("network namespace", id.as_str())),
        _ => None,
    };
    let pid = match &settings.pid {
        PidMode::Container(id) => Some(("PID namespace", id.as_str())),
        _ => None,
    };
    let ipc = match &settings.ipc {
        IpcMode::Container(id) => Some(("IPC namespace", id.as_str())),
        _ => None,
    };
    [network, pid, ipc].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto() -> Settings {
        let mut settings = Settings::default();
        settings.security.userns = Userns::Auto;
        settings
    }

    fn users(default: Default) -> Users {
        Users { default, taken: Arc::default() }
    }

    fn first(claim: &Claim) -> Option<u32> {
        claim.maps.as_ref().map(|maps| maps.uids[0].host_id)
    }

    #[test]
    fn every_container_has_a_block_of_its_own_until_it_is_removed() {
        let users = users(Default::Host);
        let claim = || users.claim(&auto(), |_| None).unwrap();
        let (one, two) = (claim(), claim());
        assert_eq!((first(&one), first(&two)), (Some(FIRST + BLOCK), Some(FIRST + 2 * BLOCK)));
        let settings = Settings { users: one.maps.clone(), ..auto() };
        one.keep();
        assert_eq!(first(&claim()), Some(FIRST + 3 * BLOCK), "dropped at once");
        drop(two);
        assert_eq!(first(&claim()), Some(FIRST + 2 * BLOCK));
        users.removed(&settings);
        assert_eq!(first(&claim()), Some(FIRST + BLOCK));
        assert_eq!(first(&users.claim(&Settings::default(), |_| None).unwrap()), None);
    }

    #[test]
    fn no_block_meets_what_subuid_gives_to_others() {
        let users = users(Default::Host);
        let ids = format!("a:{}:1\nb:100000:65536\nc:{}:70000\n", FIRST + BLOCK + 7, FIRST + 3 * BLOCK - 1);
        let files =
            Files { subuid: ids, subgid: format!("d:{}:1", FIRST + 6 * BLOCK - 1), ..Files::default() };
        let next = || users.free_block(&files).unwrap().uids[0].host_id;
        assert_eq!([next(), next()], [FIRST + 6 * BLOCK, FIRST + 7 * BLOCK]);
        let all = Files { subuid: format!("a:{FIRST}:268435456"), ..Files::default() };
        let error = users.free_block(&all).unwrap_err().to_string();
        assert!(
            error.starts_with("no ids are left for --userns=auto: 2 containers have 65536 each"),
            "{error}"
        );
    }

    #[test]
    fn who_shares_namespaces_shares_the_users_and_their_block() {
        let users = users(Default::Auto);
        let donor = users.claim(&Settings::default(), |_| None).unwrap();
        let settings = Arc::new(Settings { users: donor.maps.clone(), ..Settings::default() });
        let mut joining = Settings {
            network: NetworkMode::Container("d".into()),
            ipc: IpcMode::Container("d".into()),
            ..auto()
        };
        let shared = users.claim(&joining, |_| Some(Arc::clone(&settings))).unwrap();
        assert_eq!(first(&shared), first(&donor));
        drop(donor);
        assert_ne!(first(&users.claim(&auto(), |_| None).unwrap()), first(&shared), "the other still has it");
        joining.ipc = IpcMode::Private;
        let error = users.claim(&joining, |_| Some(Arc::default())).unwrap_err().to_string();
        assert!(error.starts_with("cannot share the network namespace of container d"), "{error}");
    }

    #[test]
    fn the_hosts_namespaces_need_the_hosts_users() {
        let users = users(Default::Maps(Maps::block(0)));
        let refused = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            let error = users.claim(&settings, |_| None).unwrap_err().to_string();
            settings.security.userns = Userns::Host;
            assert_eq!(users.claim(&settings, |_| None).unwrap().maps, None);
            error
        };
        assert!(refused(|s| s.security.privileged = true).starts_with("privileged mode is incompatible"));
        assert!(refused(|s| s.network = NetworkMode::Host).contains("host's network namespace"));
        assert!(refused(|s| s.pid = PidMode::Host).contains("host PID namespace"));
        assert_eq!(first(&users.claim(&Settings::default(), |_| None).unwrap()), Some(FIRST));
    }
}
