//! The real file system: the only place with `std::fs`, mappings and `unsafe`.
#![allow(unsafe_code, reason = "mappings; each block has its proof")]

mod lock;
mod window;

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};

use self::lock::FsLock;
pub use self::window::Window;
pub(crate) use self::window::fetch_for_reading;
use super::holds::{Hold, Holds, Registry};
use super::{DirEntry, File, FileInfo, FileKind, LockGuard, OpenMode, Reserve, Reserved, Storage};

/// The bytes that this process holds of its files, by device and inode. A mapping keeps its inode from being reused.
static HELD: Registry<(u64, u64)> = Registry::new();

/// Zeros are written ahead in pieces of this size.
static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

/// Files of the operating system.
#[derive(Clone, Debug)]
pub struct FileSystem {
    file_mode: u32,
    dir_mode: u32,
    map: bool,
}

impl FileSystem {
    /// Files get mode 0600 and directories 0700. Mappings are used where they are safe.
    pub fn new() -> FileSystem {
        FileSystem { file_mode: 0o600, dir_mode: 0o700, map: true }
    }

    /// Creates files with this mode, less the process's umask.
    pub fn file_mode(mut self, mode: u32) -> FileSystem {
        self.file_mode = mode;
        self
    }

    /// Creates directories with this mode, less the process's umask.
    pub fn dir_mode(mut self, mode: u32) -> FileSystem {
        self.dir_mode = mode;
        self
    }

    /// Whether files are mapped, for reading and for small appends. Default `true`.
    pub fn map(mut self, map: bool) -> FileSystem {
        self.map = map;
        self
    }
}

impl Default for FileSystem {
    fn default() -> FileSystem {
        FileSystem::new()
    }
}

impl Storage for FileSystem {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        // `O_NONBLOCK` changes nothing for a regular file. Without it, opening a pipe that has no writer would block.
        options.read(true).mode(self.file_mode).custom_flags(no_follow() | libc::O_NONBLOCK);
        match mode {
            OpenMode::Read => {}
            OpenMode::Write => {
                options.write(true);
            }
            OpenMode::CreateNew => {
                options.write(true).create_new(true);
            }
        }
        let file = retry(|| options.open(path))?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let holds = HELD.of((metadata.dev(), metadata.ino()));
        Ok(Arc::new(FsFile { file: Arc::new(file), map: self.map, holds }))
    }

    fn info(&self, path: &Path) -> io::Result<FileInfo> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(info(&metadata, kind(metadata.file_type())))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(DirEntry { name, kind: kind(entry.file_type()?) });
            }
        }
        Ok(entries)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::DirBuilder::new().mode(self.dir_mode).create(dir)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        retry(|| fs::File::open(dir))?.sync_all()
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        fs2::available_space(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(self.file_mode).custom_flags(no_follow());
        let file = retry(|| options.open(path))?;
        Ok(Box::new(FsLock::take(file)?))
    }
}

struct FsFile {
    file: Arc<fs::File>,
    map: bool,
    holds: Arc<Holds>,
}

/// A mapping for reading, which holds its file. The hold is dropped first: once nothing of a removed file is mapped or
/// open, another file may get its identity.
struct Mapping {
    _hold: Hold,
    map: Mmap,
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl File for FsFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], position + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<()> {
        let writing = self.holds.write(position);
        writing.check(buf, position, |there| self.read_at(there, position))?;
        self.file.write_all_at(buf, position)
    }

    fn write_vectored_at(&self, parts: &[&[u8]], position: u64) -> io::Result<()> {
        let writing = self.holds.write(position);
        let mut at = position;
        for part in parts {
            writing.check(part, at, |there| self.read_at(there, at))?;
            at += part.len() as u64;
        }
        let slices: Vec<IoSlice<'_>> =
            parts.iter().filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)).collect();
        let written = retry(|| rustix::io::pwritev(&self.file, &slices, position).map_err(io::Error::from))?;
        let mut skip = written;
        let mut at = position + written as u64;
        for part in parts {
            let rest = part.get(skip.min(part.len())..).unwrap_or_default();
            skip = skip.saturating_sub(part.len());
            self.file.write_all_at(rest, at)?;
            at += rest.len() as u64;
        }
        Ok(())
    }

    fn info(&self) -> io::Result<FileInfo> {
        let metadata = self.file.metadata()?;
        Ok(info(&metadata, FileKind::File))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.holds.cut(len, || retry(|| self.file.set_len(len)))
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    #[cfg(target_os = "linux")]
    fn write_out(&self, begin: std::ops::Range<u64>, wait_for: std::ops::Range<u64>) -> io::Result<()> {
        use libc::{SYNC_FILE_RANGE_WAIT_AFTER, SYNC_FILE_RANGE_WAIT_BEFORE, SYNC_FILE_RANGE_WRITE};
        sync_file_range(&self.file, begin, SYNC_FILE_RANGE_WRITE)?;
        let and_wait = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
        sync_file_range(&self.file, wait_for, and_wait)
    }

    fn reserve(&self, position: u64, len: u64, how: Reserve) -> io::Result<Reserved> {
        let mapped = how == Reserve::Mapped;
        if mapped && !(self.map && is_mapped_safely(&self.file)) {
            return Ok(Reserved::Nothing);
        }
        let mut at = position;
        while at < position + len {
            let size = (ZEROS.len() as u64).min(position + len - at) as usize;
            self.write_at(&ZEROS[..size], at)?;
            at += size as u64;
        }
        Ok(if mapped { self.window(position, len)?.map_or(Reserved::Space, Reserved::Window) } else { Reserved::Space })
    }

    fn map(&self, len: u64) -> io::Result<Option<Bytes>> {
        if !self.map {
            return Ok(None);
        }
        if len == 0 {
            return Ok(Some(Bytes::new()));
        }
        let hold = self.holds.hold(len)?;
        if self.file.metadata()?.len() < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: the mapping is read-only. The hold, which lives as long as the mapping, keeps every handle of the
        // file in this process from changing the bytes below `len`, and from truncating the file there (the invariant
        // of `holds`). The log's lock keeps other processes away; a process that ignores it is outside of what Rust can
        // promise.
        let map = unsafe { MmapOptions::new().len(len as usize).map(&*self.file)? };
        Ok(Some(Bytes::from_owner(Mapping { _hold: hold, map })))
    }

    fn hold(&self, len: u64) -> io::Result<Hold> {
        // The open file keeps its identity from being reused. It is dropped after the hold.
        Ok(Hold::new((self.holds.hold(len)?, Arc::clone(&self.file))))
    }

    fn held(&self) -> u64 {
        self.holds.end()
    }

    #[cfg(target_os = "linux")]
    fn populate(&self, part: &[u8]) -> io::Result<()> {
        let page = rustix::param::page_size();
        let start = part.as_ptr() as usize / page * page;
        let end = part.as_ptr() as usize + part.len();
        // SAFETY: the range lies within a live mapping, which `part` borrows, and starts at that part's page.
        // Populating reads pages in and changes none.
        let done = unsafe { rustix::mm::madvise(start as *mut _, end - start, rustix::mm::Advice::LinuxPopulateRead) };
        match done {
            // Kernels before 5.14 do not support this advice.
            Ok(()) | Err(rustix::io::Errno::INVAL) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}

impl FsFile {
    /// Maps the reserved range. Returns `None` if its pages cannot be populated for writing.
    #[cfg(target_os = "linux")]
    fn window(&self, position: u64, len: u64) -> io::Result<Option<Window>> {
        let page = rustix::param::page_size() as u64;
        let start = position / page * page;
        let hold = self.holds.window(position..position + len)?;
        // SAFETY: the file was written up to `position + len`, so it has blocks for all of it. The window's hold keeps
        // it from being truncated below that while the window lives. The window writes only at and above the position
        // up to which it is filled, and nobody can hold bytes there (the invariant of `holds`), so no reference to them
        // exists.
        let map =
            unsafe { MmapOptions::new().offset(start).len((position + len - start) as usize).map_mut(&*self.file)? };
        // Unavailable pages show up here, and not as a signal later.
        Ok(map.advise(memmap2::Advice::PopulateWrite).is_ok().then(|| Window::mapped(start, map, hold)))
    }

    #[cfg(not(target_os = "linux"))]
    fn window(&self, _position: u64, _len: u64) -> io::Result<Option<Window>> {
        Ok(None)
    }
}

impl fmt::Debug for FsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

/// Whether small writes may go through a mapping. They may if a fault in written blocks cannot run out of space, which
/// needs a file system that writes in place. XFS does not where a copy of the file shares its blocks.
#[cfg(target_os = "linux")]
fn is_mapped_safely(file: &fs::File) -> bool {
    const EXT: u64 = 0xEF53;
    const TMPFS: u64 = 0x0102_1994;
    rustix::fs::fstatfs(file).is_ok_and(|stat| matches!(stat.f_type as u64, EXT | TMPFS))
}

/// Only on Linux does a sync of the file cover pages that were dirtied through a mapping.
#[cfg(not(target_os = "linux"))]
fn is_mapped_safely(_file: &fs::File) -> bool {
    false
}

#[cfg(target_os = "linux")]
fn sync_file_range(file: &fs::File, range: std::ops::Range<u64>, flags: libc::c_uint) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // A length of zero would mean the whole file.
    if range.is_empty() {
        return Ok(());
    }
    let (start, len) = (range.start as libc::off64_t, (range.end - range.start) as libc::off64_t);
    // SAFETY: the descriptor is open for the whole call, which takes no pointer.
    let done = retry(|| match unsafe { libc::sync_file_range(file.as_raw_fd(), start, len, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    });
    match done {
        // These file systems do not support the call.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ESPIPE | libc::EINVAL | libc::ENOSYS)) => Ok(()),
        done => done,
    }
}

fn no_follow() -> i32 {
    libc::O_NOFOLLOW
}

fn info(metadata: &fs::Metadata, kind: FileKind) -> FileInfo {
    let modified = metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
    FileInfo { kind, len: metadata.len(), id: metadata.ino(), modified }
}

fn kind(kind: fs::FileType) -> FileKind {
    if kind.is_file() {
        FileKind::File
    } else if kind.is_dir() {
        FileKind::Directory
    } else {
        debug_assert!(
            kind.is_symlink() || kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device()
        );
        FileKind::Other
    }
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// The number of files that this process may have open.
pub(crate) fn open_files_limit() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}
