//! What a build tells while it goes on, as plain values: whoever shows them decides how.
//!
//! What its processes write goes through an [`Output`], which waits while nobody takes it: a build holds
//! no more than [`ROOM`] of it, however slow its client is.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use hull_oci::Digest;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

/// Bytes that a build's processes have written and nobody has taken, at most.
pub const ROOM: u32 = 1 << 20;

/// Receives what happens. It is called where it happens, so it must not block.
pub type Report = Arc<dyn Fn(Progress) + Send + Sync>;

/// One step's number within a build: the place of its vertex in the graph.
pub type Step = usize;

/// Something that happened. [`Planned`](Progress::Planned) comes once, in front. Of one step the others come in the order
/// of this list; only where something that the cache had was forgotten meanwhile, a step begins once more after
/// it was [`Cached`](Progress::Cached).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// All instructions of the stages that are needed, in the order of the Dockerfile.
    Planned {
        instructions: Vec<Planned>,
    },
    /// The step has begun; `name` is its instruction as it stands in the Dockerfile, with the stage's
    /// place in front, such as `[build 2/4] RUN make`.
    Started {
        step: Step,
        name: String,
    },
    /// Nothing had to be done for it.
    Cached {
        step: Step,
    },
    /// What its process wrote, cut anywhere.
    Output {
        step: Step,
        stream: Stream,
        bytes: Written,
    },
    /// It has ended well. `layer` is the diff id of what it changed, if it changed anything.
    Done {
        step: Step,
        layer: Option<Digest>,
    },
    Failed {
        step: Step,
        message: String,
    },
    /// A check of the Dockerfile warns; the build goes on.
    Warning {
        message: String,
        /// An address that explains it; empty if there is none.
        page: String,
        /// Of the Dockerfile, from 1; 0: it is about no line.
        line: usize,
    },
}

/// One instruction, or one trigger of a base image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// As it stands in the Dockerfile, on one line.
    pub text: String,
    /// The step that does it; `None` if it only changes the image's configuration.
    pub step: Option<Step>,
    /// It comes from the base image's ONBUILD.
    pub trigger: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Out,
    Error,
}

/// Bytes that a process wrote. As long as they are here they take room in their build.
#[derive(Debug, Clone)]
pub struct Written {
    bytes: Vec<u8>,
    _room: Option<Arc<OwnedSemaphorePermit>>,
}

impl From<Vec<u8>> for Written {
    /// Bytes of nobody's room.
    fn from(bytes: Vec<u8>) -> Written {
        Written { bytes, _room: None }
    }
}

impl From<Written> for Vec<u8> {
    fn from(written: Written) -> Vec<u8> {
        written.bytes
    }
}

impl Deref for Written {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl PartialEq for Written {
    fn eq(&self, other: &Written) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Written {}

/// The room of one build. Clones are the same.
#[derive(Debug, Clone)]
pub struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Room {
        Room(Arc::new(Semaphore::new(ROOM as usize)))
    }
}

/// What keeps others from doing the same step meanwhile, until somebody takes it out.
pub(crate) type Turn = Arc<Mutex<Option<OwnedMutexGuard<()>>>>;

/// Where a step's process writes.
#[derive(Clone)]
pub struct Output {
    step: Step,
    report: Report,
    room: Room,
    turn: Turn,
}

impl Output {
    pub fn new(step: Step, report: Report, room: Room) -> Output {
        Output { step, report, room, turn: Turn::default() }
    }

    /// A step that waits for its client gives up its turn: no other build waits with it.
    pub(crate) fn with_turn(self, turn: Turn) -> Output {
        Output { turn, ..self }
    }

    /// Reports the bytes, as soon as there is room for them.
    pub async fn write(&self, stream: Stream, bytes: &[u8]) {
        for piece in bytes.chunks(ROOM as usize) {
            let size = u32::try_from(piece.len()).unwrap_or(ROOM);
            // Nobody closes it.
            let room = match Arc::clone(&self.room.0).try_acquire_many_owned(size) {
                Ok(room) => Some(room),
                Err(_) => {
                    drop(self.turn.lock().unwrap_or_else(PoisonError::into_inner).take());
                    Arc::clone(&self.room.0).acquire_many_owned(size).await.ok()
                }
            };
            let room = room.map(Arc::new);
            let bytes = Written { bytes: piece.to_vec(), _room: room };
            (self.report)(Progress::Output { step: self.step, stream, bytes });
        }
    }
}
