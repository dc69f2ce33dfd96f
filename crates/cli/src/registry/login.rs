//! `login` and `logout`: the daemon asks the registry whether it knows the user, the client keeps what it was told.

use std::io::Read as _;

use http::StatusCode;
use hull_api::client::{Body, Query};
use hull_api::registry::{AuthConfig, Authenticated, DEFAULT_SERVER};
use hull_oci::reference::DEFAULT_DOMAIN;

use crate::command::{Arguments, Command, Failure, Outcome, chain, fail};
use crate::credentials::hostname;
use crate::flags::{Flag, Given};
use crate::session::{Session, line, print, say};
use crate::terminal::{Unseen, stdin_is_terminal};

pub(crate) static LOGIN: Command = Command {
    paths: &["login"],
    usage: "[OPTIONS] [SERVER]",
    summary: "Say who you are to a registry",
    arguments: Arguments::AtMost(1),
    stop_at_argument: false,
    flags: &[&[
        Flag::text("password", "Password or token; others of this host can see it").short('p'),
        Flag::switch("password-stdin", "Read the password or token from STDIN"),
        Flag::text("username", "User").short('u'),
    ]],
    run: |session, given| Box::pin(login(session, given)) as Outcome<'_>,
};

pub(crate) static LOGOUT: Command = Command {
    paths: &["logout"],
    usage: "[SERVER]",
    summary: "Forget who you are to a registry",
    arguments: Arguments::AtMost(1),
    stop_at_argument: false,
    flags: &[],
    run: |session, given| Box::pin(async { logout(session, given) }) as Outcome<'_>,
};

/// What credentials for the registry of a command line are kept under.
fn server(given: &Given) -> String {
    match given.arguments.first().map_or("", String::as_str) {
        "" | DEFAULT_DOMAIN | DEFAULT_SERVER => DEFAULT_SERVER.to_owned(),
        named => hostname(named).to_owned(),
    }
}

async fn login(session: &Session, given: &Given) -> Result<u8, Failure> {
    let user = given.text("username").trim();
    let password = password(given, user)?;
    let server = server(given);
    if user.is_empty() && password.is_empty() {
        let known = session.credentials().get(&server)?;
        if !known.username.is_empty() && !known.password.is_empty() {
            match with_known(session, &server, known).await? {
                Some(status) => {
                    line(&status);
                    return Ok(0);
                }
                None => return ask_and_log_in(session, &server, "", "").await,
            }
        }
    }
    ask_and_log_in(session, &server, user, &password).await
}

/// The password of the flags, empty if they have none.
fn password(given: &Given, user: &str) -> Result<String, Failure> {
    let password = given.text("password");
    if !password.is_empty() {
        say("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
        if given.on("password-stdin") {
            return Err(fail("--password and --password-stdin are mutually exclusive"));
        }
    }
    if !given.on("password-stdin") {
        return Ok(password.to_owned());
    }
    if user.is_empty() {
        return Err(fail("Must provide --username with --password-stdin"));
    }
    let mut text = String::new();
    std::io::stdin().take(SECRET_MAX).read_to_string(&mut text)?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

/// Bytes of a password, at most.
const SECRET_MAX: u64 = 1 << 20;

/// Tries what is known already; `None`, and said why, if that does not do any more.
async fn with_known(session: &Session, server: &str, known: AuthConfig) -> Result<Option<String>, Failure> {
    say(&format!("Authenticating with existing credentials... [Username: {}]", known.username));
    say(&format!(
        "\n Info -> To login with a different account, run '{0} logout' followed by '{0} login'\n\n",
        session.program
    ));
    match ask_daemon(session, &known).await {
        Ok(answer) => {
            keep(session, server, known, &answer)?;
            Ok(Some(answer.status))
        }
        Err(error) if error.status() == Some(StatusCode::UNAUTHORIZED) => {
            say("Stored credentials invalid or expired");
            Ok(None)
        }
        Err(error) => {
            say(&format!("Login did not succeed, error: {}", chain(&error)));
            Ok(None)
        }
    }
}

/// Asks for what the flags do not say, and then the registry.
async fn ask_and_log_in(session: &Session, server: &str, user: &str, password: &str) -> Result<u8, Failure> {
    if (user.is_empty() || password.is_empty()) && !stdin_is_terminal() {
        return Err(fail("Error: Cannot perform an interactive login from a non TTY device"));
    }
    let username = match user {
        "" => typed("Username: ", false).await?,
        user => user.to_owned(),
    };
    if username.is_empty() {
        return Err(fail("error: username is required"));
    }
    let password = match password {
        "" => typed("Password: ", true).await?,
        password => password.to_owned(),
    };
    if password.is_empty() {
        return Err(fail("error: password is required"));
    }
    let auth = AuthConfig { username, password, serveraddress: server.to_owned(), ..AuthConfig::default() };
    let answer = ask_daemon(session, &auth).await?;
    keep(session, server, auth, &answer)?;
    if !answer.status.is_empty() {
        line(&answer.status);
    }
    Ok(0)
}

async fn ask_daemon(session: &Session, auth: &AuthConfig) -> Result<Authenticated, hull_api::client::Error> {
    session.client.post("/auth", &Query::new(), Body::json(auth)).await?.json().await
}

/// Keeps what has proved good; of a password that the registry gave a token for, the token alone.
fn keep(session: &Session, server: &str, auth: AuthConfig, answer: &Authenticated) -> Result<(), Failure> {
    let auth = match answer.identity_token.as_str() {
        "" => auth,
        token => AuthConfig { password: String::new(), identitytoken: token.to_owned(), ..auth },
    };
    session.credentials().store(server, auth)
}

/// One line from the terminal; one that is `unseen` is not shown as it is typed. Ctrl-C ends the command, and leaves
/// the terminal as it was.
async fn typed(question: &str, unseen: bool) -> Result<String, Failure> {
    // Before anybody is asked to type.
    let guard = if unseen { Some(Unseen::enter()?) } else { None };
    print(question);
    let reading = tokio::task::spawn_blocking(|| {
        let mut text = String::new();
        std::io::stdin().read_line(&mut text).map(|_| text)
    });
    let read = tokio::select! {
        read = reading => read?,
        _ = tokio::signal::ctrl_c() => {
            drop(guard);
            line("");
            return Err(Failure::said(130));
        }
    };
    drop(guard);
    if unseen {
        line("");
    }
    Ok(read?.trim_end_matches(['\n', '\r']).trim().to_owned())
}

fn logout(session: &Session, given: &Given) -> Result<u8, Failure> {
    let server = server(given);
    // Files of long ago have these.
    let names = match server.as_str() {
        DEFAULT_SERVER => vec![server.clone()],
        host => vec![host.to_owned(), format!("http://{host}"), format!("https://{host}")],
    };
    line(&format!("Removing login credentials for {server}"));
    let credentials = session.credentials();
    let mut wrong = String::new();
    for name in names {
        if let Err(failure) = credentials.erase(&name) {
            wrong.push_str(&format!("\n{name}: {}", failure.message));
        }
    }
    match wrong.as_str() {
        "" => Ok(0),
        wrong => Err(fail(format!("WARNING: could not erase credentials:{wrong}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, answer};

    fn given(command: &Command, words: &[&str]) -> Given {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        crate::flags::parse(command.flags, false, &words).ok().unwrap()
    }

    fn config(fake: &Fake) -> String {
        let path = fake.folder().join("config.json");
        std::fs::read_to_string(path).unwrap_or_default().replace(['\n', '\t', ' '], "")
    }

    #[tokio::test]
    async fn what_the_registry_accepts_is_kept_and_used() {
        let fake = Fake::start(|_| answer(200, r#"{"IdentityToken":"","Status":"Login Succeeded"}"#));
        let words = given(&LOGIN, &["-u", "alice", "-p", "secret", "https://127.0.0.1:5001/v2/"]);
        assert_eq!(login(&fake.session, &words).await.unwrap(), 0);
        assert_eq!(config(&fake), r#"{"auths":{"127.0.0.1:5001":{"auth":"YWxpY2U6c2VjcmV0"}}}"#);
        let again = given(&LOGIN, &["127.0.0.1:5001"]);
        assert_eq!(login(&fake.session, &again).await.unwrap(), 0);
        let body = r#"{"username":"alice","password":"secret","serveraddress":"127.0.0.1:5001"}"#;
        let asked: Vec<(String, String)> =
            fake.requests().into_iter().map(|request| (request.line, request.body)).collect();
        let post = ("POST /auth".to_owned(), body.to_owned());
        assert_eq!(asked, [post.clone(), post]);
        crate::image::pull::fetch(&fake.session, "127.0.0.1:5001/a:1", "", true).await.unwrap();
        let header = fake.requests().last().and_then(|request| request.header("x-registry-auth")).unwrap();
        let sent: AuthConfig = hull_api::registry::from_header(&header);
        assert_eq!((&*sent.username, &*sent.password), ("alice", "secret"));
        let out = given(&LOGOUT, &["127.0.0.1:5001"]);
        for _ in 0..2 {
            assert_eq!(logout(&fake.session, &out).unwrap(), 0);
        }
        assert_eq!(config(&fake), r#"{"auths":{}}"#);
    }

    #[tokio::test]
    async fn a_token_is_kept_instead_of_the_password() {
        let fake = Fake::start(|_| answer(200, r#"{"IdentityToken":"t0k","Status":"Login Succeeded"}"#));
        let words = given(&LOGIN, &["-u", "alice", "-p", "secret"]);
        login(&fake.session, &words).await.unwrap();
        let expected =
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"YWxpY2U6","identitytoken":"t0k"}}}"#;
        assert_eq!(config(&fake), expected);
    }

    #[tokio::test]
    async fn what_is_refused_is_not_kept() {
        let refused = "login attempt to http://h:1/v2/ failed with status: 401 Unauthorized";
        let fake = Fake::start(move |_| answer(401, &format!(r#"{{"message":"{refused}"}}"#)));
        let words = given(&LOGIN, &["-u", "alice", "-p", "bad", "h:1"]);
        let failure = login(&fake.session, &words).await.unwrap_err();
        assert_eq!(failure, fail(format!("Error response from daemon: {refused}")));
        assert_eq!(config(&fake), "");
    }

    #[tokio::test]
    async fn flags_that_do_not_go_together_are_refused_before_anything_is_asked() {
        let fake = Fake::start(|_| answer(500, ""));
        for (words, text) in [
            (&["-p", "x", "--password-stdin"][..], "--password and --password-stdin are mutually exclusive"),
            (&["--password-stdin"], "Must provide --username with --password-stdin"),
        ] {
            let failure = login(&fake.session, &given(&LOGIN, words)).await.unwrap_err();
            assert_eq!(failure, fail(text));
        }
        assert_eq!(fake.asked(), [""; 0]);
    }

    #[test]
    fn servers_are_kept_by_their_hosts() {
        for (word, name) in [
            ("docker.io", DEFAULT_SERVER),
            ("h:5000", "h:5000"),
            ("https://h/v2/", "h"),
            ("", DEFAULT_SERVER),
        ] {
            assert_eq!(server(&given(&LOGIN, &[word])), name);
        }
        assert_eq!(server(&given(&LOGIN, &[])), DEFAULT_SERVER);
    }
}
