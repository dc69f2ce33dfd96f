//! A value as the JSON Go's encoder writes: no spaces, its escapes, its floats.

use crate::value::Value;

/// Encodes a value. Maps and structs keep their order; `Missing` is `null`.
pub fn to_json(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value, false);
    out
}

fn write(out: &mut String, value: &Value, escape: bool) {
    match value {
        Value::Missing | Value::Nil | Value::NilPointer(_) | Value::NilList | Value::Function(_) => {
            out.push_str("null");
        }
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Int(value) => out.push_str(&value.to_string()),
        Value::Uint(value) => out.push_str(&value.to_string()),
        Value::Float(value) => out.push_str(&float(*value)),
        Value::String(text) => string(out, text, escape),
        Value::List(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write(out, item, escape);
            }
            out.push(']');
        }
        Value::Map(map) if map.nil => out.push_str("null"),
        Value::Map(map) => {
            let entries = map.entries.iter().map(|(key, value)| (key.as_str(), value));
            object(out, entries, escape);
        }
        Value::Struct(data) => {
            let fields = data.fields.iter().filter(|field| !field.json.is_empty());
            let entries = fields.map(|field| (field.json.as_ref(), &field.value));
            object(out, entries, escape || data.escape_json);
        }
    }
}

fn object<'a>(out: &mut String, entries: impl Iterator<Item = (&'a str, &'a Value)>, escape: bool) {
    out.push('{');
    for (at, (key, value)) in entries.enumerate() {
        if at > 0 {
            out.push(',');
        }
        string(out, key, escape);
        out.push(':');
        write(out, value, escape);
    }
    out.push('}');
}

fn string(out: &mut String, text: &str, escape: bool) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' if escape => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            '\0'..='\u{1f}' | '\u{2028}' | '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Plain digits, or an exponent below 1e-6 and from 1e21 on.
fn float(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return "null".to_owned();
    }
    if size != 0.0 && !(1e-6..1e21).contains(&size) {
        let text = format!("{value:e}");
        return match text.split_once('e') {
            Some((mantissa, exponent)) if !exponent.starts_with('-') => {
                format!("{mantissa}e+{exponent}")
            }
            _ => text,
        };
    }
    format!("{value}")
}
