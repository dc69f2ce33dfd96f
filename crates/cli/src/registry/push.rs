//! `push`: an image goes to its registry.

use hull_api::client::{Body, Query, segment};
use hull_oci::reference::{DEFAULT_TAG, Reference};

use crate::command::{Arguments, Command, Failure, Outcome, fail};
use crate::flags::{Flag, Given};
use crate::progress::Progress;
use crate::session::{Session, line, print};

pub(crate) static PUSH: Command = Command {
    paths: &["image push", "push"],
    usage: "[OPTIONS] NAME[:TAG]",
    summary: "Send an image to its registry",
    arguments: Arguments::Exactly(1),
    stop_at_argument: false,
    flags: &[&[
        Flag::switch("all-tags", "Send all tags of the repository").short('a'),
        Flag::switch("disable-content-trust", "").default("true"),
        Flag::text("platform", "Send this platform alone, as os[/arch[/variant]]"),
        Flag::switch("quiet", "Show the name only").short('q'),
    ]],
    run: |session, given| Box::pin(push(session, given)) as Outcome<'_>,
};

/// What `--platform` means, in the reference's words.
const ONE_PLATFORM: &str = concat!(
    "\n Info -> Using --platform pushes only the specified platform manifest of a multi-platform image index.\n",
    "         Other components, like attestations, will not be included.\n",
    "         To push the complete multi-platform image, remove the --platform flag.\n",
    "         \n",
);

async fn push(session: &Session, given: &Given) -> Result<u8, Failure> {
    let mut reference = Reference::parse(&given.arguments[0])?;
    if reference.digest.is_some() {
        return Err(fail("cannot push a digest reference"));
    }
    let (all, quiet) = (given.on("all-tags"), given.on("quiet"));
    if all && !reference.is_name_only() {
        return Err(fail("tag can't be used with --all-tags/-a"));
    }
    let platform = match given.text("platform") {
        "" => String::new(),
        text => crate::image::platform_document(text),
    };
    if !platform.is_empty() {
        print(ONE_PLATFORM);
    }
    if !all && reference.is_name_only() {
        reference = reference.with_default_tag();
        if !quiet {
            line(&format!("Using default tag: {DEFAULT_TAG}"));
        }
    }
    let path = format!("/images/{}/push", segment(&reference.familiar_name()));
    let tag = reference.tag.as_deref().unwrap_or_default();
    let query = Query::new().unless_empty("platform", &platform).unless_empty("tag", tag);
    let headers = session.credentials().header(&reference)?;
    let answer = session.client.post_with(&path, &query, &headers, Body::Empty).await?;
    Progress::new(quiet).follow(answer).await?;
    if quiet {
        line(&reference.familiar());
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, answer};

    async fn run(words: &[&str], body: &'static str) -> (Result<u8, Failure>, Vec<String>) {
        let fake = Fake::start(move |_| answer(200, body));
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let given = crate::flags::parse(PUSH.flags, false, &words).ok().unwrap();
        let ended = push(&fake.session, &given).await;
        assert!(
            fake.requests()
                .iter()
                .all(|request| request.header("x-registry-auth").as_deref() == Some("e30="))
        );
        (ended, fake.asked())
    }

    #[tokio::test]
    async fn a_push_names_the_repository_and_the_tag() {
        for (words, asked) in [
            (&["h:5000/ns/app:1"][..], "POST /images/h:5000/ns/app/push?tag=1"),
            (&["-q", "app"], "POST /images/app/push?tag=latest"),
            (&["-a", "app"], "POST /images/app/push"),
            (
                &["--platform", "linux/arm64", "app:1"],
                "POST /images/app/push?platform=%7B%22architecture%22%3A%22arm64%22%2C%22os%22%3A%22linux%22%7D&tag=1",
            ),
        ] {
            assert_eq!(run(words, "").await, (Ok(0), vec![asked.to_owned()]), "{words:?}");
        }
        assert_eq!(
            run(&["-a", "app:1"], "").await,
            (Err(fail("tag can't be used with --all-tags/-a")), vec![])
        );
    }

    #[tokio::test]
    async fn what_goes_wrong_on_the_way_is_the_commands_error() {
        let text = "An image does not exist locally with the tag: app";
        let body = r#"{"status":"The push refers to repository [docker.io/library/app]"}
            {"errorDetail":{"message":"An image does not exist locally with the tag: app"},"error":"x"}"#;
        assert_eq!(run(&["-q", "app"], body).await.0, Err(fail(text)));
    }
}
