//! A partition as a list of batches.

use stratalog::format::BatchView;
use stratalog::{Offset, Timestamp};

/// A record, as it is to be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rec {
    pub offset: u64,
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// A batch with its place in the order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    pub base: u64,
    pub next: u64,
    pub size: u64,
    pub records: Vec<Rec>,
}

/// What a partition holds. Batches below the start stay until their segment goes: a truncation ends behind one.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub origin: u64,
    pub start: u64,
    pub end: u64,
    pub batches: Vec<Batch>,
}

impl Batch {
    /// The latest timestamp.
    pub fn newest(&self) -> i64 {
        self.records.iter().map(|record| record.timestamp).max().unwrap_or(-1)
    }
}

impl Model {
    pub fn push(&mut self, batch: Batch) {
        assert!(batch.base >= self.end);
        self.end = batch.next;
        self.batches.push(batch);
    }

    /// Cuts back; returns the new end.
    pub fn truncate(&mut self, to: u64) -> u64 {
        if to >= self.end {
            return self.end;
        }
        self.batches.retain(|batch| batch.next <= to);
        self.end = self.batches.last().map_or(self.origin, |batch| batch.next);
        if self.end < self.start {
            // Nothing is left that can be read, and what was given up does not come back.
            self.reset(self.start);
        }
        self.end
    }

    pub fn reset(&mut self, to: u64) {
        *self = Model { origin: to, start: to, end: to, batches: Vec::new() };
    }

    /// All records that can be read from `from` on.
    pub fn records(&self, from: u64) -> Vec<Rec> {
        let records = self.batches.iter().flat_map(|batch| &batch.records);
        records.filter(|record| record.offset >= from.max(self.start)).cloned().collect()
    }

    /// The batches of a fetch, and where the next one begins.
    pub fn fetch(&self, from: u64, limit: u64, max_bytes: u64) -> (Vec<&Batch>, u64) {
        let mut size = 0;
        let fits = |batch: &&Batch| {
            let first = size == 0;
            size += batch.size;
            first || size <= max_bytes
        };
        let visible = self.batches.iter().filter(|batch| batch.next > from && batch.next <= limit);
        let found: Vec<&Batch> = visible.take_while(fits).collect();
        let next = found.last().map_or(from, |batch| batch.next);
        (found, next)
    }

    pub fn offset_for(&self, at: i64) -> Option<u64> {
        self.records(self.start).iter().find(|record| record.timestamp >= at).map(|record| record.offset)
    }

    /// The start and the first segment's base after a pass of retention over segments with these bases.
    pub fn retain(&self, bases: &[u64], now: i64, age: Option<u64>, bytes: Option<u64>) -> (u64, Vec<u64>) {
        let ends = bases.iter().skip(1).copied().chain([self.end]);
        let mut segments: Vec<(u64, u64, u64, i64)> = Vec::new();
        for (base, end) in bases.iter().copied().zip(ends) {
            let within = || self.batches.iter().filter(|batch| batch.base >= base && batch.next <= end);
            let newest = within().map(Batch::newest).max().unwrap_or(now);
            segments.push((base, end, within().map(|batch| batch.size).sum(), newest));
        }
        let expired = |newest: i64| age.is_some_and(|age| now - newest > age as i64);
        let (active, sealed) = segments.split_last().expect("a partition has a segment");
        let mut total: u64 = segments.iter().map(|segment| segment.2).sum();
        let (mut start, mut all) = (self.start, true);
        for (_, end, size, newest) in sealed {
            if !(bytes.is_some_and(|limit| total - size >= limit) || expired(*newest)) {
                all = false;
                break;
            }
            total -= size;
            start = start.max(*end);
        }
        let rolled = all && active.2 > 0 && expired(active.3);
        let mut left: Vec<u64> = sealed.iter().filter(|segment| segment.1 > start).map(|segment| segment.0).collect();
        if !rolled || active.1 > start {
            left.push(active.0);
        }
        if rolled {
            left.push(self.end);
        }
        (start, left)
    }
}

/// A batch of the log in the model's terms.
pub fn decode(view: &BatchView<'_>) -> Batch {
    let header = view.header();
    let mut scratch = stratalog::format::Scratch::default();
    let records = view.records(&mut scratch).unwrap().map(|record| rec(&record.unwrap())).collect();
    let (base, next) = (header.base_offset.get(), header.next_offset().get());
    Batch { base, next, size: header.size as u64, records }
}

/// A record of the log in the model's terms.
pub fn rec(record: &stratalog::RecordView<'_>) -> Rec {
    let headers = record.headers().map(|header| (header.key.to_vec(), header.value.map(<[u8]>::to_vec)));
    Rec {
        offset: record.offset.get(),
        timestamp: record.timestamp.as_millis(),
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.map(<[u8]>::to_vec),
        headers: headers.collect(),
    }
}

pub fn offset(value: u64) -> Offset {
    Offset::new(value)
}

pub fn time(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}
