//! Locks whose `lock` gives the guard. A thread that panics leaves what a lock guards as it is, and others go on with it:
//! the engine panics only where its own logic is wrong, and then no state is better than the one that is there.
//!
//! In builds with debug assertions each thread counts the locks that it holds, so that foreign code is seen to be called
//! with none.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{PoisonError, TryLockError};
use std::time::Duration;

use super::base;

#[cfg(any(debug_assertions, shuttle))]
pub(crate) use counted::assert_no_lock_is_held;

/// Foreign code is about to be called, which may come back and take any lock.
#[cfg(not(any(debug_assertions, shuttle)))]
#[inline]
pub(crate) fn assert_no_lock_is_held() {}

#[cfg(any(debug_assertions, shuttle))]
use counted::Held;
#[cfg(not(any(debug_assertions, shuttle)))]
use uncounted::Held;

#[cfg(any(debug_assertions, shuttle))]
mod counted {
    use std::cell::Cell;

    #[cfg(shuttle)]
    use shuttle::thread_local;

    thread_local! {
        static HELD: Cell<usize> = const { Cell::new(0) };
    }

    /// Foreign code is about to be called, which may come back and take any lock.
    pub(crate) fn assert_no_lock_is_held() {
        assert_eq!(HELD.with(Cell::get), 0, "foreign code is called without a lock");
    }

    /// One lock that this thread holds.
    pub(crate) struct Held;

    impl super::Count for Held {
        fn count() -> Held {
            change(|held| held + 1);
            Held
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            change(|held| held - 1);
        }
    }

    /// A thread that ends may have dropped its count before its last guard.
    fn change(change: impl FnOnce(usize) -> usize) {
        let _ = HELD.try_with(|held| held.set(change(held.get())));
    }
}

#[cfg(any(loom, not(any(debug_assertions, shuttle))))]
mod uncounted {
    /// A lock that is held, and not counted.
    pub(crate) struct Held;

    impl super::Count for Held {
        #[inline]
        fn count() -> Held {
            Held
        }
    }
}

/// The count of a lock while it is held.
pub(crate) trait Count {
    fn count() -> Self;
}

/// A guard, and its count.
pub(crate) struct Guard<G, H> {
    guard: G,
    _held: H,
}

impl<G, H: Count> Guard<G, H> {
    #[inline]
    fn of(guard: G) -> Guard<G, H> {
        Guard { guard, _held: H::count() }
    }
}

impl<G: Deref, H> Deref for Guard<G, H> {
    type Target = G::Target;

    #[inline]
    fn deref(&self) -> &G::Target {
        &self.guard
    }
}

impl<G: DerefMut, H> DerefMut for Guard<G, H> {
    #[inline]
    fn deref_mut(&mut self) -> &mut G::Target {
        &mut self.guard
    }
}

/// The locks over those of `base`, whose guards hold a `Held`.
macro_rules! locks {
    () => {
        pub(crate) type MutexGuard<'a, T> = Guard<base::MutexGuard<'a, T>, Held>;
        pub(crate) type RwLockReadGuard<'a, T> = Guard<base::RwLockReadGuard<'a, T>, Held>;
        pub(crate) type RwLockWriteGuard<'a, T> = Guard<base::RwLockWriteGuard<'a, T>, Held>;

        pub(crate) struct Mutex<T>(base::Mutex<T>);

        impl<T> Mutex<T> {
            pub(crate) fn new(value: T) -> Mutex<T> {
                Mutex(base::Mutex::new(value))
            }

            #[inline]
            pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
                Guard::of(self.0.lock().unwrap_or_else(PoisonError::into_inner))
            }

            /// The guard, where nobody has the lock.
            #[inline]
            pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
                match self.0.try_lock() {
                    Ok(guard) => Some(Guard::of(guard)),
                    Err(TryLockError::Poisoned(poisoned)) => Some(Guard::of(poisoned.into_inner())),
                    Err(TryLockError::WouldBlock) => None,
                }
            }

            pub(crate) fn into_inner(self) -> T {
                self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
            }
        }

        impl<T: Default> Default for Mutex<T> {
            fn default() -> Mutex<T> {
                Mutex::new(T::default())
            }
        }

        impl<T: fmt::Debug> fmt::Debug for Mutex<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        pub(crate) struct RwLock<T>(base::RwLock<T>);

        impl<T> RwLock<T> {
            pub(crate) fn new(value: T) -> RwLock<T> {
                RwLock(base::RwLock::new(value))
            }

            #[inline]
            pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
                Guard::of(self.0.read().unwrap_or_else(PoisonError::into_inner))
            }

            #[inline]
            pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
                Guard::of(self.0.write().unwrap_or_else(PoisonError::into_inner))
            }
        }

        impl<T: Default> Default for RwLock<T> {
            fn default() -> RwLock<T> {
                RwLock::new(T::default())
            }
        }

        impl<T: fmt::Debug> fmt::Debug for RwLock<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        /// While somebody waits here the lock is not held.
        #[derive(Default, Debug)]
        pub(crate) struct Condvar(base::Condvar);

        impl Condvar {
            pub(crate) fn new() -> Condvar {
                Condvar::default()
            }

            pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
                Guard::of(self.0.wait(guard.guard).unwrap_or_else(PoisonError::into_inner))
            }

            pub(crate) fn wait_timeout<'a, T>(
                &self,
                guard: MutexGuard<'a, T>,
                timeout: Duration,
            ) -> (MutexGuard<'a, T>, base::WaitTimeoutResult) {
                let (guard, waited) = self.0.wait_timeout(guard.guard, timeout).unwrap_or_else(PoisonError::into_inner);
                (Guard::of(guard), waited)
            }

            pub(crate) fn notify_one(&self) {
                self.0.notify_one();
            }

            pub(crate) fn notify_all(&self) {
                self.0.notify_all();
            }
        }
    };
}

locks!();

impl Condvar {
    pub(crate) fn wait_while<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        condition: impl FnMut(&mut T) -> bool,
    ) -> MutexGuard<'a, T> {
        Guard::of(self.0.wait_while(guard.guard, condition).unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn wait_timeout_while<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
        condition: impl FnMut(&mut T) -> bool,
    ) -> (MutexGuard<'a, T>, base::WaitTimeoutResult) {
        let waited = self.0.wait_timeout_while(guard.guard, timeout, condition);
        let (guard, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        (Guard::of(guard), waited)
    }
}

/// The same over the locks of the model checker, which are not counted: its threads share one of the system.
#[cfg(loom)]
pub(super) mod explored {
    use loom::sync as base;

    use super::uncounted::Held;
    use super::*;

    locks!();
}

#[cfg(all(test, debug_assertions, not(any(shuttle, loom))))]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    fn is_free() -> bool {
        catch_unwind(assert_no_lock_is_held).is_ok()
    }

    #[test]
    fn each_kind_of_guard_counts_until_it_is_dropped() {
        let (mutex, lock) = (Mutex::new(1), RwLock::new(2));
        assert!(is_free());
        let (held, read) = (mutex.lock(), lock.read());
        assert!(!is_free() && mutex.try_lock().is_none());
        assert!(std::thread::scope(|scope| scope.spawn(is_free).join().unwrap()), "each thread counts its own");
        drop(held);
        assert!(!is_free());
        drop(read);
        assert!(is_free());
        *lock.write() = 3;
        drop(mutex.try_lock().unwrap());
        assert!(is_free());
        assert_eq!((mutex.into_inner(), *lock.read()), (1, 3));
    }

    #[test]
    fn who_waits_holds_nothing_and_holds_it_again_afterwards() {
        let (mutex, changed) = (Mutex::new(0), Condvar::new());
        let mut guard = mutex.lock();
        let short = Duration::from_millis(1);
        guard = changed.wait_timeout(guard, short).0;
        guard = changed.wait_timeout_while(guard, short, |_| is_free()).0;
        assert!(!is_free());
        drop(guard);
        assert!(is_free());
    }

    #[test]
    fn who_comes_after_a_panic_goes_on() {
        let (mutex, lock) = (Mutex::new(1), RwLock::new(2));
        let panics = || {
            let (_held, _written) = (mutex.lock(), lock.write());
            panic!("while it holds them");
        };
        assert!(catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        assert_eq!((*mutex.lock(), *lock.read()), (1, 2));
        assert_eq!(mutex.try_lock().map(|guard| *guard), Some(1));
    }
}
