//! An HTTP server that says exactly what a test wants said, right or wrong.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::Arc;

/// Answers each request on a free port of 127.0.0.1 with the bytes that `answer` gives for its head, and
/// closes the connection. It ends with the test's process.
pub fn serve(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, answer) = (stream.unwrap(), Arc::clone(&answer));
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
                    head.push(byte[0]);
                    // The first byte of TLS (RFC 8446, 5.1), which is not spoken here.
                    if head == [0x16] {
                        return;
                    }
                }
                // Who has gone does not read it.
                stream.write_all(&answer(&String::from_utf8_lossy(&head))).ok();
                // Closed with something unread it would be reset, and the answer might be lost with it.
                stream.shutdown(Shutdown::Write).ok();
                std::io::copy(&mut stream, &mut std::io::sink()).ok();
            });
        }
    });
    address
}

/// An answer with this status (`200 OK`), these headers (each with its `\r\n`) and this body.
pub fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}
