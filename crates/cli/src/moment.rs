//! `--since` and `--until`: a moment, or how long ago.
//!
//! The API takes seconds since the epoch, with nine decimals if a calendar
//! time was named; a duration counts back from now.

use jiff::tz::TimeZone;
use jiff::{Timestamp, civil};

use crate::flags::quoted;
use crate::units;

/// Turns what was typed into what the API takes; `now` in seconds. A time
/// without a zone is in `zone`.
pub(crate) fn api_time(text: &str, now: i64, zone: &TimeZone) -> Result<String, String> {
    if text != "0"
        && let Ok(nanoseconds) = units::duration(text)
    {
        let back = nanoseconds.div_euclid(1_000_000_000);
        return Ok((now - back).to_string());
    }
    let refuse = || format!("failed to parse value as time or duration: {}", quoted(text));
    if let Some(moment) = calendar(text, zone) {
        return Ok(format!("{}.{:09}", moment.as_second(), moment.subsec_nanosecond()));
    }
    let seconds = text.split('.').next().unwrap_or_default();
    let decimals = text.split_once('.').map_or("0", |(_, decimals)| decimals);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = seconds.strip_prefix('-').unwrap_or(seconds);
    if digits(number) && digits(decimals) {
        return Ok(text.to_owned());
    }
    Err(refuse())
}

/// A date, or a date and a time, with or without a zone.
fn calendar(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    let zoned = text.contains(['z', 'Z', '+']) || text.matches('-').count() == 3;
    if !zoned {
        let local = match text.split_once('T') {
            None => text.parse::<civil::Date>().ok()?.at(0, 0, 0, 0),
            Some((date, time)) => {
                let time = match time.matches(':').count() {
                    0 => format!("{time}:00"),
                    _ => time.to_owned(),
                };
                format!("{date}T{time}").parse::<civil::DateTime>().ok()?
            }
        };
        return Some(local.to_zoned(zone.clone()).ok()?.timestamp());
    }
    let at = text.rfind(['z', 'Z', '+', '-'])?;
    let (moment, offset) = text.split_at(at);
    let moment = match moment.split_once('T') {
        None => format!("{moment}T00:00:00"),
        Some((date, time)) => match time.matches(':').count() {
            0 => format!("{date}T{time}:00:00"),
            1 => format!("{date}T{time}:00"),
            _ => moment.to_owned(),
        },
    };
    format!("{moment}{offset}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_the_reference_reads_them() {
        for (text, result) in [
            ("1h", "996400"),
            ("0s", "1000000"),
            ("2020-01-01T00:00:00", "1577836800.000000000"),
            ("2020-01-01", "1577836800.000000000"),
            ("2020-01-01T01", "1577840400.000000000"),
            ("2020-01-01T01:30", "1577842200.000000000"),
            ("2020-01-01T00:00:00.5Z", "1577836800.500000000"),
            ("2020-01-01T00:00:00+01:00", "1577833200.000000000"),
            ("2020-01-01T00:00:00-01:00", "1577840400.000000000"),
            ("2020-01-01Z", "1577836800.000000000"),
            ("1136073845", "1136073845"),
            ("1136073845.000000001", "1136073845.000000001"),
            ("0", "0"),
        ] {
            assert_eq!(api_time(text, 1_000_000, &TimeZone::UTC), Ok(result.to_owned()), "{text}");
        }
        for text in ["nonsense", "", "1x", "2020-13-01"] {
            assert_eq!(
                api_time(text, 0, &TimeZone::UTC),
                Err(format!("failed to parse value as time or duration: \"{text}\""))
            );
        }
    }
}
