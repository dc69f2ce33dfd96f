//! The 512-byte header block: fields, numbers, checksum.
//!
//! Offsets are those of `struct posix_header` and `struct oldgnu_header` in the
//! GNU tar manual, "Basic Tar Format".

use super::{BLOCK, Malformed};

/// Which dialect the header's magic announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    V7,
    Ustar,
    Gnu,
}

/// A header block whose checksum has been verified.
pub(super) struct Header {
    pub(super) block: [u8; BLOCK],
    pub(super) dialect: Dialect,
}

impl Header {
    pub(super) fn parse(block: [u8; BLOCK]) -> Result<Self, Malformed> {
        let stored = octal(&block[148..156]).ok_or(Malformed::Checksum)?;
        if block[148..156].iter().all(|&byte| byte == 0 || byte == b' ') || stored != checksum(&block) {
            return Err(Malformed::Checksum);
        }
        let dialect = match &block[257..265] {
            b"ustar\x0000" => Dialect::Ustar,
            b"ustar  \0" => Dialect::Gnu,
            magic if magic.iter().all(|&byte| byte == 0) => Dialect::V7,
            // Some writers leave the version out or fill it with NUL or spaces.
            magic if magic[..6] == *b"ustar\0" && magic[6..].iter().all(|b| *b == 0 || *b == b' ') => {
                Dialect::Ustar
            }
            _ => return Err(Malformed::Magic),
        };
        Ok(Self { block, dialect })
    }

    pub(super) fn kind(&self) -> u8 {
        self.block[156]
    }

    /// Name as the header alone tells it, with the ustar prefix before it.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(&self.block[..100]);
        let prefix: &[u8] = if self.dialect == Dialect::Ustar { text(&self.block[345..500]) } else { b"" };
        if prefix.is_empty() {
            return name.to_vec();
        }
        let mut joined = prefix.to_vec();
        joined.push(b'/');
        joined.extend_from_slice(name);
        joined
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.block[157..257]).to_vec()
    }

    pub(super) fn mode(&self) -> Result<u32, Malformed> {
        // Writers differ in whether the file's type is in these bits.
        let mode = unsigned(&self.block[100..108], "mode")?;
        u32::try_from(mode).map(|mode| mode & 0o7777).map_err(|_| Malformed::Number("mode"))
    }

    pub(super) fn uid(&self) -> Result<u64, Malformed> {
        unsigned(&self.block[108..116], "uid")
    }

    pub(super) fn gid(&self) -> Result<u64, Malformed> {
        unsigned(&self.block[116..124], "gid")
    }

    pub(super) fn size(&self) -> Result<u64, Malformed> {
        unsigned(&self.block[124..136], "size")
    }

    pub(super) fn mtime(&self) -> Result<i64, Malformed> {
        signed(&self.block[136..148]).ok_or(Malformed::Number("mtime"))
    }

    pub(super) fn device(&self) -> Result<(u32, u32), Malformed> {
        if self.dialect == Dialect::V7 {
            return Err(Malformed::Number("device"));
        }
        // Linux: 12 bits of major, 20 of minor number (include/linux/kdev_t.h).
        let number = |field: &[u8], bits: u32, name| match unsigned(field, name)? {
            number if number >> bits == 0 => u32::try_from(number).map_err(|_| Malformed::Number(name)),
            _ => Err(Malformed::Number(name)),
        };
        let major = number(&self.block[329..337], 12, "devmajor")?;
        let minor = number(&self.block[337..345], 20, "devminor")?;
        Ok((major, minor))
    }
}

/// The sum of all bytes, with the checksum field itself counted as spaces.
pub(super) fn checksum(block: &[u8; BLOCK]) -> u64 {
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>();
    sum(&block[..148]) + 8 * u64::from(b' ') + sum(&block[156..])
}

/// A text field: up to the first NUL, or the whole field.
pub(super) fn text(field: &[u8]) -> &[u8] {
    match field.iter().position(|&byte| byte == 0) {
        Some(end) => &field[..end],
        None => field,
    }
}

/// A number field that may not be negative.
pub(super) fn unsigned(field: &[u8], name: &'static str) -> Result<u64, Malformed> {
    signed(field).and_then(|number| u64::try_from(number).ok()).ok_or(Malformed::Number(name))
}

/// Octal digits, or base-256 (GNU): bit 7 of the first byte marks it, bit 6 is
/// the sign, the rest is a big-endian two's complement number.
fn signed(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 == 0 {
        return octal(field).and_then(|number| i64::try_from(number).ok());
    }
    let negative = first & 0x40 != 0;
    let mut number: i128 = if negative { -1 } else { 0 };
    number = (number << 6) | i128::from(first & 0x3f);
    for &byte in &field[1..] {
        number = (number << 8) | i128::from(byte);
    }
    i64::try_from(number).ok()
}

/// Spaces, octal digits, then only spaces and NULs. A blank field is 0.
fn octal(field: &[u8]) -> Option<u64> {
    let start = field.iter().position(|&byte| byte != b' ').unwrap_or(field.len());
    let digits = field[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = field[start..].split_at(digits);
    if !rest.iter().all(|&byte| byte == 0 || byte == b' ') {
        return None;
    }
    digits.iter().try_fold(0u64, |number, &digit| match digit {
        b'0'..=b'7' => number.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}
