//! A build's steps, as far as they were told: what every way to show them is made of. No effects here; the
//! time comes from outside, as what has passed since the build began.

use std::collections::VecDeque;
use std::time::Duration;

use hull_api::build::Progress;

/// Lines of each step's output that are remembered.
const TAIL: usize = 10;
/// A longer line is shown in pieces.
const LINE_MAX: usize = 16 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Running,
    Cached,
    Done,
    /// Why.
    Failed(String),
}

#[derive(Debug, Clone)]
pub(super) struct Step {
    /// As the daemon numbers it.
    pub(super) step: u32,
    pub(super) name: String,
    pub(super) state: State,
    pub(super) started: Duration,
    pub(super) ended: Option<Duration>,
    /// The last lines that it wrote, with the time since its start.
    pub(super) tail: VecDeque<(Duration, String)>,
    /// The beginning of a line.
    begun: Vec<u8>,
}

impl Step {
    pub(super) fn lasted(&self, now: Duration) -> Duration {
        self.ended.unwrap_or(now).saturating_sub(self.started)
    }

    /// Takes in output; gives the lines that it completes.
    fn write(&mut self, bytes: &[u8], now: Duration) -> Vec<String> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.begun.len() > LINE_MAX {
                lines.extend(self.end_line());
            }
        }
        self.remember(&lines, now);
        lines
    }

    fn end_line(&mut self) -> Option<String> {
        if self.begun.is_empty() {
            return None;
        }
        let text = String::from_utf8_lossy(&self.begun);
        let text = text.trim_end_matches(['\n', '\r']);
        // What a process wrote over in place is shown as it ended; nothing of it steers a terminal.
        let text = text.rsplit('\r').next().unwrap_or_default();
        let line =
            text.chars().map(|c| if c == '\t' { ' ' } else { c }).filter(|c| !c.is_control()).collect();
        self.begun.clear();
        Some(line)
    }

    fn remember(&mut self, lines: &[String], now: Duration) {
        let at = now.saturating_sub(self.started);
        self.tail.extend(lines.iter().map(|line| (at, line.clone())));
        self.tail.drain(..self.tail.len().saturating_sub(TAIL));
    }
}

/// What has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// The place of the step among [`Steps::list`].
    Started(usize),
    Lines(usize, Vec<String>),
    Ended(usize),
}

#[derive(Debug, Default)]
pub(super) struct Steps {
    /// In the order in which they began.
    pub(super) list: Vec<Step>,
    /// How many there will be, if none is left out.
    pub(super) total: usize,
    pub(super) warnings: Vec<String>,
}

impl Steps {
    pub(super) fn feed(&mut self, progress: Progress, now: Duration) -> Vec<Event> {
        match progress {
            Progress::Planned { instructions } => {
                self.total = instructions.iter().filter(|instruction| instruction.step.is_some()).count();
                Vec::new()
            }
            Progress::Warning { message, .. } => {
                self.warnings.push(tame(&message));
                Vec::new()
            }
            Progress::Started { step, name } => {
                self.list.push(Step {
                    step,
                    name: tame(&name).replace('\n', " "),
                    state: State::Running,
                    started: now,
                    ended: None,
                    tail: VecDeque::new(),
                    begun: Vec::new(),
                });
                vec![Event::Started(self.list.len() - 1)]
            }
            Progress::Output { step, bytes, .. } => {
                let Some(place) = self.place(step) else { return Vec::new() };
                match self.list[place].write(&bytes, now) {
                    lines if lines.is_empty() => Vec::new(),
                    lines => vec![Event::Lines(place, lines)],
                }
            }
            Progress::Cached { step } => self.end(step, State::Cached, now),
            Progress::Done { step, .. } => self.end(step, State::Done, now),
            Progress::Failed { step, message } => self.end(step, State::Failed(tame(&message)), now),
        }
    }

    /// Steps that have ended.
    pub(super) fn ended(&self) -> usize {
        self.list.iter().filter(|step| step.ended.is_some()).count()
    }

    /// The one that failed.
    pub(super) fn failed(&self) -> Option<&Step> {
        self.list.iter().find(|step| matches!(step.state, State::Failed(_)))
    }

    /// A step may begin once more: the last one counts.
    fn place(&self, step: u32) -> Option<usize> {
        self.list.iter().rposition(|known| known.step == step)
    }

    fn end(&mut self, step: u32, state: State, now: Duration) -> Vec<Event> {
        let Some(place) = self.place(step) else { return Vec::new() };
        let step = &mut self.list[place];
        let last: Vec<String> = step.end_line().into_iter().collect();
        step.remember(&last, now);
        (step.state, step.ended) = (state, Some(now));
        let lines = (!last.is_empty()).then_some(Event::Lines(place, last));
        lines.into_iter().chain([Event::Ended(place)]).collect()
    }
}

/// A text of whoever wrote the Dockerfile, so that it does not steer the terminal that shows it.
pub(in crate::build) fn tame(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

/// What the checks of the Dockerfile have said, for the end.
pub(super) fn warnings(warnings: &[String]) -> String {
    let count = match warnings.len() {
        0 => return String::new(),
        1 => "1 warning".to_owned(),
        count => format!("{count} warnings"),
    };
    let lines: String = warnings.iter().map(|warning| format!(" - {warning}\n")).collect();
    format!("\n {count} found:\n{lines}")
}

/// What the step that failed wrote last.
pub(super) fn remains(steps: &Steps) -> String {
    let Some(step) = steps.failed() else { return String::new() };
    let tail: String =
        step.tail.iter().map(|(at, line)| format!("{:.3} {line}\n", at.as_secs_f64())).collect();
    format!("------\n > {}:\n{tail}------\n", step.name)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use hull_api::build::{Planned, Stream};

    pub(crate) fn started(step: u32, name: &str) -> Progress {
        Progress::Started { step, name: name.to_owned() }
    }

    pub(crate) fn output(step: u32, text: &str) -> Progress {
        Progress::Output { step, stream: Stream::Out, bytes: text.as_bytes().to_vec() }
    }

    pub(crate) fn planned(count: u32) -> Progress {
        let one = |step| Planned { text: String::new(), step: Some(step), trigger: false };
        Progress::Planned { instructions: (0..count).map(one).collect() }
    }

    pub(crate) fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn lines_are_put_together_and_steer_nothing() {
        let mut steps = Steps::default();
        steps.feed(started(1, "RUN x"), at(100));
        assert_eq!(steps.feed(output(1, "half"), at(150)), []);
        let lines =
            |lines: &[&str]| vec![Event::Lines(0, lines.iter().map(|line| (*line).to_owned()).collect())];
        assert_eq!(
            steps.feed(output(1, " a line\r\n10%\r20%\r30%\n"), at(200)),
            lines(&["half a line", "30%"])
        );
        assert_eq!(steps.feed(output(1, "\x1b[2Ja\tb\n\n"), at(200)), lines(&["[2Ja b", ""]));
        steps.feed(output(1, "no end"), at(250));
        let done = steps.feed(Progress::Done { step: 1, layer: None }, at(300));
        assert_eq!(done, [&lines(&["no end"])[..], &[Event::Ended(0)]].concat());
        assert_eq!(steps.list[0].lasted(at(900)), at(200));
        steps.feed(output(1, &"x".repeat(LINE_MAX + 2)), at(300));
        assert!(steps.list[0].begun.is_empty(), "a line without an end takes no memory");
        assert!(steps.list[0].tail.len() <= TAIL);
    }
}
