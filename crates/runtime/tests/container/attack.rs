//! Images and volumes that try to reach the host while a container is made (K01 to K04). Each
//! path attack runs against a control first: a naive path walk, to show that the bait works.

use std::os::unix::fs::symlink;
use std::path::Path;

use hull_runtime::bundle::{Bundle, Rootfs};

use crate::world::{World, mount, snapshot};

crate::tests! {
    an_images_symlinks_lead_no_mount_to_the_host
    a_symlink_as_proc_is_refused
    a_working_directory_through_a_descriptor_is_refused
    a_volume_that_swaps_folder_and_symlink_leads_no_mount_to_the_host
}

/// A bundle over a layer of its own, to plant things in.
fn planted(world: &World, args: &[&str], plant: impl FnOnce(&Path)) -> Bundle {
    let mut bundle = world.bundle(args);
    let layer = world.dir.path().join(format!("{}-plant", bundle.id));
    std::fs::create_dir_all(&layer).unwrap();
    plant(&layer);
    let Rootfs::Overlay { lower, .. } = &mut bundle.rootfs else { unreachable!() };
    lower.insert(0, layer);
    bundle
}

fn an_images_symlinks_lead_no_mount_to_the_host(world: &World) {
    let canary = world.canary();
    let before = snapshot(&canary);
    let up = format!("../../../../../../../../..{}", canary.display());
    for target in [canary.to_str().unwrap(), &up] {
        let mut bundle = planted(
            world,
            &["sh", "-c", "cat /vol/file; touch /work/x /vol2/y; echo > /etc/made"],
            |layer| {
                for name in ["dev", "sys", "vol", "vol2", "work"] {
                    symlink(target, layer.join(name)).unwrap();
                }
                std::fs::create_dir(layer.join("etc")).unwrap();
                symlink(format!("{target}/file"), layer.join("etc/made")).unwrap();
                // The control: a naive walk of a mount's target ends at the host.
                assert_eq!(std::fs::read_to_string(layer.join("vol/file")).unwrap(), "untouched");
            },
        );
        bundle.spec.mounts.retain(|mount| !mount.destination.starts_with("/sys"));
        let volume = world.dir.path().join("volume");
        std::fs::create_dir_all(&volume).unwrap();
        std::fs::write(volume.join("file"), "volume").unwrap();
        bundle.spec.mounts.push(mount("/vol", "bind", volume.to_str().unwrap(), "rbind"));
        bundle.spec.mounts.push(mount("/vol2/deep", "tmpfs", "tmpfs", ""));
        bundle.spec.mounts.push(mount("/etc/made", "bind", volume.join("file").to_str().unwrap(), "bind"));
        bundle.spec.process.as_mut().unwrap().cwd = "/work/dir".into();
        // Whether it starts or not, the host is as it was.
        let _ = world.run(&bundle);
        assert_eq!(snapshot(&canary), before);
    }
}

fn a_symlink_as_proc_is_refused(world: &World) {
    let bundle = planted(world, &["true"], |layer| {
        std::fs::create_dir(layer.join("fake")).unwrap();
        // An overlay shows the top layer's file: a symlink instead of the base's folder.
        symlink("/fake", layer.join("proc")).unwrap();
    });
    let error = world.run(&bundle).unwrap_err();
    assert_eq!(error.message, "filesystem \"proc\" must be mounted on ordinary directory");
}

fn a_working_directory_through_a_descriptor_is_refused(world: &World) {
    let _folders: Vec<_> = (0..40).map(|_| std::fs::File::open(world.canary()).unwrap()).collect();
    for number in 3..60 {
        let mut bundle = world.bundle(&["ls", "-a"]);
        bundle.spec.process.as_mut().unwrap().cwd = format!("/proc/self/fd/{number}");
        match world.run(&bundle) {
            Err(error) => assert!(error.message.starts_with("chdir to cwd"), "{error}"),
            // A descriptor of the container's own root is no way out.
            Ok(output) => {
                assert!(!output.out.contains("file\n") && output.out.contains("proc\n"), "{}", output.out)
            }
        }
    }
}

/// Starts that meet the swap here, and in `cargo xtask soak`.
pub(crate) const STARTS: [usize; 2] = [150, 10_000];
/// Swaps that there have to be at least.
pub(crate) const SWAPS: u64 = 10_000;

/// How often a race is run: a bounded number of times, and without hurry when it is soaked.
pub(crate) fn rounds([few, many]: [usize; 2]) -> usize {
    if std::env::var_os("HULL_SOAK").is_some() { many } else { few }
}

/// A process that exchanges `a` and `b` in a folder until it is killed, and notes how often it did
/// in `swaps`. (A thread would forbid us to fork.)
pub(crate) fn swapper(folder: &Path) -> hull_sys::process::Child {
    let swaps = std::fs::File::create(folder.join("swaps")).unwrap();
    let hull_sys::process::Forked::Parent(child) = hull_sys::process::fork().unwrap() else {
        let dir = std::fs::File::open(folder).unwrap();
        for count in 1u64.. {
            let exchange = rustix::fs::RenameFlags::EXCHANGE;
            if rustix::fs::renameat_with(&dir, "a", &dir, "b", exchange).is_err() {
                break;
            }
            if count.is_multiple_of(256) {
                let _ = rustix::io::pwrite(&swaps, &count.to_ne_bytes(), 0);
            }
        }
        hull_sys::process::exit_now(1)
    };
    child
}

pub(crate) fn swaps(folder: &Path) -> u64 {
    let bytes = std::fs::read(folder.join("swaps")).unwrap();
    bytes.try_into().map_or(0, u64::from_ne_bytes)
}

fn a_volume_that_swaps_folder_and_symlink_leads_no_mount_to_the_host(world: &World) {
    let canary = world.canary();
    let before = snapshot(&canary);
    let scratch = tempfile::tempdir_in(world.dir.path()).unwrap();
    let volume = scratch.path();
    std::fs::create_dir_all(volume.join("a/sub")).unwrap();
    symlink(&canary, volume.join("b")).unwrap();
    let swapper = swapper(volume);
    // The control: what is seen at the path is the host's folder now and then.
    let (start, mut seen) = (std::time::Instant::now(), [false; 2]);
    while seen != [true; 2] {
        seen[usize::from(volume.join("a/file").exists())] = true;
        assert!(start.elapsed().as_secs() < 20, "the race does not run: {seen:?}");
    }
    let (mut failed, mut started) = (0, 0);
    for _ in 0..rounds(STARTS) {
        let mut bundle = world.bundle(&["true"]);
        bundle.spec.mounts.push(mount("/v", "bind", volume.to_str().unwrap(), "rbind"));
        for place in ["/v/a/one", "/v/a/sub/two", "/v/b/three"] {
            bundle.spec.mounts.push(mount(place, "tmpfs", "tmpfs", ""));
        }
        bundle.spec.process.as_mut().unwrap().cwd = "/v/a/cwd".into();
        match world.run(&bundle) {
            Ok(_) => started += 1,
            Err(_) => failed += 1,
        }
        std::fs::remove_dir_all(world.dir.path().join(&bundle.id)).unwrap();
    }
    hull_sys::process::signal(&swapper.pidfd, 9).unwrap();
    hull_sys::process::wait(&swapper.pidfd, true).unwrap();
    println!("  {} starts ({failed} met a link) during {} swaps", failed + started, swaps(volume));
    assert!(failed > 0, "no start met the swap");
    assert!(swaps(volume) >= SWAPS, "only {} swaps", swaps(volume));
    assert_eq!(snapshot(&canary), before);
}
