//! Threads that meet at the worst moment: a storage with gates stops one of them where a race would be lost.
#![cfg(feature = "sim")]

mod common;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use common::{append, quiet};
use stratalog::sim::{Crash, Order, SimStorage};
use stratalog::storage::{DirEntry, File, FileInfo, Hold, LockGuard, OpenMode, Reserve, Reserved, Sizes, Storage};
use stratalog::{Budget, Log, Offset, Record, Timestamp, TopicConfig};

/// What a thread is about to do.
#[derive(Clone, Copy, PartialEq, Debug)]
enum At {
    Create,
    Sync,
}

/// Stops whoever does something to a file, until it is opened. Each gate stops one thread.
#[derive(Debug, Default)]
struct Gates {
    closed: Mutex<Vec<(At, &'static str)>>,
    waiting: Mutex<Vec<&'static str>>,
    changed: Condvar,
}

impl Gates {
    fn close(&self, at: At, end: &'static str) {
        self.closed.lock().unwrap().push((at, end));
    }

    fn open(&self, end: &'static str) {
        let mut waiting = self.waiting.lock().unwrap();
        self.closed.lock().unwrap().retain(|(_, gate)| *gate != end);
        waiting.retain(|gate| *gate != end);
        self.changed.notify_all();
    }

    /// Waits until somebody stands at the gate.
    fn wait(&self, end: &'static str) {
        let mut waiting = self.waiting.lock().unwrap();
        while !waiting.contains(&end) {
            waiting = self.changed.wait(waiting).unwrap();
        }
    }

    fn pass(&self, at: At, path: &Path) {
        let name = path.to_string_lossy();
        let gate = self.closed.lock().unwrap().iter().find(|(a, end)| *a == at && name.ends_with(end)).map(|g| g.1);
        let Some(gate) = gate else { return };
        let mut waiting = self.waiting.lock().unwrap();
        waiting.push(gate);
        self.changed.notify_all();
        while waiting.contains(&gate) {
            waiting = self.changed.wait(waiting).unwrap();
        }
    }
}

/// The simulated storage with gates.
#[derive(Clone, Debug)]
struct Gated(SimStorage, Arc<Gates>);

#[derive(Debug)]
struct GatedFile(Arc<dyn File>, PathBuf, Arc<Gates>);

impl Storage for Gated {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        if mode == OpenMode::CreateNew {
            self.1.pass(At::Create, path);
        }
        Ok(Arc::new(GatedFile(self.0.open(path, mode)?, path.to_owned(), Arc::clone(&self.1))))
    }
    fn info(&self, path: &Path) -> io::Result<FileInfo> {
        self.0.info(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.0.list(dir)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir(dir)
    }
    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.remove_dir(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.remove_file(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }
    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        self.0.free_space(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        self.0.lock(path)
    }
    fn sizes(&self) -> Sizes {
        self.0.sizes()
    }
}

impl File for GatedFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.0.read_at(buf, position)
    }
    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<()> {
        self.0.write_at(buf, position)
    }
    fn info(&self) -> io::Result<FileInfo> {
        self.0.info()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.2.pass(At::Sync, &self.1);
        self.0.sync()
    }
    fn reserve(&self, position: u64, len: u64, how: Reserve) -> io::Result<Reserved> {
        self.0.reserve(position, len, how)
    }
    fn map(&self, len: u64) -> io::Result<Option<bytes::Bytes>> {
        self.0.map(len)
    }
    fn hold(&self, len: u64) -> io::Result<Hold> {
        self.0.hold(len)
    }
    fn held(&self) -> u64 {
        self.0.held()
    }
    fn descriptor(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.0.descriptor()
    }
}

/// A log that was opened anew, so that its `state` is still to be made durable.
fn reopened(gates: &Arc<Gates>, topic: TopicConfig, sync_threads: usize) -> (SimStorage, Log) {
    let storage = SimStorage::new();
    let config = || quiet().sync_threads(sync_threads).storage(Arc::new(Gated(storage.clone(), Arc::clone(gates))));
    let log = Log::open("/log", config()).unwrap();
    log.create_topic("t", 1, topic).unwrap();
    log.close().unwrap();
    let log = Log::open("/log", config()).unwrap();
    (storage, log)
}

#[test]
fn a_sync_that_meets_a_roll_does_not_take_the_sealed_segment_for_durable() {
    let gates = Arc::new(Gates::default());
    let (storage, log) = reopened(&gates, TopicConfig::new(), 0);
    let partition = log.partition("t", 0).unwrap();
    append(&partition, 3);
    // The roll is past its look at who syncs, and has not changed the view; the sync has begun, and not looked at it.
    gates.close(At::Create, "00000000000000000003.log");
    gates.close(At::Sync, "state");
    thread::scope(|scope| {
        let roll = scope.spawn(|| partition.roll().unwrap());
        gates.wait("00000000000000000003.log");
        let flush = scope.spawn(|| partition.flush().unwrap());
        gates.wait("state");
        gates.open("00000000000000000003.log");
        roll.join().unwrap();
        partition.append_records([Record::new("key", "in the new segment")]).unwrap();
        gates.open("state");
        flush.join().unwrap();
    });
    let durable = partition.offsets().durable;
    assert!(durable >= Offset::new(3), "what was there when the flush began is durable: {durable}");
    drop((partition, log));
    let storage = storage.crash(&Crash { order: Order::Strict, seed: 0 });
    let log = Log::open("/log", quiet().storage(Arc::new(storage))).unwrap();
    let partition = log.partition("t", 0).unwrap();
    assert!(partition.stats().error.is_none(), "{:?}", partition.stats().error);
    assert!(partition.offsets().end >= durable, "{:?}", partition.offsets());
}

#[test]
fn retention_gives_up_only_what_is_durable() {
    let gates = Arc::new(Gates::default());
    let (_storage, log) = reopened(&gates, TopicConfig::new().retention_bytes(Some(0)), 1);
    let partition = log.partition("t", 0).unwrap();
    append(&partition, 3);
    gates.close(At::Sync, "00000000000000000000.log");
    partition.roll().unwrap();
    gates.wait("00000000000000000000.log");
    append(&partition, 1);
    let maintain = || log.maintain(Timestamp::from_millis(0), Budget::default()).unwrap();
    let (done, finished) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            maintain();
            done.send(partition.offsets()).unwrap();
        });
        // A crash in this moment takes the sealed segment: the log would end below its start, had that moved.
        let early = finished.recv_timeout(Duration::from_millis(300)).ok();
        assert!(early.is_none() && partition.offsets().start == Offset::ZERO, "{early:?}");
        gates.open("00000000000000000000.log");
    });
    maintain();
    assert_eq!(partition.offsets().start, Offset::new(3));
}
