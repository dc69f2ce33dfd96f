//! Requests to servers of the test's own, on the loopback interface, which answer as no good server would.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hull_fetch::{Address, Answer, Client, Error, Options, Proxies, Request};
use hull_testkit::{answer, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn page(text: &str) -> Vec<u8> {
    answer("200 OK", "", text.as_bytes())
}

fn to(location: &str) -> Vec<u8> {
    answer("302 Found", &format!("Location: {location}\r\n"), b"")
}

fn options() -> Options {
    let patience = Duration::from_secs(30);
    Options { connect: patience, idle: patience, proxies: Some(Proxies::default()), ..Options::default() }
}

async fn ask(options: Options, address: &str) -> Result<Answer, Error> {
    Client::new(options).unwrap().ask(Request::get(Address::parse(address).unwrap())).await
}

async fn text(answer: Result<Answer, Error>) -> String {
    let (mut answer, mut bytes, mut seen) = (answer.unwrap(), Vec::new(), 0);
    let length = answer.save(&mut bytes, 1 << 20, |piece| seen += piece.len()).await.unwrap();
    assert_eq!((length, seen), (bytes.len() as u64, bytes.len()));
    String::from_utf8(bytes).unwrap()
}

fn said(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

#[tokio::test]
async fn redirects_are_followed_and_end() {
    let server = serve(|head| match head.split(' ').nth(1).unwrap() {
        "/there?x" => page("there"),
        "/loop" => to("/loop"),
        "/nowhere" => b"HTTP/1.1 301 Moved\r\nContent-Length: 0\r\n\r\n".to_vec(),
        "/out" => to("file:///etc/passwd"),
        path => to(&format!("{}there?x#part", if path == "/a/b" { "../" } else { "/" })),
    });
    let answer = ask(options(), &format!("http://{server}/a/b")).await.unwrap();
    assert_eq!(answer.address.to_string(), format!("http://{server}/there?x"));
    assert_eq!(text(Ok(answer)).await, "there");
    let failed = ask(options(), &format!("http://{server}/loop")).await.unwrap_err();
    assert!(matches!(failed, Error::Redirects { most: 10, .. }), "{failed}");
    let failed = ask(options(), &format!("http://{server}/nowhere")).await.unwrap_err();
    assert!(matches!(failed, Error::Location { status: 301, .. }), "{failed}");
    let failed = ask(options(), &format!("http://{server}/out")).await.unwrap_err();
    assert!(matches!(failed, Error::Address { .. }), "{failed}");
}

#[tokio::test]
async fn credentials_go_to_their_own_host_alone() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&heads);
    let other = serve(move |head| {
        noted.lock().unwrap().push(head.to_owned());
        page("other")
    });
    let own = serve(move |head| {
        let known = head.contains("authorization: Basic dTpw\r\n");
        match head.split(' ').nth(1).unwrap() {
            "/same" => to("/end"),
            "/other" => to(&format!("http://{other}/x")),
            _ if known => page("known"),
            _ => page("unknown"),
        }
    });
    assert_eq!(text(ask(options(), &format!("http://u:p@{own}/same")).await).await, "known");
    assert_eq!(text(ask(options(), &format!("http://u:p@{own}/other")).await).await, "other");
    let mut request = Request::get(Address::parse(&format!("http://{own}/other")).unwrap());
    request.headers.insert("authorization", "Bearer secret".parse().unwrap());
    request.headers.insert("accept", "x/y".parse().unwrap());
    assert_eq!(text(Client::new(options()).unwrap().ask(request).await).await, "other");
    let heads = heads.lock().unwrap();
    assert_eq!(heads.len(), 2);
    assert!(heads.iter().all(|head| !head.contains("authorization")), "{heads:?}");
    assert!(heads[1].contains("accept: x/y"), "{heads:?}");
}

/// Reads the head of a request, if one comes.
fn head(stream: &mut TcpStream) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        (stream.read(&mut byte).ok()? == 1).then(|| head.push(byte[0]))?;
    }
    String::from_utf8(head).ok()
}

#[tokio::test]
async fn a_kept_connection_that_its_server_closes_is_no_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    // Three connections at once, so that three are kept; each is closed by the request that finds it kept. With
    // the request unread the close is a reset.
    let kept = std::thread::spawn(move || {
        let mut streams: Vec<_> = (0..3).map(|_| listener.accept().unwrap().0).collect();
        for stream in &mut streams {
            head(stream).unwrap();
        }
        for stream in &mut streams {
            stream.write_all(&page("kept")).unwrap();
        }
        let closing = streams
            .into_iter()
            .map(|mut stream| std::thread::spawn(move || stream.read(&mut [0; 4]).unwrap()));
        let closing: Vec<_> = closing.collect();
        let mut stream = listener.accept().unwrap().0;
        let asked = head(&mut stream).unwrap();
        stream.write_all(&page("new")).unwrap();
        // What fails on its first request has failed.
        drop(listener.accept().unwrap());
        (asked, closing.into_iter().map(|closed| closed.join().unwrap()).collect::<Vec<_>>())
    });
    let client = Client::new(options()).unwrap();
    let ask =
        |path: &str| client.ask(Request::get(Address::parse(&format!("http://{server}/{path}")).unwrap()));
    let (a, b, c) = tokio::join!(ask("a"), ask("b"), ask("c"));
    for answer in [a, b, c] {
        assert_eq!(text(answer).await, "kept");
    }
    assert_eq!(text(ask("again").await).await, "new");
    let failed = Client::new(options()).unwrap();
    let failed = failed.ask(Request::get(Address::parse(&format!("http://{server}/")).unwrap())).await;
    assert!(matches!(failed, Err(Error::Connect { .. })), "{failed:?}");
    let (asked, closed) = tokio::task::spawn_blocking(|| kept.join().unwrap()).await.unwrap();
    assert!(asked.starts_with("GET /again "), "{asked}");
    assert_eq!(closed, [4, 4, 4]);
}

#[tokio::test]
async fn bodies_that_break_off_hang_or_never_end_are_errors() {
    let server = serve(|head| match head.split(' ').nth(1).unwrap() {
        "/cut" => b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_vec(),
        "/chunks" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n".to_vec(),
        "/large" => page(&"x".repeat(2 << 20)),
        "/silent" => {
            std::thread::sleep(Duration::from_secs(30));
            Vec::new()
        }
        _ => b"no http at all\r\n\r\n".to_vec(),
    });
    for path in ["cut", "chunks"] {
        let mut answer = ask(options(), &format!("http://{server}/{path}")).await.unwrap();
        let failed = answer.save(&mut Vec::new(), 100, |_| {}).await.unwrap_err();
        assert!(matches!(failed, Error::Cut { .. }), "{path}: {failed}");
    }
    let mut answer = ask(options(), &format!("http://{server}/large")).await.unwrap();
    let failed = answer.save(&mut Vec::new(), 1 << 20, |_| {}).await.unwrap_err();
    assert!(matches!(failed, Error::Large { most: 1_048_576, .. }), "{failed}");
    let second = Duration::from_secs(1);
    let hasty = Options { connect: second, idle: second, ..options() };
    let failed = ask(hasty, &format!("http://{server}/silent")).await.unwrap_err();
    assert!(matches!(failed, Error::Late { .. }), "{failed}");
    let failed = ask(options(), &format!("http://{server}/other")).await.unwrap_err();
    assert!(matches!(failed, Error::Connect { .. }), "{failed}");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let failed = ask(options(), &format!("http://u:secret@{closed}/")).await.unwrap_err();
    let told = said(&failed);
    assert!(
        told.contains("refused") && told.contains(&closed.to_string()) && !told.contains("secret"),
        "{told}"
    );
}

#[tokio::test]
async fn an_endless_body_is_read_no_further_than_it_may_be() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let sent = tokio::task::spawn_blocking(move || {
        let (mut stream, _) = listener.accept().unwrap();
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let mut sent = 0_u64;
        while stream.write_all(&[0; 65536]).is_ok() {
            sent += 65536;
        }
        sent
    });
    let mut answer = ask(options(), &format!("http://{server}/")).await.unwrap();
    let failed = answer.save(&mut Vec::new(), 1 << 20, |_| {}).await.unwrap_err();
    assert!(matches!(failed, Error::Large { .. }), "{failed}");
    drop(answer);
    // What the server has sent beyond that is what sockets hold.
    assert!(sent.await.unwrap() < 64 << 20);
}

#[tokio::test]
async fn a_proxy_is_asked_for_the_whole_address_and_tunnels_the_rest() {
    let proxy = serve(|head| {
        let known = head.to_ascii_lowercase().contains("proxy-authorization: basic dtpw\r\n");
        match head.split("\r\n").next().unwrap() {
            "GET http://nosuch.invalid/x HTTP/1.1" if known => page("by proxy"),
            // What comes next would be TLS.
            "CONNECT nosuch.invalid:443 HTTP/1.1" if known => b"HTTP/1.1 200 OK\r\n\r\nno TLS".to_vec(),
            _ => b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n".to_vec(),
        }
    });
    let direct = serve(|_| page("straight"));
    let address = format!("http://u:p@{proxy}");
    let proxies = Proxies { http: address.clone(), https: address, without: "127.0.0.0/8".to_owned() };
    let options = Options { proxies: Some(proxies), ..options() };
    assert_eq!(text(ask(options.clone(), "http://nosuch.invalid/x").await).await, "by proxy");
    assert_eq!(text(ask(options.clone(), &format!("http://{direct}/")).await).await, "straight");
    let failed = ask(options.clone(), "https://nosuch.invalid/x").await.unwrap_err();
    let told = said(&failed);
    assert!(told.contains(&format!("through the proxy http://{proxy}/")) && !told.contains("u:p"), "{told}");
    assert!(told.contains("tls"), "{told}");
    let socks = Proxies { http: "socks5://127.0.0.1:1".to_owned(), ..Proxies::default() };
    let failed =
        ask(Options { proxies: Some(socks), ..options }, "http://nosuch.invalid/").await.unwrap_err();
    assert!(said(&failed).contains("not by socks5"), "{}", said(&failed));
}

/// A certificate for 127.0.0.1 and its key, in DER.
fn certificate() -> (Vec<u8>, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let openssl = |words: &str| {
        let made =
            Command::new("openssl").args(words.split(' ')).current_dir(folder.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem -days 2 \
         -subj /CN=test -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE",
    );
    openssl("x509 -in cert.pem -outform DER -out cert.der");
    openssl("pkcs8 -topk8 -nocrypt -in key.pem -outform DER -out key.der");
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    (read("cert.der"), read("key.der"))
}

#[tokio::test]
async fn https_is_for_those_who_are_trusted_and_leads_nowhere_else() {
    let (certificate, key) = certificate();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone().into()], key.try_into().unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).await.unwrap();
            let down = head[..length].starts_with(b"GET /down");
            let answer = if down { to(&format!("http://{server}/")) } else { page("secure") };
            stream.write_all(&answer).await.unwrap();
            stream.shutdown().await.ok();
        }
    });
    let failed = ask(options(), &format!("https://{server}/")).await.unwrap_err();
    assert!(said(&failed).contains("certificate"), "{}", said(&failed));
    let trusting = Options { roots: vec![certificate], ..options() };
    assert_eq!(text(ask(trusting.clone(), &format!("https://{server}/")).await).await, "secure");
    let failed = ask(trusting, &format!("https://{server}/down")).await.unwrap_err();
    assert!(matches!(failed, Error::Downgrade { .. }), "{failed}");
}
