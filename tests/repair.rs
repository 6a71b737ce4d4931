//! A repair does what its plan says, and deletes nothing.

use std::fs;
use std::path::{Path, PathBuf};

use stratalog::inspect::{self, Entry};
use stratalog::repair::{self, Options, RepairPlan, Step};
use stratalog::storage::FileSystem;
use stratalog::{ErrorKind, Log, LogConfig, Offset, Partition, Record, TopicConfig};

const RECORDS: u64 = 300;

fn config() -> LogConfig {
    LogConfig::new().min_free_bytes(0).maintenance_interval(None)
}

fn write_log(dir: &Path) {
    let log = Log::open(dir, config()).unwrap();
    log.create_topic("t", 1, TopicConfig::new().segment_bytes(4096)).unwrap();
    let partition = log.partition("t", 0).unwrap();
    for n in 0..RECORDS {
        partition.append_records([Record::new(&format!("key-{n}"), &format!("value-{n}"))]).unwrap();
    }
    drop(partition);
    log.close().unwrap();
}

fn logs(dir: &Path) -> Vec<PathBuf> {
    let files = inspect::files(&FileSystem::new(), &dir.join("t-0")).unwrap();
    files.into_iter().filter(|file| file.is_log()).map(|file| file.path).collect()
}

fn plan(dir: &Path) -> RepairPlan {
    repair::plan(dir, &Options::default()).unwrap()
}

/// The bytes of all files that hold records, in use or put aside.
fn bytes(dir: &Path) -> u64 {
    let files = inspect::files(&FileSystem::new(), &dir.join("t-0")).unwrap();
    let logs = files.iter().filter(|file| file.name.contains(".log"));
    logs.map(|file| file.len).sum()
}

fn read(partition: &Partition) -> Vec<u64> {
    let mut reader = partition.reader(partition.offsets().start).unwrap();
    std::iter::from_fn(|| reader.next_record().unwrap().map(|record| record.offset.get())).collect()
}

/// Runs the repair, opens the log again, and appends to it.
fn repair_and_open(dir: &Path, plan: &RepairPlan) -> (Log, Partition) {
    let before = bytes(dir);
    repair::run(plan, config()).unwrap();
    assert!(bytes(dir) >= before, "no byte is deleted");
    assert!(self::plan(dir).is_empty(), "nothing is left to repair: {}", self::plan(dir));
    let log = Log::open(dir, config()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    assert!(partition.stats().error.is_none());
    (log, partition)
}

#[test]
fn a_sound_log_needs_no_repair() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path());
    assert!(plan(dir.path()).is_empty(), "{}", plan(dir.path()));
    let (_log, partition) = repair_and_open(dir.path(), &plan(dir.path()));
    assert_eq!(read(&partition), (0..RECORDS).collect::<Vec<_>>());
}

#[test]
fn damage_in_the_middle_is_cut_and_all_behind_it_put_aside() {
    // In the records, and in the base offset, which the checksum does not cover.
    for byte in [70, 1] {
        let dir = tempfile::tempdir().unwrap();
        write_log(dir.path());
        let files = logs(dir.path());
        let path = &files[2];
        let mut batches = inspect::batches(&FileSystem::new(), path).unwrap();
        let Some(Ok(Entry::Batch { position, batch })) = batches.nth(5) else { panic!("a batch") };
        let end = batch.header().base_offset;
        let mut bytes = fs::read(path).unwrap();
        bytes[position as usize + byte] ^= 1;
        fs::write(path, bytes).unwrap();
        let plan = plan(dir.path());
        let Step::Cut { path: cut, position: at, end: cut_at, batches, .. } = &plan.steps[0] else { panic!("{plan}") };
        assert_eq!((cut, *at, *cut_at), (path, position, end), "{plan}");
        assert!(*batches > 0, "{plan}");
        let put_aside = plan.steps.iter().filter(|step| matches!(step, Step::PutAside { .. })).count();
        assert_eq!(put_aside, files.len() - 3);
        let lost = Step::LowerEnd { path: dir.path().join("t-0"), offsets: end..Offset::new(RECORDS) };
        assert_eq!(plan.steps.last(), Some(&lost), "{plan}");
        let (_log, partition) = repair_and_open(dir.path(), &plan);
        assert_eq!(read(&partition), (0..end.get()).collect::<Vec<_>>());
    }
}

#[test]
fn a_missing_segment_ends_the_log_before_it_and_a_missing_head_starts_it_later() {
    for (missing, expected) in [(2, false), (0, true)] {
        let dir = tempfile::tempdir().unwrap();
        write_log(dir.path());
        let files = logs(dir.path());
        fs::remove_file(&files[missing]).unwrap();
        let plan = plan(dir.path());
        println!("{plan}");
        assert_eq!(matches!(plan.steps[0], Step::RaiseStart { .. }), expected, "{plan}");
        let (_log, partition) = repair_and_open(dir.path(), &plan);
        let offsets = partition.offsets();
        assert_eq!(read(&partition), (offsets.start.get()..offsets.end.get()).collect::<Vec<_>>());
        assert_eq!(offsets.start > Offset::ZERO, expected);
        assert_eq!(offsets.end == Offset::new(RECORDS), expected);
    }
}

#[test]
fn what_follows_a_head_that_holds_nothing_stays_and_where_nothing_is_left_the_log_goes_on_at_its_end() {
    let garbage = [7; 99];
    for (bytes, is_only, is_kafkas) in [
        (Some(&[][..]), false, false),
        (Some(&garbage), false, false),
        (Some(&[]), false, true),
        (Some(&[]), true, false),
        (Some(&garbage), true, false),
        (None, true, false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        write_log(dir.path());
        let files = logs(dir.path());
        match bytes {
            Some(bytes) => fs::write(&files[0], bytes).unwrap(),
            None => fs::remove_file(&files[0]).unwrap(),
        }
        if is_only {
            files[1..].iter().for_each(|file| fs::remove_file(file).unwrap());
        }
        if is_kafkas {
            for ours in ["stratalog.meta", "stratalog.topics", "t-0/state"] {
                fs::remove_file(dir.path().join(ours)).unwrap();
            }
        }
        let plan = plan(dir.path());
        assert_eq!(matches!(plan.steps[0], Step::PutAside { .. }), bytes.is_some(), "{plan}");
        assert_eq!(matches!(plan.steps.last(), Some(Step::RaiseStart { .. })), !is_kafkas, "{plan}");
        assert!(plan.steps.len() <= 2, "{plan}");
        let (_log, partition) = repair_and_open(dir.path(), &plan);
        let offsets = partition.offsets();
        assert_eq!((offsets.end, offsets.start == offsets.end), (Offset::new(RECORDS), is_only), "{plan}");
        assert!(offsets.start > Offset::ZERO, "{plan}");
        assert_eq!(read(&partition), (offsets.start.get()..RECORDS).collect::<Vec<_>>());
        let appended = partition.append_records([Record::new("key", "value")]).unwrap();
        assert_eq!(appended.base_offset, Offset::new(RECORDS));
    }
}

/// A directory of Kafka's: what its cleaner is known to have reached may have gaps, nothing else may.
#[test]
fn a_missing_segment_of_kafkas_is_told_and_repaired_unless_its_cleaner_explains_it() {
    for cleaned in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        write_log(dir.path());
        for ours in ["stratalog.meta", "stratalog.topics", "t-0/state"] {
            fs::remove_file(dir.path().join(ours)).unwrap();
        }
        fs::remove_file(&logs(dir.path())[2]).unwrap();
        let checkpoint = if cleaned { format!("0\n1\nt 0 {RECORDS}\n") } else { "0\n0\n".to_owned() };
        fs::write(dir.path().join("cleaner-offset-checkpoint"), checkpoint).unwrap();
        let plan = plan(dir.path());
        assert_eq!(plan.is_empty(), cleaned, "{plan}");
        let read_only = Log::open_read_only(dir.path()).unwrap();
        assert_eq!(read_only.partition("t", 0).unwrap().stats().error.is_none(), cleaned);
        drop(read_only);
        let (_log, partition) = repair_and_open(dir.path(), &plan);
        assert_eq!(partition.offsets().end == Offset::new(RECORDS), cleaned);
    }
}

#[test]
fn a_plan_for_another_state_of_the_directory_is_not_run() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path());
    let sound = plan(dir.path());
    fs::remove_file(&logs(dir.path())[1]).unwrap();
    let error = repair::run(&sound, config()).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidConfig(_)));
}
