//! The offsets of a partition, and who waits for them.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::isolation::Isolation;
use crate::offset::Offset;
use crate::sync::Instant;
use crate::sync::atomic::Ordering;
use crate::sync::explored::AtomicU64;
use crate::tail::{Reached, Tail, WaitOutcome, Wakes};

use super::Shared;

/// The offsets between which a partition is read, beside the durable end.
///
/// What lies below an end is stored before that end (Release), and a reader loads the end first (Acquire): whoever sees
/// an end sees bytes, index entries and segments up to it. The last stable offset is the lower one of two: a transaction
/// is open from before the end that shows it until after the end that shows its marker.
#[derive(Debug)]
pub(crate) struct Ends {
    log_start: AtomicU64,
    log_end: AtomicU64,
    high_watermark: AtomicU64,
    /// The first offset of a transaction that is open, or ended above the high watermark; `u64::MAX` for none.
    first_unstable: AtomicU64,
}

impl Ends {
    pub(super) fn new(log_start: Offset, high_watermark: Offset, log_end: Offset) -> Ends {
        Ends {
            log_start: AtomicU64::new(log_start.get()),
            log_end: AtomicU64::new(log_end.get()),
            high_watermark: AtomicU64::new(high_watermark.get()),
            first_unstable: AtomicU64::new(u64::MAX),
        }
    }

    /// The first offset that may be read.
    #[inline]
    pub(crate) fn log_start(&self) -> Offset {
        Offset::new(self.log_start.load(Ordering::Acquire))
    }

    pub(crate) fn set_log_start(&self, offset: Offset) {
        self.log_start.store(offset.get(), Ordering::Release);
    }

    /// The log end offset: stored after the bytes and the end of the active segment.
    #[inline]
    pub(crate) fn log_end(&self) -> Offset {
        Offset::new(self.log_end.load(Ordering::Acquire))
    }

    #[inline]
    pub(crate) fn set_log_end(&self, offset: Offset) {
        self.log_end.store(offset.get(), Ordering::Release);
    }

    pub(crate) fn raise_log_start(&self, offset: Offset) {
        self.log_start.fetch_max(offset.get(), Ordering::AcqRel);
    }

    pub(crate) fn set_high_watermark(&self, offset: Offset) {
        self.high_watermark.store(offset.get(), Ordering::Release);
    }

    pub(crate) fn lower_first_unstable(&self, offset: Option<Offset>) {
        self.first_unstable.fetch_min(offset.map_or(u64::MAX, Offset::get), Ordering::AcqRel);
    }

    pub(crate) fn set_first_unstable(&self, offset: Option<Offset>) {
        self.first_unstable.store(offset.map_or(u64::MAX, Offset::get), Ordering::Release);
    }

    /// The high watermark where it is managed, or the log end.
    #[inline]
    fn high_watermark(&self, managed: bool) -> Offset {
        let end = self.log_end();
        if managed { Offset::new(self.high_watermark.load(Ordering::Acquire)).min(end) } else { end }
    }

    /// The last stable offset: no open transaction below it, and at most the high watermark.
    #[inline]
    fn last_stable(&self, managed: bool) -> Offset {
        // The end first: it is stored after the transaction that it ends in.
        let high_watermark = self.high_watermark(managed);
        high_watermark.min(Offset::new(self.first_unstable.load(Ordering::Acquire)).max(self.log_start()))
    }
}

/// Who waits for which end.
#[derive(Debug, Default)]
pub(crate) struct Tails {
    pub(crate) end: Arc<Tail>,
    pub(crate) durable: Arc<Tail>,
    pub(crate) high_watermark: Arc<Tail>,
    pub(crate) stable: Arc<Tail>,
}

impl Tails {
    fn of(&self, isolation: Isolation) -> &Arc<Tail> {
        match isolation {
            Isolation::End => &self.end,
            Isolation::Durable => &self.durable,
            Isolation::HighWatermark => &self.high_watermark,
            Isolation::Committed => &self.stable,
        }
    }

    /// Lets nobody begin to wait, and ends all waiting with the next [`close`](Self::close).
    pub(crate) fn shut(&self, error: &Error) {
        for tail in [&self.end, &self.durable, &self.high_watermark, &self.stable] {
            tail.shut(error.clone());
        }
    }

    /// Ends all waiting with this error, once the wakers are called.
    pub(crate) fn close(&self, error: &Error) -> Wakes {
        self.each(|tail| tail.close(error.clone()))
    }

    /// Ends waiting for offsets that a truncation has taken away, once the wakers are called.
    pub(crate) fn truncated(&self, to: Offset) -> Wakes {
        self.each(|tail| tail.fail_above(to.get(), Error::new(ErrorKind::Truncated)))
    }

    fn each(&self, end: impl Fn(&Tail) -> Wakes) -> Wakes {
        let tails = [&self.end, &self.durable, &self.high_watermark, &self.stable];
        tails.into_iter().map(|tail| end(tail)).fold(Wakes::default(), Wakes::and)
    }
}

impl Shared {
    /// The log end offset.
    #[inline]
    pub(crate) fn end(&self) -> Offset {
        self.ends.log_end()
    }

    /// The high watermark: the owner's, or the log end where nobody manages one.
    #[inline]
    pub(crate) fn high_watermark(&self) -> Offset {
        self.high_watermark_if(self.hot.managed.load(Ordering::Acquire))
    }

    /// What it is where it is managed, or not.
    #[inline]
    pub(crate) fn high_watermark_if(&self, managed: bool) -> Offset {
        self.ends.high_watermark(managed)
    }

    /// The last stable offset: no open transaction below it, and at most the high watermark.
    #[inline]
    pub(crate) fn last_stable(&self) -> Offset {
        self.ends.last_stable(self.hot.managed.load(Ordering::Acquire))
    }

    /// What the high watermark is once the log ends at `end`.
    pub(crate) fn high_watermark_at(&self, end: Offset) -> Offset {
        if self.hot.managed.load(Ordering::Acquire) { self.high_watermark() } else { end }
    }

    /// Wakes who waits for what was appended. Called without the appender: a waker is foreign code, and may append.
    #[inline]
    pub(crate) fn announce(&self) {
        let end = self.end().get();
        self.tails.end.notify_fenced(end);
        if !self.hot.managed.load(Ordering::Relaxed) {
            self.tails.high_watermark.notify_fenced(end);
        }
        if self.tails.stable.has_waiters() {
            self.tails.stable.notify_fenced(self.last_stable().get());
        }
        if self.health.is_poisoned() {
            self.tell_failure();
        }
    }

    /// Wakes who waits for any end, after work under locks that may have moved one, or failed. Called without a lock.
    pub(crate) fn tell(&self) {
        // Orders what was moved before the look at the waiters, here and in what follows.
        self.tails.durable.notify(self.durability.end().get());
        self.announce();
    }

    #[cold]
    fn tell_failure(&self) {
        if let Some(reason) = self.health.reason() {
            self.tails.close(&reason).call();
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
        self.tails.of(isolation).wait(target.get(), current, deadline)
    }

    /// The same as a future. It does not keep the partition.
    pub(crate) fn future(
        &self,
        isolation: Isolation,
        target: Offset,
    ) -> Reached<impl FnMut() -> Result<u64> + Send + Unpin + 'static> {
        let me = self.weak();
        let mut begun = false;
        let current = move || {
            let me = me.upgrade().ok_or(ErrorKind::Closed)?;
            if !std::mem::replace(&mut begun, true) {
                me.check_open()?;
            }
            Ok(me.waited_for(isolation))
        };
        Reached::new(Arc::clone(self.tails.of(isolation)), target.get(), current)
    }

    /// Who has begun to wait before the log was closed is told what was reached by then: only the beginning asks
    /// whether it is open.
    fn waited_for(&self, isolation: Isolation) -> u64 {
        match isolation {
            Isolation::End => self.end(),
            Isolation::Durable => self.durability.end(),
            Isolation::HighWatermark => self.high_watermark(),
            Isolation::Committed => self.last_stable(),
        }
        .get()
    }
}

#[cfg(all(test, loom))]
mod tests;
