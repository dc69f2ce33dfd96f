//! `create`: flags become the request that makes a container.

mod body;
mod checks;
mod devices;
mod files;
pub(crate) mod flags;
mod mount;
mod network;
mod ports;
mod request;

use crate::command::{Arguments, Command, Failure, Outcome};
use crate::flags::Given;
use crate::session::{Session, line};

pub(crate) use body::restart;
pub(crate) use checks::{cpus, size, swap, variable};
pub(crate) use files::{pairs, reason};
pub(crate) use mount::fields;
pub(crate) use request::{prepare, send};

pub(crate) static CREATE: Command = Command {
    paths: &["container create", "create"],
    usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    summary: "Create a container",
    arguments: Arguments::AtLeast(1),
    stop_at_argument: true,
    flags: &[flags::CREATE],
    run: |session, given| Box::pin(create(session, given)) as Outcome<'_>,
};

async fn create(session: &Session, given: &Given) -> Result<u8, Failure> {
    let body = prepare(session, given).await.map_err(|message| Failure {
        code: 125,
        message: format!("{message}\n\nRun '{} create --help' for more information", session.program),
    })?;
    let id = send(session, given, &body).await?;
    line(&id);
    Ok(0)
}
