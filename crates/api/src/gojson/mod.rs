//! JSON read by the rules of Go's `encoding/json`, because that is what clients of this API are
//! written against.
//!
//! A body is first parsed into a [`Value`] (by serde_json, which bounds the depth; the caller has
//! bounded the size), then laid over a type by a deserializer that differs from serde_json's:
//! field names match exactly or else in any case, the last of several wins, `null` leaves the
//! field's default, unknown names are ignored, and a wrong type is an error in Go's words with
//! the path of the field.

mod scan;

use std::fmt;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor,
    value::StrDeserializer,
};
use serde_json::Value;

/// Why a body could not be read; `Display` is the message for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("invalid JSON: got EOF while reading request body")]
    Empty,
    /// Go's text for where the syntax breaks.
    #[error("invalid JSON: {0}")]
    Syntax(String),
    #[error("unexpected content after JSON")]
    Trailing,
    /// Go's text for a value of the wrong type.
    #[error("invalid JSON: {0}")]
    Type(String),
}

impl serde::de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Error {
        Error::Type(format!("json: {message}"))
    }
}

/// Parses one document; bytes that are not UTF-8 are replaced, as Go does.
///
/// # Errors
/// Every variant of [`Error`] but [`Error::Type`].
pub fn parse(body: &[u8]) -> Result<Value, Error> {
    let text = String::from_utf8_lossy(body);
    if text.trim_ascii().is_empty() {
        return Err(Error::Empty);
    }
    let mut documents = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let value = match documents.next() {
        Some(Ok(value)) => value,
        // The engine's parser said no: the scanner tells where, in Go's words.
        _ => return Err(Error::Syntax(scan::complaint(&text))),
    };
    let end = documents.byte_offset();
    if text.as_bytes()[end..].trim_ascii().is_empty() { Ok(value) } else { Err(Error::Trailing) }
}

/// Parses a body and lays it over `T`. `go_name` is the reference's name of the type, as it
/// stands in its error texts.
///
/// # Errors
/// See [`Error`].
pub fn decode<T: DeserializeOwned>(body: &[u8], go_name: &str) -> Result<T, Error> {
    from_value(&parse(body)?, &format!("container.{go_name}"), go_name)
}

/// Lays a document over `T`. `root` is the reference's name for the whole, `owner` the one that
/// stands before the dot of a field's path.
///
/// # Errors
/// [`Error::Type`].
pub fn from_value<T: DeserializeOwned>(value: &Value, root: &str, owner: &str) -> Result<T, Error> {
    T::deserialize(Cursor { value, path: Path { root, owner, parent: None, name: "" } })
}

/// `true` if `name` is, in any case, one of the fields of `T`.
pub fn has_field<T: DeserializeOwned>(name: &str) -> bool {
    struct Probe<'a>(&'a str, &'a mut bool);
    impl<'de> Deserializer<'de> for Probe<'_> {
        type Error = Error;
        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            Err(Error::Empty)
        }
        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Error> {
            *self.1 = fields.iter().any(|field| field.eq_ignore_ascii_case(self.0));
            Err(Error::Empty)
        }
        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
            option unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }
    let mut found = false;
    let _ = T::deserialize(Probe(name, &mut found));
    found
}

/// Where in the document we are; a list through the stack.
#[derive(Clone, Copy)]
struct Path<'a> {
    root: &'a str,
    owner: &'a str,
    parent: Option<&'a Path<'a>>,
    name: &'a str,
}

impl Path<'_> {
    fn names(&self, out: &mut Vec<String>) {
        if let Some(parent) = self.parent {
            parent.names(out);
            out.push(self.name.to_owned());
        }
    }
}

struct Cursor<'de, 'a> {
    value: &'de Value,
    path: Path<'a>,
}

impl<'de> Cursor<'de, '_> {
    /// The error for a value that is not of the Go type `wanted`.
    fn mismatch(&self, wanted: &str) -> Error {
        let found = match self.value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(number) if wanted.contains("int") => format!("number {number}"),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let mut names = Vec::new();
        self.path.names(&mut names);
        Error::Type(if names.is_empty() {
            format!("json: cannot unmarshal {found} into Go value of type {}", self.path.root)
        } else {
            let field = names.join(".");
            format!(
                "json: cannot unmarshal {found} into Go struct field {}.{field} of type {wanted}",
                self.path.owner
            )
        })
    }

    fn child<'b>(&'b self, value: &'de Value, name: &'b str) -> Cursor<'de, 'b> {
        let path = Path { root: self.path.root, owner: self.path.owner, parent: Some(&self.path), name };
        Cursor { value, path }
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ty, $go:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let number = match self.value {
                Value::Null => Some(0),
                Value::Number(number) => number
                    .as_i64()
                    .and_then(|n| <$type>::try_from(n).ok())
                    .or_else(|| number.as_u64().and_then(|n| <$type>::try_from(n).ok())),
                _ => None,
            };
            visitor.$visit(number.ok_or_else(|| self.mismatch($go))?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Cursor<'de, '_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(_) => self.deserialize_bool(visitor),
            Value::Number(number) if number.is_u64() => self.deserialize_u64(visitor),
            Value::Number(number) if number.is_i64() => self.deserialize_i64(visitor),
            Value::Number(_) => self.deserialize_f64(visitor),
            Value::String(text) => visitor.visit_str(text),
            Value::Array(_) => self.deserialize_seq(visitor),
            Value::Object(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_bool(false),
            Value::Bool(flag) => visitor.visit_bool(*flag),
            _ => Err(self.mismatch("bool")),
        }
    }

    integers! {
        deserialize_i8 visit_i8 i8, "int8";
        deserialize_i16 visit_i16 i16, "int16";
        deserialize_i32 visit_i32 i32, "int";
        deserialize_i64 visit_i64 i64, "int64";
        deserialize_u8 visit_u8 u8, "uint8";
        deserialize_u16 visit_u16 u16, "uint16";
        deserialize_u32 visit_u32 u32, "uint32";
        deserialize_u64 visit_u64 u64, "uint64";
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_f64(0.0),
            value => visitor.visit_f64(value.as_f64().ok_or_else(|| self.mismatch("float64"))?),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_str(""),
            Value::String(text) => visitor.visit_str(text),
            _ => Err(self.mismatch("string")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(self.mismatch("[]uint8"))
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(self.mismatch("[]uint8"))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        let words = matches!(self.value, Value::Null | Value::String(_) | Value::Array(_));
        if name == crate::create::STR_SLICE && !words {
            return Err(self.mismatch(name));
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_seq(Items { items: [].iter(), missing: 0, path: self.path }),
            Value::Array(items) => {
                visitor.visit_seq(Items { items: items.iter(), missing: 0, path: self.path })
            }
            _ => Err(self.mismatch("[]string")),
        }
    }

    /// An array of Go: what is missing is zero, what is too much is dropped.
    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        let items = match self.value {
            Value::Null => &[],
            Value::Array(items) => &items[..items.len().min(len)],
            _ => return Err(self.mismatch(&format!("[{len}]uint"))),
        };
        visitor.visit_seq(Items { items: items.iter(), missing: len - items.len(), path: self.path })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => {
                visitor.visit_map(Fields { entries: Vec::new().into_iter(), next: None, at: &self })
            }
            Value::Object(map) => {
                let entries: Vec<_> = map.iter().map(|(key, value)| (key.as_str(), value)).collect();
                visitor.visit_map(Fields { entries: entries.into_iter(), next: None, at: &self })
            }
            _ => Err(self.mismatch("map[string]string")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if !matches!(self.value, Value::Null | Value::Object(_)) {
            return Err(self.mismatch(&format!("container.{name}")));
        }
        let mut found: Vec<Option<&'de Value>> = vec![None; fields.len()];
        if let Value::Object(map) = self.value {
            for (key, value) in map {
                let place = fields
                    .iter()
                    .position(|field| field == key)
                    .or_else(|| fields.iter().position(|field| field.eq_ignore_ascii_case(key)));
                if let Some(place) = place.filter(|_| !value.is_null()) {
                    found[place] = Some(value);
                }
            }
        }
        let entries: Vec<(&str, &'de Value)> =
            fields.iter().zip(found).filter_map(|(field, value)| Some((*field, value?))).collect();
        visitor.visit_map(Fields { entries: entries.into_iter(), next: None, at: &self })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        Err(Error::custom("no enums in this API"))
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
}

struct Items<'de, 'a> {
    items: std::slice::Iter<'de, Value>,
    missing: usize,
    path: Path<'a>,
}

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let value = match self.items.next() {
            Some(value) => value,
            None if self.missing > 0 => {
                self.missing -= 1;
                &Value::Null
            }
            None => return Ok(None),
        };
        seed.deserialize(Cursor { value, path: self.path }).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len() + self.missing)
    }
}

struct Fields<'de, 'a, 'k> {
    entries: std::vec::IntoIter<(&'k str, &'de Value)>,
    next: Option<(&'k str, &'de Value)>,
    at: &'a Cursor<'de, 'a>,
}

impl<'de> MapAccess<'de> for Fields<'de, '_, '_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.next = self.entries.next();
        match self.next {
            Some((name, _)) => seed.deserialize(StrDeserializer::new(name)).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (name, value) = self.next.take().ok_or_else(|| Error::custom("value without a key"))?;
        seed.deserialize(self.at.child(value, name))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Inner {
        count: i64,
        names: Option<Vec<String>>,
        map: BTreeMap<String, i64>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Outer {
        text: String,
        small: u16,
        flag: bool,
        pair: [u64; 2],
        inner: Inner,
    }

    fn read(text: &str) -> Result<Outer, String> {
        decode(text.as_bytes(), "Outer").map_err(|error| error.to_string())
    }

    #[test]
    fn null_leaves_the_default_and_the_last_of_several_names_wins() {
        let outer = read(
            r#"{"Text":"a","text":"b","Small":null,"FLAG":true,"Pair":[3],"Inner":{"Names":["x",null],"Map":{"a":1}}}"#,
        )
        .unwrap();
        assert_eq!(outer.text, "b");
        assert_eq!(outer.pair, [3, 0]);
        assert!(outer.flag);
        assert_eq!(outer.inner.names, Some(vec!["x".into(), String::new()]));
        assert_eq!(outer.inner.map, BTreeMap::from([("a".into(), 1)]));
    }

    #[test]
    fn a_wrong_type_is_told_with_its_path() {
        let cases = [
            (r#"{"Inner":{"Count":"x"}}"#, "string into Go struct field Outer.Inner.Count of type int64"),
            (r#"{"Inner":{"Names":"x"}}"#, "string into Go struct field Outer.Inner.Names of type []string"),
            (r#"{"Inner":{"Names":[1]}}"#, "number into Go struct field Outer.Inner.Names of type string"),
            (r#"{"Small":70000}"#, "number 70000 into Go struct field Outer.Small of type uint16"),
            (r#"{"Small":1.5}"#, "number 1.5 into Go struct field Outer.Small of type uint16"),
            (r#"{"Flag":1}"#, "number into Go struct field Outer.Flag of type bool"),
            ("[]", "array into Go value of type container.Outer"),
        ];
        for (text, expected) in cases {
            let found = read(text).unwrap_err();
            assert_eq!(found, format!("invalid JSON: json: cannot unmarshal {expected}"));
        }
    }

    #[test]
    fn deep_nesting_is_refused() {
        let text = "[".repeat(100_000);
        assert!(matches!(parse(text.as_bytes()), Err(Error::Syntax(_))));
    }
}
