//! Installing a seccomp filter (seccomp(2)). The program is made elsewhere.

use std::os::fd::{FromRawFd, OwnedFd};

use crate::error::{During, Errno, Result};
use crate::process::last_error;

/// Installs `filter` for this thread and all it will become. Each instruction is a `sock_filter` in
/// one word: code in the lowest 16 bits, then 8 of jt, 8 of jf, 32 of k. `flags` are
/// `SECCOMP_FILTER_FLAG_…`; with `NEW_LISTENER` the listener's descriptor comes back.
///
/// Needs `no_new_privs` or `CAP_SYS_ADMIN`, else EACCES.
pub fn install(filter: &[u64], flags: u64) -> Result<Option<OwnedFd>> {
    let mut program: Vec<libc::sock_filter> = filter
        .iter()
        .map(|word| libc::sock_filter {
            code: *word as u16,
            jt: (*word >> 16) as u8,
            jf: (*word >> 24) as u8,
            k: (*word >> 32) as u32,
        })
        .collect();
    let args = || format!("SECCOMP_SET_MODE_FILTER, {flags:#x}, {} instructions", filter.len());
    let len = u16::try_from(program.len()).map_err(|_| Errno::INVAL).during("seccomp", args)?;
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: `program` has `len` instructions that live in the vector until after the call; the
    // kernel copies and checks them.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if result < 0 {
        return Err(last_error()).during("seccomp", args);
    }
    if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 {
        return match result {
            0 => Ok(None),
            // With TSYNC: the id of a thread that could not be synchronised.
            _ => Err(Errno::SRCH).during("seccomp", args),
        };
    }
    // SAFETY: with NEW_LISTENER the result is a descriptor that the kernel has just opened.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(result as i32) }))
}
