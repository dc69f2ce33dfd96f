//! `--progress=tty`: the steps on a terminal, drawn again in place.
//!
//! ```text
//! [+] Building 1.4s (3/4)
//!  => [1/3] FROM busybox                           0.0s
//!  => CACHED [2/3] COPY a /                        0.0s
//!  => [3/3] RUN make                               1.3s
//!  => => # cc -c a.c
//! ```
//!
//! [`frame`] says what is to be seen; [`Canvas`] how a terminal that shows the last frame comes to show the
//! next. Where there are more lines than the terminal has rows, those that have ended first are left out.

use std::time::Duration;

use super::steps::{State, Step, Steps};

/// Lines of a running step's output that are shown.
const OUTPUT: usize = 6;
/// Where the terminal does not say.
const SIZE: (usize, usize) = (24, 80);

/// What is to be seen on a terminal of so many rows and columns.
pub(super) fn frame(
    steps: &Steps,
    now: Duration,
    (rows, columns): (u16, u16),
    finished: bool,
) -> Vec<String> {
    let rows = if rows == 0 { SIZE.0 } else { rows.into() };
    let columns = if columns == 0 { SIZE.1 } else { columns.into() };
    let total = steps.total.max(steps.list.len());
    let end = if finished { " FINISHED" } else { "" };
    let mut lines = vec![format!("[+] Building {:.1}s ({}/{total}){end}", now.as_secs_f64(), steps.ended())];
    // One row stays free for the cursor. Once all is over, it may all scroll by.
    let room = if finished { usize::MAX } else { rows.saturating_sub(2).max(1) };
    let blocks: Vec<Vec<String>> =
        steps.list.iter().map(|step| block(step, now, columns, finished)).collect();
    let mut over = blocks.iter().map(Vec::len).sum::<usize>().saturating_sub(room);
    for (step, block) in steps.list.iter().zip(blocks) {
        if over > 0 && step.ended.is_some() {
            over = over.saturating_sub(block.len());
        } else {
            lines.extend(block);
        }
    }
    lines.truncate(room.saturating_add(1));
    lines
}

/// A step's own lines.
fn block(step: &Step, now: Duration, columns: usize, finished: bool) -> Vec<String> {
    let word = match step.state {
        State::Cached => "CACHED ",
        State::Failed(_) => "ERROR ",
        State::Running | State::Done => "",
    };
    let time = format!("{:.1}s", step.lasted(now).as_secs_f64());
    let width = columns.saturating_sub(time.len() + 2);
    let text = fit(&format!(" => {word}{}", step.name), width);
    let mut lines = vec![format!("{text:width$} {time}")];
    if step.state == State::Running && !finished {
        let from = step.tail.len().saturating_sub(OUTPUT);
        let tail = step.tail.iter().skip(from);
        lines.extend(tail.map(|(_, line)| fit(&format!(" => => # {line}"), columns.saturating_sub(1))));
    }
    lines
}

/// The text, cut where it is wider. (Wide characters count as one: such a line may wrap.)
fn fit(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}

/// A terminal on which frames are drawn one over the other.
#[derive(Debug)]
pub(super) struct Canvas {
    /// Lines of the last frame.
    drawn: usize,
    colours: bool,
}

impl Canvas {
    pub(super) fn new(colours: bool) -> Canvas {
        Canvas { drawn: 0, colours }
    }

    /// What is to be written.
    pub(super) fn draw(&mut self, frame: &[String]) -> String {
        let mut out = String::new();
        if self.drawn > 0 {
            out.push_str(&format!("\x1b[{}A", self.drawn));
        }
        out.push('\r');
        for line in frame {
            let colour = match line {
                _ if !self.colours => "",
                line if line.starts_with(" => ERROR ") => "\x1b[31m",
                line if line.starts_with(" => => ") => "\x1b[2m",
                line if line.starts_with(" => CACHED ") => "\x1b[34m",
                _ => "",
            };
            let end = if colour.is_empty() { "" } else { "\x1b[0m" };
            // To the end of the line; what stood there before goes.
            out.push_str(&format!("{colour}{line}{end}\x1b[K\n"));
        }
        // The last frame may have been longer.
        out.push_str("\x1b[J");
        self.drawn = frame.len();
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::steps::tests::{at, output, planned, started};
    use super::*;
    use hull_api::build::Progress;

    fn steps(events: Vec<(u64, Progress)>) -> Steps {
        let mut steps = Steps::default();
        for (time, progress) in events {
            steps.feed(progress, at(time));
        }
        steps
    }

    fn going() -> Vec<(u64, Progress)> {
        vec![
            (0, planned(4)),
            (0, started(0, "[1/3] FROM busybox")),
            (0, Progress::Done { step: 0, layer: None }),
            (10, started(1, "[2/3] COPY a /")),
            (10, Progress::Cached { step: 1 }),
            (20, started(2, "[3/3] RUN make a program with a long name")),
            (900, output(2, "1\n2\n3\n4\n5\n6\n7\n")),
        ]
    }

    #[test]
    fn a_frame_has_a_line_for_each_step_and_the_output_of_what_runs() {
        let frame = frame(&steps(going()), at(1320), (24, 40), false);
        assert_eq!(
            frame,
            [
                "[+] Building 1.3s (2/4)",
                " => [1/3] FROM busybox             0.0s",
                " => CACHED [2/3] COPY a /          0.0s",
                " => [3/3] RUN make a program with  1.3s",
                " => => # 2",
                " => => # 3",
                " => => # 4",
                " => => # 5",
                " => => # 6",
                " => => # 7",
            ]
        );
        assert!(frame.iter().all(|line| line.chars().count() <= 40));
    }

    #[test]
    fn what_has_ended_leaves_room_for_what_runs() {
        let small = frame(&steps(going()), at(1320), (9, 40), false);
        assert_eq!(small.len(), 8);
        assert!(small[1].contains("[3/3]") && small[7].ends_with("# 7"), "{small:?}");
        let mut events = going();
        events.push((2000, Progress::Failed { step: 2, message: "no".to_owned() }));
        let whole = frame(&steps(events), at(2000), (3, 40), true);
        assert!(whole[0].ends_with("(3/4) FINISHED") && whole.len() == 4, "all of it at the end: {whole:?}");
        assert!(whole[3].starts_with(" => ERROR [3/3]"));
        // A terminal without a size, and one that is absurdly small.
        assert!(frame(&steps(going()), at(1), (0, 0), false).len() > 2);
        assert_eq!(frame(&steps(going()), at(1), (1, 1), false).len(), 2);
    }

    #[test]
    fn the_next_frame_is_drawn_over_the_last() {
        let mut canvas = Canvas::new(false);
        let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        assert_eq!(canvas.draw(&lines(&["a", "b"])), "\ra\x1b[K\nb\x1b[K\n\x1b[J");
        assert_eq!(canvas.draw(&lines(&["c"])), "\x1b[2A\rc\x1b[K\n\x1b[J");
        assert!(Canvas::new(true).draw(&lines(&[" => ERROR x"])).contains("\x1b[31m => ERROR x\x1b[0m"));
    }
}
