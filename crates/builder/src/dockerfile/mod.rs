//! The Dockerfile language: bytes become instructions, and each of their parts knows where it stands.
//!
//! Everything is pure. Words stay as they are written, with quotes and variables in them; what a
//! variable is worth is known only while stages are planned.
//!
//! The grammar is that of `docker/dockerfile:1` (docs.docker.com/reference/dockerfile).

pub mod ast;
pub mod check;
pub mod expand;
mod flags;
pub mod fuzz;
mod instruction;
mod lines;
pub mod mount;
mod parse;
mod pattern;
pub mod scope;
pub mod span;
mod words;

pub use ast::{Dockerfile, Instruction, Kind};
pub use parse::{MAX_FILE, MAX_INSTRUCTIONS, MAX_VARIABLES, parse, trigger};
pub use span::{Position, Problem, Span};

/// The one of `known` that somebody who wrote `text` may have meant.
fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (text.chars().count() / 2).min(2);
    known.map(|name| (distance(text, name), name)).filter(|(d, _)| *d <= allowed).min().map(|(_, name)| name)
}

/// Insertions, deletions, replacements and swaps of neighbours that make one of the other, without
/// regard to case. Long texts are far from everything.
fn distance(one: &str, other: &str) -> usize {
    const LONGEST: usize = 64;
    if one.len() > LONGEST {
        return usize::MAX;
    }
    let one: Vec<char> = one.to_lowercase().chars().collect();
    let other: Vec<char> = other.to_lowercase().chars().collect();
    let mut rows = vec![(0..=other.len()).collect::<Vec<usize>>()];
    for i in 0..one.len() {
        let mut row = vec![i + 1];
        for j in 0..other.len() {
            let replaced = rows[i][j] + usize::from(one[i] != other[j]);
            let mut least = replaced.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && one[i] == other[j - 1] && one[i - 1] == other[j] {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}
