//! One more process in a running container.

use http::StatusCode;
use http::header::UPGRADE;
use hull_api::compat;
use hull_api::exec::{ExecCreated, ExecInspect, ExecOptions, ExecProcess, ExecStart};
use hull_engine::containers::requests::ExecSettings;

use super::{identity, lifecycle};
use crate::detach::Keys;
use crate::hijack::{Takeover, Then, head};
use crate::http::{Answer, Call, Failure, Handled, empty, json, ok};

pub(super) async fn create(mut call: Call, key: &str) -> Handled {
    let options: ExecOptions = call.json("ExecOptions").await?;
    let cmd = options.cmd.unwrap_or_default();
    // The container first: an unknown one is a 404 whatever else is wrong.
    call.server.engine.container(key)?;
    if cmd.is_empty() {
        return Err(Failure::invalid("no exec command specified"));
    }
    if Keys::parse(&options.detach_keys).is_none() {
        return Err(Failure::invalid(format!("Invalid escape keys ({}) provided", options.detach_keys)));
    }
    let settings = ExecSettings {
        cmd,
        env: options.env.unwrap_or_default(),
        user: options.user,
        working_dir: options.working_dir,
        tty: options.tty,
        stdin: options.attach_stdin,
        stdout: options.attach_stdout,
        stderr: options.attach_stderr,
        privileged: options.privileged,
        detach_keys: options.detach_keys,
        console_size: options.console_size.and_then(console),
    };
    let id = call.server.engine.exec_create(key, settings).await?;
    Ok(json(StatusCode::CREATED, &ExecCreated { id }))
}

/// Rows and columns, unless both are 0.
fn console([rows, columns]: [u64; 2]) -> Option<(u16, u16)> {
    u16::try_from(rows).ok().zip(u16::try_from(columns).ok()).filter(|size| *size != (0, 0))
}

pub(super) async fn start(mut call: Call, id: &str) -> Handled {
    let start: ExecStart = call.json_or_default("ExecStartOptions").await?;
    let exec = call.server.engine.exec(id)?;
    let settings = &exec.settings;
    let size = start.console_size.and_then(console);
    let upgrade = call.headers.contains_key(UPGRADE);
    let content_type = compat::stream_type(call.version, settings.tty);
    let started = call.server.engine.exec_start(id, start.detach, size).await;
    if start.detach {
        return started.map(|_| empty(StatusCode::OK)).map_err(|error| refused(error).into());
    }
    let then = match started {
        Ok(Some(attachment)) => Then::Stream {
            stream: attachment.stream,
            stdin: settings.stdin,
            keys: settings.tty.then(|| Keys::parse(&settings.detach_keys)).flatten(),
        },
        Ok(None) => Then::Say(Vec::new()),
        // The client has its stream already when the reference learns of it: the text is output.
        Err(error @ hull_engine::Error::Start(_)) => {
            let text = format!("{}\r\n", refused(error));
            Then::Say(if settings.tty { text.into_bytes() } else { framed(&text) })
        }
        Err(error) => return Err(error.into()),
    };
    call.slot.put(Takeover { head: head(upgrade, content_type, &identity()), then });
    Ok(empty(StatusCode::OK))
}

/// The reference names its runtime before the reason.
fn refused(error: hull_engine::Error) -> StartRefused {
    StartRefused(error)
}

#[derive(Debug)]
struct StartRefused(hull_engine::Error);

impl std::fmt::Display for StartRefused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            hull_engine::Error::Start(error) => write!(
                f,
                "OCI runtime exec failed: exec failed: unable to start container process: {}",
                error.message
            ),
            error => f.write_str(&crate::http::chain(error)),
        }
    }
}

impl From<StartRefused> for Failure {
    fn from(refused: StartRefused) -> Failure {
        let message = refused.to_string();
        Failure { message, ..Failure::from(refused.0) }
    }
}

/// One frame of standard output: stream number, three zeros, big-endian length.
fn framed(text: &str) -> Vec<u8> {
    let mut frame = vec![1, 0, 0, 0];
    frame.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(text.as_bytes());
    frame
}

pub(super) fn inspect(call: &Call, id: &str) -> Handled {
    let exec = call.server.engine.exec(id)?;
    let settings = &exec.settings;
    ok(&ExecInspect {
        id: exec.id.clone(),
        running: exec.running,
        exit_code: exec.exit_code,
        process_config: ExecProcess {
            tty: settings.tty,
            entrypoint: settings.cmd.first().cloned().unwrap_or_default(),
            arguments: settings.cmd.iter().skip(1).cloned().collect(),
            privileged: settings.privileged,
            user: settings.user.clone(),
        },
        open_stdin: settings.stdin,
        open_stderr: settings.stderr,
        open_stdout: settings.stdout,
        can_remove: false,
        container_id: exec.container.clone(),
        detach_keys: settings.detach_keys.clone(),
        pid: exec.pid,
    })
}

pub(super) async fn resize(call: &Call, id: &str) -> Result<Answer, Failure> {
    let (rows, columns) = lifecycle::size(call)?;
    call.server.engine.exec_resize(id, rows, columns).await?;
    Ok(empty(StatusCode::OK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_a_stream_a_length_and_the_bytes() {
        assert_eq!(framed("hi\r\n"), b"\x01\0\0\0\0\0\0\x04hi\r\n");
    }
}
