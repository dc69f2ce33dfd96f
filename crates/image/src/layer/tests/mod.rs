//! Layers against the real kernel, against GNU tar, and against hostile archives.
//! These tests make devices and set owners, so they run as root.

mod against_tar;
mod hostile;
mod overlay;
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
