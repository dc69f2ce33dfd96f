//! Layers against the real kernel, against GNU tar, and against hostile archives.
//! These tests make devices and set owners, so they run as root.

mod against_tar;
mod copy;
mod fill;
mod hostile;
mod overlay;
mod packing;
mod piped;
mod tree;

use std::os::fd::AsFd;
use std::path::Path;

use super::{Applied, ApplyError, Limits, Mode, apply, diff};

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

/// What every folder that is packed must be: the layer that is made of its archive gives the same
/// archive again.
fn check_round_trip(root: &Path) {
    let applied = tempfile::tempdir().unwrap();
    let mut bytes = Vec::new();
    let packed = diff(open(root).as_fd(), &mut bytes).unwrap();
    let unpacked = apply_bytes(&bytes, applied.path(), Mode::Layer).unwrap();
    assert!(bytes == diff_bytes(applied.path()));
    let same = (packed.diff_id, packed.archive_size, packed.size);
    assert_eq!(same, (unpacked.diff_id, bytes.len() as u64, unpacked.size));
}
