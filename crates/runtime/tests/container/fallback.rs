//! The same containers on a kernel without the new mount API, or without openat2: a filter around
//! the test makes the calls ENOSYS, and the program must get the same view.

use hull_oci::runtime::{Seccomp, SyscallRule};
use hull_sys::process::{self, Forked};

use crate::world::World;
use crate::{Test, attack, errors, view};

crate::tests! {
    without_the_new_mount_api_a_container_looks_the_same
    without_openat2_a_container_looks_the_same_and_reaches_no_more
}

/// Tests that say nothing of the new API themselves.
const SAME: [&str; 16] = [
    "hundreds_of_layers_are_one_root",
    "a_program_runs_and_its_code_and_output_come_back",
    "capabilities_are_exactly_those_asked_and_never_inheritable",
    "no_descriptor_above_two_reaches_the_program",
    "dev_has_the_default_devices_links_and_asked_ones",
    "the_mount_table_has_only_the_containers_own",
    "masked_paths_are_empty_and_read_only_paths_refuse_writes",
    "a_read_only_root_refuses_writes_but_its_tmpfs_does_not",
    "binds_show_host_files_with_their_options",
    "a_terminal_is_the_containers_own_and_controlling",
    "kernel_settings_of_own_namespaces_are_written",
    "the_cgroup_view_shows_the_own_cgroup_read_only",
    "the_root_descriptor_resolves_inside_the_container",
    "the_host_mount_table_is_unchanged",
    "a_missing_root_is_told",
    "a_missing_bind_source_and_a_mismatch_are_invalid",
];

/// Attacks on paths, which must fail however these are resolved.
const ATTACKS: [&str; 4] = [
    "an_images_symlinks_lead_no_mount_to_the_host",
    "a_symlink_as_proc_is_refused",
    "a_working_directory_through_a_descriptor_is_refused",
    "a_volume_that_swaps_folder_and_symlink_leads_no_mount_to_the_host",
];

fn without_the_new_mount_api_a_container_looks_the_same(world: &World) {
    let calls = ["open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr"];
    without(world, &calls, &chosen(&SAME), || {
        let error = hull_sys::mount::new("tmpfs", &[], 0).unwrap_err();
        assert_eq!(error.errno, hull_sys::Errno::NOSYS);
    });
}

fn without_openat2_a_container_looks_the_same_and_reaches_no_more(world: &World) {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
    without(world, &["openat2"], &chosen(&[&SAME[..], &ATTACKS].concat()), || {
        let opened = rustix::fs::openat2(CWD, "/", OFlags::PATH, Mode::empty(), ResolveFlags::empty());
        assert_eq!(opened.unwrap_err(), hull_sys::Errno::NOSYS);
    });
}

fn chosen(names: &[&str]) -> Vec<Test> {
    let all = [view::TESTS, errors::TESTS, attack::TESTS].concat();
    let chosen: Vec<_> = all.into_iter().filter(|(name, _)| names.contains(name)).collect();
    assert_eq!(chosen.len(), names.len());
    chosen
}

/// Runs the tests in processes to which these calls are ENOSYS; `control` shows that they are.
fn without(world: &World, calls: &[&str], tests: &[Test], control: fn()) {
    let profile = Seccomp {
        default_action: "SCMP_ACT_ALLOW".into(),
        architectures: vec!["SCMP_ARCH_X86_64".into()],
        syscalls: vec![SyscallRule {
            names: calls.iter().map(|&call| call.to_owned()).collect(),
            action: "SCMP_ACT_ERRNO".into(),
            errno_ret: Some(38),
            args: Vec::new(),
        }],
        ..Seccomp::default()
    };
    let filter = hull_runtime::seccomp::compile(&profile).unwrap();
    for (name, test) in tests {
        // A filter is for good, so each is in a fork.
        let child = match process::fork().unwrap() {
            Forked::Parent(child) => child,
            Forked::Child => {
                hull_sys::seccomp::install(&filter.filter, filter.flags).unwrap();
                control();
                let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(world))).is_ok();
                process::exit_now(i32::from(!passed))
            }
        };
        let ended = process::wait(&child.pidfd, true).unwrap().unwrap();
        assert_eq!(ended.code(), 0, "{name}");
    }
}
