//! The order in which people count.

/// Names in the order in which people count: `n2` before `n10`.
pub(crate) fn natural(a: &str, b: &str) -> std::cmp::Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (digits_a, digits_b) = (digits(a), digits(b));
        if digits_a > 0 && digits_b > 0 {
            let (left, right) =
                (a[..digits_a].trim_start_matches('0'), b[..digits_b].trim_start_matches('0'));
            let order = left.len().cmp(&right.len()).then_with(|| left.cmp(right));
            // The same number: fewer zeros before it come first.
            let order = order.then_with(|| digits_a.cmp(&digits_b));
            if order.is_ne() {
                return order;
            }
            (a, b) = (&a[digits_a..], &b[digits_b..]);
            continue;
        }
        let (mut chars_a, mut chars_b) = (a.chars(), b.chars());
        match (chars_a.next(), chars_b.next()) {
            (Some(left), Some(right)) if left == right => (a, b) = (chars_a.as_str(), chars_b.as_str()),
            (left, right) => return left.cmp(&right),
        }
    }
}

/// How many digits the text begins with.
fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

#[cfg(test)]
mod tests {
    use super::natural;

    #[test]
    fn names_are_sorted_as_people_count() {
        let mut names = ["n10", "bridge", "n2", "bad name", "n02", "v6b", "v6", "n", "ö"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["bad name", "bridge", "n", "n2", "n02", "n10", "v6", "v6b", "ö"]);
    }
}
