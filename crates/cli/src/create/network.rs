//! `--network` and the flags that say more about the first of them.

use serde_json::{Map, Value, json};

use super::mount::fields;
use crate::flags::Given;

#[derive(Default, PartialEq, Eq)]
struct Wanted {
    name: String,
    aliases: Vec<String>,
    links: Vec<String>,
    local: Vec<String>,
    address: String,
    address6: String,
    mac: String,
    options: Vec<(String, String)>,
    priority: i64,
}

/// The network mode, and the end points by network.
pub(crate) fn endpoints(given: &Given) -> Result<(String, Value), String> {
    let mut all = Vec::new();
    for text in given.list("network").chain(given.list("net")) {
        all.push(parse(text)?);
    }
    let plain = all.is_empty();
    if plain {
        all.push(Wanted { name: "default".to_owned(), ..Wanted::default() });
    }
    let count = all.len();
    let first = &mut all[0];
    if first.name.is_empty() {
        "default".clone_into(&mut first.name);
    }
    add_flags(given, first)?;
    let mode = first.name.clone();
    let mut map = Map::new();
    let mut modes = (false, false);
    for (index, wanted) in all.iter().enumerate() {
        if user_defined(&wanted.name) {
            modes.0 = true;
        } else {
            modes.1 = true;
        }
        if map.contains_key(&wanted.name) {
            return Err(format!("network \"{}\" is specified multiple times", wanted.name));
        }
        let bare = Wanted { name: wanted.name.clone(), ..Wanted::default() } == *wanted;
        if index == 0 && count == 1 && bare && !plain {
            continue;
        }
        map.insert(wanted.name.clone(), document(wanted));
    }
    if modes == (true, true) && count > 1 {
        return Err(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
                .to_owned(),
        );
    }
    Ok((mode, Value::Object(map)))
}

fn user_defined(name: &str) -> bool {
    !matches!(name, "default" | "bridge" | "host" | "none") && !name.starts_with("container:")
}

/// Refuses a value that says nothing which can be meant.
pub(crate) fn check(text: &str) -> Result<String, String> {
    parse(text).map(|_| text.to_owned())
}

/// A name, or `name=…,ip=…` and so on.
fn parse(text: &str) -> Result<Wanted, String> {
    if !text.contains('=') {
        return Ok(Wanted { name: text.to_owned(), ..Wanted::default() });
    }
    let mut wanted = Wanted::default();
    for field in fields(text)? {
        let (key, value) = field.split_once('=').ok_or_else(|| format!("invalid field {field}"))?;
        let value = value.trim().to_owned();
        match key.trim().to_ascii_lowercase().as_str() {
            "name" => wanted.name = value,
            "alias" => wanted.aliases.push(value),
            "ip" => wanted.address = value,
            "ip6" => wanted.address6 = value,
            "mac-address" => wanted.mac = mac(&value)?,
            "link-local-ip" => wanted.local.push(value),
            "driver-opt" => {
                let (name, value) =
                    value.split_once('=').ok_or("invalid key value pair format in driver options")?;
                wanted.options.push((name.to_ascii_lowercase(), value.to_owned()));
            }
            "gw-priority" => {
                wanted.priority = value.parse().map_err(|_| format!("invalid gw-priority: {value}"))?;
            }
            other => return Err(format!("invalid field key {other}")),
        }
    }
    Ok(wanted)
}

/// The older flags apply to the first network.
fn add_flags(given: &Given, first: &mut Wanted) -> Result<(), String> {
    let aliases: Vec<String> =
        given.list("network-alias").chain(given.list("net-alias")).map(str::to_owned).collect();
    let twice = |flag: &str, key: &str| {
        format!("conflicting options: cannot specify both --{flag} and per-network {key}")
    };
    if !aliases.is_empty() {
        if !user_defined(&first.name) {
            return Err("network-scoped aliases are only supported for user-defined networks".to_owned());
        }
        if !first.aliases.is_empty() {
            return Err(twice("network-alias", "alias"));
        }
        first.aliases = aliases;
    }
    if given.has("link") && user_defined(&first.name) {
        first.links = given.strings("link");
    }
    for (flag, key, slot) in
        [("ip", "IPv4 address", &mut first.address), ("ip6", "IPv6 address", &mut first.address6)]
    {
        if given.has(flag) {
            if !slot.is_empty() {
                return Err(twice(flag, key));
            }
            given.text(flag).clone_into(slot);
        }
    }
    if given.has("mac-address") {
        if !first.mac.is_empty() {
            return Err(twice("mac-address", "MAC address"));
        }
        first.mac = mac(given.text("mac-address"))?;
    }
    if given.has("link-local-ip") {
        if !first.local.is_empty() {
            return Err(twice("link-local-ip", "link-local IP addresses"));
        }
        first.local = given.strings("link-local-ip");
    }
    Ok(())
}

fn mac(text: &str) -> Result<String, String> {
    let text = text.trim();
    let separator = if text.contains('-') { '-' } else { ':' };
    let groups: Vec<&str> = text.split(separator).collect();
    let good = matches!(groups.len(), 6 | 8)
        && groups.iter().all(|group| group.len() == 2 && group.bytes().all(|b| b.is_ascii_hexdigit()));
    if good { Ok(text.to_owned()) } else { Err(format!("{text} is not a valid mac address")) }
}

fn document(wanted: &Wanted) -> Value {
    let mut addresses = Map::new();
    if !wanted.address.is_empty() {
        addresses.insert("IPv4Address".into(), json!(wanted.address));
    }
    if !wanted.address6.is_empty() {
        addresses.insert("IPv6Address".into(), json!(wanted.address6));
    }
    if !wanted.local.is_empty() {
        addresses.insert("LinkLocalIPs".into(), json!(wanted.local));
    }
    let some = |list: &[String]| if list.is_empty() { Value::Null } else { json!(list) };
    let options: Map<String, Value> =
        wanted.options.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    json!({
        "IPAMConfig": if addresses.is_empty() { Value::Null } else { json!(addresses) },
        "Links": some(&wanted.links),
        "Aliases": some(&wanted.aliases),
        "MacAddress": wanted.mac,
        "DriverOpts": if options.is_empty() { Value::Null } else { json!(options) },
        "GwPriority": wanted.priority,
        "NetworkID": "",
        "EndpointID": "",
        "Gateway": "",
        "IPAddress": "",
        "IPPrefixLen": 0,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "DNSNames": null,
    })
}
