//! The environment of a container's processes.

use super::identity::Identity;
use crate::containers::settings::Settings;

/// Where the reference looks for programs if neither image nor caller says.
pub const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn key(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(key, _)| key)
}

/// Puts `over` on `base`: an entry with a known key takes its place, a bare `KEY` removes it.
fn put(base: &mut Vec<String>, over: &[String]) {
    for entry in over {
        if !entry.contains('=') {
            base.retain(|known| key(known) != entry);
        } else if let Some(known) = base.iter_mut().find(|known| key(known) == key(entry)) {
            known.clone_from(entry);
        } else {
            base.push(entry.clone());
        }
    }
}

/// At creation: the caller's entries, then those of the image that the caller did not set.
pub fn merge(asked: &[String], image: &[String]) -> Vec<String> {
    let mut merged = asked.to_vec();
    merged.extend(image.iter().filter(|entry| !asked.iter().any(|ours| key(ours) == key(entry))).cloned());
    merged
}

fn defaults(settings: &Settings, tty: bool) -> Vec<String> {
    let mut env = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={}", settings.hostname)];
    if tty {
        env.push("TERM=xterm".to_owned());
    }
    env
}

fn with_home(mut env: Vec<String>, identity: &Identity) -> Vec<String> {
    if !env.iter().any(|entry| key(entry) == "HOME") {
        // A home with control characters in it is not worth an environment (K12).
        let usable = !identity.home.is_empty() && !identity.home.contains(|c: char| c.is_control());
        env.push(format!("HOME={}", if usable { &identity.home } else { "/" }));
    }
    env
}

pub(super) fn of_container(settings: &Settings, identity: &Identity) -> Vec<String> {
    let mut env = defaults(settings, settings.tty);
    put(&mut env, &settings.env);
    with_home(env, identity)
}

/// Of one more process: the container's, with `extra` over it.
pub fn of_exec(settings: &Settings, tty: bool, extra: &[String], identity: &Identity) -> Vec<String> {
    let mut env = defaults(settings, tty);
    put(&mut env, &settings.env);
    put(&mut env, extra);
    with_home(env, identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(entries: &[&str]) -> Vec<String> {
        entries.iter().map(|&entry| entry.to_owned()).collect()
    }

    #[test]
    fn the_caller_stands_over_the_image() {
        let merged = merge(&owned(&["A=1", "PATH=/x", "GONE"]), &owned(&["PATH=/y", "B=2", "GONE=3"]));
        assert_eq!(merged, ["A=1", "PATH=/x", "GONE", "B=2"]);
    }

    #[test]
    fn defaults_first_replaced_in_place_and_home_last() {
        let settings = Settings {
            hostname: "h".into(),
            env: owned(&["A=1", "PATH=/x", "HOSTNAME"]),
            tty: true,
            ..Settings::default()
        };
        let identity = Identity { home: "/root".into(), ..Identity::default() };
        assert_eq!(of_container(&settings, &identity), ["PATH=/x", "TERM=xterm", "A=1", "HOME=/root"]);
        let exec = of_exec(&settings, false, &owned(&["A=2", "HOME=/h"]), &identity);
        assert_eq!(exec, ["PATH=/x", "A=2", "HOME=/h"]);
        let bad = Identity { home: "/a\nB=1".into(), ..Identity::default() };
        assert_eq!(of_container(&Settings::default(), &bad).last().unwrap(), "HOME=/");
    }
}
