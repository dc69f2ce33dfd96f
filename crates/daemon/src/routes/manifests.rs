//! `/hull/v1/manifests`: manifests as a registry has them, and lists of them that a client has put together.

use hull_api::registry::{Child, ManifestInspect, ManifestList, ManifestPushed};
use hull_engine::registries::{Access, Error, Mounted, Repository};
use hull_oci::image::{Descriptor, Document};
use hull_oci::{Digest, Reference};

use super::registries::{failure, platform};
use super::{credentials, images};
use crate::http::{Call, Failure, Handled, ok};

/// What a name is called in its repository.
pub(super) fn reference_in(name: &Reference) -> String {
    match (&name.digest, &name.tag) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.clone().unwrap_or_default(),
    }
}

pub(super) async fn inspect(call: &Call, name: &str) -> Handled {
    let name = images::reference(name, "")?.with_default_tag();
    let client = call.server.engine.images().registry();
    let repository = client.repository(&name, credentials::of(call), Access::Pull);
    let found = repository.manifest(&reference_in(&name)).await.map_err(|error| failure(&error))?;
    let mut descriptor = found.descriptor;
    if let Document::Manifest(manifest) = &found.document {
        descriptor.platform =
            platform(&repository, &manifest.config).await.map_err(|error| failure(&error))?;
    }
    // What was parsed as JSON is text.
    let raw = String::from_utf8_lossy(&found.bytes).into_owned();
    ok(&ManifestInspect { descriptor, raw })
}

pub(super) async fn push(mut call: Call, name: &str) -> Handled {
    let list: ManifestList = call.json("ManifestList").await?;
    let name = images::reference(name, "")?.with_default_tag();
    let credentials = credentials::of(&call);
    let client = call.server.engine.images().registry();
    let target = client.repository(&name, credentials.clone(), Access::Push);
    for child in list.children.iter().filter(|child| child.repository != name.path) {
        let from = images::reference(&format!("{}/{}", name.domain, child.repository), "")?;
        let source = client.repository(&from, credentials.clone(), Access::Pull);
        bring(&source, &target, child).await.map_err(|error| failure(&error))?.map_err(Failure::invalid)?;
    }
    let mut bytes = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"   ");
    let mut writer = serde_json::Serializer::with_formatter(&mut bytes, format);
    serde::Serialize::serialize(&list.index, &mut writer)
        .map_err(|error| Failure::invalid(error.to_string()))?;
    let digest = Digest::sha256(&bytes);
    let put = target.put_manifest(&reference_in(&name), &list.index.media_type, bytes.into()).await;
    put.map_err(|error| failure(&error))?;
    ok(&ManifestPushed { digest })
}

/// Makes a manifest of another repository one of the target's, too: nothing of it is sent, all of it is mounted.
async fn bring(source: &Repository, target: &Repository, child: &Child) -> Result<Result<(), String>, Error> {
    let wanted = Descriptor { platform: None, ..child.descriptor.clone() };
    let found = source.document(&wanted).await?;
    let Document::Manifest(manifest) = &found.document else {
        return Ok(Err(format!("{} is no manifest of one image", wanted.digest)));
    };
    for blob in [&manifest.config].into_iter().chain(&manifest.layers) {
        if target.has_blob(&blob.digest).await? {
            continue;
        }
        if !matches!(target.mount(&blob.digest, &child.repository).await?, Mounted::Yes) {
            return Ok(Err(format!(
                "the registry does not let {} of {} into another repository: push that image there first",
                blob.digest, child.repository
            )));
        }
    }
    target.put_manifest(&wanted.digest.to_string(), &wanted.media_type, found.bytes).await?;
    Ok(Ok(()))
}
