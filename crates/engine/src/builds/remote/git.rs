//! Git repositories: what a commit holds, by the host's own `git`.
//!
//! Why a program: a library of the whole protocol (shallow fetches, ssh, submodules, partial servers) would
//! be a hundred packages in the executable for what every host that builds from git has; BuildKit does it so,
//! too. What a server sends is parsed in it, so it runs as a stranger:
//!
//! ```text
//! a container without a record (`run`), in the host's network, that sees of the host
//!   /usr, /bin, /lib…, /etc   read-only: the program, certificates, names of hosts
//!   /work                     the one folder it may write to
//!   /home                     an empty home, with the settings below
//! as a user whom nobody else is, without capabilities, that cannot gain any, within limits
//! ```
//!
//! No settings of the system or of a user are read, no hooks, watchers or filters run, submodules come by
//! the same four transports alone, and there is nobody to ask for a password. It ends with whoever asked.
//!
//! A repository is known by its commit: which that is, is asked once in a build (`ls-remote`), and only a
//! step that has to be done fetches it: that commit alone where the server can do so, else all there is.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use hull_builder::executor::{Mount as Wanted, MountKind};
use hull_builder::progress::{Output, Room, Stream};
use hull_builder::{Failure, Progress};
use hull_oci::Digest;
use hull_oci::runtime::{Pids, Rlimit};
use hull_sys::root::open_beneath;
use rustix::fs::{CWD, Mode, OFlags};

use super::super::run::{self, Limits, Process};
use super::super::site::Site;
use super::super::{Build, failure};
use super::repository::{Reference, Repository, pick};
use crate::containers::settings::{Below, Mount, NetworkMode, Security};
use crate::{Error, Result as Done};

type Result<T> = std::result::Result<T, Failure>;

/// Ids that no user, no container and no other engine has (systemd's "UIDS-GIDS", "unused").
const FIRST_USER: u32 = 65_536;
const USERS: u32 = 32_768;
/// Processes and threads of one git, and bytes of one of its files.
const PROCESSES: i64 = 512;
const FILE_BYTES: u64 = 64 << 30;
/// Bytes of its output that are kept: names of what a server has, and the end of what went wrong.
const ANSWER: usize = 16 << 20;
const COMPLAINT: usize = 4096;
/// What of the host a git sees, where it is there.
const SHOWN: [&str; 8] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc"];
const PROXIES: [&str; 8] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
];
/// What every git of ours is set to; a submodule's as well.
const SETTINGS: &str = "[core]\n\thooksPath = /dev/null\n\tfsmonitor = false\n\
    [init]\n\ttemplateDir =\n\tdefaultBranch = main\n[gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n\
    [advice]\n\tdetachedHead = false\n[credential]\n\thelper =\n\
    [http]\n\tlowSpeedLimit = 1\n\tlowSpeedTime = 60\n";
/// As with any build: a host that was never seen is believed, one that has changed is not.
const SSH: &str =
    "BatchMode yes\nStrictHostKeyChecking accept-new\nConnectTimeout 30\nServerAliveInterval 15\n";

/// What one build knows of a repository.
#[derive(Debug, Default)]
pub(super) struct Clone {
    /// The commit's id, and the full name that led to it.
    commit: Option<(String, Option<String>)>,
    site: Option<Arc<Site>>,
}

/// Where clones are, by what was asked for; each is held while it is made.
#[derive(Debug, Default)]
pub(super) struct Clones(Mutex<HashMap<String, Arc<tokio::sync::Mutex<Clone>>>>);

impl Clones {
    fn get(&self, repository: &Repository) -> Arc<tokio::sync::Mutex<Clone>> {
        let mut clones = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(clones.entry(format!("{repository:?}")).or_default())
    }
}

/// The repository that an ADD means.
pub(in super::super) fn meant(address: &str, checksum: Option<String>, keep: bool) -> Result<Repository> {
    let wrong = |error: super::repository::RepositoryError| Failure::Invalid(error.to_string());
    let mut repository = Repository::parse(address).map_err(wrong)?;
    repository.keep_git_dir |= keep;
    if let Some(checksum) = checksum {
        let hex = (7..=64).contains(&checksum.len()) && checksum.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !hex {
            return Err(Failure::Invalid(format!(
                "--checksum={checksum}: of a repository it is a commit's id"
            )));
        }
        repository.checksum = Some(checksum.to_ascii_lowercase());
    }
    Ok(repository)
}

impl Build {
    /// What names a copy of the repository: its commit, and what of it is taken.
    pub(in super::super) async fn repository_digest(&self, repository: &Repository) -> Result<Digest> {
        let clone = self.0.remote.clones.get(repository);
        let (commit, _) = self.commit(repository, &mut *clone.lock().await).await?;
        let Repository { folder, submodules, keep_git_dir, .. } = repository;
        let what = format!("git {commit} {submodules} {keep_git_dir} {}", folder.display());
        Ok(Digest::sha256(what.as_bytes()))
    }

    /// A folder with what the commit holds, all of it root's.
    pub(in super::super) async fn repository_files(&self, repository: &Repository) -> Result<Arc<Site>> {
        let clone = self.0.remote.clones.get(repository);
        let mut clone = clone.lock().await;
        if let Some(site) = &clone.site {
            return Ok(Arc::clone(site));
        }
        let (commit, name) = self.commit(repository, &mut clone).await?;
        let site = Arc::new(self.checkout(repository, &commit, name).await?);
        clone.site = Some(Arc::clone(&site));
        Ok(site)
    }

    async fn commit(&self, repository: &Repository, clone: &mut Clone) -> Result<(String, Option<String>)> {
        if let Some(commit) = &clone.commit {
            return Ok(commit.clone());
        }
        let commit = match &repository.reference {
            Reference::Commit(id) => (id.clone(), None),
            _ => {
                let work = self.folder_of_stranger().await?;
                let patterns = repository.patterns();
                let words =
                    [&["ls-remote".to_owned(), "--".to_owned(), "origin".to_owned()], &patterns[..]].concat();
                let lines = self.git(repository, &work, &words).await?;
                let found = pick(&lines, &repository.names());
                let missing = || {
                    let name = patterns.first().map_or("HEAD", |name| name.as_str());
                    let text = format!("repository does not contain ref {name}: {}", shown(repository));
                    Failure::Missing(format!(
                        "{text}; of a commit that is neither branch nor tag write all digits"
                    ))
                };
                let (id, name) = found.ok_or_else(missing)?;
                (id, Some(name))
            }
        };
        if let Some(wanted) = &repository.checksum
            && !commit.0.starts_with(wanted.as_str())
        {
            let text = format!("expected checksum to match {wanted}, got {}", commit.0);
            return Err(Failure::Invalid(format!("{}: {text}", shown(repository))));
        }
        clone.commit = Some(commit.clone());
        Ok(commit)
    }

    async fn checkout(&self, repository: &Repository, commit: &str, name: Option<String>) -> Result<Site> {
        let work = self.folder_of_stranger().await?;
        let git = async |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            self.git(repository, &work, &words).await
        };
        git(&["init", "--quiet", "."]).await?;
        let wanted = name.as_deref().unwrap_or(commit);
        let checkout = ["checkout", "--quiet", "--force", "--detach", commit, "--"];
        let fetch = ["fetch", "--quiet", "--no-tags"];
        let one = git(&[&fetch[..], &["--depth=1", "--", "origin", wanted]].concat()).await.is_ok();
        let shallow = one && git(&checkout).await.is_ok();
        if !shallow {
            // The server gives no single commits, or the branch has moved since it was asked.
            let deep = if one { &["--unshallow"][..] } else { &[] };
            let all = ["--", "origin", "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];
            git(&[&fetch[..], deep, &all].concat()).await?;
            git(&checkout).await?;
        }
        let modules = fs::symlink_metadata(work.rootfs.upper.join(".gitmodules")).is_ok();
        if repository.submodules && modules {
            let update = ["submodule", "--quiet", "update", "--init", "--recursive"];
            if !shallow || git(&[&update[..], &["--depth=1"]].concat()).await.is_err() {
                git(&update).await?;
            }
        }
        if repository.keep_git_dir {
            git(&["remote", "add", "origin", &shown(repository)]).await?;
        }
        let (services, folder) = (Arc::clone(&self.0.services), repository.folder.clone());
        let (keep, shown) = (repository.keep_git_dir, shown(repository));
        let site = Site::make(&self.0.services, &[]).await.map_err(failure)?;
        let taken = services.blocking(move || {
            take(&work, &site, &folder, &shown)?;
            // Nobody runs in it any more.
            own(&site.rootfs.upper, keep)?;
            Ok(site)
        });
        taken.await.map_err(failure)
    }

    /// A site whose folder is a stranger's to write to.
    async fn folder_of_stranger(&self) -> Result<Arc<Site>> {
        let site = Arc::new(Site::make(&self.0.services, &[]).await.map_err(failure)?);
        let upper = site.rootfs.upper.clone();
        let user = user(&site.id);
        chown(&upper, Some(user), Some(user)).map_err(io("chown", &upper)).map_err(failure)?;
        Ok(site)
    }

    /// Runs one git in the folder; what it prints.
    async fn git(&self, repository: &Repository, work: &Arc<Site>, words: &[String]) -> Result<String> {
        let user = user(&work.id);
        let root = Arc::new(Site::make(&self.0.services, &[]).await.map_err(failure)?);
        let mut wanted =
            vec![Wanted { target: "/tmp".to_owned(), kind: MountKind::Tmpfs { size: Some(64 << 20) } }];
        if repository.is_ssh() {
            let (id, required, mode) = ("default".to_owned(), false, 0o600);
            let kind = MountKind::Ssh { id, required, mode, uid: user, gid: user };
            wanted.push(Wanted { target: "/run/agent".to_owned(), kind });
        }
        // Mounts may be of repositories: boxed, or its future would hold itself.
        let mut mounts = Box::pin(self.mounts(&root, &[], wanted)).await?;
        mounts.mounts.extend(furnish(&root, work, user).map_err(failure)?);
        let process = Process {
            arguments: [&["git".to_owned()], words].concat(),
            environment: environment(repository),
            user: format!("{user}:{user}"),
            folder: "/work".to_owned(),
            network: NetworkMode::Host,
            mounts,
            security: Security {
                cap_drop: vec!["ALL".to_owned()],
                no_new_privileges: true,
                ..Security::default()
            },
        };
        let given = &self.0.given.limits;
        let mut limits = Limits {
            resources: given.resources.clone(),
            cgroup_parent: given.cgroup_parent.clone(),
            ..Limits::default()
        };
        limits.resources.pids = Some(Pids { limit: PROCESSES });
        limits.rlimits.push(Rlimit { kind: "RLIMIT_FSIZE".to_owned(), soft: FILE_BYTES, hard: FILE_BYTES });
        let said = Arc::new(Mutex::new((Vec::new(), Vec::new())));
        let heard = Arc::clone(&said);
        let report = move |progress| {
            let Progress::Output { stream, bytes, .. } = progress else { return };
            let mut said = heard.lock().unwrap_or_else(PoisonError::into_inner);
            let (kept, most) = match stream {
                Stream::Out => (&mut said.0, ANSWER),
                Stream::Error => (&mut said.1, COMPLAINT),
            };
            kept.extend_from_slice(&bytes[..bytes.len().min(most.saturating_sub(kept.len()))]);
        };
        let output = Output::new(0, Arc::new(report), Room::default());
        let ran = run::run(&self.0.services, &root, (process, limits, Vec::new()), output).await;
        let code = ran.map_err(|error| match error {
            Error::Start(error) => Failure::Host(format!(
                "git is needed for {} and cannot be executed: {error}; install git on this host",
                shown(repository)
            )),
            error => failure(error),
        })?;
        let said = said.lock().unwrap_or_else(PoisonError::into_inner);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match code {
            0 => Ok(text(&said.0)),
            code => {
                let why = text(&said.1).trim().replace(&secret(repository), "…");
                let verb = words.first().map_or("", |word| word.as_str());
                Err(Failure::Invalid(format!("{}: git {verb} ended with {code}: {why}", shown(repository))))
            }
        }
    }
}

/// The id of whom a site belongs to.
fn user(id: &str) -> u32 {
    FIRST_USER + u32::from_str_radix(&id[..8], 16).unwrap_or(0) % USERS
}

fn io(call: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { call, path, source }
}

/// `USER:PASSWORD@`, as it stands in the address; something that nobody says where there is none.
fn secret(repository: &Repository) -> String {
    let place =
        repository.address.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or(""));
    place.rsplit_once('@').map_or("\0".to_owned(), |(credentials, _)| format!("{credentials}@"))
}

/// The address without credentials.
fn shown(repository: &Repository) -> String {
    repository.address.replace(&secret(repository), "")
}

/// The address is in it, and on no command line: it may hold a password.
fn environment(repository: &Repository) -> Vec<String> {
    let own = [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME=/home",
        "LC_ALL=C",
        "GIT_CONFIG_NOSYSTEM=1",
        "GIT_CONFIG_GLOBAL=/home/gitconfig",
        "GIT_TERMINAL_PROMPT=0",
        "GIT_ALLOW_PROTOCOL=http:https:ssh:git",
        "GIT_CONFIG_COUNT=1",
        "GIT_CONFIG_KEY_0=remote.origin.url",
    ];
    let proxies = PROXIES.iter().filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?)));
    let address = format!("GIT_CONFIG_VALUE_0={}", repository.address);
    own.iter().map(|&line| line.to_owned()).chain([address]).chain(proxies).collect()
}

/// What the root of a git has: parts of the host, a home, and the folder to work in.
fn furnish(root: &Site, work: &Site, user: u32) -> Done<Vec<Mount>> {
    let upper = &root.rootfs.upper;
    let mut mounts = Vec::new();
    for name in SHOWN {
        let path = Path::new("/").join(name);
        if let Ok(target) = fs::read_link(&path) {
            let link = upper.join(name);
            symlink(target, &link).map_err(io("symlink", &link))?;
        } else if path.is_dir() {
            mounts.push(bind(&path, &path, true));
        }
    }
    let home = upper.join("home");
    for (folder, mode) in [(home.clone(), 0o700), (home.join(".ssh"), 0o700)] {
        fs::create_dir(&folder).map_err(io("mkdir", &folder))?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).map_err(io("chmod", &folder))?;
        chown(&folder, Some(user), Some(user)).map_err(io("chown", &folder))?;
    }
    for (name, text) in [("gitconfig", SETTINGS), (".ssh/config", SSH)] {
        let file = home.join(name);
        fs::write(&file, text).map_err(io("write", &file))?;
        chown(&file, Some(user), Some(user)).map_err(io("chown", &file))?;
    }
    // ssh(1) wants to know who it is.
    let users = root.folder().join("passwd");
    fs::write(&users, format!("git:x:{user}:{user}::/home:/bin/false\n")).map_err(io("write", &users))?;
    fs::set_permissions(&users, fs::Permissions::from_mode(0o644)).map_err(io("chmod", &users))?;
    mounts.push(bind(&users, Path::new("/etc/passwd"), true));
    mounts.push(bind(&work.rootfs.upper, Path::new("/work"), false));
    Ok(mounts)
}

fn bind(source: &Path, target: &Path, read_only: bool) -> Mount {
    Mount::Bind {
        source: source.to_string_lossy().into_owned(),
        target: target.to_string_lossy().into_owned(),
        read_only,
        propagation: "rprivate".to_owned(),
        create_source: false,
        non_recursive: !read_only,
        below: Below::default(),
        mode: String::new(),
        idmap: false,
    }
}

/// Moves a folder of the clone, or all of it, to the site. A link is no folder.
fn take(work: &Site, site: &Site, folder: &Path, shown: &str) -> Done<()> {
    let missing = |source: std::io::Error| {
        Error::Invalid(format!("{shown} has no folder {:?}: {source}", folder.to_string_lossy()))
    };
    let (from, to) = (&work.rootfs.upper, &site.rootfs.upper);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::open(from, flags, Mode::empty()).map_err(|errno| missing(errno.into()))?;
    let Some(name) = folder.file_name() else {
        return rustix::fs::rename(from, to).map_err(|errno| io("rename", from)(errno.into()));
    };
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = open_beneath(&top, parent.unwrap_or(Path::new(".")), flags, Mode::empty());
    let parent = parent.map_err(|error| missing(error.errno.into()))?;
    rustix::fs::renameat(&parent, name, CWD, to).map_err(|errno| missing(errno.into()))
}

/// Makes all of it root's, and takes git's own files away unless they are to be kept. Nothing is followed.
fn own(top: &PathBuf, keep: bool) -> Done<()> {
    lchown(top, Some(0), Some(0)).map_err(io("lchown", top))?;
    fs::set_permissions(top, fs::Permissions::from_mode(0o755)).map_err(io("chmod", top))?;
    let mut folders = vec![top.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(io("readdir", &folder))? {
            let entry = entry.map_err(io("readdir", &folder))?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(io("lstat", &folder))?);
            if !keep && entry.file_name() == ".git" {
                let gone = if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                gone.map_err(io("unlink", &path))?;
                continue;
            }
            lchown(&path, Some(0), Some(0)).map_err(io("lchown", &path))?;
            if kind.is_dir() {
                folders.push(path);
            }
        }
    }
    Ok(())
}
