//! A worker's jail from the inside: what it can reach (its folder) and what kills it.
//!
//! Each case runs in a child that entered the jail; there is no test harness, because processes
//! with threads do not fork. Needs root.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;

use hull_runtime::worker;
use hull_sys::process::{self, Ended, Forked};

const SIGSYS: i32 = 31;

fn main() {
    assert!(rustix::process::geteuid().is_root(), "these tests need root");
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("canary"), "alive").unwrap();
    let inside = outside.path().join("folder");
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(inside.join("own"), "mine").unwrap();
    std::os::unix::fs::symlink("../canary", inside.join("up")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("canary"), inside.join("across")).unwrap();

    let alive = Ended::Exited(0);
    check(&inside, "its own files can be read and written", alive, |_| {
        std::fs::read("/own").unwrap() == b"mine" && std::fs::write("/new", "made").is_ok()
    });
    assert_eq!(std::fs::read(inside.join("new")).unwrap(), b"made");
    let canary = outside.path().join("canary");
    check(&inside, "the host's files are not there", alive, move |_| {
        // Writing may make a file, but in the folder; the canary is looked at in the end.
        ["/up", "/across", "/../canary", "/proc/self/exe", "/dev/null", "/etc/passwd", "/bin/sh"]
            .iter()
            .map(Path::new)
            .chain([canary.as_path()])
            .all(|path| {
                let hidden = std::fs::read(path).is_err();
                let _ = std::fs::write(path, "dead");
                hidden || std::fs::read(path).is_ok_and(|bytes| bytes == b"dead")
            })
    });
    check(&inside, "a folder's parents end at its root", alive, |_| {
        let names = std::fs::read_dir("/../../..").unwrap().map(|entry| entry.unwrap().file_name());
        names.into_iter().all(|name| name != "folder")
    });
    check(&inside, "a device file cannot be opened", alive, |root| {
        use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
        let null = makedev(1, 3);
        mknodat(root, "null", FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, null).unwrap();
        let opened = rustix::fs::openat(CWD, "/null", rustix::fs::OFlags::RDONLY, Mode::empty());
        opened.is_err_and(|errno| errno == rustix::io::Errno::ACCESS)
    });
    check(&inside, "a thread can be made", alive, |_| std::thread::spawn(|| 7).join().unwrap() == 7);
    let killed = Ended::Killed(SIGSYS);
    check(&inside, "a socket kills", killed, |_| TcpListener::bind("127.0.0.1:0").is_ok());
    check(&inside, "a mount kills", killed, |_| {
        rustix::mount::mount("x", "/", "tmpfs", rustix::mount::MountFlags::empty(), None).is_ok()
    });
    check(&inside, "a namespace kills", killed, |_| {
        process::unshare(process::Namespaces::UTS).is_ok() || {
            // Without /proc our own wrapper cannot count threads: the bare call.
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&std::io::stdin()), None)
                .is_ok()
        }
    });
    check(&inside, "a program kills", killed, |_| {
        let strings = process::Strings::new(["/own"]).unwrap();
        process::exec(c"/own", &strings, &process::Strings::default());
        true
    });
    check(&inside, "a signal to another process kills", killed, |_| {
        rustix::process::kill_process(rustix::process::getppid().unwrap(), rustix::process::Signal::TERM)
            .is_ok()
    });
    assert_eq!(std::fs::read(outside.path().join("canary")).unwrap(), b"alive");
}

/// Runs `case` in a child that has entered the jail; true is exit code 0.
#[expect(clippy::print_stdout, reason = "a test without a harness says itself what it tests")]
fn check(folder: &Path, what: &str, expected: Ended, case: impl FnOnce(&OwnedFd) -> bool) {
    let ended = match process::fork().unwrap() {
        Forked::Parent(child) => process::wait(&child.pidfd, true).unwrap().unwrap(),
        Forked::Child => {
            let folder: OwnedFd = std::fs::File::open(folder).unwrap().into();
            let code = match worker::enter(folder) {
                Ok(root) => i32::from(!case(&root)),
                Err(error) => {
                    println!("{error:?}");
                    9
                }
            };
            process::exit_now(code)
        }
    };
    assert_eq!(ended, expected, "{what}");
    println!("{what}: ok");
}
