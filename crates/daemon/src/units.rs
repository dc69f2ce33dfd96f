//! Sizes and durations as people write them, and as Go reads them.

use hull_api::units::power_of_1024;

/// Bytes of a size such as `64m`, `1.5GiB`, `20GB`, in steps of 1024 (go-units' `RAMInBytes`).
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    let power = power_of_1024(text[end..].trim_start())?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "no sign is read; Go truncates, too"
    )]
    let bytes = (number * 1024_f64.powi(power)) as u64;
    Some(bytes)
}

/// `1h30m`, `90s`, `1.5h`, `100ms`: nanoseconds.
pub(crate) fn go_duration(text: &str) -> Option<i64> {
    const UNITS: [(&str, f64); 7] =
        [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];
    let mut rest = text;
    let mut sum = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (_, scale) = UNITS.iter().find(|(unit, _)| *unit == &rest[..letters])?;
        rest = &rest[letters..];
        sum += number * scale;
    }
    // Beyond the range there is only "long ago".
    #[expect(clippy::cast_possible_truncation, reason = "saturates")]
    (!text.is_empty()).then_some(sum as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_read_in_all_their_forms() {
        for (text, size) in
            [("32", Some(32)), ("1.5k", Some(1536)), ("20GB", Some(20 << 30)), ("1 TiB", Some(1 << 40))]
        {
            assert_eq!(bytes(text), size, "{text}");
        }
        for bad in ["", "x", "-1", "1x", "1.2.3", "%"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
        assert_eq!(go_duration("1h30m"), Some(5_400_000_000_000));
        assert_eq!(go_duration("48"), None);
    }
}
