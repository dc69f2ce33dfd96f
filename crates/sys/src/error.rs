//! The one error of this crate: which system call failed, on what, and why.
//!
//! A bare errno says nothing ("No such file or directory" — which?), so every wrapper gives its
//! call's name and its arguments as a reader would write them:
//! `openat2(/var/x, "etc", O_PATH): ENOENT (No such file or directory)`. The arguments are
//! formatted only when a call has failed; the good path allocates nothing.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd};

pub use rustix::io::Errno;

/// A failed system call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call}({args}): {} ({})", name(*.errno), describe(*.errno))]
pub struct Error {
    /// The call's name as in its manual page.
    pub call: &'static str,
    /// Its arguments, for a reader.
    pub args: String,
    pub errno: Errno,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(call: &'static str, errno: Errno, args: impl fmt::Display) -> Self {
        Self { call, args: args.to_string(), errno }
    }
}

/// Names a failed call: `rustix::fs::mkdirat(..).during("mkdirat", || format!("{path:?}"))`.
pub trait During<T> {
    fn during<A: fmt::Display>(self, call: &'static str, args: impl FnOnce() -> A) -> Result<T>;
}

impl<T> During<T> for std::result::Result<T, Errno> {
    fn during<A: fmt::Display>(self, call: &'static str, args: impl FnOnce() -> A) -> Result<T> {
        self.map_err(|errno| Error::new(call, errno, args()))
    }
}

impl<T> During<T> for std::io::Result<T> {
    fn during<A: fmt::Display>(self, call: &'static str, args: impl FnOnce() -> A) -> Result<T> {
        self.map_err(|error| Error::new(call, Errno::from_io_error(&error).unwrap_or(Errno::IO), args()))
    }
}

/// Shows a descriptor as the path it was opened by, where /proc can tell, else as its number.
pub struct ShowFd<F>(pub F);

impl<F: AsFd> fmt::Display for ShowFd<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.0.as_fd().as_raw_fd();
        match rustix::fs::readlink(format!("/proc/self/fd/{number}"), Vec::new()) {
            Ok(path) => f.write_str(&path.to_string_lossy()),
            Err(_) => write!(f, "fd {number}"),
        }
    }
}

/// The system's sentence for an errno, as strerror(3) gives it: `No such file or directory`.
pub fn describe(errno: Errno) -> String {
    let text = std::io::Error::from_raw_os_error(errno.raw_os_error()).to_string();
    match text.split_once(" (os error ") {
        Some((sentence, _)) => sentence.to_owned(),
        None => text,
    }
}

macro_rules! names {
    ($($name:ident)*) => {
        /// The errno's name as in errno(3), `E?` for one that this table does not know.
        pub fn name(errno: Errno) -> &'static str {
            match errno.raw_os_error() { $(libc::$name => stringify!($name),)* _ => "E?" }
        }
    };
}

names! {
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY
    EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK
    EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP ENOMSG EIDRM ECHRNG EL2NSYNC EL3HLT
    EL3RST ELNRNG EUNATCH ENOCSI EL2HLT EBADE EBADR EXFULL ENOANO EBADRQC EBADSLT EBFONT ENOSTR ENODATA ETIME
    ENOSR ENONET ENOPKG EREMOTE ENOLINK EADV ESRMNT ECOMM EPROTO EMULTIHOP EDOTDOT EBADMSG EOVERFLOW ENOTUNIQ
    EBADFD EREMCHG ELIBACC ELIBBAD ELIBSCN ELIBMAX ELIBEXEC EILSEQ ERESTART ESTRPIPE EUSERS ENOTSOCK
    EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT
    EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET ECONNABORTED ECONNRESET ENOBUFS
    EISCONN ENOTCONN ESHUTDOWN ETOOMANYREFS ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS
    ESTALE EUCLEAN ENOTNAM ENAVAIL EISNAM EREMOTEIO EDQUOT ENOMEDIUM EMEDIUMTYPE ECANCELED ENOKEY EKEYEXPIRED
    EKEYREVOKED EKEYREJECTED EOWNERDEAD ENOTRECOVERABLE ERFKILL EHWPOISON
}

/// An error and what is behind it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_prints_the_call_with_its_arguments() {
        let error = Error::new("openat2", Errno::NOENT, "/var/x, \"etc\", O_PATH");
        assert_eq!(error.to_string(), "openat2(/var/x, \"etc\", O_PATH): ENOENT (No such file or directory)");
    }

    #[test]
    fn a_descriptor_is_shown_as_its_path() {
        let root = std::fs::File::open("/proc").unwrap();
        assert_eq!(ShowFd(&root).to_string(), "/proc");
    }
}
