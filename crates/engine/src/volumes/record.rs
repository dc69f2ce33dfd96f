//! A volume as its record keeps it, and what may be asked for in one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::options;
use crate::containers::create::new_id;
use crate::containers::phase::Time;
use crate::{Error, Result};

/// The one driver there is.
pub const DRIVER: &str = "local";
/// The label of a volume that nobody gave a name; the reference's.
pub const ANONYMOUS: &str = "com.docker.volume.anonymous";
/// Bytes of a name: it is the name of a folder.
const NAME_LIMIT: usize = 255;

/// What the database keeps of a volume. Fields added later need a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Unique; also the name of its folder.
    pub name: String,
    pub created: Time,
    /// Of the driver, as asked; empty: files in a folder of the data root.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl Volume {
    /// Nobody gave it a name.
    pub fn is_anonymous(&self) -> bool {
        self.labels.contains_key(ANONYMOUS)
    }
}

/// A request to create a volume, in the caller's words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Create {
    /// `None`: a new one that gets 64 hex digits as its name, and the label [`ANONYMOUS`].
    pub name: Option<String>,
    /// Empty: `local`.
    pub driver: String,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

/// A volume that a container is to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// Taken as it is where it exists.
    pub volume: Create,
    /// It goes with its last container (`rm -v`, `--rm`): one without a name, be it new or taken
    /// over from another container that has it so.
    pub own: bool,
}

impl Create {
    /// The record of a new volume.
    ///
    /// # Errors
    /// [`Error::Invalid`] and [`Error::NotFound`] in the reference's words.
    pub(super) fn record(&self, now: Time) -> Result<Volume> {
        let mut labels = self.labels.clone();
        let name = self.name.clone().unwrap_or_else(|| {
            labels.insert(ANONYMOUS.to_owned(), String::new());
            new_id()
        });
        self.check_driver(&name)?;
        let checked = check_name(&name).and_then(|()| options::check(&self.options));
        checked.map_err(|reason| Error::Invalid(format!("create {name}: {reason}")))?;
        Ok(Volume { name, created: now, options: self.options.clone(), labels })
    }

    /// Also of a volume that exists already.
    pub(super) fn check_driver(&self, name: &str) -> Result<()> {
        match self.driver.as_str() {
            "" | DRIVER => Ok(()),
            other => Err(Error::NotFound(format!(
                "create {name}: error looking up volume plugin {other}: plugin {other:?} not found"
            ))),
        }
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if name.len() < 2 {
        return Err(
            "volume name is too short, names should be at least two alphanumeric characters".to_owned()
        );
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if !name.as_bytes()[0].is_ascii_alphanumeric() || !name.bytes().all(fits) {
        return Err(format!(
            "{name:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are \
             allowed. If you intended to pass a host directory, use absolute path"
        ));
    }
    if name.len() > NAME_LIMIT {
        return Err(format!("volume name is too long, names can have at most {NAME_LIMIT} characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_in_the_references_words() {
        let told = |name: &str, driver: &str| {
            let create =
                Create { name: Some(name.to_owned()), driver: driver.to_owned(), ..Create::default() };
            create.record(7).map(|volume| volume.name).map_err(|error| error.to_string())
        };
        for name in ["ab", "a.b_c-d", "0x", &"n".repeat(255)] {
            assert_eq!(told(name, "local").as_deref(), Ok(name));
        }
        for name in ["bad name", "../up", ".trash", "-a", "a/b", "\u{e9}t\u{e9}", "a\nb"] {
            let text = told(name, "").unwrap_err();
            assert!(text.starts_with(&format!("create {name}: {name:?} includes invalid")), "{text}");
        }
        for name in ["", "a", "-"] {
            assert!(told(name, "").unwrap_err().contains("too short"), "{name}");
        }
        assert!(told(&"n".repeat(256), "").unwrap_err().contains("too long"));
        assert_eq!(
            told("v3", "nosuch").unwrap_err(),
            "create v3: error looking up volume plugin nosuch: plugin \"nosuch\" not found"
        );
    }

    #[test]
    fn one_without_a_name_gets_one_and_says_so() {
        let volume = Create::default().record(7).unwrap();
        assert!(volume.is_anonymous() && volume.name.len() == 64);
        assert!(!Create { name: Some("ab".into()), ..Create::default() }.record(7).unwrap().is_anonymous());
    }
}
