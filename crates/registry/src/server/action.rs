//! What a request asks for, by its method and its path.
//!
//! ```text
//! /v2/                                GET
//! /v2/_catalog                        GET
//! /v2/NAME/tags/list                  GET
//! /v2/NAME/manifests/TAG or DIGEST    GET HEAD PUT DELETE
//! /v2/NAME/blobs/DIGEST               GET HEAD DELETE
//! /v2/NAME/blobs/uploads/             POST
//! /v2/NAME/blobs/uploads/ID           GET PATCH PUT DELETE
//! /v2/NAME/referrers/DIGEST           GET
//! ```
//!
//! A path is one action or none: it is read from its end, once, and everything that is done, and that is
//! allowed, follows from the value that comes out. Nothing in it is percent-encoded but the colon of a
//! digest, so no proxy in front can read it in another way.

use std::fmt;

use http::Method;
use hull_oci::{Digest, reference};

use super::answer::{Code, Failure};

/// A repository's name: safe as a path, because no component of it begins with `.` or `_`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name(Box<str>);

impl Name {
    pub(crate) fn parse(text: &str) -> Option<Name> {
        reference::is_path(text).then(|| Name(text.into()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a manifest is asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Of the grammar that the specification gives: no file name of it begins with a dot.
    Tag(String),
    Digest(Digest),
}

/// The one thing that a request does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Base,
    Catalog,
    Tags(Name),
    Referrers(Name, Digest),
    GetManifest(Name, Target),
    PutManifest(Name, Target),
    DeleteManifest(Name, Target),
    GetBlob(Name, Digest),
    DeleteBlob(Name, Digest),
    StartUpload(Name),
    UploadStatus(Name, String),
    UploadChunk(Name, String),
    FinishUpload(Name, String),
    CancelUpload(Name, String),
}

/// What may be allowed in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Verb {
    Pull,
    Push,
    Delete,
}

impl Verb {
    pub(crate) const ALL: [Verb; 3] = [Verb::Pull, Verb::Push, Verb::Delete];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Verb::Pull => "pull",
            Verb::Push => "push",
            Verb::Delete => "delete",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Verb> {
        Verb::ALL.into_iter().find(|verb| verb.name() == name)
    }
}

/// The right that an action needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need<'a> {
    /// To be somebody.
    Known,
    Catalog,
    Repository(&'a Name, Verb),
}

impl Action {
    pub(crate) fn need(&self) -> Need<'_> {
        match self {
            Action::Base => Need::Known,
            Action::Catalog => Need::Catalog,
            Action::Tags(name)
            | Action::Referrers(name, _)
            | Action::GetManifest(name, _)
            | Action::GetBlob(name, _) => Need::Repository(name, Verb::Pull),
            Action::PutManifest(name, _)
            | Action::StartUpload(name)
            | Action::UploadStatus(name, _)
            | Action::UploadChunk(name, _)
            | Action::FinishUpload(name, _)
            | Action::CancelUpload(name, _) => Need::Repository(name, Verb::Push),
            Action::DeleteManifest(name, _) | Action::DeleteBlob(name, _) => {
                Need::Repository(name, Verb::Delete)
            }
        }
    }

    /// It changes what the registry has.
    pub(crate) fn writes(&self) -> bool {
        matches!(self.need(), Need::Repository(_, Verb::Push | Verb::Delete))
    }

    /// # Errors
    /// 404 for a path that is none of them, 405 for a method that it has not, 400 in the
    /// specification's codes for a wrong name, tag or digest.
    pub(crate) fn parse(method: &Method, path: &str) -> Result<Action, Failure> {
        let path = path.replace("%3A", ":").replace("%3a", ":");
        let rest = match path.strip_prefix("/v2") {
            Some("" | "/") => return only(method, &[Method::GET, Method::HEAD], Action::Base),
            Some("/_catalog") => return only(method, &[Method::GET], Action::Catalog),
            Some(rest) => rest.strip_prefix('/').ok_or_else(Failure::no_page)?,
            None => return Err(Failure::no_page()),
        };
        let parts: Vec<&str> = rest.split('/').collect();
        match parts.as_slice() {
            [name @ .., "tags", "list"] => only(method, &[Method::GET], Action::Tags(named(name)?)),
            [name @ .., "referrers", digest] => {
                let name = named(name)?;
                only(method, &[Method::GET], Action::Referrers(name, digested(digest)?))
            }
            [name @ .., "manifests", target] => manifest(method, named(name)?, target),
            [name @ .., "blobs", "uploads"] | [name @ .., "blobs", "uploads", ""] => {
                only(method, &[Method::POST], Action::StartUpload(named(name)?))
            }
            [name @ .., "blobs", "uploads", id] => upload(method, named(name)?, id),
            [name @ .., "blobs", digest] => blob(method, named(name)?, digest),
            _ => Err(Failure::no_page()),
        }
    }
}

fn only(method: &Method, allowed: &[Method], action: Action) -> Result<Action, Failure> {
    if allowed.contains(method) { Ok(action) } else { Err(Failure::no_method(method)) }
}

fn named(parts: &[&str]) -> Result<Name, Failure> {
    let text = parts.join("/");
    Name::parse(&text).ok_or_else(|| Failure::new(Code::NameInvalid, format!("{text:?} names no repository")))
}

fn digested(text: &str) -> Result<Digest, Failure> {
    Digest::parse(text).map_err(|error| Failure::new(Code::DigestInvalid, format!("{text:?}: {error}")))
}

fn manifest(method: &Method, name: Name, text: &str) -> Result<Action, Failure> {
    let target = if text.contains(':') {
        Target::Digest(digested(text)?)
    } else if reference::is_tag(text) {
        Target::Tag(text.to_owned())
    } else {
        return Err(Failure::new(Code::ManifestInvalid, format!("{text:?} is no tag")));
    };
    Ok(match *method {
        Method::GET | Method::HEAD => Action::GetManifest(name, target),
        Method::PUT => Action::PutManifest(name, target),
        Method::DELETE => Action::DeleteManifest(name, target),
        _ => return Err(Failure::no_method(method)),
    })
}

fn blob(method: &Method, name: Name, text: &str) -> Result<Action, Failure> {
    let digest = digested(text)?;
    Ok(match *method {
        Method::GET | Method::HEAD => Action::GetBlob(name, digest),
        Method::DELETE => Action::DeleteBlob(name, digest),
        _ => return Err(Failure::no_method(method)),
    })
}

fn upload(method: &Method, name: Name, id: &str) -> Result<Action, Failure> {
    let fit = id.len() == 36 && id.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    if !fit {
        return Err(Failure::new(Code::BlobUploadUnknown, "no such upload"));
    }
    let id = id.to_owned();
    Ok(match *method {
        Method::GET => Action::UploadStatus(name, id),
        Method::PATCH => Action::UploadChunk(name, id),
        Method::PUT => Action::FinishUpload(name, id),
        Method::DELETE => Action::CancelUpload(name, id),
        _ => return Err(Failure::no_method(method)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, path: &str) -> Result<Action, u16> {
        Action::parse(&method, path).map_err(|failure| failure.status.as_u16())
    }

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn a_path_is_one_action() {
        let digest = Digest::sha256(b"");
        assert_eq!(check(Method::GET, "/v2/"), Ok(Action::Base));
        assert_eq!(check(Method::GET, "/v2"), Ok(Action::Base));
        assert_eq!(check(Method::GET, "/v2/a/b/tags/list"), Ok(Action::Tags(name("a/b"))));
        // Repositories may be called as the endpoints are.
        assert_eq!(check(Method::GET, "/v2/tags/tags/list"), Ok(Action::Tags(name("tags"))));
        assert_eq!(
            check(Method::PUT, "/v2/a/blobs/uploads/manifests/v1"),
            Ok(Action::PutManifest(name("a/blobs/uploads"), Target::Tag("v1".to_owned())))
        );
        let path = format!("/v2/a/blobs/{digest}");
        assert_eq!(check(Method::HEAD, &path), Ok(Action::GetBlob(name("a"), digest.clone())));
        assert_eq!(
            check(Method::DELETE, &path.replace(':', "%3A")),
            Ok(Action::DeleteBlob(name("a"), digest.clone()))
        );
        assert_eq!(check(Method::POST, "/v2/a/blobs/uploads/"), Ok(Action::StartUpload(name("a"))));
        let id = "01234567-89ab-cdef-0123-456789abcdef";
        assert_eq!(
            check(Method::PATCH, &format!("/v2/a/blobs/uploads/{id}")),
            Ok(Action::UploadChunk(name("a"), id.to_owned()))
        );
        assert_eq!(
            check(Method::GET, &format!("/v2/a/referrers/{digest}")),
            Ok(Action::Referrers(name("a"), digest))
        );
    }

    #[test]
    fn tricks_in_a_path_are_refused() {
        for path in [
            "/v2/../a/tags/list",
            "/v2/a/../b/tags/list",
            "/v2/a//tags/list",
            "/v2//tags/list",
            "/v2/a%2Fb/tags/list",
            "/v2/a%00/tags/list",
            "/v2/A/tags/list",
            "/v2/_manifests/tags/list",
            "/v2/a/_tags/tags/list",
            "/v2/a/manifests/..",
            "/v2/a/manifests/.hidden",
            "/v2/a/manifests/a%2f..",
            "/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e",
            "/v2/a/blobs/latest",
        ] {
            assert_eq!(check(Method::GET, path), Err(400), "{path}");
        }
        assert_eq!(check(Method::GET, &format!("/v2/{}/tags/list", "a/".repeat(200))), Err(400));
        for path in [
            "/",
            "/v1/",
            "/v2x/a/tags/list",
            "/v2/a",
            "/v2/a/manifests",
            "/v2/a/manifests/sha256:../../x",
            "/token/x",
        ] {
            assert_eq!(check(Method::GET, path), Err(404), "{path}");
        }
        assert_eq!(check(Method::PATCH, "/v2/a/blobs/uploads/../../etc/passwd"), Err(404));
        assert_eq!(check(Method::POST, "/v2/a/manifests/v1"), Err(405));
        assert_eq!(check(Method::PUT, "/v2/"), Err(405));
    }

    #[test]
    fn every_action_names_its_right() {
        let need = |method: Method, path: &str| {
            let action = Action::parse(&method, path).unwrap();
            match action.need() {
                Need::Repository(name, verb) => format!("{name} {}", verb.name()),
                Need::Catalog => "catalog".to_owned(),
                Need::Known => "known".to_owned(),
            }
        };
        assert_eq!(need(Method::GET, "/v2/"), "known");
        assert_eq!(need(Method::GET, "/v2/_catalog"), "catalog");
        assert_eq!(need(Method::HEAD, "/v2/a/manifests/v1"), "a pull");
        assert_eq!(need(Method::PUT, "/v2/a/manifests/v1"), "a push");
        assert_eq!(need(Method::DELETE, "/v2/a/manifests/v1"), "a delete");
        assert_eq!(need(Method::POST, "/v2/a/b/blobs/uploads/"), "a/b push");
        let id = "/v2/a/blobs/uploads/01234567-89ab-cdef-0123-456789abcdef";
        for method in [Method::GET, Method::PATCH, Method::PUT, Method::DELETE] {
            assert_eq!(need(method, id), "a push");
        }
    }
}
