//! What a container has written, framed as Docker's clients read it.
//!
//! A task of its own reads the shim's segments in large blocks and hands them to the caller through
//! a short channel: a caller that does not read stops the reading, one that leaves ends it. To
//! follow, it sleeps until the log's folder changes (inotify) or the container ends; the shim has
//! written everything before it tells the end, so what is read after that is the rest.

use std::sync::Arc;

use bytes::Bytes;
use hull_runtime::log::{Entry, Options, Reader, Stream, Watch};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

use super::details;
use super::link::{self, Ready};
use super::phase::{Phase, Time};
use super::requests::{LogStream, Logs};
use super::view::View;
use crate::{Error, Result};

/// Bytes of one block, about.
const BLOCK: usize = 64 * 1024;

/// Opens the log. With `follow` (the container's view as it changes) it goes on until the end.
pub(crate) fn open(view: Arc<View>, asked: Logs, follow: Option<watch::Receiver<Arc<View>>>) -> LogStream {
    let (sender, blocks) = mpsc::channel(4);
    let tty = view.settings.tty;
    tokio::spawn(async move {
        if let Err(error) = run(&view, asked, follow, &sender).await {
            sender.send(Err(error)).await.ok();
        }
    });
    LogStream { tty, blocks }
}

async fn run(
    view: &View,
    asked: Logs,
    mut follow: Option<watch::Receiver<Arc<View>>>,
    sender: &mpsc::Sender<Result<Bytes>>,
) -> Result<()> {
    // Before the first read, so that nothing falls between.
    let mut changes = match &follow {
        Some(_) => Some(watch_folder(view)?),
        None => None,
    };
    let options = Options { tail: asked.tail, since: asked.since, until: asked.until, ..Options::default() };
    let dir = view.log_dir.clone();
    let open = move || Reader::open(&dir, options).map_err(|source| Error::Log { source });
    let details = if asked.details { details::prefix(view) } else { String::new() };
    let mut frames =
        Frames { asked, tty: view.settings.tty, details, clock: Clock::default(), fresh: [true; 2] };
    let mut reader = blocking(open).await?;
    loop {
        // Asked before reading: what ends after this question has written before it.
        let ended = follow.as_ref().is_none_or(|view| !goes_on(&view.borrow().phase));
        loop {
            let step = move || {
                let block = frames.next_block(&mut reader)?;
                Ok((reader, frames, block))
            };
            let block;
            (reader, frames, block) = blocking(step).await?;
            if block.is_empty() {
                break;
            }
            if sender.send(Ok(block)).await.is_err() {
                return Ok(());
            }
        }
        if ended || reader.ended() {
            return Ok(());
        }
        let (Some(view), Some(changes)) = (&mut follow, &mut changes) else { return Ok(()) };
        tokio::select! {
            changed = view.changed() => if changed.is_err() { follow = None },
            ready = changes.readable() => if let Ok(mut guard) = ready {
                if changes.get_ref().0.clear() {
                    // The log was removed.
                    return Ok(());
                }
                guard.clear_ready();
            },
            () = sender.closed() => return Ok(()),
        }
    }
}

fn watch_folder(view: &View) -> Result<AsyncFd<Ready<Watch>>> {
    let failed = |source| Error::Io { call: "watch", path: view.log_dir.clone(), source };
    let watch = Watch::new(&view.log_dir).map_err(|errno| failed(errno.into()))?;
    link::watch(watch).map_err(failed)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::ShuttingDown)?
}

/// Whether more may come: a container that waits for its restart goes on, as in the reference.
pub(crate) fn goes_on(phase: &Phase) -> bool {
    phase.live().is_some() || matches!(phase, Phase::Restarting { .. } | Phase::Starting { last: Some(_) })
}

/// Turns entries into Docker's bytes.
struct Frames {
    asked: Logs,
    tty: bool,
    /// Before each line, where asked for.
    details: String,
    clock: Clock,
    /// Whether the next entry of each stream begins a line.
    fresh: [bool; 2],
}

impl Frames {
    /// About [`BLOCK`] bytes; none at the end of what there is now.
    fn next_block(&mut self, reader: &mut Reader) -> Result<Bytes> {
        let mut block = Vec::new();
        while block.len() < BLOCK {
            let Some(entry) = reader.next().map_err(|source| Error::Log { source })? else { break };
            self.entry(&mut block, entry);
        }
        Ok(block.into())
    }

    fn entry(&mut self, block: &mut Vec<u8>, entry: Entry<'_>) {
        match entry {
            Entry::Line { time, stream, partial, bytes } => self.put(block, time, stream, partial, bytes),
            // Docker's stream has no word for it: it is said where the lines would have been.
            Entry::Lost { time, lines } => {
                let plural = if lines == 1 { "line was" } else { "lines were" };
                let text = format!("[hull: {lines} {plural} lost here: the disk of the log was full]\n");
                self.put(block, time, Stream::Err, false, text.as_bytes());
            }
        }
    }

    fn put(&mut self, block: &mut Vec<u8>, time: Time, stream: Stream, partial: bool, bytes: &[u8]) {
        let (wanted, number, index) = match stream {
            Stream::Out => (self.asked.stdout, 1, 0),
            Stream::Err => (self.asked.stderr, 2, 1),
        };
        if !wanted {
            return;
        }
        let fresh = std::mem::replace(&mut self.fresh[index], !partial);
        let stamp = if self.asked.timestamps && fresh { self.clock.text(time) } else { "" };
        let details = if fresh { self.details.as_str() } else { "" };
        if !self.tty {
            // Sixteen KiB of line, a stamp and what a container may be labelled with always fit.
            let length = (stamp.len() + details.len() + bytes.len()) as u32;
            block.extend_from_slice(&[number, 0, 0, 0]);
            block.extend_from_slice(&length.to_be_bytes());
        }
        block.extend_from_slice(stamp.as_bytes());
        block.extend_from_slice(details.as_bytes());
        block.extend_from_slice(bytes);
    }
}

/// Stamps as the reference writes them: RFC 3339 in UTC, always nine digits, and a space. The day
/// and second are worked out once for all lines of that second.
#[derive(Debug, Default)]
struct Clock {
    second: Option<i64>,
    text: String,
}

impl Clock {
    fn text(&mut self, time: Time) -> &str {
        let second = time.div_euclid(1_000_000_000);
        let nanos = time.rem_euclid(1_000_000_000);
        if self.second != Some(second) {
            self.text = match jiff::Timestamp::from_second(second) {
                Ok(stamp) => stamp.strftime("%Y-%m-%dT%H:%M:%S").to_string(),
                Err(_) => "0001-01-01T00:00:00".to_owned(),
            };
            self.second = Some(second);
        }
        self.text.truncate(19);
        self.text.push_str(&format!(".{nanos:09}Z "));
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use hull_runtime::bundle::LogSettings;
    use hull_runtime::log::Writer;

    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn frames(asked: Logs, tty: bool) -> Frames {
        Frames { asked, tty, details: String::new(), clock: Clock::default(), fresh: [true; 2] }
    }

    fn both() -> Logs {
        Logs { stdout: true, stderr: true, ..Logs::default() }
    }

    fn written() -> (tempfile::TempDir, Reader) {
        let dir = tempfile::tempdir().unwrap();
        let settings = LogSettings { dir: dir.path().to_owned(), segment_bytes: 1 << 20, segments: 9 };
        let mut writer = Writer::open(&settings, SECOND).unwrap();
        writer.push(Stream::Out, b"one\n", SECOND);
        writer.push(Stream::Err, b"two\n", SECOND + 5);
        writer.push(Stream::Out, b"end", 2 * SECOND);
        writer.finish(Stream::Out);
        writer.flush();
        let reader = Reader::open(dir.path(), Options::default()).unwrap();
        (dir, reader)
    }

    #[test]
    fn without_a_terminal_each_piece_has_its_head() {
        let (_dir, mut reader) = written();
        let block = frames(both(), false).next_block(&mut reader).unwrap();
        assert_eq!(&block[..], b"\x01\0\0\0\0\0\0\x04one\n\x02\0\0\0\0\0\0\x04two\n\x01\0\0\0\0\0\0\x03end");
    }

    #[test]
    fn a_terminal_has_bare_bytes_and_one_stream_can_be_left_out() {
        let (_dir, mut reader) = written();
        let block = frames(Logs { stderr: false, ..both() }, true).next_block(&mut reader).unwrap();
        assert_eq!(&block[..], b"one\nend");
    }

    #[test]
    fn lost_lines_are_counted_where_they_would_have_been() {
        let mut block = Vec::new();
        frames(both(), true).entry(&mut block, Entry::Lost { time: SECOND, lines: 2 });
        assert_eq!(block, b"[hull: 2 lines were lost here: the disk of the log was full]\n");
        block.clear();
        frames(Logs { stderr: false, ..both() }, true).entry(&mut block, Entry::Lost { time: 0, lines: 1 });
        assert!(block.is_empty(), "who asked for the output alone gets nothing else");
    }

    #[test]
    fn details_stand_between_the_stamp_and_the_line_and_not_in_its_middle() {
        let mut block = Vec::new();
        let mut frames = frames(Logs { timestamps: true, ..both() }, true);
        frames.details = "a=1 ".to_owned();
        frames.put(&mut block, SECOND, Stream::Out, true, b"one, ");
        frames.put(&mut block, SECOND, Stream::Out, false, b"two\n");
        let text = std::str::from_utf8(&block).unwrap();
        assert_eq!(text, "1970-01-01T00:00:01.000000000Z a=1 one, two\n");
    }

    #[test]
    fn stamps_have_nine_digits() {
        let (_dir, mut reader) = written();
        let block = frames(Logs { timestamps: true, ..both() }, true).next_block(&mut reader).unwrap();
        let text = "1970-01-01T00:00:01.000000000Z one\n1970-01-01T00:00:01.000000005Z two\n1970-01-01T00:00:02.000000000Z end";
        assert_eq!(std::str::from_utf8(&block).unwrap(), text);
    }
}
