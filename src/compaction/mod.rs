//! Compaction keeps only the latest record of each key. Its cost follows the garbage, not the size of the log.
//!
//! 1. Each sealed segment below the cleaning bound gets a [digest](crate::format::digest), once. This takes one
//!    sequential read of its log, and the hashes of its keys are [sorted](sort) in fixed memory.
//! 2. A [merge](mod@merge) of the digests finds the latest record of every key, and [counts](count) the dead records of
//!    each segment. No log data is read.
//! 3. A [plan](mod@plan), a pure function of these counts, chooses what to rewrite. It leaves everything else alone.
//! 4. A second merge finds the [survivors](mod@survivors) of the chosen segments: their offsets, for the rewrite, and
//!    their entries, which become the digests of its output.
//! 5. The chosen segments are read once more and written without their dead records.
//!
//! So log data is read at most twice and written at most once, however many keys there are. Data that does not fit the
//! memory is [divided](spill) by hash or offset on its way to a temporary file, so that it comes back in pieces that
//! fit. The cost is linear.

use std::time::Duration;

use crate::format::digest::{DigestBlocks, KeyHasher};
use crate::offset::Timestamp;

pub(crate) mod build_digest;
pub(crate) mod count;
#[cfg(feature = "internals")]
#[allow(missing_docs)]
pub mod internals;
mod latest_by_key;
pub(crate) mod merge;
mod offset_set;
pub(crate) mod plan;
mod radix;
pub(crate) mod rewrite;
pub(crate) mod sort;
pub(crate) mod spill;
pub(crate) mod state;
pub(crate) mod survivors;
#[cfg(test)]
mod testing;
pub(crate) mod tombstones;

/// How much a compaction does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CompactMode {
    /// Compacts what is due by the topic's configuration.
    #[default]
    Due,
    /// The same, but seals the active segment first, so that everything appended so far can be compacted.
    Full,
}

/// The settings of one compaction run.
#[derive(Clone, Copy)]
pub(crate) struct Order<'a> {
    pub(crate) hasher: &'a KeyHasher,
    pub(crate) memory: &'a Memory,
    pub(crate) now: Timestamp,
    pub(crate) mode: CompactMode,
    /// Asked at each stop whether to leave the rest for later. A stop follows each segment that was read for a digest
    /// and each group. The argument is how long preparing the work from then on has taken.
    pub(crate) is_over: &'a dyn Fn(Duration) -> bool,
    /// Called at such a stop before the run continues with the rest. `None`: the rest is left for another turn.
    pub(crate) between: Option<&'a dyn Fn()>,
}

/// The memory of one compaction. Each step may use all of it, because earlier steps have freed theirs.
///
/// However small it is, a step takes what it needs to proceed in pieces of a few kilobytes, which is up to 2 MiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Memory {
    bytes: usize,
    files: usize,
}

impl Memory {
    /// Allows this many bytes, and this many files open at a time.
    pub(crate) fn new(bytes: usize, files: usize) -> Memory {
        Memory { bytes, files }
    }

    /// The memory for sorting the keys of a segment.
    pub(crate) fn sort(&self) -> sort::SortMemory {
        sort::SortMemory::new(self.bytes)
    }

    /// The memory for writing a digest.
    pub(crate) fn digest_writer(&self) -> usize {
        (self.bytes / 16).clamp(DigestBlocks::LEN, 1 << 20)
    }

    /// The memory for the merge that counts.
    pub(crate) fn count(&self) -> merge::MergeBudget {
        self.merge(self.bytes)
    }

    /// The memory for the merge that finds the survivors, and for the survivors themselves.
    pub(crate) fn survivors(&self) -> (merge::MergeBudget, survivors::SurvivorMemory) {
        (self.merge(self.bytes / 8 * 3), survivors::SurvivorMemory::new(self.bytes / 8 * 5))
    }

    fn merge(&self, bytes: usize) -> merge::MergeBudget {
        merge::MergeBudget { memory: bytes.max(1 << 20), files: self.files }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_has_its_share_of_the_memory_and_never_less_than_it_needs() {
        let memory = Memory::new(8 << 20, 5);
        assert_eq!(memory.digest_writer(), 512 << 10);
        assert_eq!(memory.count(), merge::MergeBudget { memory: 8 << 20, files: 5 });
        let (merge, survivors) = memory.survivors();
        assert_eq!(merge, merge::MergeBudget { memory: 3 << 20, files: 5 });
        assert_eq!(survivors, survivors::SurvivorMemory::new(5 << 20));
        assert_eq!(Memory::new(0, 5).digest_writer(), DigestBlocks::LEN);
        assert_eq!(Memory::new(1 << 30, 5).digest_writer(), 1 << 20);
        assert_eq!(Memory::new(0, 5).count().memory, 1 << 20);
    }
}
