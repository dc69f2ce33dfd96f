//! bpf(2), as far as programs of cgroups need it: load a program, attach it, and maps for it.
//!
//! A device filter is attached with `BPF_PROG_ATTACH` and stays until the cgroup is removed: a
//! container outlives the process that made it (`hull-runtime create` ends before `start`). What
//! serves its process alone is attached with `BPF_LINK_CREATE`: the link goes with its descriptor,
//! that is, with the process, however that ends.

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

impl Instruction {
    /// `destination` and `source` are registers, 0 to 10.
    pub const fn new(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
        Instruction { code, registers: destination | source << 4, offset, immediate }
    }
}

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
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
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The part of `union bpf_attr` that BPF_PROG_ATTACH reads.
#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// The part of `union bpf_attr` that BPF_MAP_CREATE reads.
#[repr(C)]
struct Create {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// The part of `union bpf_attr` that changes of a map's elements read.
#[repr(C)]
struct Change {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part of `union bpf_attr` that BPF_LINK_CREATE reads.
#[repr(C)]
struct Link {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// Which call of a program of the cgroup is asked about; the numbers are `enum bpf_attach_type`'s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum SocketHook {
    /// connect(2) of an IPv4 socket, before the address is used (Linux 4.17).
    Connect = 10,
    /// getpeername(2) of one, with the answer (Linux 5.8).
    PeerName = 29,
    /// getsockname(2).
    SocketName = 31,
}

/// Kinds of maps with keys; the numbers are `enum bpf_map_type`'s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    /// As many elements as it is made for, then E2BIG. Memory is taken as it is used.
    Hash = 1,
    /// The least used element makes room for a new one.
    LruHash = 9,
}

/// A map that programs look into, with keys and values of fixed sizes. It lives as long as a
/// descriptor of it or a program that uses it.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    key: usize,
    value: usize,
}

impl AsRawFd for Map {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}

impl Map {
    /// `key` and `value` are sizes in bytes.
    ///
    /// # Errors
    /// EPERM without CAP_BPF, ENOMEM, ENOSYS without bpf(2).
    pub fn new(kind: MapKind, key: usize, value: usize, most: u32) -> Result<Map> {
        /// Elements are allocated when they are put in.
        const BPF_F_NO_PREALLOC: u32 = 1;
        let size = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
        let attr = Create {
            map_type: kind as u32,
            key_size: size(key),
            value_size: size(value),
            max_entries: most,
            map_flags: if kind == MapKind::Hash { BPF_F_NO_PREALLOC } else { 0 },
        };
        // SAFETY: `attr` is a prefix of bpf_attr of exactly the given size, without padding.
        let fd =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, &raw const attr, size_of::<Create>()) };
        let fd = owned(fd, || format!("BPF_MAP_CREATE, {kind:?}, {key}, {value}, {most}"))?;
        Ok(Map { fd, key, value })
    }

    /// Puts an element in, or another value in its place.
    ///
    /// # Errors
    /// E2BIG when the map is full, EINVAL for a key or value of another size.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        if value.len() != self.value {
            return Err(Error::new("bpf", Errno::INVAL, format!("a value of {} bytes", value.len())));
        }
        self.change(BPF_MAP_UPDATE_ELEM, "BPF_MAP_UPDATE_ELEM", key, value)
    }

    /// Takes an element out; one that is not there is out already.
    ///
    /// # Errors
    /// EINVAL for a key of another size.
    pub fn remove(&self, key: &[u8]) -> Result<()> {
        match self.change(BPF_MAP_DELETE_ELEM, "BPF_MAP_DELETE_ELEM", key, &[]) {
            Err(error) if error.errno == Errno::NOENT => Ok(()),
            result => result,
        }
    }

    fn change(&self, command: libc::c_long, name: &str, key: &[u8], value: &[u8]) -> Result<()> {
        if key.len() != self.key {
            return Err(Error::new("bpf", Errno::INVAL, format!("a key of {} bytes", key.len())));
        }
        let attr = Change {
            map_fd: self.fd.as_raw_fd().cast_unsigned(),
            padding: 0,
            key: key.as_ptr() as u64,
            // What a command does not read has to be zero.
            value: if value.is_empty() { 0 } else { value.as_ptr() as u64 },
            flags: 0,
        };
        // SAFETY: `attr` is a prefix of bpf_attr of exactly the given size; the kernel reads from
        // `key` and, where an element is put in, from `value` the sizes that the map was made with,
        // which are theirs, as has been checked.
        let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const attr, size_of::<Change>()) };
        if done == 0 { Ok(()) } else { Err(Error::new("bpf", last(), name.to_owned())) }
    }
}

/// Loads a program that decides over device accesses of a cgroup (BPF_PROG_TYPE_CGROUP_DEVICE).
/// Its context is `struct bpf_cgroup_dev_ctx`; it returns 1 to allow.
///
/// # Errors
/// EPERM without CAP_BPF (or in a user namespace), EINVAL when the verifier rejects the program
/// or the kernel has no BPF for cgroups, ENOSYS without bpf(2).
pub fn load_device_filter(program: &[Instruction]) -> Result<OwnedFd> {
    load(BPF_PROG_TYPE_CGROUP_DEVICE, 0, b"hull_devices", program)
}

/// Loads a program that sees the addresses of sockets of a cgroup and may change them
/// (BPF_PROG_TYPE_CGROUP_SOCK_ADDR). Its context is `struct bpf_sock_addr`; it returns 1.
///
/// # Errors
/// As [`load_device_filter`]; EACCES too is the verifier's.
pub fn load_socket_program(hook: SocketHook, program: &[Instruction]) -> Result<OwnedFd> {
    load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, hook as u32, b"hull_loopback", program)
}

fn load(kind: u32, hook: u32, name: &[u8], program: &[Instruction]) -> Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut attr = Load {
        prog_type: kind,
        insn_cnt: u32::try_from(program.len()).unwrap_or(u32::MAX),
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        expected_attach_type: hook,
        ..Load::default()
    };
    attr.prog_name.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
    // SAFETY: `attr` is a prefix of bpf_attr of exactly the given size, all padding-free and
    // initialised; the program and the licence it points to live until the call returns, and
    // the kernel reads `insn_cnt` instructions of 8 bytes, the layout of `Instruction`.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw mut attr, size_of::<Load>()) };
    owned(fd, || format!("BPF_PROG_LOAD, {} instructions", program.len()))
}

/// The descriptor that bpf(2) has given, close-on-exec by itself.
fn owned(given: libc::c_long, arguments: impl Fn() -> String) -> Result<OwnedFd> {
    let failed = || Error::new("bpf", last(), arguments());
    let fd = i32::try_from(given).ok().filter(|fd| *fd >= 0).ok_or_else(failed)?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a program for as long as the descriptor that it gives is open, for the processes of a
/// v2 cgroup and of those below it. Programs that are there already stay.
///
/// # Errors
/// As [`attach_device_filter`]; E2BIG where 64 programs are attached.
pub fn link_socket_program(cgroup: impl AsFd, hook: SocketHook, program: &OwnedFd) -> Result<OwnedFd> {
    let cgroup = cgroup.as_fd();
    let attr = Link {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_fd: cgroup.as_raw_fd().cast_unsigned(),
        attach_type: hook as u32,
        flags: 0,
    };
    // SAFETY: `attr` is a prefix of bpf_attr of exactly the given size; both descriptors are open
    // for the whole call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, &raw const attr, size_of::<Link>()) };
    owned(fd, || format!("BPF_LINK_CREATE, {hook:?}, {}", ShowFd(cgroup)))
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
