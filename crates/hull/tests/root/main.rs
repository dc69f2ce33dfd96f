//! The privileged tests: each on a machine of its own, with real namespaces, cgroups, overlays and
//! both clients. Nothing here is skipped: what cannot run fails.

mod asked;
mod behind;
mod bootstrap;
mod broken;
mod build_again;
mod build_cache;
mod build_checks;
mod build_ends;
mod build_exchange;
mod build_far;
mod build_language;
mod build_lent;
mod build_mounts;
mod build_outputs;
mod build_repositories;
mod build_session;
mod build_wire;
mod builds;
mod bulk;
mod called;
mod churn;
mod commands;
mod contexts;
mod copies;
mod copy_attacks;
mod copy_pipes;
mod data;
mod datagrams;
mod exec;
mod explain;
mod faults;
mod fill_attacks;
mod filled;
mod image_attacks;
mod images;
mod interfaces;
mod isolation;
mod kernel_attacks;
mod kills;
mod kinds;
mod layer;
mod lifecycle;
mod limits;
mod local;
mod login;
mod machines;
mod macvlan;
mod many;
mod mounts;
mod names;
mod networks;
mod options;
mod ports;
mod push;
mod random;
mod reach;
mod recovery;
mod registry;
mod run;
mod secrecy;
mod sharing;
mod spawners;
mod stops;
mod streams;
mod takeover;
mod users;
mod versions;
mod volumes;

use hull_testkit::{Executables, Finished, Host, Options};

/// A machine with the busybox image, and nothing else.
#[track_caller]
fn host() -> Host {
    let host = bare();
    host.busybox();
    host
}

/// A machine without any image.
#[track_caller]
fn bare() -> Host {
    Host::start(executables(), Options::default())
}

fn executables() -> Executables {
    Executables::beside(env!("CARGO_BIN_EXE_hull"))
}

/// A client's command line against a machine.
type Client = fn(&Host, &[&str]) -> Finished;

/// Ours and the official one: whatever a person types must do the same with both.
const CLIENTS: [Client; 2] = [Host::hull, Host::docker];
