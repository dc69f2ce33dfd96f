//! Who somebody is to a registry: logins, what is kept of them, and that nothing of it is told.

use std::fs;
use std::process::Command;

use hull_testkit::registry::{PASSWORD, Registry, USER};
use hull_testkit::{Finished, Host, Options, run};

use super::{CLIENTS, executables, host};

/// Of [`USER`] and [`PASSWORD`], as `config.json` has them.
const KEPT: &str = "YWxpY2U6c2VjcmV0";

fn config(host: &Host) -> String {
    fs::read_to_string(host.folder().join(".docker/config.json")).unwrap_or_default()
}

#[test]
fn a_login_is_checked_kept_used_and_forgotten() {
    let host = host();
    let registry = Registry::start(&host, 5001, true);
    let server = registry.address();
    let image = format!("{server}/priv/app:1");
    for client in CLIENTS {
        host.hull(&["tag", "busybox", &image]).ok();
        client(&host, &["push", &image]).fails(1, "no basic auth credentials");
        let refused = format!(
            "WARNING! Using --password via the CLI is insecure. Use --password-stdin.\nError response from daemon: \
             login attempt to http://{server}/v2/ failed with status: 401 Unauthorized\n"
        );
        let wrong = client(&host, &["login", "-u", USER, "-p", "wrong", &server]);
        assert_eq!((wrong.code, wrong.stderr.as_str()), (1, refused.as_str()), "{wrong}");
        assert!(!config(&host).contains(&server));
        let right = client(&host, &["login", "-u", USER, "-p", PASSWORD, &server]);
        assert_eq!(right.ok(), "Login Succeeded");
        assert!(right.stderr.contains("Your credentials are stored unencrypted in '"), "{right}");
        let expected = format!(
            "{{\n\t\"auths\": {{\n\t\t\"{server}\": {{\n\t\t\t\"auth\": \"{KEPT}\"\n\t\t}}\n\t}}\n}}"
        );
        assert_eq!(config(&host), expected);
        let again = client(&host, &["login", &server]);
        assert!(again.ok().ends_with("Login Succeeded"), "{again}");
        assert!(format!("{again}").contains("existing credentials... [Username: alice]"), "{again}");
        client(&host, &["push", "-q", &image]).ok();
        let gone = client(&host, &["logout", &server]);
        assert_eq!(gone.ok(), format!("Removing login credentials for {server}"));
        assert_eq!(config(&host), "{\n\t\"auths\": {}\n}");
        client(&host, &["logout", &server]).ok();
        client(&host, &["push", &image]).fails(1, "no basic auth credentials");
    }
}

#[test]
fn a_password_is_typed_unseen_or_comes_from_a_pipe() {
    let host = host();
    let registry = Registry::start(&host, 5001, true);
    let server = registry.address();
    host.hull(&["login", "-u", USER, &server])
        .fails(1, "Error: Cannot perform an interactive login from a non TTY device");
    let mut terminal = host.hull_on_terminal(&["login", &server]);
    terminal.expect("Username: ");
    terminal.type_in("alice\n");
    terminal.expect("Password: ");
    terminal.type_in("secret\n");
    let (code, screen) = terminal.finish();
    assert!(code == 0 && screen.contains("Login Succeeded") && !screen.contains(PASSWORD), "{code} {screen}");
    assert!(config(&host).contains(KEPT));
    host.hull(&["logout", &server]).ok();
    let piped = host.hull_with_input(&["login", "-u", USER, "--password-stdin", &server], b"secret\r\n");
    assert_eq!(piped.ok(), "Login Succeeded");
    assert!(config(&host).contains(KEPT));
}

#[test]
fn ctrl_c_at_the_password_leaves_the_terminal_as_it_was() {
    let host = host();
    // The shell hears of ctrl-c, too, and is to go on.
    let mut command = Command::new("sh");
    let login = host.hull_command(&["login", "-u", USER, "127.0.0.1:9"]);
    command
        .args(["-c", "trap : INT; \"$@\"; echo \"ended $?\"; stty -a", "sh"])
        .arg(login.get_program())
        .args(login.get_args());
    for (name, value) in login.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut terminal = hull_testkit::Terminal::start(&command);
    terminal.expect("Password: ");
    terminal.type_in("half\u{3}");
    terminal.expect("ended 130");
    let (_, screen) = terminal.finish();
    assert!(screen.contains(" echo ") && !screen.contains("half"), "{screen}");
}

/// A credential helper that keeps what it is told in a file.
const HELPER: &str = r#"#!/bin/sh
kept="$HOME/kept"
case "$1" in
store) cat > "$kept" ;;
get) cat > /dev/null; cat "$kept" 2> /dev/null || { echo "credentials not found in native keychain"; exit 1; } ;;
erase) cat > /dev/null; rm -f "$kept" ;;
esac
"#;

#[test]
fn a_helper_keeps_credentials_for_both_clients() {
    let host = host();
    let registry = Registry::start(&host, 5001, true);
    let server = registry.address();
    let programs = host.folder().join("programs");
    fs::create_dir(&programs).unwrap();
    let source = host.folder().join("helper");
    fs::write(&source, HELPER).unwrap();
    let installed = Command::new("install")
        .arg("-m755")
        .arg(&source)
        .arg(programs.join("docker-credential-test"))
        .status();
    assert!(installed.unwrap().success());
    fs::create_dir(host.folder().join(".docker")).unwrap();
    fs::write(host.folder().join(".docker/config.json"), r#"{"credsStore":"test"}"#).unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    let ask = |mut command: Command| -> Finished { run(command.env("PATH", &path), b"") };
    let image = format!("{server}/app:1");
    host.hull(&["tag", "busybox", &image]).ok();
    let hull = |words: &[&str]| ask(host.hull_command(words));
    let docker = |words: &[&str]| ask(host.docker_command(words));
    for (first, second) in
        [(&hull as &dyn Fn(&[&str]) -> Finished, &docker as &dyn Fn(&[&str]) -> Finished), (&docker, &hull)]
    {
        let login = first(&["login", "-u", USER, "-p", PASSWORD, &server]);
        assert!(login.ok() == "Login Succeeded" && !login.stderr.contains("unencrypted"), "{login}");
        assert!(!config(&host).contains(KEPT) && config(&host).contains(&server), "{}", config(&host));
        second(&["push", "-q", &image]).ok();
        second(&["logout", &server]).ok();
        assert!(!host.folder().join("kept").exists());
        first(&["push", "-q", &image]).fails(1, "no basic auth credentials");
    }
    // One that is not there is an error, not an anonymous push.
    host.hull(&["push", "-q", &image])
        .fails(1, "\"docker-credential-test\": executable file not found in $PATH");
}

#[test]
fn no_log_and_no_error_tells_a_password() {
    let host =
        Host::start(executables(), Options { daemon: vec!["--debug".to_owned()], ..Options::default() });
    host.busybox();
    let registry = Registry::start(&host, 5001, true);
    let server = registry.address();
    let image = format!("{server}/app:1");
    host.hull(&["tag", "busybox", &image]).ok();
    let mut said = String::new();
    for client in CLIENTS {
        for password in ["pl4nted-wrong", PASSWORD] {
            said.push_str(&client(&host, &["login", "-u", USER, "-p", password, &server]).stderr);
        }
        said.push_str(&client(&host, &["push", &image]).stdout);
        said.push_str(&client(&host, &["push", &format!("{server}/nosuch:1")]).stderr);
    }
    let header = "eyJ1c2VybmFtZSI6";
    let events = host.hull(&["events", "--since", "1h", "--until", "0s"]).ok().to_owned();
    for (place, text) in [("said", &said), ("log", &host.daemon_log()), ("events", &events)] {
        for secret in ["pl4nted-wrong", PASSWORD, KEPT, header, "Basic "] {
            assert!(!text.contains(secret), "{secret} in {place}: {text}");
        }
    }
}
