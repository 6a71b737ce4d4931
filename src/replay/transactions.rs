//! Determines which records belong to aborted transactions, and which transactions have lost all their records.
//!
//! A producer has at most one open transaction in a partition. All its transactional batches between two of its markers
//! form one transaction, and the second marker decides its outcome. Offsets and producer ids therefore suffice.

use std::collections::BTreeMap;

use crate::format::digest::{MarkerHorizon, SegmentProducer};
use crate::format::{AbortedTxn, BatchHeader, ControlRecord, ends_transaction};
use crate::offset::{Offset, Timestamp};

/// A transaction that a marker has just ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CompletedTxn {
    pub(crate) producer_id: i64,
    /// The base offset of its first batch.
    pub(crate) first_offset: Offset,
    /// The offset of its marker.
    pub(crate) last_offset: Offset,
    pub(crate) aborted: bool,
}

/// The transaction index entry of an ended transaction; `None` if it was committed.
///
/// `first_open` is the start of the first transaction that is still open now.
pub(crate) fn aborted_entry(ended: &CompletedTxn, first_open: Option<Offset>) -> Option<AbortedTxn> {
    ended.aborted.then(|| AbortedTxn {
        producer_id: ended.producer_id,
        first_offset: ended.first_offset,
        last_offset: ended.last_offset,
        last_stable_offset: first_open.unwrap_or(ended.last_offset + 1),
    })
}

/// An aborted transaction: the records of this producer's transactional batches in this offset range count for nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AbortedRange {
    /// The producer.
    pub producer_id: i64,
    /// The first offset of the transaction.
    pub first_offset: Offset,
    /// The offset of its abort marker.
    pub last_offset: Offset,
}

impl AbortedRange {
    /// Whether a batch belongs to the transaction. Its marker does not.
    pub fn covers(&self, header: &BatchHeader) -> bool {
        is_data(header)
            && header.producer_id == self.producer_id
            && header.base_offset >= self.first_offset
            && header.last_offset() < self.last_offset
    }
}

impl From<AbortedTxn> for AbortedRange {
    fn from(txn: AbortedTxn) -> AbortedRange {
        AbortedRange { producer_id: txn.producer_id, first_offset: txn.first_offset, last_offset: txn.last_offset }
    }
}

/// Collects the aborted transactions that may have records in `[from, up_to)`, sorted by producer and offset, as
/// [`is_aborted`] requires.
///
/// `entries` are those of the segment that holds `from` and of all later segments, in order. It stops early: once an
/// entry's last stable offset reaches `up_to`, every transaction that was aborted later starts behind the range.
pub(crate) fn collect(entries: impl IntoIterator<Item = AbortedTxn>, from: Offset, up_to: Offset) -> Vec<AbortedRange> {
    let mut ranges = Vec::new();
    for txn in entries {
        if txn.last_offset >= from && txn.first_offset < up_to {
            ranges.push(AbortedRange::from(txn));
        }
        if txn.last_stable_offset >= up_to {
            break;
        }
    }
    ranges.sort_unstable();
    ranges
}

/// Whether a batch belongs to one of the aborted transactions that [`collect`] found for a range with this batch.
#[inline]
pub(crate) fn is_aborted(ranges: &[AbortedRange], header: &BatchHeader) -> bool {
    if ranges.is_empty() || !is_data(header) {
        return false;
    }
    // A producer's transactions do not overlap, so only the last one to start can hold the batch.
    let place = (header.producer_id, header.base_offset);
    let after = ranges.partition_point(|range| (range.producer_id, range.first_offset) <= place);
    after.checked_sub(1).and_then(|last| ranges.get(last)).is_some_and(|range| range.covers(header))
}

/// The most marker horizons that a digest keeps. Only changes of `delete_retention` cause more.
const HORIZONS_MAX: usize = 64;

/// The transactions of a segment, observed batch by batch. This is what decisions on markers, here and in later
/// segments, need without reading the segment again.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct SegmentTransactions {
    producers: BTreeMap<i64, SegmentProducer>,
    /// The horizons of markers, each with the offset of the first marker that has it.
    horizons: BTreeMap<Timestamp, Offset>,
    /// See [`DigestCounts::loose_markers`](crate::format::digest::DigestCounts::loose_markers).
    loose: u64,
}

impl SegmentTransactions {
    /// Applies the next batch. `control` is its control record, if it is a control batch that still has one.
    ///
    /// A batch that has lost all its records but not its producer counts like any other. When it is read again it opens
    /// its transaction, so the marker that ends it must stay.
    pub(crate) fn observe(&mut self, header: &BatchHeader, control: Option<ControlRecord>) {
        let id = header.producer_id;
        if is_data(header) {
            self.producers.entry(id).or_insert(SegmentProducer { id, open: true, leads: false }).open = true;
        } else if control.is_some_and(ends_transaction) {
            let known = self.producers.get(&id);
            match (known.map(|known| known.open), header.delete_horizon()) {
                // Its transaction has batches in this segment, whatever its horizon says.
                (Some(true), _) => {}
                (_, Some(at)) => drop(self.horizons.entry(at).or_insert(header.base_offset)),
                (Some(false), None) => self.loose += 1,
                (None, None) => {}
            }
            let leads = known.map_or(header.delete_horizon().is_none(), |known| known.leads);
            self.producers.insert(id, SegmentProducer { id, open: false, leads });
        }
    }

    /// Its producers.
    pub(crate) fn producers(&self) -> impl Iterator<Item = SegmentProducer> + '_ {
        self.producers.values().copied()
    }

    /// The horizons of its markers, the earliest first.
    pub(crate) fn horizons(&self) -> Vec<MarkerHorizon> {
        let mut horizons: Vec<_> =
            self.horizons.iter().map(|(at, first)| MarkerHorizon { at: *at, first: *first }).collect();
        if horizons.len() > HORIZONS_MAX {
            let latest = horizons.split_off(HORIZONS_MAX - 1);
            let first = latest.iter().map(|horizon| horizon.first).min();
            horizons.extend(latest.last().zip(first).map(|(latest, first)| MarkerHorizon { first, ..*latest }));
        }
        horizons
    }

    /// The number of its markers that have no horizon and directly follow another marker of their producer.
    pub(crate) fn loose(&self) -> u64 {
        self.loose
    }
}

/// The decision on a transaction's marker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MarkerFate {
    /// Batches of its transaction remain. The marker stays, and so does its entry in the transaction index.
    Needed,
    /// Treated as needed, because a segment below is not known.
    Unknown,
    /// This walk removes the last batches of its transaction. The marker stays until the horizon that begins now. Its
    /// entry stays too, because both are needed if the walk stops early.
    Parting,
    /// Nothing is left of its transaction. The marker goes with the first rewrite after its horizon, like a tombstone.
    /// Its entry in the transaction index may go at once.
    Superfluous,
}

impl MarkerFate {
    /// Whether its entry in the transaction index stays.
    pub(crate) fn keeps_entry(self) -> bool {
        self != MarkerFate::Superfluous
    }
}

/// Which transactions have batches before a position in the log.
#[derive(Debug, Default)]
struct OpenTransactions {
    /// By producer, whether its last batch belongs to a transaction and is not a marker.
    open: BTreeMap<i64, bool>,
    /// Whether some segment so far is unknown.
    unknown: bool,
}

impl OpenTransactions {
    /// Whether the transaction of the producer's next marker has batches; `None` if that is unknown.
    fn is_open(&self, producer: i64) -> Option<bool> {
        self.open.get(&producer).copied().or((!self.unknown).then_some(false))
    }

    fn pass_unknown(&mut self) {
        self.unknown = true;
        self.open.retain(|_, open| *open);
    }
}

/// Walks a log in offset order and finds aborted batches and superfluous markers.
///
/// It must be given every segment from the log start on; segments that are not read are given by their known producers.
/// Batches that the walk itself removes still count. Their marker goes in a later walk, when they are certainly gone.
#[derive(Debug, Default)]
pub(crate) struct TransactionFilter {
    aborted: Vec<AbortedRange>,
    /// According to all batches that exist.
    read: OpenTransactions,
    /// According to the batches that the walk leaves.
    left: OpenTransactions,
}

impl TransactionFilter {
    /// Starts a segment that is read. `aborted` is the result of [`collect`] for its offset range.
    pub(crate) fn enter_segment(&mut self, aborted: Vec<AbortedRange>) {
        self.aborted = aborted;
    }

    /// Passes a segment that is not read. Returns whether one of its markers without a horizon ends a transaction in
    /// segments below of which the walk has left nothing.
    pub(crate) fn pass_segment(&mut self, producers: impl IntoIterator<Item = SegmentProducer>) -> bool {
        let mut has_superfluous = false;
        for SegmentProducer { id, open, leads } in producers {
            has_superfluous |= leads && self.left.is_open(id) == Some(false);
            self.read.open.insert(id, open);
            self.left.open.insert(id, open);
        }
        has_superfluous
    }

    /// Whether every segment so far was known.
    pub(crate) fn knows_all(&self) -> bool {
        !self.read.unknown
    }

    /// Passes an unknown segment. It may hold batches of any transaction, so each producer's next marker is needed.
    pub(crate) fn pass_unknown_segment(&mut self) {
        self.read.pass_unknown();
        self.left.pass_unknown();
    }

    /// Whether the next batch, which is not a control batch, belongs to an aborted transaction.
    pub(crate) fn is_aborted(&mut self, header: &BatchHeader) -> bool {
        assert!(!header.attributes.is_control(), "a control batch belongs to no transaction");
        if is_data(header) {
            self.read.open.insert(header.producer_id, true);
        }
        is_aborted(&self.aborted, header)
    }

    /// Records that the batch queried last stays, whole or in part, with this header.
    pub(crate) fn stays(&mut self, header: &BatchHeader) {
        if is_data(header) {
            self.left.open.insert(header.producer_id, true);
        }
    }

    /// Decides on the next batch, a control batch with this control record. One that has lost its record is
    /// superfluous. One that ends no transaction is needed.
    pub(crate) fn marker(&mut self, header: &BatchHeader, control: Option<ControlRecord>) -> MarkerFate {
        assert!(header.attributes.is_control(), "only a control batch holds a marker");
        let Some(control) = control else { return MarkerFate::Superfluous };
        if !ends_transaction(control) {
            return MarkerFate::Needed;
        }
        let id = header.producer_id;
        let fate = match (self.read.is_open(id), self.left.is_open(id)) {
            (None, _) | (_, None) => MarkerFate::Unknown,
            (Some(true), Some(true)) => MarkerFate::Needed,
            (Some(true), Some(false)) => MarkerFate::Parting,
            (Some(false), _) => MarkerFate::Superfluous,
        };
        self.read.open.insert(id, false);
        self.left.open.insert(id, false);
        fate
    }
}

/// Whether it is a data batch of a transaction.
fn is_data(header: &BatchHeader) -> bool {
    header.attributes.is_transactional() && !header.attributes.is_control() && header.has_producer()
}

#[cfg(test)]
mod tests;
