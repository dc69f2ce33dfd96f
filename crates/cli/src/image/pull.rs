//! Fetching an image from a registry, as far as the daemon can.

use http::StatusCode;
use hull_api::client::{Body, Query};
use hull_oci::reference::Reference;

use crate::command::{Failure, fail};
use crate::progress::Progress;
use crate::session::Session;

/// Asks the daemon to fetch `image`.
pub(crate) async fn fetch(
    session: &Session,
    image: &str,
    platform: &str,
    quiet: bool,
) -> Result<(), Failure> {
    let reference = Reference::parse(image)?.with_default_tag();
    let tag = match (&reference.digest, &reference.tag) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.clone().unwrap_or_default(),
    };
    let query = Query::new()
        .with("fromImage", reference.name())
        .unless_empty("tag", &tag)
        .unless_empty("platform", platform);
    let answer = session.client.post("/images/create", &query, Body::Empty).await;
    let answer = match answer {
        Err(error) if error.status() == Some(StatusCode::NOT_IMPLEMENTED) => {
            return Err(fail(format!(
                "{error}\nPulling from registries comes later. Bring the image in with \
                 '{0} load -i FILE', '{0} import FILE {image}', \
                 or make one of this host's programs with '{0} image capture {image} PROGRAM…'.",
                session.program
            )));
        }
        other => other?,
    };
    let mut progress = Progress::new(quiet);
    progress.follow(answer).await
}
