use std::path::Path;
use std::sync::Mutex;

use super::*;
use crate::storage::sim::SimStorage;
use crate::storage::{DirEntry, File, FileInfo, LockGuard, Storage};
use crate::{Log, LogConfig, TopicConfig};

/// Has something done before a directory is listed.
struct Between {
    inner: SimStorage,
    /// What is done before the next list, then before the one after, and so on.
    doings: Mutex<Vec<Doing>>,
    /// Done before each file is opened.
    before_open: BeforeOpen,
}

type Doing = Box<dyn FnOnce() + Send>;
type BeforeOpen = Box<dyn Fn(&Path) + Send + Sync>;

impl std::fmt::Debug for Between {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Between")
    }
}

impl Storage for Between {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        (self.before_open)(path);
        self.inner.open(path, mode)
    }

    fn info(&self, path: &Path) -> io::Result<FileInfo> {
        self.inner.info(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let doing = self.doings.lock().unwrap().pop();
        doing.into_iter().for_each(|doing| doing());
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
        self.inner.sync_dir(dir)
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        self.inner.free_space(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        self.inner.lock(path)
    }
}

/// A partition with a record, its owner, and somebody who is about to look at its directory.
fn beside(doings: impl FnOnce(&Log) -> Vec<Doing>) -> (Log, Opening) {
    let storage = SimStorage::new();
    let config = LogConfig::new().storage(Arc::new(storage.clone())).min_free_bytes(0);
    let config = config.maintenance_interval(None).sync_threads(0);
    let log = Log::open("/log", config.clone()).unwrap();
    let partition = log.create_topic("t", 1, TopicConfig::new()).unwrap().partition(0).unwrap();
    partition.append_records([crate::Record::new("key", "value")]).unwrap();
    let core = Arc::clone(&partition.core);
    let mut doings = doings(&log);
    doings.reverse();
    let dir = PartitionDir::new(
        core.dir.path.clone(),
        Arc::new(Between { inner: storage, doings: Mutex::new(doings), before_open: Box::new(|_| ()) }),
        Arc::clone(&core.dir.file_cache),
        Arc::clone(&core.dir.preallocator),
    );
    let request = crate::log::open::request(&config, &core.resources, Path::new("/log"), "t", 0, &core.config());
    let request = Request { read_only: true, ..request };
    let (_, report) = super::super::open(request.clone()).unwrap();
    let request = Request { dir: Arc::new(dir), ..request };
    let (state, store) = StateFile::load(&request.dir).unwrap();
    (log, Opening { request, store: Some(store), state, report, salvaged: false, recognized: false })
}

#[test]
fn a_directory_that_changes_while_it_is_looked_at_is_looked_at_again() {
    let (_log, mut opening) = beside(|log| {
        let partition = log.partition("t", 0).unwrap();
        let roll = Box::new(move || partition.roll().unwrap());
        vec![Box::new(|| ()), Box::new(|| ()), roll]
    });
    let files = opening.look_beside().unwrap();
    let bases: Vec<Offset> = files.logs.iter().map(|log| log.base).collect();
    assert_eq!(bases, [Offset::ZERO, Offset::new(1)]);
}

#[test]
fn a_state_that_comes_while_a_directory_is_looked_at_was_not_lost() {
    let (_log, mut opening) = beside(|_| Vec::new());
    let there = std::mem::replace(&mut opening.state, FoundState::Missing);
    opening.report.state_lost = true;
    opening.look_beside().unwrap();
    assert!(opening.state == there && matches!(there, FoundState::Good(_)));
    assert!(!opening.report.state_lost);
}

#[test]
fn what_an_owner_may_cut_is_not_mapped_however_often_it_changes_the_directory() {
    let storage = SimStorage::new();
    let config = LogConfig::new().storage(Arc::new(storage.clone())).min_free_bytes(0).maintenance_interval(None);
    let log = Log::open("/log", config.sync_threads(0)).unwrap();
    let partition = log.create_topic("t", 1, TopicConfig::new()).unwrap().partition(0).unwrap();
    partition.append_records([crate::Record::new("key", "value")]).unwrap();
    partition.roll().unwrap();
    partition.append_records([crate::Record::new("key", "value")]).unwrap();
    partition.flush().unwrap();
    let core = Arc::clone(&partition.core);
    drop(partition);
    log.close().unwrap();
    // What cannot be told from an owner's doing: records are missing, and each time that is looked into the `state` is
    // another one by then. It is read twice to open the partition, and once more after that.
    storage.overwrite(&core.dir.segment_path(Offset::new(1), SegmentFileKind::Log, Suffix::None), &[]).unwrap();
    let path = core.dir.file_path(file_name::STATE);
    let (inner, opened) = (storage.clone(), Mutex::new(0));
    let before_open = move |opening: &Path| {
        if opening != path {
            return;
        }
        let mut opened = opened.lock().unwrap();
        *opened += 1;
        if *opened % 3 == 0 {
            let bytes = inner.contents(&path).unwrap();
            let (sequence, state) = crate::format::state::decode_slot(&bytes).unwrap();
            let changed = crate::format::State { high_watermark: Offset::new(sequence % 2), ..state };
            let slot = changed.encode(sequence + 1, bytes.len() / 2).unwrap();
            inner.overwrite(&path, &[&slot[..], &slot[..]].concat()).unwrap();
        }
    };
    let between = Between { inner: storage, doings: Mutex::default(), before_open: Box::new(before_open) };
    let (file_cache, ahead) = (Arc::clone(&core.dir.file_cache), Arc::clone(&core.dir.preallocator));
    let dir = PartitionDir::new(core.dir.path.clone(), Arc::new(between), file_cache, ahead);
    let request =
        crate::log::open::request(&LogConfig::new(), &core.resources, Path::new("/log"), "t", 0, &core.config());
    let request = Request { dir: Arc::new(dir), read_only: true, ..request };
    let (seen, report) = super::super::open(request).unwrap();
    assert!(report.error.is_some_and(|error| matches!(error.kind(), ErrorKind::MissingSegment(_))));
    assert!(!seen.dir.mapped_reads.load(crate::sync::atomic::Ordering::Relaxed));
}
