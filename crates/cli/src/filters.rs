//! `--filter NAME=VALUE` and the document the API wants of it.

use hull_api::client::Query;
use serde_json::{Map, Value, json};

/// Refuses what is no pair; the name is kept in small letters.
pub(crate) fn check(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    match text.split_once('=') {
        Some((name, value)) => Ok(format!("{}={}", name.trim().to_lowercase(), value.trim())),
        None => Err("bad format of filter (expected name=value)".to_owned()),
    }
}

/// Adds the filters to a query, if there are any.
pub(crate) fn add<'a>(query: Query, pairs: impl Iterator<Item = &'a str>) -> Query {
    let document = document(pairs);
    if document.is_empty() {
        return query;
    }
    query.with("filters", Value::Object(document).to_string())
}

/// `{"name":{"value":true}}`
fn document<'a>(pairs: impl Iterator<Item = &'a str>) -> Map<String, Value> {
    let mut sorted: std::collections::BTreeMap<&str, std::collections::BTreeMap<&str, bool>> =
        std::collections::BTreeMap::new();
    for (name, value) in pairs.filter_map(|pair| pair.split_once('=')) {
        sorted.entry(name).or_default().insert(value, true);
    }
    sorted.into_iter().map(|(name, values)| (name.to_owned(), json!(values))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_one_name_are_gathered() {
        let pairs = ["status=exited", "status=created", "label=a=b"];
        assert_eq!(
            Value::Object(document(pairs.into_iter())).to_string(),
            r#"{"label":{"a=b":true},"status":{"created":true,"exited":true}}"#
        );
        assert!(check("bad").is_err());
        assert_eq!(check("Name = x").unwrap(), "name=x");
    }
}
