//! What is kept of a RUN that failed, so that a person can look around: an image of what it was done to, and
//! one of that with what it had written. They have no names, and go with `image prune`.

use hull_builder::executor::{Left, Run};
use hull_oci::image::{Config, History, RootFs, RunConfig};
use hull_oci::{Digest, Platform};

use super::site::Site;
use super::{Build, Result};

/// An image in which a container is as the step was, but runs a shell. The same twice has one id.
pub(super) fn config(run: &Run) -> Config {
    let shell = match run.arguments.as_slice() {
        [shell, flag, _] if flag == "-c" => shell.clone(),
        _ => "/bin/sh".to_owned(),
    };
    let platform = Platform::host();
    Config {
        architecture: platform.architecture,
        variant: platform.variant,
        os: platform.os,
        config: RunConfig {
            user: run.user.clone(),
            env: run.environment.clone(),
            cmd: Some(vec![shell]),
            working_dir: run.folder.clone(),
            ..RunConfig::default()
        },
        ..Config::default()
    }
}

impl Build {
    /// Nothing is kept where that fails, too: what the build has to tell is why the step failed.
    pub(super) async fn left(&self, site: &Site, below: &[Digest], config: Config) -> Left {
        let mut left = Left::default();
        if let Err(error) = self.leave(site, below, config, &mut left).await {
            tracing::warn!(%error, "the file system of a failed step is not kept");
        }
        left
    }

    async fn leave(&self, site: &Site, below: &[Digest], config: Config, left: &mut Left) -> Result<()> {
        let image = |layers: Vec<Digest>| {
            let entry = || History { created_by: "a build that failed".to_owned(), ..History::default() };
            let history = layers.iter().map(|_| entry()).collect();
            let rootfs = RootFs { diff_ids: layers, ..config.rootfs.clone() };
            Config { rootfs, history, ..config.clone() }
        };
        if !below.is_empty() {
            left.below = Some(self.finish(image(below.to_vec()), Vec::new(), None).await?.id.clone());
        }
        if !self.0.given.limits.force_rm
            && let Some(layer) = self.keep_site(site, below, None).await?
        {
            let layers = below.iter().cloned().chain([layer.diff_id]).collect();
            left.failed = Some(self.finish(image(layers), Vec::new(), None).await?.id.clone());
        }
        Ok(())
    }
}
