//! The files of layers, unpacked from their archives: behind the scenes after a commit, and wherever
//! somebody needs what is not unpacked yet.
//!
//! A layer is unpacked by one thread at a time; whoever wants it meanwhile waits for that one. What is
//! being unpacked for nobody keeps no layer alive: a removal takes the layer away, and that ends the
//! worker, whose folder finds no layer any more to belong to.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use hull_image::gc::{Swept, collect};
use hull_oci::Digest;
use rustix::pipe::{PipeFlags, pipe_with};

use super::{ImageError, Images, Inner, failed};
use crate::{Result, chain};

/// Layers that are being unpacked, by chain id.
#[derive(Debug, Default)]
pub(super) struct Unpacking(Mutex<BTreeMap<Digest, Arc<Turn>>>);

/// One attempt.
#[derive(Debug)]
struct Turn {
    /// Why it failed, for all who wait.
    ended: OnceLock<std::result::Result<(), String>>,
    /// Closed, it ends the worker that looks at the other end.
    go: Mutex<Option<OwnedFd>>,
    stop: OwnedFd,
}

impl Unpacking {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, Arc<Turn>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The attempt that is going on, else a new one.
    fn turn(&self, chain: &Digest) -> Result<Arc<Turn>> {
        let mut turns = self.lock();
        if let Some(turn) = turns.get(chain) {
            return Ok(Arc::clone(turn));
        }
        let (stop, go) = pipe_with(PipeFlags::CLOEXEC)
            .map_err(|errno| failed(ImageError::Io { action: "make a pipe", source: errno.into() }))?;
        let turn = Arc::new(Turn { ended: OnceLock::new(), go: Mutex::new(Some(go)), stop });
        turns.insert(chain.clone(), Arc::clone(&turn));
        Ok(turn)
    }

    /// The attempt has ended: the next who asks looks for himself.
    fn end(&self, chain: &Digest, turn: &Arc<Turn>) {
        let mut turns = self.lock();
        if turns.get(chain).is_some_and(|current| Arc::ptr_eq(current, turn)) {
            turns.remove(chain);
        }
    }

    /// Ends the attempts at layers that nobody wants any more; gives them, as that takes a moment.
    fn stop(&self, unwanted: impl Fn(&Digest) -> bool) -> Vec<Arc<Turn>> {
        let turns = self.lock();
        let stopped = turns.iter().filter(|(chain, _)| unwanted(chain)).map(|(_, turn)| {
            drop(turn.go.lock().unwrap_or_else(PoisonError::into_inner).take());
            Arc::clone(turn)
        });
        stopped.collect()
    }
}

impl Images {
    /// Waits until the files of all these layers are there. The caller holds them. Blocks.
    pub fn unpack(&self, layers: &[Digest]) -> Result<()> {
        layers.iter().try_for_each(|layer| self.0.unpack_layer(layer))
    }
}

impl Inner {
    /// Begins to unpack a layer that somebody will soon want, and that may be removed meanwhile.
    pub(super) fn unpack_behind(self: &Arc<Self>, layer: Digest) {
        let inner = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = inner.unpack_layer(&layer)
                && inner.snapshots.layer(&layer).is_ok_and(|layer| layer.is_some())
            {
                // Who needs it tries again, and is told.
                tracing::warn!(layer = %layer, error = chain(&error), "a layer could not be unpacked ahead");
            }
            inner.sync_behind();
        });
    }

    pub(super) fn unpack_layer(&self, layer: &Digest) -> Result<()> {
        loop {
            if self.snapshots.has_files(layer).map_err(failed)? {
                return Ok(());
            }
            let turn = self.unpacking.turn(layer)?;
            let mut mine = None;
            let ended = turn.ended.get_or_init(|| {
                let made = self.make_files(layer, &turn);
                let told = match &made {
                    Ok(()) => Ok(()),
                    Err(error) => Err(chain(error)),
                };
                mine = Some(made);
                told
            });
            self.unpacking.end(layer, &turn);
            match mine {
                Some(mine) => return mine,
                None if ended.is_ok() => return Ok(()),
                // It failed for somebody who may have had other reasons.
                None => {}
            }
        }
    }

    fn make_files(&self, chain: &Digest, turn: &Turn) -> Result<()> {
        // An attempt before this one may have ended since it was looked for.
        if self.snapshots.has_files(chain).map_err(failed)? {
            return Ok(());
        }
        let missing = || hull_image::snapshot::SnapshotError::Missing { chain: chain.clone() };
        let layer = self.snapshots.layer(chain).map_err(failed)?.ok_or_else(|| failed(missing()))?;
        let archive = self.content.open_blob(&layer.blob).map_err(failed)?;
        let staging = self.snapshots.stage().map_err(failed)?;
        let broken = |reason| failed(ImageError::Stored { layer: chain.short().to_owned(), reason });
        let unpacked =
            (self.unpack)(archive.as_fd(), staging.diff.as_fd(), Some(turn.stop.as_fd())).map_err(broken)?;
        if unpacked.diff_id != layer.diff_id {
            return Err(broken(format!("its archive {} is damaged", layer.blob)));
        }
        hull_runtime::failpoint!("engine.images.unpacked");
        self.mark_layer(chain, || staging.fill(chain))
    }

    /// Removes blobs and layers that nothing names, and old beginnings of blobs.
    pub(super) fn collect(&self) -> Result<Swept> {
        self.content.sweep_partials(false).map_err(failed)?;
        // An attempt that begins later is at a layer that has come again.
        let gone = |layers: &[Digest]| drop(self.unpacking.stop(|chain| layers.contains(chain)));
        collect(&self.content, &self.snapshots, &self.leases, || self.roots(), gone).map_err(failed)
    }

    /// Ends whatever is being unpacked. What is still needed of it is unpacked when it is needed.
    pub(super) fn stop_unpacking(&self) {
        for turn in self.unpacking.stop(|_| true) {
            // How it ended, those know who wanted it.
            let _ = turn.ended.wait();
        }
    }
}
