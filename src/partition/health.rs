//! Whether a partition accepts writes, and the reason if it does not.

use crate::error::{Error, ErrorKind, Result};
use crate::sync::atomic::Ordering;
use crate::sync::explored::{AtomicBool, Mutex};

/// The reason why a partition accepts no writes, or no reads past a point.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Set with `Release`, after `reason`.
    unwell: AtomicBool,
    reason: Mutex<Option<Error>>,
}

impl Health {
    /// Refuses writes for this reason from now on. The first reason is kept.
    pub(crate) fn fail(&self, reason: Error) {
        self.reason.lock().get_or_insert(reason);
        self.unwell.store(true, Ordering::Release);
    }

    /// Refuses everything for this reason, which replaces any earlier one.
    pub(crate) fn replace(&self, reason: Error) {
        *self.reason.lock() = Some(reason);
        self.unwell.store(true, Ordering::Release);
    }

    /// Fails when writes are refused.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        if self.unwell.load(Ordering::Acquire) {
            Err(self.reason().expect("a reason comes before the flag"))
        } else {
            Ok(())
        }
    }

    /// Whether writes are refused.
    #[inline]
    pub(crate) fn is_unwell(&self) -> bool {
        self.unwell.load(Ordering::Acquire)
    }

    /// Fails if nothing may be synced: a sync has failed, or another process may own the directory by now.
    pub(crate) fn check_syncable(&self) -> Result<()> {
        match self.check() {
            Err(reason) if matches!(reason.kind(), ErrorKind::Poisoned | ErrorKind::Closed) => Err(reason),
            _ => Ok(()),
        }
    }

    /// Whether a sync has failed: then only the part that was durable may be read.
    #[inline]
    pub(crate) fn is_poisoned(&self) -> bool {
        self.unwell.load(Ordering::Acquire) && self.reason().is_some_and(|e| *e.kind() == ErrorKind::Poisoned)
    }

    /// Returns the reason why writes are refused.
    pub(crate) fn reason(&self) -> Option<Error> {
        self.reason.lock().clone()
    }
}
