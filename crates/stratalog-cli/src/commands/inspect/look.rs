//! What the page tells, gathered from the files.

use std::collections::BTreeMap;

use serde::Serialize;
use stratalog::format::KeyHasher;
use stratalog::inspect::{self, Count, Depth, Directory, PartitionDir, ScanBudget, SegmentInfo, Shares};
use stratalog::storage::FileSystem;
use stratalog::{Cleanup, Offset};

use crate::outcome::Failure;
use crate::summary::{self, millis};
use crate::target;
use crate::ui::Ui;

/// Points of the growth curve that are kept of a partition.
const POINTS_MAX: usize = 400;
/// Entries of time indexes that are read for it; with more, only the ends of segments are told.
const TIME_ENTRIES_MAX: u64 = 2_000_000;

/// A log.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogLook {
    pub path: String,
    pub kind: &'static str,
    pub closed_cleanly: bool,
    pub partitions: Vec<PartitionLook>,
}

/// A partition.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionLook {
    pub topic: String,
    pub partition: u32,
    pub cleanup: Option<&'static str>,
    pub log_start: u64,
    pub end: u64,
    pub bytes: u64,
    pub log_bytes: u64,
    pub dirty_bytes: u64,
    pub segments: Vec<SegmentLook>,
    /// Whether every segment's shares are known: else there may be more garbage than is told.
    pub shares_known: bool,
    pub compaction: CompactionLook,
    /// Time in ms, and the bytes of `.log` files up to it.
    pub growth: Vec<(i64, u64)>,
    pub damage: Vec<String>,
}

/// A segment.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SegmentLook {
    pub base: u64,
    /// One past the last offset.
    pub end: u64,
    pub active: bool,
    /// No compaction has looked at it.
    pub dirty: bool,
    pub log_bytes: u64,
    pub records: Option<u64>,
    pub oldest_ms: Option<i64>,
    pub newest_ms: Option<i64>,
    pub shares: Option<SharesLook>,
    pub index_entries: Option<u64>,
    pub time_index_entries: Option<u64>,
    /// When its file was written last, where compaction has made it.
    pub rewritten_ms: Option<i64>,
}

/// Bytes of records, uncompressed, and how many.
#[derive(Serialize, Clone, Copy)]
#[serde(rename_all = "camelCase")]
pub struct SharesLook {
    pub live_bytes: u64,
    pub live_records: u64,
    pub tombstone_bytes: u64,
    pub tombstones: u64,
    pub garbage_bytes: u64,
    pub garbage_records: u64,
    pub from_digest: bool,
}

/// What compaction has left on disk.
#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
pub struct CompactionLook {
    pub segments_looked_at: u64,
    pub segments_rewritten: u64,
    /// Offsets of those that have no record any more.
    pub records_removed: u64,
    pub last_rewrite_ms: Option<i64>,
    /// As of the last plan: what it left as garbage.
    pub garbage_records_left: Option<u64>,
    pub garbage_bytes_left: Option<u64>,
    /// The highest offset of a record that justified the removal of older ones.
    pub max_winner_offset: Option<u64>,
    pub next_tombstones_ms: Option<i64>,
}

impl SharesLook {
    /// Bytes of all records.
    pub fn bytes(&self) -> u64 {
        self.live_bytes + self.tombstone_bytes + self.garbage_bytes
    }

    /// Of two segments.
    pub fn plus(self, other: SharesLook) -> SharesLook {
        SharesLook {
            live_bytes: self.live_bytes + other.live_bytes,
            live_records: self.live_records + other.live_records,
            tombstone_bytes: self.tombstone_bytes + other.tombstone_bytes,
            tombstones: self.tombstones + other.tombstones,
            garbage_bytes: self.garbage_bytes + other.garbage_bytes,
            garbage_records: self.garbage_records + other.garbage_records,
            from_digest: self.from_digest && other.from_digest,
        }
    }
}

/// Looks at the partitions that are meant.
pub fn log(directory: &Directory, selected: &[&PartitionDir], budget: ScanBudget, ui: &Ui) -> Result<LogLook, Failure> {
    // Kafka's directories have no secret; none is needed for keys that are hashed here alone.
    let secret = directory.meta.as_ref().and_then(|meta| meta.as_ref().ok()).map_or([0; 16], |meta| meta.hash_secret);
    let hasher = KeyHasher::new(&secret);
    let bar = ui.count(selected.len() as u64, "looking");
    let mut partitions = Vec::new();
    for dir in selected {
        partitions.push(partition(directory, dir, &hasher, budget)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(LogLook {
        path: directory.path.display().to_string(),
        kind: target::kind_name(directory),
        closed_cleanly: directory.closed_cleanly,
        partitions,
    })
}

fn partition(
    directory: &Directory,
    dir: &PartitionDir,
    hasher: &KeyHasher,
    budget: ScanBudget,
) -> Result<PartitionLook, Failure> {
    let storage = FileSystem::new();
    let mut infos = Vec::new();
    let summary = summary::partition(directory, dir, Depth::Known, |segment| infos.push(segment.clone()))?;
    let counted = inspect::shares(&storage, &infos, hasher, budget);
    let sizes: BTreeMap<String, u64> =
        inspect::files(&storage, &dir.path)?.into_iter().map(|file| (file.name, file.len)).collect();
    let cleanup = summary::topic_config(directory, &dir.topic).map(|config| config.cleanup);
    let segments: Vec<SegmentLook> = infos
        .iter()
        .zip(&counted)
        .map(|(info, shares)| segment(info, shares.as_ref(), summary::is_dirty(directory, dir, info), &sizes))
        .collect();
    Ok(PartitionLook {
        topic: summary.topic,
        partition: summary.partition,
        cleanup: cleanup.map(|cleanup| match cleanup {
            Cleanup::Delete => "delete",
            Cleanup::Compact => "compact",
            Cleanup::CompactDelete => "compact,delete",
        }),
        log_start: summary.log_start,
        end: summary.end,
        bytes: summary.totals.bytes,
        log_bytes: summary.totals.log_bytes,
        dirty_bytes: summary.totals.dirty_bytes,
        shares_known: counted.iter().all(Option::is_some),
        compaction: compaction(dir, &infos, &segments),
        growth: growth(&infos, &segments),
        segments,
        damage: summary.damage,
    })
}

fn segment(info: &SegmentInfo, shares: Option<&Shares>, dirty: bool, sizes: &BTreeMap<String, u64>) -> SegmentLook {
    let entries = |extension: &str, size: u64| {
        let name = info.path.with_extension(extension);
        Some(sizes.get(name.file_name()?.to_str()?)? / size)
    };
    let records = info.records.or(shares.map(Shares::records));
    let is_rewritten = !info.is_last && records.is_some_and(|records| info.end.since(info.base) > records);
    let written = std::fs::metadata(&info.path).and_then(|metadata| metadata.modified()).ok();
    let written = written.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    let plus = |a: Count, b: Count| (a.records + b.records, a.bytes + b.bytes);
    SegmentLook {
        base: info.base.get(),
        end: info.end.get(),
        active: info.is_last,
        dirty,
        log_bytes: info.log_bytes,
        records,
        oldest_ms: info.first_timestamp.and_then(millis),
        newest_ms: info.max_timestamp.and_then(millis),
        shares: shares.map(|shares| {
            let (live_records, live_bytes) = plus(shares.live, shares.keyless);
            SharesLook {
                live_bytes,
                live_records,
                tombstone_bytes: shares.tombstones.bytes,
                tombstones: shares.tombstones.records,
                garbage_bytes: shares.garbage.bytes,
                garbage_records: shares.garbage.records,
                from_digest: shares.from_digest,
            }
        }),
        // The active one's indexes are reserved ahead: their length tells nothing.
        index_entries: entries("index", 8).filter(|_| !info.is_last),
        time_index_entries: entries("timeindex", 12).filter(|_| !info.is_last),
        rewritten_ms: written.filter(|_| is_rewritten).and_then(|at| i64::try_from(at.as_millis()).ok()),
    }
}

fn compaction(dir: &PartitionDir, infos: &[SegmentInfo], segments: &[SegmentLook]) -> CompactionLook {
    let state = inspect::state(&FileSystem::new(), &dir.path).ok().flatten();
    let rewritten: Vec<&SegmentLook> = segments.iter().filter(|segment| segment.rewritten_ms.is_some()).collect();
    let garbage: Vec<(u64, u64)> = infos.iter().filter_map(SegmentInfo::garbage).collect();
    let sum = |of: fn(&(u64, u64)) -> u64| (!garbage.is_empty()).then(|| garbage.iter().map(of).sum());
    CompactionLook {
        segments_looked_at: infos.iter().filter(|info| info.digest.is_some()).count() as u64,
        segments_rewritten: rewritten.len() as u64,
        records_removed: rewritten.iter().map(|s| (s.end - s.base).saturating_sub(s.records.unwrap_or(0))).sum(),
        last_rewrite_ms: rewritten.iter().filter_map(|segment| segment.rewritten_ms).max(),
        garbage_records_left: sum(|garbage| garbage.0),
        garbage_bytes_left: sum(|garbage| garbage.1),
        max_winner_offset: state.as_ref().and_then(|state| state.newest()?.max_winner_offset).map(Offset::get),
        next_tombstones_ms: infos.iter().flat_map(|info| &info.horizons).map(|h| h.at.as_millis()).min(),
    }
}

/// How the bytes came, by the timestamps of the records.
fn growth(infos: &[SegmentInfo], segments: &[SegmentLook]) -> Vec<(i64, u64)> {
    let storage = FileSystem::new();
    let entries: u64 = segments.iter().filter_map(|segment| segment.time_index_entries).sum();
    let mut points = Vec::new();
    let mut before = 0;
    for (info, segment) in infos.iter().zip(segments) {
        points.extend(segment.oldest_ms.map(|at| (at, before)));
        if entries <= TIME_ENTRIES_MAX {
            points.extend(within(&storage, info).into_iter().map(|(at, position)| (at, before + position)));
        }
        before += info.log_bytes;
        points.extend(segment.newest_ms.map(|at| (at, before)));
    }
    // Time only goes forward in it: a record that is older than those before it counts as of their time.
    let mut latest = i64::MIN;
    for point in &mut points {
        latest = latest.max(point.0);
        point.0 = latest;
    }
    points.dedup();
    let step = points.len().div_ceil(POINTS_MAX).max(1);
    let last = points.last().copied();
    let mut kept: Vec<(i64, u64)> = points.into_iter().step_by(step).collect();
    kept.extend(last.filter(|last| kept.last() != Some(last)));
    kept
}

/// Times and positions in a segment, by its indexes. What cannot be read is left out: they are caches.
fn within(storage: &FileSystem, info: &SegmentInfo) -> Vec<(i64, u64)> {
    let (Ok(offsets), Ok(times)) = (
        inspect::offset_index(storage, &info.path.with_extension("index")),
        inspect::time_index(storage, &info.path.with_extension("timeindex")),
    ) else {
        return Vec::new();
    };
    let offsets: Vec<(u32, u32)> =
        offsets.map_while(Result::ok).map(|(_, entry)| (entry.offset, entry.position)).collect();
    let position = |offset: u32| {
        let at = offsets.partition_point(|(of, _)| *of <= offset);
        at.checked_sub(1).and_then(|at| offsets.get(at)).map_or(0, |(_, position)| u64::from(*position))
    };
    let points = times.map_while(Result::ok).map(|(_, entry)| (entry.timestamp.as_millis(), position(entry.offset)));
    points.filter(|(_, position)| *position <= info.log_bytes).collect()
}
