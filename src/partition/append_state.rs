//! The state that an append changes beside the bytes: the ends that readers see, rolls, epochs, producers, checkpoints.
//! All of it is guarded by the appender's lock.

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
    /// Removes producers that have been idle for longer than `producer_expiration`. Gives reserved space back if
    /// nothing was appended since the last call.
    pub(crate) fn release_idle(&mut self, core: &PartitionCore, now: Timestamp) -> Result<()> {
        self.producers.remove_expired(now, self.config.producer_expiration, core.high_watermark());
        let len = self.writer.len();
        if len == self.idle_len {
            self.writer.trim()?;
        }
        self.idle_len = len;
        Ok(())
    }

    /// Rolls when the next batch does not fit into the active segment. An empty segment takes any batch.
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

    /// Seals the active segment and starts the next one. The syncing threads do the second half, which makes the roll
    /// durable. An earlier roll is finished first. An empty active segment is not rolled.
    pub(crate) fn roll(&mut self, core: &PartitionCore, now: Timestamp) -> Result<()> {
        if self.writer.len() == 0 {
            return Ok(());
        }
        core.finish_roll()?;
        self.writer.trim()?;
        let base = self.segment().end();
        let next = self.create(core, base)?;
        let sealed = self.seal_before(next, now);
        // Before the segment list changes: nothing in the new segment may count as durable until the roll is finished.
        core.group_commit.begin_roll(Roll { sealed: vec![sealed], active_base: base });
        self.show(core, vec![Arc::clone(self.segment())]);
        Ok(())
    }

    /// Adds the segments of a roll to the segment list, and asks the syncing threads to finish the roll.
    pub(super) fn show(&self, core: &PartitionCore, new: Vec<Arc<Segment>>) {
        core.counters.rolls.add(new.len() as u64);
        core.view.update(|view| Some(SegmentList::new(view.segments().iter().cloned().chain(new).collect())));
        core.sync_soon();
    }

    /// Writes bytes that hold these batches, already with their offsets and epochs, and makes them readable.
    ///
    /// After an error nothing has changed, except that a failed roll back poisons the partition.
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

    /// Records the batches that were written last in the index, the epochs and the producers, and publishes the new end
    /// of the segment.
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

    /// Publishes the log end at the end of the active segment.
    pub(super) fn tell_end(&mut self, core: &PartitionCore) {
        let end = self.segment().end();
        let first_unstable =
            std::mem::take(&mut self.unstable).then(|| self.producers.first_unstable(core.high_watermark_at(end)));
        // An open transaction is published before the end, a decided one after it. So no reader takes an undecided
        // transaction below the published end for stable.
        if let Some(offset) = first_unstable {
            core.ends.lower_first_unstable(offset);
        }
        core.ends.set_log_end(end);
        if let Some(offset) = first_unstable {
            core.ends.set_first_unstable(offset);
            // Called so that the producers forget the transactions that have become durable.
            let _ = self.first_undecided(core);
        }
        self.hand_over_checkpoint(core);
    }

    /// Recomputes the last stable offset. The caller then wakes its waiters, without the appender's lock.
    pub(crate) fn refresh_unstable(&mut self, core: &PartitionCore) {
        self.move_high_watermark(core, core.high_watermark(), || ());
    }

    /// Publishes the first unstable offset before and after `set`, which moves the high watermark to `to`, forward or
    /// back. Moving it back may leave transactions undecided that were already forgotten. These are then found in the
    /// log, while appends wait.
    pub(crate) fn move_high_watermark(&mut self, core: &PartitionCore, to: Offset, set: impl FnOnce()) {
        if !self.producers.knows_unsettled(to) {
            match core.replayed_producers(to) {
                Ok(replayed) => self.producers.recall_unsettled(replayed),
                // Damage or a failing disk: the reader of that part gets the error.
                Err(_) => self.producers.suspect_unsettled(core.ends.log_start()),
            }
        }
        let first_unstable = self.producers.first_unstable(to);
        // Transactions that become undecided are published before the high watermark moves back, decided ones after it
        // has moved forward.
        core.ends.lower_first_unstable(first_unstable);
        set();
        core.ends.set_first_unstable(first_unstable);
        // Called so that the producers forget the transactions that have become durable.
        let _ = self.first_undecided(core);
    }

    /// Returns the start of the first transaction whose outcome a compaction must not rely on yet.
    pub(crate) fn first_undecided(&mut self, core: &PartitionCore) -> Option<Offset> {
        self.producers.first_undecided(core.group_commit.end())
    }

    /// Restarts appends in `segment`, after a truncation.
    pub(crate) fn restart(&mut self, core: &PartitionCore, segment: Arc<Segment>, producers: Producers) {
        let config = Arc::clone(&self.config);
        core.ends.set_log_end(segment.end());
        *self = Active::new(segment, config, producers, self.leader_epoch);
        // The truncation may have cut off the noted epoch.
        self.noted_epoch = -1;
        self.refresh_unstable(core);
    }

    pub(super) fn create(&self, core: &PartitionCore, base: Offset) -> Result<SegmentWriter> {
        let interval = u64::from(self.config.index_interval_bytes);
        let made = SegmentWriter::create(&core.dir, base, interval, reserve(&self.config));
        if made.is_err() {
            let path = core.dir.segment_path(base, file_name::SegmentFileKind::Log, file_name::Suffix::None);
            // A leftover file would block the next attempt.
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

    /// Hands over a checkpoint to the syncing threads once enough bytes were appended since the last one.
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
