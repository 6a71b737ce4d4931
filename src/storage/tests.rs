//! Files for models: what loom knows of them is their pages, read and written in no order of their own, and the account of
//! who holds them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use loom::sync::atomic::{AtomicU64, Ordering};

use super::file_cache::FileCache;
use super::holds::{Hold, Holds};
use super::preallocator::Preallocator;
use super::{DirEntry, File, FileInfo, FileKind, LockGuard, OpenMode, Reserve, Reserved, Storage};
use crate::format::RecordBatch;
use crate::segment::PartitionDir;
use crate::{Record, Timestamp};

/// How many pages a file has.
const PAGES: usize = 3;

/// Files whose pages are as large as the batches that are written to them.
#[derive(Debug, Default)]
pub(crate) struct PagedStorage {
    /// Never locked while loom may change threads.
    files: Mutex<BTreeMap<PathBuf, Arc<Paged>>>,
}

/// A file of pages of one size.
pub(crate) struct Paged {
    id: u64,
    holds: Arc<Holds>,
    /// The number of what each holds; 0 lies behind the end.
    pages: [AtomicU64; PAGES],
    /// What was written, by number from 1 on.
    contents: Mutex<Vec<Vec<u8>>>,
}

/// A batch of one record, whose offset is as large as these are: all have the same size.
pub(crate) fn batch(offset: u64, value: &str) -> Vec<u8> {
    let mut builder = RecordBatch::builder();
    builder.push(&Record::new("k", value), Timestamp::from_millis(1_700_000_000_000)).unwrap();
    let mut bytes = builder.build().unwrap().as_bytes().to_vec();
    crate::format::patch_offset(&mut bytes, crate::Offset::new(offset));
    bytes
}

/// How long each of them is.
pub(crate) fn batch_len() -> u64 {
    batch(0, "a").len() as u64
}

/// A partition's place in a storage of its own. Nothing is mapped: loom does not see what is read from a mapping.
pub(crate) fn dir() -> Arc<PartitionDir> {
    let storage = Arc::new(PagedStorage::default());
    let dir = PartitionDir::new(PathBuf::from("/p"), storage, FileCache::new(16, 0), Arc::new(Preallocator::default()));
    dir.mapped_reads.store(false, std::sync::atomic::Ordering::Relaxed);
    Arc::new(dir)
}

impl PagedStorage {
    fn files(&self) -> std::sync::MutexGuard<'_, BTreeMap<PathBuf, Arc<Paged>>> {
        self.files.lock().unwrap()
    }
}

impl Storage for PagedStorage {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut files = self.files();
        if mode == OpenMode::CreateNew {
            assert!(!files.contains_key(path), "made twice");
            let id = files.values().map(|file| file.id).max().unwrap_or(0) + 1;
            let pages = std::array::from_fn(|_| AtomicU64::new(0));
            let file = Paged { id, holds: Arc::default(), pages, contents: Mutex::default() };
            files.insert(path.to_path_buf(), Arc::new(file));
        }
        let file = files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::clone(file) as Arc<dyn File>)
    }
    fn info(&self, path: &Path) -> io::Result<FileInfo> {
        let file = self.files().get(path).cloned().ok_or(io::ErrorKind::NotFound)?;
        file.info()
    }
    fn list(&self, _: &Path) -> io::Result<Vec<DirEntry>> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn remove_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.files();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_path_buf(), file);
        Ok(())
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.files().remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn free_space(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
    fn lock(&self, _: &Path) -> io::Result<Box<dyn LockGuard>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Paged {
    /// The content of a page, and whether it is there.
    fn page(&self, at: usize) -> Option<Vec<u8>> {
        let number = self.pages.get(at)?.load(Ordering::Relaxed);
        let number = number.checked_sub(1)? as usize;
        Some(self.contents.lock().unwrap()[number].clone())
    }
}

impl File for Paged {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let (size, mut done) = (batch_len() as usize, 0);
        while done < buf.len() {
            let at = position as usize + done;
            let Some(page) = self.page(at / size) else { break };
            let part = &page[at % size..];
            let len = part.len().min(buf.len() - done);
            buf[done..done + len].copy_from_slice(&part[..len]);
            done += len;
        }
        Ok(done)
    }
    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<()> {
        let size = batch_len() as usize;
        let writing = self.holds.write(position);
        writing.check(buf, position, |there| self.read_at(there, position))?;
        assert!(position as usize % size == 0 && buf.len() % size == 0, "whole pages are written");
        for (at, page) in buf.chunks(size).enumerate() {
            let mut contents = self.contents.lock().unwrap();
            contents.push(page.to_vec());
            let number = contents.len() as u64;
            drop(contents);
            self.pages[position as usize / size + at].store(number, Ordering::Relaxed);
        }
        Ok(())
    }
    fn write_vectored_at(&self, parts: &[&[u8]], position: u64) -> io::Result<()> {
        self.write_at(&parts.concat(), position)
    }
    fn info(&self) -> io::Result<FileInfo> {
        Ok(FileInfo { kind: FileKind::File, len: 0, id: self.id, modified: 0 })
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.holds.cut(len, || {
            for page in &self.pages[len.div_ceil(batch_len()) as usize..] {
                page.store(0, Ordering::Relaxed);
            }
            Ok(())
        })
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn reserve(&self, _: u64, _: u64, _: Reserve) -> io::Result<Reserved> {
        Ok(Reserved::Nothing)
    }
    fn map(&self, _: u64) -> io::Result<Option<Bytes>> {
        Ok(None)
    }
    fn hold(&self, len: u64) -> io::Result<Hold> {
        self.holds.hold(len)
    }
    fn held(&self) -> u64 {
        self.holds.end()
    }
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl std::fmt::Debug for Paged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Paged")
    }
}

/// Who has got hold of bytes sees them written, though the window that wrote them takes no lock.
#[test]
fn models_held_bytes_of_a_window_are_written() {
    use loom::cell::UnsafeCell;
    #[derive(Default)]
    struct Bytes([UnsafeCell<u8>; 2]);
    // SAFETY: loom checks each access itself.
    #[expect(unsafe_code, reason = "a model: loom fails where two threads meet")]
    unsafe impl Sync for Bytes {}
    crate::sync::tests::explore("held bytes of a window", None, |seen| {
        let (holds, bytes) = (Arc::new(Holds::default()), Arc::new(Bytes::default()));
        let window = holds.window(0..2).unwrap();
        let writer = {
            let bytes = Arc::clone(&bytes);
            loom::thread::spawn(move || {
                for (at, byte) in bytes.0.iter().enumerate() {
                    assert_eq!(window.filled(), at as u64);
                    #[expect(unsafe_code, reason = "a model: loom fails where two threads meet")]
                    // SAFETY: loom ends the model where another thread is in the cell.
                    byte.with_mut(|byte| unsafe { *byte = 1 });
                    window.fill(at as u64 + 1);
                }
            })
        };
        for len in [2, 1] {
            if let Ok(hold) = holds.hold(len) {
                for byte in &bytes.0[..len as usize] {
                    #[expect(unsafe_code, reason = "a model: loom fails where two threads meet")]
                    // SAFETY: loom ends the model where another thread is in the cell.
                    byte.with(|byte| unsafe { assert_eq!(*byte, 1) });
                }
                assert!(holds.cut(0, || Ok(())).is_err(), "what is held is not cut");
                drop(hold);
                seen.note();
                break;
            }
        }
        writer.join().unwrap();
    });
}
