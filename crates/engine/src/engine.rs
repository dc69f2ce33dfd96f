//! The engine as its callers see it: every method finds the container and asks its task.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::containers::handle::Command;
use crate::containers::registry::Registry;
use crate::containers::requests::{
    Attach, Attachment, Condition, Created, ExecSettings, ExecView, LogStream, Logs, Pruned, Remove, Top,
    Update, WaitResult,
};
use crate::containers::settings::Create;
use crate::containers::view::View;
use crate::events::{Events, Subscription};
use crate::host::{Host, HostFacts};
use crate::images::Images;
use crate::{Config, Error, Result, names, signals};

/// All containers and images of one data root. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    registry: Arc<Registry>,
    images: Arc<Images>,
    events: Events,
    facts: HostFacts,
}

impl Engine {
    /// Opens the data root, adopts or starts the spawner and finds the containers again.
    pub async fn open(config: Config) -> Result<Engine> {
        let _ = config;
        Err(Error::NotImplemented("the engine cannot open yet".to_owned()))
    }

    /// Writes what is still to be written. Containers go on running.
    pub async fn close(self) {}

    pub fn images(&self) -> &Images {
        &self.0.images
    }

    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Facts and counts for `info`.
    pub fn host(&self) -> Host {
        let mut host = Host {
            images: self.0.images.count(),
            data_root: self.0.config.data_root.clone(),
            facts: self.0.facts.clone(),
            ..Host::default()
        };
        for handle in self.0.registry.all() {
            host.containers += 1;
            match handle.view().phase.status() {
                "running" | "restarting" => host.running += 1,
                "paused" => host.paused += 1,
                _ => host.stopped += 1,
            }
        }
        host
    }

    /// What happens from now on, and with `since` what the ring still holds from there.
    pub fn events(&self, since: Option<i64>) -> Subscription {
        self.0.events.subscribe(since)
    }

    pub async fn create(&self, request: Create) -> Result<Created> {
        let _ = request;
        Err(Error::NotImplemented("containers cannot be created yet".to_owned()))
    }

    /// Newest first.
    pub fn containers(&self) -> Vec<Arc<View>> {
        let mut views: Vec<_> = self.0.registry.all().iter().map(|handle| handle.view()).collect();
        views.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        views
    }

    /// By id, unambiguous prefix of one, or name.
    pub fn container(&self, key: &str) -> Result<Arc<View>> {
        Ok(self.0.registry.find(key)?.view())
    }

    /// `NotModified` when it runs already.
    pub async fn start(&self, key: &str) -> Result<()> {
        self.0.registry.find(key)?.ask(key, |reply| Command::Start { reply }).await
    }

    /// `NotModified` when it does not run. Without a signal the container's own; `timeout` in
    /// seconds until SIGKILL, -1 for ever, `None` for the container's own.
    pub async fn stop(&self, key: &str, signal: Option<&str>, timeout: Option<i32>) -> Result<()> {
        self.stop_or_restart(key, signal, timeout, false).await
    }

    pub async fn restart(&self, key: &str, signal: Option<&str>, timeout: Option<i32>) -> Result<()> {
        self.stop_or_restart(key, signal, timeout, true).await
    }

    async fn stop_or_restart(
        &self,
        key: &str,
        signal: Option<&str>,
        timeout: Option<i32>,
        restart: bool,
    ) -> Result<()> {
        let handle = self.0.registry.find(key)?;
        let signal = signal.filter(|text| !text.is_empty()).map(parse_signal).transpose()?;
        handle.ask(key, |reply| Command::Stop { signal, timeout, restart, reply }).await
    }

    /// An empty signal is SIGKILL.
    pub async fn kill(&self, key: &str, signal: &str) -> Result<()> {
        let handle = self.0.registry.find(key)?;
        let signal = match signal {
            "" => signals::SIGKILL,
            text => parse_signal(text)
                .map_err(|error| Error::Invalid(format!("cannot kill container: {key}: {error}")))?,
        };
        handle.ask(key, |reply| Command::Kill { key: key.to_owned(), signal, reply }).await
    }

    pub async fn pause(&self, key: &str) -> Result<()> {
        self.0.registry.find(key)?.ask(key, |reply| Command::Pause { reply }).await
    }

    pub async fn unpause(&self, key: &str) -> Result<()> {
        self.0.registry.find(key)?.ask(key, |reply| Command::Unpause { reply }).await
    }

    pub async fn rename(&self, key: &str, new_name: &str) -> Result<()> {
        let handle = self.0.registry.find(key)?;
        let name = new_name.strip_prefix('/').unwrap_or(new_name);
        if name.is_empty() {
            return Err(Error::Invalid("Neither old nor new names may be empty".to_owned()));
        }
        if handle.view().name == name {
            return Err(Error::Invalid(
                "Renaming a container with the same name as its current name".to_owned(),
            ));
        }
        let refuse = |error: Error| match error {
            Error::Conflict(text) => Error::Conflict(format!("Error when allocating new name: {text}")),
            Error::Invalid(text) => Error::Invalid(format!("Error when allocating new name: {text}")),
            other => other,
        };
        names::check(name, &format!("/{name}")).map_err(refuse)?;
        self.0.registry.reserve(name, &handle.id).map_err(refuse)?;
        let outcome = handle.ask(key, |reply| Command::Rename { name: name.to_owned(), reply }).await;
        if outcome.is_err() {
            self.0.registry.release(name, &handle.id);
        }
        outcome
    }

    /// Gives warnings.
    pub async fn update(&self, key: &str, update: Update) -> Result<Vec<String>> {
        let handle = self.0.registry.find(key)?;
        handle.ask(key, |reply| Command::Update { update: Box::new(update), reply }).await
    }

    pub async fn remove(&self, key: &str, options: Remove) -> Result<()> {
        let handle = self.0.registry.find(key)?;
        handle.ask(key, |reply| Command::Remove { key: key.to_owned(), options, reply }).await
    }

    /// The outer future ends when the container is known and the watch is set: from there on no
    /// exit is missed. The inner one ends with the exit.
    pub async fn wait(
        &self,
        key: &str,
        condition: Condition,
    ) -> Result<impl Future<Output = Result<WaitResult>> + Send + 'static + use<>> {
        let handle = self.0.registry.find(key)?;
        let (exit, exited) = oneshot::channel();
        handle.ask(key, |reply| Command::Wait { condition, exit, reply }).await?;
        Ok(async move { exited.await.map_err(|_| Error::ShuttingDown) })
    }

    /// Works on a container that does not run yet: the stream then begins with its start.
    pub async fn attach(&self, key: &str, attach: Attach) -> Result<Attachment> {
        self.0.registry.find(key)?.ask(key, |reply| Command::Attach { attach, reply }).await
    }

    pub async fn resize(&self, key: &str, rows: u16, columns: u16) -> Result<()> {
        self.0.registry.find(key)?.ask(key, |reply| Command::Resize { rows, columns, reply }).await
    }

    pub async fn logs(&self, key: &str, options: Logs) -> Result<LogStream> {
        let _ = (self.0.registry.find(key)?, options);
        Err(Error::NotImplemented("logs cannot be read yet".to_owned()))
    }

    /// From /proc; nothing is executed.
    pub async fn top(&self, key: &str, ps_args: &str) -> Result<Top> {
        let _ = (self.0.registry.find(key)?, ps_args);
        Err(Error::NotImplemented("processes cannot be listed yet".to_owned()))
    }

    /// Gives the exec's id.
    pub async fn exec_create(&self, key: &str, settings: ExecSettings) -> Result<String> {
        let handle = self.0.registry.find(key)?;
        let settings = Box::new(settings);
        handle.ask(key, |reply| Command::ExecCreate { key: key.to_owned(), settings, reply }).await
    }

    /// Without `detach` gives the stream.
    pub async fn exec_start(
        &self,
        id: &str,
        detach: bool,
        size: Option<(u16, u16)>,
    ) -> Result<Option<Attachment>> {
        let exec = self.exec(id)?;
        let handle = self.0.registry.find(&exec.container)?;
        let id = exec.id.clone();
        handle.ask(&exec.container, |reply| Command::ExecStart { id, detach, size, reply }).await
    }

    pub fn exec(&self, id: &str) -> Result<Arc<ExecView>> {
        self.0.registry.exec(id)
    }

    pub async fn exec_resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let exec = self.exec(id)?;
        let handle = self.0.registry.find(&exec.container)?;
        let id = exec.id.clone();
        handle.ask(&exec.container, |reply| Command::ExecResize { id, rows, columns, reply }).await
    }

    /// Removes every container that does not run and that `wanted` accepts.
    pub async fn prune_containers(&self, wanted: impl Fn(&View) -> bool) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        for view in self.containers() {
            if view.is_running() || matches!(view.phase.status(), "restarting" | "removing") || !wanted(&view)
            {
                continue;
            }
            // Started or removed meanwhile: not for us.
            if self.remove(&view.id, Remove::default()).await.is_ok() {
                pruned.ids.push(view.id.clone());
            }
        }
        Ok(pruned)
    }
}

fn parse_signal(text: &str) -> Result<i32> {
    signals::parse(text).ok_or_else(|| Error::Invalid(format!("invalid signal: {text}")))
}
