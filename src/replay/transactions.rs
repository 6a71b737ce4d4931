//! Which records belong to aborted transactions, and which transactions have lost all their records.
//!
//! A producer has at most one transaction open in a partition. All its transactional batches between two of its markers
//! are one transaction, and the second marker decides it: that is all that offsets and producer ids need to tell.

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

/// The entry of the transaction index for a transaction that has ended; `None` when it was committed.
///
/// `first_open` is where the first transaction starts that is open now that this one is not.
pub(crate) fn aborted_entry(ended: &CompletedTxn, first_open: Option<Offset>) -> Option<AbortedTxn> {
    ended.aborted.then(|| AbortedTxn {
        producer_id: ended.producer_id,
        first_offset: ended.first_offset,
        last_offset: ended.last_offset,
        last_stable_offset: first_open.unwrap_or(ended.last_offset + 1),
    })
}

/// An aborted transaction: the records of this producer's transactional batches in this range of offsets count for
/// nothing.
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

/// The aborted transactions that may have records in `[from, up_to)`, by producer and offset, as [`is_aborted`] wants
/// them.
///
/// `entries` are those of the segment that holds `from` and of all that follow, in order. No more of them are taken
/// than needed: once an entry's last stable offset reaches `up_to`, every transaction that was aborted later starts
/// behind the range.
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

/// Whether a batch belongs to one of the aborted transactions that [`collect`] found for a range that holds the batch.
#[inline]
pub(crate) fn is_aborted(ranges: &[AbortedRange], header: &BatchHeader) -> bool {
    if ranges.is_empty() || !is_data(header) {
        return false;
    }
    // The transactions of a producer do not overlap: only the last one to start can hold the batch.
    let place = (header.producer_id, header.base_offset);
    let after = ranges.partition_point(|range| (range.producer_id, range.first_offset) <= place);
    after.checked_sub(1).and_then(|last| ranges.get(last)).is_some_and(|range| range.covers(header))
}

/// The most horizons of markers that a digest keeps. More come only from changes of `delete_retention`.
const HORIZONS_MAX: usize = 64;

/// What a segment holds of transactions, observed batch by batch: what must be known of it to decide on markers, in it
/// and in later ones, without reading it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct SegmentTransactions {
    producers: BTreeMap<i64, SegmentProducer>,
    /// For each horizon of a marker the offset of the first marker that has it.
    horizons: BTreeMap<Timestamp, Offset>,
    /// See [`DigestCounts::loose_markers`](crate::format::digest::DigestCounts::loose_markers).
    loose: u64,
}

impl SegmentTransactions {
    /// Takes note of the next batch; `control` is its control record, if it is a control batch that still has one.
    ///
    /// A batch that has lost all its records but not its producer counts like any other: read again, it opens its
    /// transaction, so the marker that ends it has to stay.
    pub(crate) fn observe(&mut self, header: &BatchHeader, control: Option<ControlRecord>) {
        let id = header.producer_id;
        if is_data(header) {
            self.producers.entry(id).or_insert(SegmentProducer { id, open: true, leads: false }).open = true;
        } else if control.is_some_and(ends_transaction) {
            let known = self.producers.get(&id);
            match (known.map(|known| known.open), header.delete_horizon()) {
                // Its transaction has batches here, whatever its horizon says.
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

    /// How many of its markers have no horizon and come right behind another marker of their producer.
    pub(crate) fn loose(&self) -> u64 {
        self.loose
    }
}

/// What is to become of a transaction's marker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MarkerFate {
    /// Batches of its transaction are left: it stays, and so does its entry in the transaction index.
    Needed,
    /// So it counts, since a segment below is not known.
    Unknown,
    /// What was left of its transaction goes with this walk. It stays until the horizon that begins now, and so does
    /// its entry: should the walk end before its end, they are needed.
    Parting,
    /// Nothing is left of its transaction: it goes with the first rewrite after its horizon, as a tombstone does; its
    /// entry in the transaction index may go at once.
    Superfluous,
}

impl MarkerFate {
    /// Whether its entry in the transaction index stays.
    pub(crate) fn keeps_entry(self) -> bool {
        self != MarkerFate::Superfluous
    }
}

/// Which transactions have batches in front of a place in the log.
#[derive(Debug, Default)]
struct OpenTransactions {
    /// By producer, whether its last batch is one of a transaction, and not a marker.
    open: BTreeMap<i64, bool>,
    /// Whether there is a segment of which nothing is known.
    unknown: bool,
}

impl OpenTransactions {
    /// Whether the transaction of the producer's next marker has batches.
    fn is_open(&self, producer: i64) -> Option<bool> {
        self.open.get(&producer).copied().or((!self.unknown).then_some(false))
    }

    fn pass_unknown(&mut self) {
        self.unknown = true;
        self.open.retain(|_, open| *open);
    }
}

/// Walks a log in offset order and tells which batches are aborted and which markers are superfluous.
///
/// It must be shown every segment from the log start on, those that are not read by what is known of them. Batches that
/// the walk itself removes still count: their marker goes in a later walk, when they are gone for certain.
#[derive(Debug, Default)]
pub(crate) struct TransactionFilter {
    aborted: Vec<AbortedRange>,
    /// By all that is there.
    read: OpenTransactions,
    /// By what the walk leaves of it.
    left: OpenTransactions,
}

impl TransactionFilter {
    /// Begins with a segment that is read. `aborted` is what [`collect`] found for its range of offsets.
    pub(crate) fn enter_segment(&mut self, aborted: Vec<AbortedRange>) {
        self.aborted = aborted;
    }

    /// Passes over a segment that is not read. Whether one of its markers without a horizon is one of a transaction in
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

    /// Whether something is known of each segment so far.
    pub(crate) fn knows_all(&self) -> bool {
        !self.read.unknown
    }

    /// Passes over a segment of which nothing is known. It may hold batches of any transaction, so each producer's next
    /// marker is needed.
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

    /// The batch that was asked about last stays, whole or in part, with this header.
    pub(crate) fn stays(&mut self, header: &BatchHeader) {
        if is_data(header) {
            self.left.open.insert(header.producer_id, true);
        }
    }

    /// What is to become of the next batch, a control batch with this control record. One that has lost its record is
    /// superfluous; one that ends no transaction is needed.
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

/// Whether it is a batch of a transaction.
fn is_data(header: &BatchHeader) -> bool {
    header.attributes.is_transactional() && !header.attributes.is_control() && header.has_producer()
}

#[cfg(test)]
mod tests;
