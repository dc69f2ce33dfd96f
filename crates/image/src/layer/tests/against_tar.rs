//! Differential tests: GNU tar writes, we read; we write, GNU tar reads.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::tree::{blocks, listing, make_everything};
use super::{Mode, apply_bytes, check_round_trip, diff_bytes};
use crate::compress::Compression;

fn tar(folder: &Path, arguments: &[&str]) {
    let status = Command::new("tar").arg("-C").arg(folder).args(arguments).status().unwrap();
    assert!(status.success(), "tar {arguments:?}");
}

/// The tree, packed by GNU tar with these options and extracted by us.
fn through_gnu_tar(source: &Path, options: &[&str]) -> (tempfile::TempDir, super::Applied) {
    let scratch = tempfile::tempdir().unwrap();
    let archive = scratch.path().join("a.tar");
    let target = scratch.path().join("root");
    fs::create_dir(&target).unwrap();
    let mut arguments = options.to_vec();
    arguments.extend(["--sort=name", "-cf", archive.to_str().unwrap(), "."]);
    tar(source, &arguments);
    let bytes = fs::read(&archive).unwrap();
    let applied = apply_bytes(&bytes, &target, Mode::Layer).unwrap();
    assert_eq!(applied.blob, hull_oci::Digest::sha256(&bytes));
    assert_eq!(applied.blob_size, bytes.len() as u64);
    (scratch, applied)
}

#[test]
fn pax_archives_of_gnu_tar_come_out_as_they_went_in() {
    let source = tempfile::tempdir().unwrap();
    make_everything(source.path());
    for version in ["0.0", "0.1", "1.0"] {
        let version = format!("--sparse-version={version}");
        let options = ["--format=pax", "--xattrs", "--xattrs-include=*", "-S", &version];
        let (scratch, _) = through_gnu_tar(source.path(), &options);
        let root = scratch.path().join("root");
        assert_eq!(listing(&root), listing(source.path()), "{version}");
        for file in ["sparse", "many-holes"] {
            let (ours, theirs) = (blocks(&root.join(file)), blocks(&source.path().join(file)));
            assert_eq!(ours, theirs, "the holes of {file} are kept, {version}");
        }
    }
}

#[test]
fn a_committed_folder_is_the_folder_that_it_was_made_of() {
    let source = tempfile::tempdir().unwrap();
    make_everything(source.path());
    check_round_trip(source.path());
    let made = tempfile::tempdir().unwrap();
    apply_bytes(&diff_bytes(source.path()), made.path(), Mode::Layer).unwrap();
    assert_eq!(listing(made.path()), listing(source.path()));
    for file in ["sparse", "many-holes"] {
        let (ours, theirs) = (blocks(&made.path().join(file)), blocks(&source.path().join(file)));
        assert_eq!(ours, theirs, "the holes of {file} are kept");
    }
}

#[test]
fn gnu_archives_of_gnu_tar_come_out_without_fractions_and_attributes() {
    let source = tempfile::tempdir().unwrap();
    make_everything(source.path());
    let (scratch, _) = through_gnu_tar(source.path(), &["--format=gnu", "-S"]);
    let root = scratch.path().join("root");
    // What the format cannot hold is taken from the original before comparing.
    let oracle = tempfile::tempdir().unwrap();
    tar(oracle.path(), &["-xpf", scratch.path().join("a.tar").to_str().unwrap()]);
    assert_eq!(listing(&root), listing(oracle.path()));
    assert_eq!(blocks(&root.join("sparse")), blocks(&source.path().join("sparse")));
}

#[test]
fn our_archives_are_read_by_gnu_tar() {
    let source = tempfile::tempdir().unwrap();
    make_everything(source.path());
    let scratch = tempfile::tempdir().unwrap();
    let archive = scratch.path().join("a.tar");
    fs::write(&archive, diff_bytes(source.path())).unwrap();
    let target = scratch.path().join("root");
    fs::create_dir(&target).unwrap();
    tar(&target, &["--xattrs", "--xattrs-include=*", "-xpf", archive.to_str().unwrap()]);
    assert_eq!(listing(&target), listing(source.path()));
    assert_eq!(blocks(&target.join("sparse")), blocks(&source.path().join("sparse")));
}

#[test]
fn what_is_applied_and_diffed_again_is_the_same_archive() {
    let source = tempfile::tempdir().unwrap();
    make_everything(source.path());
    let first = diff_bytes(source.path());
    let target = tempfile::tempdir().unwrap();
    let applied = apply_bytes(&first, target.path(), Mode::Layer).unwrap();
    assert_eq!(applied.diff_id, hull_oci::Digest::sha256(&first));
    assert_eq!(listing(target.path()), listing(source.path()));
    assert!(diff_bytes(target.path()) == first, "the second archive differs from the first");
}

#[test]
fn compressed_layers_have_two_digests() {
    let source = tempfile::tempdir().unwrap();
    make_everything(source.path());
    let scratch = tempfile::tempdir().unwrap();
    let plain = diff_bytes(source.path());
    fs::write(scratch.path().join("a"), &plain).unwrap();
    let tools = [
        ("gzip", Compression::Gzip),
        ("zstd", Compression::Zstd),
        ("bzip2", Compression::Bzip2),
        ("xz", Compression::Xz),
    ];
    for (tool, compression) in tools {
        let packed = compress(compression, &plain);
        let target = tempfile::tempdir().unwrap();
        // Two members after each other are one stream.
        let half = plain.len() / 2;
        let members = [compress(compression, &plain[..half]), compress(compression, &plain[half..])].concat();
        for bytes in [packed, members] {
            let applied = apply_bytes(&bytes, target.path(), Mode::Layer).unwrap();
            assert_eq!(applied.compression, compression);
            assert_eq!(applied.blob, hull_oci::Digest::sha256(&bytes), "{tool}");
            assert_eq!(applied.diff_id, hull_oci::Digest::sha256(&plain), "{tool}");
            assert_eq!(listing(target.path()), listing(source.path()), "{tool}");
        }
    }
}

/// By the same libraries: only their decoders are the product's.
pub(super) fn compress(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    match compression {
        Compression::Plain => bytes.to_vec(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => zstd::stream::encode_all(bytes, 1).unwrap(),
        Compression::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
    }
}
