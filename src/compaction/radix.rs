//! Sorting what has an evenly spread key: a hash says by itself about where it belongs.

use crate::format::digest::DigestEntry;

/// Fewer items than this are sorted by comparing.
const FEW: usize = 32;
/// A bucket with more items than this is sorted by itself: keys are not as spread as they should be.
const CROWDED: u32 = 24;

/// An item with a key whose values are about evenly spread.
pub(super) trait Spread: Copy + Ord {
    /// The upper part of what the order goes by.
    fn spread(&self) -> u64;
}

impl Spread for DigestEntry {
    #[inline]
    fn spread(&self) -> u64 {
        self.hash().high
    }
}

/// Buffers that are used again for each sort: as many items again, and half as many numbers.
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

impl<T: Spread> Scatter<T> {
    /// Bytes that sorting takes for each item, those of the item itself included.
    pub(super) const ITEM_MEMORY: usize = 2 * size_of::<T>() + 2;

    /// Sorts items whose keys lie from `first` to `last`: each goes to the bucket that its key points to, about two to
    /// a bucket, and what is left to do is to sort neighbours. Keys that are not spread only make it slower.
    pub(super) fn sort(&mut self, items: &mut Vec<T>, first: u64, last: u64) {
        let buckets = items.len() / 2;
        let width = u128::from(last - first) + 1;
        let scale = ((buckets as u128) << 64) / width;
        let (Ok(scale), true) = (u64::try_from(scale), items.len() > FEW) else {
            items.sort_unstable();
            return;
        };
        let bucket = |item: &T| ((u128::from(item.spread() - first) * u128::from(scale)) >> 64) as usize;
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

/// Sorts items that are at most a few places away from where they belong.
fn sort_neighbours<T: Spread>(items: &mut [T]) {
    for next in 1..items.len() {
        let item = items[next];
        let mut at = next;
        while at > 0 && item < items[at - 1] {
            items[at] = items[at - 1];
            at -= 1;
        }
        items[at] = item;
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::format::digest::KeyHash;

    fn check(keys: &[(u64, u64, u32)], first: u64, last: u64) {
        let entry = |&(high, low, delta)| DigestEntry::new(KeyHash { high, low }, delta, false, 0);
        let mut items: Vec<_> = keys.iter().map(entry).collect();
        let mut sorted = items.clone();
        sorted.sort();
        let mut scatter = Scatter::default();
        scatter.sort(&mut items, first, last);
        assert_eq!(items, sorted);
        // The buffers of one sort do no harm in the next.
        items.reverse();
        items.truncate(keys.len() / 2 + 1);
        sorted = items.clone();
        sorted.sort();
        scatter.sort(&mut items, first, last);
        assert_eq!(items, sorted);
    }

    proptest! {
        #[test]
        fn any_keys_are_sorted(keys in vec((any::<u64>(), 0..3_u64, 0..9_u32), 0..500)) {
            check(&keys, 0, u64::MAX);
        }

        #[test]
        fn keys_in_a_narrow_range_are_sorted(first in any::<u64>(), offsets in vec((0..1000_u64, 0..9_u32), 0..500)) {
            let first = first.min(u64::MAX - 999);
            let keys: Vec<_> = offsets.iter().map(|&(offset, delta)| (first + offset, 0, delta)).collect();
            check(&keys, first, first + 999);
        }

        #[test]
        fn crowded_keys_are_sorted(keys in vec((prop_oneof![Just(0), Just(5), Just(u64::MAX), any::<u64>()], 0..2_u64, 0..999_u32), 0..500)) {
            check(&keys, 0, u64::MAX);
        }
    }
}
