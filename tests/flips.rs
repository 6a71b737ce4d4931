//! Single bytes that change: what is read is right, or ends with a word about it.

use std::fs;
use std::path::{Path, PathBuf};

use stratalog::inspect::{self, Entry};
use stratalog::storage::FileSystem;
use stratalog::{Log, LogConfig, Partition, Record, TopicConfig};

fn quiet() -> LogConfig {
    LogConfig::new().min_free_bytes(0).maintenance_interval(None)
}

/// Three segments of records in batches of one.
fn write_log(dir: &Path) {
    let log = Log::open(dir, quiet()).unwrap();
    let topic = log.create_topic("orders", 1, TopicConfig::new().segment_bytes(1024)).unwrap();
    for n in 0..30 {
        topic.append(Record::new("key", &format!("value-{n}"))).unwrap();
    }
    drop(topic);
    log.close().unwrap();
}

fn log_files(dir: &Path) -> Vec<PathBuf> {
    let files = inspect::files(&FileSystem::new(), &dir.join("orders-0")).unwrap();
    files.into_iter().filter(|file| file.is_log()).map(|file| file.path).collect()
}

/// Offsets and values to the end, and whether an error ended them.
fn read(partition: &Partition) -> (Vec<(u64, Vec<u8>)>, bool) {
    let mut found = Vec::new();
    let Ok(mut reader) = partition.reader(partition.offsets().start) else { return (found, true) };
    loop {
        match reader.next_record() {
            Ok(Some(record)) => found.push((record.offset.get(), record.value.unwrap_or_default().to_vec())),
            Ok(None) => return (found, false),
            Err(_) => return (found, true),
        }
    }
}

/// What is read of an open log, and whether it said that there is less than there was.
fn read_log(log: &Log) -> (Vec<(u64, Vec<u8>)>, bool) {
    let report = log.recovery_report();
    let told = report.partitions.iter().any(|p| p.cut.is_some() || p.error.is_some()) || !report.failed.is_empty();
    let Some(partition) = log.partition("orders", 0) else { return (Vec::new(), told) };
    let (records, failed) = read(&partition);
    (records, failed || told)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// The checksum of a batch does not cover its base offset: where it leads away, the batch must not be skipped.
#[test]
fn a_batch_that_lost_its_offset_is_never_skipped_nor_read_at_another() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path());
    let expected = read_log(&Log::open_read_only(dir.path()).unwrap());
    assert_eq!((expected.0.len(), expected.1), (30, false));
    let mut tried = 0;
    for path in log_files(dir.path()) {
        let whole = fs::read(&path).unwrap();
        for entry in inspect::batches(&FileSystem::new(), &path).unwrap() {
            let Entry::Batch { position, .. } = entry.unwrap() else { continue };
            for (byte, mask) in (0..8).flat_map(|byte| [(byte, 1), (byte, 0x10), (byte, 0x80)]) {
                let mut bytes = whole.clone();
                bytes[position as usize + byte] ^= mask;
                fs::write(&path, &bytes).unwrap();
                check(&read_log(&Log::open_read_only(dir.path()).unwrap()), &expected.0, (&path, position, byte, mask));
                if byte == 7 || byte == 4 {
                    let copied = tempfile::tempdir().unwrap();
                    copy(dir.path(), copied.path());
                    let log = Log::open(copied.path(), quiet()).unwrap();
                    check(&read_log(&log), &expected.0, (&path, position, byte, mask));
                }
                tried += 1;
            }
        }
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!(tried, 30 * 24);
}

fn check(found: &(Vec<(u64, Vec<u8>)>, bool), expected: &[(u64, Vec<u8>)], which: (&Path, u64, usize, u8)) {
    let (records, told) = found;
    assert!(expected.starts_with(records), "{which:?}: {:?}", records.last());
    assert!(*told || records.len() == expected.len(), "{which:?}: {} records without a word", records.len());
}

#[test]
fn a_read_only_open_tells_of_a_torn_tail_and_cuts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), quiet()).unwrap();
    let topic = log.create_topic("orders", 1, TopicConfig::new()).unwrap();
    topic.append(Record::new("key", "first")).unwrap();
    log.partition("orders", 0).unwrap().flush().unwrap();
    topic.append(Record::new("key", "second")).unwrap();
    drop((topic, log));
    let path = log_files(dir.path()).remove(0);
    let len = inspect::batches(&FileSystem::new(), &path)
        .unwrap()
        .filter_map(|entry| match entry.unwrap() {
            Entry::Batch { position, batch } => Some(position + batch.header().size as u64),
            _ => None,
        })
        .last()
        .unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len - 3).unwrap();

    let log = Log::open_read_only(dir.path()).unwrap();
    let report = &log.recovery_report().partitions[0];
    let cut = report.cut.as_ref().expect("the tail is told of");
    assert_eq!((cut.offset.get(), cut.kept_in.as_str()), (1, ""));
    assert_eq!(read(&log.partition("orders", 0).unwrap()).0.len(), 1);
    assert_eq!(fs::metadata(&path).unwrap().len(), len - 3);
}

#[test]
fn damage_below_the_watermark_degrades_a_read_only_log_as_well() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/kafka-golden/transactions");
    let dir = tempfile::tempdir().unwrap();
    copy(&root, dir.path());
    let path = dir.path().join("transactions-0/00000000000000000000.log");
    let mut bytes = fs::read(&path).unwrap();
    bytes[193] ^= 0x45;
    fs::write(&path, &bytes).unwrap();
    let log = Log::open_read_only(dir.path()).unwrap();
    let error = log.recovery_report().partitions[0].error.clone().expect("it is damaged");
    assert!(error.is_corruption(), "{error}");
}
