//! Waiting for an offset: no polling, no lost wake-up, and no dependency on a particular runtime.
//!
//! A waiter registers its waker first and loads the offset afterwards. A writer stores the offset first and checks for
//! wakers afterwards. Each has a full fence in between, and full fences have one total order:
//!
//! - The waiter's fence comes first: the writer then sees the `lowest` that the waiter has published, or a later one.
//!   `lowest` is written under the lock only, and is the lowest target that has a waker. So either it is at most the
//!   waiter's target, and the writer calls the waker, or the waker is no longer registered because another thread has
//!   called it.
//! - The writer's fence comes first: the waiter then sees the offset that the writer has stored, or a later one. A
//!   later one that is lower is from a truncation, which ends the wait by [`Tail::fail_above`] after it.
//!
//! A waker is foreign code, and dropping one can drop a task with another registration in it. So wakers are cloned,
//! called and dropped outside the lock. They are also called without any other lock of the log: a waker may append,
//! truncate, close or delete. A function that ends waiting under a lock returns the wakers as [`Wakes`].

use std::collections::BTreeMap;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker};

use crate::error::{Error, Result};
use crate::offset::Offset;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Instant, OnceLock, assert_no_lock_is_held};

use sync::{AtomicU64, Mutex, MutexGuard, Thread, fence};

/// The types that a model checker replaces.
mod sync {
    pub(super) use crate::sync::explored::{AtomicU64, Mutex, MutexGuard, fence};
    #[cfg(not(loom))]
    pub(super) use crate::sync::thread::{Thread, current, park, park_timeout};
    #[cfg(loom)]
    pub(super) use loom::thread::{Thread, current, park};

    /// Models have no time.
    #[cfg(loom)]
    pub(super) fn park_timeout(_: std::time::Duration) {
        park();
    }
}

/// The value of `lowest` when no waker is registered: no offset is that high.
const NOBODY: u64 = u64::MAX;

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitOutcome {
    /// The end reached the target. Holds the end at that moment.
    Reached(Offset),
    /// The time ran out. Holds the end at that moment.
    TimedOut(Offset),
}

/// The waiters for one of a partition's ends.
#[derive(Debug)]
pub(crate) struct Tail {
    /// The lowest target with a registered waker. This is all that a writer loads while it reaches no target.
    lowest: AtomicU64,
    /// Created with the first waiter: most partitions have none.
    waiters: OnceLock<Box<Mutex<Waiters>>>,
}

/// A target, and a ticket that distinguishes the waiters for it.
type Place = (u64, u64);

#[derive(Debug, Default)]
struct Waiters {
    /// The registered wakers.
    waiting: BTreeMap<Place, Waker>,
    /// Waiters that must look at the end before they wait on, with the error if a truncation removed their target.
    looking: BTreeMap<Place, Option<Error>>,
    next_ticket: u64,
    /// Why waiting is refused.
    closed: Option<Error>,
}

/// The wakers of waiters that have been released.
#[derive(Default)]
#[must_use = "those who wait are told by `call`"]
pub(crate) struct Wakes(Vec<Waker>);

impl Wakes {
    fn of(wakers: BTreeMap<Place, Waker>) -> Wakes {
        Wakes(wakers.into_values().collect())
    }

    /// Adds other wakers to these.
    pub(crate) fn and(mut self, others: Wakes) -> Wakes {
        self.0.extend(others.0);
        self
    }

    /// Calls the wakers. They are foreign code, and may call back and take any lock.
    pub(crate) fn call(self) {
        if !self.0.is_empty() {
            assert_no_lock_is_held();
            self.0.into_iter().for_each(Waker::wake);
        }
    }
}

/// A place among the waiters, released on drop. It has no waker before the first [`renew`](Registration::renew).
#[derive(Debug)]
pub(crate) struct Registration {
    tail: Arc<Tail>,
    place: Place,
}

impl Default for Tail {
    fn default() -> Tail {
        Tail { lowest: AtomicU64::new(NOBODY), waiters: OnceLock::new() }
    }
}

impl Tail {
    /// Wakes the waiters whose targets are at or below `reached`, the new end. The caller holds no lock; the same holds
    /// for the functions below, unless they say otherwise.
    #[inline]
    pub(crate) fn notify(&self, reached: u64) {
        // Orders the caller's store of the end before the check for waiters.
        fence(Ordering::SeqCst);
        self.notify_fenced(reached);
    }

    /// Like [`notify`](Self::notify), for a caller that has executed a full fence.
    #[inline]
    pub(crate) fn notify_fenced(&self, reached: u64) {
        if reached >= self.lowest.load(Ordering::Relaxed) {
            self.wake(reached);
        }
    }

    /// Whether there are waiters. The caller has executed a full fence.
    #[inline]
    pub(crate) fn has_waiters(&self) -> bool {
        self.lowest.load(Ordering::Relaxed) != NOBODY
    }

    /// Refuses new waiters with this error. The caller then calls [`close`](Self::close), once it holds no lock, for
    /// the waiters already there.
    pub(crate) fn shut(&self, error: Error) {
        self.lock().closed.get_or_insert(error);
    }

    /// Ends all waiting, now and later, with this error. The caller calls the returned wakers once it holds no lock.
    pub(crate) fn close(&self, error: Error) -> Wakes {
        let mut waiters = self.lock();
        waiters.closed.get_or_insert(error);
        Wakes::of(self.take_all(&mut waiters))
    }

    /// Ends waiting for more than `offset`, to which the end was just set back, with this error. This holds even if the
    /// end grows beyond a target again before its waiter looks. All other waiters look at the end again. The caller
    /// calls the returned wakers once it holds no lock.
    pub(crate) fn fail_above(&self, offset: u64, error: Error) -> Wakes {
        let mut waiters = self.lock();
        let wakers = self.take_all(&mut waiters);
        for (_, failed) in waiters.looking.range_mut(behind(offset)..) {
            failed.get_or_insert_with(|| error.clone());
        }
        Wakes::of(wakers)
    }

    /// Returns a place among the waiters for `target`. The waiter must renew it before it looks at the end.
    pub(crate) fn register(self: &Arc<Self>, target: u64) -> Registration {
        let mut waiters = self.lock();
        let place = (target, waiters.next_ticket);
        waiters.next_ticket += 1;
        waiters.looking.insert(place, None);
        Registration { tail: Arc::clone(self), place }
    }

    /// Waits until `current` is at least `target`, or until `deadline`.
    pub(crate) fn wait(
        self: &Arc<Self>,
        target: u64,
        current: impl Fn() -> Result<u64>,
        deadline: Option<Instant>,
    ) -> Result<WaitOutcome> {
        let mut end = current()?;
        if end >= target {
            return Ok(WaitOutcome::Reached(Offset::new(end)));
        }
        let registration = self.register(target);
        let reached = wait_any(std::slice::from_ref(&registration), deadline, || {
            end = current()?;
            Ok((end >= target).then_some(()))
        })?;
        let end = Offset::new(end);
        Ok(reached.map_or(WaitOutcome::TimedOut(end), |()| WaitOutcome::Reached(end)))
    }

    #[cold]
    fn wake(&self, reached: u64) {
        let wakers = {
            let mut waiters = self.lock();
            let rest = waiters.waiting.split_off(&behind(reached));
            let wakers = mem::replace(&mut waiters.waiting, rest);
            waiters.looking.extend(wakers.keys().map(|place| (*place, None)));
            self.publish(&waiters);
            wakers
        };
        Wakes::of(wakers).call();
    }

    fn take_all(&self, waiters: &mut Waiters) -> BTreeMap<Place, Waker> {
        let wakers = mem::take(&mut waiters.waiting);
        waiters.looking.extend(wakers.keys().map(|place| (*place, None)));
        self.publish(waiters);
        wakers
    }

    fn publish(&self, waiters: &Waiters) {
        let lowest = waiters.waiting.first_key_value().map_or(NOBODY, |((target, _), _)| *target);
        self.lowest.store(lowest, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.get_or_init(Box::default).lock()
    }
}

/// The place behind all waiters for `offset`: no ticket is that high.
fn behind(offset: u64) -> Place {
    (offset, u64::MAX)
}

impl Registration {
    /// Registers the waker. The caller looks at the end after this, not before. Fails if a truncation removed the
    /// target. A returned error means that waiting has ended: the caller looks, and fails with it if the target is not
    /// reached.
    pub(crate) fn renew(&self, waker: &Waker) -> Result<Option<Error>> {
        // Declared before the guard, so that the waker left in it is dropped after the lock is released.
        let mut spare = waker.clone();
        let mut waiters = self.tail.lock();
        if let Some(Some(error)) = waiters.looking.get(&self.place) {
            return Err(error.clone());
        }
        if let Some(error) = &waiters.closed {
            return Ok(Some(error.clone()));
        }
        match waiters.waiting.get_mut(&self.place) {
            Some(known) if known.will_wake(&spare) => {}
            Some(known) => mem::swap(known, &mut spare),
            None => {
                waiters.looking.remove(&self.place);
                waiters.waiting.insert(self.place, mem::replace(&mut spare, Waker::noop().clone()));
                self.tail.publish(&waiters);
            }
        }
        drop(waiters);
        // Orders the registration of the waker before the caller's look at the end.
        fence(Ordering::SeqCst);
        Ok(None)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let unused = {
            let mut waiters = self.tail.lock();
            waiters.looking.remove(&self.place);
            let unused = waiters.waiting.remove(&self.place);
            if unused.is_some() {
                self.tail.publish(&waiters);
            }
            unused
        };
        drop(unused);
    }
}

/// Waits until `look` finds something, woken through any of the registrations. Returns `None` when `deadline` has
/// passed.
pub(crate) fn wait_any<T>(
    registrations: &[Registration],
    deadline: Option<Instant>,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    let waker = Waker::from(Arc::new(Unpark(sync::current())));
    loop {
        let mut closed = None;
        for registration in registrations {
            closed = closed.or(registration.renew(&waker)?);
        }
        if let Some(found) = look()? {
            return Ok(Some(found));
        }
        if let Some(error) = closed {
            return Err(error);
        }
        match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            None => sync::park(),
            Some(left) if left.is_zero() => return Ok(None),
            Some(left) => sync::park_timeout(left),
        }
    }
}

/// Wakes a waiting thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Resolves when an end is reached. Releases its place when dropped.
pub(crate) struct Reached<F> {
    tail: Arc<Tail>,
    target: u64,
    current: F,
    registration: Option<Registration>,
}

impl<F: FnMut() -> Result<u64>> Reached<F> {
    /// Creates a future that resolves when `current` is at least `target`.
    pub(crate) fn new(tail: Arc<Tail>, target: u64, current: F) -> Reached<F> {
        Reached { tail, target, current, registration: None }
    }

    fn look(&mut self) -> Result<Option<Offset>> {
        let end = (self.current)()?;
        Ok((end >= self.target).then_some(Offset::new(end)))
    }

    fn advance(&mut self, waker: &Waker) -> Result<Option<Offset>> {
        if self.registration.is_none() {
            // The first look needs no registration.
            if let Some(end) = self.look()? {
                return Ok(Some(end));
            }
        }
        let closed = self.registration.get_or_insert_with(|| self.tail.register(self.target)).renew(waker)?;
        match (self.look()?, closed) {
            (None, Some(error)) => Err(error),
            (end, _) => Ok(end),
        }
    }
}

impl<F: FnMut() -> Result<u64> + Unpin> Future for Reached<F> {
    type Output = Result<Offset>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Offset>> {
        match self.advance(context.waker()).transpose() {
            None => Poll::Pending,
            Some(outcome) => {
                self.registration = None;
                Poll::Ready(outcome)
            }
        }
    }
}

#[cfg(test)]
mod tests;
