//! What is told of layers on their way from and to a registry.

use hull_oci::Digest;

/// Something that has happened; plain data, to be told in whatever words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// The first 12 digits of a layer's digest, or what else this is about; empty: all of it.
    pub id: String,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The layer has to be fetched.
    Waiting,
    /// So many of its bytes are here.
    Downloading {
        done: u64,
        total: u64,
    },
    /// It is here, and whole.
    Complete,
    /// It is unpacked while it comes: so many of its bytes are.
    Extracting {
        done: u64,
        total: u64,
    },
    /// It is a layer of this host.
    Pulled,
    /// It was one before.
    Exists,
    /// It is to be sent.
    Preparing,
    /// So many of its bytes are sent.
    Pushing {
        done: u64,
        total: u64,
    },
    Pushed,
    /// The registry had it before.
    LayerExists,
    /// It had it in another of its repositories.
    MountedFrom(String),
    /// Nothing goes on; it is tried again so many seconds later.
    Resting {
        seconds: u64,
    },
    /// What a registry's tag stands for now.
    Tagged {
        tag: String,
        digest: Digest,
        size: u64,
    },
    /// A sentence.
    Line(String),
}

impl Transfer {
    /// A sentence about all of it.
    pub fn line(text: String) -> Transfer {
        Transfer { id: String::new(), what: What::Line(text) }
    }
}
