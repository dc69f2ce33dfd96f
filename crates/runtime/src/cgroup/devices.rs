//! Which devices a container may use, from the OCI list of rules.
//!
//! The list is read from the top; the last rule that matches an access decides
//! (runtime-spec `config-linux.md#allowed-device-list`). v1 keeps such a list in the kernel
//! (`Documentation/admin-guide/cgroup-v1/devices.rst`): the rules are written one after the
//! other.

use hull_oci::runtime::DeviceRule;

use super::Error;

/// `r`, `w`, `m` as the bits that BPF calls `BPF_DEVCG_ACC_*`.
pub(super) const MKNOD: u8 = 1;
pub(super) const READ: u8 = 2;
pub(super) const WRITE: u8 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    All,
    Block,
    Char,
}

/// A rule that can only be valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    pub(super) kind: Kind,
    /// `None` is any.
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    /// Some of [`READ`], [`WRITE`], [`MKNOD`].
    pub(super) access: u8,
}

/// Checks the OCI rules; negative numbers mean "any", as tools that write specs use -1 so.
///
/// # Errors
/// [`Error::Value`] for an unknown type or access letter, or a number beyond 32 bits.
pub(super) fn rules(given: &[DeviceRule]) -> Result<Vec<Rule>, Error> {
    let wrong = |reason: String| Error::Value { what: "devices", reason };
    let number = |n: Option<i64>| match n {
        Some(0..) => {
            u32::try_from(n.unwrap_or(0)).map(Some).map_err(|_| wrong(format!("{n:?} is no device number")))
        }
        _ => Ok(None),
    };
    given
        .iter()
        .map(|rule| {
            let kind = match rule.kind.as_str() {
                "" | "a" => Kind::All,
                "b" => Kind::Block,
                "c" | "u" => Kind::Char,
                other => return Err(wrong(format!("{other:?} is no device type"))),
            };
            let mut access = 0;
            for letter in rule.access.chars() {
                access |= match letter {
                    'r' => READ,
                    'w' => WRITE,
                    'm' => MKNOD,
                    other => return Err(wrong(format!("{other:?} is no access to a device"))),
                };
            }
            Ok(Rule {
                allow: rule.allow,
                kind,
                major: number(rule.major)?,
                minor: number(rule.minor)?,
                access: if access == 0 { READ | WRITE | MKNOD } else { access },
            })
        })
        .collect()
}

/// The writes for v1: file and text. A rule about everything is the single word `a`, which
/// also empties the kernel's list; it does so whatever else stands in the line, thus a rule of
/// type `a` with numbers or less than all access is written as one line for each type.
pub(super) fn v1_lines(rules: &[Rule]) -> Vec<(&'static str, String)> {
    let mut lines = Vec::with_capacity(rules.len());
    for rule in rules {
        let file = if rule.allow { "devices.allow" } else { "devices.deny" };
        let any = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        let mut access = String::new();
        for (bit, letter) in [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')] {
            if rule.access & bit != 0 {
                access.push(letter);
            }
        }
        let mut put = |kind| {
            let text = format!("{kind} {}:{} {access}", any(rule.major), any(rule.minor));
            lines.push((file, text));
        };
        match rule.kind {
            Kind::Block => put('b'),
            Kind::Char => put('c'),
            Kind::All if rule.major.is_none() && rule.minor.is_none() && access == "rwm" => {
                lines.push((file, "a".to_owned()));
            }
            Kind::All => {
                put('b');
                put('c');
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn v1_lines_never_say_a_for_less_than_everything() {
        let given: Vec<DeviceRule> = serde_json::from_str(
            r#"[{"allow": false},
                {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
                {"allow": true, "type": "c", "major": 136, "minor": -1, "access": "rw"},
                {"allow": false, "type": "a", "access": "m"},
                {"allow": true, "type": "b", "access": "r"}]"#,
        )
        .unwrap();
        let text: Vec<_> =
            v1_lines(&rules(&given).unwrap()).iter().map(|(file, line)| format!("{file} {line}")).collect();
        expect![[r#"
            devices.deny a
            devices.allow c 1:3 rwm
            devices.allow c 136:* rw
            devices.deny b *:* m
            devices.deny c *:* m
            devices.allow b *:* r"#]]
        .assert_eq(&text.join("\n"));
    }

    #[test]
    fn rules_with_unknown_words_are_refused() {
        let one = |kind: &str, access: &str, major| {
            rules(&[DeviceRule { kind: kind.into(), access: access.into(), major, ..DeviceRule::default() }])
        };
        assert!(one("x", "", None).is_err());
        assert!(one("c", "rwx", None).is_err());
        assert!(one("c", "r", Some(1 << 40)).is_err());
        assert!(one("p", "r", None).is_err());
    }
}
