//! Fetching images from registries: the daemon does it.

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
        Flag::switch("all-tags", "Fetch all tagged images of the repository").short('a'),
        Flag::switch("disable-content-trust", "").default("true"),
        Flag::text("platform", "Platform to use if the image has several"),
        Flag::switch("quiet", "Show the name only").short('q'),
    ]],
    run: |session, given| Box::pin(pull(session, given)) as Outcome<'_>,
};

async fn pull(session: &Session, given: &Given) -> Result<u8, Failure> {
    let image = given.arguments[0].as_str();
    let reference = Reference::parse(image)?;
    let (quiet, all) = (given.on("quiet"), given.on("all-tags"));
    if all && !reference.is_name_only() {
        return Err(fail("tag can't be used with --all-tags/-a"));
    }
    if all {
        fetch_reference(session, &reference, given.text("platform"), quiet).await?;
        line(&reference.to_string());
        return Ok(0);
    }
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
    fetch_reference(session, &Reference::parse(image)?.with_default_tag(), platform, quiet).await
}

/// The same; without tag and digest it is all tags.
async fn fetch_reference(
    session: &Session,
    reference: &Reference,
    platform: &str,
    quiet: bool,
) -> Result<(), Failure> {
    let tag = match (&reference.digest, &reference.tag) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.clone().unwrap_or_default(),
    };
    let query = Query::new()
        .with("fromImage", reference.name())
        .unless_empty("tag", &tag)
        .unless_empty("platform", platform);
    let headers = session.credentials().header(reference)?;
    let answer = session.client.post_with("/images/create", &query, &headers, Body::Empty).await?;
    let mut progress = Progress::new(quiet);
    progress.follow(answer).await
}
