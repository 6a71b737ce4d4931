//! The exploration of crashes, which several tests use.
#![allow(dead_code, reason = "each test uses a part of it")]

pub mod explore;
pub mod found;
pub mod model;
pub mod workload;
pub mod world;
