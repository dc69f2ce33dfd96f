//! nftables' tables as values: what [`crate::rules`] decides and [`crate::nft`] tells the kernel.
//!
//! Only what Hull's own rules need can be said here. Rules are few and never name a container;
//! everything that comes and goes is an [`Element`] of a set or map, so that a change is a few
//! elements and two values can be compared by their elements alone.
//!
//! `Display` writes a table in nft(8)'s own language: for a reader, for the tests, and as the
//! proof of the encoder (nft given this text must make the same table).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::record::{PortRange, Protocol};

/// All tables of Hull's; without one there is nothing to be in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleSet {
    pub tables: BTreeMap<Family, Table>,
}

/// Which packets a table sees; one table of each kind at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4 and IPv6 that the host receives, sends or forwards.
    Inet,
    /// Frames between the ports of a bridge.
    Bridge,
}

impl Family {
    pub fn name(self) -> &'static str {
        match self {
            Family::Inet => "inet",
            Family::Bridge => "bridge",
        }
    }
}

/// What all tables of Hull's are called.
pub const TABLE: &str = "hull";

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    pub sets: BTreeMap<&'static str, Set>,
    /// In the order in which they are made: one that is jumped to stands before the jump.
    pub chains: Vec<Chain>,
}

/// A set, or a map where it has `data`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// The fields of a key: one, or a concatenation.
    pub key: Vec<Type>,
    pub data: Data,
    /// Fields may be ranges.
    pub interval: bool,
    pub elements: BTreeMap<Vec<Field>, Value>,
}

impl Set {
    pub fn new(key: &[Type]) -> Set {
        Set { key: key.to_vec(), data: Data::None, interval: false, elements: BTreeMap::new() }
    }

    pub fn interval(key: &[Type]) -> Set {
        Set { interval: true, ..Set::new(key) }
    }

    pub fn map(self, data: Data) -> Set {
        Set { data, ..self }
    }
}

/// What a map gives for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// It is a set.
    None,
    Verdict,
    Fields(Vec<Type>),
}

/// The type of one field of a key or of a map's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Link,
    Protocol,
    Port,
    Address4,
    Address6,
}

/// One field of an element.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// A link's name, at most 15 bytes.
    Link(String),
    Protocol(Protocol),
    /// One port, or in a set of intervals several.
    Ports(PortRange),
    Address(IpAddr),
    /// In a set of intervals only.
    Addresses(IpNet),
}

/// What stands behind a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// In sets.
    None,
    Verdict(Verdict),
    Fields(Vec<Field>),
}

/// Where a set is: its table and its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetName {
    pub family: Family,
    pub name: &'static str,
}

/// One element and the set that it is in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    pub set: SetName,
    pub key: Vec<Field>,
    pub value: Value,
}

/// Elements that come and go together; ordered, without doubles.
pub type Elements = BTreeSet<Element>;

/// The difference of two sets of rules that differ in elements only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    pub remove: Elements,
    pub add: Elements,
}

impl Change {
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub name: &'static str,
    /// `None`: reached by jumps only.
    pub hook: Option<Hook>,
    pub rules: Vec<Rule>,
}

/// Where in a packet's way a chain stands. Its policy is always to accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    pub kind: Kind,
    pub point: Point,
    /// Lower runs first; connection tracking is at -200, destination NAT at -100.
    pub priority: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Filter,
    Nat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

/// Statements that all must hold, and what then happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub statements: Vec<Statement>,
    /// The rule's reason, which `nft list ruleset` shows too; at most 127 bytes.
    pub comment: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    Match(Subject, Test),
    /// The key is in the set, or is not.
    In {
        key: Vec<Subject>,
        set: &'static str,
        is: bool,
    },
    /// What the map says for the key, if it has it.
    Vmap {
        key: Vec<Subject>,
        map: &'static str,
    },
    /// To the address (and port, where the map has one) that the map has for the key.
    Dnat {
        six: bool,
        key: Vec<Subject>,
        map: &'static str,
    },
    /// To this port of the host itself.
    Redirect(u16),
    Masquerade,
    Verdict(Verdict),
}

/// What of a packet is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The link it came in by.
    InLink,
    /// The link it goes out by.
    OutLink,
    /// IPv4 or IPv6: [`IPV4`], [`IPV6`].
    NetworkProtocol,
    /// The EtherType, in tables of bridges.
    EtherType,
    TransportProtocol,
    Source4,
    Destination4,
    Source6,
    Destination6,
    SourcePort,
    DestinationPort,
    IcmpType,
    Icmp6Type,
    /// SYN and ACK of TCP's flags.
    TcpOpening,
    /// Bits of the connection's state.
    State,
    /// Bits of the connection's status.
    Status,
    /// What the routing table says of the destination: [`LOCAL`].
    DestinationKind,
}

/// `meta nfproto` of IPv4.
pub const IPV4: u32 = 2;
/// `meta nfproto` of IPv6.
pub const IPV6: u32 = 10;
/// `RTN_LOCAL`: an address of this host.
pub const LOCAL: u32 = 2;
/// `ct state established,related`.
pub const ESTABLISHED_RELATED: u32 = 2 | 4;
/// `IPS_DST_NAT`.
pub const DNAT: u32 = 1 << 5;
/// The SYN bit of TCP's flags; the ACK bit is 16.
pub const SYN: u32 = 2;

/// How a [`Subject`] is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    Number(u32),
    /// Any of these bits is set.
    AnyOf(u32),
    Link(&'static str),
    NotLink(&'static str),
    Within(IpNet),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    Accept,
    Drop,
    Jump(&'static str),
    Goto(&'static str),
}

impl RuleSet {
    /// The set of that name, if the table has it.
    pub fn set(&self, name: SetName) -> Option<&Set> {
        self.tables.get(&name.family)?.sets.get(name.name)
    }

    /// Whether both have the same chains and sets, whatever is in the sets.
    pub fn same_frame(&self, other: &RuleSet) -> bool {
        self.tables.len() == other.tables.len()
            && self.tables.iter().zip(&other.tables).all(|((family, table), (other_family, other))| {
                family == other_family && table.chains == other.chains && same_sets(&table.sets, &other.sets)
            })
    }

    /// What makes `wanted` of this; `None` where chains or sets differ, and tables have to be made
    /// anew.
    pub fn difference(&self, wanted: &RuleSet) -> Option<Change> {
        if !self.same_frame(wanted) {
            return None;
        }
        let mut change = Change::default();
        for (family, table) in &wanted.tables {
            let before = &self.tables[family];
            for (name, set) in &table.sets {
                let name = SetName { family: *family, name };
                let old = &before.sets[name.name].elements;
                let element = |(key, value): (&Vec<Field>, &Value)| Element {
                    set: name,
                    key: key.clone(),
                    value: value.clone(),
                };
                let lacks = |other: &BTreeMap<Vec<Field>, Value>, (key, value): &(&Vec<Field>, &Value)| {
                    other.get(*key) != Some(value)
                };
                change.remove.extend(old.iter().filter(|entry| lacks(&set.elements, entry)).map(element));
                change.add.extend(set.elements.iter().filter(|entry| lacks(old, entry)).map(element));
            }
        }
        Some(change)
    }

    /// Makes the change, as far as there are such sets. Gives back what it really changes: an
    /// element that is there is not added, one that is not there (or is there for another value) is
    /// not removed.
    pub fn change(&mut self, change: &Change) -> Change {
        let mut real = Change::default();
        for element in &change.remove {
            let Some(set) = self.set_mut(element.set) else { continue };
            if set.elements.get(&element.key) == Some(&element.value) {
                set.elements.remove(&element.key);
                real.remove.insert(element.clone());
            }
        }
        for element in &change.add {
            let Some(set) = self.set_mut(element.set) else { continue };
            match set.elements.insert(element.key.clone(), element.value.clone()) {
                Some(old) if old == element.value => {}
                old => {
                    if let Some(value) = old {
                        real.remove.insert(Element { value, ..element.clone() });
                    }
                    real.add.insert(element.clone());
                }
            }
        }
        // What is taken and given again needs no word.
        let both: Vec<Element> = real.remove.intersection(&real.add).cloned().collect();
        for element in &both {
            real.remove.remove(element);
            real.add.remove(element);
        }
        real
    }

    fn set_mut(&mut self, name: SetName) -> Option<&mut Set> {
        self.tables.get_mut(&name.family)?.sets.get_mut(name.name)
    }
}

fn same_sets(one: &BTreeMap<&'static str, Set>, other: &BTreeMap<&'static str, Set>) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|((name, set), (other_name, other))| {
            name == other_name
                && (&set.key, &set.data, set.interval) == (&other.key, &other.data, other.interval)
        })
}

impl fmt::Display for RuleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (family, table) in &self.tables {
            writeln!(f, "table {} {TABLE} {{", family.name())?;
            for (name, set) in &table.sets {
                write_set(f, name, set)?;
            }
            for chain in &table.chains {
                write_chain(f, chain)?;
            }
            writeln!(f, "}}")?;
        }
        Ok(())
    }
}

fn write_set(f: &mut fmt::Formatter<'_>, name: &str, set: &Set) -> fmt::Result {
    let key = joined(&set.key, Type::name);
    let (word, data) = match &set.data {
        Data::None => ("set", String::new()),
        Data::Verdict => ("map", " : verdict".to_owned()),
        Data::Fields(fields) => ("map", format!(" : {}", joined(fields, Type::name))),
    };
    writeln!(f, "  {word} {name} {{")?;
    writeln!(f, "    type {key}{data}")?;
    if set.interval {
        writeln!(f, "    flags interval")?;
    }
    if !set.elements.is_empty() {
        writeln!(f, "    elements = {{")?;
        for (key, value) in &set.elements {
            writeln!(f, "      {}{value},", joined(key, Field::to_string))?;
        }
        writeln!(f, "    }}")?;
    }
    writeln!(f, "  }}")
}

fn write_chain(f: &mut fmt::Formatter<'_>, chain: &Chain) -> fmt::Result {
    writeln!(f, "  chain {} {{", chain.name)?;
    if let Some(Hook { kind, point, priority }) = chain.hook {
        let kind = match kind {
            Kind::Filter => "filter",
            Kind::Nat => "nat",
        };
        let point = match point {
            Point::Prerouting => "prerouting",
            Point::Input => "input",
            Point::Forward => "forward",
            Point::Output => "output",
            Point::Postrouting => "postrouting",
        };
        writeln!(f, "    type {kind} hook {point} priority {priority}; policy accept;")?;
    }
    for rule in &chain.rules {
        writeln!(f, "    {rule}")?;
    }
    writeln!(f, "  }}")
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for statement in &self.statements {
            write!(f, "{statement} ")?;
        }
        write!(f, "comment {:?}", self.comment)
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Statement::Match(subject, test) => write_match(f, *subject, test),
            Statement::In { key, set, is } => {
                write!(f, "{} {}@{set}", joined(key, Subject::name), if *is { "" } else { "!= " })
            }
            Statement::Vmap { key, map } => write!(f, "{} vmap @{map}", joined(key, Subject::name)),
            Statement::Dnat { six, key, map } => {
                let family = if *six { "ip6" } else { "ip" };
                write!(f, "dnat {family} to {} map @{map}", joined(key, Subject::name))
            }
            Statement::Redirect(port) => write!(f, "redirect to :{port}"),
            Statement::Masquerade => f.write_str("masquerade"),
            Statement::Verdict(verdict) => verdict.fmt(f),
        }
    }
}

fn write_match(f: &mut fmt::Formatter<'_>, subject: Subject, test: &Test) -> fmt::Result {
    let name = subject.name();
    match (subject, test) {
        (Subject::TcpOpening, Test::Number(bits)) => {
            write!(f, "tcp flags & (syn | ack) == {}", if *bits == SYN { "syn" } else { "syn | ack" })
        }
        (Subject::DestinationKind, Test::Number(LOCAL)) => write!(f, "{name} local"),
        (Subject::State, Test::AnyOf(ESTABLISHED_RELATED)) => write!(f, "{name} established,related"),
        (Subject::Status, Test::AnyOf(DNAT)) => write!(f, "{name} dnat"),
        (Subject::NetworkProtocol, Test::Number(IPV4)) => write!(f, "{name} ipv4"),
        (Subject::NetworkProtocol, Test::Number(IPV6)) => write!(f, "{name} ipv6"),
        (Subject::EtherType, Test::Number(kind)) => write!(f, "{name} {kind:#06x}"),
        (_, Test::Number(number)) => write!(f, "{name} {number}"),
        (_, Test::AnyOf(bits)) => write!(f, "{name} & {bits:#x} != 0"),
        (_, Test::Link(link)) => write!(f, "{name} {link:?}"),
        (_, Test::NotLink(link)) => write!(f, "{name} != {link:?}"),
        (_, Test::Within(net)) => write!(f, "{name} {net}"),
    }
}

impl Subject {
    fn name(&self) -> String {
        let name = match self {
            Subject::InLink => "iifname",
            Subject::OutLink => "oifname",
            Subject::NetworkProtocol => "meta nfproto",
            Subject::EtherType => "meta protocol",
            Subject::TransportProtocol => "meta l4proto",
            Subject::Source4 => "ip saddr",
            Subject::Destination4 => "ip daddr",
            Subject::Source6 => "ip6 saddr",
            Subject::Destination6 => "ip6 daddr",
            Subject::SourcePort => "th sport",
            Subject::DestinationPort => "th dport",
            Subject::IcmpType => "icmp type",
            Subject::Icmp6Type => "icmpv6 type",
            Subject::TcpOpening => "tcp flags",
            Subject::State => "ct state",
            Subject::Status => "ct status",
            Subject::DestinationKind => "fib daddr type",
        };
        name.to_owned()
    }
}

impl Type {
    fn name(&self) -> String {
        let name = match self {
            Type::Link => "ifname",
            Type::Protocol => "inet_proto",
            Type::Port => "inet_service",
            Type::Address4 => "ipv4_addr",
            Type::Address6 => "ipv6_addr",
        };
        name.to_owned()
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Field::Link(name) => write!(f, "{name:?}"),
            Field::Protocol(protocol) => f.write_str(protocol.name()),
            Field::Ports(PortRange { first, last }) if first == last => write!(f, "{first}"),
            Field::Ports(PortRange { first, last }) => write!(f, "{first}-{last}"),
            Field::Address(address) => write!(f, "{address}"),
            Field::Addresses(net) => write!(f, "{net}"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::None => Ok(()),
            Value::Verdict(verdict) => write!(f, " : {verdict}"),
            Value::Fields(fields) => write!(f, " : {}", joined(fields, Field::to_string)),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Accept => f.write_str("accept"),
            Verdict::Drop => f.write_str("drop"),
            Verdict::Jump(chain) => write!(f, "jump {chain}"),
            Verdict::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SetName { family, name } = self.set;
        write!(f, "{} {TABLE} {name}: {}{}", family.name(), joined(&self.key, Field::to_string), self.value)
    }
}

/// A concatenation in nft's words.
fn joined<T>(parts: &[T], name: impl Fn(&T) -> String) -> String {
    parts.iter().map(name).collect::<Vec<_>>().join(" . ")
}
