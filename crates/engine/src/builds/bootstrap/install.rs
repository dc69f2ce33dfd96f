//! Packages become a system: their files are laid out by workers, then the system's own dpkg installs them
//! once more, properly, with their scripts.
//!
//! The order of the first packages is debootstrap's: each has what its scripts call from those before it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use hull_builder::progress::Output;
use hull_debian::resolve::System;
use hull_debian::{Package, deb};
use hull_image::tar::{Entry, Kind, Writer};
use hull_runtime::protocol::{Outcome, Work};
use hull_runtime::spawner::View;
use rustix::pipe::PipeFlags;

use super::super::caches::Taken;
use super::super::copy::open;
use super::super::run::{Process, run};
use super::super::{Build, Limits, Site};
use super::fetch::Fetcher;
use super::{PATH, wrong};
use crate::containers::settings::NetworkMode;
use crate::{Error, Result};

/// Where the process sees the kept folder.
const SHOWN: &str = "/hull-packages";
/// And the script, which can be longer than an argument may be (execve(2)).
const SCRIPT: &str = "/hull-install";
/// What must be installed one after the other.
const FIRST: [&str; 7] = ["base-passwd", "base-files", "dpkg", "libc6", "perl-base", "mawk", "debconf"];
/// What is a link to the same folder below `/usr` (wiki.debian.org/UsrMerge); packages of some releases have files
/// on both sides.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// A process, as it is to be installed by.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Script {
    text: String,
    environment: Vec<String>,
}

impl Build {
    /// Lays out the files of all packages of the core.
    pub(super) async fn unpack_core(&self, site: &Site, fetcher: &Fetcher, system: &System) -> Result<()> {
        let root = open(&site.rootfs.upper)?;
        let folders = merged();
        let given = self.unpack(&root, move |mut pipe| std::io::Write::write_all(&mut pipe, &folders));
        given.await.map_err(|error| wrong("the first folders", &error))?;
        for package in &system.core {
            let path = fetcher.path(&package.digest);
            let failed = |source| Error::Io { call: "open", path: path.clone(), source };
            let mut file = File::open(&path).map_err(failed)?;
            let named = |error: &(dyn std::error::Error + 'static)| wrong(&package.file_name(), error);
            let part = deb::files(&mut file).map_err(|error| named(&error))?;
            let give = move |mut pipe: File| {
                file.seek(SeekFrom::Start(part.offset))?;
                std::io::copy(&mut file.take(part.size), &mut pipe).map(drop)
            };
            self.unpack(&root, give).await.map_err(|error| named(&error))?;
        }
        Ok(())
    }

    /// A worker unpacks what `give` writes.
    async fn unpack(
        &self,
        root: &OwnedFd,
        give: impl FnOnce(File) -> std::io::Result<()> + Send + 'static,
    ) -> Result<()> {
        let failed = |errno: rustix::io::Errno| Error::Io {
            call: "pipe2",
            path: PathBuf::from("a package"),
            source: errno.into(),
        };
        let (output, input) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        let services = &self.0.services;
        let view = View::Folder(root.as_fd());
        let working = services.spawner.work(Work::ApplyPackage, Some(output.as_fd()), view).await?;
        drop(output);
        let given = tokio::task::spawn_blocking(move || give(File::from(input)));
        let outcome = working.next().await;
        working.gone().await;
        let given = given.await.map_err(|_| Error::ShuttingDown)?;
        match outcome {
            Outcome::Unpacked => {
                given.map_err(|source| Error::Io { call: "read", path: PathBuf::from("a package"), source })
            }
            other => Err(super::super::copy::unexpected(other)),
        }
    }

    /// Runs the script in the system that is laid out, where it sees the kept folder and no network.
    pub(super) async fn install(
        &self,
        site: &Arc<Site>,
        kept: Taken,
        script: Script,
        output: Output,
    ) -> Result<()> {
        let mounts = self.kept(site, (kept, SHOWN), (&script.text, SCRIPT)).await;
        let process = Process {
            // The only shell whose name is in a package in all releases.
            arguments: ["/bin/bash", "-e", SCRIPT].map(str::to_owned).into(),
            environment: script.environment,
            folder: "/".to_owned(),
            network: NetworkMode::None,
            mounts: mounts.map_err(|failure| Error::Archive(failure.to_string()))?,
            ..Process::default()
        };
        let limits = Limits { network: NetworkMode::None, ..self.0.given.limits.clone() };
        match run(&self.0.services, site, (process, limits, Vec::new()), output).await? {
            0 => Ok(()),
            code => Err(Error::Archive(format!(
                "the packages could not be installed: exit code {code}; what dpkg says stands above"
            ))),
        }
    }
}

/// An archive with the links of [`MERGED`], so that files of packages are where they lead.
fn merged() -> Vec<u8> {
    let mut archive = Vec::new();
    let mut writer = Writer::new(&mut archive);
    let usr = std::iter::once(Entry::new(b"usr", Kind::Directory));
    let entries = usr.chain(MERGED.into_iter().flat_map(|name| {
        let target = format!("usr/{name}").into_bytes();
        [Entry::new(&target.clone(), Kind::Directory), Entry::new(name.as_bytes(), Kind::Symlink { target })]
    }));
    for entry in entries {
        writer.begin(&entry).expect("memory has room, and these names are fit");
    }
    writer.finish().expect("memory has room");
    archive
}

/// `newest` is the time that programs are told (seconds since the epoch); `sources` what apt gets.
pub(super) fn script(system: &System, newest: i64, sources: &str) -> Script {
    let files = |packages: &[Package]| {
        packages.iter().map(|package| format!(" {SHOWN}/{}", package.digest.hex())).collect::<String>()
    };
    let mut text = BEFORE.to_owned();
    let by_name = |name: &&str| system.core.iter().find(|package| package.name == *name);
    for package in FIRST.iter().filter_map(by_name) {
        if package.name == "mawk" {
            text += "[ ! -L /usr/bin/awk ] || rm /usr/bin/awk\n";
        }
        // Writing to a string does not fail.
        let _ = writeln!(text, "$dpkg --force-depends --install{}", files(std::slice::from_ref(package)));
    }
    let _ = writeln!(text, "$dpkg --force-depends --skip-same-version --unpack{}", files(&system.core));
    text += "$dpkg --force-depends --configure --pending --force-configure-any\n";
    for round in &system.rounds {
        let _ = writeln!(text, "$dpkg --install{}", files(round));
    }
    text += AFTER;
    let environment = vec![
        PATH.to_owned(),
        "HOME=/root".to_owned(),
        "LC_ALL=C".to_owned(),
        "DEBIAN_FRONTEND=noninteractive".to_owned(),
        "DEBCONF_NONINTERACTIVE_SEEN=true".to_owned(),
        format!("SOURCE_DATE_EPOCH={newest}"),
        format!("SOURCES={sources}"),
    ];
    Script { text, environment }
}

/// Names that scripts of the first packages call, dpkg's empty database, and a word to those that would start
/// services (invoke-rc.d(8)): in an image nothing runs.
const BEFORE: &str = r"dpkg='dpkg --force-unsafe-io'
[ -e /bin/sh ] || ln -s bash /bin/sh
[ -e /usr/bin/awk ] || ln -s mawk /usr/bin/awk
[ -e /etc/localtime ] || ln -s /usr/share/zoneinfo/UTC /etc/localtime
mkdir -p /var/lib/dpkg/info /var/lib/dpkg/updates /usr/sbin
: > /var/lib/dpkg/status
: > /var/lib/dpkg/available
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
ldconfig
";

/// What is of this machine and of this moment.
const AFTER: &str = r#"if [ -d /etc/apt ]; then printf %s "$SOURCES" > /etc/apt/sources.list; fi
rm -rf /var/lib/dpkg/*-old /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache /var/cache/apt/*.bin
rm -rf /var/log/dpkg.log /var/log/alternatives.log /var/log/apt/* /var/log/bootstrap.log
rm -f /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow- /etc/.pwd.lock
[ ! -e /etc/machine-id ] || : > /etc/machine-id
"#;

#[cfg(test)]
mod tests {
    use hull_debian::Index;
    use hull_debian::resolve::{Variant, resolve};

    use super::*;

    fn index(packages: &[(&str, &str, char)]) -> Index {
        let stanza = |(name, fields, digit): &(&str, &str, char)| {
            let digest = digit.to_string().repeat(64);
            format!(
                "Package: {name}\nVersion: 1\nArchitecture: all\nFilename: x\nSize: 0\nSHA256: {digest}\n{fields}\n\n"
            )
        };
        let mut index = Index::default();
        let text: String = packages.iter().map(stanza).collect();
        index.read(text.as_bytes(), "amd64", 0).unwrap();
        index
    }

    #[test]
    fn the_first_packages_are_installed_in_order_then_the_core_then_the_rounds() {
        let essential = "Essential: yes";
        let index = index(&[
            ("bash", essential, 'a'),
            ("base-files", essential, 'b'),
            ("mawk", essential, 'c'),
            ("tool", "Pre-Depends: lib", 'd'),
            ("lib", "", 'e'),
        ]);
        let system = resolve(&index, Variant::Essential, &["tool".to_owned()]).unwrap();
        let script = script(&system, 7, "deb x\n");
        let dpkg: Vec<String> = script
            .text
            .lines()
            .filter(|line| line.starts_with("$dpkg") || line.contains("rm /usr/bin/awk"))
            .map(|line| {
                let words = line.split(' ').map(|word| match word.strip_prefix("/hull-packages/") {
                    Some(digest) => digest[..1].to_owned(),
                    None => word.to_owned(),
                });
                words.collect::<Vec<_>>().join(" ")
            })
            .collect();
        assert_eq!(
            dpkg,
            [
                "$dpkg --force-depends --install b",
                "[ ! -L /usr/bin/awk ] || rm /usr/bin/awk",
                "$dpkg --force-depends --install c",
                "$dpkg --force-depends --skip-same-version --unpack b a c",
                "$dpkg --force-depends --configure --pending --force-configure-any",
                "$dpkg --install e",
                "$dpkg --install d",
            ]
        );
        assert!(script.environment.contains(&"SOURCE_DATE_EPOCH=7".to_owned()));
        assert!(script.environment.contains(&"SOURCES=deb x\n".to_owned()));
    }
}
