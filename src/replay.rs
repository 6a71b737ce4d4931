//! Everything that is derived from batches in offset order: producers, transactions, leader epochs.

use std::sync::Arc;

use crate::epochs::Epochs;
use crate::error::{Error, Result};
use crate::format::file_name::{SegmentFileKind, Suffix};
use crate::format::{AbortedTxn, BatchView, Scratch, snapshot};
use crate::offset::Offset;
use crate::producers::Producers;
use crate::segment::Place;
use crate::segment::scan::{Check, Found};
use crate::storage::{OpenMode, files};
use crate::survey::{LogFile, Stop, walk};
use crate::transactions;

/// A larger producer snapshot is not read.
const SNAPSHOT_MAX: u64 = 256 << 20;

/// Follows the batches of a log.
pub(crate) struct Replay {
    pub(crate) producers: Producers,
    pub(crate) epochs: Epochs,
    scratch: Scratch,
}

impl Replay {
    pub(crate) fn new(epochs: Epochs) -> Replay {
        Replay { producers: Producers::default(), epochs, scratch: Scratch::default() }
    }

    /// Takes note of a batch. Returns the transaction that it aborts.
    pub(crate) fn note(&mut self, batch: &BatchView<'_>) -> Option<AbortedTxn> {
        let header = batch.header();
        // The checkpoint may know of later epochs already, which are not forgotten for a batch that it covers.
        if header.leader_epoch >= 0 && self.epochs.at(header.base_offset) != Some(header.leader_epoch) {
            self.epochs.assign(header.leader_epoch, header.base_offset);
        }
        if !header.has_producer() {
            return None;
        }
        // A marker that cannot be read ends no transaction; `verify` tells of it.
        let control = batch.control(&mut self.scratch).ok().flatten();
        let ended = self.producers.update(header, control)?;
        transactions::aborted_entry(&ended, self.producers.first_open_transaction())
    }

    /// Brings the producers to their state before `at`: from the newest snapshot that can be read, and the batches
    /// since. Snapshots do not tell of transactions that have ended, so the one has to lie at or below `settled`, from
    /// where on they may still be taken back. `exact` is the snapshot that is known to belong to `at`; `Some(None)`:
    /// there were no producers then. Returns the first damage, behind which a
    /// segment was not read.
    pub(crate) fn producers_before(
        &mut self,
        place: &Arc<Place>,
        logs: &[LogFile],
        snapshots: &[Offset],
        at: Offset,
        settled: Offset,
        exact: Option<Option<Offset>>,
    ) -> Result<Option<Error>> {
        self.producers = Producers::default();
        if exact == Some(None) {
            // A producer whose transaction ended at or above `settled` would not have been forgotten.
            self.producers.begin_at(at.min(settled));
            return Ok(None);
        }
        let mut from = logs.first().map_or(at, |first| first.base);
        for snapshot in snapshots.iter().rev().filter(|snapshot| **snapshot <= at.min(settled)) {
            if let Some(producers) = load_snapshot(place, *snapshot)? {
                (self.producers, from) = (producers, *snapshot);
                break;
            }
        }
        self.producers.begin_at(from);
        let mut damage = None;
        for log in logs.iter().filter(|log| log.end > from && log.base < at) {
            let met = self.replay(place, log, from, at, |_| ())?;
            damage = damage.or(met);
        }
        Ok(damage)
    }

    /// Replays the batches of one segment with offsets in `[from, to)`, up to damage, which is returned.
    pub(crate) fn replay(
        &mut self,
        place: &Place,
        log: &LogFile,
        from: Offset,
        to: Offset,
        mut aborted: impl FnMut(AbortedTxn),
    ) -> Result<Option<Error>> {
        let path = place.segment_path(log.base, SegmentFileKind::Log, log.suffix);
        let file = place.storage.open(&path, OpenMode::Read).map_err(|e| Error::io(e, &path))?;
        let walk = walk(&*file, log.base, (0, log.valid), log.base, Check::Header, |Found { batch, .. }| {
            if (from..to).contains(&batch.header().base_offset)
                && let Some(entry) = self.note(&batch)
            {
                aborted(entry);
            }
            Ok(())
        })?;
        Ok(match walk.stop {
            Stop::Bad(why) => Some(Error::corrupt(&path, walk.position, why.to_string())),
            Stop::End | Stop::Zeros => None,
        })
    }
}

/// The producers of a snapshot file; `None` when it is missing or damaged: an older one will do.
fn load_snapshot(place: &Place, at: Offset) -> Result<Option<Producers>> {
    let path = place.segment_path(at, SegmentFileKind::Snapshot, Suffix::None);
    let Some(bytes) = files::read(&*place.storage, &path, SNAPSHOT_MAX)? else { return Ok(None) };
    Ok(snapshot::decode(&bytes).ok().map(|entries| Producers::from_snapshot(&entries)))
}
