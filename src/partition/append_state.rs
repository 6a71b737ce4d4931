//! What an append changes beside the bytes: the ends that readers see, rolls, epochs, producers, checkpoints. All of it
//! is under the appender's lock.

use std::sync::Arc;

use crate::error::{ErrorKind, Result};
use crate::format::{BatchHeader, file_name};
use crate::offset::{Offset, Timestamp};
use crate::replay::producers::Producers;
use crate::segment::Segment;
use crate::segment::list::SegmentList;
use crate::segment::writer::SegmentWriter;
use crate::storage::small_file;

use super::active::{Active, SPAN_MAX, reserve};
use super::checkpoint::{Capture, Roll};
use super::core::PartitionCore;

impl Active {
    /// Forgets producers that have been idle for long, and gives reserved space back when nothing was appended since
    /// the last call.
    pub(crate) fn release_idle(&mut self, core: &PartitionCore, now: Timestamp) -> Result<()> {
        self.producers.remove_expired(now, self.config.producer_expiration, core.high_watermark());
        let len = self.writer.len();
        if len == self.idle_len {
            self.writer.trim()?;
        }
        self.idle_len = len;
        Ok(())
    }

    /// Rolls when the next batch does not fit the active segment any more. An empty one takes any batch.
    pub(crate) fn make_room(
        &mut self,
        core: &PartitionCore,
        header: &BatchHeader,
        at: Offset,
        now: Timestamp,
    ) -> Result<()> {
        if self.writer.len() > 0 && !self.fits(0, header, at, now) {
            self.roll(core, now)?;
        }
        let segment = self.writer.segment();
        if at.since(segment.base()) + u64::from(header.last_offset_delta) > SPAN_MAX {
            return Err(ErrorKind::UnexpectedOffset { given: at, end: segment.end() }.into());
        }
        Ok(())
    }

    /// Seals the active segment and begins the next one. The second half, which makes the roll durable, is left to the
    /// syncing threads; a roll before it is finished first. An empty active segment stays.
    pub(crate) fn roll(&mut self, core: &PartitionCore, now: Timestamp) -> Result<()> {
        if self.writer.len() == 0 {
            return Ok(());
        }
        core.finish_roll()?;
        self.writer.trim()?;
        let base = self.segment().end();
        let next = self.create(core, base)?;
        let sealed = self.seal_before(next, now);
        // Before the view changes: nothing in the new segment may be taken for durable until this is done.
        core.group_commit.begin_roll(Roll { sealed: vec![sealed], active_base: base });
        self.show(core, vec![Arc::clone(self.segment())]);
        Ok(())
    }

    /// Adds the segments of a roll to the view, and has it completed.
    pub(super) fn show(&self, core: &PartitionCore, new: Vec<Arc<Segment>>) {
        core.counters.rolls.add(new.len() as u64);
        core.view.update(|view| Some(SegmentList::new(view.segments().iter().cloned().chain(new).collect())));
        core.sync_soon();
    }

    /// Writes bytes that hold these batches, already with their offsets and epochs, and makes them readable.
    ///
    /// Nothing has changed after an error, except that a failed roll back poisons the partition.
    pub(crate) fn write(
        &mut self,
        core: &PartitionCore,
        parts: [&[u8]; 2],
        batches: &[BatchHeader],
        now: Timestamp,
    ) -> Result<()> {
        if let Err(error) = self.writer.write(parts) {
            if *error.kind() == ErrorKind::Poisoned {
                core.poison(&error);
            }
            return Err(error);
        }
        self.note(core, parts, batches, now);
        self.tell_end(core);
        Ok(())
    }

    /// Takes note of the batches that were written last, and has the segment end with them.
    pub(super) fn note(&mut self, core: &PartitionCore, parts: [&[u8]; 2], batches: &[BatchHeader], now: Timestamp) {
        if self.first_append_at.is_none() {
            self.first_append_at = Some(now);
            self.due = self.work_out_due();
            self.segment().update_meta(|facts| facts.first_append_at = now);
        }
        let [head, body] = parts;
        let start = self.writer.len() - (head.len() + body.len()) as u64;
        let mut position = start;
        for header in batches {
            self.writer.note(header, position);
            self.note_epoch(core, header);
            if header.has_producer() {
                self.note_producer(header, (position - start) as usize, parts);
            }
            position += header.size as u64;
        }
        let end = batches.last().map_or(self.segment().end(), BatchHeader::next_offset);
        self.writer.publish(end);
    }

    /// Lets everyone see the log up to the end of the active segment.
    pub(super) fn tell_end(&mut self, core: &PartitionCore) {
        let end = self.segment().end();
        let first_unstable =
            std::mem::take(&mut self.unstable).then(|| self.producers.first_unstable(core.high_watermark_at(end)));
        // An open transaction is told before the end, a decided one after it: nobody sees as stable what is not decided
        // below the end that is there.
        if let Some(offset) = first_unstable {
            core.ends.lower_first_unstable(offset);
        }
        core.ends.set_log_end(end);
        if let Some(offset) = first_unstable {
            core.ends.set_first_unstable(offset);
            // Asked so that what has become durable is forgotten.
            let _ = self.first_undecided(core);
        }
        self.hand_over_checkpoint(core);
    }

    /// Works out again where the stable part ends. The caller wakes who waits for it, without the appender.
    pub(crate) fn refresh_unstable(&mut self, core: &PartitionCore) {
        self.move_high_watermark(core, core.high_watermark(), || ());
    }

    /// The same before and after `set`, which moves the high watermark to `to`, forward or back. Where that leaves
    /// transactions undecided that were forgotten they are found in the log: appends wait for that.
    pub(crate) fn move_high_watermark(&mut self, core: &PartitionCore, to: Offset, set: impl FnOnce()) {
        if !self.producers.knows_unsettled(to) {
            match core.replayed_producers(to) {
                Ok(replayed) => self.producers.recall_unsettled(replayed),
                // Damage, or a disk that fails: who reads it is told so.
                Err(_) => self.producers.suspect_unsettled(core.ends.log_start()),
            }
        }
        let first_unstable = self.producers.first_unstable(to);
        // What is not decided any more is told before the mark moves back, what is decided after it has moved on.
        core.ends.lower_first_unstable(first_unstable);
        set();
        core.ends.set_first_unstable(first_unstable);
        // Asked so that what has become durable is forgotten.
        let _ = self.first_undecided(core);
    }

    /// Where the first transaction starts that a compaction must not count on, whichever way it ended.
    pub(crate) fn first_undecided(&mut self, core: &PartitionCore) -> Option<Offset> {
        self.producers.first_undecided(core.group_commit.end())
    }

    /// Begins anew in `segment`, after a truncation.
    pub(crate) fn restart(&mut self, core: &PartitionCore, segment: Arc<Segment>, producers: Producers) {
        let config = Arc::clone(&self.config);
        core.ends.set_log_end(segment.end());
        *self = Active::new(segment, config, producers, self.leader_epoch);
        // What was noted of it may be cut off.
        self.noted_epoch = -1;
        self.refresh_unstable(core);
    }

    pub(super) fn create(&self, core: &PartitionCore, base: Offset) -> Result<SegmentWriter> {
        let interval = u64::from(self.config.index_interval_bytes);
        let made = SegmentWriter::create(&core.dir, base, interval, reserve(&self.config));
        if made.is_err() {
            let path = core.dir.segment_path(base, file_name::SegmentFileKind::Log, file_name::Suffix::None);
            // Left over, it would be in the way of the next try.
            let _ = small_file::remove(&*core.dir.storage, &path);
        }
        made
    }

    pub(super) fn note_epoch(&mut self, core: &PartitionCore, header: &BatchHeader) {
        if header.leader_epoch != self.noted_epoch && header.leader_epoch >= 0 {
            self.noted_epoch = header.leader_epoch;
            core.lock_leader_epochs().assign(header.leader_epoch, header.base_offset);
        }
    }

    /// Every so often tells the syncing threads of a point from which a recovery can begin.
    pub(super) fn hand_over_checkpoint(&mut self, core: &PartitionCore) {
        if self.writer.len() - self.captured < core.resources.checkpoint_bytes / 2 {
            return;
        }
        self.captured = self.writer.len();
        self.writer.complete_times();
        let segment = Arc::clone(self.segment());
        let end = segment.end();
        core.group_commit.capture(Capture {
            end,
            position: self.captured,
            index_entries: segment.index_entries(),
            max_timestamp: self.writer.max_timestamp(),
            producers: self.snapshot(end),
            segment,
        });
        core.sync_soon();
    }
}
