//! What a log may hold and must hold, by what was asked of it and acknowledged.

use std::collections::BTreeMap;

use stratalog::Timestamp;

/// A record as far as it is compared: its key, its value (a tombstone has none), and when it was appended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rec {
    pub key: u8,
    pub value: Option<String>,
    pub at: Timestamp,
}

/// What may be found at an offset.
#[derive(Clone, Default, Debug)]
pub struct Slot {
    /// It was acknowledged: where the log reaches beyond, one of `any` is there.
    pub required: bool,
    /// It was required once, and may be gone since.
    pub once: bool,
    /// Records appended there and not taken back, the last one last. Appends that failed half way are among them.
    pub any: Vec<Rec>,
}

/// One partition.
#[derive(Clone, Default, Debug)]
pub struct Part {
    pub slots: BTreeMap<u64, Slot>,
    /// The log end as acknowledged.
    pub end: u64,
    /// The log end that an append under way, or failed, may have reached.
    pub end_max: u64,
    /// Acknowledged as durable.
    pub durable: u64,
    /// The log start as acknowledged.
    pub start: u64,
    /// The highest log start that was asked for.
    pub start_max: u64,
    /// A truncation under way: the log may end here, or not be touched.
    pub cut: Option<u64>,
    /// A new start under way: the log may be empty here, or not be touched.
    pub reset: Option<u64>,
    /// The highest high watermark that was set.
    pub watermark: u64,
    /// The latest leader epoch.
    pub epoch: i32,
    /// The ends of its batches, by base.
    pub batches: BTreeMap<u64, u64>,
    /// Who wrote the records of transactions.
    pub writers: BTreeMap<u64, u8>,
    /// The ends of transactions: by whom, and whether aborted.
    pub markers: BTreeMap<u64, (u8, bool)>,
    /// Where it began, before its first batch.
    pub origin: u64,
    pub sequence: i32,
}

/// Whether something is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum There {
    #[default]
    No,
    Maybe,
    Yes,
}

/// One topic.
#[derive(Clone, Default, Debug)]
pub struct TopicModel {
    pub there: There,
    /// Of a topic that is there.
    pub partitions: usize,
    /// Being added.
    pub partitions_max: usize,
    /// Values of one setting, any of which may be in force: the marks that the workload gives.
    pub marks: Vec<u32>,
    pub parts: Vec<Part>,
}

/// The whole log.
#[derive(Clone, Default, Debug)]
pub struct Model {
    pub topics: BTreeMap<&'static str, TopicModel>,
    /// Milliseconds since the beginning.
    pub elapsed: i64,
    /// Makes each value another one.
    pub counter: u64,
    /// The power has gone since the log was last seen: what was not durable may be lost.
    pub powerless: bool,
    /// Grows whenever an image that was good may be bad from now on.
    pub version: u64,
}

impl Part {
    /// An append of these records is under way: it may be there from now on.
    pub fn expect(&mut self, records: &[(u64, Rec)], next: u64) {
        for (offset, record) in records {
            self.slots.entry(*offset).or_default().any.push(record.clone());
        }
        self.end_max = self.end_max.max(next);
    }

    /// It was acknowledged.
    pub fn appended(&mut self, records: &[(u64, Rec)], base: u64, next: u64) {
        for (_, slot) in self.slots.range_mut(self.end..next) {
            slot.required = false;
        }
        for (offset, _) in records {
            self.slots.entry(*offset).or_default().required = true;
        }
        self.batches.insert(base, next);
        (self.end, self.end_max) = (next, self.end_max.max(next));
    }

    /// Everything below `end` was acknowledged as durable.
    pub fn synced(&mut self, end: u64) {
        if end <= self.durable {
            return;
        }
        for (_, slot) in self.slots.range_mut(self.durable..end) {
            let last = slot.any.len().saturating_sub(1);
            slot.any.drain(..last);
        }
        let durable = self.durable;
        self.slots.retain(|offset, slot| !(durable..end).contains(offset) || slot.required || slot.once);
        self.durable = end;
    }

    /// Where a truncation to `to` leaves the end of a log that was never compacted.
    pub fn end_after_cut(&self, to: u64) -> u64 {
        if to >= self.end {
            return self.end;
        }
        let kept = self.batches.range(..to).map(|(_, next)| *next).rfind(|next| *next <= to);
        kept.unwrap_or(self.origin).max(self.start)
    }

    /// A truncation was acknowledged.
    pub fn cut_done(&mut self, end: u64) {
        self.cut = None;
        self.slots.retain(|offset, _| *offset < end);
        self.batches.retain(|_, next| *next <= end);
        self.markers.retain(|offset, _| *offset < end);
        self.writers.retain(|offset, _| *offset < end);
        (self.end, self.end_max, self.durable) = (end, end, end);
        self.watermark = self.watermark.min(end);
    }

    /// A new start was acknowledged.
    pub fn reset_done(&mut self, to: u64) {
        *self = Part { sequence: self.sequence, ..Part::default() };
        (self.start, self.start_max, self.end, self.end_max, self.durable) = (to, to, to, to, to);
        (self.watermark, self.origin) = (to, to);
    }
}

impl Model {
    /// The topic, known or not.
    pub fn topic(&mut self, name: &'static str) -> &mut TopicModel {
        self.topics.entry(name).or_default()
    }

    /// The sizes of the records of the batch that a crash took off the end.
    pub fn lost(&self, name: &str, id: usize, end: u64) -> Vec<usize> {
        let Some(part) = self.topics.get(name).and_then(|topic| topic.parts.get(id)) else { return Vec::new() };
        let next = part.batches.get(&end).copied().unwrap_or(end + 1);
        let lost = part.slots.range(end..next).filter_map(|(_, slot)| slot.any.last()?.value.as_ref());
        lost.map(|value| value.len().saturating_sub(9)).collect()
    }

    pub fn part(&mut self, name: &'static str, id: usize) -> &mut Part {
        let parts = &mut self.topic(name).parts;
        if parts.len() <= id {
            parts.resize_with(id + 1, Part::default);
        }
        &mut parts[id]
    }
}
