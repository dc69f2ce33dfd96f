//! Compiled seccomp filters, one for each profile and set of capabilities.
//!
//! Nearly all containers of a host share one filter. It is compiled once into a sealed memfd whose
//! descriptor travels with each launch, so a start neither compiles nor carries the profile.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use hull_runtime::bundle::{StartError, StartErrorKind};
use hull_runtime::protocol;
use hull_runtime::seccomp::{self, Arch, Kernel};

use crate::containers::settings::{SeccompChoice, Security};

/// Filters kept; above that all are forgotten and made again as needed.
const KEPT: usize = 64;

#[derive(Debug)]
pub(crate) struct Profiles {
    kernel: Kernel,
    known: Mutex<HashMap<Key, Arc<OwnedFd>>>,
}

/// The profile's text (empty is the default) and the capabilities.
type Key = (String, Vec<String>);

impl Profiles {
    /// `release` is that of `uname -r`.
    pub(crate) fn new(release: &str) -> Profiles {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok());
        let kernel = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        Profiles { kernel, known: Mutex::default() }
    }

    /// The filter for a container with these capabilities; `None` is none at all.
    pub(crate) fn filter(
        &self,
        security: &Security,
        caps: &[String],
    ) -> Result<Option<Arc<OwnedFd>>, StartError> {
        let text = match &security.seccomp {
            SeccompChoice::Unconfined => return Ok(None),
            SeccompChoice::Default if security.privileged => return Ok(None),
            SeccompChoice::Default => String::new(),
            SeccompChoice::Profile(text) => text.clone(),
        };
        let key = (text, caps.to_vec());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(filter) = known.get(&key) {
            return Ok(Some(Arc::clone(filter)));
        }
        let filter = Arc::new(self.compile(&key)?);
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(key, Arc::clone(&filter));
        Ok(Some(filter))
    }

    fn compile(&self, (text, caps): &Key) -> Result<OwnedFd, StartError> {
        let invalid = |error: &dyn std::fmt::Display| StartError {
            kind: StartErrorKind::Invalid,
            message: format!("loading seccomp profile failed: {error}"),
        };
        let caps: BTreeSet<String> = caps.iter().cloned().collect();
        let profile = match text.as_str() {
            "" => seccomp::default_profile(&caps, self.kernel),
            text => seccomp::profile_from_docker_json(text.as_bytes(), &caps, self.kernel, Arch::NATIVE)
                .map_err(|error| invalid(&error))?,
        };
        let program = seccomp::compile(&profile).map_err(|error| invalid(&error))?;
        hull_sys::memfd::sealed(c"hull-seccomp", &protocol::filter_to_bytes(&program))
            .map_err(|error| StartError { kind: StartErrorKind::Host, message: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_filter_serves_all_that_ask_for_the_same() {
        let profiles = Profiles::new("6.18.3-hull+");
        assert_eq!(profiles.kernel, (6, 18));
        let plain = Security::default();
        let caps = ["CAP_KILL".to_owned()];
        let first = profiles.filter(&plain, &caps).unwrap().unwrap();
        assert!(Arc::ptr_eq(&first, &profiles.filter(&plain, &caps).unwrap().unwrap()));
        assert!(!Arc::ptr_eq(&first, &profiles.filter(&plain, &[]).unwrap().unwrap()));
        let privileged = Security { privileged: true, ..Security::default() };
        assert!(profiles.filter(&privileged, &caps).unwrap().is_none());
        let bad = Security { seccomp: SeccompChoice::Profile("{".into()), ..Security::default() };
        assert_eq!(profiles.filter(&bad, &caps).unwrap_err().kind, StartErrorKind::Invalid);
        let all = SeccompChoice::Profile(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#.into());
        let asked = Security { seccomp: all, privileged: true, ..Security::default() };
        assert!(profiles.filter(&asked, &caps).unwrap().is_some());
    }
}
