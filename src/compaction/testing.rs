//! Segments for tests: their records, and the digests of these.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::merge::Source;
use crate::compaction::plan::SegmentSummary;
use crate::format::digest::{DigestAnnex, DigestCounts, DigestEntry, DigestSubject, Horizon, KeyHasher};
use crate::offset::{Offset, Timestamp};
use crate::segment::digest_file::{DigestWriter, Tally};
use crate::storage::sim::SimStorage;
use crate::storage::{OpenMode, Storage};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Rec {
    pub(super) offset: Offset,
    pub(super) key: u32,
    pub(super) tombstone: bool,
    pub(super) bytes: u32,
}

/// A key, whether it is deleted, and how many offsets are left out before.
pub(super) type Draft = (u32, bool, u8);

/// Segments of records, and their digests in a simulated storage.
pub(super) struct Segments {
    pub(super) storage: SimStorage,
    pub(super) hasher: KeyHasher,
    pub(super) records: Vec<Vec<Rec>>,
    pub(super) sources: Vec<Source>,
    pub(super) facts: Vec<SegmentSummary>,
    files: Cell<u64>,
}

/// Some segments with few keys.
pub(super) fn drafts(keys: u32, segments: usize, records: usize) -> impl Strategy<Value = Vec<Vec<Draft>>> {
    vec(vec((0..keys, proptest::bool::weighted(0.3), 0..3_u8), 0..records), 0..segments)
}

impl Segments {
    pub(super) fn new(drafts: &[Vec<Draft>]) -> Segments {
        let mut segments = Segments {
            storage: SimStorage::new(),
            hasher: KeyHasher::new(&[9; 16]),
            records: Vec::new(),
            sources: Vec::new(),
            facts: Vec::new(),
            files: Cell::new(0),
        };
        drafts.iter().for_each(|draft| segments.add(draft));
        segments
    }

    fn add(&mut self, draft: &[Draft]) {
        let base = self.sources.last().map_or(Offset::new(1000), |last| last.footer.subject.end);
        let mut next = base;
        let mut records = Vec::new();
        for &(key, tombstone, gap) in draft {
            let offset = next + u64::from(gap);
            records.push(Rec { offset, key, tombstone, bytes: 10 + key });
            next = offset + 1;
        }
        let subject = DigestSubject { key_id: self.hasher.id(), base, end: next, log_len: 1000, headers_sum: 0 };
        let path = PathBuf::from(format!("/{base}-{}", self.sources.len()));
        let file = self.storage.open(&path, OpenMode::CreateNew).unwrap();
        let mut writer = DigestWriter::new(Arc::clone(&file), &path, subject, 0);
        writer.push(&self.entries(&records, base)).unwrap();
        let record_bytes = records.iter().map(|record| u64::from(record.bytes)).sum();
        let tally = Tally { records: records.len() as u64, record_bytes, ..Tally::default() };
        let footer = writer.finish(&tally, &DigestAnnex::default()).unwrap();
        file.sync().unwrap();
        self.facts.push(SegmentSummary {
            base,
            end: next,
            bytes: 1000,
            index_bytes: 8,
            first_append_at: Timestamp::from_millis(base.as_i64()),
            counts: Some(footer.counts),
            horizons: Vec::new(),
            markers: Default::default(),
        });
        self.sources.push(Source { path, footer });
        self.records.push(records);
    }

    /// The digest entries of these records.
    pub(super) fn entries(&self, records: &[Rec], base: Offset) -> Vec<DigestEntry> {
        let mut last = BTreeMap::new();
        for record in records {
            let hash = self.hasher.hash(&record.key.to_be_bytes());
            let delta = record.offset.since(base) as u32;
            last.insert(hash, DigestEntry::new(hash, delta, record.tombstone, record.bytes));
        }
        last.into_values().collect()
    }

    /// Sets one horizon for each segment.
    pub(super) fn set_horizons(&mut self, at: impl Fn(usize) -> Option<i64>) {
        for (number, facts) in self.facts.iter_mut().enumerate() {
            let horizon = |at| Horizon { end: facts.end, at: Timestamp::from_millis(at) };
            facts.horizons = at(number).map(horizon).into_iter().collect();
        }
    }

    pub(super) fn meta(&self) -> Vec<&SegmentSummary> {
        self.facts.iter().collect()
    }

    /// The path of a file that is not there.
    pub(super) fn path(&self) -> PathBuf {
        self.files.set(self.files.get() + 1);
        Path::new("/").join(self.files.get().to_string())
    }

    /// All records in order, each with the number of its segment.
    pub(super) fn all(&self) -> impl Iterator<Item = (usize, Rec)> + '_ {
        self.records
            .iter()
            .enumerate()
            .flat_map(|(number, records)| records.iter().map(move |record| (number, *record)))
    }

    /// The offset of the latest record of each key.
    pub(super) fn latest(&self) -> BTreeMap<u32, Offset> {
        self.all().map(|(_, record)| (record.key, record.offset)).collect()
    }

    /// The offsets of a run of segments.
    pub(super) fn offsets(&self, numbers: Range<usize>) -> Range<Offset> {
        self.facts[numbers.start].base..self.facts[numbers.end - 1].end
    }
}

/// What a digest counts of a segment where nothing is garbage.
pub(super) fn clean(records: u64, bytes: u64) -> DigestCounts {
    let all = DigestCounts { batches: records, records, record_bytes: bytes, ..DigestCounts::default() };
    DigestCounts { keys: records, key_bytes: bytes, ..all }
}
