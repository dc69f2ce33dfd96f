//! What goes to a registry: a blob as it is stored, or a layer's archive as gzip.
//!
//! An archive is cut into blocks. Each becomes a member of one gzip stream, on whichever thread is free; they leave
//! in their order. Since a block always gives the same member, an upload that was broken off goes on in the middle of
//! a stream that is made once more: nothing of it is kept but some blocks ahead.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use hull_image::compress::gzip_member;
use hull_oci::{Digest, Hasher};
use hull_registry::client::push::{Outgoing, Source};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

/// Bytes of an archive that become one member.
const BLOCK: u64 = 1 << 20;
/// Bytes that are read of a blob at a time.
const PIECE: usize = 256 << 10;
/// Pieces on their way.
const PIECES: usize = 4;

/// As many blocks are compressed at a time as there are processors, of all layers together.
static THREADS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(threads())));

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Is told how many bytes have been taken.
pub(super) type Tell = Arc<dyn Fn(u64) + Send + Sync>;

/// A blob of the content store.
pub(super) struct Stored {
    pub(super) file: Arc<File>,
    pub(super) digest: Digest,
    /// Bytes.
    pub(super) length: u64,
    pub(super) tell: Tell,
}

impl Source for Stored {
    fn open(&self, from: u64) -> Outgoing {
        let (send, pieces) = mpsc::channel(PIECES);
        let (known, end) = oneshot::channel();
        known.send((self.digest.clone(), self.length)).ok();
        let (file, length, tell) = (Arc::clone(&self.file), self.length, Arc::clone(&self.tell));
        tokio::task::spawn_blocking(move || {
            let mut at = from;
            while at < length {
                let piece = read(&file, at, (length - at).min(PIECE as u64));
                at += piece.as_ref().map_or(length, |piece| piece.len() as u64);
                if send.blocking_send(piece.map(Bytes::from)).is_err() {
                    return;
                }
                hull_runtime::failpoint!("engine.push.piece");
                tell(at);
            }
        });
        Outgoing { pieces, length: Some(self.length.saturating_sub(from)), end }
    }
}

/// A layer's archive, which goes as gzip.
pub(super) struct Gzipped {
    pub(super) file: Arc<File>,
    /// Bytes of the archive.
    pub(super) length: u64,
    pub(super) tell: Tell,
}

impl Source for Gzipped {
    fn open(&self, from: u64) -> Outgoing {
        let (send, pieces) = mpsc::channel(PIECES);
        let (known, end) = oneshot::channel();
        let (file, length, tell) = (Arc::clone(&self.file), self.length, Arc::clone(&self.tell));
        tokio::spawn(async move {
            if let Some(whole) = compress(&file, length, from, &send, &tell).await {
                known.send(whole).ok();
            }
        });
        Outgoing { pieces, length: None, end }
    }
}

/// Sends what comes of the archive, but for the first `from` bytes of that. Gives digest and length of all of it;
/// `None` if it was not sent to its end.
async fn compress(
    file: &Arc<File>,
    length: u64,
    from: u64,
    send: &mpsc::Sender<io::Result<Bytes>>,
    tell: &Tell,
) -> Option<(Digest, u64)> {
    let mut ahead: VecDeque<(u64, JoinHandle<io::Result<Vec<u8>>>)> = VecDeque::new();
    let (mut next, mut written, mut hasher) = (0, 0u64, Hasher::sha256());
    loop {
        // An empty archive has one block, too.
        while ahead.len() < 2 * threads() && (next < length || next == 0) {
            let turn = Arc::clone(&THREADS).acquire_owned().await.ok()?;
            let (file, at) = (Arc::clone(file), next);
            next = (at + BLOCK).min(length).max(1);
            let count = next.min(length) - at;
            let member = tokio::task::spawn_blocking(move || {
                let member = read(&file, at, count).map(|block| gzip_member(&block));
                drop(turn);
                member
            });
            ahead.push_back((next.min(length), member));
        }
        let Some((taken, member)) = ahead.pop_front() else { break };
        let member = match member.await {
            Ok(Ok(member)) => Bytes::from(member),
            Ok(Err(error)) => {
                send.send(Err(error)).await.ok();
                return None;
            }
            // The runtime is going down.
            Err(_) => return None,
        };
        hasher.update(&member);
        let skipped = usize::try_from(from.saturating_sub(written)).unwrap_or(usize::MAX).min(member.len());
        written += member.len() as u64;
        if skipped < member.len() {
            send.send(Ok(member.slice(skipped..))).await.ok()?;
            hull_runtime::failpoint!("engine.push.piece");
        }
        tell(taken);
    }
    Some((hasher.finish(), written))
}

/// Just so many bytes.
fn read(file: &File, at: u64, count: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(count).unwrap_or(0)];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::time::Duration;

    /// What comes of a source from a place on.
    async fn sent(source: &dyn Source, from: u64) -> (Vec<u8>, (Digest, u64)) {
        let mut outgoing = source.open(from);
        let work = async {
            let mut bytes = Vec::new();
            while let Some(piece) = outgoing.pieces.recv().await {
                bytes.extend_from_slice(&piece.unwrap());
            }
            (bytes, outgoing.end.await.unwrap())
        };
        tokio::time::timeout(Duration::from_secs(60), work).await.expect("a source has an end")
    }

    fn file(bytes: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Arc::new(file)
    }

    /// Bytes that are neither all alike nor all different.
    fn text(length: usize) -> Vec<u8> {
        (0..length).map(|index| ((index * index / 977) % 61) as u8).collect()
    }

    #[tokio::test]
    async fn an_archive_goes_as_gzip_and_from_any_place_on_as_the_same() {
        for length in [0, 1, BLOCK as usize, 5 * BLOCK as usize + 4711] {
            let plain = text(length);
            let source = Gzipped { file: file(&plain), length: length as u64, tell: Arc::new(|_| {}) };
            let (all, (digest, size)) = sent(&source, 0).await;
            assert_eq!((Digest::sha256(&all), all.len() as u64), (digest.clone(), size));
            let mut unpacked = Vec::new();
            let mut reader = io::BufReader::new(&all[..]);
            let mut decoder = hull_image::compress::Compression::Gzip.decoder(&mut reader).unwrap();
            decoder.read_to_end(&mut unpacked).unwrap();
            assert!(unpacked == plain, "{length}");
            for from in [1, size / 2, size - 1, size] {
                let (rest, end) = sent(&source, from).await;
                assert!(
                    rest == all[from as usize..] && end == (digest.clone(), size),
                    "{length} from {from}"
                );
            }
        }
    }

    #[tokio::test]
    async fn a_blob_goes_as_it_is() {
        let bytes = text(3 * PIECE + 5);
        let digest = Digest::sha256(&bytes);
        let told = Arc::new(std::sync::Mutex::new(Vec::new()));
        let note = Arc::clone(&told);
        let tell: Tell = Arc::new(move |at| note.lock().unwrap().push(at));
        let length = bytes.len() as u64;
        let source = Stored { file: file(&bytes), digest: digest.clone(), length, tell };
        for from in [0, 1, PIECE as u64, length] {
            let (sent, end) = sent(&source, from).await;
            assert!(sent == bytes[from as usize..] && end == (digest.clone(), length), "{from}");
        }
        assert_eq!(told.lock().unwrap()[..4], [PIECE as u64, 2 * PIECE as u64, 3 * PIECE as u64, length]);
    }

    #[tokio::test]
    async fn a_file_that_is_shorter_than_it_should_be_is_an_error() {
        let source = Gzipped { file: file(b"short"), length: 6, tell: Arc::new(|_| {}) };
        let mut outgoing = source.open(0);
        let piece = tokio::time::timeout(Duration::from_secs(60), outgoing.pieces.recv()).await.unwrap();
        assert_eq!(piece.unwrap().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(outgoing.end.await.is_err());
    }
}
