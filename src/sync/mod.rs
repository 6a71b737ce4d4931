//! Locks, atomics, threads and the passing of time: those of the standard library, or of a scheduler that tries the orders
//! in which threads may come (`tests/schedules`).

pub(crate) use std::sync::{Arc, Weak};

#[cfg(not(shuttle))]
pub(crate) use std::{sync::OnceLock, time::Instant};

#[cfg(shuttle)]
pub(crate) use scheduled::{Instant, OnceLock};

pub(crate) use locks::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, assert_no_lock_is_held};

#[cfg(shuttle)]
mod clock;
mod locks;
#[cfg(shuttle)]
mod scheduled;
#[cfg(shuttle)]
pub mod time;

mod base {
    #[cfg(shuttle)]
    pub(crate) use super::scheduled::{Condvar, WaitTimeoutResult};
    #[cfg(shuttle)]
    pub(crate) use shuttle::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
    #[cfg(not(shuttle))]
    pub(crate) use std::sync::{
        Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, WaitTimeoutResult,
    };
}

pub(crate) mod atomic {
    #[cfg(not(shuttle))]
    pub(crate) use std::sync::atomic::{
        AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };

    #[cfg(shuttle)]
    pub(crate) use shuttle::sync::atomic::{
        AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
}

pub(crate) mod thread {
    #[cfg(shuttle)]
    pub(crate) use super::scheduled::{Thread, current, park, park_timeout, sleep};
    #[cfg(shuttle)]
    pub(crate) use shuttle::thread::{Builder, JoinHandle, scope, yield_now};
    #[cfg(not(shuttle))]
    pub(crate) use std::thread::{Builder, JoinHandle, Thread, current, park, park_timeout, scope, sleep, yield_now};
}

/// The types of the small protocols whose every interleaving loom explores; it takes their place there.
pub(crate) mod explored {
    #[cfg(loom)]
    pub(crate) use super::locks::explored::{Condvar, Mutex, MutexGuard, RwLock};
    #[cfg(not(loom))]
    pub(crate) use super::{
        Condvar, Mutex, MutexGuard, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, fence},
    };
    #[cfg(loom)]
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence};
}

#[cfg(all(test, loom))]
pub(crate) mod tests;
