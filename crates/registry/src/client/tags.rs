//! Lists of tags (distribution-spec `spec.md#listing-tags`, end-8), page by page.

use std::collections::BTreeSet;

use http::StatusCode;
use hull_oci::reference::is_tag;
use serde::Deserialize;

use super::ask::{Ask, To, accept};
use super::document::whole;
use super::door::Door;
use super::range::next_page;
use super::{Error, Repository, Result};

/// Bytes of a page.
const PAGE: u64 = 4 << 20;
/// Pages at most, so that a list ends.
const PAGES: usize = 1000;
/// Tags at most.
const MOST: usize = 100_000;

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl Repository {
    /// All tags, sorted.
    pub async fn tags(&self) -> Result<Vec<String>> {
        let (tags, _) = self.each(|door| self.tags_from(door)).await?;
        Ok(tags.into_iter().collect())
    }

    async fn tags_from(&self, door: &Door) -> Result<BTreeSet<String>> {
        let mut tags = BTreeSet::new();
        let mut ask = Ask::get("/tags/list".to_owned());
        for _ in 0..PAGES {
            let mut answer = accept("Get", self.ask(door, ask).await?, &[StatusCode::OK]).await?;
            let address = answer.address.to_string();
            let nonsense = |why: String| Error::Nonsense { address: address.clone(), why };
            let next = answer.header(http::header::LINK).and_then(next_page);
            let next = next.map(|next| answer.address.join(next)).transpose().map_err(Error::Address)?;
            if next.as_ref().is_some_and(|next| !next.same_origin(&answer.address)) {
                return Err(nonsense("its list goes on at another server".to_owned()));
            }
            let bytes = whole(&mut answer, PAGE).await?;
            let page = serde_json::from_slice::<Page>(&bytes);
            let page = page.map_err(|_| nonsense("it is no list of tags".to_owned()))?;
            let found = page.tags.unwrap_or_default();
            if found.iter().any(|tag| !is_tag(tag)) || tags.len() + found.len() > MOST {
                return Err(nonsense(format!("its tags are none, or more than {MOST}")));
            }
            tags.extend(found);
            let Some(next) = next else { return Ok(tags) };
            ask = Ask { to: To::Address(next), ..Ask::get(String::new()) };
        }
        Err(Error::Nonsense {
            address: door.authority().to_owned(),
            why: format!("its list of tags has more than {PAGES} pages"),
        })
    }
}
