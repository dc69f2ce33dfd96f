//! What the image documents accept, refuse and write.

use super::*;
use expect_test::{Expect, expect};

const A: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn check(json: &str, expected: Expect) {
    let json = json.replace("@D", &format!(r#"{{"mediaType":"m","digest":"{A}","size":1}}"#));
    let text = match Document::parse(json.as_bytes()) {
        Ok(Document::Manifest(m)) => format!("manifest of {} layers", m.layers.len()),
        Ok(Document::Index(index)) => format!("index of {} manifests", index.manifests.len()),
        Err(error) => match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    };
    expected.assert_eq(&text);
}

#[test]
fn manifests_and_indexes_are_told_apart_by_their_fields() {
    check(r#"{"schemaVersion":2,"config":@D,"layers":[@D,@D]}"#, expect!["manifest of 2 layers"]);
    check(r#"{"schemaVersion":2,"config":@D,"layers":null}"#, expect!["manifest of 0 layers"]);
    check(r#"{"schemaVersion":2,"manifests":[@D]}"#, expect!["index of 1 manifests"]);
    check(
        r#"{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json","manifests":[]}"#,
        expect!["index of 0 manifests"],
    );
}

#[test]
fn documents_with_two_readings_are_refused() {
    check(
        r#"{"schemaVersion":2,"config":@D,"layers":[],"manifests":[]}"#,
        expect![[r#"the manifest has both "layers" and "manifests": it could be read in two ways"#]],
    );
    check(
        r#"{"schemaVersion":2,"config":@D,"manifests":[]}"#,
        expect![[r#"the manifest has both "config" and "manifests": it could be read in two ways"#]],
    );
    check(
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","config":@D,"layers":[]}"#,
        expect![[
            r#"the manifest calls itself "application/vnd.oci.image.index.v1+json" but has the fields of an image manifest"#
        ]],
    );
    check(
        r#"{"schemaVersion":2,"config":@D,"layers":[],"layers":[@D]}"#,
        expect!["the manifest is not valid: duplicate field `layers` at line 1 column 158"],
    );
}

#[test]
fn wrong_documents_are_refused() {
    check(r#"{"schemaVersion":1,"fsLayers":[]}"#, expect!["manifests of schema version 1 are not supported"]);
    check(r#"{"schemaVersion":3}"#, expect!["manifests of schema version 3 are not supported"]);
    check(r#"{"schemaVersion":2}"#, expect!["the manifest has neither a config with layers nor manifests"]);
    check(
        r#"{"schemaVersion":2,"config":{"digest":"sha256:../../x","size":1}}"#,
        expect![[
            r#"the manifest is not valid: invalid checksum digest length: "sha256:../../x" at line 1 column 54"#
        ]],
    );
    check(
        &format!(r#"{{"schemaVersion":2,"config":{{"digest":"{A}","size":-1}}}}"#),
        expect!["the manifest is not valid: invalid value: integer `-1`, expected u64 at line 1 column 121"],
    );
    let big = format!("{}{}", r#"{"schemaVersion":2}"#, " ".repeat(MAX_MANIFEST));
    check(&big, expect!["the manifest has 4194323 bytes, more than the allowed 4194304"]);
    let deep = "[".repeat(100_000);
    assert!(Document::parse(deep.as_bytes()).is_err());
}

#[test]
fn the_best_fitting_image_of_an_index_is_selected() {
    let entry = |os: &str, architecture: &str, variant: &str, size: u64| {
        let mut entry = Descriptor::new("m", Digest::parse(A).unwrap(), size);
        entry.platform = Some(Platform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            ..Platform::default()
        });
        entry
    };
    let mut index = Index {
        schema_version: 2,
        media_type: String::new(),
        artifact_type: String::new(),
        manifests: vec![
            entry("unknown", "unknown", "", 0),
            entry("linux", "386", "", 1),
            entry("linux", "amd64", "", 2),
            entry("linux", "arm", "v7", 3),
            entry("linux", "arm64", "v8", 4),
        ],
        subject: None,
        annotations: BTreeMap::new(),
    };
    let size = |index: &Index, platform: &str| {
        index.select(&Platform::parse(platform).unwrap()).map(|entry| entry.size)
    };
    assert_eq!(size(&index, "linux/amd64"), Some(2));
    assert_eq!(size(&index, "linux/arm64"), Some(4));
    assert_eq!(size(&index, "linux/arm/v6"), None);
    index.manifests.push(Descriptor::new("m", Digest::parse(A).unwrap(), 9));
    assert_eq!(size(&index, "linux/arm/v6"), Some(9));
    assert_eq!(size(&index, "linux/amd64"), Some(2));
}

#[test]
fn a_configuration_with_nulls_reads_as_empty() {
    let config = Config::parse(
        br#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Cmd":null,"Labels":null,
            "Volumes":{"/v":{}},"ExposedPorts":{"80/tcp":null},"Entrypoint":[],"OnBuild":null},
            "rootfs":{"type":"layers","diff_ids":null},"history":null,"unknown":{"x":1}}"#,
    )
    .unwrap();
    expect![[r#"
        {
          "architecture": "amd64",
          "os": "linux",
          "config": {
            "ExposedPorts": {
              "80/tcp": {}
            },
            "Entrypoint": [],
            "Volumes": {
              "/v": {}
            }
          },
          "rootfs": {
            "type": "layers",
            "diff_ids": []
          }
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&config).unwrap());
    assert!(config.check_layers(0).is_ok());
    assert_eq!(
        config.check_layers(2).unwrap_err().to_string(),
        "the image has 2 layers but its configuration names 0"
    );
}

#[test]
fn chain_ids_follow_the_specification() {
    let a = Digest::sha256(b"a");
    let b = Digest::sha256(b"b");
    let c = Digest::sha256(b"c");
    let chain = chain_ids(&[a.clone(), b.clone(), c.clone()]);
    assert_eq!(chain[0], a);
    assert_eq!(chain[1], Digest::sha256(format!("{a} {b}").as_bytes()));
    assert_eq!(chain[2], Digest::sha256(format!("{} {c}", chain[1]).as_bytes()));
    assert!(chain_ids(&[]).is_empty());
}
