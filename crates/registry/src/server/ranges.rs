//! Parts of a blob: `Range` of a pull (RFC 9110, 14.2), `Content-Range` of a chunk
//! (distribution-spec, `spec.md#pushing-a-blob-in-chunks`).

use http::HeaderMap;
use http::header::{IF_NONE_MATCH, IF_RANGE, RANGE};

/// What of `size` bytes is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    /// From the first, so many.
    Range {
        from: u64,
        length: u64,
    },
    /// Nothing of what is asked for is there.
    Unsatisfiable,
    /// The client has it already.
    NotModified,
}

/// Decides by the request's headers; `etag` with its quotes. Several ranges at once, units that are not
/// bytes, and what cannot be read are ignored, as the RFC allows: then the whole is sent.
pub(crate) fn wanted(headers: &HeaderMap, size: u64, etag: &str) -> Part {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if text(IF_NONE_MATCH).is_some_and(|tags| matches(tags, etag)) {
        return Part::NotModified;
    }
    let Some(range) = text(RANGE) else { return Part::Whole };
    if text(IF_RANGE).is_some_and(|tag| tag.trim() != etag) {
        return Part::Whole;
    }
    range.strip_prefix("bytes=").and_then(|range| part(range.trim(), size)).unwrap_or(Part::Whole)
}

/// `*`, or a list of tags, which may be weak.
fn matches(tags: &str, etag: &str) -> bool {
    tags.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

fn part(range: &str, size: u64) -> Option<Part> {
    let (first, last) = range.split_once('-')?;
    if first.is_empty() {
        let length = number(last)?.min(size);
        return Some(match length {
            0 => Part::Unsatisfiable,
            length => Part::Range { from: size - length, length },
        });
    }
    let from = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    if last < from {
        return None;
    }
    if from >= size {
        return Some(Part::Unsatisfiable);
    }
    Some(Part::Range { from, length: last.min(size - 1) - from + 1 })
}

/// Digits alone; `+1` is none.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Where a chunk begins and how long it says it is: `^[0-9]+-[0-9]+$`.
pub(crate) fn chunk(text: &str) -> Option<(u64, u64)> {
    let (first, last) = text.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    (last >= first).then(|| last.checked_sub(first)?.checked_add(1)).flatten().map(|length| (first, length))
}

/// `Range` of an upload that has so many bytes. None and one look alike: that is how the
/// specification's clients know it.
pub(crate) fn received(length: u64) -> String {
    format!("0-{}", length.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const TAG: &str = "\"sha256:00\"";

    fn check(pairs: &[(http::HeaderName, &'static str)], size: u64) -> Part {
        let headers =
            pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
        wanted(&headers, size, TAG)
    }

    #[test]
    fn ranges_are_cut_to_what_is_there() {
        let range = |value| check(&[(RANGE, value)], 10);
        assert_eq!(check(&[], 10), Part::Whole);
        assert_eq!(range("bytes=0-0"), Part::Range { from: 0, length: 1 });
        assert_eq!(range("bytes=3-"), Part::Range { from: 3, length: 7 });
        assert_eq!(range("bytes=3-100"), Part::Range { from: 3, length: 7 });
        assert_eq!(range("bytes=-4"), Part::Range { from: 6, length: 4 });
        assert_eq!(range("bytes=-100"), Part::Range { from: 0, length: 10 });
        assert_eq!(range("bytes=9-18446744073709551615"), Part::Range { from: 9, length: 1 });
        assert_eq!(range("bytes=10-"), Part::Unsatisfiable);
        assert_eq!(range("bytes=-0"), Part::Unsatisfiable);
        assert_eq!(check(&[(RANGE, "bytes=0-")], 0), Part::Unsatisfiable);
        for ignored in
            ["bytes=5-2", "bytes=0-1,3-4", "items=0-1", "bytes=+1-2", "bytes=a-b", "bytes=-", "bytes="]
        {
            assert_eq!(range(ignored), Part::Whole, "{ignored}");
        }
        assert_eq!(range("bytes=99999999999999999999999-"), Part::Whole);
    }

    #[test]
    fn conditions_are_about_the_digest() {
        assert_eq!(check(&[(IF_NONE_MATCH, TAG)], 10), Part::NotModified);
        assert_eq!(check(&[(IF_NONE_MATCH, "\"x\", W/\"sha256:00\"")], 10), Part::NotModified);
        assert_eq!(check(&[(IF_NONE_MATCH, "*")], 10), Part::NotModified);
        assert_eq!(check(&[(IF_NONE_MATCH, "\"sha256:01\"")], 10), Part::Whole);
        let part = Part::Range { from: 1, length: 2 };
        assert_eq!(check(&[(RANGE, "bytes=1-2"), (IF_RANGE, TAG)], 10), part);
        assert_eq!(check(&[(RANGE, "bytes=1-2"), (IF_RANGE, "\"other\"")], 10), Part::Whole);
    }

    #[test]
    fn a_chunk_says_its_first_and_its_last_byte() {
        assert_eq!(chunk("0-9"), Some((0, 10)));
        assert_eq!(chunk("10-10"), Some((10, 1)));
        for wrong in ["", "0", "-", "9-0", "bytes 0-9/10", "0-9/10", "+0-9", "0-", "0-18446744073709551616"] {
            assert_eq!(chunk(wrong), None, "{wrong}");
        }
        assert_eq!(chunk("0-18446744073709551615"), None);
        assert_eq!([received(0), received(1), received(10)], ["0-0", "0-0", "0-9"]);
    }
}
