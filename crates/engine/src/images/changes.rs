//! `--change`: lines of a Dockerfile that alter how an image is run (`import`, `commit`).

use std::iter::Peekable;
use std::str::Chars;

use hull_oci::image::{Healthcheck, RunConfig};
use hull_oci::path;

use crate::{Error, Result};

/// Applies the lines in their order.
pub fn apply(config: &mut RunConfig, changes: &[String]) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let lines = lines(changes);
    if lines.is_empty() {
        return Err(Error::Invalid("file with no instructions".to_owned()));
    }
    // A command belongs to its entrypoint: one from before goes with the one from before.
    let mut commanded = false;
    for line in &lines {
        change(config, line, &mut commanded)?;
    }
    Ok(())
}

/// The instructions, as a Dockerfile has them: comments left out, continued lines joined.
fn lines(changes: &[String]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open = String::new();
    for line in changes.iter().flat_map(|text| text.lines()).map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.strip_suffix('\\') {
            Some(begun) => open.push_str(begun),
            None => lines.push(std::mem::take(&mut open) + line),
        }
    }
    if !open.is_empty() {
        lines.push(open);
    }
    lines
}

fn change(config: &mut RunConfig, line: &str, commanded: &mut bool) -> Result<()> {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let (word, rest) = (word.to_uppercase(), rest.trim());
    let invalid = |why: &str| Error::Invalid(format!("invalid change \"{line}\": {why}"));
    // As the image has them before this line.
    let env = config.env.clone();
    let text = |text: &str| one_word(text, &env).map_err(invalid);
    let required = || Error::Invalid(format!("{word} requires at least one argument"));
    if rest.is_empty() && !matches!(word.as_str(), "CMD" | "ENTRYPOINT") {
        return match KNOWN.contains(&word.as_str()) {
            true => Err(required()),
            false => Err(unknown(&word)),
        };
    }
    match word.as_str() {
        "CMD" => {
            config.cmd = Some(command(rest));
            *commanded = true;
        }
        "ENTRYPOINT" => {
            if !*commanded {
                config.cmd = None;
            }
            config.entrypoint = Some(command(rest)).filter(|command| !command.is_empty());
        }
        "ENV" => {
            for (key, value) in pairs(rest, &env).map_err(invalid)? {
                let prefix = format!("{key}=");
                let text = format!("{key}={value}");
                match config.env.iter_mut().find(|known| known.starts_with(&prefix)) {
                    Some(known) => *known = text,
                    None => config.env.push(text),
                }
            }
        }
        "LABEL" => config.labels.extend(pairs(rest, &env).map_err(invalid)?),
        "EXPOSE" => {
            for port in text(rest)?.split_whitespace() {
                let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
                let valid = number.split('-').all(|number| number.parse::<u16>().is_ok());
                if !valid || !["tcp", "udp", "sctp"].contains(&protocol) {
                    return Err(Error::Invalid(format!("invalid containerPort: {port}")));
                }
                config.exposed_ports.insert(format!("{number}/{protocol}"));
            }
        }
        "VOLUME" => {
            let list =
                json_list(rest).unwrap_or_else(|| rest.split_whitespace().map(str::to_owned).collect());
            for volume in list.iter().filter(|volume| !volume.is_empty()) {
                config.volumes.insert(text(volume)?);
            }
        }
        "WORKDIR" => config.working_dir = path::clean_from(&config.working_dir, &text(rest)?),
        "USER" => config.user = text(rest)?,
        "STOPSIGNAL" => config.stop_signal = text(rest)?,
        "ONBUILD" => config.on_build.push(rest.to_owned()),
        "HEALTHCHECK" => config.healthcheck = Some(healthcheck(rest).map_err(invalid)?),
        _ => return Err(unknown(&word)),
    }
    Ok(())
}

const KNOWN: [&str; 11] = [
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

fn unknown(word: &str) -> Error {
    Error::Invalid(format!("{word} is not a valid change command"))
}

/// A JSON list of texts as it stands; anything else is for the shell.
fn command(rest: &str) -> Vec<String> {
    match json_list(rest) {
        Some(list) => list,
        None if rest.is_empty() => Vec::new(),
        None => vec!["/bin/sh".to_owned(), "-c".to_owned(), rest.to_owned()],
    }
}

fn json_list(text: &str) -> Option<Vec<String>> {
    if text.starts_with('[') { serde_json::from_str(text).ok() } else { None }
}

/// `KEY=VALUE …` with quotes and backslashes, or the old `KEY VALUE` for the whole line.
fn pairs(rest: &str, env: &[String]) -> Result<Vec<(String, String)>, &'static str> {
    let words = words(rest, env, true)?;
    if words.first().is_some_and(|word| !word.contains('=')) {
        let (key, value) = rest.split_once(char::is_whitespace).ok_or("it must have two arguments")?;
        return Ok(vec![(key.to_owned(), one_word(value.trim(), env)?)]);
    }
    let pair = |word: &String| match word.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it is not KEY=VALUE"),
    };
    words.iter().map(pair).collect()
}

fn one_word(text: &str, env: &[String]) -> Result<String, &'static str> {
    Ok(words(text, env, false)?.concat())
}

/// Words as a shell would split them (or one of all), quotes and backslashes taken away, variables
/// replaced by what `env` says.
fn words(text: &str, env: &[String], split: bool) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => {
                word.get_or_insert_default().push(chars.next().ok_or("it ends with a backslash")?);
            }
            (None | Some('"'), '$') => word.get_or_insert_default().push_str(&variable(&mut chars, env)?),
            (None, c) if split && c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if quote.is_some() { Err("a quote is not closed") } else { Ok(words) }
}

/// What stands for `NAME`, `{NAME}`, `{NAME:-DEFAULT}` or `{NAME:+OTHER}` after a dollar sign; one
/// before anything else is itself.
fn variable(chars: &mut Peekable<Chars<'_>>, env: &[String]) -> Result<String, &'static str> {
    let value = |name: &str| env.iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='));
    let of_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    if chars.next_if_eq(&'{').is_none() {
        let name: String = std::iter::from_fn(|| chars.next_if(of_name)).collect();
        return Ok(if name.is_empty() {
            "$".to_owned()
        } else {
            value(&name).unwrap_or_default().to_owned()
        });
    }
    let inside: String = std::iter::from_fn(|| chars.next_if(|c| *c != '}')).collect();
    chars.next().ok_or("a variable's brace is not closed")?;
    let end = inside.find(|c| !of_name(&c)).unwrap_or(inside.len());
    let (name, rest) = inside.split_at(end);
    let value = value(name).filter(|value| !value.is_empty());
    match (name, rest.get(..2), value) {
        ("", ..) => Err("a variable has no name"),
        (_, None, value) if rest.is_empty() => Ok(value.unwrap_or_default().to_owned()),
        (_, Some(":-"), Some(value)) => Ok(value.to_owned()),
        (_, Some(":-"), None) | (_, Some(":+"), Some(_)) => one_word(&rest[2..], env),
        (_, Some(":+"), None) => Ok(String::new()),
        _ => Err("a variable has a modifier other than :- and :+"),
    }
}

fn healthcheck(rest: &str) -> Result<Healthcheck, &'static str> {
    let mut check = Healthcheck::default();
    let mut rest = rest;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, tail) = option.split_once(char::is_whitespace).ok_or("the command is missing")?;
        let (name, value) = option.split_once('=').ok_or("an option is not NAME=VALUE")?;
        let duration = || super::list::parse_duration(value).ok_or("an option is not a duration");
        match name {
            "interval" => check.interval = duration()?,
            "timeout" => check.timeout = duration()?,
            "start-period" => check.start_period = duration()?,
            "start-interval" => check.start_interval = duration()?,
            "retries" => check.retries = value.parse().map_err(|_| "the retries are not a number")?,
            _ => return Err("unknown option"),
        }
        rest = tail.trim_start();
    }
    let (word, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    check.test = match (word.to_uppercase().as_str(), command.trim()) {
        ("NONE", "") => vec!["NONE".to_owned()],
        ("CMD", "") => return Err("the command is missing"),
        ("CMD", command) => match json_list(command) {
            Some(list) => [vec!["CMD".to_owned()], list].concat(),
            None => vec!["CMD-SHELL".to_owned(), command.to_owned()],
        },
        _ => return Err("it is neither CMD nor NONE"),
    };
    Ok(check)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(lines: &[&str]) -> Result<RunConfig> {
        let mut config = RunConfig::default();
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        apply(&mut config, &lines).map(|()| config)
    }

    #[test]
    fn the_reference_s_changes_give_the_reference_s_configuration() {
        let config = applied(&[
            "CMD [\"echo\",\"hi\"]",
            "ENV A=b",
            "LABEL x=y",
            "EXPOSE 80",
            "VOLUME /v",
            "WORKDIR /w",
            "USER 1000",
            "ENTRYPOINT [\"sh\",\"-c\"]",
            "HEALTHCHECK CMD true",
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN true",
        ])
        .unwrap();
        let json = serde_json::to_value(&config).unwrap();
        assert_eq!(json["Cmd"], serde_json::json!(["echo", "hi"]));
        assert_eq!(json["ExposedPorts"], serde_json::json!({"80/tcp": {}}));
        assert_eq!(json["Healthcheck"], serde_json::json!({"Test": ["CMD-SHELL", "true"]}));
        assert_eq!(json["Volumes"], serde_json::json!({"/v": {}}));
        assert_eq!(
            (&config.working_dir[..], &config.user[..], &config.stop_signal[..]),
            ("/w", "1000", "SIGINT")
        );
        assert_eq!((config.env, config.on_build), (vec!["A=b".to_owned()], vec!["RUN true".to_owned()]));
    }

    #[test]
    fn other_instructions_are_refused_by_name() {
        let text = |line: &str| applied(&[line]).unwrap_err().to_string();
        assert_eq!(text("RUN true"), "RUN is not a valid change command");
        assert_eq!(text("NOPE x"), "NOPE is not a valid change command");
        assert_eq!(text("USER"), "USER requires at least one argument");
        assert_eq!(text("EXPOSE 70000"), "invalid containerPort: 70000");
        assert_eq!(text("ENV 'a=b"), "invalid change \"ENV 'a=b\": a quote is not closed");
    }

    #[test]
    fn instructions_are_found_as_in_a_file() {
        let config = applied(&["# first\n\nCMD a \\\n  b", "LABEL x=y"]).unwrap();
        assert_eq!(config.cmd.unwrap()[2], "a b");
        assert_eq!(config.labels["x"], "y");
        assert_eq!(applied(&[" ", "# nothing"]).unwrap_err().to_string(), "file with no instructions");
        assert!(applied(&[]).is_ok());
    }

    #[test]
    fn variables_are_what_the_image_s_environment_says() {
        let config = applied(&[
            "ENV A=1 B=two",
            "ENV A=2 C=$A D='$A' E=\\$A F=\"${B}s\" G=${NONE:-d$B} H=${B:+set}${NONE:+not} I=a$ J=$NONE.",
            "LABEL l=$B",
            "WORKDIR /w/$A",
            "EXPOSE ${PORT:-80} 81",
            "CMD echo $A",
        ])
        .unwrap();
        assert_eq!(
            config.env,
            ["A=2", "B=two", "C=1", "D=$A", "E=$A", "F=twos", "G=dtwo", "H=set", "I=a$", "J=."]
        );
        assert_eq!((config.labels["l"].as_str(), config.working_dir.as_str()), ("two", "/w/2"));
        assert!(config.exposed_ports.contains("80/tcp") && config.exposed_ports.contains("81/tcp"));
        assert_eq!(config.cmd.unwrap()[2], "echo $A");
        let refused = |line: &str| applied(&[line]).unwrap_err().to_string();
        assert!(refused("ENV A=${B").contains("brace") && refused("ENV A=${B?x}").contains("modifier"));
    }

    #[test]
    fn a_command_goes_with_its_entrypoint() {
        let mut config = RunConfig { cmd: Some(vec!["old".to_owned()]), ..RunConfig::default() };
        apply(&mut config, &["ENTRYPOINT [\"e\"]".to_owned()]).unwrap();
        assert_eq!(config.cmd, None);
        assert!(applied(&["CMD [\"new\"]", "ENTRYPOINT [\"e\"]"]).unwrap().cmd.is_some());
    }

    #[test]
    fn quotes_and_both_forms_of_env_are_understood() {
        let config = applied(&[
            r#"ENV A="x y" B=1\ 2 C='q'"#,
            "ENV OLD the rest of it",
            "ENV A=again",
            "CMD echo $HOME",
        ])
        .unwrap();
        assert_eq!(config.env, ["A=again", "B=1 2", "C=q", "OLD=the rest of it"]);
        assert_eq!(config.cmd.unwrap(), ["/bin/sh", "-c", "echo $HOME"]);
        let config =
            applied(&["WORKDIR /a", "WORKDIR b/../c", "HEALTHCHECK --interval=1m --retries=3 CMD [\"t\"]"])
                .unwrap();
        assert_eq!(config.working_dir, "/a/c");
        let check = config.healthcheck.unwrap();
        assert_eq!((check.interval, check.retries, check.test.len()), (60_000_000_000, 3, 2));
    }
}
