//! The parsed template, and how an error names a piece of it.

use std::fmt;

use crate::number::Constant;

/// What a template is a list of.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    Text(String),
    Action(Pipe),
    Branch(Branch),
    Template { pos: usize, name: String, pipe: Option<Pipe> },
    Break,
    Continue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BranchKind {
    If,
    With,
    Range,
}

/// `{{if}}`, `{{with}}`, `{{range}}` with what they hold.
#[derive(Debug, Clone)]
pub(crate) struct Branch {
    pub(crate) kind: BranchKind,
    pub(crate) pipe: Pipe,
    pub(crate) body: Vec<Node>,
    pub(crate) otherwise: Option<Vec<Node>>,
}

/// `$a, $b := command | command`
#[derive(Debug, Clone)]
pub(crate) struct Pipe {
    pub(crate) pos: usize,
    pub(crate) variables: Vec<String>,
    /// `=` instead of `:=`.
    pub(crate) assigns: bool,
    pub(crate) commands: Vec<Command>,
}

/// A function or value and its arguments; at least one expression.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    pub(crate) pos: usize,
    pub(crate) args: Vec<Expr>,
}

#[derive(Debug, Clone)]
pub(crate) struct Expr {
    pub(crate) pos: usize,
    pub(crate) kind: ExprKind,
}

#[derive(Debug, Clone)]
pub(crate) enum ExprKind {
    Dot,
    Nil,
    Bool(bool),
    Constant {
        source: String,
        value: Constant,
    },
    String {
        source: String,
        value: String,
    },
    /// A function's name.
    Word(String),
    /// `.A.B`
    Field(Vec<String>),
    /// `$x.A.B`, the name with its `$`.
    Variable(String, Vec<String>),
    /// `(pipe)`
    Pipe(Box<Pipe>),
    /// `(pipe).A.B`
    Chain(Box<Expr>, Vec<String>),
}

/// A place that an error can name.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    Pipe(&'a Pipe),
    Command(&'a Command),
    Expr(&'a Expr),
    Template { pos: usize, name: &'a str },
}

impl Place<'_> {
    pub(crate) fn pos(self) -> usize {
        match self {
            Place::Pipe(pipe) => pipe.pos,
            Place::Command(command) => command.pos,
            Place::Expr(expr) => expr.pos,
            Place::Template { pos, .. } => pos,
        }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Pipe(pipe) => pipe.fmt(f),
            Place::Command(command) => command.fmt(f),
            Place::Expr(expr) => expr.fmt(f),
            Place::Template { name, .. } => write!(f, "{{{{template {name:?}}}}}"),
        }
    }
}

impl fmt::Display for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.variables.is_empty() {
            let sign = if self.assigns { "=" } else { ":=" };
            write!(f, "{} {sign} ", self.variables.join(", "))?;
        }
        for (at, command) in self.commands.iter().enumerate() {
            let before = if at > 0 { " | " } else { "" };
            write!(f, "{before}{command}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, arg) in self.args.iter().enumerate() {
            let before = if at > 0 { " " } else { "" };
            write!(f, "{before}{arg}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dotted = |f: &mut fmt::Formatter<'_>, names: &[String]| -> fmt::Result {
            names.iter().try_for_each(|name| write!(f, ".{name}"))
        };
        match &self.kind {
            ExprKind::Dot => f.write_str("."),
            ExprKind::Nil => f.write_str("nil"),
            ExprKind::Bool(value) => write!(f, "{value}"),
            ExprKind::Constant { source, .. } | ExprKind::String { source, .. } => f.write_str(source),
            ExprKind::Word(name) => f.write_str(name),
            ExprKind::Field(names) => dotted(f, names),
            ExprKind::Variable(name, names) => {
                f.write_str(name)?;
                dotted(f, names)
            }
            ExprKind::Pipe(pipe) => write!(f, "({pipe})"),
            ExprKind::Chain(inner, names) => {
                write!(f, "{inner}")?;
                dotted(f, names)
            }
        }
    }
}
