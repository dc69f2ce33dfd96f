//! Every good case of the grammar, read by the `parse-dockerfile` crate, too: both must say the same, up to
//! what that crate leaves to its callers (which words ENV, LABEL and ARG have, what flags mean, white space within
//! a command). Where they differ there is a reason, and the documentation or the reference's maintainers are cited.

use hull_builder::dockerfile::ast::{Command, Healthcheck, Heredoc, Program, Source, Word};
use hull_builder::dockerfile::{Kind, parse};
use parse_dockerfile as other;

use crate::cases;

/// Rule, case, and why the other crate is not followed.
const DIFFERENCES: &[(&str, &str, &str)] = &[
    ("cmd", "nothing clears it", "no argument is none, and not an empty one"),
    ("continuation", "an escaped escape ends the line", "moby/buildkit#1559"),
    (
        "entrypoint",
        "nothing clears it",
        "it does so without BuildKit (docker/docs#16142); with it, the image cannot run",
    ),
    ("flags", "two hyphens end them", "what follows is an argument, even if it looks like a flag"),
    ("flags", "quotes go", "a value may be quoted, and then have spaces"),
    ("heredoc", "for a command", "reference: RUN <<EOT bash is a command that reads the here-document"),
    ("heredoc", "several", "reference: an example of it"),
    ("heredoc", "a descriptor is for the shell", "POSIX Shell Command Language 2.7.4"),
    ("heredoc", "after continued lines and flags", "the here-document may stand anywhere in the command"),
    ("json", "what follows is ignored", "moby/moby#36348: the reference does so, and nobody may change it"),
    (
        "line-ends",
        "of Windows",
        "moby/buildkit#4282: no script runs with carriage returns at its lines' ends",
    ),
];

#[test]
fn the_other_parser_agrees() {
    let mut wrong = Vec::new();
    for case in cases::read("grammar").iter().filter(|case| case.good) {
        let text = &case.input;
        let ours: Vec<Vec<String>> =
            parse(text.as_bytes()).unwrap().instructions.iter().map(|i| ours(&i.kind)).collect();
        let theirs = other::parse(text)
            .map(|file| file.instructions.iter().map(theirs).collect::<Vec<_>>())
            .map_err(|error| error.to_string());
        let listed = DIFFERENCES.iter().any(|(rule, name, _)| *rule == case.rule && *name == case.name);
        let same = theirs.as_ref() == Ok(&ours);
        if same == listed {
            let what = if same { "is no difference any more" } else { "differs" };
            wrong.push(format!("{} {what}\n  ours   {ours:?}\n  theirs {theirs:?}", case.title()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A command without continuations, as they are left in the other's text, and with single spaces.
fn squash(text: &str) -> String {
    let mut out = String::new();
    let mut continued = false;
    for line in text.lines() {
        let comment = continued && (line.trim_start().starts_with('#') || line.trim().is_empty());
        if comment {
            continue;
        }
        let trimmed = line.trim_end();
        let kept = trimmed.strip_suffix(['\\', '`']).filter(|kept| !kept.ends_with('\\'));
        continued = kept.is_some();
        out.push_str(kept.unwrap_or(line));
    }
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn texts(words: &[Word]) -> Vec<String> {
    words.iter().map(|word| word.text.clone()).collect()
}

fn named(name: &str, rest: Vec<String>) -> Vec<String> {
    [vec![name.to_owned()], rest].concat()
}

fn ours(kind: &Kind) -> Vec<String> {
    let sources = |sources: &[Source], destination: &Word| -> Vec<String> {
        let source = |source: &Source| match source {
            Source::Path(path) => path.text.clone(),
            Source::Inline(Heredoc { content, .. }) => content.text.clone(),
        };
        sources.iter().map(source).chain([destination.text.clone()]).collect()
    };
    let command = |command: &Command| match command {
        Command::Exec(words) => texts(words),
        Command::Shell(word) => vec![squash(&word.text)],
    };
    let flags = |flags: &[(&str, &Option<Word>)]| -> Vec<String> {
        flags.iter().filter_map(|(name, word)| Some(format!("--{name}={}", word.as_ref()?.text))).collect()
    };
    let one = |word: &Word| vec![squash(&word.text)];
    let pairs = |pairs: &hull_builder::dockerfile::ast::Pairs| {
        let between = if pairs.legacy { " " } else { "=" };
        let all = pairs.pairs.iter().map(|pair| format!("{}{between}{}", pair.key.text, pair.value.text));
        vec![squash(&all.collect::<Vec<_>>().join(" "))]
    };
    match kind {
        Kind::From(from) => {
            let stage = from.stage.iter().map(|stage| stage.text.clone()).collect();
            named(
                "FROM",
                [flags(&[("platform", &from.platform)]), vec![from.image.text.clone()], stage].concat(),
            )
        }
        Kind::Run(run) => named(
            "RUN",
            match &run.program {
                Program::Exec(words) => texts(words),
                Program::Script(heredoc) => vec![heredoc.content.text.clone()],
                // Its here-documents are for the shell; the other crate has them apart.
                Program::Shell(word) => vec![squash(word.text.lines().next().unwrap_or_default())],
            },
        ),
        Kind::Cmd(run) => named("CMD", command(run)),
        Kind::Entrypoint(run) => named("ENTRYPOINT", command(run)),
        Kind::Label(all) => named("LABEL", pairs(all)),
        Kind::Env(all) => named("ENV", pairs(all)),
        Kind::Arg(all) => {
            let text = |arg: &hull_builder::dockerfile::ast::Arg| match &arg.default {
                Some(default) => format!("{}={}", arg.name.text, default.text),
                None => arg.name.text.clone(),
            };
            named("ARG", vec![squash(&all.iter().map(text).collect::<Vec<_>>().join(" "))])
        }
        Kind::Maintainer(word) => named("MAINTAINER", one(word)),
        Kind::Expose(words) => named("EXPOSE", texts(words)),
        Kind::Add(add) => {
            let given = flags(&[("chown", &add.chown), ("chmod", &add.chmod)]);
            named("ADD", [given, sources(&add.sources, &add.destination)].concat())
        }
        Kind::Copy(copy) => {
            let given = flags(&[("from", &copy.from), ("chown", &copy.chown), ("chmod", &copy.chmod)]);
            named("COPY", [given, sources(&copy.sources, &copy.destination)].concat())
        }
        Kind::Volume(words) => named("VOLUME", texts(words)),
        Kind::User(word) => named("USER", one(word)),
        Kind::Workdir(word) => named("WORKDIR", one(word)),
        Kind::Onbuild(onbuild) => named("ONBUILD", ours(&onbuild.trigger.kind)),
        Kind::Stopsignal(word) => named("STOPSIGNAL", one(word)),
        Kind::Healthcheck(Healthcheck::None) => named("HEALTHCHECK", vec!["NONE".to_owned()]),
        Kind::Healthcheck(Healthcheck::Check(check)) => named("HEALTHCHECK", command(&check.command)),
        Kind::Shell(words) => named("SHELL", texts(words)),
    }
}

fn other_words(words: &[other::UnescapedString<'_>]) -> Vec<String> {
    words.iter().map(|word| word.value.clone().into_owned()).collect()
}

fn other_command(command: &other::Command<'_>) -> Vec<String> {
    match command {
        other::Command::Exec(words) => other_words(&words.value),
        other::Command::Shell(text) => vec![squash(text.value)],
        _ => unreachable!("there are two forms"),
    }
}

fn other_flags(flags: &[other::Flag<'_>], names: &[&str]) -> Vec<String> {
    let value = |name: &&str| {
        let flag = flags.iter().find(|flag| flag.name.value == **name)?;
        Some(format!("--{name}={}", flag.value.as_ref()?.value))
    };
    names.iter().filter_map(value).collect()
}

fn other_sources(sources: &[other::Source<'_>], destination: &other::UnescapedString<'_>) -> Vec<String> {
    let source = |source: &other::Source<'_>| match source {
        other::Source::Path(path) => path.value.clone().into_owned(),
        other::Source::HereDoc(heredoc) => heredoc.value.clone().into_owned(),
        _ => unreachable!("there are two kinds"),
    };
    sources.iter().map(source).chain([destination.value.clone().into_owned()]).collect()
}

fn theirs(instruction: &other::Instruction<'_>) -> Vec<String> {
    let one = |word: &other::UnescapedString<'_>| vec![squash(&word.value)];
    let (all, command, flags, sources) = (other_words, other_command, other_flags, other_sources);
    match instruction {
        other::Instruction::From(from) => {
            let stage = from.as_.iter().map(|(_, stage)| stage.value.clone().into_owned()).collect();
            named(
                "FROM",
                [flags(&from.options, &["platform"]), all(std::slice::from_ref(&from.image)), stage].concat(),
            )
        }
        other::Instruction::Run(run) => {
            let rest = match (&run.arguments, run.here_docs.as_slice()) {
                (other::Command::Shell(text), [heredoc]) if !text.value.contains(char::is_whitespace) => {
                    vec![heredoc.value.clone().into_owned()]
                }
                (arguments, _) => command(arguments),
            };
            named("RUN", rest)
        }
        other::Instruction::Cmd(cmd) => named("CMD", command(&cmd.arguments)),
        other::Instruction::Entrypoint(entrypoint) => named("ENTRYPOINT", command(&entrypoint.arguments)),
        other::Instruction::Label(label) => named("LABEL", one(&label.arguments)),
        other::Instruction::Env(env) => named("ENV", one(&env.arguments)),
        other::Instruction::Arg(arg) => named("ARG", one(&arg.arguments)),
        other::Instruction::Maintainer(maintainer) => named("MAINTAINER", one(&maintainer.name)),
        other::Instruction::Expose(expose) => named("EXPOSE", all(&expose.arguments)),
        other::Instruction::Add(add) => {
            named("ADD", [flags(&add.options, &["chown", "chmod"]), sources(&add.src, &add.dest)].concat())
        }
        other::Instruction::Copy(copy) => {
            let given = flags(&copy.options, &["from", "chown", "chmod"]);
            named("COPY", [given, sources(&copy.src, &copy.dest)].concat())
        }
        other::Instruction::Volume(volume) => named(
            "VOLUME",
            match &volume.arguments {
                other::JsonOrStringArray::Json(words) => all(&words.value),
                other::JsonOrStringArray::String(words) => all(words),
            },
        ),
        other::Instruction::User(user) => named("USER", one(&user.arguments)),
        other::Instruction::Workdir(workdir) => named("WORKDIR", one(&workdir.arguments)),
        other::Instruction::Onbuild(onbuild) => named("ONBUILD", theirs(&onbuild.instruction)),
        other::Instruction::Stopsignal(signal) => named("STOPSIGNAL", one(&signal.arguments)),
        other::Instruction::Healthcheck(check) => named(
            "HEALTHCHECK",
            match &check.arguments {
                other::HealthcheckArguments::Cmd { arguments, .. } => command(arguments),
                _ => vec!["NONE".to_owned()],
            },
        ),
        other::Instruction::Shell(shell) => named("SHELL", all(&shell.arguments)),
        _ => unreachable!("every instruction has a case"),
    }
}
