//! Constants: Go's integers, floats, characters and quoted strings, read from source.

/// The value of a numeric or character constant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Constant {
    Int(i64),
    /// An integer too large for a signed word: only an error when it is used.
    Big,
    Float(f64),
}

/// Reads a number (`12`, `0x1F`, `1_000`, `0b1`, `0o7`, `1.5e3`); `None`: not a number.
pub(crate) fn number(source: &str) -> Option<Constant> {
    let (negative, digits) = match source.as_bytes().first()? {
        b'+' => (false, &source[1..]),
        b'-' => (true, &source[1..]),
        _ => (false, source),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, body) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        _ if lower.len() > 1 && lower.starts_with('0') && lower[1..].bytes().all(is_octal) => {
            (8, &lower[1..])
        }
        _ => (10, lower.as_str()),
    };
    let body = without_underscores(body, radix != 10)?;
    if !body.is_empty() && body.chars().all(|c| c.is_digit(radix)) {
        return Some(integer(&body, radix, negative));
    }
    if radix == 16 {
        return hex_float(&body).map(|value| Constant::Float(if negative { -value } else { value }));
    }
    let plain = |c: char| c.is_ascii_digit() || ".e+-".contains(c);
    if radix != 10 && radix != 8 || !body.chars().all(plain) || !body.contains(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let value: f64 = without_underscores(&lower, false)?.parse().ok()?;
    if !value.is_finite() {
        return None;
    }
    Some(Constant::Float(if negative { -value } else { value }))
}

fn is_octal(byte: u8) -> bool {
    (b'0'..=b'7').contains(&byte) || byte == b'_'
}

fn integer(body: &str, radix: u32, negative: bool) -> Constant {
    match i128::from_str_radix(body, radix) {
        Ok(value) => {
            let value = if negative { -value } else { value };
            i64::try_from(value).map_or(Constant::Big, Constant::Int)
        }
        Err(_) => Constant::Big,
    }
}

/// An underscore must stand between digits, or between a prefix and a digit.
fn without_underscores(text: &str, prefixed: bool) -> Option<String> {
    if text.ends_with('_') || text.contains("__") || (!prefixed && text.starts_with('_')) {
        return None;
    }
    Some(text.replace('_', ""))
}

/// `1.8p3`: a mantissa in base 16 and a power of two.
fn hex_float(body: &str) -> Option<f64> {
    let (mantissa, exponent) = body.split_once('p')?;
    let exponent: i32 = exponent.parse().ok()?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut value = 0.0;
    for c in whole.chars().chain(fraction.chars()) {
        value = value * 16.0 + f64::from(c.to_digit(16)?);
    }
    let scale = exponent.checked_sub(i32::try_from(fraction.len()).ok()?.checked_mul(4)?)?;
    let value = value * 2f64.powi(scale);
    value.is_finite().then_some(value)
}

/// The character in `'x'`, as its number.
pub(crate) fn character(source: &str) -> Option<Constant> {
    let inner = source.strip_prefix('\'')?.strip_suffix('\'')?;
    let text = unescape(inner, '\'')?;
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) => Some(Constant::Int(i64::from(u32::from(c)))),
        _ => None,
    }
}

/// The text in `"…"`.
pub(crate) fn quoted(source: &str) -> Option<String> {
    unescape(source.strip_prefix('"')?.strip_suffix('"')?, '"')
}

/// Go's escapes. Bytes that do not form UTF-8 become replacement characters.
fn unescape(text: &str, quote: char) -> Option<String> {
    let mut out: Vec<u8> = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.extend(c.encode_utf8(&mut [0; 4]).bytes());
            continue;
        }
        let byte = match chars.next()? {
            c @ '0'..='7' => {
                let value = c.to_digit(8)? * 64 + digits(&mut chars, 2, 8)?;
                u8::try_from(value).ok()?
            }
            'x' => u8::try_from(digits(&mut chars, 2, 16)?).ok()?,
            c @ ('u' | 'U') => {
                let count = if c == 'u' { 4 } else { 8 };
                let c = char::from_u32(digits(&mut chars, count, 16)?)?;
                out.extend(c.encode_utf8(&mut [0; 4]).bytes());
                continue;
            }
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 11,
            '\\' => b'\\',
            c if c == quote => u8::try_from(c).ok()?,
            _ => return None,
        };
        out.push(byte);
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

/// Exactly `count` digits.
fn digits(chars: &mut std::str::Chars<'_>, count: usize, radix: u32) -> Option<u32> {
    (0..count)
        .try_fold(0u32, |value, _| value.checked_mul(radix)?.checked_add(chars.next()?.to_digit(radix)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        assert_eq!(number("12"), Some(Constant::Int(12)));
        assert_eq!(number("-0x1F"), Some(Constant::Int(-31)));
        assert_eq!(number("1_000"), Some(Constant::Int(1000)));
        assert_eq!(number("0b101"), Some(Constant::Int(5)));
        assert_eq!(number("017"), Some(Constant::Int(15)));
        assert_eq!(number("0o17"), Some(Constant::Int(15)));
        assert_eq!(number("1.5e3"), Some(Constant::Float(1500.0)));
        assert_eq!(number(".5"), Some(Constant::Float(0.5)));
        assert_eq!(number("0.5"), Some(Constant::Float(0.5)));
        assert_eq!(number("0x1p4"), Some(Constant::Float(16.0)));
        assert_eq!(number("9223372036854775808"), Some(Constant::Big));
        for bad in ["3k", "1_", "_1", "+", "0x", "1e", "1.2.3", "1i", "0b2"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }

    #[test]
    fn escapes_are_read_as_go_reads_them() {
        assert_eq!(quoted(r#""a\t\"\\\x41\101\u00e9""#).as_deref(), Some("a\t\"\\AAé"));
        assert_eq!(quoted(r#""\q""#), None);
        assert_eq!(quoted(r#""\ud800""#), None);
        assert_eq!(quoted(r#""\x4""#), None);
        assert_eq!(character("'a'"), Some(Constant::Int(97)));
        assert_eq!(character(r"'\n'"), Some(Constant::Int(10)));
        assert_eq!(character("'ab'"), None);
    }
}
