//! Networks: made, listed, shown, removed; containers connected to them and disconnected.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use hull_api::compat;
use hull_api::network::{
    ConfigFrom, ConnectRequest, CreateRequest, Created, DisconnectRequest, Explained, Finding, Ipam,
    IpamPool, IpamStatus, Network, NetworkContainer, NetworkStatus, NetworksPruned, SubnetStatus,
};
use hull_engine::containers::settings::NetworkMode;
use hull_engine::networks::{Create, PoolRequest, Record, View};
use hull_network::record::Protocol;

use super::{containers, show, system};
use crate::http::{Call, Failure, Handled, empty, json, ok};
use crate::translate;

pub(super) async fn networks(call: Call, method: &Method, path: &[&str]) -> Handled {
    match (method.as_str(), path) {
        ("GET", []) => list(&call),
        ("POST", ["create"]) => create(call).await,
        ("POST", ["prune"]) => prune(&call).await,
        ("POST", [key, "connect"]) => connect(call, key).await,
        ("POST", [key, "disconnect"]) => disconnect(call, key).await,
        ("GET", [key]) => inspect(&call, key),
        ("DELETE", [key]) => {
            call.server.engine.network_remove(key).await?;
            Ok(empty(StatusCode::NO_CONTENT))
        }
        _ => Err(Failure::no_page()),
    }
}

async fn create(mut call: Call) -> Handled {
    let request: CreateRequest = call.json("network.CreateRequest").await?;
    let created = call.server.engine.network_create(wanted(request)).await?;
    Ok(json(StatusCode::CREATED, &Created { id: created.id, warning: created.warning }))
}

fn wanted(request: CreateRequest) -> Create {
    let ipam = request.ipam.unwrap_or_default();
    let pool = |pool: IpamPool| PoolRequest {
        subnet: pool.subnet,
        range: pool.ip_range,
        gateway: pool.gateway,
        reserved: pool.auxiliary_addresses.unwrap_or_default(),
    };
    Create {
        name: request.name,
        driver: request.driver,
        scope: request.scope,
        ipv4: request.enable_ipv4,
        ipv6: request.enable_ipv6,
        internal: request.internal,
        attachable: request.attachable,
        ingress: request.ingress,
        config_only: request.config_only,
        config_from: request.config_from.unwrap_or_default().network,
        ipam_driver: ipam.driver,
        ipam_options: ipam.options,
        pools: ipam.config.unwrap_or_default().into_iter().map(pool).collect(),
        options: request.options.unwrap_or_default(),
        labels: request.labels.unwrap_or_default(),
    }
}

/// `GET /hull/v1/networks/explain?port=PORT&protocol=PROTOCOL`; without a protocol all are meant.
pub(super) async fn explain(call: &Call) -> Handled {
    let text = call.query.text("port");
    let port = text.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
        Failure::invalid(format!("invalid port {text:?}: it should be a number from 1 to 65535"))
    })?;
    let protocol = match call.query.text("protocol") {
        "" => None,
        text => Some(Protocol::named(text).ok_or_else(|| {
            Failure::invalid(format!("invalid protocol {text:?}: it should be tcp, udp or sctp"))
        })?),
    };
    let found = call.server.engine.network_explain(port, protocol).await?;
    let finding = |one: &hull_network::explain::Finding| Finding {
        outcome: one.outcome().to_owned(),
        text: one.text().to_owned(),
    };
    ok(&Explained { findings: found.iter().map(finding).collect() })
}

/// A network in the API's words.
fn shown(call: &Call, view: &View) -> Network {
    let Record { network, config_only, config_from, ipam_options, .. } = &*view.record;
    let pool = |subnet: &hull_network::record::Subnet| IpamPool {
        subnet: subnet.pool.to_string(),
        ip_range: subnet.range.map_or_else(String::new, |range| range.to_string()),
        gateway: view.record.shown_gateway(subnet).map_or_else(String::new, |gateway| gateway.to_string()),
        auxiliary_addresses: (!subnet.reserved.is_empty()).then(|| {
            subnet.reserved.iter().map(|(name, address)| (name.clone(), address.to_string())).collect()
        }),
    };
    let pools: Vec<IpamPool> = network.subnets.iter().map(pool).collect();
    Network {
        name: network.name.clone(),
        id: network.id.clone(),
        created: show::time(Some(network.created)),
        scope: "local".to_owned(),
        driver: network.driver.name().to_owned(),
        enable_ipv4: network.ipv4,
        enable_ipv6: network.ipv6,
        ipam: Ipam {
            driver: "default".to_owned(),
            options: ipam_options.then(|| network.ipam_options.clone()),
            config: (!pools.is_empty()).then_some(pools),
        },
        internal: network.internal,
        attachable: network.attachable,
        ingress: false,
        config_from: ConfigFrom { network: config_from.clone() },
        config_only: *config_only,
        containers: containers_on(call, view),
        options: Some(network.options.clone()),
        labels: Some(network.labels.clone()),
        status: Some(NetworkStatus { ipam: IpamStatus { subnets: status(view) } }),
    }
}

fn status(view: &View) -> BTreeMap<String, SubnetStatus> {
    let one = |use_: hull_network::ipam::Use| {
        let clamp = |count: u128| u64::try_from(count).unwrap_or(u64::MAX);
        SubnetStatus { ips_in_use: clamp(use_.taken), dynamic_ips_available: clamp(use_.free) }
    };
    let subnets = view.record.network.subnets.iter();
    subnets.map(|subnet| (subnet.pool.to_string(), one(view.usage(subnet)))).collect()
}

fn containers_on(call: &Call, view: &View) -> BTreeMap<String, NetworkContainer> {
    let engine = &call.server.engine;
    let name = |id: &str| engine.container(id).map_or_else(|_| id.to_owned(), |view| view.name.clone());
    let mode = match view.record.network.driver {
        hull_network::record::Driver::Host => Some(NetworkMode::Host),
        hull_network::record::Driver::Null => Some(NetworkMode::None),
        _ => None,
    };
    if let Some(mode) = mode {
        let on_it = engine.containers().into_iter();
        let on_it = on_it.filter(|container| container.is_running() && container.settings.network == mode);
        let nameless = |name: String| NetworkContainer { name, ..NetworkContainer::default() };
        return on_it.map(|container| (container.id.clone(), nameless(container.name.clone()))).collect();
    }
    let one = |endpoint: &hull_network::record::Endpoint| {
        let address = |net: Option<String>| net.unwrap_or_default();
        let container = NetworkContainer {
            name: name(&endpoint.container),
            endpoint_id: endpoint.id.clone(),
            mac_address: endpoint.mac.to_string(),
            ipv4_address: address(endpoint.address4.map(|net| net.to_string())),
            ipv6_address: address(endpoint.address6.map(|net| net.to_string())),
        };
        (endpoint.container.clone(), container)
    };
    view.endpoints.iter().map(one).collect()
}

async fn connect(mut call: Call, key: &str) -> Handled {
    let request: ConnectRequest = call.json_or_default("network.ConnectRequest").await?;
    let join = translate::join(key, request.endpoint_config.unwrap_or_default());
    call.server.engine.network_connect(&request.container, join).await?;
    Ok(empty(StatusCode::OK))
}

async fn disconnect(mut call: Call, key: &str) -> Handled {
    let request: DisconnectRequest = call.json_or_default("network.DisconnectRequest").await?;
    call.server.engine.network_disconnect(key, &request.container, request.force).await?;
    Ok(empty(StatusCode::OK))
}

fn inspect(call: &Call, key: &str) -> Handled {
    let verbose = call.query.text("verbose");
    if !matches!(
        verbose,
        "" | "0" | "1" | "t" | "f" | "T" | "F" | "true" | "false" | "TRUE" | "FALSE" | "True" | "False"
    ) {
        return Err(Failure::invalid(format!(
            "invalid value for verbose: {verbose}: strconv.ParseBool: parsing {verbose:?}: invalid syntax"
        )));
    }
    let here = matches!(call.query.text("scope"), "" | "local");
    let view = match call.server.engine.network(key) {
        Ok(view) if here => view,
        // In the reference's words for this one request.
        Err(hull_engine::Error::AmbiguousNetwork { key, matches }) if here => {
            return Err(Failure::invalid(format!(
                "{matches} matches found based on ID prefix: network {key} is ambiguous"
            )));
        }
        _ => return Err(Failure::not_found(format!("network {key} not found"))),
    };
    let mut value = system::value_of(&shown(call, &view))?;
    compat::network(call.version, &mut value);
    ok(&value)
}

fn list(call: &Call) -> Handled {
    let filters = call.query.filters()?;
    filters.check(&["driver", "type", "name", "id", "label", "scope", "dangling"])?;
    let dangling = filters.boolean("dangling")?;
    if let Some(kind) = filters.values("type").find(|kind| !matches!(*kind, "builtin" | "custom")) {
        // 500 in the reference.
        return Err(Failure::internal(format!("invalid filter: 'type'='{kind}'")));
    }
    let any = |name: &str, fits: &dyn Fn(&str) -> bool| !filters.has(name) || filters.values(name).any(fits);
    let admitted = |view: &View| {
        let network = &view.record.network;
        let kind = if view.record.predefined { "builtin" } else { "custom" };
        any("name", &|name| network.name.contains(name))
            && any("id", &|id| network.id.starts_with(id))
            && filters.admits("driver", network.driver.name())
            && filters.admits("scope", "local")
            && any("type", &|wanted| wanted == kind)
            && filters.labels_match("label", &network.labels)
            && dangling
                .is_none_or(|dangling| dangling == (!view.record.predefined && view.endpoints.is_empty()))
    };
    let views = call.server.engine.networks();
    let mut rows = Vec::new();
    for view in views.iter().filter(|view| admitted(view)) {
        let mut row = system::value_of(&shown(call, view))?;
        compat::network_row(call.version, &mut row);
        rows.push(row);
    }
    ok(&rows)
}

async fn prune(call: &Call) -> Handled {
    let filters = call.query.filters()?;
    filters.check(&["label", "label!", "until"])?;
    let until =
        filters.values("until").next().map(|text| containers::moment(text, show::now())).transpose()?;
    let wanted = |record: &Record| {
        let network = &record.network;
        until.is_none_or(|until| network.created < until)
            && filters.labels_match("label", &network.labels)
            && !(filters.has("label!") && filters.labels_match("label!", &network.labels))
    };
    let names = call.server.engine.prune_networks(wanted).await;
    ok(&NetworksPruned { networks_deleted: (!names.is_empty()).then_some(names) })
}
