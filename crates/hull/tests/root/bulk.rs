//! Many at once: all run, all go, and the machine is as it was.

use std::sync::atomic::{AtomicUsize, Ordering};

use hull_testkit::Baseline;

use super::host;

#[test]
fn two_hundred_containers_sixteen_at_a_time_run_and_go() {
    let host = host();
    // The first start and stop create what stays for good (parent cgroups).
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    let before = Baseline::of(&host);
    let each = |work: &(dyn Fn(usize) + Sync)| {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= 200 {
                            break;
                        }
                        work(number);
                    }
                });
            }
        });
    };
    each(&|number| {
        host.hull(&["run", "-d", "--name", &format!("c{number}"), "busybox", "sleep", "1000"]).ok();
    });
    assert_eq!(host.hull(&["ps", "-q"]).ok().lines().count(), 200);
    each(&|number| {
        let name = format!("c{number}");
        match number % 2 {
            0 => host.hull(&["rm", "-f", &name]).ok().to_owned(),
            _ => host.docker(&["rm", "-f", &name]).ok().to_owned(),
        };
    });
    assert_eq!(host.hull(&["ps", "-aq"]).ok(), "");
    before.returns(&host);
}
