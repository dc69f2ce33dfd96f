//! Fetching an image from a registry, as far as the daemon can.

use http::StatusCode;
use hull_api::client::{Body, Query};
use hull_oci::reference::{DEFAULT_TAG, Reference};

use crate::command::{Arguments, Command, Failure, Outcome, fail};
use crate::flags::{Flag, Given};
use crate::progress::Progress;
use crate::session::{Session, line};

pub(crate) static PULL: Command = Command {
    paths: &["image pull", "pull"],
    usage: "[OPTIONS] NAME[:TAG|@DIGEST]",
    summary: "Fetch an image from a registry",
    arguments: Arguments::Exactly(1),
    stop_at_argument: false,
    flags: &[&[
        Flag::switch("disable-content-trust", "").default("true"),
        Flag::text("platform", "Platform to use if the image has several"),
        Flag::switch("quiet", "Show the name only").short('q'),
    ]],
    run: |session, given| Box::pin(pull(session, given)) as Outcome<'_>,
};

async fn pull(session: &Session, given: &Given) -> Result<u8, Failure> {
    let image = given.arguments[0].as_str();
    let reference = Reference::parse(image)?;
    let quiet = given.on("quiet");
    if reference.is_name_only() && !quiet {
        line(&format!("Using default tag: {DEFAULT_TAG}"));
    }
    fetch(session, image, given.text("platform"), quiet).await?;
    line(&reference.with_default_tag().to_string());
    Ok(0)
}

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
    let headers = session.credentials().header(&reference)?;
    let answer = session.client.post_with("/images/create", &query, &headers, Body::Empty).await;
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
