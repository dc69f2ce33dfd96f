//! A client's agent, in a step: a socket that its process finds, each connection to which becomes one to
//! the agent.
//!
//! The daemon only passes bytes on. It is there as long as the step; what the step leaves open ends with
//! it.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid};
use rustix::net::{SocketFlags, SocketType};
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

use super::Client;
use crate::{Error, Result};

/// Connections of one step at the same time; who comes then waits.
const CONNECTIONS: usize = 32;

/// Between two tries to accept one while that fails.
const PAUSE: Duration = Duration::from_millis(100);

/// Ends when it is dropped.
#[derive(Debug)]
pub(super) struct Agent(JoinHandle<()>);

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Makes the socket at `path`, for whoever `mode`, `uid` and `gid` let to it.
pub(super) fn offer(
    client: Arc<dyn Client>,
    id: String,
    path: &Path,
    (mode, uid, gid): (u32, u32, u32),
) -> Result<Agent> {
    let system = |source| Error::System { doing: "make the socket of a step's agent".to_owned(), source };
    let io = |call| move |source: std::io::Error| Error::Io { call, path: path.to_owned(), source };
    let socket = hull_sys::socket::listen(path, SocketType::STREAM, SocketFlags::NONBLOCK).map_err(system)?;
    let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(CWD, path, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| io("chown")(errno.into()))?;
    rustix::fs::chmod(path, Mode::from_raw_mode(mode)).map_err(|errno| io("chmod")(errno.into()))?;
    let listener = UnixListener::from_std(socket.into()).map_err(io("register"))?;
    Ok(Agent(tokio::spawn(serve(listener, client, id))))
}

async fn serve(listener: UnixListener, client: Arc<dyn Client>, id: String) {
    let mut connections = JoinSet::new();
    loop {
        let full = connections.len() >= CONNECTIONS;
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if !full => match accepted {
                Ok((stream, _)) => {
                    let (client, id) = (Arc::clone(&client), id.clone());
                    connections.spawn(async move {
                        if let Err(error) = connect(stream, &*client, &id).await {
                            tracing::debug!(%error, id, "a step's connection to an agent ends");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, id, "a step's connection to its agent is not accepted");
                    // The daemon is out of descriptors or memory (accept(2)): no event says that it has some
                    // again, and the connection that waits makes the next try fail at once.
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
}

async fn connect(mut stream: UnixStream, client: &dyn Client, id: &str) -> Result<()> {
    let Some(agent) = client.agent(id).await? else { return Ok(()) };
    let io = |call| move |source: std::io::Error| Error::Io { call, path: "an agent".into(), source };
    let mut agent = stream_of(agent).map_err(io("register"))?;
    copy_bidirectional(&mut stream, &mut agent).await.map(drop).map_err(io("copy"))
}

fn stream_of(fd: OwnedFd) -> std::io::Result<UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(fd);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::net::UnixStream as Plain;

    use super::super::{Answer, Secret};
    use super::*;

    /// Says its name, then what it reads in capitals.
    #[derive(Debug)]
    struct Shouts;

    impl Client for Shouts {
        fn secret<'a>(&'a self, _id: &'a str) -> Answer<'a, Option<Secret>> {
            Box::pin(async { Ok(None) })
        }

        fn agent<'a>(&'a self, id: &'a str) -> Answer<'a, Option<OwnedFd>> {
            Box::pin(async move {
                let (ours, mut theirs) = Plain::pair().unwrap();
                let id = id.to_owned();
                std::thread::spawn(move || {
                    theirs.write_all(id.as_bytes()).unwrap();
                    let mut text = String::new();
                    theirs.read_to_string(&mut text).unwrap();
                    theirs.write_all(text.to_uppercase().as_bytes()).unwrap();
                });
                Ok(Some(ours.into()))
            })
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_connection_is_one_to_the_agent() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("socket");
        let agent = offer(Arc::new(Shouts), "name".to_owned(), &path, (0o640, 7, 8)).unwrap();
        let facts = std::fs::metadata(&path).unwrap();
        assert_eq!((facts.permissions().mode() & 0o777, facts.uid(), facts.gid()), (0o640, 7, 8));
        let talk = |path: std::path::PathBuf, text: &'static str| {
            tokio::task::spawn_blocking(move || {
                let mut stream = Plain::connect(path).unwrap();
                stream.write_all(text.as_bytes()).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                answer
            })
        };
        let (one, two) = tokio::join!(talk(path.clone(), "one"), talk(path.clone(), "two"));
        assert_eq!((one.unwrap().as_str(), two.unwrap().as_str()), ("nameONE", "nameTWO"));
        // More than may be there at once: all are answered, one after the other.
        let many: Vec<_> = (0..2 * CONNECTIONS).map(|_| talk(path.clone(), "many")).collect();
        for one in many {
            assert_eq!(one.await.unwrap(), "nameMANY");
        }
        drop(agent);
        tokio::task::yield_now().await;
    }
}
