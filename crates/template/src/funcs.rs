//! The functions a template can call: Go's builtins and Docker's.

use crate::value::Value;
use crate::{Options, gofmt, json};

/// Why a call failed.
pub(crate) enum Failure {
    /// An argument of the wrong kind: the text stands as it is.
    Argument(String),
    /// The function itself says no: `error calling NAME: TEXT`.
    Call(String),
}

type Outcome = Result<Value, Failure>;

/// How many arguments a function takes: at least, and at most (`None`: any number).
/// `None` for a name that is no function.
pub(crate) fn arity(name: &str) -> Option<(usize, Option<usize>)> {
    Some(match name {
        "and" | "or" | "call" | "index" | "slice" | "printf" | "eq" => (1, None),
        "html" | "js" | "urlquery" | "print" | "println" => (0, None),
        "ne" | "lt" | "le" | "gt" | "ge" | "split" | "join" | "truncate" => (2, Some(2)),
        "len" | "not" | "json" | "lower" | "upper" | "title" => (1, Some(1)),
        "pad" => (3, Some(3)),
        _ => return None,
    })
}

pub(crate) fn call(name: &str, args: &[Value], options: &Options) -> Outcome {
    let limit = options.limits.output;
    let text = |text: String| Ok(Value::from(text));
    match (name, args) {
        ("not", [value]) => Ok(Value::Bool(!value.truth())),
        ("len", [value]) => len(value),
        ("index", [value, keys @ ..]) => index(value, keys),
        ("slice", [value, bounds @ ..]) => slice(value, bounds),
        ("eq", [first, rest @ ..]) => equal_any(first, rest),
        ("ne", [a, b]) => Ok(Value::Bool(!equal(a, b)?)),
        ("lt", [a, b]) => Ok(Value::Bool(less(a, b)?)),
        ("le", [a, b]) => Ok(Value::Bool(less(a, b)? || equal(a, b)?)),
        ("gt", [a, b]) => Ok(Value::Bool(!(less(a, b)? || equal(a, b)?))),
        ("ge", [a, b]) => Ok(Value::Bool(!less(a, b)?)),
        ("print", args) => text(gofmt::sprint(args, limit)),
        ("println", args) => text(gofmt::sprintln(args, limit)),
        ("printf", [format, args @ ..]) => text(gofmt::sprintf(string(format)?, args, limit)),
        ("html", args) => text(escape_html(&joined(args, limit))),
        ("js", args) => text(escape_js(&joined(args, limit))),
        ("urlquery", args) => text(escape_url(&joined(args, limit))),
        ("call", [value, ..]) if value.is_nil() => failed("call of nil"),
        ("call", [value, ..]) => failed(format!("non-function of type {}", value.type_name())),
        ("json" | "lower" | "upper" | "title", [value]) if options.header => Ok(value.clone()),
        ("split" | "join" | "truncate", [value, _]) if options.header => Ok(value.clone()),
        ("json", [value]) => text(json::to_json(value)),
        ("lower", [value]) => text(string(value)?.to_lowercase()),
        ("upper", [value]) => text(string(value)?.to_uppercase()),
        ("title", [value]) => text(title(string(value)?)),
        ("split", [value, by]) => Ok(split(string(value)?, string(by)?)),
        ("join", [value, by]) => join(value, string(by)?, limit),
        ("pad", [value, before, after]) => {
            let (before, after) = (count(before, limit)?, count(after, limit)?);
            let source = string(value)?;
            if source.is_empty() {
                return text(String::new());
            }
            text(format!("{}{source}{}", " ".repeat(before), " ".repeat(after)))
        }
        ("truncate", [value, length]) => {
            let length = count(length, usize::MAX)?;
            let source = string(value)?;
            let kept = source.as_bytes().get(..length).unwrap_or(source.as_bytes());
            text(String::from_utf8_lossy(kept).into_owned())
        }
        _ => failed(format!("cannot be called with {} arguments", args.len())),
    }
}

fn failed<T>(text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Call(text.into()))
}

fn string(value: &Value) -> Result<&str, Failure> {
    match value {
        Value::String(text) => Ok(text),
        Value::Missing | Value::Nil => Err(Failure::Argument("invalid value; expected string".to_owned())),
        other => Err(Failure::Argument(format!(
            "wrong type for value; expected string; got {}",
            other.type_name()
        ))),
    }
}

fn count(value: &Value, limit: usize) -> Result<usize, Failure> {
    let number = match value {
        Value::Int(number) => *number,
        other => {
            let name = other.type_name();
            let text = format!("wrong type for value; expected int; got {name}");
            return Err(Failure::Argument(text));
        }
    };
    match usize::try_from(number) {
        Ok(number) if number <= limit => Ok(number),
        _ => failed(format!("invalid count: {number}")),
    }
}

fn len(value: &Value) -> Outcome {
    let len = match value {
        Value::String(text) => text.len(),
        Value::List(items) => items.len(),
        Value::NilList => 0,
        Value::Map(map) => map.entries.len(),
        value if value.is_nil() => return failed("len of nil pointer"),
        other => return failed(format!("len of type {}", other.type_name())),
    };
    Ok(Value::Int(i64::try_from(len).unwrap_or(i64::MAX)))
}

/// A position in something of `len` elements.
fn position(value: &Value, len: usize) -> Result<usize, Failure> {
    let at = match value {
        Value::Int(at) => usize::try_from(*at).ok(),
        Value::Uint(at) => usize::try_from(*at).ok(),
        Value::Missing | Value::Nil => return failed("cannot index slice/array with nil"),
        other => {
            let name = other.type_name();
            return failed(format!("cannot index slice/array with type {name}"));
        }
    };
    match at {
        Some(at) if at <= len => Ok(at),
        _ => failed(format!("index out of range: {}", gofmt::verb_v(value))),
    }
}

fn index(value: &Value, keys: &[Value]) -> Outcome {
    if matches!(value, Value::Missing | Value::Nil) {
        return failed("index of untyped nil");
    }
    let mut value = value.clone();
    for key in keys {
        value = match &value {
            Value::List(items) => {
                let at = position(key, items.len())?;
                match items.get(at) {
                    Some(item) => item.clone(),
                    None => return failed("reflect: slice index out of range"),
                }
            }
            Value::NilList => {
                position(key, 0)?;
                return failed("reflect: slice index out of range");
            }
            Value::String(text) => {
                let at = position(key, text.len())?;
                match text.as_bytes().get(at) {
                    Some(byte) => Value::Int(i64::from(*byte)),
                    None => return failed("reflect: string index out of range"),
                }
            }
            Value::Map(map) => match key {
                Value::String(key) => map.get(key).unwrap_or(&map.zero).clone(),
                Value::Missing | Value::Nil => return failed("value is nil; should be of type string"),
                other => {
                    let name = other.type_name();
                    return failed(format!("value has type {name}; should be string"));
                }
            },
            value if value.is_nil() => return failed("index of nil pointer"),
            other => return failed(format!("can't index item of type {}", other.type_name())),
        };
    }
    Ok(value)
}

fn slice(value: &Value, bounds: &[Value]) -> Outcome {
    let len = match value {
        Value::String(_) if bounds.len() > 2 => return failed("cannot 3-index slice a string"),
        Value::String(text) => text.len(),
        Value::List(items) => items.len(),
        Value::NilList => 0,
        Value::Missing | Value::Nil => return failed("slice of untyped nil"),
        other => return failed(format!("can't slice item of type {}", other.type_name())),
    };
    if bounds.len() > 3 {
        return failed(format!("too many slice indexes: {}", bounds.len()));
    }
    let mut at = [0, len, len];
    for (slot, bound) in at.iter_mut().zip(bounds) {
        *slot = position(bound, len)?;
    }
    for pair in at.windows(2) {
        if pair[0] > pair[1] {
            return failed(format!("invalid slice index: {} > {}", pair[0], pair[1]));
        }
    }
    match value {
        Value::String(text) => {
            let bytes = &text.as_bytes()[at[0]..at[1]];
            Ok(String::from_utf8_lossy(bytes).into_owned().into())
        }
        Value::List(items) => Ok(items[at[0]..at[1]].iter().cloned().collect()),
        other => Ok(other.clone()),
    }
}

fn equal_any(first: &Value, rest: &[Value]) -> Outcome {
    if rest.is_empty() {
        return failed("missing argument for comparison");
    }
    for other in rest {
        if equal(first, other)? {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

fn equal(a: &Value, b: &Value) -> Result<bool, Failure> {
    Ok(match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::Uint(a), Value::Uint(b)) => a == b,
        (Value::Int(a), Value::Uint(b)) | (Value::Uint(b), Value::Int(a)) => u64::try_from(*a) == Ok(*b),
        (Value::Float(a), Value::Float(b)) => a == b,
        (Value::String(a), Value::String(b)) => a == b,
        (a, b) if a.is_nil() || b.is_nil() => a.is_nil() && b.is_nil(),
        (a, b) if [a, b].iter().any(|value| !is_comparable(value)) => {
            let bad = if is_comparable(a) { b } else { a };
            let (text, name) = (gofmt::verb_v(bad), bad.type_name());
            return failed(format!("non-comparable type {text}: {name}"));
        }
        _ => return failed("incompatible types for comparison"),
    })
}

fn is_comparable(value: &Value) -> bool {
    !matches!(value, Value::List(_) | Value::NilList | Value::Map(_) | Value::Function(_))
}

fn less(a: &Value, b: &Value) -> Result<bool, Failure> {
    Ok(match (a, b) {
        (Value::Int(a), Value::Int(b)) => a < b,
        (Value::Uint(a), Value::Uint(b)) => a < b,
        (Value::Int(a), Value::Uint(b)) => i128::from(*a) < i128::from(*b),
        (Value::Uint(a), Value::Int(b)) => i128::from(*a) < i128::from(*b),
        (Value::Float(a), Value::Float(b)) => a < b,
        (Value::String(a), Value::String(b)) => a < b,
        _ => {
            let basic = |value: &Value| {
                matches!(
                    value,
                    Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Float(_) | Value::String(_)
                )
            };
            let same = matches!((a, b), (Value::Bool(_), Value::Bool(_)));
            return failed(if !basic(a) || !basic(b) || same {
                "invalid type for comparison"
            } else {
                "incompatible types for comparison"
            });
        }
    })
}

fn split(source: &str, by: &str) -> Value {
    if by.is_empty() {
        return source.chars().map(|c| Value::from(c.to_string())).collect();
    }
    source.split(by).map(Value::from).collect()
}

fn join(value: &Value, by: &str, limit: usize) -> Outcome {
    let mut parts: Vec<String> = match value {
        Value::Missing | Value::Nil | Value::NilList => return Ok("".into()),
        Value::List(items) => items.iter().map(gofmt::verb_v).collect(),
        Value::Map(map) => map.entries.iter().map(|(_, value)| gofmt::verb_v(value)).collect(),
        other => return failed(format!("expected slice, got {}", other.type_name())),
    };
    if let Value::Map(_) = value {
        parts.sort();
    }
    let size: usize = parts.iter().map(|part| part.len().saturating_add(by.len())).sum();
    if size > limit {
        return failed("the result is too long");
    }
    Ok(parts.join(by).into())
}

/// Every letter that follows something that is neither letter, digit, underscore nor
/// apostrophe-free word character becomes a capital, as Go's old `strings.Title` does.
fn title(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut inside = false;
    for c in source.chars() {
        if inside {
            out.push(c);
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphanumeric() || c == '_' || (!c.is_ascii() && !c.is_whitespace());
    }
    out
}

fn joined(args: &[Value], limit: usize) -> String {
    match args {
        [Value::String(text)] => text.to_string(),
        args => gofmt::sprint(args, limit),
    }
}

fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\0' => out.push('\u{fffd}'),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => out.push(c),
        }
    }
    out
}

fn escape_js(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '"' => out.push_str("\\\""),
            '<' | '>' | '&' | '=' => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

fn escape_url(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' ' => out.push('+'),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
