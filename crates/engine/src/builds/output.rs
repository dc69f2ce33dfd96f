//! What was built goes out, as one archive: nothing of it stays but what the memory keeps.

use std::os::fd::{AsFd as _, OwnedFd};

use hull_builder::Built;
use hull_builder::executor::Source;
use hull_oci::Reference;
use hull_runtime::protocol::{Outcome, Place, Work};

use super::copy::unexpected;
use super::{Build, exchange};
use crate::{Error, Result};

/// In which form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// The files.
    Files,
    /// Docker's archive with an OCI layout beside it, as `save` has it; the image in it has these names.
    Image(Vec<Reference>),
    /// What was done, in the same form ([`exchange`]); `all`: not only what the image has.
    Cache { all: bool },
}

impl Build {
    /// Writes it into `out` (a pipe, a socket, a file), to the end.
    pub async fn write(&self, built: &Built, form: Form, out: OwnedFd) -> Result<()> {
        match form {
            Form::Files => self.write_files(built, out).await,
            Form::Image(names) => self.write_images(vec![(self.document(built)?, names)], out).await,
            Form::Cache { all } => {
                let documents = exchange::documents(built, all)?;
                let images = documents.into_iter().map(|document| (document, Vec::new()));
                self.write_images(images.collect(), out).await
            }
        }
    }

    async fn write_images(&self, images: Vec<(Vec<u8>, Vec<Reference>)>, out: OwnedFd) -> Result<()> {
        self.0.services.images.write_built(&self.0.hold, images, out).await
    }

    /// A worker reads them, jailed in the file system that it reads.
    async fn write_files(&self, built: &Built, out: OwnedFd) -> Result<()> {
        let found = self.find(Source::Layers(built.layers.clone()), true).await;
        let found = found.map_err(|failure| Error::Archive(failure.to_string()))?;
        let place = Place { path: "/".to_owned(), folder: true };
        let work = Work::Pack { place, name: String::new(), uids: Vec::new(), gids: Vec::new() };
        let working = self.look_with(work, Some(out.as_fd()), &found).await;
        let working = working.map_err(|failure| Error::Archive(failure.to_string()))?;
        drop(out);
        match working.next().await {
            Outcome::Found(_) => {}
            other => return Err(unexpected(other)),
        }
        let outcome = working.next().await;
        // What it has mounted is there until it has gone.
        working.gone().await;
        match outcome {
            Outcome::Packed => Ok(()),
            other => Err(unexpected(other)),
        }
    }
}
