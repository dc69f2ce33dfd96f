//! A container's root that lies in wait for whoever joins it (K04): in a tight loop it looks into
//! every process that appears, for descriptors, memory and links of the engine's own. It is this
//! very executable, run inside with what it needs bound from the host, as powerful as a container's
//! root is by default.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use hull_runtime::bundle::Bundle;
use hull_runtime::container::{Started, Streams};
use hull_sys::process::{self, Forked, Namespaces};

use crate::attack::rounds;
use crate::joined::{exec_of, run};
use crate::world::{CAPABILITIES, World, end, mount, snapshot};

crate::tests! {
    whoever_joins_cannot_be_looked_into
    fields_longer_than_any_buffer_arrive_whole_or_are_refused
}

/// Execs that are lain in wait for here, and in `cargo xtask soak`.
const EXECS: [usize; 2] = [60, 3_000];

/// The word by which `main` knows that it is the thief.
pub(crate) const THIEF: &str = "hull-test-thief";

/// What a look into a process has brought.
#[derive(Debug, PartialEq)]
enum Look {
    /// It has gone, or is what it seems: a program of the container.
    Nothing,
    Denied,
    Stolen(String),
}

/// The thief: never ends. Tells each theft once, and how often it looked and was kept out.
pub(crate) fn lie_in_wait() -> ! {
    let own = std::process::id();
    let (mut told, mut looks, mut denied) = (BTreeSet::new(), 0u64, 0u64);
    let mut out = std::io::stdout().lock();
    for round in 1u64.. {
        for pid in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = pid.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            if pid == own {
                continue;
            }
            for look in [descriptors(pid), links(pid), memory(pid)] {
                looks += 1;
                match look {
                    Look::Nothing => {}
                    Look::Denied => denied += 1,
                    Look::Stolen(what) => {
                        if told.insert(what.clone()) {
                            writeln!(out, "stolen {what}").unwrap();
                            out.flush().unwrap();
                        }
                    }
                }
            }
        }
        if round.is_multiple_of(64) {
            writeln!(out, "looks {looks} denied {denied}").unwrap();
            out.flush().unwrap();
        }
    }
    unreachable!("a loop without end");
}

fn refused(error: &std::io::Error) -> Look {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => Look::Denied,
        _ => Look::Nothing,
    }
}

/// A program of the container has pipes and /dev/null, and, while busybox starts, what that opens
/// of its own.
fn descriptors(pid: u32) -> Look {
    let entries = match std::fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(entries) => entries,
        Err(error) => return refused(&error),
    };
    for entry in entries.flatten() {
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let target = target.display().to_string();
        let lawful = target == "/dev/null" || target.starts_with("pipe:") || target.starts_with("/bin/");
        if !lawful {
            return Look::Stolen(format!("descriptor {target}"));
        }
    }
    Look::Nothing
}

fn links(pid: u32) -> Look {
    match std::fs::read_link(format!("/proc/{pid}/exe")) {
        Ok(exe) if exe != Path::new("/bin/busybox") => return Look::Stolen(format!("exe {}", exe.display())),
        Ok(_) => {}
        Err(error) => return refused(&error),
    }
    // The host's, if it is.
    match std::fs::metadata(format!("/proc/{pid}/root/{}", std::env::args().nth(2).unwrap())) {
        Ok(_) => Look::Stolen("root of the host".to_owned()),
        Err(_) => Look::Nothing,
    }
}

/// Opened as /proc/PID/mem needs the same right as ptrace(2) does to attach; what was read of the
/// maps says whose memory it is.
fn memory(pid: u32) -> Look {
    if let Err(error) = std::fs::File::options().read(true).write(true).open(format!("/proc/{pid}/mem")) {
        return refused(&error);
    }
    match std::fs::read_to_string(format!("/proc/{pid}/maps")) {
        Ok(maps) if maps.contains("/hull") || maps.contains("container-") => {
            Look::Stolen("memory".to_owned())
        }
        _ => Look::Nothing,
    }
}

/// The container with the thief as its first process, and the file that it reports to.
fn with_thief(world: &World) -> (Bundle, Started, tempfile::NamedTempFile) {
    let canary = world.canary().join("file").display().to_string();
    let mut bundle = world.bundle(&["/attack/thief", THIEF, &canary]);
    let own = std::env::current_exe().unwrap();
    bundle.spec.mounts.push(mount("/attack/thief", "bind", own.to_str().unwrap(), "bind,ro"));
    for libraries in ["/lib", "/lib64", "/usr/lib"] {
        if let Ok(found) = std::fs::canonicalize(libraries) {
            bundle.spec.mounts.push(mount(libraries, "bind", found.to_str().unwrap(), "rbind,ro"));
        }
    }
    let report = tempfile::NamedTempFile::new().unwrap();
    let open = || std::os::fd::OwnedFd::from(report.reopen().unwrap());
    let stdin = std::fs::File::open("/dev/null").unwrap().into();
    let started = world.start(&bundle, &Streams::Files { stdin, stdout: open(), stderr: open() }).unwrap();
    until(|| std::fs::metadata(&report).unwrap().len() > 0, || "the thief is silent".to_owned());
    (bundle, started, report)
}

#[derive(Debug, Default)]
struct Told {
    thefts: Vec<String>,
    looks: u64,
    denied: u64,
}

fn told(report: &tempfile::NamedTempFile) -> Told {
    let mut told = Told::default();
    for line in std::fs::read_to_string(report).unwrap().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["stolen", ..] => told.thefts.push(line.to_owned()),
            ["looks", looks, "denied", denied] => {
                (told.looks, told.denied) = (looks.parse().unwrap(), denied.parse().unwrap_or(0));
            }
            _ => {}
        }
    }
    told
}

fn until(mut done: impl FnMut() -> bool, why: impl Fn() -> String) {
    let start = std::time::Instant::now();
    while !done() {
        assert!(start.elapsed().as_secs() < 20, "it did not come to pass: {}", why());
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

fn stop(started: Started) {
    process::signal(&started.pidfd, 9).unwrap();
    end(started.pidfd, &started.cgroup);
}

fn whoever_joins_cannot_be_looked_into(world: &World) {
    let (bundle, started, report) = with_thief(world);
    for _ in 0..rounds(EXECS) {
        assert_eq!(run(world, &exec_of(&bundle, &["true"]), &started).unwrap().code, 0);
    }
    let Told { thefts, looks, denied } = told(&report);
    println!("  {} execs, {looks} looks, {denied} of them denied", rounds(EXECS));
    assert!(thefts.is_empty(), "{thefts:?}");
    assert!(denied > 0, "the thief met nobody on the way");
    // The control: who joins with the same rights and takes no care is robbed by the same thief.
    let (mut hold, release) = std::io::pipe().unwrap();
    let Forked::Parent(careless) = process::fork().unwrap() else {
        drop(release);
        process::join(&started.pidfd, Namespaces::PID).unwrap();
        let Forked::Parent(inside) = process::fork().unwrap() else {
            let _secret = std::fs::File::open(world.canary().join("file")).unwrap();
            let names = CAPABILITIES.iter().filter_map(|name| hull_sys::cred::capability(name));
            let all = names.fold(rustix::thread::CapabilitySet::empty(), |all, one| all | one);
            let sets = rustix::thread::CapabilitySets {
                effective: all,
                permitted: all,
                inheritable: rustix::thread::CapabilitySet::empty(),
            };
            hull_sys::cred::set_capabilities(sets).unwrap();
            let dumpable = rustix::process::DumpableBehavior::Dumpable;
            rustix::process::set_dumpable_behavior(dumpable).unwrap();
            let _ = std::io::Read::read(&mut hold, &mut [0]);
            process::exit_now(0)
        };
        process::wait(&inside.pidfd, true).unwrap();
        process::exit_now(0)
    };
    let stolen = |kind: &str| told(&report).thefts.iter().any(|what| what.starts_with(kind));
    until(
        || ["stolen descriptor", "stolen exe", "stolen memory"].into_iter().all(stolen),
        || format!("{:?}", told(&report)),
    );
    drop((hold, release));
    process::wait(&careless.pidfd, true).unwrap();
    stop(started);
}

fn fields_longer_than_any_buffer_arrive_whole_or_are_refused(world: &World) {
    const LONG: usize = 64 * 1024 + 1;
    let canary = world.canary();
    let before = snapshot(&canary);
    let long = "x".repeat(LONG);
    let mut bundle = world.bundle(&["sh", "-c", "echo ${#LONG} ${#0} $(printf %s $LONG | wc -c)", &long]);
    bundle.spec.process.as_mut().unwrap().env.push(format!("LONG={long}"));
    assert_eq!(world.output(&bundle), format!("{LONG} {LONG} {LONG}\n"));
    let paths = format!("/{}", "x/".repeat(LONG / 2));
    type Change = fn(&mut Bundle, &str);
    let changes: [(&str, Change); 9] = [
        ("hostname", |bundle, long| bundle.spec.hostname = long.to_owned()),
        ("domainname", |bundle, long| bundle.spec.domainname = long.to_owned()),
        ("cwd", |bundle, long| bundle.spec.process.as_mut().unwrap().cwd = format!("/{long}")),
        ("program", |bundle, long| bundle.spec.process.as_mut().unwrap().args = vec![long.to_owned()]),
        ("destination", |bundle, long| bundle.spec.mounts.push(mount(long, "tmpfs", "tmpfs", ""))),
        ("source", |bundle, long| bundle.spec.mounts.push(mount("/v", "bind", long, "bind"))),
        ("option", |bundle, long| bundle.spec.mounts.push(mount("/v", "tmpfs", "tmpfs", long))),
        ("sysctl", |bundle, long| drop(bundle.spec.linux.sysctl.insert(format!("net.{long}"), "1".into()))),
        ("groups", |bundle, _| {
            let groups = (1..=u32::try_from(LONG).unwrap()).collect();
            bundle.spec.process.as_mut().unwrap().user.additional_gids = groups;
        }),
    ];
    for (name, change) in changes {
        for long in [&long, &paths] {
            let mut bundle = world.bundle(&["true"]);
            change(&mut bundle, long);
            let error = world.run(&bundle).expect_err(name);
            assert!(!error.message.is_empty() && !error.message.contains("panicked"), "{name}: {error}");
        }
    }
    assert_eq!(snapshot(&canary), before);
    assert_eq!(world.sh("echo fine"), "fine\n");
}
