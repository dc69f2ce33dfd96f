//! A build as the classic endpoint tells it: instruction by instruction, in the order of the Dockerfile,
//! whatever is done at the same time.
//!
//! What a later step says waits until the ones before it have been told, as far as it fits into [`HELD`]:
//! a step that waited for its turn to speak could be one that the first ones wait for.

use std::collections::BTreeMap;

use hull_oci::Digest;

use super::{Planned, Progress, Stream};

type Step = u32;

/// Bytes of output that wait for their turn, at most.
const HELD: usize = 16 << 20;

/// What is known of a step by now.
#[derive(Debug, Default)]
struct State {
    cached: bool,
    /// What its process has written and nobody was told.
    output: Vec<(Stream, Vec<u8>)>,
    /// There was more of it than fits.
    clipped: bool,
    /// The layer that it made, if any.
    ended: Option<Option<Digest>>,
}

/// What has been told by now.
#[derive(Debug, Default)]
pub struct Classic {
    planned: Vec<Planned>,
    /// The instruction that is told now, and whether its line has been said.
    at: usize,
    said: bool,
    states: BTreeMap<Step, State>,
    /// Bytes of all outputs that wait.
    held: usize,
}

impl Classic {
    /// The texts that follow from what happened.
    pub fn feed(&mut self, progress: Progress) -> Vec<String> {
        match progress {
            Progress::Planned { instructions } => self.planned = instructions,
            Progress::Started { step, .. } => self.states.entry(step).or_default().cached = false,
            Progress::Cached { step } => {
                let state = self.states.entry(step).or_default();
                (state.cached, state.ended) = (true, Some(None));
            }
            Progress::Output { step, stream, bytes } => {
                let its_turn = self.planned.get(self.at).is_some_and(|planned| planned.step == Some(step));
                let state = self.states.entry(step).or_default();
                if its_turn || self.held + bytes.len() <= HELD {
                    self.held += bytes.len();
                    state.output.push((stream, bytes));
                } else {
                    state.clipped = true;
                }
            }
            Progress::Done { step, layer } => self.states.entry(step).or_default().ended = Some(layer),
            // It is the answer's last word.
            Progress::Failed { step, .. } => return self.before(step),
            Progress::Warning { message, .. } => return vec![format!("[Warning] {message}\n")],
        }
        self.go_on()
    }

    /// The lines up to a step that failed, and what it had written.
    fn before(&mut self, step: Step) -> Vec<String> {
        let mut texts = Vec::new();
        while let Some(planned) = self.planned.get(self.at) {
            let here = planned.step == Some(step);
            self.say(&mut texts);
            if here {
                texts.extend(self.written(step));
                break;
            }
            (self.at, self.said) = (self.at + 1, false);
        }
        texts
    }

    fn go_on(&mut self) -> Vec<String> {
        let mut texts = Vec::new();
        while let Some(step) = self.planned.get(self.at).map(|planned| planned.step) {
            self.say(&mut texts);
            if let Some(step) = step {
                texts.extend(self.written(step));
                let state = self.states.entry(step).or_default();
                match &state.ended {
                    None => break,
                    Some(_) if state.cached => texts.push(" ---> Using cache\n".to_owned()),
                    Some(Some(layer)) => texts.push(format!(" ---> {}\n", layer.short())),
                    Some(None) => {}
                }
            }
            (self.at, self.said) = (self.at + 1, false);
        }
        texts
    }

    /// The instruction's own line, once.
    fn say(&mut self, texts: &mut Vec<String>) {
        let Some(planned) = self.planned.get(self.at).filter(|_| !self.said) else { return };
        self.said = true;
        let is_step = |planned: &&Planned| !planned.trigger;
        if planned.trigger {
            texts.push(format!("# Executing build trigger: {}\n", planned.text));
            return;
        }
        let number = self.planned[..=self.at].iter().filter(is_step).count();
        let all = self.planned.iter().filter(is_step).count();
        texts.push(format!("Step {number}/{all} : {}", planned.text));
        texts.push("\n".to_owned());
    }

    fn written(&mut self, step: Step) -> Vec<String> {
        let Some(state) = self.states.get_mut(&step) else { return Vec::new() };
        let (output, clipped) = (std::mem::take(&mut state.output), std::mem::take(&mut state.clipped));
        self.held -= output.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        let text = |(stream, bytes): (Stream, Vec<u8>)| {
            let text = String::from_utf8_lossy(&bytes);
            match stream {
                Stream::Out => text.into_owned(),
                // Red, as the reference has it.
                Stream::Error => format!("\u{1b}[91m{text}\u{1b}[0m"),
            }
        };
        let note = clipped.then(|| "[output clipped: it waited for the steps before it]\n".to_owned());
        output.into_iter().map(text).chain(note).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(text: &str, step: Option<Step>) -> Planned {
        Planned { text: text.to_owned(), step, trigger: false }
    }

    fn output(step: Step, text: &str) -> Progress {
        Progress::Output { step, stream: Stream::Out, bytes: text.as_bytes().to_vec() }
    }

    #[test]
    fn what_is_done_at_once_is_told_one_after_the_other() {
        let mut classic = Classic::default();
        let instructions = vec![
            planned("FROM box AS a", Some(0)),
            planned("RUN one", Some(1)),
            planned("FROM box", Some(2)),
            planned("ENV A=b", None),
            planned("RUN two", Some(3)),
        ];
        let mut told = |progress| classic.feed(progress).concat();
        assert_eq!(told(Progress::Planned { instructions }), "Step 1/5 : FROM box AS a\n");
        assert_eq!(told(Progress::Done { step: 0, layer: None }), "Step 2/5 : RUN one\n");
        assert_eq!(told(Progress::Done { step: 2, layer: None }), "");
        assert_eq!(told(output(3, "early\n")), "");
        assert_eq!(told(output(1, "1\n")), "1\n");
        let layer = Digest::sha256(b"layer");
        assert_eq!(
            told(Progress::Done { step: 1, layer: Some(layer.clone()) }),
            format!(
                " ---> {}\nStep 3/5 : FROM box\nStep 4/5 : ENV A=b\nStep 5/5 : RUN two\nearly\n",
                layer.short()
            )
        );
        assert_eq!(told(Progress::Cached { step: 3 }), " ---> Using cache\n");
    }

    #[test]
    fn the_step_that_failed_is_told_though_others_go_on() {
        let mut classic = Classic::default();
        let instructions =
            vec![planned("FROM box", Some(0)), planned("RUN one", Some(1)), planned("RUN two", Some(2))];
        classic.feed(Progress::Planned { instructions });
        classic.feed(output(2, "last words\n"));
        let told = classic.feed(Progress::Failed { step: 2, message: "it failed".to_owned() }).concat();
        assert_eq!(told, "Step 2/3 : RUN one\nStep 3/3 : RUN two\nlast words\n");
    }

    #[test]
    fn no_more_is_held_of_later_steps_than_fits() {
        let mut classic = Classic::default();
        let instructions = vec![planned("RUN one", Some(0)), planned("RUN two", Some(1))];
        classic.feed(Progress::Planned { instructions });
        let piece = "x".repeat(HELD / 2);
        for _ in 0..3 {
            assert_eq!(classic.feed(output(1, &piece)).concat(), "");
        }
        assert_eq!(classic.held, HELD);
        // The one that has its turn is told, whatever the others hold.
        assert_eq!(classic.feed(output(0, &piece)).concat(), piece);
        let told = classic.feed(Progress::Done { step: 0, layer: None }).concat();
        assert!(told.ends_with("xx[output clipped: it waited for the steps before it]\n"));
        assert_eq!((told.matches('x').count(), classic.held), (HELD, 0));
    }
}
