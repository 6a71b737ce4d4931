//! The appending end of a partition: the segment writer and everything that each batch changes. All of it is under
//! the appender's lock.

use std::sync::Arc;

use crate::config::{Cleanup, Durability as DurabilityConfig, TopicConfig};
use crate::durability::{Capture, Producers as Snapshot, Roll, Sealed};
use crate::error::{ErrorKind, Result};
use crate::format::{BatchHeader, BatchView, Scratch, file_name};
use crate::offset::{Offset, Timestamp};
use crate::producers::Producers;
use crate::segment::Segment;
use crate::segment::writer::SegmentWriter;
use crate::shared::Shared;
use crate::storage::{Reserve, files};
use crate::transactions;
use crate::view::View;

mod parts;

use parts::Fill;

/// The largest offset span of a segment: index entries hold 32-bit offsets, Kafka's signed ones.
pub(crate) const SPAN_MAX: u64 = i32::MAX as u64;

/// What appends work on.
pub(crate) struct Active {
    writer: SegmentWriter,
    config: Arc<TopicConfig>,
    producers: Producers,
    leader_epoch: i32,
    /// The latest epoch that a batch had.
    noted_epoch: i32,
    /// Wall time of the active segment's first append.
    first_append_at: Option<Timestamp>,
    /// When the active segment is old enough to be sealed.
    due: Option<Timestamp>,
    /// Bytes of the active segment when the last checkpoint was handed over.
    captured: u64,
    /// Bytes of the active segment at the last maintenance pass.
    idle_len: u64,
    /// A producer wrote: where the stable part ends is to be worked out again.
    unstable: bool,
    scratch: Scratch,
    /// Reused for batches that are changed before they are written, and for combined writes.
    pub(crate) buffer: Vec<u8>,
}

impl Active {
    /// The end of a partition as recovery left it.
    pub(crate) fn new(
        segment: Arc<Segment>,
        config: Arc<TopicConfig>,
        mut producers: Producers,
        leader_epoch: i32,
    ) -> Active {
        producers.set_max(config.max_producers);
        let first_append_at =
            Some(segment.facts().first_append_at).filter(|at| *at != Timestamp::NONE && !segment.is_empty());
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

    /// Appends carry this epoch from now on.
    pub(crate) fn set_leader_epoch(&mut self, epoch: i32) {
        self.leader_epoch = epoch;
    }

    /// The largest timestamp in the active segment, as far as it is known.
    pub(crate) fn max_timestamp(&self) -> Timestamp {
        self.writer.max_timestamp()
    }

    /// Forgets producers that have been idle for long, and gives reserved space back when nothing was appended since
    /// the last call.
    pub(crate) fn release_idle(&mut self, shared: &Shared, now: Timestamp) -> Result<()> {
        self.producers.remove_expired(now, self.config.producer_expiration, shared.high_watermark());
        let len = self.writer.len();
        if len == self.idle_len {
            self.writer.trim()?;
        }
        self.idle_len = len;
        Ok(())
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

    /// Wall time at which the active segment is old enough to be sealed; `None` while it is empty.
    pub(crate) fn roll_due(&self) -> Option<Timestamp> {
        self.due
    }

    fn work_out_due(&self) -> Option<Timestamp> {
        let mut age = self.config.segment_age;
        if self.config.cleanup != Cleanup::Delete {
            age = age.min(self.config.max_compaction_lag.unwrap_or(age));
        }
        let millis = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        self.first_append_at.map(|at| at.plus_millis(millis))
    }

    /// Whether a batch goes into the active segment, behind `pending` bytes that are about to be written.
    pub(crate) fn fits(&self, pending: usize, header: &BatchHeader, at: Offset, now: Timestamp) -> bool {
        self.fill().takes(pending, header, at, &self.config) && self.is_young(now)
    }

    /// How full the active segment is.
    fn fill(&self) -> Fill {
        let writer = &self.writer;
        Fill { base: writer.segment().base(), len: writer.len(), entries: writer.index_entries() }
    }

    /// Whether the active segment takes more by its age.
    fn is_young(&self, now: Timestamp) -> bool {
        self.due.is_none_or(|due| due > now)
    }

    /// Rolls when the next batch does not fit the active segment any more. An empty one takes any batch.
    pub(crate) fn make_room(
        &mut self,
        shared: &Shared,
        header: &BatchHeader,
        at: Offset,
        now: Timestamp,
    ) -> Result<()> {
        if self.writer.len() > 0 && !self.fits(0, header, at, now) {
            self.roll(shared, now)?;
        }
        let segment = self.writer.segment();
        if at.since(segment.base()) + u64::from(header.last_offset_delta) > SPAN_MAX {
            return Err(ErrorKind::UnexpectedOffset { given: at, end: segment.end() }.into());
        }
        Ok(())
    }

    /// Seals the active segment and begins the next one. The second half, which makes the roll durable, is left to the
    /// syncing threads; a roll before it is finished first. An empty active segment stays.
    pub(crate) fn roll(&mut self, shared: &Shared, now: Timestamp) -> Result<()> {
        if self.writer.len() == 0 {
            return Ok(());
        }
        shared.durability.finish_roll(shared)?;
        self.writer.trim()?;
        let base = self.segment().end();
        let next = self.create(shared, base)?;
        let sealed = self.seal_before(next, now);
        // Before the view changes: nothing in the new segment may be taken for durable until this is done.
        shared.durability.begin_roll(Roll { sealed: vec![sealed], active_base: base });
        self.show(shared, vec![Arc::clone(self.segment())]);
        Ok(())
    }

    /// Seals the active segment, which is trimmed; `next` takes its place.
    fn seal_before(&mut self, next: SegmentWriter, now: Timestamp) -> Sealed {
        let producers = self.snapshot(next.segment().base());
        let segment = std::mem::replace(&mut self.writer, next).seal(now);
        (self.first_append_at, self.due) = (None, None);
        self.captured = 0;
        Sealed { segment, producers }
    }

    /// Adds the segments of a roll to the view, and has it completed.
    fn show(&self, shared: &Shared, new: Vec<Arc<Segment>>) {
        shared.counters.rolls.add(new.len() as u64);
        shared.view.update(|view| Some(View::new(view.segments().iter().cloned().chain(new).collect())));
        shared.sync_soon();
    }

    /// Writes bytes that hold these batches, already with their offsets and epochs, and makes them readable.
    ///
    /// Nothing has changed after an error, except that a failed roll back poisons the partition.
    pub(crate) fn write(
        &mut self,
        shared: &Shared,
        parts: [&[u8]; 2],
        batches: &[BatchHeader],
        now: Timestamp,
    ) -> Result<()> {
        if let Err(error) = self.writer.write(parts) {
            if *error.kind() == ErrorKind::Poisoned {
                shared.poison(&error);
            }
            return Err(error);
        }
        self.note(shared, parts, batches, now);
        self.tell_end(shared);
        Ok(())
    }

    /// Takes note of the batches that were written last, and has the segment end with them.
    fn note(&mut self, shared: &Shared, parts: [&[u8]; 2], batches: &[BatchHeader], now: Timestamp) {
        if self.first_append_at.is_none() {
            self.first_append_at = Some(now);
            self.due = self.work_out_due();
            self.segment().update_facts(|facts| facts.first_append_at = now);
        }
        let [head, body] = parts;
        let start = self.writer.len() - (head.len() + body.len()) as u64;
        let mut position = start;
        for header in batches {
            self.writer.note(header, position);
            self.note_epoch(shared, header);
            if header.has_producer() {
                self.note_producer(header, (position - start) as usize, parts);
            }
            position += header.size as u64;
        }
        let end = batches.last().map_or(self.segment().end(), BatchHeader::next_offset);
        self.writer.publish(end);
    }

    /// Lets everyone see the log up to the end of the active segment.
    fn tell_end(&mut self, shared: &Shared) {
        let end = self.segment().end();
        let first_unstable =
            std::mem::take(&mut self.unstable).then(|| self.producers.first_unstable(shared.high_watermark_at(end)));
        // An open transaction is told before the end, a decided one after it: nobody sees as stable what is not decided
        // below the end that is there.
        if let Some(offset) = first_unstable {
            shared.ends.lower_first_unstable(offset);
        }
        shared.ends.set_log_end(end);
        if let Some(offset) = first_unstable {
            shared.ends.set_first_unstable(offset);
            // Asked so that what has become durable is forgotten.
            let _ = self.first_undecided(shared);
        }
        self.hand_over_checkpoint(shared);
    }

    /// Works out again where the stable part ends. The caller wakes who waits for it, without the appender.
    pub(crate) fn refresh_unstable(&mut self, shared: &Shared) {
        self.move_high_watermark(shared, shared.high_watermark(), || ());
    }

    /// The same before and after `set`, which moves the high watermark to `to`, forward or back. Where that leaves
    /// transactions undecided that were forgotten they are found in the log: appends wait for that.
    pub(crate) fn move_high_watermark(&mut self, shared: &Shared, to: Offset, set: impl FnOnce()) {
        if !self.producers.knows_unsettled(to) {
            match shared.replayed_producers(to) {
                Ok(replayed) => self.producers.recall_unsettled(replayed),
                // Damage, or a disk that fails: who reads it is told so.
                Err(_) => self.producers.suspect_unsettled(shared.ends.log_start()),
            }
        }
        let first_unstable = self.producers.first_unstable(to);
        // What is not decided any more is told before the mark moves back, what is decided after it has moved on.
        shared.ends.lower_first_unstable(first_unstable);
        set();
        shared.ends.set_first_unstable(first_unstable);
        // Asked so that what has become durable is forgotten.
        let _ = self.first_undecided(shared);
    }

    /// Where the first transaction starts that a compaction must not count on, whichever way it ended.
    pub(crate) fn first_undecided(&mut self, shared: &Shared) -> Option<Offset> {
        self.producers.first_undecided(shared.durability.end())
    }

    /// The state of all producers at `at`, as its snapshot file holds it.
    pub(crate) fn snapshot(&self, at: Offset) -> Snapshot {
        Snapshot { at, snapshot: (!self.producers.is_empty()).then(|| self.producers.to_snapshot()) }
    }

    /// Begins anew in `segment`, after a truncation.
    pub(crate) fn restart(&mut self, shared: &Shared, segment: Arc<Segment>, producers: Producers) {
        let config = Arc::clone(&self.config);
        shared.ends.set_log_end(segment.end());
        *self = Active::new(segment, config, producers, self.leader_epoch);
        // What was noted of it may be cut off.
        self.noted_epoch = -1;
        self.refresh_unstable(shared);
    }

    fn create(&self, shared: &Shared, base: Offset) -> Result<SegmentWriter> {
        let interval = u64::from(self.config.index_interval_bytes);
        let made = SegmentWriter::create(&shared.place, base, interval, reserve(&self.config));
        if made.is_err() {
            let path = shared.place.segment_path(base, file_name::SegmentFileKind::Log, file_name::Suffix::None);
            // Left over, it would be in the way of the next try.
            let _ = files::remove(&*shared.place.storage, &path);
        }
        made
    }

    fn note_epoch(&mut self, shared: &Shared, header: &BatchHeader) {
        if header.leader_epoch != self.noted_epoch && header.leader_epoch >= 0 {
            self.noted_epoch = header.leader_epoch;
            shared.lock_epochs().assign(header.leader_epoch, header.base_offset);
        }
    }

    #[cold]
    fn note_producer(&mut self, header: &BatchHeader, at: usize, parts: [&[u8]; 2]) {
        let control = if header.attributes.is_control() {
            // The marker lies in the records, which a split of the header leaves whole.
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

    /// Every so often tells the syncing threads of a point from which a recovery can begin.
    fn hand_over_checkpoint(&mut self, shared: &Shared) {
        if self.writer.len() - self.captured < shared.budgets.checkpoint_bytes / 2 {
            return;
        }
        self.captured = self.writer.len();
        self.writer.complete_times();
        let segment = Arc::clone(self.segment());
        let end = segment.end();
        shared.durability.capture(Capture {
            end,
            position: self.captured,
            index_entries: segment.index_entries(),
            max_timestamp: self.writer.max_timestamp(),
            producers: self.snapshot(end),
            segment,
        });
        shared.sync_soon();
    }
}

/// How space ahead is reserved: zeros where each append is synced, a mapped window else.
fn reserve(config: &TopicConfig) -> Option<Reserve> {
    config.append_windows.then_some(match config.durability {
        DurabilityConfig::Sync => Reserve::Zeroed,
        DurabilityConfig::Buffered { .. } => Reserve::Mapped,
    })
}
