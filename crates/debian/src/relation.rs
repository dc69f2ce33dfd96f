//! What one package says of others: `a (>= 1) | b, c` (Debian Policy, section 7.1).

use std::cmp::Ordering;
use std::fmt;

use crate::version;

/// A package, and which versions of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation<'a> {
    pub name: &'a str,
    pub bound: Option<Bound<'a>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound<'a> {
    pub operator: Operator,
    pub version: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    Earlier,
    EarlierOrEqual,
    Equal,
    LaterOrEqual,
    Later,
}

impl Bound<'_> {
    pub fn allows(&self, version: &str) -> bool {
        let order = version::compare(version, self.version);
        match self.operator {
            Operator::Earlier => order == Ordering::Less,
            Operator::EarlierOrEqual => order != Ordering::Greater,
            Operator::Equal => order == Ordering::Equal,
            Operator::LaterOrEqual => order != Ordering::Less,
            Operator::Later => order == Ordering::Greater,
        }
    }
}

impl fmt::Display for Relation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        let Some(Bound { operator, version }) = self.bound else { return Ok(()) };
        let operator = match operator {
            Operator::Earlier => "<<",
            Operator::EarlierOrEqual => "<=",
            Operator::Equal => "=",
            Operator::LaterOrEqual => ">=",
            Operator::Later => ">>",
        };
        write!(f, " ({operator} {version})")
    }
}

/// All that must hold; of each list one is enough. What cannot be read is left out of its list: nobody
/// can have it.
pub fn parse(text: &str) -> Vec<Vec<Relation<'_>>> {
    let lists = text.split(',').map(str::trim).filter(|list| !list.is_empty());
    lists.map(|list| list.split('|').filter_map(one).collect()).collect()
}

fn one(text: &str) -> Option<Relation<'_>> {
    let text = text.trim();
    let end = text.find(|sign: char| sign.is_whitespace() || "([<".contains(sign)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    // `:any` and `:native` make no difference where all packages are of one architecture.
    let name = name.split(':').next().unwrap_or_default();
    let bound = match rest.split_once('(') {
        None => None,
        Some((_, bound)) => Some(read_bound(bound.split_once(')')?.0.trim())?),
    };
    (!name.is_empty()).then_some(Relation { name, bound })
}

fn read_bound(text: &str) -> Option<Bound<'_>> {
    let (operator, version) = text.split_at(text.find(|sign| !"<>=".contains(sign))?);
    let operator = match operator {
        "<<" => Operator::Earlier,
        // The old spellings mean what the doubled ones do not.
        "<=" | "<" => Operator::EarlierOrEqual,
        "=" => Operator::Equal,
        ">=" | ">" => Operator::LaterOrEqual,
        ">>" => Operator::Later,
        _ => return None,
    };
    Some(Bound { operator, version: version.trim() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let list =
            |list: &Vec<Relation<'_>>| list.iter().map(|one| one.to_string()).collect::<Vec<_>>().join("|");
        parse(text).iter().map(list).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn lists_of_alternatives_are_read() {
        assert_eq!(shown(""), "");
        assert_eq!(shown("a"), "a");
        assert_eq!(
            shown("a (>= 1:2-3) | b,\n c(<<4) , d:any (= 1) [amd64] <!x>"),
            "a (>= 1:2-3)|b,c (<< 4),d (= 1)"
        );
        assert_eq!(shown("a (< 1), b (> 2)"), "a (<= 1),b (>= 2)");
        // A list whose members cannot be read is there, and nothing satisfies it.
        assert_eq!(parse("a (~ 1), (= 2), b (= 1").iter().map(Vec::len).collect::<Vec<_>>(), [0, 0, 0]);
    }

    #[test]
    fn bounds_allow_what_they_say() {
        let allows = |text: &str, version: &str| parse(text)[0][0].bound.unwrap().allows(version);
        for (bound, lower, same, higher) in [
            ("x (<< 2)", true, false, false),
            ("x (<= 2)", true, true, false),
            ("x (= 2)", false, true, false),
            ("x (>= 2)", false, true, true),
            ("x (>> 2)", false, false, true),
        ] {
            assert_eq!(
                ["1", "2", "3"].map(|version| allows(bound, version)),
                [lower, same, higher],
                "{bound}"
            );
        }
    }
}
