//! `--userns-remap` by the host's own files: passwd(5), group(5), subuid(5), subgid(5). Pure, but
//! for reading them.

use hull_oci::runtime::IdMapping;

use super::Maps;

/// Whom `--userns-remap=default` means, as the reference calls it.
const DEFAULT_USER: &str = "dockremap";
/// Bytes of each file that are read at most.
const LIMIT: u64 = 4 << 20;

/// The host's files, as text.
#[derive(Debug, Clone, Default)]
pub(super) struct Files {
    pub passwd: String,
    pub group: String,
    pub subuid: String,
    pub subgid: String,
}

impl Files {
    /// A file that cannot be read counts as empty.
    pub(super) fn read() -> Files {
        let text = |path: &str| {
            let mut text = Vec::new();
            if let Ok(file) = std::fs::File::open(path) {
                let _ = std::io::Read::read_to_end(&mut std::io::Read::take(file, LIMIT), &mut text);
            }
            String::from_utf8_lossy(&text).into_owned()
        };
        Files {
            passwd: text("/etc/passwd"),
            group: text("/etc/group"),
            subuid: text("/etc/subuid"),
            subgid: text("/etc/subgid"),
        }
    }

    /// All ranges that somebody was given: first id and how many.
    pub(super) fn reserved(&self) -> Vec<(u64, u64)> {
        let of = |text| ranges(text).map(|(_, first, count)| (u64::from(first), u64::from(count)));
        of(&self.subuid).chain(of(&self.subgid)).collect()
    }
}

/// Name or id, first id, how many; lines that are not well formed are passed over.
fn ranges(text: &str) -> impl Iterator<Item = (&str, u32, u32)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let (first, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (fields.next().is_none() && count > 0 && first.checked_add(count).is_some())
            .then_some((name, first, count))
    })
}

/// Name and id of the entry of a passwd or group file with this name or this id.
fn entry<'a>(text: &'a str, wanted: &str) -> Option<(&'a str, &'a str)> {
    let number = wanted.bytes().all(|b| b.is_ascii_digit());
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (if number { id == wanted } else { name == wanted }).then_some((name, id))
    })
}

/// The maps that `text` stands for: `default`, or `user[:group]`, each a name or an id of the host,
/// whose ranges are those of its name and of its id. `ours` is for `default` on a host without a
/// user for it.
pub(super) fn remap(text: &str, files: &Files, ours: &Maps) -> Result<Maps, String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) if !group.contains(':') => (user, group),
        Some(_) => return Err("it is user, or user:group".to_owned()),
        None => (text, text),
    };
    let default = text == "default";
    if default && !ranges(&files.subuid).any(|(name, ..)| name == DEFAULT_USER) {
        return Ok(ours.clone());
    }
    let (user, group) = if default { (DEFAULT_USER, DEFAULT_USER) } else { (user, group) };
    let map = |kind: &str, list: &str, wanted: &str, file: &str, given: &str| {
        let (name, id) = match entry(list, wanted) {
            Some(found) => found,
            // Its ranges are all that is needed of it.
            None if default => (wanted, wanted),
            None => return Err(format!("there is no {kind} {wanted:?} in /etc/{}", list_of(kind))),
        };
        let mut next = 0u32;
        let mut mappings = Vec::new();
        for (_, first, size) in ranges(given).filter(|(owner, ..)| *owner == name || *owner == id) {
            mappings.push(IdMapping { container_id: next, host_id: first, size });
            next = next.checked_add(size).ok_or_else(|| format!("{file} gives {name} too many ids"))?;
        }
        match mappings.is_empty() {
            true => Err(format!("no {} ranges found for {kind} {name:?} in {file}", &file["/etc/".len()..])),
            false => Ok(mappings),
        }
    };
    Ok(Maps {
        uids: map("user", &files.passwd, user, "/etc/subuid", &files.subuid)?,
        gids: map("group", &files.group, group, "/etc/subgid", &files.subgid)?,
    })
}

fn list_of(kind: &str) -> &'static str {
    if kind == "user" { "passwd" } else { "group" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        Files {
            passwd: "root:x:0:0::/:/bin/sh\nweb:x:33:33::/srv:\n1000:x:5:5::/:\njo:x:1000:1001::/:".into(),
            group: "root:x:0:\nweb:x:33:\nstaff:x:50:\njo:x:1001:".into(),
            subuid: "# comment\nweb:100000:65536\n33:300000:10\njo:nonsense:1\nbad:4294967295:2\n".into(),
            subgid: "web:200000:65536\n50:400000:5\nroot:9\n".into(),
        }
    }

    /// First ids and sizes, of users and of groups.
    type Ranges<'a> = (&'a [(u32, u32)], &'a [(u32, u32)]);

    fn check(text: &str, files: &Files, expected: Result<Ranges<'_>, &str>) {
        let ours = Maps::block(0);
        let short = |mappings: &[IdMapping]| {
            let mut next = 0;
            let one = |m: &IdMapping| {
                assert_eq!(m.container_id, next, "{text}");
                next += m.size;
                (m.host_id, m.size)
            };
            mappings.iter().map(one).collect::<Vec<_>>()
        };
        let got = remap(text, files, &ours).map(|maps| (short(&maps.uids), short(&maps.gids)));
        let expected = expected.map(|(uids, gids)| (uids.to_vec(), gids.to_vec())).map_err(str::to_owned);
        assert_eq!(got, expected, "{text}");
    }

    #[test]
    fn a_user_has_the_ranges_of_its_name_and_of_its_id() {
        let uids: &[_] = &[(100_000, 65536), (300_000, 10)];
        check("web", &files(), Ok((uids, &[(200_000, 65536)])));
        check("33", &files(), Ok((uids, &[(200_000, 65536)])));
        check("web:staff", &files(), Ok((uids, &[(400_000, 5)])));
        check("33:50", &files(), Ok((uids, &[(400_000, 5)])));
    }

    #[test]
    fn who_is_nobody_or_has_nothing_is_refused_by_name() {
        check("nosuch", &files(), Err("there is no user \"nosuch\" in /etc/passwd"));
        check("web:nosuch", &files(), Err("there is no group \"nosuch\" in /etc/group"));
        check("77", &files(), Err("there is no user \"77\" in /etc/passwd"));
        check("jo", &files(), Err("no subuid ranges found for user \"jo\" in /etc/subuid"));
        check("web:root", &files(), Err("no subgid ranges found for group \"root\" in /etc/subgid"));
        check("a:b:c", &files(), Err("it is user, or user:group"));
        check(":", &files(), Err("there is no user \"\" in /etc/passwd"));
    }

    #[test]
    fn default_is_dockremap_or_else_a_range_of_ours() {
        let ours: &[_] = &[(0x7000_0000, 65536)];
        check("default", &files(), Ok((ours, ours)));
        let mut files = files();
        files.subuid += "dockremap:500000:65536\n";
        check("default", &files, Err("no subgid ranges found for group \"dockremap\" in /etc/subgid"));
        files.subgid += "\ndockremap:600000:65536\n";
        check("default", &files, Ok((&[(500_000, 65536)], &[(600_000, 65536)])));
    }
}
