//! Go's `fmt`: `Sprint`, `Sprintln`, `Sprintf`, and how a template prints a value
//! (<https://pkg.go.dev/fmt>).

use std::fmt::Write as _;

use crate::value::Value;

/// Larger widths and precisions are refused, as Go refuses them.
const MAX_WIDTH: usize = 1_000_000;

/// How `{{value}}` appears. At most about `limit` bytes are made.
pub(crate) fn printed(value: &Value, limit: usize) -> String {
    match value {
        Value::Missing | Value::Nil => "<no value>".to_owned(),
        value => bounded(|out| format_value(out, &Spec::plain('v'), value, 0), limit),
    }
}

/// `%v`
pub(crate) fn verb_v(value: &Value) -> String {
    let mut out = Output::new(usize::MAX);
    format_value(&mut out, &Spec::plain('v'), value, 0);
    out.text
}

/// Operands in a row, a space between two that are not strings.
pub(crate) fn sprint(args: &[Value], limit: usize) -> String {
    bounded(
        |out| {
            let mut after_string = true;
            for arg in args {
                let string = matches!(arg, Value::String(_));
                if !string && !after_string {
                    out.push(" ");
                }
                after_string = string;
                format_value(out, &Spec::plain('v'), arg, 0);
            }
        },
        limit,
    )
}

/// Operands with a space between them and a line feed after them.
pub(crate) fn sprintln(args: &[Value], limit: usize) -> String {
    bounded(
        |out| {
            for (at, arg) in args.iter().enumerate() {
                if at > 0 {
                    out.push(" ");
                }
                format_value(out, &Spec::plain('v'), arg, 0);
            }
            out.push("\n");
        },
        limit,
    )
}

/// A text that stops growing at a limit; what the template then prints fails there.
struct Output {
    text: String,
    limit: usize,
}

impl Output {
    fn new(limit: usize) -> Output {
        Output { text: String::new(), limit }
    }

    fn push(&mut self, text: &str) {
        if self.text.len() <= self.limit {
            self.text.push_str(text);
        }
    }
}

fn bounded(write: impl FnOnce(&mut Output), limit: usize) -> String {
    let mut out = Output::new(limit);
    write(&mut out);
    out.text
}

/// One `%` directive.
#[derive(Debug, Clone, Default)]
struct Spec {
    verb: char,
    plus: bool,
    minus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

impl Spec {
    fn plain(verb: char) -> Spec {
        Spec { verb, ..Spec::default() }
    }
}

pub(crate) fn sprintf(format: &str, args: &[Value], limit: usize) -> String {
    bounded(|out| run(out, format, args), limit)
}

/// Where the next argument comes from, and whether `[n]` was ever used.
struct Arguments<'a> {
    args: &'a [Value],
    at: usize,
    reordered: bool,
}

impl<'a> Arguments<'a> {
    fn next(&mut self) -> Option<&'a Value> {
        let value = self.args.get(self.at);
        self.at += 1;
        value
    }
}

fn run(out: &mut Output, format: &str, args: &[Value]) {
    let mut arguments = Arguments { args, at: 0, reordered: false };
    let mut rest = format;
    while let Some(percent) = rest.find('%') {
        out.push(&rest[..percent]);
        rest = directive(out, &rest[percent + 1..], &mut arguments);
    }
    out.push(rest);
    if !arguments.reordered && arguments.at < args.len() {
        out.push("%!(EXTRA ");
        for (at, arg) in args[arguments.at..].iter().enumerate() {
            if at > 0 {
                out.push(", ");
            }
            typed(out, arg);
        }
        out.push(")");
    }
}

/// `type=value`, or `<nil>`.
fn typed(out: &mut Output, arg: &Value) {
    if arg.is_nil() {
        return out.push("<nil>");
    }
    out.push(arg.type_name());
    out.push("=");
    format_value(out, &Spec::plain('v'), arg, 0);
}

/// One directive after its `%`; what is left of the format.
fn directive<'a>(out: &mut Output, format: &'a str, arguments: &mut Arguments<'_>) -> &'a str {
    let mut spec = Spec::default();
    let mut rest = format;
    while let Some(c) = rest.chars().next() {
        match c {
            '+' => spec.plus = true,
            '-' => spec.minus = true,
            '#' => spec.sharp = true,
            ' ' => spec.space = true,
            '0' => spec.zero = true,
            _ => break,
        }
        rest = &rest[1..];
    }
    let mut bad_index = false;
    rest = argument_index(rest, arguments, &mut bad_index);
    rest = match rest.strip_prefix('*') {
        Some(after) => {
            match arguments.next() {
                Some(Value::Int(width)) if width.unsigned_abs() <= MAX_WIDTH as u64 => {
                    spec.minus |= *width < 0;
                    spec.width = usize::try_from(width.unsigned_abs()).ok();
                }
                _ => out.push("%!(BADWIDTH)"),
            }
            after
        }
        None => number(rest, &mut spec.width),
    };
    if let Some(after) = rest.strip_prefix('.') {
        rest = argument_index(after, arguments, &mut bad_index);
        rest = match rest.strip_prefix('*') {
            Some(after) => {
                match arguments.next() {
                    Some(Value::Int(n @ 0..)) if n.unsigned_abs() <= MAX_WIDTH as u64 => {
                        spec.precision = usize::try_from(*n).ok();
                    }
                    Some(Value::Int(_)) => {}
                    _ => out.push("%!(BADPREC)"),
                }
                after
            }
            None => {
                spec.precision = Some(0);
                number(rest, &mut spec.precision)
            }
        };
    }
    rest = argument_index(rest, arguments, &mut bad_index);
    let Some(verb) = rest.chars().next() else {
        out.push("%!(NOVERB)");
        return rest;
    };
    spec.verb = verb;
    spec.zero &= !spec.minus;
    let after = &rest[verb.len_utf8()..];
    if verb == '%' {
        out.push("%");
    } else if bad_index {
        out.push(&format!("%!{verb}(BADINDEX)"));
    } else {
        match arguments.next() {
            Some(value) => format_value(out, &spec, value, 0),
            None => out.push(&format!("%!{verb}(MISSING)")),
        }
    }
    after
}

/// Digits at the start of `text`; too large a number is left unset.
fn number<'a>(text: &'a str, value: &mut Option<usize>) -> &'a str {
    let len = text.bytes().take_while(u8::is_ascii_digit).count();
    if len > 0 {
        *value = text[..len].parse().ok().filter(|n| *n <= MAX_WIDTH);
    }
    &text[len..]
}

/// `[n]`: the argument to use next, counted from one.
fn argument_index<'a>(text: &'a str, arguments: &mut Arguments<'_>, bad: &mut bool) -> &'a str {
    let Some(inner) = text.strip_prefix('[') else {
        return text;
    };
    arguments.reordered = true;
    let Some((digits, rest)) = inner.split_once(']') else {
        *bad = true;
        return inner;
    };
    match digits.parse::<usize>() {
        Ok(n) if (1..=arguments.args.len()).contains(&n) => arguments.at = n - 1,
        _ => *bad = true,
    }
    rest
}

/// Formats by a verb; lists and maps apply it to what they hold.
fn format_value(out: &mut Output, spec: &Spec, value: &Value, depth: usize) {
    if spec.verb == 'T' {
        let name = if value.is_nil() { "<nil>" } else { value.type_name() };
        return pad(out, spec, name);
    }
    match value {
        Value::Missing | Value::Nil | Value::NilPointer(_) => match spec.verb {
            'v' => pad(out, spec, "<nil>"),
            verb => out.push(&format!("%!{verb}(<nil>)")),
        },
        Value::Bool(value) => match spec.verb {
            'v' | 't' => pad(out, spec, if *value { "true" } else { "false" }),
            _ => bad_verb(out, spec, &Value::Bool(*value)),
        },
        Value::Int(number) => integer(out, spec, i128::from(*number), value),
        Value::Uint(number) => integer(out, spec, i128::from(*number), value),
        Value::Float(number) => float(out, spec, *number, value),
        Value::String(text) => string(out, spec, text, value),
        Value::Function(_) => out.push("0x0"),
        Value::NilList => sequence(out, spec, ("[", " ", "]"), &[], depth),
        Value::List(items) => {
            if spec.verb == 'v' && spec.sharp {
                return sequence(out, spec, ("[]interface {}{", ", ", "}"), items, depth);
            }
            sequence(out, spec, ("[", " ", "]"), items, depth);
        }
        Value::Map(map) => {
            let (open, between, close) = match spec.sharp && spec.verb == 'v' {
                true => (format!("{}{{", value.type_name()), ", ", "}"),
                false => ("map[".to_owned(), " ", "]"),
            };
            out.push(&open);
            for (at, (key, value)) in map.sorted().into_iter().enumerate() {
                if at > 0 {
                    out.push(between);
                }
                format_value(out, spec, &Value::from(key.as_str()), depth + 1);
                out.push(":");
                format_value(out, spec, value, depth + 1);
            }
            out.push(close);
        }
        Value::Struct(data) => {
            let named = spec.verb == 'v' && (spec.plus || spec.sharp);
            if spec.sharp && spec.verb == 'v' {
                out.push(data.type_name.trim_start_matches('*'));
            }
            out.push("{");
            for (at, field) in data.fields.iter().enumerate() {
                if at > 0 {
                    out.push(if spec.sharp { ", " } else { " " });
                }
                if named {
                    out.push(&format!("{}:", field.name));
                }
                format_value(out, spec, &field.value, depth + 1);
            }
            out.push("}");
        }
    }
}

fn sequence(
    out: &mut Output,
    spec: &Spec,
    (open, between, close): (&str, &str, &str),
    items: &[Value],
    depth: usize,
) {
    out.push(open);
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(between);
        }
        format_value(out, spec, item, depth + 1);
    }
    out.push(close);
}

/// `%!d(string=hi)`
fn bad_verb(out: &mut Output, spec: &Spec, value: &Value) {
    out.push(&format!("%!{}(", spec.verb));
    typed(out, value);
    out.push(")");
}

/// Adds spaces, or zeros after the sign, up to the width in characters.
fn pad(out: &mut Output, spec: &Spec, text: &str) {
    let missing = spec.width.unwrap_or(0).saturating_sub(text.chars().count());
    if spec.minus {
        out.push(text);
        out.push(&" ".repeat(missing));
    } else {
        out.push(&" ".repeat(missing));
        out.push(text);
    }
}

/// A number's digits with its sign, padded.
fn pad_number(out: &mut Output, spec: &Spec, negative: bool, digits: &str) {
    let sign = match (negative, spec.plus, spec.space) {
        (true, ..) => "-",
        (_, true, _) => "+",
        (_, _, true) => " ",
        _ => "",
    };
    if spec.zero {
        let missing = spec.width.unwrap_or(0).saturating_sub(sign.len() + digits.len());
        return out.push(&format!("{sign}{}{digits}", "0".repeat(missing)));
    }
    pad(out, spec, &format!("{sign}{digits}"));
}

fn integer(out: &mut Output, spec: &Spec, number: i128, value: &Value) {
    let size = number.unsigned_abs();
    let prefix = |text: &'static str| if spec.sharp { text } else { "" };
    let (prefix, digits) = match spec.verb {
        'v' | 'd' => ("", size.to_string()),
        'b' => (prefix("0b"), format!("{size:b}")),
        'o' => (prefix("0"), format!("{size:o}")),
        'O' => ("0o", format!("{size:o}")),
        'x' => (prefix("0x"), format!("{size:x}")),
        'X' => (prefix("0X"), format!("{size:X}")),
        'c' | 'q' | 'U' => {
            let c = u32::try_from(size).ok().and_then(char::from_u32).unwrap_or('\u{fffd}');
            let text = match spec.verb {
                'c' => c.to_string(),
                'q' => format!("'{}'", escaped(&c.to_string(), '\'')),
                _ if spec.sharp => format!("U+{size:04X} '{c}'"),
                _ => format!("U+{size:04X}"),
            };
            return pad(out, spec, &text);
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' | 's' | 't' => return bad_verb(out, spec, value),
        _ => return bad_verb(out, spec, value),
    };
    let mut body = digits;
    let mut spec = spec.clone();
    if let Some(precision) = spec.precision {
        let missing = precision.saturating_sub(body.len());
        body = format!("{}{body}", "0".repeat(missing));
        spec.zero = false;
    }
    pad_number(out, &spec, number < 0, &format!("{prefix}{body}"));
}

fn float(out: &mut Output, spec: &Spec, number: f64, value: &Value) {
    let size = number.abs();
    let body = match (spec.verb, spec.precision) {
        _ if number.is_nan() => "NaN".to_owned(),
        _ if number.is_infinite() => "Inf".to_owned(),
        ('v', None) => shortest(size, 21),
        ('g' | 'G', None) => shortest(size, 21),
        ('v' | 'g' | 'G', Some(precision)) => general(size, precision.max(1)),
        ('f' | 'F', precision) => format!("{size:.*}", precision.unwrap_or(6)),
        ('e' | 'E', precision) => exponent(&format!("{size:.*e}", precision.unwrap_or(6))),
        _ => return bad_verb(out, spec, value),
    };
    let body = if matches!(spec.verb, 'E' | 'G') { body.to_uppercase() } else { body };
    let negative = number.is_sign_negative() && !number.is_nan();
    let mut spec = spec.clone();
    spec.zero &= number.is_finite();
    pad_number(out, &spec, negative, &body);
}

/// Rust's `1.5e3` as Go's `1.5e+03`.
fn exponent(text: &str) -> String {
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// The fewest digits that read back as the same number; an exponent below 1e-4 and from
/// 10 to the power of `large` on.
fn shortest(size: f64, large: i32) -> String {
    if size == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{size:e}");
    let power: i32 = scientific.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    if power < -4 || power >= large {
        return exponent(&scientific);
    }
    format!("{size}")
}

/// `%.3g`
fn general(size: f64, precision: usize) -> String {
    if size == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{size:.*e}", precision - 1);
    let (mantissa, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let power: i64 = power.parse().unwrap_or(0);
    let precision = i64::try_from(precision).unwrap_or(i64::MAX);
    let strip = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if power < -4 || power >= precision {
        return exponent(&format!("{}e{power}", strip(mantissa)));
    }
    let decimals = usize::try_from(precision - 1 - power).unwrap_or(0);
    strip(&format!("{size:.decimals$}"))
}

fn string(out: &mut Output, spec: &Spec, text: &str, value: &Value) {
    let cut = |text: &str| match spec.precision {
        Some(precision) => text.chars().take(precision).collect(),
        None => text.to_owned(),
    };
    match spec.verb {
        'v' if spec.sharp => pad(out, spec, &quote(text)),
        'v' | 's' => pad(out, spec, &cut(text)),
        'q' if spec.sharp && !text.contains('`') && !text.contains(char::is_control) => {
            pad(out, spec, &format!("`{}`", cut(text)));
        }
        'q' => pad(out, spec, &quote(&cut(text))),
        'x' | 'X' => {
            let mut hex = String::new();
            let bytes = text.as_bytes();
            let bytes = &bytes[..spec.precision.unwrap_or(bytes.len()).min(bytes.len())];
            for (at, byte) in bytes.iter().enumerate() {
                let space = if spec.space && at > 0 { " " } else { "" };
                let _ = match spec.verb {
                    'x' => write!(hex, "{space}{byte:02x}"),
                    _ => write!(hex, "{space}{byte:02X}"),
                };
            }
            pad(out, spec, &hex);
        }
        _ => bad_verb(out, spec, value),
    }
}

/// Go's quoted form of a text.
pub(crate) fn quote(text: &str) -> String {
    format!("\"{}\"", escaped(text, '"'))
}

fn escaped(text: &str, mark: char) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            c if c == mark => {
                out.push('\\');
                out.push(c);
            }
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if c.is_control() && c.is_ascii() => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}
