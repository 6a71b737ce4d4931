//! Sorting the keys of a segment by their hash, in fixed memory, and keeping the last record of each.
//!
//! Hashes are evenly spread, so their upper bits say which of up to 256 parts an entry belongs to: it is put there as
//! it comes. Parts that do not fit in memory go to a temporary file. In the end one part after the other is loaded,
//! sorted and handed out: every entry is written and read at most once, however many there are, unless a part alone is
//! larger than the memory; then it is divided once more by its next bits.
//!
//! When the memory is full for the first time, older records of keys that came again are dropped. If that frees half of
//! it, it is done again each time, and a segment that holds few keys many times over never needs the disk.
//!
//! None of that is needed while all keys fit half of the memory: then a [table](super::latest_by_key) holds the last record of
//! each.

use super::latest_by_key::Latest;
use super::radix::Scatter;
use super::spill::{Pages, Streams, TempFiles};
use crate::error::Result;
use crate::format::digest::DigestEntry;

/// Entries in a page of a part.
const PAGE_ITEMS: usize = 170;
/// Into how many parts entries are divided at a time.
const PARTS_MAX: usize = 256;
/// A part has at least so many pages of the memory, so that it is not full of pages that have hardly begun.
const PAGES_PER_PART: usize = 4;
/// With so many parts, one of them is sure to fit into the memory that is left for sorting.
const PARTS_MIN: usize = 16;
/// So many entries are collected before their places in the table are looked up, all at once.
const LOOKED_UP_AT_ONCE: usize = 64;
/// Bits that the upper half of a hash has.
const BITS: u32 = u64::BITS;

/// How a sort uses its memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SortMemory {
    pages: Pages,
    /// Parts are 2 to the power of this.
    part_bits: u32,
    /// The most entries that are sorted at a time.
    sorted_at_once: usize,
    /// Bytes of the table. Together with the parts that it is emptied into it takes no more than all.
    table: usize,
}

impl SortMemory {
    /// About `bytes`, but enough for some pages: not less than 350 KiB.
    pub(crate) fn new(bytes: usize) -> SortMemory {
        SortMemory::with_pages_of(PAGE_ITEMS, bytes)
    }

    fn with_pages_of(items: usize, bytes: usize) -> SortMemory {
        let count =
            (bytes / 4 * 3 / (items * DigestEntry::LEN)).clamp(PARTS_MIN * PAGES_PER_PART, u32::MAX as usize / 2);
        let parts = (count / PAGES_PER_PART).min(PARTS_MAX);
        let sorted_at_once = (bytes / 4 / Scatter::<DigestEntry>::ITEM_MEMORY).max(4 * PAGES_PER_PART * items);
        SortMemory { pages: Pages { items, count }, part_bits: parts.ilog2(), sorted_at_once, table: bytes / 2 }
    }
}

/// Sorts the entries of one segment after the other; the memory is used again.
pub(crate) struct Sorter<'t> {
    memory: SortMemory,
    temp: TempFiles<'t>,
    /// What was pushed last.
    collected: Vec<DigestEntry>,
    /// The other entries, while their keys fit; `in_parts` from then on.
    latest: Latest,
    in_parts: bool,
    parts: Parts,
    loaded: Loaded,
}

/// Entries of one part, and what sorting them takes.
struct Loaded {
    entries: Vec<DigestEntry>,
    scatter: Scatter<DigestEntry>,
    /// The most entries that are to be there at a time.
    max: usize,
}

/// Entries divided by the bits of their hash that follow those they have in common.
struct Parts {
    streams: Streams<{ DigestEntry::LEN }>,
    /// The hashes of all these entries begin with this.
    prefix: u64,
    /// How far to the right the bits lie that divide them.
    shift: u32,
    mask: u64,
    /// Whether dropping older records of a key in memory is known to free too little.
    keeps_much: bool,
}

impl<'t> Sorter<'t> {
    pub(crate) fn new(memory: SortMemory, temp: TempFiles<'t>) -> Sorter<'t> {
        let loaded = Loaded { entries: Vec::new(), scatter: Scatter::default(), max: memory.sorted_at_once };
        Sorter {
            memory,
            temp,
            collected: Vec::with_capacity(LOOKED_UP_AT_ONCE),
            latest: Latest::new(memory.table),
            in_parts: false,
            parts: Parts::new(&memory, 0, 0),
            loaded,
        }
    }

    /// Adds an entry. Those of the same key come in the order of their offsets.
    ///
    /// After an error the sorter is of no more use.
    #[inline]
    pub(crate) fn push(&mut self, entry: &DigestEntry) -> Result<()> {
        self.collected.push(*entry);
        if self.collected.len() < LOOKED_UP_AT_ONCE { Ok(()) } else { self.settle() }
    }

    /// Hands out the last entry of each hash, in order and many at a time, and starts over.
    pub(crate) fn drain(&mut self, mut emit: impl FnMut(&[DigestEntry]) -> Result<()>) -> Result<()> {
        self.settle()?;
        if self.in_parts {
            let part_bits = self.memory.part_bits;
            self.parts.drain(&self.memory, part_bits, &mut self.loaded, &self.temp, &mut emit)?;
            self.parts.streams.clear();
            (self.parts.keeps_much, self.in_parts) = (false, false);
            return Ok(());
        }
        let mut entries = self.latest.iter();
        loop {
            self.loaded.entries.clear();
            self.loaded.entries.extend(entries.by_ref().take(PAGE_ITEMS));
            if self.loaded.entries.is_empty() {
                break;
            }
            emit(&self.loaded.entries)?;
        }
        drop(entries);
        self.latest.clear();
        Ok(())
    }

    /// Puts what was collected where it belongs.
    fn settle(&mut self) -> Result<()> {
        let mut taken = 0;
        if !self.in_parts {
            taken = self.latest.take(&self.collected);
            if taken < self.collected.len() {
                self.in_parts = true;
                self.latest.iter().try_for_each(|entry| self.parts.push(entry, &mut self.loaded, &self.temp))?;
                self.latest.free();
            }
        }
        let rest = &self.collected[taken..];
        rest.iter().try_for_each(|entry| self.parts.push(entry, &mut self.loaded, &self.temp))?;
        self.collected.clear();
        Ok(())
    }
}

impl Parts {
    /// Parts of the entries whose hashes begin with the upper `bits` of `prefix`.
    fn new(memory: &SortMemory, prefix: u64, bits: u32) -> Parts {
        let part_bits = memory.part_bits.min(BITS - bits);
        let parts = 1 << part_bits;
        let shift = BITS - bits - part_bits;
        Parts { streams: Streams::new(parts, memory.pages), prefix, shift, mask: parts as u64 - 1, keeps_much: false }
    }

    #[inline]
    fn push(&mut self, entry: &DigestEntry, loaded: &mut Loaded, temp: &TempFiles<'_>) -> Result<()> {
        let part = self.part_of(entry);
        let slot = match self.streams.try_push(part) {
            Some(slot) => slot,
            None => {
                self.make_room(loaded, temp)?;
                self.streams.push(part, temp)?
            }
        };
        entry.encode_to(slot);
        Ok(())
    }

    #[inline]
    fn part_of(&self, entry: &DigestEntry) -> usize {
        (entry.hash().high.unbounded_shr(self.shift) & self.mask) as usize
    }

    /// The first and the last hash of a part, as far as their upper half goes.
    fn range_of(&self, part: usize) -> (u64, u64) {
        let first = self.prefix | (part as u64).unbounded_shl(self.shift);
        (first, first | (1u64.unbounded_shl(self.shift).wrapping_sub(1)))
    }

    #[cold]
    fn make_room(&mut self, loaded: &mut Loaded, temp: &TempFiles<'_>) -> Result<()> {
        if !self.keeps_much {
            let (mut before, mut after) = (0, 0);
            for part in 0..self.streams.stream_count() {
                before += self.streams.len(part);
                after += self.drop_superseded(part, loaded)?;
            }
            if after <= before / 2 {
                return Ok(());
            }
            self.keeps_much = true;
        }
        self.streams.spill(temp)
    }

    /// Drops from the memory what was superseded there; returns how many entries are left of the part.
    fn drop_superseded(&mut self, part: usize, loaded: &mut Loaded) -> Result<u64> {
        loaded.entries.clear();
        let range = self.range_of(part);
        let mut fits = true;
        self.streams.read_held(part, |bytes| {
            fits = fits && loaded.add(bytes, range);
            Ok(())
        })?;
        if fits {
            loaded.sort(range);
            self.streams.clear_held(part);
            for entry in &loaded.entries {
                entry.encode_to(self.streams.try_push(part).expect("they were there before"));
            }
        }
        Ok(self.streams.len(part))
    }

    /// Hands out what the parts hold; they are divided by `bits` already.
    fn drain(
        &mut self,
        memory: &SortMemory,
        bits: u32,
        loaded: &mut Loaded,
        temp: &TempFiles<'_>,
        emit: &mut dyn FnMut(&[DigestEntry]) -> Result<()>,
    ) -> Result<()> {
        self.streams.complete(temp)?;
        for part in 0..self.streams.stream_count() {
            if self.load(part, loaded, bits == BITS)? {
                loaded.sort(self.range_of(part));
                emit(&loaded.entries)?;
                continue;
            }
            if !self.streams.has_spilled() {
                self.streams.spill(temp)?;
                self.streams.complete(temp)?;
            }
            let mut smaller = Parts::new(memory, self.range_of(part).0, bits);
            self.streams.read(part, |bytes| {
                DigestEntry::decode_all(bytes).try_for_each(|entry| smaller.push(&entry, loaded, temp))
            })?;
            smaller.drain(memory, bits + memory.part_bits.min(BITS - bits), loaded, temp, emit)?;
        }
        Ok(())
    }

    /// Loads a part; `false` when it is too large, and is not to be loaded at any rate.
    fn load(&mut self, part: usize, loaded: &mut Loaded, at_any_rate: bool) -> Result<bool> {
        loaded.entries.clear();
        let range = self.range_of(part);
        let mut fits = !self.keeps_much || self.streams.len(part) <= loaded.max as u64 || at_any_rate;
        if !fits {
            return Ok(false);
        }
        self.streams.read(part, |bytes| {
            fits = fits && (loaded.add(bytes, range) || at_any_rate);
            Ok(())
        })?;
        Ok(fits)
    }
}

impl Loaded {
    /// Adds entries. When they are too many, superseded ones are dropped; `false` when that does not help.
    fn add(&mut self, bytes: &[u8], range: (u64, u64)) -> bool {
        self.entries.extend(DigestEntry::decode_all(bytes));
        if self.entries.len() <= self.max {
            return true;
        }
        self.sort(range);
        self.entries.len() <= self.max / 2
    }

    /// Sorts, and keeps the last entry of each hash.
    fn sort(&mut self, (first, last): (u64, u64)) {
        self.scatter.sort(&mut self.entries, first, last);
        // Of neighbours with the same hash the last one stays. Whether two are the same cannot be foreseen: no branch.
        let mut kept = 0;
        for next in 1..self.entries.len() {
            kept += usize::from(self.entries[next - 1].hash() != self.entries[next].hash());
            self.entries[kept] = self.entries[next];
        }
        self.entries.truncate(kept + 1);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::format::digest::{KeyHash, KeyHasher};
    use crate::storage::sim::{Call, Calls, Fault, SimStorage};

    /// What a sorter makes of these entries, and how many temporary files it took.
    fn sorted(
        storage: &SimStorage,
        memory: SortMemory,
        segments: &[Vec<DigestEntry>],
    ) -> Result<(Vec<Vec<DigestEntry>>, u64)> {
        let made = Cell::new(0);
        let name = || {
            made.set(made.get() + 1);
            PathBuf::from(format!("/{}", made.get()))
        };
        let mut sorter = Sorter::new(memory, TempFiles::new(storage, &name));
        let mut all = Vec::new();
        for entries in segments {
            entries.iter().try_for_each(|entry| sorter.push(entry))?;
            let mut drained = Vec::new();
            sorter.drain(|entries| {
                drained.extend_from_slice(entries);
                Ok(())
            })?;
            all.push(drained);
        }
        Ok((all, made.get()))
    }

    /// Entries as they come from a segment with these keys.
    fn entries(keys: impl IntoIterator<Item = u32>) -> Vec<DigestEntry> {
        let hasher = KeyHasher::new(&[5; 16]);
        let entry =
            |(i, key): (usize, u32)| DigestEntry::new(hasher.hash(&key.to_be_bytes()), i as u32, i % 3 == 0, key);
        keys.into_iter().enumerate().map(entry).collect()
    }

    fn last_of_each(entries: &[DigestEntry]) -> Vec<DigestEntry> {
        let last: BTreeMap<KeyHash, DigestEntry> = entries.iter().map(|entry| (entry.hash(), *entry)).collect();
        last.into_values().collect()
    }

    fn tiny(items: usize, bytes: usize) -> SortMemory {
        SortMemory::with_pages_of(items, bytes)
    }

    proptest! {
        #[test]
        fn the_last_entry_of_each_key_comes_out_in_the_order_of_hashes(
            segments in vec(vec(0..3000_u32, 0..3000), 1..4),
            items in 1..4_usize,
            bytes in 0..20_000_usize,
        ) {
            let segments: Vec<_> = segments.into_iter().map(entries).collect();
            let expected: Vec<_> = segments.iter().map(|entries| last_of_each(entries)).collect();
            let (found, _) = sorted(&SimStorage::new(), tiny(items, bytes), &segments).unwrap();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn keys_that_are_not_spread_are_sorted_too(hashes in vec((0..3_u64, 0..900_u64), 0..2000), items in 1..4_usize) {
            let entry = |(i, &(high, low)): (usize, &(u64, u64))| DigestEntry::new(KeyHash { high, low }, i as u32, false, 0);
            let entries: Vec<_> = hashes.iter().enumerate().map(entry).collect();
            let expected = last_of_each(&entries);
            let (found, _) = sorted(&SimStorage::new(), tiny(items, 0), &[entries]).unwrap();
            prop_assert_eq!(found, [expected]);
        }
    }

    #[test]
    fn more_keys_than_memory_go_to_one_file_and_are_divided_again() {
        let segment = entries(0..50_000);
        let (found, files) = sorted(&SimStorage::new(), tiny(2, 0), std::slice::from_ref(&segment)).unwrap();
        assert_eq!(found, [last_of_each(&segment)]);
        assert!(files > 16, "each part was divided");
        let (found, files) = sorted(&SimStorage::new(), tiny(2, 500_000), std::slice::from_ref(&segment)).unwrap();
        assert_eq!(found, [last_of_each(&segment)]);
        assert_eq!(files, 1);
    }

    #[test]
    fn hashes_with_one_upper_half_are_divided_once_for_each_part_of_its_bits() {
        let memory = tiny(1, 0);
        let entry = |low| DigestEntry::new(KeyHash { high: 7 << 40, low }, low as u32, false, 0);
        let entries: Vec<_> = (0..2000).map(entry).collect();
        let (found, files) = sorted(&SimStorage::new(), memory, std::slice::from_ref(&entries)).unwrap();
        assert_eq!(found, [entries]);
        assert_eq!(files, u64::from(BITS.div_ceil(memory.part_bits)), "each file is one division");
    }

    #[test]
    fn no_more_entries_are_loaded_than_there_is_memory_for() {
        let loaded = |max| Loaded { entries: Vec::new(), scatter: Scatter::default(), max };
        let bytes = |keys: std::ops::Range<u32>| -> Vec<u8> {
            let slots = entries(keys).into_iter().map(|entry| {
                let mut slot = [0; DigestEntry::LEN];
                entry.encode_to(&mut slot);
                slot
            });
            slots.collect::<Vec<_>>().concat()
        };
        let mut full = loaded(10);
        assert!(full.add(&bytes(0..10), (0, u64::MAX)), "they fit");
        assert!(!full.add(&bytes(10..20), (0, u64::MAX)), "twice as many do not");
        let mut again = loaded(10);
        assert!(again.add(&bytes(0..5), (0, u64::MAX)));
        assert!(again.add(&bytes(0..5), (0, u64::MAX)));
        assert!(again.add(&bytes(0..5), (0, u64::MAX)), "superseded ones make room");
        assert_eq!(again.entries.len(), 5);
    }

    #[test]
    fn a_part_that_is_too_large_is_not_read_before_it_is_divided() {
        let storage = SimStorage::new();
        let name = || PathBuf::from("/spilled");
        let temp = TempFiles::new(&storage, &name);
        let memory = tiny(1, 0);
        let mut loaded = Loaded { entries: Vec::new(), scatter: Scatter::default(), max: 10 };
        let mut parts = Parts::new(&memory, 0, 0);
        entries(0..1000).iter().for_each(|entry| parts.push(entry, &mut loaded, &temp).unwrap());
        parts.streams.complete(&temp).unwrap();
        let len = parts.streams.len(3);
        assert!(len > 10 && parts.streams.has_spilled());
        let mut load = |max, at_any_rate| {
            loaded.max = max;
            storage.set_fault(None);
            let fits = parts.load(3, &mut loaded, at_any_rate).unwrap();
            (fits, storage.calls(Calls::Only(Call::Read)) > 0)
        };
        assert_eq!(load(len as usize - 1, false), (false, false));
        assert_eq!(load(len as usize, false), (true, true));
        assert_eq!(load(1, true), (true, true));
    }

    #[test]
    fn few_keys_never_need_the_disk_however_often_they_come() {
        for keys in [1, 7, 50] {
            let segment = entries((0..50_000).map(|i| i % keys));
            let (found, files) = sorted(&SimStorage::new(), tiny(2, 0), std::slice::from_ref(&segment)).unwrap();
            assert_eq!(found, [last_of_each(&segment)]);
            assert_eq!(files, 0);
        }
    }

    #[test]
    fn a_failed_write_is_an_error_and_leaves_no_file_behind() {
        let storage = SimStorage::new();
        let segment = entries(0..5000);
        for after in 0..4 {
            let error = std::io::ErrorKind::StorageFull;
            storage.set_fault(Some(Fault { call: Some(Call::Write), after, error, forever: true }));
            let error = sorted(&storage, tiny(2, 0), std::slice::from_ref(&segment)).unwrap_err();
            assert_eq!(*error.kind(), crate::ErrorKind::DiskFull);
            assert_eq!(crate::storage::Storage::list(&storage, std::path::Path::new("/")).unwrap(), []);
        }
    }
}
