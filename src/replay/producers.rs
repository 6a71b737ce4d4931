//! What a partition knows of its producers: their epochs, their last sequence numbers, their open transactions.
//!
//! All of it follows from the batches in offset order. It is kept in memory, and in a snapshot at the base of each
//! segment, so that only the batches behind the newest usable snapshot are read to have it back.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use crate::format::{BatchHeader, ControlRecord, Marker, ProducerSnapshotEntry, snapshot};
use crate::offset::{Offset, Timestamp};
use crate::replay::transactions::CompletedTxn;

/// How many producers of a partition are remembered, if nobody says otherwise: about 15 MB of memory.
pub(crate) const MAX_PRODUCERS: usize = 100_000;

/// The producers of a partition. Without any it holds no memory.
///
/// Nothing is refused here: a batch that is in the log counts, whatever its epoch or sequence.
#[derive(Clone, Debug)]
pub(crate) struct Producers {
    /// By producer id. Each is either in `open` or in `idle`.
    entries: BTreeMap<i64, ProducerEntry>,
    /// Those with an open transaction, by its first offset.
    open: BTreeSet<(Offset, i64)>,
    /// The others, by the offset where they were last seen: the longest idle one first.
    idle: BTreeSet<(Offset, i64)>,
    /// Transactions that have ended above the high watermark.
    unsettled: EndedTxns,
    /// Transactions that have ended above the durable end.
    unsynced: EndedTxns,
    max: usize,
}

/// Transactions that have ended above a mark, as (first offset, marker): the first one leads. Entries behind it may lie
/// below the mark already.
#[derive(Clone, Debug, Default)]
struct EndedTxns {
    heap: BinaryHeap<Reverse<(Offset, Offset)>>,
    /// All with markers from here on are there. What ended below may have been forgotten.
    known_from: Offset,
}

/// What is known of one producer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct ProducerEntry {
    epoch: i16,
    /// Of its last batch with data in this epoch; -1 when there was none, or it had no sequence.
    last_sequence: i32,
    last_offset: Option<Offset>,
    offset_delta: i32,
    /// Of its last batch or marker.
    timestamp: Timestamp,
    coordinator_epoch: i32,
    current_txn_first_offset: Option<Offset>,
    /// The offset of its last batch or marker. A snapshot does not tell the marker's.
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
    /// What a snapshot says. The batches behind it are to be replayed with [`update`](Producers::update).
    ///
    /// A snapshot does not tell of transactions that have ended. Where the high watermark lies before the log end, one
    /// from before the high watermark is needed to know all that are unsettled.
    pub(crate) fn from_snapshot(entries: &[ProducerSnapshotEntry]) -> Producers {
        let mut producers = Producers::default();
        for entry in entries {
            let known = producers.entries.get(&entry.producer_id).copied();
            producers.replace(entry.producer_id, known, ProducerEntry::from_snapshot(entry));
        }
        producers.make_room(producers.max);
        producers
    }

    /// The state as a snapshot file has it, in the order of producer ids. (Kafka's order is that of a hash map.)
    pub(crate) fn to_snapshot(&self) -> Vec<u8> {
        let entries: Vec<_> = self.entries.iter().map(|(id, entry)| entry.to_snapshot(*id)).collect();
        snapshot::encode(&entries)
    }

    /// Bounds how many producers are remembered. To make room for a new one, the one that was idle for the longest part
    /// of the log is forgotten; never one with an open transaction, so many of those may pass the bound.
    pub(crate) fn set_max(&mut self, max: usize) {
        self.max = max;
        self.make_room(max);
    }

    /// Whether no producer is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many producers are known.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes note of the next batch of the log; one without a producer changes nothing. `control` is its control
    /// record, if it is a control batch that still has one. Returns the transaction that it ends, unless that has no
    /// batch in the log.
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

    /// Where the first open transaction starts. It may lie before the log start.
    #[inline]
    pub(crate) fn first_open_transaction(&self) -> Option<Offset> {
        self.open.first().map(|(first, _)| *first)
    }

    /// Where the first transaction starts whose outcome is open, or may be taken back because its marker is not below
    /// the high watermark. The last stable offset is this or the high watermark, whichever is less, but not less than
    /// the log start.
    ///
    /// To be asked again whenever the high watermark moves; where nobody manages one, it is the log end. What it passes
    /// is forgotten: for one that moves back see [`knows_unsettled`](Self::knows_unsettled).
    #[inline]
    pub(crate) fn first_unstable(&mut self, high_watermark: Offset) -> Option<Offset> {
        self.first_open_transaction().into_iter().chain(self.unsettled.first_above(high_watermark)).min()
    }

    /// Whether all transactions are known that have ended at or above a high watermark.
    pub(crate) fn knows_unsettled(&self, high_watermark: Offset) -> bool {
        high_watermark >= self.unsettled.known_from
    }

    /// The transactions that have ended are not known of batches below `from`, with which they were not updated.
    pub(crate) fn begin_at(&mut self, from: Offset) {
        (self.unsettled.known_from, self.unsynced.known_from) = (from, from);
    }

    /// Takes over from `replayed`, which was brought to the same place from further below, the transactions that have
    /// ended.
    pub(crate) fn recall_unsettled(&mut self, replayed: Producers) {
        self.unsettled = replayed.unsettled;
    }

    /// Which transactions have ended below cannot be found out: takes all that was forgotten for one transaction that
    /// starts at `from`.
    pub(crate) fn suspect_unsettled(&mut self, from: Offset) {
        let EndedTxns { heap, known_from } = &mut self.unsettled;
        if let Some(marker) = known_from.get().checked_sub(1) {
            heap.push(Reverse((from, Offset::new(marker))));
        }
        *known_from = Offset::ZERO;
    }

    /// Where the first transaction starts that is open, or whose marker is not durable: a power cut would take that
    /// back, and the transaction could end the other way. To be asked with a durable end that grows; what it passes
    /// is forgotten.
    #[inline]
    pub(crate) fn first_undecided(&mut self, durable: Offset) -> Option<Offset> {
        self.first_open_transaction().into_iter().chain(self.unsynced.first_above(durable)).min()
    }

    /// Forgets who has been idle for `expiration` or longer at `now`, by the timestamps of their records. Never one
    /// with an open transaction, or with one that has ended at or above `settled`: a snapshot without any producer says
    /// that nothing is to be found out about transactions.
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
            // An emptied tree may keep a node.
            (*entries, *idle) = (BTreeMap::new(), BTreeSet::new());
        }
    }

    /// The batches that a compaction has to keep, empty if need be, as things stand now. A producer that goes on
    /// writing meanwhile only makes it keep a batch too many.
    ///
    /// A marker that is the last one counts only below `durable`: a power cut would take others back.
    pub(crate) fn last_batches(&self, durable: Offset) -> LastBatches {
        let last = |entry: &ProducerEntry| match entry.last_offset {
            Some(last_offset) => LastBatch::Data(last_offset),
            // Which marker was the last one a snapshot does not tell.
            None if entry.last_seen > Offset::ZERO && entry.last_seen < durable => LastBatch::Marker(entry.last_seen),
            None => LastBatch::AnyMarker(entry.epoch),
        };
        LastBatches { by_producer: self.entries.iter().map(|(id, entry)| (*id, last(entry))).collect() }
    }

    /// Forgets idle producers until at most `len` are left, if there are as many idle ones.
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

    /// The list where an entry belongs, and its place there.
    fn list_of(&mut self, entry: &ProducerEntry) -> (&mut BTreeSet<(Offset, i64)>, Offset) {
        match entry.current_txn_first_offset {
            Some(first) => (&mut self.open, first),
            None => (&mut self.idle, entry.last_seen),
        }
    }
}

impl EndedTxns {
    /// Where the first one starts whose marker does not lie below `mark`. The others in front of it are forgotten.
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

    /// A batch with data. One without the transactional flag leaves an open transaction as it is. No transaction ends.
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

    /// A marker. Returns where the transaction starts that it ends.
    fn note_marker(&mut self, header: &BatchHeader, control: ControlRecord) -> Option<Offset> {
        self.enter_epoch(header.producer_epoch);
        self.coordinator_epoch = control.coordinator_epoch;
        self.timestamp = control.timestamp;
        self.last_seen = control.offset;
        self.current_txn_first_offset.take()
    }

    /// A control batch that has lost its record to a compaction. It was kept for its epoch, which keeps out older ones;
    /// its transaction was gone before.
    fn note_emptied_marker(&mut self, header: &BatchHeader) -> Option<Offset> {
        self.enter_epoch(header.producer_epoch);
        self.timestamp = header.max_timestamp;
        self.last_seen = header.last_offset();
        None
    }

    /// Sequence numbers start anew with each epoch.
    fn enter_epoch(&mut self, epoch: i16) {
        if self.epoch != epoch {
            (self.epoch, self.last_sequence, self.last_offset, self.offset_delta) = (epoch, -1, None, 0);
        }
    }
}

/// The sequence number of a batch's last record; -1 when it has none. After the largest comes 0.
fn last_sequence(header: &BatchHeader) -> i32 {
    match u32::try_from(header.base_sequence) {
        Ok(base) => (base.wrapping_add(header.last_offset_delta) & i32::MAX as u32) as i32,
        Err(_) => -1,
    }
}

/// Which batches hold the last sequence number or, when there is none, the epoch of a producer that is not forgotten.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct LastBatches {
    by_producer: BTreeMap<i64, LastBatch>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LastBatch {
    /// The batch that ends with this offset.
    Data(Offset),
    /// The marker at this offset.
    Marker(Offset),
    /// Any marker of this epoch: it is not known which one was the last.
    AnyMarker(i16),
}

impl LastBatches {
    /// Whether a batch is one of them.
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
