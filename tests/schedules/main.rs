//! Orders in which threads may come, tried by a scheduler that every lock, atomic, wait and thread of the engine asks, and
//! the simulated storage as well. Logs are opened with the threads that they have by default: those that sync, the one
//! that reserves space, the one that looks after the partitions, the one that compacts. A failure prints the schedule
//! that leads to it. `CONTRIBUTING.md` has the commands; `STRATALOG_SCHEDULES` says how many of each kind.
#![cfg(all(shuttle, feature = "sim"))]

mod compacting;
mod cutting;
mod durable;
mod failing;
mod harness;
mod lifecycle;
mod reserving;
mod waiting;
