//! How netlink messages and their attributes lie in memory (netlink(7)), for all families.
//!
//! ```text
//! datagram:  message, message, …           each padded to 4 bytes
//! message:   length u32, kind u16, flags u16, sequence u32, port u32; a fixed part; attributes
//! attribute: length u16, kind u16; payload (bytes, or attributes again); padded to 4 bytes
//! ```
//!
//! Numbers are in the machine's byte order, the families' own exceptions aside. Reading trusts no
//! length: what does not fit ends the iteration.

use crate::error::Errno;

/// Flags of requests.
pub const REQUEST: u16 = 1;
pub const MULTI: u16 = 2;
pub const ACK: u16 = 4;
/// All there are, instead of one.
pub const DUMP: u16 = 0x300;
/// Flags of requests that make something.
pub const REPLACE: u16 = 0x100;
pub const EXCLUSIVE: u16 = 0x200;
pub const CREATE: u16 = 0x400;
pub const APPEND: u16 = 0x800;

/// Kinds of messages that every family has.
pub const ERROR: u16 = 2;
pub const DONE: u16 = 3;

/// A dump was changed while it was read: it may miss entries or have some twice.
pub const DUMP_INTERRUPTED: u16 = 0x10;
/// Flags of answers.
const CAPPED: u16 = 0x100;
const ANSWER_ATTRIBUTES: u16 = 0x200;
const ANSWER_TEXT: u16 = 1;

const HEAD: usize = 16;
const ATTRIBUTE_HEAD: usize = 4;
/// Marks of an attribute's kind: its payload is attributes; it is in network byte order.
const NESTED: u16 = 0x8000;
const MARKS: u16 = 0xc000;

fn padded(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// Messages being written, one behind the other.
#[derive(Debug, Default, Clone)]
pub struct Messages {
    bytes: Vec<u8>,
    /// Where the message that is being written begins.
    start: usize,
    count: u32,
}

impl Messages {
    /// Begins a message; [`Messages::end`] ends it.
    pub fn begin(&mut self, kind: u16, flags: u16) {
        self.start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.put(&kind.to_ne_bytes());
        self.put(&flags.to_ne_bytes());
        self.put(&self.count.to_ne_bytes());
        self.put(&[0; 4]);
        self.count += 1;
    }

    /// Bytes of the fixed part.
    pub fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// An attribute. Its payload must be shorter than 64 KiB.
    pub fn attribute(&mut self, kind: u16, payload: &[u8]) {
        debug_assert!(payload.len() + ATTRIBUTE_HEAD <= usize::from(u16::MAX));
        self.put(&((payload.len() + ATTRIBUTE_HEAD) as u16).to_ne_bytes());
        self.put(&kind.to_ne_bytes());
        self.put(payload);
        self.pad();
    }

    /// An attribute whose payload is a string that ends in a zero byte.
    pub fn text(&mut self, kind: u16, text: &str) {
        let mut payload = Vec::with_capacity(text.len() + 1);
        payload.extend_from_slice(text.as_bytes());
        payload.push(0);
        self.attribute(kind, &payload);
    }

    /// An attribute of the attributes that `inside` writes.
    pub fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Messages)) {
        let start = self.bytes.len();
        self.put(&[0; 2]);
        self.put(&(kind | NESTED).to_ne_bytes());
        inside(self);
        let len = self.bytes.len() - start;
        debug_assert!(len <= usize::from(u16::MAX));
        self.bytes[start..start + 2].copy_from_slice(&(len as u16).to_ne_bytes());
    }

    fn pad(&mut self) {
        self.bytes.resize(padded(self.bytes.len()), 0);
    }

    pub fn end(&mut self) {
        let len = (self.bytes.len() - self.start) as u32;
        self.bytes[self.start..self.start + 4].copy_from_slice(&len.to_ne_bytes());
        self.pad();
    }

    /// Has the message that was written last answered, whatever becomes of it.
    pub fn acknowledge(&mut self) {
        if let Some(flags) = self.bytes.get_mut(self.start + 6..self.start + 8) {
            let asked = u16::from_ne_bytes([flags[0], flags[1]]) | ACK;
            flags.copy_from_slice(&asked.to_ne_bytes());
        }
    }

    /// Numbers the messages `first`, `first + 1` …: their answers carry the same numbers. Without
    /// this they count from 0.
    pub fn number_from(&mut self, first: u32) {
        let mut at = 0;
        let mut sequence = first;
        while let Some(len) = self.bytes.get(at..at + 4).and_then(number) {
            self.bytes[at + 8..at + 12].copy_from_slice(&sequence.to_ne_bytes());
            sequence = sequence.wrapping_add(1);
            at += padded(len as usize);
        }
    }

    /// How many messages.
    pub fn count(&self) -> u32 {
        self.count
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// A message that was received.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// What follows the head.
    pub payload: &'a [u8],
}

/// The kernel's answer to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// `None`: it was done.
    pub errno: Option<Errno>,
    /// What the kernel says about it, in English. Also a warning where it was done.
    pub text: Option<String>,
}

impl<'a> Message<'a> {
    /// The fixed part of `len` bytes and the attributes behind it; `None` where that is missing.
    pub fn split(&self, len: usize) -> Option<(&'a [u8], Attributes<'a>)> {
        let (fixed, rest) = self.payload.split_at_checked(len)?;
        Some((fixed, attributes(rest.get(padded(len) - len..).unwrap_or_default())))
    }

    /// `None` for a message that is no answer. The end of a dump is one: it may tell of a failure.
    pub fn answer(&self) -> Option<Answer> {
        if self.kind != ERROR && self.kind != DONE {
            return None;
        }
        // A DONE without a code has nothing to complain about.
        let code = self.payload.get(..4).and_then(number).map_or(0, |code| code as i32);
        let errno = (code != 0).then(|| Errno::from_raw_os_error(code.wrapping_neg()));
        // Behind the code lies the request's head, and all of the request if it is not capped;
        // behind the code of a DONE there is nothing of it.
        let skipped = if self.kind == DONE {
            4
        } else if self.flags & CAPPED != 0 {
            4 + HEAD
        } else {
            let request = self.payload.get(4..8).and_then(number).map_or(0, |len| len as usize);
            4 + padded(request.max(HEAD))
        };
        let mut text = None;
        if self.flags & ANSWER_ATTRIBUTES != 0
            && let Some(rest) = self.payload.get(skipped..)
        {
            text = attributes(rest).find(|(kind, _)| *kind == ANSWER_TEXT).map(|(_, text)| string(text));
        }
        Some(Answer { errno, text })
    }
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// The string of a payload, up to its zero byte.
pub fn string(payload: &[u8]) -> String {
    let end = payload.iter().position(|byte| *byte == 0).unwrap_or(payload.len());
    String::from_utf8_lossy(&payload[..end]).into_owned()
}

/// The messages of a datagram.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = number(bytes.get(..4)?)? as usize;
        if len < HEAD {
            return None;
        }
        let message = bytes.get(..len)?;
        bytes = bytes.get(padded(len)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([message[4], message[5]]),
            flags: u16::from_ne_bytes([message[6], message[7]]),
            sequence: number(&message[8..12])?,
            payload: &message[HEAD..],
        })
    })
}

/// Attributes that were received: their kinds, without marks, and their payloads.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes<'a> {
    bytes: &'a [u8],
}

pub fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes { bytes }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let head = self.bytes.get(..ATTRIBUTE_HEAD)?;
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & !MARKS;
        let payload = self.bytes.get(ATTRIBUTE_HEAD..len)?;
        self.bytes = self.bytes.get(padded(len)..).unwrap_or_default();
        Some((kind, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Messages {
        let mut messages = Messages::default();
        messages.begin(16, REQUEST | ACK);
        messages.put(&[1, 2, 3, 4]);
        messages.text(3, "eth0");
        messages.nest(18, |inside| {
            inside.attribute(1, b"veth");
            inside.nest(2, |_| ());
        });
        messages.end();
        messages.begin(17, REQUEST);
        messages.put(&[9]);
        messages.end();
        messages.begin(18, REQUEST);
        messages.end();
        messages
    }

    #[test]
    fn what_is_written_is_read() {
        let mut written = three();
        written.number_from(7);
        let read: Vec<_> = messages(written.bytes()).collect();
        assert_eq!(
            read.iter().map(|one| (one.kind, one.sequence)).collect::<Vec<_>>(),
            [(16, 7), (17, 8), (18, 9)]
        );
        let (fixed, mut rest) = read[0].split(4).unwrap();
        assert_eq!(fixed, [1, 2, 3, 4]);
        let (kind, name) = rest.next().unwrap();
        assert_eq!((kind, string(name).as_str()), (3, "eth0"));
        let (kind, nested) = rest.next().unwrap();
        assert_eq!(kind, 18);
        assert_eq!(
            attributes(nested).map(|(kind, payload)| (kind, payload.to_vec())).collect::<Vec<_>>(),
            [(1, b"veth".to_vec()), (2, vec![])]
        );
        assert_eq!(read[1].payload, [9]);
        assert!(read[1].split(4).is_none());
    }

    #[test]
    fn lengths_that_lie_end_the_reading() {
        let written = three();
        for cut in 0..written.bytes().len() {
            for message in messages(&written.bytes()[..cut]) {
                let _ = message.answer();
                if let Some((_, rest)) = message.split(4) {
                    rest.for_each(drop);
                }
            }
        }
        for byte in 0..32 {
            for value in [0, 1, 3, 0x7f, 0xff] {
                let mut bytes = written.bytes().to_vec();
                bytes[byte] = value;
                let read = messages(&bytes).filter_map(|message| message.split(4));
                read.flat_map(|(_, rest)| rest).for_each(drop);
            }
        }
    }

    #[test]
    fn an_answer_is_an_errno_with_the_kernels_words() {
        let answer = |flags: u16, code: i32, rest: &[u8]| {
            let mut bytes = Messages::default();
            bytes.begin(ERROR, flags);
            bytes.put(&code.to_ne_bytes());
            // The request's head: its length is that of a longer request.
            bytes.put(&20u32.to_ne_bytes());
            bytes.put(&[0; 12]);
            bytes.put(rest);
            bytes.end();
            messages(bytes.bytes()).next().unwrap().answer().unwrap()
        };
        assert_eq!(answer(CAPPED, 0, &[]), Answer { errno: None, text: None });
        assert_eq!(answer(CAPPED, -17, &[]), Answer { errno: Some(Errno::EXIST), text: None });
        let text = [8, 0, 1, 0, b'w', b'h', b'y', 0];
        let told = Answer { errno: Some(Errno::INVAL), text: Some("why".into()) };
        assert_eq!(answer(CAPPED | ANSWER_ATTRIBUTES, -22, &text), told);
        let behind_the_request = [&[0; 4][..], &text].concat();
        assert_eq!(answer(ANSWER_ATTRIBUTES, -22, &behind_the_request), told);
        let bytes = three();
        assert_eq!(messages(bytes.bytes()).next().unwrap().answer(), None);
    }

    #[test]
    fn the_kernel_answers_in_words() {
        use super::super::{Family, Socket};
        let socket = Socket::open(Family::Route).unwrap();
        let mut request = Messages::default();
        // RTM_NEWLINK of a link that is not there, by a name; ifinfomsg is 16 bytes.
        request.begin(16, REQUEST | ACK);
        request.put(&[0; 16]);
        request.text(3, "hull-no-link");
        request.end();
        request.number_from(5);
        socket.send(request.bytes()).unwrap();
        let mut buffer = [0; 256];
        let len = socket.receive(&mut buffer).unwrap();
        let answer = messages(&buffer[..len]).next().unwrap();
        assert_eq!(answer.sequence, 5);
        assert!(matches!(answer.answer().unwrap().errno, Some(Errno::NODEV | Errno::PERM)));
        socket.send(request.bytes()).unwrap();
        assert_eq!(socket.receive(&mut [0; 8]).unwrap_err().errno, Errno::MSGSIZE);
    }
}
