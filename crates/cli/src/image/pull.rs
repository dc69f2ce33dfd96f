//! Fetching an image from a registry, as far as the daemon can.

use http::StatusCode;
use hull_api::client::{Body, Query};

use crate::command::{Failure, fail};
use crate::progress::Progress;
use crate::session::Session;

/// Asks the daemon to fetch `image`.
pub(crate) async fn fetch(
    session: &Session,
    image: &str,
    platform: &str,
    quiet: bool,
) -> Result<(), Failure> {
    let (name, tag) = super::name_and_tag(image);
    let query = Query::new()
        .with("fromImage", canonical(name))
        .unless_empty("tag", tag)
        .unless_empty("platform", platform);
    let answer = session.client.post("/images/create", &query, Body::Empty).await;
    let answer = match answer {
        Err(error) if error.status() == Some(StatusCode::NOT_IMPLEMENTED) => {
            return Err(fail(format!(
                "{error}\nPulling from registries comes later. Bring the image in with \
                 '{0} load -i FILE', '{0} import FILE {image}', \
                 or make one of this host's programs with '{0} image capture {image} PROGRAM…'.",
                session.program
            )));
        }
        other => other?,
    };
    let mut progress = Progress::new(quiet);
    progress.follow(answer).await
}

/// The name in full: `docker.io/library/busybox` for `busybox`.
pub(crate) fn canonical(name: &str) -> String {
    let (first, rest) = name.split_once('/').unwrap_or(("", name));
    if first.contains(['.', ':']) || first == "localhost" {
        return name.to_owned();
    }
    if first.is_empty() {
        return format!("docker.io/library/{rest}");
    }
    format!("docker.io/{name}")
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn familiar_names_are_written_out() {
        for (name, full) in [
            ("busybox", "docker.io/library/busybox"),
            ("user/repo", "docker.io/user/repo"),
            ("h:5000/a", "h:5000/a"),
            ("localhost/a", "localhost/a"),
            ("example.com/a/b", "example.com/a/b"),
        ] {
            assert_eq!(canonical(name), full);
        }
    }
}
