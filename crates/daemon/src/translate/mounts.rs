//! `-v`, `--mount` and `--tmpfs`.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use hull_api::hostconfig::{HostConfig, Mount as ApiMount};
use hull_engine::containers::settings::{Below, Mount, VolumeMount};

use super::Result;
use crate::http::Failure;

/// The mode that the reference shows of a volume that somebody asked for without one.
const SHARED_LABEL: &str = "z";

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

pub(super) fn mounts(host: &HostConfig, below: Below) -> Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    for bind in host.binds.iter().flatten() {
        mounts.push(bind_of(bind, below, &host.volume_driver)?);
    }
    for mount in host.mounts.iter().flatten() {
        mounts.push(long(mount, below, host)?);
    }
    for (target, options) in host.tmpfs.iter().flatten() {
        if !target.starts_with('/') {
            return Err(Failure::invalid(format!(
                "invalid mount path: '{target}' mount path must be absolute"
            )));
        }
        let options = options.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect();
        mounts.push(Mount::Tmpfs { target: clean(target), options });
    }
    let mut seen = BTreeSet::new();
    for target in mounts.iter().map(Mount::target) {
        if !seen.insert(target) {
            return Err(Failure::invalid(format!("Duplicate mount point: {target}")));
        }
    }
    Ok(mounts)
}

/// `SOURCE:TARGET[:MODES]`; without a source, or with a name as one, it is a volume.
fn bind_of(text: &str, below: Below, driver: &str) -> Result<Mount> {
    let wrong = |why: &str| Failure::invalid(format!("invalid volume specification: '{text}'{why}"));
    let parts: Vec<&str> = text.split(':').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(wrong(""));
    }
    let (source, target, modes) = match parts[..] {
        [target] => ("", target, ""),
        [source, target] => (source, target, ""),
        [source, target, modes] => (source, target, modes),
        _ => return Err(wrong("")),
    };
    let absolute = source.starts_with('/');
    let kind = if absolute { "bind" } else { "volume" };
    if !target.starts_with('/') {
        return Err(wrong(&format!(
            ": invalid mount config for type \"{kind}\": invalid mount path: '{target}' mount path must be absolute"
        )));
    }
    if clean(target) == "/" {
        return Err(wrong(&format!(
            ": invalid mount config for type {kind:?}: invalid specification: destination can't be '/'"
        )));
    }
    let Modes { read_only, propagation, no_copy, idmap } =
        Modes::read(modes).ok_or_else(|| Failure::invalid(format!("invalid mode: {modes}")))?;
    if absolute && no_copy {
        return Err(wrong(
            ": invalid mount config for type \"bind\": field VolumeOptions must not be specified",
        ));
    }
    if !absolute && !propagation.is_empty() {
        return Err(wrong(
            ": invalid mount config for type \"volume\": field BindOptions must not be specified",
        ));
    }
    if !absolute {
        return Ok(Mount::Volume(VolumeMount {
            name: source.to_owned(),
            target: clean(target),
            read_only,
            copy: !no_copy,
            mode: if modes.is_empty() { SHARED_LABEL.to_owned() } else { modes.to_owned() },
            driver: driver.to_owned(),
            ..VolumeMount::default()
        }));
    }
    Ok(Mount::Bind {
        source: clean(source),
        target: clean(target),
        read_only,
        propagation: propagation_or_default(propagation),
        create_source: true,
        non_recursive: false,
        below,
        mode: modes.to_owned(),
        idmap,
    })
}

/// The third part of a `-v`.
#[derive(Default)]
struct Modes<'a> {
    read_only: bool,
    propagation: &'a str,
    no_copy: bool,
    idmap: bool,
}

impl Modes<'_> {
    /// Words in any order, at most one of a kind; labels and consistency mean nothing here.
    fn read(text: &str) -> Option<Modes<'_>> {
        const KINDS: [&[&str]; 6] = [
            &["ro", "rw"],
            &["z", "Z"],
            &PROPAGATIONS,
            &["nocopy"],
            &["idmap"],
            &["default", "consistent", "cached", "delegated"],
        ];
        let mut modes = Modes::default();
        if text.is_empty() {
            return Some(modes);
        }
        let mut seen = BTreeSet::new();
        for word in text.split(',') {
            let kind = KINDS.iter().position(|words| words.contains(&word))?;
            if !seen.insert(kind) {
                return None;
            }
            match kind {
                0 => modes.read_only = word == "ro",
                2 => modes.propagation = word,
                3 => modes.no_copy = true,
                4 => modes.idmap = true,
                _ => {}
            }
        }
        Some(modes)
    }
}

fn propagation_or_default(text: &str) -> String {
    if text.is_empty() { "rprivate".to_owned() } else { text.to_owned() }
}

fn long(mount: &ApiMount, below: Below, host: &HostConfig) -> Result<Mount> {
    let kind = &mount.kind;
    if mount.target.is_empty() {
        return Err(wrong(mount, "field Target must not be empty"));
    }
    let stray = [
        ("bind", "BindOptions", mount.bind_options.is_some()),
        ("volume", "VolumeOptions", mount.volume_options.is_some()),
        ("image", "ImageOptions", mount.image_options.is_some()),
        ("tmpfs", "TmpfsOptions", mount.tmpfs_options.is_some()),
    ];
    if let Some((_, name, _)) = stray.iter().find(|(of, _, given)| *given && of != kind) {
        return Err(Failure::invalid(format!("{name} must not be specified on mount type {kind:?}")));
    }
    match kind.as_str() {
        "bind" => long_bind(mount, below),
        "tmpfs" => long_tmpfs(mount),
        "volume" => long_volume(mount, &host.volume_driver),
        "cluster" => Err(Failure::later("volumes of a cluster come in a later build")),
        "image" => long_image(mount),
        _ => Err(wrong(mount, "mount type unknown")),
    }
}

fn wrong(mount: &ApiMount, why: &str) -> Failure {
    Failure::invalid(format!("invalid mount config for type {:?}: {why}", mount.kind))
}

fn absolute(mount: &ApiMount, path: &str) -> Result<String> {
    if path.starts_with('/') {
        Ok(clean(path))
    } else {
        Err(wrong(mount, &format!("invalid mount path: '{path}' mount path must be absolute")))
    }
}

fn long_bind(mount: &ApiMount, below: Below) -> Result<Mount> {
    if mount.source.is_empty() {
        return Err(wrong(mount, "field Source must not be empty"));
    }
    let options = mount.bind_options.clone().unwrap_or_default();
    if !options.propagation.is_empty() && !PROPAGATIONS.contains(&options.propagation.as_str()) {
        return Err(wrong(mount, &format!("invalid propagation mode: {}", options.propagation)));
    }
    let source = absolute(mount, &mount.source)?;
    let target = absolute(mount, &mount.target)?;
    if target == "/" {
        return Err(wrong(mount, "invalid specification: destination can't be '/'"));
    }
    if !options.create_mountpoint && Path::new(&source).symlink_metadata().is_err() {
        return Err(wrong(mount, &format!("bind source path does not exist: {}", mount.source)));
    }
    let (only_top, forced) = (options.read_only_non_recursive, options.read_only_force_recursive);
    for (name, set) in [("ReadOnlyNonRecursive", only_top), ("ReadOnlyForceRecursive", forced)] {
        if set && !mount.read_only {
            return Err(wrong(mount, &format!("{name} needs ReadOnly")));
        }
        if set && options.non_recursive {
            return Err(wrong(mount, &format!("{name} and NonRecursive cannot both be set")));
        }
    }
    if only_top && forced {
        return Err(wrong(mount, "ReadOnlyNonRecursive and ReadOnlyForceRecursive cannot both be set"));
    }
    if forced && !matches!(options.propagation.as_str(), "" | "rprivate" | "private") {
        return Err(wrong(mount, "ReadOnlyForceRecursive needs the propagation mode rprivate"));
    }
    Ok(Mount::Bind {
        source,
        target,
        read_only: mount.read_only,
        propagation: propagation_or_default(&options.propagation),
        create_source: options.create_mountpoint,
        non_recursive: options.non_recursive,
        below: match () {
            () if forced => Below::ReadOnly,
            () if only_top => Below::Untouched,
            () => below,
        },
        mode: String::new(),
        idmap: options.id_map,
    })
}

fn long_volume(mount: &ApiMount, driver: &str) -> Result<Mount> {
    let options = mount.volume_options.clone().unwrap_or_default();
    let chosen = options.driver_config.unwrap_or_default();
    let target = absolute(mount, &mount.target)?;
    if target == "/" {
        return Err(wrong(mount, "invalid specification: destination can't be '/'"));
    }
    Ok(Mount::Volume(VolumeMount {
        name: mount.source.clone(),
        target,
        read_only: mount.read_only,
        copy: !options.no_copy,
        own: false,
        subpath: options.subpath,
        mode: SHARED_LABEL.to_owned(),
        driver: if chosen.name.is_empty() { driver.to_owned() } else { chosen.name },
        options: chosen.options.unwrap_or_default(),
        labels: options.labels.unwrap_or_default(),
    }))
}

fn long_image(mount: &ApiMount) -> Result<Mount> {
    if mount.source.is_empty() {
        return Err(wrong(mount, "field Source must not be empty"));
    }
    let options = mount.image_options.clone().unwrap_or_default();
    let target = absolute(mount, &mount.target)?;
    Ok(Mount::Image { name: mount.source.clone(), found: None, target, subpath: options.subpath })
}

fn long_tmpfs(mount: &ApiMount) -> Result<Mount> {
    if !mount.source.is_empty() {
        return Err(wrong(mount, "field Source must not be specified"));
    }
    let options = mount.tmpfs_options.clone().unwrap_or_default();
    let mut words = Vec::new();
    if options.size_bytes > 0 {
        words.push(format!("size={}", options.size_bytes));
    }
    if options.mode != 0 {
        words.push(format!("mode={:o}", options.mode & 0o7777));
    }
    if mount.read_only {
        words.push("ro".to_owned());
    }
    for option in options.options.iter().flatten() {
        words.push(option.join("="));
    }
    Ok(Mount::Tmpfs { target: absolute(mount, &mount.target)?, options: words })
}

/// Without `.`, `..` and doubled slashes; nothing is looked up.
fn clean(path: &str) -> String {
    let mut out = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out.to_string_lossy().into_owned()
}
