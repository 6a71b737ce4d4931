//! Reading all of a partition and checking it, without changing a byte.

mod check;
mod indexes;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::digest::HeadersSum;
use crate::format::file_name::{self, SegmentFileKind, Suffix, segment_file};
use crate::format::{AbortedTxn, FormatError, RecordBatch, SegmentState, State};
use crate::inspect::{self, Batches, Entry, FileEntry};
use crate::offset::Offset;
use crate::partition::core::PartitionCore;
use crate::segment::Segment;
use crate::segment::digest_file;
use crate::segment::index::Sums;
use crate::segment::scan::OFFSETS_MAX;
use crate::storage::OpenMode;

use self::check::{Check, Subject};
pub use self::check::{Finding, Severity, VerifyReport};
use self::indexes::Indexes;

/// Checks a partition: its published segments, or, where it is degraded or read-only, whatever lies in its directory.
///
/// # Errors
/// When the directory cannot be listed, and [`ErrorKind::Truncated`] when the partition was cut meanwhile.
pub(crate) fn verify(core: &PartitionCore) -> Result<VerifyReport> {
    core.check_open()?;
    let cuts = core.cuts.settled(|| core.wait_for_cut());
    let dir = &core.dir;
    let as_it_lies = core.read_only || core.health.reason().is_some();
    // A read-only open has found its reason for every gap, or the partition would be degraded.
    let opened_as_it_is = core.read_only && core.health.reason().is_none();
    let mut check = Check::new(&*dir.storage, &dir.path);
    let files = inspect::files(&*dir.storage, &dir.path)?;
    // What it says of a log that Kafka had since was true once.
    let is_witness = !(as_it_lies && core.is_kafkas);
    let state = if is_witness { check.state() } else { None };
    // The durable end before the view, the log start after it: neither has moved past what is looked at.
    let mut durable_end = core.group_commit.end();
    let subjects = if as_it_lies { check.on_disk(&files, state.as_ref()) } else { published(core)? };
    let mut log_start = core.ends.log_start();
    if let Some(state) = state.as_ref().filter(|_| as_it_lies) {
        (log_start, durable_end) = (state.log_start, state.durable_end);
    }
    let mut last = None;
    for subject in &subjects {
        let findings = check.report.findings.len();
        let end = check.segment(subject);
        if let Some(before) = last {
            let gap_is_known = opened_as_it_is || check.gap_is_known(state.as_ref(), &(before..subject.base));
            check.neighbours(subject, before, log_start, gap_is_known);
        }
        let known = state.as_ref().and_then(|s| s.segments.iter().find(|known| known.base == subject.base));
        if let Some(known) = known.filter(|_| as_it_lies) {
            check.recorded(subject, known, end);
        }
        if let Some(segment) = &subject.segment
            && !core.view.load().segments().iter().any(|now| Arc::ptr_eq(now, segment))
        {
            // Compacted or removed meanwhile: its index files are another's, or gone.
            let mut at = 0;
            check.report.findings.retain(|finding| {
                at += 1;
                at <= findings || finding.severity == Severity::Data
            });
        }
        last = Some(end);
    }
    check.ends(log_start, durable_end, &subjects, last);
    let known = check.report.clone();
    check.other_files(&files, is_witness);
    if !as_it_lies && check.report.findings.len() > known.findings.len() {
        // A compaction that swaps segments, or retention, renames them one after the other: looked at again without.
        let _pass = core.lock_maintenance();
        check.report = known;
        check.other_files(&inspect::files(&*dir.storage, &dir.path)?, is_witness);
    }
    if !core.cuts.is_still(cuts) {
        return Err(ErrorKind::Truncated.into());
    }
    Ok(check.report)
}

/// The segments that readers see.
fn published(core: &PartitionCore) -> Result<Vec<Subject>> {
    let view = core.view.load();
    let subject = |segment: &Arc<Segment>| {
        // Asked first: of a sealed one neither the end nor the length changes any more.
        let sealed = segment.is_sealed();
        let (end, len) = (segment.end(), segment.len());
        Ok(Subject {
            base: segment.base(),
            path: segment.path(),
            file: Arc::clone(&segment.open()?.file),
            len,
            end: sealed.then_some(end),
            segment: Some(Arc::clone(segment)),
            sums: Some(segment.sums()),
            is_last: !sealed,
        })
    };
    view.segments().iter().map(subject).collect()
}

impl<'a> Check<'a> {
    /// The newest sound slot.
    fn state(&mut self) -> Option<State> {
        let path = self.dir.join(file_name::STATE);
        match inspect::state(self.storage, self.dir) {
            Ok(None) => None,
            Ok(Some(found)) => {
                let newest = found.newest().cloned();
                if newest.is_none() {
                    self.find(Severity::Data, &path, None, "neither of its slots can be read");
                }
                newest
            }
            Err(error) => {
                self.find_error(Severity::Data, &path, &error);
                None
            }
        }
    }

    /// All `.log` files in use, in order.
    fn on_disk(&mut self, files: &[FileEntry], state: Option<&State>) -> Vec<Subject> {
        let logs: Vec<&FileEntry> = files.iter().filter(|file| file.is_log()).collect();
        let mut subjects = Vec::new();
        for (at, log) in logs.iter().enumerate() {
            let Some((base, ..)) = log.segment() else { continue };
            match self.storage.open(&log.path, OpenMode::Read) {
                Ok(file) => subjects.push(Subject {
                    base,
                    path: log.path.clone(),
                    file,
                    len: log.len,
                    end: None,
                    segment: None,
                    sums: state.and_then(|state| recorded_sums(state, base, log.len)),
                    is_last: at + 1 == logs.len(),
                }),
                Err(error) => self.find_error(Severity::Data, &log.path, &Error::io(error, &log.path)),
            }
        }
        subjects
    }

    /// Reads a segment and its indexes side by side; returns where it ends.
    fn segment(&mut self, subject: &Subject) -> Offset {
        self.report.segments += 1;
        let mut indexes = Indexes::open(self, subject);
        let (mut end, mut sum) = (subject.base, HeadersSum::default());
        for entry in Batches::new(Arc::clone(&subject.file), subject.path.clone(), 0, subject.len) {
            match entry {
                Ok(Entry::Batch { position, batch }) => {
                    let header = batch.header();
                    if header.base_offset < end || header.last_offset().since(subject.base) > OFFSETS_MAX {
                        let what = format!("offset {} is out of order or out of range", header.base_offset);
                        self.find(Severity::Data, &subject.path, Some(position), what);
                    }
                    indexes.batch(self, subject, (position, end), &batch);
                    sum.update(batch.as_bytes());
                    self.records(subject, position, &batch);
                    end = end.max(header.next_offset());
                }
                Ok(Entry::Zeros { .. }) if subject.is_last => {}
                Ok(Entry::Zeros { position, len }) => {
                    self.find(Severity::Data, &subject.path, Some(position), format!("{len} zeros at the end"));
                }
                Ok(Entry::Damage { position, why, resumes_at }) => {
                    let rest = resumes_at.map_or_else(
                        || "no valid batch follows".to_owned(),
                        |at| format!("the next valid batch is at byte {at}"),
                    );
                    self.find(Severity::Data, &subject.path, Some(position), format!("{why}; {rest}"));
                }
                Err(error) => self.find_error(Severity::Data, &subject.path, &error),
            }
        }
        if let Some(expected) = subject.end.filter(|expected| *expected != end) {
            self.find(Severity::Data, &subject.path, None, format!("ends at {end}, not at {expected}"));
        }
        indexes.finish(self, subject);
        self.sums.insert(subject.base, (end, subject.len, sum.value()));
        self.aborted(subject, end);
        self.report.bytes += subject.len;
        end
    }

    fn records(&mut self, subject: &Subject, position: u64, batch: &RecordBatch) {
        self.report.batches += 1;
        let header = batch.header();
        let (first, last) = (header.base_offset, header.last_offset());
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut next = first;
        let checked = (|| {
            for record in batch.view().records(&mut scratch)? {
                let offset = record?.offset;
                if offset < next || offset > last {
                    return Err(FormatError::BadOffset);
                }
                next = offset + 1;
                self.report.records += 1;
            }
            Ok(())
        })();
        self.scratch = scratch;
        match checked {
            Ok(()) => {}
            Err(FormatError::UnsupportedCodec(_)) => self.report.undecoded += 1,
            Err(why) => self.find(Severity::Data, &subject.path, Some(position), why.to_string()),
        }
    }

    /// Aborted transactions: each ends in the segment.
    fn aborted(&mut self, subject: &Subject, end: Offset) {
        let path = self.sidecar(subject, SegmentFileKind::TxnIndex);
        let sum = subject.sums.map(|sums| sums.aborted);
        let opened = inspect::aborted_transactions(self.storage, &path);
        for entry in self.trusted(opened, &path, sum, AbortedTxn::LEN).into_iter().flatten() {
            match entry {
                Ok((position, aborted)) => {
                    self.report.index_entries += 1;
                    let sound = aborted.first_offset <= aborted.last_offset
                        && (subject.base..end).contains(&aborted.last_offset);
                    if !sound {
                        self.find(Severity::Cache, &path, Some(position), "a transaction that does not end here");
                    }
                }
                Err(error) => self.find_error(Severity::Cache, &path, &error),
            }
        }
    }

    fn gap_is_known(&self, state: Option<&State>, gap: &Range<Offset>) -> bool {
        state.is_some_and(|s| s.adopted_gaps.iter().any(|known| known.start <= gap.start && gap.end <= known.end))
    }

    fn neighbours(&mut self, subject: &Subject, end: Offset, log_start: Offset, gap_is_known: bool) {
        if end > subject.base {
            let what = format!("the segment before it ends at {end}: both hold the same offsets");
            self.find(Severity::Data, &subject.path, None, what);
        } else if end < subject.base && subject.base > log_start && !gap_is_known {
            let what = format!("the offsets [{end}, {}) before it are missing", subject.base);
            self.find(Severity::Data, &subject.path, None, what);
        }
    }

    /// A segment against what `state` has of it. A compaction makes files shorter, and keeps their ends.
    fn recorded(&mut self, subject: &Subject, known: &SegmentState, end: Offset) {
        if end < known.end {
            let what = format!("ends at {end}, but offsets up to {} were durable in it", known.end);
            self.find(Severity::Data, &subject.path, None, what);
        }
    }

    /// Both ends of the chain.
    fn ends(&mut self, log_start: Offset, durable_end: Offset, subjects: &[Subject], last: Option<Offset>) {
        let dir = self.dir;
        if subjects.first().is_none_or(|first| first.base > log_start) {
            self.find(Severity::Data, dir, None, format!("no segment holds the log start, {log_start}"));
        }
        if last.is_none_or(|end| end < durable_end) {
            let what = format!("offsets up to {durable_end} were durable, and are not all there");
            self.find(Severity::Data, dir, None, what);
        }
    }

    /// Snapshots, epochs, names, and digests where they count.
    fn other_files(&mut self, files: &[FileEntry], with_digests: bool) {
        for file in files {
            match file.segment() {
                Some((_, SegmentFileKind::Snapshot, Suffix::None)) => match inspect::snapshot(self.storage, &file.path)
                {
                    Ok(_) => self.report.snapshots += 1,
                    Err(error) => self.unreadable(&file.path, &error),
                },
                Some((base, SegmentFileKind::Digest, Suffix::None)) if with_digests => self.digest(file, base),
                _ if file.parsed.is_none() => self.report.unknown_files += 1,
                _ => {}
            }
        }
        if let Err(error) = inspect::epochs(self.storage, self.dir) {
            self.unreadable(&self.dir.join(file_name::LEADER_EPOCHS), &error);
        }
        if let Err(error) = inspect::topic_id(self.storage, self.dir) {
            self.unreadable(&self.dir.join(file_name::PARTITION_METADATA), &error);
        }
    }

    /// A digest that says to be of the segment as it is has the sum over its batch headers. Any other is built again.
    fn digest(&mut self, file: &FileEntry, base: Offset) {
        if let (Ok(Some(footer)), Some((end, len, sum))) =
            (digest_file::stored_footer(self.storage, &file.path), self.sums.get(&base))
            && (footer.subject.end, footer.subject.log_len) == (*end, *len)
            && footer.subject.headers_sum != *sum
        {
            self.find(Severity::Cache, &file.path, None, "of another segment: the sum over the batch headers differs");
        }
        let log = self.dir.join(segment_file(base, SegmentFileKind::Log, Suffix::None));
        if self.storage.info(&log).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
            self.find(Severity::Cache, &file.path, None, "its segment is gone");
        }
    }

    /// A file that may be missing, but not unreadable.
    fn unreadable(&mut self, path: &Path, error: &Error) {
        if *error.kind() != ErrorKind::Io(std::io::ErrorKind::NotFound) {
            self.find_error(Severity::Cache, path, error);
        }
    }
}

/// What `state` says of the index files of a segment that has not changed since.
fn recorded_sums(state: &State, base: Offset, len: u64) -> Option<Sums> {
    let known = state.segments.iter().find(|known| known.base == base && known.len == len)?;
    Some(Sums { offsets: known.offsets, times: known.times, aborted: known.aborted })
}
