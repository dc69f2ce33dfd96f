//! What a container's mounts need: volumes, the images that they show, other containers' mounts,
//! folders of the host.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hull_image::lease::Lease;
use hull_oci::path;
use hull_runtime::bundle::{StartError, StartErrorKind};
use rustix::fs::{Mode, OFlags};

use super::services::Services;
use super::settings::{ImageRef, Mount, Settings, VolumeMount};
use super::view::Record;
use crate::events::Kind;
use crate::spec::Shown;
use crate::store::Change;
use crate::volumes::{self, Create, Wish};
use crate::{Error, Result};

/// Takes over what `--volumes-from` names, and finds the images that are to be mounted. What it
/// gives keeps their layers until the container does.
pub(super) fn resolve(services: &Services, settings: &mut Settings) -> Result<Vec<Lease>> {
    let mut leases = Vec::new();
    for entry in std::mem::take(&mut settings.volumes_from) {
        let (key, mode) = entry.split_once(':').unwrap_or((&entry, ""));
        let read_only = read_only(mode).ok_or_else(|| Error::Invalid(format!("invalid mode: {mode}")))?;
        // Not a 404: to the client of a `create` that would mean the image.
        let find = || services.registry.find(key).map_err(|error| Error::Invalid(error.to_string()));
        let view = find()?.view();
        let inherited = view.settings.mounts.iter().filter_map(|mount| inherited(mount, read_only));
        for mount in inherited {
            if !settings.mounts.iter().any(|own| own.target() == mount.target()) {
                // The image that it shows there, whatever has its name by now.
                leases.extend(mount.image().map(|image| services.images.keep_layers(&image.layers)));
                settings.mounts.push(mount);
            }
        }
        // While it is there it has its images' layers: so they were held in time.
        find()?;
    }
    for place in &settings.volumes {
        let target = path::clean(place);
        if !settings.mounts.iter().any(|mount| path::clean(mount.target()) == target) {
            let driver = settings.volume_driver.clone();
            settings.mounts.push(Mount::Volume(VolumeMount {
                target,
                copy: true,
                driver,
                ..Default::default()
            }));
        }
    }
    for mount in &mut settings.mounts {
        if let Mount::Image { name, found: found @ None, .. } = mount {
            let image = services.images.resolve(name)?;
            leases.push(services.images.hold(&image)?);
            let layers = image.config.rootfs.diff_ids.clone();
            *found = Some(ImageRef { id: image.id.clone(), name: name.clone(), layers });
        }
    }
    Ok(leases)
}

/// Whether the second part of a `--volumes-from` takes the mounts over to be read only. `None`: it is no
/// mode. Labels and consistency mean nothing here; how a mount spreads and whether it is filled is not
/// asked anew.
fn read_only(mode: &str) -> Option<bool> {
    const KINDS: [&[&str]; 3] =
        [&["ro", "rw"], &["z", "Z"], &["default", "consistent", "cached", "delegated"]];
    let words: Vec<&str> = if mode.is_empty() { Vec::new() } else { mode.split(',').collect() };
    let of = |kind: &[&str]| words.iter().filter(|word| kind.contains(word)).count();
    let once = KINDS.iter().all(|kind| of(kind) <= 1);
    let known = KINDS.iter().map(|kind| of(kind)).sum::<usize>() == words.len();
    (once && known).then(|| words.contains(&"ro"))
}

/// A mount of another container in this one: not its memory, and with `read_only` not more than to
/// read.
fn inherited(mount: &Mount, read_only: bool) -> Option<Mount> {
    let mut mount = mount.clone();
    match &mut mount {
        Mount::Bind { read_only: own, mode, .. } => {
            *own |= read_only;
            mode.clear();
        }
        Mount::Volume(volume) => {
            volume.read_only |= read_only;
            volume.copy = false;
            volume.mode.clear();
        }
        Mount::Image { .. } => {}
        Mount::Tmpfs { .. } => return None,
    }
    Some(mount)
}

/// Gives the container its volumes, whose names its record has from then on. The rows of those that
/// are new are for the transaction of that record.
pub(super) async fn claim(services: &Services, record: &mut Record) -> Result<Vec<Change>> {
    let wish = |mount: &VolumeMount| Wish {
        volume: Create {
            name: Some(mount.name.clone()).filter(|name| !name.is_empty()),
            driver: mount.driver.clone(),
            options: mount.options.clone(),
            labels: mount.labels.clone(),
        },
        own: mount.own,
    };
    let wishes: Vec<Wish> = record.settings.mounts.iter().filter_map(Mount::volume).map(wish).collect();
    let claim = services.volumes.claim(&record.id, &wishes).await?;
    let mounts = Arc::make_mut(&mut record.settings).mounts.iter_mut();
    let mounted = mounts.filter_map(|mount| match mount {
        Mount::Volume(mounted) => Some(mounted),
        _ => None,
    });
    for (mount, volume) in mounted.zip(&claim.volumes) {
        mount.own |= mount.name.is_empty();
        mount.name.clone_from(&volume.name);
    }
    Ok(claim.rows)
}

/// The volumes that containers of an earlier daemon have.
pub(super) fn adopt(services: &Services, record: &Record) {
    let volumes = record.settings.mounts.iter().filter_map(Mount::volume);
    services.volumes.adopt(&record.id, volumes.map(|volume| (volume.name.as_str(), volume.own)));
}

/// Says of each volume that a run of the container has it (`mount`), or has it no more (`unmount`).
pub(super) fn publish(services: &Services, record: &Record, action: &str) {
    for volume in record.settings.mounts.iter().filter_map(Mount::volume) {
        let mut attributes = vec![("container", record.id.clone()), ("driver", volumes::DRIVER.to_owned())];
        if action == "mount" {
            attributes.push(("destination", volume.target.clone()));
            attributes.push(("propagation", String::new()));
            attributes.push(("read/write", (!volume.read_only).to_string()));
        }
        let attributes = attributes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        services.events.publish(Kind::Volume, action, &volume.name, attributes);
    }
}

/// Where the files of a container's volumes are, by name.
pub(super) fn volume_folders(services: &Services, settings: &Settings) -> BTreeMap<String, PathBuf> {
    let volumes = settings.mounts.iter().filter_map(Mount::volume);
    volumes.map(|volume| (volume.name.clone(), services.volumes.folder(&volume.name))).collect()
}

/// Where what the container's mounts show lies.
pub(super) fn shown(services: &Services, settings: &Settings) -> Shown {
    let (volumes, images) = (volume_folders(services, settings), layers(services, settings));
    Shown { volumes, images, own: Vec::new() }
}

/// Waits until the images that are mounted are unpacked. They are held by the caller. Blocks.
pub(super) fn unpack_images(services: &Services, settings: &Settings) -> Result<()> {
    let mut images = settings.mounts.iter().filter_map(Mount::image);
    images.try_for_each(|image| services.images.unpack(&hull_oci::image::chain_ids(&image.layers)))
}

fn layers(services: &Services, settings: &Settings) -> BTreeMap<String, Vec<PathBuf>> {
    let folders = |mount: &Mount| match mount {
        Mount::Image { found: Some(image), target, .. } => {
            let chain = hull_oci::image::chain_ids(&image.layers);
            let folders = chain.iter().rev().map(|chain| services.images.snapshots().diff(chain));
            Some((target.clone(), folders.collect()))
        }
        _ => None,
    };
    settings.mounts.iter().filter_map(folders).collect()
}

/// Missing sources of `-v` become folders, as the reference does it at every start.
pub(super) fn make_sources(settings: &Settings) -> Result<()> {
    for mount in &settings.mounts {
        if let Mount::Bind { source, create_source: true, .. } = mount {
            let path = PathBuf::from(source);
            if !path.exists() {
                std::fs::create_dir_all(&path).map_err(|source| Error::Io {
                    call: "mkdir",
                    path: path.clone(),
                    source,
                })?;
            }
        }
    }
    Ok(())
}

/// A bind can only spread where the host's mount that its source lies on does.
///
/// # Errors
/// [`Error::Start`] in the reference's words.
pub(super) fn check_propagation(settings: &Settings) -> Result<()> {
    let spreads = |word: &str| word.ends_with("shared") || word.ends_with("slave");
    let mut table = None;
    for mount in &settings.mounts {
        let Mount::Bind { source, propagation, .. } = mount else { continue };
        if !spreads(propagation) {
            continue;
        }
        let io = |call, path: &str| {
            let path = PathBuf::from(path);
            move |source: std::io::Error| Error::Io { call, path, source }
        };
        let id = mount_id(Path::new(source)).map_err(io("open", source))?;
        let table = match &table {
            Some(table) => table,
            None => {
                let path = "/proc/self/mountinfo";
                table.insert(std::fs::read_to_string(path).map_err(io("read", path))?)
            }
        };
        if let Some(message) = obstacle(table, &id, source, propagation) {
            return Err(Error::Start(StartError { kind: StartErrorKind::Invalid, message }));
        }
    }
    Ok(())
}

/// The number of the mount that `path` lies on, as mountinfo has it (proc_pid_fdinfo(5)).
fn mount_id(path: &Path) -> std::io::Result<String> {
    let fd: OwnedFd = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let facts = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    let id = facts.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    Ok(id.unwrap_or_default().trim().to_owned())
}

/// Why a bind of `source` cannot spread as asked; `table` is mountinfo (proc_pid_mountinfo(5)).
fn obstacle(table: &str, id: &str, source: &str, propagation: &str) -> Option<String> {
    let fields = table
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&id))?;
    let has = |kind: &str| {
        fields.iter().skip(6).take_while(|&&field| field != "-").any(|field| field.starts_with(kind))
    };
    let (possible, wanted) = match propagation {
        "shared" | "rshared" => (has("shared:"), "a shared"),
        _ => (has("shared:") || has("master:"), "a shared or slave"),
    };
    let point = fields.get(4).copied().unwrap_or_default();
    (!possible).then(|| format!("path {source} is mounted on {point} but it is not {wanted} mount"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_over_is_read_only_or_as_it_was() {
        for (mode, expected) in [
            ("", Some(false)),
            ("ro", Some(true)),
            ("rw,z", Some(false)),
            ("Z,ro,cached", Some(true)),
            ("ro,rw", None),
            ("ro,", None),
            ("nocopy", None),
            ("rslave", None),
            ("nosuch", None),
        ] {
            assert_eq!(read_only(mode), expected, "{mode}");
        }
    }

    #[test]
    fn a_bind_spreads_only_where_the_hosts_mount_does() {
        let table = "21 1 8:1 / / rw shared:1 - ext4 /dev/sda rw\n\
                     22 21 0:5 / /priv rw,nosuid - tmpfs tmpfs rw\n\
                     23 21 0:6 / /slave rw master:7 propagate_from:1 - tmpfs tmpfs rw";
        let check = |id: &str, propagation: &str| obstacle(table, id, "/x", propagation);
        assert_eq!(check("21", "rshared"), None);
        assert_eq!(check("21", "slave"), None);
        assert_eq!(check("23", "rslave"), None);
        assert_eq!(
            check("22", "rshared").unwrap(),
            "path /x is mounted on /priv but it is not a shared mount"
        );
        assert_eq!(
            check("22", "rslave").unwrap(),
            "path /x is mounted on /priv but it is not a shared or slave mount"
        );
        assert!(check("23", "shared").is_some());
    }
}
