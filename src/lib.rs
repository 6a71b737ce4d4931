//! stratalog: an embeddable storage engine for compacted, partitioned logs.

mod active;
mod appender;
mod budget;
mod catalog;
mod compaction;
pub mod config;
mod durability;
mod epochs;
pub mod error;
pub mod format;
pub mod inspect;
mod kafka_dir;
mod log;
mod maintenance;
mod offset;
mod opening;
mod partition;
mod pins;
mod producers;
mod reader;
mod recovery;
pub mod repair;
mod retention;
mod route;
mod segment;
mod shared;
mod state;
mod stats;
pub mod storage;
mod swap;
mod tail;
mod topic;
mod transactions;
mod truncate;
mod verify;
mod view;

pub use appender::Appended;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub use compaction::internals;
pub use compaction::pass::{CompactMode, CompactionReport};
pub use config::{
    Backpressure, Cleanup, Clock, Durability, LogConfig, ManualClock, RecoveryMode, SystemClock, TopicConfig,
    WatermarkMode,
};
pub use error::{Error, ErrorKind, Result};
pub use format::{BatchBuilder, Codec, Header, Record, RecordBatch, RecordView, TimestampType};
pub use log::{Budget, Log, MaintenanceReport, RecoveryReport};
pub use maintenance::PassReport;
pub use offset::{Offset, Timestamp};
pub use partition::Partition;
pub use pins::Pin;
pub use reader::{Fetch, FetchOptions, FileRegion, Isolation, Offsets, Reader};
pub use recovery::{Cut, PartitionReport};
pub use route::partition_for_key;
pub use stats::{LogStats, PartitionStats};
#[cfg(any(test, feature = "sim"))]
pub use storage::sim;
pub use tail::WaitOutcome;
pub use topic::Topic;
pub use transactions::AbortedRange;
pub use verify::{Finding, Severity, VerifyReport};
