//! How a start fails: kind and words, as the reference has them, and nothing left behind.

use hull_runtime::bundle::{Bundle, Rootfs, StartErrorKind};
use hull_runtime::container::{StartOptions, Streams};

use crate::world::{World, mount, pipes};

crate::tests! {
    a_program_that_is_not_there_is_not_found
    a_program_that_cannot_be_executed_is_told_apart
    a_script_without_interpreter_fails_as_a_started_container
    a_missing_working_directory_is_made_and_a_file_as_one_is_refused
    a_missing_bind_source_and_a_mismatch_are_invalid
    a_failed_start_leaves_no_process_and_no_cgroup
    a_missing_root_is_told
    absurd_input_is_refused
    a_container_killed_while_it_is_prepared_is_an_error
}

fn error(world: &World, bundle: &Bundle) -> (StartErrorKind, String) {
    let error = world.run(bundle).unwrap_err();
    (error.kind, error.message)
}

fn a_program_that_is_not_there_is_not_found(world: &World) {
    for (program, message) in [
        ("nosuchcmd", "exec: \"nosuchcmd\": executable file not found in $PATH"),
        ("/nosuch/path", "exec: \"/nosuch/path\": stat /nosuch/path: no such file or directory"),
    ] {
        let got = error(world, &world.bundle(&[program]));
        assert_eq!(got, (StartErrorKind::NotFound, message.to_owned()));
    }
}

fn a_program_that_cannot_be_executed_is_told_apart(world: &World) {
    for (program, message) in [
        ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
        ("/etc", "exec: \"/etc\": is a directory: permission denied"),
        ("/etc/passwd/x", "exec: \"/etc/passwd/x\": stat /etc/passwd/x: not a directory"),
    ] {
        let got = error(world, &world.bundle(&[program]));
        assert_eq!(got, (StartErrorKind::NotExecutable, message.to_owned()));
    }
}

fn a_script_without_interpreter_fails_as_a_started_container(world: &World) {
    use std::os::unix::fs::PermissionsExt;
    let path = world.lower().join("bin/broken");
    std::fs::write(&path, "#!/nosuch/interpreter\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = world.run(&world.bundle(&["broken"])).unwrap();
    assert_eq!((output.code, &*output.err), (255, "exec /bin/broken: no such file or directory\n"));
    std::fs::write(&path, "no program").unwrap();
    let output = world.run(&world.bundle(&["broken"])).unwrap();
    assert_eq!((output.code, &*output.err), (255, "exec /bin/broken: exec format error\n"));
}

fn a_missing_working_directory_is_made_and_a_file_as_one_is_refused(world: &World) {
    let mut bundle = world.bundle(&["pwd"]);
    bundle.spec.process.as_mut().unwrap().cwd = "/new/place".into();
    assert_eq!(world.output(&bundle), "/new/place\n");
    bundle = world.bundle(&["pwd"]);
    bundle.spec.process.as_mut().unwrap().cwd = "/etc/passwd".into();
    let words = "chdir to cwd (\"/etc/passwd\") set in config.json failed: not a directory";
    assert_eq!(error(world, &bundle), (StartErrorKind::Invalid, words.to_owned()));
}

fn a_missing_bind_source_and_a_mismatch_are_invalid(world: &World) {
    let mut bundle = world.bundle(&["true"]);
    bundle.spec.mounts.push(mount("/x", "bind", "/nosuch/source", "rbind"));
    let (kind, message) = error(world, &bundle);
    assert_eq!(kind, StartErrorKind::Invalid);
    assert!(message.ends_with("stat /nosuch/source: no such file or directory"), "{message}");
    let file = world.canary().join("file");
    for (source, destination) in [(file.to_str().unwrap(), "/etc"), ("/tmp", "/etc/passwd")] {
        let mut bundle = world.bundle(&["true"]);
        bundle.spec.mounts.push(mount(destination, "bind", source, "rbind"));
        let (kind, message) = error(world, &bundle);
        assert_eq!(kind, StartErrorKind::Invalid);
        assert!(
            message.starts_with(&format!("error mounting {source:?} to rootfs at {destination:?}: ")),
            "{message}"
        );
        assert!(
            message.contains("Are you trying to mount a directory onto a file (or vice-versa)?"),
            "{message}"
        );
    }
}

fn a_failed_start_leaves_no_process_and_no_cgroup(world: &World) {
    let bundle = world.bundle(&["nosuchcmd"]);
    error(world, &bundle);
    let path = &bundle.spec.linux.cgroups_path;
    assert!(hull_runtime::cgroup::Cgroup::open(&world.hierarchies, path).is_err());
    assert_eq!(hull_sys::process::reap().unwrap(), None);
}

fn a_missing_root_is_told(world: &World) {
    let mut bundle = world.bundle(&["true"]);
    bundle.rootfs = Rootfs::Directory("/nosuch/root".into());
    let (kind, message) = error(world, &bundle);
    assert_eq!(kind, StartErrorKind::Invalid);
    assert!(message.contains("/nosuch/root"), "{message}");
    bundle = world.bundle(&["echo", "fine"]);
    bundle.rootfs = Rootfs::Directory(world.lower());
    assert_eq!(world.output(&bundle), "fine\n");
    bundle = world.bundle(&["sh", "-c", "echo > /x; echo fine"]);
    bundle.rootfs = Rootfs::Overlay { lower: vec![world.lower()], upper: None };
    let output = world.run(&bundle).unwrap();
    assert_eq!((&*output.out, &*output.err), ("fine\n", "sh: can't create /x: Read-only file system\n"));
}

fn absurd_input_is_refused(world: &World) {
    let mut bundle = world.bundle(&["true"]);
    bundle.spec.process.as_mut().unwrap().env.push("X".repeat(200_000));
    assert_eq!(error(world, &bundle).0, StartErrorKind::Invalid);
    bundle = world.bundle(&["true"]);
    bundle.spec.process.as_mut().unwrap().args = Vec::new();
    assert_eq!(error(world, &bundle).0, StartErrorKind::Invalid);
    bundle = world.bundle(&["true"]);
    bundle.spec.process.as_mut().unwrap().user.uid = u32::MAX;
    assert!(error(world, &bundle).1.starts_with("uids and gids must be in range"));
    bundle = world.bundle(&["true"]);
    bundle.spec.hostname = "h".repeat(100);
    assert_eq!(error(world, &bundle).0, StartErrorKind::Invalid);
    bundle = world.bundle(&["x\0y"]);
    assert_eq!(error(world, &bundle).0, StartErrorKind::Invalid);
}

fn a_container_killed_while_it_is_prepared_is_an_error(world: &World) {
    // 64 KiB of memory: the kernel kills the first process or refuses what it needs.
    let mut bundle = world.bundle(&["true"]);
    bundle.spec.linux.resources.memory.limit = Some(64 * 1024);
    let (streams, ..) = pipes();
    match world.start_with(&bundle, &streams, None, &StartOptions::default()) {
        Err(error) => assert!(!error.message.is_empty()),
        Ok(started) => {
            // Killed after the exec: as good, but it must have been killed.
            assert_eq!(crate::world::end(started.pidfd, &started.cgroup), 137);
        }
    }
    let _: Streams = streams;
}
