//! Containers for real: what a process sees, how it fails, what it cannot reach. No test harness,
//! because it has threads and a threaded process may not fork. Needs root and busybox-static.
#![allow(clippy::print_stdout, reason = "a test without a harness reports by itself")]

mod attack;
mod errors;
mod fallback;
mod joined;
mod sources;
mod theft;
mod userns;
mod view;
mod world;

use hull_sys::process::{self, Namespaces};
use world::World;

pub(crate) type Test = (&'static str, fn(&World));

/// The list of a module's tests by their names.
macro_rules! tests {
    ($($name:ident)*) => { pub(crate) const TESTS: &[crate::Test] = &[$((stringify!($name), $name)),*]; };
}
pub(crate) use tests;

fn main() {
    assert!(rustix::process::geteuid().is_root(), "these tests need root");
    if std::env::args().nth(1).is_some_and(|word| word == theft::THIEF) {
        theft::lie_in_wait();
    }
    process::unshare(Namespaces::MOUNT).unwrap();
    rustix::mount::mount_change(
        "/",
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
    )
    .unwrap();
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let world = World::new();
    let mut failed = Vec::new();
    for (name, test) in [
        view::TESTS,
        errors::TESTS,
        joined::TESTS,
        sources::TESTS,
        userns::TESTS,
        attack::TESTS,
        theft::TESTS,
        fallback::TESTS,
    ]
    .concat()
    {
        if filter.as_ref().is_some_and(|filter| !name.contains(filter.as_str())) {
            continue;
        }
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&world))).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
}
