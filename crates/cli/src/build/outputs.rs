//! `--output`: where what was built goes.
//!
//! [`parse`] says what the words mean; a [`Sink`] takes the bytes that the daemon sends. A folder is filled by
//! the extractor of `cp`, in a thread of its own: nothing in the archive leads out of it, and the files
//! belong to whoever called.

use std::collections::HashSet;
use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use hull_api::build::{Form, Output};
use hull_image::layer::{self, ApplyError, Limits, Owner, Unpack};
use hull_oci::Digest;
use hull_oci::digest::Algorithm;
use rustix::fs::FlockOperation;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

use crate::command::{Failure, chain, fail};
use crate::create::reason;
use crate::output::{self, Unfinished};
use crate::streams::write_stream;

/// What a build is to come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The daemon keeps the image; with these names besides those of `-t`.
    pub(super) store: bool,
    pub(super) names: Vec<String>,
    pub(super) outputs: Vec<(Place, Output)>,
}

/// Where bytes go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// An archive is unpacked here.
    Folder(String),
    /// The same of a cache, in place of the one that was here.
    Cache(String),
    File(String),
    Stdout,
}

/// What all `--output` mean together; without any, an image is kept. `tags` are the names of archives
/// that have no others.
pub(super) fn parse<'a>(given: impl Iterator<Item = &'a str>, tags: &[String]) -> Result<Wanted, Failure> {
    let mut wanted = Wanted::default();
    let mut count = 0;
    for text in given {
        count += 1;
        one(text, tags, &mut wanted)?;
    }
    wanted.store |= count == 0;
    let to_stdout = |(place, _): &&(Place, Output)| *place == Place::Stdout;
    if wanted.outputs.iter().filter(to_stdout).count() > 1 {
        return Err(fail("only one output can go to STDOUT: give the others a file (dest=FILE)"));
    }
    Ok(wanted)
}

fn one(text: &str, tags: &[String], wanted: &mut Wanted) -> Result<(), Failure> {
    let files = || Output { form: Form::Files, names: Vec::new() };
    // The short forms: a folder, or an archive on standard output.
    if !text.contains('=') {
        let place = if text == "-" { Place::Stdout } else { Place::Folder(text.to_owned()) };
        wanted.outputs.push((place, files()));
        return Ok(());
    }
    let (mut kind, mut destination, mut names) = ("", "", Vec::new());
    for field in text.split(',') {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| fail(format!("invalid value {field:?} in --output {text:?}: it is KEY=VALUE")))?;
        match key.trim().to_ascii_lowercase().as_str() {
            "type" => kind = value,
            "dest" => destination = value,
            "name" => names.push(value.to_owned()),
            "push" if value != "false" => return Err(push()),
            "push" => {}
            // What is the case anyway.
            "store" | "tar" | "unpack" if value != "false" => {}
            "compression" if value == "uncompressed" => {}
            key => {
                return Err(fail(format!(
                    "--output {text:?}: {key}={value} is not understood: use type, dest and name"
                )));
            }
        }
    }
    let to_file = match destination {
        "" | "-" => Place::Stdout,
        file => Place::File(file.to_owned()),
    };
    let archive = |names: Vec<String>| {
        let names = if names.is_empty() { tags.to_vec() } else { names };
        Output { form: Form::Image, names }
    };
    match kind {
        "local" if destination.is_empty() || destination == "-" => {
            return Err(fail("dest is required for the local exporter: dest=FOLDER"));
        }
        "local" => wanted.outputs.push((Place::Folder(destination.to_owned()), files())),
        "tar" => wanted.outputs.push((to_file, files())),
        "oci" => wanted.outputs.push((to_file, archive(names))),
        "docker" if !destination.is_empty() => wanted.outputs.push((to_file, archive(names))),
        // Without a file it is loaded.
        "docker" | "image" => {
            wanted.store = true;
            wanted.names.extend(names);
        }
        "registry" => return Err(push()),
        "" => return Err(fail(format!("type is required for --output {text:?}"))),
        "cacheonly" => {}
        other => {
            return Err(fail(format!(
                "--output: there is no type {other:?}: use image, local, tar, oci, docker or cacheonly"
            )));
        }
    }
    Ok(())
}

fn push() -> Failure {
    fail("an image cannot be pushed yet: there is no registry client in this build; use type=oci,dest=FILE")
}

/// Takes an output's bytes.
#[derive(Debug)]
pub(super) enum Sink {
    /// With what is to take a cache's place.
    Folder {
        pipe: pipe::Sender,
        work: JoinHandle<(Result<u64, ApplyError>, Option<NewCache>)>,
    },
    File(Unfinished),
    Stdout,
}

/// Refuses what can be no destination, before anything is built.
pub(super) fn check(place: &Place) -> Result<(), Failure> {
    match place {
        Place::Folder(_) | Place::Cache(_) => Ok(()),
        Place::File(file) => output::check(file, "failed to write the output"),
        Place::Stdout if std::io::stdout().is_terminal() => {
            Err(fail("dest file is required for this exporter: refusing to write to console"))
        }
        Place::Stdout => Ok(()),
    }
}

impl Sink {
    pub(super) fn open(place: &Place) -> Result<Sink, Failure> {
        let failed = |path: &str, error: &std::io::Error| fail(format!("open {path}: {}", reason(error)));
        match place {
            Place::Stdout => Ok(Sink::Stdout),
            Place::File(file) => {
                Unfinished::create(file).map(Sink::File).map_err(|error| failed(file, &error))
            }
            Place::Folder(path) => Sink::folder(Path::new(path), None),
            Place::Cache(path) => {
                let new = NewCache::begin(Path::new(path)).map_err(|error| failed(path, &error))?;
                Sink::folder(&new.folder.clone(), Some(new))
            }
        }
    }

    fn folder(path: &Path, cache: Option<NewCache>) -> Result<Sink, Failure> {
        let failed = |error: std::io::Error| fail(format!("open {}: {}", path.display(), reason(&error)));
        std::fs::create_dir_all(path).map_err(failed)?;
        let folder = File::open(path).map_err(failed)?;
        let (source, pipe) = std::io::pipe()?;
        let work = tokio::task::spawn_blocking(move || {
            let options = Unpack { keep_kinds: true, owner: Owner::Caller, ..Unpack::default() };
            let source = layer::Source::Pipe(source.as_fd());
            let count = AtomicU64::new(0);
            let unpacked = layer::unpack(source, folder.as_fd(), b"", &options, &Limits::default(), &count);
            // Where nobody waits for it any more it goes now, when nothing comes into it.
            (unpacked, cache)
        });
        Ok(Sink::Folder { pipe: pipe::Sender::from_owned_fd(pipe.into())?, work })
    }

    pub(super) async fn write(&mut self, bytes: &Bytes) -> Result<(), Failure> {
        match self {
            // An extractor that hears no more says why at the end.
            Sink::Folder { pipe, .. } => _ = pipe.write_all(bytes).await,
            Sink::File(file) => file
                .file
                .write_all(bytes)
                .map_err(|error| fail(format!("the output cannot be written: {}", reason(&error))))?,
            Sink::Stdout if write_stream(1, bytes) => {}
            Sink::Stdout => return Err(Failure::said(141)),
        }
        Ok(())
    }

    /// All has come.
    pub(super) async fn end(self) -> Result<(), Failure> {
        match self {
            Sink::Folder { pipe, work } => {
                drop(pipe);
                let lost = |error: tokio::task::JoinError| fail(error.to_string());
                let (unpacked, cache) = work.await.map_err(lost)?;
                unpacked.map_err(|error| fail(chain(&error)))?;
                let Some(cache) = cache else { return Ok(()) };
                let replaced = tokio::task::spawn_blocking(move || cache.replace()).await.map_err(lost)?;
                replaced.map_err(|error| fail(format!("the cache cannot be written: {}", reason(&error))))
            }
            Sink::File(file) => file
                .publish()
                .map_err(|error| fail(format!("the output cannot be written: {}", reason(&error)))),
            Sink::Stdout => Ok(()),
        }
    }
}

const BLOBS: &str = "blobs/sha256";

/// Where a cache is until it is whole: `.new-PID-RANDOM` in the folder that is to have it. Others may write one for
/// the same folder meanwhile. Dropped, it goes; what a kill has left is nobody's to sweep, it may be another's.
#[derive(Debug)]
pub(super) struct NewCache {
    cache: PathBuf,
    folder: PathBuf,
}

impl NewCache {
    fn begin(cache: &Path) -> std::io::Result<NewCache> {
        std::fs::create_dir_all(cache)?;
        let mut chance = [0; 8];
        rustix::rand::getrandom(&mut chance, rustix::rand::GetRandomFlags::empty())?;
        let name = format!(".new-{}-{:016x}", std::process::id(), u64::from_ne_bytes(chance));
        let folder = cache.join(name);
        std::fs::create_dir(&folder)?;
        Ok(NewCache { cache: cache.to_owned(), folder })
    }

    /// Moves a cache that is whole to its place. Blobs go first, so what names them finds them; those that it has
    /// not got go last. Nothing else in the folder is touched. Blocks, as long as another does the same.
    fn replace(&self) -> std::io::Result<()> {
        // It ends with the descriptor.
        let lock = File::open(&self.cache)?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&lock, FlockOperation::LockExclusive))?;
        let blobs = self.cache.join(BLOBS);
        std::fs::create_dir_all(&blobs)?;
        let mut kept = HashSet::new();
        for blob in std::fs::read_dir(self.folder.join(BLOBS))? {
            let blob = blob?;
            std::fs::rename(blob.path(), blobs.join(blob.file_name()))?;
            kept.insert(blob.file_name());
        }
        for document in std::fs::read_dir(&self.folder)? {
            let document = document?;
            if document.file_type()?.is_file() {
                std::fs::rename(document.path(), self.cache.join(document.file_name()))?;
            }
        }
        for blob in std::fs::read_dir(&blobs)? {
            let blob = blob?;
            let is_blob =
                blob.file_name().to_str().is_some_and(|hex| Digest::from_hex(Algorithm::Sha256, hex).is_ok());
            if is_blob && !kept.contains(&blob.file_name()) {
                std::fs::remove_file(blob.path())?;
            }
        }
        Ok(())
    }
}

impl Drop for NewCache {
    fn drop(&mut self) {
        // What is left of it is in nobody's way.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_takes_the_place_of_the_last_one_and_of_nothing_else() {
        let scratch = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = scratch.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let blob = |text: &str| format!("{BLOBS}/{}", Digest::sha256(text.as_bytes()).hex());
        for text in ["old", "both"] {
            write(&blob(text), text);
        }
        for path in ["index.json", "mine", "blobs/sha256/mine"] {
            write(path, "as it was");
        }
        // Another is on its way at the same time.
        let [new, other] = [(); 2].map(|()| NewCache::begin(scratch.path()).unwrap());
        let place = |new: &NewCache| new.folder.file_name().unwrap().to_str().unwrap().to_owned();
        write(&format!("{}/index.json", place(&other)), "another's");
        for text in ["both", "new"] {
            write(&format!("{}/{}", place(&new), blob(text)), text);
        }
        write(&format!("{}/index.json", place(&new)), "as it is");
        new.replace().unwrap();
        drop(new);
        let read = |path: &str| std::fs::read_to_string(scratch.path().join(path)).ok();
        let all = [blob("old"), blob("both"), blob("new")].map(|path| read(&path));
        assert_eq!(all, [None, Some("both".to_owned()), Some("new".to_owned())]);
        assert_eq!(read("index.json").as_deref(), Some("as it is"));
        assert_eq!((read("mine").is_some(), read("blobs/sha256/mine").is_some()), (true, true));
        assert_eq!(read(&format!("{}/index.json", place(&other))).as_deref(), Some("another's"));
        drop(other);
        let mut names: Vec<_> =
            std::fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["blobs", "index.json", "mine"]);
    }

    fn read(texts: &[&str]) -> Result<Wanted, String> {
        parse(texts.iter().copied(), &["tag:1".to_owned()]).map_err(|failure| failure.message)
    }

    fn files(place: Place) -> Wanted {
        let output = Output { form: Form::Files, names: Vec::new() };
        Wanted { outputs: vec![(place, output)], ..Wanted::default() }
    }

    #[test]
    fn words_mean_places_and_forms() {
        let file = || Place::File("x.tar".to_owned());
        let folder = || Place::Folder("out".to_owned());
        let archive = |names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            let outputs = vec![(file(), Output { form: Form::Image, names })];
            Wanted { outputs, ..Wanted::default() }
        };
        let kept = |names: &[&str]| Wanted {
            store: true,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            outputs: Vec::new(),
        };
        assert_eq!(read(&[]).unwrap(), kept(&[]));
        for (text, expected) in [
            ("out", files(folder())),
            ("-", files(Place::Stdout)),
            ("type=local,dest=out", files(folder())),
            ("type=tar,dest=x.tar", files(file())),
            ("type=tar", files(Place::Stdout)),
            ("type=oci,dest=x.tar", archive(&["tag:1"])),
            ("type=docker,dest=x.tar,name=a:b", archive(&["a:b"])),
            ("type=docker", kept(&[])),
            ("type=image,name=a:b,push=false", kept(&["a:b"])),
            ("type=cacheonly", Wanted::default()),
        ] {
            assert_eq!(read(&[text]).unwrap(), expected, "{text}");
        }
        let both = read(&["type=image", "out"]).unwrap();
        assert!(both.store && both.outputs.len() == 1);
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_a_reason() {
        for (texts, complaint) in [
            (&["type=registry"][..], "pushed"),
            (&["type=image,push=true"], "pushed"),
            (&["type=local"], "dest is required"),
            (&["dest=x"], "type is required"),
            (&["type=paper"], "no type \"paper\""),
            (&["type=tar,color=red"], "color=red"),
            (&["type=tar,x"], "KEY=VALUE"),
            (&["-", "type=oci"], "only one output can go to STDOUT"),
        ] {
            let message = read(texts).unwrap_err();
            assert!(message.contains(complaint), "{texts:?}: {message}");
        }
    }
}
