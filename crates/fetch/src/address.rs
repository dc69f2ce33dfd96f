//! Addresses as people and servers write them (RFC 3986), made ready for a request.

use std::fmt;

use http::Uri;
use http::uri::{PathAndQuery, Scheme};

use crate::Error;

/// An http or https address without fragment. Printed, it has no credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Without credentials; its path is never empty.
    pub(crate) uri: Uri,
    /// `user:password`, decoded, if it had some.
    pub(crate) credentials: Option<Credentials>,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials(pub(crate) Vec<u8>);

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

impl Address {
    /// # Errors
    /// [`Error::Address`] for what is no address, and for other schemes than http and https.
    pub fn parse(text: &str) -> Result<Address, Error> {
        let wrong = |why: &str| Error::Address { address: without_credentials(text), why: why.to_owned() };
        let text = text.split('#').next().unwrap_or_default();
        let uri: Uri = text.parse().map_err(|error: http::uri::InvalidUri| wrong(&error.to_string()))?;
        let mut parts = uri.into_parts();
        if !parts.scheme.as_ref().is_some_and(|scheme| [Scheme::HTTP, Scheme::HTTPS].contains(scheme)) {
            return Err(wrong("it does not begin with http:// or https://"));
        }
        let authority = parts.authority.take().ok_or_else(|| wrong("it names no host"))?;
        let (credentials, host) = match authority.as_str().rsplit_once('@') {
            Some((credentials, host)) => (Some(Credentials(decoded(credentials))), host),
            None => (None, authority.as_str()),
        };
        let authority: http::uri::Authority = host.parse().map_err(|_| wrong("it names no host"))?;
        if authority.host().is_empty() {
            return Err(wrong("it names no host"));
        }
        parts.authority = Some(authority);
        parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
        let uri = Uri::from_parts(parts).map_err(|error| wrong(&error.to_string()))?;
        Ok(Address { uri, credentials })
    }

    /// The last part of the path, decoded: what a file from there is called. `None` if it has none that
    /// could be a file's name.
    pub fn file_name(&self) -> Option<String> {
        let path = String::from_utf8(decoded(self.uri.path())).ok()?;
        let name = path.trim_end_matches('/').rsplit('/').next()?;
        let fit = !matches!(name, "" | "." | "..") && !name.contains('\0') && name.len() <= 255;
        fit.then(|| name.to_owned())
    }

    /// Where a redirect leads (RFC 3986, section 5.2).
    ///
    /// # Errors
    /// As [`Address::parse`].
    pub fn join(&self, location: &str) -> Result<Address, Error> {
        let location = location.trim().split('#').next().unwrap_or_default();
        let scheme = self.uri.scheme_str().unwrap_or_default();
        let root = format!("{scheme}://{}", self.uri.authority().map_or("", |authority| authority.as_str()));
        let (path, query) =
            location.split_once('?').map_or((location, None), |(path, query)| (path, Some(query)));
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        let has_scheme = location.split(['/', '?']).next().is_some_and(|first| first.contains(':'));
        let text = if has_scheme {
            location.to_owned()
        } else if location.starts_with("//") {
            format!("{scheme}:{location}")
        } else if path.is_empty() {
            let query = if query.is_empty() { own_query(&self.uri) } else { query };
            format!("{root}{}{query}", self.uri.path())
        } else if path.starts_with('/') {
            format!("{root}{}{query}", without_dots(path))
        } else {
            let base = self.uri.path().rsplit_once('/').map_or("", |(base, _)| base);
            format!("{root}{}{query}", without_dots(&format!("{base}/{path}")))
        };
        Address::parse(&text)
    }

    /// Whether credentials for the one may go to the other: same scheme, host and port.
    pub fn same_origin(&self, other: &Address) -> bool {
        self.uri.scheme() == other.uri.scheme()
            && self.host().eq_ignore_ascii_case(other.host())
            && self.port() == other.port()
    }

    /// The host, in brackets where it is an address of IPv6.
    pub fn host(&self) -> &str {
        self.uri.host().unwrap_or_default()
    }

    /// The one it names, else its scheme's.
    pub fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or(if self.is_https() { 443 } else { 80 })
    }

    pub fn is_https(&self) -> bool {
        self.uri.scheme() == Some(&Scheme::HTTPS)
    }
}

fn own_query(uri: &Uri) -> String {
    uri.query().map(|query| format!("?{query}")).unwrap_or_default()
}

/// RFC 3986, section 5.2.4.
fn without_dots(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let mut open = false;
    for part in path.split('/').skip(1) {
        open = matches!(part, "." | ".." | "");
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    // `/a/.` and `/a/..` are folders; `/a/` has its empty part already.
    if open && parts.last().is_none_or(|last| !last.is_empty()) {
        parts.push("");
    }
    format!("/{}", parts.join("/"))
}

/// `%XX` undone; what is no such thing stays.
fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let code = code.filter(|_| first == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    bytes
}

/// For messages about what could not be read.
fn without_credentials(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let host = rest[..end].rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{}", &rest[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<String, String> {
        Address::parse(text).map(|address| address.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn addresses_are_read_without_credentials_and_fragment() {
        assert_eq!(shown("http://host").unwrap(), "http://host/");
        assert_eq!(shown("https://u:p%40@host:8443/a/b?c#d").unwrap(), "https://host:8443/a/b?c");
        let address = Address::parse("https://u:p%40@host/").unwrap();
        assert_eq!(address.credentials, Some(Credentials(b"u:p@".to_vec())));
        assert!(!format!("{address:?}").contains("p@"));
        assert_eq!(shown("http://[::1]:80/x").unwrap(), "http://[::1]:80/x");
        for bad in [
            "",
            "host/x",
            "ftp://host/x",
            "http://",
            "http:///x",
            "http://u:secret@/x",
            "file:///etc/x",
            "http://a b/",
        ] {
            let why = shown(bad).unwrap_err();
            assert!(!why.contains("secret"), "{bad}: {why}");
        }
    }

    #[test]
    fn a_file_is_called_what_its_address_ends_with() {
        let name = |text: &str| Address::parse(text).unwrap().file_name();
        assert_eq!(name("http://h/a/b.tar.gz?x=/y").as_deref(), Some("b.tar.gz"));
        assert_eq!(name("http://h/a%20b").as_deref(), Some("a b"));
        assert_eq!(name("http://h/dir/").as_deref(), Some("dir"));
        assert_eq!(name("http://h/a%2fb").as_deref(), Some("b"));
        assert_eq!(name("http://h/100%").as_deref(), Some("100%"));
        for none in [
            "http://h",
            "http://h/",
            "http://h/?x",
            "http://h/a/..",
            "http://h/%2e%2e",
            "http://h/a%00",
            "http://h/%ff",
        ] {
            assert_eq!(name(none), None, "{none}");
        }
    }

    #[test]
    fn redirects_lead_where_the_standard_says() {
        let base = Address::parse("https://h:1/a/b?q").unwrap();
        let cases = [
            ("http://x/y", "http://x/y"),
            ("//x/y", "https://x/y"),
            ("/y?z", "https://h:1/y?z"),
            ("y", "https://h:1/a/y"),
            ("../y", "https://h:1/y"),
            ("../../../y/./z", "https://h:1/y/z"),
            ("./", "https://h:1/a/"),
            ("..", "https://h:1/"),
            ("?z", "https://h:1/a/b?z"),
            ("#f", "https://h:1/a/b?q"),
            ("y?u=http://z", "https://h:1/a/y?u=http://z"),
            ("/a//b/", "https://h:1/a//b/"),
        ];
        for (location, expected) in cases {
            assert_eq!(base.join(location).unwrap().to_string(), expected, "{location}");
        }
        assert!(base.join("javascript:x").is_err());
    }

    #[test]
    fn credentials_stay_at_their_origin() {
        let same = |a: &str, b: &str| Address::parse(a).unwrap().same_origin(&Address::parse(b).unwrap());
        assert!(same("https://h/a", "https://H:443/b"));
        assert!(same("http://h/a", "http://h:80/b"));
        for (a, b) in [("http://h/", "https://h/"), ("http://h/", "http://h:81/"), ("http://h/", "http://i/")]
        {
            assert!(!same(a, b), "{a} {b}");
        }
    }
}
