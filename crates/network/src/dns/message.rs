//! The messages of the domain name system (RFC 1035 §4, RFC 6891), as far as an answerer of names
//! and a forwarder need them.
//!
//! A query is read once, without allocation, into what decides the answer; a reply is written
//! behind a copy of its question. Everything else — records of other types, other sections — goes
//! through unread, as bytes, between the container and the resolvers of the host. That is why this
//! is not a general library: five record types, one class, and no message is ever re-encoded.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Bytes of the header (RFC 1035 §4.1.1).
pub(super) const HEADER: usize = 12;
/// Bytes of a name, dots and the final zero included (RFC 1035 §2.3.4).
const NAME_MAX: usize = 255;
/// What a UDP reply may be without EDNS (RFC 1035 §2.3.4).
const PLAIN_MAX: usize = 512;
/// What is announced as acceptable over UDP: larger ones are fragmented on most links
/// (DNS flag day 2020).
const EDNS_SIZE: u16 = 1232;
/// Seconds for which a name may be kept, as the reference has it.
const TTL: u32 = 600;

pub(super) const A: u16 = 1;
pub(super) const PTR: u16 = 12;
pub(super) const AAAA: u16 = 28;
const OPT: u16 = 41;
pub(super) const ANY: u16 = 255;
/// Of the class IN; 255 is any class.
pub(super) const CLASS_IN: u16 = 1;
pub(super) const CLASS_ANY: u16 = 255;

const RESPONSE: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
const RECURSION_AVAILABLE: u16 = 0x0080;
const CHECKING_DISABLED: u16 = 0x0010;

/// The sixteen bits of a result (RFC 1035 §4.1.1, RFC 6891 §9); `BADVERS` needs EDNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    NoError = 0,
    FormatError = 1,
    ServerFailure = 2,
    NameError = 3,
    NotImplemented = 4,
    Refused = 5,
    BadVersion = 16,
}

/// How a message travels: decides how long it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// A name as text, in small letters, without its final dot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    bytes: [u8; NAME_MAX],
    len: u8,
    /// A label has a dot or a zero in it: no text says this name.
    odd: bool,
}

impl Name {
    /// `None` for a name that no record here can have.
    pub(super) fn text(&self) -> Option<&[u8]> {
        (!self.odd).then(|| &self.bytes[..usize::from(self.len)])
    }
}

/// The EDNS record of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edns {
    size: u16,
    version: u8,
    /// The DO bit, to be given back (RFC 3225 §3).
    dnssec: bool,
}

/// A query with one question.
#[derive(Debug, Clone)]
pub(super) struct Query<'a> {
    pub(super) id: u16,
    flags: u16,
    /// The question section as it came.
    question: &'a [u8],
    pub(super) name: Name,
    pub(super) kind: u16,
    pub(super) class: u16,
    pub(super) edns: Option<Edns>,
}

/// Why bytes are no query that can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bad {
    /// Too short for an answer, or itself a reply: silence, lest two servers talk for ever.
    Unanswerable,
    /// To be told so.
    Told(Code),
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Reads a query.
pub(super) fn query(bytes: &[u8]) -> Result<Query<'_>, Bad> {
    let head = |at| word(bytes, at).ok_or(Bad::Unanswerable);
    let (id, flags) = (head(0)?, head(2)?);
    let counts = [head(4)?, head(6)?, head(8)?, head(10)?];
    if flags & RESPONSE != 0 {
        return Err(Bad::Unanswerable);
    }
    if flags & OPCODE != 0 {
        return Err(Bad::Told(Code::NotImplemented));
    }
    let malformed = Bad::Told(Code::FormatError);
    if counts[0] != 1 {
        return Err(malformed);
    }
    let (name, at) = name(bytes, HEADER).ok_or(malformed)?;
    let kind = word(bytes, at).ok_or(malformed)?;
    let class = word(bytes, at + 2).ok_or(malformed)?;
    let question = &bytes[HEADER..at + 4];
    let records = counts[1..].iter().map(|count| usize::from(*count)).sum();
    let edns = edns(bytes, at + 4, records).ok_or(malformed)?;
    Ok(Query { id, flags, question, name, kind, class, edns })
}

/// Reads a name of a question: there is nothing before it that it could point to, so a pointer is
/// an error. Gives where it ends.
fn name(bytes: &[u8], start: usize) -> Option<(Name, usize)> {
    let mut name = Name { bytes: [0; NAME_MAX], len: 0, odd: false };
    let mut at = start;
    let mut len = 0;
    loop {
        let label = usize::from(*bytes.get(at)?);
        at += 1;
        if label == 0 {
            break;
        }
        if label > 63 || at - start + label >= NAME_MAX {
            return None;
        }
        if len > 0 {
            name.bytes[len] = b'.';
            len += 1;
        }
        for byte in bytes.get(at..at + label)? {
            name.odd |= matches!(byte, b'.' | 0);
            name.bytes[len] = byte.to_ascii_lowercase();
            len += 1;
        }
        at += label;
    }
    name.len = u8::try_from(len).ok()?;
    Some((name, at))
}

/// Passes over a name of a record, which may end in a pointer.
fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match usize::from(*bytes.get(at)?) {
            0 => return Some(at + 1),
            label @ 1..64 => at += 1 + label,
            0xC0.. => return Some(at + 2),
            _ => return None,
        }
    }
}

/// Finds the one EDNS record among the `records` behind the question. `None`: malformed.
fn edns(bytes: &[u8], mut at: usize, records: usize) -> Option<Option<Edns>> {
    let mut found = None;
    for _ in 0..records {
        let root = *bytes.get(at)? == 0;
        at = skip_name(bytes, at)?;
        let kind = word(bytes, at)?;
        let length = usize::from(word(bytes, at + 8)?);
        if kind == OPT {
            // One, and of the root (RFC 6891 §6.1.1).
            if found.is_some() || !root {
                return None;
            }
            let [_, version, high, _] = bytes.get(at + 4..at + 8)?.try_into().ok()?;
            found = Some(Edns { size: word(bytes, at + 2)?, version, dnssec: high & 0x80 != 0 });
        }
        at += 10 + length;
        if at > bytes.len() {
            return None;
        }
    }
    Some(found)
}

impl Query<'_> {
    /// The version of EDNS is one that nobody here speaks.
    pub(super) fn bad_version(&self) -> bool {
        self.edns.is_some_and(|edns| edns.version != 0)
    }

    /// Bytes of the longest reply that the asker takes.
    fn limit(&self, transport: Transport) -> usize {
        match (transport, self.edns) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, Some(edns)) => usize::from(edns.size).max(PLAIN_MAX),
            (Transport::Udp, None) => PLAIN_MAX,
        }
    }
}

/// A reply in the making.
pub(super) struct Reply<'a> {
    out: &'a mut Vec<u8>,
    /// Where records must end.
    limit: usize,
    answers: u16,
    edns: Option<Edns>,
    code: Code,
}

impl<'a> Reply<'a> {
    /// Begins a reply in `out`, which is emptied: header and question.
    pub(super) fn new(
        query: &Query<'_>,
        code: Code,
        transport: Transport,
        out: &'a mut Vec<u8>,
    ) -> Reply<'a> {
        let flags = RESPONSE
            | RECURSION_AVAILABLE
            | query.flags & (RECURSION_DESIRED | CHECKING_DISABLED)
            | code as u16 & 15;
        header(out, query.id, flags, 1);
        out.extend_from_slice(query.question);
        let opt = if query.edns.is_some() { 11 } else { 0 };
        let limit = query.limit(transport) - opt;
        Reply { out, limit, answers: 0, edns: query.edns, code }
    }

    pub(super) fn address4(&mut self, address: Ipv4Addr) {
        self.record(A, &address.octets());
    }

    pub(super) fn address6(&mut self, address: Ipv6Addr) {
        self.record(AAAA, &address.octets());
    }

    /// `name` is text without a final dot; one that no message can carry is left out.
    pub(super) fn pointer(&mut self, name: &[u8]) {
        let mut wire = Vec::with_capacity(name.len() + 2);
        for label in name.split(|byte| *byte == b'.') {
            let Some(length) = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))
            else {
                return;
            };
            wire.push(length);
            wire.extend_from_slice(label);
        }
        wire.push(0);
        if wire.len() <= NAME_MAX {
            self.record(PTR, &wire);
        }
    }

    /// A record of the name that was asked for; one that does not fit marks the reply.
    fn record(&mut self, kind: u16, data: &[u8]) {
        if self.out.len() + 12 + data.len() > self.limit {
            self.out[2] |= (TRUNCATED >> 8) as u8;
            return;
        }
        // A pointer to the question's name (RFC 1035 §4.1.4).
        self.out.extend_from_slice(&[0xC0, HEADER as u8]);
        for word in [kind, CLASS_IN, (TTL >> 16) as u16, TTL as u16, data.len() as u16] {
            self.out.extend_from_slice(&word.to_be_bytes());
        }
        self.out.extend_from_slice(data);
        self.answers += 1;
    }

    /// Ends it: the counts, and the EDNS record that answers the query's.
    pub(super) fn finish(self) {
        self.out[6..8].copy_from_slice(&self.answers.to_be_bytes());
        let Some(edns) = self.edns else { return };
        self.out[10..12].copy_from_slice(&1u16.to_be_bytes());
        self.out.push(0);
        self.out.extend_from_slice(&OPT.to_be_bytes());
        self.out.extend_from_slice(&EDNS_SIZE.to_be_bytes());
        let dnssec = if edns.dnssec { 0x80 } else { 0 };
        self.out.extend_from_slice(&[(self.code as u16 >> 4) as u8, 0, dnssec, 0, 0, 0]);
    }
}

fn header(out: &mut Vec<u8>, id: u16, flags: u16, questions: u16) {
    out.clear();
    for word in [id, flags, questions, 0, 0, 0] {
        out.extend_from_slice(&word.to_be_bytes());
    }
}

/// Tells that bytes were no query: a bare header (at least two bytes of `bytes` are there).
pub(super) fn refuse(bytes: &[u8], code: Code, out: &mut Vec<u8>) {
    let flags = word(bytes, 2).unwrap_or(0) & (OPCODE | RECURSION_DESIRED);
    header(out, word(bytes, 0).unwrap_or(0), RESPONSE | RECURSION_AVAILABLE | flags | code as u16, 0);
}

/// Tells that nobody could be asked: the query as it came, with this result.
pub(super) fn fail(bytes: &[u8], code: Code, out: &mut Vec<u8>) {
    match query(bytes) {
        Ok(query) => Reply::new(&query, code, Transport::Udp, out).finish(),
        Err(_) => refuse(bytes, code, out),
    }
}

/// What a forwarded query and its answer must have in common: the question, in small letters.
fn question(bytes: &[u8]) -> Option<(Name, u16, u16)> {
    let (name, at) = name(bytes, HEADER)?;
    Some((name, word(bytes, at)?, word(bytes, at + 2)?))
}

/// Whether `reply` answers `query`: its id, a response, and the same question. Resolvers that
/// refuse a query may leave the question away.
pub(super) fn answers(reply: &[u8], query: &[u8]) -> bool {
    let (Some(id), Some(flags), Some(questions)) = (word(reply, 0), word(reply, 2), word(reply, 4)) else {
        return false;
    };
    if reply.len() < HEADER || word(query, 0) != Some(id) || flags & RESPONSE == 0 {
        return false;
    }
    if questions == 0 {
        return code(reply) != Code::NoError as u8;
    }
    match (question(reply), question(query)) {
        (Some((a, kind, class)), Some((b, wanted, of))) => {
            a.bytes[..usize::from(a.len)] == b.bytes[..usize::from(b.len)] && (kind, class) == (wanted, of)
        }
        _ => false,
    }
}

/// The result that a reply of at least a header tells.
pub(super) fn code(reply: &[u8]) -> u8 {
    reply[3] & 15
}
