//! The process' standard input, as the shim holds it: the writing end of a pipe, or the terminal.

use std::os::fd::OwnedFd;

use hull_sys::Errno;

/// Bytes that wait for the process before no more is read from clients.
pub(super) const PENDING_MAX: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Input {
    /// `None` when closed, or never open.
    pub(super) fd: Option<OwnedFd>,
    /// `pending[written..]` waits for the process to read.
    pending: Vec<u8>,
    written: usize,
    /// Close once nothing is pending.
    closing: bool,
    terminal: bool,
    /// epoll waits for room in it.
    pub(super) armed: bool,
}

impl Input {
    /// `fd` must not block.
    pub(super) fn new(fd: Option<OwnedFd>, terminal: bool) -> Input {
        Input { fd, pending: Vec::new(), written: 0, closing: false, terminal, armed: false }
    }

    pub(super) fn waiting(&self) -> usize {
        self.pending.len() - self.written
    }

    /// Whether clients are to be read from.
    pub(super) fn hungry(&self) -> bool {
        self.fd.is_some() && !self.closing && self.waiting() < PENDING_MAX
    }

    /// Where new input goes.
    pub(super) fn pending(&mut self) -> &mut Vec<u8> {
        &mut self.pending
    }

    /// The client that had the input to itself has ended it. A terminal has no end that it could
    /// be told of: who sits at it types one.
    pub(super) fn end(&mut self) {
        self.closing = !self.terminal;
        self.flush();
    }

    /// Writes what the process takes.
    pub(super) fn flush(&mut self) {
        while self.waiting() > 0 {
            let Some(fd) = &self.fd else {
                break;
            };
            match rustix::io::write(fd, &self.pending[self.written..]) {
                Ok(done) => self.written += done,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.pending.drain(..self.written);
                    self.written = 0;
                    return;
                }
                // Nobody reads this input any more.
                Err(_) => self.fd = None,
            }
        }
        self.pending = Vec::new();
        self.written = 0;
        if self.closing {
            self.fd = None;
        }
    }
}
