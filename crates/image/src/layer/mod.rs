//! A layer as an archive and as a folder: `apply` makes the folder, `diff` the archive;
//! `changes` lists what a folder changes of the layers below it.
//!
//! The folder is one layer by itself, in overlayfs's own conventions
//! (Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories"),
//! so that it can be a `lowerdir` as it stands:
//!
//! | archive (image-spec `layer.md#whiteouts`) | folder |
//! |---|---|
//! | `dir/.wh.name` | `dir/name`, a character device 0:0 |
//! | `dir/.wh..wh..opq` | `dir` with the attribute `trusted.overlay.opaque=y` |
//! | `dir/.wh.name` and `dir/name/` | `dir/name`, opaque |
//!
//! What a layer holds is untrusted. Decisions:
//!
//! - A layer is applied alone, into its own empty folder. Folders that its entries
//!   name only as parents are made, owned by root with mode 0755. So if a lower
//!   layer has `lib -> usr/lib` and this layer holds `lib/x` without `lib`, the
//!   result has a folder `lib` that hides the link, as with Docker's overlay2.
//! - A parent that is a symbolic link *of the same layer* is followed, as Docker
//!   and containerd do, but by the kernel and never out of the layer's folder
//!   (openat2(2), `RESOLVE_IN_ROOT`): an absolute target starts at that folder.
//! - The entry itself is never written through a link: what has its name is
//!   removed first. Only a folder stays when the archive names it again.
//! - Later entries win, whatever their kind.
//! - Of extended attributes, `trusted.overlay.*` and `user.overlay.*` are ignored
//!   (they would make overlayfs look elsewhere), as are all `security.*` but
//!   `security.capability`: labels of the host are the host's. Attributes of
//!   anything but files and folders are ignored: Linux allows them none.
//! - A character device 0:0 is refused: it would be a whiteout in disguise.
//! - `.wh..wh.*` other than the opaque mark are old aufs bookkeeping and ignored.

mod apply;
mod behind;
mod changes;
mod clamp;
mod copy;
mod diff;
mod fill;
mod ids;
mod mode;
mod packing;
mod parents;
mod stream;

#[cfg(test)]
mod tests;

pub use apply::{
    Applied, ApplyError, Limits, Mode, Owner, Rename, STREAM, Unpack, apply, extract, extract_files, unpack,
};
pub use behind::Behind;
pub use changes::{Change, ChangeKind, ChangesError, changes};
pub use clamp::clamp;
pub use copy::{Attribute, Bare, CopyError, Copying, Dress, attributes, is_archive};
pub use diff::{DiffError, Diffed, diff, pack};
pub use fill::{FillError, Filled, fill, publish, repair};
pub use ids::Ids;
pub use mode::ModeChange;
pub use packing::Archive;
pub use stream::{Sink, Source};

/// Prefix of a name that says: what has the rest of the name in lower layers is gone.
pub const WHITEOUT: &[u8] = b".wh.";
/// The name that says: nothing of this folder in lower layers is seen.
pub const OPAQUE: &[u8] = b".wh..wh..opq";
/// Prefix of aufs's own bookkeeping.
const AUFS: &[u8] = b".wh..wh.";

/// overlayfs's own attributes in our mounts.
const OVERLAY: &[u8] = b"trusted.overlay.";
/// The same in mounts by users (`userxattr`), of which ours are none. Any process may set them, so
/// they say nothing about a layer; they stay out of images, where somebody else might heed them.
const USERS_OVERLAY: &[u8] = b"user.overlay.";
const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";

/// Whether an extended attribute is part of an image.
fn is_portable(attribute: &[u8]) -> bool {
    if attribute.starts_with(OVERLAY) || attribute.starts_with(USERS_OVERLAY) {
        return false;
    }
    attribute == b"security.capability"
        || [&b"user."[..], b"trusted.", b"system.posix_acl_"]
            .iter()
            .any(|prefix| attribute.starts_with(prefix))
}

fn is_whiteout(stat: &rustix::fs::Stat) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::CharacterDevice
        && stat.st_rdev == 0
}

/// Whether a file may have holes: it takes less room than it is long. `st_blocks` counts 512 bytes each,
/// whatever the file system's block size (inode(7)).
fn is_sparse(stat: &rustix::fs::Stat) -> bool {
    let taken = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
    taken < u64::try_from(stat.st_size).unwrap_or(0)
}

/// A name as errors show it: unprintable bytes escaped, and not endless.
fn shown(name: &[u8]) -> String {
    name[..name.len().min(512)].escape_ascii().to_string()
}
