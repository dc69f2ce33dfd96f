//! What the builds' memory costs, and which of it is to go: no effects here.
//!
//! A step pins all layers of its file system, not only the one that it made, so what counts is each layer
//! of any remembered step once, but for those that an image has: they would stay anyway. To use a step is
//! to use all that it stands on: so what goes first, the oldest, is never below something younger, and
//! going frees it.
//!
//! Steps that pin nothing (all is an image's, or nothing was changed) cost only their row: no limit on
//! bytes takes them, but age does, and number ([`STEPS_MAX`]).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use hull_oci::Digest;

use super::caches::CacheMount;
use crate::containers::phase::Time;

/// Most steps that are remembered.
pub(super) const STEPS_MAX: usize = 4096;

/// A thing of the builds' memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Step,
    /// A folder that steps leave to later ones.
    CacheMount,
}

impl Kind {
    /// As the API has it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Step => "regular",
            Kind::CacheMount => "exec.cachemount",
        }
    }
}

/// A remembered step, under whichever keys; or a cache mount, as one that stands on nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) kind: Kind,
    pub(super) id: Digest,
    pub(super) description: String,
    pub(super) created: Time,
    pub(super) used: Time,
    pub(super) uses: u64,
    /// Chain ids and bytes of all layers of its file system, lowest first.
    pub(super) layers: Vec<(Digest, u64)>,
    /// Steps from the base image to this one.
    pub(super) changes: usize,
    /// The last of the layers is what it made.
    pub(super) made: bool,
    pub(super) in_use: bool,
}

impl Step {
    pub(super) fn mount(mount: CacheMount) -> Step {
        Step {
            kind: Kind::CacheMount,
            description: format!("cached mount {}", mount.name),
            created: mount.created,
            used: mount.used,
            uses: mount.uses,
            // As a layer that nobody else can have.
            layers: vec![(mount.id.clone(), mount.size)],
            id: mount.id,
            changes: 0,
            made: true,
            in_use: mount.in_use,
        }
    }

    fn top(&self) -> Option<&Digest> {
        self.layers.last().map(|(chain, _)| chain)
    }

    /// What it was done to.
    fn below(&self) -> Option<&Digest> {
        let count = self.layers.len() - usize::from(self.made);
        self.layers[..count].last().map(|(chain, _)| chain)
    }
}

/// A remembered step, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    pub kind: Kind,
    pub id: Digest,
    pub description: String,
    pub created: Time,
    pub used: Time,
    pub uses: u64,
    /// Bytes: of what it made, if that is an image's as well; else of all that is kept for it and for
    /// those above it alone. So the sizes of what is not shared add up to what the memory costs.
    pub size: u64,
    /// An image has what it made.
    pub shared: bool,
    /// The step that it was done after.
    pub parent: Option<Digest>,
    /// It cannot be forgotten now.
    pub in_use: bool,
}

/// Which steps are to be forgotten.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forget {
    /// Also those whose layers an image has.
    pub all: bool,
    /// Only those that nobody has used for so long (nanoseconds).
    pub unused_for: Time,
    pub filters: Filters,
    pub room: Room,
}

/// What a step must be; empty lists ask for nothing, the values of one are alternatives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters {
    /// Beginnings of ids.
    pub ids: Vec<String>,
    pub parents: Vec<String>,
    pub kinds: Vec<String>,
    pub descriptions: Vec<String>,
    pub shared: Option<bool>,
    /// Only what a build uses now. That cannot be forgotten, so it leaves nothing.
    pub in_use: bool,
}

impl Filters {
    fn hold(&self, step: &Cached) -> bool {
        let begins = |id: &Digest, prefixes: &[String]| {
            prefixes.iter().any(|prefix| id.hex().starts_with(prefix.trim_start_matches("sha256:")))
        };
        !self.in_use
            && (self.ids.is_empty() || begins(&step.id, &self.ids))
            && (self.parents.is_empty()
                || step.parent.as_ref().is_some_and(|parent| begins(parent, &self.parents)))
            && (self.kinds.is_empty() || self.kinds.iter().any(|kind| kind == step.kind.name()))
            && (self.descriptions.is_empty() || self.descriptions.contains(&step.description))
            && self.shared.is_none_or(|shared| shared == step.shared)
    }
}

/// How much may stay, in bytes; 0 says nothing. All zeros: nothing may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// This much stays whatever the others say.
    pub reserved: u64,
    pub max_used: u64,
    /// Of the disk.
    pub min_free: u64,
}

impl Room {
    /// What may stay of `used` bytes; `None` is without limit.
    fn keep(&self, used: u64, free: u64) -> Option<u64> {
        if self.max_used == 0 && self.min_free == 0 {
            return Some(self.reserved);
        }
        let most = Some(self.max_used).filter(|most| *most != 0);
        let missing = self.min_free.saturating_sub(free);
        let fits = (missing != 0).then(|| used.saturating_sub(missing));
        let keep = most.into_iter().chain(fits).min()?;
        Some(keep.max(self.reserved))
    }
}

/// All steps as they stand, with what they cost.
pub(super) struct Books {
    /// What goes first is first.
    steps: Vec<(Step, Cached)>,
    /// How many steps stand on each layer that is paid for, and its bytes.
    pinned: HashMap<Digest, (usize, u64)>,
    /// Bytes of those layers.
    used: u64,
    /// The same before anything was struck out.
    opened: u64,
}

impl Books {
    /// `images`: chain ids of images' layers.
    pub(super) fn open(mut steps: Vec<Step>, images: &BTreeSet<Digest>) -> Books {
        sort(&mut steps);
        let mut pinned: HashMap<Digest, (usize, u64)> = HashMap::new();
        for (chain, bytes) in steps.iter().flat_map(|step| &step.layers) {
            if !images.contains(chain) {
                pinned.entry(chain.clone()).or_insert((0, *bytes)).0 += 1;
            }
        }
        let used = pinned.values().map(|(_, bytes)| bytes).sum();
        let shown = show(&steps, images);
        Books { steps: steps.into_iter().zip(shown).collect(), pinned, used, opened: used }
    }

    /// The one that was used last first.
    pub(super) fn list(self) -> Vec<Cached> {
        let mut list: Vec<Cached> = self.steps.into_iter().map(|(_, step)| step).collect();
        list.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.id.cmp(&b.id)));
        list
    }

    /// Strikes out what is to go, the oldest first, and gives it. `free`: bytes of the disk when the books
    /// were opened.
    pub(super) fn forget(&mut self, wanted: &Forget, free: u64, now: Time) -> Vec<Cached> {
        let keep = wanted.room.keep(self.used, free + (self.opened - self.used));
        let capped = wanted.room != Room::default();
        let mut gone = Vec::new();
        for (step, shown) in std::mem::take(&mut self.steps) {
            let meant = !step.in_use
                && (wanted.all || !shown.shared)
                && (wanted.unused_for == 0 || now.saturating_sub(step.used) > wanted.unused_for)
                && wanted.filters.hold(&shown);
            let fits = capped && (keep.is_none_or(|keep| self.used <= keep) || !self.costs(&step));
            if meant && !fits {
                self.strike(&step);
                gone.push(shown);
            } else {
                self.steps.push((step, shown));
            }
        }
        gone
    }

    /// Strikes out the oldest of too many.
    pub(super) fn forget_most(&mut self) -> Vec<Cached> {
        let (mut many, mut gone) = (self.steps.len().saturating_sub(STEPS_MAX), Vec::new());
        for (step, shown) in std::mem::take(&mut self.steps) {
            if many > 0 && !step.in_use {
                many -= 1;
                self.strike(&step);
                gone.push(shown);
            } else {
                self.steps.push((step, shown));
            }
        }
        gone
    }

    /// Bytes that the memory costs.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    fn costs(&self, step: &Step) -> bool {
        step.layers.iter().any(|(chain, _)| self.pinned.get(chain).is_some_and(|(_, bytes)| *bytes > 0))
    }

    fn strike(&mut self, step: &Step) {
        for (chain, _) in &step.layers {
            let Some((count, bytes)) = self.pinned.get_mut(chain) else { continue };
            *count -= 1;
            if *count == 0 {
                self.used -= *bytes;
                self.pinned.remove(chain);
            }
        }
    }
}

/// The oldest first, and never a step before one that stands on it.
fn sort(steps: &mut [Step]) {
    let mut used: HashMap<Digest, Time> = HashMap::new();
    for step in steps.iter() {
        for (chain, _) in &step.layers {
            let last = used.entry(chain.clone()).or_insert(step.used);
            *last = step.used.max(*last);
        }
    }
    let last = |step: &Step| step.top().and_then(|top| used.get(top)).map_or(step.used, |last| *last);
    steps.sort_by_cached_key(|step| (last(step), Reverse(step.changes), step.id.clone()));
}

/// Each with its parent and its part of the costs: what stands lowest pays.
fn show(steps: &[Step], images: &BTreeSet<Digest>) -> Vec<Cached> {
    let places: BTreeMap<(usize, Option<&Digest>), &Digest> =
        steps.iter().map(|step| ((step.changes, step.top()), &step.id)).collect();
    let mut paid: HashSet<&Digest> = HashSet::new();
    let mut shown: Vec<Cached> = Vec::new();
    for step in steps.iter().rev() {
        let own = step.layers.last().filter(|_| step.made);
        let shared = step.top().is_some_and(|top| images.contains(top));
        let size = match (shared, own) {
            (true, own) => own.map_or(0, |(_, bytes)| *bytes),
            (false, _) => {
                let owed = step.layers.iter().filter(|(chain, _)| !images.contains(chain));
                owed.filter(|(chain, _)| paid.insert(chain)).map(|(_, bytes)| bytes).sum()
            }
        };
        let before = step.changes.checked_sub(1).and_then(|changes| places.get(&(changes, step.below())));
        shown.push(Cached {
            kind: step.kind,
            id: step.id.clone(),
            description: step.description.clone(),
            created: step.created,
            used: step.used,
            uses: step.uses,
            size,
            shared,
            parent: before.map(|id| (*id).clone()),
            in_use: step.in_use,
        });
    }
    shown.reverse();
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::sha256(text.as_bytes())
    }

    /// A step on a base `0` of 100 bytes; its layers have the names of its path's beginnings.
    fn step(path: &str, used: Time, size: u64) -> Step {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        let names = ends.map(|end| (digest(&path[..end]), size));
        Step {
            kind: Kind::Step,
            id: digest(path),
            description: path.to_owned(),
            created: 0,
            used,
            uses: 0,
            layers: std::iter::once((digest("0"), 100)).chain(names).collect(),
            changes: path.split('/').count(),
            made: true,
            in_use: false,
        }
    }

    fn names(steps: &[Cached]) -> Vec<&str> {
        steps.iter().map(|step| step.description.as_str()).collect()
    }

    fn images(names: &[&str]) -> BTreeSet<Digest> {
        names.iter().map(|name| digest(name)).collect()
    }

    fn room(reserved: u64) -> Forget {
        Forget { all: true, room: Room { reserved, ..Room::default() }, ..Forget::default() }
    }

    #[test]
    fn a_layer_counts_once_and_not_where_an_image_has_it() {
        let steps = || vec![step("a", 1, 10), step("a/b", 2, 10), step("c", 3, 5)];
        assert_eq!(Books::open(steps(), &images(&[])).used(), 125, "the base, too");
        assert_eq!(Books::open(steps(), &images(&["0"])).used(), 25);
        assert_eq!(Books::open(steps(), &images(&["0", "a"])).used(), 15);
        let shown = Books::open(steps(), &images(&["0", "a"])).list();
        let seen: Vec<_> = shown.iter().map(|step| (step.size, step.shared)).collect();
        assert_eq!(seen, [(5, false), (10, false), (10, true)]);
        assert_eq!(shown[1].parent, Some(digest("a")));
        let sum: u64 = Books::open(steps(), &images(&[])).list().iter().map(|step| step.size).sum();
        assert_eq!(sum, 125, "the sizes add up");
    }

    #[test]
    fn what_is_stood_on_goes_after_what_stands_on_it() {
        // The lower one was not looked at again when the upper one was used.
        let mut books =
            Books::open(vec![step("a", 1, 10), step("b", 2, 10), step("a/b", 3, 10)], &images(&["0"]));
        assert_eq!(names(&books.forget(&room(25), 0, 9)), ["b"]);
        assert_eq!(books.used(), 20);
        assert_eq!(names(&books.forget(&room(15), 0, 9)), ["a/b"]);
        assert_eq!(names(&books.forget(&Forget::default(), 0, 9)), ["a"]);
        assert_eq!(books.used(), 0);
    }

    #[test]
    fn a_limit_takes_nothing_that_frees_nothing() {
        let mut books = Books::open(vec![step("a", 1, 10), step("b", 2, 10)], &images(&["0", "a"]));
        assert_eq!(names(&books.forget(&room(5), 0, 9)), ["b"]);
        let old = Forget { all: true, unused_for: 5, ..Forget::default() };
        assert_eq!(names(&books.forget(&old, 0, 6)), [] as [&str; 0]);
        assert_eq!(names(&books.forget(&old, 0, 7)), ["a"], "age does");
        let many = (0..STEPS_MAX + 2).map(|at| step(&format!("x{at}"), Time::try_from(at).unwrap(), 0));
        let mut books = Books::open(many.collect(), &images(&["0"]));
        assert_eq!(names(&books.forget_most()), ["x0", "x1"], "number, too");
    }

    #[test]
    fn a_cache_mount_counts_and_goes_unless_a_step_uses_it() {
        let mount = |name: &str, in_use| {
            let (id, name) = (digest(name), name.to_owned());
            Step::mount(CacheMount { id, name, created: 0, used: 1, uses: 1, size: 7, in_use })
        };
        let mut books =
            Books::open(vec![mount("m", false), mount("n", true), step("a", 2, 10)], &images(&["0"]));
        assert_eq!(books.used(), 24);
        let kinds = vec!["exec.cachemount".to_owned()];
        let mounts = Forget { filters: Filters { kinds, ..Filters::default() }, ..Forget::default() };
        assert_eq!(names(&books.forget(&mounts, 0, 9)), ["cached mount m"]);
        assert_eq!(books.used(), 17);
        assert_eq!(names(&books.list()), ["a", "cached mount n"]);
    }

    #[test]
    fn what_an_image_has_stays_unless_all_is_said() {
        let steps = || vec![step("a", 1, 10), step("b", 2, 10)];
        let gone = |wanted: &Forget| {
            let gone = Books::open(steps(), &images(&["0", "a"])).forget(wanted, 0, 9);
            names(&gone).join(" ")
        };
        assert_eq!(gone(&Forget::default()), "b");
        assert_eq!(gone(&Forget { all: true, ..Forget::default() }), "a b");
        let only = |filters: Filters| gone(&Forget { all: true, filters, ..Forget::default() });
        let ids = vec![digest("b").hex()[..12].to_owned()];
        assert_eq!(only(Filters { ids, ..Filters::default() }), "b");
        assert_eq!(only(Filters { shared: Some(true), ..Filters::default() }), "a");
        assert_eq!(only(Filters { kinds: vec!["exec.cachemount".to_owned()], ..Filters::default() }), "");
        assert_eq!(only(Filters { descriptions: vec!["a".to_owned()], ..Filters::default() }), "a");
    }

    #[test]
    fn room_is_what_the_strictest_leaves_but_never_less_than_is_reserved() {
        let keep =
            |reserved, max_used, min_free, used, free| Room { reserved, max_used, min_free }.keep(used, free);
        assert_eq!(keep(0, 0, 0, 50, 50), Some(0));
        assert_eq!(keep(20, 0, 0, 50, 50), Some(20));
        assert_eq!(keep(20, 40, 0, 50, 50), Some(40));
        assert_eq!(keep(20, 10, 0, 50, 50), Some(20));
        assert_eq!(keep(0, 0, 30, 50, 50), None, "there is room");
        assert_eq!(keep(0, 0, 60, 50, 50), Some(40), "ten are missing");
        assert_eq!(keep(20, 45, 90, 50, 50), Some(20));
    }
}
