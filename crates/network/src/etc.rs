//! The text of a container's /etc/hosts and /etc/resolv.conf: functions of values.
//!
//! The files are the engine's, written at each start and bound into the container, where its users
//! may edit them. So while it runs only what the engine wrote is ever changed: of /etc/hosts the
//! lines that are still exactly as they were written ([`revise`]), and /etc/resolv.conf only as a
//! whole, if it is still what it was. Both are rewritten in place: a new file would not be the one
//! that is bound.

use std::net::{IpAddr, Ipv4Addr};

use crate::dns::HOST_NAMES;

/// The lines that every /etc/hosts begins with, as the reference's.
const HOSTS: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::\tip6-localnet\n\
    ff00::\tip6-mcastprefix\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";

/// What an `--add-host` may say in place of an address.
pub const HOST_GATEWAY: &str = "host-gateway";

/// What stands in a container's /etc/hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts<'a> {
    pub hostname: &'a str,
    /// Empty: none.
    pub domainname: &'a str,
    /// Its own, network by network.
    pub addresses: &'a [IpAddr],
    /// `--add-host`: name and address, or [`HOST_GATEWAY`].
    pub extra: &'a [(&'a str, &'a str)],
    /// Of links on the default bridge: the other's address; alias, host name and name.
    pub links: &'a [(IpAddr, &'a [&'a str])],
    /// Where the container reaches the host.
    pub gateways: &'a [IpAddr],
    /// What [`HOST_GATEWAY`] stands for, where somebody has chosen that; empty: `gateways`.
    pub host_gateway: &'a [IpAddr],
    /// No DNS of ours answers in this container (the default bridge, the host's network): the names
    /// of the host stand in the file.
    pub host_names: bool,
}

impl Hosts<'_> {
    /// The whole file.
    pub fn text(&self) -> String {
        HOSTS.to_owned() + &self.lines().concat()
    }

    /// Everything below the lines that all containers have; each line with its end.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, address) in self.extra {
            if *address == HOST_GATEWAY {
                let host = if self.host_gateway.is_empty() { self.gateways } else { self.host_gateway };
                lines.extend(host.iter().map(|gateway| format!("{gateway}\t{name}\n")));
            } else {
                lines.push(format!("{address}\t{name}\n"));
            }
        }
        for (address, names) in self.links {
            lines.push(link_line(*address, names));
        }
        let whole = match self.domainname {
            "" => self.hostname.to_owned(),
            domain => format!("{}.{domain}", self.hostname),
        };
        // Whoever puts the domain into the host name gets the first part alone as well.
        let names = match whole.split_once('.') {
            Some((first, _)) => format!("{whole} {first}"),
            None => whole,
        };
        lines.extend(self.addresses.iter().map(|address| format!("{address}\t{names}\n")));
        if self.host_names {
            // A name that was asked for means what was asked for, also in the other family.
            let free = |name: &&str| self.extra.iter().all(|(asked, _)| !asked.eq_ignore_ascii_case(name));
            let names: Vec<&str> = HOST_NAMES.into_iter().filter(free).collect();
            if !names.is_empty() {
                lines.extend(self.gateways.iter().map(|gateway| format!("{gateway}\t{}\n", names.join(" "))));
            }
        }
        lines
    }
}

/// The /etc/hosts of a running container after a change of networks: of the lines `before` those
/// that are not in `after` are taken away, where nobody has changed them, and new ones are added at
/// the end. Everything else stays as it is.
pub fn revise(text: &str, before: &[String], after: &[String]) -> String {
    let mut gone: Vec<&String> = before.iter().filter(|line| !after.contains(line)).collect();
    let mut revised = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        match gone.iter().position(|old| old.trim_end() == line.trim_end()) {
            Some(at) => drop(gone.swap_remove(at)),
            None => revised.push_str(line),
        }
    }
    if !revised.is_empty() && !revised.ends_with('\n') {
        revised.push('\n');
    }
    revised.extend(after.iter().filter(|line| !before.contains(line)).map(String::as_str));
    revised
}

fn link_line(address: IpAddr, names: &[&str]) -> String {
    format!("{address}\t{}\n", names.join(" "))
}

/// The /etc/hosts of a running container of which one of [`Hosts::links`] has these addresses from
/// now on; without any the link is gone. Its line is known by its names, whatever address it has
/// (the last of three, the other's name, may have changed since); one that somebody has changed or
/// taken away stays so.
pub fn relink(text: &str, names: &[&str], addresses: &[IpAddr]) -> String {
    let known = &names[..names.len().min(2)];
    let ours = |line: &str| {
        let (address, rest) = line.trim_end().split_once('\t').unwrap_or_default();
        let words: Vec<&str> = rest.split(' ').collect();
        address.parse::<IpAddr>().is_ok() && words.starts_with(known) && words.len() <= known.len() + 1
    };
    let mut fresh = addresses.iter().map(|address| link_line(*address, names));
    let mut relinked = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        if ours(line) {
            relinked.extend(fresh.by_ref());
        } else {
            relinked.push_str(line);
        }
    }
    relinked
}

/// The file behind the host's resolv.conf where that names nobody but systemd's stub.
pub const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// Whether `host`, the text of the host's resolv.conf, names systemd's stub alone: it is of no use
/// in another network namespace, and [`RESOLVED`] tells the servers behind it.
pub fn names_stub_only(host: &str) -> bool {
    let mut servers = nameservers(host);
    servers.next() == Some("127.0.0.53") && servers.next().is_none()
}

/// What a container's /etc/resolv.conf is made from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resolv<'a> {
    /// The text of the host's file, and its path.
    pub host: &'a str,
    pub path: &'a str,
    /// What was asked for in place of the host's: `--dns`, `--dns-search`, `--dns-option`, or the
    /// daemon's settings. Empty: nothing was.
    pub servers: &'a [String],
    pub search: &'a [String],
    pub options: &'a [String],
}

const RESOLV: &str = "# Generated by Docker Engine.\n\
    # This file can be edited; Docker Engine will not make further changes once it\n\
    # has been modified.\n\n";

impl Resolv<'_> {
    /// For a container with names: its resolver is 127.0.0.11, which asks the servers.
    pub fn embedded(&self) -> String {
        let asked = !self.servers.is_empty();
        let outside: Vec<String> = if asked {
            self.servers.to_vec()
        } else {
            nameservers(self.host).map(|server| format!("host({server})")).collect()
        };
        let mut options = self.options();
        let origin = match (ndots(&options), self.options.is_empty()) {
            (None, _) => {
                options.push("ndots:0");
                "internal"
            }
            (Some(_), true) => "host",
            (Some(_), false) => "override",
        };
        let outside = if outside.is_empty() {
            "# NO EXTERNAL NAMESERVERS DEFINED\n".to_owned()
        } else {
            format!("# ExtServers: [{}]\n", outside.join(" "))
        };
        let embedded = crate::dns::ADDRESS.to_string();
        self.text(&[&embedded], &options, "internal resolver", &outside, Some(origin))
    }

    /// For a container on the default bridge or on none: it asks the servers itself. Those of the
    /// host that it cannot reach are left away: loopback ones, and IPv6 ones without `ipv6`. If
    /// that leaves none, 127.0.0.11 asks the host's in the host's namespace (where the reference
    /// asks a public service).
    pub fn plain(&self, ipv6: bool) -> String {
        let embedded = crate::dns::ADDRESS.to_string();
        let mut servers: Vec<&str> = self.servers.iter().map(String::as_str).collect();
        let mut outside = String::new();
        if servers.is_empty() {
            servers = nameservers(self.host).filter(|server| reachable(server, ipv6)).collect();
        }
        if servers.is_empty() {
            let all: Vec<String> = nameservers(self.host).map(|server| format!("host({server})")).collect();
            outside = format!("# ExtServers: [{}]\n", all.join(" "));
            servers.push(&embedded);
        }
        let options = self.options();
        let origin = ndots(&options).map(|_| if self.options.is_empty() { "host" } else { "override" });
        self.text(&servers, &options, "legacy", &outside, origin)
    }

    /// The reference's file, comments and all.
    fn text(
        &self,
        servers: &[&str],
        options: &[&str],
        way: &str,
        outside: &str,
        ndots: Option<&str>,
    ) -> String {
        let mut text = RESOLV.to_owned();
        for server in servers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        let search = self.search();
        if !search.is_empty() {
            text.push_str(&format!("search {}\n", search.join(" ")));
        }
        if !options.is_empty() {
            text.push_str(&format!("options {}\n", options.join(" ")));
        }
        let asked = [("nameservers", self.servers), ("search", self.search), ("options", self.options)];
        let asked: Vec<&str> = asked.iter().filter(|(_, of)| !of.is_empty()).map(|(name, _)| *name).collect();
        text.push_str(&format!("\n# Based on host file: '{}' ({way})\n{outside}", self.path));
        text.push_str(&format!("# Overrides: [{}]\n", asked.join(" ")));
        if let Some(origin) = ndots {
            text.push_str(&format!("# Option ndots from: {origin}\n"));
        }
        text
    }

    /// A single dot asks for no search domain at all.
    fn search(&self) -> Vec<&str> {
        if self.search.is_empty() {
            return last(self.host, &["search", "domain"]);
        }
        self.search.iter().map(String::as_str).filter(|domain| *domain != ".").collect()
    }

    fn options(&self) -> Vec<&str> {
        if self.options.is_empty() {
            return words(self.host, "options").collect();
        }
        self.options.iter().map(String::as_str).collect()
    }

    /// Whether names without a dot stay inside ([`crate::dns::Options::keeps_bare_names`]): somebody
    /// wants them to be tried with search domains first.
    pub fn keeps_bare_names(&self) -> bool {
        ndots(&self.options()).is_some_and(|dots| dots > 0)
    }
}

/// The value of the option `ndots`, the last one that is given.
fn ndots(options: &[&str]) -> Option<u32> {
    options.iter().filter_map(|option| option.strip_prefix("ndots:")?.parse().ok()).next_back()
}

fn reachable(server: &str, ipv6: bool) -> bool {
    match server.split('%').next().map(str::parse::<IpAddr>) {
        Some(Ok(IpAddr::V4(address))) => !address.is_loopback() && address != Ipv4Addr::UNSPECIFIED,
        // One that needs a link of the host is not to be reached from elsewhere.
        Some(Ok(IpAddr::V6(address))) => ipv6 && !address.is_loopback() && !server.contains('%'),
        _ => false,
    }
}

/// The addresses behind `nameserver` in a resolv.conf (resolv.conf(5)).
pub fn nameservers(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next())?
    })
}

/// The words of all lines of a kind.
fn words<'a>(text: &'a str, kind: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().flat_map(move |line| {
        let mut words = line.split_whitespace();
        let of_kind = words.next() == Some(kind);
        words.take_while(|word| !word.starts_with(['#', ';'])).filter(move |_| of_kind)
    })
}

/// The words of the last line of one of these kinds: an earlier one does not count.
fn last<'a>(text: &'a str, kinds: &[&str]) -> Vec<&'a str> {
    let of_kind = |line: &&str| line.split_whitespace().next().is_some_and(|word| kinds.contains(&word));
    let line = text.lines().rfind(of_kind).unwrap_or_default();
    line.split_whitespace().skip(1).take_while(|word| !word.starts_with(['#', ';'])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(text: &str, expected: Expect) {
        expected.assert_eq(text);
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn hosts_of_a_user_defined_network() {
        let own = [address("172.18.0.2"), address("fd00::2")];
        let gateways = [address("172.18.0.1"), address("fd00::1")];
        let extra = [("db", "10.0.0.9"), ("up", HOST_GATEWAY)];
        let mut hosts = Hosts {
            hostname: "web",
            addresses: &own,
            extra: &extra,
            gateways: &gateways,
            ..Hosts::default()
        };
        check(
            &hosts.text(),
            expect![[r#"
                127.0.0.1	localhost
                ::1	localhost ip6-localhost ip6-loopback
                fe00::	ip6-localnet
                ff00::	ip6-mcastprefix
                ff02::1	ip6-allnodes
                ff02::2	ip6-allrouters
                10.0.0.9	db
                172.18.0.1	up
                fd00::1	up
                172.18.0.2	web
                fd00::2	web
            "#]],
        );
        hosts.domainname = "lan";
        assert_eq!(hosts.lines()[3], "172.18.0.2\tweb.lan web\n");
        (hosts.hostname, hosts.domainname) = ("web.corp", "lan");
        assert_eq!(hosts.lines()[3], "172.18.0.2\tweb.corp.lan web\n");
        (hosts.hostname, hosts.domainname) = ("web.corp.lan", "");
        assert_eq!(hosts.lines()[3], "172.18.0.2\tweb.corp.lan web\n");
    }

    #[test]
    fn hosts_of_the_default_bridge_have_links_and_the_host() {
        let names: [&str; 3] = ["store", "ce7fa4b3bb2a", "db"];
        let links = [(address("172.17.0.3"), &names[..])];
        let gateways = [address("172.17.0.1")];
        let extra = [("Host.Docker.Internal", "1.2.3.4")];
        let own = [address("172.17.0.2")];
        let hosts = Hosts {
            hostname: "web",
            addresses: &own,
            extra: &extra,
            links: &links,
            gateways: &gateways,
            host_names: true,
            ..Hosts::default()
        };
        check(
            &hosts.lines().concat(),
            expect![[r#"
                1.2.3.4	Host.Docker.Internal
                172.17.0.3	store ce7fa4b3bb2a db
                172.17.0.2	web
                172.17.0.1	host.hull.internal gateway.docker.internal
            "#]],
        );
    }

    #[test]
    fn a_running_containers_hosts_change_only_where_nobody_else_has_changed_them() {
        let line = |text: &str| format!("{text}\n");
        let before = [line("1.1.1.1\tweb"), line("2.2.2.2\tweb"), line("3.3.3.3\tweb")];
        let after = [line("1.1.1.1\tweb"), line("4.4.4.4\tweb")];
        let text = "127.0.0.1\tlocalhost\n1.1.1.1\tweb\n2.2.2.2\tweb\n3.3.3.3\tweb mine\n9.9.9.9 other";
        check(
            &revise(text, &before, &after),
            expect![[r#"
                127.0.0.1	localhost
                1.1.1.1	web
                3.3.3.3	web mine
                9.9.9.9 other
                4.4.4.4	web
            "#]],
        );
        assert_eq!(revise("", &before, &after), "4.4.4.4\tweb\n");
        assert_eq!(revise(text, &before, &before), format!("{text}\n"));
    }

    #[test]
    fn a_links_line_follows_the_other() {
        let text = "127.0.0.1\tlocalhost\n1.1.1.1\tstore ce7f db\n1.1.1.1\tstore mine\n2.2.2.2\tweb\n";
        let names = ["store", "ce7f", "renamed"];
        let both = [address("1.1.1.9"), address("fd00::9")];
        let there = relink(text, &names, &both);
        check(
            &there,
            expect![[r#"
                127.0.0.1	localhost
                1.1.1.9	store ce7f renamed
                fd00::9	store ce7f renamed
                1.1.1.1	store mine
                2.2.2.2	web
            "#]],
        );
        let gone = relink(&there, &names, &[]);
        assert_eq!(gone, "127.0.0.1\tlocalhost\n1.1.1.1\tstore mine\n2.2.2.2\tweb\n");
        assert_eq!(relink(&gone, &names, &both), gone, "what was taken away stays away");
    }

    const HOST: &str = "# of systemd\nnameserver 127.0.0.53 # stub\nnameserver 10.0.0.1\nnameserver 2001:db8::1\n\
                        nameserver fe80::1%eth0\ndomain old.lan\nsearch a.lan b.lan\noptions edns0 trust-ad\n";

    #[test]
    fn resolv_with_names() {
        let resolv = Resolv { host: HOST, path: "/etc/resolv.conf", ..Resolv::default() };
        check(
            &resolv.embedded(),
            expect![[r#"
                # Generated by Docker Engine.
                # This file can be edited; Docker Engine will not make further changes once it
                # has been modified.

                nameserver 127.0.0.11
                search a.lan b.lan
                options edns0 trust-ad ndots:0

                # Based on host file: '/etc/resolv.conf' (internal resolver)
                # ExtServers: [host(127.0.0.53) host(10.0.0.1) host(2001:db8::1) host(fe80::1%eth0)]
                # Overrides: []
                # Option ndots from: internal
            "#]],
        );
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let (servers, none, options) = (owned(&["1.1.1.1"]), owned(&["."]), owned(&["ndots:3"]));
        let asked = Resolv { servers: &servers, search: &none, options: &options, ..resolv };
        check(
            &asked.embedded(),
            expect![[r#"
                # Generated by Docker Engine.
                # This file can be edited; Docker Engine will not make further changes once it
                # has been modified.

                nameserver 127.0.0.11
                options ndots:3

                # Based on host file: '/etc/resolv.conf' (internal resolver)
                # ExtServers: [1.1.1.1]
                # Overrides: [nameservers search options]
                # Option ndots from: override
            "#]],
        );
        assert!(asked.keeps_bare_names() && !resolv.keeps_bare_names());
        let empty = Resolv { host: "", path: "/etc/resolv.conf", ..Resolv::default() };
        assert!(empty.embedded().contains("\n# NO EXTERNAL NAMESERVERS DEFINED\n"));
        let zero = Resolv { host: "options ndots:0", path: "x", ..Resolv::default() };
        assert!(zero.embedded().ends_with("# Option ndots from: host\n") && !zero.keeps_bare_names());
    }

    #[test]
    fn resolv_without_names() {
        let resolv = Resolv { host: HOST, path: "/etc/resolv.conf", ..Resolv::default() };
        check(
            &resolv.plain(false),
            expect![[r#"
                # Generated by Docker Engine.
                # This file can be edited; Docker Engine will not make further changes once it
                # has been modified.

                nameserver 10.0.0.1
                search a.lan b.lan
                options edns0 trust-ad

                # Based on host file: '/etc/resolv.conf' (legacy)
                # Overrides: []
            "#]],
        );
        assert!(resolv.plain(true).contains("\nnameserver 10.0.0.1\nnameserver 2001:db8::1\nsearch"));
        let stub = Resolv { host: "nameserver 127.0.0.53\n", ..resolv };
        assert!(names_stub_only(stub.host) && !names_stub_only(HOST));
        check(
            &stub.plain(true),
            expect![[r#"
                # Generated by Docker Engine.
                # This file can be edited; Docker Engine will not make further changes once it
                # has been modified.

                nameserver 127.0.0.11

                # Based on host file: '/etc/resolv.conf' (legacy)
                # ExtServers: [host(127.0.0.53)]
                # Overrides: []
            "#]],
        );
        let asked = ["127.0.0.1".to_owned()];
        let asked = Resolv { servers: &asked, ..stub };
        assert!(asked.plain(true).contains("\nnameserver 127.0.0.1\n"), "what was asked for is not judged");
    }
}
