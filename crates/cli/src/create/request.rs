//! The create request itself: the image that is missing, the ID file.

use std::fs::File;
use std::io::Write;

use hull_api::client::{Body, Query};
use hull_oci::reference::is_identifier;
use hull_oci::{Digest, Reference};
use serde::Deserialize;
use serde_json::Value;

use super::body::{self, Surroundings};
use super::files::reason;
use super::ports::{self, Ranges};
use crate::command::{Failure, fail};
use crate::flags::{Given, quoted};
use crate::session::{Session, say};

#[derive(Deserialize)]
struct Created {
    #[serde(rename = "Id")]
    id: String,
    #[serde(rename = "Warnings", default)]
    warnings: Option<Vec<String>>,
}

/// The body for these flags, with what surrounds the call.
pub(crate) async fn prepare(session: &Session, given: &Given) -> Result<Value, String> {
    let wide = given.list("publish").chain(given.list("expose")).any(ports::is_wide);
    let around = Surroundings {
        console: crate::terminal::size(),
        proxies: proxies(session),
        ranges: if wide { ranges(session).await } else { Ranges::SpelledOut },
    };
    let pull = given.text("pull");
    if !matches!(pull, "always" | "missing" | "never" | "") {
        return Err(format!(
            "invalid pull option: '{pull}': must be one of \"always\", \"missing\" or \"never\""
        ));
    }
    platform(given.text("platform"))?;
    body::build(given, &around)
}

/// How the daemon takes ranges. One that does not answer is reported by the request itself.
async fn ranges(session: &Session) -> Ranges {
    match session.client.ping().await {
        Ok(server) if server.starts_with("Hull/") => Ranges::Whole,
        _ => Ranges::SpelledOut,
    }
}

/// Proxy variables of the user's settings, in both spellings.
fn proxies(session: &Session) -> Vec<String> {
    let settings = &session.config().proxies;
    let host = session.client.endpoint().to_string();
    let Some(proxies) = settings.get(&host).or_else(|| settings.get("default")) else {
        return Vec::new();
    };
    [
        ("HTTP_PROXY", &proxies.http_proxy),
        ("HTTPS_PROXY", &proxies.https_proxy),
        ("NO_PROXY", &proxies.no_proxy),
        ("FTP_PROXY", &proxies.ftp_proxy),
        ("ALL_PROXY", &proxies.all_proxy),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .flat_map(|(name, value)| [format!("{name}={value}"), format!("{}={value}", name.to_ascii_lowercase())])
    .collect()
}

/// Refuses what can be no platform; the daemon judges the rest.
fn platform(text: &str) -> Result<(), String> {
    const KNOWN: [&str; 16] = [
        "linux", "windows", "darwin", "freebsd", "amd64", "x86_64", "x86-64", "arm64", "aarch64", "arm",
        "386", "i386", "ppc64le", "s390x", "riscv64", "mips64le",
    ];
    let known = text.contains('/') || KNOWN.contains(&text.to_ascii_lowercase().as_str());
    if text.is_empty() || known {
        Ok(())
    } else {
        Err(format!(
            "error parsing specified platform: {}: unknown operating system or architecture: invalid argument",
            quoted(text)
        ))
    }
}

/// Creates the container and returns its ID.
pub(crate) async fn send(session: &Session, given: &Given, body: &Value) -> Result<String, Failure> {
    let mut id_file = IdFile::reserve(given.text("cidfile"))?;
    let image = given.arguments.first().map_or("", String::as_str);
    // A whole ID, with its algorithm or without, is no name and as good.
    if !is_identifier(image) && Digest::parse(image).is_err() {
        Reference::parse(image)?;
    }
    let query = Query::new()
        .unless_empty("name", given.text("name"))
        .unless_empty("platform", given.text("platform"));
    let pull = given.text("pull");
    if pull == "always" {
        crate::image::pull::fetch(session, image, given.text("platform"), given.on("quiet")).await?;
    }
    let attempt = || async {
        let body = Body::json(body);
        let answer = session.client.post("/containers/create", &query, body).await?;
        answer.json::<Created>().await
    };
    let created = match attempt().await {
        Err(error) if error.is_not_found() && pull == "missing" => {
            let shown = crate::image::with_tag(image);
            say(&format!("Unable to find image '{shown}' locally"));
            crate::image::pull::fetch(session, image, given.text("platform"), given.on("quiet")).await?;
            attempt().await?
        }
        other => other?,
    };
    for warning in created.warnings.iter().flatten() {
        say(&format!("WARNING: {warning}"));
    }
    id_file.write(&created.id)?;
    Ok(created.id)
}

/// The file that will hold the ID; removed again unless it is written.
struct IdFile {
    path: String,
    file: Option<File>,
    written: bool,
}

impl IdFile {
    fn reserve(path: &str) -> Result<IdFile, Failure> {
        if path.is_empty() {
            return Ok(IdFile { path: String::new(), file: None, written: true });
        }
        match File::create_new(path) {
            Ok(file) => Ok(IdFile { path: path.to_owned(), file: Some(file), written: false }),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(fail(format!(
                "container ID file found, make sure the other container isn't running or delete {path}"
            ))),
            Err(error) => {
                Err(fail(format!("failed to create the container ID file: open {path}: {}", reason(&error))))
            }
        }
    }

    fn write(&mut self, id: &str) -> Result<(), Failure> {
        if let Some(file) = &mut self.file {
            file.write_all(id.as_bytes()).map_err(|error| {
                fail(format!("failed to write the container ID to the file: {}", reason(&error)))
            })?;
        }
        self.written = true;
        Ok(())
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if !self.written {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
