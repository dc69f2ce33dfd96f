//! `manifest …`: manifests in registries, and lists of them that are put together here.
//!
//! A list that is not pushed yet is a folder below `manifests` in the folder of `config.json`, with a file for each of
//! its manifests, as the reference has it. Registries are asked by the daemon (`/hull/v1/manifests`).

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use hull_api::client::{Body, Query, segment};
use hull_api::registry::{Child, ManifestInspect, ManifestList, ManifestPushed};
use hull_oci::Platform;
use hull_oci::image::{Descriptor, Index, media_type};
use hull_oci::reference::Reference;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::command::{Arguments, Command, Failure, Outcome, fail};
use crate::flags::{Flag, Given, any};
use crate::output::Unfinished;
use crate::session::{Session, line, print};

/// Taken as the reference takes it; the daemon knows which registries are insecure.
const INSECURE: Flag = Flag::switch("insecure", "");

pub(crate) static INSPECT: Command = Command {
    paths: &["manifest inspect"],
    usage: "[OPTIONS] [MANIFEST_LIST] MANIFEST",
    summary: "Show a manifest, or a list of them",
    arguments: Arguments::Between(1, 2),
    stop_at_argument: false,
    flags: &[&[INSECURE, Flag::switch("verbose", "Show more, of each manifest of a list").short('v')]],
    run: |session, given| Box::pin(inspect(session, given)) as Outcome<'_>,
};

pub(crate) static CREATE: Command = Command {
    paths: &["manifest create"],
    usage: "MANIFEST_LIST MANIFEST [MANIFEST...]",
    summary: "Make a list of manifests here",
    arguments: Arguments::AtLeast(2),
    stop_at_argument: false,
    flags: &[&[Flag::switch("amend", "Add to a list that is here").short('a'), INSECURE]],
    run: |session, given| Box::pin(create(session, given)) as Outcome<'_>,
};

pub(crate) static ANNOTATE: Command = Command {
    paths: &["manifest annotate"],
    usage: "[OPTIONS] MANIFEST_LIST MANIFEST",
    summary: "Say which platform a manifest of a list is for",
    arguments: Arguments::Exactly(2),
    stop_at_argument: false,
    flags: &[&[
        Flag::text("arch", "Architecture"),
        Flag::text("os", "Operating system"),
        Flag::list("os-features", any, "Features of the operating system").label("strings"),
        Flag::text("os-version", "Version of the operating system"),
        Flag::text("variant", "Variant of the architecture"),
    ]],
    run: |session, given| Box::pin(async { annotate(session, given) }) as Outcome<'_>,
};

pub(crate) static PUSH: Command = Command {
    paths: &["manifest push"],
    usage: "[OPTIONS] MANIFEST_LIST",
    summary: "Send a list of manifests to its registry",
    arguments: Arguments::Exactly(1),
    stop_at_argument: false,
    flags: &[&[INSECURE, Flag::switch("purge", "Remove the list here afterwards").short('p')]],
    run: |session, given| Box::pin(push(session, given)) as Outcome<'_>,
};

pub(crate) static REMOVE: Command = Command {
    paths: &["manifest rm"],
    usage: "MANIFEST_LIST [MANIFEST_LIST...]",
    summary: "Remove lists of manifests that are here",
    arguments: Arguments::AtLeast(1),
    stop_at_argument: false,
    flags: &[],
    run: |session, given| Box::pin(async { remove(session, given) }) as Outcome<'_>,
};

/// One manifest of a list, as a file has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(rename = "Ref")]
    reference: Reference,
    descriptor: Descriptor,
}

/// A name as a file's.
fn file_name(name: &Reference) -> String {
    name.to_string().replace(':', "-").replace('/', "_")
}

fn parse(name: &str) -> Result<Reference, Failure> {
    Ok(Reference::parse(name)?.with_default_tag())
}

fn folder(session: &Session, list: &Reference) -> PathBuf {
    session.folder().join("manifests").join(file_name(list))
}

/// The manifests of a list, in the order of their files' names; `None`: it is not here.
fn read(session: &Session, list: &Reference) -> Result<Option<Vec<Entry>>, Failure> {
    let folder = folder(session, list);
    let files = match fs::read_dir(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        files => files?,
    };
    let mut paths = files.map(|file| file.map(|file| file.path())).collect::<Result<Vec<PathBuf>, _>>()?;
    paths.sort();
    let entry = |path: &PathBuf| -> Result<Entry, Failure> {
        serde_json::from_slice(&fs::read(path)?).map_err(|error| fail(format!("{}: {error}", path.display())))
    };
    paths.iter().map(entry).collect::<Result<_, _>>().map(Some)
}

fn write(session: &Session, list: &Reference, entry: &Entry) -> Result<(), Failure> {
    let folder = folder(session, list);
    fs::create_dir_all(&folder)?;
    let path = folder.join(file_name(&entry.reference));
    let mut file = Unfinished::create(&path.to_string_lossy())?;
    serde_json::to_writer(&mut file.file, entry)?;
    Ok(file.publish()?)
}

/// Asks a registry, by the daemon.
async fn ask(session: &Session, name: &Reference) -> Result<ManifestInspect, Failure> {
    let path = format!("/hull/v1/manifests/{}", segment(&name.to_string()));
    let headers = session.credentials().header(name)?;
    match session.client.get_with(&path, &Query::new(), &headers).await {
        Err(error) if error.is_not_found() => Err(fail(format!("no such manifest: {}", name.familiar()))),
        answer => Ok(answer?.json().await?),
    }
}

/// A document as the reference shows it.
fn show(document: &impl Serialize) -> Result<(), Failure> {
    let mut text = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    document.serialize(&mut serde_json::Serializer::with_formatter(&mut text, format))?;
    print(&format!("{}\n", String::from_utf8_lossy(&text)));
    Ok(())
}

async fn inspect(session: &Session, given: &Given) -> Result<u8, Failure> {
    let name = parse(given.arguments.last().map_or("", String::as_str))?;
    if let [list, _] = &given.arguments[..] {
        let list = parse(list)?;
        let entries = read(session, &list)?.unwrap_or_default();
        let entry = entries.into_iter().find(|entry| entry.reference == name);
        let entry = entry.ok_or_else(|| fail(format!("no such manifest: {}", name.familiar())))?;
        show(&entry)?;
        return Ok(0);
    }
    if let Some(entries) = read(session, &name)? {
        show(&index(&entries))?;
        return Ok(0);
    }
    let found = ask(session, &name).await?;
    let document: Value = serde_json::from_str(&found.raw)?;
    if !given.on("verbose") {
        show(&document)?;
        return Ok(0);
    }
    let Some(children) = document["manifests"].as_array() else {
        show(&detailed(&name, &found, document))?;
        return Ok(0);
    };
    let mut all = Vec::new();
    for child in children {
        let descriptor: Descriptor = serde_json::from_value(child.clone())?;
        let name = name.with_digest(descriptor.digest.clone());
        let mut found = ask(session, &name).await?;
        found.descriptor.platform = descriptor.platform.or(found.descriptor.platform);
        let document = serde_json::from_str(&found.raw)?;
        all.push(detailed(&name, &found, document));
    }
    show(&all)?;
    Ok(0)
}

/// One manifest with all that is known of it, under the reference's names.
fn detailed(name: &Reference, found: &ManifestInspect, document: Value) -> Value {
    let docker = found.descriptor.media_type == media_type::DOCKER_MANIFEST;
    let key = if docker { "SchemaV2Manifest" } else { "OCIManifest" };
    let descriptor = serde_json::to_value(&found.descriptor).unwrap_or_default();
    serde_json::json!({
        "Ref": name.familiar(),
        "Descriptor": descriptor,
        "Raw": hull_api::base64::encode(found.raw.as_bytes()),
        key: document,
    })
}

async fn create(session: &Session, given: &Given) -> Result<u8, Failure> {
    let list = parse(&given.arguments[0])?;
    if read(session, &list)?.is_some() && !given.on("amend") {
        return Err(fail("refusing to amend an existing manifest list with no --amend flag"));
    }
    for name in &given.arguments[1..] {
        let name = parse(name)?;
        let found = ask(session, &name).await?;
        if ![media_type::DOCKER_MANIFEST, media_type::OCI_MANIFEST].contains(&&*found.descriptor.media_type) {
            return Err(fail(format!("{} is no manifest of one image", name.familiar())));
        }
        write(session, &list, &Entry { reference: name, descriptor: found.descriptor })?;
    }
    line(&format!("Created manifest list {list}"));
    Ok(0)
}

fn annotate(session: &Session, given: &Given) -> Result<u8, Failure> {
    let (list, name) = (parse(&given.arguments[0])?, parse(&given.arguments[1])?);
    let entries = read(session, &list)?.unwrap_or_default();
    let missing =
        || fail(format!("manifest for image {} does not exist in {}", name.familiar(), list.familiar()));
    let mut entry = entries.into_iter().find(|entry| entry.reference == name).ok_or_else(missing)?;
    let platform = entry.descriptor.platform.get_or_insert_with(Platform::default);
    for (flag, value) in [
        ("arch", &mut platform.architecture),
        ("os", &mut platform.os),
        ("os-version", &mut platform.os_version),
        ("variant", &mut platform.variant),
    ] {
        if given.has(flag) {
            given.text(flag).clone_into(value);
        }
    }
    for feature in given.list("os-features").flat_map(|features| features.split(',')) {
        if !platform.os_features.iter().any(|known| known == feature) {
            platform.os_features.push(feature.to_owned());
        }
    }
    write(session, &list, &entry)?;
    Ok(0)
}

/// The list as a document: of OCI if all that is in it is, else of Docker.
fn index(entries: &[Entry]) -> Index {
    let oci = entries.iter().all(|entry| entry.descriptor.media_type == media_type::OCI_MANIFEST);
    Index {
        schema_version: 2,
        media_type: if oci { media_type::OCI_INDEX } else { media_type::DOCKER_INDEX }.to_owned(),
        artifact_type: String::new(),
        manifests: entries.iter().map(|entry| entry.descriptor.clone()).collect(),
        subject: None,
        annotations: std::collections::BTreeMap::new(),
    }
}

async fn push(session: &Session, given: &Given) -> Result<u8, Failure> {
    let list = parse(&given.arguments[0])?;
    let Some(entries) = read(session, &list)? else {
        return Err(fail(format!("{} not found", list.familiar())));
    };
    if let Some(entry) = entries.iter().find(|entry| entry.reference.domain != list.domain) {
        return Err(fail(format!(
            "cannot use source images from a different registry than the target image: {} != {}",
            entry.reference.domain, list.domain
        )));
    }
    let children = entries.iter().map(|entry| Child {
        repository: entry.reference.path.clone(),
        descriptor: entry.descriptor.clone(),
    });
    let request = ManifestList { children: children.collect(), index: index(&entries) };
    let path = format!("/hull/v1/manifests/{}", segment(&list.to_string()));
    let headers = session.credentials().header(&list)?;
    let answer = session.client.post_with(&path, &Query::new(), &headers, Body::json(&request)).await?;
    let pushed: ManifestPushed = answer.json().await?;
    for entry in entries.iter().filter(|entry| entry.reference.path != list.path) {
        let name = list.with_digest(entry.descriptor.digest.clone());
        line(&format!("Pushed ref {name} with digest: {}", entry.descriptor.digest));
    }
    line(&pushed.digest.to_string());
    if given.on("purge") {
        fs::remove_dir_all(folder(session, &list))?;
    }
    Ok(0)
}

fn remove(session: &Session, given: &Given) -> Result<u8, Failure> {
    let mut errors = Vec::new();
    for name in &given.arguments {
        let list = parse(name)?;
        match fs::remove_dir_all(folder(session, &list)) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                errors.push(format!("No such manifest: {}", list.familiar()))
            }
            removed => removed?,
        }
    }
    crate::container::each::gathered(errors)
}
