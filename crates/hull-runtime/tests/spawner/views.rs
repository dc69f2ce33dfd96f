//! What a worker sees of a container: as it runs, and put together when it does not.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hull_oci::runtime::Mount;
use hull_runtime::bundle::{Rootfs, Tree, Upper};
use hull_runtime::protocol::{Found, Outcome, Place, Work};
use hull_runtime::spawner::{Job, View};

use crate::house::{House, exited, kill, started, until, wait};

fn outcome(job: &Job) -> Outcome {
    wait(job);
    job.receive().unwrap().unwrap()
}

fn place(path: &str, folder: bool) -> Place {
    Place { path: path.to_owned(), folder }
}

fn mount(kind: &str, source: &Path, destination: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.into(),
        kind: kind.to_owned(),
        source: source.to_string_lossy().into_owned(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
        ..Mount::default()
    }
}

/// What the worker packs of `path`, unpacked again below the house.
fn packed(house: &House, view: View<'_>, path: &str, name: &str) -> PathBuf {
    let archive = tempfile::tempfile().unwrap();
    let place = place(path, false);
    let work = Work::Pack { place, name: name.to_owned(), uids: Vec::new(), gids: Vec::new() };
    let job = house.client.work(work, Some(archive.as_fd()), view).unwrap();
    assert!(matches!(outcome(&job), Outcome::Found(_)));
    assert_eq!(outcome(&job), Outcome::Packed);
    let to = tempfile::tempdir_in(house.dir.path()).unwrap().keep();
    std::io::Seek::rewind(&mut &archive).unwrap();
    let folder = File::open(&to).unwrap();
    let view = View::Folder(folder.as_fd());
    let unpacked = outcome(&house.client.work(Work::ApplyPlain, Some(archive.as_fd()), view).unwrap());
    assert_eq!(unpacked, Outcome::Unpacked);
    to
}

fn examine(house: &House, view: View<'_>, place: Place) -> Outcome {
    outcome(&house.client.work(Work::Examine(place), None, view).unwrap())
}

#[track_caller]
fn found(outcome: Outcome) -> Found {
    match outcome {
        Outcome::Found(found) => found,
        other => panic!("{other:?}"),
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn of_a_running_container_what_it_sees_itself() {
    let house = House::new();
    let volume = house.dir.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("kept"), "in the volume").unwrap();
    let script =
        "echo late > /tmp/late; echo > /scratch/x; ln -s /nowhere/../elsewhere /tmp/link; exec sleep 1000";
    let mut bundle = house.bundle("seen", &format!("/bin/busybox --install -s /bin; {script}"));
    bundle.spec.mounts = vec![
        mount("proc", Path::new("proc"), "/proc", &[]),
        mount("tmpfs", Path::new("tmpfs"), "/dev", &[]),
        mount("bind", &volume, "/vol", &["rbind", "ro"]),
        mount("tmpfs", Path::new("tmpfs"), "/scratch", &[]),
    ];
    let connection = house.launch(&bundle, &[]);
    let (pid, process) = started(&connection);
    let root = house.dir.path().join("root");
    until("the script's link", || root.join("tmp/link").is_symlink());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();

    let all = View::Running { process: process.as_fd(), below: true };
    let whole = packed(&house, all, "/", "/");
    assert_eq!(fs::read_to_string(whole.join("tmp/late")).unwrap(), "late\n");
    assert_eq!(fs::read_to_string(whole.join("vol/kept")).unwrap(), "in the volume");
    assert_eq!(names(&whole.join("scratch")), ["x"]);
    for kernels in ["dev", "proc", "sys"] {
        assert_eq!(names(&whole.join(kernels)), [""; 0], "{kernels}");
    }
    let alone = View::Running { process: process.as_fd(), below: false };
    let alone = packed(&house, alone, "/", "");
    assert_eq!(fs::read_to_string(alone.join("tmp/late")).unwrap(), "late\n");
    assert!(names(&alone.join("vol")).is_empty() && names(&alone.join("scratch")).is_empty());

    let file = found(examine(&house, all, place("/vol/kept", false)));
    assert_eq!((file.mode, file.size, file.target), (0o100_644, 13, None));
    let link = found(examine(&house, all, place("/tmp/link", false)));
    assert_eq!((link.mode, link.target.as_deref()), (0o120_777, Some("/elsewhere")));
    for absent in ["/nothing", "/vol/kept/x", "/tmp/link/x", "/proc/self/root/etc"] {
        assert_eq!(examine(&house, all, place(absent, false)), Outcome::Absent, "{absent}");
    }
    assert_eq!(examine(&house, all, place("/vol/kept", true)), Outcome::Absent, "no folder");
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts);
    kill(pid);
    exited(&connection);
    assert_eq!(examine(&house, all, place("/", false)), Outcome::Ended);
}

#[test]
fn of_a_stopped_container_its_layers_and_what_is_bound_into_them_untouched() {
    let house = House::new();
    let folder = |name: &str| {
        let path = house.dir.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    };
    let (base, upper, work, volume) = (folder("base"), folder("upper"), folder("work"), folder("volume"));
    fs::create_dir(base.join("etc")).unwrap();
    fs::write(base.join("etc/base"), "base").unwrap();
    fs::write(base.join("etc/gone"), "gone").unwrap();
    fs::create_dir(upper.join("etc")).unwrap();
    fs::write(upper.join("etc/own"), "own").unwrap();
    let mode = rustix::fs::Mode::empty();
    let whiteout = upper.join("etc/gone");
    rustix::fs::mknodat(rustix::fs::CWD, &whiteout, rustix::fs::FileType::CharacterDevice, mode, 0).unwrap();
    fs::set_permissions(&upper, PermissionsExt::from_mode(0o751)).unwrap();
    fs::write(volume.join("kept"), "in the volume").unwrap();
    let changed = |path: &Path| fs::metadata(path).map(|stat| (stat.ctime(), stat.ctime_nsec())).unwrap();
    let before = (changed(&upper), changed(&upper.join("etc")), names(&work));
    let tree = Tree {
        sources: Default::default(),
        rootfs: Rootfs::Overlay {
            lower: vec![base],
            upper: Some(Upper { upper: upper.clone(), work: work.clone(), volatile: false }),
        },
        // There is no such place in the layers.
        mounts: vec![mount("bind", &volume, "/srv/vol", &["rbind"])],
        read_only: false,
        writable: false,
        uids: Vec::new(),
        gids: Vec::new(),
    };
    let view = View::Stopped(&tree);
    let whole = packed(&house, view, "/", "/");
    assert_eq!(names(&whole.join("etc")), ["base", "own"]);
    assert_eq!(fs::read_to_string(whole.join("srv/vol/kept")).unwrap(), "in the volume");
    assert_eq!(found(examine(&house, view, place("/", true))).mode, 0o040_751);
    let renamed = packed(&house, view, "/etc", "other");
    assert_eq!(names(&renamed), ["other"]);
    assert_eq!((changed(&upper), changed(&upper.join("etc")), names(&work)), before);
    assert_eq!(names(&upper), ["etc"]);

    let lost = Tree { mounts: vec![mount("bind", Path::new("/no/such"), "/x", &["rbind"])], ..tree };
    match examine(&house, View::Stopped(&lost), place("/", true)) {
        Outcome::Failed { message } => assert!(message.contains("/no/such"), "{message}"),
        other => panic!("{other:?}"),
    }
}
