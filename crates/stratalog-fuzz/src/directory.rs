//! A directory in which any file may hold anything: it opens, or is refused; what is read of it is checked.

use std::path::Path;
use std::sync::Arc;

use stratalog::sim::SimStorage;
use stratalog::storage::{OpenMode, Storage};
use stratalog::{Budget, Log, LogConfig, ManualClock, Offset, Record, Timestamp, TopicConfig};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
/// Files that are damaged; the first byte of the input chooses.
const FILES: [&str; 16] = [
    "t-0/00000000000000000000.log",
    "t-0/00000000000000000000.index",
    "t-0/00000000000000000000.timeindex",
    "t-0/00000000000000000008.log",
    "t-0/00000000000000000008.snapshot",
    "t-0/00000000000000000000.txnindex",
    "t-0/00000000000000000000.log.swap",
    "t-0/state",
    "t-0/leader-epoch-checkpoint",
    "t-0/partition.metadata",
    "stratalog.topics",
    "stratalog.meta",
    ".kafka_cleanshutdown",
    "log-start-offset-checkpoint",
    "stratalog.use",
    "recovery-point-offset-checkpoint",
];

fn config(storage: &SimStorage) -> LogConfig {
    LogConfig::new()
        .storage(Arc::new(storage.clone()))
        .clock(Arc::new(ManualClock::new(NOW)))
        .min_free_bytes(0)
        .maintenance_interval(None)
        .sync_threads(0)
        .open_threads(Some(1))
}

fn good() -> SimStorage {
    let storage = SimStorage::new();
    let log = Log::open("/log", config(&storage)).expect("an empty directory opens");
    let topic = log.create_topic("t", 1, TopicConfig::new().segment_bytes(1024)).expect("it is not there yet");
    for n in 0..20 {
        let value = format!("value-{n}-{}", "x".repeat(40));
        topic.append(Record::new("key", &value)).expect("there is room");
    }
    log.close().expect("nothing is in its way");
    storage
}

/// Each piece of the input is a file, a place in it, and what is written there.
pub fn hostile_directory(data: &[u8]) {
    let storage = good();
    let mut rest = data;
    while let Some(([file, at, len], after)) = rest.split_first_chunk::<3>() {
        let path = Path::new("/log").join(FILES[usize::from(*file) % FILES.len()]);
        let (bytes, after) = after.split_at(usize::from(*len).min(after.len()));
        damage(&storage, &path, usize::from(*at) * 8, bytes);
        rest = after;
    }
    let Ok(log) = Log::open("/log", config(&storage)) else { return };
    let Some(partition) = log.partition("t", 0) else { return };
    let offsets = partition.offsets();
    assert!(offsets.start <= offsets.end && offsets.durable <= offsets.end);
    let mut last = None;
    if let Ok(mut reader) = partition.reader(offsets.start) {
        while let Ok(Some(record)) = reader.next_record() {
            assert!(last.is_none_or(|last| last < record.offset), "offsets grow");
            last = Some(record.offset);
        }
    }
    let _ = partition.verify();
    let _ = partition.append_records([Record::new("key", "more")]);
    let _ = log.maintain(NOW, Budget::default());
    let _ = partition.truncate(Offset::new(7));
    let _ = log.close();
}

fn damage(storage: &SimStorage, path: &Path, at: usize, bytes: &[u8]) {
    if storage.open(path, OpenMode::CreateNew).is_err() && storage.contents(path).is_err() {
        return;
    }
    let mut content = storage.contents(path).unwrap_or_default();
    if bytes.is_empty() {
        content.truncate(at);
    } else {
        let at = at.min(content.len());
        content.resize(content.len().max(at + bytes.len()), 0);
        content[at..at + bytes.len()].copy_from_slice(bytes);
    }
    let _ = storage.overwrite(path, &content);
}

/// Inputs to begin with: each file emptied, and the beginning of each overwritten.
pub fn seeds() -> Vec<Vec<u8>> {
    let files = 0..FILES.len() as u8;
    files
        .flat_map(|file| [vec![file, 0, 0], vec![file, 1, 4, 0xff, 0xff, 0xff, 0xff], vec![file, 0, 2, 0x7f, 0]])
        .collect()
}
