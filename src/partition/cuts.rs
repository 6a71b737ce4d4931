//! The count of truncations that a read looks at before and after.
//!
//! # Invariant
//!
//! The count is odd while files are cut or replaced. A read begins at an even count and is believed only where the count
//! is the same afterwards, so nothing was cut while it read. The fences make that hold for the bytes of files as well,
//! which are read and changed without any order of their own:
//!
//! - The read saw a byte that was changed by the cut: the fence of [`begin`](Cuts::begin) comes before the change, the
//!   one of the read behind the look at the byte, so the read sees that the count is odd, or higher.
//! - The read has got hold of bytes before the thread that cuts looked for holders: that thread finds the hold. Else the
//!   read got it after the look, and sees the count that was changed before the look.
//!
//! The thread that cuts has the appender from before the beginning until after the end.

use crate::sync::atomic::Ordering;
use crate::sync::explored::{AtomicU64, fence};

/// Counts truncations: before a file is cut and after.
#[derive(Debug)]
pub(crate) struct Cuts(AtomicU64);

impl Cuts {
    pub(super) fn new() -> Cuts {
        Cuts(AtomicU64::new(0))
    }

    /// A file is cut, or replaced, from now on: a read that is under way is done again.
    pub(crate) fn begin(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
        // Before any byte is changed, and before the look at what is held.
        fence(Ordering::SeqCst);
    }

    /// What was to be cut is cut.
    pub(crate) fn end(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    /// How often files were cut: odd while one is.
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Whether nothing was cut since the count was this, as far as everything read until now can tell.
    pub(crate) fn is_still(&self, count: u64) -> bool {
        // Behind all that was read, and behind the hold that was taken.
        fence(Ordering::SeqCst);
        self.count() == count
    }

    /// Waits until no file is being cut, by `wait`, which has the appender once: a read that begins and ends meanwhile
    /// would not see the count change. Returns the count.
    pub(crate) fn settled(&self, wait: impl Fn()) -> u64 {
        loop {
            let count = self.count();
            if count.is_multiple_of(2) {
                return count;
            }
            wait();
        }
    }

    /// Reads, and reads again where a truncation has come in between: the read may have shown bytes that are gone, or
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
