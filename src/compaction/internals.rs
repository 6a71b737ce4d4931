//! For benchmarks only: no part of the interface, subject to change at any time.

use std::cell::Cell;
use std::path::PathBuf;

use super::Memory;
use super::count::count_garbage;
use super::merge::{Merge, Source};
use super::sort::Sorter;
use super::spill::TempFiles;
use super::survivors::Survivors;
use super::tombstones::TombstoneRule;
use crate::compaction::plan::SegmentSummary;
use crate::error::Result;
use crate::format::digest::{DigestAnnex, DigestEntry, DigestSubject, KeyHasher};
use crate::offset::{Offset, Timestamp};
use crate::segment::digest_file::{DigestWriter, Tally};
use crate::storage::{FileSystem, OpenMode, Storage};

const RECORD_BYTES: u32 = 122;
const BATCH: u64 = 100;

/// The digests of segments of records with keys of 12 bytes.
pub struct Digests {
    storage: FileSystem,
    dir: PathBuf,
    hasher: KeyHasher,
    memory: Memory,
    sources: Vec<Source>,
    files: Cell<u64>,
}

impl Digests {
    pub fn new(dir: PathBuf, memory: usize) -> Digests {
        let hasher = KeyHasher::new(&[7; 16]);
        let memory = Memory::new(memory, 64);
        Digests { storage: FileSystem::new(), dir, hasher, memory, sources: Vec::new(), files: Cell::new(0) }
    }

    fn path(&self) -> PathBuf {
        self.files.set(self.files.get() + 1);
        self.dir.join(self.files.get().to_string())
    }

    /// Hashes keys and does nothing with it.
    pub fn hash(&self, keys: &[[u8; 12]]) -> u64 {
        keys.iter().map(|key| self.hasher.hash(key).high).fold(0, u64::wrapping_add)
    }

    /// Builds the digests of segments with these keys, all with the same memory.
    pub fn build<'k>(&mut self, segments: impl Iterator<Item = &'k [[u8; 12]]>) -> Result<()> {
        let name = || self.path();
        let mut sorter = Sorter::new(self.memory.sort(), TempFiles::new(&self.storage, &name));
        let mut sources = Vec::new();
        let mut base = Offset::ZERO;
        for keys in segments {
            for (delta, key) in (0..).zip(keys) {
                sorter.push(&DigestEntry::new(self.hasher.hash(key), delta, false, RECORD_BYTES))?;
            }
            let records = keys.len() as u64;
            let key_id = self.hasher.id();
            let subject = DigestSubject { key_id, base, end: base + records, log_len: records * 122, headers_sum: 0 };
            let path = self.path();
            let file = self.storage.open(&path, OpenMode::CreateNew).map_err(|e| crate::Error::io(e, &path))?;
            let mut writer = DigestWriter::new(file, &path, subject, self.memory.digest_writer());
            sorter.drain(|entries| writer.push(entries))?;
            let tally = Tally {
                batches: records.div_ceil(BATCH),
                records,
                record_bytes: records * u64::from(RECORD_BYTES),
                ..Tally::default()
            };
            let footer = writer.finish(&tally, &DigestAnnex::default())?;
            sources.push(Source { path, footer });
            base = base + records;
        }
        self.sources = sources;
        Ok(())
    }

    fn segments(&self) -> Vec<SegmentSummary> {
        let facts = |source: &Source| SegmentSummary {
            base: source.footer.subject.base,
            end: source.footer.subject.end,
            bytes: source.footer.subject.log_len,
            index_bytes: 0,
            first_append_at: Timestamp::NONE,
            counts: Some(source.footer.counts),
            horizons: Vec::new(),
            markers: Default::default(),
        };
        self.sources.iter().map(facts).collect()
    }

    fn rule(&self) -> TombstoneRule {
        TombstoneRule { now: Timestamp::NONE, floor: Offset::MAX, pinned_from: None }
    }

    /// Counts dead records.
    pub fn count(&self) -> Result<u64> {
        let segments = self.segments();
        let merge = Merge::new(&self.storage, &self.sources, self.memory.count());
        let garbage = count_garbage(merge, &segments.iter().collect::<Vec<_>>(), &self.rule())?;
        Ok(garbage.iter().map(|garbage| garbage.dead_records).sum())
    }

    /// Finds the survivors of all segments, which become `groups` ones, asks for them batch by batch, and writes the
    /// digests. Returns their number.
    pub fn survivors(&self, groups: usize) -> Result<u64> {
        let segments = self.segments();
        let (budget, memory) = self.memory.survivors();
        let merge = Merge::new(&self.storage, &self.sources, budget);
        let name = || self.path();
        let each = self.sources.len().div_ceil(groups).max(1);
        let chunks = segments.chunks(each);
        let groups: Vec<_> = chunks.map(|chunk| chunk[0].base..chunk[chunk.len() - 1].end).collect();
        let segments: Vec<_> = segments.iter().collect();
        let temp = TempFiles::new(&self.storage, &name);
        let mut survivors = Survivors::find(merge, &segments, &groups, &self.rule(), &memory, temp)?;
        let mut kept = 0;
        for (number, group) in groups.iter().enumerate() {
            for first in (group.start.get()..group.end.get()).step_by(BATCH as usize) {
                let last = (first + BATCH).min(group.end.get()) - 1;
                kept += survivors.of_batch(number, Offset::new(first)..=Offset::new(last))?.len() as u64;
            }
            let subject = DigestSubject {
                key_id: self.hasher.id(),
                base: group.start,
                end: group.end,
                log_len: 0,
                headers_sum: 0,
            };
            let path = self.path();
            let file = self.storage.open(&path, OpenMode::CreateNew).map_err(|e| crate::Error::io(e, &path))?;
            self.storage.remove_file(&path).map_err(|e| crate::Error::io(e, &path))?;
            let mut writer = DigestWriter::new(file, &path, subject, self.memory.digest_writer());
            survivors.write_entries(number, group, &mut writer)?;
            let records = survivors.groups()[number].records;
            let tally = Tally { batches: 1, records, record_bytes: u64::MAX >> 3, ..Tally::default() };
            writer.finish(&tally, &DigestAnnex::default())?;
        }
        Ok(kept)
    }
}

#[cfg(test)]
mod tests;
