//! What a mount shows that is not simply a path of the host: a part of a volume, an image.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use hull_runtime::bundle::{Bundle, Source, StartErrorKind};

use crate::attack::{STARTS, SWAPS, rounds, swapper, swaps};
use crate::world::{World, mount, snapshot};

crate::tests! {
    layers_are_shown_as_one_read_only_file_system
    a_part_of_an_image_is_shown_alone
    a_part_of_a_volume_is_shown_alone
    what_is_not_there_or_leads_out_is_refused
    a_part_that_is_swapped_for_a_link_never_shows_the_host
}

/// Two layers: the upper one hides a file of the lower one and adds another.
fn layers(world: &World, name: &str) -> Vec<PathBuf> {
    let [top, base] = ["top", "base"].map(|layer| world.dir.path().join(format!("{name}-{layer}")));
    std::fs::create_dir_all(top.join("bin")).unwrap();
    std::fs::create_dir_all(base.join("bin")).unwrap();
    std::fs::write(base.join("bin/tool"), "old").unwrap();
    std::fs::write(top.join("bin/tool"), "new").unwrap();
    std::fs::write(base.join("bin/other"), "other").unwrap();
    symlink("/etc", base.join("out")).unwrap();
    vec![top, base]
}

fn with(world: &World, script: &str, source: (&str, Source)) -> Bundle {
    let mut bundle = world.bundle(&["sh", "-c", script]);
    bundle.spec.mounts.push(mount("/shown", "bind", source.0, "rbind,ro,rprivate"));
    bundle.sources.insert("/shown".into(), source.1);
    bundle
}

fn image(world: &World, name: &str, script: &str, path: &str) -> Bundle {
    let lower = layers(world, name);
    with(world, script, (name, Source::Layers { lower, path: path.into(), upper: None }))
}

fn layers_are_shown_as_one_read_only_file_system(world: &World) {
    let script = "cat /shown/bin/tool /shown/bin/other; echo x 2>/dev/null > /shown/bin/tool || echo kept";
    let bundle = image(world, "whole", script, "");
    let output = world.run(&bundle).unwrap();
    assert_eq!(output.out, "newotherkept\n", "{output:?}");
    // One layer needs no overlay.
    let lower = layers(world, "single").split_off(1);
    let bundle = with(world, script, ("single", Source::Layers { lower, path: PathBuf::new(), upper: None }));
    assert_eq!(world.run(&bundle).unwrap().out, "oldotherkept\n");
}

fn a_part_of_an_image_is_shown_alone(world: &World) {
    let bundle =
        image(world, "folder", "ls /shown; cat /shown/tool; grep -c ' /shown ' /proc/self/mountinfo", "bin");
    assert_eq!(world.output(&bundle), "other\ntool\nnew1\n");
    // A file at a place that is no folder; nothing of the whole is left in the table.
    let bundle = image(world, "file", "cat /shown; ls / | grep -c bin; cat /proc/self/mountinfo", "bin/tool");
    let output = world.output(&bundle);
    assert!(output.starts_with("new1\n"), "{output}");
    let shown: Vec<_> = output.lines().filter(|line| line.contains("file-base")).collect();
    assert!(shown.len() == 1 && shown[0].contains(" /bin/tool /shown ro,"), "{output}");
}

fn a_part_of_a_volume_is_shown_alone(world: &World) {
    let volume = world.dir.path().join("parts");
    std::fs::create_dir_all(volume.join("a/b")).unwrap();
    std::fs::write(volume.join("a/b/c"), "deep").unwrap();
    symlink("a/b", volume.join("link")).unwrap();
    for path in ["a/b", "link"] {
        let source = (volume.to_str().unwrap(), Source::Inside { path: path.into() });
        assert_eq!(world.output(&with(world, "ls /shown; cat /shown/c", source)), "c\ndeep");
    }
    let source = (volume.to_str().unwrap(), Source::Inside { path: "a/b/c".into() });
    assert_eq!(world.output(&with(world, "cat /shown", source)), "deep");
}

fn what_is_not_there_or_leads_out_is_refused(world: &World) {
    let volume = world.dir.path().join("holes");
    std::fs::create_dir_all(&volume).unwrap();
    symlink(world.canary(), volume.join("out")).unwrap();
    symlink("..", volume.join("up")).unwrap();
    let volume = volume.to_str().unwrap();
    let refused = |source| world.run(&with(world, "cat /shown/file", source)).unwrap_err();
    let inside = |path: &str| (volume, Source::Inside { path: path.into() });
    let error = refused(inside("sub"));
    let text = format!("cannot access path {volume}/sub: lstat {volume}/sub: no such file or directory");
    assert_eq!((error.kind, error.message), (StartErrorKind::NotFound, text));
    // It begins at the volume, whatever it looks like.
    assert_eq!(refused(inside("/etc")).kind, StartErrorKind::NotFound);
    for path in ["out", "up", "../canary"] {
        let error = refused(inside(path));
        assert!(error.message.contains("leads out of"), "{path}: {error}");
    }
    let error = world.run(&image(world, "linked", "true", "out")).unwrap_err();
    assert!(error.message.contains("leads out of linked"), "{error}");
    let error = world.run(&image(world, "empty", "true", "nosuch")).unwrap_err();
    assert_eq!(error.kind, StartErrorKind::NotFound, "{error}");
}

fn a_part_that_is_swapped_for_a_link_never_shows_the_host(world: &World) {
    let canary = world.canary();
    let before = snapshot(&canary);
    let scratch = tempfile::tempdir_in(world.dir.path()).unwrap();
    let volume = scratch.path();
    std::fs::create_dir_all(volume.join("a")).unwrap();
    symlink(&canary, volume.join("b")).unwrap();
    let swapper = swapper(volume);
    // The control: who takes the path as it is meets the host's folder now and then.
    let (start, mut seen) = (std::time::Instant::now(), [false; 2]);
    while seen != [true; 2] {
        seen[usize::from(naive(volume).join("file").exists())] = true;
        assert!(start.elapsed().as_secs() < 20, "the race does not run: {seen:?}");
    }
    let (mut refused, mut shown) = (0, 0);
    for _ in 0..rounds(STARTS) {
        let source = (volume.to_str().unwrap(), Source::Inside { path: "a".into() });
        let bundle = with(world, "ls /shown", source);
        match world.run(&bundle) {
            Ok(output) => {
                assert_eq!(output.out, "", "the host's folder was shown");
                shown += 1;
            }
            Err(error) => {
                assert!(error.message.contains("leads out of"), "{error}");
                refused += 1;
            }
        }
        std::fs::remove_dir_all(world.dir.path().join(&bundle.id)).unwrap();
    }
    hull_sys::process::signal(&swapper.pidfd, 9).unwrap();
    hull_sys::process::wait(&swapper.pidfd, true).unwrap();
    println!("  {shown} shown, {refused} refused during {} swaps", swaps(volume));
    assert!(refused > 0 && shown > 0, "{shown} shown, {refused} refused");
    assert!(swaps(volume) >= SWAPS, "only {} swaps", swaps(volume));
    assert_eq!(snapshot(&canary), before);
}

/// A look-up that follows links wherever they lead.
fn naive(volume: &Path) -> PathBuf {
    std::fs::canonicalize(volume.join("a")).unwrap_or_default()
}
