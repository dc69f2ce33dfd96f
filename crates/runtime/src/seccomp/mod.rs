//! Seccomp: from the OCI profile to a program that the kernel runs before each system call.
//!
//! ```text
//! default   Docker's default profile, as a table of ours        -> hull_oci Seccomp
//! docker    a profile file in Docker's JSON (`--security-opt`)  -> hull_oci Seccomp
//! rules     hull_oci Seccomp -> what each number gets, per architecture
//! code      that -> classic BPF, a search tree over the numbers
//! syscalls  names and numbers
//! ```
//!
//! A linear filter of 400 instructions costs 1.75 ms to install, because the kernel runs it for
//! every call number to learn which are always allowed (`seccomp_cache_prepare`), and then
//! compiles it; the same decisions as a search tree cost a tenth. Thus the tree.
//!
//! **Meaning.** The rules for one call are tried in the order of the profile; the first whose
//! arguments all match decides, else the default action. A rule that names one argument twice
//! matches if any of its conditions does: libseccomp cannot say "both", so runc and crun read
//! it so, and profiles are written for them. Names that this table does not know are passed
//! over, as they may be of other architectures. A call of another architecture than the
//! profile's kills the process. A number above all that the profile names belongs to a kernel
//! newer than the profile, and gets ENOSYS instead of the default error, so that C libraries
//! fall back to older calls (as runc does).

mod code;
mod default;
mod docker;
mod rules;
mod syscalls;
#[cfg(test)]
mod tests;

use hull_oci::runtime::Seccomp;

pub use default::default_profile;
pub use docker::{ProfileError, profile_from_docker_json};
pub use syscalls::number;

/// A kernel release's first two numbers.
pub type Kernel = (u32, u32);

/// An architecture as its calls are numbered; several can run on one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arch {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

impl Arch {
    /// Of this build.
    #[cfg(target_arch = "x86_64")]
    pub const NATIVE: Arch = Arch::X86_64;
    #[cfg(target_arch = "aarch64")]
    pub const NATIVE: Arch = Arch::Aarch64;

    /// As libseccomp and OCI name it.
    pub fn scmp_name(self) -> &'static str {
        match self {
            Arch::X86_64 => "SCMP_ARCH_X86_64",
            Arch::X86 => "SCMP_ARCH_X86",
            Arch::X32 => "SCMP_ARCH_X32",
            Arch::Aarch64 => "SCMP_ARCH_AARCH64",
            Arch::Arm => "SCMP_ARCH_ARM",
        }
    }

    /// As Docker's profiles name it in `includes` and `excludes`.
    pub fn go_name(self) -> &'static str {
        match self {
            Arch::X86_64 => "amd64",
            Arch::X86 => "x86",
            Arch::X32 => "x32",
            Arch::Aarch64 => "arm64",
            Arch::Arm => "arm",
        }
    }

    /// `AUDIT_ARCH_*` (linux/audit.h), as the kernel tells it to the filter. x32 is told apart
    /// from x86_64 by the number only.
    fn audit(self) -> u32 {
        match self {
            Arch::X86_64 | Arch::X32 => 0xc000_003e,
            Arch::X86 => 0x4000_0003,
            Arch::Aarch64 => 0xc000_00b7,
            Arch::Arm => 0x4000_0028,
        }
    }
}

/// A filter ready for seccomp(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// `struct sock_filter`s, each as the u64 with the same bytes on a little-endian machine.
    pub filter: Vec<u64>,
    /// `SECCOMP_FILTER_FLAG_*`. With [`NEW_LISTENER`], seccomp(2) returns a descriptor that
    /// belongs to the profile's `listenerPath`.
    pub flags: u64,
}

pub const TSYNC: u64 = 1;
pub const LOG: u64 = 2;
pub const SPEC_ALLOW: u64 = 4;
pub const NEW_LISTENER: u64 = 8;
pub const WAIT_KILLABLE_RECV: u64 = 32;

/// What the kernel accepts at most (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("seccomp: {what} {name:?} is not known")]
    Unknown { what: &'static str, name: String },
    #[error("seccomp: rule for {call}: argument {index} does not exist (0 to 5)")]
    Argument { call: String, index: u32 },
    #[error("seccomp: error number {errno} is not between 0 and 4095")]
    Errno { errno: u32 },
    /// The process could not even report itself to the listener.
    #[error("seccomp: SCMP_ACT_NOTIFY cannot be {reason}")]
    Notify { reason: &'static str },
    #[error("seccomp: the profile needs {length} instructions, the kernel takes {MAX_INSTRUCTIONS}")]
    TooLong { length: usize },
}

/// Compiles a profile for this machine.
///
/// # Errors
/// Unknown words and impossible numbers; a program longer than the kernel takes.
pub fn compile(profile: &Seccomp) -> Result<Program, Error> {
    compile_for(profile, Arch::NATIVE)
}

/// [`compile`] for a machine whose own architecture is `native`, which is always part of the
/// filter.
///
/// # Errors
/// As [`compile`].
pub fn compile_for(profile: &Seccomp, native: Arch) -> Result<Program, Error> {
    let plan = rules::plan(profile, native)?;
    let filter = code::program(&plan);
    if filter.len() > MAX_INSTRUCTIONS {
        return Err(Error::TooLong { length: filter.len() });
    }
    Ok(Program { filter, flags: plan.flags })
}
