//! Text of the files that tell a container its names: /etc/hosts, /etc/hostname and /etc/resolv.conf.

/// The words behind `nameserver` in a resolv.conf (resolv.conf(5)).
pub fn nameservers(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next())?
    })
}
