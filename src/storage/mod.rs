//! The seam to the disk. Everything above reads and writes through [`Storage`] and [`File`], directory operations
//! included, so that the same engine runs on a real file system and on a simulated one that can crash at any operation.

pub(crate) mod buffer_pool;
pub(crate) mod file_cache;
mod fs;
mod holds;
pub(crate) mod preallocator;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub(crate) mod small_file;
#[cfg(all(test, loom))]
pub(crate) mod tests;
pub(crate) mod throttle;

pub use fs::{FileSystem, Window};
pub(crate) use fs::{fetch_for_reading, open_files_limit};
pub use holds::Hold;

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A new file, for reading and writing; an error when the name exists.
    CreateNew,
}

/// What kind of thing a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A link or anything else: never opened here.
    Other,
}

/// What is known of a file without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileInfo {
    /// Its kind.
    pub kind: FileKind,
    /// Its length in bytes.
    pub len: u64,
    /// A number that another file of the same name does not share while this one is held open (the inode).
    pub id: u64,
    /// When its content was changed last, in nanoseconds since 1970 (the modification time). Another time may be that of
    /// other content; a new name, or a link, changes none.
    pub modified: i64,
}

/// One name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// The name; names that are not UTF-8 are not listed.
    pub name: String,
    /// Its kind.
    pub kind: FileKind,
}

/// How space ahead of the end is reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reserve {
    /// Zeros that are mapped where that is safe: what is written there is a copy in memory, and no call.
    Mapped,
    /// Zeros, so that a later sync has no block to convert and no size to change.
    Zeroed,
}

/// What it pays to do for writes and reads of which size. The defaults are those that `benches/append.rs` is fastest with on ext4: for
/// single appends the windows, for batches of 100 the windows ahead, for large batches the bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// The first window; each is twice the one before. Default 64 KiB.
    pub window_min: u64,
    /// The largest window: what was zeroed is still in the processor's cache when it is written over. Default 512 KiB.
    pub window_max: u64,
    /// A write larger than this goes past the windows: one call costs less than a mapping and a copy. Default 2 KiB.
    pub mapped_write_max: u64,
    /// A write larger than this goes past the zeros as well: they would cost more than they save. Default 256 KiB.
    pub zeroed_write_max: u64,
    /// Zeros that nothing is mapped of are written in pieces of this size: larger ones make single appends wait.
    /// Default 128 KiB.
    pub zeroed_piece: u64,
    /// A write larger than this has no space reserved ahead of its time: it is more work in all than one call. Default
    /// 32 KiB.
    pub ahead_write_max: u64,
    /// How many windows are ordered ahead of their time. Default 2.
    pub windows_ahead: usize,
    /// How many small writes since the file was opened make a window worth its price. Default 4.
    pub writes_before_window: u32,
    /// The active segment is mapped for reading, and mapped again, when this much of it is not, and a quarter of what is.
    /// Default 1 MiB.
    pub map_growth_min: u64,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes {
            window_min: 64 << 10,
            window_max: 512 << 10,
            mapped_write_max: 2 << 10,
            zeroed_write_max: 256 << 10,
            zeroed_piece: 128 << 10,
            ahead_write_max: 32 << 10,
            windows_ahead: 2,
            writes_before_window: 4,
            map_growth_min: 1 << 20,
        }
    }
}

/// What a reservation came to.
#[derive(Debug)]
pub enum Reserved {
    /// Nothing: the file system cannot do it, and nothing changed. Writes work all the same.
    Nothing,
    /// The space is there.
    Space,
    /// The space is there and mapped.
    Window(Window),
}

/// A file system, as much of one as a log needs.
///
/// What a crash keeps: the content of a file up to its last [`File::sync`], the names in a directory up to its last
/// [`Storage::sync_dir`]. Anything later may be there in part, in any subset.
pub trait Storage: Send + Sync + fmt::Debug {
    /// Opens a regular file. Links are not followed.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// What a name stands for, links not followed.
    fn info(&self, path: &Path) -> io::Result<FileInfo>;
    /// The names in a directory, in no particular order.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// Makes a directory; its parent must exist.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// Renames a file or directory within this storage; a file that has the new name is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a name. Who has the file open goes on using it.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Makes the names of a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes free for this process on the file system that holds `dir`.
    fn free_space(&self, dir: &Path) -> io::Result<u64>;
    /// Takes the lock file, made when absent: exclusive against this and other processes, a JVM's locks included.
    /// Fails at once with `WouldBlock` when another holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>>;
    /// What it pays to reserve ahead of appends, and to map. Default: [`Sizes::default`].
    fn sizes(&self) -> Sizes {
        Sizes::default()
    }
    /// Random bytes, for ids and for the secret that keys are hashed with. Default: the operating system's.
    fn fill_random(&self, bytes: &mut [u8]) -> io::Result<()> {
        getrandom::fill(bytes).map_err(|e| io::Error::other(e.to_string()))
    }
}

/// Holds a lock file until dropped.
pub trait LockGuard: Send + Sync + fmt::Debug {}

/// An open file. One thread writes at a time; any number read. Behind what is written another thread may reserve space
/// meanwhile.
pub trait File: Send + Sync + fmt::Debug {
    /// Reads at a position until `buf` is full or the file ends; returns the bytes read.
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize>;
    /// Writes all of `buf` at a position, growing the file where needed. After an error any part of it may be there.
    ///
    /// # Errors
    /// `ResourceBusy`, and nothing written, where a byte that is [held](Self::hold) would change.
    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<()>;
    /// Writes all of several buffers, one behind the other, as if they were one.
    fn write_vectored_at(&self, parts: &[&[u8]], position: u64) -> io::Result<()> {
        let mut at = position;
        for part in parts {
            self.write_at(part, at)?;
            at += part.len() as u64;
        }
        Ok(())
    }
    /// Length and identity.
    fn info(&self) -> io::Result<FileInfo>;
    /// Cuts or grows (with zeros) the file.
    ///
    /// # Errors
    /// `ResourceBusy`, and nothing changed, where the file is [held](Self::hold) beyond `len` or a window of it ends
    /// beyond `len`.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes content and length durable (fdatasync). After an error nothing is known of what was written since the
    /// last success, and a second try proves nothing.
    fn sync(&self) -> io::Result<()>;
    /// Begins to write what lies in the first range to the medium, and waits for what was begun of the second. It makes
    /// nothing durable, but the sync that does has less to wait for. After an error the file is of no more use: the sync
    /// may not tell of it again.
    fn write_out(&self, begin: Range<u64>, wait_for: Range<u64>) -> io::Result<()> {
        let _ = (begin, wait_for);
        Ok(())
    }
    /// Reserves `len` bytes from `position` on, which read as zeros; the file grows to `position + len`. A full disk is
    /// an error, and a part of the zeros may then be there. A storage that wraps another and has to see every write
    /// answers [`Reserved::Space`] for a window.
    fn reserve(&self, position: u64, len: u64, how: Reserve) -> io::Result<Reserved>;
    /// The first `len` bytes as a read-only mapping, held while it lives; `None` when the storage does not map. Its pages
    /// are to be [populated](Self::populate) before they are touched.
    ///
    /// # Errors
    /// As [`hold`](Self::hold).
    fn map(&self, len: u64) -> io::Result<Option<Bytes>>;
    /// Holds the first `len` bytes: through whichever handle, they do not change and the file is not cut below them
    /// until the hold is dropped. Closing the handle does not end it.
    ///
    /// # Errors
    /// `ResourceBusy` where a write that is under way or a window may still change one of them.
    fn hold(&self, len: u64) -> io::Result<Hold>;
    /// How many of the first bytes are held by somebody in this process, through this or another handle of the file.
    fn held(&self) -> u64;
    /// Reads the pages of a part of a mapping in: a bad sector is an error here, and would be a signal later.
    fn populate(&self, part: &[u8]) -> io::Result<()> {
        let _ = part;
        Ok(())
    }
    /// The descriptor, for `sendfile` and the like.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;
}
