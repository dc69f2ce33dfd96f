//! What this build has not got: plugins, and the answers of a daemon that is in no swarm.

use http::{Method, StatusCode};
use serde_json::json;

use crate::http::{Failure, Handled, ok};

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
