//! `WWW-Authenticate`: how a server wants to be asked (RFC 9110, 11.6.1).
//!
//! One header may hold several challenges, and commas part challenges as well as their parameters: a word is
//! a parameter's name if `=` follows it, else a scheme.

use std::collections::BTreeMap;

/// Longer headers are no challenge that anybody could answer.
const LONGEST: usize = 8 << 10;

/// One way to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    /// In lower case.
    pub(super) scheme: String,
    /// By names in lower case; the first of equals.
    pub(super) parameters: BTreeMap<String, String>,
}

/// The challenges of one header, in order. What cannot be read ends the list.
pub(super) fn parse(text: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = text.get(..LONGEST.min(text.len())).unwrap_or_default();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let Some((word, after)) = token(rest) else { return challenges };
        let value = after.trim_start_matches([' ', '\t']).strip_prefix('=');
        let value = value.map(|value| value.trim_start_matches([' ', '\t']));
        match (value.and_then(value_of), challenges.last_mut()) {
            (Some((value, after)), Some(challenge)) => {
                challenge.parameters.entry(word.to_ascii_lowercase()).or_insert(value);
                rest = after;
            }
            // A parameter that belongs to nothing.
            (Some(_), None) => return challenges,
            // `=` without a value, or the padding of a token68: nothing of ours.
            (None, _) if value.is_some() => return challenges,
            (None, _) => {
                challenges.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: BTreeMap::new() });
                rest = after;
            }
        }
    }
}

/// RFC 9110, 5.6.2.
fn token(text: &str) -> Option<(&str, &str)> {
    let sign = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let end = text.bytes().position(|byte| !sign(byte)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// A token or a quoted string (RFC 9110, 5.6.4), and what follows.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        return token(text).map(|(value, rest)| (value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut signs = quoted.char_indices();
    while let Some((at, sign)) = signs.next() {
        match sign {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(signs.next()?.1),
            sign => value.push(sign),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, Vec<(String, String)>)> {
        let pairs = |challenge: Challenge| (challenge.scheme, challenge.parameters.into_iter().collect());
        parse(text).into_iter().map(pairs).collect()
    }

    fn one(scheme: &str, parameters: &[(&str, &str)]) -> (String, Vec<(String, String)>) {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        (scheme.to_owned(), parameters.iter().map(own).collect())
    }

    #[test]
    fn challenges_are_parted_from_their_parameters() {
        let token = r#"Bearer realm="https://auth.example/token",service="registry",scope="repository:a/b:pull,push""#;
        let parameters = [
            ("realm", "https://auth.example/token"),
            ("scope", "repository:a/b:pull,push"),
            ("service", "registry"),
        ];
        assert_eq!(read(token), [one("bearer", &parameters)]);
        assert_eq!(read("Basic realm=\"a \\\"b\\\"\""), [one("basic", &[("realm", "a \"b\"")])]);
        assert_eq!(
            read("Negotiate, Basic Realm = x , BEARER  realm=\"y\" ,realm=z"),
            [one("negotiate", &[]), one("basic", &[("realm", "x")]), one("bearer", &[("realm", "y")])]
        );
        for nothing in ["", " , ", "=x", "a=b", "Basic =x", "\"x\""] {
            assert_eq!(read(nothing), [], "{nothing:?}");
        }
        for half in ["Basic realm=\"x", "Basic realm="] {
            assert_eq!(read(half), [one("basic", &[])], "{half:?}");
        }
        assert_eq!(read("NTLM TlRMTVNTUAAC=="), [one("ntlm", &[])]);
    }

    #[test]
    fn whatever_comes_is_read_to_an_end() {
        for seed in 0..2000 {
            let mut random = hull_testkit::Random::new(seed);
            let signs = ["Bearer", " ", ",", "=", "\"", "\\", "é", "realm", "x", "\t"];
            let text: String = (0..40).map(|_| signs[random.below(signs.len())]).collect();
            parse(&text);
        }
        parse(&"a=\"".repeat(10_000));
    }
}
