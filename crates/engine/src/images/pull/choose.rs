//! What is pulled, and what refusals mean, in the reference's words.

use std::sync::Arc;

use hull_image::snapshot::MAX_LAYERS;
use hull_oci::image::{Config, Descriptor, Index, Manifest, media_type};
use hull_oci::{Algorithm, Platform, Reference};
use hull_registry::client::{self, Kind};

use super::failed;
use crate::{Error, Result};

/// Indexes may be in an index; so many of them, one in the other.
pub(super) const DEPTH: usize = 3;

/// The image of an index that is for a platform.
pub(super) fn entry<'a>(index: &'a Index, platform: &Platform) -> Result<&'a Descriptor> {
    let missing =
        || Error::NotFound(format!("no matching manifest for {platform} in the manifest list entries"));
    index.select(platform).ok_or_else(missing)
}

/// An image's parts have sha256 digests on this host, as in the reference.
pub(super) fn is_nameable(part: &Descriptor) -> Result<()> {
    match part.digest.algorithm() {
        Algorithm::Sha256 => Ok(()),
        Algorithm::Sha512 => {
            Err(Error::Invalid(format!("{}: images are made of what has sha256 digests", part.digest)))
        }
    }
}

/// Manifests are also written for what is no image: a chart, a plugin.
pub(super) fn is_image(config: &Descriptor) -> Result<()> {
    match config.media_type.as_str() {
        media_type::OCI_CONFIG | media_type::DOCKER_CONFIG => is_nameable(config),
        other => Err(Error::Invalid(format!("Encountered remote {other:?}(unknown) when fetching"))),
    }
}

/// Whether manifest and configuration are of one image, and this host can have it.
pub(super) fn fit(config: &Config, manifest: &Manifest) -> Result<()> {
    config.check_layers(manifest.layers.len()).map_err(failed)?;
    if manifest.layers.len() > MAX_LAYERS {
        let count = manifest.layers.len();
        return Err(Error::Invalid(format!("the image has {count} layers: {MAX_LAYERS} are possible")));
    }
    manifest.layers.iter().try_for_each(is_nameable)?;
    if !matches!(config.os.as_str(), "" | "linux") {
        return Err(Error::Invalid(format!(
            "image operating system {:?} cannot be used on this platform: operating system is not supported",
            config.os
        )));
    }
    if let Some(layer) = manifest.layers.iter().find(|layer| !is_layer(&layer.media_type)) {
        return Err(Error::Invalid(format!(
            "layer {} is of the type {:?}, which no layer of an image has",
            layer.digest, layer.media_type
        )));
    }
    Ok(())
}

/// Layers, those that are not to be passed on, and those whose bytes are said to be elsewhere: they are fetched
/// from the registry as all others.
fn is_layer(text: &str) -> bool {
    const FOREIGN: [&str; 5] = [
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ];
    use media_type::{DOCKER_LAYER, DOCKER_LAYER_GZIP, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD};
    [OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, DOCKER_LAYER, DOCKER_LAYER_GZIP].contains(&text)
        || FOREIGN.contains(&text)
}

/// What it means that a registry does not give what was asked for.
pub(super) fn refused(reference: &Reference, error: client::Error) -> Error {
    refused_shared(reference, Arc::new(error))
}

pub(super) fn refused_shared(reference: &Reference, error: Arc<client::Error>) -> Error {
    let (familiar, name) = (reference.familiar(), reference.familiar_name());
    let because = error.problem().map(|problem| format!(": {problem}")).unwrap_or_default();
    let unknown = error.problem().is_some_and(|problem| problem.code == "NAME_UNKNOWN");
    match error.kind() {
        Kind::Denied => Error::NotFound(format!(
            "pull access denied for {name}, repository does not exist or may require 'docker login'{because}"
        )),
        Kind::NotFound if unknown => Error::NotFound(format!("repository {name} not found{because}")),
        Kind::NotFound => Error::NotFound(format!("manifest for {familiar} not found{because}")),
        _ => Error::Registry(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_of_known_types() {
        for known in [
            media_type::OCI_LAYER_ZSTD,
            media_type::DOCKER_LAYER_GZIP,
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ] {
            assert!(is_layer(known), "{known}");
        }
        for other in ["", "application/vnd.oci.image.layer.v1.tar+br", media_type::OCI_CONFIG, "text/plain"] {
            assert!(!is_layer(other), "{other}");
        }
    }

    #[test]
    fn an_image_has_as_many_layers_as_can_be_mounted() {
        let layer = Descriptor::of(media_type::OCI_LAYER, b"layer");
        let fits = |count: usize| {
            let diff_ids = vec![&layer.digest; count];
            let config = serde_json::json!({"rootfs": {"type": "layers", "diff_ids": diff_ids}});
            let config = Config::parse(config.to_string().as_bytes()).unwrap();
            let manifest =
                serde_json::json!({"schemaVersion": 2, "config": layer, "layers": vec![&layer; count]});
            fit(&config, &serde_json::from_value(manifest).unwrap())
        };
        fits(MAX_LAYERS).unwrap();
        let refused = fits(MAX_LAYERS + 1).unwrap_err().to_string();
        assert_eq!(refused, "the image has 501 layers: 500 are possible");
    }

    #[test]
    fn a_platform_that_an_index_has_not_is_named() {
        let index = Index {
            schema_version: 2,
            media_type: String::new(),
            artifact_type: String::new(),
            manifests: Vec::new(),
            subject: None,
            annotations: Default::default(),
        };
        let refused = entry(&index, &Platform::new("linux", "arm64", "")).unwrap_err().to_string();
        assert_eq!(refused, "no matching manifest for linux/arm64 in the manifest list entries");
    }
}
