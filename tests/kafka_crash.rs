//! Directories as crashes of Kafka leave them: what becomes of each here, in each mode of recovery.

mod kafka_samples;

use std::fs;
use std::path::{Path, PathBuf};

use kafka_samples::{assert_same, config, copy, digest, dump, files, files_ending, larger_collection, listing, name};
use serde_json::Value;
use stratalog::format::Batches;
use stratalog::{
    ErrorKind, FetchOptions, Log, LogConfig, Offset, Partition, PartitionReport, Record, RecoveryMode, Timestamp,
};

/// Where the one flipped bit makes a batch bad, and the offset there.
const DAMAGE: (&str, u64, u64) = ("00000000000000000378.log", 8949, 483);

/// A state that a crash left, and what Kafka makes of it.
struct Case {
    name: String,
    before: PathBuf,
    after: After,
}

/// What Kafka shows afterwards.
enum After {
    Listing(Vec<Value>),
    /// How many records, and a checksum of their listing.
    Digest(String),
}

/// The states: those beside the tests, and the larger collection where it is at hand.
fn cases() -> Vec<Case> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/kafka-crash");
    let mut cases: Vec<Case> = kafka_samples::subdirs(&beside)
        .iter()
        .map(|dir| Case {
            name: format!("{} beside the tests", name(dir)),
            before: dir.join("before"),
            after: After::Digest(fs::read_to_string(dir.join("after.digest")).unwrap().trim().to_owned()),
        })
        .collect();
    assert_eq!(cases.len(), 3);
    if let Some(shared) = larger_collection("kafka-crash") {
        let more: Vec<Case> = kafka_samples::subdirs(&shared)
            .iter()
            .map(|dir| Case {
                name: name(dir).to_owned(),
                before: dir.join("before"),
                after: After::Listing(listing(&dir.join("after.jsonl"))),
            })
            .collect();
        assert_eq!(more.len(), 10);
        cases.extend(more);
    }
    cases
}

fn is_bit_flip(case: &Case) -> bool {
    case.name.starts_with("bit-flip")
}

impl After {
    fn check(&self, shown: &[Value], what: &str) {
        match self {
            After::Listing(expected) => assert_same(shown, expected, what),
            After::Digest(expected) => assert_eq!(digest(shown), *expected, "{what}"),
        }
    }
}

fn open(dir: &Path, config: LogConfig) -> (Log, Partition) {
    let log = Log::open(dir, config).unwrap();
    let partition = log.partition("crash", 0).unwrap();
    (log, partition)
}

fn report(log: &Log) -> &PartitionReport {
    log.recovery_report().partitions.iter().find(|report| report.topic == "crash").unwrap()
}

fn mode(mode: RecoveryMode) -> LogConfig {
    config().recovery(mode)
}

/// A second partition in the directory, which nothing is wrong with: a copy of the last segment of the first one.
fn add_healthy_partition(dir: &Path) {
    let to = dir.join("healthy-3");
    fs::create_dir(&to).unwrap();
    let last = "00000000000000001134.log";
    fs::copy(dir.join("crash-0").join(last), to.join(last)).unwrap();
}

/// All files of the directory below the log directory, but for its lock.
fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    files(&dir.join("crash-0"))
}

fn all_records(partition: &Partition) -> Vec<Value> {
    dump(partition, partition.offsets().start, 1 << 20).0
}

#[test]
fn every_crash_ends_as_kafka_ends_it() {
    for case in cases().iter().filter(|case| !is_bit_flip(case)) {
        let dir = copy(&case.before);
        let (log, partition) = open(dir.path(), config());
        assert!(log.recovery_report().taken_over);
        assert!(report(&log).error.is_none(), "{}: {:?}", case.name, report(&log));
        case.after.check(&all_records(&partition), &case.name);
        check_goes_on(dir, (log, partition), case);
    }
}

/// That a partition is whole: it is opened again and again, killed and closed, and appended to.
fn check_goes_on(dir: tempfile::TempDir, opened: (Log, Partition), case: &Case) {
    let end = opened.1.offsets().end;
    drop(opened);
    let (log, partition) = open(dir.path(), config());
    assert_eq!(report(&log).cut, None, "{}: nothing is cut twice", case.name);
    assert!(report(&log).put_aside.is_empty() && report(&log).error.is_none(), "{}: {:?}", case.name, report(&log));
    case.after.check(&all_records(&partition), &case.name);
    let appended = partition.append_records([Record::new("key", "after the crash")]).unwrap();
    assert_eq!(appended.base_offset, end, "{}", case.name);
    drop((log, partition));

    let (log, partition) = open(dir.path(), config());
    assert_eq!(partition.offsets().end, end + 1, "{}: a kill loses nothing", case.name);
    log.close().unwrap();
    let (log, partition) = open(dir.path(), config());
    assert_eq!(report(&log).scanned_bytes, 0, "{}: a clean close leaves nothing to scan", case.name);
    let shown = all_records(&partition);
    let (last, before) = shown.split_last().unwrap();
    case.after.check(before, &case.name);
    assert_eq!(last["offset"], end.get());
    assert_eq!(partition.append_records([Record::new("key", "again")]).unwrap().base_offset, end + 1);
    log.close().unwrap();
}

/// A log that is open for reading only, on files that nobody has put in order yet.
#[test]
fn a_read_only_open_shows_what_recovery_would_leave_and_writes_nothing() {
    for case in cases().iter().filter(|case| !is_bit_flip(case)) {
        let dir = copy(&case.before);
        let before = contents(dir.path());
        let log = Log::open_read_only(dir.path()).unwrap();
        assert!(report(&log).error.is_none(), "{}: {:?}", case.name, report(&log));
        let partition = log.partition("crash", 0).unwrap();
        case.after.check(&all_records(&partition), &case.name);
        assert_eq!(contents(dir.path()), before, "{}", case.name);
    }
}

#[test]
fn what_is_cut_off_a_tail_lies_aside() {
    for case in cases() {
        let dir = copy(&case.before);
        let last = dir.path().join("crash-0/00000000000000001134.log");
        let before = fs::read(&last).unwrap();
        let (log, _partition) = open(dir.path(), config());
        let after = fs::read(&last).unwrap();
        let Some(cut) = &report(&log).cut else {
            assert!(!case.name.contains("torn-tail") && !case.name.contains("garbage-tail"), "{}", case.name);
            continue;
        };
        assert_eq!(cut.position, after.len() as u64);
        assert!(!cut.valid_batches_followed);
        let aside = fs::read(dir.path().join("crash-0").join(&cut.kept_in)).unwrap();
        assert_eq!([after, aside].concat(), before, "{}", case.name);
    }
}

#[test]
fn a_last_batch_with_a_wrong_checksum_is_cut_where_kafka_was_killed() {
    for case in cases().iter().filter(|case| !is_bit_flip(case)) {
        let dir = copy(&case.before);
        let last = dir.path().join("crash-0/00000000000000001134.log");
        let whole = {
            let kept = copy(&case.before);
            open(kept.path(), config());
            fs::read(kept.path().join("crash-0/00000000000000001134.log")).unwrap()
        };
        let batches: Vec<usize> = Batches::new(&whole).map(|batch| batch.unwrap().header().size).collect();
        let mut bytes = whole.clone();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&last, bytes).unwrap();
        let (log, _partition) = open(dir.path(), config());
        assert!(report(&log).error.is_none(), "{}: {:?}", case.name, report(&log));
        let cut = report(&log).cut.as_ref().unwrap();
        assert_eq!(cut.bytes, *batches.last().unwrap() as u64, "{}", case.name);
        assert_eq!(cut.position + cut.bytes, whole.len() as u64, "{}", case.name);
    }
}

#[test]
fn the_files_are_those_that_kafka_leaves() {
    let Some(shared) = larger_collection("kafka-crash") else { return };
    for sample in kafka_samples::subdirs(&shared).iter().filter(|dir| !name(dir).starts_with("bit-flip")) {
        let dir = copy(&sample.join("before"));
        open(dir.path(), config()).0.close().unwrap();
        // Snapshots may be fewer: without producers there is nothing in them.
        let wanted = |name: &str| [".log", ".index", ".timeindex"].iter().any(|end| name.ends_with(end));
        let mut left: Vec<String> = contents(dir.path())
            .iter()
            .filter(|(name, _)| wanted(name) && !name.contains(".broken"))
            .map(|(name, bytes)| format!("{name} {}", bytes.len()))
            .collect();
        left.sort();
        let kafkas_files = fs::read_to_string(sample.join("after.files")).unwrap();
        let kafkas: Vec<&str> = kafkas_files.lines().filter(|line| wanted(line.split(' ').next().unwrap())).collect();
        assert_eq!(left, kafkas, "{}", name(sample));
        let snapshots = files_ending(&dir.path().join("crash-0"), ".snapshot");
        assert!(
            snapshots.iter().all(|(snapshot, _)| kafkas_files.contains(snapshot)),
            "{}: {snapshots:?}",
            name(sample)
        );
        let stale = contents(dir.path());
        let suffixes = [".cleaned", ".swap", ".deleted"];
        assert!(stale.iter().all(|(name, _)| !suffixes.iter().any(|end| name.ends_with(end))), "{}", name(sample));
    }
}

#[test]
fn a_torn_tail_is_an_error_that_touches_nothing_in_strict_mode() {
    let torn = |case: &&Case| case.name.starts_with("torn-tail") || case.name.starts_with("garbage-tail");
    for case in cases().iter().filter(torn) {
        let dir = copy(&case.before);
        add_healthy_partition_before_the_tear(dir.path());
        let before = contents(dir.path());
        for again in 0..2 {
            let (log, partition) = open(dir.path(), mode(RecoveryMode::Strict));
            let error = report(&log).error.clone().unwrap();
            assert!(matches!(error.kind(), ErrorKind::Corrupt(_)), "{error}");
            assert!(error.path().unwrap().ends_with("crash-0/00000000000000001134.log"), "{error}");
            assert!(error.position().is_some());
            assert!(partition.append_records([Record::new("key", "value")]).is_err());
            let readable = all_records(&partition);
            assert!(readable.len() >= 1134);
            assert_healthy(&log);
            assert_eq!(contents(dir.path()), before, "{}, opened {again} times before", case.name);
            if again == 1 {
                log.close().unwrap();
                assert_eq!(contents(dir.path()), before, "{}: closed", case.name);
            }
        }
        let (log, partition) = open(dir.path(), config());
        case.after.check(&all_records(&partition), &case.name);
        assert!(report(&log).cut.is_some());
    }
}

fn add_healthy_partition_before_the_tear(dir: &Path) {
    let to = dir.join("healthy-3");
    fs::create_dir(&to).unwrap();
    let first = "00000000000000000000.log";
    fs::copy(dir.join("crash-0").join(first), to.join(first)).unwrap();
}

/// That the other partition reads and writes, whatever is wrong with the first.
fn assert_healthy(log: &Log) {
    let healthy = log.partition("healthy", 3).unwrap();
    assert!(healthy.stats().error.is_none(), "{:?}", healthy.stats().error);
    let end = healthy.offsets().end;
    assert_eq!(healthy.append_records([Record::new("key", "value")]).unwrap().base_offset, end);
    let mut reader = healthy.reader(healthy.offsets().start).unwrap();
    let mut read = 0;
    while reader.next_record().unwrap().is_some() {
        read += 1;
    }
    assert!(read > 300);
}

/// The state with one flipped bit in a sealed segment.
fn bit_flip() -> Case {
    cases().into_iter().find(is_bit_flip).unwrap()
}

#[test]
fn damage_in_a_sealed_segment_is_told_and_nothing_is_deleted() {
    let case = bit_flip();
    for recovery in [RecoveryMode::Strict, RecoveryMode::CutTornTail] {
        let dir = copy(&case.before);
        add_healthy_partition(dir.path());
        let before = contents(dir.path());
        for again in 0..3 {
            let (log, partition) = open(dir.path(), mode(recovery));
            let error = report(&log).error.clone().unwrap();
            assert!(matches!(error.kind(), ErrorKind::Corrupt(_)), "{error}");
            assert!(error.path().unwrap().ends_with(Path::new("crash-0").join(DAMAGE.0)), "{error}");
            assert_eq!(error.position(), Some(DAMAGE.1));
            assert!(partition.append_records([Record::new("key", "value")]).is_err());
            // What lies below the damage is served; beyond it, the damage is told.
            case.after.check(&all_records(&partition), "below the damage");
            assert_eq!(partition.offsets().end, Offset::new(DAMAGE.2));
            let beyond = partition.fetch(Offset::new(DAMAGE.2 + 1), FetchOptions::default()).unwrap_err();
            assert!(beyond.is_corruption(), "{beyond}");
            assert_eq!(partition.offset_for(Timestamp::from_millis(0)).unwrap(), Some(Offset::ZERO));
            assert_healthy(&log);
            assert_eq!(contents(dir.path()), before, "{recovery:?}, opened {again} times before");
            if again == 1 {
                log.close().unwrap();
                assert_eq!(contents(dir.path()), before, "{recovery:?}, closed");
            }
        }
    }
}

#[test]
fn salvage_goes_on_before_the_damage_and_keeps_all_that_it_cuts() {
    let case = bit_flip();
    // Whether it is asked for at once, or after the damage was told.
    for told_before in [false, true] {
        let dir = copy(&case.before);
        let before = contents(dir.path());
        if told_before {
            drop(open(dir.path(), config()));
        }
        let (log, partition) = open(dir.path(), mode(RecoveryMode::Salvage));
        assert!(report(&log).error.is_none(), "{:?}", report(&log));
        case.after.check(&all_records(&partition), "salvaged");
        let cut = report(&log).cut.clone().unwrap();
        assert_eq!((cut.file.as_str(), cut.position, cut.offset.get()), DAMAGE);
        assert!(cut.valid_batches_followed);

        let find = |name: &str| &before.iter().find(|(file, _)| file == name).unwrap().1;
        let whole = find(DAMAGE.0);
        let partition_dir = dir.path().join("crash-0");
        assert_eq!(fs::read(partition_dir.join(DAMAGE.0)).unwrap(), whole[..DAMAGE.1 as usize]);
        assert_eq!(fs::read(partition_dir.join(&cut.kept_in)).unwrap(), whole[DAMAGE.1 as usize..]);
        let aside = &report(&log).put_aside;
        assert_eq!(aside.len(), 2, "{aside:?}");
        for base in ["00000000000000000756.log", "00000000000000001134.log"] {
            assert!(!partition_dir.join(base).exists());
            let kept = aside.iter().find(|name| name.starts_with(base)).unwrap();
            assert_eq!(fs::read(partition_dir.join(kept)).unwrap(), *find(base));
        }
        let broken = files_ending(&partition_dir, ".broken");
        assert_eq!(broken.len(), 3);
        check_goes_on(dir, (log, partition), &case);
    }
}
