//! The files that a container has of its own on the host.
//!
//! ```text
//! <data-root>/containers/<id>/      0700
//!   hostname hosts resolv.conf      bound into /etc
//!   log/                            the shim's segments
//! <data-root>/trash/<id>/           the same, of a container that is gone
//! <data-root>/init/                 the init layer, of all containers
//! ```

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hull_network::etc::Hosts;

use super::settings::{NetworkMode, Settings};
use crate::config::Config;
use crate::spec::Files;
use crate::{Error, Result};

pub(crate) fn folder(data_root: &Path, id: &str) -> PathBuf {
    data_root.join("containers").join(id)
}

pub(crate) fn log_dir(data_root: &Path, id: &str) -> PathBuf {
    folder(data_root, id).join("log")
}

pub(crate) fn etc(data_root: &Path, id: &str) -> Files {
    let folder = folder(data_root, id);
    Files {
        hostname: folder.join("hostname"),
        hosts: folder.join("hosts"),
        resolv: folder.join("resolv.conf"),
    }
}

fn failed<'a>(call: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
    move |source| Error::Io { call, path: path.to_owned(), source }
}

/// A folder that only the daemon may enter; one that exists is made so.
pub(crate) fn private_dir(path: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed("chmod", path))
        }
        Err(error) => Err(failed("mkdir", path)(error)),
    }
}

/// See [`hull_image::folder::keep_apart`].
pub(crate) fn keep_apart(path: &Path) -> Result<()> {
    hull_image::folder::keep_apart(fs::File::open(path).map_err(failed("open", path))?);
    Ok(())
}

/// Makes the folder and what is in it; an older one of the same id (none was acknowledged) goes.
pub(crate) fn make(data_root: &Path, id: &str) -> Result<()> {
    remove(data_root, id)?;
    private_dir(&folder(data_root, id))?;
    private_dir(&log_dir(data_root, id))
}

/// Takes all of it away; nothing there is no error.
pub(crate) fn remove(data_root: &Path, id: &str) -> Result<()> {
    let folder = folder(data_root, id);
    match fs::remove_dir_all(&folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", &folder)(error)),
    }
}

/// Takes the folder out of sight, at once. Gives what [`empty_trash`] removes; nothing there is no
/// error.
pub(crate) fn discard(data_root: &Path, id: &str) -> Result<Option<PathBuf>> {
    let (from, to) = (folder(data_root, id), trash(data_root).join(id));
    match fs::rename(&from, &to) {
        Ok(()) => Ok(Some(to)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("rename", &from)(error)),
    }
}

pub(crate) fn trash(data_root: &Path) -> PathBuf {
    data_root.join("trash")
}

/// Removes what was discarded.
pub(crate) fn empty_trash(discarded: &Path) -> Result<()> {
    fs::remove_dir_all(discarded).map_err(failed("remove", discarded))
}

/// The lowest layer of every container, below those of its image: the places where it always has
/// something mounted. So none of them is made in its writable layer, and becomes part of a commit.
pub(crate) fn init_layer(data_root: &Path) -> PathBuf {
    data_root.join("init")
}

/// Makes it, where it is not there yet.
pub(crate) fn make_init_layer(data_root: &Path) -> Result<()> {
    let layer = init_layer(data_root);
    if layer.exists() {
        return Ok(());
    }
    let new = data_root.join("init.new");
    // Of a daemon that was killed here.
    if new.exists() {
        fs::remove_dir_all(&new).map_err(failed("remove", &new))?;
    }
    for name in ["", "dev", "etc", "proc", "sys"] {
        let path = new.join(name);
        fs::create_dir(&path).map_err(failed("mkdir", &path))?;
        // What containers see, whatever the umask.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(failed("chmod", &path))?;
    }
    for name in ["hostname", "hosts", "resolv.conf"] {
        write(&new.join("etc").join(name), "")?;
    }
    fs::rename(&new, &layer).map_err(failed("rename", &new))
}

/// Writes the three files of `/etc` anew, as at every start; they are made once and then only
/// rewritten, for a running container has them bound. Whoever has networks of ours gets others when
/// these are known. At `gateways` the host is reached by whoever has none.
pub(crate) fn write_etc(config: &Config, id: &str, settings: &Settings, gateways: &[IpAddr]) -> Result<()> {
    let files = etc(&config.data_root, id);
    let host = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let shares_host = settings.network == NetworkMode::Host;
    let extra: Vec<(&str, &str)> =
        settings.extra_hosts.iter().filter_map(|entry| split_host(entry)).collect();
    let host_gateway = &config.network.host_gateway;
    let own = Hosts { extra: &extra, gateways, host_gateway, host_names: shares_host, ..Hosts::default() };
    let hosts = if shares_host { below(host("/etc/hosts"), &own) } else { own.text() };
    write(&files.hostname, &format!("{}\n", settings.hostname))?;
    write(&files.hosts, &hosts)?;
    let asked =
        |own: &[String], default: &[String]| if own.is_empty() { default.to_vec() } else { own.to_vec() };
    let dns = asked(&settings.dns, &config.dns);
    let search = asked(&settings.dns_search, &config.dns_search);
    let options = asked(&settings.dns_options, &config.dns_options);
    write(&files.resolv, &resolv_text(&host("/etc/resolv.conf"), &dns, &search, &options))
}

/// The host's file, and below it what is the container's own.
fn below(mut text: String, own: &Hosts<'_>) -> String {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text + &own.lines().concat()
}

pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(path)
        .map_err(failed("open", path))?;
    file.set_permissions(fs::Permissions::from_mode(0o644)).map_err(failed("chmod", path))?;
    io::Write::write_all(&mut file, text.as_bytes()).map_err(failed("write", path))
}

/// Name and address of one `--add-host`; an IPv6 address may stand in brackets.
pub(crate) fn split_host(entry: &str) -> Option<(&str, &str)> {
    let (name, address) = entry.split_once(['=', ':'])?;
    let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    (!name.is_empty() && !address.is_empty()).then_some((name, address))
}

/// The host's file with what was asked for in place of its own lines of that kind.
fn resolv_text(host: &str, dns: &[String], search: &[String], options: &[String]) -> String {
    let mut text = String::new();
    let replaced = |line: &str| match line.split_whitespace().next() {
        Some("nameserver") => !dns.is_empty(),
        Some("search" | "domain") => !search.is_empty(),
        Some("options") => !options.is_empty(),
        // Comments and blank lines are the host's own.
        None => true,
        Some(word) => word.starts_with(['#', ';']),
    };
    for line in host.lines().filter(|line| !replaced(line)) {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    for server in dns {
        text.push_str(&format!("nameserver {server}\n"));
    }
    // A single dot asks for no search list at all.
    let search: Vec<&str> = search.iter().map(String::as_str).filter(|domain| *domain != ".").collect();
    if !search.is_empty() {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn hosts_of_the_hosts_network_are_the_hosts_and_what_was_added() {
        let entries = owned(&["a:1.2.3.4", "b=::1", "c:[fe80::1]", "bad", "host.hull.internal:1.1.1.1"]);
        let extra: Vec<(&str, &str)> = entries.iter().filter_map(|entry| split_host(entry)).collect();
        let gateways = [IpAddr::from([172, 17, 0, 1])];
        let own = Hosts { extra: &extra, gateways: &gateways, host_names: true, ..Hosts::default() };
        assert_eq!(
            below("10.0.0.1 h".to_owned(), &own),
            "10.0.0.1 h\n1.2.3.4\ta\n::1\tb\nfe80::1\tc\n1.1.1.1\thost.hull.internal\n\
             172.17.0.1\thost.docker.internal gateway.docker.internal\n"
        );
    }

    #[test]
    fn the_init_layer_is_made_once_and_whole() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("init.new")).unwrap();
        make_init_layer(root.path()).unwrap();
        let layer = init_layer(root.path());
        let mode = |name: &str| fs::metadata(layer.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(""), mode("proc"), mode("etc/hosts")), (0o755, 0o755, 0o644));
        fs::remove_file(layer.join("etc/hosts")).unwrap();
        make_init_layer(root.path()).unwrap();
        assert!(!layer.join("etc/hosts").exists(), "containers have it mounted");
    }

    #[test]
    fn resolv_takes_the_hosts_lines_but_for_what_was_asked() {
        let host = "# made by x\nnameserver 1.1.1.1\nsearch lan\noptions edns0\n\n";
        assert_eq!(resolv_text(host, &[], &[], &[]), "nameserver 1.1.1.1\nsearch lan\noptions edns0\n");
        let text = resolv_text(host, &owned(&["9.9.9.9"]), &owned(&["example.com"]), &owned(&["ndots:2"]));
        assert_eq!(text, "nameserver 9.9.9.9\nsearch example.com\noptions ndots:2\n");
        assert_eq!(resolv_text(host, &[], &owned(&["."]), &[]), "nameserver 1.1.1.1\noptions edns0\n");
    }

    #[test]
    fn folders_are_private_files_are_readable_and_all_of_it_goes() {
        let root = tempfile::tempdir().unwrap();
        private_dir(&root.path().join("containers")).unwrap();
        let config = Config { data_root: root.path().to_owned(), ..Config::default() };
        make(root.path(), "abc").unwrap();
        let settings = Settings { hostname: "h".into(), ..Settings::default() };
        write_etc(&config, "abc", &settings, &[]).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder(root.path(), "abc")), 0o700);
        let files = etc(root.path(), "abc");
        assert_eq!(
            (mode(&files.hosts), fs::read_to_string(&files.hostname).unwrap()),
            (0o644, "h\n".to_owned())
        );
        private_dir(&trash(root.path())).unwrap();
        let discarded = discard(root.path(), "abc").unwrap().unwrap();
        assert!(discarded.join("hosts").exists() && !folder(root.path(), "abc").exists());
        assert_eq!(discard(root.path(), "abc").unwrap(), None);
        empty_trash(&discarded).unwrap();
        make(root.path(), "abc").unwrap();
        remove(root.path(), "abc").unwrap();
        remove(root.path(), "abc").unwrap();
        assert!(!folder(root.path(), "abc").exists() && !discarded.exists());
    }
}
