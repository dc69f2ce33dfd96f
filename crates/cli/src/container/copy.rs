//! `cp`: files between a container and this machine, as archives that stream through the API.
//!
//! What a path means is decided here, from what is there on both sides ([`plan`]): whether the source
//! goes into the destination, takes its place, or is refused. The archive is made, or unpacked, by a
//! thread of its own; nothing is kept in between. A daemon of this host gives that thread an end of a
//! pipe ([`Piped`]); with any other the archive is the body of a request or an answer, which the
//! thread that speaks HTTP passes on.
//!
//! An archive of a container is not to be trusted: it is unpacked inside the destination's folder,
//! and no link of it or in it is followed out of there.

use std::fs::{File, Metadata};
use std::io::{self, IsTerminal as _, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::HeaderMap;
use hull_api::archive::{HEADER, PathStat};
use hull_api::client::{self, Body, Query, Response, segment};
use hull_api::piped::Piped;
use hull_image::layer::{self, ApplyError, DiffError, Ids, Limits, Owner, Rename, Sink, Unpack};
use hull_image::tar;
use tokio::sync::mpsc;

use super::meter::Meter;
use crate::command::{Arguments, Command, Failure, Outcome, chain, fail};
use crate::create::reason;
use crate::flags::{Flag, Given};
use crate::session::{Session, say};
use crate::streams::write_stream;
use crate::units;

pub(crate) static COPY: Command = Command {
    paths: &["container cp", "cp"],
    usage: "[OPTIONS] CONTAINER:SRC_PATH|SRC_PATH|- CONTAINER:DEST_PATH|DEST_PATH|-",
    summary: "Copy files between a container and this machine",
    arguments: Arguments::Exactly(2),
    stop_at_argument: false,
    flags: &[&[
        Flag::switch("archive", "Make the container's user the owner of what is copied in").short('a'),
        Flag::switch("follow-link", "Copy what a link as the source leads to").short('L'),
        Flag::switch("quiet", "Say nothing of what is copied").short('q'),
    ]],
    run: |session, given| Box::pin(copy(session, given)) as Outcome<'_>,
};

/// Bytes sent at once.
const PIECE: usize = 256 << 10;
/// As the kernel's own limit (path_resolution(7)).
const LINKS: usize = 40;
/// Pieces that may wait between the two threads.
const WAITING: usize = 4;

/// Where a side of the copy is.
#[derive(Debug, PartialEq, Eq)]
enum Side<'a> {
    Local(&'a str),
    Container { name: &'a str, path: &'a str },
}

/// `CONTAINER:PATH`, unless it can only be a path: it begins with `/` or `.`, or has no colon.
fn side(text: &str) -> Side<'_> {
    match text.split_once(':') {
        Some((name, path)) if !text.starts_with(['/', '.']) => Side::Container { name, path },
        _ => Side::Local(text),
    }
}

async fn copy(session: &Session, given: &Given) -> Result<u8, Failure> {
    let (from, to) = (given.arguments[0].as_str(), given.arguments[1].as_str());
    if from.is_empty() {
        return Err(fail("source can not be empty"));
    }
    if to.is_empty() {
        return Err(fail("destination can not be empty"));
    }
    let quiet = if given.has("quiet") { given.on("quiet") } else { !io::stdout().is_terminal() };
    let told = match (side(from), side(to)) {
        (Side::Container { .. }, Side::Container { .. }) => {
            return Err(fail("copying between containers is not supported"));
        }
        (Side::Local(_), Side::Local(_)) => {
            return Err(fail("must specify at least one container source"));
        }
        (Side::Container { name, path }, Side::Local(to)) => {
            let meter = Meter::new("Copying from container", quiet);
            copy_out(session, (name, path), to, given.on("follow-link"), &meter).await?
        }
        (Side::Local(from), Side::Container { name, path }) => {
            let meter = Meter::new("Copying to container", quiet);
            let (follow, own) = (given.on("follow-link"), given.on("archive"));
            copy_in(session, from, (name, path), (follow, own), &meter).await?
        }
    };
    if let (Some(bytes), false) = (told, quiet) {
        say(&format!("Successfully copied {} to {to}", units::human_size(bytes as f64, 3)));
    }
    Ok(0)
}

/// What is at one side, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum There {
    Nothing,
    Folder,
    Else,
}

/// The folder that the archive is unpacked in, and how the source is called there.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    folder: String,
    /// `None`: as it is called already.
    name: Option<String>,
}

/// The reference's rules: into a folder that is there, over a file that is there, or as something new.
fn plan(source_is_folder: bool, destination: &str, there: There) -> Result<Plan, Failure> {
    let new = |path: &str| {
        let (folder, name) = split(path);
        Ok(Plan { folder, name: Some(name) })
    };
    match there {
        There::Folder => Ok(Plan { folder: destination.to_owned(), name: None }),
        There::Else if source_is_folder => Err(fail("cannot copy directory")),
        There::Nothing if !source_is_folder && means_folder(destination) => Err(fail("no such directory")),
        There::Else | There::Nothing => new(destination),
    }
}

/// Whether a path says by its end that it is a folder's.
fn means_folder(path: &str) -> bool {
    path.ends_with('/') || path == "." || path.ends_with("/.")
}

/// Folder and last component, of the path's shortest form; the component is `.` if the path ends so.
fn split(path: &str) -> (String, String) {
    let clean = clean(path);
    if path == "." || path.ends_with("/.") {
        return (clean, ".".to_owned());
    }
    match clean.rsplit_once('/') {
        Some(("", name)) => ("/".to_owned(), if name.is_empty() { "/" } else { name }.to_owned()),
        Some((folder, name)) => (folder.to_owned(), name.to_owned()),
        None => (".".to_owned(), clean),
    }
}

/// Without `.`, doubled slashes and, where the text alone tells, `..`.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if path.starts_with('/') => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (path.starts_with('/'), joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

fn archive_path(name: &str) -> String {
    format!("/containers/{}/archive", segment(name))
}

/// A pipe that the container's files are written into (`write`) or read out of; `None`: it has to be
/// done without.
async fn pipe(
    session: &Session,
    name: &str,
    verb: &str,
    query: &Query,
) -> Result<Option<(Piped, OwnedFd)>, Failure> {
    let path = format!("/hull/v1{}/{verb}", archive_path(name));
    Ok(Piped::open(&session.client, &path, query).await?)
}

/// What the daemon says of a path, where it is.
async fn stat(session: &Session, name: &str, path: &str) -> Result<Option<PathStat>, Failure> {
    match session.client.head(&archive_path(name), &Query::new().with("path", path)).await {
        Ok(answer) => described(answer.headers()).map(Some),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn described(headers: &HeaderMap) -> Result<PathStat, Failure> {
    let header = headers.get(HEADER).and_then(|value| value.to_str().ok());
    header
        .and_then(PathStat::from_header)
        .ok_or_else(|| fail(format!("unable to decode container path stat header: {HEADER}")))
}

/// A link's target as a path of the container.
fn target(path: &str, stat: &PathStat) -> String {
    match stat.link_target.starts_with('/') {
        true => stat.link_target.clone(),
        false => format!("{}/{}", split(path).0, stat.link_target),
    }
}

async fn copy_out(
    session: &Session,
    (name, path): (&str, &str),
    to: &str,
    follow: bool,
    meter: &Meter,
) -> Result<Option<u64>, Failure> {
    let to = if to == "-" { to.to_owned() } else { destination(to)? };
    let (mut path, mut called) = (path.to_owned(), None);
    if follow
        && let Some(stat) = stat(session, name, &path).await?
        && stat.is_link()
    {
        let (link, target) = (split(&path).1, target(&path, &stat));
        called = (link != split(&target).1).then_some(link);
        path = target;
    }
    let query = Query::new().with("path", path.as_str());
    if to != "-"
        && let Some((piped, pipe)) = pipe(session, name, "read", &query).await?
    {
        let (folder, options) = place(&path, &described(&piped.headers)?, &to, called)?;
        let count = Arc::clone(&meter.count);
        return meter.during(unpack_piped(piped, pipe, folder, options, count)).await.map(Some);
    }
    let mut answer = session.client.get(&archive_path(name), &query).await?;
    let source = described(answer.headers())?;
    if to == "-" {
        while let Some(piece) = answer.chunk().await? {
            if !write_stream(1, &piece) {
                return Err(Failure::said(141));
            }
        }
        return Ok(None);
    }
    let (folder, options) = place(&path, &source, &to, called)?;
    meter.during(unpack(answer, folder, options, Arc::clone(&meter.count))).await.map(Some)
}

/// Where what is at `path` of a container is unpacked, and how.
fn place(path: &str, source: &PathStat, to: &str, called: Option<String>) -> Result<(File, Unpack), Failure> {
    let there = match std::fs::metadata(to) {
        Ok(found) if found.is_dir() => There::Folder,
        Ok(_) => There::Else,
        Err(_) => There::Nothing,
    };
    let plan = plan(source.is_folder(), to, there)?;
    let name = plan.name.or(called);
    let options = Unpack {
        keep_kinds: true,
        owner: Owner::Caller,
        // All entries begin with the source's name, but those of `/` and of a path that ends in `/.`.
        rename: name.map(|name| Rename { first: split(path).1, to: name }),
        ..Unpack::default()
    };
    let folder = File::open(&plan.folder)
        .map_err(|error| fail(format!("open {}: {}", plan.folder, reason(&error))))?;
    Ok((folder, options))
}

/// The path as an absolute one that no link is at the end of; its folder is there. A device, FIFO or
/// socket is refused: a file would take its place.
fn destination(to: &str) -> Result<String, Failure> {
    let mut path = absolute(to)?;
    if let Ok(found) = std::fs::metadata(&path)
        && !found.is_dir()
        && !found.is_file()
    {
        let kind = found.file_type();
        let device = kind.is_char_device() || kind.is_block_device();
        let got = if device { "a device" } else { "an irregular file" };
        return Err(fail(format!(
            "invalid output path: \"{path}\" must be a directory or a regular file: got {got}"
        )));
    }
    for _ in 0..LINKS {
        let Ok(target) = std::fs::read_link(&path) else { break };
        let target = target.to_string_lossy().into_owned();
        path = if target.starts_with('/') { target } else { format!("{}/{target}", split(&path).0) };
    }
    let folder = split(&path).0;
    match std::fs::metadata(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(fail(format!("invalid output path: directory \"{folder}\" does not exist")))
        }
        Err(error) => Err(fail(format!("invalid output path: stat {folder}: {}", reason(&error)))),
        Ok(_) => Ok(path),
    }
}

fn absolute(path: &str) -> Result<String, Failure> {
    if path.starts_with('/') {
        return Ok(path.to_owned());
    }
    let here = std::env::current_dir().map_err(|error| fail(format!("getwd: {}", reason(&error))))?;
    Ok(format!("{}/{path}", here.display()))
}

/// Unpacks what comes out of the pipe; gives how many bytes that were.
async fn unpack_piped(
    piped: Piped,
    pipe: OwnedFd,
    folder: File,
    options: Unpack,
    count: Arc<AtomicU64>,
) -> Result<u64, Failure> {
    let work = tokio::task::spawn_blocking(move || {
        let source = layer::Source::Pipe(pipe.as_fd());
        layer::unpack(source, folder.as_fd(), b"", &options, &Limits::default(), &count)
    });
    match work.await.map_err(|error| fail(error.to_string()))? {
        Err(error @ ApplyError::Archive(tar::Error::Truncated { .. })) => {
            // The daemon knows why.
            piped.end().await?;
            Err(fail(chain(&error)))
        }
        Err(error) => Err(fail(chain(&error))),
        Ok(count) => {
            piped.end().await?;
            Ok(count)
        }
    }
}

/// Unpacks the answer's body; gives the bytes that came.
async fn unpack(
    mut answer: Response,
    folder: File,
    options: Unpack,
    count: Arc<AtomicU64>,
) -> Result<u64, Failure> {
    let (pieces, waiting) = mpsc::channel(WAITING);
    let work = tokio::task::spawn_blocking(move || {
        let mut source = Coming { waiting, piece: Bytes::new() };
        let source = layer::Source::Stream(&mut source);
        layer::unpack(source, folder.as_fd(), b"", &options, &Limits::default(), &count)
    });
    let mut broken = None;
    loop {
        match answer.chunk().await {
            Ok(Some(piece)) => {
                if pieces.send(Ok(piece)).await.is_err() {
                    // The other thread has ended, and says why.
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                let _ = pieces.send(Err(io::ErrorKind::UnexpectedEof.into())).await;
                broken = Some(error);
                break;
            }
        }
    }
    drop(pieces);
    let unpacked = work.await.map_err(|error| fail(error.to_string()))?;
    match (broken, unpacked) {
        (Some(error), _) => Err(error.into()),
        (None, unpacked) => unpacked.map_err(|error| fail(chain(&error))),
    }
}

/// The pieces that come from the other thread, as one stream.
struct Coming {
    waiting: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for Coming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.waiting.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}

async fn copy_in(
    session: &Session,
    from: &str,
    (name, path): (&str, &str),
    (follow, own): (bool, bool),
    meter: &Meter,
) -> Result<Option<u64>, Failure> {
    let mut destination = path.to_owned();
    let mut found = stat(session, name, &destination).await?;
    if let Some(link) = found.as_ref().filter(|stat| stat.is_link()) {
        destination = target(&destination, link);
        found = stat(session, name, &destination).await?;
    }
    let there = match &found {
        Some(stat) if stat.is_folder() => There::Folder,
        Some(_) => There::Else,
        None => There::Nothing,
    };
    let query = |folder: &str| {
        Query::new().with("path", folder).with("noOverwriteDirNonDir", "true").switch("copyUIDGID", own)
    };
    if from == "-" {
        if there != There::Folder {
            return Err(fail(format!("destination \"{name}:{path}\" must be a directory")));
        }
        let body = client::stream_of(tokio::io::stdin());
        session.client.put(&archive_path(name), &query(&destination), body).await?;
        return Ok(None);
    }
    let source = Source::find(from, follow)?;
    let plan = plan(source.metadata.is_dir(), &destination, there)?;
    if let Some((piped, pipe)) = pipe(session, name, "write", &query(&plan.folder)).await? {
        let count = Arc::clone(&meter.count);
        return meter.during(pack_piped(piped, pipe, source, plan.name, count)).await.map(Some);
    }
    let body = pack(source, plan.name, Arc::clone(&meter.count))?;
    let (path, query) = (archive_path(name), query(&plan.folder));
    meter.during(session.client.put(&path, &query, body)).await?;
    Ok(Some(meter.count.load(Ordering::Relaxed)))
}

/// What is to be copied from this machine.
struct Source {
    folder: PathBuf,
    base: Vec<u8>,
    /// How the archive calls it, unless the destination gives it a name.
    name: Vec<u8>,
    metadata: Metadata,
}

impl Source {
    fn open(&self) -> Result<File, Failure> {
        let folder = &self.folder;
        File::open(folder).map_err(|error| fail(format!("open {}: {}", folder.display(), reason(&error))))
    }

    fn find(path: &str, follow: bool) -> Result<Source, Failure> {
        let path = &*absolute(path)?;
        let (folder, base) = split(path);
        let lost = |call: &str, path: &Path, error: &io::Error| {
            fail(format!("{call} {}: {}", path.display(), reason(error)))
        };
        let whole = Path::new(path);
        if follow || means_folder(path) {
            let resolved = std::fs::canonicalize(whole).map_err(|error| lost("lstat", whole, &error))?;
            let metadata = std::fs::metadata(&resolved).map_err(|error| lost("stat", whole, &error))?;
            if means_folder(path) && !metadata.is_dir() {
                return Err(fail(format!("lstat {path}: not a directory")));
            }
            // `dir/.` and `/` are their contents; a link keeps its name.
            return Ok(match resolved.file_name() {
                Some(last) if base != "." => Source {
                    folder: resolved.parent().unwrap_or(Path::new("/")).to_owned(),
                    base: last.as_bytes().to_vec(),
                    name: base.into_bytes(),
                    metadata,
                },
                _ => Source { folder: resolved, base: b".".to_vec(), name: base.into_bytes(), metadata },
            });
        }
        let metadata = std::fs::symlink_metadata(whole).map_err(|error| lost("lstat", whole, &error))?;
        Ok(Source {
            folder: PathBuf::from(folder),
            base: base.clone().into_bytes(),
            name: base.into_bytes(),
            metadata,
        })
    }
}

/// Packs the source into the pipe; gives how many bytes that were.
async fn pack_piped(
    piped: Piped,
    pipe: OwnedFd,
    source: Source,
    name: Option<String>,
    count: Arc<AtomicU64>,
) -> Result<u64, Failure> {
    let folder = source.open()?;
    let name = name.map_or(source.name, String::into_bytes);
    let work = tokio::task::spawn_blocking(move || {
        let pipe = Sink::Pipe(pipe.as_fd());
        layer::pack(folder.as_fd(), &source.base, &name, Ids::default(), pipe, &count)
    });
    match work.await.map_err(|error| fail(error.to_string()))? {
        Err(DiffError::Write(tar::WriteError::Write(error))) => {
            // Nobody reads the pipe any more, and the daemon knows why.
            piped.end().await?;
            Err(fail(format!("write to the daemon: {}", reason(&error))))
        }
        Err(error) => Err(fail(chain(&error))),
        Ok(count) => {
            piped.end().await?;
            Ok(count)
        }
    }
}

/// A body that is made as it is sent; `count` is how many bytes it has so far.
fn pack(source: Source, name: Option<String>, count: Arc<AtomicU64>) -> Result<Body, Failure> {
    let opened = source.open()?;
    let Source { base, name: own, .. } = source;
    let name = name.map_or(own, String::into_bytes);
    let (pieces, waiting) = mpsc::channel(WAITING);
    tokio::task::spawn_blocking(move || {
        let mut out = Going { pieces, piece: Vec::with_capacity(PIECE) };
        let stream = Sink::Stream(&mut out);
        let packed = layer::pack(opened.as_fd(), &base, &name, Ids::default(), stream, &count)
            .map_err(|error| io::Error::other(chain(&error)))
            .and_then(|_| out.flush());
        if let Err(error) = packed {
            // The request is broken off with it; nobody may be there to hear.
            let _ = out.pieces.blocking_send(Err(error));
        }
    });
    Ok(client::body_of(waiting))
}

/// Bytes on their way to the other thread.
struct Going {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for Going {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(2 * PIECE));
        let sent = self.pieces.blocking_send(Ok(Bytes::from(piece)));
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_makes_a_container_of_what_can_be_no_path() {
        assert_eq!(side("box:/etc"), Side::Container { name: "box", path: "/etc" });
        assert_eq!(side("box:"), Side::Container { name: "box", path: "" });
        for local in ["/a:b", "./a:b", "../a:b", "a", "-"] {
            assert_eq!(side(local), Side::Local(local));
        }
    }

    #[test]
    fn where_the_source_goes() {
        use There::{Else, Folder, Nothing};
        let check = |folder: bool, to: &str, there: There| match plan(folder, to, there) {
            Ok(Plan { folder, name }) => format!("{folder} {}", name.unwrap_or_else(|| "as it is".into())),
            Err(failure) => failure.message,
        };
        assert_eq!(check(false, "/tmp/", Folder), "/tmp/ as it is");
        assert_eq!(check(true, "/", Folder), "/ as it is");
        assert_eq!(check(false, "/tmp/renamed", Nothing), "/tmp renamed");
        assert_eq!(check(false, "/there", Else), "/ there");
        assert_eq!(check(true, "/tmp/new/", Nothing), "/tmp new");
        assert_eq!(check(true, "/there", Else), "cannot copy directory");
        assert_eq!(check(false, "/none/", Nothing), "no such directory");
        assert_eq!(check(false, "/none/.", Nothing), "no such directory");
    }

    #[test]
    fn paths_are_split_after_they_are_made_short() {
        let check = |path: &str, folder: &str, name: &str| {
            assert_eq!(split(path), (folder.to_owned(), name.to_owned()), "{path}");
        };
        check("/a/b", "/a", "b");
        check("/a/b/", "/a", "b");
        check("/a/b/.", "/a/b", ".");
        check("/a/./c/../b", "/a", "b");
        check("/a", "/", "a");
        check("/", "/", "/");
        check("/..", "/", "/");
    }
}
