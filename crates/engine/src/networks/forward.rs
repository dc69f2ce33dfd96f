//! The host's forwarding, enabled as far as networks need it.

use std::fs;
use std::sync::PoisonError;

use hull_network::forwarding::{self, Before};
use hull_network::record::{Driver, Network};

use super::change::failed;
use crate::containers::services::Services;
use crate::{Error, Result};

/// In the exec root: what of the host's forwarding was off before it was needed.
const FORWARDING: &str = "forwarding.json";

/// Enables forwarding as far as networks need it; tells whether that changed anything. What was
/// off is on record where a boot forgets it.
pub(super) fn forward(services: &Services) -> Result<bool> {
    if !services.networks.defaults().ip_forward {
        return Ok(false);
    }
    let (networks, _) = services.networks.all();
    let leads_out = |network: &&Network| !network.internal && matches!(network.driver, Driver::Bridge(_));
    let v4 = networks.iter().filter(leads_out).any(|network| network.ipv4);
    let v6 = networks.iter().filter(leads_out).any(|network| network.ipv6);
    let mut before = services.wiring.forwarding.lock().unwrap_or_else(PoisonError::into_inner);
    let path = services.exec_root().join(FORWARDING);
    if *before == Before::default()
        && let Ok(text) = fs::read(&path)
    {
        *before = serde_json::from_slice(&text).unwrap_or_default();
    }
    let old = before.clone();
    forwarding::enable(v4, v6, &mut before).map_err(failed)?;
    if *before == old {
        return Ok(false);
    }
    let text = serde_json::to_vec(&*before).unwrap_or_default();
    fs::write(&path, text).map_err(|source| Error::Io { call: "write", path, source })?;
    Ok(true)
}
