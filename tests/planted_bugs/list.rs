//! The planted bugs. The list is written before a run; the run says which was found, where, and how soon.

use super::storage::{Bug, Which};
use crate::exploration::workload::Kind;
use Kind::{Buffered, Catalog, Compacted, Managed, Retained, Synced, Transactions};

/// A bug between the engine and its storage.
#[derive(Clone, Copy, Debug)]
pub struct Planted {
    pub name: &'static str,
    /// The promise that it breaks first.
    pub breaks: &'static str,
    /// Known problems of other engines that it stands for: numbers in the collection that the design starts from.
    pub pains: &'static [u32],
    /// The workloads in which it can show.
    pub kinds: &'static [Kind],
    pub bug: Bug,
}

impl Planted {
    /// Whether it shows only where a call fails.
    pub fn needs_fault(&self) -> bool {
        matches!(
            self.bug,
            Bug::RetrySync
                | Bug::SwallowSyncError
                | Bug::SwallowDirSyncError
                | Bug::WriteOnlyWhatDiffers
                | Bug::SwallowNoSpace
                | Bug::PanicWhenFull
        )
    }
}

impl Planted {
    /// Whether many workloads have to be explored before it shows.
    pub fn takes_long(&self) -> bool {
        self.needs_fault() || matches!(self.bug, Bug::SkipDirSyncAfter(_) | Bug::StaleReads)
    }
}

const fn plant(
    name: &'static str,
    breaks: &'static str,
    pains: &'static [u32],
    kinds: &'static [Kind],
    bug: Bug,
) -> Planted {
    Planted { name, breaks, pains, kinds, bug }
}

pub const PLANTED: &[Planted] = &[
    plant("the log is never synced", "I1", &[18], &[Synced, Buffered], Bug::SkipSync(Which::Log)),
    plant("the state is never synced", "I15", &[21], &[Retained, Buffered], Bug::SkipSync(Which::State)),
    plant("what compaction writes is not synced", "I7", &[30], &[Compacted], Bug::SkipSync(Which::CleanedLog)),
    plant("the catalog is not synced before its rename", "I1", &[30], &[Catalog], Bug::SkipSync(Which::CatalogTemp)),
    plant(
        "the directory of a partition is never synced",
        "I15",
        &[18],
        &[Buffered, Retained],
        Bug::SkipDirSync(Which::Any),
    ),
    plant("the directory of the log is never synced", "I1", &[18], &[Catalog], Bug::SkipDirSync(Which::LogDir)),
    plant("the commit of a swap is not synced", "I7", &[30], &[Compacted], Bug::SkipDirSyncAfter(".swap")),
    plant(
        "no directory sync between the old and the new name",
        "I7",
        &[30],
        &[Compacted],
        Bug::SkipDirSyncAfter(".deleted"),
    ),
    plant("the catalog's rename is not synced", "I1", &[21], &[Catalog], Bug::SkipDirSyncAfter("stratalog.topics")),
    plant("state before data", "I15", &[11], &[Buffered, Retained], Bug::StateBeforeData),
    plant("a failed sync is tried again", "I8", &[18], &[Synced, Buffered], Bug::RetrySync),
    plant("a failed sync is taken for done", "I8", &[18], &[Synced, Buffered], Bug::SwallowSyncError),
    plant("a failed directory sync is taken for done", "I8", &[18], &[Catalog], Bug::SwallowDirSyncError),
    plant(
        "after a failed sync and an open in the same boot nothing is written again",
        "I8",
        &[18],
        &[Synced, Buffered],
        Bug::WriteOnlyWhatDiffers,
    ),
    plant("two owners", "I14", &[27], &[Catalog], Bug::NoLock),
    plant("a file is not cut: stale valid batches behind the end", "I2", &[21], &[Buffered, Synced], Bug::IgnoreShrink),
    plant("reserved space holds an old batch", "I2", &[2], &[Buffered, Managed], Bug::StaleBatchInWindow),
    plant("every second state is lost", "I15", &[31], &[Retained, Buffered], Bug::DropEverySecondState),
    plant("a rename away is lost", "I7", &[27], &[Compacted, Retained], Bug::LoseRename(".deleted")),
    plant("a rename into place is lost", "I1", &[30], &[Catalog], Bug::LoseRename("stratalog.topics")),
    plant("pages are read that were overwritten since", "I10", &[14, 28], &[Synced, Buffered], Bug::StaleReads),
    plant("files go before the state tells", "I15", &[21], &[Retained, Buffered], Bug::StateAfterNames),
    plant("the clock of compaction is a day ahead", "I5", &[4, 5], &[Compacted], Bug::ClockAhead),
    plant("compaction moves offsets", "I3", &[10, 29], &[Compacted], Bug::ShiftOffsets),
    plant(
        "a full disk is taken for a write that succeeded",
        "I9",
        &[15],
        &[Buffered, Retained, Managed],
        Bug::SwallowNoSpace,
    ),
    plant("each append is synced under its lock", "I13", &[17], &[Buffered], Bug::WriteThrough),
    plant("recovery begins at the beginning", "I12", &[11], &[Buffered, Managed], Bug::ForgetPosition),
    plant("a write to a full disk kills", "I11", &[14], &[Buffered], Bug::PanicWhenFull),
    plant("what is cut is not kept", "I4", &[12], &[Buffered, Synced], Bug::LoseKeptTail),
    plant("a short write is taken for a whole one", "I1", &[15], &[Buffered], Bug::ShortWrites),
    plant("compaction damages what it copies", "I1", &[13], &[Compacted], Bug::DamageCleaned),
    plant("the high watermark on disk is ahead", "I6", &[22], &[Managed], Bug::WatermarkAhead),
    plant("the durable end on disk is ahead", "I1", &[18], &[Buffered], Bug::DurableEndAhead),
    plant("what compaction relied on is forgotten", "I6", &[23], &[Compacted], Bug::ForgetWinner),
    plant("a write goes to the wrong place", "I1", &[13], &[Synced, Transactions], Bug::Misdirect),
];
