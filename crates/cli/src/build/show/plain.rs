//! `--progress=plain`: lines for logs and pipes, in the form that is known from the reference.
//!
//! ```text
//! #2 [1/2] RUN make
//! #2 0.512 cc -c a.c
//! #2 DONE 1.3s
//! ```
//!
//! A step's number is its turn. Where another step has spoken in between, `#2 ...` says whose lines follow.

use std::fmt::Write as _;
use std::time::Duration;

use super::steps::{Event, State, Step, Steps};

#[derive(Debug, Default)]
pub(super) struct Plain {
    /// The place of the step whose lines were last.
    last: Option<usize>,
}

impl Plain {
    pub(super) fn show(&mut self, steps: &Steps, events: &[Event], now: Duration) -> String {
        let mut out = String::new();
        for event in events {
            let (Event::Started(place) | Event::Lines(place, _) | Event::Ended(place)) = event;
            let (number, step) = (place + 1, &steps.list[*place]);
            if self.last.is_some_and(|last| last != *place) {
                out.push('\n');
            }
            let turned = self.last.replace(*place) != Some(*place);
            match event {
                Event::Started(_) => _ = writeln!(out, "#{number} {}", step.name),
                _ if turned => _ = writeln!(out, "#{number} ..."),
                _ => {}
            }
            match event {
                Event::Started(_) => {}
                Event::Lines(_, lines) => {
                    let time = now.saturating_sub(step.started).as_secs_f64();
                    lines.iter().for_each(|line| _ = writeln!(out, "#{number} {time:.3} {line}"));
                }
                Event::Ended(_) => _ = writeln!(out, "#{number} {}", end(step, now)),
            }
        }
        out
    }
}

fn end(step: &Step, now: Duration) -> String {
    match &step.state {
        State::Cached => "CACHED".to_owned(),
        State::Failed(message) => format!("ERROR: {message}"),
        State::Running | State::Done => format!("DONE {:.1}s", step.lasted(now).as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::steps::tests::{at, output, planned, started};
    use super::*;
    use hull_api::build::Progress;

    #[test]
    fn lines_are_the_references() {
        let (mut steps, mut plain, mut text) = (Steps::default(), Plain::default(), String::new());
        for (time, progress) in [
            (0, planned(4)),
            (0, started(0, "[1/2] FROM busybox")),
            (0, Progress::Done { step: 0, layer: None }),
            (5, started(1, "[2/2] RUN a")),
            (6, started(2, "[other 1/1] RUN b")),
            (500, output(1, "one\ntwo")),
            (600, output(2, "three\n")),
            (1300, Progress::Done { step: 1, layer: None }),
            (1400, Progress::Failed { step: 2, message: "exit code: 7".to_owned() }),
            (1400, started(3, "[3/3] COPY a /")),
            (1400, Progress::Cached { step: 3 }),
        ] {
            let events = steps.feed(progress, at(time));
            text.push_str(&plain.show(&steps, &events, at(time)));
        }
        assert_eq!(
            text,
            "#1 [1/2] FROM busybox\n#1 DONE 0.0s\n\n\
             #2 [2/2] RUN a\n\n\
             #3 [other 1/1] RUN b\n\n\
             #2 ...\n#2 0.495 one\n\n\
             #3 ...\n#3 0.594 three\n\n\
             #2 ...\n#2 1.295 two\n#2 DONE 1.3s\n\n\
             #3 ...\n#3 ERROR: exit code: 7\n\n\
             #4 [3/3] COPY a /\n#4 CACHED\n"
        );
    }
}
