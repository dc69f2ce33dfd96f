//! `load`, `save` and `import`: images as archives.

use hull_api::client::{Body, Query, stream_of};
use hull_oci::reference::Reference;

use crate::command::{Arguments, Command, Failure, Outcome, fail};
use crate::create::reason;
use crate::flags::{Flag, Given, any};
use crate::output;
use crate::progress::Progress;
use crate::session::Session;

pub(crate) static LOAD: Command = Command {
    paths: &["image load", "load"],
    usage: "[OPTIONS]",
    summary: "Load images from an archive",
    arguments: Arguments::None,
    stop_at_argument: false,
    flags: &[&[
        Flag::text("input", "Read the archive from this file, not from STDIN").short('i'),
        Flag::text("platform", "Load this platform only, as os[/arch[/variant]]"),
        Flag::switch("quiet", "Show nothing of the progress").short('q'),
    ]],
    run: |session, given| Box::pin(load(session, given)) as Outcome<'_>,
};

pub(crate) static SAVE: Command = Command {
    paths: &["image save", "save"],
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    summary: "Save images to an archive",
    arguments: Arguments::AtLeast(1),
    stop_at_argument: false,
    flags: &[&[
        Flag::text("output", "Write the archive to this file, not to STDOUT").short('o'),
        Flag::text("platform", "Save this platform only, as os[/arch[/variant]]"),
    ]],
    run: |session, given| Box::pin(save(session, given)) as Outcome<'_>,
};

pub(crate) static IMPORT: Command = Command {
    paths: &["image import", "import"],
    usage: "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
    summary: "Make an image of an archive of files",
    arguments: Arguments::AtLeast(1),
    stop_at_argument: false,
    flags: &[&[
        Flag::list("change", any, "Apply a Dockerfile instruction to the image").short('c'),
        Flag::text("message", "Set the image's comment").short('m'),
        Flag::text("platform", "Set the image's platform"),
    ]],
    run: |session, given| Box::pin(import(session, given)) as Outcome<'_>,
};

/// How a save that fails begins to say so.
const FAILED: &str = "failed to save image";

/// A file to send, or standard input.
async fn source(path: &str) -> Result<Body, Failure> {
    if path.is_empty() || path == "-" {
        return Ok(stream_of(tokio::io::stdin()));
    }
    match tokio::fs::File::open(path).await {
        Ok(file) => Ok(stream_of(file)),
        Err(error) => Err(fail(format!("open {path}: {}", reason(&error)))),
    }
}

fn platform(given: &Given) -> String {
    match given.text("platform") {
        "" => String::new(),
        text => super::platform_document(text),
    }
}

async fn load(session: &Session, given: &Given) -> Result<u8, Failure> {
    let input = given.text("input");
    if input.is_empty() && crate::terminal::stdin_is_terminal() {
        return Err(fail("requested load from stdin, but stdin is empty"));
    }
    let body = source(input).await?;
    let shown = rustix::termios::isatty(rustix::stdio::stdout());
    let quiet = given.on("quiet") || !shown;
    let query = Query::new().switch("quiet", quiet).unless_empty("platform", &platform(given));
    let answer = session.client.post("/images/load", &query, body).await?;
    // What was loaded is said even to those who want no progress.
    Progress::new(false).follow(answer).await?;
    Ok(0)
}

async fn save(session: &Session, given: &Given) -> Result<u8, Failure> {
    let output = given.text("output");
    output::check(output, FAILED)?;
    let mut query = Query::new().unless_empty("platform", &platform(given));
    for name in &given.arguments {
        query = query.with("names", name.as_str());
    }
    output::write(session.client.get("/images/get", &query).await?, output, FAILED).await
}

async fn import(session: &Session, given: &Given) -> Result<u8, Failure> {
    let from = given.arguments[0].as_str();
    let name = given.arguments.get(1).map_or("", String::as_str);
    if !name.is_empty() {
        Reference::parse(name)?;
    }
    let remote = from.starts_with("http://") || from.starts_with("https://");
    let body = if remote { Body::Empty } else { source(from).await? };
    let mut query = Query::new()
        .with("fromSrc", if remote { from } else { "-" })
        .unless_empty("repo", name)
        .unless_empty("message", given.text("message"))
        .unless_empty("platform", given.text("platform"));
    for change in given.list("change") {
        query = query.with("changes", change);
    }
    let answer = session.client.post("/images/create", &query, body).await?;
    Progress::new(false).follow(answer).await?;
    Ok(0)
}
