//! The Docker Engine API: wire types and a client.
//!
//! The types are our own, written against the published reference, with the exact rules by which
//! the reference's engine writes a field: absent, `null`, empty or zero. A slice that the
//! reference leaves `nil` is an `Option` here and prints `null`; one that it always makes is a
//! plain `Vec` and prints `[]`; `skip_serializing_if` stands where its tag says `omitempty`.
//! What appears or vanishes with the API's version is in one place, [`compat`].
//!
//! Decoding what a client sent goes through [`gojson`], which follows the rules (and the error
//! texts) of Go's `encoding/json`: names match in any case, `null` leaves a field as it was,
//! unknown names are ignored, a wrong type is refused with the field's name.

pub mod archive;
pub mod base64;
pub mod build;
pub mod client;
pub mod compat;
pub mod container;
pub mod create;
pub mod duration;
pub mod event;
pub mod exec;
pub mod filters;
pub mod gojson;
pub mod hostconfig;
pub mod image;
pub mod network;
pub mod piped;
pub mod registry;
pub mod stats;
pub mod system;
pub mod units;
pub mod version;
pub mod volume;

pub use version::ApiVersion;

use serde::{Deserialize, Serialize};

/// The body of every answer that is a failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorResponse {
    pub message: String,
}

/// One line of a stream that reports progress (load, import, pull).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgressMessage {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stream: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    #[serde(rename = "progressDetail", skip_serializing_if = "Option::is_none")]
    pub progress_detail: Option<ProgressDetail>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub progress: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    #[serde(rename = "errorDetail", skip_serializing_if = "Option::is_none")]
    pub error_detail: Option<ErrorDetail>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// How far a transfer has come; bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgressDetail {
    #[serde(skip_serializing_if = "is_zero")]
    pub current: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub total: i64,
}

/// The failure that ends a stream whose status was already sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorDetail {
    #[serde(skip_serializing_if = "is_zero")]
    pub code: i64,
    pub message: String,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

#[doc(hidden)]
pub mod fuzz {
    //! Entry points for a fuzzer: none of them may panic or take more than the input's size.

    /// Every decoder of a body that a client may send.
    pub fn fuzz_bodies(data: &[u8]) {
        let _ = crate::create::CreateRequest::decode(data);
        let _ = crate::gojson::decode::<crate::exec::ExecOptions>(data, "ExecOptions");
        let _ = crate::gojson::decode::<crate::hostconfig::UpdateRequest>(data, "UpdateConfig");
    }

    /// What comes over the connection of a build, at either end.
    pub fn fuzz_build(data: &[u8]) {
        use crate::build::frame::{Decoder, Heard, Told};
        let (mut daemon, mut client) = (Decoder::default(), Decoder::default());
        daemon.push(data);
        client.push(data);
        while let Ok(Some(_)) = daemon.take::<Heard>() {}
        while let Ok(Some(_)) = client.take::<Told>() {}
    }

    /// The `filters` parameter.
    pub fn fuzz_filters(data: &[u8]) {
        if let Ok(text) = std::str::from_utf8(data) {
            let _ = crate::filters::Filters::parse(text);
        }
    }
}
