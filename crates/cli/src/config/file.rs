//! `config.json` as it is changed: what is asked for and nothing else. Keys that this build has never heard of
//! stay, and stay where they are.
//!
//! It is replaced by a rename, so that nobody ever reads half of it, and only its owner can read it. A file that
//! is a link stays one: what it leads to is replaced.

use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use hull_api::registry::AuthConfig;
use serde_json::{Map, Value};

use crate::command::{Failure, fail};
use crate::create::reason;
use crate::output::Unfinished;

const AUTHS: &str = "auths";

#[derive(Debug)]
pub(crate) struct File {
    path: PathBuf,
    document: Map<String, Value>,
}

impl File {
    /// Reads `config.json` of the folder; one that is not there is empty.
    pub(crate) fn open(folder: &Path) -> Result<File, Failure> {
        let path = folder.join("config.json");
        let document = match super::read_bytes(&path) {
            Ok(Some(bytes)) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
            Ok(None) => Ok(Map::new()),
            Err(error) => Err(reason(&error)),
        };
        match document {
            Ok(document) => Ok(File { path, document }),
            Err(reason) => Err(fail(format!("Error loading config file: {}: {reason}", path.display()))),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The names of all servers that it knows credentials for, or of which it knows that a helper has some.
    pub(crate) fn servers(&self) -> Vec<String> {
        self.document
            .get(AUTHS)
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// The credentials for exactly this server; empty where there are none.
    pub(crate) fn auth(&self, server: &str) -> Result<AuthConfig, Failure> {
        let wrong = || {
            fail(format!(
                "Error loading config file: {}: invalid auth configuration file",
                self.path.display()
            ))
        };
        let Some(entry) = self.document.get(AUTHS).and_then(|auths| auths.get(server)) else {
            return Ok(AuthConfig::default());
        };
        // What serde says of a wrong one could quote it.
        let auth: AuthConfig = serde_json::from_value(entry.clone()).map_err(|_| wrong())?;
        let auth = auth.expanded().ok_or_else(wrong)?;
        Ok(AuthConfig { serveraddress: server.to_owned(), ..auth })
    }

    /// Keeps credentials for a server; empty ones say that a helper has them. False: it had just these.
    pub(crate) fn put_auth(&mut self, server: &str, auth: AuthConfig) -> bool {
        let entry = AuthConfig { serveraddress: String::new(), ..auth.folded() };
        let entry = serde_json::to_value(&entry).unwrap_or_default();
        let auths = self.document.entry(AUTHS).or_insert_with(|| Value::Object(Map::new()));
        if !auths.is_object() {
            *auths = Value::Object(Map::new());
        }
        let known = auths.as_object_mut().and_then(|auths| auths.insert(server.to_owned(), entry.clone()));
        known != Some(entry)
    }

    /// Forgets a server; false: it was not known.
    pub(crate) fn remove_auth(&mut self, server: &str) -> bool {
        let auths = self.document.get_mut(AUTHS).and_then(Value::as_object_mut);
        auths.and_then(|auths| auths.shift_remove(server)).is_some()
    }

    /// The helper that has a server's credentials, if any has: `docker-credential-NAME`.
    pub(crate) fn helper<'a>(&'a self, server: &str) -> Option<&'a str> {
        let own = self.document.get("credHelpers").and_then(|helpers| helpers.get(server));
        let common = self.document.get("credsStore");
        let named = |value: Option<&'a Value>| value.and_then(Value::as_str).filter(|name| !name.is_empty());
        named(own).or_else(|| named(common))
    }

    /// Writes it.
    pub(crate) fn save(&self) -> Result<(), Failure> {
        self.replace().map_err(|error| fail(format!("write {}: {}", self.path.display(), reason(&error))))
    }

    fn replace(&self) -> io::Result<()> {
        let target = led_to(&self.path)?;
        if let Some(folder) = target.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let name = target.to_str().ok_or_else(|| io::Error::other("its name is not UTF-8"))?;
        let mut file = Unfinished::create(name)?;
        if let Ok(before) = std::fs::metadata(&target) {
            // One who writes another's file as root leaves it to its owner.
            let _ = std::os::unix::fs::fchown(&file.file, Some(before.uid()), Some(before.gid()));
        }
        let mut text = Vec::new();
        let format = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut writer = serde_json::Serializer::with_formatter(&mut text, format);
        serde::Serialize::serialize(&self.document, &mut writer)?;
        file.file.write_all(&text)?;
        file.file.sync_all()?;
        file.publish()
    }
}

/// Where links lead from `path`, to a file that need not exist.
fn led_to(path: &Path) -> io::Result<PathBuf> {
    match std::fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match std::fs::read_link(path) {
            Ok(target) => Ok(path.parent().unwrap_or(Path::new("")).join(target)),
            Err(_) => Ok(path.to_owned()),
        },
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn alice() -> AuthConfig {
        AuthConfig { username: "alice".to_owned(), password: "secret".to_owned(), ..AuthConfig::default() }
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn credentials_are_written_as_the_reference_writes_them() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("not/there");
        let mut file = File::open(&folder).unwrap();
        assert!(file.put_auth("127.0.0.1:5001", alice()));
        file.save().unwrap();
        // As recorded.
        let recorded = "{\n\t\"auths\": {\n\t\t\"127.0.0.1:5001\": {\n\t\t\t\"auth\": \"YWxpY2U6c2VjcmV0\"\n\t\t}\n\t}\n}";
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), recorded);
        assert_eq!((mode(file.path()), mode(&folder)), (0o600, 0o700));
        let mut file = File::open(&folder).unwrap();
        let known = file.auth("127.0.0.1:5001").unwrap();
        assert_eq!(known, AuthConfig { serveraddress: "127.0.0.1:5001".to_owned(), ..alice() });
        assert!(!file.put_auth("127.0.0.1:5001", known));
        assert!(file.remove_auth("127.0.0.1:5001"));
        assert!(!file.remove_auth("127.0.0.1:5001"));
        file.save().unwrap();
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "{\n\t\"auths\": {}\n}");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[test]
    fn what_is_unknown_stays_where_it_is() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("config.json");
        let before = r#"{"future":{"b":1,"a":[null]},"auths":{"old":{"auth":"YTpi","identitytoken":"t"}},"HttpHeaders":{"X":"y"}}"#;
        std::fs::write(&path, before).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let mut file = File::open(scratch.path()).unwrap();
        file.put_auth("new", AuthConfig::default());
        file.save().unwrap();
        let after: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let expected = before.replace(r#""t"}"#, r#""t"},"new":{}"#);
        assert_eq!(after.to_string(), expected);
        assert_eq!(mode(&path), 0o600);
        let old = file.auth("old").unwrap();
        assert_eq!((&*old.username, &*old.password, &*old.identitytoken), ("a", "b", "t"));
        assert_eq!(file.servers(), ["old", "new"]);
    }

    #[test]
    fn a_link_stays_a_link_wherever_it_leads() {
        let scratch = tempfile::tempdir().unwrap();
        let kept = scratch.path().join("kept.json");
        let link = scratch.path().join("config.json");
        symlink("kept.json", &link).unwrap();
        for _ in 0..2 {
            let mut file = File::open(scratch.path()).unwrap();
            file.put_auth("a", alice());
            file.save().unwrap();
            assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
            assert_eq!(mode(&kept), 0o600);
        }
        assert_eq!(File::open(scratch.path()).unwrap().auth("a").unwrap().username, "alice");
    }

    #[test]
    fn a_helper_of_a_servers_own_comes_first() {
        let scratch = tempfile::tempdir().unwrap();
        let text = r#"{"credsStore":"all","credHelpers":{"own":"one","none":""}}"#;
        std::fs::write(scratch.path().join("config.json"), text).unwrap();
        let file = File::open(scratch.path()).unwrap();
        assert_eq!(
            (file.helper("own"), file.helper("none"), file.helper("x")),
            (Some("one"), Some("all"), Some("all"))
        );
    }

    #[test]
    fn a_file_that_is_wrong_is_refused_and_not_quoted() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("config.json");
        std::fs::write(&path, "{").unwrap();
        let said = File::open(scratch.path()).unwrap_err().message;
        assert!(said.starts_with(&format!("Error loading config file: {}: ", path.display())), "{said}");
        for wrong in [r#"{"auths":{"s":{"auth":"hidden!"}}}"#, r#"{"auths":{"s":{"auth":["hidden"]}}}"#] {
            std::fs::write(&path, wrong).unwrap();
            let said = File::open(scratch.path()).unwrap().auth("s").unwrap_err().message;
            assert!(said.ends_with("invalid auth configuration file") && !said.contains("hidden"), "{said}");
        }
    }
}
