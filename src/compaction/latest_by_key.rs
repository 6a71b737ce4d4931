//! The latest entry of each key that was seen, in a table that is kept in the order of the hashes.
//!
//! A hash says about where its entry lies; those that cross each other stand in line behind it, in order. So to look a
//! key up is one access to memory for most, entries that come again take no space, and in the end the table is sorted
//! as it is.

use std::hint::black_box;

use crate::format::digest::{DigestEntry, KeyHash};

/// What a place without an entry holds.
const VACANT: DigestEntry = DigestEntry::NONE;
/// Places of a new table.
const PLACES_MIN: usize = 1 << 12;
/// A table with more places than this does not fit the processor's cache. It grows only where that pays: where at least
/// half as many entries came again as there are keys.
const PLACES_CACHED: usize = 1 << 17;

/// The table. It grows as keys come, up to its maximum.
#[derive(Debug)]
pub(super) struct Latest {
    /// In ascending order but for the vacant ones. The last one is vacant.
    places: Vec<DigestEntry>,
    /// Hashes point to one of the first so many places.
    homes: u64,
    held: usize,
    /// How many entries came.
    taken: u64,
    /// The most places.
    max: usize,
}

impl Latest {
    /// A table that takes up to `bytes`, and half as much again while it grows.
    pub(super) fn new(bytes: usize) -> Latest {
        Latest { places: Vec::new(), homes: 0, held: 0, taken: 0, max: bytes / size_of::<DigestEntry>() }
    }

    /// Takes entries, those of one key in the order of their offsets; returns how many, which is less than all when no
    /// more keys fit.
    pub(super) fn take(&mut self, entries: &[DigestEntry]) -> usize {
        // The places are looked at all at once before they are needed one by one: the processor waits for memory once.
        black_box(entries.iter().fold(0, |seen, entry| seen ^ self.peek(entry)));
        for (number, entry) in entries.iter().enumerate() {
            while !self.put(entry) {
                if !self.grow() {
                    return number;
                }
            }
            self.taken += 1;
        }
        entries.len()
    }

    /// The entries in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &DigestEntry> {
        self.places.iter().filter(|place| **place != VACANT)
    }

    /// Forgets the entries, not the memory.
    pub(super) fn clear(&mut self) {
        self.places.fill(VACANT);
        (self.held, self.taken) = (0, 0);
    }

    /// Forgets the entries and gives the memory back.
    pub(super) fn free(&mut self) {
        *self = Latest { places: Vec::new(), homes: 0, held: 0, taken: 0, max: self.max };
    }

    #[inline]
    fn home(&self, hash: KeyHash) -> usize {
        ((u128::from(hash.high) * u128::from(self.homes)) >> 64) as usize
    }

    #[inline]
    fn peek(&self, entry: &DigestEntry) -> u64 {
        self.places.get(self.home(entry.hash())).map_or(0, |place| place.hash().high)
    }

    /// Puts an entry in its place; `false` when there is none.
    #[inline]
    fn put(&mut self, entry: &DigestEntry) -> bool {
        let hash = number(entry);
        let mut at = self.home(entry.hash());
        while let Some(place) = self.places.get_mut(at) {
            if number(place) < hash {
                at += 1;
                continue;
            }
            if number(place) == hash && *place != VACANT {
                *place = *entry;
                return true;
            }
            return self.insert(at, entry);
        }
        false
    }

    /// Puts the entry of a new key in a place; what stands there, and behind it, moves on by one.
    fn insert(&mut self, at: usize, entry: &DigestEntry) -> bool {
        if self.held as u64 >= self.homes * 5 / 8 {
            return false;
        }
        let vacant = self.places.iter().skip(at).take_while(|place| **place != VACANT).count() + at;
        if vacant + 1 >= self.places.len() {
            return false;
        }
        self.places.copy_within(at..vacant, at + 1);
        self.places[at] = *entry;
        self.held += 1;
        true
    }

    /// Makes the table twice as large, or as large as it may be; `false` when that is too little to matter.
    #[cold]
    fn grow(&mut self) -> bool {
        let len = (self.places.len() * 2).clamp(PLACES_MIN.min(self.max), self.max);
        let pays = len <= PLACES_CACHED || self.taken >= self.held as u64 / 2 * 3;
        if !pays || len < self.places.len() + self.places.len() / 4 + 2 {
            return false;
        }
        let old = std::mem::replace(&mut self.places, vec![VACANT; len]);
        // The places behind the last home are for those that would not find one before it.
        self.homes = (len - len / 32 - 1) as u64;
        let mut next = 0;
        for entry in old.iter().filter(|entry| **entry != VACANT) {
            let at = self.home(entry.hash()).max(next);
            if at + 1 >= len {
                // Hashes that are not spread.
                self.places = old;
                return false;
            }
            self.places[at] = *entry;
            next = at + 1;
        }
        true
    }
}

/// The hash as one number, which is compared without a branch.
#[inline]
fn number(entry: &DigestEntry) -> u128 {
    let hash = entry.hash();
    (u128::from(hash.high) << 64) | u128::from(hash.low)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn entry(high: u64, low: u64, delta: u32) -> DigestEntry {
        DigestEntry::new(KeyHash { high, low }, delta, false, 8)
    }

    /// Puts entries into a table and compares what it took with a map.
    fn check(hashes: &[(u64, u64)], places: usize, piece: usize) {
        let entries: Vec<_> = (0..).zip(hashes).map(|(delta, &(high, low))| entry(high, low, delta)).collect();
        let mut latest = Latest::new(places * size_of::<DigestEntry>());
        for _ in 0..2 {
            let mut expected = BTreeMap::new();
            for entries in entries.chunks(piece) {
                let taken = latest.take(entries);
                expected.extend(entries[..taken].iter().map(|entry| (entry.hash(), *entry)));
                if taken < entries.len() {
                    break;
                }
            }
            assert!(latest.iter().eq(expected.values()));
            assert!(latest.places.len() <= places);
            latest.clear();
        }
        latest.free();
        assert_eq!(latest.iter().count(), 0);
    }

    proptest! {
        #[test]
        fn the_latest_entries_come_out_in_order(
            hashes in vec((any::<u64>(), 0..2_u64), 0..500),
            again in vec(any::<prop::sample::Index>(), 0..500),
            places in 0..1000_usize,
            piece in 1..70_usize,
        ) {
            let again = again.iter().filter(|_| !hashes.is_empty()).map(|index| *index.get(&hashes));
            let all: Vec<_> = hashes.iter().copied().chain(again).collect();
            check(&all, places, piece);
        }

        #[test]
        fn hashes_that_are_not_spread_do_too(
            hashes in vec((prop_oneof![Just(0), Just(5), Just(u64::MAX)], prop_oneof![0..50_u64, Just(u64::MAX)]), 0..500),
            places in 0..1000_usize,
        ) {
            check(&hashes, places, 64);
        }
    }

    #[test]
    fn as_many_keys_fit_as_the_memory_allows() {
        let spread = |number: u64| number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut latest = Latest::new((1 << 16) * size_of::<DigestEntry>());
        let keys: Vec<_> = (0..60_000_u64).map(|number| entry(spread(number), 0, number as u32)).collect();
        let taken = keys.chunks(64).map(|keys| latest.take(keys)).take_while(|taken| *taken == 64).sum::<usize>();
        assert!((1 << 16) / 2 < taken, "{taken}");
        assert_eq!(latest.iter().count() / 64, taken / 64);
    }

    #[test]
    fn beyond_the_cache_it_grows_where_keys_come_again() {
        let spread = |number: u64| number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let taken = |again: u64| {
            let mut latest = Latest::new(usize::MAX / 2);
            let keys: Vec<_> = (0..1 << 19).map(|number| entry(spread(number / again), 0, number as u32)).collect();
            keys.chunks(64).map(|keys| latest.take(keys)).sum::<usize>()
        };
        assert!((PLACES_CACHED / 2..PLACES_CACHED).contains(&taken(1)));
        assert_eq!(taken(2), 1 << 19);
    }
}
