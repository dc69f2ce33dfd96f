//! What the image will hold: a sorted map of its paths, filled from the host, and its
//! writing as one tar.
//!
//! Symbolic links are kept. Every path goes through the links on its way, on the host
//! and in the tree alike, so no entry ever lies below a link.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use hull_image::tar::{Entry, Kind, Time, Writer};

use super::CaptureError;

/// As many as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;
const MAX_NODES: usize = 1_000_000;
/// Folders of the running system, which no image may contain.
const PSEUDO: &[&str] = &["/proc", "/sys", "/dev"];

/// One path of the image.
#[derive(Debug, Clone)]
struct Node {
    content: Content,
    mode: u32,
    uid: u32,
    gid: u32,
    /// Seconds since 1970.
    mtime: i64,
}

#[derive(Debug, Clone)]
enum Content {
    Directory,
    Symlink(PathBuf),
    Fifo,
    /// A file of the host; `inode` only if it has several names there.
    Host {
        source: PathBuf,
        size: u64,
        inode: Option<(u64, u64)>,
    },
    Made(Vec<u8>),
}

/// The image's files so far. Paths are absolute in the image.
#[derive(Debug)]
pub(crate) struct Tree {
    /// Where the host's root is.
    root: PathBuf,
    nodes: BTreeMap<PathBuf, Node>,
}

impl Tree {
    pub(crate) fn new(root: &Path) -> Tree {
        Tree { root: root.to_owned(), nodes: BTreeMap::new() }
    }

    /// The host's file for a path.
    pub(crate) fn host(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    pub(crate) fn contains(&self, path: &Path) -> bool {
        self.nodes.contains_key(path)
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.nodes.keys().map(PathBuf::as_path)
    }

    /// The host's regular files in the tree, by their paths on the host.
    pub(crate) fn host_files(&self) -> Vec<PathBuf> {
        let source = |node: &Node| match &node.content {
            Content::Host { source, .. } => source.strip_prefix(&self.root).ok().map(Path::to_owned),
            _ => None,
        };
        self.nodes.values().filter_map(source).map(|path| Path::new("/").join(path)).collect()
    }

    /// The first entry of a path stays.
    fn insert(&mut self, path: PathBuf, node: Node) -> Result<(), CaptureError> {
        if self.nodes.len() >= MAX_NODES {
            return Err(CaptureError::TooMany { limit: MAX_NODES });
        }
        if path != Path::new("/") {
            self.nodes.entry(path).or_insert(node);
        }
        Ok(())
    }

    /// Adds the host's file, folder or link at the same path, and all that leads to it.
    /// The path that results once every link has been followed.
    pub(crate) fn add(&mut self, path: &Path) -> Result<PathBuf, CaptureError> {
        let mut rest: VecDeque<PathBuf> = parts(path)?;
        let mut current = PathBuf::from("/");
        let mut links = 0;
        while let Some(part) = rest.pop_front() {
            if part == Path::new("..") {
                current.pop();
                continue;
            }
            let next = current.join(&part);
            if PSEUDO.iter().any(|pseudo| next == Path::new(pseudo)) {
                return Err(CaptureError::Pseudo { path: path.to_owned() });
            }
            let host = self.host(&next);
            let meta = fs::symlink_metadata(&host).map_err(CaptureError::read(&host))?;
            if meta.is_symlink() {
                links += 1;
                if links > MAX_LINKS {
                    return Err(CaptureError::Loop { path: path.to_owned(), limit: MAX_LINKS });
                }
                let target = fs::read_link(&host).map_err(CaptureError::read(&host))?;
                if target.is_absolute() {
                    current = PathBuf::from("/");
                }
                for part in link_parts(&target).into_iter().rev() {
                    rest.push_front(part);
                }
                self.insert(next, Node::of(Content::Symlink(target), &meta, 0o777))?;
                continue;
            }
            if let Some(mut node) = Node::from_host(host, &meta) {
                if meta.is_dir() {
                    // It changes whenever the host installs something: it says nothing.
                    node.mtime = 0;
                }
                if !rest.is_empty() {
                    // A folder that only leads somewhere is open to all: a program below
                    // root's home must run for every user of the image.
                    node.mode |= 0o555;
                }
                self.insert(next.clone(), node)?;
            }
            current = next;
        }
        Ok(current)
    }

    /// Adds a file, or a folder with all below it, at `destination`. Entries for which
    /// `skip` is true (paths on the host) are left out with what is below them.
    pub(crate) fn add_tree(
        &mut self,
        source: &Path,
        destination: &Path,
        skip: &dyn Fn(&Path) -> bool,
    ) -> Result<(), CaptureError> {
        let destination = self.place(destination)?;
        let mut open = vec![(source.to_owned(), destination)];
        while let Some((source, destination)) = open.pop() {
            if PSEUDO.iter().any(|pseudo| source == Path::new(pseudo)) {
                return Err(CaptureError::Pseudo { path: source });
            }
            let host = self.host(&source);
            let meta = fs::symlink_metadata(&host).map_err(CaptureError::read(&host))?;
            if meta.is_symlink() {
                let target = fs::read_link(&host).map_err(CaptureError::read(&host))?;
                self.insert(destination, Node::of(Content::Symlink(target), &meta, 0o777))?;
                continue;
            }
            if meta.is_dir() {
                for entry in fs::read_dir(&host).map_err(CaptureError::read(&host))? {
                    let name = entry.map_err(CaptureError::read(&host))?.file_name();
                    let child = source.join(&name);
                    if !skip(&child) {
                        open.push((child, destination.join(&name)));
                    }
                }
            }
            if let Some(node) = Node::from_host(host, &meta) {
                self.insert(destination, node)?;
            }
        }
        Ok(())
    }

    /// Where a path of the image really is, once its parents' links in the tree are
    /// followed; missing parents become folders.
    fn place(&mut self, path: &Path) -> Result<PathBuf, CaptureError> {
        let mut rest = parts(path)?;
        let mut current = PathBuf::from("/");
        let mut links = 0;
        while let Some(part) = rest.pop_front() {
            if part == Path::new("..") {
                return Err(CaptureError::NotAbsolute { path: path.to_owned() });
            }
            let next = current.join(&part);
            if rest.is_empty() {
                return Ok(next);
            }
            match self.nodes.get(&next).map(|node| &node.content) {
                Some(Content::Symlink(target)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(CaptureError::Loop { path: path.to_owned(), limit: MAX_LINKS });
                    }
                    if target.is_absolute() {
                        current = PathBuf::from("/");
                    }
                    for part in link_parts(target).into_iter().rev() {
                        rest.push_front(part);
                    }
                }
                Some(_) => current = next,
                None => {
                    self.insert(next.clone(), Node::made(Content::Directory, 0o755))?;
                    current = next;
                }
            }
        }
        Ok(current)
    }

    pub(crate) fn directory(&mut self, path: &str, mode: u32) -> Result<(), CaptureError> {
        let path = self.place(Path::new(path))?;
        self.insert(path, Node::made(Content::Directory, mode))
    }

    pub(crate) fn file(&mut self, path: &str, text: &str) -> Result<(), CaptureError> {
        let path = self.place(Path::new(path))?;
        self.insert(path, Node::made(Content::Made(text.as_bytes().to_vec()), 0o644))
    }

    pub(crate) fn symlink(&mut self, path: &Path, target: &Path) -> Result<(), CaptureError> {
        let path = self.place(path)?;
        self.insert(path, Node::made(Content::Symlink(target.to_owned()), 0o777))
    }

    /// Writes everything as one archive, sorted by path; times above `newest` become it.
    /// The sum of the files' sizes, in bytes.
    pub(crate) fn write(&self, mut out: &mut dyn Write, newest: i64) -> Result<u64, CaptureError> {
        let mut writer = Writer::new(&mut out);
        let mut names: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
        let mut total = 0;
        for (path, node) in &self.nodes {
            let name = relative(path);
            let (kind, file) = match &node.content {
                Content::Directory => (Kind::Directory, None),
                Content::Fifo => (Kind::Fifo, None),
                Content::Symlink(target) => {
                    (Kind::Symlink { target: target.as_os_str().as_bytes().to_vec() }, None)
                }
                Content::Made(bytes) => (Kind::File { size: bytes.len() as u64, extents: None }, None),
                Content::Host { source, size, inode } => {
                    let first = inode.and_then(|inode| names.get(&inode));
                    match first {
                        Some(first) => (Kind::Link { target: first.clone() }, None),
                        None => {
                            if let Some(inode) = inode {
                                names.insert(*inode, name.clone());
                            }
                            (Kind::File { size: *size, extents: None }, Some((source, *size)))
                        }
                    }
                }
            };
            let mut entry = Entry::new(&name, kind);
            (entry.mode, entry.uid, entry.gid) = (node.mode, node.uid, node.gid);
            entry.mtime = Time { seconds: node.mtime.min(newest), nanoseconds: 0 };
            total += entry.kind.stored();
            if let Some((source, _)) = file {
                entry.xattrs = capabilities(source);
            }
            writer.begin(&entry)?;
            match (&node.content, file) {
                (Content::Made(bytes), _) => writer.data(bytes)?,
                (_, Some((source, size))) => copy(&mut writer, source, size)?,
                _ => {}
            }
        }
        writer.finish()?;
        Ok(total)
    }
}

impl Node {
    /// An entry of Hull's own: root's, of 1970.
    fn made(content: Content, mode: u32) -> Node {
        Node { content, mode, uid: 0, gid: 0, mtime: 0 }
    }

    fn of(content: Content, meta: &fs::Metadata, mode: u32) -> Node {
        Node { content, mode, uid: meta.uid(), gid: meta.gid(), mtime: meta.mtime() }
    }

    /// None for what an image cannot hold: sockets and devices.
    fn from_host(host: PathBuf, meta: &fs::Metadata) -> Option<Node> {
        let kind = meta.file_type();
        let content = if kind.is_dir() {
            Content::Directory
        } else if kind.is_file() {
            let inode = (meta.nlink() > 1).then_some((meta.dev(), meta.ino()));
            Content::Host { source: host, size: meta.len(), inode }
        } else if kind.is_fifo() {
            Content::Fifo
        } else {
            return None;
        };
        Some(Node::of(content, meta, meta.mode() & 0o7777))
    }
}

/// The components of an absolute path; `..` stays, `.` goes.
fn parts(path: &Path) -> Result<VecDeque<PathBuf>, CaptureError> {
    if !path.is_absolute() {
        return Err(CaptureError::NotAbsolute { path: path.to_owned() });
    }
    Ok(link_parts(path).into())
}

fn link_parts(path: &Path) -> Vec<PathBuf> {
    path.components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| PathBuf::from(part.as_os_str()))
        .collect()
}

fn relative(path: &Path) -> Vec<u8> {
    path.strip_prefix("/").unwrap_or(path).as_os_str().to_owned().into_vec()
}

/// The only extended attribute a program needs to work: what it may do without root.
fn capabilities(source: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    const NAME: &str = "security.capability";
    let mut value = [0; 64];
    match rustix::fs::lgetxattr(source, NAME, &mut value) {
        Ok(len) if len > 0 => vec![(NAME.as_bytes().to_vec(), value[..len].to_vec())],
        _ => Vec::new(),
    }
}

fn copy(writer: &mut Writer<'_>, source: &Path, size: u64) -> Result<(), CaptureError> {
    let no_follow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let file = fs::OpenOptions::new().read(true).custom_flags(no_follow).open(source);
    let file = file.map_err(CaptureError::read(source))?;
    let mut left = size;
    let mut file = file.take(size);
    let mut buffer = vec![0; 1 << 16];
    while left > 0 {
        let count = match file.read(&mut buffer) {
            Ok(0) => return Err(CaptureError::Changed { path: source.to_owned() }),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CaptureError::read(source)(error)),
        };
        writer.data(&buffer[..count])?;
        left -= count as u64;
    }
    Ok(())
}
