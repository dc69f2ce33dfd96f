//! Names in containers: 127.0.0.11 as their resolver.
//!
//! ```text
//!   container's namespace                          daemon
//!   resolver ─► 127.0.0.11:53                      ┌────────────────────────────┐
//!                  │ redirect()                    │ Server: one thread, epoll  │
//!                  ▼                               │   query ─► answer() ─ ours │
//!   Sockets on 127.0.0.11:PORT, UDP and TCP ◄────► │              │ Forward     │
//!     (a copy is kept by the container's shim)     │              ▼             │
//!                                                  │   resolvers of the host    │
//!                                                  └────────────────────────────┘
//! ```
//!
//! The sockets are opened in the container's namespace before its process runs, on a port that
//! was free, and a rule there leads 127.0.0.11:53 to it: the container itself may bind port 53 of
//! every address. Sockets outlive the daemon: the shim holds copies and hands them to the next
//! one. What is asked meanwhile waits in their queues.
//!
//! What a name means is a [`Table`], made from records; [`answer()`] looks it up and touches nothing.

mod answer;
mod connection;
mod forward;
mod message;
mod redirect;
mod server;
mod sockets;
mod table;
mod upstreams;

pub use answer::{Answer, Asker, Options, answer};
pub use message::Transport;
pub use redirect::redirect;
pub use server::Server;
pub use sockets::{ADDRESS, Sockets};
pub use table::{HOST_NAMES, Table, table};

/// Any bytes as a query, as what a server answers, and as a resolv.conf.
#[doc(hidden)]
pub mod fuzz {
    use std::collections::BTreeMap;

    use super::{Answer, Asker, Options, Table, Transport, answer, message, table, upstreams};
    use crate::record::{Driver, Endpoint, Mac, Macvlan, MacvlanMode, Network, Subnet};

    /// Two networks, of which `back` is internal; `web` is on the first, `job` on the second.
    fn world() -> Table {
        let network = |id: &str, internal, pool: &str| Network {
            id: id.to_owned(),
            name: id.to_owned(),
            driver: Driver::Macvlan(Macvlan {
                parent: String::new(),
                mode: MacvlanMode::Bridge,
                made_parent: false,
                nowhere: false,
            }),
            subnets: pool
                .parse()
                .into_iter()
                .map(|pool| Subnet {
                    pool,
                    range: None,
                    gateway: None,
                    reserved: BTreeMap::new(),
                    asked: true,
                })
                .collect(),
            ipv4: true,
            ipv6: true,
            internal,
            attachable: false,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            ipam_options: BTreeMap::new(),
            created: 0,
        };
        let endpoint = |network: &str, container: &str, v4: &str, v6: &str| Endpoint {
            id: String::new(),
            network: network.to_owned(),
            container: container.to_owned(),
            link: String::new(),
            host_link: String::new(),
            mac: Mac::default(),
            address4: v4.parse().ok(),
            address6: v6.parse().ok(),
            link_local: Vec::new(),
            gateway4: None,
            gateway6: None,
            sysctls: Vec::new(),
            names: vec![container.to_owned(), "all".to_owned()],
            links: BTreeMap::new(),
            published: Vec::new(),
            exposed: Vec::new(),
        };
        table(
            &[network("front", false, "10.1.0.0/16"), network("back", true, "10.2.0.0/16")],
            &[
                endpoint("front", "web", "10.1.0.2/16", "fd00::2/64"),
                endpoint("back", "job", "10.2.0.2/16", ""),
            ],
        )
    }

    pub fn fuzz_query(data: &[u8]) {
        let table = world();
        let mut out = Vec::new();
        let options = Options { keeps_bare_names: true, ..Options::default() };
        for transport in [Transport::Udp, Transport::Tcp] {
            for container in ["web", "job", "nobody"] {
                let asker = Asker { container, transport, turn: 1, options: &options };
                let answer = answer(&table, &asker, data, &mut out);
                let outside = matches!(answer, Answer::Forward { .. });
                assert!(container == "web" || !outside, "an internal network asks outside");
                if answer == Answer::Reply {
                    assert!(out.len() >= message::HEADER && out[..2] == data[..2] && out[2] & 0x80 != 0);
                }
            }
        }
        message::answers(data, data);
        upstreams::servers(&String::from_utf8_lossy(data));
    }
}
