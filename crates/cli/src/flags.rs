//! Flags as Docker's users type them.
//!
//! Docker's command line is parsed by Go's pflag, and scripts lean on its
//! habits: `-it` clusters, `-p80:80`, `--flag=value`, `--rm=false`, flags after
//! arguments except behind `run IMAGE` and `exec CONTAINER`, a value that is
//! refused names the flag as it is declared. A command declares its flags as a
//! constant table; the same table is parsed against and printed by `--help`.

/// What a flag takes and how its text is checked.
#[derive(Clone, Copy)]
pub(crate) enum Takes {
    /// Nothing, or `=true`/`=false`.
    Switch,
    /// One value; the last one given counts.
    Value(&'static str, Check),
    /// A value each time it is given; all count.
    List(&'static str, Check),
}

/// Refuses a value, or hands it back in the form to keep.
pub(crate) type Check = fn(&str) -> Result<String, String>;

/// One flag of a command.
pub(crate) struct Flag {
    pub(crate) long: &'static str,
    pub(crate) short: Option<char>,
    pub(crate) takes: Takes,
    /// The default as it is used; shown by `--help` unless it is the zero.
    pub(crate) default: &'static str,
    /// What it does; empty hides the flag.
    pub(crate) help: &'static str,
}

impl Flag {
    pub(crate) const fn switch(long: &'static str, help: &'static str) -> Flag {
        Flag { long, short: None, takes: Takes::Switch, default: "", help }
    }

    pub(crate) const fn text(long: &'static str, help: &'static str) -> Flag {
        Flag::value(long, "string", any, help)
    }

    pub(crate) const fn value(
        long: &'static str,
        label: &'static str,
        check: Check,
        help: &'static str,
    ) -> Flag {
        Flag { long, short: None, takes: Takes::Value(label, check), default: "", help }
    }

    pub(crate) const fn list(long: &'static str, check: Check, help: &'static str) -> Flag {
        Flag { long, short: None, takes: Takes::List("list", check), default: "", help }
    }

    pub(crate) const fn short(mut self, short: char) -> Flag {
        self.short = Some(short);
        self
    }

    pub(crate) const fn default(mut self, default: &'static str) -> Flag {
        self.default = default;
        self
    }

    /// Names the kind of value as `--help` shows it.
    pub(crate) const fn label(mut self, label: &'static str) -> Flag {
        self.takes = match self.takes {
            Takes::Switch => Takes::Switch,
            Takes::Value(_, check) => Takes::Value(label, check),
            Takes::List(_, check) => Takes::List(label, check),
        };
        self
    }

    /// The flag as errors name it: `-a, --all` or `--all`.
    fn shown(&self) -> String {
        match self.short {
            Some(short) => format!("-{short}, --{}", self.long),
            None => format!("--{}", self.long),
        }
    }

    fn accept(&self, value: &str) -> Result<String, String> {
        let checked = match self.takes {
            Takes::Switch => boolean(value),
            Takes::Value(_, check) | Takes::List(_, check) => check(value),
        };
        checked.map_err(|reason| {
            format!("invalid argument {} for \"{}\" flag: {reason}", quoted(value), self.shown())
        })
    }
}

/// A value within quotes, as Go's `%q` writes it.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

pub(crate) fn any(value: &str) -> Result<String, String> {
    Ok(value.to_owned())
}

/// Go's `strconv.ParseBool`.
pub(crate) fn boolean(value: &str) -> Result<String, String> {
    match value {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok("true".to_owned()),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok("false".to_owned()),
        _ => Err(format!("strconv.ParseBool: parsing {}: invalid syntax", quoted(value))),
    }
}

/// A signed number, as Go's `strconv.ParseInt` with base 0 reads it.
pub(crate) fn integer(value: &str) -> Result<String, String> {
    let (negative, digits) = match value.as_bytes().first() {
        Some(b'-') => (true, &value[1..]),
        Some(b'+') => (false, &value[1..]),
        _ => (false, value),
    };
    let failed = |what: &str| Err(format!("strconv.ParseInt: parsing {}: {what}", quoted(value)));
    match magnitude(digits) {
        None => failed("invalid syntax"),
        Some(number) => {
            let signed = if negative { -number } else { number };
            match i64::try_from(signed) {
                Ok(number) => Ok(number.to_string()),
                Err(_) => failed("value out of range"),
            }
        }
    }
}

/// An unsigned number of at most 16 bits.
pub(crate) fn integer16(value: &str) -> Result<String, String> {
    let failed = |what: &str| Err(format!("strconv.ParseUint: parsing {}: {what}", quoted(value)));
    match magnitude(value) {
        None => failed("invalid syntax"),
        Some(number) => match u16::try_from(number) {
            Ok(number) => Ok(number.to_string()),
            Err(_) => failed("value out of range"),
        },
    }
}

fn magnitude(digits: &str) -> Option<i128> {
    let (radix, digits) = match digits.get(..2) {
        Some("0x" | "0X") => (16, &digits[2..]),
        Some("0o" | "0O") => (8, &digits[2..]),
        Some("0b" | "0B") => (2, &digits[2..]),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    // More digits than this are out of range of every flag, yet a number.
    if digits.len() > 24 && digits.chars().all(|c| c.is_digit(radix)) {
        return Some(i128::MAX);
    }
    i128::from_str_radix(digits, radix).ok()
}

/// What was given on the command line of one command.
pub(crate) struct Given {
    flags: &'static [&'static [Flag]],
    values: Vec<(&'static str, String)>,
    pub(crate) arguments: Vec<String>,
}

impl Given {
    /// Whether the switch is on.
    pub(crate) fn on(&self, long: &str) -> bool {
        self.text(long) == "true"
    }

    /// Whether the flag was given at all.
    pub(crate) fn has(&self, long: &str) -> bool {
        self.values.iter().any(|(name, _)| *name == long)
    }

    /// The last value given, else the default.
    pub(crate) fn text(&self, long: &str) -> &str {
        self.values
            .iter()
            .rev()
            .find(|(name, _)| *name == long)
            .map_or_else(|| self.default(long), |(_, value)| value)
    }

    /// All values given, in order.
    pub(crate) fn list<'a>(&'a self, long: &'a str) -> impl Iterator<Item = &'a str> {
        debug_assert!(find(self.flags, long).is_some(), "undeclared flag {long}");
        self.values.iter().filter(move |(name, _)| *name == long).map(|(_, value)| value.as_str())
    }

    /// All values given, in order, owned.
    pub(crate) fn strings(&self, long: &str) -> Vec<String> {
        self.list(long).map(str::to_owned).collect()
    }

    /// The value as a number: what was given has been checked, the default is
    /// a constant; no value is 0.
    pub(crate) fn number(&self, long: &str) -> i64 {
        self.text(long).parse().unwrap_or(0)
    }

    fn default(&self, long: &str) -> &str {
        let flag = find(self.flags, long);
        debug_assert!(flag.is_some(), "undeclared flag {long}");
        flag.map_or("", |flag| flag.default)
    }
}

fn find(flags: &'static [&'static [Flag]], long: &str) -> Option<&'static Flag> {
    flags.iter().flat_map(|some| *some).find(|f| f.long == long)
}

/// How a command line stopped being a list of flags and arguments.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Help,
    Wrong(String),
}

/// Reads `words` against the flag tables. With `stop_at_argument` the first
/// argument ends the flags: what follows belongs to the container's program.
pub(crate) fn parse(
    flags: &'static [&'static [Flag]],
    stop_at_argument: bool,
    words: &[String],
) -> Result<Given, Stop> {
    let mut given = Given { flags, values: Vec::new(), arguments: Vec::new() };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            given.arguments.extend(words.by_ref().cloned());
        } else if let Some(name) = word.strip_prefix("--") {
            long(&mut given, word, name, &mut words)?;
        } else if word.len() > 1 && word.starts_with('-') {
            cluster(&mut given, &word[1..], &mut words)?;
        } else {
            given.arguments.push(word.clone());
            if stop_at_argument {
                given.arguments.extend(words.by_ref().cloned());
            }
        }
    }
    Ok(given)
}

fn long(
    given: &mut Given,
    word: &str,
    name: &str,
    words: &mut std::slice::Iter<'_, String>,
) -> Result<(), Stop> {
    if name.starts_with(['-', '=']) {
        return Err(Stop::Wrong(format!("bad flag syntax: {word}")));
    }
    let (name, value) = match name.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (name, None),
    };
    if name == "help" && value.is_none_or(|value| value == "true") {
        return Err(Stop::Help);
    }
    let Some(flag) = find(given.flags, name) else {
        return Err(Stop::Wrong(format!("unknown flag: --{name}")));
    };
    let value = match (value, flag.takes) {
        (Some(value), _) => value,
        (None, Takes::Switch) => "true",
        (None, _) => words.next().ok_or_else(|| Stop::Wrong(format!("flag needs an argument: --{name}")))?,
    };
    let value = flag.accept(value).map_err(Stop::Wrong)?;
    given.values.push((flag.long, value));
    Ok(())
}

/// Flags of one letter behind one dash: `-it`, `-p80`, `-p=80`, `-p 80`.
fn cluster(given: &mut Given, letters: &str, words: &mut std::slice::Iter<'_, String>) -> Result<(), Stop> {
    let mut rest = letters;
    while let Some(letter) = rest.chars().next() {
        let shown = rest;
        rest = &rest[letter.len_utf8()..];
        let found = given.flags.iter().flat_map(|some| *some).find(|flag| flag.short == Some(letter));
        let Some(flag) = found else {
            return Err(match letter {
                'h' => Stop::Help,
                _ => Stop::Wrong(format!("unknown shorthand flag: {} in -{shown}", quoted_letter(letter))),
            });
        };
        let value = match flag.takes {
            _ if rest.starts_with('=') && rest.len() > 1 => std::mem::take(&mut rest)[1..].to_owned(),
            Takes::Switch => "true".to_owned(),
            _ if !rest.is_empty() => std::mem::take(&mut rest).to_owned(),
            _ => words.next().cloned().ok_or_else(|| {
                Stop::Wrong(format!("flag needs an argument: {} in -{shown}", quoted_letter(letter)))
            })?,
        };
        let value = flag.accept(&value).map_err(Stop::Wrong)?;
        given.values.push((flag.long, value));
    }
    Ok(())
}

fn quoted_letter(letter: char) -> String {
    format!("'{letter}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[&[Flag]] = &[&[
        Flag::switch("interactive", "i").short('i'),
        Flag::switch("tty", "t").short('t'),
        Flag::list("publish", any, "p").short('p'),
        Flag::value("timeout", "int", integer, "t").short('n').default("-1"),
    ]];

    fn check(stop_at_argument: bool, line: &str) -> String {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match parse(FLAGS, stop_at_argument, &words) {
            Ok(given) => format!("{:?} {:?}", given.values, given.arguments),
            Err(Stop::Help) => "help".to_owned(),
            Err(Stop::Wrong(text)) => text,
        }
    }

    #[test]
    fn clusters_and_values_are_read_in_every_spelling() {
        let all = r#"[("publish", "80")] []"#;
        for line in ["-p 80", "-p80", "-p=80", "--publish 80", "--publish=80"] {
            assert_eq!(check(false, line), all, "{line}");
        }
        assert_eq!(
            check(false, "-itp 80"),
            r#"[("interactive", "true"), ("tty", "true"), ("publish", "80")] []"#
        );
        assert_eq!(check(false, "--tty=false -i=0"), r#"[("tty", "false"), ("interactive", "false")] []"#);
    }

    #[test]
    fn the_first_argument_ends_the_flags_of_run_only() {
        assert_eq!(check(true, "-i a -t b"), r#"[("interactive", "true")] ["a", "-t", "b"]"#);
        assert_eq!(check(false, "-i a -t b"), r#"[("interactive", "true"), ("tty", "true")] ["a", "b"]"#);
        assert_eq!(check(false, "a -- -t"), r#"[] ["a", "-t"]"#);
        assert_eq!(check(false, "- -t"), r#"[("tty", "true")] ["-"]"#);
    }

    #[test]
    fn what_is_wrong_is_named_as_the_reference_names_it() {
        for (line, text) in [
            ("--nope", "unknown flag: --nope"),
            ("--nope=1", "unknown flag: --nope"),
            ("-ix", "unknown shorthand flag: 'x' in -x"),
            ("--publish", "flag needs an argument: --publish"),
            ("-tp", "flag needs an argument: 'p' in -p"),
            ("---x", "bad flag syntax: ---x"),
            (
                "-n x",
                "invalid argument \"x\" for \"-n, --timeout\" flag: strconv.ParseInt: parsing \"x\": invalid syntax",
            ),
            (
                "-n 99999999999999999999",
                "invalid argument \"99999999999999999999\" for \"-n, --timeout\" flag: strconv.ParseInt: parsing \"99999999999999999999\": value out of range",
            ),
            (
                "--tty=maybe",
                "invalid argument \"maybe\" for \"-t, --tty\" flag: strconv.ParseBool: parsing \"maybe\": invalid syntax",
            ),
            ("--help", "help"),
            ("--help=maybe", "unknown flag: --help"),
            ("-h", "help"),
        ] {
            assert_eq!(check(false, line), text, "{line}");
        }
    }

    #[test]
    fn a_value_not_given_is_the_default() {
        let given = parse(FLAGS, false, &[]).ok().unwrap();
        assert_eq!(given.number("timeout"), -1);
        assert!(!given.has("timeout"));
        assert!(!given.on("tty"));
    }
}
