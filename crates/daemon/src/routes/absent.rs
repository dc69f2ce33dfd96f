//! What this build has not got: volumes, plugins, and the answers of a daemon that is in no swarm.

use http::{Method, StatusCode};
use hull_api::volume::{Volumes, VolumesPruned};
use serde_json::json;

use crate::http::{Call, Failure, Handled, ok};

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
