//! A container's networks while it exists: joined, left, renamed with it, given up at its end.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::phase::Phase;
use super::services::Services;
use super::settings::{NetworkMode, Settings};
use super::task::Task;
use crate::networks::claim::Place;
use crate::networks::{Join, change, join, links, settle, unplug};
use crate::{Error, Result};

impl Task {
    /// The pidfd of a process whose network can be changed now; `None` where there is no process.
    fn wired(&self) -> Result<Option<Arc<OwnedFd>>> {
        match self.record.life.phase {
            Phase::Running(_) | Phase::Paused(_) => Ok(self.handle.process()),
            Phase::Starting { .. } => Err(Error::Conflict(format!(
                "container {} is being started: try again when it runs",
                self.record.id
            ))),
            Phase::Removing { .. } => {
                Err(Error::Conflict(format!("container {} is marked for removal", self.record.id)))
            }
            Phase::Created | Phase::Exited(_) | Phase::Restarting { .. } => Ok(None),
        }
    }

    pub(super) async fn connect(&mut self, key: &str, wish: &Join) -> Result<()> {
        let record = self.services.networks.find(key)?;
        match &self.record.settings.network {
            NetworkMode::None => {
                return Err(Error::Invalid(
                    "container cannot be connected to multiple networks with one of the networks in private (none) \
                     mode"
                        .to_owned(),
                ));
            }
            NetworkMode::Host | NetworkMode::Container(_) => {
                return Err(Error::Invalid(
                    "container sharing network namespace with another container or host cannot be connected to any \
                     other network"
                        .to_owned(),
                ));
            }
            NetworkMode::Default | NetworkMode::Named(_) => {}
        }
        let network = &record.network;
        if record.predefined && !matches!(network.driver, hull_network::record::Driver::Bridge(_)) {
            let name = &network.name;
            return Err(Error::Invalid(match name.as_str() {
                "host" => "cannot connect container to host network - container must be created in host network mode"
                    .to_owned(),
                _ => "container cannot be connected to multiple networks with one of the networks in private (none) \
                      mode"
                    .to_owned(),
            }));
        }
        let attachment = join::attachment(Some(&record), wish)?;
        let process = self.wired()?;
        let mut settings = Settings::clone(&self.record.settings);
        match settings.attachments.iter_mut().find(|own| own.network == network.name) {
            Some(_) if process.is_some() => {
                return Err(Error::Forbidden(format!(
                    "endpoint with name {} already exists in network {}",
                    self.record.name, network.name
                )));
            }
            Some(own) => *own = attachment.clone(),
            None => settings.attachments.push(attachment.clone()),
        }
        self.resettle(settings, process, move |services, record, process| {
            settle::connect(services, record, &attachment, process)
        })
        .await?;
        if self.handle.process().is_some() {
            change::publish(&self.services, &record, "connect", Some(&self.record.id));
        }
        Ok(())
    }

    pub(super) async fn disconnect(&mut self, key: &str) -> Result<()> {
        let found = self.services.networks.find(key)?;
        let name = found.network.name.clone();
        if name == "host" && found.predefined && self.record.settings.network == NetworkMode::Host {
            return Err(Error::Invalid(
                "cannot disconnect container from host network - container was created in host network mode"
                    .to_owned(),
            ));
        }
        if !self.record.settings.attachments.iter().any(|own| own.network == name) {
            return Err(Error::Network(format!(
                "container {} is not connected to network {name}",
                self.record.id
            )));
        }
        let process = self.wired()?;
        let mut settings = Settings::clone(&self.record.settings);
        settings.attachments.retain(|own| own.network != name);
        let id = found.network.id.clone();
        let was_on = self.services.networks.places(&self.record.id);
        let was_on = was_on.iter().any(|place| place.endpoint.network == id);
        self.resettle(settings, process, move |services, record, process| {
            settle::disconnect(services, record, &id, process)
        })
        .await?;
        if was_on {
            change::publish(&self.services, &found, "disconnect", Some(&self.record.id));
        }
        Ok(())
    }

    /// Removes a link of the default bridge. `key` is the caller's word for it.
    pub(super) async fn unlink(&mut self, key: String, alias: String) -> Result<()> {
        let mut settings = Settings::clone(&self.record.settings);
        if !links::remove(&mut settings, &alias) {
            return Err(Error::NoSuchContainer(key));
        }
        let process = self.wired()?;
        self.resettle(settings, process, move |services, record, process| {
            links::unlink(services, record, &alias, process)
        })
        .await
    }

    /// Changes what the container wants, and where a process lives, what it has.
    async fn resettle(
        &mut self,
        settings: Settings,
        process: Option<Arc<OwnedFd>>,
        work: impl FnOnce(&Services, &super::view::Record, &OwnedFd) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let old = std::mem::replace(&mut self.record.settings, Arc::new(settings));
        if let Some(process) = process {
            let (services, record) = (Arc::clone(&self.services), self.record.clone());
            let done = self.services.blocking(move || work(&services, &record, &process)).await;
            if let Err(error) = done {
                self.record.settings = old;
                self.show();
                return Err(error);
            }
        }
        // What is done is done: a record that cannot be written is tried again with the next one.
        let committed = self.commit().await;
        self.show();
        committed
    }

    /// Its names follow the container's.
    pub(super) async fn rename_places(&mut self) {
        let (services, record) = (Arc::clone(&self.services), self.record.clone());
        let renamed = self.services.blocking(move || settle::rename(&services, &record)).await;
        if let Err(error) = renamed {
            tracing::warn!(container = %self.record.id, %error, "a renamed container keeps its old name on networks");
        }
    }

    /// Events of the places that a container has taken, before its own.
    pub(super) fn publish_places(&self, places: &[Place], action: &str) {
        for place in places {
            change::publish(&self.services, &place.record, action, Some(&self.record.id));
        }
    }

    /// The run is over: its places are nobody's, and soon free.
    pub(super) async fn give_up_places(&mut self) {
        let places = unplug::unplug_later(&self.services, &self.record.id).await;
        if !places.is_empty() {
            self.show();
        }
        self.publish_places(&places, "disconnect");
    }
}

/// Disconnects a container that may be unknown.
pub(crate) async fn disconnect(
    services: &Arc<Services>,
    network: &str,
    container: &str,
    force: bool,
) -> Result<()> {
    // A network that is not there is told before a container that is not.
    let record = services.networks.find(network)?;
    let handle = match services.registry.find(container) {
        Ok(handle) => handle,
        Err(_) if force => return Err(Error::NotFound(format!("endpoint {container} not found"))),
        Err(error) => return Err(error),
    };
    let network = record.network.id.clone();
    handle.ask(container, |reply| super::handle::Command::Disconnect { network, reply }).await
}

/// Removes the link `CONTAINER/ALIAS` of the default bridge.
pub(crate) async fn unlink(services: &Arc<Services>, key: &str) -> Result<()> {
    let Some((linker, alias)) = key.trim_matches('/').rsplit_once('/') else {
        services.registry.find(key)?;
        return Err(Error::Network(
            "Conflict, cannot remove the default link name of the container".to_owned(),
        ));
    };
    // A link is a name as a container has one: one that is not there is told as that.
    let missing = |_| Error::NoSuchContainer(key.to_owned());
    let handle = services.registry.find(linker).map_err(missing)?;
    let (key, alias) = (key.to_owned(), alias.to_owned());
    handle.ask(&handle.id, |reply| super::handle::Command::Unlink { key, alias, reply }).await
}

pub(crate) async fn connect(services: &Arc<Services>, container: &str, join: Join) -> Result<()> {
    services.networks.find(&join.network)?;
    if container.is_empty() {
        return Err(Error::Invalid("invalid name or ID supplied: \"\"".to_owned()));
    }
    let handle = services.registry.find(container)?;
    handle.ask(container, |reply| super::handle::Command::Connect { join: Box::new(join), reply }).await
}
