//! How much of each segment is of use still: what a compaction would count, told without opening a log.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::Path;

use super::{DigestFile, Entry, SegmentInfo, batches, digest};
use crate::error::Result;
use crate::format::file_name::{self, SegmentFileKind, Suffix};
use crate::format::{DigestEntry, KeyHash, KeyHasher, Scratch};
use crate::storage::Storage;

/// What the records of a segment are. Bytes are those of the records, uncompressed.
///
/// A record counts as garbage when a later one has its key, whether or not a compaction may count on that one yet. Of a
/// segment with a digest, records without a key are garbage too, as they are for a compaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Shares {
    /// Records that are the latest of their keys, tombstones not counted.
    pub live: Count,
    /// Tombstones that are the latest records of their keys.
    pub tombstones: Count,
    /// Records that later ones made superfluous.
    pub garbage: Count,
    /// Records without a key, in a segment without a digest.
    pub keyless: Count,
    /// Whether its digest told; else its records were read.
    pub from_digest: bool,
}

/// How many, and how large.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Count {
    /// Records.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How much is read of segments that have no digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScanBudget {
    /// Bytes of `.log` files, all segments together.
    pub bytes: u64,
    /// Records, all segments together; each takes 40 bytes of memory.
    pub records: u64,
}

impl Default for ScanBudget {
    /// 1 GiB and 8 million records.
    fn default() -> ScanBudget {
        ScanBudget { bytes: 1 << 30, records: 8 << 20 }
    }
}

impl Shares {
    /// Bytes of all records.
    pub fn bytes(&self) -> u64 {
        self.live.bytes + self.tombstones.bytes + self.garbage.bytes + self.keyless.bytes
    }

    /// All records.
    pub fn records(&self) -> u64 {
        self.live.records + self.tombstones.records + self.garbage.records + self.keyless.records
    }
}

impl Count {
    fn add(&mut self, records: u64, bytes: u64) {
        self.records += records;
        self.bytes += bytes;
    }
}

/// Counts what the records of each segment are, given all of a partition in order. `None` stands for a segment that was
/// over the budget, is damaged, or is gone: what it makes superfluous in those before it is not counted then.
///
/// Digests are used where they were made with the same hasher.
pub fn shares(
    storage: &dyn Storage,
    segments: &[SegmentInfo],
    hasher: &KeyHasher,
    mut budget: ScanBudget,
) -> Vec<Option<Shares>> {
    let mut counted: Vec<Option<Shares>> = vec![None; segments.len()];
    let mut digests = Vec::new();
    let mut scans = Vec::new();
    // The newest ones tell most: they come first when the budget is small.
    for (at, segment) in segments.iter().enumerate().rev() {
        if let Some(digest) = valid_digest(storage, segment, hasher) {
            let counts = digest.footer.counts;
            let mut shares = Shares { from_digest: true, ..Shares::default() };
            let records = counts.records.saturating_sub(counts.keys);
            shares.garbage.add(records, counts.record_bytes.saturating_sub(counts.key_bytes));
            counted[at] = Some(shares);
            digests.push((at, digest));
        } else if let Some((shares, last)) = scan(storage, segment, hasher, &mut budget) {
            counted[at] = Some(shares);
            scans.push((at, last));
        }
    }
    let from_digests = digests.iter().map(|(at, digest)| Source::new(*at, Box::new(digest.entries())));
    let from_scans = scans.into_iter().map(|(at, last)| Source::new(at, Box::new(last.into_iter().map(Ok))));
    merge(from_digests.chain(from_scans).collect(), &mut counted);
    counted
}

/// The last record of each key of a segment, in the order of the hashes.
struct Source<'a> {
    segment: usize,
    entries: Box<dyn Iterator<Item = Result<DigestEntry>> + 'a>,
}

impl<'a> Source<'a> {
    fn new(segment: usize, entries: Box<dyn Iterator<Item = Result<DigestEntry>> + 'a>) -> Source<'a> {
        Source { segment, entries }
    }
}

/// Goes through all keys: of each the record in the latest segment lives, and the others are garbage.
fn merge(mut sources: Vec<Source<'_>>, counted: &mut [Option<Shares>]) {
    let mut heap = BinaryHeap::new();
    for at in 0..sources.len() {
        advance(&mut sources, at, &mut heap, counted);
    }
    // The records of one key come in the order of their segments.
    let mut before: Option<(usize, DigestEntry)> = None;
    while let Some(Reverse((hash, segment, at, entry))) = heap.pop() {
        if let Some((segment, entry)) = before {
            settle(counted, segment, &entry, entry.hash() != hash);
        }
        before = Some((segment, entry));
        advance(&mut sources, at, &mut heap, counted);
    }
    if let Some((segment, entry)) = before {
        settle(counted, segment, &entry, true);
    }
}

/// What is next of each source, the lowest hash first, and of one hash the earliest segment.
type Heap = BinaryHeap<Reverse<(KeyHash, usize, usize, DigestEntry)>>;

fn advance(sources: &mut [Source<'_>], at: usize, heap: &mut Heap, counted: &mut [Option<Shares>]) {
    let Some(source) = sources.get_mut(at) else { return };
    match source.entries.next() {
        Some(Ok(entry)) => heap.push(Reverse((entry.hash(), source.segment, at, entry))),
        // The rest of the digest is damaged: nothing is known of its segment.
        Some(Err(_)) => counted[source.segment] = None,
        None => {}
    }
}

fn settle(counted: &mut [Option<Shares>], segment: usize, entry: &DigestEntry, is_latest: bool) {
    let Some(shares) = &mut counted[segment] else { return };
    let count = match (is_latest, entry.is_tombstone()) {
        (true, false) => &mut shares.live,
        (true, true) => &mut shares.tombstones,
        (false, _) => &mut shares.garbage,
    };
    count.add(1, u64::from(entry.record_bytes()));
}

/// The digest of a segment, if there is one that was made with this hasher.
fn valid_digest(storage: &dyn Storage, segment: &SegmentInfo, hasher: &KeyHasher) -> Option<DigestFile> {
    let footer = segment.digest?;
    let dir = segment.path.parent().unwrap_or(Path::new(""));
    let path = dir.join(file_name::segment_file(segment.base, SegmentFileKind::Digest, Suffix::None));
    let digest = digest(storage, &path).ok()?;
    (digest.footer == footer && footer.subject.key_id == hasher.id()).then_some(digest)
}

/// Reads the records of a segment; `None` when that is over the budget, or it is damaged.
fn scan(
    storage: &dyn Storage,
    segment: &SegmentInfo,
    hasher: &KeyHasher,
    budget: &mut ScanBudget,
) -> Option<(Shares, Vec<DigestEntry>)> {
    budget.bytes = budget.bytes.checked_sub(segment.log_bytes)?;
    let mut shares = Shares::default();
    let mut entries = Vec::new();
    let mut scratch = Scratch::default();
    for entry in batches(storage, &segment.path).ok()? {
        let batch = match entry.ok()? {
            Entry::Batch { batch, .. } => batch,
            Entry::Zeros { .. } => break,
            Entry::Damage { .. } => return None,
        };
        if batch.header().attributes.is_control() {
            continue;
        }
        for record in batch.view().records(&mut scratch).ok()? {
            let record = record.ok()?;
            let Some(key) = record.key else {
                shares.keyless.add(1, u64::from(record.size()));
                continue;
            };
            budget.records = budget.records.checked_sub(1)?;
            let delta = u32::try_from(record.offset.since(segment.base)).ok()?;
            if delta > DigestEntry::DELTA_MAX {
                return None;
            }
            entries.push(DigestEntry::new(hasher.hash(key), delta, record.is_tombstone(), record.size()));
        }
    }
    // By hash, then by offset: the last of each hash stays.
    entries.sort_unstable_by(|a, b| b.cmp(a));
    entries.dedup_by(|older, latest| {
        let is_superseded = older.hash() == latest.hash();
        if is_superseded {
            shares.garbage.add(1, u64::from(older.record_bytes()));
        }
        is_superseded
    });
    entries.reverse();
    Some((shares, entries))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::{Depth, segments};
    use crate::storage::FileSystem;
    use crate::{Cleanup, Clock, CompactMode, Log, LogConfig, Record, SystemClock, TopicConfig};

    const NO_BUDGET: ScanBudget = ScanBudget { bytes: 0, records: 0 };

    fn look(dir: &Path, budget: ScanBudget) -> Vec<Option<Shares>> {
        let storage = FileSystem::new();
        let hasher = KeyHasher::new(&crate::inspect::meta(&storage, &dir.join(file_name::META)).unwrap().hash_secret);
        let infos = segments(&storage, &dir.join("t-0"), Depth::Known).unwrap();
        let infos: Vec<SegmentInfo> = infos.map(|info| info.unwrap()).collect();
        shares(&storage, &infos, &hasher, budget)
    }

    fn records(shares: &Option<Shares>) -> [u64; 4] {
        let shares = shares.expect("it is known");
        [shares.live.records, shares.tombstones.records, shares.garbage.records, shares.keyless.records]
    }

    #[test]
    fn the_latest_record_of_a_key_lives_and_digests_tell_what_a_scan_tells() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path(), LogConfig::new().min_free_bytes(0).maintenance_interval(None)).unwrap();
        let config = TopicConfig::new().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(1.0);
        let topic = log.create_topic("t", 1, config).unwrap();
        let partition = topic.partition(0).unwrap();
        let append = |records: &[Record<'_>]| partition.append_records(records.iter().copied()).unwrap();
        append(&[Record::new("a", "1"), Record::new("b", "2"), Record::new("a", "3"), Record::new("c", "4")]);
        partition.roll().unwrap();
        append(&[Record::tombstone("b"), Record::new("d", "5"), Record::new("a", "6")]);
        partition.roll().unwrap();
        append(&[Record::new("e", "7"), Record::new("d", "8")]);
        let expected = [[1, 0, 3, 0], [1, 1, 1, 0], [2, 0, 0, 0]];

        let scanned = look(dir.path(), ScanBudget::default());
        assert_eq!(scanned.iter().map(records).collect::<Vec<_>>(), expected);
        assert!(scanned.iter().flatten().all(|shares| !shares.from_digest));
        assert_eq!(look(dir.path(), NO_BUDGET), [None, None, None]);
        let newest = look(dir.path(), ScanBudget { records: 2, ..ScanBudget::default() });
        assert!(newest[0].is_none() && newest[1].is_none());
        assert_eq!(records(&newest[2]), [2, 0, 0, 0]);

        let report = partition.compact(SystemClock.now(), CompactMode::Due).unwrap();
        assert_eq!((report.digests_built, report.segments_rewritten), (2, 0));
        let from_digests = look(dir.path(), ScanBudget::default());
        assert!(from_digests[0].unwrap().from_digest && !from_digests[2].unwrap().from_digest);
        assert_eq!(from_digests.iter().map(records).collect::<Vec<_>>(), expected);
        assert_eq!(
            from_digests.iter().flatten().map(Shares::bytes).collect::<Vec<_>>(),
            scanned.iter().flatten().map(Shares::bytes).collect::<Vec<_>>()
        );
        assert_eq!(look(dir.path(), NO_BUDGET).iter().filter(|shares| shares.is_some()).count(), 2);
    }

    #[test]
    fn records_without_a_key_are_superseded_by_none() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path(), LogConfig::new().min_free_bytes(0).maintenance_interval(None)).unwrap();
        let topic = log.create_topic("t", 1, TopicConfig::new()).unwrap();
        topic.partition(0).unwrap().append_records([Record::keyless("1"), Record::new("a", "2")]).unwrap();
        assert_eq!(look(dir.path(), ScanBudget::default()).iter().map(records).collect::<Vec<_>>(), [[1, 0, 0, 1]]);
    }
}
