//! Making a base image of a distribution's package archive.

use hull_api::client::{Body, Query};
use hull_api::image::BootstrapRequest;
use hull_oci::reference::Reference;

use crate::command::{Arguments, Command, Failure, Outcome, fail};
use crate::flags::{Flag, Given, any};
use crate::progress::Progress;
use crate::session::{Session, line};

pub(crate) static BOOTSTRAP: Command = Command {
    paths: &["image bootstrap"],
    usage: "[OPTIONS] NAME[:SUITE]",
    summary: "Make a base image of a distribution's package archive",
    arguments: Arguments::Exactly(1),
    stop_at_argument: false,
    flags: &[&[
        Flag::list("include", any, "Add packages (NAME[,NAME...]), with what they depend on"),
        Flag::text("keyring", "File with the keys that count (default: those of the daemon's apt)"),
        Flag::text("mirror", "Address of the archive (default: that of the daemon's apt)"),
        Flag::switch("quiet", "Show the ID only").short('q'),
        Flag::text("suite", "Release of the distribution (default: the name's tag)"),
        Flag::text("variant", "What is in any case: essential, minbase, important or standard")
            .default("minbase"),
    ]],
    run: |session, given| Box::pin(bootstrap(session, given)) as Outcome<'_>,
};

async fn bootstrap(session: &Session, given: &Given) -> Result<u8, Failure> {
    let name = &given.arguments[0];
    let reference = Reference::parse(name)?;
    if reference.is_name_only() && given.text("suite").is_empty() {
        return Err(fail(format!(
            "no suite: name it as the image's tag, as in '{} image bootstrap debian:bookworm', or with --suite",
            session.program
        )));
    }
    let keyring = match given.text("keyring") {
        "" => Vec::new(),
        path => std::fs::read(path).map_err(|error| fail(format!("read {path}: {error}")))?,
    };
    let include = given.list("include").flat_map(|names| names.split(','));
    let request = BootstrapRequest {
        name: name.clone(),
        suite: given.text("suite").to_owned(),
        variant: given.text("variant").to_owned(),
        include: include.map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        mirror: given.text("mirror").to_owned(),
        keyring,
    };
    let body = Body::json(&request);
    let answer = session.client.post("/hull/v1/images/bootstrap", &Query::new(), body).await?;
    let mut progress = Progress::new(given.on("quiet"));
    progress.follow(answer).await?;
    if progress.id.is_empty() {
        return Err(fail("the daemon has ended before the image was made"));
    }
    line(&progress.id);
    Ok(0)
}
