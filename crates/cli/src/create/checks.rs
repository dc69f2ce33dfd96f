//! Values of flags: refused as the reference refuses them, or kept.
//!
//! Texts and limits follow what the official client prints for the same value.

use hull_oci::runtime::IPC_SYSCTLS;

use crate::flags::quoted;
use crate::units;

type Checked = Result<String, String>;

/// `NAME=VALUE`, or `NAME` with the value of this environment, if it has one.
pub(crate) fn variable(value: &str) -> Checked {
    let (name, given) = match value.split_once('=') {
        Some((name, _)) => (name, true),
        None => (value, false),
    };
    if name.is_empty() {
        return Err(format!("invalid environment variable: {value}"));
    }
    match std::env::var(name) {
        Ok(inherited) if !given => Ok(format!("{name}={inherited}")),
        _ => Ok(value.to_owned()),
    }
}

pub(crate) fn label(value: &str) -> Checked {
    match value.split('=').next() {
        Some("") | None => Err(format!("invalid label '{value}': empty name")),
        Some(_) => Ok(value.to_owned()),
    }
}

pub(crate) fn stream(value: &str) -> Checked {
    let name = value.to_ascii_lowercase();
    match name.as_str() {
        "stdin" | "stdout" | "stderr" => Ok(name),
        _ => Err("valid streams are STDIN, STDOUT and STDERR".to_owned()),
    }
}

/// `name:address` or `name=address`; kept with the colon the API wants.
pub(crate) fn host(value: &str) -> Checked {
    let bad = || format!("bad format for add-host: {}", quoted(value));
    let at = value.find(['=', ':']).ok_or_else(bad)?;
    let (name, address) = (&value[..at], &value[at + 1..]);
    if name.is_empty() || address.is_empty() {
        return Err(bad());
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if bare != "host-gateway" && bare.parse::<std::net::IpAddr>().is_err() {
        return Err(format!("invalid IP address in add-host: {}", quoted(bare)));
    }
    Ok(format!("{name}:{bare}"))
}

pub(crate) fn address(value: &str) -> Checked {
    match value.trim().parse::<std::net::IpAddr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) => Err(format!("IP address is not correctly formatted: {value}")),
    }
}

/// A search domain; `.` stands for none.
pub(crate) fn domain(value: &str) -> Checked {
    let value = value.trim();
    let named = value.bytes().any(|b| b.is_ascii_alphabetic());
    let good = value.split('.').all(|part| {
        !part.is_empty()
            && part.len() <= 63
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    });
    if value == "." || (named && good && value.len() <= 255) {
        Ok(value.to_owned())
    } else {
        Err(format!("{value} is not a valid domain"))
    }
}

pub(crate) fn link(value: &str) -> Checked {
    if value.is_empty() {
        return Err("empty string specified for links".to_owned());
    }
    if value.split(':').count() > 2 {
        return Err(format!("bad format for links: {value}"));
    }
    Ok(value.to_owned())
}

pub(crate) fn size(value: &str) -> Checked {
    units::bytes(value).map(|bytes| bytes.to_string())
}

pub(crate) fn swap(value: &str) -> Checked {
    if value == "-1" { Ok(value.to_owned()) } else { size(value) }
}

pub(crate) fn duration(value: &str) -> Checked {
    units::duration(value).map(|nanoseconds| nanoseconds.to_string())
}

/// A decimal number of CPUs; kept as billionths of one.
pub(crate) fn cpus(value: &str) -> Checked {
    let bad = || format!("failed to parse {value} as a rational number");
    let (negative, digits) = match value.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, value.strip_prefix('+').unwrap_or(value)),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && part.is_empty()) || !all_digits(whole) || !all_digits(part) {
        return Err(bad());
    }
    let part = part.trim_end_matches('0');
    if part.len() > 9 {
        return Err("value is too precise".to_owned());
    }
    let billionths: i64 = format!("{whole}{part:0<9}").parse().map_err(|_| bad())?;
    Ok(if negative { -billionths } else { billionths }.to_string())
}

/// A rule of the device control group: `c 1:3 rwm`.
pub(crate) fn device_rule(value: &str) -> Checked {
    let number = |text: &str| text == "*" || (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
    let parts: Vec<&str> = value.split(' ').collect();
    let good = match parts[..] {
        ["a" | "c" | "b", device, access] => {
            device.split_once(':').is_some_and(|(major, minor)| number(major) && number(minor))
                && (1..=3).contains(&access.len())
                && access.bytes().all(|b| b"rwm".contains(&b))
        }
        _ => false,
    };
    if good { Ok(value.to_owned()) } else { Err(format!("invalid device cgroup format '{value}'")) }
}

fn device_and(value: &str) -> Result<(&str, &str), String> {
    let (path, amount) = value
        .split_once(':')
        .filter(|(path, _)| !path.is_empty())
        .ok_or_else(|| format!("bad format: {value}"))?;
    if path.starts_with("/dev/") {
        Ok((path, amount))
    } else {
        Err(format!("bad format for device path: {value}"))
    }
}

pub(crate) fn weight(value: &str) -> Checked {
    let (_, amount) = device_and(value)?;
    match amount.parse::<u16>() {
        Ok(0 | 10..=1000) => Ok(value.to_owned()),
        _ => Err(format!("invalid weight for device: {value}")),
    }
}

/// A device and bytes per second; kept as `PATH:BYTES`.
pub(crate) fn rate_bytes(value: &str) -> Checked {
    let (path, amount) = device_and(value)?;
    match units::bytes(amount) {
        Ok(rate) => Ok(format!("{path}:{rate}")),
        Err(_) => Err(format!(
            "invalid rate for device: {value}. The correct format is <device-path>:<number>[<unit>]. \
             Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
        )),
    }
}

pub(crate) fn rate_count(value: &str) -> Checked {
    let (_, amount) = device_and(value)?;
    match amount.parse::<u64>() {
        Ok(_) => Ok(value.to_owned()),
        Err(_) => Err(format!(
            "invalid rate for device: {value}. The correct format is <device-path>:<number>. \
             Number must be a positive integer"
        )),
    }
}

/// A kernel parameter that belongs to a namespace.
pub(crate) fn sysctl(value: &str) -> Checked {
    let allowed = value.split_once('=').is_some_and(|(name, _)| {
        IPC_SYSCTLS.contains(&name) || name.starts_with("net.") || name.starts_with("fs.mqueue.")
    });
    if allowed { Ok(value.to_owned()) } else { Err(format!("sysctl '{value}' is not allowed")) }
}

/// `name=soft[:hard]`; kept as `name=soft:hard`.
pub(crate) fn ulimit(value: &str) -> Checked {
    const NAMES: [&str; 16] = [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let (name, limits) = value.split_once('=').ok_or_else(|| format!("invalid ulimit argument: {value}"))?;
    if !NAMES.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let number = |text: &str| {
        text.parse::<i64>().map_err(|_| format!("strconv.ParseInt: parsing {}: invalid syntax", quoted(text)))
    };
    let parts: Vec<&str> = limits.split(':').collect();
    let (soft, hard) = match parts[..] {
        [soft] => (number(soft)?, number(soft)?),
        [soft, hard] => (number(soft)?, number(hard)?),
        _ => {
            return Err(format!(
                "too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"
            ));
        }
    };
    if hard != -1 && soft == -1 {
        return Err(format!(
            "ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: {hard}"
        ));
    }
    if hard != -1 && soft > hard {
        return Err(format!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"));
    }
    Ok(format!("{name}={soft}:{hard}"))
}

pub(crate) fn mount(value: &str) -> Checked {
    super::mount::parse(value).map(|_| value.to_owned())
}

pub(crate) fn gpus(value: &str) -> Checked {
    super::devices::gpu_request(value).map(|_| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(checked: Checked) -> String {
        checked.unwrap_or_else(|refusal| refusal)
    }

    #[test]
    fn values_are_kept_or_refused_with_the_known_words() {
        for (got, text) in [
            (variable("=x"), "invalid environment variable: =x"),
            (variable("A="), "A="),
            (variable("HULL_SURELY_UNSET"), "HULL_SURELY_UNSET"),
            (label("=x"), "invalid label '=x': empty name"),
            (stream("STDIN"), "stdin"),
            (stream("x"), "valid streams are STDIN, STDOUT and STDERR"),
            (host("b=::1"), "b:::1"),
            (host("h:host-gateway"), "h:host-gateway"),
            (host("bad"), "bad format for add-host: \"bad\""),
            (host("a:x"), "invalid IP address in add-host: \"x\""),
            (address("x"), "IP address is not correctly formatted: x"),
            (domain(".."), ".. is not a valid domain"),
            (domain("example.com"), "example.com"),
            (link("a:b:c"), "bad format for links: a:b:c"),
            (swap("-1"), "-1"),
            (size("64m"), "67108864"),
            (cpus("0.5"), "500000000"),
            (cpus("-1"), "-1000000000"),
            (cpus("0.0000000001"), "value is too precise"),
            (cpus("x"), "failed to parse x as a rational number"),
            (device_rule("c 1:3 rwm"), "c 1:3 rwm"),
            (device_rule("a *:* r"), "a *:* r"),
            (device_rule("bad"), "invalid device cgroup format 'bad'"),
            (weight("x"), "bad format: x"),
            (rate_bytes("a:b"), "bad format for device path: a:b"),
            (rate_bytes("/dev/null:1mb"), "/dev/null:1048576"),
            (sysctl("net.a=1"), "net.a=1"),
            (sysctl("bad"), "sysctl 'bad' is not allowed"),
            (ulimit("nofile=64"), "nofile=64:64"),
            (ulimit("x"), "invalid ulimit argument: x"),
            (ulimit("nope=1"), "invalid ulimit type: nope"),
            (
                ulimit("nofile=300:200"),
                "ulimit soft limit must be less than or equal to hard limit: 300 > 200",
            ),
            (
                ulimit("nofile=1:2:3"),
                "too many limit value arguments - 1:2:3, can only have up to two, `soft[:hard]`",
            ),
        ] {
            assert_eq!(said(got), text);
        }
    }
}
