//! Descriptors that a shim keeps for the next daemon.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use hull_runtime::protocol::{KEPT_MAX, Kind};
use hull_runtime::shim::{Found, Request, kept};

use crate::house::{House, descriptors, exited, kill, started, until};

fn names(kept: &[(String, OwnedFd)]) -> Vec<&str> {
    kept.iter().map(|(name, _)| name.as_str()).collect()
}

fn all(house: &House) -> Vec<(String, OwnedFd)> {
    kept(&house.exec_root(), Kind::Container, "a").unwrap()
}

#[test]
fn what_came_with_the_launch_or_later_is_given_to_every_daemon_and_closed_at_the_end() {
    let house = House::new();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let bundle = house.bundle("a", "exec /bin/busybox sleep 1000");
    let first = house.launch_keeping(&bundle, &[], &[("dns", theirs.as_fd())]);
    drop(theirs);
    let (pid, _) = started(&first);
    let (mut port, reserved) = UnixStream::pair().unwrap();
    first.send(Request::Keep { name: "ports", fds: &[reserved.as_fd(), reserved.as_fd()] }).unwrap();
    drop(reserved);
    // The daemon goes; the next one finds the shim by its id.
    drop(first);
    until("what was said last is kept", || all(&house).len() == 3);
    let second = all(&house);
    assert_eq!(names(&second), ["dns", "ports", "ports"]);
    UnixStream::from(second.into_iter().next().unwrap().1).write_all(b"here").unwrap();
    let mut text = [0; 4];
    ours.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"here");
    // Every other holder has let go, so the shim's copies alone keep it open.
    let Found::Living(third) = house.found("a") else { panic!("not found") };
    third.send(Request::Drop { name: "ports" }).unwrap();
    assert_eq!(port.read(&mut text).unwrap(), 0);
    assert_eq!(names(&all(&house)), ["dns"]);
    started(&third);
    kill(pid);
    exited(&third);
    // Free by then, but for copies that tests beside this one have for a moment when they fork.
    ours.set_nonblocking(true).unwrap();
    until("nobody has it open", || matches!(ours.read(&mut text), Ok(0)));
    assert_eq!(all(&house).len(), 0);
}

#[test]
fn the_process_has_nothing_of_what_is_kept() {
    let house = House::new();
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let bundle = house.bundle("a", "exec /bin/busybox sleep 1000");
    let connection = house.launch_keeping(&bundle, &[], &[("dns", theirs.as_fd())]);
    let (pid, _) = started(&connection);
    let own = descriptors(pid);
    assert!(own.len() == 3 && !own.iter().any(|name| name.starts_with("socket:")), "{own:?}");
    kill(pid);
    exited(&connection);
}

#[test]
fn more_than_a_message_carries_is_given_in_several_and_too_much_is_closed() {
    let house = House::new();
    let (connection, pid, _) = house.sleeper("a");
    let shim = house.shim_pid("a");
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let some: [BorrowedFd<'_>; 32] = [theirs.as_fd(); 32];
    for _ in 0..KEPT_MAX / 32 + 4 {
        until("room in the shim's queue", || {
            connection.send(Request::Keep { name: "many", fds: &some }).is_ok()
        });
    }
    until("the limit", || all(&house).len() == KEPT_MAX);
    connection.send(Request::Drop { name: "many" }).unwrap();
    connection.send(Request::Keep { name: &"x".repeat(65), fds: &some }).unwrap();
    until("all given back", || all(&house).is_empty() && descriptors(shim).len() < 40);
    kill(pid);
    exited(&connection);
}
