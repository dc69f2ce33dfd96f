//! `history`: how an image came to be, newest step first.

use hull_oci::Digest;

use super::Images;
use crate::Result;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The image that ended with this step, where it is on this host.
    pub image: Option<Digest>,
    /// Seconds since the epoch.
    pub created: i64,
    pub created_by: String,
    pub comment: String,
    /// Bytes of the files of the step's layer; 0 for a step without one.
    pub size: u64,
    /// Names of that image, familiar and sorted.
    pub tags: Vec<String>,
}

impl Images {
    pub fn history(&self, key: &str) -> Result<Vec<Step>> {
        let state = self.0.read();
        let image = state.resolve(key)?;
        let mut sizes = image.layer_sizes.iter();
        let mut steps: Vec<Step> = Vec::new();
        for entry in &image.config.history {
            let created = entry.created.as_deref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
            steps.push(Step {
                image: None,
                created: created.map_or(0, jiff::Timestamp::as_second),
                created_by: entry.created_by.clone(),
                comment: entry.comment.clone(),
                size: if entry.empty_layer { 0 } else { sizes.next().copied().unwrap_or(0) },
                tags: Vec::new(),
            });
        }
        steps.reverse();
        let mut current = Some(image);
        for step in &mut steps {
            let Some(image) = current else { break };
            step.image = Some(image.id.clone());
            step.tags =
                state.names_of(&image.id).iter().filter(|n| n.tag.is_some()).map(|n| n.familiar()).collect();
            step.tags.sort();
            current = image.parent.as_ref().and_then(|parent| state.images.get(parent)).cloned();
        }
        Ok(steps)
    }
}
