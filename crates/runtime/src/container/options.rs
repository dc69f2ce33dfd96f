//! Mount options of the OCI specification (`config.md#linux-mount-options`) as changes of mount
//! attributes and data for the file system. Pure.

use hull_sys::mount::{
    ATIME, NO_ATIME, NO_DEV, NO_DIR_ATIME, NO_EXEC, NO_SUID, NO_SYMLINKS, Propagation, READ_ONLY,
    STRICT_ATIME,
};

/// Attributes to set and to clear (`MOUNT_ATTR_…`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) set: u64,
    pub(super) clear: u64,
}

impl Change {
    pub(super) fn is_none(self) -> bool {
        self == Change::default()
    }

    /// A later option has the last word.
    fn apply(&mut self, on: bool, bits: u64) {
        if bits & ATIME != 0 || bits == 0 {
            // The atime mode is one value of three bits; relatime is zero.
            self.set &= !ATIME;
            self.clear |= ATIME;
            if on {
                self.set |= bits;
            }
        } else if on {
            self.set |= bits;
            self.clear &= !bits;
        } else {
            self.clear |= bits;
            self.set &= !bits;
        }
    }
}

/// The options of one mount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// A bind mount; with true of all that is mounted below the source too.
    pub(super) bind: Option<bool>,
    pub(super) change: Change,
    /// Of the mount and all below it.
    pub(super) recursive: Change,
    /// In order; with true recursively.
    pub(super) propagation: Vec<(Propagation, bool)>,
    /// Map the ids of a bind mount as the container's user namespace does; with true of all that is
    /// mounted below its source too.
    pub(super) idmap: Option<bool>,
    /// Start a tmpfs with what the image has at its place.
    pub(super) copy_up: bool,
    /// What the file system itself understands: `size=64k`.
    pub(super) data: Vec<String>,
}

/// Option, whether it sets or clears, and the bits.
const ATTRIBUTES: [(&str, bool, u64); 20] = [
    ("ro", true, READ_ONLY),
    ("rw", false, READ_ONLY),
    ("nosuid", true, NO_SUID),
    ("suid", false, NO_SUID),
    ("nodev", true, NO_DEV),
    ("dev", false, NO_DEV),
    ("noexec", true, NO_EXEC),
    ("exec", false, NO_EXEC),
    ("nosymfollow", true, NO_SYMLINKS),
    ("symfollow", false, NO_SYMLINKS),
    ("nodiratime", true, NO_DIR_ATIME),
    ("diratime", false, NO_DIR_ATIME),
    ("noatime", true, NO_ATIME),
    ("atime", false, NO_ATIME),
    ("strictatime", true, STRICT_ATIME),
    ("nostrictatime", false, STRICT_ATIME),
    ("relatime", true, 0),
    ("norelatime", false, 0),
    ("defaults", false, u64::MAX),
    ("loud", false, u64::MAX),
];

const PROPAGATIONS: [(&str, Propagation); 4] = [
    ("private", Propagation::Private),
    ("slave", Propagation::Slave),
    ("shared", Propagation::Shared),
    ("unbindable", Propagation::Unbindable),
];

pub(super) fn propagation(word: &str) -> Option<(Propagation, bool)> {
    let find = |word: &str| PROPAGATIONS.iter().find(|(name, _)| *name == word).map(|(_, kind)| *kind);
    find(word).map(|kind| (kind, false)).or_else(|| Some((find(word.strip_prefix('r')?)?, true)))
}

fn attribute(word: &str) -> Option<(bool, u64)> {
    ATTRIBUTES.iter().find(|(name, ..)| *name == word).map(|(_, on, bits)| (*on, *bits))
}

/// Reads the options of a mount of type `kind`.
pub(super) fn parse(kind: &str, words: &[String]) -> Options {
    let mut options = Options { bind: (kind == "bind").then_some(false), ..Options::default() };
    for word in words {
        match word.as_str() {
            "bind" => options.bind = Some(options.bind.unwrap_or(false)),
            "rbind" => options.bind = Some(true),
            "tmpcopyup" => options.copy_up = true,
            "idmap" => options.idmap = Some(options.idmap.unwrap_or(false)),
            "ridmap" => options.idmap = Some(true),
            word => {
                if let Some(change) = propagation(word) {
                    options.propagation.push(change);
                } else if let Some((on, bits)) = attribute(word) {
                    if bits != u64::MAX {
                        options.change.apply(on, bits);
                    }
                } else if let Some((on, bits)) = word.strip_prefix('r').and_then(attribute) {
                    options.recursive.apply(on, bits);
                } else {
                    options.data.push(word.to_owned());
                }
            }
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(kind: &str, words: &str) -> Options {
        parse(kind, &words.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn words_become_attributes_and_the_rest_is_data() {
        let options = parsed("tmpfs", "nosuid,strictatime,mode=755,size=65536k");
        assert_eq!(options.change, Change { set: NO_SUID | STRICT_ATIME, clear: ATIME });
        assert_eq!(options.data, ["mode=755", "size=65536k"]);
        assert_eq!(options.bind, None);
    }

    #[test]
    fn the_last_of_opposites_counts() {
        assert_eq!(parsed("", "ro,rw").change, Change { set: 0, clear: READ_ONLY });
        assert_eq!(parsed("", "rw,ro").change, Change { set: READ_ONLY, clear: 0 });
        assert_eq!(parsed("", "noatime,relatime").change, Change { set: 0, clear: ATIME });
    }

    #[test]
    fn an_r_in_front_is_recursive() {
        let options = parsed("bind", "rbind,rro,rslave");
        assert_eq!(options.bind, Some(true));
        assert_eq!(options.recursive, Change { set: READ_ONLY, clear: 0 });
        assert_eq!(options.propagation, [(Propagation::Slave, true)]);
        assert!(options.change.is_none() && options.data.is_empty());
        assert_eq!(parsed("bind", "rw").bind, Some(false));
        // "relatime" and "rw" begin with r and are not recursive.
        assert!(parsed("", "relatime,rw").recursive.is_none());
    }
}
