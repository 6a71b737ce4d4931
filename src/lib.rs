//! stratalog: an embeddable storage engine for compacted, partitioned logs.

#[allow(dead_code)]
mod epochs;
pub mod error;
pub mod format;
pub mod offset;
#[allow(dead_code)]
mod pins;
#[allow(dead_code)]
mod producers;
pub mod storage;
#[allow(dead_code)]
mod transactions;

pub use error::{Error, ErrorKind, Result};
pub use offset::{Offset, Timestamp};
pub use pins::Pin;
pub use transactions::AbortedRange;
