//! Terminals made from a given devpts mount (pty(7), devpts' `ptmx`).
//!
//! The usual posix_openpt(3) and ptsname(3) go through paths, of the wrong mount for a container.
//! Here the master is opened from a folder descriptor and the slave from the master.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::error::{During, Errno, Result, ShowFd};

/// `DEVPTS_SUPER_MAGIC` (statfs(2)).
const DEVPTS: i64 = 0x1cd1;

/// Both ends of a terminal, closed on exec; neither became anybody's controlling terminal.
#[derive(Debug)]
pub struct Pty {
    pub master: OwnedFd,
    pub slave: OwnedFd,
}

/// A new terminal of the devpts instance whose root folder `devpts` is. A folder that is not the
/// root of a devpts is ENOTTY: a container may have put anything at /dev/pts.
pub fn open(devpts: impl AsFd) -> Result<Pty> {
    let dir = devpts.as_fd();
    let kind = rustix::fs::fstatfs(dir).during("fstatfs", || ShowFd(dir))?.f_type;
    #[allow(
        clippy::unnecessary_cast,
        clippy::useless_conversion,
        reason = "the type differs between C libraries"
    )]
    if kind as i64 != DEVPTS {
        return Err(Errno::NOTTY).during("fstatfs", || format!("{}: no devpts", ShowFd(dir)));
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let master = rustix::fs::openat(dir, c"ptmx", flags, Mode::empty())
        .during("openat", || format!("{}, \"ptmx\"", ShowFd(dir)))?;
    rustix::pty::unlockpt(&master).during("ioctl", || "TIOCSPTLCK")?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).during("ioctl", || "TIOCGPTPEER")?;
    Ok(Pty { master, slave })
}

/// Sets the size of a terminal in characters; its foreground processes get SIGWINCH.
pub fn resize(terminal: impl AsFd, rows: u16, columns: u16) -> Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&terminal, size)
        .during("ioctl", || format!("TIOCSWINSZ, {rows}, {columns}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_comes_from_the_given_instance_and_has_a_size() {
        let devpts = crate::mount::new("devpts", &[("ptmxmode", Some("0666"))], 0).unwrap();
        let pty = open(&devpts).unwrap();
        resize(&pty.master, 33, 77).unwrap();
        let size = rustix::termios::tcgetwinsize(&pty.slave).unwrap();
        assert_eq!((size.ws_row, size.ws_col), (33, 77));
        rustix::io::write(&pty.slave, b"x").unwrap();
        assert_eq!(rustix::io::read(&pty.master, &mut [0; 4]).unwrap(), 1);
    }

    #[test]
    fn a_folder_that_is_no_devpts_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let dir = std::fs::File::open(dir.path()).unwrap();
        assert_eq!(open(&dir).unwrap_err().errno, Errno::NOTTY);
    }
}
