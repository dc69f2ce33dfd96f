//! Entry points for fuzzing: each takes any bytes and must return.

use crate::{Limits, Options, Template, Value};

/// Parses the bytes as a template and runs it over a small document.
pub fn fuzz_template(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(template) = Template::parse("", text) else {
        return;
    };
    let document = serde_json::json!({
        "Name": "x", "N": 3, "F": 1.5, "L": ["a", {"b": null}], "M": {"k": "v"}, "Z": null
    });
    let limits = Limits { steps: 10_000, output: 1 << 16 };
    let options = Options { limits, ..Options::default() };
    if let Ok(out) = template.exec(&Value::from(&document), &options) {
        assert!(out.len() <= limits.output);
    }
}
