//! Hooks of the OCI specification (`config.md#posix-platform-hooks`): programs of the host that
//! whoever wrote the bundle wants run at points of a container's life, with its state on standard
//! input. They come from the bundle alone, never from an image.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use hull_oci::runtime::{Hook, State, VERSION};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::StartOptions;
use super::failure::{OrFail, Result, host, invalid};
use crate::bundle::Bundle;

/// What hooks read.
pub fn state(bundle: &Bundle, options: &StartOptions, pid: i32, status: &str) -> State {
    State {
        oci_version: VERSION.into(),
        id: bundle.id.clone(),
        status: status.into(),
        pid,
        bundle: options.folder.clone(),
        annotations: bundle.spec.annotations.clone(),
    }
}

/// Runs the hooks one after the other; the first that fails or takes too long ends it.
pub fn run(hooks: &[Hook], state: &State) -> Result<()> {
    let text = serde_json::to_vec(state).or_host()?;
    hooks.iter().try_for_each(|hook| run_one(hook, &text))
}

fn run_one(hook: &Hook, state: &[u8]) -> Result<()> {
    let shown = hook.path.display();
    let mut command = Command::new(&hook.path);
    if let Some((name, args)) = hook.args.split_first() {
        command.arg0(name).args(args);
    }
    command.env_clear().envs(hook.env.iter().filter_map(|entry| entry.split_once('=')));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::inherit());
    let mut child = command.spawn().or_invalid(|| format!("hook {shown}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook need not read it (EPIPE).
        let _ = stdin.write_all(state);
    }
    if let Some(seconds) = hook.timeout {
        let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.ok_or_else(|| invalid(format!("hook {shown}: no pid")))?;
        let fd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).or_host()?;
        let limit = Timespec { tv_sec: seconds.into(), tv_nsec: 0 };
        let mut polled = [PollFd::new(&fd, PollFlags::IN)];
        let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&limit))).or_host()?;
        if ready == 0 {
            let _ = child.kill();
            let _ = child.wait();
            return Err(invalid(format!("hook {shown}: took longer than {seconds} s")));
        }
    }
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(invalid(format!("hook {shown}: {status}"))),
        Err(error) => Err(host(&error)),
    }
}
