//! The answer to one query, decided: bytes in, bytes out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::message::{self, Bad, CLASS_ANY, CLASS_IN, Code, Query, Reply, Transport};
use super::table::{Addresses, Owner, Table, View};

/// What a container asked of its resolver.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `--dns`, or the daemon's `dns`: asked from the container's namespace, as if it asked
    /// itself. Empty: the host's resolvers, asked from the host's namespace, where even one on
    /// 127.0.0.53 can be reached.
    pub servers: Vec<IpAddr>,
    /// Its options have an `ndots` above zero: names without a dot are not asked outside, for its
    /// resolver comes back with a search domain, as in the reference.
    pub keeps_bare_names: bool,
    /// Names that stand in its /etc/hosts because somebody asked for it. Those of the host among
    /// them are not what they are elsewhere, in the other family either.
    pub given: Vec<String>,
}

/// Who asks, and how.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    pub container: &'a str,
    pub transport: Transport,
    /// Counts the container's queries: the next one of several addresses comes first.
    pub turn: u32,
    pub options: &'a Options,
}

/// What becomes of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The reply is in the buffer.
    Reply,
    /// Not a name of ours: the resolvers know. With internal networks only, those that the container
    /// was given, which may be on them; where they are not, the name is nobody's.
    Forward { internal: bool },
    /// These bytes deserve no reply.
    Nothing,
}

/// Answers `query`; a reply is written to `out`, which is emptied first.
///
/// Names of the asker's networks are answered for every type of record: one that they do not have
/// is an empty answer, never a question to somebody outside. What nobody here is called is asked
/// outside, unless all of the asker's networks are internal: then it is NXDOMAIN, or asked of the
/// servers that the container was given, from where it is, as in the reference. A container whose
/// networks are not known (yet) gets a server failure, which nobody keeps.
pub fn answer(table: &Table, asker: &Asker<'_>, query: &[u8], out: &mut Vec<u8>) -> Answer {
    out.clear();
    let query = match message::query(query) {
        Ok(query) => query,
        Err(Bad::Unanswerable) => return Answer::Nothing,
        Err(Bad::Told(code)) => {
            message::refuse(query, code, out);
            return Answer::Reply;
        }
    };
    let empty = |code, out| {
        Reply::new(&query, code, asker.transport, out).finish();
        Answer::Reply
    };
    if query.bad_version() {
        return empty(Code::BadVersion, out);
    }
    let Some(view) = table.view(asker.container) else {
        return empty(Code::ServerFailure, out);
    };
    if matches!(query.class, CLASS_IN | CLASS_ANY)
        && let Some(name) = query.name.text()
        && let Some(known) = known(view, asker.options, name)
    {
        return match known {
            Known::Nobody => empty(Code::NameError, out),
            Known::Name(name) => {
                let mut reply = Reply::new(&query, Code::NoError, asker.transport, out);
                if matches!(query.kind, message::PTR | message::ANY) {
                    reply.pointer(name);
                }
                reply.finish();
                Answer::Reply
            }
            Known::Addresses(found) => {
                addresses(&query, &found, asker, out);
                Answer::Reply
            }
        };
    }
    let internal = !view.leads_out();
    if internal && asker.options.servers.is_empty() {
        return empty(Code::NameError, out);
    }
    if asker.options.keeps_bare_names && bare(&query) {
        return empty(Code::NoError, out);
    }
    Answer::Forward { internal }
}

/// What is known of a name.
enum Known<'a> {
    Addresses(Vec<&'a Addresses>),
    Name(&'a [u8]),
    Nobody,
}

fn known<'a>(view: View<'a>, options: &Options, name: &[u8]) -> Option<Known<'a>> {
    let found = view.find(name);
    if !found.is_empty() {
        return Some(Known::Addresses(found));
    }
    let given = |name: &[u8]| options.given.iter().any(|given| given.as_bytes().eq_ignore_ascii_case(name));
    if let Some(host) = view.host(name).filter(|_| !given(name)) {
        return Some(Known::Addresses(vec![host]));
    }
    match view.owner(reversed(name)?) {
        Owner::Name(name) => Some(Known::Name(name)),
        Owner::Nobody => Some(Known::Nobody),
        Owner::Elsewhere => None,
    }
}

/// The addresses of the first network that has some of the wanted family.
fn addresses(query: &Query<'_>, found: &[&Addresses], asker: &Asker<'_>, out: &mut Vec<u8>) {
    let mut reply = Reply::new(query, Code::NoError, asker.transport, out);
    let turn = asker.turn as usize;
    if matches!(query.kind, message::A | message::ANY)
        && let Some(some) = found.iter().find(|addresses| !addresses.v4.is_empty())
    {
        let (late, first) = some.v4.split_at(turn % some.v4.len());
        first.iter().chain(late).for_each(|address| reply.address4(*address));
    }
    if matches!(query.kind, message::AAAA | message::ANY)
        && let Some(some) = found.iter().find(|addresses| !addresses.v6.is_empty())
    {
        let (late, first) = some.v6.split_at(turn % some.v6.len());
        first.iter().chain(late).for_each(|address| reply.address6(*address));
    }
    reply.finish();
}

/// An address question about a name without a dot.
fn bare(query: &Query<'_>) -> bool {
    matches!(query.kind, message::A | message::AAAA)
        && query.name.text().is_some_and(|name| !name.contains(&b'.'))
}

/// The address that a name of the reverse trees stands for (RFC 1035 §3.5, RFC 3596 §2.5).
fn reversed(name: &[u8]) -> Option<IpAddr> {
    if let Some(name) = name.strip_suffix(b".in-addr.arpa") {
        let mut octets = [0; 4];
        let mut labels = name.split(|byte| *byte == b'.');
        for octet in octets.iter_mut().rev() {
            let label = labels.next().filter(|label| label.first() != Some(&b'+'))?;
            *octet = std::str::from_utf8(label).ok()?.parse().ok()?;
        }
        return labels.next().is_none().then(|| Ipv4Addr::from(octets).into());
    }
    let name = name.strip_suffix(b".ip6.arpa")?;
    if name.len() != 63 {
        return None;
    }
    let mut bits: u128 = 0;
    for (at, label) in name.split(|byte| *byte == b'.').enumerate() {
        let [digit] = label else { return None };
        bits |= u128::from((*digit as char).to_digit(16)?) << (4 * at);
    }
    Some(Ipv6Addr::from(bits).into())
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
