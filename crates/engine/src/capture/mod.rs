//! Images out of this machine's own programs: no registry and no network needed.
//!
//! ```text
//! programs ─┐                       ┌─ loader and libraries (ELF, ld.so's rules)
//! packages ─┼─▶ Tree ◀── scan ──────┼─ interpreters of scripts (#!)
//! paths    ─┘     │                 └─ standard libraries of interpreters
//!                 ▼
//!       one tar, sorted, root's own ──▶ the layer; its digest ──▶ Config
//! ```
//!
//! A program comes with the loader and the libraries it names, found by the loader's own
//! rules. A script comes with its interpreter. Of an interpreter more is needed than it
//! names, by two rules: if it belongs to an installed package, that package and all it
//! depends on come whole; and `PREFIX/bin/NAMEx.y` brings `PREFIX/lib/NAMEx.y` (a
//! Python's standard library, in a distribution's prefix or in one of a version
//! switcher) without its tests and without what was installed beside it. BusyBox
//! brings a link for each of its names. What uses a TLS library gets the host's list of
//! certificate authorities to trust.
//!
//! The host is trusted here: a capture is asked for by who may read the whole host.

mod elf;
mod error;
mod hello;
mod libraries;
mod packages;
mod programs;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use hull_oci::image::{Config, History, RootFs, RunConfig};
use hull_oci::{Digest, Hasher, Platform};

pub use error::CaptureError;
pub use hello::{Hello, hello};

use libraries::Libraries;
use packages::Packages;
use tree::Tree;

/// The search path of images made here; links to programs elsewhere go to its third folder.
const PATH_VARIABLE: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const PATH: &[&str] = &["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// A program larger than this is not read for what it needs (bytes).
const MAX_PROGRAM: u64 = 1 << 30;

/// What to capture, and from where.
#[derive(Debug, Clone)]
pub struct Capture {
    /// Names, looked up in `search`, or absolute paths.
    pub programs: Vec<String>,
    /// Names of installed Debian packages; they come with all they depend on.
    pub packages: Vec<String>,
    pub add: Vec<Add>,
    /// Links for all names of a BusyBox, also if its file has another name.
    pub applets: bool,
    /// Folders in which programs are looked up.
    pub search: Vec<PathBuf>,
    /// Where the host's root folder is.
    pub root: PathBuf,
    /// Modification times later than this become this (seconds since 1970).
    pub newest: i64,
    /// RFC 3339, for the configuration; absent, the image says nothing about it.
    pub created: Option<String>,
}

/// A file or folder, and where it goes in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    pub source: PathBuf,
    /// None: the same path.
    pub destination: Option<PathBuf>,
}

impl Add {
    /// Reads `PATH` or `PATH:DESTINATION`, as a command line gives it.
    pub fn parse(text: &str) -> Add {
        match text.split_once(':') {
            Some((source, destination)) => {
                Add { source: source.into(), destination: Some(destination.into()) }
            }
            None => Add { source: text.into(), destination: None },
        }
    }
}

impl Default for Capture {
    fn default() -> Capture {
        Capture {
            programs: Vec::new(),
            packages: Vec::new(),
            add: Vec::new(),
            applets: false,
            search: PATH.iter().map(PathBuf::from).collect(),
            root: PathBuf::from("/"),
            newest: i64::MAX,
            created: None,
        }
    }
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Captured {
    pub config: Config,
    /// Everything in the layer, sorted.
    pub paths: Vec<PathBuf>,
    /// Packages that were taken whole, sorted.
    pub packages: Vec<String>,
    /// Libraries that something optional (an extension module) names and the host lacks.
    pub missing: Vec<MissingLibrary>,
    /// Sum of the files' sizes, in bytes.
    pub size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MissingLibrary {
    pub library: String,
    /// What names it.
    pub path: PathBuf,
}

/// Captures and writes the layer as an uncompressed tar to `out`. The same host and the
/// same options give the same bytes.
pub fn capture(options: &Capture, out: &mut dyn Write) -> Result<Captured, CaptureError> {
    if options.programs.is_empty() && options.packages.is_empty() && options.add.is_empty() {
        return Err(CaptureError::Nothing);
    }
    let mut work = Work {
        options,
        tree: Tree::new(&options.root),
        libraries: Libraries::read(&options.root),
        packages: None,
        whole: BTreeSet::new(),
        scanned: BTreeSet::new(),
        missing: BTreeSet::new(),
        boxes: BTreeSet::new(),
    };
    work.merged_folders()?;
    for add in &options.add {
        work.add(add)?;
    }
    let mut command = None;
    for name in &options.programs {
        let path = work.program(name)?;
        command.get_or_insert(path);
    }
    work.whole_packages(&options.packages)?;
    for path in work.tree.host_files() {
        work.scan(&path, Need::Optional, &[])?;
    }
    work.certificates()?;
    work.links_of_boxes()?;
    work.skeleton()?;
    let mut hashing = Hashing { out, hasher: Hasher::sha256() };
    let size = work.tree.write(&mut hashing, options.newest)?;
    let config = config(options, command, hashing.hasher.finish());
    Ok(Captured {
        config,
        paths: work.tree.paths().map(Path::to_owned).collect(),
        packages: work.whole.into_iter().collect(),
        missing: work.missing.into_iter().collect(),
        size,
    })
}

/// How much depends on a library that is not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Without it a program that was asked for cannot run.
    Required,
    /// It is needed by something that came along.
    Optional,
}

struct Work<'a> {
    options: &'a Capture,
    tree: Tree,
    libraries: Libraries,
    /// Read when first needed.
    packages: Option<Packages>,
    /// Packages taken whole.
    whole: BTreeSet<String>,
    scanned: BTreeSet<PathBuf>,
    missing: BTreeSet<MissingLibrary>,
    /// BusyBox executables.
    boxes: BTreeSet<PathBuf>,
}

impl Work<'_> {
    /// `/bin`, `/lib` and their like are links on hosts with a merged `/usr`; scripts and
    /// loaders are named by both spellings.
    fn merged_folders(&mut self) -> Result<(), CaptureError> {
        for path in ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"] {
            if self.tree.host(Path::new(path)).is_symlink() {
                self.tree.add(Path::new(path))?;
            }
        }
        Ok(())
    }

    fn add(&mut self, add: &Add) -> Result<(), CaptureError> {
        let none = |_: &Path| false;
        let destination = add.destination.as_ref().unwrap_or(&add.source);
        let normal =
            |path: &Path| path.is_absolute() && !path.components().any(|part| part.as_os_str() == "..");
        for path in [&add.source, destination] {
            if !normal(path) {
                return Err(CaptureError::NotAbsolute { path: path.clone() });
            }
        }
        self.tree.add_tree(&add.source, destination, &none)
    }

    /// Adds a program with what it needs; the path to run it by.
    fn program(&mut self, name: &str) -> Result<PathBuf, CaptureError> {
        let search = &self.options.search;
        let found = programs::find(&self.options.root, name, search);
        let path =
            found.ok_or_else(|| CaptureError::NoProgram { name: name.to_owned(), search: search.clone() })?;
        let real = self.tree.add(&path)?;
        self.interpreted(&real)?;
        self.scan(&real, Need::Required, &[])?;
        self.script_module(&real, &path)?;
        let file_name = real.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if file_name.starts_with("busybox") || self.options.applets {
            self.boxes.insert(real);
        }
        let in_path = path.parent().is_some_and(|folder| PATH.iter().any(|known| folder == Path::new(known)));
        if !in_path && let Some(name) = path.file_name() {
            self.tree.symlink(&Path::new("/usr/local/bin").join(name), &path)?;
        }
        Ok(path)
    }

    /// What an interpreter needs besides its libraries.
    fn interpreted(&mut self, real: &Path) -> Result<(), CaptureError> {
        let name = real.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(library) = programs::standard_library(&self.options.root, real) {
            self.tree.add(&library)?;
            let skip = |path: &Path| programs::is_left_out(&library, path);
            self.tree.add_tree(&library, &library, &skip)?;
            self.targets_below(&library)?;
        }
        if programs::is_interpreter(&name)
            && let Some(owner) = self.packages()?.owner(real)
        {
            // A small package may hold the program and one of its name the rest.
            let named = self.packages()?.is_installed(&name).then_some(name);
            let names: Vec<String> = [owner].into_iter().chain(named).collect();
            self.whole_packages(&names)?;
        }
        Ok(())
    }

    /// Links of a tree may lead out of it: what they lead to comes too.
    fn targets_below(&mut self, folder: &Path) -> Result<(), CaptureError> {
        let below: Vec<PathBuf> =
            self.tree.paths().filter(|path| path.starts_with(folder)).map(Path::to_owned).collect();
        for path in below {
            let host = self.tree.host(&path);
            if host.is_symlink() && host.exists() {
                self.tree.add(&path)?;
            }
        }
        Ok(())
    }

    /// A script of Python's comes with the module it runs.
    fn script_module(&mut self, real: &Path, path: &Path) -> Result<(), CaptureError> {
        let Some(script) = programs::interpreter(&self.start_of(real)?) else {
            return Ok(());
        };
        let Ok(interpreter) = fs::canonicalize(self.tree.host(Path::new(&script.path))) else {
            return Ok(());
        };
        let interpreter = match interpreter.strip_prefix(&self.options.root) {
            Ok(inside) => Path::new("/").join(inside),
            Err(_) => interpreter,
        };
        let root = &self.options.root;
        let Some(library) = programs::standard_library(root, &interpreter) else {
            return Ok(());
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        for path in programs::module_of_script(root, &library, &name) {
            self.tree.add_tree(&path, &path, &|_| false)?;
        }
        Ok(())
    }

    fn packages(&mut self) -> Result<&Packages, CaptureError> {
        if self.packages.is_none() {
            self.packages = Some(Packages::read(&self.options.root)?);
        }
        Ok(self.packages.get_or_insert_default())
    }

    fn whole_packages(&mut self, names: &[String]) -> Result<(), CaptureError> {
        if names.is_empty() {
            return Ok(());
        }
        let closure = self.packages()?.closure(names)?;
        for name in closure {
            if !self.whole.insert(name.clone()) {
                continue;
            }
            for path in self.packages()?.files(&name)? {
                // A package's list may name files that the administrator excluded.
                if self.tree.host(&path).exists() {
                    self.tree.add(&path)?;
                }
            }
        }
        self.alternatives()
    }

    /// Links that no package lists: of `vi` to the editor that was chosen for it.
    fn alternatives(&mut self) -> Result<(), CaptureError> {
        for (name, link) in self.packages()?.alternatives() {
            let chosen = fs::read_link(self.tree.host(&Path::new("/etc/alternatives").join(name)));
            let Ok(chosen) = chosen else { continue };
            let merged = Path::new("/usr").join(chosen.strip_prefix("/").unwrap_or(&chosen));
            let taken = self.tree.contains(&chosen) || self.tree.contains(&merged);
            if taken && self.tree.host(&link).is_symlink() {
                self.tree.add(&link)?;
            }
        }
        Ok(())
    }

    /// A program that speaks TLS must know whom to trust. The list is made when its
    /// package is installed, so no package's files hold it.
    fn certificates(&mut self) -> Result<(), CaptureError> {
        const LIBRARIES: &[&str] = &["libssl.so", "libgnutls.so"];
        let is_tls = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            LIBRARIES.iter().any(|library| name.starts_with(library))
        };
        let folder = Path::new("/etc/ssl/certs");
        if !self.tree.paths().any(is_tls) || !self.tree.host(folder).is_dir() {
            return Ok(());
        }
        self.tree.add(folder)?;
        self.tree.add_tree(folder, folder, &|_| false)?;
        self.targets_below(folder)?;
        // OpenSSL's own folder holds links to what is in /etc/ssl.
        for path in ["/usr/lib/ssl/certs", "/usr/lib/ssl/cert.pem", "/usr/lib/ssl/openssl.cnf"] {
            if self.tree.host(Path::new(path)).exists() {
                self.tree.add(Path::new(path))?;
            }
        }
        Ok(())
    }

    fn start_of(&self, path: &Path) -> Result<Vec<u8>, CaptureError> {
        let host = self.tree.host(path);
        let mut start = Vec::new();
        let file = fs::File::open(&host).map_err(CaptureError::read(&host))?;
        file.take(512).read_to_end(&mut start).map_err(CaptureError::read(&host))?;
        Ok(start)
    }

    /// Adds what a program, a library or a script names. `rpath` are folders in which the
    /// program that loads a library lets its loader look.
    fn scan(&mut self, path: &Path, need: Need, rpath: &[PathBuf]) -> Result<(), CaptureError> {
        let mut open = vec![(path.to_owned(), need, rpath.to_vec())];
        while let Some((path, need, rpath)) = open.pop() {
            if !self.scanned.insert(path.clone()) {
                continue;
            }
            let start = self.start_of(&path)?;
            if let Some(script) = programs::interpreter(&start) {
                if need == Need::Required {
                    open.extend(self.run_by(&script)?.into_iter().map(|path| (path, need, Vec::new())));
                }
                continue;
            }
            if !elf::is_elf(&start) {
                if need == Need::Required {
                    return Err(CaptureError::NotAProgram { path });
                }
                continue;
            }
            for found in self.needed_by(&path, need, &rpath)? {
                open.push((found.0, need, found.1));
            }
        }
        Ok(())
    }

    /// Adds a script's interpreter, and behind `env` the program it looks up.
    fn run_by(&mut self, script: &programs::Interpreter) -> Result<Vec<PathBuf>, CaptureError> {
        let mut found = vec![self.tree.add(Path::new(&script.path))?];
        if let Some(name) = &script.by_env {
            let path = programs::find(&self.options.root, name, &self.options.search);
            let path = path.ok_or_else(|| CaptureError::NoProgram {
                name: name.clone(),
                search: self.options.search.clone(),
            })?;
            found.push(self.tree.add(&path)?);
        }
        for path in &found {
            self.interpreted(path)?;
        }
        Ok(found)
    }

    /// The libraries and the loader an ELF file names, added, each with the folders its
    /// own libraries are looked up in.
    fn needed_by(
        &mut self,
        path: &Path,
        need: Need,
        rpath: &[PathBuf],
    ) -> Result<Vec<(PathBuf, Vec<PathBuf>)>, CaptureError> {
        let host = self.tree.host(path);
        let size = fs::metadata(&host).map_err(CaptureError::read(&host))?.len();
        let bytes = match size <= MAX_PROGRAM {
            true => fs::read(&host).map_err(CaptureError::read(&host))?,
            false => Vec::new(),
        };
        let Some(elf) = elf::parse(&bytes) else {
            return Ok(Vec::new());
        };
        let mut passed_on = libraries::expand(&elf.rpath, path);
        passed_on.extend_from_slice(rpath);
        let mut added = Vec::new();
        let loader = match &elf.loader {
            Some(loader) => Some(self.tree.add(Path::new(loader))?),
            None => None,
        };
        for name in &elf.needed {
            match self.libraries.find(name, &elf, path, rpath) {
                Some(found) => {
                    let real = self.tree.add(&found.path)?;
                    if found.by_cache {
                        // Beside the loader is a folder that it searches by default.
                        let folder = loader.as_deref().and_then(Path::parent).unwrap_or(Path::new("/lib"));
                        self.tree.symlink(&folder.join(name), &found.path)?;
                    }
                    added.push((real, passed_on.clone()));
                }
                None if need == Need::Required => {
                    return Err(CaptureError::NoLibrary { library: name.clone(), path: path.to_owned() });
                }
                None => {
                    self.missing.insert(MissingLibrary { library: name.clone(), path: path.to_owned() });
                }
            }
        }
        // The C library loads it by name when a thread is cancelled (pthread_exit(3)).
        if elf.needed.iter().any(|name| name == "libc.so.6")
            && let Some(found) = self.libraries.find("libgcc_s.so.1", &elf, path, rpath)
        {
            added.push((self.tree.add(&found.path)?, Vec::new()));
        }
        added.extend(loader.map(|loader| (loader, Vec::new())));
        Ok(added)
    }

    /// A link for each name of each BusyBox, unless something else has that path.
    fn links_of_boxes(&mut self) -> Result<(), CaptureError> {
        for path in std::mem::take(&mut self.boxes) {
            let host = self.tree.host(&path);
            let bytes = fs::read(&host).map_err(CaptureError::read(&host))?;
            let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { continue };
            for applet in programs::applets(&bytes) {
                let link = folder.join(&applet);
                if !self.tree.contains(&link) {
                    self.tree.symlink(&link, Path::new(name))?;
                }
            }
        }
        Ok(())
    }

    /// What every Linux root folder has, unless something captured is there already.
    fn skeleton(&mut self) -> Result<(), CaptureError> {
        let tree = &mut self.tree;
        for path in ["/dev", "/proc", "/sys", "/etc", "/run", "/var"] {
            tree.directory(path, 0o755)?;
        }
        tree.directory("/root", 0o700)?;
        tree.directory("/tmp", 0o1777)?;
        tree.directory("/var/tmp", 0o1777)?;
        tree.file(
            "/etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
        )?;
        tree.file("/etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n")?;
        tree.file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
    }
}

/// The configuration: the first program is the command; a BusyBox's is its shell.
fn config(options: &Capture, command: Option<PathBuf>, diff_id: Digest) -> Config {
    let platform = Platform::host();
    let cmd = command.map(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match name.starts_with("busybox") {
            true => "sh".to_owned(),
            false => path.to_string_lossy().into_owned(),
        }
    });
    let names = options.programs.iter().chain(&options.packages);
    let created_by = names.fold("hull image capture".to_owned(), |text, name| format!("{text} {name}"));
    Config {
        architecture: platform.architecture,
        variant: platform.variant,
        os: platform.os,
        config: RunConfig {
            cmd: cmd.map(|program| vec![program]),
            env: vec![PATH_VARIABLE.to_owned()],
            ..RunConfig::default()
        },
        rootfs: RootFs { diff_ids: vec![diff_id], ..RootFs::default() },
        history: vec![History { created: options.created.clone(), created_by, ..History::default() }],
        created: options.created.clone(),
        ..Config::default()
    }
}

/// Computes the digest of what passes through.
struct Hashing<'a> {
    out: &'a mut dyn Write,
    hasher: Hasher,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}
