//! Deletes links behind the scenes.
//!
//! Deleting a link takes the kernel's unregistering, and then some 20 ms in which the caller waits
//! for the last reader of the link (RCU). Nobody should wait for that: a link that is done with is
//! cut off and *condemned* — put into one group of links — and one thread deletes the group
//! whenever something was condemned. However many there are, the kernel waits once.
//!
//! What a killed daemon has condemned is still in the group and goes when the next one starts.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use hull_sys::Errno;

use crate::driver::random_name;
use crate::rtnl::{self, Batch, Change, Link};

/// The group of links to be deleted ("HULL").
const CONDEMNED: u32 = 0x4855_4c4c;

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    condemned: bool,
    closed: bool,
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake.notify_all();
    }
}

/// The thread that deletes what was condemned. It ends when this is dropped.
#[derive(Debug)]
pub struct Reaper {
    shared: Arc<Shared>,
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.shared.change(|state| state.closed = true);
    }
}

impl Reaper {
    /// For the network namespace of this thread. Begins with what an earlier daemon has left.
    pub fn start() -> rtnl::Result<Reaper> {
        let shared = Arc::new(Shared::default());
        shared.change(|state| state.condemned = true);
        let socket = rtnl::Socket::open()?;
        let own = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("links".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || reap(&own, socket))
            .map_err(|error| hull_sys::Error {
                call: "clone",
                args: "a thread that deletes links".to_owned(),
                errno: Errno::from_io_error(&error).unwrap_or(Errno::AGAIN),
            })?;
        Ok(Reaper { shared })
    }

    /// Whether the link is about to be deleted.
    pub fn has_condemned(link: &Link) -> bool {
        link.group == CONDEMNED
    }

    /// Cuts a link off and condemns it; when this returns it passes no packets. One that has gone is
    /// no error.
    pub fn condemn(&self, socket: &mut rtnl::Socket, link: u32) -> rtnl::Result<()> {
        self.run(socket, condemning(link))
    }

    /// The same, and its name is free at once. Renaming makes the kernel wait for readers (RCU),
    /// which is worth it only for a name that somebody may want again.
    pub fn condemn_and_rename(&self, socket: &mut rtnl::Socket, link: u32) -> rtnl::Result<()> {
        let mut batch = condemning(link);
        batch.change(link, &Change { name: Some(&random_name("gone")), ..Change::default() });
        self.run(socket, batch)
    }

    fn run(&self, socket: &mut rtnl::Socket, batch: Batch) -> rtnl::Result<()> {
        match socket.run(batch) {
            Err(error) if error.errno() == Errno::NODEV => return Ok(()),
            result => result?,
        }
        self.shared.change(|state| state.condemned = true);
        Ok(())
    }
}

fn condemning(link: u32) -> Batch {
    let mut batch = Batch::new();
    batch.change(link, &Change { up: Some(false), group: Some(CONDEMNED), ..Change::default() });
    batch
}

fn reap(shared: &Shared, mut socket: rtnl::Socket) {
    let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if state.condemned {
            state.condemned = false;
            drop(state);
            let mut batch = Batch::new();
            batch.delete_group(CONDEMNED);
            // No such link: they were gone already. Any other refusal leaves them in the group,
            // cut off, for the next time.
            let _ = socket.run(batch);
            state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        } else if state.closed {
            return;
        } else {
            state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
