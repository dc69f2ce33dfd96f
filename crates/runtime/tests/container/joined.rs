//! Exec: one more process in a running container.

use std::io::Read;

use hull_runtime::bundle::{Bundle, Exec, StartError, StartErrorKind, Stdio};
use hull_runtime::container::{self, StartOptions, Started, Streams};

use crate::world::{Output, World, end, pipes};

crate::tests! {
    an_exec_is_in_the_containers_namespaces_and_cgroup
    an_exec_fails_in_the_references_words
    an_exec_has_a_terminal_of_the_container
    an_exec_has_its_own_user_and_capabilities_and_no_other_descriptor
    an_exec_into_a_dead_container_is_an_error
}

fn running(world: &World) -> (Bundle, Started) {
    let bundle = world.bundle(&["sleep", "1000"]);
    let started = world.start(&bundle, &pipes().0).unwrap();
    (bundle, started)
}

fn stop(started: Started) {
    hull_sys::process::signal(&started.pidfd, 9).unwrap();
    end(started.pidfd, &started.cgroup);
}

pub(crate) fn exec_of(bundle: &Bundle, args: &[&str]) -> Exec {
    let mut process = bundle.spec.process.clone().unwrap();
    process.args = args.iter().map(|arg| (*arg).to_owned()).collect();
    Exec { id: "e".into(), process, linux: bundle.spec.linux.clone(), stdio: Stdio::default() }
}

/// Joining a pid namespace is for good, so each exec is done by a fork of this process, as it is
/// by a shim; its output comes back over pipes.
pub(crate) fn run(world: &World, exec: &Exec, target: &Started) -> Result<Output, StartError> {
    let (streams, mut out, mut err) = pipes();
    let (mut answer, report) = std::io::pipe().unwrap();
    let child = match hull_sys::process::fork().unwrap() {
        hull_sys::process::Forked::Parent(child) => child,
        hull_sys::process::Forked::Child => {
            let options = StartOptions::default();
            let started = container::exec(exec, &world.hierarchies, &target.pidfd, &streams, None, &options);
            drop(streams);
            let result =
                started.map(|started| hull_sys::process::wait(&started.pidfd, true).unwrap().unwrap().code());
            serde_json::to_writer(report, &result).unwrap();
            hull_sys::process::exit_now(0)
        }
    };
    drop((streams, report));
    let mut text = String::new();
    answer.read_to_string(&mut text).unwrap();
    hull_sys::process::wait(&child.pidfd, true).unwrap();
    let code = serde_json::from_str::<Result<i32, StartError>>(&text).unwrap()?;
    let mut output = Output { code, out: String::new(), err: String::new(), warnings: Vec::new() };
    out.read_to_string(&mut output.out).unwrap();
    err.read_to_string(&mut output.err).unwrap();
    Ok(output)
}

fn an_exec_is_in_the_containers_namespaces_and_cgroup(world: &World) {
    let (bundle, started) = running(world);
    let script = "cd /proc/1/ns; for n in mnt pid ipc uts net cgroup; do [ $(readlink $n) = $(readlink /proc/self/ns/$n) ] || echo $n; done; \
                  cmp /proc/1/cgroup /proc/self/cgroup; hostname; ps -o comm | grep -c sleep";
    let output = run(world, &exec_of(&bundle, &["sh", "-c", script]), &started).unwrap();
    assert_eq!((output.code, &*output.out, &*output.err), (0, "box\n1\n", ""));
    stop(started);
}

fn an_exec_fails_in_the_references_words(world: &World) {
    let (bundle, started) = running(world);
    let mut exec = exec_of(&bundle, &["nosuchcmd"]);
    let error = run(world, &exec, &started).unwrap_err();
    assert_eq!(error.message, "exec: \"nosuchcmd\": executable file not found in $PATH");
    assert_eq!(error.kind, StartErrorKind::NotFound);
    exec = exec_of(&bundle, &["/etc/passwd"]);
    assert_eq!(run(world, &exec, &started).unwrap_err().message, "exec: \"/etc/passwd\": permission denied");
    exec = exec_of(&bundle, &["true"]);
    exec.process.cwd = "/nosuch".into();
    let error = run(world, &exec, &started).unwrap_err();
    assert_eq!(
        error.message,
        "chdir to cwd (\"/nosuch\") set in config.json failed: no such file or directory"
    );
    stop(started);
}

fn an_exec_has_a_terminal_of_the_container(world: &World) {
    let (bundle, started) = running(world);
    let exec = exec_of(&bundle, &["sh", "-c", "tty; echo hi > /dev/tty"]);
    let Ok(hull_sys::process::Forked::Parent(child)) = hull_sys::process::fork() else {
        let options = StartOptions::default();
        let exec =
            container::exec(&exec, &world.hierarchies, &started.pidfd, &Streams::Terminal, None, &options)
                .unwrap();
        let mut text = Vec::new();
        let _ = std::fs::File::from(exec.terminal.unwrap()).read_to_end(&mut text);
        hull_sys::process::exit_now(i32::from(text != b"/dev/pts/0\r\nhi\r\n"))
    };
    assert_eq!(hull_sys::process::wait(&child.pidfd, true).unwrap().unwrap().code(), 0);
    stop(started);
}

fn an_exec_has_its_own_user_and_capabilities_and_no_other_descriptor(world: &World) {
    let (bundle, started) = running(world);
    let mut exec =
        exec_of(&bundle, &["sh", "-c", "id -u; id -G; ls /proc/self/fd; grep CapEff /proc/self/status"]);
    exec.process.user.uid = 1000;
    exec.process.user.gid = 1000;
    exec.process.user.additional_gids = vec![5];
    let capabilities = exec.process.capabilities.as_mut().unwrap();
    capabilities.permitted.clear();
    let output = run(world, &exec, &started).unwrap();
    assert_eq!(output.out, "1000\n1000 5\n0\n1\n2\n3\nCapEff:\t0000000000000000\n", "{output:?}");
    stop(started);
}

fn an_exec_into_a_dead_container_is_an_error(world: &World) {
    let (bundle, started) = running(world);
    hull_sys::process::signal(&started.pidfd, 9).unwrap();
    let _ = rustix::process::waitid(
        rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&started.pidfd)),
        rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
    );
    let error = run(world, &exec_of(&bundle, &["true"]), &started).unwrap_err();
    assert!(error.message.contains("setns"), "{error}");
    end(started.pidfd, &started.cgroup);
}
