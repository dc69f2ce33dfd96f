//! Go types of JSON documents, so that `inspect` prints them as Go's typed values do.
//!
//! Docker decodes most documents into structs before it runs a template. That shows:
//! `null` for a list prints `[]`, an entry of a struct type prints `{a b}` instead of
//! `map[…]`, a label that is not there prints `<no value>` while an unknown field is an
//! error. A [`Shape`] is such a type, as a table.

use std::borrow::Cow;
use std::sync::Arc;

use crate::value::{Field, Map, Struct, Value};

/// The Go type of one JSON value.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// `interface{}`: whatever the JSON is.
    Any,
    Bool,
    Int,
    Float,
    String,
    /// `[]T`.
    List(&'static Shape),
    /// `map[string]T`.
    Map(&'static Shape),
    /// `*T`: may be nil. The name is the type's, with its star.
    Pointer(&'static str, &'static Shape),
    Struct {
        type_name: &'static str,
        /// Name in Go, name in JSON, type.
        fields: &'static [(&'static str, &'static str, Shape)],
    },
}

impl Shape {
    /// The value of this type that `json` holds; what does not fit the type is taken as
    /// it is, what is absent gets the type's zero value.
    pub fn value(&self, json: &serde_json::Value) -> Value {
        use serde_json::Value as Json;
        match (self, json) {
            (Shape::Pointer(name, _), Json::Null) => Value::NilPointer(name),
            (Shape::Pointer(_, shape), _) => shape.value(json),
            (_, Json::Null) => self.zero(),
            (Shape::Float, Json::Number(number)) => Value::Float(number.as_f64().unwrap_or(0.0)),
            (Shape::List(shape), Json::Array(items)) => items.iter().map(|item| shape.value(item)).collect(),
            (Shape::Map(shape), Json::Object(object)) => Value::Map(Arc::new(Map {
                entries: object.iter().map(|(key, value)| (key.clone(), shape.value(value))).collect(),
                zero: shape.zero(),
                nil: false,
            })),
            (Shape::Struct { type_name, fields }, Json::Object(object)) => {
                let field = |(name, json, shape): &(&'static str, &'static str, Shape)| Field {
                    name: Cow::Borrowed(*name),
                    json: Cow::Borrowed(*json),
                    value: match object.get(*json) {
                        Some(value) => shape.value(value),
                        None => shape.zero(),
                    },
                };
                Value::Struct(Arc::new(Struct {
                    type_name: Cow::Borrowed(*type_name),
                    fields: fields.iter().map(field).collect(),
                    ..Struct::default()
                }))
            }
            _ => Value::from(json),
        }
    }

    fn zero(&self) -> Value {
        match self {
            Shape::Any => Value::Nil,
            Shape::Pointer(name, _) => Value::NilPointer(name),
            Shape::Bool => Value::Bool(false),
            Shape::Int => Value::Int(0),
            Shape::Float => Value::Float(0.0),
            Shape::String => "".into(),
            Shape::List(_) => Value::NilList,
            Shape::Map(shape) => {
                Value::Map(Arc::new(Map { entries: Vec::new(), zero: shape.zero(), nil: true }))
            }
            Shape::Struct { .. } => self.value(&serde_json::Value::Object(serde_json::Map::new())),
        }
    }
}
