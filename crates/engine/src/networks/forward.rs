//! The host's forwarding, enabled as far as networks need it.
//!
//! Enabling makes the host a router, for everybody unless the rules keep strangers out. So what was
//! off is written down first, then the guard is put into the tables, and only then is anything
//! switched: a daemon killed in between leaves a host that forwards nothing, or one that forwards
//! for Hull's networks alone, and a record from which the next daemon makes the same guard.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use hull_network::forwarding::{self, Before};
use hull_network::record::{Driver, Network};

use super::change::failed;
use crate::containers::services::Services;
use crate::{Error, Result};

/// In the exec root: what of the host's forwarding was off before it was needed.
const FORWARDING: &str = "forwarding.json";

/// What of the host's forwarding was off.
#[derive(Debug)]
pub(super) struct Forwarding {
    /// Held by who switches.
    turn: Mutex<()>,
    before: Mutex<Before>,
}

impl Forwarding {
    pub(super) fn open(exec_root: &Path) -> Forwarding {
        Forwarding { turn: Default::default(), before: noted(exec_root).into() }
    }

    pub(super) fn before(&self) -> Before {
        self.before.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, before: Before) {
        *self.before.lock().unwrap_or_else(PoisonError::into_inner) = before;
    }
}

/// What daemons since the boot have written down.
fn noted(exec_root: &Path) -> Before {
    let path = exec_root.join(FORWARDING);
    let read = || -> std::io::Result<Before> { Ok(serde_json::from_slice(&fs::read(&path)?)?) };
    read().unwrap_or_else(|error| {
        if error.kind() != std::io::ErrorKind::NotFound {
            let path = path.display();
            tracing::error!(%path, %error, "strangers are forwarded: what was off before cannot be read");
        }
        Before::default()
    })
}

/// By rename, so that it is the old one or the new one.
fn note(exec_root: &Path, before: &Before) -> Result<()> {
    let path = exec_root.join(FORWARDING);
    let failed = |call| {
        let path = path.clone();
        move |source: std::io::Error| Error::Io { call, path, source }
    };
    let text = serde_json::to_vec(before).map_err(|error| failed("write")(error.into()))?;
    let early = path.with_extension("new");
    fs::write(&early, text).map_err(failed("write"))?;
    fs::rename(&early, &path).map_err(failed("rename"))
}

/// Enables forwarding as far as networks need it; tells whether anything was off. `guard` makes the
/// tables anew, by options that now know what is off.
pub(super) fn forward(services: &Services, guard: impl FnOnce() -> Result<()>) -> Result<bool> {
    if !services.networks.defaults().ip_forward {
        return Ok(false);
    }
    let (networks, _) = services.networks.all();
    let leads_out = |network: &&Network| !network.internal && matches!(network.driver, Driver::Bridge(_));
    let v4 = networks.iter().filter(leads_out).any(|network| network.ipv4);
    let v6 = networks.iter().filter(leads_out).any(|network| network.ipv6);
    // Nobody else finds it off while it is guarded but not yet switched.
    let _turn = services.wiring.forwarding.turn.lock().unwrap_or_else(PoisonError::into_inner);
    let off = forwarding::off(v4, v6).map_err(failed)?;
    if off == Before::default() {
        return Ok(false);
    }
    let mut before = services.wiring.forwarding.before();
    before.add(&off);
    note(services.exec_root(), &before)?;
    services.wiring.forwarding.set(before);
    hull_runtime::failpoint!("engine.forwarding.noted");
    guard()?;
    hull_runtime::failpoint!("engine.forwarding.guarded");
    forwarding::enable(&off).map_err(failed)?;
    Ok(true)
}
