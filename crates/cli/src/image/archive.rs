//! `load`, `save` and `import`: images as archives.

use std::io::Write;
use std::path::Path;

use hull_api::client::{Body, Query, stream_of};
use hull_oci::reference::Reference;

use crate::command::{Arguments, Command, Failure, Outcome, fail};
use crate::create::reason;
use crate::flags::{Flag, Given, any};
use crate::progress::Progress;
use crate::session::Session;
use crate::streams::write_stream;

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
    if output.is_empty() && rustix::termios::isatty(rustix::stdio::stdout()) {
        return Err(fail("cowardly refusing to save to a terminal. Use the -o flag or redirect"));
    }
    if !output.is_empty() {
        check_output(output)?;
    }
    let mut query = Query::new().unless_empty("platform", &platform(given));
    for name in &given.arguments {
        query = query.with("names", name.as_str());
    }
    let mut answer = session.client.get("/images/get", &query).await?;
    if output.is_empty() {
        while let Some(piece) = answer.chunk().await? {
            if !write_stream(1, &piece) {
                return Err(Failure::said(141));
            }
        }
        return Ok(0);
    }
    let failed = |error: &std::io::Error| fail(format!("failed to save image: {}", reason(error)));
    let mut file = Unfinished::create(output).map_err(|error| failed(&error))?;
    while let Some(piece) = answer.chunk().await? {
        file.file.write_all(&piece).map_err(|error| failed(&error))?;
    }
    file.publish().map_err(|error| failed(&error))?;
    Ok(0)
}

/// Refuses an output that can be no file, before anything is asked for.
fn check_output(output: &str) -> Result<(), Failure> {
    let refuse = |reason: String| fail(format!("failed to save image: invalid output path: {reason}"));
    let path = Path::new(output);
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    if let Err(error) = std::fs::metadata(folder) {
        return Err(refuse(format!("stat {}: {}", folder.display(), reason(&error))));
    }
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(refuse(format!("\"{output}\" is a directory"))),
        Ok(found) if !found.is_file() => Err(refuse(format!("\"{output}\" is not a regular file"))),
        _ => Ok(()),
    }
}

/// A file that appears under its name only when it is whole.
struct Unfinished {
    file: std::fs::File,
    path: String,
    target: String,
    published: bool,
}

impl Unfinished {
    fn create(target: &str) -> std::io::Result<Unfinished> {
        use std::os::unix::fs::OpenOptionsExt;
        let path = format!("{target}.{}.part", std::process::id());
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Unfinished { file, path, target: target.to_owned(), published: false })
    }

    fn publish(mut self) -> std::io::Result<()> {
        std::fs::rename(&self.path, &self.target)?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.published {
            let _ = std::fs::remove_file(&self.path);
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_only_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("x.tar");
        let name = target.to_str().unwrap();
        drop(Unfinished::create(name).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let mut file = Unfinished::create(name).unwrap();
        file.file.write_all(b"tar").unwrap();
        file.publish().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"tar");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_output_that_can_be_no_file_is_refused() {
        let said = |path| check_output(path).unwrap_err().message;
        assert_eq!(
            said("/nonexistent/x.tar"),
            "failed to save image: invalid output path: stat /nonexistent: no such file or directory"
        );
        assert_eq!(said("/tmp"), "failed to save image: invalid output path: \"/tmp\" is a directory");
    }
}
