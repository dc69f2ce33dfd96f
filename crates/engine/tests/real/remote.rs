//! What builds get from other hosts: servers of the test's own on the loopback interface.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hull_builder::executor::{Copy, Selection, Source, Unpack};
use hull_builder::{Executor, Failure, Layer};
use hull_engine::builds::{Build, Limits};
use hull_engine::containers::settings::NetworkMode;
use hull_oci::{Digest, Reference};
use hull_testkit::{answer, serve};

use crate::builds::says;
use crate::support::{Host, IMAGE, within};

fn build(host: &Host) -> Build {
    host.engine().build(Limits { network: NetworkMode::None, ..Limits::default() }.into())
}

async fn base(build: &Build) -> Vec<Layer> {
    let reference = Reference::parse(IMAGE).unwrap();
    let wanted = hull_builder::Wanted { reference, platform: None, pull: false };
    within(build.image(wanted)).await.unwrap().layers
}

pub(crate) async fn put(
    build: &Build,
    below: &[Layer],
    source: Source,
    to: &str,
) -> Result<Vec<Layer>, Failure> {
    let copy = Copy {
        below: below.to_vec(),
        files: vec![(source, Selection::default())],
        destination: to.to_owned(),
        owner: None,
        mode: None,
        link: false,
        unpack: Unpack::Local,
        newest: None,
    };
    let layer = within(build.copy(copy)).await?;
    Ok(below.iter().cloned().chain(layer).collect())
}

async fn print(build: &Build, source: Source) -> Result<Digest, Failure> {
    within(build.fingerprint(source, Selection::default())).await
}

fn url(address: String, checksum: Option<&str>) -> Source {
    Source::Url { address, checksum: checksum.map(|text| Digest::sha256(text.as_bytes())) }
}

const OLD: &str = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nDate: Tue, 15 Nov 1994 08:12:31 GMT\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_file_at_an_address_is_copied_for_root_alone() {
    let host = Host::new().await;
    let server = serve(|head| match head.split(' ').nth(1).unwrap() {
        "/dir/file.txt?x" => answer("200 OK", OLD, b"content\n"),
        "/moved" => answer("302 Found", "Location: /dir/file.txt?x\r\n", b""),
        "/" => answer("200 OK", "", b"root\n"),
        _ => answer("404 Not Found", "", b"nothing"),
    });
    let at = |path: &str| format!("http://{server}{path}");
    let build = build(&host);
    let below = base(&build).await;
    let mut layers = put(&build, &below, url(at("/dir/file.txt?x"), None), "/new/").await.unwrap();
    layers = put(&build, &layers, url(at("/moved"), Some("content\n")), "/etc").await.unwrap();
    layers = put(&build, &layers, url(at("/"), None), "/named").await.unwrap();
    let seen =
        says(&build, &layers, "/bin/busybox stat -c %u:%g:%a:%Y /new/file.txt; cat /etc/moved /named").await;
    assert_eq!(seen, "0:0:600:784111777\ncontent\nroot\n");
    for (source, to, said) in [
        (url(at("/nosuch"), None), "/x", "invalid response status 404"),
        (url(at("/"), None), "/x/", "cannot determine filename from url"),
        (url(at("/dir/file.txt?x"), Some("other")), "/x", "digest mismatch sha256:"),
        (url("http://127.0.0.1:1/x".to_owned(), None), "/x", "cannot be reached"),
    ] {
        let failed = put(&build, &below, source, to).await.unwrap_err();
        assert!(failed.to_string().contains(said), "{failed}");
    }
    // With a checksum nobody has to be asked for what it will be.
    let known = print(&build, url("http://127.0.0.1:1/file.txt".to_owned(), Some("content\n"))).await;
    assert_eq!(known, print(&build, url(at("/dir/file.txt?x"), None)).await);
    drop(build);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_has_not_changed_is_not_sent_again() {
    let host = Host::new().await;
    let (round, sent) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (version, count) = (Arc::clone(&round), Arc::clone(&sent));
    let server = serve(move |head| {
        let tag = format!("\"v{}\"", version.load(Ordering::SeqCst));
        let (validators, fresh) = match head.split(' ').nth(1).unwrap() {
            "/tag" => (format!("ETag: {tag}\r\n"), head.contains(&format!("if-none-match: {tag}\r\n"))),
            "/time" => {
                (OLD.to_owned(), head.contains("if-modified-since: Sun, 06 Nov 1994 08:49:37 GMT\r\n"))
            }
            // One that says nothing of bytes, and one that may change within its second.
            "/weak" => (format!("ETag: W/{tag}\r\n"), head.contains("if-none-match")),
            _ => (
                OLD.replace("Tue, 15 Nov 1994 08:12:31", "Sun, 06 Nov 1994 08:49:38"),
                head.contains("if-modified"),
            ),
        };
        if fresh {
            return answer("304 Not Modified", &validators, b"");
        }
        count.fetch_add(1, Ordering::SeqCst);
        answer("200 OK", &validators, tag.as_bytes())
    });
    for (path, again) in [("tag", 0), ("time", 0), ("weak", 1), ("young", 1)] {
        let source = || url(format!("http://{server}/{path}"), None);
        sent.store(0, Ordering::SeqCst);
        let first = build(&host);
        let below = base(&first).await;
        let digest = print(&first, source()).await.unwrap();
        assert_eq!(print(&first, source()).await.unwrap(), digest);
        put(&first, &below, source(), "/x").await.unwrap();
        assert_eq!(sent.load(Ordering::SeqCst), 1, "{path}: once in one build");
        drop(first);
        let second = build(&host);
        base(&second).await;
        assert_eq!(print(&second, source()).await.unwrap(), digest);
        assert_eq!(sent.load(Ordering::SeqCst), 1 + again, "{path}");
        // What is needed all the same comes.
        let layers = put(&second, &below, source(), "/x").await.unwrap();
        assert_eq!(says(&second, &layers, "cat /x").await, format!("\"v{}\"", round.load(Ordering::SeqCst)));
        drop(second);
        round.fetch_add(1, Ordering::SeqCst);
        let third = build(&host);
        let now = print(&third, source()).await.unwrap();
        assert_eq!(now == digest, path == "time", "{path}");
        drop(third);
    }
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_under_a_build_ends_it() {
    let host = Host::new().await;
    let count = AtomicUsize::new(0);
    let server = serve(move |head| {
        let fresh = head.contains("if-none-match");
        let round = count.fetch_add(1, Ordering::SeqCst);
        let status = if fresh { "304 Not Modified" } else { "200 OK" };
        answer(
            status,
            "ETag: \"always\"\r\n",
            if fresh { "".to_owned() } else { round.to_string() }.as_bytes(),
        )
    });
    let source = || url(format!("http://{server}/x"), None);
    print(&build(&host), source()).await.unwrap();
    let second = build(&host);
    let below = base(&second).await;
    print(&second, source()).await.unwrap();
    let failed = put(&second, &below, source(), "/x").await.unwrap_err();
    assert!(failed.to_string().contains("has changed"), "{failed}");
    drop(second);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dockerfile_alone_can_be_added_by_its_own_address() {
    let host = Host::new().await;
    let server = serve(|_| answer("200 OK", "", b"FROM scratch\n"));
    let address = format!("http://{server}/file");
    let build = build(&host);
    let below = base(&build).await;
    let (context, alone) = within(build.remote_context(&address)).await.unwrap();
    assert!(alone);
    assert_eq!(within(context.dockerfile("Dockerfile")).await.unwrap(), b"FROM scratch\n");
    let layers = put(&build, &below, url(address, None), "/new/").await.unwrap();
    assert_eq!(says(&build, &layers, "cat /new/file").await, "FROM scratch\n");
    drop((build, context));
    host.finish().await;
}
