//! What one call of the client knows: its name, its daemon, its settings.

use std::cell::OnceCell;
use std::io::{self, IsTerminal, Write};

use hull_api::ApiVersion;
use hull_api::client::{Client, Endpoint};

use crate::config::{self, Config};
use crate::credentials::Credentials;

pub(crate) struct Session {
    /// The name Hull was called by: `hull` or `docker`.
    pub(crate) program: String,
    pub(crate) client: Client,
    /// `DOCKER_API_VERSION`, if set.
    pub(crate) pinned: Option<ApiVersion>,
    config_folder: Option<String>,
    config: OnceCell<Config>,
}

impl Session {
    pub(crate) fn new(
        program: String,
        endpoint: Endpoint,
        pinned: Option<ApiVersion>,
        config_folder: Option<String>,
    ) -> Session {
        Session {
            program,
            client: Client::new(endpoint, pinned),
            pinned,
            config_folder,
            config: OnceCell::new(),
        }
    }

    /// The user's settings, read on first use.
    pub(crate) fn config(&self) -> &Config {
        self.config.get_or_init(|| {
            config::read(self.config_folder.as_deref()).unwrap_or_else(|warning| {
                say(&format!("WARNING: {warning}"));
                Config::default()
            })
        })
    }
}

impl Session {
    /// The folder of the user's settings.
    pub(crate) fn folder(&self) -> std::path::PathBuf {
        config::folder(self.config_folder.as_deref())
    }

    /// Who the user is to registries.
    pub(crate) fn credentials(&self) -> Credentials {
        Credentials::of(&self.folder())
    }
}

/// Writes to standard output. A reader that has gone away ends nothing: what
/// could not be said changes no exit code, as in the reference.
pub(crate) fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes a line to standard output.
pub(crate) fn line(text: &str) {
    print(&format!("{text}\n"));
}

/// Writes a line to standard error.
pub(crate) fn say(text: &str) {
    let mut out = io::stderr().lock();
    let _ = out.write_all(format!("{text}\n").as_bytes());
}

/// Asks before something is destroyed; anything but `y` is a no.
pub(crate) fn confirm(question: &str) -> bool {
    print(&format!("{question} [y/N] "));
    let mut answer = String::new();
    if io::stdin().read_line(&mut answer).is_err() {
        return false;
    }
    if !io::stdin().is_terminal() {
        line("");
    }
    matches!(answer.trim(), "y" | "Y")
}
