//! Reading tables back.

use hull_sys::netlink::message::{
    self, Attributes, DUMP, DUMP_INTERRUPTED, Messages, REQUEST, attributes, string,
};
use hull_sys::netlink::{DATAGRAM, Socket};
use hull_sys::{During, Errno, Result};

use super::element::Wire;
use super::{begin, read_number};

const GETCHAIN: u8 = 4;
const GETRULE: u8 = 7;
const GETSETELEM: u8 = 13;

/// A dump that others keep changing under us is asked for this often.
const ATTEMPTS: u32 = 16;
/// Bytes of nfgenmsg.
const HEAD: usize = 4;

/// A chain of anybody's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FoundChain {
    /// `NFPROTO_…`.
    pub(super) family: u8,
    pub(super) table: String,
    pub(super) name: String,
    /// Number of the hook and priority, of chains that packets come to by themselves.
    pub(super) hook: Option<(u32, i32)>,
    /// What becomes of packets that no rule decided on: they are dropped.
    pub(super) drops: bool,
}

/// A rule of anybody's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FoundRule {
    pub(super) family: u8,
    pub(super) table: String,
    pub(super) chain: String,
    /// As the kernel has them: attributes.
    pub(super) expressions: Vec<u8>,
    pub(super) comment: Option<String>,
}

pub(super) fn chains(socket: &Socket, family: u8) -> Result<Vec<FoundChain>> {
    dump(
        socket,
        GETCHAIN,
        family,
        |_| (),
        |family, attributes| {
            let mut chain =
                FoundChain { family, table: String::new(), name: String::new(), hook: None, drops: false };
            for (kind, payload) in attributes {
                match kind {
                    1 => chain.table = string(payload),
                    3 => chain.name = string(payload),
                    4 => {
                        let of = |wanted| number_of(payload, wanted);
                        chain.hook = of(1).zip(of(2)).map(|(hook, priority)| (hook, priority.cast_signed()));
                    }
                    // NF_DROP is 0.
                    5 => chain.drops = read_number(payload) == Some(0),
                    _ => {}
                }
            }
            Some(chain)
        },
    )
}

/// All rules of a family, of one table where it is given.
pub(super) fn rules(socket: &Socket, family: u8, table: Option<&str>) -> Result<Vec<FoundRule>> {
    let only = |message: &mut Messages| {
        if let Some(table) = table {
            message.text(1, table);
        }
    };
    let rules = dump(socket, GETRULE, family, only, |family, attributes| {
        let mut rule = FoundRule {
            family,
            table: String::new(),
            chain: String::new(),
            expressions: Vec::new(),
            comment: None,
        };
        for (kind, payload) in attributes {
            match kind {
                1 => rule.table = string(payload),
                2 => rule.chain = string(payload),
                4 => rule.expressions = payload.to_vec(),
                // A comment is of kind 0 and has its length before it.
                7 if payload.len() > 2 && payload[0] == 0 => rule.comment = Some(string(&payload[2..])),
                _ => {}
            }
        }
        Some(rule)
    })?;
    // Old kernels pass over what the dump was to be limited to.
    Ok(rules.into_iter().filter(|rule| table.is_none_or(|table| rule.table == table)).collect())
}

/// `None`: there is no such set.
pub(super) fn elements(socket: &Socket, family: u8, table: &str, set: &str) -> Result<Option<Vec<Wire>>> {
    let which = |message: &mut Messages| {
        message.text(1, table);
        message.text(2, set);
    };
    let found = dump(socket, GETSETELEM, family, which, |_, attributes| {
        let list = attributes.filter(|(kind, _)| *kind == 3).flat_map(|(_, list)| message::attributes(list));
        Some(list.filter_map(|(_, one)| Wire::read(one)).collect::<Vec<Wire>>())
    });
    match found {
        Ok(parts) => Ok(Some(parts.into_iter().flatten().collect())),
        Err(error) if error.errno == Errno::NOENT => Ok(None),
        Err(error) => Err(error),
    }
}

fn number_of(nested: &[u8], wanted: u16) -> Option<u32> {
    attributes(nested).find(|(kind, _)| *kind == wanted).and_then(|(_, payload)| read_number(payload))
}

fn dump<T>(
    socket: &Socket,
    kind: u8,
    family: u8,
    limit: impl Fn(&mut Messages),
    read: impl Fn(u8, Attributes<'_>) -> Option<T>,
) -> Result<Vec<T>> {
    for _ in 0..ATTEMPTS {
        let mut request = Messages::default();
        begin(&mut request, kind, REQUEST | DUMP, family);
        limit(&mut request);
        request.end();
        socket.send(request.bytes())?;
        if let Some(found) = read_dump(socket, &read)? {
            return Ok(found);
        }
    }
    Err(Errno::INTR).during("nft", || "a dump that was changed again and again")
}

/// `None`: it was changed while it was read.
fn read_dump<T>(socket: &Socket, read: &impl Fn(u8, Attributes<'_>) -> Option<T>) -> Result<Option<Vec<T>>> {
    let mut buffer = vec![0; DATAGRAM];
    let mut found = Vec::new();
    let mut whole = true;
    loop {
        let len = socket.receive(&mut buffer)?;
        for message in message::messages(&buffer[..len]) {
            whole &= message.flags & DUMP_INTERRUPTED == 0;
            if let Some(answer) = message.answer() {
                return match answer.errno {
                    None => Ok(whole.then_some(found)),
                    Some(Errno::INTR) => Ok(None),
                    Some(errno) => Err(errno).during("nft", || "dump"),
                };
            }
            if let Some((head, attributes)) = message.split(HEAD) {
                found.extend(read(head[0], attributes));
            }
        }
    }
}
