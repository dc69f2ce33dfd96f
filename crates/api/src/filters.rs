//! The `filters` parameter: a map of name to values, in either of the two forms clients send.
//!
//! Since 1.22 `{"label":{"a=b":true}}`; before (and still from some clients) `{"label":["a=b"]}`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Names and the values asked for; the values of one name are alternatives (all, for labels).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(pub BTreeMap<String, BTreeSet<String>>);

/// Why the parameter could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("invalid filter")]
    Malformed,
    /// A name that this list does not know.
    #[error("invalid filter '{0}'")]
    UnknownName(String),
    #[error("invalid filter '{name}=[{value}]'")]
    BadValue { name: String, value: String },
}

impl Filters {
    /// Reads the parameter's value; an empty one has no filters.
    ///
    /// # Errors
    /// [`FilterError::Malformed`] if it is neither form.
    pub fn parse(text: &str) -> Result<Filters, FilterError> {
        if text.is_empty() {
            return Ok(Filters::default());
        }
        let value: Value = serde_json::from_str(text).map_err(|_| FilterError::Malformed)?;
        if value.is_null() {
            return Ok(Filters::default());
        }
        let names = value.as_object().ok_or(FilterError::Malformed)?;
        let mut filters = BTreeMap::new();
        for (name, values) in names {
            let mut set = BTreeSet::new();
            match values {
                Value::Object(values) => {
                    for (value, flag) in values {
                        // Only `true` and `false` are understood, and both mean "listed".
                        flag.as_bool().ok_or(FilterError::Malformed)?;
                        set.insert(value.clone());
                    }
                }
                Value::Array(values) => {
                    for value in values {
                        set.insert(value.as_str().ok_or(FilterError::Malformed)?.to_owned());
                    }
                }
                Value::Null => {}
                _ => return Err(FilterError::Malformed),
            }
            filters.insert(name.clone(), set);
        }
        Ok(Filters(filters))
    }

    /// The form a client sends; empty filters are not sent at all.
    pub fn to_json(&self) -> String {
        let names = self.0.iter().map(|(name, values)| {
            let values = values.iter().map(|value| (value.clone(), Value::Bool(true))).collect();
            (name.clone(), Value::Object(values))
        });
        Value::Object(names.collect()).to_string()
    }

    /// # Errors
    /// [`FilterError::UnknownName`] for the first name that is not in `known`.
    pub fn check(&self, known: &[&str]) -> Result<(), FilterError> {
        match self.0.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(FilterError::UnknownName(name.clone())),
            None => Ok(()),
        }
    }

    pub fn insert(&mut self, name: &str, value: &str) {
        self.0.entry(name.into()).or_default().insert(value.into());
    }

    /// The values of a name, in order; none where it was not given.
    pub fn values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.0.get(name).into_iter().flatten().map(String::as_str)
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|values| !values.is_empty())
    }

    /// One of the values equals `text`; also where the name was not given.
    pub fn admits(&self, name: &str, text: &str) -> bool {
        !self.has(name) || self.values(name).any(|value| value == text)
    }

    /// Every `key` or `key=value` of the filter `name` is among `labels`.
    pub fn labels_match(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.values(name).all(|wanted| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
            None => labels.contains_key(wanted),
        })
    }

    /// A filter that is yes or no; `None` where it was not given.
    ///
    /// # Errors
    /// [`FilterError::BadValue`] for anything that is neither.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, FilterError> {
        let mut found = None;
        for value in self.values(name) {
            let flag = match value {
                "1" | "true" => true,
                "0" | "false" => false,
                _ => return Err(FilterError::BadValue { name: name.into(), value: value.into() }),
            };
            if found.is_some_and(|before| before != flag) {
                return Err(FilterError::BadValue { name: name.into(), value: value.into() });
            }
            found = Some(flag);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let new = Filters::parse(r#"{"label":{"a=b":true,"c":true}}"#).unwrap();
        let old = Filters::parse(r#"{"label":["a=b","c"]}"#).unwrap();
        assert_eq!(new, old);
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned()), ("c".to_owned(), String::new())]);
        assert!(new.labels_match("label", &labels));
        assert!(!new.labels_match("label", &BTreeMap::new()));
        assert_eq!(Filters::parse(&new.to_json()).unwrap(), new);
    }

    #[test]
    fn other_forms_are_refused() {
        for text in ["bad", "{", r#"{"a":1}"#, r#"{"a":[1]}"#, r#"{"a":{"b":1}}"#, "[]", "1"] {
            assert_eq!(Filters::parse(text), Err(FilterError::Malformed), "{text}");
        }
        assert_eq!(Filters::parse("").unwrap(), Filters::default());
    }

    #[test]
    fn an_unknown_name_is_named() {
        let filters = Filters::parse(r#"{"zz":["1"]}"#).unwrap();
        assert_eq!(filters.check(&["label"]).unwrap_err().to_string(), "invalid filter 'zz'");
    }
}
