//! Layers against the real kernel, against GNU tar, and against hostile archives.
//! These tests make devices and set owners, so they run as root.

mod against_tar;
mod fill;
mod hostile;
mod overlay;
mod piped;
mod tree;

use std::os::fd::AsFd;
use std::path::Path;

use super::{Applied, ApplyError, Diffed, Limits, Mode, apply, commit, diff};

fn open(path: &Path) -> std::fs::File {
    assert!(rustix::process::geteuid().is_root(), "these tests make devices: run them as root");
    std::fs::File::open(path).unwrap()
}

fn apply_bytes(bytes: &[u8], root: &Path, mode: Mode) -> Result<Applied, ApplyError> {
    apply(&mut &*bytes, open(root).as_fd(), mode, &Limits::default())
}

fn diff_bytes(root: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    diff(open(root).as_fd(), &mut bytes).unwrap();
    bytes
}

/// Makes the empty folder `made` a layer of `root`; gives the archive, too.
fn commit_into(root: &Path, made: &Path) -> (Diffed, Vec<u8>) {
    let mut bytes = Vec::new();
    let committed = commit(open(root).as_fd(), &mut bytes, open(made).as_fd()).unwrap();
    (committed, bytes)
}

/// What every folder that is packed must be: the layer made on the way is what the archive gives when
/// it is applied, and the archive is the one that is made without a layer.
fn check_commit(root: &Path) {
    let scratch = tempfile::tempdir().unwrap();
    let [made, applied] = ["made", "applied"].map(|name| scratch.path().join(name));
    std::fs::create_dir(&made).unwrap();
    std::fs::create_dir(&applied).unwrap();
    let (committed, bytes) = commit_into(root, &made);
    let unpacked = apply_bytes(&bytes, &applied, Mode::Layer).unwrap();
    assert!(bytes == diff_bytes(root));
    let same = (committed.diff_id, committed.archive_size, committed.size);
    assert_eq!(same, (unpacked.diff_id, bytes.len() as u64, unpacked.size));
    assert_eq!(tree::listing(&made), tree::listing(&applied));
}
