//! One request to one server: with what it wants to be shown, and once more where that may help.
//!
//! | answer | what then |
//! |---|---|
//! | 401 | once more, with a token that is new, or with a challenge that is |
//! | 408, 429, 500, 502–504 | again later: when the server says, else twice as late each time |
//! | no answer | the same |
//! | any other | that is the answer |
//!
//! What cannot be sent twice is sent once: the answer is then whatever it is. A PATCH that was not answered may
//! have been done.

use std::time::Duration;

use http::header::{AUTHORIZATION, RETRY_AFTER};
use http::{HeaderMap, Method, StatusCode};
use hull_fetch::{Address, Answer, Body, Request};

use super::challenge::Challenge;
use super::door::{self, Door, Open};
use super::{Error, Hosts, Repository, Result};
use crate::Credentials;

/// Where a request goes.
#[derive(Debug, Clone)]
pub(super) enum To {
    /// Behind the repository's name: `/manifests/latest`.
    Path(String),
    /// Somewhere that the server has named. Who asks is not told to another server.
    Address(Address),
}

/// A request.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) method: Method,
    /// What errors call the method, where the reference begins with another one.
    pub(super) called: &'static str,
    pub(super) to: To,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
    /// What else a token has to allow: `repository:NAME:pull`.
    pub(super) also: Option<String>,
}

impl Ask {
    pub(super) fn get(path: String) -> Ask {
        let headers = HeaderMap::new();
        Ask { method: Method::GET, called: "Get", to: To::Path(path), headers, body: Body::Empty, also: None }
    }
}

/// A request's way through a server's door.
struct Way<'a> {
    door: &'a Door,
    open: &'a Open,
    address: Address,
    called: &'static str,
    scopes: Vec<String>,
}

impl Repository {
    pub(super) async fn ask(&self, door: &Door, ask: Ask) -> Result<Answer> {
        let open = door.open().await?;
        let address = match ask.to {
            To::Path(path) => Address::parse(&format!("{}/{}{path}", open.root, self.0.path)),
            To::Address(address) => Ok(address),
        };
        let address = address.map_err(Error::Address)?;
        let scopes = [self.scope()].into_iter().chain(ask.also).collect();
        let way = Way { door, open, address, called: ask.called, scopes };
        way.go(ask.method, ask.headers, ask.body).await
    }
}

impl Way<'_> {
    async fn go(&self, method: Method, headers: HeaderMap, mut body: Body) -> Result<Answer> {
        let own = self.address.same_origin(&self.open.base);
        let (mut challenge, mut fresh, mut let_in, mut tries) = (self.open.challenge(), false, !own, 1);
        loop {
            let mut headers = headers.clone();
            if own {
                let shown =
                    self.door.authorization(self.open, challenge.as_ref(), &self.scopes, fresh).await?;
                headers.extend(shown.map(|shown| (AUTHORIZATION, shown)));
            }
            let again = body.again();
            let request = Request { method: method.clone(), address: self.address.clone(), headers };
            let answer = self.open.client.send(request, body).await;
            let Some(again) = again else { return self.answered(answer) };
            if let Ok(refused) = &answer
                && refused.status == StatusCode::UNAUTHORIZED
                && !let_in
                && let Some(asked) = self.asked(refused, challenge.as_ref())?
            {
                self.open.learn(&asked);
                (challenge, fresh, let_in, body) = (Some(asked), true, true, again);
                continue;
            }
            let late = match &answer {
                Ok(answer) => later(answer.status, answer.header(RETRY_AFTER)),
                Err(error) => comes_and_goes(error).then_some(None),
            };
            let late = late.filter(|_| method != Method::PATCH);
            let Some(wait) = late.and_then(|asked| wait(&self.door.inner.hosts, tries, asked)) else {
                return self.answered(answer);
            };
            tokio::time::sleep(wait).await;
            (fresh, body, tries) = (false, again, tries + 1);
        }
    }

    /// How a server that has refused wants to be asked, if that was not done already.
    fn asked(&self, refused: &Answer, shown: Option<&Challenge>) -> Result<Option<Challenge>> {
        // Only the server itself may say so, not where it leads.
        let asked = door::choose(refused).filter(|_| refused.address.same_origin(&self.open.base));
        let Some(asked) = asked else { return Ok(None) };
        let nobody = !matches!(self.door.credentials, Credentials::Password { .. });
        match asked.scheme.as_str() {
            "basic" if nobody => Err(Error::NoCredentials {
                method: self.called.to_owned(),
                address: self.address.to_string(),
            }),
            "basic" if shown.is_some_and(|shown| shown.scheme == "basic") => Ok(None),
            _ => Ok(Some(asked)),
        }
    }

    fn answered(&self, answer: std::result::Result<Answer, hull_fetch::Error>) -> Result<Answer> {
        answer.map_err(|error| Error::unreachable(self.called, &self.address, &error))
    }
}

/// An answer that is none of `wanted` is an error.
pub(super) async fn accept(called: &str, mut answer: Answer, wanted: &[StatusCode]) -> Result<Answer> {
    if wanted.contains(&answer.status) {
        return Ok(answer);
    }
    let (status, address) = (answer.status, answer.address.to_string());
    let problem = door::problem(&mut answer).await;
    Err(Error::Answered { method: called.to_owned(), address, status, problem })
}

/// Whether a failure may be gone a moment later.
pub(super) fn comes_and_goes(error: &hull_fetch::Error) -> bool {
    use hull_fetch::Error::{Connect, Cut, Late};
    matches!(error, Connect { .. } | Cut { .. } | Late { .. })
}

/// Whether an answer may be another one later; and when, if the server says so (RFC 9110, 10.2.3; dates are
/// as good as nothing said).
fn later(status: StatusCode, retry_after: Option<&str>) -> Option<Option<Duration>> {
    let asked = retry_after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504).then_some(asked)
}

/// How long to wait before the next of several tries, of which there were `tries`; `None`: there is none.
pub(super) fn wait(hosts: &Hosts, tries: u32, asked: Option<Duration>) -> Option<Duration> {
    if tries >= hosts.attempts || asked.is_some_and(|asked| asked > Hosts::LONGEST) {
        return None;
    }
    let doubled = hosts.wait.saturating_mul(1 << (tries - 1).min(16)).min(Hosts::LONGEST);
    Some(asked.map_or(doubled, |asked| asked.max(hosts.wait)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_come_later_and_later_and_end() {
        let hosts = Hosts { attempts: 4, wait: Duration::from_secs(1), ..Hosts::default() };
        let seconds = |tries, asked: Option<u64>| {
            wait(&hosts, tries, asked.map(Duration::from_secs)).map(|wait| wait.as_secs())
        };
        assert_eq!([1, 2, 3, 4].map(|tries| seconds(tries, None)), [Some(1), Some(2), Some(4), None]);
        assert_eq!([0, 7, 60, 61].map(|asked| seconds(2, Some(asked))), [Some(1), Some(7), Some(60), None]);
        let many = Hosts { attempts: 1000, ..hosts.clone() };
        assert_eq!(wait(&many, 900, None), Some(Hosts::LONGEST));
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let after = |status: u16, text| later(StatusCode::from_u16(status).unwrap(), text);
        assert_eq!(after(429, Some(" 3 ")), Some(Some(Duration::from_secs(3))));
        assert_eq!(after(503, Some("Fri, 31 Dec 1999 23:59:59 GMT")), Some(None));
        for status in [408, 500, 502, 504] {
            assert_eq!(after(status, None), Some(None), "{status}");
        }
        for status in [200, 202, 400, 401, 403, 404, 416, 501] {
            assert_eq!(after(status, Some("1")), None, "{status}");
        }
    }
}
