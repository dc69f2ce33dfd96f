//! Names of archive members: how they are brought to their one form.

use super::Malformed;

/// Brings a member's name to its one form: components joined by single slashes,
/// without `.`, without a leading or trailing slash. The empty result is the
/// root. `..` anywhere, NUL bytes and the empty name are refused: what they mean
/// differs between readers, and no honest writer makes them.
pub fn normalise(name: &[u8]) -> Result<Vec<u8>, Malformed> {
    if name.is_empty() {
        return Err(Malformed::EmptyName);
    }
    if name.contains(&0) {
        return Err(Malformed::NulName);
    }
    let mut normal = Vec::with_capacity(name.len());
    for component in name.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(Malformed::ParentName),
            component => {
                if !normal.is_empty() {
                    normal.push(b'/');
                }
                normal.extend_from_slice(component);
            }
        }
    }
    Ok(normal)
}
