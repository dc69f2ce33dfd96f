//! Numbers: resource limits, scores, quotas and log sizes, cut down to what the host can do.

use std::path::PathBuf;

use hull_oci::runtime::Rlimit;
use hull_runtime::bundle::LogSettings;

use crate::containers::settings::LogDriver;
use crate::host::HostFacts;
use crate::{Error, Result};

/// The period for which `--cpus` counts, in microseconds.
const PERIOD: u64 = 100_000;
/// Bytes of one segment where nobody says how large a log may grow.
const SEGMENT: u64 = 16 << 20;
/// Bytes of the smallest segment.
const SMALLEST: u64 = 4 << 10;

/// `--cpus` in billionths as quota and period in microseconds.
pub fn cpu_quota(nano_cpus: i64) -> (i64, u64) {
    (nano_cpus.saturating_mul(PERIOD as i64) / 1_000_000_000, PERIOD)
}

/// Lowers what only a process with CAP_SYS_RESOURCE could raise, with one warning for all. Who asks
/// for no number of open files gets the daemon's own of before it raised it.
pub(super) fn rlimits(asked: &[Rlimit], host: &HostFacts) -> (Vec<Rlimit>, Option<String>) {
    const OPEN_FILES: &str = "RLIMIT_NOFILE";
    let mut clamped = Vec::new();
    let inherited = host.open_files.filter(|_| asked.iter().all(|limit| limit.kind != OPEN_FILES));
    let inherited = inherited.map(|(soft, hard)| Rlimit { kind: OPEN_FILES.to_owned(), hard, soft });
    let limits = asked
        .iter()
        .map(|limit| {
            let largest =
                host.rlimits.iter().find(|(name, _)| *name == limit.kind).map_or(u64::MAX, |(_, hard)| *hard);
            if host.may_raise_limits || limit.hard <= largest {
                return limit.clone();
            }
            clamped.push(format!("{} to {largest}", limit.kind));
            Rlimit { kind: limit.kind.clone(), hard: largest, soft: limit.soft.min(largest) }
        })
        .chain(inherited)
        .collect();
    let warning = (!clamped.is_empty())
        .then(|| format!("This daemon may not raise limits above its own: lowered {}.", clamped.join(", ")));
    (limits, warning)
}

/// The score to set; 0 leaves the daemon's own where it may not be lowered.
pub(super) fn oom_score(asked: i32, host: &HostFacts) -> (Option<i32>, Option<String>) {
    if host.may_raise_limits || asked >= host.oom_score_adj {
        return (Some(asked), None);
    }
    let warning = (asked != 0).then(|| {
        format!(
            "This daemon may not lower the OOM score below its own: {} instead of {asked}.",
            host.oom_score_adj
        )
    });
    (Some(host.oom_score_adj), warning)
}

/// How the shim keeps the log: `None` for the driver `none`. `max-size` is the size of one
/// segment and `max-file` how many there are; by default a log grows without end, as in the
/// reference.
pub fn log(driver: &LogDriver, dir: PathBuf) -> Result<Option<LogSettings>> {
    if driver.name == "none" {
        return Ok(None);
    }
    let option = |name: &str| driver.options.get(name).map(String::as_str).filter(|text| !text.is_empty());
    let size = match option("max-size") {
        None | Some("-1") => None,
        Some(text) => Some(bytes(text).ok_or_else(|| {
            Error::Invalid(format!("invalid value for max-size: {text}: invalid size: '{text}'"))
        })?),
    };
    let files = match option("max-file") {
        None => None,
        Some(text) => match text.parse::<i64>() {
            Ok(count @ 1..) => Some(u32::try_from(count).unwrap_or(u32::MAX)),
            Ok(_) => return Err(Error::Invalid("max-file cannot be less than 1".to_owned())),
            Err(_) => {
                return Err(Error::Invalid(format!("strconv.Atoi: parsing {text:?}: invalid syntax")));
            }
        },
    };
    if files.is_some_and(|count| count > 1) && size.is_none() {
        return Err(Error::Invalid("max-file cannot be specified without max-size".to_owned()));
    }
    Ok(Some(match size {
        None => LogSettings { dir, segment_bytes: SEGMENT, segments: u32::MAX },
        Some(size) => LogSettings { dir, segment_bytes: size.max(SMALLEST), segments: files.unwrap_or(1) },
    }))
}

/// Bytes of `10m`, `1.5g`, `512`, as the reference reads them: powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim_end();
    let unit = lower[digits.len()..].trim_start();
    let shift = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(unit) {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    let number: f64 = digits.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)?;
    let value = number * (1u64 << shift) as f64;
    (value < i64::MAX as f64).then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_lowered_with_one_warning_where_they_cannot_be_raised() {
        let asked = [
            Rlimit { kind: "RLIMIT_NOFILE".into(), hard: 5000, soft: 4000 },
            Rlimit { kind: "RLIMIT_CORE".into(), hard: 0, soft: 0 },
        ];
        let host = HostFacts { rlimits: vec![("RLIMIT_NOFILE".into(), 1000)], ..HostFacts::default() };
        let (limits, warning) = rlimits(&asked, &host);
        assert_eq!((limits[0].hard, limits[0].soft, limits[1].hard), (1000, 1000, 0));
        assert!(warning.unwrap().contains("RLIMIT_NOFILE to 1000"));
        let free = HostFacts { may_raise_limits: true, ..host };
        assert_eq!(rlimits(&asked, &free), (asked.to_vec(), None));
    }

    #[test]
    fn open_files_are_those_that_the_daemon_was_started_with_unless_asked_for() {
        let host =
            HostFacts { open_files: Some((256, 4096)), may_raise_limits: true, ..HostFacts::default() };
        let files = |soft, hard| Rlimit { kind: "RLIMIT_NOFILE".into(), hard, soft };
        let core = Rlimit { kind: "RLIMIT_CORE".into(), hard: 0, soft: 0 };
        assert_eq!(rlimits(&[], &host).0, [files(256, 4096)]);
        assert_eq!(rlimits(std::slice::from_ref(&core), &host).0, [core, files(256, 4096)]);
        assert_eq!(rlimits(&[files(7, 8)], &host).0, [files(7, 8)]);
        assert_eq!(rlimits(&[], &HostFacts::default()).0, []);
    }

    #[test]
    fn a_score_is_raised_but_not_lowered_without_the_right() {
        let host = HostFacts { oom_score_adj: 200, ..HostFacts::default() };
        assert_eq!(oom_score(0, &host), (Some(200), None));
        assert_eq!(oom_score(500, &host), (Some(500), None));
        assert!(oom_score(-500, &host).1.is_some());
        assert_eq!(oom_score(-500, &HostFacts { may_raise_limits: true, ..host }), (Some(-500), None));
    }

    #[test]
    fn log_sizes_are_the_options_and_bad_ones_are_refused_in_the_references_words() {
        let ask = |pairs: &[(&str, &str)]| {
            let options = pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
            log(&LogDriver { name: "json-file".into(), options }, PathBuf::from("/l"))
        };
        let limited = ask(&[("max-size", "10m"), ("max-file", "3")]).unwrap().unwrap();
        assert_eq!((limited.segment_bytes, limited.segments), (10 << 20, 3));
        assert_eq!(ask(&[]).unwrap().unwrap().segments, u32::MAX);
        assert_eq!(ask(&[("max-size", "1k")]).unwrap().unwrap().segments, 1);
        assert_eq!(
            ask(&[("max-size", "x")]).unwrap_err().to_string(),
            "invalid value for max-size: x: invalid size: 'x'"
        );
        assert_eq!(ask(&[("max-file", "0")]).unwrap_err().to_string(), "max-file cannot be less than 1");
        assert!(
            log(&LogDriver { name: "none".into(), ..LogDriver::default() }, PathBuf::new())
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn sizes_and_quotas() {
        for (text, size) in [
            ("10m", 10 << 20),
            ("1.5k", 1536),
            ("512", 512),
            ("2GiB", 2 << 30),
            ("1kb", 1024),
            ("1 m", 1 << 20),
        ] {
            assert_eq!(bytes(text), Some(size), "{text}");
        }
        for text in ["", "m", "x", "-1", "1e30p", "10q", "nan"] {
            assert_eq!(bytes(text), None, "{text}");
        }
        assert_eq!(cpu_quota(500_000_000), (50_000, 100_000));
        assert_eq!(cpu_quota(i64::MAX).1, 100_000);
    }
}
