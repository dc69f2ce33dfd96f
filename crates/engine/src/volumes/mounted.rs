//! Volumes that are file systems of their own: mounted over their folder on the host while
//! containers that run have them.
//!
//! It is the one mount that Hull makes on the host's table: other programs are to see what is in
//! the volume, at the place that `inspect` names. The kernel's table is the record of it: a daemon
//! that starts finds there what the last one has mounted, keeps what living containers have, and
//! unmounts the rest.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::net::ToSocketAddrs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::mount::{MountFlags, UnmountFlags};

use super::options::{self, Plan};
use super::{Entry, Volumes};
use crate::containers::create::new_id;
use crate::{Error, Result};

/// For whom a volume is mounted. Held while it is mounted or unmounted, which may
/// take long: a server may not answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Mounted(Arc<Mutex<BTreeSet<String>>>);

impl Mounted {
    // Nothing under this lock panics, so a poisoned one is whole.
    fn users(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A container's file systems, mounted for work on its files.
#[derive(Debug)]
pub(crate) struct Held {
    volumes: Volumes,
    container: String,
    user: String,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.volumes.unmount(&self.container, &self.user);
    }
}

impl Volumes {
    /// Has them mounted for work on a container that may not run. Blocks.
    pub(crate) fn hold(&self, container: &str) -> Result<Held> {
        let held = Held { volumes: self.clone(), container: container.to_owned(), user: new_id() };
        // What of it fails half-way is unmounted with the rest.
        self.mount(container, &held.user)?;
        Ok(held)
    }

    /// Has all file systems of a container's volumes mounted for `user`: the container's id while it
    /// runs, another word for work on its files. Those that are by then stay so until
    /// [`Volumes::unmount`], whatever this returns. Blocks.
    ///
    /// # Errors
    /// [`Error::Volume`] in the reference's words.
    pub(crate) fn mount(&self, container: &str, user: &str) -> Result<()> {
        for (plan, data, mounted) in self.file_systems(|entry| entry.users.contains_key(container)) {
            let mut users = mounted.users();
            if users.is_empty() && !is_mounted(&data)? {
                mount(&plan, &data)?;
                hull_runtime::failpoint!("engine.volume.mounted");
            }
            users.insert(user.to_owned());
        }
        Ok(())
    }

    /// What nobody else uses of a container's volumes is unmounted. Blocks.
    fn unmount(&self, container: &str, user: &str) {
        for (_, data, mounted) in self.file_systems(|entry| entry.users.contains_key(container)) {
            let mut users = mounted.users();
            if users.remove(user) && users.is_empty() {
                unmount(&data);
            }
        }
    }

    /// The container does not run any more.
    pub(crate) async fn rest(&self, container: &str) {
        if self.file_systems(|entry| entry.users.contains_key(container)).is_empty() {
            return;
        }
        let (volumes, container) = (self.clone(), container.to_owned());
        let unmounted = self.blocking(move |_| {
            volumes.unmount(&container, &container);
            Ok(())
        });
        // A panic is reported by the runtime.
        drop(unmounted.await);
    }

    /// What the last daemon has mounted stays so for these containers, which have outlived it; the
    /// rest is unmounted. Blocks.
    pub(crate) fn reconcile(&self, living: &[String]) {
        for container in living {
            for (_, _, mounted) in self.file_systems(|entry| entry.users.contains_key(container)) {
                mounted.users().insert(container.clone());
            }
        }
        for (_, data, mounted) in self.file_systems(|_| true) {
            if !mounted.users().is_empty() {
                continue;
            }
            match is_mounted(&data) {
                Ok(true) => unmount(&data),
                Ok(false) => {}
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(path = %data.display(), error, "a volume may still be mounted");
                }
            }
        }
    }

    /// Of the volumes that `wanted` accepts those that are to be mounted, and where.
    fn file_systems(&self, wanted: impl Fn(&Entry) -> bool) -> Vec<(Plan, PathBuf, Mounted)> {
        let table = self.table();
        let own = table.values().filter(|entry| wanted(entry));
        own.filter_map(|entry| {
            let plan = options::plan(&entry.volume.options)?;
            Some((plan, self.data(&entry.volume), entry.mounted.clone()))
        })
        .collect()
    }
}

/// As mount(2), whose words people know from the reference.
fn mount(plan: &Plan, data: &Path) -> Result<()> {
    let Plan { kind, device, flags, options } = plan;
    let failed = |reason: String| {
        let mut doing = format!("mount {device}:{}", data.display());
        if !flags.is_empty() {
            doing.push_str(&format!(", flags: {:#x}", flags.bits()));
        }
        if !options.is_empty() {
            doing.push_str(&format!(", data: {}", without_secrets(options)));
        }
        Error::Volume(format!(
            "error while mounting volume '{}': failed to mount local volume: {doing}: {reason}",
            data.display()
        ))
    };
    let resolved = resolve(kind, options).map_err(&failed)?;
    let text = std::ffi::CString::new(resolved).map_err(|error| failed(error.to_string()))?;
    let bind = flags.contains(MountFlags::BIND);
    // A bind mount takes its flags only when it is mounted once more.
    let first = if bind { *flags & (MountFlags::BIND | MountFlags::REC) } else { *flags };
    let mounted = rustix::mount::mount(device.as_str(), data, kind.as_str(), first, text.as_c_str());
    mounted.map_err(|errno| failed(reason(errno)))?;
    if first != *flags {
        let again = *flags - MountFlags::REC;
        if let Err(errno) = rustix::mount::mount_remount(data, again, c"") {
            unmount(data);
            return Err(failed(reason(errno)));
        }
    }
    Ok(())
}

/// The kernel takes servers by their addresses alone.
fn resolve(kind: &str, options: &str) -> Result<String, String> {
    if !matches!(kind, "nfs" | "nfs4" | "cifs") {
        return Ok(options.to_owned());
    }
    let address = |word: &str| match word.strip_prefix("addr=") {
        Some(host) if host.parse::<std::net::IpAddr>().is_err() => {
            let found =
                (host, 0).to_socket_addrs().map_err(|error| format!("resolve {host}: {error}"))?.next();
            let found = found.ok_or_else(|| format!("resolve {host}: it has no address"))?;
            Ok(format!("addr={}", found.ip()))
        }
        _ => Ok(word.to_owned()),
    };
    let words: Result<Vec<String>, String> = options.split(',').map(address).collect();
    Ok(words?.join(","))
}

/// Whoever of the host still looks into it does not hold it: nothing is ever busy.
fn unmount(data: &Path) {
    hull_runtime::failpoint!("engine.volume.unmounting");
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    if let Err(errno) = rustix::mount::unmount(data, flags) {
        tracing::warn!(path = %data.display(), %errno, "a volume stays mounted");
    }
}

/// Whether something is mounted at a volume's `_data`. That itself is not looked at: a server that is
/// gone would not answer.
fn is_mounted(data: &Path) -> Result<bool> {
    let (Some(folder), Some(name)) = (data.parent(), data.file_name()) else { return Ok(false) };
    let Some(folder) = resolved(folder)? else { return Ok(false) };
    let data = folder.join(name);
    Ok(places()?.contains(&data))
}

/// What of a volume's folder somebody has mounted something at, of all [`places`].
pub(super) fn below(places: &[PathBuf], folder: &Path) -> Result<Option<PathBuf>> {
    let Some(folder) = resolved(folder)? else { return Ok(None) };
    Ok(places.iter().find(|place| place.starts_with(&folder)).cloned())
}

/// Unmounts what a killed daemon has mounted at `data`; what it shows is not the volume's own.
///
/// # Errors
/// Something is still mounted below the volume's folder `folder`: nothing in it may be removed.
pub(super) fn clear(folder: &Path, data: &Path) -> Result<()> {
    if is_mounted(data)? {
        unmount(data);
    }
    match below(&places()?, folder)? {
        None => Ok(()),
        Some(place) => Err(Error::Volume(format!("something is mounted at {}", place.display()))),
    }
}

/// As the kernel's table has it; the data root may be reached through links. `None`: it is not there.
fn resolved(path: &Path) -> Result<Option<PathBuf>> {
    match path.canonicalize() {
        Ok(resolved) => Ok(Some(resolved)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { call: "realpath", path: path.to_owned(), source }),
    }
}

/// All mount points of this process's namespace (proc_pid_mountinfo(5)).
pub(super) fn places() -> Result<Vec<PathBuf>> {
    let path = Path::new("/proc/self/mountinfo");
    let table =
        std::fs::read(path).map_err(|source| Error::Io { call: "read", path: path.to_owned(), source })?;
    let places =
        table.split(|&byte| byte == b'\n').filter_map(|line| line.split(|&byte| byte == b' ').nth(4));
    Ok(places.map(unescape).collect())
}

/// Spaces and the like stand there as `\040`.
fn unescape(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((&first, more)) = rest.split_first() {
        let octal = more.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = &more[3..];
            }
            _ => {
                bytes.push(first);
                rest = more;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

/// Options as they may be told and kept in records: without the passwords of a CIFS server. In one of
/// those two commas are a comma (mount.cifs(8)).
fn without_secrets(options: &str) -> String {
    let mut told = Vec::new();
    let mut words = options.split(',');
    while let Some(word) = words.next() {
        match word.split_once('=') {
            Some((key, _))
                if matches!(key.to_ascii_lowercase().as_str(), "password" | "pass" | "password2") =>
            {
                told.push(format!("{key}=********"));
                while words.clone().next() == Some("") {
                    words.nth(1);
                }
            }
            _ => told.push(word.to_owned()),
        }
    }
    told.join(",")
}

/// The sentence as the reference writes it.
fn reason(errno: rustix::io::Errno) -> String {
    let text = hull_sys::error::describe(errno);
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_kernels_table_are_read_as_they_are() {
        for (text, path) in [("/a", "/a"), ("/a\\040b\\134c", "/a b\\c"), ("/\\0", "/\\0"), ("/é", "/é")] {
            assert_eq!(unescape(text.as_bytes()), Path::new(path));
        }
        assert!(places().unwrap().contains(&PathBuf::from("/proc")));
        let way = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/", way.path().join("root")).unwrap();
        let odd = way.path().join("root");
        let below = |path: &Path| below(&places().unwrap(), path);
        assert_eq!(below(&odd.join("proc")).unwrap(), Some("/proc".into()), "by another way");
        assert!(is_mounted(&odd.join("proc")).unwrap() && !is_mounted(&odd.join("etc")).unwrap());
        assert!(!is_mounted(Path::new("/nosuch/_data")).unwrap());
        // What cannot be told is not "nothing".
        std::os::unix::fs::symlink("loop", way.path().join("loop")).unwrap();
        assert!(below(&way.path().join("loop")).is_err() && is_mounted(&way.path().join("loop/x")).is_err());
    }

    #[test]
    fn passwords_are_told_to_nobody() {
        let plan = Plan {
            kind: "nosuchfs".to_owned(),
            device: "//nas/share".to_owned(),
            flags: MountFlags::empty(),
            options: "username=me,password=secret,pass=secret,password2=secret,vers=3".to_owned(),
        };
        let text = mount(&plan, Path::new("/nosuch")).unwrap_err().to_string();
        assert!(
            text.contains("username=me,password=********,pass=********,password2=********,vers=3:"),
            "{text}"
        );
        assert!(!text.contains("secret"), "{text}");
        for (options, told) in [
            ("pass=a,,secret,,more,vers=3", "pass=********,vers=3"),
            ("password=,,secret", "password=********"),
            ("vers=3,password=a,,", "vers=3,password=********"),
            ("password2=secret,rw,,ro", "password2=********,rw,,ro"),
        ] {
            assert_eq!(without_secrets(options), told);
        }
    }

    #[test]
    fn servers_are_told_by_their_addresses() {
        assert_eq!(resolve("nfs", "addr=10.0.0.1,rw").unwrap(), "addr=10.0.0.1,rw");
        assert_eq!(resolve("tmpfs", "addr=localhost").unwrap(), "addr=localhost");
        assert_eq!(resolve("nfs", "vers=4,addr=localhost").unwrap().len(), "vers=4,addr=127.0.0.1".len());
        assert!(
            resolve("cifs", "addr=no.such.host.invalid")
                .unwrap_err()
                .contains("resolve no.such.host.invalid")
        );
    }
}
