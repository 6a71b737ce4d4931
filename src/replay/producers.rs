//! The state of a partition's producers: their epochs, their last sequence numbers, their open transactions.
//!
//! All of it follows from the batches in offset order. It is kept in memory, and in a snapshot at the base of each
//! segment. So only the batches behind the newest usable snapshot must be read to restore it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use crate::format::{BatchHeader, ControlRecord, Marker, ProducerSnapshotEntry, snapshot};
use crate::offset::{Offset, Timestamp};
use crate::replay::transactions::CompletedTxn;

/// The default number of producers that a partition remembers: about 15 MB of memory.
pub(crate) const MAX_PRODUCERS: usize = 100_000;

/// The producers of a partition. Uses no heap memory while there are none.
///
/// Refuses nothing: a batch that is in the log counts, whatever its epoch or sequence.
#[derive(Clone, Debug)]
pub(crate) struct Producers {
    /// By producer id. Each producer is also either in `open` or in `idle`.
    entries: BTreeMap<i64, ProducerEntry>,
    /// Producers with an open transaction, by its first offset.
    open: BTreeSet<(Offset, i64)>,
    /// The other producers, by the offset where they were last seen, the longest idle one first.
    idle: BTreeSet<(Offset, i64)>,
    /// Transactions that have ended above the high watermark.
    unsettled: EndedTxns,
    /// Transactions that have ended above the durable end.
    unsynced: EndedTxns,
    max: usize,
}

/// Transactions that have ended above a mark, as (first offset, marker), the lowest first. Entries behind the first may
/// already lie below the mark.
#[derive(Clone, Debug, Default)]
struct EndedTxns {
    heap: BinaryHeap<Reverse<(Offset, Offset)>>,
    /// All transactions with markers from here on are present. Those that ended below may have been forgotten.
    known_from: Offset,
}

/// The state of one producer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct ProducerEntry {
    epoch: i16,
    /// The last sequence number of its last data batch in this epoch; -1 if there was none, or it had no sequence.
    last_sequence: i32,
    last_offset: Option<Offset>,
    offset_delta: i32,
    /// The timestamp of its last batch or marker.
    timestamp: Timestamp,
    coordinator_epoch: i32,
    current_txn_first_offset: Option<Offset>,
    /// The offset of its last batch or marker. A snapshot does not hold the offset of a marker.
    last_seen: Offset,
}

impl Default for Producers {
    fn default() -> Producers {
        Producers {
            entries: BTreeMap::new(),
            open: BTreeSet::new(),
            idle: BTreeSet::new(),
            unsettled: EndedTxns::default(),
            unsynced: EndedTxns::default(),
            max: MAX_PRODUCERS,
        }
    }
}

impl Producers {
    /// Restores the state from a snapshot. Replay the batches behind it with [`update`](Producers::update).
    ///
    /// A snapshot does not hold ended transactions. If the high watermark lies before the log end, use a snapshot from
    /// before the high watermark, so that all unsettled transactions are known.
    pub(crate) fn from_snapshot(entries: &[ProducerSnapshotEntry]) -> Producers {
        let mut producers = Producers::default();
        for entry in entries {
            let known = producers.entries.get(&entry.producer_id).copied();
            producers.replace(entry.producer_id, known, ProducerEntry::from_snapshot(entry));
        }
        producers.make_room(producers.max);
        producers
    }

    /// Encodes the state as a snapshot file, in the order of producer ids. (Kafka's order is that of a hash map.)
    pub(crate) fn to_snapshot(&self) -> Vec<u8> {
        let entries: Vec<_> = self.entries.iter().map(|(id, entry)| entry.to_snapshot(*id)).collect();
        snapshot::encode(&entries)
    }

    /// Bounds the number of remembered producers. To make room for a new one, the producer that was idle for the
    /// longest part of the log is forgotten. One with an open transaction is never forgotten, so many of those may
    /// exceed the bound.
    pub(crate) fn set_max(&mut self, max: usize) {
        self.max = max;
        self.make_room(max);
    }

    /// Whether no producer is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of known producers.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Applies the next batch of the log. A batch without a producer changes nothing. `control` is its control record,
    /// if it is a control batch that still has one. Returns the transaction that it ends, unless that transaction has
    /// no batch in the log.
    pub(crate) fn update(&mut self, header: &BatchHeader, control: Option<ControlRecord>) -> Option<CompletedTxn> {
        if !header.has_producer() || control.is_some_and(|control| matches!(control.marker, Marker::Other(_))) {
            return None;
        }
        let id = header.producer_id;
        let known = self.entries.get(&id).copied();
        if known.is_none() {
            self.make_room(self.max.saturating_sub(1));
        }
        let mut entry = known.unwrap_or(ProducerEntry::NEW);
        let first = match control {
            _ if !header.attributes.is_control() => entry.note_data(header),
            Some(control) => entry.note_marker(header, control),
            None => entry.note_emptied_marker(header),
        };
        self.replace(id, known, entry);

        let (first_offset, control) = first.zip(control)?;
        let aborted = control.marker == Marker::Abort;
        self.unsettled.heap.push(Reverse((first_offset, control.offset)));
        self.unsynced.heap.push(Reverse((first_offset, control.offset)));
        Some(CompletedTxn { producer_id: id, first_offset, last_offset: control.offset, aborted })
    }

    /// The start of the first open transaction. It may lie before the log start.
    #[inline]
    pub(crate) fn first_open_transaction(&self) -> Option<Offset> {
        self.open.first().map(|(first, _)| *first)
    }

    /// The start of the first transaction that is open, or that may be undone because its marker is not below the high
    /// watermark. The last stable offset is the lesser of this and the high watermark, but not less than the log start.
    ///
    /// Call it again whenever the high watermark moves. If the high watermark is not managed, it is the log end. Ended
    /// transactions that it passes are forgotten; before it moves back, check
    /// [`knows_unsettled`](Self::knows_unsettled).
    #[inline]
    pub(crate) fn first_unstable(&mut self, high_watermark: Offset) -> Option<Offset> {
        self.first_open_transaction().into_iter().chain(self.unsettled.first_above(high_watermark)).min()
    }

    /// Whether all transactions that have ended at or above this high watermark are known.
    pub(crate) fn knows_unsettled(&self, high_watermark: Offset) -> bool {
        high_watermark >= self.unsettled.known_from
    }

    /// Records that batches below `from` were not applied, so transactions that ended there are not known.
    pub(crate) fn begin_at(&mut self, from: Offset) {
        (self.unsettled.known_from, self.unsynced.known_from) = (from, from);
    }

    /// Takes over the ended transactions from `replayed`, which was replayed to the same offset from further below.
    pub(crate) fn recall_unsettled(&mut self, replayed: Producers) {
        self.unsettled = replayed.unsettled;
    }

    /// Handles ended transactions that cannot be recovered: treats all forgotten ones as one transaction that starts at
    /// `from`.
    pub(crate) fn suspect_unsettled(&mut self, from: Offset) {
        let EndedTxns { heap, known_from } = &mut self.unsettled;
        if let Some(marker) = known_from.get().checked_sub(1) {
            heap.push(Reverse((from, Offset::new(marker))));
        }
        *known_from = Offset::ZERO;
    }

    /// The start of the first transaction that is open, or whose marker is not durable. A power cut would undo such a
    /// marker, and the transaction could then end the other way. The durable end must not decrease between calls; ended
    /// transactions that it passes are forgotten.
    #[inline]
    pub(crate) fn first_undecided(&mut self, durable: Offset) -> Option<Offset> {
        self.first_open_transaction().into_iter().chain(self.unsynced.first_above(durable)).min()
    }

    /// Forgets producers that have been idle for `expiration` or longer at `now`, by the timestamps of their records.
    /// Never forgets one with an open transaction, or one whose transaction ended at or above `settled`: a snapshot
    /// without producers means that there are no transactions to recover.
    pub(crate) fn remove_expired(&mut self, now: Timestamp, expiration: Duration, settled: Offset) {
        let Producers { entries, idle, .. } = self;
        entries.retain(|id, entry| {
            let is_idle = entry.current_txn_first_offset.is_none() && entry.last_seen < settled;
            let expired = is_idle && entry.timestamp <= now.minus(expiration);
            if expired {
                idle.remove(&(entry.last_seen, *id));
            }
            !expired
        });
        if entries.is_empty() {
            // An emptied tree may keep a node allocated.
            (*entries, *idle) = (BTreeMap::new(), BTreeSet::new());
        }
    }

    /// The batches that a compaction must keep now, empty if need be. If a producer goes on writing meanwhile, this
    /// only keeps one batch too many.
    ///
    /// A last marker counts only below `durable`, because a power cut would undo later ones.
    pub(crate) fn last_batches(&self, durable: Offset) -> LastBatches {
        let last = |entry: &ProducerEntry| match entry.last_offset {
            Some(last_offset) => LastBatch::Data(last_offset),
            // A snapshot does not tell which marker was the last one.
            None if entry.last_seen > Offset::ZERO && entry.last_seen < durable => LastBatch::Marker(entry.last_seen),
            None => LastBatch::AnyMarker(entry.epoch),
        };
        LastBatches { by_producer: self.entries.iter().map(|(id, entry)| (*id, last(entry))).collect() }
    }

    /// Forgets idle producers until at most `len` producers are left, or no idle one is.
    fn make_room(&mut self, len: usize) {
        while self.entries.len() > len
            && let Some((_, id)) = self.idle.pop_first()
        {
            self.entries.remove(&id);
        }
    }

    fn replace(&mut self, id: i64, known: Option<ProducerEntry>, entry: ProducerEntry) {
        if let Some(known) = known {
            let (list, place) = self.list_of(&known);
            let listed = list.remove(&(place, id));
            assert!(listed, "each producer is in the list that its entry tells");
        }
        let (list, place) = self.list_of(&entry);
        list.insert((place, id));
        self.entries.insert(id, entry);
    }

    /// The list where an entry belongs, and its offset there.
    fn list_of(&mut self, entry: &ProducerEntry) -> (&mut BTreeSet<(Offset, i64)>, Offset) {
        match entry.current_txn_first_offset {
            Some(first) => (&mut self.open, first),
            None => (&mut self.idle, entry.last_seen),
        }
    }
}

impl EndedTxns {
    /// The start of the first transaction whose marker does not lie below `mark`. Forgets the ones before it.
    #[inline]
    fn first_above(&mut self, mark: Offset) -> Option<Offset> {
        while let Some(Reverse((_, marker))) = self.heap.peek()
            && *marker < mark
        {
            self.known_from = self.known_from.max(*marker + 1);
            self.heap.pop();
        }
        self.heap.peek().map(|Reverse((first, _))| *first)
    }
}

impl ProducerEntry {
    const NEW: ProducerEntry = ProducerEntry {
        epoch: -1,
        last_sequence: -1,
        last_offset: None,
        offset_delta: 0,
        timestamp: Timestamp::NONE,
        coordinator_epoch: -1,
        current_txn_first_offset: None,
        last_seen: Offset::ZERO,
    };

    fn from_snapshot(entry: &ProducerSnapshotEntry) -> ProducerEntry {
        ProducerEntry {
            epoch: entry.epoch,
            last_sequence: entry.last_sequence,
            last_offset: entry.last_offset,
            offset_delta: entry.offset_delta,
            timestamp: entry.timestamp,
            coordinator_epoch: entry.coordinator_epoch,
            current_txn_first_offset: entry.current_txn_first_offset,
            last_seen: entry.last_offset.unwrap_or_default(),
        }
    }

    fn to_snapshot(self, producer_id: i64) -> ProducerSnapshotEntry {
        ProducerSnapshotEntry {
            producer_id,
            epoch: self.epoch,
            last_sequence: self.last_sequence,
            last_offset: self.last_offset,
            offset_delta: self.offset_delta,
            timestamp: self.timestamp,
            coordinator_epoch: self.coordinator_epoch,
            current_txn_first_offset: self.current_txn_first_offset,
        }
    }

    /// Applies a data batch. One without the transactional flag leaves an open transaction as it is. No transaction
    /// ends.
    fn note_data(&mut self, header: &BatchHeader) -> Option<Offset> {
        self.enter_epoch(header.producer_epoch);
        self.last_sequence = last_sequence(header);
        self.last_offset = Some(header.last_offset());
        self.offset_delta = header.last_offset_delta as i32;
        self.timestamp = header.max_timestamp;
        self.last_seen = header.last_offset();
        if header.attributes.is_transactional() {
            self.current_txn_first_offset.get_or_insert(header.base_offset);
        }
        None
    }

    /// Applies a marker. Returns the start of the transaction that it ends.
    fn note_marker(&mut self, header: &BatchHeader, control: ControlRecord) -> Option<Offset> {
        self.enter_epoch(header.producer_epoch);
        self.coordinator_epoch = control.coordinator_epoch;
        self.timestamp = control.timestamp;
        self.last_seen = control.offset;
        self.current_txn_first_offset.take()
    }

    /// Applies a control batch that has lost its record to a compaction. It was kept for its epoch, which fences older
    /// ones. Its transaction had been removed before.
    fn note_emptied_marker(&mut self, header: &BatchHeader) -> Option<Offset> {
        self.enter_epoch(header.producer_epoch);
        self.timestamp = header.max_timestamp;
        self.last_seen = header.last_offset();
        None
    }

    /// Sequence numbers restart with each epoch.
    fn enter_epoch(&mut self, epoch: i16) {
        if self.epoch != epoch {
            (self.epoch, self.last_sequence, self.last_offset, self.offset_delta) = (epoch, -1, None, 0);
        }
    }
}

/// The sequence number of a batch's last record; -1 if it has none. The largest number is followed by 0.
fn last_sequence(header: &BatchHeader) -> i32 {
    match u32::try_from(header.base_sequence) {
        Ok(base) => (base.wrapping_add(header.last_offset_delta) & i32::MAX as u32) as i32,
        Err(_) => -1,
    }
}

/// The last batch of each known producer: it holds the last sequence number or, if there is none, the epoch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct LastBatches {
    by_producer: BTreeMap<i64, LastBatch>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LastBatch {
    /// The batch whose last offset this is.
    Data(Offset),
    /// The marker at this offset.
    Marker(Offset),
    /// Any marker of this epoch, because it is not known which one was the last.
    AnyMarker(i16),
}

impl LastBatches {
    /// Whether a batch is one of these.
    pub(crate) fn contains(&self, header: &BatchHeader) -> bool {
        match self.by_producer.get(&header.producer_id) {
            Some(LastBatch::Data(last_offset)) => header.last_offset() == *last_offset,
            Some(LastBatch::Marker(offset)) => header.attributes.is_control() && header.last_offset() == *offset,
            Some(LastBatch::AnyMarker(epoch)) => header.attributes.is_control() && header.producer_epoch == *epoch,
            None => false,
        }
    }
}

#[cfg(test)]
mod tests;
