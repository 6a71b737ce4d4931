//! Derives state from batches in offset order: producers, transactions, leader epochs.

pub(crate) mod leader_epochs;
pub(crate) mod producers;
pub(crate) mod transactions;

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::file_name::{SegmentFileKind, Suffix};
use crate::format::{AbortedTxn, BatchView, Scratch, snapshot};
use crate::offset::Offset;
use crate::replay::leader_epochs::LeaderEpochs;
use crate::replay::producers::Producers;
use crate::segment::PartitionDir;
use crate::segment::listing::LogFile;
use crate::segment::scan::{Check, Found};
use crate::segment::walk::walk_up_to;
use crate::storage::{OpenMode, small_file};

/// Larger producer snapshots are not read.
const SNAPSHOT_MAX: u64 = 256 << 20;

/// Where no producer is known to have existed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Nobody {
    /// Nowhere: there may have been producers at any time.
    Never,
    /// At the offset for which the producers are requested.
    Then,
    /// At some later offset.
    Later,
}

/// Follows the batches of a log.
pub(crate) struct Replay {
    pub(crate) producers: Producers,
    pub(crate) epochs: LeaderEpochs,
    scratch: Scratch,
}

impl Replay {
    pub(crate) fn new(epochs: LeaderEpochs) -> Replay {
        Replay { producers: Producers::default(), epochs, scratch: Scratch::default() }
    }

    /// Applies a batch. Returns the transaction that it aborts.
    pub(crate) fn note(&mut self, batch: &BatchView<'_>) -> Option<AbortedTxn> {
        let header = batch.header();
        // The checkpoint may already hold later epochs. A batch that it covers must not make it drop them.
        if header.leader_epoch >= 0 && self.epochs.at(header.base_offset) != Some(header.leader_epoch) {
            self.epochs.assign(header.leader_epoch, header.base_offset);
        }
        if !header.has_producer() {
            return None;
        }
        // A marker that cannot be read ends no transaction; `verify` reports it.
        let control = batch.control(&mut self.scratch).ok().flatten();
        let ended = self.producers.update(header, control)?;
        transactions::aborted_entry(&ended, self.producers.first_open_transaction())
    }

    /// Restores the producers to their state before `at`, from the newest readable snapshot and the batches since.
    /// Snapshots do not hold ended transactions, so the snapshot must lie at or below `settled`. From there on ended
    /// transactions may still be undone.
    pub(crate) fn producers_before(
        &mut self,
        dir: &Arc<PartitionDir>,
        logs: &[LogFile],
        snapshots: &[Offset],
        at: Offset,
        settled: Offset,
        nobody: Nobody,
    ) -> Result<()> {
        self.producers = Producers::default();
        if nobody == Nobody::Then {
            // A producer whose transaction ended at or above `settled` would not have been forgotten.
            self.producers.begin_at(at.min(settled));
            return Ok(());
        }
        let mut from = logs.first().map_or(at, |first| first.base);
        for snapshot in snapshots.iter().rev().filter(|snapshot| **snapshot <= at.min(settled)) {
            if let Some(producers) = load_snapshot(dir, *snapshot)? {
                (self.producers, from) = (producers, *snapshot);
                break;
            }
        }
        self.producers.begin_at(from);
        // Each roll leaves a snapshot if a producer is known. If there is no snapshot, and no producer is known later
        // either, then a segment that `at` does not lie in has no producers. Its damage does not matter here.
        let skips_damage = nobody == Nobody::Later && snapshots.is_empty();
        for log in logs.iter().filter(|log| log.end > from && log.base < at) {
            match self.replay(dir, log, from, at, |_| ()) {
                Err(error) if skips_damage && log.end <= at && error.is_corruption() => {
                    self.producers = Producers::default();
                    self.producers.begin_at(from);
                }
                replayed => replayed?,
            }
        }
        Ok(())
    }

    /// Replays the batches of one segment with offsets in `[from, to)`. Damage before `to` is an error, because the
    /// batches behind it may have ended a transaction.
    pub(crate) fn replay(
        &mut self,
        dir: &PartitionDir,
        log: &LogFile,
        from: Offset,
        to: Offset,
        mut aborted: impl FnMut(AbortedTxn),
    ) -> Result<()> {
        let path = dir.segment_path(log.base, SegmentFileKind::Log, log.suffix);
        let file = dir.storage.open(&path, OpenMode::Read).map_err(|e| Error::io(e, &path))?;
        let offsets = log.base..log.end;
        let walk =
            walk_up_to(&*file, offsets, (0, log.valid), log.base, to, Check::Header, |Found { batch, .. }| {
                if batch.header().base_offset >= from
                    && let Some(entry) = self.note(&batch)
                {
                    aborted(entry);
                }
                Ok(())
            })
            .map_err(|e| e.at_path(&path))?;
        match walk.fault() {
            Some(what) if walk.end < log.end.min(to) => Err(Error::corrupt(&path, walk.position, what)),
            _ => Ok(()),
        }
    }
}

/// Reads the producers of a snapshot file. Returns `None` if it is missing or damaged, and an older one is then used.
fn load_snapshot(dir: &PartitionDir, at: Offset) -> Result<Option<Producers>> {
    let path = dir.segment_path(at, SegmentFileKind::Snapshot, Suffix::None);
    let Some(bytes) = small_file::read(&*dir.storage, &path, SNAPSHOT_MAX)? else { return Ok(None) };
    Ok(snapshot::decode(&bytes).ok().map(|entries| Producers::from_snapshot(&entries)))
}
