//! Lists: repositories, tags, referrers (distribution-spec, `spec.md#content-discovery`).

use std::sync::Arc;

use http::StatusCode;
use http::header::LINK;
use hull_oci::Digest;
use hull_oci::image::media_type;
use serde_json::{Value, json};

use super::action::Name;
use super::answer::{Answer, Code, FILTERS, Failure, Handled, bytes_answer, json_answer, set};
use super::pages::{self, Chosen, Page};
use super::routes::{Call, blocking};

/// A page of referrers ends when so many bytes were read for it, for each may have large annotations.
const REFERRERS: usize = 1 << 20;

fn linked(mut answer: Answer, link: Option<String>) -> Answer {
    if let Some(link) = link {
        set(&mut answer, LINK, &link);
    }
    answer
}

/// Only what the caller may pull is shown.
pub(crate) async fn catalog(call: &Call) -> Handled {
    let mut chosen = Chosen::new(Page::of(&call.query)?);
    let (store, visible) = (Arc::clone(&call.shared.store), call.visible());
    let chosen = blocking(move || {
        store.each_repository(&mut |name| {
            if visible(name) {
                chosen.offer(name.as_str());
            }
            Ok(())
        })?;
        Ok(chosen)
    });
    let (names, link) = chosen.await?.finish("/v2/_catalog", "");
    Ok(linked(json_answer(StatusCode::OK, &json!({ "repositories": names })), link))
}

pub(crate) async fn tags(call: &Call, name: &Name) -> Handled {
    let mut chosen = Chosen::new(Page::of(&call.query)?);
    let (store, of) = (Arc::clone(&call.shared.store), name.clone());
    let chosen = blocking(move || {
        if !store.has_repository(&of) {
            return Ok(None);
        }
        store.each_tag(&of, &mut |tag| chosen.offer(tag))?;
        Ok(Some(chosen))
    });
    let unknown = || Failure::with_detail(Code::NameUnknown, json!({ "name": name.as_str() }));
    let chosen = chosen.await?.ok_or_else(unknown)?;
    let (tags, link) = chosen.finish(&format!("/v2/{name}/tags/list"), "");
    Ok(linked(json_answer(StatusCode::OK, &json!({ "name": name.as_str(), "tags": tags })), link))
}

/// An index of the manifests that have this subject; empty for one that nobody knows.
pub(crate) async fn referrers(call: &Call, name: &Name, subject: &Digest) -> Handled {
    let wanted = call.query.get("artifactType").filter(|kind| !kind.is_empty()).map(str::to_owned);
    let page = Page::of(&call.query)?;
    let (most, filter) = (page.most, wanted.clone());
    // With a filter more are looked at than are shown, and a page with few of them has a next one.
    let mut chosen = Chosen::new(Page { most: pages::MOST, ..page });
    let (store, of, digest) = (Arc::clone(&call.shared.store), name.clone(), subject.clone());
    let found = blocking(move || {
        let (mut descriptors, mut bytes, mut last) = (Vec::new(), 0, None);
        store.each_referrer(&of, &digest, &mut |referrer| chosen.offer(referrer))?;
        let (referrers, more) = chosen.names();
        for referrer in referrers {
            if descriptors.len() >= most || bytes > REFERRERS {
                return Ok((descriptors, last));
            }
            if let Some(descriptor) = store.descriptor(&of, &digest, &referrer)? {
                bytes += descriptor.to_string().len();
                if filter.as_ref().is_none_or(|kind| descriptor["artifactType"] == **kind) {
                    descriptors.push(descriptor);
                }
            }
            last = Some(referrer);
        }
        Ok((descriptors, last.filter(|_| more)))
    });
    let (descriptors, last) = found.await?;
    let index: Value =
        json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": descriptors });
    let mut answer = bytes_answer(StatusCode::OK, media_type::OCI_INDEX, index.to_string());
    let mut parameters = String::new();
    if let Some(kind) = wanted {
        set(&mut answer, FILTERS, "artifactType");
        parameters = format!("&artifactType={}", pages::encode(&kind));
    }
    let path = format!("/v2/{name}/referrers/{subject}");
    Ok(linked(answer, last.map(|last| pages::link(&path, most, &last, &parameters))))
}
