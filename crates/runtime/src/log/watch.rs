//! Waiting for a log to grow: an inotify descriptor on its folder (`man 7 inotify`).

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

/// A descriptor that becomes readable when the writer has written or begun a segment.
///
/// Make it before the first [`super::Reader::next`] that gives `None`, so that nothing falls
/// between; after each wake-up call [`Watch::clear`], then read until `None`.
#[derive(Debug)]
pub struct Watch {
    inotify: OwnedFd,
}

impl Watch {
    pub fn new(dir: &Path) -> Result<Watch, Errno> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let events = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::DELETE_SELF;
        inotify::add_watch(&inotify, dir, events | WatchFlags::ONLYDIR)?;
        Ok(Watch { inotify })
    }

    /// Takes all events; says whether the folder itself is gone.
    pub fn clear(&self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut gone = false;
        while let Ok(event) = events.next() {
            gone |= event.events().contains(inotify::ReadFlags::IGNORED);
        }
        gone
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
