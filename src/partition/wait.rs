//! Waiting for an end of the log, and waking those who wait.

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
    /// Wakes who waits for what was appended. Called without the appender: a waker is foreign code, and may append.
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

    /// Wakes who waits for any end, after work under locks that may have moved one, or failed. Called without a lock.
    pub(crate) fn tell(&self) {
        // Orders what was moved before the look at the waiters, here and in what follows.
        self.waiters.durable.notify(self.group_commit.end().get());
        self.announce();
    }

    #[cold]
    fn tell_failure(&self) {
        if let Some(reason) = self.health.reason() {
            self.waiters.close(&reason).call();
        }
    }

    /// Waits until readers of this isolation see up to `target`.
    pub(crate) fn wait(&self, isolation: Isolation, target: Offset, timeout: Option<Duration>) -> Result<WaitOutcome> {
        self.wait_where(isolation, target, timeout, || Ok(()))
    }

    /// The same, ended by an error of `check` as well, which is asked at each look.
    pub(crate) fn wait_where(
        &self,
        isolation: Isolation,
        target: Offset,
        timeout: Option<Duration>,
        check: impl Fn() -> Result<()>,
    ) -> Result<WaitOutcome> {
        self.check_open()?;
        // A time that the clock cannot tell never comes.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let current = || check().map(|()| self.waited_for(isolation));
        self.waiters.of(isolation).wait(target.get(), current, deadline)
    }

    /// The same as a future. It does not keep the partition.
    pub(crate) fn future(
        &self,
        isolation: Isolation,
        target: Offset,
    ) -> Reached<impl FnMut() -> Result<u64> + Send + Unpin + 'static> {
        self.future_where(isolation, target, |_| Ok(()))
    }

    /// The same, ended by an error of `check` as well, which is asked at each look.
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

    /// Who has begun to wait before the log was closed is told what was reached by then: only the beginning asks
    /// whether it is open.
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
