//! What happened on this host, for whoever listens.
//!
//! A bounded ring keeps the last events for `--since`; a broadcast channel carries them on. A
//! listener that cannot keep up loses events and is told how many, instead of holding anybody
//! up (backpressure would let one stuck client stop the engine).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::broadcast;

use crate::containers::phase::Time;

/// Events kept for replay.
pub const KEPT: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Container,
    Image,
    Network,
    Volume,
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Kind::Container => "container",
            Kind::Image => "image",
            Kind::Network => "network",
            Kind::Volume => "volume",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub kind: Kind,
    /// Docker's word: `create`, `die`, `exec_start: sh -c x`, …
    pub action: String,
    /// Of the container, image or network; the name of a volume.
    pub id: String,
    pub attributes: BTreeMap<String, String>,
    /// Nanoseconds since the epoch; strictly growing.
    pub time: Time,
}

/// The source of events; cheap to clone.
#[derive(Debug, Clone)]
pub struct Events(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    ring: Mutex<VecDeque<Arc<Event>>>,
    live: broadcast::Sender<Arc<Event>>,
}

/// A listener: what the ring held when it came, then everything after, without a gap.
#[derive(Debug)]
pub struct Subscription {
    /// Oldest first. Take them before [`Subscription::next`].
    pub past: Vec<Arc<Event>>,
    live: broadcast::Receiver<Arc<Event>>,
}

/// What [`Subscription::next`] has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    Event(Arc<Event>),
    /// The listener was too slow: so many events are gone for it.
    Lost(u64),
    /// The engine is closing.
    End,
}

impl Default for Events {
    fn default() -> Events {
        let (live, _) = broadcast::channel(1024);
        Events(Arc::new(Shared { ring: Mutex::new(VecDeque::with_capacity(64)), live }))
    }
}

impl Events {
    pub fn publish(&self, kind: Kind, action: &str, id: &str, attributes: BTreeMap<String, String>) {
        // A panic elsewhere cannot leave the ring half-changed.
        let mut ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let after = ring.back().map_or(0, |last| last.time + 1);
        let time = hull_sys::time::now().max(after);
        let event = Arc::new(Event { kind, action: action.to_owned(), id: id.to_owned(), attributes, time });
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(Arc::clone(&event));
        // Under the lock, so that ring and channel have one order. Nobody listening is fine.
        drop(self.0.live.send(event));
    }

    /// `since` (inclusive) asks for the past from there on; without it there is none.
    pub fn subscribe(&self, since: Option<Time>) -> Subscription {
        let ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.0.live.subscribe();
        let past = since.map_or_else(Vec::new, |since| {
            ring.iter().filter(|event| event.time >= since).cloned().collect()
        });
        Subscription { past, live }
    }
}

impl Subscription {
    pub async fn next(&mut self) -> Next {
        match self.live.recv().await {
            Ok(event) => Next::Event(event),
            Err(broadcast::error::RecvError::Lagged(count)) => Next::Lost(count),
            Err(broadcast::error::RecvError::Closed) => Next::End,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_past_and_the_present_meet_without_a_gap() {
        let events = Events::default();
        events.publish(Kind::Container, "create", "a", BTreeMap::new());
        let mut seen = events.subscribe(Some(0));
        events.publish(Kind::Container, "start", "a", BTreeMap::new());
        assert_eq!(seen.past.iter().map(|e| e.action.as_str()).collect::<Vec<_>>(), ["create"]);
        let Next::Event(event) = seen.next().await else { panic!("an event") };
        assert_eq!(event.action, "start");
        assert!(event.time > seen.past[0].time);
        assert!(events.subscribe(None).past.is_empty());
    }

    #[tokio::test]
    async fn the_ring_is_bounded_and_a_slow_listener_is_told() {
        let events = Events::default();
        let mut slow = events.subscribe(None);
        for _ in 0..KEPT + 10 {
            events.publish(Kind::Container, "x", "a", BTreeMap::new());
        }
        assert_eq!(events.subscribe(Some(0)).past.len(), KEPT);
        assert!(matches!(slow.next().await, Next::Lost(count) if count > 0));
        assert!(matches!(slow.next().await, Next::Event(_)));
    }
}
