//! A [`RuleSet`] and its changes as the messages that nf_tables takes
//! (linux/netfilter/nf_tables.h; there is no manual page).
//!
//! Everything of one call is one batch, that is one transaction: packets see all of it or nothing.
//! Numbers in attributes are in network byte order; the values that packets are compared with have
//! the order in which the packet, or for `meta` and `ct` the kernel, has them.

use hull_sys::netlink::message::{APPEND, CREATE, Messages, REQUEST};

use super::element::{self, Wire};
use super::{Class, NFPROTO_IPV4, NFPROTO_IPV6, begin, number, type_code};
use crate::ruleset::{
    Chain, Change, Data, Element, Family, Hook, Kind, Point, Rule, RuleSet, Set, SetName, Statement, Subject,
    TABLE, Test, Type, Verdict,
};

const NEWTABLE: u8 = 0;
const DELTABLE: u8 = 2;
const NEWCHAIN: u8 = 3;
const NEWRULE: u8 = 6;
const NEWSET: u8 = 9;
const NEWSETELEM: u8 = 12;
const DELSETELEM: u8 = 14;

const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

/// Elements of one message: an attribute holds 64 KiB, an element at most some 150 bytes.
const CHUNK: usize = 400;

const NFT_SET_INTERVAL: u32 = 4;
const NFT_SET_MAP: u32 = 8;
const NFT_SET_CONCAT: u32 = 0x80;
const NFT_DATA_VERDICT: u32 = 0xffff_ff00;

/// A note that nft(8) reads when it lists a set of names: the key is in the machine's byte order
/// (kind 0, four bytes, 1). The kernel does not care.
const MACHINE_ORDER: [u8; 6] = {
    let [a, b, c, d] = 1u32.to_ne_bytes();
    [0, 4, a, b, c, d]
};

/// The first of the registers, 16 bytes; as 32-bit registers they begin at 8.
const REGISTER: u32 = 1;
const VERDICT_REGISTER: u32 = 0;

/// One transaction being written.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    messages: Messages,
    /// What the messages are for, for the one that is refused.
    what: Vec<String>,
    sets: u32,
}

impl Batch {
    fn new() -> Batch {
        let mut batch = Batch::default();
        batch.frame(BATCH_BEGIN);
        batch
    }

    /// The beginning and end of a batch: nfgenmsg with nf_tables' number.
    fn frame(&mut self, kind: u16) {
        self.messages.begin(kind, REQUEST);
        self.messages.put(&[0, 0, 0, super::SUBSYSTEM]);
        self.messages.end();
        self.what.push("the transaction".to_owned());
    }

    fn message(
        &mut self,
        kind: u8,
        flags: u16,
        family: Family,
        what: impl FnOnce() -> String,
        inside: impl FnOnce(&mut Messages),
    ) {
        begin(&mut self.messages, kind, REQUEST | flags, super::protocol(family));
        inside(&mut self.messages);
        self.messages.end();
        self.what.push(what());
    }

    fn finished(mut self) -> Batch {
        // Refusals are told without being asked for; one answer says that there was none.
        self.messages.acknowledge();
        self.frame(BATCH_END);
        self
    }

    pub(super) fn messages(&mut self) -> &mut Messages {
        &mut self.messages
    }

    /// What the message of this position is for.
    pub(super) fn what(&self, position: usize) -> String {
        self.what.get(position).cloned().unwrap_or_else(|| "the transaction".to_owned())
    }

    /// The position of the message that is answered: the last one before the end.
    pub(super) fn last(&self) -> usize {
        self.what.len() - 2
    }
}

/// Makes all tables anew, and takes away those that are not in `rules`.
pub(crate) fn replace(rules: &RuleSet) -> Batch {
    let mut batch = Batch::new();
    for family in [Family::Inet, Family::Bridge] {
        // A table can only be deleted if it is there: so it is made first.
        table(&mut batch, family, NEWTABLE, CREATE);
        table(&mut batch, family, DELTABLE, 0);
        let Some(wanted) = rules.tables.get(&family) else { continue };
        table(&mut batch, family, NEWTABLE, CREATE);
        for (name, wanted) in &wanted.sets {
            set(&mut batch, family, name, wanted);
        }
        for wanted in &wanted.chains {
            chain(&mut batch, family, wanted);
        }
        for (name, wanted) in &wanted.sets {
            let wires: Vec<Wire> =
                wanted.elements.iter().flat_map(|(key, value)| element::wire(wanted, key, value)).collect();
            elements(&mut batch, NEWSETELEM, SetName { family, name }, &wires);
        }
        for wanted in &wanted.chains {
            for rule in &wanted.rules {
                add_rule(&mut batch, family, wanted.name, rule);
            }
        }
    }
    batch.finished()
}

/// Takes and adds elements. `rules` tells what the sets are like.
pub(crate) fn change(change: &Change, rules: &RuleSet) -> Batch {
    let mut batch = Batch::new();
    for (kind, all) in [(DELSETELEM, &change.remove), (NEWSETELEM, &change.add)] {
        // They are ordered by their sets.
        let all: Vec<&Element> = all.iter().collect();
        for of_one in all.chunk_by(|one, next| one.set == next.set) {
            let name = of_one[0].set;
            let Some(set) = rules.set(name) else { continue };
            let wires: Vec<Wire> =
                of_one.iter().flat_map(|one| element::wire(set, &one.key, &one.value)).collect();
            elements(&mut batch, kind, name, &wires);
        }
    }
    batch.finished()
}

fn table(batch: &mut Batch, family: Family, kind: u8, flags: u16) {
    let what = || format!("table {} {TABLE}", family.name());
    batch.message(kind, flags, family, what, |message| {
        message.text(1, TABLE);
        if kind == NEWTABLE {
            number(message, 2, 0);
        }
    });
}

fn set(batch: &mut Batch, family: Family, name: &str, set: &Set) {
    batch.sets += 1;
    let id = batch.sets;
    let concatenation = set.key.len() > 1;
    let mut flags = 0;
    if set.interval {
        flags |= NFT_SET_INTERVAL;
        if concatenation {
            flags |= NFT_SET_CONCAT;
        }
    }
    if set.data != Data::None {
        flags |= NFT_SET_MAP;
    }
    let what = || format!("set {name} of table {} {TABLE}", family.name());
    batch.message(NEWSET, CREATE, family, what, |message| {
        message.text(1, TABLE);
        message.text(2, name);
        number(message, 3, flags);
        number(message, 4, type_code(&set.key));
        number(message, 5, element::length(&set.key));
        match &set.data {
            Data::None => {}
            Data::Verdict => {
                number(message, 6, NFT_DATA_VERDICT);
                number(message, 7, 16);
            }
            Data::Fields(fields) => {
                number(message, 6, type_code(fields));
                number(message, 7, element::length(fields));
            }
        }
        number(message, 10, id);
        if let [Type::Link] = set.key[..] {
            message.attribute(13, &MACHINE_ORDER);
        }
        if set.interval && concatenation {
            message.nest(9, |description| {
                description.nest(2, |fields| {
                    for field in &set.key {
                        fields.nest(1, |one| number(one, 1, element::size(*field)));
                    }
                });
            });
        }
    });
}

fn elements(batch: &mut Batch, kind: u8, name: SetName, wires: &[Wire]) {
    for chunk in wires.chunks(CHUNK) {
        let what = || format!("elements of {} in table {} {TABLE}", name.name, name.family.name());
        let flags = if kind == NEWSETELEM { CREATE } else { 0 };
        batch.message(kind, flags, name.family, what, |message| {
            message.text(1, TABLE);
            message.text(2, name.name);
            message.nest(3, |list| {
                for wire in chunk {
                    list.nest(1, |one| wire.write(one, kind == NEWSETELEM));
                }
            });
        });
    }
}

fn chain(batch: &mut Batch, family: Family, chain: &Chain) {
    let what = || format!("chain {} of table {} {TABLE}", chain.name, family.name());
    batch.message(NEWCHAIN, CREATE, family, what, |message| {
        message.text(1, TABLE);
        message.text(3, chain.name);
        if let Some(hook) = chain.hook {
            message.nest(4, |inside| {
                number(inside, 1, point(hook));
                number(inside, 2, hook.priority.cast_unsigned());
            });
            // NF_ACCEPT
            number(message, 5, 1);
            message.text(
                7,
                match hook.kind {
                    Kind::Filter => "filter",
                    Kind::Nat => "nat",
                },
            );
        }
    });
}

/// `enum nf_inet_hooks`; those of bridges have the same numbers.
fn point(hook: Hook) -> u32 {
    match hook.point {
        Point::Prerouting => 0,
        Point::Input => 1,
        Point::Forward => 2,
        Point::Output => 3,
        Point::Postrouting => 4,
    }
}

fn add_rule(batch: &mut Batch, family: Family, chain: &'static str, rule: &Rule) {
    let what = || format!("rule \"{rule}\" of chain {chain} in table {} {TABLE}", family.name());
    batch.message(NEWRULE, CREATE | APPEND, family, what, |message| {
        message.text(1, TABLE);
        message.text(2, chain);
        message.nest(4, |list| {
            let mut expressions = Expressions { list };
            for statement in &rule.statements {
                expressions.statement(statement);
            }
        });
        message.attribute(7, &comment(rule.comment));
    });
}

/// A comment as nft(8) keeps it: kind 0, length, the text with its zero byte.
fn comment(text: &str) -> Vec<u8> {
    let len = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    let mut bytes = vec![0, len];
    bytes.extend(text.bytes().take(usize::from(len) - 1));
    bytes.push(0);
    bytes
}

/// The expressions of one rule.
struct Expressions<'a> {
    list: &'a mut Messages,
}

impl Expressions<'_> {
    fn one(&mut self, name: &str, inside: impl FnOnce(&mut Messages)) {
        self.list.nest(1, |expression| {
            expression.text(1, name);
            expression.nest(2, inside);
        });
    }

    fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Match(subject, test) => self.test(*subject, test),
            Statement::In { key, set, is } => {
                self.key(key);
                self.lookup(set, None, !is);
            }
            Statement::Vmap { key, map } => {
                self.key(key);
                self.lookup(map, Some(VERDICT_REGISTER), false);
            }
            Statement::Dnat { six, key, map } => {
                self.key(key);
                self.lookup(map, Some(REGISTER), false);
                // Ranges have no port of their own: theirs is the one that was asked for.
                self.dnat(*six, !map.starts_with("ranges"));
            }
            Statement::Redirect(port) => {
                self.one("immediate", |inside| {
                    number(inside, 1, REGISTER);
                    inside.nest(2, |data| data.attribute(1, &port.to_be_bytes()));
                });
                self.one("redir", |inside| {
                    number(inside, 1, REGISTER);
                    // NF_NAT_RANGE_PROTO_SPECIFIED
                    number(inside, 3, 2);
                });
            }
            Statement::Masquerade => self.one("masq", |_| ()),
            Statement::Verdict(verdict) => self.one("immediate", |inside| {
                number(inside, 1, VERDICT_REGISTER);
                inside.nest(2, |data| element::write_verdict(data, *verdict));
            }),
        }
    }

    /// Loads the fields one behind the other, each at a multiple of four bytes.
    fn key(&mut self, subjects: &[Subject]) {
        let mut at = 0;
        for subject in subjects {
            self.load(*subject, at);
            at += subject_size(*subject).div_ceil(4);
        }
    }

    fn lookup(&mut self, set: &str, to: Option<u32>, inverted: bool) {
        self.one("lookup", |inside| {
            inside.text(1, set);
            number(inside, 2, REGISTER);
            if let Some(register) = to {
                number(inside, 3, register);
            }
            if inverted {
                number(inside, 5, 1);
            }
        });
    }

    fn dnat(&mut self, six: bool, port: bool) {
        let (family, words) = if six { (NFPROTO_IPV6, 4) } else { (NFPROTO_IPV4, 1) };
        self.one("nat", |inside| {
            number(inside, 1, 1);
            number(inside, 2, family.into());
            number(inside, 3, REGISTER);
            if port {
                number(inside, 5, register(words));
            }
        });
    }

    fn load(&mut self, subject: Subject, at: u32) {
        match class(subject) {
            Class::Meta(key) => self.one("meta", |inside| {
                number(inside, 2, key);
                number(inside, 1, register(at));
            }),
            Class::Ct(key) => self.one("ct", |inside| {
                number(inside, 1, register(at));
                number(inside, 2, key);
            }),
            Class::Payload { base, offset } => {
                self.payload(base, offset, subject_size(subject), register(at));
            }
            // What the routing table says of the destination.
            Class::Fib => self.one("fib", |inside| {
                number(inside, 1, register(at));
                number(inside, 2, 3);
                number(inside, 3, 2);
            }),
        }
    }

    fn payload(&mut self, base: u32, offset: u32, len: u32, register: u32) {
        self.one("payload", |inside| {
            number(inside, 1, register);
            number(inside, 2, base);
            number(inside, 3, offset);
            number(inside, 4, len);
        });
    }

    fn compare(&mut self, equal: bool, value: &[u8]) {
        self.one("cmp", |inside| {
            number(inside, 1, REGISTER);
            number(inside, 2, u32::from(!equal));
            inside.nest(3, |data| data.attribute(1, value));
        });
    }

    fn mask(&mut self, mask: &[u8]) {
        self.one("bitwise", |inside| {
            number(inside, 1, REGISTER);
            number(inside, 2, REGISTER);
            number(inside, 3, mask.len() as u32);
            inside.nest(4, |data| data.attribute(1, mask));
            inside.nest(5, |data| data.attribute(1, &vec![0; mask.len()]));
        });
    }

    fn test(&mut self, subject: Subject, test: &Test) {
        match test {
            Test::Number(value) if subject == Subject::TcpOpening => {
                self.load(subject, 0);
                self.mask(&[0x12]);
                self.compare(true, &[*value as u8]);
            }
            Test::Number(value) => {
                self.load(subject, 0);
                self.compare(true, &in_packet(subject, *value));
            }
            Test::AnyOf(bits) => {
                self.load(subject, 0);
                self.mask(&bits.to_ne_bytes());
                self.compare(false, &[0; 4]);
            }
            Test::Link(link) | Test::NotLink(link) => {
                self.load(subject, 0);
                self.compare(matches!(test, Test::Link(_)), &element::link(link));
            }
            Test::Within(net) => self.within(subject, net),
        }
    }

    /// A prefix of whole bytes is a shorter load; another one is masked. nft(8) does the same, and
    /// reads it back as a prefix.
    fn within(&mut self, subject: Subject, net: &ipnet::IpNet) {
        let bytes = element::octets(net.network());
        let whole = usize::from(net.prefix_len() / 8);
        if let (0, Class::Payload { base, offset }) = (net.prefix_len() % 8, class(subject)) {
            self.payload(base, offset, whole as u32, REGISTER);
            self.compare(true, &bytes[..whole]);
        } else {
            self.load(subject, 0);
            self.mask(&element::octets(net.netmask()));
            self.compare(true, &bytes);
        }
    }
}

/// The register that many words behind the first.
fn register(words: u32) -> u32 {
    if words == 0 { REGISTER } else { 8 + words }
}

fn class(subject: Subject) -> Class {
    const NETWORK: u32 = 1;
    const TRANSPORT: u32 = 2;
    let payload = |base, offset| Class::Payload { base, offset };
    match subject {
        Subject::EtherType => Class::Meta(1),
        Subject::InLink => Class::Meta(6),
        Subject::OutLink => Class::Meta(7),
        Subject::NetworkProtocol => Class::Meta(15),
        Subject::TransportProtocol => Class::Meta(16),
        Subject::Source4 => payload(NETWORK, 12),
        Subject::Destination4 => payload(NETWORK, 16),
        Subject::Source6 => payload(NETWORK, 8),
        Subject::Destination6 => payload(NETWORK, 24),
        Subject::SourcePort | Subject::IcmpType | Subject::Icmp6Type => payload(TRANSPORT, 0),
        Subject::DestinationPort => payload(TRANSPORT, 2),
        Subject::TcpOpening => payload(TRANSPORT, 13),
        Subject::State => Class::Ct(0),
        Subject::Status => Class::Ct(2),
        Subject::DestinationKind => Class::Fib,
    }
}

/// Bytes that are loaded.
fn subject_size(subject: Subject) -> u32 {
    match subject {
        Subject::InLink | Subject::OutLink => element::size(Type::Link),
        Subject::Source4 | Subject::Destination4 => element::size(Type::Address4),
        Subject::Source6 | Subject::Destination6 => element::size(Type::Address6),
        Subject::SourcePort | Subject::DestinationPort | Subject::EtherType => 2,
        Subject::NetworkProtocol
        | Subject::TransportProtocol
        | Subject::IcmpType
        | Subject::Icmp6Type
        | Subject::TcpOpening => 1,
        Subject::State | Subject::Status | Subject::DestinationKind => 4,
    }
}

fn in_packet(subject: Subject, value: u32) -> Vec<u8> {
    match subject_size(subject) {
        1 => vec![value as u8],
        2 => (value as u16).to_be_bytes().to_vec(),
        _ => value.to_ne_bytes().to_vec(),
    }
}

/// The code and chain of a verdict.
pub(super) fn verdict_code(verdict: Verdict) -> (i32, Option<&'static str>) {
    match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
    }
}
