//! bpf(2), as far as a device filter needs it: load a program, attach it to a cgroup.
//!
//! The program is attached with `BPF_PROG_ATTACH` and stays until the cgroup is removed. A
//! `BPF_LINK_CREATE` link would go with its descriptor, that is, with the process that made it,
//! and a container outlives that one (`hull-runtime create` ends before `start`).

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use crate::error::ShowFd;
use crate::{Errno, Error, Result};

/// One eBPF instruction (`struct bpf_insn`, linux/bpf.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    pub code: u8,
    /// Destination in the low, source in the high four bits.
    pub registers: u8,
    /// Of a jump: instructions to skip; of a load: bytes.
    pub offset: i16,
    pub immediate: i32,
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Programs of the parents run too, and all must agree.
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The part of `union bpf_attr` that BPF_PROG_LOAD reads.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

/// The part of `union bpf_attr` that BPF_PROG_ATTACH reads.
#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// Loads a program that decides over device accesses of a cgroup (BPF_PROG_TYPE_CGROUP_DEVICE).
/// Its context is `struct bpf_cgroup_dev_ctx`; it returns 1 to allow.
///
/// # Errors
/// EPERM without CAP_BPF (or in a user namespace), EINVAL when the verifier rejects the program
/// or the kernel has no BPF for cgroups, ENOSYS without bpf(2).
pub fn load_device_filter(program: &[Instruction]) -> Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut attr = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).unwrap_or(u32::MAX),
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..Load::default()
    };
    attr.prog_name[..12].copy_from_slice(b"hull_devices");
    // SAFETY: `attr` is a prefix of bpf_attr of exactly the given size, all padding-free and
    // initialised; the program and the licence it points to live until the call returns, and
    // the kernel reads `insn_cnt` instructions of 8 bytes, the layout of `Instruction`.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw mut attr, size_of::<Load>()) };
    let failed = || Error::new("bpf", last(), format!("BPF_PROG_LOAD, {} instructions", program.len()));
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(failed)?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it. It is
    // close-on-exec by itself.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a loaded filter to a v2 cgroup, given as an open folder.
///
/// # Errors
/// EPERM when a parent forbids programs below itself; EBADF when it is no v2 cgroup.
pub fn attach_device_filter(cgroup: impl AsFd, program: &OwnedFd) -> Result<()> {
    let cgroup = cgroup.as_fd();
    let mut attr = Attach {
        target_fd: cgroup.as_raw_fd().cast_unsigned(),
        attach_bpf_fd: program.as_raw_fd().cast_unsigned(),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: `attr` is a prefix of bpf_attr of exactly the given size; both descriptors are
    // open for the whole call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw mut attr, size_of::<Attach>()) };
    if done == 0 {
        return Ok(());
    }
    Err(Error::new("bpf", last(), format!("BPF_PROG_ATTACH, {}", ShowFd(cgroup))))
}

fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETURN_0: [Instruction; 2] = [
        Instruction { code: 0xb7, registers: 0, offset: 0, immediate: 0 },
        Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 },
    ];

    #[test]
    fn a_program_is_loaded_and_a_broken_one_is_refused() {
        load_device_filter(&RETURN_0).unwrap();
        let error = load_device_filter(&RETURN_0[..1]).unwrap_err();
        assert_eq!(error.errno, Errno::INVAL);
    }

    #[test]
    fn only_a_cgroup_takes_a_program() {
        let program = load_device_filter(&RETURN_0).unwrap();
        let folder = std::fs::File::open("/proc").unwrap();
        let error = attach_device_filter(&folder, &program).unwrap_err();
        assert_eq!(error.errno, Errno::BADF);
        assert!(error.to_string().contains("/proc"), "{error}");
    }
}
