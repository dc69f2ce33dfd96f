//! The rules in a container's namespace that lead 127.0.0.11:53 to the port of its sockets.
//!
//! ```text
//! table ip hull_dns {
//!   chain questions { type filter hook output priority -150
//!     ip daddr 127.0.0.11 udp dport 53 udp dport set PORT      (and the same for tcp)
//!   }
//!   chain answers { type filter hook output priority -300
//!     ip saddr 127.0.0.11 udp sport PORT udp sport set 53      (and the same for tcp)
//!   }
//! }
//! ```
//!
//! The port numbers are rewritten packet by packet; no connection is tracked for it (where the
//! reference has DNAT and SNAT). So a look-up costs no entry of conntrack, none can time out while
//! a look-up waits for the next daemon, and two look-ups of one socket cannot meet in it. If the
//! container's own rules have conntrack running, it stands between the two chains (priority -200)
//! and sees plain connections to 127.0.0.11:53: `ct state established` works as it should.

use hull_sys::During;
use hull_sys::netlink::message::{ACK, APPEND, Answer, CREATE, Messages, REQUEST, messages};
use hull_sys::netlink::{DATAGRAM, Family, Socket};

use super::sockets::ADDRESS;

const TABLE: &str = "hull_dns";
/// Where resolvers ask.
const PORT: u16 = 53;

/// Of linux/netfilter/nfnetlink.h and nf_tables.h.
const SUBSYSTEM: u8 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEWTABLE: u8 = 0;
const NEWCHAIN: u8 = 3;
const NEWRULE: u8 = 6;
const NFPROTO_IPV4: u8 = 2;
const HOOK_OUTPUT: u32 = 3;
const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;
const META_L4PROTO: u32 = 16;
const CSUM_INET: u32 = 1;
const REGISTER: u32 = 1;

/// A field of a header: where it begins, and its bytes.
type Field = (u32, u32, u32);
const SOURCE: Field = (BASE_NETWORK, 12, 4);
const DESTINATION: Field = (BASE_NETWORK, 16, 4);
const SOURCE_PORT: Field = (BASE_TRANSPORT, 0, 2);
const DESTINATION_PORT: Field = (BASE_TRANSPORT, 2, 2);

/// A protocol's number, and where its header has the checksum.
const UDP: (u8, u32) = (17, 6);
const TCP: (u8, u32) = (6, 16);

/// Packets with 127.0.0.11 at `address` and the first of `ports` at `place` get the second there.
struct Rewrite {
    address: Field,
    place: Field,
    ports: (u16, u16),
}

/// Installs the rules in the namespace of the calling thread, once, for sockets on `port`.
pub fn redirect(port: u16) -> hull_sys::Result<()> {
    let what = || format!("nf_tables, table ip {TABLE}");
    let socket = Socket::open(Family::Netfilter)?;
    socket.send(batch(port).bytes())?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let got = socket.receive(&mut buffer)?;
        for message in messages(&buffer[..got]) {
            // What is refused is told; of what is done only the last rule says so.
            match message.answer() {
                Some(Answer { errno: Some(errno), .. }) => return Err(errno).during("send", what),
                Some(_) => return Ok(()),
                None => {}
            }
        }
    }
}

fn batch(port: u16) -> Messages {
    let mut batch = Messages::default();
    frame(&mut batch, BATCH_BEGIN);
    message(&mut batch, NEWTABLE, CREATE, |table| table.text(1, TABLE));
    chain(&mut batch, "questions", -150);
    chain(&mut batch, "answers", -300);
    for (last, protocol) in [(0, UDP), (ACK, TCP)] {
        let question = Rewrite { address: DESTINATION, place: DESTINATION_PORT, ports: (PORT, port) };
        let answer = Rewrite { address: SOURCE, place: SOURCE_PORT, ports: (port, PORT) };
        rule(&mut batch, "questions", 0, protocol, &question);
        rule(&mut batch, "answers", last, protocol, &answer);
    }
    frame(&mut batch, BATCH_END);
    batch
}

/// The beginning and end of a transaction: nfgenmsg with nf_tables' number.
fn frame(batch: &mut Messages, kind: u16) {
    batch.begin(kind, REQUEST);
    batch.put(&[0, 0, 0, SUBSYSTEM]);
    batch.end();
}

fn message(batch: &mut Messages, kind: u8, flags: u16, inside: impl FnOnce(&mut Messages)) {
    batch.begin(u16::from_be_bytes([SUBSYSTEM, kind]), REQUEST | flags);
    batch.put(&[NFPROTO_IPV4, 0, 0, 0]);
    inside(batch);
    batch.end();
}

fn number(message: &mut Messages, kind: u16, value: u32) {
    message.attribute(kind, &value.to_be_bytes());
}

fn chain(batch: &mut Messages, name: &str, priority: i32) {
    message(batch, NEWCHAIN, CREATE, |chain| {
        chain.text(1, TABLE);
        chain.text(3, name);
        chain.nest(4, |hook| {
            number(hook, 1, HOOK_OUTPUT);
            number(hook, 2, priority.cast_unsigned());
        });
        chain.text(7, "filter");
    });
}

fn rule(batch: &mut Messages, chain: &str, flags: u16, (protocol, checksum): (u8, u32), what: &Rewrite) {
    let Rewrite { address, place, ports } = *what;
    message(batch, NEWRULE, CREATE | APPEND | flags, |rule| {
        rule.text(1, TABLE);
        rule.text(2, chain);
        rule.nest(4, |list| {
            load(list, address);
            compare(list, &ADDRESS.octets());
            expression(list, "meta", |meta| {
                number(meta, 1, REGISTER);
                number(meta, 2, META_L4PROTO);
            });
            compare(list, &[protocol]);
            load(list, place);
            compare(list, &ports.0.to_be_bytes());
            expression(list, "immediate", |immediate| {
                number(immediate, 1, REGISTER);
                immediate.nest(2, |data| data.attribute(1, &ports.1.to_be_bytes()));
            });
            expression(list, "payload", |payload| {
                field(payload, place);
                number(payload, 5, REGISTER);
                number(payload, 6, CSUM_INET);
                number(payload, 7, checksum);
            });
        });
    });
}

fn expression(list: &mut Messages, name: &str, data: impl FnOnce(&mut Messages)) {
    list.nest(1, |expression| {
        expression.text(1, name);
        expression.nest(2, data);
    });
}

fn field(payload: &mut Messages, (base, offset, length): Field) {
    number(payload, 2, base);
    number(payload, 3, offset);
    number(payload, 4, length);
}

fn load(list: &mut Messages, from: Field) {
    expression(list, "payload", |payload| {
        number(payload, 1, REGISTER);
        field(payload, from);
    });
}

fn compare(list: &mut Messages, value: &[u8]) {
    expression(list, "cmp", |cmp| {
        number(cmp, 1, REGISTER);
        number(cmp, 2, 0);
        cmp.nest(3, |data| data.attribute(1, value));
    });
}
