//! The same locks, for builds with debug assertions: each thread counts those that it holds, so that foreign code is
//! seen to be called with none.

use std::cell::Cell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{LockResult, PoisonError, TryLockError, TryLockResult};
use std::time::Duration;

use super::base;

#[cfg(shuttle)]
use super::scheduled::WaitTimeoutResult;
#[cfg(shuttle)]
use shuttle::thread_local;
#[cfg(not(shuttle))]
use std::sync::WaitTimeoutResult;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// Foreign code is about to be called, which may come back and take any lock.
pub(crate) fn assert_no_lock_is_held() {
    assert_eq!(HELD.with(Cell::get), 0, "foreign code is called without a lock");
}

/// One lock that this thread holds.
struct Held;

impl Held {
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

/// A guard that is counted.
pub(crate) struct Guard<G> {
    guard: G,
    _held: Held,
}

pub(crate) type MutexGuard<'a, T> = Guard<base::MutexGuard<'a, T>>;
pub(crate) type RwLockReadGuard<'a, T> = Guard<base::RwLockReadGuard<'a, T>>;
pub(crate) type RwLockWriteGuard<'a, T> = Guard<base::RwLockWriteGuard<'a, T>>;

impl<G> Guard<G> {
    fn of(guard: G) -> Guard<G> {
        Guard { guard, _held: Held::count() }
    }

    fn result(locked: LockResult<G>) -> LockResult<Guard<G>> {
        locked.map(Guard::of).map_err(|poisoned| PoisonError::new(Guard::of(poisoned.into_inner())))
    }

    fn timed<R>(locked: LockResult<(G, R)>) -> LockResult<(Guard<G>, R)> {
        let counted = |(guard, waited)| (Guard::of(guard), waited);
        locked.map(counted).map_err(|poisoned| PoisonError::new(counted(poisoned.into_inner())))
    }

    fn release(self) -> G {
        self.guard
    }
}

impl<G: Deref> Deref for Guard<G> {
    type Target = G::Target;

    fn deref(&self) -> &G::Target {
        &self.guard
    }
}

impl<G: DerefMut> DerefMut for Guard<G> {
    fn deref_mut(&mut self) -> &mut G::Target {
        &mut self.guard
    }
}

#[derive(Default)]
pub(crate) struct Mutex<T>(base::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
        Mutex(base::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        Guard::result(self.0.lock())
    }

    pub(crate) fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Ok(Guard::of(guard)),
            Err(TryLockError::Poisoned(poisoned)) => {
                Err(TryLockError::Poisoned(PoisonError::new(Guard::of(poisoned.into_inner()))))
            }
            Err(TryLockError::WouldBlock) => Err(TryLockError::WouldBlock),
        }
    }

    pub(crate) fn into_inner(self) -> LockResult<T> {
        self.0.into_inner()
    }
}

impl<T: fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Default)]
pub(crate) struct RwLock<T>(base::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn new(value: T) -> RwLock<T> {
        RwLock(base::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> LockResult<RwLockReadGuard<'_, T>> {
        Guard::result(self.0.read())
    }

    pub(crate) fn write(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
        Guard::result(self.0.write())
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

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        Guard::result(self.0.wait(guard.release()))
    }

    pub(crate) fn wait_while<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<MutexGuard<'a, T>> {
        Guard::result(self.0.wait_while(guard.release(), condition))
    }

    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        Guard::timed(self.0.wait_timeout(guard.release(), timeout))
    }

    pub(crate) fn wait_timeout_while<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
        condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        Guard::timed(self.0.wait_timeout_while(guard.release(), timeout, condition))
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

#[cfg(all(test, not(shuttle)))]
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
        let (held, read) = (mutex.lock().unwrap(), lock.read().unwrap());
        assert!(!is_free() && mutex.try_lock().is_err());
        assert!(std::thread::scope(|scope| scope.spawn(is_free).join().unwrap()), "each thread counts its own");
        drop(held);
        assert!(!is_free());
        drop(read);
        assert!(is_free());
        *lock.write().unwrap() = 3;
        drop(mutex.try_lock().unwrap());
        assert!(is_free());
        assert_eq!((mutex.into_inner().unwrap(), *lock.read().unwrap()), (1, 3));
    }

    #[test]
    fn who_waits_holds_nothing_and_holds_it_again_afterwards() {
        let (mutex, changed) = (Mutex::new(0), Condvar::new());
        let mut guard = mutex.lock().unwrap();
        let short = Duration::from_millis(1);
        guard = changed.wait_timeout(guard, short).unwrap().0;
        guard = changed.wait_timeout_while(guard, short, |_| is_free()).unwrap().0;
        assert!(!is_free());
        drop(guard);
        assert!(is_free());
    }
}
