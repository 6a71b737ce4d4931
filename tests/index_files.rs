//! Index files after a kill or a failure between them and the `state` that vouches for them.
#![cfg(feature = "sim")]

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stratalog::format::{Marker, end_marker};
use stratalog::sim::{Call, Calls, Failure, Injection, SimStorage};
use stratalog::storage::{DirEntry, File, FileInfo, LockGuard, OpenMode, Storage};
use stratalog::{
    Durability, Log, LogConfig, ManualClock, Offset, Partition, Record, RecordBatch, Timestamp, TopicConfig,
};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn config(storage: &SimStorage) -> LogConfig {
    let config = LogConfig::new().storage(Arc::new(storage.clone())).clock(Arc::new(ManualClock::new(NOW)));
    let config = config.min_free_bytes(0).maintenance_interval(None).sync_threads(0).open_threads(Some(1));
    config.checkpoint_bytes(4096)
}

fn open(storage: &SimStorage) -> (Log, Partition) {
    let log = Log::open("/log", config(storage)).unwrap();
    let late = Durability::Buffered { interval: Duration::from_secs(3600), bytes: 1 << 30 };
    let topic = TopicConfig::new().segment_bytes(64 << 10).index_interval_bytes(128).durability(late);
    let topic = log.topic("t").unwrap_or_else(|| log.create_topic("t", 1, topic).unwrap());
    let partition = topic.partition(0).unwrap();
    (log, partition)
}

/// Transactions, each aborted, so that all three indexes get entries; the times grow.
fn append(partition: &Partition, count: u64) {
    for _ in 0..count {
        let n = partition.offsets().end.get();
        let at = NOW.plus_millis(n as i64);
        let mut builder = RecordBatch::builder().producer(1, 0, n as i32).transactional(true);
        builder.push(&Record::new("key", &"x".repeat(100)).at(at), at).unwrap();
        partition.append(&builder.build().unwrap()).unwrap();
        partition.append(&end_marker(Marker::Abort, 1, 0, 0, at).unwrap()).unwrap();
    }
}

/// Entries of the three index files come once each, in order.
fn check(storage: &SimStorage, case: &str) {
    for (kind, entry) in [("index", 8), ("timeindex", 12), ("txnindex", 34)] {
        for (path, _) in storage.files() {
            if path.extension().is_none_or(|extension| extension != kind) {
                continue;
            }
            let bytes = storage.contents(&path).unwrap();
            assert!(bytes.len().is_multiple_of(entry), "{case}: {}", path.display());
            let entries: Vec<&[u8]> = bytes.chunks(entry).collect();
            let twice = entries.windows(2).position(|pair| pair[0] >= pair[1]);
            assert_eq!(twice, None, "{case}: entries of {} are out of order", path.display());
        }
    }
}

/// What is left is opened, goes on and is closed.
fn go_on(left: &SimStorage, case: &str) {
    let (log, partition) = open(left);
    assert!(partition.stats().error.is_none(), "{case}: {:?}", partition.stats().error);
    append(&partition, 3);
    let mut reader = partition.reader(partition.offsets().start).unwrap();
    while reader.next_record().unwrap_or_else(|e| panic!("{case}: {e}")).is_some() {}
    drop((reader, partition));
    log.close().unwrap();
    check(left, case);
    let (_log, partition) = open(left);
    // A kill may leave a snapshot half written; the one before counts.
    let mut findings = partition.verify().unwrap().findings;
    findings.retain(|finding| finding.path.extension().is_none_or(|extension| extension != "snapshot"));
    assert!(findings.is_empty(), "{case}: {findings:?}");
}

/// There was a checkpoint, and another one is due.
fn filled() -> (SimStorage, Log, Partition) {
    let storage = SimStorage::new();
    let (log, partition) = open(&storage);
    append(&partition, 20);
    partition.flush().unwrap();
    append(&partition, 20);
    (storage, log, partition)
}

#[test]
fn no_entry_is_stored_twice_when_the_state_behind_a_checkpoint_finds_no_room() {
    let mut failures = 0;
    for call in [Call::Write, Call::SetLen, Call::Create] {
        for after in 0.. {
            let (storage, log, partition) = filled();
            storage.inject(Injection {
                calls: Calls::Only(call),
                after,
                failure: Failure::NoSpace,
                forever: false,
                seed: 1,
            });
            let _ = partition.flush();
            let failed = storage.failed();
            storage.set_fault(None);
            if failed == 0 {
                break;
            }
            failures += 1;
            let case = format!("{call:?} {after}");
            // `state` is written for another reason.
            partition.delete_before(Offset::new(1)).unwrap_or_else(|e| panic!("{case}: {e}"));
            drop((partition, log));
            go_on(&storage.kill(), &case);
        }
    }
    assert!(failures > 3, "{failures}");
}

#[test]
fn no_entry_is_stored_twice_after_a_kill_at_any_operation() {
    let (storage, log, partition) = filled();
    drop((partition, log));
    let storage = storage.kill();
    let points: Arc<Mutex<Vec<SimStorage>>> = Arc::default();
    let into = Arc::clone(&points);
    let observed = storage.observed(move |before| into.lock().unwrap().push(before));
    let (log, partition) = open(&observed);
    partition.flush().unwrap();
    append(&partition, 30);
    partition.flush().unwrap();
    partition.delete_before(Offset::new(1)).unwrap();
    partition.roll().unwrap();
    append(&partition, 3);
    partition.flush().unwrap();
    drop(partition);
    log.close().unwrap();
    let points = std::mem::take(&mut *points.lock().unwrap());
    assert!(points.len() > 50);
    for (at, point) in points.iter().enumerate() {
        let left = point.kill();
        // Two kills, the second one while the first is being recovered from.
        let (log, partition) = open(&left);
        partition.delete_before(Offset::new(2)).unwrap();
        drop((partition, log));
        go_on(&left.kill(), &format!("operation {at}"));
    }
    assert!(storage.contents(Path::new("/log/t-0/00000000000000000000.index")).is_ok());
}

/// Has something done before the names of a directory are made durable.
#[derive(Clone)]
struct Between {
    inner: SimStorage,
    doing: Arc<Mutex<Option<Doing>>>,
}

type Doing = Box<dyn FnOnce() + Send>;

impl std::fmt::Debug for Between {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Between")
    }
}

impl Storage for Between {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.inner.open(path, mode)
    }

    fn info(&self, path: &Path) -> io::Result<FileInfo> {
        self.inner.info(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir(dir)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.remove_dir(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let doing = self.doing.lock().unwrap().take();
        doing.into_iter().for_each(|doing| doing());
        self.inner.sync_dir(dir)
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        self.inner.free_space(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        self.inner.lock(path)
    }
}

#[test]
fn no_entry_is_stored_twice_after_a_kill_between_the_index_and_the_state_of_a_checkpoint() {
    let (storage, log, partition) = filled();
    drop((partition, log));
    let storage = storage.kill();
    let between = Between { inner: storage.clone(), doing: Arc::default() };
    let log = Log::open("/log", config(&storage).storage(Arc::new(between.clone()))).unwrap();
    let partition = log.partition("t", 0).unwrap();
    append(&partition, 30);
    let killed: Arc<Mutex<Option<SimStorage>>> = Arc::default();
    let (other, into) = (partition.clone(), Arc::clone(&killed));
    // The index is stored. Somebody else writes `state` first, and then the process goes.
    *between.doing.lock().unwrap() = Some(Box::new(move || {
        other.delete_before(Offset::new(1)).unwrap();
        *into.lock().unwrap() = Some(storage.kill());
    }));
    partition.flush().unwrap();
    let left = killed.lock().unwrap().take().expect("a checkpoint makes names durable");
    go_on(&left, "killed in between");
}
