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

/// Gives free memory of the heap back to the system, where the C library knows how.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no arguments that could be wrong; the allocator locks for itself.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lets threads share so many arenas of the heap instead of having one each, where the C library
/// has arenas (mallopt(3), M_ARENA_MAX): what one has freed another may then use. For a process that
/// has one thread yet, and will have many that seldom work at once.
pub fn share_arenas(most: u8) {
    #[cfg(target_env = "gnu")]
    // SAFETY: plain numbers; a value that cannot be is refused.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, most.into());
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = most;
}

/// Gives the pages of the main thread's stack that deeper calls have used and left back to the
/// system (madvise(2), MADV_DONTNEED); in other threads it does nothing. For a process that comes
/// back from its deepest calls to a loop.
#[inline(never)]
pub fn trim_stack() {
    const PAGE: usize = 4096;
    /// How far below this frame nothing is touched: the frames of madvise itself are there.
    const KEPT: usize = 4 * PAGE;
    /// How far down pages are given back, at most.
    const REACH: usize = 512 * 1024;
    if rustix::thread::gettid() != rustix::process::getpid() {
        return;
    }
    let here = 0u8;
    let end = (&raw const here as usize).saturating_sub(KEPT) / PAGE * PAGE;
    let start = end.saturating_sub(REACH);
    // SAFETY: the range lies below every live frame of this thread (stacks grow down on every
    // architecture of Linux), so what is wiped is dead; and it is the stack's own or unmapped
    // (then skipped, ENOMEM), because the kernel keeps a gap of 1 MiB below a growing stack free of
    // other mappings (`stack_guard_gap`), more than the reach.
    unsafe {
        libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED);
    }
}
