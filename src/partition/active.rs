//! The active end of a partition: the segment writer and the state that every batch changes. All of it is guarded by
//! the appender's lock.

use std::sync::Arc;

use crate::config::{Cleanup, Durability as DurabilityConfig, TopicConfig};
use crate::error::Result;
use crate::format::{BatchHeader, BatchView, Scratch, TimeIndexEntry};
use crate::offset::{Offset, Timestamp};
use crate::partition::checkpoint::{Producers as Snapshot, Sealed};
use crate::replay::producers::Producers;
use crate::replay::transactions;
use crate::segment::Segment;
use crate::segment::writer::SegmentWriter;
use crate::storage::Reserve;

/// The largest offset span of a segment: index entries hold 32-bit offsets, and Kafka's are signed.
pub(crate) const SPAN_MAX: u64 = i32::MAX as u64;

/// The state that appends change.
pub(crate) struct Active {
    pub(super) writer: SegmentWriter,
    pub(super) config: Arc<TopicConfig>,
    pub(super) producers: Producers,
    pub(super) leader_epoch: i32,
    /// The latest epoch of any batch.
    pub(super) noted_epoch: i32,
    /// Wall time of the active segment's first append.
    pub(super) first_append_at: Option<Timestamp>,
    /// When the active segment is old enough to be sealed.
    pub(super) due: Option<Timestamp>,
    /// Bytes of the active segment when the last checkpoint was handed over.
    pub(super) captured: u64,
    /// Bytes of the active segment at the last maintenance pass.
    pub(super) idle_len: u64,
    /// Whether a producer wrote since the last stable offset was computed.
    pub(super) unstable: bool,
    pub(super) scratch: Scratch,
    /// Reused for batches that are changed before they are written, and for combined writes.
    pub(crate) buffer: Vec<u8>,
}

/// How full a segment is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fill {
    pub(super) base: Offset,
    pub(super) len: u64,
    /// An upper bound of the entries in either of its indexes.
    pub(super) entries: u32,
}

impl Fill {
    /// Whether the segment takes this batch, after `pending` bytes that are about to be written.
    pub(super) fn takes(&self, pending: usize, header: &BatchHeader, at: Offset, config: &TopicConfig) -> bool {
        let len = self.len + pending as u64;
        // One entry for each index interval of the pending bytes, plus three: for their last part, for this batch and
        // for the seal.
        let entries = u64::from(self.entries) + pending as u64 / u64::from(config.index_interval_bytes) + 3;
        len + header.size as u64 <= config.segment_bytes
            && at.since(self.base) + u64::from(header.last_offset_delta) <= SPAN_MAX
            && entries * TimeIndexEntry::LEN as u64 <= u64::from(config.segment_index_bytes)
    }
}

impl Active {
    /// Creates the active end of a partition from what recovery found.
    pub(crate) fn new(
        segment: Arc<Segment>,
        config: Arc<TopicConfig>,
        mut producers: Producers,
        leader_epoch: i32,
    ) -> Active {
        producers.set_max(config.max_producers);
        let first_append_at =
            Some(segment.meta().first_append_at).filter(|at| *at != Timestamp::NONE && !segment.is_empty());
        let captured = segment.len();
        let writer = SegmentWriter::resume(segment, u64::from(config.index_interval_bytes), reserve(&config));
        let mut active = Active {
            writer,
            config,
            producers,
            leader_epoch,
            noted_epoch: leader_epoch,
            first_append_at,
            due: None,
            captured,
            idle_len: 0,
            unstable: false,
            scratch: Scratch::default(),
            buffer: Vec::new(),
        };
        active.due = active.work_out_due();
        active
    }

    pub(crate) fn config(&self) -> &Arc<TopicConfig> {
        &self.config
    }

    pub(crate) fn set_config(&mut self, config: Arc<TopicConfig>) {
        self.writer.set_reserve(reserve(&config));
        self.producers.set_max(config.max_producers);
        self.config = config;
        self.due = self.work_out_due();
    }

    pub(crate) fn segment(&self) -> &Arc<Segment> {
        self.writer.segment()
    }

    pub(crate) fn producers(&self) -> &Producers {
        &self.producers
    }

    pub(crate) fn leader_epoch(&self) -> i32 {
        self.leader_epoch
    }

    /// Sets the leader epoch that appends carry from now on.
    pub(crate) fn set_leader_epoch(&mut self, epoch: i32) {
        self.leader_epoch = epoch;
    }

    /// The largest timestamp in the active segment, as far as it is known.
    pub(crate) fn max_timestamp(&self) -> Timestamp {
        self.writer.max_timestamp()
    }

    /// Drops the writer's hold on its file.
    pub(crate) fn let_go(&mut self) {
        self.writer.let_go();
    }

    /// Gives reserved space back.
    pub(crate) fn trim(&mut self) -> Result<()> {
        self.writer.trim()
    }

    /// Completes the time index, for a checkpoint.
    pub(crate) fn complete_times(&mut self) {
        self.writer.complete_times();
    }

    /// Wall time at which the active segment becomes old enough to be sealed. `None` while it is empty.
    pub(crate) fn roll_due(&self) -> Option<Timestamp> {
        self.due
    }

    pub(super) fn work_out_due(&self) -> Option<Timestamp> {
        let mut age = self.config.segment_age;
        if self.config.cleanup != Cleanup::Delete {
            age = age.min(self.config.max_compaction_lag.unwrap_or(age));
        }
        self.first_append_at.map(|at| at.plus(age))
    }

    /// Whether a batch fits into the active segment, after `pending` bytes that are about to be written.
    pub(crate) fn fits(&self, pending: usize, header: &BatchHeader, at: Offset, now: Timestamp) -> bool {
        self.fill().takes(pending, header, at, &self.config) && self.is_young(now)
    }

    /// How full the active segment is.
    pub(super) fn fill(&self) -> Fill {
        let writer = &self.writer;
        Fill { base: writer.segment().base(), len: writer.len(), entries: writer.index_entries() }
    }

    /// Whether the active segment is young enough to take more.
    pub(super) fn is_young(&self, now: Timestamp) -> bool {
        self.due.is_none_or(|due| due > now)
    }

    /// Seals the active segment, which is trimmed already. `next` takes its place.
    pub(super) fn seal_before(&mut self, next: SegmentWriter, now: Timestamp) -> Sealed {
        let producers = self.snapshot(next.segment().base());
        let segment = std::mem::replace(&mut self.writer, next).seal(now);
        (self.first_append_at, self.due) = (None, None);
        self.captured = 0;
        Sealed { segment, producers }
    }

    /// The state of all producers at `at`, as its snapshot file holds it.
    pub(crate) fn snapshot(&self, at: Offset) -> Snapshot {
        Snapshot { at, snapshot: (!self.producers.is_empty()).then(|| self.producers.to_snapshot()) }
    }

    #[cold]
    pub(super) fn note_producer(&mut self, header: &BatchHeader, at: usize, parts: [&[u8]; 2]) {
        let control = if header.attributes.is_control() {
            // The marker is in the records, which are never split: only the header is.
            let joined;
            let bytes = match at.checked_sub(parts[0].len()) {
                Some(at) => &parts[1][at..at + header.size],
                None => {
                    joined = parts.concat();
                    &joined[at..at + header.size]
                }
            };
            BatchView::parse(bytes).and_then(|batch| batch.control(&mut self.scratch)).ok().flatten()
        } else {
            None
        };
        if let Some(ended) = self.producers.update(header, control)
            && let Some(entry) = transactions::aborted_entry(&ended, self.producers.first_open_transaction())
        {
            self.segment().update_index(|index| index.recent_mut().aborted.push(entry));
        }
        self.unstable = true;
    }
}

/// How space is reserved ahead: zeros where each append is synced, otherwise a mapped window.
pub(super) fn reserve(config: &TopicConfig) -> Option<Reserve> {
    config.append_windows.then_some(match config.durability {
        DurabilityConfig::Sync => Reserve::Zeroed,
        DurabilityConfig::Buffered { .. } => Reserve::Mapped,
    })
}
