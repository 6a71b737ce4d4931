//! The simulated storage, with a bug.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use stratalog::Offset;
use stratalog::format::state::decode_slot;
use stratalog::format::{Batches, State, patch_offset};
use stratalog::sim::SimStorage;
use stratalog::storage::{DirEntry, File, FileInfo, Hold, LockGuard, OpenMode, Reserve, Reserved, Sizes, Storage};

/// Which files a bug concerns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    Any,
    Log,
    CleanedLog,
    State,
    CatalogTemp,
    LogDir,
}

impl Which {
    fn is(self, path: &Path) -> bool {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match self {
            Which::Any => true,
            Which::Log => name.ends_with(".log"),
            Which::CleanedLog => name.contains(".log.") && name.ends_with(".cleaned"),
            Which::State => name == "state",
            Which::CatalogTemp => name == "stratalog.topics.tmp",
            Which::LogDir => name == "log",
        }
    }
}

/// What is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    SkipSync(Which),
    SkipDirSync(Which),
    /// The first directory sync after a rename to a name that ends so.
    SkipDirSyncAfter(&'static str),
    StateBeforeData,
    RetrySync,
    SwallowSyncError,
    SwallowDirSyncError,
    WriteOnlyWhatDiffers,
    NoLock,
    IgnoreShrink,
    StaleBatchInWindow,
    DropEverySecondState,
    LoseRename(&'static str),
    StaleReads,
    StateAfterNames,
    ClockAhead,
    ShiftOffsets,
    SwallowNoSpace,
    WriteThrough,
    ForgetPosition,
    PanicWhenFull,
    LoseKeptTail,
    ShortWrites,
    DamageCleaned,
    WatermarkAhead,
    DurableEndAhead,
    ForgetWinner,
    Misdirect,
}

/// A storage with a bug.
#[derive(Debug)]
pub struct PlantedStorage {
    inner: SimStorage,
    bug: Bug,
    memory: Arc<Mutex<Memory>>,
}

/// What a bug remembers.
#[derive(Default)]
struct Memory {
    count: u64,
    skip_dir_sync: bool,
    /// Done later than it was asked for.
    held_back: Vec<Held>,
    /// Pages read once.
    pages: HashMap<(PathBuf, u64, usize), Vec<u8>>,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("count", &self.count).finish_non_exhaustive()
    }
}

enum Held {
    Write(Arc<dyn File>, Vec<u8>, u64),
    Sync(Arc<dyn File>),
}

impl Memory {
    fn nth(&mut self, n: u64) -> bool {
        self.count += 1;
        self.count.is_multiple_of(n)
    }

    fn catch_up(&mut self) -> io::Result<()> {
        self.held_back.drain(..).try_for_each(|held| match held {
            Held::Write(file, bytes, position) => file.write_at(&bytes, position),
            Held::Sync(file) => file.sync(),
        })
    }
}

impl PlantedStorage {
    pub fn new(inner: SimStorage, bug: Bug) -> PlantedStorage {
        PlantedStorage { inner, bug, memory: Arc::default() }
    }

    fn after_names(&self) -> io::Result<()> {
        if self.bug == Bug::StateAfterNames { self.memory.lock().unwrap().catch_up() } else { Ok(()) }
    }
}

impl Storage for PlantedStorage {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let opened = self.inner.open(path, mode);
        let file =
            PlantedFile { inner: opened?, path: path.to_path_buf(), bug: self.bug, memory: Arc::clone(&self.memory) };
        Ok(Arc::new(file))
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
        let name = to.to_str().unwrap_or_default();
        match self.bug {
            Bug::LoseRename(end) if name.ends_with(end) => return Ok(()),
            Bug::SkipDirSyncAfter(end) if name.ends_with(end) => self.memory.lock().unwrap().skip_dir_sync = true,
            _ => {}
        }
        self.inner.rename(from, to)?;
        self.after_names()
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)?;
        self.after_names()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        match self.bug {
            Bug::SkipDirSync(Which::LogDir) if Which::LogDir.is(dir) => return Ok(()),
            Bug::SkipDirSync(Which::Any) if dir.components().count() > 2 => return Ok(()),
            Bug::SkipDirSyncAfter(_) if std::mem::take(&mut self.memory.lock().unwrap().skip_dir_sync) => return Ok(()),
            Bug::SwallowDirSyncError => {
                let _ = self.inner.sync_dir(dir);
                return Ok(());
            }
            _ => {}
        }
        self.inner.sync_dir(dir)?;
        self.after_names()
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        self.inner.free_space(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        match self.inner.lock(path) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && self.bug == Bug::NoLock => Ok(Box::new(NoLock)),
            locked => locked,
        }
    }

    fn sizes(&self) -> Sizes {
        self.inner.sizes()
    }

    fn fill_random(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.inner.fill_random(bytes)
    }
}

#[derive(Debug)]
struct NoLock;

impl LockGuard for NoLock {}

#[derive(Debug)]
struct PlantedFile {
    inner: Arc<dyn File>,
    path: PathBuf,
    bug: Bug,
    memory: Arc<Mutex<Memory>>,
}

impl PlantedFile {
    /// What is written instead.
    fn changed(&self, buf: &[u8]) -> Vec<u8> {
        let is_state = self.path.to_str().is_some_and(|path| path.ends_with("/state"));
        match self.bug {
            Bug::ForgetPosition if is_state => with_state(buf, |state| {
                state.durable_position = 0;
                state.durable_end = state.durable_end.min(state.active_base);
            }),
            Bug::WatermarkAhead if is_state => {
                with_state(buf, |state| state.high_watermark = Offset::new(state.high_watermark.get() + 3))
            }
            Bug::DurableEndAhead if is_state => {
                with_state(buf, |state| state.durable_end = Offset::new(state.durable_end.get() + 1))
            }
            Bug::ForgetWinner if is_state => with_state(buf, |state| state.max_winner_offset = None),
            Bug::ShiftOffsets if Which::CleanedLog.is(&self.path) => {
                let mut bytes = buf.to_vec();
                let starts: Vec<(usize, u64)> = starts(buf);
                for (at, base) in starts.into_iter().skip(1) {
                    patch_offset(&mut bytes[at..], Offset::new(base + 1));
                }
                bytes
            }
            Bug::DamageCleaned if Which::CleanedLog.is(&self.path) => {
                let mut bytes = buf.to_vec();
                if let Some(last) = bytes.last_mut() {
                    *last ^= 1;
                }
                bytes
            }
            _ => buf.to_vec(),
        }
    }

    /// An old batch, made to look like the next one.
    fn old_batch(&self, position: u64) -> Option<Vec<u8>> {
        let mut all = vec![0; position as usize];
        self.inner.read_at(&mut all, 0).ok()?;
        let batches: Vec<_> = Batches::new(&all).filter_map(Result::ok).collect();
        let (first, last) = (batches.first()?, batches.last()?);
        let mut bytes = first.as_bytes().to_vec();
        patch_offset(&mut bytes, last.header().next_offset());
        Some(bytes)
    }

    fn differs(&self, buf: &[u8], position: u64) -> bool {
        let mut there = vec![0; buf.len()];
        !self.inner.read_at(&mut there, position).is_ok_and(|read| read == buf.len() && there == buf)
    }

    fn write(&self, buf: &[u8], position: u64) -> io::Result<()> {
        let mut memory = self.memory.lock().unwrap();
        let is_state = Which::State.is(&self.path);
        match self.bug {
            Bug::StateAfterNames if is_state => {
                memory.held_back.push(Held::Write(Arc::clone(&self.inner), buf.to_vec(), position));
                Ok(())
            }
            // Both copies of it: an update writes one, syncs, and writes the other.
            Bug::DropEverySecondState if is_state => {
                memory.count += 1;
                if memory.count % 4 >= 2 { Ok(()) } else { self.inner.write_at(buf, position) }
            }
            Bug::WriteOnlyWhatDiffers if !self.differs(buf, position) => Ok(()),
            Bug::SwallowNoSpace => match self.inner.write_at(buf, position) {
                Err(e) if e.kind() == io::ErrorKind::StorageFull => Ok(()),
                written => written,
            },
            // As a store into a mapped hole does.
            Bug::PanicWhenFull => match self.inner.write_at(buf, position) {
                Err(e) if e.kind() == io::ErrorKind::StorageFull => panic!("a signal: {e}"),
                written => written,
            },
            Bug::LoseKeptTail if self.path.to_str().is_some_and(|path| path.ends_with(".broken")) => Ok(()),
            Bug::ShortWrites if Which::Log.is(&self.path) && memory.nth(5) => {
                self.inner.write_at(&buf[..buf.len() / 2], position)
            }
            Bug::Misdirect if Which::Log.is(&self.path) && memory.nth(5) => {
                self.inner.write_at(buf, position.saturating_sub(20))
            }
            Bug::WriteThrough if Which::Log.is(&self.path) => {
                self.inner.write_at(buf, position)?;
                self.inner.sync()
            }
            _ => self.inner.write_at(&self.changed(buf), position),
        }
    }
}

impl File for PlantedFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        match self.bug {
            Bug::StaleReads if Which::Log.is(&self.path) => {
                let key = (self.path.clone(), position, buf.len());
                let mut memory = self.memory.lock().unwrap();
                if let Some(page) = memory.pages.get(&key) {
                    buf[..page.len()].copy_from_slice(page);
                    return Ok(page.len());
                }
                let read = self.inner.read_at(buf, position)?;
                memory.pages.insert(key, buf[..read].to_vec());
                Ok(read)
            }
            _ => self.inner.read_at(buf, position),
        }
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<()> {
        self.write(buf, position)
    }

    fn write_vectored_at(&self, parts: &[&[u8]], position: u64) -> io::Result<()> {
        self.write(&parts.concat(), position)
    }

    fn info(&self) -> io::Result<FileInfo> {
        self.inner.info()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.bug == Bug::IgnoreShrink && Which::Log.is(&self.path) && self.inner.info()?.len > len {
            return Ok(());
        }
        self.inner.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        let is_log = Which::Log.is(&self.path);
        match self.bug {
            Bug::SkipSync(which) if which.is(&self.path) => Ok(()),
            Bug::StateBeforeData if is_log => {
                self.memory.lock().unwrap().held_back.push(Held::Sync(Arc::clone(&self.inner)));
                Ok(())
            }
            Bug::StateBeforeData if Which::State.is(&self.path) => {
                self.inner.sync()?;
                self.memory.lock().unwrap().catch_up()
            }
            Bug::StateAfterNames if Which::State.is(&self.path) => {
                self.memory.lock().unwrap().held_back.push(Held::Sync(Arc::clone(&self.inner)));
                Ok(())
            }
            Bug::RetrySync => self.inner.sync().or_else(|_| self.inner.sync()),
            Bug::SwallowSyncError => {
                let _ = self.inner.sync();
                Ok(())
            }
            _ => self.inner.sync(),
        }
    }

    fn reserve(&self, position: u64, len: u64, how: Reserve) -> io::Result<Reserved> {
        let reserved = self.inner.reserve(position, len, how)?;
        if self.bug == Bug::StaleBatchInWindow
            && let Some(batch) = self.old_batch(position).filter(|batch| batch.len() as u64 <= len)
        {
            self.inner.write_at(&batch, position)?;
        }
        // Writes into a window would not be seen.
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

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// The slots of a `state`, changed.
fn with_state(buf: &[u8], change: impl Fn(&mut State)) -> Vec<u8> {
    match decode_slot(buf) {
        Ok((sequence, mut state)) => {
            change(&mut state);
            state.encode(sequence, buf.len()).unwrap_or_else(|| buf.to_vec())
        }
        Err(_) => buf.to_vec(),
    }
}

/// Where batches begin, and their base offsets.
fn starts(bytes: &[u8]) -> Vec<(usize, u64)> {
    let mut at = 0;
    let mut starts = Vec::new();
    for batch in Batches::new(bytes).filter_map(Result::ok) {
        starts.push((at, batch.header().base_offset.get()));
        at += batch.header().size;
    }
    starts
}
