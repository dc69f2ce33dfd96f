//! Files as bytes, for who is elsewhere: those that were asked for, one behind the other.
//!
//! ```text
//! 0: u8 | size: u64 | size bytes        or, in place of a file,  errno: u8
//! ```
//!
//! Numbers are little endian. Who sends has looked at the file before: what has been added since then is cut
//! off, and what is missing is filled up with zeros, so a file that changes has not the digest that was told.

use std::io::{self, Read, Write};

use rustix::io::Errno;

const HEAD: usize = 8;

/// Writes one file, or why there is none; a file has `size` bytes then.
pub fn write(
    out: &mut dyn Write,
    file: Result<(&mut dyn Read, u64), Errno>,
    block: &mut [u8],
) -> io::Result<()> {
    let (file, size) = match file {
        Ok(file) => file,
        // All of Linux' are smaller (errno(3)); 0 is none.
        Err(errno) => return out.write_all(&[u8::try_from(errno.raw_os_error()).unwrap_or(u8::MAX)]),
    };
    out.write_all(&[0])?;
    out.write_all(&size.to_le_bytes())?;
    let mut left = size;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        let count = match file.read(&mut block[..most]) {
            Ok(0) => {
                block[..most].fill(0);
                most
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        out.write_all(&block[..count])?;
        left -= count as u64;
    }
    Ok(())
}

/// Takes apart what [`write`] has written, in whatever pieces it arrives.
#[derive(Debug)]
pub struct Parts(State);

#[derive(Debug)]
enum State {
    /// In front of a file.
    Between,
    /// Within its size: so many bytes of it have come.
    Size([u8; HEAD], usize),
    /// Within its bytes: so many are still to come.
    Bytes(u64),
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// In place of a file.
    Missing(Errno),
    /// A file of so many bytes, which are next.
    File(u64),
    Bytes(&'a [u8]),
    /// All of the file has come.
    End,
}

impl Default for Parts {
    fn default() -> Parts {
        Parts(State::Between)
    }
}

impl Parts {
    /// The next of what `bytes` begin with, which is taken off; `None`: more bytes are needed.
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Part<'a>> {
        loop {
            match &mut self.0 {
                State::Bytes(0) => {
                    self.0 = State::Between;
                    return Some(Part::End);
                }
                State::Bytes(left) => {
                    let most = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    let (now, rest) = bytes.split_at(most);
                    *bytes = rest;
                    *left -= now.len() as u64;
                    return (!now.is_empty()).then_some(Part::Bytes(now));
                }
                State::Between => match *bytes.split_off_first()? {
                    0 => self.0 = State::Size([0; HEAD], 0),
                    errno => return Some(Part::Missing(Errno::from_raw_os_error(i32::from(errno)))),
                },
                State::Size(size, have) => {
                    size[*have] = *bytes.split_off_first()?;
                    *have += 1;
                    if *have == HEAD {
                        let size = u64::from_le_bytes(*size);
                        self.0 = State::Bytes(size);
                        return Some(Part::File(size));
                    }
                }
            }
        }
    }

    /// Nothing is missing of what has begun.
    pub fn is_whole(&self) -> bool {
        matches!(self.0, State::Between)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(files: &[Result<(&[u8], u64), Errno>]) -> Vec<u8> {
        let mut out = Vec::new();
        for file in files {
            let mut source = file.map_or(&b""[..], |(bytes, _)| bytes);
            let file = file.map(|(_, size)| (&mut source as &mut dyn Read, size));
            write(&mut out, file, &mut [0; 3]).unwrap();
        }
        out
    }

    /// What comes of it, in pieces of `size` bytes.
    fn read(bytes: &[u8], size: usize) -> Vec<Result<Vec<u8>, Errno>> {
        let (mut parts, mut all, mut file) = (Parts::default(), Vec::new(), Vec::new());
        for mut piece in bytes.chunks(size) {
            while let Some(part) = parts.next(&mut piece) {
                match part {
                    Part::Missing(errno) => all.push(Err(errno)),
                    Part::File(_) => assert!(file.is_empty()),
                    Part::Bytes(bytes) => file.extend_from_slice(bytes),
                    Part::End => all.push(Ok(std::mem::take(&mut file))),
                }
            }
            assert!(piece.is_empty());
        }
        assert!(parts.is_whole());
        all
    }

    #[test]
    fn what_is_written_is_read_in_whatever_pieces() {
        let files = [Ok((&b"one"[..], 3)), Err(Errno::NOENT), Ok((b"", 0)), Ok((b"longer", 6)), Ok((b"", 0))];
        let bytes = written(&files);
        let expected: Vec<_> = files.iter().map(|file| file.map(|(bytes, _)| bytes.to_vec())).collect();
        for size in [1, 2, 7, 100] {
            assert_eq!(read(&bytes, size), expected);
        }
    }

    #[test]
    fn a_file_has_the_size_that_was_told() {
        let bytes = written(&[Ok((b"shorter", 9)), Ok((b"longer", 4))]);
        assert_eq!(read(&bytes, 5), [Ok(b"shorter\0\0".to_vec()), Ok(b"long".to_vec())]);
        let mut parts = Parts::default();
        let mut cut = &bytes[..12];
        while parts.next(&mut cut).is_some() {}
        assert!(!parts.is_whole());
    }
}
