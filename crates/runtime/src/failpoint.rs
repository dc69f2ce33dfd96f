//! Places in the code at which a test can kill the process (compiled in by the feature
//! `failpoints`, which only test builds have; without it a failpoint is nothing).
//!
//! The environment variable `HULL_FAILPOINTS` of the daemon, handed on to the spawner it starts, is
//! either a point's name: every process that passes it kills itself with SIGKILL. Or it is the
//! absolute path of a file that holds one line, `NAME` or `NAME COUNT`: the process that passes
//! that point (for the COUNT-th time, counted over all processes) removes the file before it kills
//! itself. So a test arms a point by writing the file, at any time, and it fires once. With the
//! line `NAME pause FIFO` it does not kill itself but reads the FIFO to its end: the test that opens
//! it to write waits until the point is passed, and by closing it lets the process go on.
//!
//! The names that exist:
//!
//! | name | where |
//! |---|---|
//! | `spawner.launch.before-fork` | spawner: a launch was understood, nothing is forked |
//! | `spawner.launch.after-fork` | spawner: the shim is forked, not yet noted |
//! | `shim.start.before` | shim: its folder, record and socket are made, the process is not |
//! | `shim.start.after` | shim: the process runs, nobody was told |
//! | `shim.started` | shim: started was said |
//! | `shim.exit.reaped` | shim: the process has ended, its output is not yet read to the end |
//! | `shim.exit.before-record` | shim: log and cgroup are done with, the exit is not recorded |
//! | `shim.exit.before-announce` | shim: the exit is recorded and not announced |
//! | `shim.exit.announced` | shim: the exit was announced, the shim still there |
//! | `engine.create.half-way` | daemon: the container's files are made, its writable layer is not |
//! | `engine.create.before-commit` | daemon: all is made, no record names it |
//! | `engine.create.after-commit` | daemon: the record is durable, nobody was told |
//! | `engine.start.before-launch` | daemon: the bundle is compiled, no shim is asked for |
//! | `engine.start.after-launch` | daemon: a shim was asked for |
//! | `engine.start.started` | daemon: the shim has said started, nothing is noted |
//! | `engine.signal.before` | daemon: a stop or removal by force is durable, the signal is not sent |
//! | `engine.signal.sent` | daemon: the signal is sent |
//! | `engine.exit.before-commit` | daemon: the exit was heard, nothing is noted |
//! | `engine.exit.committed` | daemon: the exit is durable, nobody was told |
//! | `engine.exec.before-launch` | daemon: the exec is compiled, no shim is asked for |
//! | `engine.exec.after-launch` | daemon: a shim was asked for |
//! | `engine.archive.after-launch` | a worker that has a container's tree for its root was asked for |
//! | `engine.exec.started` | daemon: the exec's shim has said started |
//! | `engine.exec.ended` | daemon: the exec's end (or that it could not start) was heard |
//! | `engine.remove.committed` | daemon: that it is being removed is durable, all is still there |
//! | `engine.remove.half-way` | daemon: cgroup and writable layer have gone, its files have not |
//! | `engine.remove.before-row` | daemon: all has gone but the record |
//! | `engine.remove.row-gone` | daemon: the record has gone, nobody was told |
//! | `engine.volume-create.made` | daemon: a volume's folder is made, no record names it |
//! | `engine.volume-create.committed` | daemon: its record is durable, the folder is still marked as new |
//! | `engine.volume-remove.discarded` | daemon: a volume's folder is in the trash, its record is still there |
//! | `engine.volume-remove.row-gone` | daemon: its record has gone, its space is not freed |
//! | `engine.commit.frozen` | daemon: a container is frozen for its commit, nothing is read |
//! | `engine.commit.packed` | daemon: its layer is read, the archive has no name |
//! | `engine.commit.published` | daemon: it has, no image names it |
//! | `engine.commit.committed` | daemon: the image is durable, the container is still frozen |
//! | `engine.commit.thawed` | daemon: it goes on, nobody was told |
//! | `engine.build.receiving` | daemon: a worker that unpacks a context was asked for |
//! | `engine.build.copying` | daemon: a worker that changes a step's files was asked for |
//! | `engine.build.packed` | daemon: the layer of a step is read, its archive has no name |
//! | `engine.build.published` | daemon: it has, the step's files are not a layer yet |
//! | `engine.build.adopted` | daemon: they are, nothing leads to it |
//! | `engine.build.remembering` | daemon: a step is known, its row is not durable |
//! | `engine.build.remembered` | daemon: it is |
//! | `engine.build.storing` | daemon: all steps are done, the image is not stored |
//! | `engine.build.stored` | daemon: the image is durable, nobody was told |
//! | `engine.images.unpacked` | daemon: the files of a layer are unpacked and have no name |
//! | `engine.images.synced` | daemon: what was stored is on the disk and still marked as if it were not |
//! | `engine.users.made` | daemon: a container's user namespace is made, nothing is in it |
//! | `engine.volume.claimed` | daemon: the folders of a container's new volumes are made, no record names them |
//! | `engine.fill.copied` | daemon: the first content of a volume is complete, beside it |
//! | `engine.fill.placed` | daemon: it is in the volume, its mark is still there |
//! | `engine.fill.synced` | daemon: it is on the disk, its mark is still there |
//! | `engine.push.piece` | daemon: some bytes of a layer are on their way to a registry |
//! | `engine.push.layer` | daemon: the registry has a layer, nobody was told |
//! | `engine.push.manifest` | daemon: the registry has the manifest, nothing is noted |
//! | `engine.push.named` | daemon: the image has its name by digest, nobody was told |
//! | `engine.volume.releasing` | daemon: a volume goes with its container, all is still there |
//! | `engine.volume.mounted` | daemon: a volume's file system is mounted for a container that is about to start |
//! | `engine.volume.unmounting` | daemon: nobody who runs has it any more, it is still mounted |
//! | `engine.network.claimed` | daemon: a container's addresses are chosen, nothing is noted |
//! | `engine.network.published` | daemon: a container's ports are bound, nothing is noted |
//! | `engine.network.noted` | daemon: what a container gets is on record, no link is made |
//! | `engine.network.linked` | daemon: its links are made, its rules may not be in force |
//! | `engine.network.attached` | daemon: a container's links are made, no shim is asked for |
//! | `engine.network.named` | daemon: its names are known, too |
//! | `engine.network.forbidden` | daemon: the rules of a container that has ended go, its ports are still bound |
//! | `engine.network.parted` | daemon: its ports are free, its links are still there |
//! | `engine.network.cut` | daemon: its links have gone, its addresses are not free |
//! | `engine.network.renaming` | daemon: a running container has another name, on record it has the old one on its networks |
//! | `engine.network.refilling` | daemon: a namespace that is to be kept ready is half made |
//! | `engine.relay.started` | daemon: the forwarder runs, nothing leads to it |
//! | `engine.network.joining` | daemon: a running container has an address on one more network, and no link |
//! | `engine.network.joined` | daemon: it is connected, nobody was told |
//! | `engine.network.leaving` | daemon: a running container is on a network no more, its link is still there |
//! | `engine.network.left` | daemon: it is disconnected, nobody was told |
//! | `engine.forwarding.noted` | daemon: what of the host's forwarding is off is on record |
//! | `engine.forwarding.guarded` | daemon: the rules keep strangers out, forwarding is still off |
//! | `engine.network-create.reserved` | daemon: a network's name and subnets are chosen, nothing is durable |
//! | `engine.network-create.committed` | daemon: the network's record is durable, its links are not made |
//! | `engine.network-create.linked` | daemon: its links are made, its rules are not |
//! | `engine.network-create.made` | daemon: the network is ready, nobody was told |
//! | `engine.network-remove.before` | daemon: nobody can join the network any more, all is still there |
//! | `engine.network-remove.closed` | daemon: its rules have gone, its links are still there |
//! | `engine.network-remove.before-row` | daemon: its links have gone, its record has not |
//! | `engine.network-remove.row-gone` | daemon: its record has gone, nobody was told |

/// The environment variable that names the file.
pub const VARIABLE: &str = "HULL_FAILPOINTS";

/// Kills this process if a test has armed the point `$name`.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoint::pass($name);
    };
}

/// The process has come to the point `name`.
#[cfg(feature = "failpoints")]
pub fn pass(name: &str) {
    let Some(file) = std::env::var_os(VARIABLE) else {
        return;
    };
    if file == name {
        die();
    }
    // So that threads that pass at the same moment are all counted.
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let turn = TURN.lock();
    let Ok(text) = std::fs::read_to_string(&file) else {
        return;
    };
    let (armed, count) = text.trim().split_once(' ').unwrap_or((text.trim(), "1"));
    if armed != name {
        return;
    }
    if let Some(fifo) = count.strip_prefix("pause ") {
        let _ = std::fs::remove_file(&file);
        // Others pass meanwhile.
        drop(turn);
        let _ = std::fs::read(fifo);
        return;
    }
    match count.parse::<u32>() {
        Ok(count) if count > 1 => {
            let _ = std::fs::write(&file, format!("{name} {}", count - 1));
        }
        _ => {
            let _ = std::fs::remove_file(&file);
            die();
        }
    }
}

#[cfg(feature = "failpoints")]
fn die() {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}
