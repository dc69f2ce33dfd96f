//! Messages on the connection of a build, as bytes.
//!
//! ```text
//! kind: u8 | descriptors: u8 | 0: u16 | number: u32 | length: u32 | length bytes
//! ```
//!
//! Numbers are big endian. `number` is a question's, or a step's; the bytes are JSON, or raw where the
//! message is [bytes](Heard::Piece) itself. Descriptors come beside the first byte (`SCM_RIGHTS`, unix(7)).
//! What one side may say and the other may not is of two types: a decoder knows those of its side alone.

use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Begin, Checked, Failed, Finished, Progress, Question, Stream};

/// Bytes of one message behind its head, at most.
pub const BODY_MAX: usize = 4 << 20;
/// Bytes of a piece, for whoever cuts them.
pub const PIECE: usize = 128 << 10;
const HEAD: usize = 12;

/// What the client says.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    Begin(Box<Begin>),
    /// Of the answer to a question.
    Piece {
        question: u32,
        bytes: Bytes,
    },
    /// The answer is whole.
    End {
        question: u32,
    },
    /// There is none, and why.
    Refused {
        question: u32,
        why: String,
    },
    /// The answer is a descriptor, beside this message.
    Descriptor {
        question: u32,
    },
    /// The answer is a folder's list and the folder, beside this message.
    Listing {
        question: u32,
    },
    /// The answer is a folder's list of so many bytes, and behind it what the client knows of its files'
    /// digests, in the pieces that follow.
    FarListing {
        question: u32,
        list: u32,
    },
}

/// What the daemon says.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    Question {
        number: u32,
        question: Question,
    },
    Progress(Progress),
    /// Of what was built, for the output of that number among those wished. The last one has been said
    /// before [`Told::Finished`] is.
    Output {
        output: u32,
        bytes: Bytes,
    },
    Finished(Finished),
    Failed(Failed),
    Checked(Checked),
}

/// Bytes that are no message.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    #[error("a message of the unknown kind {0}: client and daemon are of different versions")]
    Kind(u8),
    #[error("a message of {0} bytes: it has {BODY_MAX} at most")]
    Long(usize),
    #[error("a message of kind {kind} does not say what it should")]
    Body { kind: u8, source: serde_json::Error },
    #[error("a message of kind {0} does not say what it should")]
    Shape(u8),
}

/// One of the two types above.
pub trait Message: Sized {
    /// As it goes over the connection.
    fn encode(&self) -> Vec<u8>;
    fn decode(frame: Frame) -> Result<Self, Malformed>;
    /// How many descriptors come beside it.
    fn descriptors(&self) -> usize {
        0
    }
}

/// A message that is whole and not understood yet.
#[derive(Debug)]
pub struct Frame {
    kind: u8,
    descriptors: u8,
    number: u32,
    body: Bytes,
}

impl Frame {
    fn json<T: DeserializeOwned>(&self) -> Result<T, Malformed> {
        serde_json::from_slice(&self.body).map_err(|source| Malformed::Body { kind: self.kind, source })
    }

    /// Bytes that people read.
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn frame(kind: u8, descriptors: u8, number: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEAD + body.len());
    bytes.extend_from_slice(&[kind, descriptors, 0, 0]);
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn document(kind: u8, number: u32, value: &impl Serialize) -> Vec<u8> {
    // Only maps whose keys are no texts fail.
    frame(kind, 0, number, &serde_json::to_vec(value).unwrap_or_default())
}

impl Message for Heard {
    fn encode(&self) -> Vec<u8> {
        match self {
            Heard::Begin(begin) => document(1, 0, begin),
            Heard::Piece { question, bytes } => frame(2, 0, *question, bytes),
            Heard::End { question } => frame(3, 0, *question, b""),
            Heard::Refused { question, why } => frame(4, 0, *question, why.as_bytes()),
            Heard::Descriptor { question } => frame(5, 1, *question, b""),
            Heard::Listing { question } => frame(6, 2, *question, b""),
            Heard::FarListing { question, list } => frame(7, 0, *question, &list.to_be_bytes()),
        }
    }

    fn decode(frame: Frame) -> Result<Heard, Malformed> {
        let question = frame.number;
        match (frame.kind, frame.descriptors) {
            (1, 0) => Ok(Heard::Begin(frame.json()?)),
            (2, 0) => Ok(Heard::Piece { question, bytes: frame.body }),
            (3, 0) => Ok(Heard::End { question }),
            (4, 0) => Ok(Heard::Refused { question, why: frame.text() }),
            (5, 1) => Ok(Heard::Descriptor { question }),
            (6, 2) => Ok(Heard::Listing { question }),
            (7, 0) => match <[u8; 4]>::try_from(&*frame.body) {
                Ok(list) => Ok(Heard::FarListing { question, list: u32::from_be_bytes(list) }),
                Err(_) => Err(Malformed::Shape(7)),
            },
            (1..=7, _) => Err(Malformed::Shape(frame.kind)),
            (kind, _) => Err(Malformed::Kind(kind)),
        }
    }

    fn descriptors(&self) -> usize {
        match self {
            Heard::Descriptor { .. } => 1,
            Heard::Listing { .. } => 2,
            _ => 0,
        }
    }
}

impl Message for Told {
    fn encode(&self) -> Vec<u8> {
        match self {
            Told::Question { number, question } => document(65, *number, question),
            Told::Progress(Progress::Output { step, stream, bytes }) => match stream {
                Stream::Out => frame(66, 0, *step, bytes),
                Stream::Error => frame(67, 0, *step, bytes),
            },
            Told::Progress(progress) => document(68, 0, progress),
            Told::Finished(finished) => document(69, 0, finished),
            Told::Failed(failed) => document(70, 0, failed),
            Told::Output { output, bytes } => frame(71, 0, *output, bytes),
            Told::Checked(checked) => document(72, 0, checked),
        }
    }

    fn decode(frame: Frame) -> Result<Told, Malformed> {
        let output = |stream| Progress::Output { step: frame.number, stream, bytes: frame.body.to_vec() };
        match (frame.kind, frame.descriptors) {
            (65, 0) => Ok(Told::Question { number: frame.number, question: frame.json()? }),
            (66, 0) => Ok(Told::Progress(output(Stream::Out))),
            (67, 0) => Ok(Told::Progress(output(Stream::Error))),
            (68, 0) => Ok(Told::Progress(frame.json()?)),
            (69, 0) => Ok(Told::Finished(frame.json()?)),
            (70, 0) => Ok(Told::Failed(frame.json()?)),
            (71, 0) => Ok(Told::Output { output: frame.number, bytes: frame.body }),
            (72, 0) => Ok(Told::Checked(frame.json()?)),
            (65..=72, _) => Err(Malformed::Shape(frame.kind)),
            (kind, _) => Err(Malformed::Kind(kind)),
        }
    }
}

/// Cuts what arrives into messages. It holds no more than one message and what came with its end.
#[derive(Debug, Default)]
pub struct Decoder {
    pending: BytesMut,
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Whether the connection may end here.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The next message, if all of it is there. After an error nothing more is to be expected.
    pub fn take<M: Message>(&mut self) -> Result<Option<M>, Malformed> {
        let Some(mut head) = self.pending.get(..HEAD) else { return Ok(None) };
        let (kind, descriptors, zero) = (head.get_u8(), head.get_u8(), head.get_u16());
        let (number, length) = (head.get_u32(), head.get_u32() as usize);
        if length > BODY_MAX {
            return Err(Malformed::Long(length));
        }
        if zero != 0 {
            return Err(Malformed::Shape(kind));
        }
        if self.pending.len() < HEAD + length {
            self.pending.reserve(HEAD + length - self.pending.len());
            return Ok(None);
        }
        self.pending.advance(HEAD);
        let body = self.pending.split_to(length).freeze();
        M::decode(Frame { kind, descriptors, number, body }).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hull_oci::Digest;

    use super::super::Planned;

    /// Through a decoder, in pieces of `size` bytes.
    fn through<M: Message>(messages: &[M], size: usize) -> Vec<M> {
        let bytes: Vec<u8> = messages.iter().flat_map(Message::encode).collect();
        let (mut decoder, mut out) = (Decoder::default(), Vec::new());
        for piece in bytes.chunks(size) {
            decoder.push(piece);
            while let Some(message) = decoder.take().unwrap() {
                out.push(message);
            }
        }
        assert!(decoder.is_empty());
        out
    }

    #[test]
    fn what_is_said_is_what_is_heard_in_whatever_pieces_it_arrives() {
        let begin = Begin { tags: vec!["a".into()], no_cache: true, ..Begin::default() };
        let heard = [
            Heard::Begin(Box::new(begin)),
            Heard::Piece { question: 7, bytes: Bytes::from_static(b"\0\xff") },
            Heard::End { question: 7 },
            Heard::Refused { question: u32::MAX, why: "no".into() },
            Heard::Descriptor { question: 8 },
            Heard::Listing { question: 9 },
            Heard::FarListing { question: 10, list: u32::MAX },
        ];
        let planned = Planned { text: "RUN x".into(), step: Some(1), trigger: false };
        let output = |stream| Progress::Output { step: 3, stream, bytes: b"x\xfe".to_vec() };
        let told = [
            Told::Question { number: 1, question: Question::Context(String::new()) },
            Told::Question { number: 2, question: Question::Secret("s".into()) },
            Told::Question { number: 3, question: Question::Dockerfile },
            Told::Question { number: 4, question: Question::Files("x".into()) },
            Told::Question {
                number: 5,
                question: Question::Contents { context: "x".into(), numbers: vec![0, u32::MAX] },
            },
            Told::Progress(Progress::Planned { instructions: vec![planned] }),
            Told::Progress(output(Stream::Out)),
            Told::Progress(output(Stream::Error)),
            Told::Progress(Progress::Done { step: 1, layer: Some(Digest::sha256(b"")) }),
            Told::Finished(Finished { id: Digest::sha256(b""), names: vec!["a:b".into()], stored: true }),
            Told::Output { output: 1, bytes: Bytes::from_static(b"\0tar") },
            Told::Checked(Checked { warnings: vec!["one".into()], error: String::new() }),
            Told::Failed(Failed { status: 400, message: "bad".into(), ..Failed::default() }),
        ];
        for size in [1, 5, 13, 10_000] {
            assert_eq!(through(&heard, size), heard);
            assert_eq!(through(&told, size), told);
        }
    }

    #[test]
    fn what_is_no_message_of_that_side_is_refused() {
        let heard = |bytes: &[u8]| {
            let mut decoder = Decoder::default();
            decoder.push(bytes);
            decoder.take::<Heard>().unwrap_err().to_string()
        };
        let told = Told::Progress(Progress::Cached { step: 1 }).encode();
        assert_eq!(
            heard(&told),
            "a message of the unknown kind 68: client and daemon are of different versions"
        );
        assert_eq!(heard(&frame(1, 0, 0, b"[]x")), "a message of kind 1 does not say what it should");
        assert_eq!(heard(&frame(2, 1, 0, b"")), "a message of kind 2 does not say what it should");
        assert_eq!(heard(&frame(7, 0, 0, b"abc")), "a message of kind 7 does not say what it should");
        let mut long = frame(2, 0, 0, b"");
        long[8..].copy_from_slice(&(BODY_MAX as u32 + 1).to_be_bytes());
        assert_eq!(heard(&long), "a message of 4194305 bytes: it has 4194304 at most");
    }
}
