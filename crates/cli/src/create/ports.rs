//! `-p` and `--expose`: ports and ranges of them.

use std::collections::BTreeMap;

use super::mount::fields;

/// Where a port of the container is published; an empty port means any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Binding {
    pub(crate) address: String,
    pub(crate) port: String,
}

/// Bindings by `PORT/PROTOCOL`.
pub(crate) type Bindings = BTreeMap<String, Vec<Binding>>;

/// How ranges are sent: the reference's API has a word for single ports only, Hull's daemon takes a
/// range as one as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Ranges {
    #[default]
    SpelledOut,
    /// Wide ones as one: 50,000 ports one by one are a request of three megabytes, which both ends
    /// are longer busy with than with the container's whole start.
    Whole,
}

/// The steps from the first to the last port from which on a range is a wide one.
const WIDE: u32 = 256;

/// Whether a `-p` or an `--expose` names a wide range.
pub(crate) fn is_wide(text: &str) -> bool {
    let short = if text.contains('=') { long_form(text).unwrap_or_default() } else { text.to_owned() };
    let ports = short.split_once('/').map_or(short.as_str(), |(ports, _)| ports);
    let container = ports.rsplit_once(':').map_or(ports, |(_, container)| container);
    range(container).is_some_and(|(first, last)| last - first >= WIDE)
}

/// Adds what one `-p` says.
pub(crate) fn publish(text: &str, ranges: Ranges, into: &mut Bindings) -> Result<(), String> {
    let short = if text.contains('=') { long_form(text)? } else { text.to_owned() };
    let (rest, protocol) = short.split_once('/').unwrap_or((&short, "tcp"));
    let (address, host, container) = parts(rest)?;
    if container.is_empty() {
        return Err(format!("no port specified: {short}<empty>"));
    }
    if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
        return Err(format!("invalid IP address: {address}"));
    }
    let (first, last) = range(container).ok_or(format!("invalid containerPort: {container}"))?;
    let published = match host {
        "" => None,
        host => Some(range(host).ok_or(format!("invalid hostPort: {host}"))?),
    };
    let count = last - first;
    if let Some((low, high)) = published
        && high - low != count
        // One port may take any of a range, and only it.
        && count != 0
    {
        return Err(format!("invalid ranges specified for container and host Ports: {container} and {host}"));
    }
    let protocol = protocol.to_ascii_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(format!("invalid proto: {protocol}"));
    }
    if ranges == Ranges::Whole && count >= WIDE {
        let port = published.map_or(String::new(), |(low, high)| format!("{low}-{high}"));
        let binding = Binding { address: address.to_owned(), port };
        into.entry(format!("{first}-{last}/{protocol}")).or_default().push(binding);
        return Ok(());
    }
    for step in 0..=count {
        let port = match published {
            None => String::new(),
            Some((low, high)) if count == 0 && low != high => format!("{low}-{high}"),
            Some((low, _)) => (low + step).to_string(),
        };
        into.entry(format!("{}/{protocol}", first + step))
            .or_default()
            .push(Binding { address: address.to_owned(), port });
    }
    Ok(())
}

/// Splits `[ADDRESS:][HOST:]CONTAINER`; an address may be bracketed.
fn parts(text: &str) -> Result<(&str, &str, &str), String> {
    if let Some(inner) = text.strip_prefix('[') {
        let (address, rest) = inner.split_once("]:").ok_or(format!("invalid IP address: {text}"))?;
        let (host, container) = rest.rsplit_once(':').unwrap_or(("", rest));
        return Ok((address, host, container));
    }
    let Some((before, container)) = text.rsplit_once(':') else {
        return Ok(("", "", text));
    };
    Ok(match before.rsplit_once(':') {
        Some((address, host)) => (address, host, container),
        None => ("", before, container),
    })
}

/// `published=8080,target=80,protocol=tcp` in the short form.
fn long_form(text: &str) -> Result<String, String> {
    let (mut target, mut published, mut protocol) = (String::new(), String::new(), "tcp".to_owned());
    for field in fields(text)? {
        let (key, value) = field.split_once('=').ok_or(format!("invalid field: {field}"))?;
        match key {
            "target" => value.clone_into(&mut target),
            "published" => value.clone_into(&mut published),
            "protocol" => value.clone_into(&mut protocol),
            "mode" => {}
            _ => return Err(format!("invalid field key: {key}")),
        }
    }
    Ok(format!("{published}:{target}/{protocol}"))
}

fn range(text: &str) -> Option<(u32, u32)> {
    let port = |text: &str| text.parse::<u16>().ok().map(u32::from);
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    (first <= last).then_some((first, last))
}

/// What is wrong with a range, in the words of the official client.
fn no_range(text: &str) -> String {
    let wrong = |port: &&str| port.parse::<u16>().is_err();
    match text.splitn(2, '-').find(wrong) {
        None => format!("invalid range specified for port: {text}"),
        Some(port) => {
            let number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
            let what = if number { "value out of range" } else { "invalid syntax" };
            format!("strconv.ParseUint: parsing \"{port}\": {what}")
        }
    }
}

/// The `PORT/PROTOCOL`s that one `--expose` names.
pub(crate) fn expose(text: &str, ranges: Ranges) -> Result<Vec<String>, String> {
    if text.contains(':') {
        return Err(format!("invalid port format for --expose: {text}"));
    }
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = range(ports)
        .ok_or_else(|| format!("invalid range format for --expose: {text}, error: {}", no_range(ports)))?;
    let protocol = protocol.to_ascii_lowercase();
    if ranges == Ranges::Whole && last - first >= WIDE {
        return Ok(vec![format!("{first}-{last}/{protocol}")]);
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        sent(text, Ranges::SpelledOut)
    }

    fn sent(text: &str, ranges: Ranges) -> String {
        let mut bindings = Bindings::new();
        match publish(text, ranges, &mut bindings) {
            Err(refusal) => refusal,
            Ok(()) => bindings
                .iter()
                .flat_map(|(port, all)| {
                    all.iter().map(move |one| format!("{port}={}@{}", one.address, one.port))
                })
                .collect::<Vec<_>>()
                .join(" "),
        }
    }

    #[test]
    fn ports_are_published_in_every_spelling() {
        for (text, result) in [
            ("8080:80", "80/tcp=@8080"),
            ("127.0.0.1:8081:81/udp", "81/udp=127.0.0.1@8081"),
            ("82", "82/tcp=@"),
            ("9000-9002:90-92", "90/tcp=@9000 91/tcp=@9001 92/tcp=@9002"),
            ("9100-9110:99", "99/tcp=@9100-9110"),
            ("[::1]:7000:80", "80/tcp=::1@7000"),
            ("7000:80/sctp", "80/sctp=@7000"),
            ("target=80,published=8080", "80/tcp=@8080"),
            ("9000-9001:90-92", "invalid ranges specified for container and host Ports: 90-92 and 9000-9001"),
            ("99999:80", "invalid hostPort: 99999"),
            ("x", "invalid containerPort: x"),
            ("80:80:80:80", "invalid IP address: 80:80"),
            ("7000:80/nope", "invalid proto: nope"),
        ] {
            assert_eq!(shown(text), result, "{text}");
        }
    }

    #[test]
    fn a_wide_range_is_sent_as_one_where_it_may_be() {
        for (text, result) in [
            ("10000-59999:10000-59999", "10000-59999/tcp=@10000-59999"),
            ("127.0.0.1:3000-4000:2000-3000/udp", "2000-3000/udp=127.0.0.1@3000-4000"),
            ("1000-1256", "1000-1256/tcp=@"),
            ("9000-9001:90-91", "90/tcp=@9000 91/tcp=@9001"),
            ("9100-9800:99", "99/tcp=@9100-9800"),
            ("1-1000:2-1000", "invalid ranges specified for container and host Ports: 2-1000 and 1-1000"),
        ] {
            assert_eq!(sent(text, Ranges::Whole), result, "{text}");
        }
        assert_eq!(expose("2000-2256/UDP", Ranges::Whole).unwrap(), ["2000-2256/udp"]);
        assert_eq!(shown("1000-1256").split(' ').count(), 257);
        let wide = ["1000-1256", "[::1]:1-300:1-300/udp", "target=1-300,published=1-300", "1-65535/sctp"];
        assert!(wide.into_iter().all(is_wide));
        let narrow = ["1000-1255", "1-300:9", "target=1,published=1-300", "x", "a=b", ""];
        assert!(!narrow.into_iter().any(is_wide));
    }

    #[test]
    fn exposed_ranges_are_spelled_out() {
        let expose = |text| expose(text, Ranges::SpelledOut);
        assert_eq!(expose("2000-2001/udp").unwrap(), ["2000/udp", "2001/udp"]);
        for (text, what) in [
            ("1-x", "strconv.ParseUint: parsing \"x\": invalid syntax"),
            ("-1", "strconv.ParseUint: parsing \"\": invalid syntax"),
            ("1-70000", "strconv.ParseUint: parsing \"70000\": value out of range"),
            ("5-3", "invalid range specified for port: 5-3"),
        ] {
            let error = format!("invalid range format for --expose: {text}, error: {what}");
            assert_eq!(expose(text).unwrap_err(), error);
        }
    }
}
