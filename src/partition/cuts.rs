//! The count of truncations, which a read checks before and after.
//!
//! # Invariant
//!
//! The count is odd while files are truncated or replaced. A read begins at an even count and is valid only if the
//! count is the same afterwards: then nothing was truncated while it read. The fences make that hold for the bytes of
//! files as well, which are read and changed without any ordering of their own:
//!
//! - The read saw a byte that the truncation changed. The fence of [`begin`](Cuts::begin) comes before the change, and
//!   the fence of the read comes after it saw the byte. So the read sees a count that is odd or higher.
//! - The read took a hold on bytes before the truncating thread looked for holds: then that thread finds the hold. If
//!   the read took its hold after that, it sees the count that was changed before that look.
//!
//! The truncating thread holds the appender's lock from before the beginning until after the end.

use crate::sync::atomic::Ordering;
use crate::sync::explored::{AtomicU64, fence};

/// Counts truncations: once before a file is cut and once after.
#[derive(Debug)]
pub(crate) struct Cuts(AtomicU64);

impl Cuts {
    pub(super) fn new() -> Cuts {
        Cuts(AtomicU64::new(0))
    }

    /// Begins to truncate or replace a file: a read under way is done again.
    pub(crate) fn begin(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
        // Before any byte is changed, and before the look at what is held.
        fence(Ordering::SeqCst);
    }

    /// Ends what [`begin`](Self::begin) began.
    pub(crate) fn end(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    /// Returns the count. It is odd while a file is truncated or replaced.
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Whether nothing was truncated since the count had this value, as far as everything read until now can show.
    pub(crate) fn is_still(&self, count: u64) -> bool {
        // Behind all that was read, and behind the hold that was taken.
        fence(Ordering::SeqCst);
        self.count() == count
    }

    /// Waits until no file is being truncated, and returns the count. `wait` takes the appender's lock once: a read
    /// that begins and ends within one truncation would not see the count change.
    pub(crate) fn settled(&self, wait: impl Fn()) -> u64 {
        loop {
            let count = self.count();
            if count.is_multiple_of(2) {
                return count;
            }
            wait();
        }
    }

    /// Reads, and reads again if a truncation came in between: the read may have returned bytes that are gone, or have
    /// taken them for damage.
    pub(crate) fn undisturbed<T>(&self, wait: impl Fn(), mut read: impl FnMut() -> T) -> T {
        loop {
            let count = self.settled(&wait);
            let done = read();
            if self.is_still(count) {
                return done;
            }
        }
    }
}

#[cfg(all(test, loom))]
mod tests;
