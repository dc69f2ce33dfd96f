//! Who a process is: capabilities, user, groups.
//!
//! The set calls act on the calling thread alone, which is the whole process where Hull uses them:
//! a forked child.

use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::error::{During, Errno, Result};

/// All capabilities that kernels have (capabilities(7)), in their order; the index is the number.
pub const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The capability of a name as in capabilities(7) (`CAP_SYS_ADMIN`, case counts), as a set of one.
pub fn capability(name: &str) -> Option<CapabilitySet> {
    let bit = NAMES.iter().position(|known| *known == name)?;
    Some(CapabilitySet::from_bits_retain(1 << bit))
}

/// All names that this build knows, by number.
pub fn capability_names() -> &'static [&'static str] {
    &NAMES
}

/// The bounding set of this thread: what no exec can go beyond.
pub fn bounding() -> CapabilitySet {
    let mut set = CapabilitySet::empty();
    for bit in 0..NAMES.len() {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        // A capability that the kernel does not know is EINVAL, so not in the set.
        if rustix::thread::capability_is_in_bounding_set(one).unwrap_or(false) {
            set |= one;
        }
    }
    set
}

/// Removes what is not in `keep` from the bounding set. Needs `CAP_SETPCAP`.
pub fn limit_bounding(keep: CapabilitySet) -> Result<()> {
    for bit in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if keep.contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // The first number that the kernel does not know: there are no higher ones.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno).during("prctl", || format!("PR_CAPBSET_DROP, {bit}")),
        }
    }
    Ok(())
}

/// The three sets of this thread (capget(2)).
pub fn capabilities() -> Result<CapabilitySets> {
    rustix::thread::capabilities(None).during("capget", || "self")
}

/// Sets the three sets of this thread (capset(2)).
pub fn set_capabilities(sets: CapabilitySets) -> Result<()> {
    rustix::thread::set_capabilities(None, sets).during("capset", || format!("{sets:?}"))
}

/// Makes the ambient set exactly `wanted`; each must be permitted and inheritable.
pub fn set_ambient(wanted: CapabilitySet) -> Result<()> {
    rustix::thread::clear_ambient_capability_set().during("prctl", || "PR_CAP_AMBIENT_CLEAR_ALL")?;
    for bit in (0..64).filter(|bit| wanted.bits() & (1 << bit) != 0) {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        rustix::thread::configure_capability_in_ambient_set(one, true)
            .during("prctl", || format!("PR_CAP_AMBIENT_RAISE, {bit}"))?;
    }
    Ok(())
}

/// Becomes `uid`, `gid` and exactly the groups `groups` in this order, with all of real, effective
/// and saved id. Without [`rustix::thread::set_keep_capabilities`] a uid other than 0 loses its
/// permitted capabilities here.
pub fn set_user(uid: u32, gid: u32, groups: &[u32]) -> Result<()> {
    // -1 means "leave as it is" to the kernel: it must never be a user.
    if uid == u32::MAX || gid == u32::MAX || groups.contains(&u32::MAX) {
        return Err(Errno::INVAL).during("setresuid", || format!("{uid}, {gid}, {groups:?}"));
    }
    let list: Vec<_> = groups.iter().map(|gid| rustix::process::Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&list).during("setgroups", || format!("{groups:?}"))?;
    let gid_t = rustix::process::Gid::from_raw(gid);
    rustix::thread::set_thread_res_gid(gid_t, gid_t, gid_t).during("setresgid", || gid)?;
    let uid_t = rustix::process::Uid::from_raw(uid);
    rustix::thread::set_thread_res_uid(uid_t, uid_t, uid_t).during("setresuid", || uid)
}

/// Runs `then` with this user and group as those that files are made by and looked at as
/// (setfsuid(2)), and with all effective capabilities, some of which the kernel takes away with the
/// root user's. Only for a process whose user is root; both come back afterwards.
pub fn as_file_user<T>(uid: u32, gid: u32, then: impl FnOnce() -> T) -> Result<T> {
    let set = |uid: u32, gid: u32| {
        // SAFETY: plain numbers. Both calls give back the former id and no error.
        unsafe { (libc::setfsgid(gid), libc::setfsuid(uid)) }
    };
    let sets = capabilities()?;
    set(uid, gid);
    // -1 is no id, so this changes nothing and tells what is: the only way to see a refusal.
    let done = if set(u32::MAX, u32::MAX) == (gid.cast_signed(), uid.cast_signed()) {
        set_capabilities(sets).map(|()| then())
    } else {
        Err(Errno::PERM).during("setfsuid", || format!("{uid}, {gid}"))
    };
    set(0, 0);
    set_capabilities(sets)?;
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_at_their_numbers() {
        assert_eq!(capability("CAP_CHOWN"), Some(CapabilitySet::CHOWN));
        assert_eq!(capability("CAP_SYS_ADMIN"), Some(CapabilitySet::SYS_ADMIN));
        assert_eq!(capability("CAP_CHECKPOINT_RESTORE"), Some(CapabilitySet::CHECKPOINT_RESTORE));
        assert_eq!(capability("SYS_ADMIN"), None);
    }

    #[test]
    fn the_bounding_set_is_what_proc_says() {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
        assert_eq!(bounding().bits(), u64::from_str_radix(line.trim(), 16).unwrap());
    }

    #[test]
    fn minus_one_is_nobody() {
        assert_eq!(set_user(u32::MAX, 0, &[]).unwrap_err().errno, Errno::INVAL);
    }
}
