//! Hears of changes to the tables that somebody else made: nothing polls.
//!
//! The kernel announces each transaction with the number of the socket that asked for it, so our
//! own are told from others' and a repair is not taken for a disturbance.

use std::os::fd::{AsFd, BorrowedFd};

use hull_sys::netlink::message::{self, string};
use hull_sys::netlink::{DATAGRAM, Family, Socket};
use hull_sys::{During, Errno, Result};
use rustix::net::RecvFlags;

use super::SUBSYSTEM;
use crate::ruleset::TABLE;

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;
/// Bytes of nfgenmsg.
const HEAD: usize = 4;
/// `NFT_MSG_NEWTABLE` to `NFT_MSG_DELSETELEM`: everything that has a table's name first.
const LAST_KIND: u8 = 14;

/// What was announced since the last time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heard {
    /// Somebody else touched a table of ours, or so much happened that some was not heard.
    pub ours: bool,
    /// Somebody touched another table: what stands in forwarded packets' way may be different.
    pub others: bool,
}

/// Readable when there is something to hear.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
    own: u32,
    buffer: Vec<u8>,
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Monitor {
    /// In the network namespace of the calling thread. `own` is [`super::Nftables::port`].
    pub fn open(own: u32) -> Result<Monitor> {
        let socket = Socket::open(Family::Netfilter)?;
        socket.join(GROUP)?;
        Ok(Monitor { socket, own, buffer: vec![0; DATAGRAM] })
    }

    /// Everything that has been announced, without waiting.
    pub fn hear(&mut self) -> Result<Heard> {
        let mut heard = Heard::default();
        loop {
            match rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((_, len)) => listen(&self.buffer[..len], self.own, &mut heard),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(heard),
                Err(Errno::NOBUFS) => heard = Heard { ours: true, others: true },
                Err(errno) => return Err(errno).during("recv", || "netlink, nftables' announcements"),
            }
        }
    }
}

fn listen(datagram: &[u8], own: u32, heard: &mut Heard) {
    let mut rest = datagram;
    for message in message::messages(datagram) {
        // The head's last word is the number of whoever asked.
        let by = rest.get(12..16).and_then(|word| Some(u32::from_ne_bytes(word.try_into().ok()?)));
        let len = (message.payload.len() + 16).next_multiple_of(4);
        rest = rest.get(len..).unwrap_or_default();
        let [subsystem, kind] = message.kind.to_be_bytes();
        if subsystem != SUBSYSTEM || kind > LAST_KIND || by == Some(own) {
            continue;
        }
        let name = message.split(HEAD).and_then(|(_, mut rest)| rest.find(|(kind, _)| *kind == 1));
        match name {
            Some((_, name)) if string(name) == TABLE => heard.ours = true,
            _ => heard.others = true,
        }
    }
}
