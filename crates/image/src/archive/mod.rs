//! Images as archives: what `docker save` writes and what is met in the field.
//!
//! `read` looks at an archive that has been unpacked (by a worker, in
//! [`crate::layer::Mode::Files`]) into a folder of its own. It knows
//!
//! - Docker archives: `manifest.json` lists configurations and layers by path; the
//!   paths are `ID.json` and `ID/layer.tar` (often a link to another one) from older
//!   engines, `blobs/sha256/HEX` from newer ones;
//! - OCI layouts (image-spec `image-layout.md`): `oci-layout` and `index.json`, whose
//!   indexes may hold further ones; of those the host's platform is chosen.
//!
//! A folder with both is read as the Docker archive, as Docker does: `docker save`
//! writes both, and `manifest.json` holds the whole names.
//!
//! Nothing in the archive is believed: an id is computed from the bytes and a name
//! that tells another one is an error; documents are checked against their
//! descriptors here, layers by whoever applies them against [`ArchivedLayer`].
//!
//! `write` makes an archive that is both at once, with the members, names and order
//! of a current `docker save`.

mod read;
mod write;

#[cfg(test)]
mod tests;

pub use read::{ArchivedImage, ArchivedLayer, Expected, ReadError, find, open_layer, read};
#[doc(hidden)]
pub use read::{fuzz_docker, fuzz_oci};
pub use write::{SavedImage, WriteError, manifest, write};

/// Full name of an image (`docker.io/library/busybox:latest`), as containerd notes it.
const NAME: &str = "io.containerd.image.name";
/// A tag, or anything else that tells images of a layout apart.
const REF: &str = "org.opencontainers.image.ref.name";
