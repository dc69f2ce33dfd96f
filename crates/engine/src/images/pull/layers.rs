//! Layers that are coming: each once, however many want it, and for as long as somebody does.
//!
//! A transfer is a task of its own. Those who want the same from the same repository with the same credentials share
//! it, and the last one who goes away ends it. What a transfer has stored by then is removed by whoever sees that
//! nobody wants it any more. Others who want the same blob take turns, so that it comes once: whoever is slow lets them
//! go first, and finds what they have fetched.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use hull_image::content::Partial;
use hull_oci::{Digest, Reference};
use hull_registry::Credentials;
use hull_registry::client::Repository;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};

pub(super) use super::feed::Failed;
use super::feed::{Progress, Seen};
use super::layer::{self, Job};
use crate::images::Inner;
use crate::images::add::Stored;
use crate::images::transfer::{Transfer, What};
use crate::{Error, chain};

/// Layers that are fetched at the same time.
const AT_ONCE: usize = 3;

/// All layers that are coming.
#[derive(Debug)]
pub(in crate::images) struct Pulls {
    /// By blob, chain id and who asks.
    running: Mutex<HashMap<(Digest, Digest, Asker), Weak<Shared>>>,
    /// Held by whoever is at a blob: one may be several layers.
    blobs: Mutex<BTreeMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
    pub(super) places: Semaphore,
}

impl Default for Pulls {
    fn default() -> Pulls {
        Pulls { running: Mutex::default(), blobs: Mutex::default(), places: Semaphore::new(AT_ONCE) }
    }
}

/// Who asks a registry, and for what: what one is given or refused is not for another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Asker {
    domain: String,
    path: String,
    credentials: Credentials,
}

impl Asker {
    pub(super) fn new(reference: &Reference, credentials: Credentials) -> Asker {
        Asker { domain: reference.domain.clone(), path: reference.path.clone(), credentials }
    }
}

/// A transfer, as those see it who want it.
pub(super) struct Shared {
    progress: watch::Receiver<Progress>,
    /// Of the blob.
    id: String,
    wanted: Arc<AtomicBool>,
    task: AbortHandle,
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Shared {
    fn has_failed(&self) -> bool {
        matches!(self.progress.borrow().outcome, Some(Err(_)))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.wanted.store(false, Ordering::SeqCst);
        self.task.abort();
        if !matches!(self.progress.borrow().outcome, Some(Ok(_))) {
            collect_behind(&self.inner);
        }
    }
}

/// A layer of an image that is pulled.
pub(super) enum Coming {
    Here(Box<Stored>),
    Fetched(Arc<Shared>),
}

/// A layer that is here; what came of it from the registry is kept beside it until this is dropped, for
/// whoever begins anew after a kill.
#[derive(Debug, Clone)]
pub(super) struct Arrived {
    pub(super) stored: Stored,
    pub(super) _partial: Option<Arc<Partial>>,
}

impl Pulls {
    /// The transfer of a layer: that which is under way, else a new one.
    pub(super) fn join(
        &self,
        inner: &Arc<Inner>,
        (repository, asker): (&Repository, &Asker),
        job: Job,
    ) -> Arc<Shared> {
        let mut running = lock(&self.running);
        running.retain(|_, shared| shared.strong_count() > 0);
        let key = (job.descriptor.digest.clone(), job.chain.clone(), asker.clone());
        if let Some(shared) = running.get(&key).and_then(Weak::upgrade).filter(|shared| !shared.has_failed())
        {
            return shared;
        }
        let (told, progress) = watch::channel(Progress::default());
        let wanted = Arc::new(AtomicBool::new(true));
        let id = job.descriptor.digest.short().to_owned();
        let work = layer::run(Arc::clone(inner), repository.clone(), job, told, Arc::clone(&wanted));
        let task = tokio::spawn(work).abort_handle();
        let shared = Arc::new(Shared { progress, id, wanted, task, inner: Arc::clone(inner) });
        running.insert(key, Arc::downgrade(&shared));
        shared
    }

    /// Held by one at a time.
    pub(super) fn blob(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut blobs = lock(&self.blobs);
        blobs.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = blobs.get(digest).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        blobs.insert(digest.clone(), Arc::downgrade(&turn));
        turn
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for all layers, and tells what becomes of them. The first that fails is the end of it.
pub(super) async fn follow(
    coming: Vec<Coming>,
    tell: &UnboundedSender<Transfer>,
) -> Result<Vec<Arrived>, Failed> {
    let mut arrived: Vec<Option<Arrived>> = Vec::new();
    let mut tasks = JoinSet::new();
    for (index, coming) in coming.into_iter().enumerate() {
        arrived.push(None);
        match coming {
            Coming::Here(stored) => arrived[index] = Some(Arrived { stored: *stored, _partial: None }),
            Coming::Fetched(shared) => {
                let one = follow_one(shared, tell.clone());
                tasks.spawn(async move { (index, one.await) });
            }
        }
    }
    while let Some(ended) = tasks.join_next().await {
        let (index, outcome) = ended.map_err(|_| Error::ShuttingDown)?;
        arrived[index] = Some(outcome?);
    }
    Ok(arrived.into_iter().flatten().collect())
}

async fn follow_one(shared: Arc<Shared>, tell: UnboundedSender<Transfer>) -> Result<Arrived, Failed> {
    let (mut progress, mut seen) = (shared.progress.clone(), Seen::default());
    loop {
        let (news, outcome) = {
            let now = progress.borrow_and_update();
            (seen.news(&now), now.outcome.clone())
        };
        for what in news {
            // Nobody listening is no reason to stop.
            let _ = tell.send(Transfer { id: shared.id.clone(), what });
        }
        if let Some(outcome) = outcome {
            return outcome;
        }
        if progress.changed().await.is_err() && progress.borrow().outcome.is_none() {
            return Err(Error::ShuttingDown.into());
        }
    }
}

/// Removes what nobody names, behind everybody's back. Without a runtime the daemon is on its way out: the next
/// one sweeps.
pub(super) fn collect_behind(inner: &Arc<Inner>) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let inner = Arc::clone(inner);
    runtime.spawn_blocking(move || {
        if let Err(error) = inner.collect() {
            tracing::warn!(error = chain(&error), "what an unfinished pull has left cannot be removed");
        }
    });
}

/// What is told of a transfer.
pub(super) fn step(told: &watch::Sender<Progress>, what: What) {
    told.send_modify(|progress| progress.step(what));
}
