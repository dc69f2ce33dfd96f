//! The demonstration: what a new user sees first.
//!
//! A private daemon in a folder of its own, a base image made of this machine's busybox, and then
//! the things that a container engine is for, each with the command as it is typed and what came
//! back. Whatever happens, the daemon, its containers and the folder are gone afterwards.

mod private;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::machine::{self, Program};
use private::Daemon;

const PROGRAMS: &[Program] = &[
    Program { name: "busybox", package: "busybox-static" },
    Program { name: "python3", package: "python3" },
    Program { name: "script", package: "bsdutils" },
    Program { name: "cc", package: "gcc" },
];

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    if let Some(word) = arguments.first() {
        bail!("demo takes no arguments, but got {word:?}");
    }
    machine::must_run_containers()?;
    say("Looking at this machine, installing what is missing");
    machine::install(PROGRAMS)?;
    say("Building the release executables (the first time takes some minutes)");
    let started = Instant::now();
    let dist = crate::build::release()?;
    println!("  {} in {:.0} s", dist.display(), started.elapsed().as_secs_f64());
    // Bridges and rules of the demonstration are nobody's but its own, and go with it.
    hull_sys::process::unshare_network().context("make a network of its own")?;
    let up = std::process::Command::new("busybox").args(["ip", "link", "set", "lo", "up"]).status();
    ensure!(up.context("run busybox ip")?.success(), "the loopback link cannot be set up");
    say("Starting a private daemon in a folder and a network of its own");
    let daemon = Daemon::start(&dist)?;
    println!("  {}", daemon.folder().display());
    let shown = walk(&daemon);
    say("Cleaning up");
    daemon.stop()?;
    println!("  daemon, containers and folder are gone");
    shown
}

fn walk(daemon: &Daemon) -> Result<()> {
    say("A base image without any registry: busybox of this machine");
    daemon.hull(&["image", "capture", "busybox", "busybox"])?;
    daemon.hull(&["image", "ls"])?;

    say("A one-shot container");
    daemon.hull(&["run", "--rm", "hello"])?;
    let seen = daemon.hull(&[
        "run",
        "--rm",
        "busybox",
        "sh",
        "-c",
        "echo I am process $$ on $(hostname), with $(ls /proc | grep -c '^[0-9]') processes to see",
    ])?;
    ensure!(seen.contains("I am process 1 "), "the one-shot container printed {seen:?}");

    helloworld(daemon)?;
    shell(daemon)?;

    say("A memory limit that really kills");
    let (code, _) = daemon.try_hull(&[
        "run",
        "--name",
        "hog",
        "--memory",
        "32m",
        "--memory-swap",
        "32m",
        "busybox",
        "tail",
        "/dev/zero",
    ])?;
    println!("  exit code {code}");
    let killed = daemon.hull(&[
        "inspect",
        "--format",
        "OOMKilled: {{.State.OOMKilled}}, exit code {{.State.ExitCode}}",
        "hog",
    ])?;
    ensure!(code == 137 && killed.contains("OOMKilled: true"), "the memory limit did not kill");

    costs(daemon)
}

/// Where the web application is published.
const PORT: u16 = 4000;

/// The application of examples/helloworld: built, built again, run on the default bridge; its page is fetched
/// through the published port; then a look inside, and what was changed there becomes an image.
fn helloworld(daemon: &Daemon) -> Result<()> {
    let folder = crate::root().join("examples/helloworld");
    let folder = folder.to_str().context("the project's folder has a name that is no text")?;
    say("A web application is built from its Dockerfile, on a base with this machine's Python");
    daemon.hull(&["image", "capture", "python:3-slim", "busybox", "python3"])?;
    daemon.hull(&["build", "-t", "helloworld", folder])?;
    let history = daemon.hull(&["history", "helloworld"])?;
    ensure!(history.contains("EXPOSE"), "the history was {history:?}");
    say("Built again, nothing is done again");
    let started = Instant::now();
    daemon.hull(&["build", "-q", "-t", "helloworld", folder])?;
    println!("  in {:.0} ms", milliseconds(started.elapsed()));
    daemon.hull(&["image", "ls"])?;

    say("It runs, with its port published");
    let id = daemon.hull(&["run", "-d", "-p", &format!("{PORT}:80"), "--name", "web", "helloworld"])?;
    let page = fetch(PORT)?;
    println!("  GET http://127.0.0.1:{PORT}/  →  {}", page.trim().replace('\n', ", "));
    let hostname = id.get(..12).context("an id")?;
    ensure!(page.contains("Hello World!") && page.contains(hostname), "the page was {page:?}");
    daemon.hull(&["ps"])?;

    say("One more process in it, and its log");
    daemon.hull(&["exec", "web", "touch", "/app/test.txt"])?;
    let log = daemon.hull(&["logs", "web"])?;
    ensure!(log.contains("listening"), "the log was {log:?}");

    say("What was changed becomes an image: the old layers and one more");
    let changes = daemon.hull(&["diff", "web"])?;
    ensure!(changes.contains("A /app/test.txt"), "the changes were {changes:?}");
    daemon.hull(&["commit", "web", "helloworld:v2"])?;
    let kept = daemon.hull(&["run", "--rm", "helloworld:v2", "ls", "/app"])?;
    ensure!(kept.contains("test.txt"), "the new image has {kept:?}");
    daemon.hull(&["rm", "-f", "web"])?;
    Ok(())
}

fn fetch(port: u16) -> Result<String> {
    let started = Instant::now();
    loop {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").context("ask for the page")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).context("read the page")?;
            let page = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
            return page.with_context(|| format!("no page in {answer:?}"));
        }
        ensure!(
            started.elapsed() < Duration::from_secs(10),
            "the web application never listened on port {port}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An interactive shell through a pseudo-terminal that script(1) makes for us.
fn shell(daemon: &Daemon) -> Result<()> {
    say("An interactive shell through a pseudo-terminal");
    let line = format!("{} run --rm -it --hostname ship busybox sh", daemon.client_line());
    println!("  $ {line}");
    let mut child = std::process::Command::new("script")
        .args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("run script")?;
    let mut keys = child.stdin.take().context("its keyboard")?;
    keys.write_all(b"tty; hostname; id -un\rexit 3\r").context("type")?;
    let mut screen = String::new();
    child.stdout.take().context("its screen")?.read_to_string(&mut screen).context("read the screen")?;
    let code = child.wait().context("wait for the shell")?.code();
    for line in screen.lines().filter(|line| !line.trim().is_empty()) {
        println!("  | {}", line.trim_end());
    }
    ensure!(
        screen.contains("/dev/pts/0") && screen.contains("ship") && code == Some(3),
        "the shell ended with {code:?}"
    );
    Ok(())
}

/// Time and memory, measured here and now.
fn costs(daemon: &Daemon) -> Result<()> {
    say("What it all cost");
    let mut times = Vec::new();
    for _ in 0..20 {
        let started = Instant::now();
        daemon.quiet(&["run", "--rm", "--network", "none", "busybox", "true"])?;
        times.push(started.elapsed());
    }
    times.sort();
    println!(
        "  run --rm busybox true: {:.1} ms (median of 20, fastest {:.1} ms)",
        milliseconds(times[10]),
        milliseconds(times[0])
    );
    for number in 0..10 {
        daemon.quiet(&["run", "-d", "--name", &format!("idle{number}"), "busybox", "sleep", "1000"])?;
    }
    let memory = daemon.memory()?;
    println!(
        "  memory, proportional shares: daemon {:.1} MiB, spawner {:.2} MiB, each of 10 shims {:.2} MiB",
        memory.daemon, memory.spawner, memory.shim
    );
    Ok(())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn say(text: &str) {
    println!("\n\u{1b}[1m▸ {text}\u{1b}[0m");
}
