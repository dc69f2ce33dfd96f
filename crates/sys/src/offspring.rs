//! Children that go on in this program as somebody else: the spawner's shims and workers.
//!
//! A forked child holds a copy of every descriptor of its parent. [`fork_with`] gives it exactly
//! those that it is meant to have, and never lets it return into its parent's code.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use crate::error::{During, Result};
use crate::process::{Child, CloneOptions, Forked, Namespaces, clone, exit_now, last_error};

/// Forks a child that has the descriptors 0, 1, 2, `keep` and `shared` and no others and is in the
/// `new` namespaces, runs `life` in it and ends with the code that `life` returns. EBUSY with more
/// than one thread.
///
/// `life` must get descriptors through its argument alone, but for those in `shared`, which it may
/// have captured: any other is closed.
pub fn fork_with(
    keep: Vec<OwnedFd>,
    shared: &[BorrowedFd<'_>],
    new: Namespaces,
    life: impl FnOnce(Vec<OwnedFd>) -> i32,
) -> Result<Child> {
    match clone(&CloneOptions { new, ..CloneOptions::default() })? {
        Forked::Parent(child) => Ok(child),
        Forked::Child => {
            let given = keep.iter().map(AsRawFd::as_raw_fd);
            let numbers = given.chain(shared.iter().map(AsRawFd::as_raw_fd)).collect();
            let code = match close_others(numbers) {
                Ok(()) => life(keep),
                Err(_) => 125,
            };
            exit_now(code)
        }
    }
}

/// Closes every descriptor from 3 on that is not in `keep` (close_range(2), Linux 5.9).
///
/// Private, as it closes descriptors under their owners: sound only in a fresh child that never
/// gets back to those owners, nor drops them.
fn close_others(mut keep: Vec<RawFd>) -> Result<()> {
    keep.sort_unstable();
    let mut first: u32 = 3;
    for kept in keep.into_iter().filter_map(|fd| u32::try_from(fd).ok()) {
        if kept > first {
            close_range(first, kept - 1)?;
        }
        first = first.max(kept + 1);
    }
    close_range(first, u32::MAX)
}

fn close_range(first: u32, last: u32) -> Result<()> {
    // SAFETY: see `close_others`: nothing in this process will use or drop these descriptors.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result == 0 { Ok(()) } else { Err(last_error()).during("close_range", || format!("{first}, {last}")) }
}
