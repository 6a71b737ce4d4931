//! The queue in which concurrent appends leave their batches for the thread that holds the appender's lock.
//!
//! # Invariant
//!
//! Only a thread that holds the appender's lock empties the queue, and it answers every append in it. An append that
//! gets the lock and has no answer is still in the queue, so none is left behind. Whether another thread sees that an
//! append waits only decides how many appends share one write.

use bytes::Bytes;

use crate::error::Result;
use crate::format::BatchHeader;
use crate::offset::{Offset, Timestamp};
use crate::sync::atomic::Ordering;
use crate::sync::explored::{AtomicUsize, Mutex, MutexGuard};
use crate::sync::{Arc, OnceLock};

/// The position of an append in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    /// The offset of its first record.
    pub base_offset: Offset,
    /// The offset that follows its last record: the log end right after it.
    pub next_offset: Offset,
    /// The time that the log assigned to it. `None` if records keep their own timestamps.
    pub append_time: Option<Timestamp>,
}

/// Appends that wait for the thread that holds the appender's lock.
#[derive(Debug, Default)]
pub(crate) struct AppendQueue {
    /// How many appends are queued, as a hint: an append may be subtracted before it is added.
    waiting: AtomicUsize,
    queue: Mutex<Vec<Arc<Queued>>>,
}

#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) bytes: Bytes,
    pub(crate) header: BatchHeader,
    pub(crate) now: Timestamp,
    pub(crate) result: OnceLock<Result<Appended>>,
}

impl AppendQueue {
    /// Queues an append and returns its answer. A thread that holds the appender's lock gives the answer: this thread,
    /// by `drain`, unless another one has given it before `lock` returns.
    pub(crate) fn combine<A>(
        &self,
        queued: Queued,
        lock: impl FnOnce() -> A,
        drain: impl FnOnce(&mut A),
    ) -> Result<Appended> {
        let queued = Arc::new(queued);
        self.lock().push(Arc::clone(&queued));
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let mut appender = lock();
        if queued.result.get().is_none() {
            drain(&mut appender);
        }
        drop(appender);
        queued.result.get().cloned().expect("who drains the queue answers everyone in it")
    }

    /// Whether appends wait, as far as the caller sees: an append that is not seen drains the queue itself.
    #[inline]
    pub(crate) fn has_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Empties the queue. The caller holds the appender's lock, and answers all of them before it releases it.
    pub(crate) fn take(&self) -> Vec<Arc<Queued>> {
        let batch = std::mem::take(&mut *self.lock());
        self.waiting.fetch_sub(batch.len(), Ordering::Relaxed);
        batch
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Queued>>> {
        self.queue.lock()
    }
}

#[cfg(all(test, loom))]
mod tests;
