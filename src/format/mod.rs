//! Decodes and encodes every structure that this crate keeps on disk, without I/O.
//!
//! The record batches, indexes, snapshots and checkpoint files are Apache Kafka's. The `state`, meta, use and digest
//! files are ours. Broker authors can use this module to inspect a batch without copying it:
//!
//! ```
//! use stratalog::format::{BatchView, Codec, Record, RecordBatch, Scratch};
//! use stratalog::Timestamp;
//!
//! # fn main() -> Result<(), stratalog::format::FormatError> {
//! let mut builder = RecordBatch::builder().codec(Codec::None);
//! builder.push(&Record::new(b"key", b"value"), Timestamp::from_millis(1_700_000_000_000))?;
//! let batch = builder.build()?;
//!
//! let view = BatchView::parse(batch.as_bytes())?;
//! view.check_crc()?;
//! let mut scratch = Scratch::default();
//! for record in view.records(&mut scratch)? {
//!     assert_eq!(record?.value, Some(&b"value"[..]));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Nothing here panics on bad bytes: damage is a [`FormatError`]. Nothing is allocated for a count or size that was not
//! checked against the available bytes.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

mod batch;
mod builder;
pub mod checkpoint;
mod compression;
mod control;
pub mod digest;
mod error;
mod extent;
mod fields;
pub mod file_name;
mod filter;
mod header;
mod index_entry;
mod meta;
pub mod partition_metadata;
mod record;
mod records;
mod siphash;
pub mod snapshot;
pub mod state;
mod txn_index;
mod usage;
mod varint;

pub use batch::{BatchView, Batches, RecordBatch};
pub use builder::BatchBuilder;
pub use checkpoint::{EpochCheckpoint, OffsetCheckpoint};
pub use compression::{Codec, Scratch};
pub(crate) use control::ends_transaction;
pub use control::{ControlRecord, Marker, end_marker};
pub use digest::{DigestEntry, DigestFooter, KeyHash, KeyHasher};
pub use error::FormatError;
pub(crate) use extent::Extent;
pub use filter::{FilterScratch, Filtered, empty_batch, filter_batch};
pub(crate) use filter::{filter_batch_to, stamp_batch};
pub use header::{
    Attributes, BATCH_HEADER_LEN, BatchHeader, TimestampType, patch_append_time, patch_leader_epoch,
    patch_max_timestamp, patch_offset,
};
pub use index_entry::{OffsetIndexEntry, TimeIndexEntry};
pub use meta::Meta;
pub use partition_metadata::TopicId;
pub use record::{Header, Headers, OwnedHeader, OwnedRecord, Record, RecordView};
pub use records::Records;
pub(crate) use records::SuspendedRecords;
pub use snapshot::ProducerSnapshotEntry;
pub use state::{IndexSum, Pending, Planned, SegmentState, State};
pub use txn_index::AbortedTxn;
pub use usage::{Phase, Usage};
