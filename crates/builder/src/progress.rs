//! What a build tells while it goes on, as plain values: whoever shows them decides how.

use hull_oci::Digest;

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
        bytes: Vec<u8>,
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
