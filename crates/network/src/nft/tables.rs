//! [`Nftables`]: the tables as they were applied, and the kernel made to have them.

use hull_sys::Errno;
use hull_sys::netlink::message;
use hull_sys::netlink::{Family as Netlink, Socket};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{RecvFlags, sockopt};

use super::dump::{self, FoundRule};
use super::element::{self, Wire};
use super::encode::{self, Batch};
use super::protocol;
use crate::firewall::{Error, Firewall};
use crate::ruleset::{Change, Family, RuleSet, TABLE};

/// What the kernel's queue of a socket has room for without being asked for more.
const USUAL_BATCH: usize = 100 * 1024;

/// The tables of the network namespace in which this was opened.
#[derive(Debug)]
pub struct Nftables {
    socket: Socket,
    applied: RuleSet,
    /// Rules as the kernel read them back when they were made: what they have to look like.
    frame: Vec<FoundRule>,
    /// Something was applied.
    made: bool,
}

impl Nftables {
    /// In the network namespace of the calling thread. Nothing is changed.
    pub fn open() -> Result<Nftables, Error> {
        let socket = Socket::open(Netlink::Netfilter)?;
        Ok(Nftables { socket, applied: RuleSet::default(), frame: Vec::new(), made: false })
    }

    /// What was applied last.
    pub fn applied(&self) -> &RuleSet {
        &self.applied
    }

    /// The number by which the kernel tells this socket's transactions from those of others.
    pub fn port(&self) -> Result<u32, Error> {
        let address = rustix::net::getsockname(&self.socket)
            .and_then(SocketAddrNetlink::try_from)
            .map_err(|errno| hull_sys::Error::new("getsockname", errno, "netlink"))?;
        Ok(address.pid())
    }

    fn replace(&mut self) -> Result<(), Error> {
        self.run(encode::replace(&self.applied))?;
        self.frame = self.rules()?;
        self.made = true;
        Ok(())
    }

    fn rules(&self) -> Result<Vec<FoundRule>, Error> {
        let mut all = Vec::new();
        for family in self.applied.tables.keys() {
            all.extend(dump::rules(&self.socket, protocol(*family), Some(TABLE))?);
        }
        Ok(all)
    }

    /// Sends the batch; it happens as a whole or not at all.
    fn run(&self, mut batch: Batch) -> Result<(), Error> {
        let last = batch.last();
        let messages = batch.messages();
        messages.number_from(0);
        if messages.bytes().len() > USUAL_BATCH {
            let room = messages.bytes().len() * 2;
            // The forced one needs CAP_NET_ADMIN in the first user namespace.
            if sockopt::set_socket_send_buffer_size_force(&self.socket, room).is_err() {
                let _ = sockopt::set_socket_send_buffer_size(&self.socket, room);
            }
        }
        self.socket.send(messages.bytes())?;
        // Everything has been said when `send` returns; what was refused is what counts.
        let mut refused: Option<Error> = None;
        let mut answered = false;
        let mut buffer = [0; 8192];
        loop {
            let (_, len) = match rustix::net::recv(
                &self.socket,
                &mut buffer[..],
                RecvFlags::DONTWAIT | RecvFlags::TRUNC,
            ) {
                Ok(received) => received,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => break,
                Err(errno) => return Err(hull_sys::Error::new("recv", errno, "netlink").into()),
            };
            for message in message::messages(&buffer[..len.min(buffer.len())]) {
                let Some(answer) = message.answer() else { continue };
                match answer.errno {
                    None => answered |= message.sequence as usize == last,
                    Some(errno) if refused.is_none() => {
                        let what = batch.what(message.sequence as usize);
                        refused = Some(Error::Refused { what, errno, text: answer.text });
                    }
                    Some(_) => {}
                }
            }
        }
        match refused {
            Some(error) => Err(error),
            None if answered => Ok(()),
            None => Err(Error::Unanswered),
        }
    }

    fn differences(&self) -> Result<Vec<String>, Error> {
        let mut found = Vec::new();
        for (family, table) in &self.applied.tables {
            let name = family.name();
            let chains = dump::chains(&self.socket, protocol(*family))?;
            let ours: Vec<_> = chains.iter().filter(|chain| chain.table == TABLE).collect();
            if ours.is_empty() {
                found.push(format!("table {name} {TABLE} is gone"));
                continue;
            }
            for chain in &table.chains {
                match ours.iter().find(|found| found.name == chain.name) {
                    None => found.push(format!("chain {} of table {name} {TABLE} is gone", chain.name)),
                    Some(there)
                        if there.drops
                            || there.hook.map(|(_, priority)| priority)
                                != chain.hook.map(|hook| hook.priority) =>
                    {
                        found.push(format!("chain {} of table {name} {TABLE} is changed", chain.name));
                    }
                    Some(_) => {}
                }
            }
            for (set, wanted) in &table.sets {
                let Some(mut there) = dump::elements(&self.socket, protocol(*family), TABLE, set)? else {
                    found.push(format!("set {set} of table {name} {TABLE} is gone"));
                    continue;
                };
                let mut want: Vec<Wire> = wanted
                    .elements
                    .iter()
                    .flat_map(|(key, value)| element::wire(wanted, key, value))
                    .collect();
                there.sort();
                want.sort();
                let missing = want.iter().filter(|one| there.binary_search(one).is_err()).count();
                let more = there.iter().filter(|one| want.binary_search(one).is_err()).count();
                if missing + more > 0 {
                    found.push(format!(
                        "set {set} of table {name} {TABLE} lacks {missing} elements and has {more} too many"
                    ));
                }
            }
        }
        if found.is_empty() && self.rules()? != self.frame {
            found.push(format!("rules of the tables {TABLE} are changed"));
        }
        for family in [Family::Inet, Family::Bridge] {
            if !self.applied.tables.contains_key(&family)
                && dump::chains(&self.socket, protocol(family))?.iter().any(|chain| chain.table == TABLE)
            {
                found.push(format!("table {} {TABLE} is there", family.name()));
            }
        }
        Ok(found)
    }
}

impl Firewall for Nftables {
    fn apply(&mut self, wanted: &RuleSet) -> Result<(), Error> {
        let small = self.applied.difference(wanted).filter(|_| self.made);
        let before = std::mem::replace(&mut self.applied, wanted.clone());
        let done = match small {
            Some(change) if change.is_empty() => Ok(()),
            Some(change) => self.run(encode::change(&change, wanted)).or_else(|_| self.replace()),
            None => self.replace(),
        };
        if done.is_err() {
            self.applied = before;
        }
        done
    }

    fn change(&mut self, change: &Change) -> Result<(), Error> {
        let real = self.applied.change(change);
        if real.is_empty() {
            return Ok(());
        }
        // What does not fit what is there was disturbed by somebody: then everything is made anew.
        let done = self.run(encode::change(&real, &self.applied)).or_else(|_| self.replace());
        if done.is_err() {
            self.applied.change(&Change { remove: real.add, add: real.remove });
        }
        done
    }

    fn observe(&mut self) -> Result<Vec<String>, Error> {
        self.differences()
    }

    fn repair(&mut self) -> Result<(), Error> {
        self.replace()
    }
}
