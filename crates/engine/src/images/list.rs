//! `image ls`: which images, with which of their names.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Image, Images, State};
use crate::containers::phase::Time;
use crate::{Error, Result};

/// What to list. The default is everything a person wants to see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListFilters {
    /// Images without a name, too, that other images were made from.
    pub all: bool,
    /// Only images without any tag, or only those with one.
    pub dangling: Option<bool>,
    /// `KEY` or `KEY=VALUE`, all of which must be there.
    pub labels: Vec<String>,
    /// `KEY` or `KEY=VALUE`, any of which keeps an image out.
    pub not_labels: Vec<String>,
    /// Made before, after this image (a name or id).
    pub before: Option<String>,
    pub since: Option<String>,
    /// Made before this time.
    pub until: Option<Time>,
    /// Patterns of names; an image is listed with the names that match one of them.
    pub references: Vec<String>,
}

/// An image and the names it is listed with, familiar and sorted.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    pub image: Arc<Image>,
    /// `busybox:latest`.
    pub tags: Vec<String>,
    /// `busybox@sha256:…`.
    pub digests: Vec<String>,
}

impl ListFilters {
    /// From the API's map of filters (name → values). `now` is what durations count back from.
    pub fn parse(filters: &BTreeMap<String, Vec<String>>, now: Time) -> Result<ListFilters> {
        let mut parsed = ListFilters::default();
        for (name, values) in filters {
            let invalid = || Error::Invalid(format!("invalid filter '{name}=[{}]'", values.join(" ")));
            let one = || values.first().cloned();
            match name.as_str() {
                "dangling" => {
                    let truth = |value: &String| match value.to_lowercase().as_str() {
                        "1" | "t" | "true" => Some(true),
                        "0" | "f" | "false" => Some(false),
                        _ => None,
                    };
                    let [value] = &values[..] else { return Err(invalid()) };
                    parsed.dangling = Some(truth(value).ok_or_else(invalid)?);
                }
                "label" => parsed.labels = values.clone(),
                "label!" => parsed.not_labels = values.clone(),
                "before" => parsed.before = one(),
                "since" => parsed.since = one(),
                "until" => {
                    for value in values {
                        let until = parse_time(value, now).ok_or_else(|| {
                            Error::Invalid(format!("failed to parse value as time or duration: {value:?}"))
                        })?;
                        parsed.until = Some(parsed.until.map_or(until, |known| known.min(until)));
                    }
                }
                "reference" => {
                    for pattern in values {
                        matches(pattern.as_bytes(), b"")
                            .ok_or_else(|| Error::Invalid("syntax error in pattern".to_owned()))?;
                    }
                    parsed.references = values.clone();
                }
                _ => return Err(Error::Invalid(format!("invalid filter '{name}'"))),
            }
        }
        Ok(parsed)
    }

    /// Whether the labels are as wanted.
    pub fn labels_match(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|have| have == value),
            None => labels.contains_key(wanted),
        };
        self.labels.iter().all(has) && !self.not_labels.iter().any(has)
    }
}

impl Images {
    /// Newest first.
    pub fn list(&self, filters: &ListFilters) -> Result<Vec<Listed>> {
        let state = self.0.read();
        let made = |key: &Option<String>| -> Result<Option<Made>> {
            key.as_deref().map(|key| state.resolve(key).map(|image| made(&image))).transpose()
        };
        let (before, since) = (made(&filters.before)?, made(&filters.since)?);
        let mut listed: Vec<Listed> = Vec::new();
        for image in state.images.values() {
            let when = self::made(image);
            if before.as_ref().is_some_and(|before| when >= *before)
                || since.as_ref().is_some_and(|since| when <= *since)
                || filters.until.is_some_and(|until| when.0 >= i128::from(until))
                || !filters.labels_match(&image.config.config.labels)
            {
                continue;
            }
            listed.extend(state.listed(image, filters));
        }
        listed.sort_by(|a, b| {
            self::made(&b.image).cmp(&self::made(&a.image)).then(a.image.id.cmp(&b.image.id))
        });
        Ok(listed)
    }
}

type Made = (i128,);

/// Nanoseconds since the epoch at which the image was made.
fn made(image: &Image) -> Made {
    let created = image.config.created.as_deref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    (created.map_or(0, jiff::Timestamp::as_nanosecond),)
}

impl State {
    fn listed(&self, image: &Arc<Image>, filters: &ListFilters) -> Option<Listed> {
        let names = self.names_of(&image.id);
        let wanted = |familiar: &str, name: &str| {
            filters.references.is_empty()
                || filters.references.iter().any(|pattern| {
                    let fits = |text: &str| matches(pattern.as_bytes(), text.as_bytes()) == Some(true);
                    fits(familiar) || fits(name)
                })
        };
        let mut listed = Listed { image: Arc::clone(image), tags: Vec::new(), digests: Vec::new() };
        for name in &names {
            let familiar = name.familiar();
            if !wanted(&familiar, &name.familiar_name()) {
                continue;
            }
            match name.digest {
                Some(_) => listed.digests.push(familiar),
                None => listed.tags.push(familiar),
            }
        }
        listed.tags.sort();
        listed.digests.sort();
        if listed.tags.is_empty() && listed.digests.is_empty() {
            // A step of a build is of no interest; with patterns an image without a name neither.
            if !filters.references.is_empty() || self.has_children(&image.id) && !filters.all {
                return None;
            }
        }
        let dangling = listed.tags.is_empty();
        filters.dangling.is_none_or(|wanted| wanted == dangling).then_some(listed)
    }
}

/// Go's `path.Match`: `*` and `?` stand for anything but `/`, `[a-z]` and `[^a-z]` for one
/// character, `\` takes the next character as it is. `None`: the pattern is malformed.
fn matches(pattern: &[u8], text: &[u8]) -> Option<bool> {
    match pattern {
        [] => Some(text.is_empty()),
        [b'*', rest @ ..] => {
            let end = text.iter().position(|&byte| byte == b'/').unwrap_or(text.len());
            let mut found = false;
            for skipped in 0..=end {
                found |= matches(rest, &text[skipped..])?;
                if found {
                    break;
                }
            }
            Some(found)
        }
        [b'?', rest @ ..] => match text {
            [byte, tail @ ..] if *byte != b'/' => matches(rest, tail),
            _ => matches(rest, b"").map(|_| false),
        },
        [b'[', class @ ..] => {
            let (fits, rest) = class_fits(class, text.first().copied())?;
            match text {
                [_, tail @ ..] if fits => matches(rest, tail),
                _ => matches(rest, b"").map(|_| false),
            }
        }
        [b'\\', literal, rest @ ..] => literal_matches(*literal, rest, text),
        [b'\\'] => None,
        [literal, rest @ ..] => literal_matches(*literal, rest, text),
    }
}

fn literal_matches(literal: u8, rest: &[u8], text: &[u8]) -> Option<bool> {
    match text {
        [byte, tail @ ..] if *byte == literal => matches(rest, tail),
        // The rest of the pattern is still checked for its form.
        _ => matches(rest, b"").map(|_| false),
    }
}

/// Whether the byte is of the class, and what follows the class in the pattern.
fn class_fits(class: &[u8], byte: Option<u8>) -> Option<(bool, &[u8])> {
    let (negated, mut class) = match class {
        [b'^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut fits = false;
    let mut first = true;
    loop {
        if let [b']', rest @ ..] = class
            && !first
        {
            return Some((byte.is_some() && fits != negated, rest));
        }
        first = false;
        let (low, rest) = class_byte(class)?;
        let (high, rest) = match rest {
            [b'-', rest @ ..] => class_byte(rest)?,
            rest => (low, rest),
        };
        fits |= byte.is_some_and(|byte| (low..=high).contains(&byte));
        class = rest;
    }
}

fn class_byte(class: &[u8]) -> Option<(u8, &[u8])> {
    match class {
        [b'\\', byte, rest @ ..] => Some((*byte, rest)),
        [b'-' | b']' | b'\\', ..] | [] => None,
        [byte, rest @ ..] => Some((*byte, rest)),
    }
}

/// A Go duration back from `now` (`1h30m`), seconds since the epoch, or a date.
pub(super) fn parse_time(text: &str, now: Time) -> Option<Time> {
    const SECOND: i128 = 1_000_000_000;
    if let Some(back) = parse_duration(text) {
        return now.checked_sub(back);
    }
    if let Ok(seconds) = text.parse::<i64>() {
        return Time::try_from(i128::from(seconds) * SECOND).ok();
    }
    if let Ok(timestamp) = text.parse::<jiff::Timestamp>() {
        return Time::try_from(timestamp.as_nanosecond()).ok();
    }
    let zoned = text.parse::<jiff::civil::DateTime>().ok()?.to_zoned(jiff::tz::TimeZone::system()).ok()?;
    Time::try_from(zoned.timestamp().as_nanosecond()).ok()
}

/// `1h2m3.5s`, `300ms`: nanoseconds. At least one number with its unit, nothing else.
pub(super) fn parse_duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total = 0f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    // Some 290 years fit.
    (total < 9.2e18).then_some(total as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_go_s_do() {
        let yes =
            [("a", "a"), ("a*", "abc"), ("*", ""), ("*/*", "user/repo"), ("a:?", "a:1"), ("[a-c]x", "bx")];
        let no = [("a", "ab"), ("*", "user/repo"), ("a?", "a/"), ("[^a]", "a"), ("[a-c]x", "dx"), ("", "a")];
        for (pattern, text) in yes {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), Some(true), "{pattern} {text}");
        }
        for (pattern, text) in no {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), Some(false), "{pattern} {text}");
        }
        for pattern in ["[", "[a", "[]", "[-]", "\\", "a[", "x[b-"] {
            assert_eq!(matches(pattern.as_bytes(), b"y"), None, "{pattern}");
        }
    }

    #[test]
    fn filters_are_told_apart_from_nonsense_in_the_reference_s_words() {
        let parse = |name: &str, value: &str| {
            let map = BTreeMap::from([(name.to_owned(), vec![value.to_owned()])]);
            ListFilters::parse(&map, 7_200_000_000_000).map_err(|error| error.to_string())
        };
        assert_eq!(parse("nosuch", "1").unwrap_err(), "invalid filter 'nosuch'");
        assert_eq!(parse("dangling", "maybe").unwrap_err(), "invalid filter 'dangling=[maybe]'");
        assert_eq!(parse("reference", "[").unwrap_err(), "syntax error in pattern");
        let text = "failed to parse value as time or duration: \"nonsense\"";
        assert_eq!(parse("until", "nonsense").unwrap_err(), text);
        assert_eq!(parse("until", "1h30m").unwrap().until, Some(1_800_000_000_000));
        assert_eq!(parse("until", "5").unwrap().until, Some(5_000_000_000));
        assert_eq!(parse("until", "1970-01-01T00:00:01Z").unwrap().until, Some(1_000_000_000));
        assert_eq!(parse("dangling", "1").unwrap().dangling, Some(true));
    }
}
