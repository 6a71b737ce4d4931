//! One error type: what went wrong, in which file, at which byte.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::format::FormatError;
use crate::offset::{Offset, Timestamp};

/// What every fallible call of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// An error with its [`kind`](Error::kind) and, where a file is concerned, its [`path`](Error::path) and the
/// [`position`](Error::position) in it. One word wide.
///
/// ```
/// # use stratalog::{ErrorKind, Log, LogConfig, Offset, TopicConfig};
/// # fn main() -> stratalog::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let log = Log::open(dir.path(), LogConfig::new())?;
/// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
/// let error = events.reader(Offset::new(7)).unwrap_err();
/// match error.kind() {
///     ErrorKind::OffsetOutOfRange { end, .. } => assert_eq!(end.get(), 0),
///     ErrorKind::Closed => println!("somebody closed the log"),
///     _ => return Err(error),
/// }
/// # log.close()
/// # }
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    path: Option<PathBuf>,
    position: Option<u64>,
    source: Option<io::Error>,
}

/// What went wrong. New kinds may be added.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused a call. `source()` returns the operating system's error.
    Io(io::ErrorKind),
    /// The disk is full, or below the configured free-space watermark. Nothing was appended. Appends work again once
    /// there is room. Retention and deletion need no free space.
    DiskFull,
    /// Bytes on disk that are not what was written. Nothing was deleted.
    Corrupt(Cow<'static, str>),
    /// The given batch is not a valid record batch. Nothing was appended.
    InvalidBatch(FormatError),
    /// A batch is larger than `max_batch_bytes`. Nothing was appended.
    BatchTooLarge {
        /// Its size in bytes.
        size: usize,
        /// The configured limit.
        max: usize,
    },
    /// A record without a key on a compacted topic. Nothing was appended.
    MissingKey,
    /// A record's timestamp lies outside the configured bounds. Nothing was appended.
    TimestampOutOfBounds {
        /// The record's timestamp.
        timestamp: Timestamp,
        /// The time of the append.
        now: Timestamp,
    },
    /// The requested offset is not in the partition.
    OffsetOutOfRange {
        /// The requested offset.
        requested: Offset,
        /// The first offset that can be read.
        start: Offset,
        /// One past the last offset that can be read.
        end: Offset,
    },
    /// The end of the partition is not where the caller expects it, or given offsets go backwards. Nothing was
    /// appended.
    UnexpectedOffset {
        /// The offset that the caller gave.
        given: Offset,
        /// The log end offset.
        end: Offset,
    },
    /// Too many bytes were accepted but not yet durable, for longer than the configured wait. Nothing was appended.
    Backpressure {
        /// Bytes accepted and not yet durable.
        unsynced: u64,
        /// The configured bound.
        limit: u64,
    },
    /// A sync failed, so the partition takes no more writes until the log is opened again. What was durable stays
    /// readable.
    Poisoned,
    /// The log, or the topic, was closed or deleted.
    Closed,
    /// The log was opened read-only.
    ReadOnly,
    /// The owner has removed or replaced files since this read-only log was opened: open it again.
    Outdated,
    /// Another process, or another handle in this one, has the directory open.
    Locked,
    /// A directory that is neither empty nor a log. It was not touched.
    NotALog,
    /// The file was written by a newer version, or with features unknown here.
    UnsupportedVersion {
        /// The version in the file.
        found: u32,
        /// The newest version known here.
        supported: u32,
    },
    /// This build leaves out the codec: switch on the feature of that name.
    UnsupportedCodec(&'static str),
    /// A topic name that cannot be a directory name here.
    InvalidName(Cow<'static, str>),
    /// A configuration value out of range.
    InvalidConfig(Cow<'static, str>),
    /// A topic or partition of that name exists already.
    AlreadyExists,
    /// No topic or partition of that name.
    NotFound,
    /// A segment of the chain is missing: the offsets in this range are neither there nor known to be compacted away.
    MissingSegment(Range<Offset>),
    /// Two segments claim the same offsets.
    Overlap(Range<Offset>),
    /// `truncate` below an offset whose record was the reason to compact older records away.
    TruncateBelowCompacted {
        /// The lowest offset that `truncate` accepts.
        lowest: Offset,
    },
    /// The reader did not move for longer than `reader_hold_max`, and tombstones that it had not read yet were removed.
    /// It must start over to know what was deleted.
    LostTombstones {
        /// The reader's position.
        from: Offset,
    },
    /// A truncation removed what the waiter waited for.
    Truncated,
}

impl Error {
    /// Makes an error of this kind, with no file.
    pub(crate) fn new(kind: ErrorKind) -> Error {
        Error(Box::new(Inner { kind, path: None, position: None, source: None }))
    }

    /// Damage in a file.
    pub(crate) fn corrupt(path: &Path, position: u64, what: impl Into<Cow<'static, str>>) -> Error {
        Error::new(ErrorKind::Corrupt(what.into())).at_path(path).at_position(position)
    }

    /// One of our files holds other bytes than were written, or has a version that is not known here.
    pub(crate) fn bad_file(path: &Path, why: &FormatError) -> Error {
        match why {
            FormatError::BadVersion { found, supported } => {
                Error::new(ErrorKind::UnsupportedVersion { found: *found, supported: *supported }).at_path(path)
            }
            why => Error::corrupt(path, 0, why.to_string()),
        }
    }

    /// Wraps an error of the operating system. A full disk has its own kind.
    pub(crate) fn io(error: io::Error, path: &Path) -> Error {
        let kind = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::DiskFull,
            io::ErrorKind::WouldBlock => ErrorKind::Locked,
            kind => ErrorKind::Io(kind),
        };
        Error(Box::new(Inner { kind, path: Some(path.to_path_buf()), position: None, source: Some(error) }))
    }

    /// Makes the error that all later writes return after this failure. The failure is its source.
    pub(crate) fn poisoned_by(cause: &Error) -> Error {
        let mut error = cause.clone();
        error.0.source.get_or_insert_with(|| io::Error::other(cause.0.kind.to_string()));
        error.0.kind = ErrorKind::Poisoned;
        error
    }

    /// The same error, in this file.
    pub(crate) fn at_path(mut self, path: &Path) -> Error {
        self.0.path = Some(path.to_path_buf());
        self
    }

    /// The same error, at this byte of its file.
    pub(crate) fn at_position(mut self, position: u64) -> Error {
        self.0.position = Some(position);
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// The file concerned.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The byte position in that file.
    pub fn position(&self) -> Option<u64> {
        self.0.position
    }

    /// Whether bytes on disk are damaged or missing.
    pub fn is_corruption(&self) -> bool {
        matches!(self.kind(), ErrorKind::Corrupt(_) | ErrorKind::MissingSegment(_) | ErrorKind::Overlap(_))
    }
}

/// Repeats the error, for all threads that wait for the same failed sync.
impl Clone for Error {
    fn clone(&self) -> Error {
        Error(Box::new(Inner {
            kind: self.0.kind.clone(),
            path: self.0.path.clone(),
            position: self.0.position,
            source: self.0.source.as_ref().map(|e| {
                e.raw_os_error().map_or_else(|| io::Error::new(e.kind(), e.to_string()), io::Error::from_raw_os_error)
            }),
        }))
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Error {
        Error::new(kind)
    }
}

/// Bytes that a caller handed in.
impl From<FormatError> for Error {
    fn from(error: FormatError) -> Error {
        match error {
            FormatError::UnsupportedCodec(name) => Error::new(ErrorKind::UnsupportedCodec(name)),
            error => Error::new(ErrorKind::InvalidBatch(error)),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("path", &self.0.path)
            .field("position", &self.0.position)
            .field("source", &self.0.source)
            .finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.0.kind, &self.0.source) {
            (ErrorKind::Io(_), Some(source)) => write!(f, "{source}")?,
            (kind, Some(source)) => write!(f, "{kind} ({source})")?,
            (kind, None) => write!(f, "{kind}")?,
        }
        if let Some(path) = &self.0.path {
            write!(f, ": {}", path.display())?;
        }
        if let Some(position) = self.0.position {
            write!(f, ", at byte {position}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ErrorKind::*;
        match self {
            Io(kind) => write!(f, "{kind}"),
            DiskFull => {
                f.write_str("the disk is full or below its free-space watermark; free some room and append again")
            }
            Corrupt(what) => write!(f, "damaged: {what}"),
            InvalidBatch(error) => write!(f, "not a valid record batch: {error}"),
            BatchTooLarge { size, max } => write!(f, "a batch of {size} bytes is over max_batch_bytes = {max}"),
            MissingKey => f.write_str("a compacted topic takes no record without a key"),
            TimestampOutOfBounds { timestamp, now } => {
                write!(f, "timestamp {timestamp} is too far from the time of the append, {now}")
            }
            OffsetOutOfRange { requested, start, end } => write!(f, "offset {requested} is not in [{start}, {end})"),
            UnexpectedOffset { given, end } => write!(f, "offset {given} was given, but the log ends at {end}"),
            Backpressure { unsynced, limit } => write!(f, "{unsynced} bytes wait to be synced, the bound is {limit}"),
            Poisoned => f.write_str("a sync failed: no more writes until the log is opened anew"),
            Closed => f.write_str("closed or deleted"),
            ReadOnly => f.write_str("opened read-only"),
            Outdated => f.write_str("the owner of the log has changed what is read here: open it again"),
            Locked => f.write_str("in use by another process, or by another handle in this one"),
            NotALog => f.write_str("not an empty directory and not a log"),
            UnsupportedVersion { found, supported } => {
                write!(f, "version {found}, but only versions up to {supported} are known here")
            }
            UnsupportedCodec(name) => write!(f, "this build leaves out {name}: switch on the feature `{name}`"),
            InvalidName(why) => write!(f, "invalid topic name: {why}"),
            InvalidConfig(why) => write!(f, "invalid configuration: {why}"),
            AlreadyExists => f.write_str("exists already"),
            NotFound => f.write_str("no such topic or partition"),
            MissingSegment(range) => write!(f, "the segment with offsets [{}, {}) is missing", range.start, range.end),
            Overlap(range) => write!(f, "two segments hold offsets [{}, {})", range.start, range.end),
            TruncateBelowCompacted { lowest } => {
                write!(f, "compaction relied on records up to {lowest}: truncate there or above, or use truncate_lossy")
            }
            LostTombstones { from } => {
                write!(f, "deletions after offset {from} were removed before they were read: start over")
            }
            Truncated => f.write_str("the log was truncated below the offset waited for"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|e| e as _)
    }
}
