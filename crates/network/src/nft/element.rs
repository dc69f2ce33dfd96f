//! Elements of sets as nf_tables has them: bytes of the key, of the key's end, of the data.

use std::net::IpAddr;

use hull_sys::netlink::message::{Messages, attributes};

use super::encode::verdict_code;
use super::number;
use crate::record::PortRange;
use crate::ruleset::{Field, Set, Type, Value, Verdict};

/// `NFT_SET_ELEM_INTERVAL_END`.
const INTERVAL_END: u32 = 1;

/// One element on its way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Wire {
    key: Vec<u8>,
    /// In sets of intervals over several fields.
    end: Option<Vec<u8>>,
    /// The key is the first that is outside: in sets of intervals over one field.
    outside: bool,
    data: Option<WireData>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum WireData {
    Bytes(Vec<u8>),
    Verdict { code: i32, chain: Option<String> },
}

/// What an element of the set is for the kernel: one element, or two where an interval of one field
/// has a beginning and an end.
pub(crate) fn wire(set: &Set, key: &[Field], value: &Value) -> Vec<Wire> {
    let first: Vec<u8> = key.iter().flat_map(|field| padded(bounds(field).0)).collect();
    let data = match value {
        Value::None => None,
        Value::Fields(fields) => {
            Some(WireData::Bytes(fields.iter().flat_map(|field| padded(bounds(field).0)).collect()))
        }
        Value::Verdict(verdict) => {
            let (code, chain) = verdict_code(*verdict);
            Some(WireData::Verdict { code, chain: chain.map(str::to_owned) })
        }
    };
    if !set.interval {
        return vec![Wire { key: first, end: None, outside: false, data }];
    }
    let last: Vec<u8> = key.iter().flat_map(|field| padded(bounds(field).1)).collect();
    if key.len() > 1 {
        return vec![Wire { key: first, end: Some(last), outside: false, data }];
    }
    let begin = Wire { key: first, end: None, outside: false, data };
    match after(&last) {
        Some(key) => vec![begin, Wire { key, end: None, outside: true, data: None }],
        // To the last address of all: there is none outside.
        None => vec![begin],
    }
}

/// The next higher number of as many bytes.
fn after(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut next = bytes.to_vec();
    for byte in next.iter_mut().rev() {
        let (value, carried) = byte.overflowing_add(1);
        *byte = value;
        if !carried {
            return Some(next);
        }
    }
    None
}

fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The first and the last value that a field stands for.
fn bounds(field: &Field) -> (Vec<u8>, Vec<u8>) {
    let same = |bytes: Vec<u8>| (bytes.clone(), bytes);
    match field {
        Field::Link(name) => same(link(name).to_vec()),
        Field::Protocol(protocol) => same(vec![protocol.number()]),
        Field::Ports(PortRange { first, last }) => {
            (first.to_be_bytes().to_vec(), last.to_be_bytes().to_vec())
        }
        Field::Address(address) => same(octets(*address)),
        Field::Addresses(net) => (octets(net.network()), octets(net.broadcast())),
    }
}

/// A link's name as the kernel compares it.
pub(super) fn link(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    // The last byte stays zero, whatever the name is.
    let len = name.len().min(15);
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    bytes
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Bytes of a field, without padding.
pub(super) fn size(kind: Type) -> u32 {
    match kind {
        Type::Protocol => 1,
        Type::Port => 2,
        Type::Address4 => 4,
        Type::Link | Type::Address6 => 16,
    }
}

/// Bytes of a key or of data. One field is as long as it is; several are padded to four bytes each.
pub(super) fn length(fields: &[Type]) -> u32 {
    match fields {
        [one] => size(*one),
        several => several.iter().map(|field| size(*field).next_multiple_of(4)).sum(),
    }
}

pub(super) fn write_verdict(message: &mut Messages, verdict: Verdict) {
    let (code, chain) = verdict_code(verdict);
    put_verdict(message, code, chain);
}

fn put_verdict(message: &mut Messages, code: i32, chain: Option<&str>) {
    message.nest(2, |inside| {
        number(inside, 1, code.cast_unsigned());
        if let Some(chain) = chain {
            inside.text(2, chain);
        }
    });
}

impl Wire {
    pub(super) fn write(&self, message: &mut Messages, with_data: bool) {
        if self.outside {
            number(message, 3, INTERVAL_END);
        }
        message.nest(1, |key| key.attribute(1, &self.key));
        if let Some(end) = &self.end {
            message.nest(10, |key| key.attribute(1, end));
        }
        match &self.data {
            Some(WireData::Bytes(bytes)) if with_data => message.nest(2, |data| data.attribute(1, bytes)),
            Some(WireData::Verdict { code, chain }) if with_data => {
                message.nest(2, |data| put_verdict(data, *code, chain.as_deref()));
            }
            _ => {}
        }
    }

    /// An element of a dump; `None` for one that is no element of ours.
    pub(super) fn read(bytes: &[u8]) -> Option<Wire> {
        let mut wire = Wire { key: Vec::new(), end: None, outside: false, data: None };
        for (kind, payload) in attributes(bytes) {
            let value = || attributes(payload).find(|(kind, _)| *kind == 1).map(|(_, bytes)| bytes.to_vec());
            match kind {
                1 => wire.key = value()?,
                2 => wire.data = Some(read_data(payload)?),
                3 => wire.outside = super::read_number(payload)? & INTERVAL_END != 0,
                10 => wire.end = Some(value()?),
                _ => {}
            }
        }
        (!wire.key.is_empty()).then_some(wire)
    }
}

fn read_data(payload: &[u8]) -> Option<WireData> {
    let (kind, inside) = attributes(payload).next()?;
    if kind == 1 {
        return Some(WireData::Bytes(inside.to_vec()));
    }
    let mut code = 0;
    let mut chain = None;
    for (kind, payload) in attributes(inside) {
        match kind {
            1 => code = super::read_number(payload)?.cast_signed(),
            2 => chain = Some(hull_sys::netlink::message::string(payload)),
            _ => {}
        }
    }
    Some(WireData::Verdict { code, chain })
}

impl std::fmt::Display for Wire {
    /// Bytes as they are: what is not ours has no better words.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for byte in &self.key {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}
