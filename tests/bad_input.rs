//! Bad input of every kind: a typed error, nothing lost, and the log goes on.

#[path = "bad_input/child.rs"]
mod child;
mod common;

use std::fs;
use std::path::Path;

use common::{append, expected, quiet, read, small};
use stratalog::format::Batches;
use stratalog::{Codec, Error, ErrorKind, Log, LogConfig, Offset, Partition, Record, RecordBatch, TopicConfig};

fn one(dir: &Path) -> (Log, Partition) {
    let log = Log::open(dir, quiet()).unwrap();
    log.create_topic("t", 1, small().max_batch_bytes(700)).unwrap();
    let partition = log.partition("t", 0).unwrap();
    append(&partition, 10);
    (log, partition)
}

fn batch(base: u64, value: &str) -> Vec<u8> {
    let mut builder = RecordBatch::builder().codec(Codec::None).base_offset(Offset::new(base));
    builder.push(&Record::new("key", value), stratalog::Timestamp::from_millis(1)).unwrap();
    builder.build().unwrap().as_bytes().to_vec()
}

/// Name and bytes of everything in a directory.
fn listing(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> =
        entries.map(|path| (path.display().to_string(), fs::read(&path).unwrap_or_default())).collect();
    all.sort();
    all
}

#[test]
fn what_lies_before_a_damaged_batch_is_read_and_then_it_is_told_where_the_damage_is() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), quiet()).unwrap();
    log.create_topic("t", 1, TopicConfig::new()).unwrap();
    append(&log.partition("t", 0).unwrap(), 10);
    log.close().unwrap();
    let path = dir.path().join("t-0/00000000000000000000.log");
    let mut bytes = fs::read(&path).unwrap();
    let mut batches = Batches::new(&bytes);
    let damaged = batches.by_ref().map(|batch| *batch.unwrap().header()).take(8).last().unwrap();
    let end = batches.position();
    bytes[end - 1] ^= 0x10;
    fs::write(&path, &bytes).unwrap();

    let log = Log::open(dir.path(), quiet()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    let mut reader = partition.reader(Offset::ZERO).unwrap();
    while reader.offset() < damaged.base_offset {
        let at = reader.offset();
        assert_eq!(reader.next_record().unwrap().unwrap().offset, at);
    }
    for _ in 0..2 {
        let error = reader.next_record().map(drop).unwrap_err();
        assert!(error.is_corruption(), "{error}");
        assert_eq!((error.path(), error.position()), (Some(&*path), Some((end - damaged.size) as u64)));
        assert_eq!(reader.offset(), damaged.base_offset);
    }
    reader.seek(damaged.next_offset());
    assert_eq!(reader.next_record().unwrap().unwrap().offset, damaged.next_offset());
}

#[test]
fn a_large_batch_that_claims_the_offsets_of_others_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), quiet()).unwrap();
    log.create_topic("t", 1, TopicConfig::new()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    let values: Vec<String> = (0..120).map(|n| format!("{n}-{}", "x".repeat(500))).collect();
    for run in values.chunks(20) {
        partition.append_records(run.iter().map(|value| Record::new("key", value))).unwrap();
    }
    drop(partition);
    log.close().unwrap();
    let path = dir.path().join("t-0/00000000000000000000.log");
    let sound = fs::read(&path).unwrap();
    let starts: Vec<usize> = Batches::new(&sound)
        .scan(0, |end, batch| {
            let start = *end;
            *end += batch.unwrap().as_bytes().len();
            Some(start)
        })
        .collect();
    for base in [57_u64, 40, 39, 0, 61, 63, 79, 99, 100] {
        let mut bytes = sound.clone();
        bytes[starts[3]..starts[3] + 8].copy_from_slice(&base.to_be_bytes());
        fs::write(&path, &bytes).unwrap();
        let log = Log::open(dir.path(), quiet()).unwrap();
        let partition = log.partition("t", 0).unwrap();
        for from in 0..120 {
            let mut reader = partition.reader(Offset::new(from)).unwrap();
            let read = reader.next_record().map(|record| {
                let record = record.unwrap();
                (record.offset.get(), record.value.map(<[u8]>::to_vec))
            });
            match read {
                Ok((offset, value)) => {
                    assert_eq!((offset, value.as_deref()), (from, Some(values[from as usize].as_bytes())), "{base}");
                    assert!(!(60..80).contains(&from), "{base}: {from}");
                }
                Err(error) => assert!(error.is_corruption(), "{error}"),
            }
        }
        log.close().unwrap();
    }
}

#[test]
fn bytes_that_are_no_batches_write_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (log, partition) = one(dir.path());
    let good = batch(10, "good");
    let changed = |at: usize, to: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes
    };
    let second_damaged = [good.clone(), {
        let mut next = batch(11, "next");
        *next.last_mut().unwrap() ^= 1;
        next
    }]
    .concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("half a header", good[..30].to_vec()),
        ("half a batch", good[..good.len() - 1].to_vec()),
        ("a wrong CRC", changed(17, &[1, 2, 3, 4])),
        ("a changed record", changed(good.len() - 1, &[0x55])),
        ("an old magic", changed(16, &[1])),
        ("an unknown magic", changed(16, &[3])),
        ("a length beyond the buffer", changed(8, &[0x7f, 0xff, 0xff, 0xff])),
        ("a negative length", changed(8, &[0xff; 4])),
        ("a length below a header", changed(8, &[0, 0, 0, 5])),
        ("a second batch that is damaged", second_damaged),
        ("a second batch that is cut", [good.clone(), batch(11, "next")[..40].to_vec()].concat()),
    ];
    let before = partition.stats().bytes;
    for (what, bytes) in &cases {
        let error = partition.append_at(bytes).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidBatch(_)), "{what}: {error:?}");
        let parsed = RecordBatch::parse(bytes.clone()).map(|batch| batch.as_bytes().len());
        assert!(parsed.is_err() || what.starts_with("a second"), "{what}: {parsed:?}");
        assert_eq!(partition.stats().bytes, before, "{what}");
        assert_eq!(read(&partition, 0), expected(0..10), "{what}");
    }
    goes_on(log, partition, dir.path(), 10);
}

/// Appends, closes, opens, and finds everything.
fn goes_on(log: Log, partition: Partition, dir: &Path, end: u64) {
    append(&partition, 3);
    log.close().unwrap();
    let log = Log::open(dir, quiet()).unwrap();
    assert_eq!(read(&log.partition("t", 0).unwrap(), 0), expected(0..end + 3));
}

#[test]
fn batches_beyond_the_limit_and_offsets_that_go_back_write_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (log, partition) = one(dir.path());
    let large = "x".repeat(800);
    let too_large =
        |error: Error| assert!(matches!(error.kind(), ErrorKind::BatchTooLarge { max: 700, .. }), "{error:?}");
    too_large(partition.append_records([Record::new("key", &large)]).unwrap_err());
    too_large(partition.append(&RecordBatch::parse(batch(0, &large)).unwrap()).unwrap_err());
    too_large(partition.append_at(&batch(10, &large)).unwrap_err());
    too_large(partition.append_at(&[batch(10, "good"), batch(11, &large)].concat()).unwrap_err());
    for (bytes, given, end) in [
        (batch(9, "below the end"), 9, 10),
        ([batch(12, "ahead"), batch(12, "again")].concat(), 12, 13),
        ([batch(12, "ahead"), batch(3, "far back")].concat(), 3, 13),
    ] {
        let (given, end) = (Offset::new(given), Offset::new(end));
        let error = partition.append_at(&bytes).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::UnexpectedOffset { given, end });
    }
    let error = partition.append_at(&batch(10 + (1 << 31), "out of a segment's reach")).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::UnexpectedOffset { .. }), "{error:?}");
    let none: [Record<'_>; 0] = [];
    assert!(matches!(partition.append_records(none).unwrap_err().kind(), ErrorKind::InvalidBatch(_)));
    assert_eq!(read(&partition, 0), expected(0..10));
    goes_on(log, partition, dir.path(), 10);
}

#[test]
fn topics_whose_names_are_no_directory_names_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (log, partition) = one(dir.path());
    let long = "x".repeat(250);
    for name in ["", ".", "..", "a/b", "../t", "a b", "a\0", "ä", &long] {
        for error in [
            log.create_topic(name, 1, TopicConfig::new()).unwrap_err(),
            log.create_partition(name, 0, TopicConfig::new()).map(drop).unwrap_err(),
        ] {
            assert!(matches!(error.kind(), ErrorKind::InvalidName(_)), "{name:?}: {error:?}");
        }
    }
    let no_partitions = log.create_topic("none", 0, TopicConfig::new()).unwrap_err();
    assert!(matches!(no_partitions.kind(), ErrorKind::InvalidConfig(_)));
    assert_eq!(*log.create_topic("t", 1, TopicConfig::new()).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(*log.delete_topic("absent").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(log.topics().len(), 1);
    log.create_topic(&long[1..], 1, TopicConfig::new()).map(drop).unwrap_or_else(|error| {
        // The partition's number follows the name in a directory's: some file systems have no room for both.
        assert!(matches!(error.kind(), ErrorKind::Io(_)), "{error:?}");
    });
    goes_on(log, partition, dir.path(), 10);
}

#[test]
fn a_directory_with_something_else_in_it_is_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("letter.txt"), "Dear all").unwrap();
    fs::create_dir(dir.path().join("photos-2")).unwrap();
    let before = listing(dir.path());
    for error in [Log::open(dir.path(), quiet()).unwrap_err(), Log::open_read_only(dir.path()).unwrap_err()] {
        assert_eq!(*error.kind(), ErrorKind::NotALog);
        assert_eq!(error.path(), Some(dir.path()));
    }
    assert_eq!(listing(dir.path()), before);
}

#[test]
fn a_file_is_no_log() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("letter.txt");
    fs::write(&file, "Dear all").unwrap();
    let error = Log::open(&file, quiet()).unwrap_err();
    assert_eq!((error.kind(), error.path()), (&ErrorKind::NotALog, Some(&*file)));
    assert!(Log::open_read_only(&file).is_err());
    assert!(Log::open(file.join("below"), quiet()).is_err());
    assert_eq!(fs::read(&file).unwrap(), b"Dear all");
}

#[test]
fn a_pipe_in_the_place_of_a_file_is_an_error_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = one(dir.path());
    log.close().unwrap();
    for name in [".log", ".index", ".digest"].map(|extension| format!("{:020}{extension}", 0)).iter() {
        let path = dir.path().join("t-0").join(name);
        let kept = fs::read(&path).ok();
        let _ = fs::remove_file(&path);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let log = Log::open(dir.path(), quiet()).unwrap();
        if let Some(partition) = log.partition("t", 0) {
            let _ = partition.verify();
            let _ = partition.reader(Offset::ZERO).unwrap().next_record();
        }
        drop(log);
        // In the place of a cache it may be gone: that is made anew.
        let _ = fs::remove_file(&path);
        kept.map_or(Ok(()), |bytes| fs::write(&path, bytes)).unwrap();
    }
}

/// Puts a checksum behind what it covers.
fn with_crc(body: &[u8]) -> Vec<u8> {
    [body, &crc32fast::hash(body).to_be_bytes()].concat()
}

#[test]
fn files_of_a_newer_version_are_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = one(dir.path());
    log.close().unwrap();
    let newer = |file: &str, bytes: Vec<u8>| {
        let path = dir.path().join(file);
        let old = fs::read(&path).unwrap();
        fs::write(&path, &bytes).unwrap();
        let error = match Log::open(dir.path(), quiet()) {
            Err(error) => error,
            Ok(log) => log.recovery_report().failed.first().expect("its partition is not opened").2.clone(),
        };
        assert_eq!(*error.kind(), ErrorKind::UnsupportedVersion { found: 2, supported: 1 }, "{file}");
        assert_eq!(error.path(), Some(&*path), "{file}");
        assert_eq!(fs::read(&path).unwrap(), bytes, "{file} is as it was");
        fs::write(&path, old).unwrap();
    };
    let mut meta = fs::read(dir.path().join("stratalog.meta")).unwrap();
    meta.truncate(meta.len() - 4);
    meta[4..6].copy_from_slice(&2_u16.to_be_bytes());
    newer("stratalog.meta", with_crc(&meta));

    let topics = fs::read_to_string(dir.path().join("stratalog.topics")).unwrap();
    let body = topics[..topics.rfind("crc ").unwrap()].replacen("stratalog.topics 1", "stratalog.topics 2", 1);
    newer("stratalog.topics", format!("{body}crc {:08x}\n", crc32fast::hash(body.as_bytes())).into_bytes());

    let mut state = fs::read(dir.path().join("t-0/state")).unwrap();
    let half = state.len() / 2;
    for slot in state.chunks_mut(half) {
        slot[4..6].copy_from_slice(&2_u16.to_be_bytes());
        let used = u32::from_be_bytes(slot[6..10].try_into().unwrap()) as usize;
        let whole = with_crc(&slot[..used - 4]);
        slot[..used].copy_from_slice(&whole);
    }
    newer("t-0/state", state);

    let log = Log::open(dir.path(), quiet()).unwrap();
    let partition = log.partition("t", 0).unwrap();
    goes_on(log, partition, dir.path(), 10);
}

#[test]
fn a_watermark_of_free_space_refuses_appends_early() {
    let dir = tempfile::tempdir().unwrap();
    let (log, partition) = one(dir.path());
    log.close().unwrap();
    drop(partition);
    let log = Log::open(dir.path(), quiet().min_free_bytes(u64::MAX)).unwrap();
    let partition = log.partition("t", 0).unwrap();
    let error = partition.append_records([Record::new("key", "value")]).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::DiskFull);
    assert_eq!(*partition.append_at(&batch(10, "good")).unwrap_err().kind(), ErrorKind::DiskFull);
    assert_eq!(read(&partition, 0), expected(0..10));
    partition.delete_before(Offset::new(4)).unwrap();
    log.maintain(stratalog::Timestamp::from_millis(1), stratalog::Budget::default()).unwrap();
    log.close().unwrap();
    let log: Log = Log::open(dir.path(), LogConfig::new().min_free_bytes(1)).unwrap();
    let partition = log.partition("t", 0).unwrap();
    append(&partition, 3);
    assert_eq!(read(&partition, 4), expected(4..13));
}

#[test]
fn a_directory_that_is_named_like_a_partition_and_holds_something_else_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = one(dir.path());
    let files = [("backup-1/precious.txt", "text"), ("photos-2/album/one.jpg", "image")];
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    drop(log);
    let log = Log::open(dir.path(), quiet()).unwrap();
    assert!(log.topic("backup").is_none() && log.topic("photos").is_none());
    for (topic, id) in [("backup", 1), ("photos", 2)] {
        assert!(log.create_partition(topic, id, TopicConfig::new()).is_err(), "{topic}");
    }
    log.close().unwrap();
    for (name, content) in files {
        assert_eq!(fs::read_to_string(dir.path().join(name)).unwrap(), content);
    }
}
