//! Which records belong to aborted transactions, and which transactions have lost all their records.
//!
//! A producer has at most one transaction open in a partition. All its transactional batches between two of its markers
//! are one transaction, and the second marker decides it: that is all that offsets and producer ids need to tell.

use std::collections::BTreeMap;

use crate::format::{AbortedTxn, BatchHeader, ControlRecord, Marker};
use crate::offset::Offset;

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

/// Which producers have left records of a transaction in a stretch of the log that ends before the transaction does.
///
/// This is what must be known of a segment to decide on markers in later ones without reading it. A stretch is observed
/// batch by batch; two that follow each other are put together with [`extend`](TransactionTails::extend).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct TransactionTails {
    /// For each producer whether its last batch is one of a transaction (else it is a marker).
    open: BTreeMap<i64, bool>,
}

impl TransactionTails {
    /// Takes note of the next batch; `control` is its control record, if it is a control batch that still has one.
    ///
    /// A batch that has lost all its records but not its producer counts like any other: read again, it opens its
    /// transaction, so the marker that ends it has to stay.
    pub(crate) fn observe(&mut self, header: &BatchHeader, control: Option<ControlRecord>) {
        if is_data(header) {
            self.open.insert(header.producer_id, true);
        } else if control.is_some_and(ends_transaction) {
            self.open.insert(header.producer_id, false);
        }
    }

    /// Takes note of the next stretch as a whole: of each producer in it whether its last batch there is one of a
    /// transaction.
    pub(crate) fn extend(&mut self, next: impl IntoIterator<Item = (i64, bool)>) {
        self.open.extend(next);
    }

    /// What [`extend`](TransactionTails::extend) takes, by producer.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (i64, bool)> + '_ {
        self.open.iter().map(|(producer, open)| (*producer, *open))
    }
}

/// What is to become of a transaction's marker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MarkerFate {
    /// Batches of its transaction are left, or may be: it stays, and so does its entry in the transaction index.
    Needed,
    /// Nothing is left of its transaction: it goes with the next rewrite after its delete horizon, as a tombstone
    /// does; its entry in the transaction index may go at once.
    Superfluous,
}

/// Walks a log in offset order and tells which batches are aborted and which markers are superfluous.
///
/// It must be shown every segment from the log start on, those that are not read by what is known of them. Batches that
/// the walk itself removes still count: their marker goes in a later walk, when they are gone for certain.
#[derive(Debug, Default)]
pub(crate) struct TransactionFilter {
    aborted: Vec<AbortedRange>,
    tails: TransactionTails,
    /// Whether a segment was passed of which nothing is known.
    unknown: bool,
}

impl TransactionFilter {
    /// Begins with a segment that is read. `aborted` is what [`collect`] found for its range of offsets.
    pub(crate) fn enter_segment(&mut self, aborted: Vec<AbortedRange>) {
        self.aborted = aborted;
    }

    /// Passes over a segment that is not read.
    pub(crate) fn pass_segment(&mut self, tails: impl IntoIterator<Item = (i64, bool)>) {
        self.tails.extend(tails);
    }

    /// Passes over a segment of which nothing is known. It may hold batches of any transaction, so each producer's next
    /// marker is needed.
    pub(crate) fn pass_unknown_segment(&mut self) {
        self.unknown = true;
        self.tails.open.retain(|_, open| *open);
    }

    /// Whether the next batch, which is not a control batch, belongs to an aborted transaction.
    pub(crate) fn is_aborted(&mut self, header: &BatchHeader) -> bool {
        assert!(!header.attributes.is_control(), "a control batch belongs to no transaction");
        self.tails.observe(header, None);
        is_aborted(&self.aborted, header)
    }

    /// What is to become of the next batch, a control batch with this control record. One that has lost its record is
    /// superfluous; one that ends no transaction is needed.
    pub(crate) fn marker(&mut self, header: &BatchHeader, control: Option<ControlRecord>) -> MarkerFate {
        assert!(header.attributes.is_control(), "only a control batch holds a marker");
        let Some(control) = control else { return MarkerFate::Superfluous };
        if !ends_transaction(control) {
            return MarkerFate::Needed;
        }
        match self.tails.open.insert(header.producer_id, false) {
            Some(true) => MarkerFate::Needed,
            None if self.unknown => MarkerFate::Needed,
            Some(false) | None => MarkerFate::Superfluous,
        }
    }
}

/// Whether it is a batch of a transaction.
fn is_data(header: &BatchHeader) -> bool {
    header.attributes.is_transactional() && !header.attributes.is_control() && header.has_producer()
}

/// Whether a control record is the marker that ends a transaction.
pub(crate) fn ends_transaction(control: ControlRecord) -> bool {
    match control.marker {
        Marker::Abort | Marker::Commit => true,
        Marker::Other(_) => false,
    }
}

#[cfg(test)]
mod tests;
