//! How many files the daemon may have open.
//!
//! Each running container takes some six descriptors, and its unanswered look-ups of names may take
//! hundreds more, so the daemon takes all that the host lets it have. Containers must not notice:
//! they get the limit that the daemon was started with, as if it had never been raised.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one, and both to the kernel's bound where that is allowed
/// (CAP_SYS_RESOURCE; getrlimit(2), `fs.nr_open`). Gives back what the limits were, soft and hard.
pub(crate) fn raise() -> (u64, u64) {
    let before = getrlimit(Resource::Nofile);
    let bound = std::fs::read_to_string("/proc/sys/fs/nr_open").ok();
    let bound = bound.and_then(|text| text.trim().parse::<u64>().ok()).max(before.maximum);
    let to = |most| Rlimit { current: most, maximum: most };
    if setrlimit(Resource::Nofile, to(bound)).is_err()
        && let Err(errno) = setrlimit(Resource::Nofile, to(before.maximum))
    {
        tracing::warn!(%errno, "the limit of open files stays as it is");
    }
    (before.current.unwrap_or(u64::MAX), before.maximum.unwrap_or(u64::MAX))
}
