//! Nonsense on the sockets: whoever speaks it is not listened to, and nobody else notices.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use hull_runtime::protocol::{Kind, MESSAGE_MAX};
use hull_runtime::shim::Request;
use hull_sys::socket;
use rustix::net::{SocketFlags, SocketType};

use crate::house::{House, RAW, descriptors, exited, kill, until};

const NONSENSE: [&[u8]; 13] = [
    b"{",
    b"\xff\0",
    b"null",
    b"[]",
    br#"{"say":"dance"}"#,
    br#"{"say":"shim","kind":"container","id":"../../up","roles":["control"]}"#,
    br#"{"say":"shim","kind":"container","id":"a","roles":[]}"#,
    br#"{"say":"shim","kind":"container","id":"a","roles":["control","document"]}"#,
    br#"{"say":"worker","work":"diff","roles":["folder"]}"#,
    br#"{"say":"attach","stdin":true}"#,
    br#"{"say":"keep"}"#,
    br#"{"say":"keep","name":""}"#,
    br#"{"say":"drop","name":"nothing"}"#,
];

fn connect(path: &Path) -> OwnedFd {
    socket::connect(path, SocketType::SEQPACKET, SocketFlags::empty()).unwrap()
}

fn spawner_socket(house: &House) -> PathBuf {
    let folder = house.exec_root().join("spawner");
    let mut entries = std::fs::read_dir(folder).unwrap();
    entries.next().unwrap().unwrap().path()
}

fn pester(path: &Path) {
    let null = std::fs::File::open("/dev/null").unwrap();
    for nonsense in NONSENSE {
        for fds in [&[][..], &[null.as_fd()][..], &[null.as_fd(); 32][..]] {
            // It may hang up in between.
            let _ = socket::send(connect(path), nonsense, fds);
        }
    }
    let _ = socket::send(connect(path), &vec![b'x'; MESSAGE_MAX + 1], &[]);
}

#[test]
fn nonsense_said_to_the_spawner_harms_nobody() {
    let house = House::new();
    let before = descriptors(house.client.pid).len();
    pester(&spawner_socket(&house));
    let (output, exit) = house.run("a", "echo fine");
    assert_eq!((output.as_str(), exit.code), ("fine\n", 0));
    assert!(house.client.alive());
    until("all descriptors given back", || descriptors(house.client.pid).len() == before);
    assert!(!house.dir.path().join("up").exists());
}

#[test]
fn nonsense_said_to_a_shim_harms_nobody() {
    let house = House::new();
    let (connection, pid, _) = house.sleeper("a");
    let shim = house.shim_pid("a");
    let before = descriptors(shim).len();
    pester(&Kind::Container.folder(&house.exec_root(), "a").join("shim.sock"));
    until("all descriptors given back", || descriptors(shim).len() <= before);
    kill(pid);
    assert_eq!(exited(&connection).code, 137);
}

#[test]
fn sockets_without_number_are_attached_only_up_to_a_limit() {
    let house = House::new();
    let (connection, pid, _) = house.sleeper("a");
    let shim = house.shim_pid("a");
    let mut kept = Vec::new();
    for _ in 0..600 {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let attach = || connection.send(Request::Attach { attach: RAW, socket: theirs.as_fd() });
        // A full queue: the shim is at it.
        until("room in the shim's queue", || attach().is_ok());
        kept.push(ours);
    }
    until("the limit", || descriptors(shim).len() > 250);
    assert!(descriptors(shim).len() < 300);
    drop(kept);
    until("all descriptors given back", || descriptors(shim).len() < 40);
    kill(pid);
    assert_eq!(exited(&connection).code, 137);
}

#[test]
fn folders_and_sockets_are_their_owners_alone() {
    let house = House::new();
    let (connection, pid, _) = house.sleeper("a");
    let run = house.exec_root();
    let shim = Kind::Container.folder(&run, "a");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for folder in [&run, &run.join("spawner"), &run.join("c"), &shim, &house.log_settings("a").dir] {
        assert_eq!(mode(folder), 0o700, "{folder:?}");
    }
    for file in [&shim.join("shim.sock"), &shim.join("exit"), &spawner_socket(&house)] {
        assert_eq!(mode(file), 0o600, "{file:?}");
    }
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    assert!(!sockets.lines().any(|line| line.contains(" @") && line.contains("hull")), "no abstract ones");
    kill(pid);
    exited(&connection);
}

/// The folders keep others out; were they ever open, the sockets still would.
#[test]
fn another_user_is_not_listened_to_even_through_open_doors() {
    let house = House::new();
    let (connection, pid, _) = house.sleeper("a");
    let (run, spawner) = (house.exec_root(), spawner_socket(&house));
    let shim = Kind::Container.folder(&run, "a").join("shim.sock");
    let open = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    for path in [house.dir.path(), &run, &run.join("spawner"), &run.join("c"), shim.parent().unwrap()] {
        open(path, 0o755);
    }
    let program = "import socket, sys\n\
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
        s.connect(sys.argv[1])\n\
        print(s.recv(65536).decode(errors='replace'))";
    for socket in [&spawner, &shim] {
        open(socket, 0o666);
        let told = |uid: u32| {
            let mut command = std::process::Command::new("python3");
            let command = command.args(["-c", program]).arg(socket).uid(uid).gid(uid);
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        // The control: whoever may is told something at once.
        assert!(told(0).contains("\"say\""), "{socket:?}");
        assert_eq!(told(65534), "\n", "{socket:?} has spoken to another user");
    }
    kill(pid);
    assert_eq!(exited(&connection).code, 137);
}
