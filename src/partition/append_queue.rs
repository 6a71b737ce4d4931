//! Where appends that meet leave their batches for the thread that holds the appender.
//!
//! # Invariant
//!
//! The queue is emptied, and all that was in it answered, by threads that hold the appender only. An append that has the
//! appender and no answer finds itself in the queue, so none is left behind; whether another thread sees that it waits
//! decides only how many go with one write.

use bytes::Bytes;

use crate::error::Result;
use crate::format::BatchHeader;
use crate::offset::{Offset, Timestamp};
use crate::sync::atomic::Ordering;
use crate::sync::explored::{AtomicUsize, Mutex, MutexGuard};
use crate::sync::{Arc, OnceLock};

/// Where an append went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    /// The offset of its first record.
    pub base_offset: Offset,
    /// The offset that follows its last record: the log end right after it.
    pub next_offset: Offset,
    /// The time that the log gave it; `None` where records keep their own timestamps.
    pub append_time: Option<Timestamp>,
}

/// Appends that wait for the thread that holds the appender.
#[derive(Debug, Default)]
pub(crate) struct AppendQueue {
    /// How many are in the queue, as a hint: one may be counted down before it is counted.
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
    /// Queues an append. Returns its answer, which a thread gives that has the appender: here, by `drain`, if no other
    /// has given it before `lock` has the appender.
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

    /// Whether some wait, as far as the caller sees: who is not seen drains the queue itself.
    #[inline]
    pub(crate) fn has_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Empties the queue. The caller has the appender, and answers all of them before it lets go of it.
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
