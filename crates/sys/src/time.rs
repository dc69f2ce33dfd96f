//! The two clocks that Hull writes down, and the time of day that people read.

use std::mem::MaybeUninit;

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

/// A moment in the time zone of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// Of the common era.
    pub year: i32,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    pub minute: u8,
}

/// What the clock on the wall shows so many seconds after the epoch (localtime_r(3)); nothing
/// where the year does not fit.
pub fn local(seconds: i64) -> Option<Local> {
    let mut parts = MaybeUninit::<libc::tm>::uninit();
    // SAFETY: both point to values of their types that live through the call; localtime_r fills in
    // the second whenever it does not return null.
    let parts = unsafe {
        if libc::localtime_r(&raw const seconds, parts.as_mut_ptr()).is_null() {
            return None;
        }
        parts.assume_init()
    };
    let small = |number: i32| u8::try_from(number).ok();
    Some(Local {
        year: parts.tm_year.checked_add(1900)?,
        month: small(parts.tm_mon + 1)?,
        day: small(parts.tm_mday)?,
        hour: small(parts.tm_hour)?,
        minute: small(parts.tm_min)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_later_is_the_next_day_at_the_same_minute() {
        let (one, next) = (local(1_000_000_000).unwrap(), local(1_000_000_000 + 86_400).unwrap());
        assert_eq!((one.year, one.month), (2001, 9));
        assert_eq!((next.day, next.hour, next.minute), (one.day + 1, one.hour, one.minute));
        assert_eq!(local(i64::MAX), None);
    }
}
