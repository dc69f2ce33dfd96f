//! Builds that are ended by whoever asked for them, wherever they are: nothing stays.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use hull_runtime::failpoint::VARIABLE;
use hull_testkit::{Baseline, Host, Options, in_time};

use super::builds::{CLIENTS, command, context, text};
use super::copy_attacks::until;
use super::executables;

/// What Ctrl-C does, and the end of it; `held` is what the client may wait for meanwhile.
fn interrupt(mut client: Child, held: Option<ChildStdin>, what: &str) {
    let pid = rustix::process::Pid::from_raw(client.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    drop(held);
    let mut ended = None;
    until(what, || {
        ended = client.try_wait().unwrap();
        ended.is_some()
    });
    assert!(ended.is_some_and(|status| !status.success()), "{what}: {ended:?}");
}

fn start(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// A machine on which points can be armed.
fn host(armed: &Path) -> Host {
    let environment = vec![(VARIABLE.to_owned(), armed.display().to_string())];
    let host = Host::start(executables(), Options { environment, ..Options::default() });
    host.busybox();
    host
}

/// A client that has sent half of its context.
fn sending(host: &Host, official: bool) -> (Child, ChildStdin) {
    let folder = context(host, "sent", &[("Dockerfile", "FROM busybox\nCOPY . /\n")]);
    fs::write(folder.join("large"), vec![7; 8 << 20]).unwrap();
    let archive = Command::new("tar").arg("-C").arg(&folder).args(["-cf", "-", "."]).output().unwrap().stdout;
    let mut command = command(host, official, &["-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut client = command.spawn().unwrap();
    let mut input = client.stdin.take().unwrap();
    input.write_all(&archive[..archive.len() / 2]).unwrap();
    input.flush().unwrap();
    let receives = || {
        let sites = fs::read_dir(host.data_root().join("image/active")).into_iter().flatten().flatten();
        sites.map(|site| site.path().join("upper/large")).any(|file| file.exists())
    };
    until("the context's beginning", receives);
    (client, input)
}

/// A client whose build is at the point, where the daemon waits until the file that is given is closed.
fn waiting(host: &Host, official: bool, (armed, point): (&Path, &str)) -> (Child, fs::File) {
    let fifo = host.folder().join("fifo");
    fs::remove_file(&fifo).ok();
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let files: Vec<(String, String)> = (0..300).map(|at| (format!("many/{at}"), at.to_string())).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (&name[..], &text[..])).collect();
    let folder = context(host, "copied", &files);
    fs::write(folder.join("Dockerfile"), "FROM busybox\nCOPY many /many\nRUN true\n").unwrap();
    fs::write(armed, format!("{point} pause {}", fifo.display())).unwrap();
    let client = start(&mut command(host, official, &["--no-cache", text(&folder)]));
    // Opened when both are there.
    let open = move || fs::File::options().write(true).open(&fifo).unwrap();
    (client, in_time(60, point, open))
}

/// A client whose build waits for an address that takes the question and does not answer.
fn fetching(host: &Host, official: bool) -> (Child, Child) {
    let mut server = host.inside("busybox");
    server.args(["nc", "-l", "-p", "8098"]).stdin(Stdio::piped());
    let mut server = server.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    // proc_net_tcp.rst: 0A is LISTEN.
    let listens = || {
        ["tcp", "tcp6"].iter().any(|table| {
            let table = fs::read_to_string(format!("/proc/{}/net/{table}", server.id())).unwrap_or_default();
            table.lines().any(|line| line.contains(":1FA2 ") && line.contains(" 0A "))
        })
    };
    until("the server's port", listens);
    let folder =
        context(host, "fetched", &[("Dockerfile", "FROM busybox\nADD http://127.0.0.1:8098/slow /slow\n")]);
    let client = start(&mut command(host, official, &[text(&folder)]));
    let mut said = server.stdout.take().unwrap();
    let (asked, said) = in_time(60, "the question", move || {
        let mut asked = [0; 4];
        said.read_exact(&mut asked).unwrap();
        (asked, said)
    });
    assert_eq!(&asked, b"GET ");
    server.stdout = Some(said);
    (client, server)
}

fn running(host: &Host, official: bool) -> Child {
    let script = "FROM busybox\nRUN trap '' INT TERM; echo x >/x; sleep 1000 & wait; sleep 1000\n";
    let folder = context(host, "running", &[("Dockerfile", script)]);
    let client = start(&mut command(host, official, &["--no-cache", text(&folder)]));
    until("the step's process", || {
        let line = |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        host.processes().iter().any(|pid| line(pid) == b"sleep\x001000\0")
    });
    client
}

#[test]
fn a_build_that_is_interrupted_leaves_nothing_wherever_it_is() {
    let scratch = tempfile::tempdir().unwrap();
    let armed = scratch.path().join("armed");
    let host = host(&armed);
    // The first step of all makes what later ones only use.
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    let before = Baseline::of(&host);
    let blobs = || fs::read_dir(host.data_root().join("image/blobs/sha256")).unwrap().count();
    let stored = blobs();
    let clean = || {
        host.hull(&["builder", "prune", "-af"]).ok();
        before.returns(&host);
        until("the end of what was stored", || blobs() == stored);
    };
    for official in CLIENTS {
        let (client, input) = sending(&host, official);
        interrupt(client, Some(input), "the end of one that sends");
        clean();
        interrupt(running(&host, official), None, "the end in a RUN");
        clean();
        for point in
            ["engine.build.receiving", "engine.build.copying", "engine.build.packed", "engine.build.adopted"]
        {
            let (client, gate) = waiting(&host, official, (&armed, point));
            interrupt(client, None, point);
            drop(gate);
            clean();
        }
        let (client, mut server) = fetching(&host, official);
        interrupt(client, None, "the end in an ADD");
        // The daemon hangs up.
        let mut said = server.stdout.take().unwrap();
        in_time(60, "the end of the connection", move || said.read_to_end(&mut Vec::new()).unwrap());
        server.kill().unwrap();
        server.wait().unwrap();
        clean();
    }
}
