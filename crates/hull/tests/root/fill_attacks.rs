//! Attacks on the first content of volumes (K01): whoever has the volume swaps folders and links while it
//! is filled.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use hull_testkit::patience;
use rustix::fs::{AtFlags, Dir, FileType, RenameFlags, renameat_with, statat};

use super::copy_attacks::snapshot;
use super::filled::{content, image};
use super::host;

/// Swaps that there have to be at least while volumes are filled.
const SWAPS: u64 = 10_000;

/// Exchanges the copy that is being made in `folder`, if there is one, with a link to the host.
fn swap_copy(folder: &File, elsewhere: &File) -> bool {
    let is_link = |at: &File, name: &str| {
        statat(at, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
    };
    let names = Dir::read_from(folder).unwrap().flatten();
    let names: Vec<_> =
        names.filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned)).collect();
    let copy = names.iter().find(|name| name.starts_with(".hull-") && !is_link(folder, name));
    copy.is_some_and(|copy| {
        is_link(elsewhere, "link")
            && renameat_with(folder, copy, elsewhere, "link", RenameFlags::EXCHANGE).is_ok()
    })
}

fn clear(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_symlink() || !path.is_dir() { fs::remove_file(path) } else { fs::remove_dir_all(path) }
            .unwrap();
    }
}

#[test]
fn a_folder_that_is_swapped_leads_no_first_content_to_the_host() {
    let host = host();
    image(&host, "full", &content(&host, 200), &[]);
    // It is a folder that others have, so that the copy is made in it, too.
    let [volume, canary, careless] = ["volume", "canary", "careless"].map(|name| host.folder().join(name));
    for (target, folder, link) in [(&canary, "a", "b"), (&careless, "c", "d")] {
        fs::create_dir_all(target.join("sub")).unwrap();
        fs::create_dir_all(volume.join(folder).join("sub")).unwrap();
        symlink(target, volume.join(link)).unwrap();
    }
    fs::create_dir(volume.join("elsewhere")).unwrap();
    fs::write(canary.join("sub/file"), "on the host").unwrap();
    let device = format!("device={}", volume.display());
    host.hull(&["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device, "swapped"]).ok();
    let before = snapshot(&canary);
    let real = File::open(volume.join("a/sub")).unwrap();
    let elsewhere = File::open(volume.join("elsewhere")).unwrap();
    let (stop, swaps, copies) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let folder = File::open(&volume).unwrap();
            while !stop.load(Ordering::Relaxed) {
                for (one, other) in [("a", "b"), ("c", "d")] {
                    renameat_with(&folder, one, &folder, other, RenameFlags::EXCHANGE).unwrap();
                }
                copies.fetch_add(u64::from(swap_copy(&real, &elsewhere)), Ordering::Relaxed);
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        });
        let begin = Instant::now();
        // The control: who makes his files by their paths makes them on the host now and then.
        while !careless.join("sub/file").exists() {
            fs::write(volume.join("c/sub/file"), "planted").unwrap();
            assert!(begin.elapsed() < patience(20), "the race does not run");
        }
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&real));
        let (mut landed, mut refused) = (0, 0);
        let mount = "type=volume,src=swapped,dst=/data,volume-subpath=a/sub";
        while landed < 4
            || refused < 4
            || swaps.load(Ordering::Relaxed) < SWAPS
            || copies.load(Ordering::Relaxed) < 4
        {
            clear(&volume.join("elsewhere"));
            symlink(&canary, volume.join("elsewhere/link")).unwrap();
            assert!(
                begin.elapsed() < patience(60),
                "{landed} landed, {refused} refused, {swaps:?} swaps, {copies:?} of copies"
            );
            host.hull(&["create", "--name", "box", "--mount", mount, "full", "/bin/true"]);
            match Path::new(&path).join("first").exists() {
                true => landed += 1,
                false => refused += 1,
            }
            host.hull(&["rm", "-f", "box"]);
            clear(Path::new(&path));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(snapshot(&canary), before, "a volume's first content reached the host");
    // Left alone, it is filled as ever.
    if volume.join("a").is_symlink() {
        fs::remove_file(volume.join("a")).unwrap();
        fs::rename(volume.join("b"), volume.join("a")).unwrap();
    }
    let mount = "type=volume,src=swapped,dst=/data,volume-subpath=a/sub";
    host.hull(&["run", "--rm", "--mount", mount, "full", "/bin/true"]).ok();
    assert!(volume.join("a/sub/first").exists());
}
