//! Where appends that meet leave their batches for the thread that holds the appender.

use bytes::Bytes;

use crate::error::Result;
use crate::format::BatchHeader;
use crate::offset::{Offset, Timestamp};
use crate::sync::atomic::AtomicUsize;
use crate::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

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
pub(crate) struct Combiner {
    pub(crate) waiting: AtomicUsize,
    queue: Mutex<Vec<Arc<Queued>>>,
}

#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) bytes: Bytes,
    pub(crate) header: BatchHeader,
    pub(crate) now: Timestamp,
    pub(crate) result: OnceLock<Result<Appended>>,
}

impl Combiner {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Vec<Arc<Queued>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
