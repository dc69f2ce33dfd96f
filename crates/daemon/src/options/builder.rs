//! What the daemon's configuration says of builds: the key `builder` of `daemon.json`.
//!
//! Sizes are as in the reference: `20GB` in steps of 1024, or a share of the disk, `10%`. A rule's
//! `filter` has `key=value` (or `==`), several parted by commas; values of one key are alternatives.

use std::collections::BTreeSet;

use hull_engine::builds::{Entitlement, Filters, Limit, Rule, Space};
use serde::Deserialize;

use super::{OptionsError, Result};
use crate::units::{bytes, go_duration};

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Builder {
    gc: Collection,
    entitlements: Entitlements,
}

/// What of the host builds may allow to their Dockerfiles.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct Entitlements {
    network_host: bool,
    security_insecure: bool,
}

impl Default for Entitlements {
    fn default() -> Entitlements {
        Entitlements { network_host: true, security_insecure: false }
    }
}

impl Entitlements {
    fn given(&self) -> BTreeSet<Entitlement> {
        let all = [
            (Entitlement::NetworkHost, self.network_host),
            (Entitlement::SecurityInsecure, self.security_insecure),
        ];
        all.into_iter().filter(|(_, given)| *given).map(|(entitlement, _)| entitlement).collect()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct Collection {
    enabled: bool,
    default_keep_storage: Option<String>,
    default_reserved_space: Option<String>,
    default_max_used_space: Option<String>,
    default_min_free_space: Option<String>,
    policy: Vec<Policy>,
}

impl Default for Collection {
    fn default() -> Collection {
        Collection {
            enabled: true,
            default_keep_storage: None,
            default_reserved_space: None,
            default_max_used_space: None,
            default_min_free_space: None,
            policy: Vec::new(),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct Policy {
    all: bool,
    keep_storage: Option<String>,
    reserved_space: Option<String>,
    max_used_space: Option<String>,
    min_free_space: Option<String>,
    keep_duration: Option<String>,
    filter: Vec<String>,
}

/// `text` is the document that stands at the key; empty is its absence.
pub(super) fn resolve(text: &str) -> Result<(Limit, BTreeSet<Entitlement>)> {
    let text = if text.is_empty() { "{}" } else { text };
    let Builder { gc, entitlements } =
        serde_json::from_str(text).map_err(|error| wrong("builder", text, &error.to_string()))?;
    Ok((limit(gc)?, entitlements.given()))
}

fn limit(gc: Collection) -> Result<Limit> {
    let usual = Limit::default();
    let reserved = space("defaultReservedSpace", gc.default_reserved_space)?;
    let reserved = reserved.or(space("defaultKeepStorage", gc.default_keep_storage)?);
    let rules = gc.policy.into_iter().map(rule).collect::<Result<Vec<Rule>>>()?;
    Ok(Limit {
        enabled: gc.enabled,
        reserved: reserved.unwrap_or(usual.reserved),
        max_used: space("defaultMaxUsedSpace", gc.default_max_used_space)?.unwrap_or(usual.max_used),
        min_free: space("defaultMinFreeSpace", gc.default_min_free_space)?.unwrap_or(usual.min_free),
        rules: Some(rules).filter(|rules| !rules.is_empty()),
    })
}

fn wrong(key: &str, value: &str, why: &str) -> OptionsError {
    let key = if key == "builder" { key.to_owned() } else { format!("builder.gc: {key}") };
    OptionsError::Value { key, value: value.to_owned(), why: why.to_owned() }
}

fn space(key: &str, text: Option<String>) -> Result<Option<Space>> {
    let Some(text) = text else { return Ok(None) };
    let why = "use bytes as 20GB, or a share of the disk as 10%";
    let space = match text.strip_suffix('%') {
        Some(percent) => percent.parse().ok().filter(|percent: &u8| *percent <= 100).map(Space::Percent),
        None => bytes(&text).map(Space::Bytes),
    };
    space.ok_or_else(|| wrong(key, &text, why)).map(Some)
}

fn rule(policy: Policy) -> Result<Rule> {
    let reserved = space("reservedSpace", policy.reserved_space)?;
    let mut rule = Rule {
        all: policy.all,
        reserved: reserved.or(space("keepStorage", policy.keep_storage)?),
        max_used: space("maxUsedSpace", policy.max_used_space)?,
        min_free: space("minFreeSpace", policy.min_free_space)?,
        ..Rule::default()
    };
    if let Some(text) = policy.keep_duration {
        rule.unused_for = age("keepDuration", &text)?;
    }
    for text in policy.filter.iter().flat_map(|filter| filter.split(',')) {
        let why = "use unused-for=DURATION, type=KIND, id=ID, parent=ID, description=TEXT, shared or private";
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        let value = value.trim_start_matches('=').to_owned();
        let Filters { ids, parents, kinds, descriptions, shared, .. } = &mut rule.filters;
        match key.trim() {
            "unused-for" | "until" => rule.unused_for = age("filter", &value)?,
            "type" => kinds.push(value),
            "id" => ids.push(value),
            "parent" | "parents" => parents.push(value),
            "description" => descriptions.push(value),
            "shared" => *shared = Some(true),
            "private" => *shared = Some(false),
            _ => return Err(wrong("filter", text, why)),
        }
    }
    Ok(rule)
}

fn age(key: &str, text: &str) -> Result<i64> {
    go_duration(text).ok_or_else(|| wrong(key, text, "use a duration, as in 48h"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(text: &str) -> String {
        resolve(text).unwrap_err().to_string()
    }

    #[test]
    fn the_references_examples_are_understood() {
        assert_eq!(resolve("").unwrap(), (Limit::default(), BTreeSet::from([Entitlement::NetworkHost])));
        let (_, other) =
            resolve(r#"{"entitlements": {"network-host": false, "security-insecure": true}}"#).unwrap();
        assert_eq!(other, BTreeSet::from([Entitlement::SecurityInsecure]));
        let (limit, _) = resolve(
            r#"{"gc": {"enabled": true, "defaultKeepStorage": "10GB", "policy": [
                {"keepStorage": "10GB", "filter": ["unused-for=2200h"]},
                {"reservedSpace": "5GB", "keepDuration": "48h",
                 "filter": ["type=source.local,type==exec.cachemount"]},
                {"maxUsedSpace": "30%", "all": true}]}}"#,
        )
        .unwrap();
        assert_eq!(limit.reserved, Space::Bytes(10 << 30));
        assert_eq!(limit.max_used, Limit::default().max_used);
        let rules = limit.rules.unwrap();
        assert_eq!(
            (rules[0].reserved, rules[0].unused_for / 3_600_000_000_000),
            (Some(Space::Bytes(10 << 30)), 2200)
        );
        assert_eq!(rules[1].filters.kinds, ["source.local", "exec.cachemount"]);
        assert_eq!((rules[2].max_used, rules[2].all), (Some(Space::Percent(30)), true));
        assert!(!resolve(r#"{"gc": {"enabled": false}}"#).unwrap().0.enabled);
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        assert!(complaint(r#"{"gc": {"x": 1}}"#).contains("unknown field `x`"));
        assert!(complaint(r#"{"entitlements": {"all": true}}"#).contains("unknown field `all`"));
        for (text, word) in [
            (r#"{"gc": {"defaultKeepStorage": "much"}}"#, "defaultKeepStorage"),
            (r#"{"gc": {"defaultMaxUsedSpace": "101%"}}"#, "defaultMaxUsedSpace"),
            (r#"{"gc": {"policy": [{"keepDuration": "long"}]}}"#, "keepDuration"),
            (r#"{"gc": {"policy": [{"filter": ["color=red"]}]}}"#, "color=red"),
        ] {
            assert!(complaint(text).contains(word), "{text}: {}", complaint(text));
        }
    }
}
