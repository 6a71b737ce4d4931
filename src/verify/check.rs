//! The input of a partition's verification, and its report.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::file_name::{SegmentFileKind, Suffix, segment_file};
use crate::format::{IndexSum, Scratch};
use crate::inspect::IndexEntries;
use crate::offset::Offset;
use crate::segment::Segment;
use crate::segment::index::Sums;
use crate::storage::{File, OpenMode, Storage, small_file};

/// Findings beyond this number are only counted.
const FINDINGS_MAX: usize = 1000;

/// What [`Partition::verify`](crate::Partition::verify) checked and found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Segments read.
    pub segments: usize,
    /// Bytes of batches read.
    pub bytes: u64,
    /// Batches that are whole, with the right checksum.
    pub batches: u64,
    /// Records decoded.
    pub records: u64,
    /// Batches whose records were not decoded, because this build leaves out their codec.
    pub undecoded: u64,
    /// Index entries read, of all kinds of index.
    pub index_entries: u64,
    /// Producer snapshots decoded.
    pub snapshots: usize,
    /// Files in the directory whose names belong neither to this crate nor to Kafka.
    pub unknown_files: usize,
    /// What is wrong: at most 1000 findings.
    pub findings: Vec<Finding>,
    /// How many more findings there were.
    pub findings_left_off: u64,
}

/// Something that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file.
    pub path: PathBuf,
    /// The byte position in the file, if there is one.
    pub position: Option<u64>,
    /// What is wrong.
    pub what: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Severity {
    /// The file is rebuilt when it is needed: nothing is lost.
    Cache,
    /// Records are damaged or missing, or the file that lists what should exist is.
    Data,
}

/// A segment to check.
pub(super) struct Subject {
    pub(super) base: Offset,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn File>,
    /// Bytes to read.
    pub(super) len: u64,
    /// Where the segment should end, if that is known.
    pub(super) end: Option<Offset>,
    /// The published segment, if the file belongs to one.
    pub(super) segment: Option<Arc<Segment>>,
    /// What the index files should hold, if that is on record.
    pub(super) sums: Option<Sums>,
    pub(super) is_last: bool,
}

pub(super) struct Check<'a> {
    pub(super) storage: &'a dyn Storage,
    pub(super) dir: &'a Path,
    pub(super) report: VerifyReport,
    pub(super) scratch: Scratch,
    /// For each segment, by base offset: its end, its length and the checksum over its batch headers.
    pub(super) sums: BTreeMap<Offset, (Offset, u64, u32)>,
}

impl<'a> Check<'a> {
    pub(super) fn new(storage: &'a dyn Storage, dir: &'a Path) -> Check<'a> {
        let (report, scratch) = (VerifyReport::default(), Scratch::default());
        Check { storage, dir, report, scratch, sums: BTreeMap::new() }
    }

    pub(super) fn find(&mut self, severity: Severity, path: &Path, position: Option<u64>, what: impl Into<String>) {
        if self.report.findings.len() == FINDINGS_MAX {
            self.report.findings_left_off += 1;
            return;
        }
        let finding = Finding { severity, path: path.to_path_buf(), position, what: what.into() };
        self.report.findings.push(finding);
    }

    pub(super) fn find_error(&mut self, severity: Severity, path: &Path, error: &Error) {
        self.find(severity, path, error.position(), error.kind().to_string());
    }

    /// Returns the entries of an index file that reads rely on: as many as are on record, or all if there is no record.
    pub(super) fn trusted<T>(
        &mut self,
        opened: Result<IndexEntries<T>>,
        path: &Path,
        sum: Option<Option<IndexSum>>,
        size: usize,
    ) -> Option<IndexEntries<T>> {
        let sum = match sum {
            Some(sum) => Some(sum.filter(|sum| sum.entries > 0)?),
            None => None,
        };
        let entries = match opened {
            Ok(entries) => entries,
            Err(error) => {
                self.unreadable(path, &error);
                return None;
            }
        };
        let Some(sum) = sum else { return Some(entries) };
        match crc_of(self.storage, path, u64::from(sum.entries) * size as u64) {
            Ok(crc) if crc == sum.crc => {}
            Ok(_) => {
                self.find(Severity::Cache, path, None, "not what was written: the checksum on record does not match")
            }
            Err(error) => self.find_error(Severity::Cache, path, &error),
        }
        Some(entries.limit(sum.entries))
    }

    pub(super) fn sidecar(&self, subject: &Subject, kind: SegmentFileKind) -> PathBuf {
        match &subject.segment {
            Some(segment) => segment.sidecar_path(kind),
            None => self.dir.join(segment_file(subject.base, kind, Suffix::None)),
        }
    }
}

fn crc_of(storage: &dyn Storage, path: &Path, len: u64) -> Result<u32> {
    let at = |e| Error::io(e, path);
    let file = storage.open(path, OpenMode::Read).map_err(at)?;
    let mut hasher = crc32fast::Hasher::new();
    small_file::copy(&*file, 0..len, |bytes, _| {
        hasher.update(bytes);
        Ok(())
    })
    .map_err(at)?;
    Ok(hasher.finalize())
}
