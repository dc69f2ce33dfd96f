//! Where an address is: on this host, in a private network, or out in the world.
//!
//! Who follows addresses that somebody else has written may have to stay out of places that this somebody could
//! not reach himself: a cloud's metadata on 169.254.169.254, services on the loopback interface. Names are
//! looked up here, and the connection goes to one of the addresses that were looked at, so that a name
//! cannot change its meaning in between.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::Uri;

/// Kinds of addresses, by who can reach them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    Public,
    /// RFC 1918, RFC 6598, RFC 4193.
    Private,
    /// RFC 3927, RFC 4291 2.5.6.
    LinkLocal,
    /// This host.
    Loopback,
}

impl Place {
    /// What is no address of a single host counts as this one, which is where it leads in practice.
    pub fn of(address: IpAddr) -> Place {
        match address {
            IpAddr::V4(address) => {
                let [a, b, ..] = address.octets();
                if address.is_loopback() || a == 0 || address.is_broadcast() || address.is_multicast() {
                    Place::Loopback
                } else if address.is_link_local() {
                    Place::LinkLocal
                } else if address.is_private() || (a == 100 && (64..128).contains(&b)) {
                    Place::Private
                } else {
                    Place::Public
                }
            }
            IpAddr::V6(address) => match embedded(address) {
                Some(inner) => Place::of(inner),
                None if address.is_loopback() || address.is_unspecified() || address.is_multicast() => {
                    Place::Loopback
                }
                None if address.is_unicast_link_local() => Place::LinkLocal,
                None if address.is_unique_local() => Place::Private,
                None => Place::Public,
            },
        }
    }

    fn noun(self) -> &'static str {
        match self {
            Place::Public => "a public",
            Place::Private => "a private",
            Place::LinkLocal => "a link-local",
            Place::Loopback => "a loopback",
        }
    }
}

/// An IPv4 address in IPv6's clothes (RFC 4291 2.5.5, RFC 6052 2.1).
fn embedded(address: Ipv6Addr) -> Option<IpAddr> {
    if address.is_unspecified() || address.is_loopback() {
        return None;
    }
    let segments = address.segments();
    let compatible = segments[..6] == [0; 6];
    let mapped = segments[..6] == [0, 0, 0, 0, 0, 0xffff];
    let translated = segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
    let [.., a, b, c, d] = address.octets();
    (compatible || mapped || translated).then(|| IpAddr::from([a, b, c, d]))
}

/// The addresses of a host, by its name or as it is.
pub async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok(tokio::net::lookup_host((host, port)).await?.collect())
}

/// The same place by its addresses, all of which have to be in one of `allowed`.
pub(crate) async fn reachable(to: &Uri, allowed: &[Place]) -> io::Result<Vec<Uri>> {
    let port = to.port_u16().unwrap_or(if to.scheme_str() == Some("https") { 443 } else { 80 });
    let host = to.host().unwrap_or_default();
    let addresses = look_up(host, port).await?;
    if let Some(place) = addresses.iter().map(|at| Place::of(at.ip())).find(|place| !allowed.contains(place))
    {
        let noun = place.noun();
        return Err(io::Error::other(format!(
            "{host} is {noun} address, where nobody may lead from outside"
        )));
    }
    let at = |address: SocketAddr| {
        let mut parts = to.clone().into_parts();
        parts.authority = Some(address.to_string().parse().map_err(io::Error::other)?);
        Uri::from_parts(parts).map_err(io::Error::other)
    };
    addresses.into_iter().map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_where_the_standards_put_them() {
        let cases = [
            (Place::Public, &["192.0.2.1", "8.8.8.8", "100.128.0.1", "2001:db8::1", "::ffff:8.8.8.8"][..]),
            (Place::Private, &["10.1.2.3", "172.31.0.1", "192.168.0.1", "100.64.0.1", "fd00::1"][..]),
            (
                Place::LinkLocal,
                &["169.254.169.254", "fe80::1", "::ffff:169.254.169.254", "64:ff9b::a9fe:1"][..],
            ),
            (Place::Loopback, &["127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1"][..]),
        ];
        for (place, addresses) in cases {
            for address in addresses {
                assert_eq!(Place::of(address.parse().unwrap()), place, "{address}");
            }
        }
    }

    #[tokio::test]
    async fn a_place_is_looked_at_before_anybody_goes_there() {
        let to = |text: &str| text.parse::<Uri>().unwrap();
        let all = [Place::Public, Place::Loopback];
        let found = reachable(&to("http://127.0.0.1/x?y"), &all).await.unwrap();
        assert_eq!(found, [to("http://127.0.0.1:80/x?y")]);
        let found = reachable(&to("https://[::1]/x"), &all).await.unwrap();
        assert_eq!(found, [to("https://[::1]:443/x")]);
        let refused = reachable(&to("http://169.254.169.254/latest"), &all).await.unwrap_err();
        assert!(refused.to_string().contains("link-local"), "{refused}");
        assert!(reachable(&to("http://[::ffff:10.0.0.1]/"), &all).await.is_err());
    }
}
