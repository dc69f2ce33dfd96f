//! What a program says it needs: a reader of just those parts of ELF (elf(5), System V
//! ABI chapters 4 and 5).
//!
//! Bytes of a file in; every offset is checked, so a damaged file gives `None` and never
//! a panic.

/// The parts of an ELF file that a dynamic loader looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Elf {
    /// 32 or 64 bits, and the machine: a library must agree with what needs it.
    pub(crate) kind: (u8, u16),
    /// `PT_INTERP`: the loader. None for a static program or a library.
    pub(crate) loader: Option<String>,
    /// `DT_NEEDED`
    pub(crate) needed: Vec<String>,
    /// `DT_RPATH`, split at colons; ignored by loaders if there is a runpath.
    pub(crate) rpath: Vec<String>,
    /// `DT_RUNPATH`, split at colons.
    pub(crate) runpath: Vec<String>,
}

const MAGIC: &[u8] = b"\x7fELF";
const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;

/// True for the first bytes of an ELF file.
pub(crate) fn is_elf(start: &[u8]) -> bool {
    start.starts_with(MAGIC)
}

struct Bytes<'a> {
    bytes: &'a [u8],
    wide: bool,
    little: bool,
}

/// A piece of the file that is mapped to memory.
#[derive(Clone, Copy)]
struct Segment {
    kind: u64,
    offset: u64,
    address: u64,
    size: u64,
}

impl<'a> Bytes<'a> {
    fn number(&self, at: u64, len: usize) -> Option<u64> {
        let start = usize::try_from(at).ok()?;
        let bytes = self.bytes.get(start..start.checked_add(len)?)?;
        let add = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        Some(if self.little { bytes.iter().rev().fold(0, add) } else { bytes.iter().fold(0, add) })
    }

    /// A number of the file's word size.
    fn word(&self, at: u64) -> Option<u64> {
        self.number(at, if self.wide { 8 } else { 4 })
    }

    fn text(&self, at: u64) -> Option<String> {
        let rest = self.bytes.get(usize::try_from(at).ok()?..)?;
        let end = rest.iter().take(4096).position(|byte| *byte == 0)?;
        String::from_utf8(rest[..end].to_vec()).ok()
    }

    fn segments(&self) -> Option<Vec<Segment>> {
        let (table, entry_size, count) = match self.wide {
            true => (self.word(32)?, self.number(54, 2)?, self.number(56, 2)?),
            false => (self.word(28)?, self.number(42, 2)?, self.number(44, 2)?),
        };
        let (offset, address, size) = if self.wide { (8, 16, 32) } else { (4, 8, 16) };
        (0..count)
            .map(|index| {
                let at = table.checked_add(index.checked_mul(entry_size)?)?;
                Some(Segment {
                    kind: self.number(at, 4)?,
                    offset: self.word(at.checked_add(offset)?)?,
                    address: self.word(at.checked_add(address)?)?,
                    size: self.word(at.checked_add(size)?)?,
                })
            })
            .collect()
    }
}

/// Reads a whole file; `None` if it is not a sound ELF file.
pub(crate) fn parse(bytes: &[u8]) -> Option<Elf> {
    if !is_elf(bytes) {
        return None;
    }
    let class = *bytes.get(4)?;
    let bytes = Bytes { bytes, wide: class == 2, little: *bytes.get(5)? == 1 };
    let mut elf = Elf { kind: (class, u16::try_from(bytes.number(18, 2)?).ok()?), ..Elf::default() };
    let segments = bytes.segments()?;
    for segment in &segments {
        if segment.kind == PT_INTERP {
            elf.loader = Some(bytes.text(segment.offset)?);
        }
    }
    let Some(dynamic) = segments.iter().find(|segment| segment.kind == PT_DYNAMIC) else {
        return Some(elf);
    };
    let step = if bytes.wide { 8 } else { 4 };
    let mut entries = Vec::new();
    for index in 0..dynamic.size / (2 * step) {
        let at = dynamic.offset.checked_add(index * 2 * step)?;
        let tag = bytes.word(at)?;
        if tag == DT_NULL {
            break;
        }
        entries.push((tag, bytes.word(at.checked_add(step)?)?));
    }
    let strings = entries.iter().find(|(tag, _)| *tag == DT_STRTAB).map(|(_, address)| *address);
    let Some(strings) = strings.and_then(|address| file_offset(&segments, address)) else {
        return Some(elf);
    };
    for (tag, value) in entries {
        let list = match tag {
            DT_NEEDED => {
                elf.needed.push(bytes.text(strings.checked_add(value)?)?);
                continue;
            }
            DT_RPATH => &mut elf.rpath,
            DT_RUNPATH => &mut elf.runpath,
            _ => continue,
        };
        let text = bytes.text(strings.checked_add(value)?)?;
        list.extend(text.split(':').filter(|part| !part.is_empty()).map(str::to_owned));
    }
    Some(elf)
}

/// Where in the file the byte at a memory address is.
fn file_offset(segments: &[Segment], address: u64) -> Option<u64> {
    let holds = |segment: &&Segment| {
        segment.kind == PT_LOAD && address.checked_sub(segment.address).is_some_and(|at| at < segment.size)
    };
    let segment = segments.iter().find(holds)?;
    segment.offset.checked_add(address - segment.address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_itself_is_read() {
        let bytes = std::fs::read("/proc/self/exe").unwrap();
        let elf = parse(&bytes).unwrap();
        assert!(elf.loader.as_deref().is_some_and(|loader| loader.contains("/ld")), "{elf:?}");
        assert!(elf.needed.iter().any(|name| name.starts_with("libc.")), "{elf:?}");
    }

    #[test]
    fn damaged_files_never_panic() {
        let whole = std::fs::read("/proc/self/exe").unwrap();
        let mut bytes = whole[..4096.min(whole.len())].to_vec();
        let mut seed: u64 = 88_172_645_463_325_252;
        for _ in 0..20_000 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let at = usize::try_from(seed % 400).unwrap();
            let old = bytes[at];
            bytes[at] = seed.to_le_bytes()[5];
            let _ = parse(&bytes);
            if seed.is_multiple_of(3) {
                bytes[at] = old;
            }
        }
        for len in 0..200 {
            let _ = parse(&whole[..len]);
        }
        assert_eq!(parse(b"#!/bin/sh"), None);
    }
}
