//! The device rules that every restricted container needs, whoever wrote its bundle. Pure.

use std::borrow::Cow;

use hull_oci::runtime::{DeviceRule, Resources};

/// Type, major, minor (-1 is any), access: the nodes of runtime-spec's default devices and of
/// terminals may be used; any node may be made, since using it is another matter.
const ALLOWED: [(&str, i64, i64, &str); 11] = [
    ("c", -1, -1, "m"),
    ("b", -1, -1, "m"),
    ("c", 1, 3, "rwm"),
    ("c", 1, 5, "rwm"),
    ("c", 1, 7, "rwm"),
    ("c", 1, 8, "rwm"),
    ("c", 1, 9, "rwm"),
    ("c", 5, 0, "rwm"),
    ("c", 5, 1, "rwm"),
    ("c", 5, 2, "rwm"),
    // Unix98 terminals.
    ("c", 136, -1, "rwm"),
];

/// `resources` with the default devices allowed after its own rules, as the reference's runtime
/// does: bundles of podman and containerd forbid all and rely on it. A container without rules may
/// use everything as it is, and so may one whose last word is to allow all.
pub(super) fn with_defaults(resources: &Resources) -> Cow<'_, Resources> {
    let everything = |rule: &DeviceRule| {
        let kind = matches!(&*rule.kind, "" | "a");
        rule.allow && kind && rule.major.is_none() && rule.minor.is_none()
    };
    if resources.devices.last().is_none_or(everything) {
        return Cow::Borrowed(resources);
    }
    let mut resources = resources.clone();
    for (kind, major, minor, access) in ALLOWED {
        let rule = DeviceRule {
            allow: true,
            kind: kind.to_owned(),
            major: (major >= 0).then_some(major),
            minor: (minor >= 0).then_some(minor),
            access: access.to_owned(),
        };
        if !resources.devices.contains(&rule) {
            resources.devices.push(rule);
        }
    }
    Cow::Owned(resources)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: bool, kind: &str, access: &str) -> DeviceRule {
        DeviceRule { allow, kind: kind.into(), access: access.into(), ..DeviceRule::default() }
    }

    #[test]
    fn a_restricted_container_may_still_use_null_and_terminals() {
        let resources = Resources { devices: vec![rule(false, "", "rwm")], ..Resources::default() };
        let devices = &with_defaults(&resources).devices;
        assert_eq!(devices[0], rule(false, "", "rwm"));
        let null = DeviceRule {
            allow: true,
            kind: "c".into(),
            major: Some(1),
            minor: Some(3),
            access: "rwm".into(),
        };
        assert!(devices.contains(&null));
        // Nothing that is a disk or memory.
        assert!(devices.iter().all(|rule| rule.kind != "b" || rule.access == "m"));
        assert!(!devices.iter().any(|rule| rule.allow && (rule.major, rule.minor) == (Some(1), Some(1))));
    }

    #[test]
    fn all_or_nothing_said_stays_as_it_is() {
        let all =
            Resources { devices: vec![rule(false, "", ""), rule(true, "a", "rwm")], ..Resources::default() };
        assert_eq!(*with_defaults(&all), all);
        assert!(with_defaults(&Resources::default()).devices.is_empty());
    }
}
