//! The networks that exist (none and host), the volumes and plugins that do not, and the answers
//! of a daemon that is in no swarm.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use hull_api::compat;
use hull_api::network::{Ipam, Network, NetworkContainer, NetworkStatus, NetworksPruned};
use hull_api::volume::{Volumes, VolumesPruned};
use hull_engine::containers::settings::NetworkMode;
use serde_json::json;

use super::{show, system};
use crate::http::{Call, Failure, Handled, ok};

const LATER: &str = "networks other than none and host come in a later build";

/// `none` and `host`, with the containers that run on them.
fn built_in(call: &Call, name: &str) -> Network {
    let on_it = |mode: &NetworkMode| match mode {
        NetworkMode::Default | NetworkMode::None => name == "none",
        NetworkMode::Host => name == "host",
        NetworkMode::Container(_) => false,
    };
    let containers = call.server.engine.containers();
    let containers = containers
        .into_iter()
        .filter(|view| view.is_running() && on_it(&view.settings.network))
        .map(|view| {
            (view.id.clone(), NetworkContainer { name: view.name.clone(), ..NetworkContainer::default() })
        })
        .collect();
    Network {
        name: name.to_owned(),
        id: show::network_id(name),
        created: show::time(None),
        scope: "local".to_owned(),
        driver: if name == "none" { "null" } else { name }.to_owned(),
        enable_ipv4: true,
        ipam: Ipam { driver: "default".to_owned(), options: None, config: None },
        containers,
        options: Some(BTreeMap::new()),
        labels: Some(BTreeMap::new()),
        // There are no addresses to give out.
        status: Some(NetworkStatus::default()),
        ..Network::default()
    }
}

pub(super) fn networks(call: &Call, method: &Method, path: &[&str]) -> Handled {
    match (method.as_str(), path) {
        ("GET", []) => list(call),
        ("GET", [key]) => {
            let found = ["none", "host"]
                .into_iter()
                .find(|name| name == key || (!key.is_empty() && show::network_id(name).starts_with(key)));
            match found {
                Some(name) => {
                    let mut value = system::value_of(&built_in(call, name))?;
                    compat::network(call.version, &mut value);
                    ok(&value)
                }
                None => Err(Failure::not_found(format!("network {key} not found"))),
            }
        }
        ("POST", ["create"]) | ("POST", [_, "connect" | "disconnect"]) => Err(Failure::later(LATER)),
        ("POST", ["prune"]) => ok(&NetworksPruned::default()),
        ("DELETE", [key @ ("none" | "host")]) => Err(Failure::new(
            StatusCode::FORBIDDEN,
            format!("{key} is a pre-defined network and cannot be removed"),
        )),
        ("DELETE", [key]) => Err(Failure::not_found(format!("network {key} not found"))),
        _ => Err(Failure::no_page()),
    }
}

fn list(call: &Call) -> Handled {
    let filters = call.query.filters()?;
    filters.check(&["driver", "type", "name", "id", "label", "scope", "dangling"])?;
    let dangling = filters.boolean("dangling")?;
    let any = |name: &str, fits: &dyn Fn(&str) -> bool| !filters.has(name) || filters.values(name).any(fits);
    let admitted = |network: &Network| {
        any("name", &|name| network.name.contains(name))
            && any("id", &|id| network.id.starts_with(id))
            && filters.admits("driver", &network.driver)
            && filters.admits("scope", &network.scope)
            && any("type", &|kind| kind == "builtin")
            && !filters.has("label")
            // Built-in ones are never in the way.
            && dangling != Some(true)
    };
    let mut rows = Vec::new();
    for network in ["none", "host"].map(|name| built_in(call, name)).into_iter().filter(admitted) {
        let mut row = system::value_of(&network)?;
        compat::network_row(call.version, &mut row);
        rows.push(row);
    }
    ok(&rows)
}

pub(super) fn volumes(call: &Call, method: &Method, path: &[&str]) -> Handled {
    match (method.as_str(), path) {
        ("GET", []) => {
            let filters = call.query.filters().map_err(|error| {
                Failure::invalid(format!("error reading volume filters: {}", error.message))
            })?;
            filters.check(&["dangling", "driver", "label", "name"])?;
            ok(&Volumes::default())
        }
        ("POST", ["create"]) => Err(Failure::later("volumes come in a later build")),
        ("POST", ["prune"]) => ok(&VolumesPruned { volumes_deleted: None, space_reclaimed: 0 }),
        ("GET" | "DELETE", [name]) => Err(Failure::not_found(format!("get {name}: no such volume"))),
        _ => Err(Failure::no_page()),
    }
}

pub(super) fn swarm(method: &Method, path: &[&str]) -> Handled {
    let manager = || {
        Err(Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this \
             node to swarm and try again.",
        ))
    };
    match (method.as_str(), path) {
        ("POST", ["swarm", "leave"]) => {
            Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, "This node is not part of a swarm"))
        }
        ("POST", ["swarm", "init" | "join"]) => Err(Failure::later("swarm mode comes in a later build")),
        (_, ["swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs", ..]) => manager(),
        ("GET", ["plugins"]) => ok(&json!([])),
        ("POST", ["plugins", "pull" | "create"]) => Err(Failure::later("plugins come in a later build")),
        ("GET", ["plugins", "privileges"]) => ok(&json!([])),
        (_, ["plugins", name, ..]) => Err(Failure::not_found(format!("plugin {name:?} not found"))),
        _ => Err(Failure::no_page()),
    }
}
