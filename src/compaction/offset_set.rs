//! A set of positions in fixed memory: filled in any order, read in ascending order.
//!
//! As long as a bit for each position fits, there is a bit for each. Beyond that the positions are divided into
//! windows, those of each window kept as a list that goes to a temporary file where it must; when its turn comes, a
//! window becomes bits or a sorted list, whichever is smaller, or is divided once more. So each position is written at
//! most once for each level, however many there are, and where few lie far apart it is their number that counts.

use std::ops::Range;

use super::spill::{Pages, Streams, TempFiles};
use crate::error::Result;

/// Bytes of a position within its window.
const ITEM: usize = 4;
/// Positions in a page of a window's list.
const PAGE_ITEMS: usize = 1024;
/// A window has at least so many pages of the memory.
const PAGES_PER_WINDOW: usize = 4;
/// A list is smaller than bits when one of so many positions is in the set.
const SPARSE: u64 = 8 * ITEM as u64;

/// How a set uses its memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct OffsetMemory {
    /// Bits that are held at a time.
    bits: u64,
    pages: Pages,
}

impl OffsetMemory {
    /// About `bytes`, but enough for some pages: not less than 64 KiB.
    pub(super) fn new(bytes: usize) -> OffsetMemory {
        OffsetMemory::with_pages_of(PAGE_ITEMS, bytes)
    }

    /// While the set is filled there are bits or pages, never both; when it is read there are bits or a list, and no
    /// pages but those of a set that is small enough to be held by them.
    fn with_pages_of(items: usize, bytes: usize) -> OffsetMemory {
        let count = (bytes / 2 / (items * ITEM)).clamp(2 * PAGES_PER_WINDOW, u32::MAX as usize / 2);
        let bits = (bytes as u64 / 2 * 8).max(64);
        OffsetMemory { bits, pages: Pages { items, count } }
    }
}

/// A set that is being filled.
pub(super) enum OffsetSet {
    Bits(Bits),
    Windows(Windows),
}

/// One bit for each position from the first on.
pub(super) struct Bits(Vec<u64>);

/// Positions divided into windows of one width.
pub(super) struct Windows {
    streams: Streams<ITEM>,
    /// The first position.
    start: u64,
    /// One past the last position.
    end: u64,
    width: u64,
    /// The next window to be read.
    next: usize,
}

impl OffsetSet {
    /// A set of positions below `end`.
    pub(super) fn new(end: u64, memory: &OffsetMemory) -> OffsetSet {
        if end <= memory.bits {
            return OffsetSet::Bits(Bits::new(end));
        }
        OffsetSet::Windows(Windows::new(0..end, memory))
    }

    /// Adds a position.
    #[inline]
    pub(super) fn insert(&mut self, position: u64, temp: &TempFiles<'_>) -> Result<()> {
        match self {
            OffsetSet::Bits(bits) => {
                bits.insert(position);
                Ok(())
            }
            OffsetSet::Windows(windows) => windows.insert(position, temp),
        }
    }

    /// The set is complete: it can be read.
    pub(super) fn complete(self, memory: OffsetMemory, temp: &TempFiles<'_>) -> Result<OffsetReader> {
        let mut reader = OffsetReader { memory, levels: Vec::new(), held: 0..0, content: Content::List(Vec::new(), 0) };
        match self {
            OffsetSet::Bits(bits) => {
                reader.held = 0..bits.0.len() as u64 * 64;
                reader.content = Content::Bits(bits);
            }
            OffsetSet::Windows(mut windows) => {
                windows.streams.complete(temp)?;
                reader.levels.push(windows);
            }
        }
        Ok(reader)
    }
}

impl Bits {
    fn new(end: u64) -> Bits {
        Bits(vec![0; end.div_ceil(64) as usize])
    }

    #[inline]
    fn insert(&mut self, position: u64) {
        self.0[(position / 64) as usize] |= 1 << (position % 64);
    }

    /// Calls `visit` with the positions in a range that are in the set.
    fn visit(&self, range: Range<u64>, mut visit: impl FnMut(u64)) {
        let mut word = range.start / 64;
        let mut mask = u64::MAX << (range.start % 64);
        while word * 64 < range.end {
            let mut bits = self.0[word as usize] & mask;
            if range.end - word * 64 < 64 {
                bits &= (1 << (range.end % 64)) - 1;
            }
            while bits != 0 {
                visit(word * 64 + u64::from(bits.trailing_zeros()));
                bits &= bits - 1;
            }
            (word, mask) = (word + 1, u64::MAX);
        }
    }
}

impl Windows {
    fn new(range: Range<u64>, memory: &OffsetMemory) -> Windows {
        let span = range.end - range.start;
        let wanted = span.div_ceil(memory.bits).clamp(2, (memory.pages.count / PAGES_PER_WINDOW) as u64);
        // A position within its window has 32 bits.
        let count = wanted.max(span.div_ceil(1 << 32)) as usize;
        let width = span.div_ceil(count as u64);
        let pages = Pages { count: memory.pages.count.max(2 * count), ..memory.pages };
        Windows { streams: Streams::new(count, pages), start: range.start, end: range.end, width, next: 0 }
    }

    #[inline]
    fn insert(&mut self, position: u64, temp: &TempFiles<'_>) -> Result<()> {
        let above = position - self.start;
        let (window, item) = (above / self.width, (above % self.width) as u32);
        *self.streams.push(window as usize, temp)? = item.to_be_bytes();
        Ok(())
    }
}

/// Reads a set in ascending order.
pub(super) struct OffsetReader {
    memory: OffsetMemory,
    /// Windows still to be read; those of the last level come first.
    levels: Vec<Windows>,
    /// The positions of the window that is held.
    held: Range<u64>,
    content: Content,
}

enum Content {
    Bits(Bits),
    /// Sorted, and how many of it have been passed.
    List(Vec<u32>, usize),
}

impl OffsetReader {
    /// Calls `visit` with the positions in a range that are in the set. Ranges come in ascending order.
    pub(super) fn visit(&mut self, range: Range<u64>, temp: &TempFiles<'_>, mut visit: impl FnMut(u64)) -> Result<()> {
        let mut start = range.start;
        while start < range.end {
            while start >= self.held.end {
                self.next_window(temp)?;
            }
            assert!(self.held.start <= start, "ranges come in ascending order");
            let end = range.end.min(self.held.end);
            let base = self.held.start;
            match &mut self.content {
                Content::Bits(bits) => bits.visit(start - base..end - base, |position| visit(base + position)),
                Content::List(list, next) => {
                    *next += list[*next..].partition_point(|&item| base + u64::from(item) < start);
                    while let Some(&item) = list.get(*next).filter(|&&item| base + u64::from(item) < end) {
                        visit(base + u64::from(item));
                        *next += 1;
                    }
                }
            }
            start = end;
        }
        Ok(())
    }

    /// Loads the next window.
    fn next_window(&mut self, temp: &TempFiles<'_>) -> Result<()> {
        self.content = Content::List(Vec::new(), 0);
        loop {
            let level = self.levels.last_mut().expect("positions below the end of the set are asked for");
            if level.next == level.streams.stream_count() {
                self.levels.pop();
                continue;
            }
            let window = level.next;
            level.next += 1;
            let start = level.start + window as u64 * level.width;
            self.held = start..(start + level.width).min(level.end);
            let (count, span) = (level.streams.len(window), self.held.end.saturating_sub(start));
            if span <= self.memory.bits && count * SPARSE >= span {
                let mut bits = Bits::new(span);
                level.read(window, |item| {
                    bits.insert(u64::from(item));
                    Ok(())
                })?;
                self.content = Content::Bits(bits);
            } else if count * SPARSE <= self.memory.bits {
                let mut list = Vec::with_capacity(count as usize);
                level.read(window, |item| {
                    list.push(item);
                    Ok(())
                })?;
                list.sort_unstable();
                self.content = Content::List(list, 0);
            } else {
                let mut parts = Windows::new(self.held.clone(), &self.memory);
                level.read(window, |item| parts.insert(start + u64::from(item), temp))?;
                parts.streams.complete(temp)?;
                self.levels.push(parts);
                continue;
            }
            return Ok(());
        }
    }
}

impl Windows {
    fn read(&mut self, window: usize, mut visit: impl FnMut(u32) -> Result<()>) -> Result<()> {
        self.streams
            .read(window, |bytes| bytes.as_chunks().0.iter().try_for_each(|item| visit(u32::from_be_bytes(*item))))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::storage::sim::SimStorage;

    /// Fills a set and reads it back in pieces; returns how many temporary files that took.
    fn check(positions: &[u64], end: u64, memory: OffsetMemory, piece: u64) -> u64 {
        let storage = SimStorage::new();
        let made = Cell::new(0);
        let name = || {
            made.set(made.get() + 1);
            PathBuf::from(format!("/{}", made.get()))
        };
        let temp = TempFiles::new(&storage, &name);
        let mut set = OffsetSet::new(end, &memory);
        positions.iter().for_each(|&position| set.insert(position, &temp).unwrap());
        let mut reader = set.complete(memory, &temp).unwrap();
        let mut found = Vec::new();
        let mut start = 0;
        while start < end {
            // Every third piece is passed over, as offsets between batches are.
            let stop = end.min(start + piece);
            if start / piece % 3 != 2 {
                reader.visit(start..stop, &temp, |position| found.push(position)).unwrap();
            }
            start = stop;
        }
        let expected: BTreeSet<u64> = positions.iter().copied().filter(|p| p / piece % 3 != 2).collect();
        assert!(found.iter().eq(&expected), "{} of {}", found.len(), expected.len());
        made.get()
    }

    proptest! {
        #[test]
        fn any_set_is_read_back_in_order(
            positions in vec(0..100_000_u64, 0..3000),
            crowd in vec(0..500_u64, 0..1000),
            items in 1..4_usize,
            bytes in prop_oneof![0..500_usize, 0..30_000_usize],
            piece in 1..5000_u64,
        ) {
            let positions: BTreeSet<u64> = positions.into_iter().chain(crowd.into_iter().map(|p| p + 7000)).collect();
            let positions: Vec<u64> = positions.into_iter().rev().collect();
            check(&positions, 100_000, OffsetMemory::with_pages_of(items, bytes), piece);
        }
    }

    #[test]
    fn what_fits_in_memory_takes_no_file() {
        let all: Vec<u64> = (0..4000).collect();
        assert_eq!(check(&all, 4000, OffsetMemory::with_pages_of(1, 1000), 64), 0);
        assert_eq!(check(&all[..20], 1 << 20, OffsetMemory::with_pages_of(1, 1000), 1 << 16), 0);
        assert_eq!(check(&all, 4001, OffsetMemory::with_pages_of(1, 1000), 64), 1);
    }

    #[test]
    fn few_positions_far_apart_cost_little() {
        let far: Vec<u64> = (0..1000).map(|i| i << 31).collect();
        let memory = OffsetMemory::new(1 << 16);
        assert_eq!(check(&far, 1000 << 31, memory, 1 << 31), 0);
    }

    #[test]
    fn a_crowd_in_one_window_is_divided_again() {
        let crowd: Vec<u64> = (0..20_000).map(|i| (1 << 30) + i * 3).collect();
        assert!(check(&crowd, 1 << 31, OffsetMemory::with_pages_of(2, 2000), 1 << 16) > 2);
    }
}
