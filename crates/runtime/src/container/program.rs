//! The last steps before somebody else's program runs: limits, user, capabilities, working
//! directory, filters, and exec itself. Start and exec share them.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use hull_oci::runtime::{Capabilities, Process};
use hull_sys::error::During;
use hull_sys::process::Strings;
use hull_sys::{Errno, cred, rlimit};
use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::failure::{OrFail, Result, go_text, invalid, not_executable, not_found};
use crate::bundle::StartError;
use crate::seccomp::Program;

/// `docker` and `runc` take this one when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Before the root is left: what is written to the host's own /proc.
pub(super) fn adjust_oom_score(process: &Process, warnings: &mut Vec<String>) -> Result<()> {
    let Some(wanted) = process.oom_score_adj else { return Ok(()) };
    let path = "/proc/self/oom_score_adj";
    let file = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).or_host()?;
    match rustix::io::write(&file, wanted.to_string().as_bytes()) {
        Ok(_) => Ok(()),
        // Lowering it needs CAP_SYS_RESOURCE: what is allowed is what we have.
        Err(Errno::ACCESS | Errno::PERM) => {
            warnings.push(format!("oom score {wanted}: this host does not allow lowering it; left as it is"));
            Ok(())
        }
        Err(errno) => Err(errno).during("write", || format!("{path}, {wanted}")).or_host(),
    }
}

/// Raises limits to what the program is to have, while the right to do so is there; a hard limit
/// above our own is lowered to it where we may not. What is to be less waits for [`lower_limits`]:
/// we need more files than some programs may have.
pub(super) fn raise_limits(process: &Process, warnings: &mut Vec<String>) -> Result<()> {
    for limit in &process.rlimits {
        let (kind, wanted) = rlimit_of(limit)?;
        let have = rustix::process::getrlimit(kind);
        let raised = Rlimit {
            current: most(have.current, wanted.current),
            maximum: most(have.maximum, wanted.maximum),
        };
        if raised == have {
            continue;
        }
        match rustix::process::setrlimit(kind, raised) {
            Ok(()) => {}
            Err(Errno::PERM) => {
                let clamped = Rlimit { current: least(raised.current, have.maximum), maximum: have.maximum };
                rustix::process::setrlimit(kind, clamped)
                    .during("setrlimit", || format!("{}, {clamped:?}", limit.kind))
                    .or_host()?;
                let shown = have.maximum.map_or("unlimited".to_owned(), |n| n.to_string());
                warnings.push(format!("{}: this host allows at most {shown}; lowered to it", limit.kind));
            }
            Err(errno) => return Err(refused(limit, errno)),
        }
    }
    Ok(())
}

/// Lowers what the program is to have less of than we do.
pub(super) fn lower_limits(process: &Process) -> Result<()> {
    for limit in &process.rlimits {
        let (kind, wanted) = rlimit_of(limit)?;
        let have = rustix::process::getrlimit(kind);
        let lowered = Rlimit {
            current: least(have.current, wanted.current),
            maximum: least(have.maximum, wanted.maximum),
        };
        if lowered != have {
            rustix::process::setrlimit(kind, lowered).map_err(|errno| refused(limit, errno))?;
        }
    }
    Ok(())
}

/// What is asked for; a soft limit above the hard one is refused as the kernel does it.
fn rlimit_of(limit: &hull_oci::runtime::Rlimit) -> Result<(Resource, Rlimit)> {
    let kind = rlimit::by_name(&limit.kind)
        .ok_or_else(|| invalid(format!("invalid rlimit type: {}", limit.kind)))?;
    if limit.soft > limit.hard {
        return Err(refused(limit, Errno::INVAL));
    }
    let value = |n: u64| (n != u64::MAX).then_some(n);
    Ok((kind, Rlimit { current: value(limit.soft), maximum: value(limit.hard) }))
}

fn refused(limit: &hull_oci::runtime::Rlimit, errno: Errno) -> StartError {
    let asked = || format!("{}, {}, {}", limit.kind, limit.soft, limit.hard);
    match Err::<(), _>(errno).during("setrlimit", asked).or_invalid(|| "rlimits".into()) {
        Err(error) => error,
        Ok(()) => invalid(asked()),
    }
}

/// `None` is without limit.
fn most(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.zip(b).map(|(a, b)| a.max(b))
}

fn least(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.into_iter().chain(b).min()
}

/// The sets that the kernel will be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CapabilityPlan {
    bounding: CapabilitySet,
    sets: CapabilitySets,
    ambient: CapabilitySet,
}

/// What of the asked capabilities can be had: nothing that this process does not have itself
/// (`mine`), permitted only within bounding, effective within permitted, ambient within permitted
/// and inheritable. Names that the kernel does not know grant nothing.
pub(super) fn plan_capabilities(asked: Option<&Capabilities>, mine: CapabilitySet) -> CapabilityPlan {
    let none = Capabilities::default();
    let asked = asked.unwrap_or(&none);
    let set = |names: &[String]| {
        let known = names.iter().filter_map(|name| cred::capability(name));
        known.fold(CapabilitySet::empty(), |all, one| all | one) & mine
    };
    let bounding = set(&asked.bounding);
    let permitted = set(&asked.permitted);
    let inheritable = set(&asked.inheritable);
    let sets = CapabilitySets { effective: set(&asked.effective) & permitted, permitted, inheritable };
    CapabilityPlan { bounding, sets, ambient: set(&asked.ambient) & permitted & inheritable }
}

/// Becomes the process' user with exactly its capabilities, then enters its working directory.
///
/// The working directory is entered twice if need be: a folder may be closed to the user and open
/// to root (tried before), or to the user and not to root (network file systems, tried after).
pub(super) fn become_user(process: &Process) -> Result<()> {
    let mine = cred::capabilities().or_host()?.permitted & CapabilitySet::from_bits_retain(u64::MAX >> 1);
    let plan = plan_capabilities(process.capabilities.as_ref(), mine);
    let early = enter(&process.cwd);
    cred::limit_bounding(plan.bounding).or_host()?;
    let user = &process.user;
    if user.uid != 0 {
        rustix::thread::set_keep_capabilities(true).or_host()?;
    }
    cred::set_user(user.uid, user.gid, &user.additional_gids).or_host()?;
    if user.uid != 0 {
        rustix::thread::set_keep_capabilities(false).or_host()?;
    }
    cred::set_capabilities(plan.sets).or_host()?;
    if !plan.ambient.is_empty() {
        cred::set_ambient(plan.ambient).or_host()?;
    }
    match early {
        Ok(()) => Ok(()),
        Err(_) => enter(&process.cwd).map_err(|errno| {
            let text =
                format!("chdir to cwd ({:?}) set in config.json failed: {}", process.cwd, go_text(errno));
            // As the reference counts it: 127 from `docker exec`.
            if errno == Errno::NOENT { not_found(text) } else { invalid(text) }
        }),
    }
}

/// chdir(2), and a look at where that led: a descriptor of the host must not have been a way out
/// (`--workdir /proc/self/fd/N`). The kernel gives a path outside of the root as `(unreachable)…`.
fn enter(cwd: &str) -> std::result::Result<(), Errno> {
    let cwd = if cwd.is_empty() { "/" } else { cwd };
    rustix::process::chdir(cwd)?;
    if cwd == "/" {
        return Ok(());
    }
    let inside = matches!(rustix::process::getcwd(Vec::new()), Ok(path) if path.to_bytes().starts_with(b"/"));
    if inside {
        return Ok(());
    }
    rustix::process::chdir(c"/")?;
    Err(Errno::NOENT)
}

/// The file to execute, as Go's exec.LookPath finds it and in its words.
pub(super) fn look_up(process: &Process) -> Result<String> {
    let name = process.args.first().filter(|name| !name.is_empty());
    let Some(name) = name else { return Err(invalid("process.args must not be empty")) };
    if name.contains('/') {
        return match executable(name) {
            Ok(()) => Ok(name.clone()),
            Err(Found::Missing(errno)) if errno == Errno::NOENT => {
                Err(not_found(format!("exec: {name:?}: stat {name}: {}", go_text(errno))))
            }
            Err(Found::Missing(errno)) => {
                Err(not_executable(format!("exec: {name:?}: stat {name}: {}", go_text(errno))))
            }
            Err(Found::Folder) => {
                Err(not_executable(format!("exec: {name:?}: is a directory: permission denied")))
            }
            Err(Found::Denied) => Err(not_executable(format!("exec: {name:?}: permission denied"))),
        };
    }
    let path = process.env.iter().rev().find_map(|entry| entry.strip_prefix("PATH="));
    for dir in path.unwrap_or(DEFAULT_PATH).split(':') {
        let candidate = format!("{}/{name}", if dir.is_empty() { "." } else { dir.trim_end_matches('/') });
        if executable(&candidate).is_ok() {
            return Ok(candidate);
        }
    }
    Err(not_found(format!("exec: {name:?}: executable file not found in $PATH")))
}

enum Found {
    Missing(Errno),
    Folder,
    Denied,
}

fn executable(path: &str) -> std::result::Result<(), Found> {
    let stat = rustix::fs::stat(path).map_err(Found::Missing)?;
    if FileType::from_raw_mode(stat.st_mode).is_dir() {
        return Err(Found::Folder);
    }
    // Root may "execute" what has no x bit at all for access(2), but not for execve(2).
    let some_bit = stat.st_mode & 0o111 != 0;
    match rustix::fs::accessat(rustix::fs::CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        Ok(()) if some_bit => Ok(()),
        _ => Err(Found::Denied),
    }
}

/// The label that the next exec gives this process, through `proc`, a private /proc.
pub(super) fn set_label(process: &Process) -> Result<()> {
    let (module, text) = match (&*process.apparmor_profile, &*process.selinux_label) {
        ("", "") => return Ok(()),
        ("", label) => ("", label.to_owned()),
        (profile, _) => ("apparmor/", format!("exec {profile}")),
    };
    let proc = hull_sys::mount::new("proc", &[("subset", Some("pid"))], 0).or_host()?;
    let proc = hull_sys::root::Root { fd: proc };
    let pid = rustix::process::getpid().as_raw_nonzero();
    let path = format!("{pid}/attr/{module}exec");
    let file = proc.open_file(Path::new(&path), OFlags::WRONLY, Mode::empty());
    let file = file.or_invalid(|| format!("label {text:?}"))?;
    rustix::io::write(&file, text.as_bytes()).or_invalid(|| format!("label {text:?}"))?;
    Ok(())
}

pub(super) fn install(filter: &Program) -> Result<()> {
    // A listener's descriptor would have to reach somebody; nobody asks for one.
    hull_sys::seccomp::install(&filter.filter, filter.flags).or_host().map(drop)
}

/// Arguments and environment, ready for the kernel.
pub(super) struct ExecStrings {
    args: Strings,
    env: Strings,
}

/// With HOME added where the environment has none.
pub(super) fn strings(process: &Process) -> Result<ExecStrings> {
    let env = process.env.iter().map(String::as_str);
    let home = needs_home(process).map(|home| format!("HOME={home}"));
    let env = Strings::new(env.chain(home.as_deref())).or_invalid(|| "environment".into())?;
    Ok(ExecStrings { args: Strings::new(&process.args).or_invalid(|| "arguments".into())?, env })
}

/// Executes the program; comes back with a failure only.
pub(super) fn execute(path: &str, strings: &ExecStrings) -> Errno {
    match std::ffi::CString::new(path) {
        Ok(path) => hull_sys::process::exec(&path, &strings.args, &strings.env),
        Err(_) => Errno::INVAL,
    }
}

/// The home folder to add to an environment without HOME: of the container's own /etc/passwd.
fn needs_home(process: &Process) -> Option<String> {
    if process.env.iter().any(|entry| entry.starts_with("HOME=")) {
        return None;
    }
    let wanted = process.user.uid.to_string();
    let file =
        rustix::fs::open("/etc/passwd", OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
    let mut text = Vec::new();
    if let Ok(file) = file {
        let file = std::fs::File::from(file);
        let _ = std::io::Read::read_to_end(&mut std::io::Read::take(file, 1 << 20), &mut text);
    }
    let text = String::from_utf8_lossy(&text);
    let home = text.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        (fields.len() >= 6 && fields[2] == wanted).then(|| fields[5].to_owned())
    });
    Some(home.filter(|home| !home.is_empty()).unwrap_or_else(|| "/".into()))
}

/// Says on the container's own standard error why exec failed, as the reference's runtime does, and
/// ends with its code. The container has started by then in everybody's eyes.
pub(super) fn exec_failed(path: &str, errno: Errno) -> ! {
    let text = format!("exec {path}: {}\n", go_text(errno));
    let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
    hull_sys::process::exit_now(255)
}

/// The standard streams become the container's user's, so that `> /dev/stderr` works for it.
pub(super) fn own_streams(process: &Process) {
    let (uid, gid) = (process.user.uid, process.user.gid);
    if (uid, gid) == (0, 0) {
        return;
    }
    for fd in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let Ok(stat) = rustix::fs::fstat(fd) else { continue };
        let null = FileType::from_raw_mode(stat.st_mode).is_char_device()
            && stat.st_rdev == rustix::fs::makedev(1, 3);
        // /dev/null may be the host's own; a socket or a read-only file system may refuse.
        if !null && stat.st_uid != uid {
            let _ = rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(uid)), None);
        }
    }
}

/// Duplicates `streams` onto 0, 1 and 2.
pub(super) fn take_streams(streams: [&OwnedFd; 3]) -> Result<()> {
    use std::os::fd::AsFd;
    let duplicates = streams.map(|fd| fd.as_fd());
    debug_assert!(duplicates.iter().all(|fd| fd.as_raw_fd() >= 0));
    hull_sys::process::set_standard_streams(duplicates).or_host()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn capabilities_never_exceed_what_we_have() {
        let asked = Capabilities {
            bounding: names(&["CAP_CHOWN", "CAP_SYS_RESOURCE", "CAP_NOSUCH"]),
            effective: names(&["CAP_CHOWN", "CAP_KILL"]),
            permitted: names(&["CAP_CHOWN", "CAP_SYS_RESOURCE"]),
            ..Capabilities::default()
        };
        let mine = CapabilitySet::all() - CapabilitySet::SYS_RESOURCE;
        let plan = plan_capabilities(Some(&asked), mine);
        assert_eq!(plan.bounding, CapabilitySet::CHOWN);
        assert_eq!(plan.sets.permitted, CapabilitySet::CHOWN);
        assert_eq!(plan.sets.effective, CapabilitySet::CHOWN);
        assert_eq!(plan.sets.inheritable, CapabilitySet::empty());
        assert_eq!(plan.ambient, CapabilitySet::empty());
    }

    #[test]
    fn ambient_is_only_what_is_permitted_and_inheritable() {
        let asked = Capabilities {
            permitted: names(&["CAP_CHOWN", "CAP_KILL"]),
            inheritable: names(&["CAP_CHOWN"]),
            ambient: names(&["CAP_CHOWN", "CAP_KILL"]),
            ..Capabilities::default()
        };
        let plan = plan_capabilities(Some(&asked), CapabilitySet::all());
        assert_eq!(plan.ambient, CapabilitySet::CHOWN);
    }

    #[test]
    fn no_capabilities_asked_are_none_given() {
        let plan = plan_capabilities(None, CapabilitySet::all());
        assert!(plan.bounding.is_empty() && plan.sets.permitted.is_empty());
    }
}
