//! Where a dynamic loader finds a library (ld.so(8)).
//!
//! The order is the loader's: the RPATH of the object (if it has no RUNPATH) and of the
//! program, the RUNPATH of the object, `etc/ld.so.cache`, the default folders. What the
//! environment adds (`LD_LIBRARY_PATH`) does not count: the image has its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::elf::{self, Elf};

/// Folders the loader of some distribution or architecture searches by default.
const DEFAULTS: &[&str] = &["/lib64", "/usr/lib64", "/lib", "/usr/lib"];

/// The folder of Debian's multiarch for this machine.
const MULTIARCH: &str = match std::env::consts::ARCH.as_bytes() {
    b"aarch64" => "aarch64-linux-gnu",
    _ => "x86_64-linux-gnu",
};

/// A host's libraries.
#[derive(Debug, Default)]
pub(crate) struct Libraries {
    root: PathBuf,
    /// From `etc/ld.so.cache`: name → paths, plain ones before those for newer processors.
    cache: BTreeMap<String, Vec<PathBuf>>,
}

/// A library and how the loader in the image will find it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// On the host.
    pub(crate) path: PathBuf,
    /// Only the cache knew it. The image has no cache: a default folder needs a link.
    pub(crate) by_cache: bool,
}

impl Libraries {
    pub(crate) fn read(root: &Path) -> Libraries {
        let cache = fs::read(root.join("etc/ld.so.cache")).unwrap_or_default();
        Libraries { root: root.to_owned(), cache: parse_cache(&cache).unwrap_or_default() }
    }

    /// Finds `name` for the object at `path`, which was loaded for a program with `rpath`.
    pub(crate) fn find(&self, name: &str, object: &Elf, path: &Path, rpath: &[PathBuf]) -> Option<Found> {
        if name.contains('/') {
            return Some(Found { path: PathBuf::from(name), by_cache: false });
        }
        let mut folders = Vec::new();
        if object.runpath.is_empty() {
            folders.extend(expand(&object.rpath, path));
            folders.extend_from_slice(rpath);
        }
        folders.extend(expand(&object.runpath, path));
        let suits = |candidate: &PathBuf| self.suits(candidate, object);
        let own = folders.iter().map(|folder| folder.join(name)).find(suits);
        let multiarch = [format!("/lib/{MULTIARCH}"), format!("/usr/lib/{MULTIARCH}")];
        let defaults = multiarch.iter().map(String::as_str).chain(DEFAULTS.iter().copied());
        let default = || defaults.map(|folder| Path::new(folder).join(name)).find(suits);
        if let Some(path) = own.or_else(default) {
            return Some(Found { path, by_cache: false });
        }
        let cached = self.cache.get(name)?.iter().find(|path| suits(path))?;
        Some(Found { path: cached.clone(), by_cache: true })
    }

    /// An ELF file of the same class and machine.
    fn suits(&self, candidate: &Path, object: &Elf) -> bool {
        let path = self.root.join(candidate.strip_prefix("/").unwrap_or(candidate));
        let mut start = [0; 20];
        let read = fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut start));
        let machine = match start[5] {
            1 => u16::from_le_bytes([start[18], start[19]]),
            _ => u16::from_be_bytes([start[18], start[19]]),
        };
        read.is_ok() && elf::is_elf(&start) && (start[4], machine) == object.kind
    }
}

/// Replaces the loader's variables in the folders of an RPATH or RUNPATH.
pub(crate) fn expand(folders: &[String], object: &Path) -> Vec<PathBuf> {
    let origin = object.parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned();
    let values = [("ORIGIN", origin.as_str()), ("LIB", "lib"), ("PLATFORM", std::env::consts::ARCH)];
    let replace = |folder: &String| {
        values.iter().fold(folder.clone(), |text, (name, value)| {
            text.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value)
        })
    };
    folders.iter().map(replace).map(PathBuf::from).filter(|folder| folder.is_absolute()).collect()
}

/// Reads the cache's current format (glibc, `sysdeps/generic/dl-cache.h`): after the
/// magic the counts, then entries of 24 bytes: flags, name, path, version, hardware.
fn parse_cache(bytes: &[u8]) -> Option<BTreeMap<String, Vec<PathBuf>>> {
    const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
    let start = bytes.windows(MAGIC.len()).position(|window| window == MAGIC)?;
    let table = &bytes[start..];
    let number = |at: usize| {
        let bytes = table.get(at..at.checked_add(4)?)?;
        usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    let text = |at: usize| {
        let rest = table.get(at..)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(&rest[..end]).ok()
    };
    let mut cache: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for index in 0..number(20)? {
        let at = 48 + index.checked_mul(24)?;
        let (name, path) = (text(number(at + 4)?)?, text(number(at + 8)?)?);
        let plain = number(at + 16)? == 0 && number(at + 20)? == 0;
        let paths = cache.entry(name.to_owned()).or_default();
        match plain {
            true => paths.insert(0, PathBuf::from(path)),
            false => paths.push(PathBuf::from(path)),
        }
    }
    Some(cache)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> (tempfile::TempDir, Elf) {
        let root = tempfile::tempdir().unwrap();
        let program = elf::parse(&fs::read("/proc/self/exe").unwrap()).unwrap();
        (root, Elf { kind: program.kind, ..Elf::default() })
    }

    /// The first bytes of this test: enough to be a library of this machine.
    fn library(root: &Path, path: &str) {
        let path = root.join(path.strip_prefix('/').unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &fs::read("/proc/self/exe").unwrap()[..64]).unwrap();
    }

    #[test]
    fn the_loaders_order_decides() {
        let (root, plain) = host();
        library(root.path(), "/usr/lib/liba.so");
        library(root.path(), "/opt/x/lib/liba.so");
        library(root.path(), "/opt/y/liba.so");
        library(root.path(), "/opt/x/bin/p");
        let libraries = Libraries::read(root.path());
        let find = |object: &Elf, rpath: &[PathBuf]| {
            let found = libraries.find("liba.so", object, Path::new("/opt/x/bin/p"), rpath);
            found.map(|found| found.path.display().to_string())
        };
        assert_eq!(find(&plain, &[]).as_deref(), Some("/usr/lib/liba.so"));
        assert_eq!(find(&plain, &["/opt/y".into()]).as_deref(), Some("/opt/y/liba.so"));
        let own = Elf { runpath: vec!["$ORIGIN/../lib".to_owned()], ..plain.clone() };
        assert_eq!(find(&own, &["/opt/y".into()]).as_deref(), Some("/opt/x/bin/../lib/liba.so"));
        let other = Elf { kind: (1, 3), ..plain.clone() };
        assert_eq!(find(&other, &[]), None);
        assert_eq!(libraries.find("libb.so", &plain, Path::new("/p"), &[]), None);
    }

    #[test]
    fn this_hosts_cache_knows_the_c_library() {
        let libraries = Libraries::read(Path::new("/"));
        let paths = libraries.cache.get("libc.so.6").cloned().unwrap_or_default();
        assert!(paths.iter().any(|path| path.exists()), "{paths:?}");
        assert_eq!(parse_cache(b"nothing"), None);
    }
}
