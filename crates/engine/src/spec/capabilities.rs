//! Which capabilities a container gets (capabilities(7)).

use std::collections::BTreeSet;

pub use hull_sys::cred::NAMES as ALL;

use crate::{Error, Result};

/// The reference's default set.
pub const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// One name in its full form, `ALL` as it is; `which` is `CapAdd` or `CapDrop`.
fn normal(which: &str, name: &str) -> Result<String> {
    let upper = name.trim().to_ascii_uppercase();
    if upper == "ALL" {
        return Ok(upper);
    }
    let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    if ALL.contains(&full.as_str()) {
        return Ok(full);
    }
    Err(Error::Invalid(format!("invalid {which}: unknown capability: \"{full}\"")))
}

/// What the container gets, in the kernel's order: the reference's rules of `--cap-add`,
/// `--cap-drop` and `--privileged`, cut down to what this host's bounding set can give.
///
/// A capability that was added by name and that the host cannot give is left out with a warning.
pub fn compute(
    privileged: bool,
    add: &[String],
    drop: &[String],
    host: &[String],
) -> Result<(Vec<String>, Vec<String>)> {
    let add = add.iter().map(|name| normal("CapAdd", name)).collect::<Result<BTreeSet<_>>>()?;
    let drop = drop.iter().map(|name| normal("CapDrop", name)).collect::<Result<BTreeSet<_>>>()?;
    let wanted = |name: &str| {
        if privileged {
            true
        } else if add.contains("ALL") {
            !drop.contains(name)
        } else if drop.contains("ALL") {
            add.contains(name)
        } else {
            (DEFAULT.contains(&name) && !drop.contains(name)) || add.contains(name)
        }
    };
    let has = |name: &str| host.iter().any(|known| known == name);
    let given = ALL.iter().filter(|name| wanted(name) && has(name)).map(|&name| name.to_owned()).collect();
    let missing: Vec<_> =
        add.iter().filter(|name| *name != "ALL" && !has(name)).map(String::as_str).collect();
    let warnings = match missing.as_slice() {
        [] => Vec::new(),
        names => vec![format!("This host cannot give {}. Added capabilities discarded.", names.join(", "))],
    };
    Ok((given, warnings))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(names: &[String]) -> u64 {
        names.iter().map(|name| 1 << ALL.iter().position(|known| known == name).unwrap()).sum()
    }

    fn check(privileged: bool, add: &[&str], drop: &[&str], expected: u64) {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        // The recorded engine lacked CAP_SYS_RESOURCE.
        let host: Vec<_> =
            ALL.iter().filter(|name| **name != "CAP_SYS_RESOURCE").map(|&n| n.to_owned()).collect();
        let (given, warnings) = compute(privileged, &owned(add), &owned(drop), &host).unwrap();
        assert_eq!(mask(&given), expected, "{add:?} {drop:?}: {:x}", mask(&given));
        assert!(warnings.is_empty());
    }

    /// The masks that the reference's containers showed in /proc/self/status.
    #[test]
    fn the_rules_give_the_recorded_masks() {
        check(false, &[], &[], 0xa804_25fb);
        check(false, &["NET_ADMIN"], &["CHOWN"], 0xa804_35fa);
        check(false, &[], &["ALL"], 0);
        check(false, &["all"], &["net_raw"], 0x1ff_feff_dfff);
        check(true, &[], &[], 0x1ff_feff_ffff);
        check(true, &[], &["CHOWN"], 0x1ff_feff_ffff);
        check(false, &["CAP_CHOWN"], &["all"], 1);
    }

    #[test]
    fn an_unknown_name_is_refused_and_one_the_host_lacks_is_told() {
        let error = compute(false, &["nope".to_owned()], &[], &[]).unwrap_err();
        assert_eq!(error.to_string(), "invalid CapAdd: unknown capability: \"CAP_NOPE\"");
        let (given, warnings) =
            compute(false, &["SYS_RESOURCE".to_owned()], &[], &["CAP_KILL".to_owned()]).unwrap();
        assert_eq!(given, ["CAP_KILL"]);
        assert_eq!(warnings, ["This host cannot give CAP_SYS_RESOURCE. Added capabilities discarded."]);
    }
}
