//! `network create`: subnets, ranges and gateways put together as the reference's client does it.

use hull_api::client::{Body, Query};
use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::command::{Arguments, Command, Failure, Outcome, fail};
use crate::flags::{Flag, Given, any};
use crate::session::{Session, line, say};

pub(crate) static CREATE: Command = Command {
    paths: &["network create"],
    usage: "[OPTIONS] NETWORK",
    summary: "Create a network",
    arguments: Arguments::Exactly(1),
    stop_at_argument: false,
    flags: &[&[
        Flag::switch("attachable", "Let containers join by hand"),
        Flag::list("aux-address", pair, "Addresses of a subnet that are never given away (NAME=ADDRESS)")
            .label("map"),
        Flag::text("config-from", "Take the settings over from this network"),
        Flag::switch("config-only", "Keep the settings for others, make nothing"),
        Flag::text("driver", "Driver of the network: bridge or macvlan").short('d').default("bridge"),
        Flag::list("gateway", any, "Gateway of a subnet").label("strings"),
        Flag::switch("ingress", "A swarm's own network"),
        Flag::switch("internal", "No way in or out"),
        Flag::list("ip-range", any, "Give addresses from this part of a subnet only").label("strings"),
        Flag::text("ipam-driver", "Driver of the address management").default("default"),
        Flag::list("ipam-opt", any, "Option of the address management").label("map"),
        Flag::switch("ipv4", "IPv4 addresses").default("true"),
        Flag::switch("ipv6", "IPv6 addresses, too"),
        Flag::list("label", any, "Label of the network"),
        Flag::list("opt", any, "Option of the driver").short('o').label("map"),
        Flag::text("scope", "Where the network is known: local"),
        Flag::list("subnet", any, "Subnet in CIDR form, as 10.80.0.0/16").label("strings"),
    ]],
    run: |session, given| Box::pin(create(session, given)) as Outcome<'_>,
};

fn pair(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some(_) => Ok(text.to_owned()),
        None => Err(format!("{text} must be formatted as key=value")),
    }
}

async fn create(session: &Session, given: &Given) -> Result<u8, Failure> {
    let body = body(given).map_err(fail)?;
    let answer = session.client.post("/networks/create", &Query::new(), Body::json(&body)).await?;
    let created: Value = answer.json().await?;
    if let Some(warning) = created["Warning"].as_str().filter(|warning| !warning.is_empty()) {
        say(&format!("WARNING: {warning}"));
    }
    line(created["Id"].as_str().unwrap_or_default());
    Ok(0)
}

/// `KEY=VALUE`s as an object; a bare `KEY` has no value.
pub(crate) fn map<'a>(pairs: impl Iterator<Item = &'a str>) -> Map<String, Value> {
    let split = |text: &'a str| text.split_once('=').unwrap_or((text, ""));
    pairs.map(split).map(|(key, value)| (key.to_owned(), json!(value))).collect()
}

fn body(given: &Given) -> Result<Value, String> {
    let mut body = json!({
        "Name": given.arguments[0],
        "Driver": given.text("driver"),
        "Scope": given.text("scope"),
        "IPAM": {
            "Driver": given.text("ipam-driver"),
            "Options": map(given.list("ipam-opt")),
            "Config": pools(given)?,
        },
        "Internal": given.on("internal"),
        "Attachable": given.on("attachable"),
        "Ingress": given.on("ingress"),
        "ConfigOnly": given.on("config-only"),
        "ConfigFrom": null,
        "Options": map(given.list("opt")),
        "Labels": map(given.list("label")),
    });
    if given.has("config-from") {
        body["ConfigFrom"] = json!({ "Network": given.text("config-from") });
    }
    for (flag, key) in [("ipv4", "EnableIPv4"), ("ipv6", "EnableIPv6")] {
        if given.has(flag) {
            body[key] = json!(given.on(flag));
        }
    }
    Ok(body)
}

/// One subnet with what belongs to it.
struct Pool<'a> {
    text: &'a str,
    range: Option<&'a str>,
    gateway: Option<&'a str>,
    reserved: Map<String, Value>,
}

impl Pool<'_> {
    /// Whether an address, or a subnet's first one, is in this subnet.
    fn has(&self, text: &str) -> Result<bool, String> {
        let net: IpNet =
            self.text.parse().map_err(|_| format!("invalid subnet {}: invalid CIDR address", self.text))?;
        let address = text.split_once('/').map_or(text, |(address, _)| address);
        let address = address.parse::<std::net::IpAddr>().map_err(|_| format!("invalid address: {text}"))?;
        Ok(net.contains(&address))
    }
}

fn pools(given: &Given) -> Result<Vec<Value>, String> {
    let mut pools: Vec<Pool<'_>> = Vec::new();
    let subnets: Vec<&str> = given.list("subnet").flat_map(|list| list.split(',')).collect();
    let ranges: Vec<&str> = given.list("ip-range").flat_map(|list| list.split(',')).collect();
    let gateways: Vec<&str> = given.list("gateway").flat_map(|list| list.split(',')).collect();
    if subnets.len() < ranges.len() || subnets.len() < gateways.len() {
        return Err("every ip-range or gateway must have a corresponding subnet".to_owned());
    }
    for text in subnets {
        let own = Pool { text, range: None, gateway: None, reserved: Map::new() };
        for other in &pools {
            if other.has(text)? || own.has(other.text)? {
                return Err("multiple overlapping subnet configuration is not supported".to_owned());
            }
        }
        pools.push(own);
    }
    for range in ranges {
        let pool = find(&mut pools, range)?.ok_or(format!("no matching subnet for range {range}"))?;
        if let Some(other) = pool.range.replace(range) {
            return Err(format!(
                "cannot configure multiple ranges ({range}, {other}) on the same subnet ({})",
                pool.text
            ));
        }
    }
    for gateway in gateways {
        let pool = find(&mut pools, gateway)?.ok_or(format!("no matching subnet for gateway {gateway}"))?;
        if let Some(other) = pool.gateway.replace(gateway) {
            return Err(format!(
                "cannot configure multiple gateways ({gateway}, {other}) for the same subnet ({})",
                pool.text
            ));
        }
    }
    for entry in given.list("aux-address") {
        let (name, address) = entry.split_once('=').unwrap_or((entry, ""));
        let pool =
            find(&mut pools, address)?.ok_or(format!("no matching subnet for aux-address {address}"))?;
        pool.reserved.insert(name.to_owned(), json!(address));
    }
    Ok(pools.into_iter().map(document).collect())
}

fn find<'a, 'b>(pools: &'a mut [Pool<'b>], text: &str) -> Result<Option<&'a mut Pool<'b>>, String> {
    for pool in pools {
        if pool.has(text)? {
            return Ok(Some(pool));
        }
    }
    Ok(None)
}

fn document(pool: Pool<'_>) -> Value {
    let mut document = json!({ "Subnet": pool.text });
    for (key, value) in [("IPRange", pool.range), ("Gateway", pool.gateway)] {
        if let Some(value) = value {
            document[key] = json!(value);
        }
    }
    if !pool.reserved.is_empty() {
        document["AuxiliaryAddresses"] = Value::Object(pool.reserved);
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags;

    fn asked(words: &[&str]) -> Result<Value, String> {
        let mut words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        words.push("n".to_owned());
        let Ok(given) = flags::parse(CREATE.flags, false, &words) else { panic!("{words:?}") };
        body(&given)
    }

    #[test]
    fn the_body_is_the_references() {
        let plain = json!({
            "Driver": "bridge", "Scope": "", "IPAM": {"Driver": "default", "Options": {}, "Config": []},
            "Internal": false, "Attachable": false, "Ingress": false, "ConfigOnly": false, "ConfigFrom": null,
            "Options": {}, "Labels": {}, "Name": "n"
        });
        assert_eq!(asked(&[]).unwrap(), plain);
        let all = asked(&[
            "--subnet",
            "10.80.0.0/16",
            "--gateway",
            "10.80.0.1",
            "--ip-range",
            "10.80.5.0/24",
            "--aux-address",
            "r=10.80.0.5",
            "-o",
            "com.docker.network.bridge.name=br-ref",
            "-o",
            "nonsense",
            "--label",
            "a=b",
            "--ipv6",
            "--subnet",
            "fd00:1::/64",
        ])
        .unwrap();
        assert_eq!(
            all["IPAM"]["Config"],
            json!([
                {"Subnet": "10.80.0.0/16", "IPRange": "10.80.5.0/24", "Gateway": "10.80.0.1",
                 "AuxiliaryAddresses": {"r": "10.80.0.5"}},
                {"Subnet": "fd00:1::/64"}
            ])
        );
        assert_eq!(all["Options"], json!({"com.docker.network.bridge.name": "br-ref", "nonsense": ""}));
        assert_eq!((&all["Labels"], &all["EnableIPv6"]), (&json!({"a": "b"}), &json!(true)));
        assert_eq!(
            asked(&["--subnet", "nonsense"]).unwrap()["IPAM"]["Config"],
            json!([{"Subnet": "nonsense"}])
        );
    }

    #[test]
    fn what_belongs_to_no_subnet_is_refused() {
        for (line, text) in [
            ("--subnet 10.82.0.0/24 --gateway 10.83.0.1", "no matching subnet for gateway 10.83.0.1"),
            ("--subnet 10.82.0.0/24 --ip-range 10.99.0.0/24", "no matching subnet for range 10.99.0.0/24"),
            ("--subnet 10.82.0.0/24 --aux-address a=10.9.0.1", "no matching subnet for aux-address 10.9.0.1"),
            ("--gateway 10.82.0.1", "every ip-range or gateway must have a corresponding subnet"),
            (
                "--subnet 10.82.0.0/24 --subnet 10.82.0.0/16",
                "multiple overlapping subnet configuration is not supported",
            ),
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(asked(&words).unwrap_err(), text, "{line}");
        }
    }
}
