//! Damage that only a compaction finds. The compaction continues without the damaged segment.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::format::file_name::{self, ParsedName, SegmentFileKind, Suffix};
use crate::offset::Offset;
use crate::partition::core::PartitionCore;
use crate::storage::small_file;

use crate::compaction::CompactMode;

/// The damage that a compaction has found.
#[derive(Debug, Default)]
pub(super) struct Met {
    /// Segments whose log is damaged.
    logs: BTreeMap<Offset, Error>,
    /// Segments whose digest was damaged, and removed.
    digests: BTreeSet<Offset>,
}

impl Met {
    /// Starts with the damage that is known already. A full compaction checks again.
    pub(super) fn of(core: &PartitionCore, mode: CompactMode) -> Met {
        let mut counted = core.lock_compaction_state();
        if mode == CompactMode::Full {
            counted.forget_plan();
            counted.damaged.clear();
        }
        Met { logs: counted.damaged.clone(), digests: BTreeSet::new() }
    }

    /// Returns the damaged logs.
    pub(super) fn into_logs(self) -> BTreeMap<Offset, Error> {
        self.logs
    }

    /// Returns the known damage of a segment's log, if any.
    pub(super) fn log(&self, base: Offset) -> Option<&Error> {
        self.logs.get(&base)
    }

    /// Records newly found damage, so that the next attempt avoids it. Returns the error if nothing can be done about
    /// it.
    pub(super) fn note(&mut self, core: &PartitionCore, error: Error) -> Result<()> {
        // The plan relied on a file that is damaged.
        core.lock_compaction_state().forget_plan();
        let name = error.path().and_then(|path| path.file_name()).and_then(|name| name.to_str());
        match name.and_then(file_name::parse) {
            Some(ParsedName::Segment { base, kind: SegmentFileKind::Log, .. }) if !self.logs.contains_key(&base) => {
                self.logs.insert(base, error);
                Ok(())
            }
            Some(ParsedName::Segment { base, kind: SegmentFileKind::Digest, suffix: Suffix::None })
                if self.digests.insert(base) =>
            {
                let path = core.dir.segment_path(base, SegmentFileKind::Digest, Suffix::None);
                small_file::remove(&*core.dir.storage, &path)
            }
            _ => Err(error),
        }
    }
}
