//! Archives there and back, read by skopeo, and archives that lie.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;

use hull_oci::image::{Config, Descriptor, media_type};
use hull_oci::{Digest, Platform, Reference};

use super::{ArchivedImage, ReadError, SavedImage, find, open_layer, read, write};
use crate::content::Content;
use crate::layer::{Limits, Mode, apply};
use crate::tar::{Entry, Kind, Writer};

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    for (name, data) in files {
        let kind = Kind::File { size: data.len() as u64, extents: None };
        writer.file(&Entry::new(name.as_bytes(), kind), data).unwrap();
    }
    writer.finish().unwrap();
    bytes
}

/// Unpacks as the daemon does, and reads.
fn load(bytes: &[u8]) -> (tempfile::TempDir, Result<Vec<ArchivedImage>, ReadError>) {
    let folder = tempfile::tempdir().unwrap();
    let root = fs::File::open(folder.path()).unwrap();
    apply(&mut &*bytes, root.as_fd(), Mode::Files, &Limits::default()).unwrap();
    let images = read(root.as_fd(), &Platform::new("linux", "amd64", ""));
    (folder, images)
}

/// Two images over one base layer, one of them compressed.
struct Fixture {
    content: Content,
    images: Vec<SavedImage>,
    layers: Vec<Vec<u8>>,
    _scratch: tempfile::TempDir,
}

fn fixture() -> Fixture {
    let scratch = tempfile::tempdir().unwrap();
    let content = Content::open(scratch.path()).unwrap();
    let plain: Vec<Vec<u8>> = ["base", "one", "two"].map(|name| archive(&[(name, name.as_bytes())])).to_vec();
    let packed = zstd::stream::encode_all(&plain[2][..], 1).unwrap();
    let blobs = [
        (media_type::OCI_LAYER, &plain[0]),
        (media_type::OCI_LAYER, &plain[1]),
        (media_type::OCI_LAYER_ZSTD, &packed),
    ];
    let descriptors = blobs.map(|(kind, bytes)| {
        content.put(bytes).unwrap();
        Descriptor::of(kind, bytes)
    });
    let image = |names: &[&str], layers: &[usize]| {
        let mut config = Config { os: "linux".into(), architecture: "amd64".into(), ..Config::default() };
        config.rootfs.kind = "layers".into();
        config.rootfs.diff_ids = layers.iter().map(|&index| Digest::sha256(&plain[index])).collect();
        config.config.cmd = Some(vec![format!("run {layers:?}")]);
        let id = content.put(&serde_json::to_vec(&config).unwrap()).unwrap();
        let names = names.iter().map(|name| Reference::parse(name).unwrap()).collect();
        SavedImage { id, names, layers: layers.iter().map(|&index| descriptors[index].clone()).collect() }
    };
    let images = vec![image(&["app:1", "localhost:5000/team/app:edge"], &[0, 1]), image(&[], &[0, 2])];
    Fixture { content, images, layers: plain, _scratch: scratch }
}

fn saved(fixture: &Fixture) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&fixture.content, &fixture.images, &mut bytes).unwrap();
    bytes
}

/// What `read` found must be what was saved; returns the layers' bytes.
fn check_same(fixture: &Fixture, folder: &Path, images: &[ArchivedImage]) {
    let root = fs::File::open(folder).unwrap();
    assert_eq!(images.len(), fixture.images.len());
    for (image, saved) in images.iter().zip(&fixture.images) {
        assert_eq!(image.id, saved.id);
        for layer in &image.layers {
            let scratch = tempfile::tempdir().unwrap();
            let target = fs::File::open(scratch.path()).unwrap();
            let mut file = open_layer(root.as_fd(), layer).unwrap();
            let applied = apply(&mut file, target.as_fd(), Mode::Layer, &Limits::default()).unwrap();
            assert_eq!(applied.diff_id, layer.diff_id);
            assert!(fixture.layers.iter().any(|bytes| Digest::sha256(bytes) == applied.diff_id));
        }
    }
}

#[test]
fn what_is_saved_is_read_again_from_both_of_its_faces() {
    let fixture = fixture();
    let bytes = saved(&fixture);
    assert_eq!(bytes, saved(&fixture), "the same images make the same bytes");
    let (folder, images) = load(&bytes);
    let images = images.unwrap();
    check_same(&fixture, folder.path(), &images);
    assert_eq!(images[0].names, fixture.images[0].names);
    // Without the Docker face it is an OCI layout.
    fs::remove_file(folder.path().join("manifest.json")).unwrap();
    let root = fs::File::open(folder.path()).unwrap();
    let again = read(root.as_fd(), &Platform::new("linux", "amd64", "")).unwrap();
    check_same(&fixture, folder.path(), &again);
    assert_eq!(again[0].names, fixture.images[0].names);
    assert_eq!(again[1].names, []);
}

#[test]
fn the_members_are_those_of_the_reference_in_its_order() {
    let bytes = saved(&fixture());
    let scratch = tempfile::tempdir().unwrap();
    fs::write(scratch.path().join("a.tar"), bytes).unwrap();
    let output = Command::new("tar").arg("tf").arg(scratch.path().join("a.tar")).output().unwrap();
    let names = String::from_utf8(output.stdout).unwrap();
    let names: Vec<&str> = names.lines().collect();
    assert_eq!(names[..2], ["blobs/", "blobs/sha256/"]);
    assert_eq!(names[names.len() - 4..], ["index.json", "manifest.json", "oci-layout", "repositories"]);
    assert!(names.is_sorted());
    assert_eq!(names.len(), 2 + 7 + 4, "{names:?}");
}

/// skopeo reads both faces, and what it writes (older layout, links) is read here.
#[test]
fn skopeo_reads_our_archives_and_we_read_its() {
    let fixture = Fixture { images: vec![fixture().images.remove(0)], ..fixture() };
    let scratch = tempfile::tempdir().unwrap();
    let ours = scratch.path().join("ours.tar");
    fs::write(&ours, saved(&fixture)).unwrap();
    let skopeo = |arguments: &[&str]| {
        let output = Command::new("skopeo").arg("--insecure-policy").args(arguments).output();
        let output = output.expect("skopeo is needed for this test");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let ours = ours.to_str().unwrap();
    for source in [format!("docker-archive:{ours}:app:1"), format!("oci-archive:{ours}:1")] {
        let inspected: serde_json::Value = serde_json::from_str(&skopeo(&["inspect", &source])).unwrap();
        assert_eq!(inspected["Os"], "linux", "{source}");
        assert_eq!(inspected["Layers"].as_array().unwrap().len(), 2, "{source}");
    }
    let theirs = scratch.path().join("theirs.tar");
    let target = format!("docker-archive:{}:other:2", theirs.display());
    skopeo(&["copy", "-q", &format!("oci-archive:{ours}:1"), &target]);
    let (folder, images) = load(&fs::read(&theirs).unwrap());
    let images = images.unwrap();
    assert_eq!(images[0].names, [Reference::parse("other:2").unwrap()]);
    check_same(&fixture, folder.path(), &images);
    let layout = scratch.path().join("layout.tar");
    skopeo(&[
        "copy",
        "-q",
        &format!("docker-archive:{ours}:app:1"),
        &format!("oci-archive:{}", layout.display()),
    ]);
    let (folder, images) = load(&fs::read(&layout).unwrap());
    check_same(&fixture, folder.path(), &images.unwrap());
}

fn error(files: &[(&str, &[u8])]) -> String {
    load(&archive(files)).1.unwrap_err().to_string()
}

fn config(diff_ids: &[&[u8]]) -> Vec<u8> {
    let ids: Vec<String> = diff_ids.iter().map(|bytes| Digest::sha256(bytes).to_string()).collect();
    serde_json::to_vec(&serde_json::json!({"os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}}))
        .unwrap()
}

#[test]
fn archives_that_lie_are_refused() {
    let config = config(&[b"layer"]);
    let hex = Digest::sha256(&config).hex().to_owned();
    let forged = "0".repeat(64);
    let manifest = |config: &str, layer: &str, tag: &str| {
        format!(r#"[{{"Config":"{config}","RepoTags":["{tag}"],"Layers":["{layer}"]}}]"#).into_bytes()
    };
    assert_eq!(
        error(&[]),
        "the archive holds neither manifest.json nor index.json: it is no archive of images"
    );
    let text = error(&[("manifest.json", &manifest("c.json", "l", "a:1"))]);
    assert_eq!(text, "the archive lacks \"c.json\"");
    let name = format!("{forged}.json");
    let text = error(&[("manifest.json", &manifest(&name, "l", "a:1")), (&name, &config)]);
    assert_eq!(text, format!("\"{name}\" of the archive holds bytes of sha256:{hex}, not of {forged}"));
    let text = error(&[("manifest.json", &manifest("c.json", "l", "A:1")), ("c.json", &config)]);
    assert_eq!(text, "\"A:1\" in the archive is no name of an image");
    let none = br#"[{"Config":"c.json","RepoTags":null,"Layers":[]}]"#;
    assert_eq!(
        error(&[("manifest.json", none), ("c.json", &config)]),
        "\"c.json\" of the archive is damaged"
    );
    let windows = br#"{"os":"windows","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let text = error(&[("manifest.json", none), ("c.json", windows)]);
    assert_eq!(text, "cannot load an image for windows on linux");
    let text = error(&[("manifest.json", &manifest("/etc/shadow", "l", "a:1"))]);
    assert_eq!(text, "the archive lacks \"/etc/shadow\"");
    let text = error(&[("manifest.json", b"[{")]);
    assert_eq!(text, "\"manifest.json\" of the archive is damaged");
}

#[test]
fn links_in_an_archive_never_lead_out_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("canary"), "secret").unwrap();
    std::os::unix::fs::symlink(outside.path().join("canary"), folder.path().join("manifest.json")).unwrap();
    let root = fs::File::open(folder.path()).unwrap();
    let platform = Platform::new("linux", "amd64", "");
    assert!(matches!(read(root.as_fd(), &platform), Err(ReadError::NoImages)));
    fs::remove_file(folder.path().join("manifest.json")).unwrap();
    let made = Command::new("mkfifo").arg(folder.path().join("manifest.json")).status().unwrap();
    assert!(made.success());
    assert!(matches!(read(root.as_fd(), &platform), Err(ReadError::Kind { .. })));
}

#[test]
fn an_image_of_a_layout_is_found_by_its_tag_or_its_digest() {
    let fixture = fixture();
    let (folder, _images) = load(&saved(&fixture));
    let root = fs::File::open(folder.path()).unwrap();
    let platform = Platform::new("linux", "amd64", "");
    let found =
        |tag: &str, digest: &str| find(root.as_fd(), &platform, tag, digest).map(|image| image.id).ok();
    let [first, second] = &fixture.images[..] else { panic!() };
    assert_eq!(found("edge", ""), Some(first.id.clone()));
    let index = fs::read(folder.path().join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let digest = index["manifests"][2]["digest"].as_str().unwrap();
    assert_eq!(found("", digest), Some(second.id.clone()));
    for (tag, digest) in
        [("", ""), ("latest", ""), ("1 ", ""), ("edge", "sha256:0"), ("", &second.id.to_string())]
    {
        assert_eq!(found(tag, digest), None, "{tag} {digest}: several are there, and none is latest");
    }
}

#[test]
fn a_layout_s_nested_index_gives_the_platform_s_image() {
    let images = ["arm64", "amd64"].map(|architecture| {
        let config = serde_json::json!({"os": "linux", "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": []}});
        let config = serde_json::to_vec(&config).unwrap();
        let manifest = super::manifest(&Digest::sha256(&config), config.len() as u64, &[]).unwrap();
        (architecture, config, manifest)
    });
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    let mut blob =
        |bytes: &[u8]| files.push((format!("blobs/sha256/{}", Digest::sha256(bytes).hex()), bytes.to_vec()));
    let mut manifests = Vec::new();
    for (architecture, config, manifest) in &images {
        blob(config);
        blob(manifest);
        let mut descriptor = Descriptor::of(media_type::OCI_MANIFEST, manifest);
        descriptor.platform = Some(Platform::new("linux", architecture, ""));
        manifests.push(descriptor);
    }
    let nested =
        serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests});
    let nested = serde_json::to_vec(&nested).unwrap();
    blob(&nested);
    let mut top = Descriptor::of(media_type::OCI_INDEX, &nested);
    top.annotations.insert(super::NAME.to_owned(), "docker.io/library/multi:1".to_owned());
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [top]});
    files.push(("index.json".to_owned(), serde_json::to_vec(&index).unwrap()));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (&name[..], &bytes[..])).collect();
    let (_folder, found) = load(&archive(&files));
    let found = found.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].id, Digest::sha256(&images[1].1));
    assert_eq!(found[0].names[0].familiar(), "multi:1");
    // A document that is not what its descriptor says.
    let mut damaged: Vec<(&str, &[u8])> = files.clone();
    damaged[2].1 = b"{}";
    let text = load(&archive(&damaged)).1.unwrap_err().to_string();
    assert!(text.contains("holds bytes of"), "{text}");
}
