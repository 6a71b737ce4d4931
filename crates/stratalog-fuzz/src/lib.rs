//! The bodies of the fuzz targets: each takes bytes that anyone may have made, and must neither panic nor believe them.
//!
//! libFuzzer calls them from `fuzz/`; `tests/bodies.rs` runs them on stable Rust, over tracked seeds and drawn bytes.

mod directory;
mod formats;
mod operations;

pub use directory::{hostile_directory, seeds as directory_seeds};
pub use formats::{batch, compression, digest, filter, indexes, records, small_files, state};
pub use operations::{operations, seeds as operation_seeds};

/// A target: its name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 10] = [
    ("batch", batch),
    ("records", records),
    ("filter", filter),
    ("compression", compression),
    ("indexes", indexes),
    ("small_files", small_files),
    ("state", state),
    ("digest", digest),
    ("hostile_directory", hostile_directory),
    ("operations", operations),
];
