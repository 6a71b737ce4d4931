//! Truncations near damage: what lies below the cut is checked before a byte is touched, and what lies above it goes
//! with the cut, damaged or not.
#![cfg(feature = "sim")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratalog::format::state::pick;
use stratalog::format::{Batches, Marker, Pending, State, end_marker};
use stratalog::sim::SimStorage;
use stratalog::{Error, ErrorKind, Log, LogConfig, Offset, Partition, Record, RecordBatch, Timestamp, TopicConfig};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn config(storage: &SimStorage) -> LogConfig {
    let config = LogConfig::new().storage(Arc::new(storage.clone())).min_free_bytes(0);
    config.maintenance_interval(None).sync_threads(0).open_threads(Some(1))
}

fn small() -> TopicConfig {
    TopicConfig::new().segment_bytes(1024).index_interval_bytes(128)
}

/// A batch as it was written.
#[derive(Clone, Copy, Debug)]
struct Batch {
    base: u64,
    next: u64,
    segment: u64,
    position: usize,
    size: usize,
}

/// A log of several segments, closed in good order.
struct Sample {
    storage: SimStorage,
    batches: Vec<Batch>,
    /// Bases and ends of its segments.
    segments: Vec<(u64, u64)>,
}

fn log_path(base: u64) -> PathBuf {
    PathBuf::from(format!("/log/t-0/{base:020}.log"))
}

fn files(storage: &SimStorage) -> BTreeMap<PathBuf, Vec<u8>> {
    storage.files().into_iter().map(|(path, _)| (path.clone(), storage.contents(&path).unwrap())).collect()
}

/// The files of the partition that are not as they were.
fn changed(storage: &SimStorage, before: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<PathBuf> {
    let after = files(storage);
    let paths = before.keys().chain(after.keys()).filter(|path| path.starts_with("/log/t-0"));
    paths.filter(|path| before.get(*path) != after.get(*path)).cloned().collect()
}

fn logs(storage: &SimStorage) -> BTreeMap<u64, Vec<u8>> {
    let base = |path: &Path| path.file_name()?.to_str()?.strip_suffix(".log")?.parse().ok();
    files(storage).into_iter().filter_map(|(path, bytes)| Some((base(&path)?, bytes))).collect()
}

fn batch(base: u64, records: u64) -> Vec<u8> {
    let mut builder = RecordBatch::builder().base_offset(Offset::new(base));
    for n in base..base + records {
        builder.push(&Record::new(&format!("key-{n}"), &format!("value-{n}-{}", "x".repeat(40))), NOW).unwrap();
    }
    builder.build().unwrap().as_bytes().to_vec()
}

impl Sample {
    /// Batches of one to three records; `gaps` leaves offsets out before some.
    fn new(gaps: bool) -> Sample {
        let storage = SimStorage::new();
        let log = Log::open("/log", config(&storage)).unwrap();
        let partition = log.create_topic("t", 1, small()).unwrap().partition(0).unwrap();
        for n in 0..20 {
            let gap = if gaps && n % 3 == 1 { 4 } else { 0 };
            partition.append_at(&batch(partition.offsets().end.get() + gap, 1 + n % 3)).unwrap();
        }
        drop(partition);
        log.close().unwrap();
        let (mut batches, mut segments) = (Vec::new(), Vec::new());
        for (segment, bytes) in logs(&storage) {
            let mut position = 0;
            for batch in Batches::new(&bytes) {
                let header = *batch.unwrap().header();
                let (base, next) = (header.base_offset.get(), header.next_offset().get());
                batches.push(Batch { base, next, segment, position, size: header.size });
                position += header.size;
            }
            segments.push((segment, batches.last().unwrap().next));
        }
        assert!(segments.len() > 2, "{segments:?}");
        Sample { storage, batches, segments }
    }

    /// The segment that `to` is in.
    fn segment(&self, to: u64) -> u64 {
        self.segments.iter().map(|(base, _)| *base).rfind(|base| *base <= to).unwrap()
    }

    /// One past the last offset of the last batch that lies below `to` whole, of the batches that are left by `keep`.
    fn end_below(&self, to: u64, keep: impl Fn(&Batch) -> bool) -> u64 {
        let segment = self.segment(to);
        let below = self.batches.iter().filter(|batch| batch.segment == segment && batch.next <= to && keep(batch));
        below.map(|batch| batch.next).max().unwrap_or(segment)
    }

    /// The bytes of all logs that end at a batch boundary, cut from `of`.
    fn cut(&self, of: &BTreeMap<u64, Vec<u8>>, end: u64) -> BTreeMap<u64, Vec<u8>> {
        let mut cut: BTreeMap<u64, Vec<u8>> = of.range(..=end).map(|(base, bytes)| (*base, bytes.clone())).collect();
        let (base, last) = cut.iter_mut().next_back().unwrap();
        let kept = self.batches.iter().rfind(|batch| batch.segment == *base && batch.next <= end);
        last.truncate(kept.map_or(0, |batch| batch.position + batch.size));
        cut
    }
}

/// What damages a batch.
const DAMAGE: [&str; 12] = [
    "no magic",
    "longer",
    "much longer",
    "shorter",
    "another checksum",
    "other attributes",
    "one offset more",
    "a flipped payload",
    "no header",
    "zeros",
    "zeros to the end",
    "another base offset",
];

fn damage(bytes: &mut [u8], batch: &Batch, how: &str) {
    let at = batch.position;
    let end = at + batch.size;
    match how {
        "no magic" => bytes[at + 16] ^= 1,
        "longer" => bytes[at + 11] = bytes[at + 11].wrapping_add(8),
        "much longer" => bytes[at + 8] ^= 0x40,
        "shorter" => bytes[at + 11] = bytes[at + 11].wrapping_sub(8),
        "another checksum" => bytes[at + 17] ^= 4,
        "other attributes" => bytes[at + 22] ^= 8,
        "one offset more" => bytes[at + 26] += 1,
        "a flipped payload" => bytes[end - 1] ^= 0x10,
        "no header" => bytes[at..at + 61].fill(0),
        "zeros" => bytes[at..end].fill(0),
        "zeros to the end" => bytes[at..].fill(0),
        "another base offset" => bytes[at + 6] ^= 1,
        how => unreachable!("{how}"),
    }
}

/// A copy of the sample with one batch damaged.
fn damaged(sample: &Sample, batch: &Batch, how: &str) -> SimStorage {
    let storage = sample.storage.snapshot();
    let path = log_path(batch.segment);
    let mut bytes = storage.contents(&path).unwrap();
    damage(&mut bytes, batch, how);
    storage.rot(&path, &bytes).unwrap();
    storage
}

fn open(storage: &SimStorage) -> (Log, Partition) {
    let log = Log::open("/log", config(storage)).unwrap();
    let partition = log.partition("t", 0).unwrap();
    (log, partition)
}

fn is_damage(error: &Error, batch: &Batch) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt(_))
        && error.path() == Some(&log_path(batch.segment))
        && error.position() == Some(batch.position as u64)
}

/// Every batch of a log, every kind of damage to it, every place to cut at.
fn every_case(sample: &Sample, mut each: impl FnMut(&SimStorage, &Batch, u64, &str)) {
    let end = sample.segments.last().unwrap().1;
    for batch in &sample.batches {
        for how in DAMAGE {
            let storage = damaged(sample, batch, how);
            for to in 0..end {
                each(&storage, batch, to, &format!("{how} at {batch:?}, cut at {to}"));
            }
        }
    }
}

/// What the cut would have to read past.
fn lies_below(sample: &Sample, batch: &Batch, to: u64) -> bool {
    batch.segment == sample.segment(to) && batch.base < to
}

/// It lies behind a gap that the cut is in: its damaged header may not tell that it lies above.
fn may_lie_below(sample: &Sample, batch: &Batch, to: u64) -> bool {
    let before = sample.batches.iter().rfind(|before| before.base < batch.base);
    batch.segment == sample.segment(to) && before.map_or(0, |before| before.next) < to
}

fn a_truncation_is_all_or_nothing(gaps: bool) {
    let sample = Sample::new(gaps);
    every_case(&sample, |damaged, batch, to, case| {
        let storage = damaged.snapshot();
        let (log, partition) = open(&storage);
        let before = files(&storage);
        match partition.truncate(Offset::new(to)) {
            Err(error) => {
                assert!(may_lie_below(&sample, batch, to), "{case}: {error}");
                assert!(is_damage(&error, batch), "{case}: {error:?}");
                assert!(changed(&storage, &before).is_empty(), "{case}: {:?}", changed(&storage, &before));
                partition.append_records([Record::new("k", "v")]).unwrap_or_else(|e| panic!("{case}: {e}"));
            }
            Ok(end) => {
                assert!(!lies_below(&sample, batch, to), "{case}: ends at {end}");
                assert_eq!(end.get(), sample.end_below(to, |_| true), "{case}");
                assert!(logs(&storage) == sample.cut(&logs(damaged), end.get()), "{case}");
                assert_eq!(partition.append_records([Record::new("k", "v")]).unwrap().base_offset, end, "{case}");
            }
        }
        drop((partition, log));
    });
}

#[test]
fn a_truncation_over_damage_changes_nothing_and_above_it_cuts_where_it_was_asked_to() {
    a_truncation_is_all_or_nothing(false);
}

#[test]
fn a_truncation_of_a_log_with_gaps_over_damage_changes_nothing() {
    a_truncation_is_all_or_nothing(true);
}

#[test]
fn a_lossy_truncation_cuts_to_the_last_good_batch_and_says_where() {
    let sample = Sample::new(false);
    every_case(&sample, |damaged, batch, to, case| {
        let storage = damaged.snapshot();
        let (_log, partition) = open(&storage);
        let end = partition.truncate_lossy(Offset::new(to)).unwrap_or_else(|e| panic!("{case}: {e}"));
        let sound = |other: &Batch| !lies_below(&sample, batch, to) || other.base < batch.base;
        assert_eq!(end.get(), sample.end_below(to, sound), "{case}");
        assert_eq!(partition.offsets().end, end, "{case}");
        assert!(logs(&storage) == sample.cut(&logs(damaged), end.get()), "{case}");
        assert_eq!(partition.append_records([Record::new("k", "v")]).unwrap().base_offset, end, "{case}");
    });
}

fn change_state(storage: &SimStorage, change: impl FnOnce(&mut State)) {
    let path = Path::new("/log/t-0/state");
    let bytes = storage.contents(path).unwrap();
    let (left, right) = bytes.split_at(bytes.len() / 2);
    let (sequence, mut state) = pick(left, right).unwrap();
    change(&mut state);
    let slot = state.encode(sequence + 1, left.len()).unwrap();
    storage.overwrite(path, &[slot.as_slice(), slot.as_slice()].concat()).unwrap();
}

/// The truncation was begun when the process went.
fn begin(storage: &SimStorage, to: u64) {
    change_state(storage, |state| {
        let to = Offset::new(to);
        (state.pending, state.durable_end) = (Pending::Truncate(to), to);
        state.high_watermark = state.high_watermark.min(to);
    });
}

#[test]
fn a_truncation_that_is_done_again_over_damage_changes_nothing() {
    for gaps in [false, true] {
        let sample = Sample::new(gaps);
        every_case(&sample, |damaged, batch, to, case| {
            if to != sample.end_below(to, |_| true) {
                // What `state` says is the end of a batch.
                return;
            }
            let storage = damaged.snapshot();
            begin(&storage, to);
            let before = files(&storage);
            let beside = Log::open_read_only_with("/log", config(&storage.snapshot())).unwrap();
            let seen = beside.partition("t", 0).unwrap();
            let (_log, partition) = open(&storage);
            match partition.stats().error {
                Some(error) => {
                    assert!(lies_below(&sample, batch, to), "{case}: {error}");
                    assert!(is_damage(&error, batch), "{case}: {error:?}");
                    assert!(changed(&storage, &before).is_empty(), "{case}: {:?}", changed(&storage, &before));
                    assert!(seen.stats().error.is_some_and(|error| is_damage(&error, batch)), "{case}");
                }
                None => {
                    assert!(!lies_below(&sample, batch, to), "{case}");
                    assert_eq!(partition.offsets().end.get(), to, "{case}");
                    assert!(logs(&storage) == sample.cut(&logs(damaged), to), "{case}");
                    if !sample.batches.iter().any(|other| other.base == batch.base && other.next <= to) {
                        assert!(seen.stats().error.is_none(), "{case}: {:?}", seen.stats().error);
                        assert_eq!(seen.offsets().end.get(), to, "{case}");
                    }
                }
            }
        });
    }
}

#[test]
fn damage_that_the_producers_have_to_be_found_behind_changes_nothing_either() {
    let storage = SimStorage::new();
    let log = Log::open("/log", config(&storage)).unwrap();
    let partition = log.create_topic("t", 1, small()).unwrap().partition(0).unwrap();
    for n in 0..30 {
        let mut builder = RecordBatch::builder().producer(7, 0, n).transactional(true);
        builder.push(&Record::new("key", &format!("value-{n}")), NOW).unwrap();
        partition.append(&builder.build().unwrap()).unwrap();
        partition.append(&end_marker(Marker::Commit, 7, 0, 0, NOW).unwrap()).unwrap();
    }
    drop(partition);
    log.close().unwrap();
    let all = logs(&storage);
    let last = *all.keys().next_back().unwrap();
    assert!(all.len() > 3);
    // The only snapshot that is left is the one at the end.
    for path in files(&storage).into_keys() {
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.strip_suffix(".snapshot").is_some_and(|at| at.parse::<u64>().unwrap() <= last) {
            stratalog::storage::Storage::remove_file(&storage, &path).unwrap();
        }
    }
    let (damaged, bytes) = all.iter().nth(1).unwrap();
    let second = Batches::new(bytes).next().unwrap().unwrap().header().size;
    storage.flip(&log_path(*damaged), second + 16, 0).unwrap();
    let (_log, partition) = open(&storage);
    assert!(partition.stats().error.is_none(), "{:?}", partition.stats().error);
    let before = files(&storage);
    let error = partition.truncate(Offset::new(last + 1)).unwrap_err();
    assert!(error.is_corruption(), "{error}");
    assert_eq!((error.path(), error.position()), (Some(&*log_path(*damaged)), Some(second as u64)));
    assert!(changed(&storage, &before).is_empty(), "{:?}", changed(&storage, &before));
    // Who accepts losses gets a log with nothing missing in front of its end, not producers that are a guess.
    let end = partition.truncate_lossy(Offset::new(last + 1)).unwrap();
    assert_eq!(end.get(), damaged + 1);
    assert_eq!(logs(&storage)[damaged], bytes[..second]);
    assert_eq!(partition.append_records([Record::new("k", "v")]).unwrap().base_offset, end);
}

#[test]
fn the_lowest_place_to_cut_at_is_one_that_a_truncation_accepts_over_damage_too() {
    let sample = Sample::new(false);
    let mut over_damage = 0;
    for holder in sample.batches.iter().filter(|batch| batch.next > batch.base + 1 && batch.base > 3) {
        for batch in sample.batches.iter().filter(|batch| batch.base > 3) {
            for how in DAMAGE {
                let case = format!("{how} at {batch:?}, relied on {holder:?}");
                let storage = damaged(&sample, batch, how);
                change_state(&storage, |state| state.max_winner_offset = Some(Offset::new(holder.base)));
                let (_log, partition) = open(&storage);
                let error = partition.truncate(Offset::new(1)).unwrap_err();
                let ErrorKind::TruncateBelowCompacted { lowest } = *error.kind() else { panic!("{case}: {error}") };
                let in_the_way = batch.segment == holder.segment && batch.base <= holder.base;
                let (_, end) = sample.segments.iter().find(|(base, _)| *base == holder.segment).unwrap();
                assert_eq!(lowest.get(), if in_the_way { *end } else { holder.next }, "{case}");
                assert_eq!(partition.truncate(lowest).unwrap_or_else(|e| panic!("{case}: {e}")), lowest, "{case}");
                over_damage += u32::from(in_the_way);
            }
        }
    }
    assert!(over_damage > 100);
}

#[test]
fn a_new_start_and_a_log_start_need_nothing_of_what_is_damaged() {
    let sample = Sample::new(false);
    let end = sample.segments.last().unwrap().1;
    for batch in &sample.batches {
        for how in DAMAGE {
            let case = format!("{how} at {batch:?}");
            let storage = damaged(&sample, batch, how);
            let (_log, partition) = open(&storage);
            partition.delete_before(Offset::new(batch.next)).unwrap_or_else(|e| panic!("{case}: {e}"));
            assert_eq!(partition.offsets().start.get(), batch.next, "{case}");
            partition.retain(NOW).unwrap_or_else(|e| panic!("{case}: {e}"));
            if batch.next == end {
                continue;
            }
            // Below the log start it is damage below the cut all the same: only a whole segment is left out of it.
            let before = files(&storage);
            let done = partition.truncate(Offset::new(end - 1));
            assert_eq!(done.is_err(), lies_below(&sample, batch, end - 1), "{case}: {done:?}");
            if done.is_err() {
                assert!(changed(&storage, &before).is_empty(), "{case}: {:?}", changed(&storage, &before));
                let end = partition.truncate_lossy(Offset::new(end - 1)).unwrap();
                assert_eq!(end.get(), batch.next, "{case}: never below the log start");
            }
            partition.reset_to(Offset::new(5)).unwrap_or_else(|e| panic!("{case}: {e}"));
            assert_eq!(partition.append_records([Record::new("k", "v")]).unwrap().base_offset.get(), 5, "{case}");
        }
    }
}
