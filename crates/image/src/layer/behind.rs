//! Digests of large files, computed behind their writer.
//!
//! A thread reads what has just been written, which is in memory still. The writer never waits for it, and
//! who wants to read the files need not either: only who wants the digests does. So a stream is taken as fast as
//! it comes, and what is in it can be used while it is still being hashed.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use hull_oci::{Digest, Hasher};

/// A file of fewer bytes is hashed by whoever wants its digest.
pub(super) const LARGE: u64 = 64 << 10;
/// Files that are hashed at most: the thread has each of them open until then.
const MOST: usize = 200;
/// Bytes read at once.
const PIECE: usize = 128 << 10;

/// The thread, and what it is told.
#[derive(Debug)]
pub struct Behind {
    steps: Sender<Step>,
    thread: JoinHandle<BTreeMap<u64, Digest>>,
    begun: usize,
}

enum Step {
    /// A file that has no bytes yet, open for reading, too.
    Begin(OwnedFd),
    /// It has more of them.
    More,
    /// It has all of them; its inode's number.
    End(u64),
}

impl Behind {
    /// `None`: no thread can be had.
    pub(super) fn start() -> Option<Behind> {
        let (steps, told) = channel();
        let thread = std::thread::Builder::new().name("file-hash".to_owned()).spawn(move || follow(told));
        Some(Behind { steps, thread: thread.ok()?, begun: 0 })
    }

    /// One more file. False: it is not hashed, and nothing more is to be said of it.
    pub(super) fn begin(&mut self, file: impl AsFd) -> bool {
        let copy = match self.begun < MOST {
            true => file.as_fd().try_clone_to_owned().ok(),
            false => None,
        };
        self.begun += usize::from(copy.is_some());
        copy.is_some_and(|copy| self.steps.send(Step::Begin(copy)).is_ok())
    }

    pub(super) fn more(&self) {
        // A thread that is gone gives no digests.
        let _ = self.steps.send(Step::More);
    }

    pub(super) fn end(&self, inode: u64) {
        let _ = self.steps.send(Step::End(inode));
    }

    /// Waits until all are hashed; the digests by the inodes' numbers. One that is not there has to be
    /// computed anew.
    pub fn finish(self) -> BTreeMap<u64, Digest> {
        drop(self.steps);
        self.thread.join().unwrap_or_default()
    }
}

fn follow(steps: Receiver<Step>) -> BTreeMap<u64, Digest> {
    let (mut digests, mut buffer, mut current) = (BTreeMap::new(), vec![0; PIECE], None);
    for step in steps {
        match step {
            Step::Begin(file) => current = Some(Reading { file, at: 0, hasher: Hasher::sha256() }),
            // What cannot be read has no digest here.
            Step::More => current = current.take().and_then(|reading| reading.on(&mut buffer).ok()),
            Step::End(inode) => {
                let whole = current.take().and_then(|reading: Reading| reading.on(&mut buffer).ok());
                digests.extend(whole.map(|reading| (inode, reading.hasher.finish())));
            }
        }
    }
    digests
}

struct Reading {
    file: OwnedFd,
    at: u64,
    hasher: Hasher,
}

impl Reading {
    /// To where the file ends now.
    fn on(mut self, buffer: &mut [u8]) -> io::Result<Reading> {
        loop {
            let count = rustix::io::retry_on_intr(|| rustix::io::pread(&self.file, &mut *buffer, self.at))?;
            if count == 0 {
                return Ok(self);
            }
            self.hasher.update(&buffer[..count]);
            self.at += count as u64;
        }
    }
}
