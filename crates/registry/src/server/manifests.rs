//! Manifests: checked when they come, given back bit for bit
//! (distribution-spec, `spec.md#pushing-manifests`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use hull_oci::image::{Descriptor, Document, MAX_MANIFEST, media_type};
use hull_oci::{Algorithm, Digest, Hasher};
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::action::{Name, Target};
use super::answer::{CONTENT_DIGEST, Code, Failure, Handled, SUBJECT, empty, set};
use super::blobs;
use super::routes::{Call, blocking};
use super::store::{Lack, NewManifest, StoreError};

/// Most blobs and manifests that one names.
const PARTS: usize = 10_000;
/// For all of a manifest to come.
const TIME: Duration = Duration::from_secs(60);

pub(crate) async fn get(call: &Call, name: &Name, target: &Target) -> Handled {
    let (store, of, wanted) = (Arc::clone(&call.shared.store), name.clone(), target.clone());
    let found = blocking(move || {
        let digest = match wanted {
            Target::Digest(digest) => Some(digest),
            Target::Tag(tag) => store.resolve(&of, &tag)?,
        };
        let Some(digest) = digest else { return Ok(None) };
        Ok(store.open_manifest(&of, &digest)?.map(|found| (digest, found)))
    });
    match found.await? {
        Some((digest, found)) => blobs::send(call, found, &digest).await,
        None => Err(unknown(name, target)),
    }
}

fn unknown(name: &Name, target: &Target) -> Failure {
    let reference = match target {
        Target::Tag(tag) => tag.clone(),
        Target::Digest(digest) => digest.to_string(),
    };
    Failure::with_detail(Code::ManifestUnknown, json!({ "name": name.as_str(), "reference": reference }))
}

pub(crate) async fn delete(call: &Call, name: &Name, target: &Target) -> Handled {
    let (store, of, wanted) = (Arc::clone(&call.shared.store), name.clone(), target.clone());
    let deleted = blocking(move || match wanted {
        Target::Digest(digest) => store.delete_manifest(&of, &digest),
        Target::Tag(tag) => store.delete_tag(&of, &tag),
    });
    if deleted.await? { Ok(empty(StatusCode::ACCEPTED)) } else { Err(unknown(name, target)) }
}

pub(crate) async fn put(call: &mut Call, name: &Name, target: &Target) -> Handled {
    let (bytes, share) = tokio::time::timeout(TIME, body(call)).await.map_err(|_| {
        Failure::new(Code::ManifestInvalid, "the manifest did not come in time")
            .status(StatusCode::REQUEST_TIMEOUT)
    })??;
    let checked = check(call.header(CONTENT_TYPE), &bytes, target)?;
    let subject = checked.subject.clone();
    let digest = checked.digest.clone();
    let (store, of) = (Arc::clone(&call.shared.store), name.clone());
    let tag = match target {
        Target::Tag(tag) => Some(tag.clone()),
        Target::Digest(_) => None,
    };
    let stored = blocking(move || {
        // Others wait for their memory until this one's is given back.
        let _share = share;
        let new = NewManifest {
            digest: checked.digest,
            media_type: &checked.media_type,
            bytes: &bytes,
            tag: tag.as_deref(),
            blobs: &checked.blobs,
            manifests: &checked.manifests,
            subject: checked.subject.as_ref().map(|subject| (subject, checked.descriptor.to_string())),
        };
        store.put_manifest(&of, &new)
    });
    match stored.await? {
        Ok(()) => {}
        Err(Lack::Missing(digests)) => return Err(Failure::unknown_parts(&digests)),
        Err(Lack::Size { digest, told, found }) => {
            let what = format!("{digest} has {found} bytes, not {told}");
            return Err(Failure::new(Code::ManifestInvalid, what));
        }
    }
    let store = Arc::clone(&call.shared.store);
    call.shared.syncs.done(move || store.sync()).await?;
    let mut answer = empty(StatusCode::CREATED);
    set(&mut answer, LOCATION, &format!("/v2/{name}/manifests/{digest}"));
    set(&mut answer, CONTENT_DIGEST, &digest.to_string());
    if let Some(subject) = subject {
        set(&mut answer, SUBJECT, &subject.to_string());
    }
    Ok(answer)
}

/// The body, never more of it than a manifest may have, and of all requests together not more than the
/// registry has set aside.
async fn body(call: &mut Call) -> Result<(bytes::Bytes, Option<OwnedSemaphorePermit>), Failure> {
    let too_large = || {
        let what = format!("a manifest has {MAX_MANIFEST} bytes at most");
        Failure::new(Code::ManifestInvalid, what).status(StatusCode::PAYLOAD_TOO_LARGE)
    };
    let announced = call.header(CONTENT_LENGTH).and_then(|length| length.parse().ok());
    let length: usize = announced.unwrap_or(MAX_MANIFEST);
    if length > MAX_MANIFEST {
        return Err(too_large());
    }
    let share = u32::try_from(length.div_ceil(1024)).unwrap_or(u32::MAX);
    // The semaphore is never closed.
    let share = Arc::clone(&call.shared.documents).acquire_many_owned(share).await.ok();
    let mut bytes = BytesMut::new();
    while let Some(piece) = call.piece().await? {
        if bytes.len() + piece.len() > MAX_MANIFEST {
            return Err(too_large());
        }
        bytes.extend_from_slice(&piece);
    }
    Ok((bytes.freeze(), share))
}

/// A manifest that is one.
#[derive(Debug)]
struct Checked {
    digest: Digest,
    media_type: String,
    blobs: Vec<(Digest, u64)>,
    manifests: Vec<(Digest, u64)>,
    subject: Option<Digest>,
    /// How it is listed among its subject's referrers.
    descriptor: Value,
}

/// Refuses what is not what it says: the type in its header, in itself and by its fields must agree, and its
/// digest must be the one that it is stored under.
fn check(header: Option<&str>, bytes: &[u8], target: &Target) -> Result<Checked, Failure> {
    let invalid = |what: String| Failure::new(Code::ManifestInvalid, what);
    let document = Document::parse(bytes).map_err(|error| invalid(super::chain(&error)))?;
    let named = match &document {
        Document::Manifest(manifest) => 1 + manifest.layers.len(),
        Document::Index(index) => index.manifests.len(),
    };
    if named > PARTS {
        return Err(invalid(format!("it names {named} blobs and manifests, at most {PARTS} are taken")));
    }
    let header = header.map(|value| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    let header = header.filter(|value| !value.is_empty());
    let (inner, allowed) = match &document {
        Document::Manifest(manifest) => {
            (&manifest.media_type, [media_type::OCI_MANIFEST, media_type::DOCKER_MANIFEST])
        }
        Document::Index(index) => (&index.media_type, [media_type::OCI_INDEX, media_type::DOCKER_INDEX]),
    };
    let media_type = match header {
        Some(header) if !inner.is_empty() && header != *inner => {
            return Err(invalid(format!("Content-Type is {header}, but the manifest calls itself {inner}")));
        }
        Some(header) => header,
        None if inner.is_empty() => return Err(invalid("its type is told nowhere".to_owned())),
        None => inner.clone(),
    };
    if !allowed.contains(&media_type.as_str()) {
        return Err(invalid(format!("{media_type} is not the type of such a document")));
    }
    let algorithm = match target {
        Target::Digest(digest) => digest.algorithm(),
        Target::Tag(_) => Algorithm::Sha256,
    };
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    let digest = hasher.finish();
    if let Target::Digest(told) = target
        && *told != digest
    {
        let detail = json!({ "digest": told.to_string(), "found": digest.to_string() });
        return Err(Failure::with_detail(Code::DigestInvalid, detail));
    }
    Ok(parts(document, digest, media_type, bytes.len()))
}

fn parts(document: Document, digest: Digest, kind: String, size: usize) -> Checked {
    let pair = |part: &Descriptor| (part.digest.clone(), part.size);
    let mut descriptor = json!({ "mediaType": kind, "digest": digest.to_string(), "size": size });
    let (blobs, manifests, subject, artifact, annotations) = match document {
        Document::Manifest(manifest) => {
            // Layers that say where else they are need not be here (image-spec, `layer.md`).
            let layers = manifest.layers.iter().filter(|layer| layer.urls.is_empty());
            let blobs = std::iter::once(&manifest.config).chain(layers).map(pair).collect();
            let artifact = match manifest.artifact_type {
                kind if kind.is_empty() => manifest.config.media_type,
                kind => kind,
            };
            (blobs, Vec::new(), manifest.subject, artifact, manifest.annotations)
        }
        Document::Index(index) => {
            let is_manifest = |part: &&Descriptor| {
                part.media_type.is_empty() || media_type::MANIFESTS.contains(&part.media_type.as_str())
            };
            let (manifests, blobs): (Vec<_>, Vec<_>) = index.manifests.iter().partition(is_manifest);
            let pairs = |parts: Vec<&Descriptor>| parts.into_iter().map(pair).collect::<Vec<_>>();
            (pairs(blobs), pairs(manifests), index.subject, index.artifact_type, index.annotations)
        }
    };
    if !artifact.is_empty() {
        descriptor["artifactType"] = json!(artifact);
    }
    if !annotations.is_empty() {
        descriptor["annotations"] = json!(annotations);
    }
    let subject = subject.map(|subject| subject.digest);
    Checked { digest, media_type: kind, blobs, manifests, subject, descriptor }
}

/// One `syncfs` for all manifests that wait for one at the same time.
#[derive(Debug, Default)]
pub(crate) struct Syncs {
    begun: AtomicU64,
    ended: tokio::sync::Mutex<Ended>,
}

/// Numbers of syncs.
#[derive(Debug, Default)]
struct Ended {
    done: u64,
    failed: u64,
}

impl Syncs {
    /// Returns when everything written before the call is on the disk. A failure is one of all that had come by
    /// then: the kernel tells it once, and a second sync would succeed without their bytes.
    pub(crate) async fn done(
        &self,
        sync: impl FnOnce() -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), Failure> {
        // One that has begun already may have passed by what was just written.
        let needed = self.begun.load(Ordering::SeqCst) + 1;
        let mut ended = self.ended.lock().await;
        if ended.failed >= needed {
            return Err(Failure::new(Code::Unknown, "the manifest may not be on the disk: push it again"));
        }
        if ended.done >= needed {
            return Ok(());
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let synced = blocking(sync).await;
        match &synced {
            Ok(()) => ended.done = number,
            // Who came while it ran waits for the next number, which is skipped.
            Err(_) => ended.failed = self.begun.fetch_add(1, Ordering::SeqCst) + 1,
        }
        synced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    fn manifest(more: &str) -> Vec<u8> {
        let kind = media_type::OCI_CONFIG;
        let config = format!(r#"{{"mediaType":"{kind}","digest":"{EMPTY}","size":2}}"#);
        format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]{more}}}"#).into_bytes()
    }

    fn refused(header: Option<&str>, bytes: &[u8]) -> bool {
        check(header, bytes, &Target::Tag("v1".to_owned())).is_err()
    }

    #[tokio::test]
    async fn a_sync_that_failed_is_nobodys_success() {
        let syncs = Syncs::default();
        let (tell, told) = std::sync::mpsc::channel();
        let fails = move || {
            // The sender is there until the others wait.
            let _ = told.recv();
            let source = std::io::Error::other("lost");
            Err(StoreError::Io { action: "sync", path: "/".into(), source })
        };
        let first = syncs.done(fails);
        let second = syncs.done(|| Ok(()));
        let (first, second, ()) = tokio::join!(first, second, async { tell.send(()).unwrap() });
        assert!(first.is_err() && second.is_err());
        assert!(syncs.done(|| Ok(())).await.is_ok());
    }

    #[test]
    fn a_manifest_is_what_its_header_and_its_fields_say() {
        let oci = Some(media_type::OCI_MANIFEST);
        let good = check(oci, &manifest(""), &Target::Tag("v1".to_owned())).unwrap();
        assert_eq!(good.digest, Digest::sha256(&manifest("")));
        assert_eq!(good.blobs, [(Digest::parse(EMPTY).unwrap(), 2)]);
        assert!(!refused(Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"), &manifest("")));
        assert!(refused(None, &manifest("")));
        assert!(refused(Some("application/json"), &manifest("")));
        assert!(refused(Some(media_type::OCI_INDEX), &manifest("")));
        let docker = format!(r#","mediaType":"{}""#, media_type::DOCKER_MANIFEST);
        assert!(refused(oci, &manifest(&docker)));
        assert!(!refused(None, &manifest(&docker)));
        assert!(refused(oci, &manifest(r#","manifests":[]"#)));
        assert!(refused(oci, b"{}"));
        assert!(refused(oci, b"not json"));
    }

    #[test]
    fn a_digest_must_be_of_the_bytes() {
        let oci = Some(media_type::OCI_MANIFEST);
        let other = Target::Digest(Digest::sha256(b"other"));
        assert!(check(oci, &manifest(""), &other).is_err());
        let mut long = Hasher::new(Algorithm::Sha512);
        long.update(&manifest(""));
        let long = long.finish();
        assert_eq!(check(oci, &manifest(""), &Target::Digest(long.clone())).unwrap().digest, long);
    }

    #[test]
    fn a_referrer_is_listed_by_its_type_and_annotations() {
        let subject = format!(r#","subject":{{"mediaType":"x","digest":"{EMPTY}","size":2}}"#);
        let more = format!(r#"{subject},"annotations":{{"a":"b"}}"#);
        let target = Target::Tag("v1".to_owned());
        let checked = check(Some(media_type::OCI_MANIFEST), &manifest(&more), &target).unwrap();
        assert_eq!(checked.subject, Digest::parse(EMPTY).ok());
        assert_eq!(checked.descriptor["artifactType"], media_type::OCI_CONFIG);
        assert_eq!(checked.descriptor["annotations"]["a"], "b");
        let typed = manifest(&format!(r#"{subject},"artifactType":"x/y""#));
        let checked = check(Some(media_type::OCI_MANIFEST), &typed, &target).unwrap();
        assert_eq!(checked.descriptor["artifactType"], "x/y");
        let index = format!(r#"{{"schemaVersion":2,"manifests":[]{subject}}}"#);
        let checked = check(Some(media_type::OCI_INDEX), index.as_bytes(), &target).unwrap();
        assert_eq!(checked.descriptor.get("artifactType"), None);
    }
}
