//! `cargo xtask demo` and `cargo xtask test` on a machine that lacks something: one line that names
//! it, before anything is built or installed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use hull_testkit::{Finished, run};

/// A folder with the developer's tool, and what it must not call in place of cargo and apt-get.
struct Yard(tempfile::TempDir);

impl Yard {
    fn new() -> Yard {
        let folder = tempfile::tempdir().unwrap();
        // The ordinary user must get in, and leave a mark if something is called.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let tool = Path::new(env!("CARGO_BIN_EXE_hull")).with_file_name("xtask");
        fs::copy(&tool, folder.path().join("xtask"))
            .unwrap_or_else(|error| panic!("{}: {error}: use `cargo xtask test`", tool.display()));
        for name in ["cargo", "apt-get"] {
            let program = folder.path().join(name);
            fs::write(&program, "#!/bin/sh\necho $0 $* >>${0%/*}/called\nexit 1\n").unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Yard(folder)
    }

    /// `xtask WORD` at the end of a script that takes something away; `$YARD` is the folder.
    fn xtask(&self, script: &str, word: &str) -> Finished {
        let folder = self.0.path().display();
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{script} {folder}/xtask {word}")]).current_dir(self.0.path());
        command.env("YARD", self.0.path()).env("CARGO", self.0.path().join("cargo"));
        command.env("PATH", format!("{folder}:{}", std::env::var("PATH").unwrap()));
        run(&mut command, b"")
    }

    fn called(&self) -> String {
        fs::read_to_string(self.0.path().join("called")).unwrap_or_default()
    }
}

/// Both commands stop with the one line that has `named`.
#[track_caller]
fn stops(script: &str, named: &str) {
    let yard = Yard::new();
    for word in ["demo", "test"] {
        let finished = yard.xtask(script, word);
        finished.fails(1, named);
        assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
        assert_eq!(finished.stdout, "", "{finished}");
        assert_eq!(yard.called(), "", "{finished}");
    }
}

#[test]
fn a_machine_that_lacks_nothing_is_not_stopped() {
    let yard = Yard::new();
    let finished = yard.xtask("exec", "demo");
    assert!(finished.code != 0 && yard.called().contains("/cargo build"), "{finished}: {}", yard.called());
}

#[test]
fn an_ordinary_user_is_told_to_be_root() {
    stops("exec setpriv --reuid 65534 --regid 65534 --clear-groups", "containers need root here");
}

#[test]
fn root_without_rights_is_told_which() {
    stops("exec setpriv --bounding-set -sys_admin", "lacks CAP_SYS_ADMIN");
}

/// Runs the rest of a script in a mount namespace of its own.
fn in_own_mounts(script: &str) -> String {
    format!("exec unshare --mount --propagation private -- sh -c '{script} && exec \"$@\"' sh")
}

#[test]
fn a_kernel_without_overlayfs_is_named_so() {
    let without = "grep -v overlay /proc/filesystems >$YARD/filesystems && \
                   mount --bind $YARD/filesystems /proc/filesystems && export PATH=$YARD";
    stops(&in_own_mounts(without), "lacks overlayfs (CONFIG_OVERLAY_FS)");
}

#[test]
fn a_machine_without_mounted_cgroups_is_told_to_mount_them() {
    let without = "grep \" - cgroup\" /proc/self/mountinfo | cut -d \" \" -f 5 | sort -r | \
                   while read place; do umount -l $place || exit 1; done";
    stops(&in_own_mounts(without), "no control groups are mounted");
}
