//! Rules: who may do what in which repositories. Nothing is allowed that no rule allows.
//!
//! ```json
//! {
//!   "users":  { "alice": "$2y$…", "ci": "$2y$…" },
//!   "groups": { "team": ["alice"] },
//!   "rules": [
//!     { "who": ["@team"],     "repositories": ["team/**"], "allow": ["pull", "push", "delete"] },
//!     { "who": ["*"],         "repositories": ["**"],      "allow": ["pull"] },
//!     { "who": ["anonymous"], "repositories": ["public/*"], "allow": ["pull"] }
//!   ]
//! }
//! ```
//!
//! In a pattern `*` stands for anything within a component, `**` for anything.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::passwords::Hashes;
use crate::server::action::Verb;

/// Everybody, whether they say who they are or not.
const ANONYMOUS: &str = "anonymous";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    users: BTreeMap<String, String>,
    #[serde(default)]
    groups: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    rules: Vec<FileRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRule {
    who: Vec<String>,
    repositories: Vec<String>,
    allow: Vec<String>,
}

/// Somebody who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who<'a> {
    Anonymous,
    User(&'a str),
}

#[derive(Debug, Default)]
pub(super) struct Rights(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    anonymous: bool,
    everybody: bool,
    users: BTreeSet<String>,
    patterns: Vec<Pattern>,
    allow: Vec<Verb>,
}

/// # Errors
/// What is wrong with the file, and where.
pub(super) fn parse(text: &str) -> Result<(Hashes, Rights), String> {
    let file: File = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut hashes = Hashes::default();
    for (user, hash) in &file.users {
        if user.is_empty() || user == ANONYMOUS || user == "*" || user.starts_with('@') || user.contains(':')
        {
            return Err(format!("{user:?} is no name for a user"));
        }
        hashes.insert(user, hash)?;
    }
    for (group, members) in &file.groups {
        if let Some(member) = members.iter().find(|member| hashes.get(member).is_none()) {
            return Err(format!("the group {group:?} has the member {member:?}, who is no user"));
        }
    }
    let rules: Result<Vec<Rule>, String> =
        file.rules.iter().map(|given| rule(given, &file.groups, &hashes)).collect();
    Ok((hashes, Rights(rules?)))
}

fn rule(given: &FileRule, groups: &BTreeMap<String, Vec<String>>, hashes: &Hashes) -> Result<Rule, String> {
    let mut rule = Rule {
        anonymous: false,
        everybody: false,
        users: BTreeSet::new(),
        patterns: given.repositories.iter().map(|text| Pattern::new(text)).collect(),
        allow: Vec::new(),
    };
    for who in &given.who {
        match who.strip_prefix('@') {
            Some(group) => {
                let members = groups.get(group).ok_or_else(|| format!("there is no group {group:?}"))?;
                rule.users.extend(members.iter().cloned());
            }
            None if who == ANONYMOUS => rule.anonymous = true,
            None if who == "*" => rule.everybody = true,
            None if hashes.get(who).is_some() => {
                rule.users.insert(who.clone());
            }
            None => return Err(format!("there is no user {who:?}")),
        }
    }
    for verb in &given.allow {
        let verb = Verb::from_name(verb).ok_or_else(|| format!("{verb:?} is none of pull, push, delete"))?;
        rule.allow.push(verb);
    }
    Ok(rule)
}

impl Rights {
    pub(super) fn allows(&self, who: Who<'_>, repository: &str, verb: Verb) -> bool {
        self.0.iter().any(|rule| {
            let meant = rule.anonymous
                || match who {
                    Who::Anonymous => false,
                    Who::User(user) => rule.everybody || rule.users.contains(user),
                };
            meant
                && rule.allow.contains(&verb)
                && rule.patterns.iter().any(|pattern| pattern.matches(repository))
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// Any within a component.
    Star,
    /// Any.
    Stars,
}

#[derive(Debug)]
struct Pattern(Vec<Token>);

impl Pattern {
    fn new(text: &str) -> Pattern {
        let mut tokens = Vec::new();
        for byte in text.bytes() {
            match (byte, tokens.last()) {
                (b'*', Some(Token::Stars)) => {}
                (b'*', Some(Token::Star)) => {
                    tokens.pop();
                    tokens.push(Token::Stars);
                }
                (b'*', _) => tokens.push(Token::Star),
                (byte, _) => tokens.push(Token::Byte(byte)),
            }
        }
        Pattern(tokens)
    }

    /// All places of the pattern that the text so far can be at, moved on byte by byte: the time is bounded by
    /// the two lengths, whatever the pattern.
    fn matches(&self, text: &str) -> bool {
        let mut places = vec![false; self.0.len() + 1];
        places[0] = true;
        self.skip(&mut places);
        for byte in text.bytes() {
            let mut next = vec![false; places.len()];
            for (place, token) in self.0.iter().enumerate().filter(|(place, _)| places[*place]) {
                match token {
                    Token::Byte(wanted) if *wanted == byte => next[place + 1] = true,
                    Token::Star if byte != b'/' => next[place] = true,
                    Token::Stars => next[place] = true,
                    Token::Byte(_) | Token::Star => {}
                }
            }
            places = next;
            self.skip(&mut places);
        }
        places[self.0.len()]
    }

    /// Stars may stand for nothing.
    fn skip(&self, places: &mut [bool]) {
        for (place, token) in self.0.iter().enumerate() {
            if places[place] && *token != Token::Star && *token != Token::Stars {
                continue;
            }
            if places[place] {
                places[place + 1] = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy";

    fn rights(rules: &str) -> Result<Rights, String> {
        let users = format!(r#"{{"alice":"{HASH}","bob":"{HASH}"}}"#);
        let text = format!(r#"{{"users":{users},"groups":{{"team":["alice"]}},"rules":{rules}}}"#);
        parse(&text).map(|(_, rights)| rights)
    }

    #[test]
    fn patterns_stop_at_components_unless_doubled() {
        let check = |pattern: &str, text: &str| Pattern::new(pattern).matches(text);
        for (pattern, text) in [
            ("a", "a"),
            ("a/*", "a/b"),
            ("a/*", "a/"),
            ("a/**", "a/b/c"),
            ("**", "a/b"),
            ("***", "a/b"),
            ("*-dev", "x-dev"),
            ("a*c/d", "abc/d"),
            ("*/x", "a/x"),
            ("**/x", "a/b/x"),
        ] {
            assert!(check(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("a", "ab"),
            ("a/*", "a/b/c"),
            ("*", "a/b"),
            ("a/**", "a"),
            ("a/**", "ab/c"),
            ("", "a"),
            ("*/x", "a/b/x"),
        ] {
            assert!(!check(pattern, text), "{pattern} {text}");
        }
        assert!(!check(&"*a".repeat(200), &"a/".repeat(120)));
    }

    #[test]
    fn nothing_is_allowed_that_no_rule_allows() {
        let rules = r#"[
            {"who":["@team"],"repositories":["team/**"],"allow":["pull","push"]},
            {"who":["bob"],"repositories":["team/tools"],"allow":["delete"]},
            {"who":["*"],"repositories":["shared/*"],"allow":["pull"]},
            {"who":["anonymous"],"repositories":["public/*"],"allow":["pull"]}
        ]"#;
        let rights = rights(rules).unwrap();
        let (alice, bob) = (Who::User("alice"), Who::User("bob"));
        assert!(rights.allows(alice, "team/a/b", Verb::Push));
        assert!(!rights.allows(alice, "team/tools", Verb::Delete));
        assert!(rights.allows(bob, "team/tools", Verb::Delete));
        assert!(!rights.allows(bob, "team/tools", Verb::Pull));
        assert!(!rights.allows(bob, "teams/a", Verb::Pull));
        assert!(rights.allows(bob, "shared/x", Verb::Pull));
        assert!(!rights.allows(Who::Anonymous, "shared/x", Verb::Pull));
        for who in [alice, bob, Who::Anonymous] {
            assert!(rights.allows(who, "public/x", Verb::Pull));
            assert!(!rights.allows(who, "public/x", Verb::Push));
        }
        assert!(!Rights::default().allows(alice, "a", Verb::Pull));
    }

    #[test]
    fn a_file_that_says_something_else_is_refused() {
        for rules in [
            r#"[{"who":["carol"],"repositories":["a"],"allow":["pull"]}]"#,
            r#"[{"who":["@nobody"],"repositories":["a"],"allow":["pull"]}]"#,
            r#"[{"who":["alice"],"repositories":["a"],"allow":["admin"]}]"#,
            r#"[{"who":["alice"],"repositories":["a"],"allow":["pull"],"deny":["x"]}]"#,
            r#"[{"who":["alice"]}]"#,
        ] {
            assert!(rights(rules).is_err(), "{rules}");
        }
        for name in ["anonymous", "*", "@x", "a:b", ""] {
            assert!(parse(&format!(r#"{{"users":{{"{name}":"{HASH}"}}}}"#)).is_err(), "{name}");
        }
        assert!(parse(r#"{"groups":{"g":["x"]}}"#).is_err());
    }
}
