//! Which of two versions is newer (Debian Policy, section 5.6.12; deb-version(7)).

use std::cmp::Ordering;

/// `[EPOCH:]UPSTREAM[-REVISION]` against another.
pub fn compare(a: &str, b: &str) -> Ordering {
    let ((a_epoch, a), (b_epoch, b)) = (epoch(a), epoch(b));
    let ((a, a_revision), (b, b_revision)) = (revision(a), revision(b));
    numbers(a_epoch, b_epoch).then_with(|| parts(a, b)).then_with(|| parts(a_revision, b_revision))
}

fn epoch(version: &str) -> (&str, &str) {
    version.split_once(':').unwrap_or(("", version))
}

fn revision(version: &str) -> (&str, &str) {
    version.rsplit_once('-').unwrap_or((version, ""))
}

/// Pieces without digits and pieces of digits in turn.
fn parts(mut a: &str, mut b: &str) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        let ((a_text, a_rest), (b_text, b_rest)) = (letters(a), letters(b));
        let ((a_number, a_rest), (b_number, b_rest)) = (digits(a_rest), digits(b_rest));
        let order = texts(a_text, b_text).then_with(|| numbers(a_number, b_number));
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (a_rest, b_rest);
    }
    Ordering::Equal
}

fn letters(text: &str) -> (&str, &str) {
    text.split_at(text.find(|sign: char| sign.is_ascii_digit()).unwrap_or(text.len()))
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|sign: char| !sign.is_ascii_digit()).unwrap_or(text.len()))
}

/// A tilde comes before the end, the end before letters, letters before all else.
fn texts(a: &str, b: &str) -> Ordering {
    let weight = |sign: Option<u8>| match sign {
        Some(b'~') => -1,
        None => 0,
        Some(letter) if letter.is_ascii_alphabetic() => i32::from(letter),
        Some(other) => i32::from(other) + 256,
    };
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let signs = (0..a.len().max(b.len())).map(|at| (a.get(at).copied(), b.get(at).copied()));
    let orders = signs.map(|(a, b)| weight(a).cmp(&weight(b)));
    orders.fold(Ordering::Equal, Ordering::then)
}

/// Of any length; none is 0.
fn numbers(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_the_policy_says() {
        let rising = [
            "1.0~~",
            "1.0~~a",
            "1.0~",
            "1.0",
            "1.0-0.1",
            "1.0-1",
            "1.0-1+b1",
            "1.0-1.1",
            "1.0a",
            "1.0+1",
            "1.0.1",
            "1.2",
            "1.10",
            "01.11",
            "2~rc1-1",
            "2-1",
            "10000000000000000000000",
            "1:0",
        ];
        for (at, older) in rising.iter().enumerate() {
            assert_eq!(compare(older, older), Ordering::Equal, "{older}");
            for newer in &rising[at + 1..] {
                assert_eq!(compare(older, newer), Ordering::Less, "{older} {newer}");
                assert_eq!(compare(newer, older), Ordering::Greater, "{newer} {older}");
            }
        }
        assert_eq!(compare("0:1.0-0", "1.00"), Ordering::Equal);
    }
}
