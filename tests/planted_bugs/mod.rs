//! Bugs planted between the engine and the simulated storage.

pub mod list;
pub mod storage;
