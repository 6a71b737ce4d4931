//! The real file system, with somebody who is told of each operation on content and names before it is done, and may
//! have it fail.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use stratalog::storage::{
    DirEntry, File, FileInfo, FileSystem, Hold, LockGuard, OpenMode, Reserve, Reserved, Sizes, Storage,
};

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    Create,
    Read,
    Write,
    Sync,
    Rename,
    Remove,
    SyncDir,
}

/// Told of a call and the path it is on; of a rename, the new one.
pub type Watcher = dyn Fn(Call, &Path) -> io::Result<()> + Send + Sync;

/// The storage.
#[derive(Clone)]
pub struct Watched {
    inner: Arc<FileSystem>,
    watcher: Arc<Watcher>,
}

impl Watched {
    pub fn new(watcher: impl Fn(Call, &Path) -> io::Result<()> + Send + Sync + 'static) -> Arc<Watched> {
        Arc::new(Watched { inner: Arc::new(FileSystem::new()), watcher: Arc::new(watcher) })
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}

impl Storage for Watched {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        if mode == OpenMode::CreateNew {
            (self.watcher)(Call::Create, path)?;
        }
        let (inner, path, watcher) = (self.inner.open(path, mode)?, path.to_path_buf(), Arc::clone(&self.watcher));
        Ok(Arc::new(WatchedFile { inner, path, watcher }))
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
        (self.watcher)(Call::Rename, to)?;
        self.inner.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        (self.watcher)(Call::Remove, path)?;
        self.inner.remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        (self.watcher)(Call::SyncDir, dir)?;
        self.inner.sync_dir(dir)
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

struct WatchedFile {
    inner: Arc<dyn File>,
    path: PathBuf,
    watcher: Arc<Watcher>,
}

impl fmt::Debug for WatchedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl File for WatchedFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        (self.watcher)(Call::Read, &self.path)?;
        self.inner.read_at(buf, position)
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<()> {
        (self.watcher)(Call::Write, &self.path)?;
        self.inner.write_at(buf, position)
    }

    fn write_vectored_at(&self, parts: &[&[u8]], position: u64) -> io::Result<()> {
        (self.watcher)(Call::Write, &self.path)?;
        self.inner.write_vectored_at(parts, position)
    }

    fn info(&self) -> io::Result<FileInfo> {
        self.inner.info()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        (self.watcher)(Call::Sync, &self.path)?;
        self.inner.sync()
    }

    fn reserve(&self, position: u64, len: u64, how: Reserve) -> io::Result<Reserved> {
        // Writes into a window would not be seen.
        let reserved = self.inner.reserve(position, len, how)?;
        Ok(if let Reserved::Window(_) = reserved { Reserved::Space } else { reserved })
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

/// The last part of a path.
pub fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}
