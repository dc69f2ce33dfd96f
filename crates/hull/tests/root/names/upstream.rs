//! A resolver of the test's own somewhere in a test's world: a host's, or one that a container was
//! told of. It notes what it is asked.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};

use hull_network::namespace::Namespace;

/// Bytes of an answer over UDP to a client that says nothing of it (RFC 1035, section 4.2.1).
const UDP_MAX: usize = 512;
const CUT: u8 = 2;

/// What is told of a name.
pub(crate) enum Told {
    /// Its IPv4 addresses; for other types of record an empty answer.
    Addresses(Vec<Ipv4Addr>),
    /// A result of RFC 1035, section 4.1.1: 2 is SERVFAIL, 3 NXDOMAIN.
    Code(u8),
    Nothing,
}

impl Told {
    pub(crate) fn address(text: &str) -> Told {
        Told::Addresses(vec![text.parse().unwrap()])
    }
}

/// Answers until the test's process ends.
pub(crate) struct Upstream {
    asked: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    /// At this address and port of the machine, by UDP and TCP.
    #[track_caller]
    pub(crate) fn start(
        machine: &Namespace,
        at: &str,
        tell: impl Fn(&str) -> Told + Send + Sync + 'static,
    ) -> Upstream {
        let bound = machine.enter(|| (UdpSocket::bind(at).unwrap(), TcpListener::bind(at).unwrap()));
        let (udp, tcp) = bound.unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (noted, tell) = (Arc::clone(&asked), Arc::new(tell));
        let (note, told) = (Arc::clone(&asked), Arc::clone(&tell));
        std::thread::spawn(move || {
            let mut query = [0; 4096];
            while let Ok((len, from)) = udp.recv_from(&mut query) {
                let (name, end) = question(&query[..len], "udp", &note);
                let Some(mut reply) = reply(&query[..end], told(&name)) else { continue };
                if reply.len() > UDP_MAX {
                    reply.truncate(end);
                    reply[2] |= CUT;
                    reply[7] = 0;
                }
                let _ = udp.send_to(&reply, from);
            }
        });
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                while let Some(query) = framed(&mut stream) {
                    let (name, end) = question(&query, "tcp", &noted);
                    let Some(reply) = reply(&query[..end], tell(&name)) else { continue };
                    let length = u16::try_from(reply.len()).unwrap().to_be_bytes();
                    let _ = stream.write_all(&[&length, reply.as_slice()].concat());
                }
            }
        });
        Upstream { asked }
    }

    /// What it was asked since the last call, as `type name protocol`, names in small letters.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

fn framed(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut query).ok()?;
    Some(query)
}

/// The name that is asked for, and where the question ends.
fn question(query: &[u8], protocol: &str, note: &Mutex<Vec<String>>) -> (String, usize) {
    let mut labels = Vec::new();
    // A header is 12 bytes; behind the name are type and class, two bytes each.
    let mut at = 12;
    while query[at] > 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
        at = end;
    }
    let kind = match query[at + 2] {
        1 => "a".to_owned(),
        12 => "ptr".to_owned(),
        28 => "aaaa".to_owned(),
        other => other.to_string(),
    };
    let name = labels.join(".");
    note.lock().unwrap().push(format!("{kind} {name} {protocol}"));
    (name, at + 5)
}

/// `question`: a header, and the question alone.
fn reply(question: &[u8], told: Told) -> Option<Vec<u8>> {
    let (code, addresses) = match told {
        Told::Addresses(addresses) if question[question.len() - 3] == 1 => (0, addresses),
        Told::Addresses(_) => (0, Vec::new()),
        Told::Code(code) => (code, Vec::new()),
        Told::Nothing => return None,
    };
    let count = u8::try_from(addresses.len()).unwrap();
    let header = [0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0];
    let mut reply = [&question[..2], &header, &question[12..]].concat();
    for address in addresses {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend(address.octets());
    }
    Some(reply)
}
