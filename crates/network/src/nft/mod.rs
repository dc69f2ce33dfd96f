//! The kernel's packet filter, nf_tables, over netlink: our own encoder, no program executed.
//!
//! [`encode`](self) turns a [`crate::ruleset::RuleSet`] or a change of it into one batch;
//! [`Nftables`] sends it, remembers it and reads back what the kernel has. [`foreign`] looks at what others'
//! tables do to forwarded packets, [`monitor`] hears of changes by others, [`conntrack`] forgets
//! connections that a former holder of an address had. nft(8) is asked in tests only.

pub mod conntrack;
mod dump;
mod element;
mod encode;
pub mod foreign;
pub mod monitor;
mod tables;

use hull_sys::netlink::message::Messages;

use crate::ruleset::{Family, Type};
pub use tables::Nftables;

/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u8 = 10;
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_BRIDGE: u8 = 7;
const NFPROTO_IPV6: u8 = 10;

/// Where a value comes from.
enum Class {
    /// What the kernel knows of the packet; `enum nft_meta_keys`.
    Meta(u32),
    /// Of its connection; `enum nft_ct_keys`.
    Ct(u32),
    /// Its own bytes, from the network or the transport header on.
    Payload { base: u32, offset: u32 },
    /// The routing table.
    Fib,
}

fn protocol(family: Family) -> u8 {
    match family {
        Family::Inet => NFPROTO_INET,
        Family::Bridge => NFPROTO_BRIDGE,
    }
}

/// Begins a message of nf_tables: its kind has the subsystem in the upper byte; nfgenmsg is
/// family, version 0, resource 0.
fn begin(messages: &mut Messages, kind: u8, flags: u16, family: u8) {
    messages.begin(u16::from_be_bytes([SUBSYSTEM, kind]), flags);
    messages.put(&[family, 0, 0, 0]);
}

fn number(messages: &mut Messages, kind: u16, value: u32) {
    messages.attribute(kind, &value.to_be_bytes());
}

fn read_number(payload: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(payload.try_into().ok()?))
}

/// How nft(8) numbers types, six bits each: the kernel keeps it for whoever lists the set.
fn type_code(fields: &[Type]) -> u32 {
    fields.iter().fold(0, |code, field| {
        code << 6
            | match field {
                Type::Address4 => 7,
                Type::Address6 => 8,
                Type::Protocol => 12,
                Type::Port => 13,
                Type::Link => 41,
            }
    })
}
