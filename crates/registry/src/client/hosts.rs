//! Which servers stand for a registry's name, and how they may be spoken to.
//!
//! | server | spoken to by |
//! |---|---|
//! | any | https, verified by whom the host trusts and by its folder in `certs.d` |
//! | an insecure one | https, whoever answers; else http |
//! | a mirror | what its address says; it is asked before the registry, and without credentials |
//!
//! Insecure are the loopback interface and what the configuration names. Nothing else is ever asked without
//! TLS.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hull_fetch::{Identity, Place, Tls};
use hull_oci::reference::DEFAULT_DOMAIN;
use ipnet::IpNet;

use super::Error;

/// How registries are reached.
#[derive(Debug, Clone)]
pub struct Hosts {
    /// Addresses that are asked first for what is in the default registry.
    pub mirrors: Vec<String>,
    /// `HOST[:PORT]` and networks (`10.0.0.0/8`).
    pub insecure: Vec<String>,
    /// Folders with a folder `HOST[:PORT]` for servers with certificates of their own.
    pub certificates: Vec<PathBuf>,
    /// Most tries of one request.
    pub attempts: u32,
    /// Before the second try; each further one waits twice as long, [`Hosts::LONGEST`] at most.
    pub wait: Duration,
    /// Patience, and the proxies.
    pub fetch: hull_fetch::Options,
}

impl Hosts {
    /// The longest wait before a try; a registry that asks for more is not asked again.
    pub const LONGEST: Duration = Duration::from_secs(60);
}

impl Default for Hosts {
    fn default() -> Hosts {
        Hosts {
            mirrors: Vec::new(),
            insecure: Vec::new(),
            certificates: ["/etc/docker/certs.d", "/etc/hull/certs.d"].map(PathBuf::from).to_vec(),
            attempts: 5,
            wait: Duration::from_millis(500),
            fetch: hull_fetch::Options::default(),
        }
    }
}

/// Where the default registry's names are served.
const DEFAULT_SERVER: &str = "registry-1.docker.io";

/// A server that may have what is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    /// `HOST[:PORT]`.
    pub(super) authority: String,
    /// Set for a mirror: `https://HOST[:PORT][/PATH]`.
    pub(super) base: Option<String>,
}

impl Server {
    pub(super) fn is_mirror(&self) -> bool {
        self.base.is_some()
    }

    /// The host's name or address, without brackets.
    pub(super) fn host(&self) -> &str {
        let (host, _) = parted(&self.authority);
        host
    }

    pub(super) fn port(&self) -> u16 {
        let usual = if self.base.as_ref().is_some_and(|base| base.starts_with("http://")) { 80 } else { 443 };
        parted(&self.authority).1.unwrap_or(usual)
    }
}

fn parted(authority: &str) -> (&str, Option<u16>) {
    if let Some((host, rest)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (host, rest.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match authority.split_once(':') {
        Some((host, port)) => (host, port.parse().ok()),
        None => (authority, None),
    }
}

impl Hosts {
    /// The servers of a domain, in the order in which they are asked.
    pub(super) fn servers(&self, domain: &str, mirrors: bool) -> Vec<Server> {
        let own = if domain == DEFAULT_DOMAIN { DEFAULT_SERVER } else { domain };
        let mirrors = if mirrors && domain == DEFAULT_DOMAIN { &self.mirrors[..] } else { &[] };
        let mirror = |base: &String| {
            let base = base.trim_end_matches('/').to_owned();
            let authority =
                base.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or(""));
            Server { authority: authority.to_owned(), base: Some(base) }
        };
        let own = Server { authority: own.to_owned(), base: None };
        mirrors.iter().map(mirror).chain([own]).collect()
    }

    /// Whether a server need not prove who it is. `addresses` are its host's.
    pub(super) fn is_insecure(&self, server: &Server, addresses: &[IpAddr]) -> bool {
        let named = |rule: &String| {
            rule.eq_ignore_ascii_case(&server.authority) || rule.eq_ignore_ascii_case(server.host())
        };
        let networks: Vec<IpNet> = self.insecure.iter().filter_map(|rule| rule.parse().ok()).collect();
        let inside = |address: &IpAddr| {
            address.is_loopback() || networks.iter().any(|network| network.contains(address))
        };
        self.insecure.iter().any(named) || (!addresses.is_empty() && addresses.iter().all(inside))
    }

    /// Where a server, and whatever it leads to, may be. One that need not prove itself only because its name was this
    /// host's when it was looked up is to be nowhere else later.
    pub(super) fn places(&self, server: &Server, addresses: &[IpAddr]) -> Vec<Place> {
        let steady =
            server.host().eq_ignore_ascii_case("localhost") || server.host().parse::<IpAddr>().is_ok();
        let here = !addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback);
        match here && !steady && !self.is_insecure(server, &[]) {
            true => vec![Place::Loopback],
            false => places(addresses),
        }
    }

    /// The certificates for a server, and its client's: `*.crt` are authorities, `NAME.cert` with `NAME.key` is
    /// who this client is (the first by name, if there are several). Reads files.
    pub(super) fn certificates(&self, server: &Server) -> Result<Tls, Error> {
        let mut tls = Tls::default();
        // A domain has no such sign; a mirror's address could have.
        if server.authority.contains(['/', '\0']) || server.authority.starts_with('.') {
            return Ok(tls);
        }
        for folder in &self.certificates {
            read_folder(&folder.join(&server.authority), &mut tls)?;
        }
        Ok(tls)
    }
}

/// Longer files are no certificates.
const CERTIFICATE: u64 = 1 << 20;

fn read_folder(folder: &Path, tls: &mut Tls) -> Result<(), Error> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |source| Error::Certificates { path, source }
    };
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed(folder))?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(failed(folder))?.path());
    }
    paths.sort();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => tls.roots.push(read(&path).map_err(failed(&path))?),
            Some("cert") if tls.identity.is_none() => {
                let key = path.with_extension("key");
                let certificates = read(&path).map_err(failed(&path))?;
                tls.identity = Some(Identity { certificates, key: read(&key).map_err(failed(&key))? });
            }
            _ => {}
        }
    }
    Ok(())
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(
        &mut std::io::Read::take(std::fs::File::open(path)?, CERTIFICATE),
        &mut bytes,
    )?;
    Ok(bytes)
}

/// Where a registry at these addresses may send its clients: nowhere that is nearer to them than itself. Nobody
/// is sent to a link-local address (a cloud's metadata) but by a registry that is on one.
fn places(addresses: &[IpAddr]) -> Vec<Place> {
    let nearest = addresses.iter().map(|address| Place::of(*address)).max();
    match nearest {
        None | Some(Place::Public) => vec![Place::Public],
        Some(Place::Private) => vec![Place::Public, Place::Private],
        Some(Place::LinkLocal) => vec![Place::Public, Place::LinkLocal],
        Some(Place::Loopback) => vec![Place::Public, Place::Private, Place::Loopback],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(mirrors: &[&str], insecure: &[&str]) -> Hosts {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Hosts { mirrors: own(mirrors), insecure: own(insecure), ..Hosts::default() }
    }

    #[test]
    fn mirrors_are_asked_first_for_the_default_registry_alone() {
        let hosts = hosts(&["https://m.example:5000/", "http://n.example/path/"], &[]);
        let names = |domain: &str, mirrors| -> Vec<String> {
            let name = |server: Server| server.base.unwrap_or(server.authority);
            hosts.servers(domain, mirrors).into_iter().map(name).collect()
        };
        let all = ["https://m.example:5000", "http://n.example/path", DEFAULT_SERVER];
        assert_eq!(names("docker.io", true), all);
        assert_eq!(names("docker.io", false), [DEFAULT_SERVER]);
        assert_eq!(names("r.example:5000", true), ["r.example:5000"]);
        let ports: Vec<_> = hosts.servers("docker.io", true).iter().map(Server::port).collect();
        assert_eq!(ports, [5000, 80, 443]);
    }

    #[test]
    fn insecure_is_what_is_named_and_the_loopback_interface() {
        let hosts = hosts(&[], &["plain.example", "r.example:5000", "10.0.0.0/8", "fd00::/8"]);
        let insecure = |authority: &str, addresses: &[&str]| {
            let server = Server { authority: authority.to_owned(), base: None };
            let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
            hosts.is_insecure(&server, &addresses)
        };
        for (authority, address) in [
            ("plain.example", "192.0.2.1"),
            ("Plain.example:80", "192.0.2.1"),
            ("r.example:5000", "192.0.2.1"),
            ("any.example", "10.1.1.1"),
            ("[fd00::1]:5000", "fd00::1"),
            ("localhost:5000", "127.0.0.1"),
            ("[::1]", "::1"),
        ] {
            assert!(insecure(authority, &[address]), "{authority}");
        }
        for authority in ["r.example", "r.example:5001", "xplain.example"] {
            assert!(!insecure(authority, &["192.0.2.1"]), "{authority}");
        }
        assert!(!insecure("any.example", &["10.1.1.1", "192.0.2.1"]), "one of its addresses is elsewhere");
        assert!(!insecure("any.example", &[]), "nobody knows where it is");
    }

    #[test]
    fn a_registry_sends_nobody_nearer_than_it_is() {
        let allowed = |address: &str| places(&[address.parse().unwrap()]);
        let (public, private) = (Place::Public, Place::Private);
        assert_eq!(allowed("192.0.2.1"), [public]);
        assert_eq!(allowed("10.0.0.1"), [public, private]);
        assert_eq!(allowed("169.254.1.1"), [public, Place::LinkLocal]);
        assert_eq!(allowed("127.0.0.1"), [public, private, Place::Loopback]);
        assert_eq!(places(&[]), [public]);
        let hosts = hosts(&[], &["named.example"]);
        let of = |authority: &str| {
            let server = Server { authority: authority.to_owned(), base: None };
            hosts.places(&server, &["127.0.0.1".parse().unwrap()])
        };
        assert_eq!(of("any.example:5000"), [Place::Loopback], "its name may stand for another address later");
        for other in ["127.0.0.1:5000", "localhost", "named.example"] {
            assert_eq!(of(other), [public, private, Place::Loopback], "{other}");
        }
    }

    #[test]
    fn certificates_are_those_of_the_servers_folder() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("r.example:5000");
        std::fs::create_dir(&own).unwrap();
        for (name, text) in [
            ("ca.crt", "1"),
            ("b.crt", "2"),
            ("me.cert", "3"),
            ("me.key", "4"),
            ("x.key", "5"),
            ("readme", "6"),
        ] {
            std::fs::write(own.join(name), text).unwrap();
        }
        let hosts = Hosts { certificates: vec![folder.path().to_owned()], ..Hosts::default() };
        let of =
            |authority: &str| hosts.certificates(&Server { authority: authority.to_owned(), base: None });
        let tls = of("r.example:5000").unwrap();
        assert_eq!(tls.roots, [b"2", b"1"]);
        let identity = tls.identity.unwrap();
        assert_eq!((&identity.certificates[..], &identity.key[..]), (&b"3"[..], &b"4"[..]));
        for other in ["r.example", "..", ".", "x/../r.example:5000"] {
            assert_eq!(of(other).unwrap(), Tls::default(), "{other}");
        }
        std::fs::write(own.join("a.cert"), "lonely").unwrap();
        let failed = of("r.example:5000").unwrap_err().to_string();
        assert!(failed.ends_with("a.key"), "{failed}");
    }
}
