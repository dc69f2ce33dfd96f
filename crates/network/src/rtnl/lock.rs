//! One thread of this process at a time under the kernel's lock of links.
//!
//! The kernel changes links, addresses and routes, of whatever namespace, under one lock (`rtnl`).
//! Netlink waits for it in a queue. Some sysctls do not: writing `disable_ipv6` or `forwarding` tries
//! the lock and, where it is taken, begins the whole system call anew (`restart_syscall` in
//! net/ipv6/addrconf.c). A thread that does this next to others that queue burns a processor and
//! hardly ever gets its turn: sixteen containers that joined ten networks each at the same time kept
//! each other from starting for more than a minute. Where our own threads wait for each other here
//! instead, asleep, no time is lost, because the kernel would have let in only one anyway.

use std::sync::{Mutex, MutexGuard, PoisonError};

static LOCK: Mutex<()> = Mutex::new(());

/// To be kept over one conversation with the kernel and no longer.
pub(crate) fn lock() -> MutexGuard<'static, ()> {
    // It guards nothing that a panic could leave half done.
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}
