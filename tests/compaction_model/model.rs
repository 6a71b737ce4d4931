//! A compacted partition as a list of everything that was ever appended.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use stratalog::format::{BatchView, Scratch};
use stratalog::{Codec, RecordView};

pub type Checked<T = ()> = Result<T, TestCaseError>;
pub type Latest = BTreeMap<Vec<u8>, Vec<u8>>;

/// A record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rec {
    pub offset: u64,
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// A batch as it was appended.
#[derive(Clone, Debug)]
pub struct Entry {
    pub base: u64,
    pub next: u64,
    pub bytes: Vec<u8>,
    pub producer: i64,
    pub transactional: bool,
    /// Of a marker: whether it commits.
    pub marker: Option<bool>,
    pub records: Vec<Rec>,
    /// When it was appended, and when a compaction could first have seen it.
    pub appended_at: i64,
    pub seen_at: Option<i64>,
}

/// How a transaction went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Txn {
    producer: i64,
    first: u64,
    /// The offset of the marker, and whether it commits.
    end: Option<(u64, bool)>,
}

/// What a compaction may rely on.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    pub now: i64,
    /// Nothing at or above it is durable, replicated and free.
    pub limit: u64,
    pub min_lag: i64,
    pub delete_retention: i64,
}

/// What a partition has seen, and what of it is left.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub start: u64,
    pub end: u64,
    pub high_watermark: Option<u64>,
    pub entries: Vec<Entry>,
    /// Offsets of the records that the log showed last.
    pub present: BTreeSet<u64>,
    /// Whether compaction removed anything.
    pub removed: bool,
    /// Bases of the batches with a producer that the log showed last, and of those that became the last ones of their
    /// producers when what followed them was cut: these may have gone before.
    pub shown: BTreeSet<u64>,
    pub excused: BTreeSet<u64>,
    /// Markers that the log showed last, those that were there before and have gone since, and those of transactions of
    /// which nothing was left, with the time when that was seen first.
    pub markers: BTreeSet<u64>,
    pub gone_markers: Vec<u64>,
    pub parted: BTreeMap<u64, i64>,
}

impl Model {
    pub fn push(&mut self, entry: Entry) {
        assert!(entry.base >= self.end && (entry.bytes.is_empty() || entry.next > entry.base));
        self.end = entry.next;
        self.present.extend(entry.records.iter().map(|record| record.offset));
        self.excused.remove(&entry.base);
        self.shown.insert(entry.base);
        self.entries.push(entry);
    }

    /// The log ends there: at the end of a batch, or else it has started over at its start.
    pub fn cut(&mut self, end: u64) {
        if end == self.start && self.entries.iter().all(|entry| entry.next != end) {
            self.entries.clear();
        }
        self.entries.retain(|entry| entry.next <= end);
        self.markers.retain(|marker| *marker < end);
        self.parted.retain(|marker, _| *marker < end);
        self.present = self.present.range(..end).copied().collect();
        self.end = end;
        self.high_watermark = self.high_watermark.map(|mark| mark.min(end));
        let last = self.last_batches().into_values().map(|entry| entry.base);
        let gone: Vec<u64> = last.filter(|base| !self.shown.contains(base)).collect();
        self.excused.extend(gone);
    }

    /// The last batch with data of each producer.
    fn last_batches(&self) -> BTreeMap<i64, &Entry> {
        let data = self.entries.iter().filter(|entry| entry.producer >= 0 && entry.marker.is_none());
        data.map(|entry| (entry.producer, entry)).collect()
    }

    pub fn high_watermark(&self) -> u64 {
        self.high_watermark.unwrap_or(self.end)
    }

    fn transactions(&self) -> Vec<Txn> {
        let mut txns: Vec<Txn> = Vec::new();
        for entry in self.entries.iter().filter(|entry| entry.transactional) {
            let open = txns.iter_mut().find(|txn| txn.producer == entry.producer && txn.end.is_none());
            match (open, entry.marker) {
                (Some(txn), Some(commit)) => txn.end = Some((entry.base, commit)),
                (None, None) => txns.push(Txn { producer: entry.producer, first: entry.base, end: None }),
                _ => {}
            }
        }
        txns
    }

    /// No transaction is open below it, judged by what lies below `limit`.
    pub fn stable(&self, limit: u64) -> u64 {
        let open = |txn: &Txn| txn.end.is_none_or(|(marker, _)| marker >= limit);
        self.transactions().iter().filter(|txn| open(txn)).map(|txn| txn.first).min().unwrap_or(limit).min(limit)
    }

    /// The transaction that a batch belongs to.
    fn txn_of(txns: &[Txn], entry: &Entry) -> Option<Txn> {
        let data = entry.transactional && entry.marker.is_none();
        let holds = |txn: &&Txn| {
            txn.producer == entry.producer && txn.first <= entry.base && txn.end.is_none_or(|end| entry.base < end.0)
        };
        txns.iter().find(holds).copied().filter(|_| data)
    }

    /// Committed records from `from` on, of the batches that end at or below `to`.
    pub fn committed(&self, from: u64, to: u64) -> Vec<&Rec> {
        let txns = self.transactions();
        let committed = |entry: &&Entry| {
            !entry.transactional || Model::txn_of(&txns, entry).is_some_and(|txn| txn.end.is_some_and(|end| end.1))
        };
        let within = |record: &&Rec| record.offset >= from;
        let entries = self.entries.iter().filter(|entry| entry.next <= to);
        entries.filter(committed).flat_map(|entry| &entry.records).filter(within).collect()
    }

    /// The latest committed record of each key in `[from, to)`.
    pub fn latest_records(&self, from: u64, to: u64) -> BTreeMap<&[u8], &Rec> {
        let keyed = |record: &'_ Rec| record.key.is_some();
        let records = self.committed(from, to).into_iter().filter(|record| keyed(record));
        records.map(|record| (record.key.as_deref().unwrap(), record)).collect()
    }

    /// What a reader that goes from the start to the end ends with.
    pub fn latest(&self, to: u64) -> Latest {
        let records = self.latest_records(self.start, to).into_iter();
        records.filter_map(|(key, record)| Some((key.to_vec(), record.value.clone()?))).collect()
    }

    /// That a reader which began earlier has what it should have by now, at `to`.
    pub fn check_reader(&self, fold: &Latest, to: u64) -> Checked {
        let latest = self.latest_records(0, to);
        for (key, record) in &latest {
            let (found, given_up) = (fold.get(*key), record.offset < self.start);
            prop_assert!(
                found == record.value.as_ref() || given_up && found.is_none(),
                "a reader that began earlier has {:?} for {:?}, and not that of {}",
                found,
                key,
                record.offset
            );
        }
        let unknown = fold.keys().find(|key| !latest.contains_key(key.as_slice()));
        prop_assert!(unknown.is_none(), "a reader has a value of a key without one: {:?}", unknown);
        Ok(())
    }

    /// Compares what the log shows with what was appended; returns the offsets of the records that are there.
    pub fn check_batches(&mut self, found: &[Vec<u8>]) -> Checked<BTreeSet<u64>> {
        let mut present = BTreeSet::new();
        let mut end = 0;
        let mut shown = BTreeMap::new();
        for bytes in found {
            let view = BatchView::parse(bytes).unwrap();
            let header = view.header();
            prop_assert!(header.base_offset.get() >= end, "batches overlap at {}", header.base_offset);
            end = header.next_offset().get();
            let entry = self.entries.iter().find(|entry| entry.base == header.base_offset.get());
            let Some(entry) = entry else {
                return Err(TestCaseError::fail(format!("no batch was appended at {}", header.base_offset)));
            };
            prop_assert_eq!(entry.next, end, "the last offset of the batch at {}", entry.base);
            shown.insert(entry.base, (header.count, header.producer_id));
            if *bytes == entry.bytes {
                present.extend(entry.records.iter().map(|record| record.offset));
            } else {
                entry.check_filtered(&view, &mut present)?;
            }
        }
        self.check_producers(&shown)?;
        let is_marker = |base: &u64| self.entries.iter().any(|entry| entry.base == *base && entry.marker.is_some());
        let markers = shown.iter().filter(|(base, (count, _))| *count > 0 && is_marker(base)).map(|(base, _)| *base);
        let before = std::mem::replace(&mut self.markers, markers.collect());
        self.gone_markers.extend(before.difference(&self.markers).filter(|marker| **marker >= self.start));
        self.shown = shown.into_iter().filter(|(_, (_, producer))| *producer >= 0).map(|(base, _)| base).collect();
        Ok(present)
    }

    /// The last batch of each producer is there, and the markers of transactions that have batches are.
    fn check_producers(&self, shown: &BTreeMap<u64, (u32, i64)>) -> Checked {
        let last = self.last_batches().into_values();
        for entry in last.filter(|entry| entry.base >= self.start && !self.excused.contains(&entry.base)) {
            let known = shown.get(&entry.base).map(|(_, producer)| *producer);
            prop_assert_eq!(known, Some(entry.producer), "the last batch of a producer, at {}", entry.base);
        }
        let txns = self.transactions();
        for entry in self.entries.iter().filter(|entry| entry.base >= self.start) {
            let left = shown.get(&entry.base).is_some_and(|(count, _)| *count > 0);
            let marker = Model::txn_of(&txns, entry).filter(|_| left).and_then(|txn| txn.end);
            if let Some((marker, _)) = marker {
                let there = shown.get(&marker).is_some_and(|(count, _)| *count == 1);
                prop_assert!(there, "the marker at {} of what is left at {}", marker, entry.base);
            }
        }
        Ok(())
    }

    /// That each marker which has gone since was one of a transaction of which nothing has been left for so long.
    pub fn check_markers(&mut self, now: i64, delete_retention: i64) -> Checked<usize> {
        let gone = std::mem::take(&mut self.gone_markers);
        for marker in &gone {
            let since = self.parted.get(marker);
            let rightly = since.is_some_and(|since| since + delete_retention <= now);
            prop_assert!(rightly, "the marker at {} went at {}, parted since {:?}", marker, now, since);
        }
        let mut open: BTreeMap<i64, bool> = BTreeMap::new();
        for entry in self.entries.iter().filter(|entry| entry.transactional) {
            match entry.marker {
                None => *open.entry(entry.producer).or_default() |= self.shown.contains(&entry.base),
                Some(_) if open.insert(entry.producer, false) == Some(true) => {}
                Some(_) => drop(self.parted.entry(entry.base).or_insert(now)),
            }
        }
        Ok(gone.len())
    }

    /// That no marker goes but by a compaction.
    pub fn check_no_marker_gone(&self) -> Checked {
        prop_assert!(self.gone_markers.is_empty(), "markers at {:?} are gone", self.gone_markers);
        Ok(())
    }

    /// That each record which has gone had to go (I5, I6).
    pub fn check_removed(&self, present: &BTreeSet<u64>, pass: &Pass) -> Checked {
        let txns = self.transactions();
        let limit = self.stable(pass.limit);
        let all = || self.entries.iter().flat_map(|entry| entry.records.iter().map(move |record| (entry, record)));
        let aborted = |entry: &Entry| {
            let end = Model::txn_of(&txns, entry).and_then(|txn| txn.end);
            end.filter(|(_, commit)| !commit).map(|(marker, _)| marker)
        };
        let gone = |record: &Rec| record.offset >= self.start && !present.contains(&record.offset);
        for (entry, record) in all().filter(|(_, record)| gone(record) && self.present.contains(&record.offset)) {
            if aborted(entry).is_some_and(|marker| marker < pass.limit) || record.key.is_none() {
                prop_assert!(record.offset < limit, "{} went above the bound, {}", record.offset, limit);
                continue;
            }
            let newer = all().any(|(other, newer)| {
                newer.key == record.key
                    && newer.offset > record.offset
                    && newer.offset < limit
                    && aborted(other).is_none()
                    && other.appended_at + pass.min_lag <= pass.now
            });
            let older = all().find(|(other, older)| {
                older.key == record.key
                    && older.offset < record.offset
                    && aborted(other).is_none()
                    && present.contains(&older.offset)
                    && older.offset >= self.start
            });
            let expired = entry.seen_at.is_some_and(|seen| seen + pass.delete_retention <= pass.now)
                && entry.appended_at + pass.min_lag <= pass.now
                && record.offset < limit;
            let rightly = newer || record.value.is_none() && expired && older.is_none();
            prop_assert!(rightly, "{:?} went: newer {}, expired {}, older {:?}", record, newer, expired, older);
        }
        Ok(())
    }
}

impl Entry {
    /// A batch that lost records kept all else.
    fn check_filtered(&self, view: &BatchView<'_>, present: &mut BTreeSet<u64>) -> Checked {
        let (header, old) = (view.header(), *BatchView::parse(&self.bytes).unwrap().header());
        if header.count == 0 {
            let producer = (header.producer_id, header.producer_epoch, header.base_sequence);
            let kept = (old.producer_id, old.producer_epoch, old.base_sequence);
            prop_assert!(producer == kept || producer == (-1, -1, -1), "the producer at {}", self.base);
            return Ok(());
        }
        if self.marker.is_some() {
            return self.check_stamped(view);
        }
        prop_assert!(header.count < old.count, "nothing went at {}, yet it has changed", self.base);
        prop_assert_eq!(
            (header.producer_id, header.producer_epoch, header.base_sequence, header.leader_epoch),
            (old.producer_id, old.producer_epoch, old.base_sequence, old.leader_epoch)
        );
        prop_assert_eq!(header.attributes.codec().unwrap(), old.attributes.codec().unwrap());
        prop_assert_eq!(header.attributes.timestamp_type(), old.attributes.timestamp_type());
        prop_assert_eq!(header.attributes.is_transactional(), old.attributes.is_transactional());
        for record in decode(view) {
            let known = self.records.iter().find(|known| known.offset == record.offset);
            prop_assert_eq!(Some(&record), known, "a record of the batch at {}", self.base);
            present.insert(record.offset);
        }
        Ok(())
    }
}

impl Entry {
    /// A marker says the same with a horizon.
    fn check_stamped(&self, view: &BatchView<'_>) -> Checked {
        let (old, mut scratch) = (BatchView::parse(&self.bytes).unwrap(), Scratch::default());
        let (header, before) = (view.header(), old.header());
        prop_assert!(header.delete_horizon().is_some(), "the marker at {} has changed", self.base);
        prop_assert_eq!(view.control(&mut scratch).unwrap(), old.control(&mut scratch).unwrap());
        prop_assert_eq!(
            (header.producer_id, header.producer_epoch, header.max_timestamp, header.leader_epoch, header.count),
            (before.producer_id, before.producer_epoch, before.max_timestamp, before.leader_epoch, before.count)
        );
        Ok(())
    }
}

/// The records of a batch.
pub fn decode(view: &BatchView<'_>) -> Vec<Rec> {
    let mut scratch = Scratch::default();
    view.records(&mut scratch).unwrap().map(|record| rec(&record.unwrap())).collect()
}

fn rec(record: &RecordView<'_>) -> Rec {
    let headers = record.headers().map(|header| (header.key.to_vec(), header.value.map(<[u8]>::to_vec)));
    Rec {
        offset: record.offset.get(),
        timestamp: record.timestamp.as_millis(),
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.map(<[u8]>::to_vec),
        headers: headers.collect(),
    }
}

/// Folds a record into what a reader knows.
pub fn fold(latest: &mut Latest, record: &RecordView<'_>) {
    let Some(key) = record.key else { return };
    match record.value {
        Some(value) => latest.insert(key.to_vec(), value.to_vec()),
        None => latest.remove(key),
    };
}

/// The codecs of this build.
pub fn codecs() -> Vec<Codec> {
    let all = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
    all.into_iter().filter(|codec| codec.is_supported()).collect()
}
