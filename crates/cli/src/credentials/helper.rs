//! `docker-credential-NAME`: a program that keeps credentials.
//!
//! | word | it reads | it writes |
//! |---|---|---|
//! | `store` | `{"ServerURL", "Username", "Secret"}` | |
//! | `get` | the server's name | the same document |
//! | `erase` | the server's name | |
//!
//! It ends with another code than 0 where it cannot, and writes why (docker-credential-helpers, README.md).

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

/// What a helper says that knows nothing of a server.
const NOT_FOUND: &str = "credentials not found in native keychain";

pub(super) struct Helper {
    pub(super) name: String,
    /// Folders, parted as in `PATH`.
    pub(super) search: OsString,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Kept {
    #[serde(rename = "ServerURL", default)]
    server: String,
    username: String,
    secret: String,
}

impl Helper {
    /// User and secret.
    pub(super) fn get(&self, server: &str) -> Result<Option<(String, String)>, String> {
        match self.run("get", server.as_bytes())? {
            Ok(output) => {
                // What serde says of it could quote it.
                let kept: Kept = serde_json::from_slice(&output).map_err(|_| self.odd())?;
                Ok(Some((kept.username, kept.secret)))
            }
            Err((_, said)) if said == NOT_FOUND => Ok(None),
            Err((code, said)) => Err(failed(&code, &said)),
        }
    }

    pub(super) fn store(&self, server: &str, user: &str, secret: &str) -> Result<(), String> {
        let kept = Kept { server: server.to_owned(), username: user.to_owned(), secret: secret.to_owned() };
        let document = serde_json::to_vec(&kept).unwrap_or_default();
        self.run("store", &document)?.map(drop).map_err(|(code, said)| failed(&code, &said))
    }

    /// One that knows nothing of the server has nothing to erase.
    pub(super) fn erase(&self, server: &str) -> Result<(), String> {
        match self.run("erase", server.as_bytes())? {
            Err((code, said)) if said != NOT_FOUND => Err(failed(&code, &said)),
            _ => Ok(()),
        }
    }

    fn odd(&self) -> String {
        format!("docker-credential-{} does not answer as a credential helper", self.name)
    }

    /// What it wrote; or how it ended and what it wrote of that.
    fn run(&self, word: &str, input: &[u8]) -> Result<Result<Vec<u8>, (String, String)>, String> {
        let program = self.program().ok_or_else(|| {
            failed(
                &format!("exec: \"docker-credential-{}\": executable file not found in $PATH", self.name),
                "",
            )
        })?;
        let broken = |error: io::Error| failed(&format!("{}: {error}", program.display()), "");
        // What it says to the user goes to the user.
        let child = Command::new(&program).arg(word).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(broken)?;
        if let Some(mut stdin) = child.stdin.take()
            && let Err(error) = stdin.write_all(input)
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            return Err(broken(error));
        }
        let output = child.wait_with_output().map_err(broken)?;
        if output.status.success() {
            return Ok(Ok(output.stdout));
        }
        let code = match output.status.code() {
            Some(code) => format!("exit status {code}"),
            None => output.status.to_string(),
        };
        Ok(Err((code, String::from_utf8_lossy(&output.stdout).trim().to_owned())))
    }

    /// Where it is: in a folder that `PATH` names in full.
    fn program(&self) -> Option<PathBuf> {
        if self.name.contains('/') {
            return None;
        }
        let file = format!("docker-credential-{}", self.name);
        let mut places = std::env::split_paths(&self.search).filter(|folder| folder.is_absolute());
        places.find_map(|folder| {
            let path = folder.join(&file);
            let found = std::fs::metadata(&path).ok()?;
            (found.is_file() && found.permissions().mode() & 0o111 != 0).then_some(path)
        })
    }
}

/// As the reference says it.
fn failed(code: &str, said: &str) -> String {
    format!("err: {code}, out: `{said}`")
}
