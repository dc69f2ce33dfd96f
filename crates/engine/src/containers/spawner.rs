//! The spawner, found again whenever it has gone.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hull_image::layer::Mode;
use hull_runtime::bundle::Source;
use hull_runtime::protocol::{self, Outcome, Work};
use hull_runtime::shim::Connection;
use hull_runtime::spawner::{Client, Error as SpawnerError, Files, Job, Launch, Listed, View};
use hull_sys::Errno;
use rustix::event::{PollFd, PollFlags};
use tokio::io::unix::AsyncFd;

use super::link::{Ready, watch};
use crate::images::{Digests, Extracted, PackError, Packed, Unpacked};
use crate::users::Maps;
use crate::{Error, Result, chain};

/// How long a full queue of the spawner is waited for, in steps.
const STEPS: u32 = 200;
const STEP: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(crate) struct Spawner {
    executable: PathBuf,
    exec_root: PathBuf,
    /// A plain lock, held for the milliseconds of starting a spawner at most.
    client: Mutex<Arc<Client>>,
}

impl Spawner {
    /// Blocks for some milliseconds.
    pub(crate) fn open(executable: PathBuf, exec_root: PathBuf) -> Result<Spawner> {
        let client = Client::adopt_or_start(&executable, &exec_root).map_err(failed)?;
        Ok(Spawner { executable, exec_root, client: Mutex::new(Arc::new(client)) })
    }

    /// A living spawner: the one there is, else a new one. Blocks for the latter.
    pub(crate) fn client_blocking(&self) -> Result<Arc<Client>> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if !client.alive() {
            tracing::warn!(pid = client.pid, "the spawner has gone; starting another");
            *client = Arc::new(Client::adopt_or_start(&self.executable, &self.exec_root).map_err(failed)?);
        }
        Ok(Arc::clone(&client))
    }

    /// Sends the spawner away: it starts nothing more, and goes with the last process it has.
    pub(crate) fn leave(&self) {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = client.retire() {
            tracing::debug!(%error, "the spawner had gone by itself");
        }
    }

    async fn client(self: &Arc<Self>) -> Result<Arc<Client>> {
        if let Ok(client) = self.client.try_lock()
            && client.alive()
        {
            return Ok(Arc::clone(&client));
        }
        let spawner = Arc::clone(self);
        tokio::task::spawn_blocking(move || spawner.client_blocking())
            .await
            .map_err(|_| Error::ShuttingDown)?
    }

    /// Asks for a shim. A spawner that dies under the request is replaced once; what became of a
    /// request that was sent is told on the connection.
    pub(crate) async fn launch(self: &Arc<Self>, launch: Launch<'_>) -> Result<Connection> {
        self.request(|client| client.launch(launch)).await
    }

    /// Asks for a worker.
    pub(crate) async fn work(
        self: &Arc<Self>,
        work: Work,
        archive: Option<BorrowedFd<'_>>,
        files: View<'_>,
    ) -> Result<Working> {
        let job = self.request(|client| client.work(work.clone(), archive, files)).await?;
        working(job)
    }

    /// Asks for a worker that copies files into a tree, and packs them into `archive` if it can.
    pub(crate) async fn copy(
        self: &Arc<Self>,
        copy: protocol::Copy,
        source: Files<'_>,
        archive: Option<BorrowedFd<'_>>,
        files: View<'_>,
    ) -> Result<Working> {
        let job = self.request(|client| client.copy(copy.clone(), source, archive, files)).await?;
        working(job)
    }

    /// Asks for a worker that says the digest of listed files.
    pub(crate) async fn fingerprint(
        self: &Arc<Self>,
        selection: protocol::Selection,
        listed: Listed<'_>,
        learned: BorrowedFd<'_>,
        folder: BorrowedFd<'_>,
    ) -> Result<Working> {
        let ask = |client: &Client| client.fingerprint(selection.clone(), listed, learned, folder);
        let job = self.request(ask).await?;
        working(job)
    }

    async fn request<T>(
        self: &Arc<Self>,
        ask: impl Fn(&Client) -> std::result::Result<T, SpawnerError>,
    ) -> Result<T> {
        let mut replaced = false;
        for _ in 0..STEPS {
            match ask(&*self.client().await?) {
                Ok(answer) => return Ok(answer),
                Err(error) if errno(&error) == Some(Errno::AGAIN) => tokio::time::sleep(STEP).await,
                Err(error) if !replaced && matches!(errno(&error), Some(Errno::PIPE | Errno::CONNRESET)) => {
                    replaced = true;
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Err(Error::Spawner { source: None, what: "it does not take more launches".to_owned() })
    }
}

/// A user namespace, and the network namespace that belongs to it.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) user: OwnedFd,
    pub(crate) network: OwnedFd,
}

/// A worker at work, under tokio's reactor. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Working {
    job: AsyncFd<Ready<Job>>,
}

fn working(job: Job) -> Result<Working> {
    let job = watch(job);
    let job =
        job.map_err(|source| Error::Io { call: "register", path: "a worker's socket".into(), source })?;
    Ok(Working { job })
}

impl Working {
    /// The next word.
    pub(crate) async fn next(&self) -> Outcome {
        let failed = |error: &dyn std::error::Error| Outcome::Failed { message: chain(error) };
        loop {
            let mut guard = match self.job.readable().await {
                Ok(guard) => guard,
                Err(error) => return failed(&error),
            };
            match self.job.get_ref().0.receive() {
                Ok(Some(outcome)) => return outcome,
                Ok(None) => guard.clear_ready(),
                Err(error) => return failed(&error),
            }
        }
    }

    /// Waits until the worker, which has had its last word, has ended and its mounts have gone.
    pub(crate) async fn gone(&self) {
        while let Ok(mut guard) = self.job.readable().await {
            if self.job.get_ref().0.reaped() {
                return;
            }
            guard.clear_ready();
        }
    }
}

impl Spawner {
    /// Has a user and a network namespace made. Blocks until they are there; only for threads that
    /// may.
    pub(crate) fn pair(&self, maps: &Maps) -> Result<Pair> {
        let client = self.client_blocking()?;
        let job = client.users(&maps.uids, &maps.gids).map_err(failed)?;
        let made = answer(&job, None);
        let (outcome, fds) =
            made.map_err(|why| Error::Invalid(format!("a user namespace cannot be made: {why}")))?;
        let mut fds = fds.into_iter();
        match (outcome, fds.next(), fds.next()) {
            (Outcome::Users, Some(user), Some(network)) => Ok(Pair { user, network }),
            _ => Err(Error::Spawner { source: None, what: OTHER.to_owned() }),
        }
    }

    /// Has a jailed worker unpack a layer's archive into a folder. Blocks until it has ended, which it is
    /// made to when `stop` is readable or closed; only for threads that may.
    pub(crate) fn unpack(
        &self,
        archive: BorrowedFd<'_>,
        folder: BorrowedFd<'_>,
        stop: Option<BorrowedFd<'_>>,
    ) -> std::result::Result<Unpacked, String> {
        let client = self.client_blocking().map_err(|error| chain(&error))?;
        let job = client.work(Work::ApplyLayer, Some(archive), View::Folder(folder));
        let job = job.map_err(|error| chain(&error))?;
        match answer(&job, stop)?.0 {
            Outcome::Applied { blob, blob_size, diff_id, size, compression, .. } => {
                Ok(Unpacked { blob, blob_size, diff_id, size, compression })
            }
            _ => Err(OTHER.to_owned()),
        }
    }

    /// The same with an archive whose digests nobody asks for; those of the large files in it may come later.
    pub(crate) fn extract(
        &self,
        mode: Mode,
        archive: BorrowedFd<'_>,
        folder: BorrowedFd<'_>,
    ) -> std::result::Result<Extracted, String> {
        let work = match mode {
            Mode::Layer => Work::ExtractLayer,
            Mode::Plain => Work::ApplyPlain,
            Mode::Files => Work::ApplyFiles,
            Mode::Stream => Work::ApplyStream,
        };
        let client = self.client_blocking().map_err(|error| chain(&error))?;
        let job = client.work(work, Some(archive), View::Folder(folder)).map_err(|error| chain(&error))?;
        let size = match outcome(&job)? {
            Outcome::Extracted { size } => size,
            Outcome::Unpacked => 0,
            _ => return Err(OTHER.to_owned()),
        };
        let hashed = move || match outcome(&job)? {
            Outcome::Hashed { files } => Ok(files.into_iter().collect()),
            _ => Err(OTHER.to_owned()),
        };
        let digests = (mode == Mode::Files).then(|| Box::new(hashed) as Digests);
        Ok(Extracted { size, digests })
    }

    /// Has one pack a writable layer into an archive. Blocks as [`Self::unpack`] does.
    pub(crate) fn pack(
        &self,
        upper: BorrowedFd<'_>,
        archive: BorrowedFd<'_>,
    ) -> std::result::Result<Packed, PackError> {
        let client = self.client_blocking().map_err(|error| PackError::Failed(chain(&error)))?;
        let job = client.work(Work::Commit, Some(archive), View::Folder(upper));
        let job = job.map_err(|error| PackError::Failed(chain(&error)))?;
        match outcome(&job).map_err(PackError::Failed)? {
            Outcome::Committed { diff_id, archive_size, size } => Ok(Packed { diff_id, archive_size, size }),
            Outcome::Unfit { message } => Err(PackError::Unfit(message)),
            _ => Err(PackError::Failed(OTHER.to_owned())),
        }
    }

    /// Has one fill a folder with what is at `source`, or with `repair` bring again what was lost of
    /// that. Blocks as [`Self::unpack`] does.
    pub(crate) fn fill(
        &self,
        source: &Source,
        folder: BorrowedFd<'_>,
        repair: bool,
    ) -> std::result::Result<Filled, String> {
        let client = self.client_blocking().map_err(|error| chain(&error))?;
        let job = client.fill(source, folder, repair).map_err(|error| chain(&error))?;
        match outcome(&job)? {
            Outcome::Filled { .. } => Ok(Filled::Whole),
            Outcome::Absent => Ok(Filled::Absent),
            Outcome::NoFolder => Ok(Filled::NoFolder),
            _ => Err(OTHER.to_owned()),
        }
    }
}

/// What became of a folder that was to be filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filled {
    Whole,
    /// There is nothing at the source.
    Absent,
    /// What is there is no folder.
    NoFolder,
}

const OTHER: &str = "the worker answered something else";

/// Waits for a worker's answer; its failure is one line for people.
fn outcome(job: &Job) -> std::result::Result<Outcome, String> {
    answer(job, None).map(|(outcome, _)| outcome)
}

/// The same with the descriptors that came beside it. When `stop` is readable or closed, the worker is
/// killed first.
fn answer(
    job: &Job,
    mut stop: Option<BorrowedFd<'_>>,
) -> std::result::Result<(Outcome, Vec<OwnedFd>), String> {
    loop {
        match job.receive_with_fds().map_err(|error| chain(&error))? {
            Some((Outcome::Failed { message }, _)) => return Err(message),
            Some(answer) => return Ok(answer),
            None => {}
        }
        let mut waiting = vec![PollFd::new(job, PollFlags::IN)];
        waiting.extend(stop.map(|stop| PollFd::from_borrowed_fd(stop, PollFlags::IN)));
        match rustix::event::poll(&mut waiting, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.to_string()),
        }
        if waiting.get(1).is_some_and(|stop| !stop.revents().is_empty()) {
            job.stop();
            stop = None;
        }
    }
}

fn errno(error: &SpawnerError) -> Option<Errno> {
    match error {
        SpawnerError::Speak { source: protocol::Error::Send { source } } => Some(source.errno),
        _ => None,
    }
}

fn failed(error: SpawnerError) -> Error {
    Error::Spawner { what: error.to_string(), source: Some(Box::new(error)) }
}
