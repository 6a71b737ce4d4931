//! Waiting for an end of the log, and waking the waiters.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{ErrorKind, Result};
use crate::offset::Offset;
use crate::sync::Instant;
use crate::sync::atomic::Ordering;

use super::core::PartitionCore;
use super::isolation::Isolation;
use super::waiters::{Reached, WaitOutcome};

impl PartitionCore {
    /// Wakes the waiters that an append has satisfied. Called without the appender's lock: a waker is foreign code and
    /// may append.
    #[inline]
    pub(crate) fn announce(&self) {
        let end = self.end().get();
        self.waiters.end.notify_fenced(end);
        if !self.config_cache.managed.load(Ordering::Relaxed) {
            self.waiters.high_watermark.notify_fenced(end);
        }
        if self.waiters.stable.has_waiters() {
            self.waiters.stable.notify_fenced(self.last_stable().get());
        }
        if self.health.is_poisoned() {
            self.tell_failure();
        }
    }

    /// Wakes the waiters of all ends, after work under locks that may have moved an end, or failed. Called without any
    /// lock.
    pub(crate) fn tell(&self) {
        // Orders the stores of the ends before the check for waiters, here and in `announce`.
        self.waiters.durable.notify(self.group_commit.end().get());
        self.announce();
    }

    #[cold]
    fn tell_failure(&self) {
        if let Some(reason) = self.health.reason() {
            self.waiters.close(&reason).call();
        }
    }

    /// Waits until a reader of this isolation sees the log up to `target`.
    pub(crate) fn wait(&self, isolation: Isolation, target: Offset, timeout: Option<Duration>) -> Result<WaitOutcome> {
        self.wait_where(isolation, target, timeout, || Ok(()))
    }

    /// Like [`wait`](Self::wait). An error of `check`, which is called at each look at the end, also ends the wait.
    pub(crate) fn wait_where(
        &self,
        isolation: Isolation,
        target: Offset,
        timeout: Option<Duration>,
        check: impl Fn() -> Result<()>,
    ) -> Result<WaitOutcome> {
        self.check_open()?;
        // A deadline that the clock cannot represent never comes.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let current = || check().map(|()| self.waited_for(isolation));
        self.waiters.of(isolation).wait(target.get(), current, deadline)
    }

    /// Like [`wait`](Self::wait), as a future. The future does not keep the partition alive.
    pub(crate) fn future(
        &self,
        isolation: Isolation,
        target: Offset,
    ) -> Reached<impl FnMut() -> Result<u64> + Send + Unpin + 'static> {
        self.future_where(isolation, target, |_| Ok(()))
    }

    /// Like [`future`](Self::future). An error of `check`, which is called at each look at the end, also ends the wait.
    pub(crate) fn future_where(
        &self,
        isolation: Isolation,
        target: Offset,
        check: impl Fn(&PartitionCore) -> Result<()> + Send + Unpin + 'static,
    ) -> Reached<impl FnMut() -> Result<u64> + Send + Unpin + 'static> {
        let me = self.weak();
        let mut begun = false;
        let current = move || {
            let me = me.upgrade().ok_or(ErrorKind::Closed)?;
            if !std::mem::replace(&mut begun, true) {
                me.check_open()?;
            }
            check(&me).map(|()| me.waited_for(isolation))
        };
        Reached::new(Arc::clone(self.waiters.of(isolation)), target.get(), current)
    }

    /// Returns the end that a waiter of this isolation waits for. It does not check whether the log is open: only the
    /// start of a wait does. So a waiter that began before the log was closed still learns what was reached by then.
    fn waited_for(&self, isolation: Isolation) -> u64 {
        match isolation {
            Isolation::End => self.end(),
            Isolation::Durable => self.group_commit.end(),
            Isolation::HighWatermark => self.high_watermark(),
            Isolation::Committed => self.last_stable(),
        }
        .get()
    }
}
