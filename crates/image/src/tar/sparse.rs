//! Maps of sparse files: old GNU (`S` headers) and PAX 0.0, 0.1, 1.0.
//!
//! Source: GNU tar manual, "Storing Sparse Files".

use super::header::unsigned;
use super::{Extent, Malformed};

/// Adds the `count` map entries (two 12-byte numbers each) of an old GNU header
/// or of one of its extension blocks. An entry that starts with NUL ends the map.
pub(super) fn old_gnu(fields: &[u8], extents: &mut Vec<Extent>) -> Result<(), Malformed> {
    for field in fields.as_chunks::<24>().0 {
        if field[0] == 0 || field[12] == 0 {
            break;
        }
        let offset = unsigned(&field[..12], "sparse offset")?;
        let length = unsigned(&field[12..], "sparse length")?;
        extents.push(Extent { offset, length });
    }
    Ok(())
}

/// Makes extents of `offset, length, offset, length…`.
pub(super) fn pairs(numbers: &[u64]) -> Result<Vec<Extent>, Malformed> {
    let (pairs, rest) = numbers.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Malformed::SparseMap);
    }
    Ok(pairs.iter().map(|&[offset, length]| Extent { offset, length }).collect())
}

/// Checks a map against the file's size and the bytes stored, and drops the
/// empty extents that some writers put at the end.
pub(super) fn check(mut extents: Vec<Extent>, size: u64, stored: u64) -> Result<Vec<Extent>, Malformed> {
    let mut end = 0u64;
    let mut sum = 0u64;
    for extent in &extents {
        if extent.offset < end {
            return Err(Malformed::SparseMap);
        }
        end = extent.offset.checked_add(extent.length).ok_or(Malformed::SparseMap)?;
        sum += extent.length;
    }
    if end > size || sum != stored {
        return Err(Malformed::SparseMap);
    }
    extents.retain(|extent| extent.length > 0);
    Ok(extents)
}
