//! Blobs: streams of known length that go on where they broke off.
//!
//! The length of what comes is checked here, its digest by whoever has all of the bytes: that may begin with some of
//! an earlier attempt.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use http::{HeaderValue, StatusCode};
use hull_fetch::Answer;
use hull_oci::image::Descriptor;

use super::ask::{Ask, accept, comes_and_goes, wait};
use super::door::Door;
use super::range::content_range;
use super::{Error, Repository, Result};

/// So many bytes since the last break, and the tries begin anew: it gets on.
const PROGRESS: u64 = 1 << 20;

/// A blob on its way.
#[derive(Debug)]
pub struct Blob {
    repository: Repository,
    descriptor: Descriptor,
    /// Where the next byte is.
    at: u64,
    tries: u32,
    /// Where the last break was.
    broken: u64,
    /// Of the answer, what is before `at`: a server that knows no ranges sends all.
    skip: u64,
    answer: Option<Answer>,
}

impl Repository {
    /// The bytes of a blob from one of them on. `urls` of the descriptor are no concern of anybody's.
    pub async fn blob(&self, descriptor: &Descriptor, from: u64) -> Result<Blob> {
        let mut blob = Blob {
            repository: self.clone(),
            descriptor: descriptor.clone(),
            at: from,
            tries: 1,
            broken: from,
            skip: 0,
            answer: None,
        };
        if from < descriptor.size {
            blob.open().await?;
        }
        Ok(blob)
    }

    async fn blob_from(&self, door: &Door, wanted: &Descriptor, from: u64) -> Result<(Answer, u64)> {
        let mut ask = Ask::get(format!("/blobs/{}", wanted.digest));
        if from > 0 {
            let range = HeaderValue::from_str(&format!("bytes={from}-"));
            ask.headers.extend(range.ok().map(|range| (RANGE, range)));
        }
        let wanted_status = [StatusCode::OK, StatusCode::PARTIAL_CONTENT];
        let answer = accept("Get", self.ask(door, ask).await?, &wanted_status).await?;
        let skip = begins(&answer, wanted.size, from)?;
        Ok((answer, skip))
    }
}

/// How many bytes of an answer come before the first one that was asked for.
fn begins(answer: &Answer, size: u64, from: u64) -> Result<u64> {
    let address = || answer.address.to_string();
    let length = answer.header(CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
    let wrong_size = |found| Error::Size { address: address(), expected: size, found };
    if answer.status == StatusCode::OK {
        return match length {
            Some(length) if length != size => Err(wrong_size(length)),
            _ => Ok(from),
        };
    }
    let told = answer.header(CONTENT_RANGE).unwrap_or_default();
    match content_range(told) {
        Some((_, Some(all))) if all != size => Err(wrong_size(all)),
        Some((first, _)) if first == from && length.is_none_or(|length| length <= size - from) => Ok(0),
        _ => Err(Error::Range { address: address(), from, answer: told.to_owned() }),
    }
}

impl Blob {
    /// The next piece; `None` when all have come.
    ///
    /// # Errors
    /// One that tells of other bytes than those that were asked for; any other after all tries.
    pub async fn piece(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.at >= self.descriptor.size {
                self.answer = None;
                return Ok(None);
            }
            let Some(answer) = &mut self.answer else {
                self.open().await?;
                continue;
            };
            match answer.piece().await {
                Ok(Some(piece)) => {
                    if let Some(piece) = self.take(piece)? {
                        return Ok(Some(piece));
                    }
                }
                Ok(None) => {
                    let found = self.at;
                    let address = answer.address.to_string();
                    let expected = self.descriptor.size;
                    self.again(Error::Size { address, expected, found }).await?;
                }
                Err(error) => {
                    let told = Error::unreachable("Get", &answer.address, &error);
                    match comes_and_goes(&error) {
                        true => self.again(told).await?,
                        false => return Err(told),
                    }
                }
            }
        }
    }

    fn take(&mut self, mut piece: Bytes) -> Result<Option<Bytes>> {
        let before = usize::try_from(self.skip).unwrap_or(usize::MAX).min(piece.len());
        self.skip -= before as u64;
        let piece = piece.split_off(before);
        self.at += piece.len() as u64;
        if self.at > self.descriptor.size {
            let address = self.answer.as_ref().map(|answer| answer.address.to_string()).unwrap_or_default();
            return Err(Error::Size { address, expected: self.descriptor.size, found: self.at });
        }
        Ok(Some(piece).filter(|piece| !piece.is_empty()))
    }

    /// It has broken off: waits, to go on where it was, if it has not done so too often.
    async fn again(&mut self, error: Error) -> Result<()> {
        self.answer = None;
        if self.at - self.broken >= PROGRESS {
            self.tries = 1;
        }
        self.broken = self.at;
        let Some(wait) = wait(self.repository.hosts(), self.tries, None) else { return Err(error) };
        tracing::debug!(%error, at = self.at, "a blob broke off");
        tokio::time::sleep(wait).await;
        self.tries += 1;
        Ok(())
    }

    async fn open(&mut self) -> Result<()> {
        let (repository, descriptor, at) = (self.repository.clone(), &self.descriptor, self.at);
        let ((answer, skip), _) = repository.each(|door| repository.blob_from(door, descriptor, at)).await?;
        (self.answer, self.skip) = (Some(answer), skip);
        Ok(())
    }
}
