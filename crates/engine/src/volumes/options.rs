//! What the options of the local driver mean: pure.
//!
//! Without options a volume is a folder. With `type` and `device` it is a file system that is
//! mounted over that folder, and `o` has its options as mount(8) takes them: `nfs`, `cifs`,
//! `btrfs`, `tmpfs` and all others that the kernel knows, and with `o=bind` a folder of the host.

use std::collections::BTreeMap;

use rustix::mount::MountFlags;

/// What `type` needs beside it, and so on; the reference's table.
const MANDATORY: [(&str, &[&str]); 3] =
    [("device", &["type"]), ("o", &["device", "type"]), ("type", &["device"])];

/// A mount over the volume's folder, in the words of mount(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// Nothing for a bind mount.
    pub(super) kind: String,
    pub(super) device: String,
    pub(super) flags: MountFlags,
    /// The file system's own.
    pub(super) options: String,
}

/// The words of mount(8) that are flags; those with `false` take one back.
const FLAGS: [(&str, bool, MountFlags); 25] = [
    ("async", false, MountFlags::SYNCHRONOUS),
    ("atime", false, MountFlags::NOATIME),
    ("bind", true, MountFlags::BIND),
    ("defaults", true, MountFlags::empty()),
    ("dev", false, MountFlags::NODEV),
    ("diratime", false, MountFlags::NODIRATIME),
    ("dirsync", true, MountFlags::DIRSYNC),
    ("exec", false, MountFlags::NOEXEC),
    ("lazytime", true, MountFlags::LAZYTIME),
    ("mand", true, MountFlags::PERMIT_MANDATORY_FILE_LOCKING),
    ("noatime", true, MountFlags::NOATIME),
    ("nodev", true, MountFlags::NODEV),
    ("nodiratime", true, MountFlags::NODIRATIME),
    ("noexec", true, MountFlags::NOEXEC),
    ("nomand", false, MountFlags::PERMIT_MANDATORY_FILE_LOCKING),
    ("norelatime", false, MountFlags::RELATIME),
    ("nostrictatime", false, MountFlags::STRICTATIME),
    ("nosuid", true, MountFlags::NOSUID),
    ("rbind", true, MountFlags::BIND.union(MountFlags::REC)),
    ("relatime", true, MountFlags::RELATIME),
    ("ro", true, MountFlags::RDONLY),
    ("rw", false, MountFlags::RDONLY),
    ("strictatime", true, MountFlags::STRICTATIME),
    ("suid", false, MountFlags::NOSUID),
    ("sync", true, MountFlags::SYNCHRONOUS),
];

/// # Errors
/// In the reference's words.
pub(super) fn check(options: &BTreeMap<String, String>) -> Result<(), String> {
    if let Some(unknown) = options.keys().find(|key| !["type", "o", "device", "size"].contains(&key.as_str()))
    {
        return Err(format!("invalid option: {unknown:?}"));
    }
    for (option, others) in MANDATORY {
        let missing = others.iter().find(|other| !options.contains_key(**other));
        if let Some(missing) = missing.filter(|_| options.contains_key(option)) {
            return Err(format!("missing required option: {missing:?}"));
        }
    }
    if let Some(size) = options.get("size") {
        if !size.bytes().next().is_some_and(|byte| byte.is_ascii_digit()) {
            return Err(format!("invalid size: '{size}'"));
        }
        // A folder has no size of its own to limit.
        if options.get("type").map(String::as_str) != Some("tmpfs") {
            return Err("quota size requested but no quota support".to_owned());
        }
    }
    Ok(())
}

/// `None`: nothing is mounted, it is a folder.
pub(super) fn plan(options: &BTreeMap<String, String>) -> Option<Plan> {
    let text = |key: &str| options.get(key).cloned().unwrap_or_default();
    if !options.contains_key("type") {
        return None;
    }
    let (mut flags, mut own) = (MountFlags::empty(), Vec::new());
    let words = text("o");
    for word in words.split(',').filter(|word| !word.is_empty()) {
        match FLAGS.iter().find(|(name, ..)| *name == word) {
            Some((_, true, flag)) => flags |= *flag,
            Some((_, false, flag)) => flags -= *flag,
            None => own.push(word.to_owned()),
        }
    }
    own.extend(options.get("size").map(|size| format!("size={size}")));
    Some(Plan { kind: text("type"), device: text("device"), flags, options: own.join(",") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn options_are_checked_in_the_references_words() {
        let refused = |pairs: &[(&str, &str)]| check(&map(pairs)).unwrap_err();
        assert_eq!(refused(&[("nope", "1")]), "invalid option: \"nope\"");
        assert_eq!(refused(&[("type", "tmpfs")]), "missing required option: \"device\"");
        assert_eq!(refused(&[("o", "bind"), ("device", "/x")]), "missing required option: \"type\"");
        assert_eq!(refused(&[("size", "1m")]), "quota size requested but no quota support");
        assert_eq!(refused(&[("size", "big")]), "invalid size: 'big'");
        for good in [&[][..], &[("type", "none"), ("device", "/x"), ("o", "bind")]] {
            assert_eq!(check(&map(good)), Ok(()));
        }
        assert_eq!(check(&map(&[("type", "tmpfs"), ("device", "tmpfs"), ("size", "1m")])), Ok(()));
    }

    #[test]
    fn words_of_mount_become_flags_and_the_file_systems_own() {
        assert_eq!(plan(&map(&[])), None);
        let words = "size=1m,uid=1000,ro,nosuid,noexec,exec,noatime,huge";
        let own = [("type", "tmpfs"), ("device", "tmpfs"), ("o", words), ("size", "2m")];
        let tmpfs = Plan {
            kind: "tmpfs".into(),
            device: "tmpfs".into(),
            flags: MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NOATIME,
            options: "size=1m,uid=1000,huge,size=2m".into(),
        };
        assert_eq!(plan(&map(&own)), Some(tmpfs));
        let bind = plan(&map(&[("type", "none"), ("device", "/srv"), ("o", "rbind,nodev")])).unwrap();
        assert_eq!(bind.flags, MountFlags::BIND | MountFlags::REC | MountFlags::NODEV);
        assert_eq!((bind.device.as_str(), bind.options.as_str()), ("/srv", ""));
    }
}
