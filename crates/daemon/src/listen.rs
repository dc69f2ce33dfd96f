//! The addresses the daemon listens on, and its pid file.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};

use crate::options::Listen;
use crate::serve::Listener;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error("another daemon answers on {}: stop it, or listen elsewhere with --host", .0.display())]
    Living(PathBuf),
    #[error("{} exists and is not a socket: remove it, or listen elsewhere with --host", .0.display())]
    NotASocket(PathBuf),
    #[error("no such group: {0} (--group)")]
    NoGroup(String),
    #[error("cannot listen on {address}")]
    Bind { address: String, source: io::Error },
    #[error("the pid file {} names process {pid}, which is running: stop that daemon first", path.display())]
    Running { path: PathBuf, pid: u32 },
    #[error("{call} {}", path.display())]
    File { call: &'static str, path: PathBuf, source: io::Error },
}

type Result<T> = std::result::Result<T, ListenError>;

/// Refuses what would fail later, before anything is touched: a living daemon behind a socket.
pub(crate) fn check(addresses: &[Listen]) -> Result<()> {
    for address in addresses {
        if let Listen::Unix(path) = address {
            match fs::symlink_metadata(path) {
                Ok(found) if !found.file_type().is_socket() => {
                    return Err(ListenError::NotASocket(path.clone()));
                }
                Ok(_) if answers(path) => return Err(ListenError::Living(path.clone())),
                _ => {}
            }
        }
    }
    Ok(())
}

/// How long a daemon may take to show that it lives.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether somebody lives behind a socket. A daemon that was just killed may still have it open:
/// then it takes the connection, and closes it unanswered when it goes.
fn answers(path: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(path) else { return false };
    let asked = stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.write_all(b"HEAD /_ping HTTP/1.0\r\n\r\n"))
        .and_then(|()| stream.read(&mut [0]));
    match asked {
        Ok(bytes) => bytes > 0,
        // Slow, but alive.
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Opens an address. A dead Unix socket is replaced. The new one is root's alone (by the daemon's
/// umask) until it has its group, so nobody gets in before that.
pub(crate) fn open(address: &Listen, group: Option<&str>) -> Result<Listener> {
    match address {
        Listen::Unix(path) => unix(path, group),
        Listen::Tcp(address) => {
            let bind = |source| ListenError::Bind { address: format!("tcp://{address}"), source };
            let listener = std::net::TcpListener::bind(address).map_err(bind)?;
            listener.set_nonblocking(true).map_err(bind)?;
            tracing::warn!(%address, "every user of this host can reach this address, and so be root on it");
            Ok(Listener::Tcp(TcpListener::from_std(listener).map_err(bind)?))
        }
    }
}

fn unix(path: &Path, group: Option<&str>) -> Result<Listener> {
    let bind = |source| ListenError::Bind { address: format!("unix://{}", path.display()), source };
    let file = |call, source| ListenError::File { call, path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| file("make the folder of", error))?;
    }
    let gid = group_of(group)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file("remove the old", error)),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(path).map_err(bind)?;
    listener.set_nonblocking(true).map_err(bind)?;
    std::os::unix::fs::chown(path, Some(0), Some(gid)).map_err(|error| file("chown", error))?;
    fs::set_permissions(path, Permissions::from_mode(0o660)).map_err(|error| file("chmod", error))?;
    UnixListener::from_std(listener).map(Listener::Unix).map_err(bind)
}

/// The group asked for, by name or number; else `hull` or `docker` where there is one; else root's.
fn group_of(asked: Option<&str>) -> Result<u32> {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let find = |name: &str| {
        groups.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
        })
    };
    match asked {
        Some(name) => {
            find(name).or_else(|| name.parse().ok()).ok_or_else(|| ListenError::NoGroup(name.to_owned()))
        }
        None => Ok(find("hull").or_else(|| find("docker")).unwrap_or(0)),
    }
}

/// The pid file, removed when the daemon goes.
#[derive(Debug)]
pub(crate) struct PidFile(PathBuf);

impl PidFile {
    /// Writes it. A file that names a process which is gone, or which is another program by now,
    /// is stale and replaced.
    pub(crate) fn write(path: &Path) -> Result<PidFile> {
        let file = |call, source| ListenError::File { call, path: path.to_owned(), source };
        if let Some(pid) = fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u32>().ok())
            && pid != std::process::id()
            && is_daemon(pid)
        {
            return Err(ListenError::Running { path: path.to_owned(), pid });
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| file("make the folder of", error))?;
        }
        let early = path.with_extension(format!("pid.{}", std::process::id()));
        let mut out = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .open(&early)
            .map_err(|error| file("write", error))?;
        writeln!(out, "{}", std::process::id()).map_err(|error| file("write", error))?;
        // The umask keeps the mode above from others.
        out.set_permissions(Permissions::from_mode(0o644)).map_err(|error| file("chmod", error))?;
        fs::rename(&early, path).map_err(|error| file("write", error))?;
        Ok(PidFile(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Not there any more is as good.
        let _ = fs::remove_file(&self.0);
    }
}

/// A process of that number runs our program: numbers are used again after a crash.
fn is_daemon(pid: u32) -> bool {
    let exe = |pid: &str| fs::read_link(format!("/proc/{pid}/exe")).ok();
    let name = |path: PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.trim_end_matches(" (deleted)").to_owned()
    };
    match (exe(&pid.to_string()).map(name), exe("self").map(name)) {
        (Some(theirs), Some(ours)) => theirs == ours,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_living_one_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let address = [Listen::Unix(path.clone())];
        check(&address).unwrap();
        let listener = open(&address[0], Some("0")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(matches!(check(&address), Err(ListenError::Living(_))));
        let (said, hears) = std::sync::mpsc::channel();
        let path_of_dying = folder.path().join("dying.sock");
        let dying = std::os::unix::net::UnixListener::bind(&path_of_dying).unwrap();
        std::thread::spawn(move || {
            let connection = dying.accept();
            said.send(()).unwrap();
            drop(connection);
        });
        check(&[Listen::Unix(path_of_dying.clone())]).unwrap();
        hears.recv().unwrap();
        fs::remove_file(path_of_dying).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left in the folder");
        drop(listener);
        fs::write(folder.path().join("file"), "").unwrap();
        let file = [Listen::Unix(folder.path().join("file"))];
        assert!(matches!(check(&file), Err(ListenError::NotASocket(_))));
        assert!(matches!(open(&address[0], Some("no such group")), Err(ListenError::NoGroup(_))));
    }

    #[test]
    fn a_stale_pid_file_is_replaced_and_a_living_one_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.pid");
        // Process 1 lives but is another program; the largest number is nobody's.
        for stale in ["1\n", "4194304\n", "garbage"] {
            fs::write(&path, stale).unwrap();
            let file = PidFile::write(&path).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
            drop(file);
            assert!(!path.exists());
        }
        // A parent that is this very program stands for a running daemon.
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "listen::tests::sleeps_for_the_test_above", "--ignored"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        fs::write(&path, child.id().to_string()).unwrap();
        let refused = PidFile::write(&path);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(refused, Err(ListenError::Running { .. })), "{refused:?}");
    }

    #[test]
    #[ignore = "a process for the test above"]
    fn sleeps_for_the_test_above() {
        std::thread::sleep(Duration::from_secs(20));
    }
}
