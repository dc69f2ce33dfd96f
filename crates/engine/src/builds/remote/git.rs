//! Git repositories: what a commit holds, by the host's own `git`.
//!
//! Why a program: a library of the whole protocol (shallow fetches, ssh, submodules, partial servers) would
//! be a hundred packages in the executable for what every host that builds from git has; BuildKit does it so,
//! too. What a server sends is parsed in it, so it runs as a stranger:
//!
//! ```text
//! a container without a record (`run`), in the host's network, that sees of the host
//!   /usr, /bin, /lib…         read-only: the program, and what it executes
//!   /etc/ssl, /etc/ssh…       read-only: certificates, names of services, settings of libraries and ssh
//!   /work                     the one folder it may write to
//!   /home                     an empty home, with the settings below
//! as a user whom nobody else is, without capabilities, that cannot gain any, within limits
//! ```
//!
//! No settings of the system or of a user are read, no hooks, watchers or filters run, submodules come by
//! the same four transports alone, and there is nobody to ask for a password. It ends with whoever asked.
//!
//! Credentials of an address are in the settings of that home alone (git-config(1), `url.….insteadOf`), so
//! that no file that the program leaves has them.
//!
//! A repository is known by its commit: which that is, is asked once in a build (`ls-remote`), and only a
//! step that has to be done fetches it: that commit alone where the server can do so, else all there is.
//! What came is asked for its id once more: names are the server's, ids are made of what they name.

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
use crate::containers::settings::{Below, Mount, NetworkMode, Security, Userns};
use crate::{Error, Result as Done};

type Result<T> = std::result::Result<T, Failure>;

/// Ids that no user, no container and no other engine has (systemd's "UIDS-GIDS", "unused").
const FIRST_USER: u32 = 65_536;
const USERS: u32 = 32_768;
/// Digits of a commit's id where ids are by SHA-256 (git-init(1), `--object-format`).
const SHA256_DIGITS: usize = 64;
/// Processes and threads of one git, and bytes of one of its files.
const PROCESSES: i64 = 512;
const FILE_BYTES: u64 = 64 << 30;
/// Bytes of its output that are kept: names of what a server has, and the end of what went wrong.
const ANSWER: usize = 16 << 20;
const COMPLAINT: usize = 4096;
/// What of the host a git sees, where it is there.
const SHOWN: [&str; 7] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr"];
/// What of its /etc; not all of it: in a folder that is read-only nobody could make the places of the files
/// that every container has there.
const SHOWN_OF_ETC: [&str; 13] = [
    // TLS: certificates and settings.
    "ssl",
    "pki",
    "ca-certificates",
    "crypto-policies",
    "ssh",
    // The resolver's.
    "nsswitch.conf",
    "gai.conf",
    "services",
    "protocols",
    // Where programs and libraries are.
    "alternatives",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
];
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
/// Nothing is remembered of hosts: only those of the host's own /etc/ssh/ssh_known_hosts are checked, all
/// others are believed. A commit's id in the address says what has to come all the same.
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
        // What is kept of git says where it is from.
        let kept = if *keep_git_dir { shown(repository) } else { String::new() };
        let what = format!("git {commit} {submodules} {keep_git_dir} {kept} {}", folder.display());
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
        // Of another length, an id would be the name of whatever the server has by it.
        let format = if commit.len() == SHA256_DIGITS { "sha256" } else { "sha1" };
        git(&["init", "--quiet", &format!("--object-format={format}"), "."]).await?;
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
        let came = git(&["rev-parse", "--verify", "HEAD"]).await?;
        if came.trim() != commit {
            let text = format!("what came is not {commit}, but {}", came.trim());
            return Err(Failure::Invalid(format!("{}: {text}", shown(repository))));
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
        mounts.mounts.extend(furnish(&root, work, user, &settings(repository)).map_err(failure)?);
        mounts.hold(Arc::clone(work));
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
                // In the host's network no others can be; nor is it one of a container's.
                userns: Userns::Host,
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
                let why = without_credentials(repository, text(&said.1).trim());
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

/// Of an address with credentials `SCHEME://`, `USER:PASSWORD@` and the rest.
fn parts(address: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = address.split_at(address.find("://")? + "://".len());
    let place = rest.split('/').next().unwrap_or_default();
    let (credentials, rest) = rest.split_at(place.rfind('@')? + 1);
    Some((scheme, credentials, rest))
}

/// The address without credentials.
fn shown(repository: &Repository) -> String {
    match parts(&repository.address) {
        Some((scheme, _, rest)) => format!("{scheme}{rest}"),
        None => repository.address.clone(),
    }
}

/// What git says, for people.
fn without_credentials(repository: &Repository, text: &str) -> String {
    match parts(&repository.address) {
        Some((_, credentials, _)) => text.replace(credentials, "…"),
        None => text.to_owned(),
    }
}

/// What git reads of its home: with the credentials for all that is on the repository's host, its submodules
/// as well.
fn settings(repository: &Repository) -> String {
    let Some((scheme, credentials, rest)) = parts(&repository.address) else { return SETTINGS.to_owned() };
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    let host = quoted(rest.split('/').next().unwrap_or_default());
    let credentials = quoted(credentials);
    format!("{SETTINGS}[url \"{scheme}{credentials}{host}/\"]\n\tinsteadOf = \"{scheme}{host}/\"\n")
}

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
    // What git writes of it into its files may be kept: without credentials.
    let address = format!("GIT_CONFIG_VALUE_0={}", shown(repository));
    own.iter().map(|&line| line.to_owned()).chain([address]).chain(proxies).collect()
}

/// What the root of a git has: parts of the host, a home, and the folder to work in.
fn furnish(root: &Site, work: &Site, user: u32, settings: &str) -> Done<Vec<Mount>> {
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
    let host = SHOWN_OF_ETC.map(|name| Path::new("/etc").join(name));
    mounts.extend(host.iter().filter(|path| path.exists()).map(|path| bind(path, path, true)));
    let home = upper.join("home");
    for (folder, mode) in [(home.clone(), 0o700), (home.join(".ssh"), 0o700)] {
        fs::create_dir(&folder).map_err(io("mkdir", &folder))?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).map_err(io("chmod", &folder))?;
        chown(&folder, Some(user), Some(user)).map_err(io("chown", &folder))?;
    }
    for (name, text) in [("gitconfig", settings), (".ssh/config", SSH)] {
        let file = home.join(name);
        fs::write(&file, text).map_err(io("write", &file))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).map_err(io("chmod", &file))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_in_the_settings_of_the_home_alone() {
        let of = |address: &str| Repository::parse(address).unwrap();
        let plain = of("https://h/u@x/r.git");
        assert_eq!((shown(&plain), settings(&plain)), (plain.address.clone(), SETTINGS.to_owned()));
        assert_eq!(shown(&of("git@h:r.git")), "git@h:r.git");
        let secret = of(r#"https://u:a"b\c@h:8/u:TOKEN@x/r.git"#);
        assert_eq!(shown(&secret), "https://h:8/u:TOKEN@x/r.git");
        let rule = settings(&secret).split_off(SETTINGS.len());
        let wanted = r#"[url "https://u:a\"b\\c@h:8/"]"#.to_owned() + "\n\tinsteadOf = \"https://h:8/\"\n";
        assert_eq!(rule, wanted);
        assert!(!environment(&of("https://u:TOKEN@h/r.git")).concat().contains("TOKEN"));
    }
}
