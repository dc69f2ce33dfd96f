//! The values a template sees: a small model of Go's types.
//!
//! Lists, maps and structs are shared, so passing them along costs a counter. A map
//! keeps the order of its source for JSON; templates range over it by sorted key and
//! print it so, as Go does.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// One value.
#[derive(Debug, Clone, Default)]
pub enum Value {
    /// No value at all: what a missing key gives.
    #[default]
    Missing,
    /// Go's nil in an interface, JSON's null.
    Nil,
    /// A nil pointer to the named type.
    NilPointer(&'static str),
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    String(Arc<str>),
    List(Arc<[Value]>),
    /// A nil slice: an empty list whose JSON is `null`.
    NilList,
    Map(Arc<Map>),
    Struct(Arc<Struct>),
    Function(Function),
}

/// A Go map with string keys.
#[derive(Debug, Clone, Default)]
pub struct Map {
    /// In the order of the source; keys are unique.
    pub entries: Vec<(String, Value)>,
    /// What `index` gives for a key that is not there: the zero value of the elements'
    /// type.
    pub zero: Value,
    /// A nil map: an empty one whose JSON is `null`.
    pub nil: bool,
}

impl Map {
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    pub(crate) fn sorted(&self) -> Vec<&(String, Value)> {
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        entries
    }
}

/// A Go struct, or an object with methods.
#[derive(Debug, Clone, Default)]
pub struct Struct {
    /// As error texts name it: `*formatter.ContainerContext`.
    pub type_name: Cow<'static, str>,
    pub fields: Vec<Field>,
    /// Called where they are named: `{{.Label "x"}}`. Not part of its JSON.
    pub methods: Vec<(Cow<'static, str>, Function)>,
    /// Its JSON escapes `<`, `>` and `&`, as that of a type with a JSON method of its own
    /// does; others leave them.
    pub escape_json: bool,
}

/// A field of a struct: its name in templates and its name in JSON.
#[derive(Debug, Clone)]
pub struct Field {
    pub name: Cow<'static, str>,
    /// Empty: not part of the JSON.
    pub json: Cow<'static, str>,
    pub value: Value,
}

impl Field {
    /// A field with one name for both.
    pub fn new(name: &'static str, value: impl Into<Value>) -> Field {
        Field { name: Cow::Borrowed(name), json: Cow::Borrowed(name), value: value.into() }
    }
}

impl Struct {
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|field| field.name == name).map(|field| &field.value)
    }

    pub(crate) fn method(&self, name: &str) -> Option<&Function> {
        self.methods.iter().find(|(method, _)| method == name).map(|(_, function)| function)
    }
}

type Callable = dyn Fn(&[Value]) -> Result<Value, String> + Send + Sync;

/// Something a template can call. An error text becomes `error calling NAME: TEXT`.
#[derive(Clone)]
pub struct Function {
    /// How many arguments it takes.
    pub arity: usize,
    pub call: Arc<Callable>,
}

impl Function {
    pub fn new(
        arity: usize,
        call: impl Fn(&[Value]) -> Result<Value, String> + Send + Sync + 'static,
    ) -> Function {
        Function { arity, call: Arc::new(call) }
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "func/{}", self.arity)
    }
}

impl Value {
    /// An empty map, list, string, zero, false or nothing is not true.
    pub(crate) fn truth(&self) -> bool {
        match self {
            Value::Missing | Value::Nil | Value::NilPointer(_) | Value::NilList => false,
            Value::Bool(value) => *value,
            Value::Int(value) => *value != 0,
            Value::Uint(value) => *value != 0,
            Value::Float(value) => *value != 0.0,
            Value::String(value) => !value.is_empty(),
            Value::List(items) => !items.is_empty(),
            Value::Map(map) => !map.entries.is_empty(),
            Value::Struct(_) | Value::Function(_) => true,
        }
    }

    /// The name of its Go type.
    pub(crate) fn type_name(&self) -> &str {
        match self {
            Value::Missing | Value::Nil => "interface {}",
            Value::NilPointer(name) => name,
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint64",
            Value::Float(_) => "float64",
            Value::String(_) => "string",
            Value::List(_) | Value::NilList => "[]interface {}",
            Value::Map(map) if matches!(map.zero, Value::String(_)) => "map[string]string",
            Value::Map(_) => "map[string]interface {}",
            Value::Struct(data) => &data.type_name,
            Value::Function(_) => "func",
        }
    }

    pub(crate) fn is_nil(&self) -> bool {
        matches!(self, Value::Missing | Value::Nil | Value::NilPointer(_))
    }
}

impl From<&serde_json::Value> for Value {
    /// Takes parsed JSON as it is: objects become maps, whole numbers integers.
    fn from(json: &serde_json::Value) -> Value {
        match json {
            serde_json::Value::Null => Value::Nil,
            serde_json::Value::Bool(value) => Value::Bool(*value),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => Value::Int(value),
                (None, Some(value)) => Value::Uint(value),
                _ => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(text) => text.as_str().into(),
            serde_json::Value::Array(items) => items.iter().map(Value::from).collect(),
            serde_json::Value::Object(object) => Value::Map(Arc::new(Map {
                entries: object.iter().map(|(key, value)| (key.clone(), Value::from(value))).collect(),
                zero: Value::Nil,
                nil: false,
            })),
        }
    }
}

impl From<serde_json::Value> for Value {
    fn from(json: serde_json::Value) -> Value {
        Value::from(&json)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::String(text.into())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Value {
        Value::Int(value)
    }
}

impl From<Struct> for Value {
    fn from(value: Struct) -> Value {
        Value::Struct(Arc::new(value))
    }
}

impl From<Map> for Value {
    fn from(value: Map) -> Value {
        Value::Map(Arc::new(value))
    }
}

impl FromIterator<Value> for Value {
    fn from_iter<I: IntoIterator<Item = Value>>(items: I) -> Value {
        Value::List(items.into_iter().collect())
    }
}
