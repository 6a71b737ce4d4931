//! Offsets and timestamps as types of their own, so that they are never mixed up.

use std::fmt;
use std::ops::Add;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The place of a record in its partition: 0 for the first, growing by one with each record.
///
/// Offsets are 64-bit; the format stores them signed, so the largest is [`Offset::MAX`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(u64);

impl Offset {
    /// The first offset of a partition.
    pub const ZERO: Offset = Offset(0);
    /// The largest offset that the format can hold.
    pub const MAX: Offset = Offset(i64::MAX as u64);

    /// An offset; values above [`Offset::MAX`] are capped there, and so name an offset that no partition holds.
    pub const fn new(value: u64) -> Offset {
        if value > Offset::MAX.0 { Offset::MAX } else { Offset(value) }
    }

    /// An offset as the format stores it; `None` when negative.
    pub const fn from_i64(value: i64) -> Option<Offset> {
        if value < 0 { None } else { Some(Offset(value as u64)) }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number as the format stores it.
    pub const fn as_i64(self) -> i64 {
        self.0 as i64
    }

    /// How many offsets lie between `earlier` and this one; 0 when `earlier` is the later.
    pub const fn since(self, earlier: Offset) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<u64> for Offset {
    type Output = Offset;

    fn add(self, count: u64) -> Offset {
        Offset::new(self.0.saturating_add(count))
    }
}

impl From<u64> for Offset {
    fn from(value: u64) -> Offset {
        Offset::new(value)
    }
}

impl From<Offset> for u64 {
    fn from(offset: Offset) -> u64 {
        offset.0
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.0)
    }
}

/// Milliseconds since the Unix epoch, as records carry them. [`Timestamp::NONE`] (-1) stands for "no timestamp".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Timestamp(i64);

impl Timestamp {
    /// No timestamp: what an empty batch carries.
    pub const NONE: Timestamp = Timestamp(-1);

    /// A timestamp of so many milliseconds since the Unix epoch.
    pub const fn from_millis(millis: i64) -> Timestamp {
        Timestamp(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// The time of the operating system's clock.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use stratalog::Timestamp;
    ///
    /// let now = Timestamp::now();
    /// assert!(now > Timestamp::from_millis(1_600_000_000_000));
    /// let later = SystemTime::from(now.plus(Duration::from_secs(1)));
    /// assert_eq!(Timestamp::from(later).millis_since(now), 1000);
    /// ```
    pub fn now() -> Timestamp {
        SystemTime::now().into()
    }

    /// This time, later by a duration; whole milliseconds count.
    pub fn plus(self, time: Duration) -> Timestamp {
        self.plus_millis(millis(time))
    }

    /// This time, earlier by a duration; whole milliseconds count.
    pub fn minus(self, time: Duration) -> Timestamp {
        self.plus_millis(-millis(time))
    }

    /// This time, later by so many milliseconds.
    pub const fn plus_millis(self, millis: i64) -> Timestamp {
        Timestamp(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to this time; negative when `earlier` is the later.
    pub const fn millis_since(self, earlier: Timestamp) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Whole milliseconds count.
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Timestamp {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Timestamp(millis(since)),
            Err(before) => Timestamp(-millis(before.duration())),
        }
    }
}

/// Times that the system cannot tell become the Unix epoch.
impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> SystemTime {
        let millis = Duration::from_millis(time.0.unsigned_abs());
        let told = if time.0 < 0 { UNIX_EPOCH.checked_sub(millis) } else { UNIX_EPOCH.checked_add(millis) };
        told.unwrap_or(UNIX_EPOCH)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_stop_at_the_largest_that_the_format_holds() {
        assert_eq!(Offset::new(u64::MAX), Offset::MAX);
        assert_eq!(Offset::MAX + 1, Offset::MAX);
        assert_eq!(Offset::from_i64(-1), None);
        assert_eq!(Offset::new(3).since(Offset::new(5)), 0);
    }

    #[test]
    fn times_stop_at_the_ends_of_their_range_and_go_to_the_system_and_back() {
        let second = Duration::from_secs(1);
        let at = Timestamp::from_millis(500);
        assert_eq!((at.plus(second).as_millis(), at.minus(second).as_millis()), (1500, -500));
        assert_eq!(at.plus(Duration::MAX).as_millis(), i64::MAX);
        assert_eq!(Timestamp::NONE.minus(Duration::MAX).as_millis(), i64::MIN);
        for time in [at, at.minus(second), Timestamp::from_millis(0)] {
            assert_eq!(Timestamp::from(SystemTime::from(time)), time);
        }
    }
}
