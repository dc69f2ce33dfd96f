//! PAX extended headers: `LENGTH KEY=VALUE\n` records (POSIX.1-2017 pax(1)).

use super::{Malformed, Time};

/// What the PAX header of one entry said. An absent or empty value leaves the
/// ustar field in force.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) linkpath: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Sparse,
}

/// The `GNU.sparse.*` keys, in all three versions of that format.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) realsize: Option<u64>,
    pub(super) numblocks: Option<u64>,
    /// Offsets and lengths in turn: version 0.1's map, or 0.0's repeated keys.
    pub(super) map: Option<Vec<u64>>,
    repeated: Vec<u64>,
}

impl Sparse {
    pub(super) fn is_empty(&self) -> bool {
        self.major.is_none()
            && self.minor.is_none()
            && self.name.is_none()
            && self.size.is_none()
            && self.realsize.is_none()
            && self.numblocks.is_none()
            && self.map.is_none()
    }
}

impl Pax {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut pax = Self::default();
        records(bytes, |key, value| pax.record(key, value))?;
        if !pax.sparse.repeated.is_empty() {
            if pax.sparse.map.is_some() || pax.sparse.repeated.len() % 2 != 0 {
                return Err(Malformed::SparseMap);
            }
            pax.sparse.map = Some(std::mem::take(&mut pax.sparse.repeated));
        }
        Ok(pax)
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), Malformed> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            if name.is_empty() {
                return Err(Malformed::PaxRecord);
            }
            let name = decode(name);
            self.xattrs.retain(|(known, _)| *known != name);
            self.xattrs.push((name, value.to_vec()));
            return Ok(());
        }
        if value.is_empty() {
            return Ok(());
        }
        match key {
            b"path" => self.path = Some(name(value)?),
            b"linkpath" => self.linkpath = Some(name(value)?),
            b"size" => self.size = Some(decimal(value, "size")?),
            b"uid" => self.uid = Some(decimal(value, "uid")?),
            b"gid" => self.gid = Some(decimal(value, "gid")?),
            b"mtime" => self.mtime = Some(time(value).ok_or(Malformed::Number("mtime"))?),
            key => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse_record(key, value)?;
                }
            }
        }
        Ok(())
    }

    fn sparse_record(&mut self, key: &[u8], value: &[u8]) -> Result<(), Malformed> {
        let sparse = &mut self.sparse;
        match key {
            b"major" => sparse.major = Some(decimal(value, "GNU.sparse.major")?),
            b"minor" => sparse.minor = Some(decimal(value, "GNU.sparse.minor")?),
            b"name" => sparse.name = Some(name(value)?),
            b"size" => sparse.size = Some(decimal(value, "GNU.sparse.size")?),
            b"realsize" => sparse.realsize = Some(decimal(value, "GNU.sparse.realsize")?),
            b"numblocks" => sparse.numblocks = Some(decimal(value, "GNU.sparse.numblocks")?),
            b"offset" | b"numbytes" => {
                // They come in pairs, the offset first.
                if (key == b"offset") != sparse.repeated.len().is_multiple_of(2) {
                    return Err(Malformed::SparseMap);
                }
                sparse.repeated.push(decimal(value, "GNU.sparse.offset")?);
            }
            b"map" => {
                let numbers = value.split(|&byte| byte == b',').map(|n| decimal(n, "GNU.sparse.map"));
                sparse.map = Some(numbers.collect::<Result<_, _>>()?);
            }
            _ => {}
        }
        Ok(())
    }
}

/// Checks a global header: it may say nothing about entries. (Go's reader
/// ignores such values, GNU tar applies them, so we refuse them.)
pub(super) fn check_global(bytes: &[u8]) -> Result<(), Malformed> {
    records(bytes, |key, _| {
        let values: [&[u8]; 6] = [b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"];
        let prefixes: [&[u8]; 2] = [b"SCHILY.", b"GNU."];
        if values.contains(&key) || prefixes.iter().any(|prefix| key.starts_with(prefix)) {
            return Err(Malformed::GlobalValue);
        }
        Ok(())
    })
}

/// Calls `each` with every record's key and value.
fn records(
    mut bytes: &[u8],
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    while !bytes.is_empty() {
        let space = bytes.iter().take(20).position(|&byte| byte == b' ').ok_or(Malformed::PaxRecord)?;
        let length = decimal(&bytes[..space], "PAX record").map_err(|_| Malformed::PaxRecord)?;
        let length = usize::try_from(length).map_err(|_| Malformed::PaxRecord)?;
        if bytes[0] == b'0' || length < space + 3 || length > bytes.len() || bytes[length - 1] != b'\n' {
            return Err(Malformed::PaxRecord);
        }
        let record = &bytes[space + 1..length - 1];
        let equals = record.iter().position(|&byte| byte == b'=').ok_or(Malformed::PaxRecord)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if key.is_empty() || key.contains(&0) {
            return Err(Malformed::PaxRecord);
        }
        each(key, value)?;
        bytes = &bytes[length..];
    }
    Ok(())
}

fn name(value: &[u8]) -> Result<Vec<u8>, Malformed> {
    if value.contains(&0) { Err(Malformed::NulName) } else { Ok(value.to_vec()) }
}

/// Digits only: no sign, no space. At most 2⁶³-1, as file sizes are.
pub(super) fn decimal(digits: &[u8], field: &'static str) -> Result<u64, Malformed> {
    let number = std::str::from_utf8(digits)
        .ok()
        .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse::<i64>().ok())
        .and_then(|number| u64::try_from(number).ok());
    number.ok_or(Malformed::Number(field))
}

/// An attribute's name as a key, which cannot hold `=`: GNU tar's way (xattrs.c).
pub(super) fn encode(name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len());
    for byte in name {
        match byte {
            b'%' => key.extend_from_slice(b"%25"),
            b'=' => key.extend_from_slice(b"%3D"),
            byte => key.push(*byte),
        }
    }
    key
}

fn decode(key: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(key.len());
    let mut rest = key;
    while let Some((&first, tail)) = rest.split_first() {
        let (byte, after) = match tail {
            [b'2', b'5', tail @ ..] if first == b'%' => (b'%', tail),
            [b'3', b'D', tail @ ..] if first == b'%' => (b'=', tail),
            tail => (first, tail),
        };
        name.push(byte);
        rest = after;
    }
    name
}

/// `[-]SECONDS[.FRACTION]`; digits below a nanosecond are dropped.
fn time(value: &[u8]) -> Option<Time> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(value) => (true, value),
        None => (false, value),
    };
    let (seconds, fraction) = match value.iter().position(|&byte| byte == b'.') {
        Some(point) => (&value[..point], &value[point + 1..]),
        None => (value, &b""[..]),
    };
    if seconds.is_empty() || !seconds.iter().chain(fraction).all(u8::is_ascii_digit) {
        return None;
    }
    let mut nanoseconds = 0;
    for place in 0..9 {
        nanoseconds = nanoseconds * 10 + u32::from(fraction.get(place).map_or(0, |digit| digit - b'0'));
    }
    let whole: i128 = std::str::from_utf8(seconds).ok()?.parse::<u64>().ok()?.into();
    let (seconds, nanoseconds) = match (negative, nanoseconds) {
        (false, nanoseconds) => (whole, nanoseconds),
        (true, 0) => (-whole, 0),
        (true, nanoseconds) => (-whole - 1, 1_000_000_000 - nanoseconds),
    };
    Some(Time { seconds: i64::try_from(seconds).ok()?, nanoseconds })
}
