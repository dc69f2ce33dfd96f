//! Runs a template over a value.
//!
//! `at` follows the evaluation through the tree, so that an error names the innermost
//! piece that was being evaluated, at Go's line and column.

use crate::funcs::{self, Failure};
use crate::gofmt;
use crate::node::{Branch, BranchKind, Command, Expr, ExprKind, Node, Pipe, Place};
use crate::number::Constant;
use crate::value::{Function, Value};
use crate::{Error, Missing, Options, Template};

/// How deep templates may call each other; each level costs stack.
const MAX_DEPTH: usize = 100;

pub(crate) fn exec(
    template: &Template,
    out: &mut String,
    data: &Value,
    options: &Options,
) -> Result<(), Error> {
    let limit = out.len().saturating_add(options.limits.output);
    let mut exec = Exec {
        template,
        options,
        out,
        out_limit: limit,
        steps: options.limits.steps,
        variables: vec![("$", data.clone())],
        at: None,
        executing: &template.name,
        depth: 0,
    };
    exec.walk(data, &template.root).map(drop).map_err(|error| *error)
}

/// What a node asks of the loop around it.
enum Flow {
    Next,
    Break,
    Continue,
}

type Result1<T> = Result<T, Box<Error>>;

struct Exec<'a> {
    template: &'a Template,
    options: &'a Options,
    out: &'a mut String,
    out_limit: usize,
    /// Left to take.
    steps: u64,
    variables: Vec<(&'a str, Value)>,
    at: Option<Place<'a>>,
    /// The template that is executing.
    executing: &'a str,
    depth: usize,
}

impl<'a> Exec<'a> {
    fn fail<T>(&self, message: impl Into<String>) -> Result1<T> {
        let pos = self.at.map_or(0, Place::pos);
        let before = &self.template.text.as_bytes()[..pos];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        Err(Box::new(Error::Exec {
            name: self.template.name.clone(),
            line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
            column: pos - line_start,
            template: self.executing.to_owned(),
            context: self.at.map_or_else(String::new, |place| place.to_string()),
            message: message.into(),
        }))
    }

    fn step(&mut self) -> Result1<()> {
        match self.steps.checked_sub(1) {
            Some(left) => {
                self.steps = left;
                Ok(())
            }
            None => self.fail(format!("the template takes more than {} steps", self.options.limits.steps)),
        }
    }

    fn print(&mut self, text: &str) -> Result1<()> {
        if text.len() > self.out_limit.saturating_sub(self.out.len()) {
            return self.fail(format!("the template prints more than {} bytes", self.options.limits.output));
        }
        self.out.push_str(text);
        Ok(())
    }

    fn walk(&mut self, dot: &Value, nodes: &'a [Node]) -> Result1<Flow> {
        for node in nodes {
            self.step()?;
            match node {
                Node::Text(text) => self.print(text)?,
                Node::Action(pipe) => {
                    let value = self.pipeline(dot, pipe)?;
                    if pipe.variables.is_empty() {
                        self.at = Some(Place::Pipe(pipe));
                        if let Value::Function(_) = value {
                            return self.fail(format!("can't print {pipe} of type func"));
                        }
                        let text = gofmt::printed(&value, self.options.limits.output);
                        self.print(&text)?;
                    }
                }
                Node::Branch(branch) => {
                    let mark = self.variables.len();
                    let flow = match branch.kind {
                        BranchKind::Range => self.range(dot, branch)?,
                        _ => self.choose(dot, branch)?,
                    };
                    self.variables.truncate(mark);
                    if !matches!(flow, Flow::Next) {
                        return Ok(flow);
                    }
                }
                Node::Template { pos, name, pipe } => {
                    self.call_template(dot, *pos, name, pipe.as_ref())?;
                }
                Node::Break => return Ok(Flow::Break),
                Node::Continue => return Ok(Flow::Continue),
            }
        }
        Ok(Flow::Next)
    }

    /// `if` and `with`.
    fn choose(&mut self, dot: &Value, branch: &'a Branch) -> Result1<Flow> {
        let value = self.pipeline(dot, &branch.pipe)?;
        match (value.truth(), &branch.otherwise) {
            (true, _) if branch.kind == BranchKind::With => self.walk(&value, &branch.body),
            (true, _) => self.walk(dot, &branch.body),
            (false, Some(otherwise)) => self.walk(dot, otherwise),
            (false, None) => Ok(Flow::Next),
        }
    }

    fn range(&mut self, dot: &Value, branch: &'a Branch) -> Result1<Flow> {
        let value = self.pipeline(dot, &branch.pipe)?;
        let mut turns: u64 = 0;
        match &value {
            Value::List(items) => {
                for (at, item) in items.iter().enumerate() {
                    turns += 1;
                    let index = Value::Int(i64::try_from(at).unwrap_or(i64::MAX));
                    if self.turn(branch, index, item.clone())? {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                for (key, item) in map.sorted() {
                    turns += 1;
                    if self.turn(branch, key.as_str().into(), item.clone())? {
                        break;
                    }
                }
            }
            Value::Int(end) => {
                for at in 0..*end {
                    turns += 1;
                    if self.turn(branch, Value::Int(at), Value::Int(at))? {
                        break;
                    }
                }
            }
            Value::Missing | Value::Nil | Value::NilPointer(_) | Value::NilList => {}
            other => {
                let text = gofmt::verb_v(other);
                return self.fail(format!("range can't iterate over {text}"));
            }
        }
        match &branch.otherwise {
            Some(otherwise) if turns == 0 => self.walk(dot, otherwise),
            _ => Ok(Flow::Next),
        }
    }

    /// One turn of a range; true ends it.
    fn turn(&mut self, branch: &'a Branch, index: Value, item: Value) -> Result1<bool> {
        self.step()?;
        let names = &branch.pipe.variables;
        let values = match names.len() {
            0 => vec![],
            1 => vec![item.clone()],
            _ => vec![index, item.clone()],
        };
        for (name, value) in names.iter().zip(values) {
            self.assign(name, value);
        }
        let mark = self.variables.len();
        let flow = self.walk(&item, &branch.body)?;
        self.variables.truncate(mark);
        Ok(matches!(flow, Flow::Break))
    }

    /// Sets the innermost variable of this name.
    fn assign(&mut self, name: &str, value: Value) {
        if let Some(slot) = self.variables.iter_mut().rev().find(|slot| slot.0 == name) {
            slot.1 = value;
        }
    }

    fn call_template(
        &mut self,
        dot: &Value,
        pos: usize,
        name: &'a str,
        pipe: Option<&'a Pipe>,
    ) -> Result1<()> {
        self.at = Some(Place::Template { pos, name });
        let template = self.template;
        let Some(body) = template.defined.get(name) else {
            return self.fail(format!("template {name:?} not defined"));
        };
        if self.depth == MAX_DEPTH {
            return self.fail(format!("exceeded maximum template depth ({MAX_DEPTH})"));
        }
        let dot = match pipe {
            Some(pipe) => self.pipeline(dot, pipe)?,
            None => Value::Missing,
        };
        let variables = std::mem::replace(&mut self.variables, vec![("$", dot.clone())]);
        let executing = std::mem::replace(&mut self.executing, name);
        self.depth += 1;
        self.walk(&dot, body)?;
        self.depth -= 1;
        self.executing = executing;
        self.variables = variables;
        Ok(())
    }

    fn pipeline(&mut self, dot: &Value, pipe: &'a Pipe) -> Result1<Value> {
        self.at = Some(Place::Pipe(pipe));
        let mut value: Option<Value> = None;
        for command in &pipe.commands {
            self.step()?;
            value = Some(self.command(dot, command, value)?);
        }
        let value = value.unwrap_or_default();
        for name in &pipe.variables {
            if pipe.assigns {
                self.assign(name, value.clone());
            } else {
                self.variables.push((name, value.clone()));
            }
        }
        Ok(value)
    }

    /// `last` is what the command before gave: the last argument of this one.
    fn command(&mut self, dot: &Value, command: &'a Command, last: Option<Value>) -> Result1<Value> {
        let first = &command.args[0];
        let args = &command.args[1..];
        match &first.kind {
            ExprKind::Word(name) => {
                self.at = Some(Place::Expr(first));
                self.function(dot, command, name, last)
            }
            ExprKind::Field(_) | ExprKind::Chain(..) => self.fields_of(dot, first, Some(args), last),
            ExprKind::Variable(_, names) if !names.is_empty() => self.fields_of(dot, first, Some(args), last),
            ExprKind::Nil => {
                self.at = Some(Place::Expr(first));
                self.fail("nil is not a command")
            }
            _ => {
                self.at = Some(Place::Expr(first));
                if !args.is_empty() || last.is_some() {
                    return self.fail(format!("can't give argument to non-function {first}"));
                }
                self.value(dot, first)
            }
        }
    }

    /// An expression in the place of an argument.
    fn value(&mut self, dot: &Value, expr: &'a Expr) -> Result1<Value> {
        self.at = Some(Place::Expr(expr));
        self.step()?;
        match &expr.kind {
            ExprKind::Dot => Ok(dot.clone()),
            ExprKind::Nil => Ok(Value::Nil),
            ExprKind::Bool(value) => Ok(Value::Bool(*value)),
            ExprKind::String { value, .. } => Ok(value.as_str().into()),
            ExprKind::Constant { source, value } => match value {
                Constant::Int(value) => Ok(Value::Int(*value)),
                Constant::Float(value) => Ok(Value::Float(*value)),
                Constant::Big => self.fail(format!("{source} overflows int")),
            },
            ExprKind::Variable(name, names) if names.is_empty() => Ok(self.variable(name)),
            ExprKind::Variable(..) | ExprKind::Field(_) | ExprKind::Chain(..) => {
                self.fields_of(dot, expr, None, None)
            }
            ExprKind::Pipe(pipe) => self.pipeline(dot, pipe),
            ExprKind::Word(name) => self.invoke(Place::Expr(expr), name, Vec::new()),
        }
    }

    fn variable(&self, name: &str) -> Value {
        let slot = self.variables.iter().rev().find(|slot| slot.0 == name);
        slot.map(|slot| slot.1.clone()).unwrap_or_default()
    }

    /// `.A.B`, `$x.A.B`, `(…).A.B`; arguments go to the last name.
    fn fields_of(
        &mut self,
        dot: &Value,
        expr: &'a Expr,
        args: Option<&'a [Expr]>,
        last: Option<Value>,
    ) -> Result1<Value> {
        self.at = Some(Place::Expr(expr));
        let (mut receiver, names) = match &expr.kind {
            ExprKind::Field(names) => (dot.clone(), names),
            ExprKind::Variable(name, names) => (self.variable(name), names),
            ExprKind::Chain(inner, names) => {
                if let ExprKind::Nil = inner.kind {
                    return self.fail(format!("indirection through explicit nil in {expr}"));
                }
                let receiver = self.value(dot, inner)?;
                self.at = Some(Place::Expr(expr));
                (receiver, names)
            }
            _ => return self.fail(format!("can't evaluate command {:?}", expr.to_string())),
        };
        let Some((final_name, names)) = names.split_last() else {
            return Ok(receiver);
        };
        for name in names {
            receiver = self.field(dot, expr, &receiver, name, &[], None)?;
        }
        self.field(dot, expr, &receiver, final_name, args.unwrap_or_default(), last)
    }

    fn field(
        &mut self,
        dot: &Value,
        expr: &'a Expr,
        receiver: &Value,
        name: &str,
        args: &'a [Expr],
        last: Option<Value>,
    ) -> Result1<Value> {
        let has_args = !args.is_empty() || last.is_some();
        match receiver {
            Value::Missing => match self.options.missing {
                Missing::NoValue => Ok(Value::Missing),
                Missing::Error => self.fail(format!("nil data; no entry for key {name:?}")),
            },
            Value::Nil | Value::NilPointer(_) => {
                let type_name = receiver.type_name();
                self.fail(format!("nil pointer evaluating {type_name}.{name}"))
            }
            Value::Map(_) if has_args => self.fail(format!("{name} is not a method but has arguments")),
            Value::Map(map) => match (map.get(name), self.options.missing) {
                (Some(value), _) => Ok(value.clone()),
                (None, Missing::NoValue) => Ok(Value::Missing),
                (None, Missing::Error) => self.fail(format!("map has no entry for key {name:?}")),
            },
            Value::Struct(data) => {
                if let Some(method) = data.method(name) {
                    let method = method.clone();
                    let mut values = self.arguments(dot, args)?;
                    values.extend(last);
                    self.at = Some(Place::Expr(expr));
                    return self.call(name, &method, &values);
                }
                match data.get(name) {
                    Some(_) if has_args => {
                        self.fail(format!("{name} has arguments but cannot be invoked as function"))
                    }
                    Some(value) => Ok(value.clone()),
                    None => self.fail(format!("can't evaluate field {name} in type {}", data.type_name)),
                }
            }
            other => {
                let type_name = other.type_name();
                self.fail(format!("can't evaluate field {name} in type {type_name}"))
            }
        }
    }

    fn arguments(&mut self, dot: &Value, args: &'a [Expr]) -> Result1<Vec<Value>> {
        args.iter().map(|arg| self.value(dot, arg)).collect()
    }

    fn call(&mut self, name: &str, function: &Function, values: &[Value]) -> Result1<Value> {
        if values.len() != function.arity {
            return self.fail(format!(
                "wrong number of args for {name}: want {} got {}",
                function.arity,
                values.len()
            ));
        }
        match (function.call)(values) {
            Ok(value) => Ok(value),
            Err(text) => self.fail(format!("error calling {name}: {text}")),
        }
    }

    fn function(
        &mut self,
        dot: &Value,
        command: &'a Command,
        name: &'a str,
        last: Option<Value>,
    ) -> Result1<Value> {
        let args = &command.args[1..];
        if matches!(name, "and" | "or") {
            return self.short_circuit(dot, command, name, last);
        }
        let mut values = self.arguments(dot, args)?;
        values.extend(last);
        self.invoke(Place::Command(command), name, values)
    }

    /// `and` gives the first argument that is not true, `or` the first that is; later
    /// ones are not evaluated.
    fn short_circuit(
        &mut self,
        dot: &Value,
        command: &'a Command,
        name: &str,
        last: Option<Value>,
    ) -> Result1<Value> {
        let args = &command.args[1..];
        let decides = |value: &Value| value.truth() == (name == "or");
        let mut value = None;
        for arg in args {
            let next = self.value(dot, arg)?;
            if decides(&next) {
                return Ok(next);
            }
            value = Some(next);
        }
        match last.or(value) {
            Some(value) => Ok(value),
            None => {
                self.at = Some(Place::Command(command));
                self.fail(format!("wrong number of args for {name}: want at least 1 got 0"))
            }
        }
    }

    fn invoke(&mut self, place: Place<'a>, name: &str, values: Vec<Value>) -> Result1<Value> {
        self.at = Some(place);
        let (least, most) = funcs::arity(name).unwrap_or((0, None));
        let got = values.len();
        if most == Some(least) && got != least {
            return self.fail(format!("wrong number of args for {name}: want {least} got {got}"));
        }
        if got < least {
            return self.fail(format!("wrong number of args for {name}: want at least {least} got {got}"));
        }
        if name == "call"
            && let Some((Value::Function(function), values)) = values.split_first()
        {
            let function = function.clone();
            return self.call(name, &function, values);
        }
        match funcs::call(name, &values, self.options) {
            Ok(value) => Ok(value),
            Err(Failure::Argument(text)) => self.fail(text),
            Err(Failure::Call(text)) => self.fail(format!("error calling {name}: {text}")),
        }
    }
}
