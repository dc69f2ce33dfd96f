//! What a RUN sees and its layer does not have: folders of others, caches, secrets, agents, files of the
//! Dockerfile.
//!
//! | mount | what the process has |
//! |---|---|
//! | bind | the layers of the source; with `rw` a writable layer on top, which goes with the step |
//! | cache | a folder of [`caches`] |
//! | secret | a file in memory, or a variable: no file on a disk has the bytes (the kernel's swap may) |
//! | ssh | a socket of [`agent`] |
//!
//! The places where nothing is are made by [`stubs`].

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hull_builder::Failure;
use hull_builder::executor::{Layer, Mount as Wanted, MountKind, Selection, Sharing, Source};
use hull_oci::image::chain_ids;
use hull_runtime::bundle::{Source as Shown, Upper};
use hull_runtime::protocol;
use hull_runtime::spawner::{Files, View};

use super::agent::{self, Agent};
use super::caches::{Name, Taken};
use super::copy::{Found, ended, plain, write};
use super::site::Site;
use super::{Build, Secret, diff_ids, failure, stubs};
use crate::containers::files;
use crate::containers::launch::Besides;
use crate::containers::settings::{Below, Mount};
use crate::spec::Own;
use crate::{Error, rootfs};

type Result<T> = std::result::Result<T, Failure>;

/// A RUN's mounts, and what goes when its process has gone.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    pub(super) mounts: Vec<Mount>,
    pub(super) besides: Besides,
    /// Variables with secrets and sockets, `NAME=value`.
    pub(super) environment: Vec<String>,
    pub(super) caches: Vec<Taken>,
    _agents: Vec<Agent>,
    _sites: Vec<Arc<Site>>,
    /// All places, and whether what is shown there is a folder.
    targets: BTreeMap<String, bool>,
}

impl Mounts {
    /// Keeps what one of the mounts shows until the process has gone.
    pub(super) fn hold(&mut self, site: Arc<Site>) {
        self._sites.push(site);
    }

    fn own(&mut self, target: String, is_folder: bool, read_only: bool, name: String, source: Shown) {
        self.targets.insert(target.clone(), is_folder);
        self.besides.mounts.push(Own { name, target, source, read_only });
    }

    fn bind(&mut self, target: String, is_folder: bool, read_only: bool, source: &Path) {
        self.targets.insert(target.clone(), is_folder);
        self.mounts.push(Mount::Bind {
            source: source.to_string_lossy().into_owned(),
            target,
            read_only,
            propagation: "rprivate".to_owned(),
            create_source: false,
            non_recursive: true,
            below: Below::default(),
            mode: String::new(),
            idmap: true,
        });
    }
}

/// A cache mount whose turn has not come yet.
struct Caching {
    target: String,
    source: Option<(Source, String)>,
    sharing: Sharing,
    read_only: bool,
}

impl Build {
    /// Makes all that the mounts of a RUN on top of `below` need. What is made is in the site's folder, and
    /// goes with it.
    pub(super) async fn mounts(&self, site: &Site, below: &[Layer], wanted: Vec<Wanted>) -> Result<Mounts> {
        let mut all = Mounts::default();
        let mut caches: BTreeMap<Name, Vec<Caching>> = BTreeMap::new();
        for (index, Wanted { target, kind }) in wanted.into_iter().enumerate() {
            match kind {
                MountKind::Tmpfs { size } => {
                    let options = size.map(|size| format!("size={size}")).into_iter().collect();
                    all.targets.insert(target.clone(), true);
                    all.mounts.push(Mount::Tmpfs { target, options });
                }
                MountKind::Inline { contents, mode } => {
                    let file = site.folder().join(format!("mount-{index}"));
                    write(&file, &contents, mode).map_err(failure)?;
                    all.bind(target, false, true, &file);
                }
                MountKind::Bind { source, path, writable } => {
                    self.bind(&mut all, (source, &path), target, writable).await?;
                }
                MountKind::Cache { id, source, path, sharing, writable, mode, uid, gid } => {
                    let from = source.as_ref().map(|source| format!("{} {path}", origin(source)));
                    let name = Name { id, from, mode, uid, gid };
                    let source = source.map(|source| (source, path));
                    let caching = Caching { target, source, sharing, read_only: !writable };
                    caches.entry(name).or_default().push(caching);
                }
                MountKind::Secret { id, required, mode, uid, gid } => {
                    if let Some(Secret(contents)) = self.secret(&id, required).await? {
                        let file = Shown::File { contents, mode, uid, gid };
                        all.own(target, false, true, format!("secret {id}"), file);
                    }
                }
                MountKind::SecretVariable { id, required } => {
                    let secret = self.secret(&id, required).await?;
                    let variable = secret.map(|secret| variable(&target, &id, secret));
                    all.environment.extend(variable.transpose()?);
                }
                MountKind::Ssh { id, required, mode, uid, gid } => {
                    let socket = site.folder().join(format!("agent-{index}"));
                    self.agent(&mut all, (id, required), (target, &socket), (mode, uid, gid)).await?;
                }
            }
        }
        // In the order of their names, whoever they are for: so no two steps wait for each other.
        for (name, caching) in caches {
            self.cache(&mut all, name, caching).await?;
        }
        self.places(&mut all, site, below).await?;
        Ok(all)
    }

    /// One folder that is kept and one file, to read, and nothing else.
    pub(super) async fn kept(
        &self,
        site: &Site,
        (taken, target): (Taken, &str),
        (text, file): (&str, &str),
    ) -> Result<Mounts> {
        let mut all = Mounts::default();
        all.bind(target.to_owned(), true, true, &taken.files);
        let source = site.folder().join("mount-0");
        write(&source, text.as_bytes(), 0o644).map_err(failure)?;
        all.bind(file.to_owned(), false, true, &source);
        all.caches.push(taken);
        self.places(&mut all, site, &[]).await?;
        Ok(all)
    }

    async fn places(&self, all: &mut Mounts, site: &Site, below: &[Layer]) -> Result<()> {
        let mut layers = self.lower(&diff_ids(below));
        layers.push(files::init_layer(&self.0.services.config.data_root));
        let (folder, targets) = (site.folder().join("stubs"), std::mem::take(&mut all.targets));
        let make = move || stubs::make(&layers, &folder, &targets);
        all.besides.layer = self.0.services.blocking(make).await.map_err(failure)?;
        Ok(())
    }

    async fn bind(
        &self,
        all: &mut Mounts,
        (source, path): (Source, &str),
        target: String,
        writable: bool,
    ) -> Result<()> {
        let (lower, site) = self.layers_of(source).await?;
        all._sites.extend(site);
        let path = PathBuf::from("/").join(path.trim_start_matches('/'));
        let (layers, wanted) = (lower.clone(), path.clone());
        let look = move || rootfs::is_folder(&layers, &wanted).map_err(|source| Error::Lookup { source });
        let found = self.0.services.blocking(look).await.map_err(failure)?;
        let missing = || Failure::Invalid(format!("{:?}: not found", path.to_string_lossy()));
        let is_folder = found.ok_or_else(missing)?;
        let upper = match writable {
            false => None,
            true => {
                let site = Site::make(&self.0.services, &[]).await.map_err(failure)?;
                let rootfs = &site.rootfs;
                let upper = Upper { upper: rootfs.upper.clone(), work: rootfs.work.clone(), volatile: true };
                all.hold(Arc::new(site));
                Some(upper)
            }
        };
        let name = path.to_string_lossy().into_owned();
        let path = if name == "/" { PathBuf::new() } else { path };
        all.own(target, is_folder, !writable, name, Shown::Layers { lower, path, upper });
        Ok(())
    }

    /// The folders of what files come from, the uppermost first; and what holds them.
    async fn layers_of(&self, source: Source) -> Result<(Vec<PathBuf>, Option<Arc<Site>>)> {
        Ok(match self.find(source, false).await? {
            Found::Layers(lower) => (lower, None),
            Found::Folder { site, .. } => (vec![site.rootfs.upper.clone()], Some(site)),
            Found::Listed(listed) => {
                let site = self.listed_folder(&listed).await?;
                (vec![site.rootfs.upper.clone()], Some(site))
            }
        })
    }

    /// One folder, wherever the step wants it.
    async fn cache(&self, all: &mut Mounts, name: Name, mut wanted: Vec<Caching>) -> Result<()> {
        let services = &self.0.services;
        // The strictest: a step never waits for itself.
        let sharing = wanted.iter().map(|caching| caching.sharing).max_by_key(|sharing| match sharing {
            Sharing::Shared => 0,
            Sharing::Private => 1,
            Sharing::Locked => 2,
        });
        let source = wanted.first_mut().and_then(|caching| caching.source.take());
        let mut problem = None;
        let seed = async |root: OwnedFd| match source {
            None => Ok(()),
            Some((source, path)) => self.seed(root, source, path).await.map_err(|failed| {
                let text = failed.to_string();
                problem = Some(failed);
                Error::Invalid(text)
            }),
        };
        let taken = services.builds.caches.take(services, &name, sharing.unwrap_or_default(), seed).await;
        let taken = taken.map_err(|error| problem.take().unwrap_or_else(|| failure(error)))?;
        for Caching { target, read_only, .. } in wanted {
            all.bind(target, true, read_only, &taken.files);
        }
        all.caches.push(taken);
        Ok(())
    }

    /// Copies what is at `path` of the source into a folder.
    async fn seed(&self, root: OwnedFd, source: Source, path: String) -> Result<()> {
        let selection = plain(Selection { patterns: vec![path], ..Selection::default() });
        let destination = "/".to_owned();
        let copy = protocol::Copy { selection, destination, keep_owners: true, ..protocol::Copy::default() };
        let (spawner, view) = (&self.0.services.spawner, View::Folder(root.as_fd()));
        let working = match self.find(source, false).await? {
            Found::Folder { fd, .. } => spawner.copy(copy, Files::Folder(fd.as_fd()), None, view).await,
            Found::Layers(lower) => {
                let source = Shown::Layers { lower, path: PathBuf::from("/"), upper: None };
                spawner.copy(copy, Files::Layers(&source), None, view).await
            }
            Found::Listed(listed) => self.copy_listed(&listed, copy, None, view).await,
        };
        ended(working.map_err(failure)?).await.map(drop)
    }

    /// # Errors
    /// The client does not offer it, and it is `required`.
    async fn secret(&self, id: &str, required: bool) -> Result<Option<Secret>> {
        match self.0.given.client.secret(id).await.map_err(failure)? {
            None if required => Err(Failure::Missing(format!("secret {id}: not found"))),
            secret => Ok(secret),
        }
    }

    async fn agent(
        &self,
        all: &mut Mounts,
        (id, required): (String, bool),
        (target, socket): (String, &Path),
        access: (u32, u32, u32),
    ) -> Result<()> {
        let client = &self.0.given.client;
        // The one that shows that there is one is not used.
        match client.agent(&id).await.map_err(failure)? {
            Some(_) => {}
            None if required => {
                return Err(Failure::Missing(format!("no SSH key {id:?} forwarded from the client")));
            }
            None => return Ok(()),
        }
        all._agents.push(agent::offer(Arc::clone(client), id, socket, access).map_err(failure)?);
        if all._agents.len() == 1 {
            all.environment.push(format!("SSH_AUTH_SOCK={target}"));
        }
        all.bind(target, false, false, socket);
        Ok(())
    }
}

/// What tells one source of files from another.
fn origin(source: &Source) -> String {
    match source {
        Source::Layers(layers) => {
            let top = chain_ids(&diff_ids(layers)).pop();
            top.map_or_else(|| "scratch".to_owned(), |chain| chain.to_string())
        }
        Source::Context(name) => format!("context {name:?}"),
        other => format!("{other:?}"),
    }
}

/// `NAME=value`.
fn variable(name: &str, id: &str, secret: Secret) -> Result<String> {
    match String::from_utf8(secret.0) {
        Ok(value) if !value.contains('\0') => Ok(format!("{name}={value}")),
        _ => Err(Failure::Invalid(format!(
            "secret {id} is not text: it cannot be the variable {name}; mount it as a file"
        ))),
    }
}
