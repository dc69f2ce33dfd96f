//! Tokens to a [`Template`]. A recursive descent over the grammar; variables are checked
//! to be declared and functions to exist, so execution cannot meet an unknown name.

use std::collections::BTreeMap;

use crate::lex::{Kind, Lexer, Token};
use crate::node::{Branch, BranchKind, Command, Expr, ExprKind, Node, Pipe};
use crate::number::{self, Constant};
use crate::{Error, MAX_TEXT, Template, funcs};

/// How deep blocks and parentheses may nest: each level costs stack here, in execution
/// and when the tree is dropped.
const MAX_DEPTH: usize = 100;

pub(crate) fn parse(name: &str, text: &str) -> Result<Template, Error> {
    if text.len() > MAX_TEXT {
        return Err(Error::TooLong { name: name.to_owned(), size: text.len(), limit: MAX_TEXT });
    }
    let mut parser = Parser {
        name,
        text,
        lexer: Lexer::new(text),
        ahead: Vec::new(),
        line_pos: 0,
        action_pos: None,
        variables: vec!["$".to_owned()],
        ranges: 0,
        depth: 0,
        defined: BTreeMap::new(),
    };
    let root = parser.top()?;
    Ok(Template { name: name.to_owned(), text: text.to_owned(), root, defined: parser.defined })
}

struct Parser<'a> {
    name: &'a str,
    text: &'a str,
    lexer: Lexer<'a>,
    /// Tokens given back, the next one last.
    ahead: Vec<Token<'a>>,
    /// Where the token last read starts; its line is an error's line.
    line_pos: usize,
    /// Where the action being parsed starts.
    action_pos: Option<usize>,
    /// Declared so far, innermost last.
    variables: Vec<String>,
    /// How many `range` bodies enclose this place.
    ranges: usize,
    depth: usize,
    defined: BTreeMap<String, Vec<Node>>,
}

/// What ended a list of nodes.
enum Ended {
    End,
    Else,
}

impl<'a> Parser<'a> {
    fn fail<T>(&self, message: impl Into<String>) -> Result<T, Error> {
        Err(Error::Parse {
            name: self.name.to_owned(),
            line: self.line(self.line_pos),
            message: message.into(),
        })
    }

    fn line(&self, pos: usize) -> usize {
        1 + self.text.as_bytes()[..pos].iter().filter(|byte| **byte == b'\n').count()
    }

    fn next(&mut self) -> Result<Token<'a>, Error> {
        if let Some(token) = self.ahead.pop() {
            self.line_pos = token.pos;
            return Ok(token);
        }
        match self.lexer.next() {
            Ok(token) => {
                self.line_pos = token.pos;
                Ok(token)
            }
            Err(error) => {
                self.line_pos = error.pos;
                let mut message = error.message;
                if let Some(start) = self.action_pos.map(|pos| self.line(pos))
                    && start != self.line(error.pos)
                {
                    let within = if message.ends_with(" action") { "" } else { " in action" };
                    message = format!("{message}{within} started at {}:{start}", self.name);
                }
                self.fail(message)
            }
        }
    }

    fn next_non_space(&mut self) -> Result<Token<'a>, Error> {
        loop {
            let token = self.next()?;
            if token.kind != Kind::Space {
                return Ok(token);
            }
        }
    }

    fn peek_non_space(&mut self) -> Result<Token<'a>, Error> {
        let token = self.next_non_space()?;
        self.ahead.push(token.clone());
        Ok(token)
    }

    fn unexpected<T>(&self, token: &Token<'_>, context: &str) -> Result<T, Error> {
        let text = match token.kind {
            Kind::End => "EOF".to_owned(),
            Kind::Word if is_keyword(token.text) => format!("<{}>", token.text),
            _ if token.text.chars().count() > 10 => {
                let start: String = token.text.chars().take(10).collect();
                format!("{start:?}...")
            }
            _ => format!("{:?}", token.text),
        };
        self.fail(format!("unexpected {text} in {context}"))
    }

    fn close(&mut self, context: &str) -> Result<(), Error> {
        let token = self.next_non_space()?;
        match token.kind {
            Kind::Close => Ok(()),
            _ => self.unexpected(&token, context),
        }
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        if self.depth == MAX_DEPTH {
            return self.fail("nested too deeply");
        }
        self.depth += 1;
        let result = parse(self);
        self.depth -= 1;
        result
    }

    /// The whole text: the only place where `define` may stand.
    fn top(&mut self) -> Result<Vec<Node>, Error> {
        let mut nodes = Vec::new();
        loop {
            let token = self.next()?;
            match token.kind {
                Kind::End => return Ok(nodes),
                Kind::Open => {
                    self.action_pos = Some(token.pos);
                    let word = self.next_non_space()?;
                    if word.kind == Kind::Word && word.text == "define" {
                        self.definition()?;
                        continue;
                    }
                    self.ahead.push(word);
                    match self.action()? {
                        Item::Node(node) => nodes.push(node),
                        Item::Ended(Ended::End) => return self.fail("unexpected {{end}}"),
                        Item::Ended(Ended::Else) => return self.fail("unexpected {{else}}"),
                    }
                }
                _ => nodes.push(Node::Text(token.text.to_owned())),
            }
        }
    }

    /// Nodes up to `{{end}}` or `{{else}}`.
    fn list(&mut self) -> Result<(Vec<Node>, Ended), Error> {
        let mut nodes = Vec::new();
        loop {
            let token = self.next_non_space()?;
            match token.kind {
                Kind::End => return self.fail("unexpected EOF"),
                Kind::Open => {
                    self.action_pos = Some(token.pos);
                    match self.action()? {
                        Item::Node(node) => nodes.push(node),
                        Item::Ended(ended) => return Ok((nodes, ended)),
                    }
                }
                _ => nodes.push(Node::Text(token.text.to_owned())),
            }
        }
    }

    fn action(&mut self) -> Result<Item, Error> {
        let token = self.next_non_space()?;
        let pos = token.pos;
        let node = match (token.kind, token.text) {
            (Kind::Word, "end") => {
                self.close("end")?;
                return Ok(Item::Ended(Ended::End));
            }
            (Kind::Word, "else") => {
                let next = self.peek_non_space()?;
                if !(next.kind == Kind::Word && matches!(next.text, "if" | "with")) {
                    self.close("else")?;
                }
                return Ok(Item::Ended(Ended::Else));
            }
            (Kind::Word, "if") => Node::Branch(self.branch(BranchKind::If)?),
            (Kind::Word, "with") => Node::Branch(self.branch(BranchKind::With)?),
            (Kind::Word, "range") => Node::Branch(self.branch(BranchKind::Range)?),
            (Kind::Word, word @ ("break" | "continue")) => {
                self.close(&format!("{{{{{word}}}}}"))?;
                if self.ranges == 0 {
                    return self.fail(format!("{{{{{word}}}}} outside {{{{range}}}}"));
                }
                if word == "break" { Node::Break } else { Node::Continue }
            }
            (Kind::Word, "template") => {
                let name = self.template_name("template clause")?;
                let next = self.next_non_space()?;
                let pipe = if next.kind == Kind::Close {
                    None
                } else {
                    self.ahead.push(next);
                    Some(self.pipeline("template clause", Kind::Close)?)
                };
                Node::Template { pos, name, pipe }
            }
            (Kind::Word, "block") => {
                let name = self.template_name("block clause")?;
                let pipe = self.pipeline("block clause", Kind::Close)?;
                self.body_of(&name, "block clause")?;
                Node::Template { pos, name, pipe: Some(pipe) }
            }
            _ => {
                self.ahead.push(token);
                let pipe = self.pipeline("command", Kind::Close)?;
                Node::Action(pipe)
            }
        };
        self.action_pos = None;
        Ok(Item::Node(node))
    }

    fn template_name(&mut self, context: &str) -> Result<String, Error> {
        let token = self.next_non_space()?;
        match token.kind {
            Kind::Quoted | Kind::RawQuoted => self.string(&token),
            _ => self.unexpected(&token, context),
        }
    }

    fn definition(&mut self) -> Result<(), Error> {
        const CONTEXT: &str = "define clause";
        let name = self.template_name(CONTEXT)?;
        self.close(CONTEXT)?;
        self.body_of(&name, CONTEXT)
    }

    /// The body of a definition: a template of its own, which sees no outer variables.
    fn body_of(&mut self, name: &str, context: &str) -> Result<(), Error> {
        let variables = std::mem::replace(&mut self.variables, vec!["$".to_owned()]);
        let ranges = std::mem::take(&mut self.ranges);
        let (body, ended) = self.deeper(Self::list)?;
        if let Ended::Else = ended {
            return self.fail(format!("unexpected {{{{else}}}} in {context}"));
        }
        self.variables = variables;
        self.ranges = ranges;
        if self.defined.insert(name.to_owned(), body).is_some() {
            return self.fail(format!("multiple definition of template {name:?}"));
        }
        Ok(())
    }

    fn branch(&mut self, kind: BranchKind) -> Result<Branch, Error> {
        self.deeper(|parser| parser.branch_here(kind))
    }

    fn branch_here(&mut self, kind: BranchKind) -> Result<Branch, Error> {
        let context = match kind {
            BranchKind::If => "if",
            BranchKind::With => "with",
            BranchKind::Range => "range",
        };
        let outer = self.variables.len();
        let pipe = self.pipeline(context, Kind::Close)?;
        let in_range = usize::from(kind == BranchKind::Range);
        self.ranges += in_range;
        let (body, ended) = self.list()?;
        self.ranges -= in_range;
        let otherwise = match ended {
            Ended::End => None,
            Ended::Else => {
                let next = self.next()?;
                let space = next.kind == Kind::Space;
                let word = if space { self.next()? } else { next.clone() };
                if word.kind == Kind::Word && word.text == context && kind != BranchKind::Range {
                    // `else if` shares the outer `end`.
                    let inner = self.branch(kind)?;
                    Some(vec![Node::Branch(inner)])
                } else {
                    self.ahead.push(word);
                    if space {
                        self.ahead.push(next);
                    }
                    let (otherwise, ended) = self.list()?;
                    if let Ended::Else = ended {
                        return self.fail("expected end; found {{else}}");
                    }
                    Some(otherwise)
                }
            }
        };
        self.variables.truncate(outer);
        Ok(Branch { kind, pipe, body, otherwise })
    }

    fn pipeline(&mut self, context: &str, end: Kind) -> Result<Pipe, Error> {
        self.deeper(|parser| parser.pipeline_here(context, end))
    }

    fn pipeline_here(&mut self, context: &str, end: Kind) -> Result<Pipe, Error> {
        let mut pipe = Pipe {
            pos: self.peek_non_space()?.pos,
            variables: Vec::new(),
            assigns: false,
            commands: Vec::new(),
        };
        self.declarations(&mut pipe, context)?;
        loop {
            let token = self.next_non_space()?;
            match token.kind {
                kind if kind == end => {
                    self.check_pipeline(&pipe, context)?;
                    return Ok(pipe);
                }
                Kind::Word if is_keyword(token.text) => return self.unexpected(&token, context),
                Kind::Char
                | Kind::Dot
                | Kind::Field
                | Kind::Word
                | Kind::Number
                | Kind::Quoted
                | Kind::RawQuoted
                | Kind::Variable
                | Kind::LeftParen => {
                    self.ahead.push(token);
                    let command = self.command()?;
                    pipe.commands.push(command);
                }
                _ => return self.unexpected(&token, context),
            }
        }
    }

    fn declarations(&mut self, pipe: &mut Pipe, context: &str) -> Result<(), Error> {
        loop {
            let variable = self.next_non_space()?;
            if variable.kind != Kind::Variable {
                self.ahead.push(variable);
                return Ok(());
            }
            let after = self.next()?;
            let space = after.kind == Kind::Space;
            let sign = if space { self.next_non_space()? } else { after.clone() };
            match sign.kind {
                Kind::Assign | Kind::Declare => {
                    pipe.assigns = sign.kind == Kind::Assign;
                    pipe.variables.push(variable.text.to_owned());
                    for name in &pipe.variables {
                        if pipe.assigns && !self.variables.contains(name) {
                            return self.fail(format!("undefined variable {name:?}"));
                        }
                    }
                    self.variables.extend(pipe.variables.iter().cloned());
                    return Ok(());
                }
                Kind::Comma => {
                    pipe.variables.push(variable.text.to_owned());
                    if context != "range" || pipe.variables.len() > 1 {
                        return self.fail(format!("too many declarations in {context}"));
                    }
                    let kind = self.peek_non_space()?.kind;
                    if !matches!(kind, Kind::Variable | Kind::Close | Kind::RightParen) {
                        return self.fail("range can only initialize variables");
                    }
                }
                _ => {
                    self.ahead.push(sign);
                    if space {
                        self.ahead.push(after);
                    }
                    self.ahead.push(variable);
                    return Ok(());
                }
            }
        }
    }

    fn check_pipeline(&self, pipe: &Pipe, context: &str) -> Result<(), Error> {
        if pipe.commands.is_empty() {
            return self.fail(format!("missing value for {context}"));
        }
        for (at, command) in pipe.commands.iter().enumerate().skip(1) {
            if let ExprKind::Bool(_)
            | ExprKind::Dot
            | ExprKind::Nil
            | ExprKind::Constant { .. }
            | ExprKind::String { .. } = command.args[0].kind
            {
                let stage = at + 1;
                return self.fail(format!("non executable command in pipeline stage {stage}"));
            }
        }
        Ok(())
    }

    fn command(&mut self) -> Result<Command, Error> {
        let mut command = Command { pos: self.peek_non_space()?.pos, args: Vec::new() };
        loop {
            self.peek_non_space()?;
            if let Some(operand) = self.operand()? {
                command.args.push(operand);
            }
            let token = self.next()?;
            match token.kind {
                Kind::Space => continue,
                Kind::Close | Kind::RightParen => self.ahead.push(token),
                Kind::Pipe => {}
                _ => return self.unexpected(&token, "operand"),
            }
            break;
        }
        if command.args.is_empty() {
            return self.fail("empty command");
        }
        Ok(command)
    }

    /// A term and the fields that follow it without a space.
    fn operand(&mut self) -> Result<Option<Expr>, Error> {
        let Some(term) = self.term()? else {
            return Ok(None);
        };
        let mut names = Vec::new();
        let mut pos = term.pos;
        loop {
            let token = self.next()?;
            if token.kind != Kind::Field {
                self.ahead.push(token);
                break;
            }
            if names.is_empty() {
                pos = token.pos;
            }
            names.push(token.text[1..].to_owned());
        }
        if names.is_empty() {
            return Ok(Some(term));
        }
        let kind = match term.kind {
            ExprKind::Field(mut first) => {
                first.extend(names);
                ExprKind::Field(first)
            }
            ExprKind::Variable(name, mut first) => {
                first.extend(names);
                ExprKind::Variable(name, first)
            }
            ExprKind::Word(_) | ExprKind::Pipe(_) | ExprKind::Chain(..) => {
                ExprKind::Chain(Box::new(term), names)
            }
            _ => return self.fail(format!("unexpected . after term {:?}", term.to_string())),
        };
        Ok(Some(Expr { pos, kind }))
    }

    fn term(&mut self) -> Result<Option<Expr>, Error> {
        let token = self.next_non_space()?;
        let text = token.text;
        let kind = match token.kind {
            Kind::Dot => ExprKind::Dot,
            Kind::Word => match text {
                "true" | "false" => ExprKind::Bool(text == "true"),
                "nil" => ExprKind::Nil,
                _ if is_keyword(text) => {
                    self.ahead.push(token);
                    return Ok(None);
                }
                _ if funcs::arity(text).is_none() => {
                    return self.fail(format!("function {text:?} not defined"));
                }
                _ => ExprKind::Word(text.to_owned()),
            },
            Kind::Field => ExprKind::Field(vec![text[1..].to_owned()]),
            Kind::Variable => {
                if !self.variables.iter().any(|name| name == text) {
                    return self.fail(format!("undefined variable {text:?}"));
                }
                ExprKind::Variable(text.to_owned(), Vec::new())
            }
            Kind::Number => self.constant(&token, number::number(text))?,
            Kind::Char => match number::character(text) {
                Some(value) => self.constant(&token, Some(value))?,
                None => return self.fail(format!("malformed character constant: {text}")),
            },
            Kind::Quoted | Kind::RawQuoted => {
                ExprKind::String { source: text.to_owned(), value: self.string(&token)? }
            }
            Kind::LeftParen => {
                let pipe = self.pipeline("parenthesized pipeline", Kind::RightParen)?;
                ExprKind::Pipe(Box::new(pipe))
            }
            _ => {
                self.ahead.push(token);
                return Ok(None);
            }
        };
        Ok(Some(Expr { pos: token.pos, kind }))
    }

    fn constant(&self, token: &Token<'_>, value: Option<Constant>) -> Result<ExprKind, Error> {
        match value {
            Some(value) => Ok(ExprKind::Constant { source: token.text.to_owned(), value }),
            None => self.fail(format!("bad number syntax: {:?}", token.text)),
        }
    }

    fn string(&self, token: &Token<'_>) -> Result<String, Error> {
        if token.kind == Kind::RawQuoted {
            return Ok(token.text[1..token.text.len() - 1].to_owned());
        }
        match number::quoted(token.text) {
            Some(text) => Ok(text),
            None => self.fail("invalid syntax"),
        }
    }
}

enum Item {
    Node(Node),
    Ended(Ended),
}

fn is_keyword(word: &str) -> bool {
    matches!(
        word,
        "block" | "break" | "continue" | "define" | "else" | "end" | "if" | "range" | "template" | "with"
    )
}
