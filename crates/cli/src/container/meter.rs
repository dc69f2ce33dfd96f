//! The line on a terminal that tells how far a copy has come, in the reference's words.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::units;

/// Between two looks at the count.
const EVERY: Duration = Duration::from_millis(75);
/// Back to the beginning of the line, which is emptied (ECMA-48, EL).
const ANEW: &str = "\r\x1b[2K";

pub(super) struct Meter {
    /// Bytes so far.
    pub(super) count: Arc<AtomicU64>,
    /// `None`: nothing is drawn.
    title: Option<&'static str>,
}

impl Meter {
    /// Draws nothing for somebody who wants quiet, nor where no terminal is.
    pub(super) fn new(title: &'static str, quiet: bool) -> Meter {
        let shown = !quiet && std::io::stderr().is_terminal();
        Meter { count: Arc::default(), title: shown.then_some(title) }
    }

    /// Shows the count while the work goes on.
    pub(super) async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        let Some(title) = self.title else { return work.await };
        let mut work = std::pin::pin!(work);
        let (mut ticks, mut shown) = (tokio::time::interval(EVERY), None);
        let done = loop {
            let count = self.count.load(Ordering::Relaxed);
            if shown.replace(count) != Some(count) {
                draw(&format!("{ANEW}{title} - {}", units::human_size(count as f64, 3)));
            }
            tokio::select! {
                done = &mut work => break done,
                _ = ticks.tick() => {}
            }
        };
        draw(ANEW);
        done
    }
}

fn draw(text: &str) {
    let mut terminal = std::io::stderr().lock();
    // One that has gone hears nothing.
    let _ = terminal.write_all(text.as_bytes()).and_then(|()| terminal.flush());
}
