//! Workers: jobs done, jobs refused, jobs abandoned.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use hull_runtime::protocol::{Outcome, Work};
use hull_runtime::spawner::{Job, View};

use crate::house::{House, until, wait};

fn outcome(job: &Job) -> Outcome {
    wait(job);
    job.receive().unwrap().unwrap()
}

fn work(house: &House, work: Work, archive: &File, folder: &Path) -> Job {
    std::fs::create_dir_all(folder).unwrap();
    let folder = File::open(folder).unwrap();
    house.client.work(work, Some(archive.as_fd()), View::Folder(folder.as_fd())).unwrap()
}

#[test]
fn a_folder_packed_and_unpacked_is_the_same_folder() {
    let house = House::new();
    let (from, to) = (house.dir.path().join("from"), house.dir.path().join("to"));
    std::fs::create_dir_all(from.join("bin")).unwrap();
    std::fs::write(from.join("bin/tool"), vec![7; 3_000_000]).unwrap();
    std::os::unix::fs::chown(from.join("bin/tool"), Some(1234), Some(56)).unwrap();
    std::fs::set_permissions(from.join("bin/tool"), PermissionsExt::from_mode(0o4751)).unwrap();
    std::os::unix::fs::symlink("tool", from.join("bin/alias")).unwrap();
    let path = house.dir.path().join("layer.tar");
    let archive = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let packed = outcome(&work(&house, Work::Commit, &archive, &from));
    let Outcome::Committed { diff_id, archive_size, .. } = packed else {
        panic!("{packed:?}");
    };
    assert_eq!(std::fs::metadata(&path).unwrap().len(), archive_size);
    let archive = File::open(&path).unwrap();
    let unpacked = outcome(&work(&house, Work::ApplyLayer, &archive, &to));
    let Outcome::Applied { diff_id: same, blob, entries, .. } = unpacked else {
        panic!("{unpacked:?}");
    };
    assert_eq!((&same, &blob, entries), (&diff_id, &diff_id, 3));
    let tool = std::fs::metadata(to.join("bin/tool")).unwrap();
    assert_eq!((tool.mode() & 0o7777, tool.uid(), tool.gid()), (0o4751, 1234, 56));
    assert_eq!(std::fs::read(to.join("bin/alias")).unwrap(), vec![7; 3_000_000]);
}

#[test]
fn a_worker_that_is_stopped_is_heard_of_when_it_has_ended() {
    let house = House::new();
    // An archive that never ends: a pipe that somebody holds open.
    let (read, _write) = std::io::pipe().unwrap();
    let folder = house.dir.path().join("to");
    std::fs::create_dir_all(&folder).unwrap();
    let folder = File::open(&folder).unwrap();
    let view = View::Folder(folder.as_fd());
    let job = house.client.work(Work::ApplyPlain, Some(read.as_fd()), view).unwrap();
    job.stop();
    let ended = outcome(&job);
    assert!(matches!(&ended, Outcome::Failed { message } if message.contains("killed")), "{ended:?}");
    until("its end", || job.reaped());
}

#[test]
fn what_is_no_archive_is_refused_in_words() {
    let house = House::new();
    let path = house.dir.path().join("noise");
    std::fs::write(&path, vec![0xa5; 10_000]).unwrap();
    let job = work(&house, Work::ApplyPlain, &File::open(&path).unwrap(), &house.dir.path().join("to"));
    let refused = outcome(&job);
    assert!(matches!(&refused, Outcome::Failed { message } if !message.contains("killed")), "{refused:?}");
}

#[test]
fn a_worker_dies_with_its_requester() {
    let house = House::new();
    // An archive that never ends: a pipe that somebody holds open.
    let (read, mut write) = std::io::pipe().unwrap();
    let folder = house.dir.path().join("to");
    std::fs::create_dir_all(&folder).unwrap();
    let folder = File::open(&folder).unwrap();
    let job = house.client.work(Work::ApplyLayer, Some(read.as_fd()), View::Folder(folder.as_fd())).unwrap();
    drop(read);
    let children = format!("/proc/{0}/task/{0}/children", house.client.pid);
    until("the worker", || !std::fs::read_to_string(&children).unwrap().is_empty());
    let pid = std::fs::read_to_string(&children).unwrap().trim().to_owned();
    for kind in ["pid", "mnt", "net", "ipc", "uts"] {
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
        // It is in some of them only when it has come so far.
        until(&format!("a {kind} namespace of its own"), || {
            of(&pid).is_some_and(|own| Some(own) != of("self"))
        });
    }
    drop(job);
    until("the worker's end", || std::fs::read_to_string(&children).unwrap().is_empty());
    assert!(write.write_all(b"x").is_err(), "nobody reads the archive any more");
    let (output, exit) = house.run("after", "echo fine");
    assert_eq!((output.as_str(), exit.code), ("fine\n", 0));
}
