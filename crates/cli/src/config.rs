//! `config.json`: what a user has settled for the client.
//!
//! Read from `$DOCKER_CONFIG`, else `~/.docker`; only when a command wants one
//! of its settings. A file that is missing is empty; one that cannot be read
//! is worth a warning, never a failure. What is changed in it goes through [`file`].

pub(crate) mod file;

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A file larger than this is no configuration.
const BYTES_MAX: u64 = 16 << 20;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Config {
    pub(crate) ps_format: String,
    pub(crate) images_format: String,
    pub(crate) networks_format: String,
    pub(crate) volumes_format: String,
    pub(crate) detach_keys: String,
    #[serde(rename = "HttpHeaders")]
    pub(crate) http_headers: serde_json::Map<String, serde_json::Value>,
    pub(crate) proxies: std::collections::BTreeMap<String, Proxies>,
}

/// Proxies that containers are told of through their environment.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Proxies {
    pub(crate) http_proxy: String,
    pub(crate) https_proxy: String,
    pub(crate) no_proxy: String,
    pub(crate) ftp_proxy: String,
    pub(crate) all_proxy: String,
}

/// The folder of the client's files.
pub(crate) fn folder(named: Option<&str>) -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    named
        .map(PathBuf::from)
        .or_else(|| variable("DOCKER_CONFIG").map(PathBuf::from))
        .unwrap_or_else(|| PathBuf::from(variable("HOME").unwrap_or_else(|| "/root".into())).join(".docker"))
}

/// Reads the settings; the error is a line to warn with.
pub(crate) fn read(named: Option<&str>) -> Result<Config, String> {
    let path = folder(named).join("config.json");
    let refuse = |reason: String| format!("Error loading config file: {}: {reason}", path.display());
    let Some(bytes) = read_bytes(&path).map_err(|error| refuse(crate::create::reason(&error)))? else {
        return Ok(Config::default());
    };
    serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))
}

/// What the file says; `None` if there is none, or nothing in it.
fn read_bytes(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, BYTES_MAX), &mut bytes)?;
    Ok(Some(bytes).filter(|bytes| !bytes.trim_ascii().is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_absence_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let named = folder.path().to_str();
        assert_eq!(read(named).unwrap().detach_keys, "");
        let path = folder.path().join("config.json");
        std::fs::write(
            &path,
            r#"{"detachKeys":"ctrl-x","psFormat":"{{.ID}}","auths":{},"proxies":{"default":{"httpProxy":"http://p"}}}"#,
        )
        .unwrap();
        let config = read(named).unwrap();
        assert_eq!((&*config.detach_keys, &*config.ps_format), ("ctrl-x", "{{.ID}}"));
        assert_eq!(config.proxies["default"].http_proxy, "http://p");
        std::fs::write(&path, "{").unwrap();
        assert!(read(named).unwrap_err().starts_with("Error loading config file"));
    }
}
