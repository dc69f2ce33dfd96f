//! Who runs in a container: `user[:group]` and the added groups, looked up in the image's own
//! `/etc/passwd` and `/etc/group`.
//!
//! The rule (a weak spot of every engine so far): all digits is a number, never a name, even if
//! the image has a user of that name; a number above 2147483647 is an error, never a wrapped one;
//! what cannot be found is an error, never root. Lines of the image's files that are not well
//! formed are skipped, not read as zero.

use hull_runtime::bundle::{StartError, StartErrorKind};

/// Largest uid or gid that is accepted.
const LARGEST: u64 = 2_147_483_647;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// With `gid` first, without repetition.
    pub groups: Vec<u32>,
    /// Of the passwd entry; empty without one.
    pub home: String,
}

/// A word that names a user or group.
enum Word<'a> {
    Number(u32),
    Name(&'a str),
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Resolves `user` (empty is uid 0) and `added` groups. `passwd` and `group` are the files' bytes,
/// empty where the image has none.
pub fn resolve(user: &str, added: &[String], passwd: &[u8], group: &[u8]) -> Result<Identity, StartError> {
    let passwd = String::from_utf8_lossy(passwd);
    let group = String::from_utf8_lossy(group);
    if user.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(invalid(format!("unable to find user {user:?}: no matching entries in passwd file")));
    }
    let (user, group_word) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let user = word(if user.is_empty() { "0" } else { user })?;
    let entry = passwd_lines(&passwd).find(|line| match user {
        Word::Number(uid) => line.uid == uid,
        Word::Name(name) => line.name == name,
    });
    let uid = match (&user, &entry) {
        (Word::Number(uid), _) => *uid,
        (Word::Name(_), Some(entry)) => entry.uid,
        (Word::Name(name), None) => {
            return Err(invalid(format!("unable to find user {name}: no matching entries in passwd file")));
        }
    };
    let mut groups = Vec::new();
    let gid = match group_word {
        Some(text) => find_group(text, &group)?,
        None => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    groups.push(gid);
    for text in added {
        groups.push(find_group(text, &group)?);
    }
    if let (None, Some(entry)) = (group_word, &entry) {
        let member = |line: &Group<'_>| line.members.split(',').any(|name| name.trim() == entry.name);
        groups.extend(group_lines(&group).filter(member).map(|line| line.gid));
    }
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|gid| seen.insert(*gid));
    Ok(Identity { uid, gid, groups, home: entry.map_or_else(String::new, |entry| entry.home.to_owned()) })
}

fn find_group(text: &str, group: &str) -> Result<u32, StartError> {
    match word(text)? {
        Word::Number(gid) => Ok(gid),
        Word::Name(name) => match group_lines(group).find(|line| line.name == name) {
            Some(line) => Ok(line.gid),
            None => Err(invalid(format!("unable to find group {name}: no matching entries in group file"))),
        },
    }
}

fn word(text: &str) -> Result<Word<'_>, StartError> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(Word::Name(text));
    }
    match number(text) {
        Some(number) => Ok(Word::Number(number)),
        None => Err(invalid("uids and gids must be in range 0-2147483647".to_owned())),
    }
}

/// Digits only, and in range.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let value: u64 = digits.then(|| text.parse().ok()).flatten()?;
    u32::try_from(value).ok().filter(|_| value <= LARGEST)
}

fn passwd_lines(text: &str) -> impl Iterator<Item = Passwd<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let uid = number(fields.nth(1)?)?;
        let gid = number(fields.next()?)?;
        let home = fields.nth(1).unwrap_or_default();
        Some(Passwd { name, uid, gid, home })
    })
}

fn group_lines(text: &str) -> impl Iterator<Item = Group<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let gid = number(fields.nth(1)?)?;
        Some(Group { name, gid, members: fields.next().unwrap_or_default() })
    })
}

fn invalid(message: String) -> StartError {
    StartError { kind: StartErrorKind::Invalid, message }
}

/// Any bytes as the three texts, for fuzzing.
#[doc(hidden)]
pub fn fuzz_identity(data: &[u8]) {
    let third = data.len() / 3;
    let (user, rest) = data.split_at(third);
    let (passwd, group) = rest.split_at(third);
    let user = String::from_utf8_lossy(user);
    if let Ok(identity) = resolve(&user, &[], passwd, group) {
        assert!(u64::from(identity.uid) <= LARGEST && u64::from(identity.gid) <= LARGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        daemon:x:1:1::/usr/sbin:/bin/false\n\
        1000:x:0:0:a trap:/root:/bin/sh\n\
        web:x:33:33:web:/srv:/bin/sh\n\
        broken:x:zero:0::/:/bin/sh\n\
        huge:x:4294967296:0::/:/bin/sh\n\
        short:x\n";
    const GROUP: &[u8] =
        b"root:x:0:root\nadm:x:4:root,web\nweb:x:33:\ntape:x:26:web\n1001:x:7:\nbad:x:x:web\n";

    fn check(user: &str, added: &[&str], expected: Result<(u32, u32, &[u32], &str), &str>) {
        let added: Vec<String> = added.iter().map(|&text| text.to_owned()).collect();
        let found = resolve(user, &added, PASSWD, GROUP);
        let expected = expected.map(|(uid, gid, groups, home)| Identity {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.to_owned(),
        });
        assert_eq!(
            found.map_err(|error| error.message),
            expected.map_err(str::to_owned),
            "{user:?} {added:?}"
        );
    }

    #[test]
    fn names_and_numbers_are_found_in_the_image() {
        check("", &[], Ok((0, 0, &[0, 4], "/root")));
        check("root", &[], Ok((0, 0, &[0, 4], "/root")));
        check("web", &[], Ok((33, 33, &[33, 4, 26], "/srv")));
        check("33", &[], Ok((33, 33, &[33, 4, 26], "/srv")));
        check("web:root", &[], Ok((33, 0, &[0], "/srv")));
        check("web:", &[], Ok((33, 33, &[33, 4, 26], "/srv")));
        check("1000:1000", &["5", "tape"], Ok((1000, 1000, &[1000, 5, 26], "")));
        check(":web", &[], Ok((0, 33, &[33], "/root")));
    }

    #[test]
    fn digits_are_a_number_even_where_the_image_has_such_a_name() {
        check("1000", &[], Ok((1000, 0, &[0], "")));
        check("5:1001", &[], Ok((5, 1001, &[1001], "")));
    }

    #[test]
    fn what_cannot_be_found_or_read_is_an_error_and_never_root() {
        let range = "uids and gids must be in range 0-2147483647";
        check("nosuch", &[], Err("unable to find user nosuch: no matching entries in passwd file"));
        check("web:nosuch", &[], Err("unable to find group nosuch: no matching entries in group file"));
        check("web:root:x", &[], Err("unable to find group root:x: no matching entries in group file"));
        check("0", &["nosuch"], Err("unable to find group nosuch: no matching entries in group file"));
        check("broken", &[], Err("unable to find user broken: no matching entries in passwd file"));
        check("huge", &[], Err("unable to find user huge: no matching entries in passwd file"));
        for user in ["4294967296", "2147483648:0", "-5", "99999999999999999999999", "0:4294967296", "+5"] {
            check(user, &[], Err(range));
        }
        for user in ["ro\not", "root\0", "root ", "\t"] {
            assert!(resolve(user, &[], PASSWD, GROUP).is_err(), "{user:?}");
        }
        check("0x0", &[], Err("unable to find user 0x0: no matching entries in passwd file"));
    }

    #[test]
    fn an_image_without_the_files_has_numbers_only() {
        let identity = resolve("", &[], b"", b"").unwrap();
        assert_eq!(
            (identity.uid, identity.gid, identity.groups, identity.home),
            (0, 0, vec![0], String::new())
        );
        assert!(resolve("root", &[], b"", b"").is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(data in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            fuzz_identity(&data);
        }
    }
}
