//! The two clocks that Hull writes down.

use rustix::time::{ClockId, Timespec, clock_gettime};

fn nanoseconds(time: Timespec) -> i64 {
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

/// Nanoseconds since the epoch: for records.
pub fn now() -> i64 {
    nanoseconds(clock_gettime(ClockId::Realtime))
}

/// Nanoseconds since the boot, time asleep included: for durations.
pub fn since_boot() -> i64 {
    nanoseconds(clock_gettime(ClockId::Boottime))
}
