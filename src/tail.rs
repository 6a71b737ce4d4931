//! Waiting for an offset: no polling, no lost wake-up, of no particular runtime.
//!
//! A waiter registers first and looks at the offset afterwards; a writer moves the offset first and looks for waiters
//! afterwards. Both put a full fence in between, so at least one of them sees the other.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

use crate::error::{Error, Result};
use crate::offset::Offset;

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitOutcome {
    /// What was waited for is there: the end at that moment.
    Reached(Offset),
    /// The time is up: the end stands here.
    TimedOut(Offset),
}

/// Those who wait for one of a partition's ends.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    /// How many are registered: a writer looks at this alone when nobody waits.
    registered: AtomicUsize,
    waiters: Mutex<Waiters>,
}

#[derive(Debug, Default)]
struct Waiters {
    /// By target, then by ticket.
    waiting: BTreeMap<(u64, u64), Waker>,
    next_ticket: u64,
    /// Why nobody can wait any more.
    closed: Option<Error>,
    /// Waits for offsets above this fail once, with this: they were cut off. By ticket bound.
    cut: Option<(u64, u64, Error)>,
}

/// A place among the waiters, given up when dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    tail: Weak<Tail>,
    target: u64,
    ticket: u64,
}

impl Tail {
    /// The end has moved to `reached`: wakes those whose target that is, or below.
    #[inline]
    pub(crate) fn notify(&self, reached: u64) {
        // Orders the caller's store of the end before the look at the waiters.
        fence(Ordering::SeqCst);
        self.notify_fenced(reached);
    }

    /// The same, after a full fence of the caller's.
    #[inline]
    pub(crate) fn notify_fenced(&self, reached: u64) {
        if self.has_waiters() {
            self.wake(reached);
        }
    }

    /// Whether anybody waits.
    #[inline]
    pub(crate) fn has_waiters(&self) -> bool {
        self.registered.load(Ordering::Relaxed) > 0
    }

    #[cold]
    fn wake(&self, reached: u64) {
        let woken = {
            let mut waiters = self.lock();
            let rest = waiters.waiting.split_off(&(reached, u64::MAX));
            std::mem::replace(&mut waiters.waiting, rest)
        };
        woken.into_values().for_each(Waker::wake);
    }

    /// Ends all waiting, now and later, with this error.
    pub(crate) fn close(&self, error: Error) {
        let woken = {
            let mut waiters = self.lock();
            waiters.closed.get_or_insert(error);
            std::mem::take(&mut waiters.waiting)
        };
        woken.into_values().for_each(Waker::wake);
    }

    /// Ends the waiting of those who wait for more than `offset` now, with this error.
    pub(crate) fn fail_above(&self, offset: u64, error: Error) {
        let woken = {
            let mut waiters = self.lock();
            let tickets = waiters.next_ticket;
            waiters.cut = Some((offset, tickets, error));
            std::mem::take(&mut waiters.waiting)
        };
        woken.into_values().for_each(Waker::wake);
    }

    /// Registers a waker for `target`. Look at the end after this, not before.
    pub(crate) fn register(self: &Arc<Self>, target: u64, waker: &Waker) -> Registration {
        let mut waiters = self.lock();
        let ticket = waiters.next_ticket;
        waiters.next_ticket += 1;
        if waiters.closed.is_some() {
            waker.wake_by_ref();
        } else {
            waiters.waiting.insert((target, ticket), waker.clone());
        }
        self.registered.fetch_add(1, Ordering::Relaxed);
        drop(waiters);
        // Orders the registration before the caller's look at the end.
        fence(Ordering::SeqCst);
        Registration { tail: Arc::downgrade(self), target, ticket }
    }

    /// Waits until `current` is at least `target`, until `deadline`.
    pub(crate) fn wait(
        self: &Arc<Self>,
        target: u64,
        current: impl Fn() -> Result<u64>,
        deadline: Option<Instant>,
    ) -> Result<WaitOutcome> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut registration: Option<Registration> = None;
        loop {
            let now = current()?;
            if now >= target {
                return Ok(WaitOutcome::Reached(Offset::new(now)));
            }
            match &registration {
                // The first look was free; this one comes after the registration.
                None => {
                    registration = Some(self.register(target, &waker));
                    continue;
                }
                // Registered anew: the look before may have been too early.
                Some(registration) if registration.check(&waker)? => continue,
                Some(_) => {}
            }
            match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => thread::park(),
                Some(left) if left.is_zero() => return Ok(WaitOutcome::TimedOut(Offset::new(now))),
                Some(left) => thread::park_timeout(left),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registration {
    /// Fails when waiting has been ended by an error. Where the waker was used up it is registered again, which is told:
    /// the end is to be looked at after that.
    pub(crate) fn check(&self, waker: &Waker) -> Result<bool> {
        let Some(tail) = self.tail.upgrade() else { return Err(crate::error::ErrorKind::Closed.into()) };
        let mut waiters = tail.lock();
        if let Some(error) = &waiters.closed {
            return Err(error.clone());
        }
        if let Some((offset, tickets, error)) = &waiters.cut
            && self.target > *offset
            && self.ticket < *tickets
        {
            return Err(error.clone());
        }
        let place = (self.target, self.ticket);
        if waiters.waiting.get(&place).is_some_and(|known| known.will_wake(waker)) {
            return Ok(false);
        }
        waiters.waiting.insert(place, waker.clone());
        drop(waiters);
        fence(Ordering::SeqCst);
        Ok(true)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(tail) = self.tail.upgrade() {
            tail.lock().waiting.remove(&(self.target, self.ticket));
            tail.registered.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Wakes a thread that waits.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A waker of the current thread.
pub(crate) fn thread_waker() -> Waker {
    Waker::from(Arc::new(Unpark(thread::current())))
}

/// Resolves when an end is reached.
pub(crate) struct Reached<F> {
    tail: Arc<Tail>,
    target: u64,
    current: F,
    registration: Option<Registration>,
}

impl<F: Fn() -> Result<u64>> Reached<F> {
    /// Resolves when `current` is at least `target`.
    pub(crate) fn new(tail: Arc<Tail>, target: u64, current: F) -> Reached<F> {
        Reached { tail, target, current, registration: None }
    }
}

impl<F: Fn() -> Result<u64> + Unpin> Future for Reached<F> {
    type Output = Result<Offset>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Offset>> {
        let this = &mut *self;
        let checked = match &this.registration {
            None => {
                this.registration = Some(this.tail.register(this.target, context.waker()));
                Ok(true)
            }
            Some(registration) => registration.check(context.waker()),
        };
        // The look comes after the registration: what comes later wakes.
        match checked.and_then(|_| (this.current)()) {
            Ok(now) if now >= this.target => Poll::Ready(Ok(Offset::new(now))),
            Ok(_) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn no_wake_up_is_lost_between_many_waiters_and_a_writer() {
        let tail = Arc::new(Tail::default());
        let end = Arc::new(AtomicU64::new(0));
        let waiters: Vec<_> = (0..4)
            .map(|_| {
                let (tail, end) = (Arc::clone(&tail), Arc::clone(&end));
                thread::spawn(move || {
                    for target in 1..=2000 {
                        tail.wait(target, || Ok(end.load(Ordering::Acquire)), None).unwrap();
                    }
                })
            })
            .collect();
        for next in 1..=2000 {
            end.store(next, Ordering::Release);
            tail.notify(next);
        }
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        assert_eq!(tail.registered.load(Ordering::Relaxed), 0);
        assert!(tail.lock().waiting.is_empty());
    }

    #[test]
    fn a_wait_ends_when_its_time_is_up() {
        let tail = Arc::new(Tail::default());
        let deadline = Some(Instant::now() + Duration::from_millis(1));
        assert_eq!(tail.wait(5, || Ok(3), deadline).unwrap(), WaitOutcome::TimedOut(Offset::new(3)));
    }

    #[test]
    fn closing_ends_those_who_wait_and_those_who_come_later() {
        let tail = Arc::new(Tail::default());
        let waiting = {
            let tail = Arc::clone(&tail);
            thread::spawn(move || tail.wait(1, || Ok(0), None))
        };
        while tail.registered.load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
        tail.close(ErrorKind::Closed.into());
        assert_eq!(*waiting.join().unwrap().unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(*tail.wait(1, || Ok(0), None).unwrap_err().kind(), ErrorKind::Closed);
    }

    #[test]
    fn a_truncation_ends_only_the_waits_that_it_cut_off() {
        let tail = Arc::new(Tail::default());
        let waker = thread_waker();
        let (above, below) = (tail.register(9, &waker), tail.register(4, &waker));
        tail.fail_above(5, ErrorKind::Truncated.into());
        assert_eq!(*above.check(&waker).unwrap_err().kind(), ErrorKind::Truncated);
        assert!(below.check(&waker).is_ok());
        assert!(tail.register(9, &waker).check(&waker).is_ok());
    }

    #[test]
    fn a_future_resolves_when_its_offset_is_reached() {
        let tail = Arc::new(Tail::default());
        let end = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&end);
        let mut future = Box::pin(Reached::new(Arc::clone(&tail), 2, move || Ok(seen.load(Ordering::Acquire))));
        let waker = thread_waker();
        let mut context = Context::from_waker(&waker);
        assert!(future.as_mut().poll(&mut context).is_pending());
        end.store(2, Ordering::Release);
        tail.notify(2);
        assert!(matches!(future.as_mut().poll(&mut context), Poll::Ready(Ok(offset)) if offset == Offset::new(2)));
        drop(future);
        assert_eq!(tail.registered.load(Ordering::Relaxed), 0);
    }
}
