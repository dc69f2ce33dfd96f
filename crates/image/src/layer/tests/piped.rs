//! Archives through pipes: large files go past everybody's memory, and nothing else may be different.

use std::io::Read as _;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use super::super::{
    ApplyError, DiffError, Ids, Limits, Mode, Owner, Sink, Source, Unpack, apply, extract, extract_files,
    pack, unpack,
};
use super::{open, tree};
use crate::tar;

/// Files around every size that matters: of a block, of what is moved and not copied, of a pipe.
fn fill(folder: &Path) {
    for size in [0, 1, 511, 512, 513, 65_535, 65_536, 65_537, 131_072, 200_000, 1_048_576, 3_000_001] {
        let bytes: Vec<u8> = (0..size).map(|at: u32| (at / 7) as u8).collect();
        std::fs::write(folder.join(size.to_string()), bytes).unwrap();
    }
    std::fs::create_dir(folder.join("sub")).unwrap();
    std::os::unix::fs::symlink("../512", folder.join("sub/link")).unwrap();
    let sparse = std::fs::File::create(folder.join("sub/sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &[7; 300_000], 4 << 20).unwrap();
    sparse.set_len(9 << 20).unwrap();
}

#[test]
fn a_pipe_carries_the_same_archive_and_gives_the_same_tree() {
    let scratch = tempfile::tempdir().unwrap();
    let folders = ["from", "by-pipe", "by-stream"].map(|name| scratch.path().join(name));
    for folder in &folders {
        std::fs::create_dir(folder).unwrap();
    }
    let [from, by_pipe, by_stream] = &folders;
    fill(from);
    let mut stream = Vec::new();
    let length =
        pack(open(from).as_fd(), b".", b"x", Ids::default(), Sink::Stream(&mut stream), &AtomicU64::new(0))
            .unwrap();
    assert_eq!(length, stream.len() as u64);
    let into = |folder: &Path, source: Source<'_>| {
        let options = Unpack { owner: Owner::Named, ..Unpack::default() };
        unpack(source, open(folder).as_fd(), b"", &options, &Limits::default(), &AtomicU64::new(0)).unwrap()
    };
    assert_eq!(into(by_stream, Source::Stream(&mut &stream[..])), length);

    let packed = || {
        let (output, input) = rustix::pipe::pipe().unwrap();
        let from = open(from);
        let pack = move || {
            pack(from.as_fd(), b".", b"x", Ids::default(), Sink::Pipe(input.as_fd()), &AtomicU64::new(0))
                .unwrap()
        };
        (output, std::thread::spawn(pack))
    };
    let (output, packing) = packed();
    let mut bytes = Vec::new();
    std::fs::File::from(output).read_to_end(&mut bytes).unwrap();
    assert_eq!(packing.join().unwrap(), length);
    assert!(bytes == stream);

    let (output, packing) = packed();
    assert_eq!(into(by_pipe, Source::Pipe(output.as_fd())), length);
    packing.join().unwrap();
    assert_eq!(tree::listing(&by_pipe.join("x")), tree::listing(from));
    assert_eq!(tree::listing(by_pipe), tree::listing(by_stream));
}

#[test]
fn what_nobody_hashes_becomes_the_same_folder_from_a_pipe_and_from_a_file() {
    let scratch = tempfile::tempdir().unwrap();
    let folders = ["from", "hashed", "piped", "read", "unfolded"].map(|name| scratch.path().join(name));
    for folder in &folders {
        std::fs::create_dir(folder).unwrap();
    }
    let [from, hashed, piped, read, unfolded] = &folders;
    fill(from);
    let mut stream = Vec::new();
    pack(open(from).as_fd(), b".", b"x", Ids::default(), Sink::Stream(&mut stream), &AtomicU64::new(0))
        .unwrap();
    apply(&mut &stream[..], open(hashed).as_fd(), Mode::Plain, &Limits::default()).unwrap();

    let into = |folder: &Path, source: std::os::fd::BorrowedFd<'_>| {
        extract(Source::Pipe(source), open(folder).as_fd(), Mode::Plain, &Limits::default()).unwrap();
        assert_eq!(tree::listing(folder), tree::listing(hashed));
    };
    let through = |folder: &Path, bytes: Vec<u8>| {
        let (output, input) = rustix::pipe::pipe().unwrap();
        let write = move || std::io::Write::write_all(&mut std::fs::File::from(input), &bytes).unwrap();
        let writing = std::thread::spawn(write);
        into(folder, output.as_fd());
        writing.join().unwrap();
    };
    through(piped, stream.clone());
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &stream).unwrap();
    through(unfolded, gzip.finish().unwrap());
    let archive = scratch.path().join("archive");
    std::fs::write(&archive, &stream).unwrap();
    into(read, open(&archive).as_fd());
}

#[test]
fn large_files_are_hashed_behind_their_writer_unless_a_name_comes_twice() {
    let scratch = tempfile::tempdir().unwrap();
    let contents = [("large", vec![1; 700_001]), ("small", vec![2; 100]), ("sub/larger", vec![3; 3_000_000])];
    let archive = |names: &[usize]| {
        let mut archive = Vec::new();
        let mut writer = tar::Writer::new(&mut archive);
        for (name, bytes) in names.iter().map(|at| &contents[*at]) {
            let kind = tar::Kind::File { size: bytes.len() as u64, extents: None };
            writer.file(&tar::Entry::new(name.as_bytes(), kind), bytes).unwrap();
        }
        writer.finish().unwrap();
        archive
    };
    let into = |folder: &str, archive: Vec<u8>, by_pipe: bool| {
        let folder = scratch.path().join(folder);
        std::fs::create_dir(&folder).unwrap();
        let (output, input) = rustix::pipe::pipe().unwrap();
        let mut bytes = &archive[..];
        let behind = std::thread::scope(|scope| {
            let source = match by_pipe {
                true => Source::Pipe(output.as_fd()),
                false => Source::Stream(&mut bytes),
            };
            scope.spawn(|| {
                by_pipe.then(|| std::io::Write::write_all(&mut std::fs::File::from(input), &archive))
            });
            extract_files(source, open(&folder).as_fd(), &Limits::default()).unwrap()
        });
        behind.map(|behind| (folder, behind.finish()))
    };
    for (folder, by_pipe) in [("piped", true), ("streamed", false)] {
        let (folder, digests) = into(folder, archive(&[0, 1, 2]), by_pipe).unwrap();
        let inode = |name: &str| std::fs::metadata(folder.join(name)).unwrap().ino();
        let expected = [0, 2].map(|at| {
            let (name, bytes) = &contents[at];
            (inode(name), hull_oci::Digest::sha256(bytes))
        });
        assert_eq!(digests, expected.into());
    }
    assert!(into("twice", archive(&[0, 1, 0]), true).is_none());
}

/// Unpacks what `write` puts into a pipe.
fn through(into: &Path, write: impl FnOnce(std::fs::File) + Send + 'static) -> Result<u64, ApplyError> {
    let (output, input) = rustix::pipe::pipe().unwrap();
    let writing = std::thread::spawn(move || write(input.into()));
    let source = Source::Pipe(output.as_fd());
    let unpacked =
        unpack(source, open(into).as_fd(), b"", &Unpack::default(), &Limits::default(), &AtomicU64::new(0));
    drop(output);
    writing.join().unwrap();
    unpacked
}

#[test]
fn a_pipe_that_ends_early_is_told_and_no_byte_of_the_next_entry_gets_into_a_file() {
    let scratch = tempfile::tempdir().unwrap();
    let entry =
        |name: &str, size: u64| tar::Entry::new(name.as_bytes(), tar::Kind::File { size, extents: None });
    let mut archive = Vec::new();
    let mut writer = tar::Writer::new(&mut archive);
    writer.file(&entry("first", 900_000), &vec![1; 900_000]).unwrap();
    writer.file(&entry("second", 5), b"after").unwrap();
    writer.finish().unwrap();
    let whole = archive.clone();
    let write_all = |bytes: Vec<u8>| {
        move |mut pipe: std::fs::File| {
            // Refused ones are not read to their end.
            let _ = std::io::Write::write_all(&mut pipe, &bytes);
        }
    };
    through(scratch.path(), write_all(whole)).unwrap();
    assert!(std::fs::read(scratch.path().join("first")).unwrap() == vec![1; 900_000]);
    assert_eq!(std::fs::read(scratch.path().join("second")).unwrap(), b"after");
    for cut in [512 + 1, 512 + 131_072, 512 + 500_000, 512 + 899_999] {
        let error = through(scratch.path(), write_all(archive[..cut].to_vec())).unwrap_err();
        assert!(matches!(error, ApplyError::Archive(tar::Error::Truncated { .. })), "{cut}: {error:?}");
    }
}

#[test]
fn whoever_stops_reading_a_pipe_ends_the_packing() {
    let scratch = tempfile::tempdir().unwrap();
    std::fs::write(scratch.path().join("big"), vec![0; 4 << 20]).unwrap();
    let (output, input) = rustix::pipe::pipe().unwrap();
    let from = open(scratch.path());
    let packing = std::thread::spawn(move || {
        pack(from.as_fd(), b"big", b"big", Ids::default(), Sink::Pipe(input.as_fd()), &AtomicU64::new(0))
    });
    std::fs::File::from(output).read_exact(&mut [0; 100_000]).unwrap();
    let error = packing.join().unwrap().unwrap_err();
    let DiffError::Write(tar::WriteError::Write(error)) = error else { panic!("{error:?}") };
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
}

#[test]
fn a_packages_folder_is_the_one_that_a_link_of_the_tree_leads_to() {
    use tar::{Entry, Kind};
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    std::fs::create_dir_all(root.join("usr/bin")).unwrap();
    std::fs::create_dir(scratch.path().join("bin")).unwrap();
    std::fs::write(root.join("file"), "").unwrap();
    for (link, target) in
        [("bin", "usr/bin"), ("sbin", "/usr/bin"), ("lib", "usr/none"), ("out", "../../bin"), ("odd", "file")]
    {
        std::os::unix::fs::symlink(target, root.join(link)).unwrap();
    }
    let mut archive = Vec::new();
    let mut writer = tar::Writer::new(&mut archive);
    let file = |name: &str| Entry::new(name.as_bytes(), Kind::File { size: 1, extents: None });
    for folder in ["bin", "sbin", "lib", "out", "odd"] {
        writer.file(&Entry { mode: 0o700, ..Entry::new(folder.as_bytes(), Kind::Directory) }, b"").unwrap();
        writer.file(&file(&format!("{folder}/{folder}")), b"x").unwrap();
    }
    writer.finish().unwrap();
    let options = Unpack { keep_links: true, ..Unpack::default() };
    unpack(
        Source::Stream(&mut &archive[..]),
        open(&root).as_fd(),
        b"",
        &options,
        &Limits::default(),
        &AtomicU64::new(0),
    )
    .unwrap();
    let names = |folder: &Path| {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    // Above the tree's root is its root.
    assert_eq!(names(&root.join("usr/bin")), ["bin", "out", "sbin"]);
    assert!(["bin", "out", "sbin"].iter().all(|link| root.join(link).is_symlink()));
    // Links to nothing and to no folder become folders.
    for folder in ["lib", "odd"] {
        assert!(!root.join(folder).is_symlink(), "{folder}");
        assert_eq!(names(&root.join(folder)), [folder]);
    }
    assert_eq!(names(&scratch.path().join("bin")), [""; 0]);
    // The link's folder keeps its mode.
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(root.join("usr/bin")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o7777, 0o755);
}
