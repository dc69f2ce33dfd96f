//! Lists and how they are shown: a table, JSON lines, or a Go template.
//!
//! A list's rows are JSON objects whose names are in alphabetical order, as
//! the reference writes them. The plain table is put together without any
//! template; what `--format` says is parsed once and applied to each row.

use hull_template::{Field, Function, Options, Struct, Template};
use serde_json::{Map, Value};

use crate::command::{Failure, fail};
use crate::table;

/// A field of a list and the heading of its column.
pub(crate) type Heading = (&'static str, &'static str);

/// Names in alphabetical order.
pub(crate) type Row = Map<String, Value>;

/// What `--format` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Format {
    /// The list's own table.
    Table,
    Json,
    /// A template for each row; with headings if `table` stood before it.
    Template {
        table: bool,
        text: String,
    },
}

impl Format {
    pub(crate) fn parse(text: &str) -> Format {
        match text {
            "" | "table" => Format::Table,
            "json" => Format::Json,
            _ => match text.strip_prefix("table") {
                Some(rest) if rest.starts_with(char::is_whitespace) => {
                    Format::Template { table: true, text: unescape(rest.trim()) }
                }
                _ => Format::Template { table: false, text: unescape(text) },
            },
        }
    }

    /// Whether rows will be asked for this field.
    pub(crate) fn mentions(&self, field: &str) -> bool {
        match self {
            Format::Template { text, .. } => {
                text.contains(&format!(".{field}")) || text.contains("{{json .}}")
            }
            Format::Table | Format::Json => false,
        }
    }
}

/// A tab and a new line may be typed as `\t` and `\n`.
fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

/// What a list is to a template.
pub(crate) struct List {
    /// The Go type that error texts of the reference name.
    pub(crate) kind: &'static str,
    pub(crate) headings: &'static [Heading],
    /// What stands before the text of a template's error.
    pub(crate) complaint: &'static str,
}

/// Renders a list; `columns` are those of the plain table.
pub(crate) fn render(
    format: &Format,
    list: &List,
    columns: &[&str],
    rows: &[Row],
) -> Result<String, Failure> {
    match format {
        Format::Json => Ok(rows.iter().map(|row| json_line(row) + "\n").collect()),
        Format::Table => Ok(plain_table(columns, list.headings, rows)),
        Format::Template { table, text } => {
            let template = parse(text)?;
            let complain = |error| fail(format!("{}: {error}", list.complaint));
            let mut out = String::new();
            if *table {
                let options = Options { header: true, ..Options::default() };
                template.exec_into(&mut out, &headings(list), &options).map_err(complain)?;
                out.push('\n');
            }
            for row in rows {
                template
                    .exec_into(&mut out, &subject(list.kind, row), &Options::default())
                    .map_err(complain)?;
                out.push('\n');
            }
            Ok(if *table { table::list(&out) } else { out })
        }
    }
}

/// Parses a template of the user's.
pub(crate) fn parse(text: &str) -> Result<Template, Failure> {
    Template::parse("", text).map_err(|error| fail(format!("template parsing error: {error}")))
}

/// A row as a template sees it: an object of the reference's type.
fn subject(kind: &'static str, row: &Row) -> hull_template::Value {
    let labels: std::collections::BTreeMap<String, String> = row
        .get("Labels")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let label = Function::new(1, move |arguments| {
        let name = name_of(arguments);
        Ok(labels.get(&name).map_or("", String::as_str).into())
    });
    Struct {
        type_name: kind.into(),
        fields: row
            .iter()
            .map(|(name, value)| Field {
                name: name.clone().into(),
                json: name.clone().into(),
                value: value.into(),
            })
            .collect(),
        methods: vec![("Label".into(), label)],
        escape_json: true,
    }
    .into()
}

/// The headings, as what the template of a table's first line sees.
fn headings(list: &List) -> hull_template::Value {
    // The heading of a label's column is its last part.
    let label = Function::new(1, |arguments| {
        let name = name_of(arguments);
        let last = name.rsplit('.').next().unwrap_or_default();
        Ok(last.replace(['-', '_'], " ").into())
    });
    Struct {
        type_name: list.kind.into(),
        fields: list.headings.iter().map(|(name, heading)| Field::new(name, *heading)).collect(),
        methods: vec![("Label".into(), label)],
        escape_json: true,
    }
    .into()
}

fn name_of(arguments: &[hull_template::Value]) -> String {
    match arguments {
        [hull_template::Value::String(name)] => name.to_string(),
        _ => String::new(),
    }
}

fn plain_table(columns: &[&str], headings: &[Heading], rows: &[Row]) -> String {
    let mut out = String::new();
    let heading =
        |column: &str| headings.iter().find(|(name, _)| *name == column).map_or("", |(_, heading)| heading);
    let head: Vec<&str> = columns.iter().map(|column| heading(column)).collect();
    out.push_str(&head.join("\t"));
    out.push('\n');
    for row in rows {
        let cells: Vec<&str> = columns
            .iter()
            .map(|column| row.get(*column).and_then(Value::as_str).unwrap_or_default())
            .collect();
        out.push_str(&cells.join("\t"));
        out.push('\n');
    }
    table::list(&out)
}

/// A row from its fields, put in order.
pub(crate) fn row(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Row {
    let mut fields: Vec<_> = fields.into_iter().collect();
    fields.sort_by_key(|(name, _)| *name);
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// JSON on one line with Go's escapes: `<`, `>` and `&` are written out.
pub(crate) fn json_line(row: &Row) -> String {
    go_json(&Value::Object(row.clone()))
}

pub(crate) fn go_json(value: &Value) -> String {
    value
        .to_string()
        .replace('&', "\\u0026")
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

/// Indents a JSON document by four blanks without touching anything else of
/// it: numbers, escapes and order stay as they came.
pub(crate) fn indent(json: &[u8], depth: usize) -> String {
    let text = String::from_utf8_lossy(json);
    let mut out = String::with_capacity(text.len() * 2);
    let mut depth = depth;
    let mut quoted = false;
    let mut escaped = false;
    let mut open = false;
    let newline = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("    ", depth));
    };
    for c in text.chars() {
        if quoted {
            out.push(c);
            quoted = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        if c.is_ascii_whitespace() {
            continue;
        }
        if open && !matches!(c, '}' | ']') {
            newline(&mut out, depth);
        }
        match c {
            '{' | '[' => {
                out.push(c);
                depth += 1;
                open = true;
                continue;
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                if !open {
                    newline(&mut out, depth);
                }
                out.push(c);
            }
            ',' => {
                out.push(c);
                newline(&mut out, depth);
            }
            ':' => out.push_str(": "),
            '"' => {
                out.push(c);
                quoted = true;
            }
            _ => out.push(c),
        }
        open = false;
    }
    out
}

/// Cuts to `width` columns with an ellipsis as the last.
pub(crate) fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// The first twelve digits of an ID, without its algorithm.
pub(crate) fn short_id(id: &str) -> &str {
    let bare = id.split_once(':').map_or(id, |(_, hex)| hex);
    bare.get(..12).unwrap_or(bare)
}

/// Seconds since the epoch, now.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// A moment as Go's `Time.String` writes it, in the local time zone.
pub(crate) fn moment(seconds: i64) -> String {
    match jiff::Timestamp::from_second(seconds) {
        Ok(moment) => {
            moment.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
        }
        Err(_) => String::new(),
    }
}

/// `3 minutes ago`
pub(crate) fn ago(seconds: i64) -> String {
    format!("{} ago", hull_api::duration::rough(now() - seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_is_indented_as_it_came() {
        let json = br#"{"a":{},"b":[],"c":[1.50,"x\"{\u003c"],"d":{"e":null}}"#;
        assert_eq!(
            indent(json, 0),
            r#"{
    "a": {},
    "b": [],
    "c": [
        1.50,
        "x\"{\u003c"
    ],
    "d": {
        "e": null
    }
}"#
        );
    }

    #[test]
    fn rows_are_in_order_and_escaped() {
        let row = row([("Tag", json!("<none>")), ("ID", json!("1"))]);
        assert_eq!(json_line(&row), r#"{"ID":"1","Tag":"\u003cnone\u003e"}"#);
    }

    #[test]
    fn formats_are_told_apart() {
        let template = |table, text: &str| Format::Template { table, text: text.to_owned() };
        assert_eq!(Format::parse(""), Format::Table);
        assert_eq!(Format::parse("table"), Format::Table);
        assert_eq!(Format::parse("json"), Format::Json);
        assert_eq!(Format::parse(r"table {{.ID}}\t{{.Tag}}"), template(true, "{{.ID}}\t{{.Tag}}"));
        assert_eq!(Format::parse("{{.ID}}"), template(false, "{{.ID}}"));
    }

    #[test]
    fn long_words_end_in_an_ellipsis() {
        assert_eq!(ellipsis("abcdef", 6), "abcdef");
        assert_eq!(ellipsis("abcdefg", 6), "abcde…");
    }
}
