//! An embeddable storage engine for compacted, partitioned logs: the layer under a message broker, an event store or a
//! change-data-capture pipeline, in Apache Kafka's file format.
//!
//! Four types are all that most programs need:
//!
//! - [`Log`] is one data directory. [`Log::open`] recovers it, and takes a directory over that Kafka wrote.
//! - [`Topic`] is a named group of partitions with one [`TopicConfig`]; it routes records by key.
//! - [`Partition`] is one sequence of records: append, fetch, wait, truncate, compact.
//! - [`Reader`] goes through a partition, record by record or batch by batch.
//!
//! ```
//! use stratalog::{Log, LogConfig, Offset, Record, TopicConfig};
//!
//! # fn main() -> stratalog::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! let log = Log::open(dir.path(), LogConfig::new())?;
//! let orders = log.create_topic("orders", 1, TopicConfig::new())?;
//! orders.append(Record::new("order-1", "placed"))?;
//!
//! let partition = log.partition("orders", 0).expect("it was just made");
//! let mut reader = partition.reader(Offset::ZERO)?;
//! let record = reader.next_record()?.expect("there is one");
//! assert_eq!(record.value, Some(&b"placed"[..]));
//! # drop(reader);
//! log.close()
//! # }
//! ```
//!
//! Ready batches of a producer, and what is in them, are in [`format`](mod@format); where the files are is decided by
//! [`storage`]; tools look into a directory with [`inspect`] and mend it with [`repair`].
//!
//! What is promised, and what a crash leaves, is in `docs/design.md`; every byte on disk in `docs/format.md`.

mod append;
mod catalog;
mod compaction;
pub mod config;
pub mod error;
pub mod format;
pub mod inspect;
mod log;
mod maintenance;
mod offset;
mod partition;
mod read;
mod recovery;
pub mod repair;
mod replay;
mod segment;
pub mod storage;
mod sync;
mod truncate;
mod verify;

pub use compaction::CompactMode;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub use compaction::internals;
pub use config::{
    Backpressure, Cleanup, Clock, Durability, LogConfig, ManualClock, RecoveryMode, SystemClock, TopicConfig,
    WatermarkMode,
};
pub use error::{Error, ErrorKind, Result};
pub use format::{
    BatchBuilder, Codec, Header, OwnedHeader, OwnedRecord, Record, RecordBatch, RecordView, TimestampType,
};
pub use log::{Budget, Log, MaintenanceReport, Partition, Topic, partition_for_key};
pub use maintenance::{PassReport, PauseGuard};
pub use offset::{Offset, Timestamp};
pub use partition::{
    Appended, CompactionReport, CompactionStats, FailedPass, Isolation, LastPass, LogStats, Offsets, PartitionStats,
    Pin, PinnedBy, WaitOutcome,
};
#[cfg(feature = "async")]
pub use read::Tail;
pub use read::{Fetch, FetchOptions, FileRegion, OwnedRecords, Reader, Start};
pub use recovery::{Cut, PartitionReport, RecoveryReport};
pub use replay::transactions::AbortedRange;
#[cfg(any(test, feature = "sim"))]
pub use storage::sim;
#[cfg(shuttle)]
#[doc(hidden)]
pub use sync::time as schedules;
pub use verify::{Finding, Severity, VerifyReport};

/// The program in README.md, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
