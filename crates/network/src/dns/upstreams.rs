//! The resolvers of the host: what resolv.conf(5) names, and when it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use hull_sys::During;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// Of the servers that are asked, as the C library (`MAXNS` of resolv.h).
pub(super) const SERVERS_MAX: usize = 3;
/// Where servers listen.
const PORT: u16 = 53;
/// Bytes of a resolv.conf that are read.
const FILE_MAX: u64 = 64 * 1024;
/// Links that are followed to the file, as the kernel (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// The servers of a resolv.conf, at most three; without any, the one of this machine
/// (resolv.conf(5), "nameserver").
pub(super) fn servers(text: &str) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = crate::etc::nameservers(text).filter_map(server).collect();
    found.truncate(SERVERS_MAX);
    if found.is_empty() {
        found.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT));
    }
    found
}

/// Of addresses that somebody asked for.
pub(super) fn addresses(of: &[IpAddr]) -> Vec<SocketAddr> {
    of.iter().take(SERVERS_MAX).map(|address| SocketAddr::new(*address, PORT)).collect()
}

/// An address, with its link where it needs one: `fe80::1%eth0`.
fn server(text: &str) -> Option<SocketAddr> {
    let Some((address, link)) = text.split_once('%') else {
        return Some(SocketAddr::new(text.parse().ok()?, PORT));
    };
    let address: Ipv6Addr = address.parse().ok()?;
    let scope = link.parse().ok().or_else(|| index(link))?;
    Some(SocketAddrV6::new(address, PORT, 0, scope).into())
}

/// The number of a link of the host.
fn index(link: &str) -> Option<u32> {
    let flags = rustix::net::SocketFlags::CLOEXEC;
    let (family, kind) = (rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM);
    let socket = rustix::net::socket_with(family, kind, flags, None).ok()?;
    rustix::net::netdevice::name_to_index(socket, link).ok()
}

/// A resolv.conf that is followed: itself, the links that lead to it, and what they lead to.
#[derive(Debug)]
pub(super) struct Upstreams {
    path: PathBuf,
    inotify: OwnedFd,
    /// Folders that are watched, and the names in them that matter; and the file, without any.
    watched: BTreeMap<PathBuf, (i32, BTreeSet<OsString>)>,
    pub(super) servers: Vec<SocketAddr>,
}

impl AsFd for Upstreams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl Upstreams {
    pub(super) fn follow(path: &Path) -> hull_sys::Result<Upstreams> {
        let inotify =
            inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).during("inotify_init1", || "")?;
        let mut upstreams =
            Upstreams { path: path.to_owned(), inotify, watched: BTreeMap::new(), servers: Vec::new() };
        upstreams.refresh();
        Ok(upstreams)
    }

    /// Takes what inotify tells; reads the file again if it was about it.
    pub(super) fn heed(&mut self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut ours = false;
        while let Ok(event) = reader.next() {
            let names = self.watched.values().find(|(watch, _)| *watch == event.wd()).map(|(_, names)| names);
            ours |= match (names, event.file_name()) {
                (Some(names), Some(name)) => names.contains(std::ffi::OsStr::from_bytes(name.to_bytes())),
                // It is the file, the folder itself has gone, or events were lost.
                _ => true,
            };
        }
        if ours {
            self.refresh();
        }
    }

    /// Watches first and reads then: a change in between is told.
    fn refresh(&mut self) {
        let mut wanted: BTreeMap<PathBuf, BTreeSet<OsString>> = BTreeMap::new();
        let mut hop = self.path.clone();
        for _ in 0..LINKS_MAX {
            let (Some(folder), Some(name)) = (hop.parent(), hop.file_name()) else { break };
            wanted.entry(folder.to_owned()).or_default().insert(name.to_owned());
            let Ok(target) = std::fs::read_link(&hop) else { break };
            hop = folder.join(target);
        }
        let flags = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MODIFY
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let before = std::mem::take(&mut self.watched);
        for (folder, names) in wanted {
            // A folder that is not there yet: whoever makes it changes the link to it as well.
            if let Ok(watch) = inotify::add_watch(&self.inotify, &folder, flags) {
                self.watched.insert(folder, (watch, names));
            }
        }
        // The file itself, too: one that is mounted there (the daemon runs in a container) is written
        // in a folder that is not seen from here.
        let of_file = WatchFlags::CLOSE_WRITE | WatchFlags::MODIFY;
        if let Ok(watch) = inotify::add_watch(&self.inotify, &self.path, of_file) {
            self.watched.insert(self.path.clone(), (watch, BTreeSet::new()));
        }
        for (watch, _) in before.into_values() {
            if !self.watched.values().any(|(kept, _)| *kept == watch) {
                let _ = inotify::remove_watch(&self.inotify, watch);
            }
        }
        self.servers = servers(&read(&self.path));
    }
}

/// The file's text; empty if it is not there.
fn read(path: &Path) -> String {
    let mut text = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        let _ = std::io::Read::read_to_end(&mut std::io::Read::take(file, FILE_MAX), &mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn at_most_three_servers_or_else_this_machine() {
        let texts = |text| servers(text).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts("# x\n"), ["127.0.0.1:53"]);
        let text = "nameserver 1.1.1.1\nnameserver bad\nnameserver ::1 # c\nnameserver fe80::1%3\nnameserver 4.4.4.4";
        assert_eq!(texts(text), ["1.1.1.1:53", "[::1]:53", "[fe80::1%3]:53"]);
        assert_eq!(texts("nameserver fe80::1%lo"), ["[fe80::1%1]:53"]);
    }

    /// Waits for inotify to tell, as epoll does for the server.
    fn told(upstreams: &mut Upstreams, expected: &str) {
        let expected = servers(&format!("nameserver {expected}"));
        while upstreams.servers != expected {
            let mut poll = [rustix::event::PollFd::new(&upstreams.inotify, rustix::event::PollFlags::IN)];
            let limit = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
            assert_eq!(rustix::event::poll(&mut poll, Some(&limit)), Ok(1), "no change was told");
            upstreams.heed();
        }
    }

    #[test]
    fn changes_are_followed_through_links() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let say =
            |name: &str, server: &str| std::fs::write(at(name), format!("nameserver {server}\n")).unwrap();
        std::fs::create_dir(at("run")).unwrap();
        std::fs::create_dir(at("etc")).unwrap();
        say("run/stub.conf", "1.0.0.1");
        symlink("../run/stub.conf", at("etc/resolv.conf")).unwrap();
        let mut upstreams = Upstreams::follow(&at("etc/resolv.conf")).unwrap();
        told(&mut upstreams, "1.0.0.1");
        // Written in place, behind the link.
        say("run/stub.conf", "1.0.0.2");
        told(&mut upstreams, "1.0.0.2");
        // Published by a rename.
        say("run/next", "1.0.0.3");
        std::fs::rename(at("run/next"), at("run/stub.conf")).unwrap();
        told(&mut upstreams, "1.0.0.3");
        // The link leads elsewhere.
        say("run/other.conf", "1.0.0.4");
        symlink("../run/other.conf", at("etc/next")).unwrap();
        std::fs::rename(at("etc/next"), at("etc/resolv.conf")).unwrap();
        told(&mut upstreams, "1.0.0.4");
        say("run/other.conf", "1.0.0.5");
        told(&mut upstreams, "1.0.0.5");
        // Gone and made again, now a file.
        std::fs::remove_file(at("etc/resolv.conf")).unwrap();
        told(&mut upstreams, "127.0.0.1");
        say("etc/resolv.conf", "1.0.0.6");
        told(&mut upstreams, "1.0.0.6");
        // Written in a folder that nobody watches: as a mounted file is, and one with two names.
        std::fs::create_dir(at("elsewhere")).unwrap();
        std::fs::hard_link(at("etc/resolv.conf"), at("elsewhere/conf")).unwrap();
        told(&mut upstreams, "1.0.0.6");
        say("elsewhere/conf", "1.0.0.7");
        told(&mut upstreams, "1.0.0.7");
    }
}
