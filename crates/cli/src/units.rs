//! Sizes and durations, read and written as Go and Docker do.
//!
//! Sources: Go's `time.ParseDuration`, docker/go-units (`RAMInBytes`,
//! `HumanSizeWithPrecision`, `HumanDuration`). Their results stand in scripts.

pub(crate) use hull_api::units::human_size;
use hull_api::units::power_of_1024;

/// Nanoseconds of a Go duration such as `1h30m`, `-1.5s`, `500ms`, `0`.
pub(crate) fn duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", crate::flags::quoted(text));
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number = &rest[..digits];
        rest = &rest[digits..];
        if !number.bytes().any(|b| b.is_ascii_digit()) || number.matches('.').count() > 1 {
            return Err(invalid());
        }
        let unit_length = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = &rest[..unit_length];
        rest = &rest[unit_length..];
        let scale: i128 = match unit {
            "" => {
                return Err(format!("time: missing unit in duration {}", crate::flags::quoted(text)));
            }
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => {
                return Err(format!(
                    "time: unknown unit {} in duration {}",
                    crate::flags::quoted(unit),
                    crate::flags::quoted(text)
                ));
            }
        };
        total += scaled(number, scale).ok_or_else(invalid)?;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

/// `number` (digits with at most one point) times `scale`, cut to whole units.
fn scaled(number: &str, scale: i128) -> Option<i128> {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut value = whole.checked_mul(scale)?;
    let mut step = scale;
    for digit in part.bytes() {
        step /= 10;
        value += step * i128::from(digit - b'0');
    }
    Some(value)
}

/// Bytes of a size such as `64m`, `1.5GiB`, `10kb`, in steps of 1024.
pub(crate) fn bytes(text: &str) -> Result<i64, String> {
    let invalid = || format!("invalid size: '{text}'");
    let end = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ').ok_or_else(invalid)?;
    let (number, suffix) = if text.as_bytes()[end] == b' ' {
        (&text[..end], &text[end + 1..])
    } else {
        (&text[..=end], &text[end + 1..])
    };
    let number: f64 = number.parse().map_err(|_| {
        let number = crate::flags::quoted(number);
        format!("strconv.ParseFloat: parsing {number}: invalid syntax")
    })?;
    if number < 0.0 || !number.is_finite() {
        return Err(invalid());
    }
    let power = power_of_1024(suffix).ok_or_else(|| format!("invalid suffix: '{suffix}'"))?;
    #[expect(clippy::cast_possible_truncation, reason = "Go truncates here, too")]
    let bytes = (number * 1024_f64.powi(power)) as i64;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("0s", 0),
            ("1s", 1_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("-1.5h", -5_400_000_000_000),
            (".5s", 500_000_000),
            ("1us", 1_000),
            ("1µs", 1_000),
            ("2h45m10.25s", 9_910_250_000_000),
        ] {
            assert_eq!(duration(text), Ok(nanoseconds), "{text}");
        }
        for (text, message) in [
            ("", "time: invalid duration \"\""),
            ("1", "time: missing unit in duration \"1\""),
            ("x", "time: invalid duration \"x\""),
            ("1d", "time: unknown unit \"d\" in duration \"1d\""),
            ("1..5s", "time: invalid duration \"1..5s\""),
            ("9999999999h", "time: invalid duration \"9999999999h\""),
        ] {
            assert_eq!(duration(text), Err(message.to_owned()), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_in_steps_of_1024() {
        for (text, size) in [
            ("32", 32),
            ("32b", 32),
            ("32B", 32),
            ("32k", 32 << 10),
            ("32KiB", 32 << 10),
            ("32kb", 32 << 10),
            ("32 m", 32 << 20),
            ("32.5g", 65 << 29),
            ("1T", 1 << 40),
            ("1p", 1 << 50),
        ] {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for (text, message) in [
            ("", "invalid size: ''"),
            ("hello", "invalid size: 'hello'"),
            ("-32", "invalid size: '-32'"),
            ("32x", "invalid suffix: 'x'"),
            ("32kk", "invalid suffix: 'kk'"),
            ("1ib", "invalid suffix: 'ib'"),
            (".", "strconv.ParseFloat: parsing \".\": invalid syntax"),
        ] {
            assert_eq!(bytes(text), Err(message.to_owned()), "{text}");
        }
    }

    #[test]
    fn sizes_are_written_in_steps_of_1000() {
        for (size, digits, text) in [
            (0.0, 3, "0B"),
            (999.0, 3, "999B"),
            (1000.0, 3, "1kB"),
            (2_065_225.0, 3, "2.07MB"),
            (2_065_225.0, 4, "2.065MB"),
            (999_999.0, 3, "1e+03kB"),
            (512_000_000.0, 4, "512MB"),
            (1_536_000_000_000.0, 4, "1.536TB"),
        ] {
            assert_eq!(human_size(size, digits), text, "{size}");
        }
    }
}
