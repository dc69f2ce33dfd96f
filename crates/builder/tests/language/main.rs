//! The Dockerfile language by its cases: files below `tests/dockerfile`, one for each rule.
//!
//! ```text
//! ==== good a name
//! FROM alpine
//! ----
//! 1:1 FROM image="alpine"@1:6
//! ==== bad a name
//! FORM alpine
//! ----
//! Dockerfile:1:1: dockerfile parse error on line 1: unknown instruction: FORM (did you mean FROM?)
//! ```
//!
//! In the input `<CR>`, `<BOM>`, `<SP>`, `<NUL>` and `<NOEOL>` stand for what editors lose. `UPDATE_EXPECT=1` writes what
//! comes out below the `----`. The tables of rules in each module are complete: a rule without a case of an
//! outcome that it can have fails, and so does a file without a rule.

mod cases;
mod checks;
mod differential;
mod dump;
mod expansion;
mod grammar;
mod properties;
