//! The image's configuration (image-spec `config.md`): what instructions that change no file do, and the
//! history of all.
//!
//! History has the words that people and programs know from the reference: `RUN /bin/sh -c make # buildkit`,
//! `EXPOSE map[80/tcp:{}]`. Its times are those at which the steps were done, so an image out of the
//! cache has the same digest again; what changes no file has the time of the last step below it.

use std::collections::BTreeSet;

use hull_oci::image::{Config, Healthcheck, History};
use hull_oci::{Digest, Platform};

use crate::dockerfile::ast::{self, Command};
use crate::executor::Stack;

/// The search path of an image that begins with nothing, and of any container that has none.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// By this programs tell histories without `#(nop)` from those of older builders.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// One instruction in the image's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Past {
    pub(crate) created_by: String,
    /// It has a change of its own in the stack.
    pub(crate) is_step: bool,
}

/// What `FROM scratch` begins with.
pub(crate) fn scratch(platform: &Platform) -> Config {
    let mut config = Config {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        ..Config::default()
    };
    config.config.env = vec![PATH.to_owned()];
    config.config.working_dir = "/".to_owned();
    config
}

/// What `FROM image` begins with: the image's configuration without what was true of its making only.
pub(crate) fn inherited(config: &Config) -> Config {
    Config {
        container: String::new(),
        docker_version: String::new(),
        comment: String::new(),
        ..config.clone()
    }
}

/// The whole configuration. `created` is used where nothing in the image has a time.
pub(crate) fn finish(mut config: Config, past: &[Past], stack: &Stack, created: &str) -> Config {
    let mut changes = stack.changes.iter();
    // An image that begins with nothing has no time below its first step.
    let first = changes.as_slice().first().map(|change| &change.created);
    let mut last = config.created.as_ref().or(first).map_or_else(|| created.to_owned(), String::clone);
    for item in past {
        let change = if item.is_step { changes.next() } else { None };
        if let Some(change) = change {
            last.clone_from(&change.created);
        }
        config.history.push(History {
            created: Some(last.clone()),
            created_by: item.created_by.clone(),
            author: config.author.clone(),
            comment: COMMENT.to_owned(),
            empty_layer: change.is_none_or(|change| change.layer.is_none()),
        });
    }
    config.created = Some(last);
    config.rootfs.diff_ids = stack.layers().into_iter().map(|layer| layer.diff_id).collect::<Vec<Digest>>();
    config
}

/// `/bin/sh -c` or whatever SHELL has said.
pub(crate) fn shell(config: &Config) -> Vec<String> {
    if config.config.shell.is_empty() {
        return vec!["/bin/sh".to_owned(), "-c".to_owned()];
    }
    config.config.shell.clone()
}

/// The arguments that a command means.
pub(crate) fn arguments(config: &Config, command: &Command) -> Vec<String> {
    match command {
        Command::Exec(words) => texts(words),
        Command::Shell(text) => {
            let mut arguments = shell(config);
            arguments.push(text.text.clone());
            arguments
        }
    }
}

pub(crate) fn texts(words: &[ast::Word]) -> Vec<String> {
    words.iter().map(|word| word.text.clone()).collect()
}

pub(crate) fn healthcheck(check: &ast::Healthcheck) -> Healthcheck {
    let check = match check {
        ast::Healthcheck::None => {
            return Healthcheck { test: vec!["NONE".to_owned()], ..Healthcheck::default() };
        }
        ast::Healthcheck::Check(check) => check,
    };
    let mut test;
    match &check.command {
        Command::Shell(text) => test = vec!["CMD-SHELL".to_owned(), text.text.clone()],
        Command::Exec(words) => {
            test = vec!["CMD".to_owned()];
            test.extend(texts(words));
        }
    }
    let nanoseconds = |time: Option<std::time::Duration>| {
        i64::try_from(time.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX)
    };
    Healthcheck {
        test,
        interval: nanoseconds(check.interval),
        timeout: nanoseconds(check.timeout),
        start_period: nanoseconds(check.start_period),
        start_interval: nanoseconds(check.start_interval),
        retries: check.retries.unwrap_or(0).into(),
    }
}

/// Ports as an image has them: `80`, `53/udp`, `8000-8002/tcp` become one each. The error is the
/// reference's.
pub(crate) fn ports(text: &str) -> Result<Vec<String>, String> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(format!("Invalid proto: {protocol}"));
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| text.parse::<u16>().map_err(|_| format!("Invalid containerPort: {range}"));
    let (first, last) = (number(first)?, number(last)?);
    if last < first {
        return Err(format!("Invalid containerPort: {range}"));
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// Go's `%q` of a list, as history has CMD and ENTRYPOINT: `["a" "b"]`.
pub(crate) fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    format!("[{}]", words.join(" "))
}

/// Go's `%v` of a set, as history has EXPOSE: `map[53/udp:{} 80/tcp:{}]`.
pub(crate) fn set(names: BTreeSet<String>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("{name}:{{}}")).collect();
    format!("map[{}]", names.join(" "))
}

/// Go's `%q` of a health check, as history has it: `&{["CMD" "x"] "30s" "0s" "0s" "0s" '\x03'}`.
pub(crate) fn quoted_check(check: &Healthcheck) -> String {
    let times = [check.interval, check.timeout, check.start_period, check.start_interval];
    let times: Vec<String> = times.iter().map(|time| format!("\"{}\"", duration(*time))).collect();
    let retries = match u8::try_from(check.retries) {
        Ok(byte) if !(32..127).contains(&byte) => format!("'\\x{byte:02x}'"),
        Ok(byte) => format!("'{}'", char::from(byte)),
        Err(_) => check.retries.to_string(),
    };
    format!("&{{{} {} {retries}}}", quoted(&check.test), times.join(" "))
}

/// Go's text of a time: `1h0m0s`, `1m30s`, `1.5s`, `0s`; below a second `500ms`.
fn duration(nanoseconds: i64) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    let rest = nanoseconds % 1_000_000_000;
    if seconds == 0 && rest != 0 {
        return match rest {
            rest if rest % 1_000_000 == 0 => format!("{}ms", rest / 1_000_000),
            rest if rest % 1_000 == 0 => format!("{}µs", rest / 1_000),
            rest => format!("{rest}ns"),
        };
    }
    let fraction = format!("{rest:09}");
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}{point}{fraction}s"),
        (0, _) => format!("{minutes}m{seconds}{point}{fraction}s"),
        _ => format!("{hours}h{minutes}m{seconds}{point}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_as_written_become_ports_as_kept() {
        let cases: &[(&str, &[&str])] = &[
            ("80", &["80/tcp"]),
            ("53/UDP", &["53/udp"]),
            ("7000-7002", &["7000/tcp", "7001/tcp", "7002/tcp"]),
        ];
        for (text, expected) in cases {
            assert_eq!(ports(text).unwrap(), *expected);
        }
        assert_eq!(ports("x").unwrap_err(), "Invalid containerPort: x");
        assert_eq!(ports("9-8").unwrap_err(), "Invalid containerPort: 9-8");
        assert_eq!(ports("65536").unwrap_err(), "Invalid containerPort: 65536");
        assert_eq!(ports("80/x").unwrap_err(), "Invalid proto: x");
    }

    #[test]
    fn times_are_written_as_go_writes_them() {
        let cases = [
            (0, "0s"),
            (30_000_000_000, "30s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (1_500_000_000, "1.5s"),
            (500_000_000, "500ms"),
            (2_000, "2µs"),
            (7, "7ns"),
        ];
        for (nanoseconds, text) in cases {
            assert_eq!(duration(nanoseconds), text);
        }
    }
}
