//! Who the user is to registries: kept in `config.json`, or with a [helper].
//!
//! A helper that `credHelpers` names for the server comes before that of `credsStore`, and that before the file. A
//! server of which a helper knows has an entry without a secret in the file, as the reference leaves it there.

mod helper;

use std::path::{Path, PathBuf};

use http::{HeaderMap, HeaderValue};
use hull_api::registry::{AUTH, AuthConfig, server_of, to_header};
use hull_oci::reference::Reference;

use crate::command::{Failure, fail};
use crate::config::file::File;
use crate::session::say;
use helper::Helper;

/// What the file says of an identity token where a helper keeps a user's name.
const TOKEN: &str = "<token>";

/// Where credentials are kept.
pub(crate) struct Credentials {
    folder: PathBuf,
    /// Where helpers are looked for, as `PATH` has it.
    search: std::ffi::OsString,
}

impl Credentials {
    /// Those of the folder with `config.json` in it.
    pub(crate) fn of(folder: &Path) -> Credentials {
        Credentials { folder: folder.to_owned(), search: std::env::var_os("PATH").unwrap_or_default() }
    }

    fn helper(&self, name: &str) -> Helper {
        Helper { name: name.to_owned(), search: self.search.clone() }
    }

    /// For a server; empty where there are none. Blocks while a helper thinks.
    pub(crate) fn get(&self, server: &str) -> Result<AuthConfig, Failure> {
        let file = File::open(&self.folder)?;
        if let Some(name) = file.helper(server) {
            return self.ask(name, server);
        }
        if file.servers().iter().any(|known| known == server) {
            return file.auth(server);
        }
        // Files of long ago have addresses where names belong.
        let same = file.servers().into_iter().find(|known| hostname(known) == server);
        match same {
            Some(known) => file.auth(&known),
            None => Ok(AuthConfig::default()),
        }
    }

    fn ask(&self, helper: &str, server: &str) -> Result<AuthConfig, Failure> {
        let failed = |why: String| fail(format!("error getting credentials - {why}"));
        let Some((user, secret)) = self.helper(helper).get(server).map_err(failed)? else {
            return Ok(AuthConfig::default());
        };
        let auth = AuthConfig { serveraddress: server.to_owned(), ..AuthConfig::default() };
        Ok(match user.as_str() {
            TOKEN => AuthConfig { identitytoken: secret, ..auth },
            _ => AuthConfig { username: user, password: secret, ..auth },
        })
    }

    /// Keeps what a login has given.
    pub(crate) fn store(&self, server: &str, auth: AuthConfig) -> Result<(), Failure> {
        let failed = |why: String| fail(format!("Error saving credentials: {why}"));
        let mut file = File::open(&self.folder)?;
        let entry = match file.helper(server).map(str::to_owned) {
            None => auth,
            Some(name) => {
                let (user, secret) = match auth.identitytoken.as_str() {
                    "" => (auth.username.as_str(), auth.password.as_str()),
                    token => (TOKEN, token),
                };
                let stored = self.helper(&name).store(server, user, secret);
                stored.map_err(|why| failed(format!("error storing credentials - {why}")))?;
                AuthConfig::default()
            }
        };
        let plain = entry != AuthConfig::default();
        if file.put_auth(server, entry) {
            if plain {
                say(&format!(
                    "\nWARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential helper to \
                     remove this warning. See\nhttps://docs.docker.com/go/credential-store/\n",
                    file.path().display()
                ));
            }
            file.save().map_err(|failure| failed(failure.message))?;
        }
        Ok(())
    }

    /// Forgets a server, wherever it is known.
    pub(crate) fn erase(&self, server: &str) -> Result<(), Failure> {
        let mut file = File::open(&self.folder)?;
        if let Some(name) = file.helper(server).map(str::to_owned) {
            let erased = self.helper(&name).erase(server);
            erased.map_err(|why| fail(format!("error erasing credentials - {why}")))?;
        }
        if file.remove_auth(server) {
            file.save()?;
        }
        Ok(())
    }

    /// What goes with a request that is about an image.
    pub(crate) fn header(&self, image: &Reference) -> Result<HeaderMap, Failure> {
        let auth = self.get(server_of(&image.domain))?;
        Ok([(AUTH, sensitive(&to_header(&auth)))].into_iter().collect())
    }
}

/// A header's value that nothing prints.
pub(crate) fn sensitive(text: &str) -> HeaderValue {
    // Base64 is always fit for a header.
    let mut value = HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// `HOST[:PORT]` of what may be an address.
pub(crate) fn hostname(server: &str) -> &str {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit('@').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    /// A helper that keeps what it is given in files beside it, and writes down what it was asked.
    const SCRIPT: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 1
input=$(cat)
echo "$1 $input" >> asked
case "$1" in
store) printf '%s' "$input" > secret ;;
get) if [ -s secret ]; then cat secret; else echo "credentials not found in native keychain"; exit 1; fi ;;
erase) : > secret ;;
esac
"#;

    /// Credentials with a helper called `test`, and what `config.json` says at first.
    fn with_helper(config: &str, script: &str) -> (tempfile::TempDir, Credentials) {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("config.json"), config).unwrap();
        let source = scratch.path().join("script");
        std::fs::write(&source, script).unwrap();
        // By a process of its own: what another thread of this one starts meanwhile could have it open for
        // writing, and then nobody can execute it.
        let helper = scratch.path().join("docker-credential-test");
        let installed = std::process::Command::new("install").arg("-m755").arg(&source).arg(&helper).status();
        assert!(installed.unwrap().success());
        let mut search = scratch.path().as_os_str().to_owned();
        search.push(":");
        search.push(std::env::var_os("PATH").unwrap_or_default());
        let credentials = Credentials { folder: scratch.path().to_owned(), search };
        (scratch, credentials)
    }

    fn alice() -> AuthConfig {
        AuthConfig {
            username: "alice".to_owned(),
            password: "pass \"word".to_owned(),
            ..AuthConfig::default()
        }
    }

    #[test]
    fn a_helper_keeps_what_the_file_does_not_have() {
        let (scratch, credentials) = with_helper(r#"{"credHelpers":{"own":"test"}}"#, SCRIPT);
        assert_eq!(credentials.get("own").unwrap(), AuthConfig::default());
        credentials.store("own", alice()).unwrap();
        assert_eq!(
            credentials.get("own").unwrap(),
            AuthConfig { serveraddress: "own".to_owned(), ..alice() }
        );
        let config = std::fs::read_to_string(scratch.path().join("config.json")).unwrap();
        assert_eq!(
            config.replace(['\n', '\t', ' '], ""),
            r#"{"credHelpers":{"own":"test"},"auths":{"own":{}}}"#
        );
        let token = AuthConfig {
            identitytoken: "t0k".to_owned(),
            username: "alice".to_owned(),
            ..AuthConfig::default()
        };
        credentials.store("own", token).unwrap();
        let got = credentials.get("own").unwrap();
        assert_eq!((&*got.identitytoken, &*got.username, &*got.password), ("t0k", "", ""));
        // Others are none of its business.
        credentials.store("other", alice()).unwrap();
        assert_eq!(credentials.get("other").unwrap().username, "alice");
        credentials.erase("own").unwrap();
        assert_eq!(credentials.get("own").unwrap(), AuthConfig::default());
        let asked = std::fs::read_to_string(scratch.path().join("asked")).unwrap();
        let asked: Vec<&str> = asked.lines().collect();
        let store = r#"store {"ServerURL":"own","Username":"alice","Secret":"pass \"word"}"#;
        let token = r#"store {"ServerURL":"own","Username":"<token>","Secret":"t0k"}"#;
        assert_eq!(asked, ["get own", store, "get own", token, "get own", "erase own", "get own"]);
    }

    #[test]
    fn a_helper_that_fails_or_is_not_there_says_so() {
        let (_scratch, credentials) =
            with_helper(r#"{"credsStore":"test"}"#, "#!/bin/sh\ncat >/dev/null\necho no key\nexit 3\n");
        let said = credentials.get("s").unwrap_err().message;
        assert_eq!(said, "error getting credentials - err: exit status 3, out: `no key`");
        let (_scratch, credentials) =
            with_helper(r#"{"credsStore":"test"}"#, "#!/bin/sh\ncat >/dev/null\necho secret\n");
        let said = credentials.get("s").unwrap_err().message;
        assert_eq!(
            said,
            "error getting credentials - docker-credential-test does not answer as a credential helper"
        );
        for name in ["nosuch", "../test", ""] {
            let (_scratch, mut credentials) =
                with_helper(&format!(r#"{{"credHelpers":{{"s":"{name}"}},"credsStore":"x"}}"#), SCRIPT);
            credentials.search = "relative:".into();
            let said = credentials.get("s").unwrap_err().message;
            let name = if name.is_empty() { "x" } else { name };
            let expected = format!("exec: \"docker-credential-{name}\": executable file not found in $PATH");
            assert!(said.contains(&expected), "{said}");
        }
    }

    #[test]
    fn addresses_of_old_files_are_found_by_their_hosts() {
        let config = r#"{"auths":{"https://h:5000/v2/":{"auth":"YTpi"},"https://index.docker.io/v1/":{"auth":"YTpj"}}}"#;
        let (_scratch, credentials) = with_helper(config, SCRIPT);
        assert_eq!(credentials.get("h:5000").unwrap().password, "b");
        let image = Reference::parse("busybox").unwrap();
        let header = credentials.header(&image).unwrap();
        assert!(header[AUTH].is_sensitive());
        let auth: AuthConfig = hull_api::registry::from_header(header[AUTH].to_str().unwrap());
        assert_eq!((&*auth.password, &*auth.serveraddress), ("c", "https://index.docker.io/v1/"));
        let other = credentials.header(&Reference::parse("h:1/x").unwrap()).unwrap();
        assert_eq!(other[AUTH], "e30=");
    }

    #[test]
    fn hosts_are_taken_out_of_addresses() {
        for (server, host) in [
            ("h:5000", "h:5000"),
            ("h:5000/v2/", "h:5000"),
            ("https://u@h/v1?x", "h"),
            ("http://[::1]:5000/", "[::1]:5000"),
        ] {
            assert_eq!(hostname(server), host);
        }
    }
}
