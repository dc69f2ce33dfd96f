//! A short run of every fuzz function: each reads bytes that an image, a client or a registry
//! may have made. `HULL_FUZZ_SECONDS` lengthens the run of each.

use std::time::Duration;

use hull_testkit::fuzz::drive;

fn time() -> Duration {
    let seconds = std::env::var("HULL_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or(2.0))
}

const DIGEST: &[u8] = b"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const MANIFEST: &[u8] = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":7}],"annotations":{"a":"b"}}"#;
const CONFIG: &[u8] = br#"{"architecture":"amd64","os":"linux","created":"2026-01-02T03:04:05Z","config":{"Env":["A=b"],"Cmd":["sh"],"Entrypoint":null,"Volumes":{"/x":{}},"Labels":{"a":"b"},"User":"1:2","ExposedPorts":{"80/tcp":{}},"Healthcheck":{"Test":["CMD","x"],"Interval":1}},"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},"history":[{"created_by":"x","empty_layer":true}]}"#;
const CREATE: &[u8] = br#"{"Image":"busybox","Cmd":["sh","-c","echo"],"Env":["A=b"],"Tty":true,"Labels":{"a":"b"},"Volumes":{"/v":{}},"HostConfig":{"Memory":1048576,"NanoCpus":500000000,"Binds":["/a:/b:ro"],"Tmpfs":{"/t":"size=1m"},"CapAdd":["NET_ADMIN"],"RestartPolicy":{"Name":"on-failure","MaximumRetryCount":3},"Ulimits":[{"Name":"nofile","Soft":1,"Hard":2}],"Devices":[{"PathOnHost":"/dev/null","PathInContainer":"/dev/x","CgroupPermissions":"rwm"}],"SecurityOpt":["seccomp=unconfined"],"NetworkMode":"none"},"NetworkingConfig":{"EndpointsConfig":{}}}"#;

#[test]
fn references_and_digests() {
    drive(
        "fuzz_reference",
        &[b"busybox", b"host.example:5000/a/b-c__d:tag_1.2@sha256:00", DIGEST],
        time(),
        hull_oci::fuzz::fuzz_reference,
    );
    drive("fuzz_digest", &[DIGEST, b"sha512:00"], time(), hull_oci::fuzz::fuzz_digest);
    drive("fuzz_platform", &[b"linux/amd64", b"linux/arm/v7"], time(), hull_oci::fuzz::fuzz_platform);
}

#[test]
fn manifests_and_configurations() {
    drive("fuzz_manifest", &[MANIFEST, br#"{"manifests":[]}"#], time(), hull_oci::fuzz::fuzz_manifest);
    drive("fuzz_config", &[CONFIG], time(), hull_oci::fuzz::fuzz_config);
}

#[test]
fn archives() {
    let file = tar(b"dir/file", b"contents", b'0');
    let link = tar(b"dir/.wh..wh..opq", b"", b'0');
    let pax = [tar(b"x", b"30 mtime=1350244992.023960108\n20 size=8\n", b'x'), file.clone()].concat();
    let sparse = tar(b"sparse", &[0; 1024], b'S');
    drive("fuzz_tar", &[&file, &link, &pax, &sparse], time(), hull_image::fuzz::fuzz_tar);
    let manifest = br#"[{"Config":"c.json","RepoTags":["a:b"],"Layers":["x/layer.tar"]}]"#;
    drive("fuzz_docker_manifest", &[manifest], time(), hull_image::fuzz::fuzz_docker_manifest);
    drive(
        "fuzz_oci_index",
        &[MANIFEST, br#"{"schemaVersion":2,"manifests":[]}"#],
        time(),
        hull_image::fuzz::fuzz_oci_index,
    );
}

/// One member of a ustar archive with a right checksum.
fn tar(name: &[u8], data: &[u8], kind: u8) -> Vec<u8> {
    let mut head = [0u8; 512];
    head[..name.len()].copy_from_slice(name);
    head[100..107].copy_from_slice(b"0000644");
    head[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
    head[156] = kind;
    head[257..265].copy_from_slice(b"ustar\x0000");
    head[148..156].fill(b' ');
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
    head[154] = 0;
    let mut archive = head.to_vec();
    archive.extend_from_slice(data);
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}

#[test]
fn requests() {
    drive("fuzz_bodies", &[CREATE, b"{}", b"null"], time(), hull_api::fuzz::fuzz_bodies);
    let begin = b"\x01\0\0\0\0\0\0\0\0\0\0\x0e{\"tags\":[\"a\"]}\x04\0\0\0\0\0\0\x01\0\0\0\x02no";
    let question = b"\x41\0\0\0\0\0\0\x01\0\0\0\x0e{\"context\":\"\"}\x42\0\0\0\0\0\0\0\0\0\0\x01x";
    drive("fuzz_build", &[begin, question], time(), hull_api::fuzz::fuzz_build);
    drive(
        "fuzz_filters",
        &[br#"{"label":{"a=b":true}}"#, br#"{"status":["exited"]}"#],
        time(),
        hull_api::fuzz::fuzz_filters,
    );
}

#[test]
fn templates() {
    let seeds: [&[u8]; 4] = [
        b"{{.Names}}\t{{.Image}}",
        b"{{range $i, $x := .List}}{{if eq $i 1}}{{json $x}}{{else}}{{printf \"%5d|%q\" 3 \"a\"}}{{end}}{{end}}",
        b"{{with .A}}{{.}}{{end}}{{/* c */}}{{- .B | upper -}}",
        b"{{define \"x\"}}{{template \"x\" .}}{{end}}{{template \"x\" .}}",
    ];
    drive("fuzz_template", &seeds, time(), hull_template::fuzz::fuzz_template);
}

#[test]
fn dockerfiles() {
    let seeds: [&[u8]; 4] = [
        b"# syntax=docker/dockerfile:1\n# check=skip=all\nARG V=1\nFROM --platform=$BUILDPLATFORM x:${V:-2} AS b\nRUN --mount=type=cache,target=/c,id=$V a \\\n  b\n",
        b"FROM x\nCOPY --from=b --chown=1:2 <<A <<-\"B\" /d/\n$x\nA\n\ty\n\tB\nRUN <<E\n#!/bin/sh\nE\n",
        b"# escape=`\r\nFROM x\r\nENV a=b c=\"d `\" e\" `\r\n f=$a\r\nONBUILD ADD [\"a b\", \"c\"]\r\n",
        b"FROM x\nHEALTHCHECK --interval=1m30s CMD [\"a\"]\nSHELL [\"sh\"]\nEXPOSE 80/tcp $p\nLABEL a b c\nUSER u\nVOLUME /a /b\n",
    ];
    drive("fuzz_dockerfile", &seeds, time(), hull_builder::dockerfile::fuzz::fuzz_dockerfile);
    let words: [&[u8]; 3] = [
        b"${a:-${b##*/}}\"$c\" '$d'\\$e\nvalue of words",
        b"${a//b*/${c:?d}}${e+f}${g-h}\nabcb",
        b"${a%%.*}${a#?}$1$@${\n/a/b.c.d",
    ];
    drive("fuzz_expand", &words, time(), hull_builder::dockerfile::fuzz::fuzz_expand);
}

#[test]
fn messages_and_logs() {
    drive("fuzz_messages", &[br#"{"version":1}"#], time(), hull_runtime::protocol::fuzz::fuzz_messages);
    drive(
        "fuzz_forwarder",
        &[br#"{"say":"open","targets":[{"address":"::1","first":80,"last":81,"to":"10.0.0.2","port":80}]}"#],
        time(),
        hull_runtime::forwarder::fuzz::fuzz_messages,
    );
    drive("fuzz_frames", &[&[0; 64]], time(), hull_runtime::log::fuzz::fuzz_frames);
}

/// A query for the address of `web` that offers EDNS, and a server's reply to one.
const QUERY: &[u8] = b"\xab\xcd\x01\0\0\x01\0\0\0\0\0\x01\x03web\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0";
const POINTER: &[u8] =
    b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x012\x010\x011\x0210\x07in-addr\x04arpa\0\0\x0c\0\x01";
const REPLY: &[u8] =
    b"\0\x01\x81\x80\0\x01\0\x01\0\0\0\0\x01a\x01b\0\0\x01\0\x01\xc0\x0c\0\x01\0\x01\0\0\0\x09\0\x04\x01\x02\x03\x04";

#[test]
fn names() {
    let resolv = b"nameserver fe80::1%lo\noptions ndots:2\n";
    drive("fuzz_query", &[QUERY, POINTER, REPLY, resolv], time(), hull_network::dns::fuzz::fuzz_query);
}

#[test]
fn contexts() {
    let ignore = b"*.md\n!keep/**/[a-c]?.md\n# no\n/a/b\n";
    drive("fuzz_ignore", &[ignore], time(), hull_context::fuzz::fuzz_ignore);
    let entry = |path: &str, kind| {
        let (modified, changed) = ((1, 2), (3, 4));
        hull_context::Entry { path: path.into(), kind, mode: 0o755, modified, changed, inode: 5 }
    };
    let entries = [
        entry("d", hull_context::Kind::Folder),
        entry("d/a", hull_context::Kind::File { size: 1 }),
        entry("l", hull_context::Kind::Link("d/a".into())),
    ];
    let list = hull_context::listing::encode(&entries);
    drive("fuzz_listing", &[&list], time(), hull_context::fuzz::fuzz_listing);
}

#[test]
fn package_archives() {
    let stanza = b"Package: a\nVersion: 1:2~b-3\nArchitecture: all\nEssential: yes\nFilename: pool/a.deb\nSize: 1\n\
        SHA256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\nPre-Depends: b (>= 1) | c:any\n\
        Provides: d (= 1)\n\n";
    let both =
        [&stanza[..], &String::from_utf8_lossy(stanza).replace("age: a", "age: b").into_bytes()].concat();
    drive("fuzz_packages", &[stanza, &both], time(), hull_debian::fuzz::fuzz_packages);
    let release = include_bytes!("../../debian/testdata/rsa.asc");
    let keys = include_bytes!("../../debian/testdata/keys.gpg");
    let sources = b"deb [signed-by=/k.gpg] http://h/d wood main\nTypes: deb\nURIs: http://h\nSuites: wood\nComponents: main\n";
    let plain = b"Suite: a\nDate: Sat, 11 Jul 2026 10:16:37 UTC\nSHA256:\n \
        e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 0 main/binary-amd64/Packages\n";
    drive("fuzz_release", &[release, keys, sources, plain], time(), hull_debian::fuzz::fuzz_release);
    let member =
        |name: &str, size: usize| format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, 644);
    let deb = ["!<arch>\n", &member("debian-binary", 4), "2.0\n", &member("data.tar.xz", 2), "xy"].concat();
    drive("fuzz_deb", &[deb.as_bytes()], time(), hull_debian::fuzz::fuzz_deb);
}
