//! Which variables there are at which place of a file.
//!
//! ```text
//! ARG A=1              global: seen by FROM, and by ARG without a default below
//! FROM base:$A AS one
//! ARG A                of the stage from here on: --build-arg, else the default, else the global one
//! ENV B=$A             of the stage, and of the image; hides an ARG of the same name, before or after
//! FROM one             begins with all of stage one
//! FROM base            begins with the image's ENV
//! ```
//!
//! BUILDPLATFORM, TARGETPLATFORM and their parts are global without an ARG. Proxies need none in a RUN, where they do
//! not count for the cache unless an ARG names them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hull_oci::Platform;

use super::ast::Arg;
use super::expand;
use super::span::Problem;

/// Build arguments that RUN sees without an ARG.
pub const PROXIES: &[&str] = &[
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// What is known before the first FROM.
#[derive(Debug, Clone, Default)]
pub struct Global {
    /// `--build-arg`.
    given: BTreeMap<String, String>,
    /// What FROM sees: platforms, and ARG before the first FROM. `None`: declared, without a value.
    declared: BTreeMap<String, Option<String>>,
    /// Build arguments that some ARG has asked for.
    used: BTreeSet<String>,
}

impl Global {
    /// `build` is the platform that builds, `target` the one that is built for.
    pub fn new(given: BTreeMap<String, String>, build: &Platform, target: &Platform) -> Global {
        let mut declared = BTreeMap::new();
        for (prefix, platform) in [("BUILD", build), ("TARGET", target)] {
            let mut whole = format!("{}/{}", platform.os, platform.architecture);
            if !platform.variant.is_empty() {
                whole = format!("{whole}/{}", platform.variant);
            }
            let parts = [
                ("PLATFORM", &whole),
                ("OS", &platform.os),
                ("ARCH", &platform.architecture),
                ("VARIANT", &platform.variant),
            ];
            for (part, value) in parts {
                let name = format!("{prefix}{part}");
                let value = given.get(&name).unwrap_or(value).clone();
                declared.insert(name, Some(value));
            }
        }
        Global { given, declared, used: BTreeSet::new() }
    }

    /// What FROM replaces a variable by.
    pub fn get(&self, name: &str) -> Option<String> {
        self.declared.get(name).cloned().flatten()
    }

    /// There is an ARG for it before the first FROM, or it is one of the platforms'.
    pub fn is_declared(&self, name: &str) -> bool {
        self.declared.contains_key(name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.declared.keys().map(String::as_str)
    }

    /// An ARG before the first FROM; gives the bytes of its name and value.
    pub fn declare(&mut self, arg: &Arg, escape: char) -> Result<usize, Problem> {
        let name = expand::word(&arg.name, escape, &|name| self.get(name))?;
        let default = default(arg, escape, &|name| self.get(name))?;
        let value = self.take(&name).or(default).or_else(|| self.get(&name));
        let bytes = name.len() + value.as_ref().map_or(0, String::len);
        self.declared.insert(name, value);
        Ok(bytes)
    }

    /// Build arguments that no ARG has asked for, and which are none of those that need none. The reference
    /// warns: `[Warning] One or more build-args [x] were not consumed`.
    pub fn unused(&self) -> Vec<&str> {
        let predefined = |name: &str| {
            PROXIES.contains(&name)
                || name.starts_with("BUILDKIT_")
                || name == "SOURCE_DATE_EPOCH"
                || ["PLATFORM", "OS", "ARCH", "VARIANT"].iter().any(|part| {
                    name.strip_suffix(part).is_some_and(|prefix| ["BUILD", "TARGET"].contains(&prefix))
                })
        };
        let names = self.given.keys().map(String::as_str);
        names.filter(|name| !self.used.contains(*name) && !predefined(name)).collect()
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let value = self.given.get(name).cloned()?;
        self.used.insert(name.to_owned());
        Some(value)
    }
}

/// What is known within a stage. Clones share the texts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stage {
    /// By ARG, in the order of their first declaration. `None`: declared, without a value.
    arguments: Vec<(Arc<str>, Option<Arc<str>>)>,
    /// By ENV and from the image, in their order.
    environment: Vec<(Arc<str>, Arc<str>)>,
}

impl Stage {
    /// A stage that begins with an image whose configuration has these `NAME=value`. One that
    /// begins with another stage is a clone of that.
    pub fn new(environment: &[String]) -> Stage {
        let mut stage = Stage::default();
        for variable in environment {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            stage.set(name, value);
        }
        stage
    }

    /// What an instruction of the stage replaces a variable by.
    pub fn get(&self, name: &str) -> Option<String> {
        let found = self.environment.iter().find(|(known, _)| **known == *name);
        let value = found.map(|(_, value)| value).or_else(|| {
            self.arguments.iter().find(|(known, _)| **known == *name).and_then(|(_, value)| value.as_ref())
        });
        value.map(|value| value.to_string())
    }

    /// An ARG or ENV has named it.
    pub fn is_declared(&self, name: &str) -> bool {
        self.environment.iter().any(|(known, _)| **known == *name)
            || self.arguments.iter().any(|(known, _)| **known == *name)
    }

    /// ENV, with everything in it replaced.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.environment.iter_mut().find(|(known, _)| **known == *name) {
            Some((_, old)) => *old = value.into(),
            None => self.environment.push((name.into(), value.into())),
        }
    }

    /// One declaration of an ARG; gives the bytes of its name and value.
    pub fn declare(&mut self, arg: &Arg, escape: char, global: &mut Global) -> Result<usize, Problem> {
        let name = expand::word(&arg.name, escape, &|name| self.get(name))?;
        let default = default(arg, escape, &|name| self.get(name))?;
        let value = global.take(&name).or(default).or_else(|| global.get(&name)).map(Arc::<str>::from);
        let bytes = name.len() + value.as_ref().map_or(0, |value| value.len());
        match self.arguments.iter_mut().find(|(known, _)| **known == *name) {
            // A second ARG without a value leaves what the first has given.
            Some((_, old)) => *old = value.or_else(|| old.take()),
            None => self.arguments.push((name.into(), value)),
        }
        Ok(bytes)
    }

    /// How many variables there are: what a clone takes.
    pub fn count(&self) -> usize {
        self.arguments.len() + self.environment.len()
    }

    /// The image's variables, `NAME=value`.
    pub fn environment(&self) -> Vec<String> {
        self.environment.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// Build arguments that a RUN sees in addition, `NAME=value`: they count for its cache.
    pub fn arguments(&self) -> Vec<String> {
        let hidden = |name: &str| self.environment.iter().any(|(known, _)| **known == *name);
        let seen = self.arguments.iter().filter(|(name, _)| !hidden(name));
        seen.filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?))).collect()
    }

    /// Proxies that a RUN sees although no ARG names them, `NAME=value`: they do not count for its cache.
    pub fn proxies(&self, global: &Global) -> Vec<String> {
        let given = PROXIES.iter().filter(|name| !self.is_declared(name));
        given.filter_map(|name| Some(format!("{name}={}", global.given.get(*name)?))).collect()
    }
}

fn default(arg: &Arg, escape: char, lookup: expand::Lookup<'_>) -> Result<Option<String>, Problem> {
    arg.default.as_ref().map(|word| expand::word(word, escape, lookup)).transpose()
}
