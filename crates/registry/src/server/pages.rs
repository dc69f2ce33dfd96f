//! Lists in pages: `n` and `last`, and the `Link` to the next one
//! (distribution-spec, `spec.md#listing-tags`).

use std::collections::BTreeMap;

use super::answer::{Code, Failure};

/// Most entries of a page, whatever is asked for.
pub(crate) const MOST: usize = 1000;

/// The parameters after `?`; the first of several values counts.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Query {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Query(pairs.collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Undoes percent-encoding, and `+` for a space; what is not well-formed stays as it is.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    let hex = |at: usize| {
        bytes
            .get(at)
            .and_then(|byte| char::from(*byte).to_digit(16))
            .and_then(|digit| u8::try_from(digit).ok())
    };
    while at < bytes.len() {
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                at += 2;
            }
            (b'+', _, _) => out.push(b' '),
            (byte, _, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// Which page is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub most: usize,
    /// Entries follow this one.
    pub last: Option<String>,
}

impl Page {
    /// # Errors
    /// 400 for a number that is none.
    pub(crate) fn of(query: &Query) -> Result<Page, Failure> {
        let most = match query.get("n") {
            None | Some("") => MOST,
            // A number with too many digits is more than there is of anything.
            Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().unwrap_or(MOST).min(MOST)
            }
            Some(text) => {
                let what = format!("n={text:?} is not a number");
                return Err(Failure::new(Code::Unsupported, what).status(http::StatusCode::BAD_REQUEST));
            }
        };
        Ok(Page { most, last: query.get("last").filter(|last| !last.is_empty()).map(str::to_owned) })
    }
}

/// The order of lists: without regard to case, as the specification has it, and then by it, so that every
/// name has one place.
fn place(name: &str) -> (String, String) {
    (name.to_ascii_lowercase(), name.to_owned())
}

/// Takes names in any order and keeps those of one page: memory for the page alone, however many there are.
#[derive(Debug)]
pub(crate) struct Chosen {
    page: Page,
    after: Option<(String, String)>,
    /// One more than the page has, which tells whether there is a next.
    kept: BTreeMap<(String, String), ()>,
}

impl Chosen {
    pub(crate) fn new(page: Page) -> Chosen {
        let after = page.last.as_deref().map(place);
        Chosen { page, after, kept: BTreeMap::new() }
    }

    pub(crate) fn offer(&mut self, name: &str) {
        if self.page.most == 0 {
            return;
        }
        let place = place(name);
        if self.after.as_ref().is_some_and(|after| place <= *after) {
            return;
        }
        if self.kept.len() > self.page.most
            && self.kept.last_key_value().is_some_and(|(most, ())| place >= *most)
        {
            return;
        }
        self.kept.insert(place, ());
        if self.kept.len() > self.page.most + 1 {
            self.kept.pop_last();
        }
    }

    /// The names, and whether there are more.
    pub(crate) fn names(self) -> (Vec<String>, bool) {
        let more = self.kept.len() > self.page.most;
        (self.kept.into_keys().map(|(_, name)| name).take(self.page.most).collect(), more)
    }

    /// The names, and the `Link` of the next page of `path` (with further parameters, each begun by `&`).
    pub(crate) fn finish(self, path: &str, parameters: &str) -> (Vec<String>, Option<String>) {
        let most = self.page.most;
        let (names, more) = self.names();
        let link = names.last().filter(|_| more).map(|last| link(path, most, last, parameters));
        (names, link)
    }
}

/// RFC 8288. Names of repositories, tags and digests need no encoding in a query.
pub(crate) fn link(path: &str, most: usize, last: &str, parameters: &str) -> String {
    format!("<{path}?n={most}&last={last}{parameters}>; rel=\"next\"")
}

/// A value fit for a query.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str, names: &[&str]) -> (Vec<String>, Option<String>) {
        let mut chosen = Chosen::new(Page::of(&Query::parse(query)).unwrap());
        for name in names {
            chosen.offer(name);
        }
        chosen.finish("/v2/a/tags/list", "")
    }

    #[test]
    fn pages_follow_each_other_and_the_last_one_has_no_link() {
        let names = ["v3", "V2", "v1", "a", "v2"];
        assert_eq!(check("", &names), (["a", "v1", "V2", "v2", "v3"].map(str::to_owned).to_vec(), None));
        let next = "</v2/a/tags/list?n=2&last=v1>; rel=\"next\"".to_owned();
        assert_eq!(check("n=2", &names), (["a", "v1"].map(str::to_owned).to_vec(), Some(next)));
        let next = "</v2/a/tags/list?n=2&last=v2>; rel=\"next\"".to_owned();
        assert_eq!(check("n=2&last=v1", &names), (["V2", "v2"].map(str::to_owned).to_vec(), Some(next)));
        assert_eq!(check("n=2&last=v2", &names), (vec!["v3".to_owned()], None));
        assert_eq!(check("last=v3", &names), (vec![], None));
        // A tag that is gone is still a place to go on from.
        assert_eq!(check("n=1&last=v2x", &names).0, ["v3"]);
        assert_eq!(check("n=5", &names).1, None);
    }

    #[test]
    fn a_page_has_an_end_whatever_is_asked_for() {
        assert_eq!(check("n=0", &["a"]), (vec![], None));
        assert_eq!(Page::of(&Query::parse("n=1000000000")).unwrap().most, MOST);
        assert_eq!(Page::of(&Query::parse("n=99999999999999999999999999")).unwrap().most, MOST);
        for wrong in ["n=-1", "n=x", "n=1.5"] {
            assert!(Page::of(&Query::parse(wrong)).is_err(), "{wrong}");
        }
        let mut chosen = Chosen::new(Page::of(&Query::parse("n=10")).unwrap());
        for number in 0..100_000 {
            chosen.offer(&format!("t{number:06}"));
            assert!(chosen.kept.len() <= 11);
        }
        assert_eq!(chosen.finish("/x", "").0.len(), 10);
    }

    #[test]
    fn parameters_are_decoded_and_encoded() {
        let query = Query::parse("a=b%2Fc+d&x&a=2&bad=%zz");
        assert_eq!(query.get("a"), Some("b/c d"));
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["b/c d", "2"]);
        assert_eq!((query.get("x"), query.get("y"), query.get("bad")), (Some(""), None, Some("%zz")));
        assert_eq!(encode("application/x+json; a=1"), "application/x%2Bjson%3B%20a%3D1");
    }
}
