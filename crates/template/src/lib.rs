//! Go's text/template as Docker's `--format` and log tags use it.
//!
//! The language is the one of <https://pkg.go.dev/text/template>, with the functions
//! Docker adds (`json`, `split`, `join`, `title`, `lower`, `upper`, `pad`, `truncate`).
//! Scripts depend on the printed forms and on the error texts, so both are Go's.
//!
//! ```text
//! text ── lex ──▶ tokens ── parse ──▶ Template ── exec (data: Value) ──▶ String
//! ```
//!
//! A template may come from somebody else (a log tag, a stored configuration): parsing is
//! bounded in depth, execution in steps and in bytes ([`Limits`]).

mod exec;
mod funcs;
#[doc(hidden)]
pub mod fuzz;
mod gofmt;
mod json;
mod lex;
mod node;
mod number;
mod parse;
mod value;

use std::collections::BTreeMap;

pub use json::to_json;
pub use value::{Field, Function, Map, Struct, Value};

/// A parsed template with the templates it defines.
#[derive(Debug, Clone)]
pub struct Template {
    name: String,
    text: String,
    root: Vec<node::Node>,
    defined: BTreeMap<String, Vec<node::Node>>,
}

/// What a key that a map lacks gives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Missing {
    /// `<no value>` where it is printed.
    #[default]
    NoValue,
    /// An error that names the key (`missingkey=error`).
    Error,
}

/// Bounds on one execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Nodes and commands evaluated.
    pub steps: u64,
    /// Bytes printed, and bytes of any one string made on the way.
    pub output: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { steps: 10_000_000, output: 64 << 20 }
    }
}

/// How to execute.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    pub missing: Missing,
    pub limits: Limits,
    /// The template prints the header of a table: functions that shape a value (`upper`,
    /// `json`, `truncate`, `pad` apart) leave the column's name as it is.
    pub header: bool,
}

/// Why a template was refused or stopped. The texts are Go's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("template: {name}:{line}: {message}")]
    Parse { name: String, line: usize, message: String },
    /// `line` counts from one, `column` from zero, in bytes.
    #[error("template: {name}:{line}:{column}: executing {template:?} at <{context}>: {message}")]
    Exec { name: String, line: usize, column: usize, template: String, context: String, message: String },
    #[error("template: {name}: too long: {size} bytes, at most {limit} are allowed")]
    TooLong { name: String, size: usize, limit: usize },
}

/// The longest template text, in bytes.
pub const MAX_TEXT: usize = 1 << 20;

impl Template {
    /// Parses `text`; `name` appears in error texts (Docker's is empty).
    pub fn parse(name: &str, text: &str) -> Result<Template, Error> {
        parse::parse(name, text)
    }

    /// Executes with `data` as the dot.
    pub fn exec(&self, data: &Value, options: &Options) -> Result<String, Error> {
        let mut out = String::new();
        self.exec_into(&mut out, data, options)?;
        Ok(out)
    }

    /// Executes and appends to `out`; what was printed before an error stays there.
    pub fn exec_into(&self, out: &mut String, data: &Value, options: &Options) -> Result<(), Error> {
        exec::exec(self, out, data, options)
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
