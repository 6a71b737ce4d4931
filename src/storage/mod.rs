//! The storage interface. All other modules read, write and change directories only through [`Storage`] and [`File`].
//! So the same engine runs on a real file system and on a simulated one that can crash at any operation.

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
    /// A new file, for reading and writing. Fails if the name exists.
    CreateNew,
}

/// What kind of entry a name is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A link or anything else. Such entries are never opened.
    Other,
}

/// The metadata of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileInfo {
    /// Its kind.
    pub kind: FileKind,
    /// Its length in bytes.
    pub len: u64,
    /// A number that no other file of the same name shares while this one is held open (the inode).
    pub id: u64,
    /// When the content was last changed, in nanoseconds since 1970 (the modification time). A different time may mean
    /// different content. A new name, or a link, does not change the time.
    pub modified: i64,
}

/// One name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// The name. Names that are not UTF-8 are not listed.
    pub name: String,
    /// Its kind.
    pub kind: FileKind,
}

/// How space ahead of the log end is reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reserve {
    /// Zeros, mapped where that is safe: a write there is a copy in memory and no system call.
    Mapped,
    /// Zeros only: a later sync then has no block to convert and no file size to change.
    Zeroed,
}

/// The sizes of writes and reads for which mapping and reserving ahead pay off. With the defaults `benches/append.rs`
/// is fastest on ext4. Single appends depend on the windows, batches of 100 on the windows ahead, and large batches on
/// the bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// The size of the first window. Each further window is twice the one before. Default 64 KiB.
    pub window_min: u64,
    /// The largest window. It is small enough that its zeros are still in the processor's cache when they are
    /// overwritten. Default 512 KiB.
    pub window_max: u64,
    /// A write larger than this bypasses the windows: one system call costs less than a mapping and a copy. Default 2
    /// KiB.
    pub mapped_write_max: u64,
    /// A write larger than this also bypasses the zeros: they would cost more than they save. Default 256 KiB.
    pub zeroed_write_max: u64,
    /// Zeros that are not mapped are written in pieces of this size: larger pieces would make single appends wait.
    /// Default 128 KiB.
    pub zeroed_piece: u64,
    /// A write larger than this has no space reserved in advance: the reservation is more work in total than one system
    /// call. Default 32 KiB.
    pub ahead_write_max: u64,
    /// How many windows are requested in advance. Default 2.
    pub windows_ahead: usize,
    /// After how many small writes since the file was opened a window is worth its cost. Default 4.
    pub writes_before_window: u32,
    /// The active segment is mapped for reading, or mapped again, when at least this much of it is not mapped, and at
    /// least a quarter of the mapped part. Default 1 MiB.
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

/// The result of a reservation.
#[derive(Debug)]
pub enum Reserved {
    /// The file system cannot reserve space, and nothing changed. Writes still work.
    Nothing,
    /// The space is reserved.
    Space,
    /// The space is reserved and mapped.
    Window(Window),
}

/// The file system operations that a log needs.
///
/// A crash keeps the content of a file as of its last [`File::sync`], and the names in a directory as of its last
/// [`Storage::sync_dir`]. Any subset of the later changes may survive, each possibly in part.
pub trait Storage: Send + Sync + fmt::Debug {
    /// Opens a regular file. Links are not followed.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// Returns the metadata of a name. Links are not followed.
    fn info(&self, path: &Path) -> io::Result<FileInfo>;
    /// Lists the names in a directory, in no particular order.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// Creates a directory. Its parent must exist.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// Renames a file or directory within this storage. Replaces a file that has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a name. Open handles of the file keep working.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Makes the names of a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Returns the bytes free for this process on the file system that holds `dir`.
    fn free_space(&self, dir: &Path) -> io::Result<u64>;
    /// Takes an exclusive lock on the lock file, and creates the file if absent. The lock excludes this and other
    /// processes, including locks that a JVM takes. Fails at once with `WouldBlock` if another holder has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>>;
    /// Returns the sizes for which reserving ahead and mapping pay off. Default: [`Sizes::default`].
    fn sizes(&self) -> Sizes {
        Sizes::default()
    }
    /// Fills a buffer with random bytes, for ids and for the secret that keys are hashed with. Default: the operating
    /// system's random bytes.
    fn fill_random(&self, bytes: &mut [u8]) -> io::Result<()> {
        getrandom::fill(bytes).map_err(|e| io::Error::other(e.to_string()))
    }
}

/// Holds a lock file until dropped.
pub trait LockGuard: Send + Sync + fmt::Debug {}

/// An open file. One thread writes at a time, and any number read. Another thread may reserve space behind the written
/// part at the same time.
pub trait File: Send + Sync + fmt::Debug {
    /// Reads at a position until `buf` is full or the file ends. Returns how many bytes it read.
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize>;
    /// Writes all of `buf` at a position, growing the file where needed. After an error any part of `buf` may be
    /// written.
    ///
    /// # Errors
    /// `ResourceBusy`, with nothing written, if a byte that is [held](Self::hold) would change.
    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<()>;
    /// Writes several buffers completely, one behind the other, as if they were one.
    fn write_vectored_at(&self, parts: &[&[u8]], position: u64) -> io::Result<()> {
        let mut at = position;
        for part in parts {
            self.write_at(part, at)?;
            at += part.len() as u64;
        }
        Ok(())
    }
    /// Returns length and identity.
    fn info(&self) -> io::Result<FileInfo>;
    /// Cuts the file, or grows it with zeros.
    ///
    /// # Errors
    /// `ResourceBusy`, with nothing changed, if the file is [held](Self::hold) beyond `len` or one of its windows ends
    /// beyond `len`.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes content and length durable (fdatasync). After an error the state of everything written since the last
    /// success is unknown, and a second sync proves nothing.
    fn sync(&self) -> io::Result<()>;
    /// Begins to write the first range to the medium, and waits for the writes already begun in the second range. This
    /// makes nothing durable, but the later sync has less to wait for. After an error the file must not be used any
    /// more: the sync may not report the error again.
    fn write_out(&self, begin: Range<u64>, wait_for: Range<u64>) -> io::Result<()> {
        let _ = (begin, wait_for);
        Ok(())
    }
    /// Reserves `len` bytes from `position` on, which read as zeros. The file grows to `position + len`. A full disk is
    /// an error, after which part of the zeros may be written. A storage that wraps another and must see every write
    /// returns [`Reserved::Space`] for a window.
    fn reserve(&self, position: u64, len: u64, how: Reserve) -> io::Result<Reserved>;
    /// Returns the first `len` bytes as a read-only mapping, and holds them while the mapping exists; `None` if the
    /// storage does not map. The caller must [populate](Self::populate) pages before touching them.
    ///
    /// # Errors
    /// The errors of [`hold`](Self::hold).
    fn map(&self, len: u64) -> io::Result<Option<Bytes>>;
    /// Holds the first `len` bytes. Until the hold is dropped, no handle can change them or cut the file below them.
    /// Closing the handle does not end the hold.
    ///
    /// # Errors
    /// `ResourceBusy` if a running write or a window may still change one of these bytes.
    fn hold(&self, len: u64) -> io::Result<Hold>;
    /// Returns how many of the first bytes are held in this process, through this or another handle of the file.
    fn held(&self) -> u64;
    /// Reads the pages of a part of a mapping into memory. A bad sector is an error here; on a later access it would be
    /// a signal.
    fn populate(&self, part: &[u8]) -> io::Result<()> {
        let _ = part;
        Ok(())
    }
    /// Returns the file descriptor, for example for `sendfile`.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;
}
