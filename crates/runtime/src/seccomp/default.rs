//! The default profile: what a container may call unless told otherwise.
//!
//! Equal in effect to the default of Docker Engine 28 and 29 (an allow-list of about 360 calls;
//! all others fail with EPERM), so that what runs there runs here; as a table by purpose, with
//! the condition of each exception beside it. One thing is stricter: the kernel takes socket(2)'s
//! family as 32 bits, but Docker's rules compare 64, so that a family with rubbish in the upper
//! half passes them; ours looks at what the kernel looks at.
//!
//! What stays closed, and why (SECURITY notes of the kernel's history): AF_ALG and AF_VSOCK
//! sockets, io_uring, keyctl, userfaultfd, kexec, new mount calls, namespaces through clone and
//! clone3. clone3 takes its flags by pointer, out of a filter's sight, so it fails with ENOSYS and
//! C libraries fall back to clone.

use std::collections::BTreeSet;

use hull_oci::runtime::{Seccomp, SyscallArg, SyscallRule};

use super::{Arch, Kernel};

/// Clocks, timers and sleep, also with the 64-bit times of 32-bit machines.
const TIME: &str = "\
adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime \
clock_gettime64 clock_nanosleep clock_nanosleep_time64 futex_time64 futimesat getitimer \
gettimeofday io_pgetevents_time64 mq_timedreceive_time64 mq_timedsend_time64 nanosleep \
ppoll_time64 pselect6_time64 recvmmsg_time64 rt_sigtimedwait_time64 sched_rr_get_interval_time64 \
semtimedop_time64 setitimer time timer_create timer_delete timer_getoverrun timer_gettime \
timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 \
timerfd_settime timerfd_settime64 times utime utimensat utimensat_time64 utimes";

/// Sockets.
const NETWORK: &str = "\
accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg \
recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair";

/// System V and POSIX queues, semaphores, shared memory.
const IPC: &str = "\
ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv \
msgsnd semctl semget semop semtimedop shmat shmctl shmdt shmget";

/// Waiting for descriptors, and descriptors to wait for.
const EVENTS: &str = "\
_newselect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 \
epoll_wait epoll_wait_old eventfd eventfd2 fanotify_mark inotify_add_watch inotify_init \
inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_setup \
io_submit poll ppoll pselect6 select signalfd signalfd4";

/// Users, groups, sessions and limits.
const IDENTITY: &str = "\
capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getpgid \
getpgrp getpid getppid getpriority getresgid getresgid32 getresuid getresuid32 getrlimit \
getrusage getsid gettid getuid getuid32 prlimit64 setfsgid setfsgid32 setfsuid setfsuid32 setgid \
setgid32 setgroups setgroups32 setpgid setpriority setregid setregid32 setresgid setresgid32 \
setresuid setresuid32 setreuid setreuid32 setrlimit setsid setuid setuid32 ugetrlimit umask";

/// Signals.
const SIGNALS: &str = "\
kill pause pidfd_send_signal restart_syscall rt_sigaction rt_sigpending rt_sigprocmask \
rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sigaltstack \
sigprocmask sigreturn tgkill tkill";

/// Memory.
const MEMORY: &str = "\
brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall \
mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free \
pkey_mprotect process_mrelease remap_file_pages";

/// Processes and threads, and what they sandbox themselves with.
const PROCESSES: &str = "\
execve execveat exit exit_group fork futex futex_requeue futex_wait futex_waitv futex_wake \
get_robust_list get_thread_area getcpu ioprio_get ioprio_set landlock_add_rule \
landlock_create_ruleset landlock_restrict_self pidfd_open prctl riscv_hwprobe rseq \
sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam \
sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam \
sched_setscheduler sched_yield seccomp set_robust_list set_thread_area set_tid_address uretprobe \
vfork wait4 waitid waitpid";

/// Extended attributes.
const ATTRIBUTES: &str = "\
fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat \
llistxattr lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat";

/// Reading, writing and other work on an open file.
const DESCRIPTORS: &str = "\
_llseek close close_range copy_file_range dup dup2 dup3 fadvise64 fadvise64_64 fallocate fcntl \
fcntl64 fdatasync flock fsync ftruncate ftruncate64 getdents getdents64 ioctl lseek pipe pipe2 \
pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readv sendfile sendfile64 splice \
sync sync_file_range syncfs tee truncate truncate64 vmsplice write writev";

/// The machine.
const SYSTEM: &str = "\
getrandom sysinfo uname";

/// Names, metadata and folders.
const FILES: &str = "\
access cachestat chdir chmod chown chown32 creat faccessat faccessat2 fchdir fchmod fchmodat \
fchmodat2 fchown fchown32 fchownat fstat fstat64 fstatat64 fstatfs fstatfs64 getcwd lchown \
lchown32 link linkat listmount lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at \
newfstatat open openat openat2 readlink readlinkat rename renameat renameat2 rmdir stat stat64 \
statfs statfs64 statmount statx symlink symlinkat unlink unlinkat";

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

// linux/socket.h
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET (linux/sched.h).
const NAMESPACES: u64 = 0x7e02_0000;

/// Values of personality(2): PER_LINUX, PER_LINUX32, UNAME26, both, and the query.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// What a capability opens. With the capability dropped, the calls would fail in the kernel too;
/// closing them here takes their code out of reach.
const CAPABILITIES: [(&str, &str); 14] = [
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie \
         lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree \
         perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 \
         unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module finit_module init_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("CAP_SYS_RAWIO", "ioperm iopl"),
    ("CAP_SYS_TIME", "clock_settime clock_settime64 settimeofday stime"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

fn rule(names: &str, action: &str, errno: Option<u32>, args: &[(&str, u64, u64)]) -> SyscallRule {
    SyscallRule {
        names: names.split_whitespace().map(str::to_owned).collect(),
        action: action.to_owned(),
        errno_ret: errno,
        args: args
            .iter()
            .map(|(op, value, value_two)| SyscallArg {
                index: 0,
                value: *value,
                value_two: *value_two,
                op: format!("SCMP_CMP_{op}"),
            })
            .collect(),
    }
}

fn allow(names: &str) -> SyscallRule {
    rule(names, "SCMP_ACT_ALLOW", None, &[])
}

fn allow_if(names: &str, op: &str, value: u64, value_two: u64) -> SyscallRule {
    rule(names, "SCMP_ACT_ALLOW", None, &[(op, value, value_two)])
}

/// The profile for a container with `caps` as its bounding set, on this architecture.
pub fn default_profile(caps: &BTreeSet<String>, kernel: Kernel) -> Seccomp {
    default_profile_for(caps, kernel, Arch::NATIVE)
}

pub(super) fn default_profile_for(caps: &BTreeSet<String>, kernel: Kernel, native: Arch) -> Seccomp {
    let groups = [
        TIME,
        NETWORK,
        IPC,
        EVENTS,
        IDENTITY,
        SIGNALS,
        MEMORY,
        PROCESSES,
        ATTRIBUTES,
        DESCRIPTORS,
        SYSTEM,
        FILES,
    ];
    let mut syscalls: Vec<_> = groups.into_iter().map(allow).collect();
    // Before 4.8 a tracer could change a call after the filter had seen it.
    if kernel >= (4, 8) {
        syscalls.push(allow("process_vm_readv process_vm_writev ptrace"));
    }
    for family in [AF_ALG, AF_VSOCK] {
        let low = [("MASKED_EQ", 0xffff_ffff, family)];
        syscalls.push(rule("socket", "SCMP_ACT_ERRNO", Some(EPERM), &low));
    }
    syscalls.push(allow("socket"));
    syscalls.extend(PERSONALITIES.map(|value| allow_if("personality", "EQ", value, 0)));
    for (capability, names) in CAPABILITIES {
        if caps.contains(capability) {
            syscalls.push(allow(names));
        }
    }
    if !caps.contains("CAP_SYS_ADMIN") {
        syscalls.push(allow_if("clone", "MASKED_EQ", NAMESPACES, 0));
        syscalls.push(rule("clone3", "SCMP_ACT_ERRNO", Some(ENOSYS), &[]));
    }
    let others: &[Arch] = match native {
        Arch::X86_64 | Arch::X86 | Arch::X32 => {
            syscalls.push(allow("arch_prctl modify_ldt"));
            &[Arch::X86_64, Arch::X86, Arch::X32]
        }
        Arch::Aarch64 | Arch::Arm => {
            syscalls.push(allow(
                "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
            ));
            &[Arch::Aarch64, Arch::Arm]
        }
    };
    Seccomp {
        default_action: "SCMP_ACT_ERRNO".to_owned(),
        default_errno_ret: Some(EPERM),
        architectures: others.iter().map(|a| a.scmp_name().to_owned()).collect(),
        syscalls,
        ..Seccomp::default()
    }
}
