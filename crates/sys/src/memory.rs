//! Memory of a process that mostly waits: what its work has touched is given back, for the kernel
//! counts it as held until then.

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

/// Gives the pages of this executable's code and constants back to the page cache they are mapped
/// from (madvise(2), MADV_DONTNEED): what has run once, at the start or for a command, and will not
/// soon again. What runs next is mapped anew, 64 KiB at each fault, without reading the file.
pub fn release_code() {
    // SAFETY: the callback matches the signature that is asked for and uses no data.
    unsafe {
        libc::dl_iterate_phdr(Some(release_segments), std::ptr::null_mut());
    }
}

/// Of the first object that dl_iterate_phdr(3) names, the program itself; then it stops.
unsafe extern "C" fn release_segments(
    object: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    let page = rustix::param::page_size();
    // SAFETY: valid for the time of this call (dl_iterate_phdr(3)).
    let object = unsafe { &*object };
    // SAFETY: the object's program headers, so many of them, are part of its mapping.
    let segments = unsafe { std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()) };
    for segment in segments {
        if segment.p_type != libc::PT_LOAD || segment.p_flags & libc::PF_W != 0 {
            continue;
        }
        let Ok(length) = usize::try_from(segment.p_memsz) else { continue };
        let Ok(offset) = usize::try_from(segment.p_vaddr) else { continue };
        let Ok(base) = usize::try_from(object.dlpi_addr) else { continue };
        let start = base.wrapping_add(offset);
        // Whole pages only; a neighbour on the same page is another segment's.
        let first = start.next_multiple_of(page);
        let end = start.wrapping_add(length) / page * page;
        // SAFETY: the segment was never writable, so its pages are the file's, and mapping them again
        // shows the same bytes to whoever runs in them at this moment.
        unsafe {
            libc::madvise(first as *mut libc::c_void, end.saturating_sub(first), libc::MADV_DONTNEED);
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use std::fs;

    /// KiB of this program's code that are mapped.
    fn code() -> u64 {
        let program = fs::read_link("/proc/self/exe").unwrap();
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut counts = false;
        let mut sum = 0;
        for line in smaps.lines() {
            if let Some(size) = line.strip_prefix("Rss:") {
                let kib: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
                sum += if counts { kib } else { 0 };
            } else if line.contains('-') {
                counts = line.contains(" r-xp ") && line.ends_with(program.to_str().unwrap());
            }
        }
        sum
    }

    #[test]
    fn code_that_ran_is_mapped_no_more_and_runs_again() {
        let table = vec![1u8; 100_000];
        // Other tests run meanwhile, and have theirs mapped again.
        let becomes_less = || {
            let before = code();
            super::release_code();
            code() < before
        };
        assert!((0..1000).any(|_| becomes_less()), "{} KiB of code stay mapped", code());
        assert_eq!(table.iter().map(|&n| u64::from(n)).sum::<u64>(), 100_000);
    }
}
