//! What the workers of one partition share.
//!
//! In three storeys: the parts, which know nothing of the whole; [`core`], which puts them together; and what needs the
//! whole, above it.

// The parts.
pub(crate) mod account;
pub(crate) mod active;
pub(crate) mod append_queue;
pub(crate) mod checkpoint;
mod config_cache;
pub(crate) mod cuts;
pub(crate) mod group_commit;
pub(crate) mod health;
pub(crate) mod isolation;
mod maintenance_state;
pub(crate) mod offsets;
pub(crate) mod pins;
pub(crate) mod redo;
pub(crate) mod resources;
pub(crate) mod state_file;
pub(crate) mod stats;
pub(crate) mod waiters;

pub(crate) mod core;

// Above the core.
mod append_parts;
mod append_state;
pub(crate) mod lifecycle;
mod maintenance_lock;
pub(crate) mod persist;
mod sync;
pub(crate) mod visibility;
mod wait;

pub use append_queue::Appended;
pub use isolation::{Isolation, Offsets};
pub use pins::Pin;
pub use stats::{CompactionReport, CompactionStats, FailedPass, LastPass, LogStats, PartitionStats, PinnedBy};
pub use waiters::WaitOutcome;
