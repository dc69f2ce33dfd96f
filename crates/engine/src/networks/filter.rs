//! The one thread that tells the packet filter what changes.
//!
//! Whoever starts or ends a container says which elements are now its own; what has come in
//! meanwhile is told to the kernel in one transaction (group commit), so that fifty containers
//! started at once cost a few. A start waits until its elements are there; nobody waits for their
//! removal.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError, mpsc};

use hull_network::firewall::Firewall;
use hull_network::nft::monitor::Monitor;
use hull_network::ruleset::{Change, Elements, RuleSet};

use rustix::event::{PollFd, PollFlags};

use super::change::failed;
use crate::{Error, Result};

/// Most changes that one transaction takes.
const GROUP: usize = 256;

/// The way to the thread, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Filter {
    requests: mpsc::Sender<Request>,
    /// Held from the reading of records until what follows from them is on its way: whoever
    /// changes a record says so afterwards, and so comes after it.
    order: Mutex<()>,
}

#[derive(Debug)]
enum Request {
    /// What an owner (a network or an endpoint, by its id) has from now on.
    Set { owner: String, elements: Elements, answer: Option<mpsc::SyncSender<Result<()>>> },
    /// Somebody else touched the tables.
    Disturbed,
    /// How the tables differ from what they were made to be, in words.
    Observe { answer: mpsc::SyncSender<Result<Vec<String>>> },
    /// Everything: the tables, and whose their elements are.
    Whole { rules: Box<RuleSet>, owners: HashMap<String, Elements>, answer: mpsc::SyncSender<Result<()>> },
}

impl Filter {
    /// Starts the thread, in the network namespace of this one.
    pub(super) fn start(firewall: Box<dyn Firewall + Send>) -> Result<Filter> {
        let (requests, incoming) = mpsc::channel();
        let thread = Thread { firewall, owners: HashMap::new() };
        std::thread::Builder::new().name("filter".to_owned()).spawn(move || thread.run(&incoming)).map_err(
            |source| Error::Io { call: "start a thread for", path: "the packet filter".into(), source },
        )?;
        Ok(Filter { requests, order: Mutex::default() })
    }

    /// Starts another thread, which hears when somebody else touches the tables. It ends with the
    /// first disturbance after this has gone.
    pub(super) fn guard(&self, mut monitor: Monitor) -> Result<()> {
        let requests = self.requests.clone();
        let listen = move || {
            loop {
                let mut waiting = [PollFd::new(&monitor, PollFlags::IN)];
                if !matches!(rustix::event::poll(&mut waiting, None), Ok(_) | Err(rustix::io::Errno::INTR)) {
                    return;
                }
                match monitor.hear() {
                    Ok(heard) if heard.ours => {
                        if requests.send(Request::Disturbed).is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::error!(%error, "changes of Hull's rules by others are not heard any more");
                        return;
                    }
                }
            }
        };
        let started =
            std::thread::Builder::new().name("guard".to_owned()).stack_size(256 << 10).spawn(listen);
        started.map(drop).map_err(|source| Error::Io {
            call: "start a thread for",
            path: "the packet filter".into(),
            source,
        })
    }

    /// Makes the host's tables be exactly those that `make` reads out of the records. Blocks.
    pub(super) fn whole(&self, make: impl FnOnce() -> (RuleSet, HashMap<String, Elements>)) -> Result<()> {
        let (answer, answered) = mpsc::sync_channel(1);
        {
            let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
            let (rules, owners) = make();
            self.requests
                .send(Request::Whole { rules: Box::new(rules), owners, answer })
                .map_err(|_| Error::ShuttingDown)?;
        }
        answered.recv().map_err(|_| Error::ShuttingDown)?
    }

    /// Says what an owner has, as `make` reads it out of the records. The answer comes when it is in
    /// force: blocks when it is waited for.
    pub(super) fn set(&self, owner: &str, make: impl FnOnce() -> Elements) -> Result<Awaited> {
        let (answer, answered) = mpsc::sync_channel(1);
        let owner = owner.to_owned();
        self.send(|| Request::Set { owner, elements: make(), answer: Some(answer) })?;
        Ok(Awaited(answered))
    }

    /// How the host's tables differ from what they were made to be, in words; empty: not at all.
    /// Blocks.
    pub(super) fn observe(&self) -> Result<Vec<String>> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.send(|| Request::Observe { answer })?;
        answered.recv().map_err(|_| Error::ShuttingDown)?
    }

    /// The owner has gone. Nobody waits.
    pub(super) fn forget(&self, owner: &str) {
        let nothing = || Request::Set { owner: owner.to_owned(), elements: Elements::new(), answer: None };
        // Without the thread the whole engine is on its way out.
        drop(self.send(nothing));
    }

    fn send(&self, request: impl FnOnce() -> Request) -> Result<()> {
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        self.requests.send(request()).map_err(|_| Error::ShuttingDown)
    }
}

/// A change on its way.
#[derive(Debug)]
pub(super) struct Awaited(mpsc::Receiver<Result<()>>);

impl Awaited {
    pub(super) fn wait(self) -> Result<()> {
        self.0.recv().map_err(|_| Error::ShuttingDown)?
    }
}

struct Thread {
    firewall: Box<dyn Firewall + Send>,
    owners: HashMap<String, Elements>,
}

type Set = (String, Elements, Option<mpsc::SyncSender<Result<()>>>);

impl Thread {
    fn run(mut self, incoming: &mpsc::Receiver<Request>) {
        let mut next = None;
        while let Some(request) = next.take().or_else(|| incoming.recv().ok()) {
            match request {
                Request::Whole { rules, owners, answer } => {
                    let outcome = self.firewall.apply(&rules).map_err(failed);
                    if outcome.is_ok() {
                        self.owners = owners;
                    }
                    // Whoever asked may have left.
                    drop(answer.send(outcome));
                }
                Request::Disturbed => self.repair(),
                Request::Observe { answer } => drop(answer.send(self.firewall.observe().map_err(failed))),
                Request::Set { owner, elements, answer } => {
                    let mut group = vec![(owner, elements, answer)];
                    while group.len() < GROUP && next.is_none() {
                        match incoming.try_recv() {
                            Ok(Request::Set { owner, elements, answer }) => {
                                group.push((owner, elements, answer))
                            }
                            Ok(other) => next = Some(other),
                            Err(_) => break,
                        }
                    }
                    self.settle(group);
                }
            }
        }
    }

    /// Makes the tables anew if they are not what they were made to be.
    fn repair(&mut self) {
        let repaired = match self.firewall.observe() {
            Ok(differences) if differences.is_empty() => return,
            Ok(differences) => {
                tracing::warn!(?differences, "somebody changed Hull's rules; they are made again");
                self.firewall.repair()
            }
            Err(error) => Err(error),
        };
        if let Err(error) = repaired {
            tracing::error!(error = &error as &dyn std::error::Error, "Hull's rules cannot be made again");
        }
    }

    fn settle(&mut self, group: Vec<Set>) {
        match self.change(&group) {
            Ok(()) => group.into_iter().for_each(|(_, _, answer)| tell(answer, Ok(()))),
            Err(error) if group.len() == 1 => group.into_iter().for_each(|(_, _, answer)| {
                if answer.is_none() {
                    tracing::warn!(%error, "rules of what has gone may be left over");
                }
                tell(answer, Err(Error::Network(error.to_string())));
            }),
            // One bad change must not take the others down with it: each for itself.
            Err(_) => group.into_iter().for_each(|one| self.settle(vec![one])),
        }
    }

    /// One transaction for all of them.
    fn change(&mut self, group: &[Set]) -> Result<()> {
        let mut owners: HashMap<&str, &Elements> = HashMap::new();
        let mut change = Change::default();
        let none = Elements::new();
        for (owner, elements, _) in group {
            let before =
                owners.get(owner.as_str()).copied().or_else(|| self.owners.get(owner)).unwrap_or(&none);
            for gone in before.difference(elements) {
                change.add.remove(gone);
                change.remove.insert(gone.clone());
            }
            // Removals come first: what is removed and added is there in the end.
            change.add.extend(elements.difference(before).cloned());
            owners.insert(owner, elements);
        }
        if !change.is_empty() {
            self.firewall.change(&change).map_err(failed)?;
        }
        for (owner, elements, _) in group {
            if elements.is_empty() {
                self.owners.remove(owner);
            } else {
                self.owners.insert(owner.clone(), elements.clone());
            }
        }
        Ok(())
    }
}

fn tell(answer: Option<mpsc::SyncSender<Result<()>>>, outcome: Result<()>) {
    if let Some(answer) = answer {
        // Whoever asked may have left.
        drop(answer.send(outcome));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use hull_network::firewall;
    use hull_network::ruleset::{Element, Family, Field, SetName, Value};

    use super::*;

    /// What a packet filter would have by now. It refuses the link `bad`.
    #[derive(Clone, Default)]
    struct Table(Arc<Mutex<Elements>>);

    impl Firewall for Table {
        fn apply(&mut self, _: &RuleSet) -> Result<(), firewall::Error> {
            self.0.lock().unwrap().clear();
            Ok(())
        }

        fn change(&mut self, change: &Change) -> Result<(), firewall::Error> {
            let bad = |element: &Element| element.key == [Field::Link("bad".into())];
            if change.add.iter().any(bad) {
                return Err(firewall::Error::Refused {
                    what: "bad".into(),
                    errno: hull_sys::Errno::INVAL,
                    text: None,
                });
            }
            let mut table = self.0.lock().unwrap();
            table.retain(|element| !change.remove.contains(element));
            table.extend(change.add.iter().cloned());
            Ok(())
        }

        fn observe(&mut self) -> Result<Vec<String>, firewall::Error> {
            Ok(Vec::new())
        }

        fn repair(&mut self) -> Result<(), firewall::Error> {
            Ok(())
        }
    }

    fn elements(links: &[&str]) -> Elements {
        let set = SetName { family: Family::Inet, name: "bridges" };
        let one = |link: &&str| Element { set, key: vec![Field::Link((*link).into())], value: Value::None };
        links.iter().map(one).collect()
    }

    #[test]
    fn what_owners_have_is_what_the_table_has() {
        let table = Table::default();
        let filter = Filter::start(Box::new(table.clone())).unwrap();
        let has = |links: &[&str]| assert_eq!(*table.0.lock().unwrap(), elements(links));
        let first = filter.set("a", || elements(&["a1", "a2"])).unwrap();
        let second = filter.set("b", || elements(&["b1"])).unwrap();
        first.wait().unwrap();
        second.wait().unwrap();
        has(&["a1", "a2", "b1"]);
        filter.set("a", || elements(&["a2", "a3"])).unwrap().wait().unwrap();
        has(&["a2", "a3", "b1"]);
        filter.forget("b");
        let bad = filter.set("c", || elements(&["bad"])).unwrap();
        let good = filter.set("d", || elements(&["b1"])).unwrap();
        assert!(bad.wait().unwrap_err().to_string().contains("bad"));
        good.wait().unwrap();
        has(&["a2", "a3", "b1"]);
        filter.whole(|| (RuleSet::default(), HashMap::new())).unwrap();
        has(&[]);
    }

    #[test]
    fn what_comes_and_goes_in_one_group_ends_as_it_was_said_last() {
        let table = Table::default();
        let mut thread = Thread { firewall: Box::new(table.clone()), owners: HashMap::new() };
        let group = |steps: &[(&str, &[&str])]| -> Vec<Set> {
            steps.iter().map(|(owner, links)| ((*owner).to_owned(), elements(links), None)).collect()
        };
        thread.change(&group(&[("a", &["p"]), ("a", &[]), ("b", &["p"])])).unwrap();
        assert_eq!(*table.0.lock().unwrap(), elements(&["p"]));
        thread.change(&group(&[("b", &[]), ("c", &["p"]), ("c", &[])])).unwrap();
        assert!(table.0.lock().unwrap().is_empty() && thread.owners.is_empty());
    }
}
