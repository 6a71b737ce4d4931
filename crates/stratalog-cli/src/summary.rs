//! What is told of partitions and their segments, in text and in JSON.

use std::ops::Range;

use serde::Serialize;
use stratalog::format::State;
use stratalog::format::file_name::{self, SegmentFileKind, Suffix};
use stratalog::inspect::{self, Deadline, Depth, Directory, Due, FileEntry, Kind, PartitionDir, SegmentInfo};
use stratalog::storage::FileSystem;
use stratalog::{Offset, Timestamp, TopicConfig};

use crate::human;
use crate::outcome::Failure;

/// A partition.
#[derive(Serialize, Debug, Clone)]
#[serde(rename_all = "camelCase")]
pub struct PartitionSummary {
    pub topic: String,
    pub partition: u32,
    /// The first offset that may be read, and one past the last one.
    pub log_start: u64,
    pub end: u64,
    /// Everything below was on disk when `state` was last written, or Kafka's checkpoint.
    pub durable_end: Option<u64>,
    pub high_watermark: Option<u64>,
    #[serde(flatten)]
    pub totals: Totals,
    pub next_deadline: Option<DeadlineSummary>,
    pub damage: Vec<String>,
}

/// What is added up over segments. A sum is `None` when a part of it is not known.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    pub segments: u64,
    /// Bytes of all files, and of the `.log` files among them; space reserved ahead is in neither.
    pub bytes: u64,
    pub log_bytes: u64,
    pub reserved_bytes: u64,
    pub batches: Option<u64>,
    pub records: Option<u64>,
    pub tombstones: Option<u64>,
    /// Records that newer ones made superfluous, as of the last compaction, in the segments that it looked at.
    pub garbage_records: Option<u64>,
    pub garbage_bytes: Option<u64>,
    /// Bytes of segments that no compaction has looked at.
    pub dirty_bytes: u64,
    pub oldest_ms: Option<i64>,
    pub newest_ms: Option<i64>,
}

/// What is due next.
#[derive(Serialize, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct DeadlineSummary {
    pub at_ms: i64,
    pub what: &'static str,
}

impl Default for Totals {
    fn default() -> Totals {
        Totals {
            segments: 0,
            bytes: 0,
            log_bytes: 0,
            reserved_bytes: 0,
            batches: Some(0),
            records: Some(0),
            tombstones: Some(0),
            garbage_records: None,
            garbage_bytes: None,
            dirty_bytes: 0,
            oldest_ms: None,
            newest_ms: None,
        }
    }
}

impl Totals {
    /// Adds a segment.
    pub fn add_segment(&mut self, segment: &SegmentInfo, is_dirty: bool) {
        let garbage = segment.garbage();
        self.add(&Totals {
            segments: 1,
            bytes: segment.bytes(),
            log_bytes: segment.log_bytes,
            reserved_bytes: segment.reserved_bytes,
            batches: segment.batches,
            records: segment.records,
            tombstones: segment.tombstones,
            garbage_records: garbage.map(|(records, _)| records),
            garbage_bytes: garbage.map(|(_, bytes)| bytes),
            dirty_bytes: if is_dirty { segment.log_bytes } else { 0 },
            oldest_ms: segment.first_timestamp.and_then(millis),
            newest_ms: segment.max_timestamp.and_then(millis),
        });
    }

    /// Adds what was added up elsewhere.
    pub fn add(&mut self, other: &Totals) {
        let sum = |a: Option<u64>, b: Option<u64>| Some(a? + b?);
        let known = |a: Option<u64>, b: Option<u64>| {
            if a.is_none() && b.is_none() { None } else { Some(a.unwrap_or(0) + b.unwrap_or(0)) }
        };
        self.segments += other.segments;
        self.bytes += other.bytes;
        self.log_bytes += other.log_bytes;
        self.reserved_bytes += other.reserved_bytes;
        self.batches = sum(self.batches, other.batches);
        self.records = sum(self.records, other.records);
        self.tombstones = sum(self.tombstones, other.tombstones);
        self.garbage_records = known(self.garbage_records, other.garbage_records);
        self.garbage_bytes = known(self.garbage_bytes, other.garbage_bytes);
        self.dirty_bytes += other.dirty_bytes;
        self.oldest_ms = self.oldest_ms.into_iter().chain(other.oldest_ms).min();
        self.newest_ms = self.newest_ms.max(other.newest_ms);
    }
}

impl DeadlineSummary {
    pub fn new(deadline: Deadline) -> DeadlineSummary {
        let what = match deadline.what {
            Due::Roll => "roll",
            Due::Retention => "retention",
            Due::Tombstones => "tombstones",
            _ => "other",
        };
        DeadlineSummary { at_ms: deadline.at.as_millis(), what }
    }

    pub fn text(&self) -> String {
        format!("{} {}", human::second(Timestamp::from_millis(self.at_ms)), self.what)
    }
}

/// The configuration that counts for a topic: the default one where there is none on record.
pub fn topic_config(directory: &Directory, topic: &str) -> Option<TopicConfig> {
    directory.topic_config(topic)?.ok()
}

/// Whether no compaction has looked at a segment yet.
pub fn is_dirty(directory: &Directory, dir: &PartitionDir, segment: &SegmentInfo) -> bool {
    let cleaned_to = directory.checkpoint(file_name::CLEANER_CHECKPOINT, &dir.topic, dir.id);
    segment.digest.is_none() && cleaned_to.is_none_or(|cleaned_to| segment.end > cleaned_to)
}

/// Looks at a partition; `each` is told of every segment, when it was looked at.
pub fn partition(
    directory: &Directory,
    dir: &PartitionDir,
    depth: Depth,
    mut each: impl FnMut(&SegmentInfo),
) -> Result<PartitionSummary, Failure> {
    let storage = FileSystem::new();
    let checkpoint = |name| directory.checkpoint(name, &dir.topic, dir.id);
    let mut damage = Vec::new();
    let found_state = match inspect::state(&storage, &dir.path) {
        Ok(Some(file)) if file.newest().is_none() => {
            damage.push("state: neither of its slots can be read".to_owned());
            None
        }
        Ok(file) => file.and_then(|file| file.newest().cloned()),
        Err(error) => {
            damage.push(error.to_string());
            None
        }
    };
    // Of what Kafka had since it says what was.
    let state = found_state.as_ref().filter(|_| !directory.kafka_since);
    let config = topic_config(directory, &dir.topic);
    let mut totals = Totals::default();
    let mut deadlines = Vec::new();
    let files = inspect::files(&storage, &dir.path)?;
    let mut gaps = Vec::new();
    let (mut first, mut end): (Option<Offset>, Option<Offset>) = (None, None);
    for segment in inspect::segments(&storage, &dir.path, depth)? {
        let segment = segment?;
        each(&segment);
        totals.add_segment(&segment, is_dirty(directory, dir, &segment));
        damage.extend(damage_of(&segment));
        first = first.or(Some(segment.base));
        gaps.extend(end.filter(|end| *end < segment.base).map(|end| end..segment.base));
        end = Some(segment.end);
        deadlines.extend(config.iter().flat_map(|config| segment.deadlines(config)).map(DeadlineSummary::new));
    }
    let log_start = state.map(|state| state.log_start).or(checkpoint(file_name::LOG_START_CHECKPOINT));
    let log_start = log_start.max(first).unwrap_or(Offset::ZERO);
    gaps.retain(|gap| gap.end > log_start && !is_explained(directory, dir, found_state.as_ref(), &files, gap));
    // An owner that compacts meanwhile takes files away: then what was seen is not one state of the directory.
    if !gaps.is_empty() && inspect::files(&storage, &dir.path)? == files {
        damage.extend(gaps.iter().map(|gap| format!("the offsets [{}, {}) are missing", gap.start, gap.end)));
    }
    let durable_end = state.map(|state| state.durable_end).or(checkpoint(file_name::RECOVERY_POINT_CHECKPOINT));
    let high_watermark = state.map(|state| state.high_watermark).or(checkpoint(file_name::REPLICATION_CHECKPOINT));
    let end = end.unwrap_or(log_start);
    if let Some(durable) = durable_end.filter(|durable| *durable > end) {
        damage.push(format!("offsets [{end}, {durable}) were durable, and are not there"));
    }
    Ok(PartitionSummary {
        topic: dir.topic.clone(),
        partition: dir.id,
        log_start: log_start.get(),
        end: end.get(),
        durable_end: durable_end.map(Offset::get),
        high_watermark: high_watermark.map(Offset::get),
        totals,
        next_deadline: deadlines.into_iter().min(),
        damage,
    })
}

/// Whether a gap between segments is known: to `state`, by Kafka's cleaner, or since a swap is under way there.
fn is_explained(
    directory: &Directory,
    dir: &PartitionDir,
    state: Option<&State>,
    files: &[FileEntry],
    gap: &Range<Offset>,
) -> bool {
    let recorded = state.is_some_and(|s| s.adopted_gaps.iter().any(|g| g.start <= gap.start && gap.end <= g.end));
    let is_kafkas = directory.kind == Kind::Kafka || directory.kafka_since;
    let cleaned = is_kafkas
        && directory.checkpoint(file_name::CLEANER_CHECKPOINT, &dir.topic, dir.id).is_some_and(|to| gap.end <= to);
    let logs = files.iter().filter(|file| file.is_log()).filter_map(|file| Some((file.segment()?.0, file.len)));
    let (before, len) = logs.filter(|(base, _)| *base <= gap.start).max().unwrap_or((Offset::ZERO, 0));
    // What Kafka has written since its cleaner may have.
    let written = directory.kafka_since
        && state.is_some_and(|state| match state.segments.iter().find(|known| known.base == before) {
            Some(known) => known.len != len,
            None => before > state.active_base,
        });
    let swapped = files.iter().filter_map(FileEntry::segment).any(|(base, kind, suffix)| {
        kind == SegmentFileKind::Log && suffix != Suffix::None && (before..gap.end).contains(&base)
    });
    recorded || cleaned || written || swapped
}

/// What is wrong with a segment, in words.
pub fn damage_of(segment: &SegmentInfo) -> Vec<String> {
    let name = file_name_of(segment);
    let mut found: Vec<String> =
        segment.damage.iter().map(|damage| format!("{name}, at byte {}: {}", damage.position, damage.why)).collect();
    if segment.damage_left_off > 0 {
        found.push(format!("{name}: {} more", human::count(segment.damage_left_off, "finding", "findings")));
    }
    found
}

/// The name of a segment's `.log` file.
pub fn file_name_of(segment: &SegmentInfo) -> String {
    segment.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Milliseconds, when there is a time.
pub fn millis(at: Timestamp) -> Option<i64> {
    Some(at.as_millis()).filter(|_| at != Timestamp::NONE)
}

/// A time for a table.
pub fn second(ms: Option<i64>) -> String {
    human::optional(ms, |ms| human::second(Timestamp::from_millis(ms)))
}
