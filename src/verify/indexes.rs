//! The indexes of a segment against its batches.

use std::iter::Peekable;
use std::path::PathBuf;

use crate::format::file_name::SegmentFileKind;
use crate::format::{OffsetIndexEntry, RecordBatch, TimeIndexEntry};
use crate::inspect::{self, IndexEntries};
use crate::offset::{Offset, Timestamp};

use super::check::{Check, Severity, Subject};

/// The offset and time index of a segment, read along with its batches.
pub(super) struct Indexes {
    offsets: Along<OffsetIndexEntry>,
    times: Along<TimeIndexEntry>,
    last_offset_entry: Option<OffsetIndexEntry>,
    last_time_entry: Option<TimeIndexEntry>,
    /// The largest timestamp before the batch at hand.
    max_timestamp: Timestamp,
}

struct Along<T> {
    path: PathBuf,
    entries: Option<Peekable<IndexEntries<T>>>,
}

impl<T> Along<T> {
    /// The next entry, if `due`.
    fn next_if(&mut self, check: &mut Check<'_>, due: impl Fn(&T) -> bool) -> Option<(u64, T)> {
        let entries = self.entries.as_mut()?;
        match entries.next_if(|next| next.as_ref().map_or(true, |(_, entry)| due(entry)))? {
            Ok(found) => {
                check.report.index_entries += 1;
                Some(found)
            }
            Err(error) => {
                check.find_error(Severity::Cache, &self.path, &error);
                None
            }
        }
    }
}

impl Indexes {
    pub(super) fn open(check: &mut Check<'_>, subject: &Subject) -> Indexes {
        let sums = subject.sums;
        let path = check.sidecar(subject, SegmentFileKind::OffsetIndex);
        let opened = inspect::offset_index(check.storage, &path);
        let entries = check.trusted(opened, &path, sums.map(|s| s.offsets), OffsetIndexEntry::LEN);
        let offsets = Along { path, entries: entries.map(Iterator::peekable) };
        let path = check.sidecar(subject, SegmentFileKind::TimeIndex);
        let opened = inspect::time_index(check.storage, &path);
        let entries = check.trusted(opened, &path, sums.map(|s| s.times), TimeIndexEntry::LEN);
        let times = Along { path, entries: entries.map(Iterator::peekable) };
        let max_timestamp = Timestamp::NONE;
        Indexes { offsets, times, last_offset_entry: None, last_time_entry: None, max_timestamp }
    }

    /// Checks the entries that are due at a batch; `before` is its position, and where the batches before it end.
    pub(super) fn batch(
        &mut self,
        check: &mut Check<'_>,
        subject: &Subject,
        before: (u64, Offset),
        batch: &RecordBatch,
    ) {
        let (position, end) = before;
        while let Some((at, entry)) = self.offsets.next_if(check, |entry| u64::from(entry.position) <= position) {
            let offset = subject.base + u64::from(entry.offset);
            // All batches before the position end before the entry's offset; that is what lookups rely on.
            let what = if u64::from(entry.position) != position {
                "points at no batch"
            } else if end > offset {
                "points behind a batch that holds its offset"
            } else if self.last_offset_entry.is_some_and(|last| last.offset >= entry.offset) {
                "is not above the one before it"
            } else {
                ""
            };
            if !what.is_empty() {
                check.find(Severity::Cache, &self.offsets.path, Some(at), format!("the entry {what}"));
            }
            self.last_offset_entry = Some(entry);
        }
        let header = batch.header();
        let reached = |entry: &TimeIndexEntry| subject.base + u64::from(entry.offset) <= header.last_offset();
        while let Some((at, entry)) = self.times.next_if(check, reached) {
            let what = if self.max_timestamp > entry.timestamp {
                "comes after a larger timestamp"
            } else if self.last_time_entry.is_some_and(|last| last.timestamp >= entry.timestamp) {
                "is not above the one before it"
            } else {
                ""
            };
            if !what.is_empty() {
                check.find(Severity::Cache, &self.times.path, Some(at), format!("the entry {what}"));
            }
            self.last_time_entry = Some(entry);
        }
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
    }

    /// Entries that no batch was reached for.
    pub(super) fn finish(mut self, check: &mut Check<'_>, subject: &Subject) {
        if let Some((at, _)) = self.offsets.next_if(check, |_| true) {
            check.find(Severity::Cache, &self.offsets.path, Some(at), "the entry points behind the last batch");
        }
        // Kafka closes a segment without a timestamp with an entry at its base.
        let has_batches = subject.len > 0;
        if let Some((at, _)) = self.times.next_if(check, |_| has_batches) {
            check.find(Severity::Cache, &self.times.path, Some(at), "the entry points behind the last batch");
        }
    }
}
