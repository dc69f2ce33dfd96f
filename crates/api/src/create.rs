//! `POST /containers/create`: a container's configuration with the host's and the networks'
//! beside it.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::gojson;
use crate::hostconfig::HostConfig;
use crate::image::Empty;
use crate::network::NetworkingConfig;

/// What the container is, whatever host it runs on; also the `Config` of inspect.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Config {
    pub hostname: String,
    pub domainname: String,
    pub user: String,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, Empty>>,
    pub tty: bool,
    pub open_stdin: bool,
    pub stdin_once: bool,
    pub env: Option<Vec<String>>,
    /// A string stands for a list of one.
    #[serde(deserialize_with = "string_or_list")]
    pub cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    #[serde(skip_serializing_if = "crate::is_false")]
    pub args_escaped: bool,
    pub image: String,
    pub volumes: Option<BTreeMap<String, Empty>>,
    pub working_dir: String,
    #[serde(deserialize_with = "string_or_list")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "crate::is_false")]
    pub network_disabled: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac_address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_build: Option<Vec<String>>,
    pub labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
}

/// How to find out whether the container is well. Times in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<Vec<String>>,
    #[serde(skip_serializing_if = "crate::is_zero")]
    pub interval: i64,
    #[serde(skip_serializing_if = "crate::is_zero")]
    pub timeout: i64,
    #[serde(skip_serializing_if = "crate::is_zero")]
    pub start_period: i64,
    #[serde(skip_serializing_if = "crate::is_zero")]
    pub start_interval: i64,
    #[serde(skip_serializing_if = "crate::is_zero")]
    pub retries: i64,
}

/// The whole request. On the wire the fields of `config` stand beside `HostConfig`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CreateRequest {
    #[serde(flatten)]
    pub config: Config,
    #[serde(rename = "HostConfig")]
    pub host_config: HostConfig,
    #[serde(rename = "NetworkingConfig")]
    pub networking_config: NetworkingConfig,
}

/// Why a request could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    #[error(transparent)]
    Json(#[from] gojson::Error),
    #[error("config cannot be empty in order to create a container")]
    Empty,
}

/// The parts of the request that have a name of their own.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Parts {
    host_config: HostConfig,
    networking_config: NetworkingConfig,
}

impl CreateRequest {
    /// Reads a request as the reference does.
    ///
    /// # Errors
    /// The text of the reference for malformed JSON, for a wrong type, and for a document
    /// without a single field of `Config`.
    pub fn decode(body: &[u8]) -> Result<CreateRequest, CreateError> {
        let value = gojson::parse(body)?;
        // The reference's outermost type is an anonymous one around Config: errors in its own
        // fields carry no type name, only the dot.
        let parts: Parts = gojson::from_value(&value, "container.CreateRequest", "")?;
        let config: Config = gojson::from_value(&value, "container.CreateRequest", "")?;
        let known = |name: &str| gojson::has_field::<Config>(name);
        let empty = value.as_object().is_none_or(|fields| !fields.keys().any(|name| known(name)));
        if empty {
            return Err(CreateError::Empty);
        }
        Ok(CreateRequest {
            config,
            host_config: parts.host_config,
            networking_config: parts.networking_config,
        })
    }
}

/// The answer to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Created {
    pub id: String,
    pub warnings: Vec<String>,
}

/// A list of strings, or one string that stands for a list of one, or `null`.
pub fn string_or_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    struct Words;
    impl<'de> Visitor<'de> for Words {
        type Value = Option<Vec<String>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a sequence")
        }

        fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Self::Value, D::Error> {
            inner.deserialize_any(self)
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_none<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_str<E>(self, word: &str) -> Result<Self::Value, E> {
            Ok(Some(vec![word.to_owned()]))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut words = Vec::new();
            while let Some(word) = seq.next_element()? {
                words.push(word);
            }
            Ok(Some(words))
        }
    }
    deserializer.deserialize_newtype_struct(STR_SLICE, Words)
}

/// The name under which [`string_or_list`] asks: [`gojson`] answers wrong types by it.
pub(crate) const STR_SLICE: &str = "strslice.StrSlice";

#[cfg(test)]
mod tests {
    use super::*;

    fn error(body: &str) -> String {
        CreateRequest::decode(body.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn wrong_types_are_refused_in_the_references_words() {
        assert_eq!(
            error("[]"),
            "invalid JSON: json: cannot unmarshal array into Go value of type container.CreateRequest"
        );
        assert_eq!(
            error(r#"{"Image":5}"#),
            "invalid JSON: json: cannot unmarshal number into Go struct field .Image of type string"
        );
        assert_eq!(
            error(r#"{"Cmd":5}"#),
            "invalid JSON: json: cannot unmarshal number into Go struct field .Cmd of type strslice.StrSlice"
        );
        assert_eq!(error(""), "invalid JSON: got EOF while reading request body");
        assert_eq!(error("null"), "config cannot be empty in order to create a container");
        assert_eq!(error("{}"), "config cannot be empty in order to create a container");
        assert_eq!(error(r#"{"HostConfig":{}}"#), "config cannot be empty in order to create a container");
        assert_eq!(error(r#"{"Image":"busybox"} trailing"#), "unexpected content after JSON");
        assert_eq!(
            error("{bad"),
            "invalid JSON: invalid character 'b' looking for beginning of object key string"
        );
    }

    #[test]
    fn names_match_in_any_case_and_unknown_ones_are_ignored() {
        let body = br#"{"image":"x","NoSuch":1,"CMD":"one","hostconfig":{"memory":7,"Binds":null}}"#;
        let request = CreateRequest::decode(body).unwrap();
        assert_eq!(request.config.image, "x");
        assert_eq!(request.config.cmd, Some(vec!["one".to_owned()]));
        assert_eq!(request.host_config.memory, 7);
        assert_eq!(request.host_config.binds, None);
    }

    #[test]
    fn what_is_sent_can_be_read_back() {
        let mut request = CreateRequest::default();
        request.config.image = "busybox".into();
        request.config.cmd = Some(vec!["sleep".into(), "1".into()]);
        request.host_config.memory = 1 << 20;
        request.host_config.pids_limit = Some(0);
        let text = serde_json::to_vec(&request).unwrap();
        assert_eq!(CreateRequest::decode(&text).unwrap(), request);
    }
}
