//! Sorting what has an evenly spread key: a hash says by itself about where it belongs.

use crate::format::digest::{DigestEntry, KeyHash};

/// Fewer items than this are sorted by comparing.
const FEW: usize = 32;
/// A bucket with more items than this is sorted by itself: keys are not as spread as they should be.
const CROWDED: u32 = 24;

/// An item with a hash, by which it is sorted first.
pub(super) trait Hashed: Copy + Ord {
    fn hash(&self) -> KeyHash;
}

impl Hashed for DigestEntry {
    #[inline]
    fn hash(&self) -> KeyHash {
        self.hash()
    }
}

/// BufferPool that are used again for each sort: as many items again, and as many numbers.
#[derive(Debug)]
pub(super) struct Scatter<T> {
    items: Vec<T>,
    /// Where the next item of each bucket goes.
    places: Vec<u32>,
}

impl<T> Default for Scatter<T> {
    fn default() -> Scatter<T> {
        Scatter { items: Vec::new(), places: Vec::new() }
    }
}

impl<T: Hashed> Scatter<T> {
    /// Bytes that sorting takes for each item, those of the item itself included.
    pub(super) const ITEM_MEMORY: usize = 2 * size_of::<T>() + 4;

    /// Sorts items whose hashes lie from `first` to `last`, as far as their upper half goes. Those of one hash come in
    /// order already.
    ///
    /// Each goes to the bucket that its hash points to, about one to a bucket, and what is left to do is to sort
    /// neighbours. Hashes that are not spread only make it slower.
    pub(super) fn sort(&mut self, items: &mut Vec<T>, first: u64, last: u64) {
        let buckets = items.len();
        let width = u128::from(last - first) + 1;
        let scale = ((buckets as u128) << 64) / width;
        let (Ok(scale), true) = (u64::try_from(scale), items.len() > FEW) else {
            items.sort_unstable();
            return;
        };
        let bucket = |item: &T| ((u128::from(item.hash().high - first) * u128::from(scale)) >> 64) as usize;
        self.places.clear();
        self.places.resize(buckets, 0);
        for item in &*items {
            self.places[bucket(item)] += 1;
        }
        let mut start = 0;
        let mut crowded = false;
        for place in &mut self.places {
            crowded |= *place > CROWDED;
            (start, *place) = (start + *place, start);
        }
        self.items.reserve_exact(items.len().saturating_sub(self.items.len()));
        self.items.resize(items.len(), items[0]);
        for item in &*items {
            let place = &mut self.places[bucket(item)];
            self.items[*place as usize] = *item;
            *place += 1;
        }
        if crowded {
            self.sort_crowded();
        }
        sort_neighbours(&mut self.items);
        std::mem::swap(items, &mut self.items);
    }

    fn sort_crowded(&mut self) {
        let mut start = 0;
        for &end in &self.places {
            if end - start > CROWDED {
                self.items[start as usize..end as usize].sort_unstable();
            }
            start = end;
        }
    }
}

/// Sorts items that are at most a few places away from where they belong, and leaves those of one hash as they are.
fn sort_neighbours<T: Hashed>(items: &mut [T]) {
    for next in 1..items.len() {
        let item = items[next];
        let hash = number(&item);
        if number(&items[next - 1]) <= hash {
            continue;
        }
        let mut at = next;
        while at > 0 && hash < number(&items[at - 1]) {
            items[at] = items[at - 1];
            at -= 1;
        }
        items[at] = item;
    }
}

/// The hash as one number, which is compared without a branch.
#[inline]
fn number<T: Hashed>(item: &T) -> u128 {
    let hash = item.hash();
    (u128::from(hash.high) << 64) | u128::from(hash.low)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::format::digest::KeyHash;

    fn check(keys: &[(u64, u64)], first: u64, last: u64) {
        let entry =
            |(i, &(high, low)): (usize, &(u64, u64))| DigestEntry::new(KeyHash { high, low }, i as u32, false, 0);
        let mut items: Vec<_> = keys.iter().enumerate().map(entry).collect();
        let mut shorter = items[..keys.len() / 2].to_vec();
        let mut scatter = Scatter::default();
        // The buffers of one sort do no harm in the next.
        for items in [&mut items, &mut shorter] {
            let mut sorted = items.clone();
            sorted.sort();
            scatter.sort(items, first, last);
            assert_eq!(*items, sorted);
        }
    }

    #[test]
    fn sorting_takes_as_much_memory_as_is_said_of_each_item() {
        let entry = |i: u64| DigestEntry::new(KeyHash { high: i << 52, low: 0 }, 0, false, 0);
        let mut items: Vec<_> = (0..4000).rev().map(entry).collect();
        items.shrink_to_fit();
        let mut scatter = Scatter::default();
        scatter.sort(&mut items, 0, u64::MAX);
        let bytes =
            (items.capacity() + scatter.items.capacity()) * size_of::<DigestEntry>() + scatter.places.capacity() * 4;
        assert_eq!(bytes, 4000 * Scatter::<DigestEntry>::ITEM_MEMORY);
    }

    proptest! {
        #[test]
        fn any_hashes_are_sorted(keys in vec((any::<u64>(), 0..3_u64), 0..500)) {
            check(&keys, 0, u64::MAX);
        }

        #[test]
        fn hashes_in_a_narrow_range_are_sorted(first in any::<u64>(), offsets in vec((0..1000_u64, 0..9_u64), 0..500)) {
            let first = first.min(u64::MAX - 999);
            let keys: Vec<_> = offsets.iter().map(|&(offset, low)| (first + offset, low)).collect();
            check(&keys, first, first + 999);
        }

        #[test]
        fn crowded_hashes_are_sorted(keys in vec((prop_oneof![Just(0), Just(5), Just(u64::MAX), any::<u64>()], 0..2_u64), 0..500)) {
            check(&keys, 0, u64::MAX);
        }
    }
}
