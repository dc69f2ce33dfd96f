//! Descriptors that a shim keeps for whoever comes after the daemon.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hull_sys::socket::MAX_FDS;

use crate::protocol::{self, FromShim, KEPT_MAX};

/// Names and what is kept under them, in the order of arrival. All are closed with it.
#[derive(Debug, Default)]
pub(super) struct Keep(Vec<(String, OwnedFd)>);

impl Keep {
    /// What is too much, or has no fit name, is closed.
    pub(super) fn add(&mut self, name: &str, fd: OwnedFd) {
        if self.0.len() < KEPT_MAX && protocol::valid_kept(name) {
            self.0.push((name.to_owned(), fd));
        }
    }

    pub(super) fn drop(&mut self, name: &str) {
        self.0.retain(|(kept, _)| kept != name);
    }

    /// Sends copies of everything: at least one message, the last one says so.
    pub(super) fn give(&self, connection: impl AsFd) -> Result<(), protocol::Error> {
        let mut rest = self.0.as_slice();
        loop {
            let (now, later) = rest.split_at(rest.len().min(MAX_FDS));
            let names = now.iter().map(|(name, _)| name.clone()).collect();
            let fds: Vec<BorrowedFd<'_>> = now.iter().map(|(_, fd)| fd.as_fd()).collect();
            protocol::send(&connection, &FromShim::Kept { names, more: !later.is_empty() }, &fds)?;
            if later.is_empty() {
                return Ok(());
            }
            rest = later;
        }
    }
}
