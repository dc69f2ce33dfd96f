//! The images that stages begin with: those that are here, else those that a registry has.

use std::sync::Arc;

use hull_builder::executor::Wanted;
use hull_registry::Credentials;
use tokio::sync::mpsc;

use super::Build;
use crate::images::{Image, Pull};
use crate::{Class, Error, Result, chain};

impl Build {
    /// Nobody looks for a newer one of what is here, unless that is asked for.
    pub(super) async fn base(&self, wanted: &Wanted) -> Result<Arc<Image>> {
        let images = &self.0.services.images;
        let here = images.resolve(&wanted.reference.to_string());
        let fits = |image: &Image| {
            wanted.platform.as_ref().is_none_or(|platform| platform.rank(&image.config.platform()).is_some())
        };
        let missing = match here {
            Ok(image) if !wanted.pull && fits(&image) => return Ok(image),
            Ok(_) => None,
            Err(error) if error.class() == Class::NotFound => Some(error),
            Err(error) => return Err(error),
        };
        // What a build tells of its steps has no place for layers.
        let (tell, _) = mpsc::unbounded_channel();
        let reference = wanted.reference.clone().with_default_tag();
        let pull = Pull { reference, platform: wanted.platform.clone(), credentials: Credentials::Anonymous };
        match (images.pull(pull, tell).await, missing) {
            (Ok(pulled), _) => {
                let missing = || Error::NoSuchImage(wanted.reference.familiar());
                pulled.into_iter().next().ok_or_else(missing)
            }
            (Err(error), Some(missing)) => Err(Error::NotFound(format!("{missing}: {}", chain(&error)))),
            (Err(error), None) => Err(error),
        }
    }
}
