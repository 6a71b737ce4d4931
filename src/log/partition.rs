//! One partition: each method is one call downstairs.

use std::cell::Cell;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::append::{self, Input};
use crate::compaction::CompactMode;
use crate::config::{Clock, TopicConfig, WatermarkMode};
use crate::error::{ErrorKind, Result};
use crate::format::{BatchBuilder, Record, RecordBatch};
use crate::maintenance::retention;
use crate::maintenance::{self, PauseGuard};
use crate::offset::{Offset, Timestamp};
use crate::partition::append_queue::Appended;
use crate::partition::core::PartitionCore;
use crate::partition::pins::Pin;
use crate::partition::stats::{CompactionReport, PartitionStats};
use crate::partition::visibility;
use crate::partition::waiters::WaitOutcome;
use crate::partition::{Isolation, Offsets};
use crate::read::{self, Fetch, FetchOptions, Reader, Start};
use crate::truncate;
use crate::verify::{self, VerifyReport};

/// What a thread keeps of the memory in which it builds batches.
const BUILDER_KEEPS: usize = 1 << 20;

thread_local! {
    /// Batches are built outside of every lock, in memory that each thread keeps.
    static BUILDER: Cell<Option<Box<BatchBuilder>>> = const { Cell::new(None) };
}

/// An append-only sequence of records with a total order. Cloning it is cheap, and all clones are the same partition;
/// any number of threads may use it.
#[derive(Clone)]
pub struct Partition {
    pub(crate) core: Arc<PartitionCore>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partition").field("topic", &self.topic()).field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Partition {
    /// The name of its topic.
    pub fn topic(&self) -> &str {
        &self.core.topic
    }

    /// Its number within the topic.
    pub fn id(&self) -> u32 {
        self.core.id
    }

    /// Appends one batch at the end; its records get the offsets that follow. Nothing is encoded again, unless the
    /// topic's timestamps are the log's.
    ///
    /// When this returns, the batch can be read and survives a kill of the process; under
    /// [`Durability::Sync`](crate::Durability::Sync) it survives a power cut as well, else after at most the
    /// configured interval, or [`flush`](Self::flush).
    ///
    /// # Errors
    /// Nothing was appended, with one exception: under [`Durability::Sync`](crate::Durability::Sync) an error of the
    /// sync ([`ErrorKind::Poisoned`], [`ErrorKind::DiskFull`]) comes after the write. The batch is then in the log,
    /// not acknowledged, and may be there after a crash or not.
    pub fn append(&self, batch: &RecordBatch) -> Result<Appended> {
        self.append_input(Input { bytes: batch.as_bytes(), header: batch.header() }, None)
    }

    /// Appends records as one batch, compressed as the topic says. A record without timestamp gets the time of the
    /// append.
    ///
    /// # Errors
    /// [`ErrorKind::BatchTooLarge`] when they do not fit one batch; nothing is written then. No records at all are an
    /// [`ErrorKind::InvalidBatch`].
    pub fn append_records<'a>(&self, records: impl IntoIterator<Item = impl Into<Record<'a>>>) -> Result<Appended> {
        // Taken out of its place: the iterator is foreign code, and may append as well.
        let mut builder = BUILDER.take().unwrap_or_default();
        let appended = self.append_built(&mut builder, records);
        builder.shrink_to(BUILDER_KEEPS);
        BUILDER.set(Some(builder));
        appended
    }

    fn append_built<'a>(
        &self,
        builder: &mut BatchBuilder,
        records: impl IntoIterator<Item = impl Into<Record<'a>>>,
    ) -> Result<Appended> {
        let now = self.clock.now();
        let codec = self.core.codec();
        builder.reset();
        builder.set_codec(codec);
        for record in records {
            builder.push(&record.into(), now)?;
        }
        let bytes = builder.finish()?;
        let header = crate::format::BatchHeader::parse(bytes)?;
        self.append_at_time(Input { bytes, header: &header }, None, now)
    }

    /// Appends one batch if the log ends at `expected_end`, and else nothing: optimistic concurrency for whoever
    /// decides by what it has read.
    ///
    /// # Errors
    /// [`ErrorKind::UnexpectedOffset`] with the actual end.
    pub fn append_if(&self, expected_end: Offset, batch: &RecordBatch) -> Result<Appended> {
        self.append_input(Input { bytes: batch.as_bytes(), header: batch.header() }, Some(expected_end))
    }

    /// Appends batches that have their offsets already, as a replica does: they must not go back, and may leave gaps.
    /// Everything is checked before anything is written.
    ///
    /// # Errors
    /// [`ErrorKind::UnexpectedOffset`] for offsets below the log end or out of order, [`ErrorKind::InvalidBatch`] for
    /// damage. A gap of 2^31 offsets or more is refused too: [`reset_to`](Self::reset_to) jumps as far as one likes.
    pub fn append_at(&self, batches: &[u8]) -> Result<Appended> {
        let appended = append::append_at(&self.core, batches, self.clock.now())?;
        self.acknowledge(appended)
    }

    /// Makes everything appended so far durable; returns the durable end.
    pub fn flush(&self) -> Result<Offset> {
        self.core.check_open()?;
        self.core.sync_to(self.core.end())
    }

    /// Whole batches from the one that holds `from` on, as they lie on disk.
    ///
    /// # Errors
    /// [`ErrorKind::OffsetOutOfRange`] below the log start and beyond the end.
    pub fn fetch(&self, from: Offset, options: FetchOptions) -> Result<Fetch> {
        self.core.check_open()?;
        read::fetch(&self.core, from, options)
    }

    /// A reader from `start` on, an [`Offset`] most often, that sees everything appended.
    ///
    /// # Errors
    /// [`ErrorKind::OffsetOutOfRange`] for an offset below the log start or beyond the end.
    pub fn reader(&self, start: impl Into<Start>) -> Result<Reader> {
        self.reader_with(start, FetchOptions::default())
    }

    /// A reader with other options.
    pub fn reader_with(&self, start: impl Into<Start>, options: FetchOptions) -> Result<Reader> {
        self.core.check_open()?;
        let start = start.into();
        loop {
            let from = start.resolve(&self.core, options.isolation)?;
            // The reader registers before its offset is checked: what it may still read stays from here on.
            let reader = Reader::new(Arc::clone(&self.core), from, options);
            let offsets = self.offsets();
            if (offsets.start..=offsets.end).contains(&from) {
                return Ok(reader);
            }
            // Any other start lay within the log when it was looked up, and is looked up again.
            if matches!(start, Start::Offset(_)) {
                let (start, end) = (offsets.start, offsets.end);
                return Err(ErrorKind::OffsetOutOfRange { requested: from, start, end }.into());
            }
        }
    }

    /// The records from `start` on as a stream, which goes on with what comes. Reading is a call to the operating system
    /// where the bytes are not in memory: it is made within the poll.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// use std::{pin::Pin, task::{Context, Poll, Waker}};
    /// use futures_core::Stream;
    /// use stratalog::{Isolation, Log, LogConfig, Start, TopicConfig};
    ///
    /// let dir = tempfile::tempdir().unwrap();
    /// let log = Log::open(dir.path(), LogConfig::new())?;
    /// let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// let mut tail = events.tail(Start::Latest, Isolation::End)?;
    /// let mut poll = || Pin::new(&mut tail).poll_next(&mut Context::from_waker(Waker::noop()));
    /// assert!(poll().is_pending());
    /// events.append_records(["event"])?;
    /// let Poll::Ready(Some(Ok(record))) = poll() else { panic!("it is there") };
    /// assert_eq!(record.value.as_deref(), Some(&b"event"[..]));
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`reader`](Self::reader).
    #[cfg(feature = "async")]
    pub fn tail(&self, start: impl Into<Start>, isolation: Isolation) -> Result<read::Tail> {
        let options = FetchOptions { isolation, ..FetchOptions::default() };
        self.reader_with(start, options).map(read::Tail::new)
    }

    /// Where it begins and ends at this moment.
    pub fn offsets(&self) -> Offsets {
        visibility::offsets(&self.core)
    }

    /// The offset of the first record that is at least as late as `at`; `None` when there is none.
    pub fn offset_for(&self, at: Timestamp) -> Result<Option<Offset>> {
        self.core.check_open()?;
        read::offset_for(&self.core, at)
    }

    /// Waits until the record at `offset` is appended, or for `timeout`.
    pub fn wait_for(&self, offset: Offset, timeout: Duration) -> Result<WaitOutcome> {
        self.core.wait(Isolation::End, offset + 1, Some(timeout))
    }

    /// Resolves once the record at `offset` is appended. Of no particular runtime.
    pub fn reached(&self, offset: Offset) -> impl Future<Output = Result<Offset>> + Send + 'static {
        self.core.future(Isolation::End, offset + 1)
    }

    /// Waits until the record at `offset` is visible to readers of this isolation, or for `timeout`.
    pub fn wait_visible(&self, offset: Offset, isolation: Isolation, timeout: Duration) -> Result<WaitOutcome> {
        self.core.wait(isolation, offset + 1, Some(timeout))
    }

    /// Resolves once the record at `offset` is visible to readers of this isolation.
    pub fn visible(
        &self,
        offset: Offset,
        isolation: Isolation,
    ) -> impl Future<Output = Result<Offset>> + Send + 'static {
        self.core.future(isolation, offset + 1)
    }

    /// Waits until everything below `offset` is durable, or for `timeout`.
    pub fn wait_durable(&self, offset: Offset, timeout: Duration) -> Result<WaitOutcome> {
        self.core.wait(Isolation::Durable, offset, Some(timeout))
    }

    /// Resolves once everything below `offset` is durable.
    pub fn durable(&self, offset: Offset) -> impl Future<Output = Result<Offset>> + Send + 'static {
        self.core.future(Isolation::Durable, offset)
    }

    /// Seals the active segment and begins a new one; an empty one stays.
    pub fn roll(&self) -> Result<()> {
        let now = self.clock.now();
        let mut active = self.core.lock_active();
        self.core.check_writable()?;
        let rolled = active.roll(&self.core, now);
        drop(active);
        self.core.tell();
        rolled
    }

    /// Removes every batch that holds an offset at or above `to`, durably; returns the new end, which lies lower where
    /// `to` is inside a batch. Damaged batches above `to` go like any others.
    ///
    /// A crash leaves the log as it was, or cut: the next open completes what was begun.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`], with path and position, where a batch below `to` is damaged in the segment that is cut,
    /// or in one that has to be read to know the producers. Nothing has changed then. Damage in other segments is not
    /// looked for: they stay as they are. A damaged batch behind a gap that `to` lies in counts as below `to` where its
    /// header does not tell.
    ///
    /// [`ErrorKind::TruncateBelowCompacted`] where compaction removed records because of ones that would go.
    pub fn truncate(&self, to: Offset) -> Result<Offset> {
        truncate::truncate(&self.core, to, false)
    }

    /// Like [`truncate`](Self::truncate), even below what compaction relied on, and where that meets damage: the log is
    /// then cut at the last good batch before it, and the end that is returned lies there. For replicas that fetch
    /// again: what is cut off is not kept.
    pub fn truncate_lossy(&self, to: Offset) -> Result<Offset> {
        truncate::truncate(&self.core, to, true)
    }

    /// Deletes everything and goes on at `offset`, durably: below, within or beyond the log.
    pub fn reset_to(&self, offset: Offset) -> Result<()> {
        truncate::reset(&self.core, offset)
    }

    /// Gives up all records below `offset`, durably. Their bytes go with the next maintenance pass, segment by segment.
    ///
    /// # Errors
    /// [`ErrorKind::OffsetOutOfRange`] above the high watermark.
    pub fn delete_before(&self, offset: Offset) -> Result<()> {
        retention::delete_before(&self.core, offset)
    }

    /// Applies retention now, in this thread, as a maintenance pass does: by age, by size, and what lies below the log
    /// start. Returns how many segments went. Nothing is rolled for its age or compacted.
    pub fn retain(&self, now: Timestamp) -> Result<usize> {
        self.core.check_writable()?;
        let pass = self.core.lock_maintenance();
        let retained = maintenance::retain(&self.core, now);
        drop(pass);
        self.core.tell();
        retained
    }

    /// Sets the high watermark, of a topic with [`WatermarkMode::Managed`], forward or back. It is kept at checkpoints:
    /// after a crash it may be lower, never higher. Set back to where transactions were decided by markers that lie
    /// above it now, it has the log read from the segment before it on; appends wait meanwhile.
    ///
    /// # Errors
    /// [`ErrorKind::OffsetOutOfRange`] beyond the log end.
    pub fn set_high_watermark(&self, offset: Offset) -> Result<()> {
        self.core.check_writable()?;
        if self.core.config().watermark != WatermarkMode::Managed {
            return Err(
                ErrorKind::InvalidConfig("the topic's high watermark is the log end, not managed".into()).into()
            );
        }
        // No truncation comes between the look at the end and the change.
        let mut active = self.core.lock_active();
        let offsets = self.offsets();
        if offset > offsets.end || offset < offsets.start {
            let (start, end) = (offsets.start, offsets.end);
            return Err(ErrorKind::OffsetOutOfRange { requested: offset, start, end }.into());
        }
        active.move_high_watermark(&self.core, offset, || self.core.ends.set_high_watermark(offset));
        drop(active);
        self.core.waiters.high_watermark.notify(offset.get());
        self.core.waiters.stable.notify(self.core.last_stable().get());
        Ok(())
    }

    /// Appends carry this leader epoch from now on. It never goes back.
    pub fn set_leader_epoch(&self, epoch: i32) -> Result<()> {
        self.core.check_writable()?;
        let mut active = self.core.lock_active();
        let latest = self.core.lock_leader_epochs().latest().unwrap_or(-1).max(active.leader_epoch());
        if epoch < latest {
            return Err(ErrorKind::InvalidConfig(format!("leader epoch {epoch} is below {latest}").into()).into());
        }
        active.set_leader_epoch(epoch);
        Ok(())
    }

    /// The largest epoch that is not above `epoch`, and the offset at which it ends; `None` when there is none.
    pub fn end_offset_for_epoch(&self, epoch: i32) -> Option<(i32, Offset)> {
        self.core.lock_leader_epochs().end_offset_for(epoch, self.core.end())
    }

    /// Keeps everything at and above `offset` from being compacted, until dropped: for snapshots and replicas.
    pub fn pin(&self, offset: Offset) -> Pin {
        self.core.pins.pin(offset)
    }

    /// Names the position of a consumer: tombstones above it are kept for it, for at most `reader_hold_max`.
    pub fn register_position(&self, name: &str, offset: Offset) -> Result<()> {
        self.core.check_open()?;
        self.core.pins.register_position(name, offset)
    }

    /// Forgets the position of a consumer; whether there was one.
    pub fn unregister_position(&self, name: &str) -> bool {
        self.core.pins.unregister_position(name)
    }

    /// Compacts now, in this thread: of the records of each key below everything that must not be relied on yet the
    /// latest stays. For compacted topics.
    ///
    /// It goes on until that is done. Only where somebody else asks for the partition meanwhile ([`truncate`], a new
    /// log start, deletion, a pause, close) it ends before, and says so in
    /// [`CompactionReport::unfinished`]. A crash at any point leaves the old segments or the new one. Readers go on
    /// with what they began with.
    ///
    /// [`truncate`]: Self::truncate
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] when the topic is not compacted; [`ErrorKind::DiskFull`] when there is no room for
    /// the output, and then nothing has changed. Damaged segments are left alone and told in the report.
    pub fn compact(&self, now: Timestamp, mode: CompactMode) -> Result<CompactionReport> {
        let pass = self.core.lock_maintenance();
        self.core.check_writable()?;
        let compacted = maintenance::compact_all(&self.core, now, mode, &*self.clock);
        drop(pass);
        self.core.tell();
        compacted
    }

    /// Keeps maintenance away from this partition until the guard is dropped: no sealed segment is removed, replaced or
    /// renamed, and none is sealed for its age alone. For backups and the like.
    ///
    /// A compaction that is under way is interrupted, and goes on afterwards with what it has not swapped in. When this
    /// returns there is none. Guards nest: maintenance goes on when the last one is dropped. What is asked for by name
    /// is done all the same, such as [`compact`](Self::compact) and [`truncate`](Self::truncate), and so are
    /// appends with the rolls that they bring.
    pub fn pause_maintenance(&self) -> PauseGuard {
        PauseGuard::new(&self.core)
    }

    /// Reads the whole partition and checks it, without changing a byte: every batch and record, the offsets, the chain
    /// of segments, the indexes, snapshots and `state`. Appends, reads and maintenance go on meanwhile.
    ///
    /// A partition that is degraded, or of a log that was opened read-only, is checked as it lies in its directory.
    /// What is wrong is no error: it is listed in the report. Memory is bounded by the largest batch.
    ///
    /// # Errors
    /// [`ErrorKind::Truncated`] when the partition was truncated meanwhile; [`ErrorKind::Closed`]; an error of the
    /// operating system where the directory cannot be read.
    pub fn verify(&self) -> Result<VerifyReport> {
        verify::verify(&self.core)
    }

    /// The configuration in use: its topic's.
    pub fn config(&self) -> Arc<TopicConfig> {
        self.core.config()
    }

    /// Counters and offsets.
    pub fn stats(&self) -> PartitionStats {
        let core = &self.core;
        let view = core.view.load();
        let (producers, roll_due) = {
            let active = core.lock_active();
            (active.producers().len(), active.roll_due())
        };
        PartitionStats {
            offsets: self.offsets(),
            segments: view.segments().len(),
            bytes: view.bytes(),
            unsynced_bytes: core.group_commit.account.unsynced(),
            syncs: core.group_commit.syncs(),
            rolls: core.counters.rolls.get(),
            segments_removed: core.counters.segments_removed.get(),
            segments_held: core.segments_held(),
            producers,
            roll_due,
            pinned_at: core.pins.owner_bound(),
            compaction: maintenance::compaction_stats(core, self.clock.now()),
            error: core.health.reason(),
        }
    }

    fn append_input(&self, input: Input<'_>, expected: Option<Offset>) -> Result<Appended> {
        self.append_at_time(input, expected, self.clock.now())
    }

    fn append_at_time(&self, input: Input<'_>, expected: Option<Offset>, now: Timestamp) -> Result<Appended> {
        let appended = append::append(&self.core, input, expected, now)?;
        self.acknowledge(appended)
    }

    /// Waits for the sync where the topic wants one before the acknowledgement.
    #[inline]
    fn acknowledge(&self, appended: Appended) -> Result<Appended> {
        if self.core.syncs_appends() {
            self.core.sync_to(appended.next_offset)?;
        }
        Ok(appended)
    }
}
