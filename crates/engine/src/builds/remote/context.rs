//! A build's context from an address: a repository, an archive, or a Dockerfile alone.

use std::fs::File;
use std::io::Read;

use super::super::{Build, Context, Kept, copy, failure};
use super::git;
use super::repository::is_repository;
use hull_builder::Failure;
use std::sync::Arc;

type Result<T> = std::result::Result<T, Failure>;

/// How archives begin, and where: plain, and by gzip, bzip2, xz and zstd.
const ARCHIVES: [(usize, &[u8]); 5] =
    [(257, b"ustar"), (0, b"\x1f\x8b"), (0, b"BZh"), (0, b"\xfd7zXZ\0"), (0, b"\x28\xb5\x2f\xfd")];
const HEAD: u64 = 512;

impl Build {
    /// Fetches the context; `true`: it is a Dockerfile alone, whatever name was asked for.
    pub async fn remote_context(&self, address: &str) -> Result<(Context, bool)> {
        if is_repository(address) {
            let repository = git::meant(address, None, false)?;
            let site = self.repository_files(&repository).await?;
            return Ok((Context(Kept::Folder(site)), false));
        }
        let site = self.address_file(address, None, false).await.map_err(failure)?;
        let name = self.address_name(address).map_err(failure)?;
        let path = site.rootfs.upper.join(name);
        let mut head = Vec::new();
        let failed = |error: std::io::Error| Failure::Host(format!("{}: {error}", path.display()));
        let file = File::open(&path).map_err(failed)?;
        (&file).take(HEAD).read_to_end(&mut head).map_err(failed)?;
        if ARCHIVES.iter().any(|(at, sign)| head.get(*at..).is_some_and(|rest| rest.starts_with(sign))) {
            let file = File::open(&path).map_err(failed)?;
            let context = copy::receive(&self.0.services, file.into()).await.map_err(failure)?;
            return Ok((context, false));
        }
        if head.is_empty() || head.contains(&0) {
            return Err(Failure::Invalid(format!(
                "what is at {address} is neither a Dockerfile nor an archive (tar, plain or by gzip, bzip2, xz or zstd)"
            )));
        }
        let dockerfile = site.rootfs.upper.join("Dockerfile");
        std::fs::rename(&path, &dockerfile).map_err(failed)?;
        self.forget_file(address).await;
        Ok((Context(Kept::Folder(Arc::clone(&site))), true))
    }
}
