//! The offsets of a partition, and the waiters for each of its ends.

use std::sync::Arc;

use crate::error::{Error, ErrorKind};
use crate::offset::Offset;
use crate::partition::isolation::Isolation;
use crate::partition::waiters::{Tail, Wakes};
use crate::sync::atomic::Ordering;
use crate::sync::explored::AtomicU64;

/// The offsets between which a partition is read, beside the durable end.
///
/// Everything below an end is stored before that end (Release), and a reader loads the end first (Acquire). So a reader
/// that sees an end sees the bytes, index entries and segments up to it. The last stable offset is the lower one of two
/// offsets: a transaction is published as open before the end that shows it, and stays so until after the end that
/// shows its marker.
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

    /// The high watermark if it is managed, otherwise the log end.
    #[inline]
    pub(super) fn high_watermark(&self, managed: bool) -> Offset {
        let end = self.log_end();
        if managed { Offset::new(self.high_watermark.load(Ordering::Acquire)).min(end) } else { end }
    }

    /// The last stable offset: at most the high watermark, with no open transaction below it.
    #[inline]
    pub(super) fn last_stable(&self, managed: bool) -> Offset {
        // The end is loaded first: it is stored after the open transaction below it.
        let high_watermark = self.high_watermark(managed);
        high_watermark.min(Offset::new(self.first_unstable.load(Ordering::Acquire)).max(self.log_start()))
    }
}

/// The waiters for each end of a partition.
#[derive(Debug, Default)]
pub(crate) struct WaitersByEnd {
    pub(crate) end: Arc<Tail>,
    pub(crate) durable: Arc<Tail>,
    pub(crate) high_watermark: Arc<Tail>,
    pub(crate) stable: Arc<Tail>,
}

impl WaitersByEnd {
    pub(super) fn of(&self, isolation: Isolation) -> &Arc<Tail> {
        match isolation {
            Isolation::End => &self.end,
            Isolation::Durable => &self.durable,
            Isolation::HighWatermark => &self.high_watermark,
            Isolation::Committed => &self.stable,
        }
    }

    /// Refuses new waiters. The next [`close`](Self::close) ends all waiting.
    pub(crate) fn shut(&self, error: &Error) {
        for tail in [&self.end, &self.durable, &self.high_watermark, &self.stable] {
            tail.shut(error.clone());
        }
    }

    /// Ends all waiting with this error. The caller must call the returned wakers.
    pub(crate) fn close(&self, error: &Error) -> Wakes {
        self.each(|tail| tail.close(error.clone()))
    }

    /// Ends waiting for offsets that a truncation has removed. The caller must call the returned wakers.
    pub(crate) fn truncated(&self, to: Offset) -> Wakes {
        self.each(|tail| tail.fail_above(to.get(), Error::new(ErrorKind::Truncated)))
    }

    fn each(&self, end: impl Fn(&Tail) -> Wakes) -> Wakes {
        let tails = [&self.end, &self.durable, &self.high_watermark, &self.stable];
        tails.into_iter().map(|tail| end(tail)).fold(Wakes::default(), Wakes::and)
    }
}

#[cfg(all(test, loom))]
mod tests;
