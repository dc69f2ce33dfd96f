//! What a build tells, as a person or a program reads it.
//!
//! [`steps`] knows what was told; how it is shown is text made of that ([`plain`], [`terminal`]; [`raw`] is for
//! programs), which goes to standard error: standard output has ids, and what `--output` sends there.

mod plain;
mod raw;
mod steps;
mod terminal;

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use hull_api::build::{Failed, Finished, Progress};
use jiff::Timestamp;

use crate::command::{Failure, fail};
use crate::session::line;
use plain::Plain;
use raw::Raw;
use steps::Steps;
pub(super) use steps::tame;
use terminal::{Canvas, frame};

/// Between two frames on a terminal.
const PACE: Duration = Duration::from_millis(100);
/// A terminal on which nothing happens is drawn anew so often, for the clocks of what runs.
const CLOCK: Duration = Duration::from_secs(1);

/// How.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Plain,
    Terminal,
    /// The id alone, at the end.
    Nothing,
    /// Not even that: something else is on standard output.
    Silent,
    /// One JSON document a line, for programs.
    Raw,
}

impl Shown {
    /// What `--progress` means; `auto` is a terminal where there is one.
    pub(super) fn parse(word: &str) -> Result<Shown, Failure> {
        let on_terminal = std::io::stderr().is_terminal();
        match word {
            "auto" if on_terminal => Ok(Shown::Terminal),
            "auto" | "plain" => Ok(Shown::Plain),
            "tty" if on_terminal => Ok(Shown::Terminal),
            "tty" => Err(fail("failed to get console: STDERR is no terminal: use --progress=plain")),
            "quiet" => Ok(Shown::Nothing),
            "rawjson" => Ok(Shown::Raw),
            other => {
                Err(fail(format!("invalid progress mode {other:?}: use auto, plain, tty, quiet or rawjson")))
            }
        }
    }
}

pub(super) struct Show {
    shown: Shown,
    begun: Instant,
    steps: Steps,
    plain: Plain,
    raw: Raw,
    canvas: Canvas,
    drawn: Option<Instant>,
    /// Something was told since.
    stale: bool,
}

impl Show {
    pub(super) fn new(shown: Shown) -> Show {
        let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Show {
            shown,
            begun: Instant::now(),
            steps: Steps::default(),
            plain: Plain::default(),
            raw: Raw::default(),
            canvas: Canvas::new(colours),
            drawn: None,
            stale: false,
        }
    }

    pub(super) fn progress(&mut self, progress: Progress) {
        if self.shown == Shown::Raw {
            let line = self.raw.show(&progress, Timestamp::now());
            return say(&line.unwrap_or_default());
        }
        let now = self.begun.elapsed();
        let events = self.steps.feed(progress, now);
        match self.shown {
            Shown::Plain => say(&self.plain.show(&self.steps, &events, now)),
            Shown::Terminal => {
                self.stale = true;
                if self.due().is_some_and(|due| due <= Instant::now()) {
                    self.draw(false);
                }
            }
            Shown::Nothing | Shown::Silent | Shown::Raw => {}
        }
    }

    /// When [`Show::draw`] is to be called, if nothing is told before.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.shown != Shown::Terminal {
            return None;
        }
        let pace = if self.stale { PACE } else { CLOCK };
        Some(self.drawn.map_or(self.begun, |drawn| drawn + pace))
    }

    pub(super) fn draw(&mut self, finished: bool) {
        if self.shown == Shown::Terminal {
            let frame = frame(&self.steps, self.begun.elapsed(), crate::terminal::size_of_error(), finished);
            say(&self.canvas.draw(&frame));
            (self.drawn, self.stale) = (Some(Instant::now()), false);
        }
    }

    pub(super) fn finished(&mut self, finished: &Finished) {
        self.draw(true);
        match self.shown {
            Shown::Nothing => line(&finished.id.to_string()),
            Shown::Silent => {}
            Shown::Raw => say(&Raw::finished(finished, Timestamp::now())),
            Shown::Plain | Shown::Terminal => {
                if finished.stored {
                    let number = self.steps.list.len() + 1;
                    let names: String = finished
                        .names
                        .iter()
                        .map(|name| format!("#{number} naming to {name} done\n"))
                        .collect();
                    say(&format!(
                        "\n#{number} exporting to image\n#{number} writing image {} done\n{names}#{number} DONE\n",
                        finished.id
                    ));
                }
                say(&steps::warnings(&self.steps.warnings));
            }
        }
    }

    /// The reason itself is the command's, but for what is wrong with the Dockerfile: `true`, if that has been
    /// said here.
    pub(super) fn failed(&mut self, failed: &Failed) -> bool {
        self.draw(true);
        if !matches!(self.shown, Shown::Plain | Shown::Terminal) {
            return false;
        }
        say(&steps::remains(&self.steps));
        say(&steps::warnings(&self.steps.warnings));
        let excerpt = Some(&failed.excerpt).filter(|excerpt| !excerpt.is_empty());
        for shown in failed.problems.iter().map(|problem| &problem.shown).chain(excerpt) {
            say(&format!("{}\n", tame(shown.trim_end())));
        }
        !failed.problems.is_empty()
    }
}

/// To standard error. One that is closed ends nothing: the build goes on.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
