//! Parts of a body and of a list: `Content-Range` (RFC 9110, 14.4) and `Link` (RFC 8288).

/// Of `bytes FIRST-LAST/LENGTH`: the first byte, and the length of the whole where it is told. `None`: it is
/// something else.
pub(super) fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (unit, range) = text.trim().split_once(' ')?;
    let (bytes, length) = range.trim().split_once('/')?;
    let (first, last) = bytes.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let length = if length == "*" { None } else { Some(number(length)?) };
    let whole = unit.eq_ignore_ascii_case("bytes") && first <= last && length.is_none_or(|all| last < all);
    whole.then_some((first, length))
}

fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// The address of the next page.
pub(super) fn next_page(text: &str) -> Option<&str> {
    let mut rest = text;
    loop {
        let (_, after) = rest.split_once('<')?;
        let (address, after) = after.split_once('>')?;
        // The parameters of this one end where the next one begins.
        let end = after.find('<').unwrap_or(after.len());
        let is_next = after[..end].split([';', ',']).any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            name.trim().eq_ignore_ascii_case("rel")
                && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
        });
        if is_next {
            return Some(address);
        }
        rest = &after[end..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_say_where_they_begin() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("Bytes 0-0/*"), Some((0, None)));
        for wrong in [
            "",
            "bytes",
            "bytes */10",
            "bytes 9-5/10",
            "bytes 5-10/10",
            "bytes +5-9/10",
            "lines 1-2/3",
            "bytes -5-9/10",
            "bytes 5-9/x",
            "bytes 99999999999999999999-1/2",
        ] {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_next_page_is_the_one_that_says_so() {
        assert_eq!(
            next_page("</v2/a/tags/list?last=x&n=2>; rel=\"next\""),
            Some("/v2/a/tags/list?last=x&n=2")
        );
        assert_eq!(next_page("<a>; rel=prev, <b>; title=\"x\"; REL = next"), Some("b"));
        for none in ["", "<a>", "<a>; rel=prev", "a; rel=next", "<a; rel=next", "<a>; rel=\"nextish\""] {
            assert_eq!(next_page(none), None, "{none}");
        }
    }
}
