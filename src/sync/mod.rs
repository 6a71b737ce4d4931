//! Locks, atomics, threads and the passing of time: those of the standard library, or of a scheduler that tries the orders
//! in which threads may come (`tests/schedules.rs`). In builds with debug assertions each thread counts the locks that it
//! holds.

pub(crate) use std::sync::{Arc, PoisonError, TryLockError, Weak};

#[cfg(not(shuttle))]
pub(crate) use std::{sync::OnceLock, time::Instant};

#[cfg(shuttle)]
pub(crate) use scheduled::{Instant, OnceLock};

#[cfg(any(debug_assertions, shuttle))]
pub(crate) use held::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, assert_no_lock_is_held};

#[cfg(not(any(debug_assertions, shuttle)))]
pub(crate) use base::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

#[cfg(shuttle)]
mod clock;
#[cfg(any(debug_assertions, shuttle))]
mod held;
#[cfg(shuttle)]
mod scheduled;
#[cfg(shuttle)]
pub mod time;

mod base {
    #[cfg(shuttle)]
    pub(crate) use super::scheduled::Condvar;
    #[cfg(shuttle)]
    pub(crate) use shuttle::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
    #[cfg(not(shuttle))]
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
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
    #[cfg(not(loom))]
    pub(crate) use super::{
        Condvar, Mutex, MutexGuard, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, fence},
    };
    #[cfg(loom)]
    pub(crate) use loom::sync::{
        Condvar, Mutex, MutexGuard, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, fence},
    };
}

#[cfg(all(test, loom))]
pub(crate) mod tests;

/// Foreign code is about to be called, which may come back and take any lock.
#[cfg(not(any(debug_assertions, shuttle)))]
#[inline]
pub(crate) fn assert_no_lock_is_held() {}
