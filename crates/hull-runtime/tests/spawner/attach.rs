//! Sockets attached to a container: order, amounts, ends, slowness.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use hull_runtime::bundle::Stdio;
use hull_runtime::protocol::{Attach, Framing};
use hull_runtime::shim::Request;

use crate::house::{House, RAW, exited, started, until};

const INPUT: Attach = Attach { stdin: true, stdout: true, stderr: true, framing: Framing::Raw };

#[test]
fn the_first_bytes_reach_a_socket_that_came_with_the_launch() {
    let house = House::new();
    for n in 0..30 {
        let (output, _) = house.run(&format!("c{n}"), "echo first");
        assert_eq!(output, "first\n");
    }
}

#[test]
fn output_is_multiplexed_as_the_api_says() {
    let house = House::new();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let attach = Attach { framing: Framing::Multiplexed, ..RAW };
    let connection = house
        .launch(&house.bundle("a", "echo out; /bin/busybox sleep 0.1; echo err >&2"), &[(attach, &theirs)]);
    drop(theirs);
    let mut bytes = Vec::new();
    ours.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"\x01\0\0\0\0\0\0\x04out\n\x02\0\0\0\0\0\0\x04err\n");
    started(&connection);
    exited(&connection);
}

#[test]
fn a_hundred_megabytes_come_through_whole_and_are_logged() {
    let house = House::new();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let script = "yes 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde | head -c 104857600";
    let mut bundle = house.bundle("a", &format!("/bin/busybox {}", script.replace("| ", "| /bin/busybox ")));
    bundle.log.as_mut().unwrap().segments = 100;
    let connection = house.launch(&bundle, &[(RAW, &theirs)]);
    drop(theirs);
    let mut total = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let got = ours.read(&mut buffer).unwrap();
        if got == 0 {
            break;
        }
        for (at, byte) in buffer[..got].iter().enumerate() {
            let at = (total + at) % 64;
            let wanted = if at == 63 { b'\n' } else { b"0123456789abcdef"[at % 16] };
            assert_eq!(*byte, wanted);
        }
        total += got;
    }
    assert_eq!(total, 104_857_600);
    started(&connection);
    assert_eq!(exited(&connection).code, 0);
    assert_eq!(house.log("a").len(), total);
}

#[test]
fn input_reaches_the_process_and_ends_with_its_first_client() {
    let house = House::new();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut bundle = house.bundle("a", "/bin/busybox wc -c");
    bundle.stdio = Stdio { stdin: true, stdin_once: true };
    let connection = house.launch(&bundle, &[(INPUT, &theirs)]);
    drop(theirs);
    // Far more than the pipe and the shim hold.
    ours.write_all(&vec![b'x'; 3_000_000]).unwrap();
    ours.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    ours.read_to_string(&mut text).unwrap();
    assert_eq!(text, "3000000\n");
    started(&connection);
    assert_eq!(exited(&connection).code, 0);
}

#[test]
fn input_of_a_client_that_has_left_is_not_lost() {
    let house = House::new();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut bundle = house.bundle("a", "/bin/busybox sleep 0.2; /bin/busybox wc -c");
    bundle.stdio = Stdio { stdin: true, stdin_once: true };
    let attach = Attach { stdout: false, stderr: false, ..INPUT };
    let connection = house.launch(&bundle, &[(attach, &theirs)]);
    drop(theirs);
    ours.write_all(&vec![b'x'; 180_000]).unwrap();
    drop(ours);
    started(&connection);
    assert_eq!(exited(&connection).code, 0);
    assert_eq!(house.log("a"), "180000\n");
}

#[test]
fn without_stdin_once_input_outlives_its_clients() {
    let house = House::new();
    let mut bundle = house.bundle("a", "read a; read b; echo $a $b");
    bundle.stdio = Stdio { stdin: true, stdin_once: false };
    let connection = house.launch(&bundle, &[]);
    started(&connection);
    for word in ["one\n", "two\n"] {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        connection.send(Request::Attach { attach: INPUT, socket: theirs.as_fd() }).unwrap();
        ours.write_all(word.as_bytes()).unwrap();
    }
    assert_eq!(exited(&connection).code, 0);
    assert_eq!(house.log("a"), "one two\n");
}

#[test]
fn a_slow_client_holds_the_process_only_after_a_megabyte_and_a_gone_one_never() {
    let house = House::new();
    let (slow, theirs) = UnixStream::pair().unwrap();
    let script = "/bin/busybox yes | /bin/busybox head -c 20000000; echo; echo done";
    let connection = house.launch(&house.bundle("a", script), &[(RAW, &theirs)]);
    drop(theirs);
    let (_, pidfd) = started(&connection);
    let size = || house.log("a").len();
    until("a megabyte taken without being read", || size() > 1 << 20);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(size() < 4 << 20, "{} bytes went by a client that reads nothing", size());
    // Another client gets what comes from now on.
    let (mut other, theirs) = UnixStream::pair().unwrap();
    connection.send(Request::Attach { attach: RAW, socket: theirs.as_fd() }).unwrap();
    drop(theirs);
    drop(slow);
    let mut text = String::new();
    other.read_to_string(&mut text).unwrap();
    assert!(text.ends_with("done\n"));
    assert_eq!(exited(&connection).code, 0);
    crate::house::wait(&pidfd);
    assert_eq!(size(), 20_000_006);
}

#[test]
fn an_exit_is_told_though_a_client_reads_nothing() {
    let house = House::new();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let script = "/bin/busybox yes | /bin/busybox head -c 500000";
    let connection = house.launch(&house.bundle("a", script), &[(RAW, &theirs)]);
    drop(theirs);
    started(&connection);
    assert_eq!(exited(&connection).code, 0);
    let mut text = String::new();
    ours.read_to_string(&mut text).unwrap();
    assert_eq!(text.len(), 500_000);
}
