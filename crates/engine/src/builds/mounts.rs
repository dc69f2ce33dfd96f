//! What a RUN sees and its layer does not have: folders of others, secrets, files of the Dockerfile.

use hull_builder::Failure;
use hull_builder::executor::{Mount as Wanted, MountKind, Source};
use hull_oci::Digest;

use super::copy::write;
use super::site::Site;
use super::{Build, Secret, diff_ids, failure};
use crate::containers::settings::{Below, ImageRef, Mount};

type Result<T> = std::result::Result<T, Failure>;

/// A RUN's mounts, as a container has them.
#[derive(Default)]
pub(super) struct Mounts {
    pub(super) mounts: Vec<Mount>,
    /// Variables with secrets, `NAME=value`.
    pub(super) environment: Vec<String>,
}

impl Build {
    /// Makes all that the mounts need. What is made is in the site's folder, and goes with it.
    pub(super) async fn mounts(&self, site: &Site, wanted: Vec<Wanted>) -> Result<Mounts> {
        let mut all = Mounts::default();
        for (index, Wanted { target, kind }) in wanted.into_iter().enumerate() {
            match kind {
                MountKind::SecretVariable { id, required } => {
                    let secret = self.secret(&id, required).await?;
                    let variable = secret.map(|secret| variable(&target, &id, secret));
                    all.environment.extend(variable.transpose()?);
                }
                kind => all.mounts.push(mount(site, index, target, kind)?),
            }
        }
        Ok(all)
    }

    /// # Errors
    /// The client does not offer it, and it is `required`.
    async fn secret(&self, id: &str, required: bool) -> Result<Option<Secret>> {
        match self.0.given.client.secret(id).await.map_err(failure)? {
            None if required => Err(Failure::Missing(format!("secret {id}: not found"))),
            secret => Ok(secret),
        }
    }
}

fn mount(site: &Site, index: usize, target: String, kind: MountKind) -> Result<Mount> {
    Ok(match kind {
        MountKind::Tmpfs { size } => {
            let options = size.map(|size| format!("size={size}")).into_iter().collect();
            Mount::Tmpfs { target, options }
        }
        MountKind::Bind { source: Source::Layers(layers), path, writable: false } => {
            let layers = diff_ids(&layers);
            let found = ImageRef { id: Digest::sha256(b""), name: String::new(), layers };
            Mount::Image { name: String::new(), found: Some(found), target, subpath: path }
        }
        MountKind::Inline { contents, mode } => {
            let file = site.folder().join(format!("mount-{index}"));
            write(&file, &contents, mode).map_err(failure)?;
            Mount::Bind {
                source: file.to_string_lossy().into_owned(),
                target,
                read_only: true,
                propagation: "rprivate".to_owned(),
                create_source: false,
                non_recursive: true,
                below: Below::default(),
                mode: String::new(),
                idmap: true,
            }
        }
        _ => {
            return Err(Failure::Invalid(format!(
                "RUN --mount of this kind (at {target}) comes in a later build"
            )));
        }
    })
}

/// `NAME=value`.
fn variable(name: &str, id: &str, secret: Secret) -> Result<String> {
    match String::from_utf8(secret.0) {
        Ok(value) if !value.contains('\0') => Ok(format!("{name}={value}")),
        _ => Err(Failure::Invalid(format!(
            "secret {id} is not text: it cannot be the variable {name}; mount it as a file"
        ))),
    }
}
