//! Merges the digests of many segments, key by key.
//!
//! Hashes are spread evenly over all digests. So the merge goes through the hash space slice by slice. It reads the few
//! entries of each digest that lie in the slice, sorts them all, and passes on the records of one key after the other.
//! A slice is as wide as the memory allows. There is no limit to the number of digests, no cascade and no temporary
//! file. Each digest is read once, except for the blocks at the edges of slices.

use std::path::PathBuf;

use super::radix::{Hashed, Scatter};
use crate::error::{Error, Result};
use crate::format::digest::{DigestBlocks, DigestEntry, DigestFooter, KeyHash};
use crate::offset::Offset;
use crate::segment::digest_file::DigestReader;
use crate::storage::Storage;

/// The most bytes read at a time.
const PIECE_MAX: usize = 1 << 20;
/// The number of entries in a slice that can be sorted within the processor's cache.
const SLICE_CACHED: usize = 1 << 14;
/// The least number of entries of one digest in a slice, so that the blocks at the edges cost little.
const SLICE_OF_DIGEST: usize = 1 << 10;

/// A digest to be merged.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) footer: DigestFooter,
}

/// The last record of a key in one segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Found {
    hash: KeyHash,
    /// The index of its segment among the merged ones.
    pub(crate) source: u32,
    /// Its offset relative to the segment's base.
    pub(crate) delta: u32,
    pub(crate) tombstone: bool,
    pub(crate) record_bytes: u32,
}

impl Found {
    /// Whether the other one has the same key.
    #[inline]
    pub(crate) fn is_same_key(&self, other: &Found) -> bool {
        self.hash == other.hash
    }

    /// Makes an entry for another segment's digest, where it lies `delta` behind the base.
    #[inline]
    pub(crate) fn entry(&self, delta: u32) -> DigestEntry {
        DigestEntry::new(self.hash, delta, self.tombstone, self.record_bytes)
    }
}

impl Hashed for Found {
    #[inline]
    fn hash(&self) -> KeyHash {
        self.hash
    }
}

/// The memory and the number of open files that a merge may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MergeBudget {
    /// Bytes. A merge holds at least one entry of each digest and a block, however few bytes this is.
    pub(crate) memory: usize,
    /// The number of digests that stay open. The others are opened for each slice.
    pub(crate) files: usize,
}

/// A merge of the digests of consecutive segments.
pub(crate) struct Merge<'a> {
    storage: &'a dyn Storage,
    sources: &'a [Source],
    files: usize,
    readers: Vec<Option<DigestReader>>,
    /// The number of entries of each digest that have been merged.
    merged: Vec<u64>,
    /// The most entries in a slice.
    capacity: usize,
    piece_blocks: u64,
    piece: Vec<u8>,
    slice: Vec<Found>,
    scatter: Scatter<Found>,
}

impl<'a> Merge<'a> {
    /// Creates a merge. The sources must be in the order of their offsets.
    pub(crate) fn new(storage: &'a dyn Storage, sources: &'a [Source], budget: MergeBudget) -> Merge<'a> {
        let ends = sources.windows(2).all(|pair| pair[0].footer.subject.end <= pair[1].footer.subject.base);
        assert!(ends, "segments come in order");
        let piece_blocks = (budget.memory / 8 / DigestBlocks::LEN).clamp(1, PIECE_MAX / DigestBlocks::LEN);
        let left = budget.memory.saturating_sub(piece_blocks * DigestBlocks::LEN);
        let capacity = (left / Scatter::<Found>::ITEM_MEMORY).max(sources.len());
        Merge {
            storage,
            sources,
            files: budget.files,
            readers: sources.iter().map(|_| None).collect(),
            merged: vec![0; sources.len()],
            capacity,
            piece_blocks: piece_blocks as u64,
            piece: Vec::new(),
            slice: Vec::new(),
            scatter: Scatter::default(),
        }
    }

    /// The merged digests.
    pub(crate) fn sources(&self) -> &'a [Source] {
        self.sources
    }

    /// Calls `visit` with the records of some keys, until it has passed on all. For each key these are its last record
    /// in each segment, in offset order. The keys come in hash order.
    ///
    /// A damaged digest is reported as [`Corrupt`](crate::ErrorKind::Corrupt), with its path.
    pub(crate) fn run(mut self, mut visit: impl FnMut(&[Found]) -> Result<()>) -> Result<()> {
        let mut first = 0;
        loop {
            let left: u64 = self.left().sum();
            if left == 0 {
                return Ok(());
            }
            let last = self.fill_slice(first, left)?;
            self.scatter.sort(&mut self.slice, first, last);
            if !self.slice.is_empty() {
                visit(&self.slice)?;
            }
            match last.checked_add(1) {
                Some(next) => first = next,
                None => {
                    assert!(self.left().all(|left| left == 0), "the last slice takes all that is left");
                    return Ok(());
                }
            }
        }
    }

    /// The number of entries of each digest still to come.
    fn left(&self) -> impl Iterator<Item = u64> + '_ {
        self.sources.iter().zip(&self.merged).map(|(source, merged)| source.footer.counts.keys - merged)
    }

    /// Collects all entries whose hash, by its upper half, lies between `first` and the returned value.
    fn fill_slice(&mut self, first: u64, left: u64) -> Result<u64> {
        let wanted = SLICE_CACHED.max(self.sources.len() * SLICE_OF_DIGEST).min(self.capacity / 8 * 7).max(1);
        let mut last = part_of(first, u64::MAX, wanted as u64, left);
        self.slice.clear();
        for source in 0..self.sources.len() {
            while !self.collect(source, first, last)? {
                // Narrow the slice before reading more: hashes that are not evenly spread would fill the memory block
                // by block.
                while self.slice.len() > self.capacity && last > first {
                    last = first.midpoint(last);
                    self.narrow(last);
                }
            }
        }
        Ok(last)
    }

    /// Gives back the entries behind `last`.
    fn narrow(&mut self, last: u64) {
        self.slice.retain(|found| {
            let stays = found.hash.high <= last;
            self.merged[found.source as usize] -= u64::from(!stays);
            stays
        });
    }

    /// Adds the entries of one digest to the slice. Returns `false` if the slice must become narrower.
    fn collect(&mut self, source: usize, first: u64, last: u64) -> Result<bool> {
        let Source { footer, .. } = &self.sources[source];
        let keys = footer.counts.keys;
        let mut next = self.merged[source];
        if next == keys {
            return Ok(true);
        }
        let reader = take_reader(self.storage, &self.sources[source], &mut self.readers[source])?;
        let span = footer.subject.end.since(footer.subject.base);
        let mut before = None;
        let mut expected = expected(first, last, keys - next);
        'pieces: while next < keys {
            let block = next / DigestBlocks::ENTRIES as u64;
            let end = ((next + expected) / DigestBlocks::ENTRIES as u64 + 1).min(block + self.piece_blocks);
            let blocks = block..end.min(reader.block_count());
            reader.read_blocks(blocks.clone(), &mut self.piece)?;
            for (number, block) in blocks.zip(self.piece.chunks(DigestBlocks::LEN)) {
                let entries = reader.check_block(number, block)?;
                let skipped = (next % DigestBlocks::ENTRIES as u64) as usize;
                for entry in DigestEntry::decode_all(entries).skip(skipped) {
                    let hash = entry.hash();
                    if before.is_some_and(|before| before >= hash)
                        || hash.high < first
                        || u64::from(entry.delta()) >= span
                    {
                        return Err(Error::corrupt(reader.path(), 0, "entries out of order"));
                    }
                    if hash.high > last {
                        break 'pieces;
                    }
                    before = Some(hash);
                    next += 1;
                    let (delta, tombstone, record_bytes) = (entry.delta(), entry.is_tombstone(), entry.record_bytes());
                    self.slice.push(Found { hash, source: source as u32, delta, tombstone, record_bytes });
                }
                if self.slice.len() > self.capacity && last > first {
                    break 'pieces;
                }
            }
            expected = 1;
        }
        self.merged[source] = next;
        if source < self.files {
            self.readers[source] = Some(reader);
        }
        // A slice of a single upper half holds only an entry or two of each digest.
        Ok(self.slice.len() <= self.capacity || last == first)
    }
}

fn take_reader(storage: &dyn Storage, source: &Source, kept: &mut Option<DigestReader>) -> Result<DigestReader> {
    match kept.take() {
        Some(reader) => Ok(reader),
        None => DigestReader::reopen(storage, &source.path, &source.footer),
    }
}

/// Returns where a part of the range from `first` to `last` ends that holds `wanted` of `all` entries.
fn part_of(first: u64, last: u64, wanted: u64, all: u64) -> u64 {
    if wanted >= all {
        return last;
    }
    first + (u128::from(last - first) * u128::from(wanted) / u128::from(all)) as u64
}

/// Estimates how many of the entries with hashes from `first` on have one up to `last`, or a few more.
fn expected(first: u64, last: u64, entries: u64) -> u64 {
    let share = u128::from(last - first) * u128::from(entries) / (u128::from(u64::MAX - first) + 1);
    (share as u64).saturating_add((share as u64).isqrt()).min(entries)
}

/// The offset of a record.
pub(crate) fn offset(sources: &[Source], found: &Found) -> Offset {
    sources[found.source as usize].footer.subject.base + u64::from(found.delta)
}

#[cfg(test)]
mod tests;
