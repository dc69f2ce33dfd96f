//! What `--help` prints: the layout Docker's users know, in our own words.

use std::fmt::Write as _;

use crate::command::{Command, Entry, Group};
use crate::flags::{Flag, Takes};

/// Commands shown first, in this order.
const COMMON: [&str; 6] = ["run", "exec", "ps", "images", "version", "info"];

/// `docker run [OPTIONS] IMAGE …`
pub(crate) fn usage(program: &str, path: &str, command: &Command) -> String {
    let mut text = format!("{program} {path}");
    if !command.usage.is_empty() {
        text.push(' ');
        text.push_str(command.usage);
    }
    text
}

pub(crate) fn top(program: &str) -> String {
    let mut text = format!("Usage:  {program} [OPTIONS] COMMAND\n\nA container engine\n");
    let mut groups = Vec::new();
    let mut common = Vec::new();
    let mut others = Vec::new();
    for entry in crate::TREE {
        match entry {
            Entry::Group(group) => groups.push((group.name, group.summary)),
            Entry::Command(name, command) if COMMON.contains(name) => {
                common.push((*name, command.summary));
            }
            Entry::Command(name, command) => others.push((*name, command.summary)),
        }
    }
    common.sort_by_key(|(name, _)| COMMON.iter().position(|one| one == name));
    others.sort_by_key(|(name, _)| *name);
    for (title, rows) in [("Common Commands", common), ("Management Commands", groups), ("Commands", others)]
    {
        section(&mut text, title, &rows);
    }
    text.push_str("\nGlobal Options:\n");
    text.push_str(&flags(&[crate::GLOBAL], width()));
    let _ = write!(text, "\nRun '{program} COMMAND --help' for more information on a command.\n");
    text
}

pub(crate) fn group(program: &str, group: &Group) -> String {
    let mut text = format!("Usage:  {program} {} COMMAND\n\n{}\n", group.name, group.summary);
    let rows: Vec<_> = group.commands.iter().map(|(name, _, command)| (*name, command.summary)).collect();
    section(&mut text, "Commands", &rows);
    let _ =
        write!(text, "\nRun '{program} {} COMMAND --help' for more information on a command.\n", group.name);
    text
}

fn section(text: &mut String, title: &str, rows: &[(&str, &str)]) {
    let _ = write!(text, "\n{title}:\n");
    for (name, summary) in rows {
        let _ = writeln!(text, "  {name:11} {summary}");
    }
}

pub(crate) fn command(program: &str, path: &str, command: &Command) -> String {
    let mut text = format!("Usage:  {}\n\n{}\n", usage(program, path, command), command.summary);
    if command.paths.len() > 1 {
        let all: Vec<String> = command.paths.iter().map(|path| format!("{program} {path}")).collect();
        let _ = write!(text, "\nAliases:\n  {}\n", all.join(", "));
    }
    let options = flags(command.flags, width());
    if !options.is_empty() {
        let _ = write!(text, "\nOptions:\n{options}");
    }
    text
}

/// Columns to wrap at: the terminal's, else 80.
fn width() -> usize {
    rustix::termios::tcgetwinsize(rustix::stdio::stdout())
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns > 0)
        .unwrap_or(80)
}

/// The table of flags, its right column wrapped to `width` columns.
fn flags(tables: &[&[Flag]], width: usize) -> String {
    let mut shown: Vec<&Flag> =
        tables.iter().flat_map(|table| *table).filter(|flag| !flag.help.is_empty()).collect();
    shown.sort_by_key(|flag| flag.long);
    let heads: Vec<String> = shown.iter().map(|flag| head(flag)).collect();
    let column = heads.iter().map(String::len).max().unwrap_or(0) + 3;
    let mut text = String::new();
    for (flag, head) in shown.iter().zip(&heads) {
        let _ = write!(text, "{head:column$}");
        let help = explanation(flag);
        for (number, line) in wrap(&help, width.saturating_sub(column).max(24)).enumerate() {
            if number > 0 {
                let _ = write!(text, "{:column$}", "");
            }
            text.push_str(&line);
            text.push('\n');
        }
    }
    text
}

fn head(flag: &Flag) -> String {
    let mut text = match flag.short {
        Some(short) => format!("  -{short}, --{}", flag.long),
        None => format!("      --{}", flag.long),
    };
    if let Takes::Value(label, _) | Takes::List(label, _) = flag.takes {
        text.push(' ');
        text.push_str(label);
    }
    text
}

fn explanation(flag: &Flag) -> String {
    let default = flag.default;
    match flag.takes {
        _ if default.is_empty() => flag.help.to_owned(),
        Takes::Value("string", _) => format!("{} (default \"{default}\")", flag.help),
        _ => format!("{} (default {default})", flag.help),
    }
}

/// Lines of at most `width` columns, broken between words.
fn wrap(text: &str, width: usize) -> impl Iterator<Item = String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{any, integer};
    use expect_test::expect;

    #[test]
    fn flags_are_shown_in_columns() {
        const FLAGS: &[&[Flag]] = &[&[
            Flag::text("signal", "Signal to send").short('s'),
            Flag::value("timeout", "int", integer, "Seconds to wait before the container is killed")
                .short('t')
                .default("10"),
            Flag::list("env", any, "Variables").short('e'),
            Flag::switch("all", "All"),
            Flag::switch("secret", ""),
        ]];
        let shown = format!("Options:\n{}", flags(FLAGS, 50));
        expect![[r#"
            Options:
                  --all             All
              -e, --env list        Variables
              -s, --signal string   Signal to send
              -t, --timeout int     Seconds to wait before the
                                    container is killed
                                    (default 10)
        "#]]
        .assert_eq(&shown);
    }
}
