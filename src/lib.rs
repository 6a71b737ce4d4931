//! stratalog: an embeddable storage engine for compacted, partitioned logs.

pub mod error;
pub mod format;
pub mod offset;
pub mod storage;

pub use error::{Error, ErrorKind, Result};
pub use offset::{Offset, Timestamp};
