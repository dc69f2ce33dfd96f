//! Which devices a container may use, from the OCI list of rules.
//!
//! The list is read from the top; the last rule that matches an access decides
//! (runtime-spec `config-linux.md#allowed-device-list`), for each of read, write and mknod by
//! itself. What no rule names is denied: the list is an allow-list, also where its author
//! forgot to begin with "deny all".
//!
//! v1 keeps such a list in the kernel (`Documentation/admin-guide/cgroup-v1/devices.rst`): the
//! rules are written one after the other. v2 asks an eBPF program at each access, which
//! [`v2_program`] makes: for the rules from the last to the first,
//!
//! ```text
//! r2 type   r3 bits asked for and not yet decided   r4 major   r5 minor
//! if the device is not of this rule: next
//! deny:   if r3 has one of the rule's bits: return 0
//! allow:  take the rule's bits out of r3; if none remains: return 1
//! at the end: return 0
//! ```

use hull_oci::runtime::DeviceRule;
use hull_sys::bpf::Instruction;

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

impl Kind {
    /// `BPF_DEVCG_DEV_BLOCK` and `_CHAR`.
    fn bpf(self) -> Option<i32> {
        match self {
            Kind::All => None,
            Kind::Block => Some(1),
            Kind::Char => Some(2),
        }
    }
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

impl Rule {
    fn everything(allow: bool) -> Rule {
        Rule { allow, kind: Kind::All, major: None, minor: None, access: READ | WRITE | MKNOD }
    }
}

/// Checks the OCI rules; negative numbers mean "any", as tools that write specs use -1 so. The
/// first rule of the result is always about everything.
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
    let rules = given.iter().map(|rule| {
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
    });
    let mut rules = rules.collect::<Result<Vec<_>, _>>()?;
    let full = |r: &Rule| *r == Rule::everything(r.allow);
    if !rules.first().is_some_and(full) {
        rules.insert(0, Rule::everything(false));
    }
    Ok(rules)
}

/// v1 takes an exception back only when it is named exactly: "deny 1:3" after "allow 1:*"
/// changes nothing there, silently. Such a hole must not start.
fn v1_holes(rules: &[Rule]) -> Result<(), Error> {
    let start = rules.iter().rposition(|r| *r == Rule::everything(r.allow)).unwrap_or(0);
    if rules.get(start).is_none_or(|r| r.allow) {
        return Ok(());
    }
    let meet = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
    for (at, deny) in rules.iter().enumerate().skip(start + 1).filter(|(_, r)| !r.allow) {
        let hole = rules[start + 1..at].iter().find(|earlier| {
            let same = earlier.major == deny.major && earlier.minor == deny.minor;
            let kinds = earlier.kind == deny.kind || earlier.kind == Kind::All || deny.kind == Kind::All;
            let touches = meet(earlier.major, deny.major) && meet(earlier.minor, deny.minor);
            earlier.allow && kinds && touches && earlier.access & deny.access != 0 && !same
        });
        if hole.is_some() {
            return Err(Error::Value {
                what: "devices",
                reason: "cgroup v1 cannot deny a part of what an earlier rule allows".to_owned(),
            });
        }
    }
    Ok(())
}

/// The writes for v1: file and text. A rule about everything is the single word `a`, which
/// also empties the kernel's list; it does so whatever else stands in the line, thus a rule of
/// type `a` with numbers or less than all access is written as one line for each type.
///
/// # Errors
/// [`Error::Value`] for lists that v1 would read otherwise than their author.
pub(super) fn v1_lines(rules: &[Rule]) -> Result<Vec<(&'static str, String)>, Error> {
    v1_holes(rules)?;
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
    Ok(lines)
}

// linux/bpf.h and linux/bpf_common.h: class | operation | source.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbf;
const MOVE_IMMEDIATE: u8 = 0xb7;
const AND_IMMEDIATE: u8 = 0x57;
const SHIFT_RIGHT_IMMEDIATE: u8 = 0x77;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

fn insn(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: dst | src << 4, offset, immediate }
}

/// The program for v2; see the module for its shape.
pub(super) fn v2_program(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        // access_type: the type in the low half, the access in the high one.
        insn(LOAD_WORD, 2, 1, 0, 0),
        insn(MOVE, 3, 2, 0, 0),
        insn(AND_IMMEDIATE, 2, 0, 0, 0xffff),
        insn(SHIFT_RIGHT_IMMEDIATE, 3, 0, 0, 16),
        insn(LOAD_WORD, 4, 1, 4, 0),
        insn(LOAD_WORD, 5, 1, 8, 0),
        insn(MOVE_IMMEDIATE, 0, 0, 0, 1),
        insn(JUMP_UNLESS_EQUAL, 3, 0, 1, 0),
        insn(EXIT, 0, 0, 0, 0),
    ];
    for rule in rules.iter().rev() {
        // Immediates are signed; no device has such a number (12 and 20 bits), so the rule
        // matches none.
        let number = |n: Option<u32>| n.map(i32::try_from).transpose();
        let (Ok(major), Ok(minor)) = (number(rule.major), number(rule.minor)) else {
            continue;
        };
        let checks = [(2, rule.kind.bpf()), (4, major), (5, minor)];
        let checks: Vec<_> = checks.into_iter().filter_map(|(r, n)| Some((r, n?))).collect();
        let bits = i32::from(rule.access);
        let body = if rule.allow {
            vec![
                insn(AND_IMMEDIATE, 3, 0, 0, !bits),
                insn(MOVE_IMMEDIATE, 0, 0, 0, 1),
                insn(JUMP_UNLESS_EQUAL, 3, 0, 1, 0),
                insn(EXIT, 0, 0, 0, 0),
            ]
        } else {
            vec![
                insn(MOVE, 1, 3, 0, 0),
                insn(AND_IMMEDIATE, 1, 0, 0, bits),
                insn(MOVE_IMMEDIATE, 0, 0, 0, 0),
                insn(JUMP_IF_EQUAL, 1, 0, 1, 0),
                insn(EXIT, 0, 0, 0, 0),
            ]
        };
        let mut skip = i16::try_from(checks.len() + body.len()).unwrap_or(i16::MAX);
        for (register, value) in checks {
            skip -= 1;
            program.push(insn(JUMP_UNLESS_EQUAL, register, 0, skip, value));
        }
        program.extend(body);
    }
    program.push(insn(MOVE_IMMEDIATE, 0, 0, 0, 0));
    program.push(insn(EXIT, 0, 0, 0, 0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn v1_lines_never_say_a_for_less_than_everything() {
        let given: Vec<DeviceRule> = serde_json::from_str(
            r#"[{"allow": false},
                {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"},
                {"allow": true, "type": "c", "major": 136, "minor": -1, "access": "rw"},
                {"allow": false, "type": "a", "access": "m"},
                {"allow": true, "type": "b", "access": "r"}]"#,
        )
        .unwrap();
        let text: Vec<_> = v1_lines(&rules(&given).unwrap())
            .unwrap()
            .iter()
            .map(|(file, line)| format!("{file} {line}"))
            .collect();
        expect![[r#"
            devices.deny a
            devices.allow c 1:3 rw
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

    /// What the list means, said the slow way: each bit asks the rules from the last.
    fn allowed(rules: &[Rule], kind: Kind, major: u32, minor: u32, access: u8) -> bool {
        [READ, WRITE, MKNOD].into_iter().filter(|bit| access & bit != 0).all(|bit| {
            let matching = rules.iter().rev().find(|r| {
                (r.kind == Kind::All || r.kind == kind)
                    && r.major.is_none_or(|m| m == major)
                    && r.minor.is_none_or(|m| m == minor)
                    && r.access & bit != 0
            });
            matching.is_some_and(|r| r.allow)
        })
    }

    /// Runs a program of the instructions above; anything else, and a jump out of the program,
    /// panics.
    fn execute(program: &[Instruction], context: [u32; 3]) -> u64 {
        let mut registers = [0u64; 11];
        let mut at = 0;
        for _ in 0..100_000 {
            let i = program[at];
            let (dst, src) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            let immediate = i64::from(i.immediate).cast_unsigned();
            at += 1;
            let jump = match i.code {
                LOAD_WORD => {
                    assert_eq!(src, 1);
                    registers[dst] = context[usize::try_from(i.offset).unwrap() / 4].into();
                    false
                }
                MOVE => {
                    registers[dst] = registers[src];
                    false
                }
                MOVE_IMMEDIATE => {
                    registers[dst] = immediate;
                    false
                }
                AND_IMMEDIATE => {
                    registers[dst] &= immediate;
                    false
                }
                SHIFT_RIGHT_IMMEDIATE => {
                    registers[dst] >>= immediate;
                    false
                }
                JUMP_IF_EQUAL => registers[dst] == immediate,
                JUMP_UNLESS_EQUAL => registers[dst] != immediate,
                EXIT => return registers[0],
                other => panic!("instruction {other:#x}"),
            };
            if jump {
                at += usize::try_from(i.offset).unwrap();
            }
        }
        panic!("the program does not end");
    }

    fn rule() -> impl proptest::strategy::Strategy<Value = Rule> {
        use proptest::prelude::*;
        let number =
            || prop_oneof![3 => (0u32..3).prop_map(Some), 2 => Just(None), 1 => Just(Some(u32::MAX))];
        let kind = prop_oneof![Just(Kind::All), Just(Kind::Block), Just(Kind::Char)];
        (any::<bool>(), kind, number(), number(), 1u8..8)
            .prop_map(|(allow, kind, major, minor, access)| Rule { allow, kind, major, minor, access })
    }

    proptest::proptest! {
        #[test]
        fn the_program_decides_as_the_list(rules in proptest::collection::vec(rule(), 0..12)) {
            let program = v2_program(&rules);
            for (kind, number) in [(Kind::Block, 1), (Kind::Char, 2)] {
                for major in [0, 1, 2, 7, u32::MAX] {
                    for minor in [0, 1, 2, 9] {
                        for access in 0..8u8 {
                            let verdict = execute(&program, [u32::from(access) << 16 | number, major, minor]);
                            // A number no device has is matched by none of the program's rules.
                            let want = if major == u32::MAX {
                                let real: Vec<_> = rules.iter().copied().filter(|r| r.major != Some(u32::MAX)).collect();
                                allowed(&real, kind, major, minor, access)
                            } else {
                                allowed(&rules, kind, major, minor, access)
                            };
                            proptest::prop_assert_eq!(verdict, u64::from(want));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_list_that_does_not_begin_with_everything_denies_the_rest() {
        let given = [DeviceRule { allow: true, kind: "c".into(), major: Some(1), ..DeviceRule::default() }];
        let rules = rules(&given).unwrap();
        assert_eq!(rules[0], Rule::everything(false));
        assert!(!allowed(&rules, Kind::Block, 8, 0, READ));
        let open = super::rules(&[DeviceRule { allow: true, ..DeviceRule::default() }]).unwrap();
        assert_eq!(open, [Rule::everything(true)]);
    }

    #[test]
    fn v1_refuses_a_list_with_a_hole_it_cannot_make() {
        let rule = |allow, minor| Rule { allow, kind: Kind::Char, major: Some(1), minor, access: READ };
        let deny = Rule::everything(false);
        assert!(v1_lines(&[deny, rule(true, None), rule(false, Some(3))]).is_err());
        assert!(v1_lines(&[deny, rule(true, Some(3)), rule(false, Some(3))]).is_ok());
        assert!(v1_lines(&[deny, rule(true, Some(3)), rule(false, Some(4))]).is_ok());
        assert!(v1_lines(&[Rule::everything(true), rule(false, Some(3))]).is_ok());
    }
}
