//! Files of a user namespace as somebody outside of it reads them.
//!
//! In there, root has no power over what belongs to nobody of the namespace, and could not copy all that is
//! mounted for it. Outside, the host's root reads everything and sees the host's ids. So in what is read each
//! id of the namespace and what it is outside change places: the files have the ids that they have inside,
//! and whom the namespace does not know keeps an id of its own.

use hull_oci::runtime::IdMapping;

/// The maps of a user namespace (user_namespaces(7)); without any, ids are as they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ids<'a> {
    pub uids: &'a [IdMapping],
    pub gids: &'a [IdMapping],
}

/// What gives a program capabilities: `struct vfs_ns_cap_data` of linux/capability.h.
const CAPABILITY: &[u8] = b"security.capability";
/// `VFS_CAP_REVISION_MASK`, and the revisions without and with the id of a namespace's root behind.
const REVISION: u32 = 0xff00_0000;
const PLAIN: u32 = 0x0200_0000;
const ROOTED: u32 = 0x0300_0000;
/// Bytes of the first of them.
const PLAIN_LENGTH: usize = 20;

/// Access control lists: `struct posix_acl_xattr_header` and `…_entry` of linux/posix_acl_xattr.h.
const ACL: &[u8] = b"system.posix_acl_";
const ACL_HEADER: usize = 4;
const ACL_ENTRY: usize = 8;
/// Tags of entries that name somebody (linux/posix_acl.h).
const ACL_USER: u16 = 2;
const ACL_GROUP: u16 = 8;

impl Ids<'_> {
    pub(super) fn uid(&self, outside: u32) -> u32 {
        swapped(outside, self.uids)
    }

    pub(super) fn gid(&self, outside: u32) -> u32 {
        swapped(outside, self.gids)
    }

    /// The value of an extended attribute.
    pub(super) fn attribute(&self, name: &[u8], mut value: Vec<u8>) -> Vec<u8> {
        if self.uids.is_empty() && self.gids.is_empty() {
            return value;
        }
        if name == CAPABILITY {
            return self.capability(value);
        }
        if name.starts_with(ACL) && value.len() >= ACL_HEADER {
            for entry in value[ACL_HEADER..].chunks_exact_mut(ACL_ENTRY) {
                let id = word(entry, 4);
                let seen = match u16::from_le_bytes([entry[0], entry[1]]) {
                    ACL_USER => self.uid(id),
                    ACL_GROUP => self.gid(id),
                    _ => continue,
                };
                entry[4..].copy_from_slice(&seen.to_le_bytes());
            }
        }
        value
    }

    /// It counts in the namespace whose root it names; the host's is not named.
    fn capability(&self, mut value: Vec<u8>) -> Vec<u8> {
        if value.len() < PLAIN_LENGTH {
            return value;
        }
        let magic = word(&value, 0);
        let root = match (magic & REVISION, value.len()) {
            (PLAIN, PLAIN_LENGTH) => 0,
            (ROOTED, 24) => word(&value, PLAIN_LENGTH),
            _ => return value,
        };
        value.truncate(PLAIN_LENGTH);
        let revision = match self.uid(root) {
            0 => PLAIN,
            root => {
                value.extend(root.to_le_bytes());
                ROOTED
            }
        };
        value[..4].copy_from_slice(&(magic & !REVISION | revision).to_le_bytes());
        value
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn swapped(id: u32, maps: &[IdMapping]) -> u32 {
    let place = |from: u32, to: u32, size: u32| {
        let offset = id.checked_sub(from).filter(|offset| *offset < size)?;
        to.checked_add(offset)
    };
    let inside = maps.iter().find_map(|map| place(map.host_id, map.container_id, map.size));
    let outside = || maps.iter().find_map(|map| place(map.container_id, map.host_id, map.size));
    inside.or_else(outside).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: [IdMapping; 1] = [IdMapping { container_id: 0, host_id: 100_000, size: 65_536 }];
    const IDS: Ids<'static> = Ids { uids: &MAPS, gids: &MAPS };

    #[test]
    fn what_is_inside_and_what_it_is_outside_change_places() {
        for (outside, seen) in
            [(100_000, 0), (165_535, 65_535), (165_536, 165_536), (0, 100_000), (90_000, 90_000)]
        {
            assert_eq!(IDS.uid(outside), seen);
            assert_eq!(IDS.gid(outside), seen);
            assert_eq!(Ids::default().uid(outside), outside);
        }
    }

    #[test]
    fn capabilities_count_in_the_namespace_whose_root_they_name() {
        let body = [7; 16];
        let plain = [&0x0200_0001_u32.to_le_bytes()[..], &body].concat();
        let rooted = |root: u32| [&0x0300_0001_u32.to_le_bytes()[..], &body, &root.to_le_bytes()].concat();
        let seen = |value: &[u8]| IDS.attribute(CAPABILITY, value.to_vec());
        assert_eq!(seen(&rooted(100_000)), plain);
        assert_eq!(seen(&plain), rooted(100_000));
        assert_eq!(seen(&rooted(100_005)), rooted(5));
        for odd in [&b""[..], b"\0\0\0\x02", &[0xff; 21]] {
            assert_eq!(seen(odd), odd);
        }
        assert_eq!(Ids::default().attribute(CAPABILITY, rooted(100_000)), rooted(100_000));
    }

    #[test]
    fn lists_of_access_name_the_same_users() {
        let entry =
            |tag: u16, id: u32| [&tag.to_le_bytes()[..], &6_u16.to_le_bytes(), &id.to_le_bytes()].concat();
        let list = |user: u32, group: u32| {
            let entries = [entry(1, u32::MAX), entry(2, user), entry(8, group), entry(0x20, u32::MAX)];
            [&2_u32.to_le_bytes()[..], &entries.concat()].concat()
        };
        let seen = IDS.attribute(b"system.posix_acl_access", list(101_234, 100_567));
        assert_eq!(seen, list(1234, 567));
        let short = IDS.attribute(b"system.posix_acl_default", vec![2, 0]);
        assert_eq!(short, [2, 0]);
        assert_eq!(IDS.attribute(b"user.x", list(101_234, 0)), list(101_234, 0));
    }
}
