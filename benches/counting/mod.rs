//! The real file system, with all bytes counted that are read and written through the seam, by kind of file.
#![allow(dead_code, reason = "each user uses a part of it")]

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use stratalog::storage::{
    DirEntry, File, FileInfo, FileSystem, Hold, LockGuard, OpenMode, Reserve, Reserved, Sizes, Storage,
};

/// Kinds of files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Record batches.
    Log,
    /// Key digests.
    Digest,
    /// Temporary files without a name.
    Spill,
    /// Indexes, `state`, and the rest.
    Other,
}

/// Bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Amount {
    pub read: u64,
    pub written: u64,
    /// How often its files were synced.
    pub syncs: u64,
}

#[derive(Default)]
struct Counts {
    read: AtomicU64,
    written: AtomicU64,
    syncs: AtomicU64,
    /// Whether it had content.
    used: AtomicBool,
    spill: AtomicBool,
}

/// The storage.
pub struct Counting {
    inner: FileSystem,
    /// By the names under which files were opened.
    files: Mutex<BTreeMap<PathBuf, Arc<Counts>>>,
    /// Of names that are gone.
    past: Mutex<Vec<(PathBuf, Arc<Counts>)>>,
    /// Whether a sync is one: for comparisons in which nobody syncs.
    syncs: bool,
}

impl Counting {
    pub fn new() -> Arc<Counting> {
        Arc::new(Counting { inner: FileSystem::new(), files: Mutex::default(), past: Mutex::default(), syncs: true })
    }

    /// Counts syncs and does none.
    pub fn without_syncs() -> Arc<Counting> {
        Arc::new(Counting { inner: FileSystem::new(), files: Mutex::default(), past: Mutex::default(), syncs: false })
    }

    /// Everything since it was made or reset, by kind.
    pub fn totals(&self) -> BTreeMap<Kind, Amount> {
        let mut totals =
            BTreeMap::from([Kind::Log, Kind::Digest, Kind::Spill, Kind::Other].map(|k| (k, Amount::default())));
        for (path, counts) in self.each() {
            let total = totals.entry(kind_of(&path, &counts)).or_default();
            total.read += counts.read.load(Ordering::Relaxed);
            total.written += counts.written.load(Ordering::Relaxed);
            total.syncs += counts.syncs.load(Ordering::Relaxed);
        }
        totals
    }

    /// The names of log files that were read, with the bytes.
    pub fn logs_read(&self) -> Vec<(String, u64)> {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let logs = self.each().into_iter().filter(|(path, counts)| kind_of(path, counts) == Kind::Log);
        let read = logs.map(|(path, counts)| (name(&path), counts.read.load(Ordering::Relaxed)));
        read.filter(|(_, read)| *read > 0).collect()
    }

    /// Begins at zero again.
    pub fn reset(&self) {
        self.past.lock().unwrap().clear();
        for counts in self.files.lock().unwrap().values() {
            counts.read.store(0, Ordering::Relaxed);
            counts.written.store(0, Ordering::Relaxed);
            counts.syncs.store(0, Ordering::Relaxed);
        }
    }

    fn each(&self) -> Vec<(PathBuf, Arc<Counts>)> {
        let files = self.files.lock().unwrap();
        let past = self.past.lock().unwrap();
        let open = files.iter().map(|(path, counts)| (path.clone(), Arc::clone(counts)));
        open.chain(past.iter().cloned()).collect()
    }

    fn forget(&self, path: &Path) -> Option<Arc<Counts>> {
        let counts = self.files.lock().unwrap().remove(path)?;
        self.past.lock().unwrap().push((path.to_path_buf(), Arc::clone(&counts)));
        Some(counts)
    }
}

fn kind_of(path: &Path, counts: &Counts) -> Kind {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name.split('.').nth(1) {
        _ if counts.spill.load(Ordering::Relaxed) => Kind::Spill,
        Some("log") => Kind::Log,
        Some("digest") => Kind::Digest,
        _ => Kind::Other,
    }
}

impl fmt::Debug for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counting")
    }
}

impl Storage for Counting {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let inner = self.inner.open(path, mode)?;
        if mode == OpenMode::CreateNew {
            self.forget(path);
        }
        let counts = Arc::clone(self.files.lock().unwrap().entry(path.to_path_buf()).or_default());
        counts.used.fetch_or(mode != OpenMode::CreateNew, Ordering::Relaxed);
        Ok(Arc::new(Counted { inner, counts, syncs: self.syncs }))
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
        self.inner.rename(from, to)?;
        self.forget(to);
        let moved = self.files.lock().unwrap().remove(from);
        if let Some(moved) = moved {
            self.files.lock().unwrap().insert(to.to_path_buf(), moved);
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)?;
        // A file that is removed before anything is written to it is used without a name.
        if let Some(counts) = self.forget(path)
            && !counts.used.load(Ordering::Relaxed)
        {
            counts.spill.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if self.syncs { self.inner.sync_dir(dir) } else { Ok(()) }
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        self.inner.free_space(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        self.inner.lock(path)
    }

    fn sizes(&self) -> Sizes {
        self.inner.sizes()
    }
}

struct Counted {
    inner: Arc<dyn File>,
    counts: Arc<Counts>,
    syncs: bool,
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl File for Counted {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let read = self.inner.read_at(buf, position)?;
        self.counts.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<()> {
        self.counts.written.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.counts.used.store(true, Ordering::Relaxed);
        self.inner.write_at(buf, position)
    }

    fn write_vectored_at(&self, parts: &[&[u8]], position: u64) -> io::Result<()> {
        self.counts.written.fetch_add(parts.iter().map(|part| part.len() as u64).sum(), Ordering::Relaxed);
        self.counts.used.store(true, Ordering::Relaxed);
        self.inner.write_vectored_at(parts, position)
    }

    fn info(&self) -> io::Result<FileInfo> {
        self.inner.info()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.counts.syncs.fetch_add(1, Ordering::Relaxed);
        if self.syncs { self.inner.sync() } else { Ok(()) }
    }

    fn write_out(&self, begin: Range<u64>, wait_for: Range<u64>) -> io::Result<()> {
        if self.syncs { self.inner.write_out(begin, wait_for) } else { Ok(()) }
    }

    fn reserve(&self, position: u64, len: u64, how: Reserve) -> io::Result<Reserved> {
        self.inner.reserve(position, len, how)
    }

    fn map(&self, len: u64) -> io::Result<Option<Bytes>> {
        self.inner.map(len)
    }

    fn hold(&self, len: u64) -> io::Result<Hold> {
        self.inner.hold(len)
    }

    fn held(&self) -> u64 {
        self.inner.held()
    }

    fn populate(&self, part: &[u8]) -> io::Result<()> {
        self.inner.populate(part)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.inner.descriptor()
    }
}
