//! What a transfer tells all who wait for it: each sees every step, and of what grows the newest.

use std::sync::Arc;

use hull_registry::client;

use super::layers::Arrived;
use crate::Error;
use crate::images::transfer::What;

/// What has become of a layer so far.
#[derive(Debug, Default)]
pub(super) struct Progress {
    steps: Vec<What>,
    pub(super) outcome: Option<Outcome>,
}

pub(super) type Outcome = Result<Arrived, Failed>;

/// Why it does not come; for all who wait.
#[derive(Debug, Clone)]
pub(in crate::images) enum Failed {
    Registry(Arc<client::Error>),
    Engine(Arc<Error>),
}

impl From<client::Error> for Failed {
    fn from(error: client::Error) -> Failed {
        Failed::Registry(Arc::new(error))
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed::Engine(Arc::new(error))
    }
}

impl Progress {
    /// A bar that moves is one step.
    pub(super) fn step(&mut self, what: What) {
        match (self.steps.last_mut(), &what) {
            (Some(last @ What::Downloading { .. }), What::Downloading { .. }) => *last = what,
            _ => self.steps.push(what),
        }
    }
}

/// What somebody has seen of it.
#[derive(Debug, Default)]
pub(super) struct Seen {
    count: usize,
    last: Option<What>,
}

impl Seen {
    /// What he has not.
    pub(super) fn news(&mut self, progress: &Progress) -> Vec<What> {
        let moved = self.count.checked_sub(1).and_then(|last| progress.steps.get(last));
        let moved = moved.filter(|step| Some(*step) != self.last.as_ref());
        let news: Vec<What> =
            moved.into_iter().chain(progress.steps.iter().skip(self.count)).cloned().collect();
        self.count = progress.steps.len();
        self.last = progress.steps.last().cloned();
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_looks_late_sees_every_step_and_the_newest_of_what_moves() {
        let (mut progress, mut often, mut late) = (Progress::default(), Seen::default(), Seen::default());
        let bar = |done| What::Downloading { done, total: 9 };
        assert_eq!(often.news(&progress), []);
        progress.step(bar(1));
        assert_eq!(often.news(&progress), [bar(1)]);
        assert_eq!(often.news(&progress), []);
        progress.step(bar(5));
        assert_eq!(often.news(&progress), [bar(5)]);
        progress.step(bar(9));
        progress.step(What::Complete);
        assert_eq!(often.news(&progress), [bar(9), What::Complete]);
        progress.step(What::Pulled);
        assert_eq!(often.news(&progress), [What::Pulled]);
        assert_eq!(late.news(&progress), [bar(9), What::Complete, What::Pulled]);
    }
}
