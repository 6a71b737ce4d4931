//! What the scheduler's own library lacks: waits that may time out, handles to threads that wake for nothing else, times.

use std::collections::VecDeque;
use std::ops::Add;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LockResult, PoisonError};
use std::time::Duration;

use shuttle::sync::MutexGuard;
use shuttle::thread::ThreadId;

use super::clock::{self, Alarm};

/// A time of the schedule: see [`clock`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Instant(pub(super) Duration);

impl Instant {
    pub(crate) fn now() -> Instant {
        Instant(clock::now())
    }

    pub(crate) fn elapsed(self) -> Duration {
        Instant::now().duration_since(self)
    }

    pub(crate) fn duration_since(self, earlier: Instant) -> Duration {
        self.saturating_duration_since(earlier)
    }

    pub(crate) fn saturating_duration_since(self, earlier: Instant) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    pub(crate) fn checked_add(self, time: Duration) -> Option<Instant> {
        self.0.checked_add(time).map(Instant)
    }

    pub(crate) fn checked_sub(self, time: Duration) -> Option<Instant> {
        self.0.checked_sub(time).map(Instant)
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, time: Duration) -> Instant {
        self.checked_add(time).expect("a time that can be told")
    }
}

/// A condition whose waits may time out, and of whose waiters the scheduler draws the one that a notification wakes.
#[derive(Default, Debug)]
pub(crate) struct Condvar {
    seats: Arc<Seats>,
}

/// Those who wait. Looked at between scheduling points only.
#[derive(Default, Debug)]
struct Seats(std::sync::Mutex<VecDeque<Arc<Seat>>>);

#[derive(Default, Debug)]
struct Seat {
    woken: shuttle::sync::Condvar,
    timed_out: AtomicBool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct WaitTimeoutResult(bool);

impl Seats {
    fn change<R>(&self, change: impl FnOnce(&mut VecDeque<Arc<Seat>>) -> R) -> R {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn leave(&self, seat: &Arc<Seat>) {
        self.change(|seats| seats.retain(|other| !Arc::ptr_eq(other, seat)));
    }
}

impl Condvar {
    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        self.wait_until(guard, None).map(|(guard, _)| guard).map_err(|error| PoisonError::new(error.into_inner().0))
    }

    pub(crate) fn wait_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<MutexGuard<'a, T>> {
        while condition(&mut *guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        self.wait_until(guard, Instant::now().checked_add(timeout))
    }

    pub(crate) fn wait_timeout_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        timeout: Duration,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            if !condition(&mut *guard) {
                return Ok((guard, WaitTimeoutResult(false)));
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok((guard, WaitTimeoutResult(true)));
            }
            guard = self.wait_until(guard, deadline)?.0;
        }
    }

    /// From here to the wait there is no scheduling point: no alarm and no notification gets lost in between.
    fn wait_until<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        deadline: Option<Instant>,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let seat = Arc::new(Seat::default());
        self.seats.change(|seats| seats.push_back(Arc::clone(&seat)));
        let alarm = deadline.map(|deadline| {
            let (seats, seat) = (Arc::clone(&self.seats), Arc::clone(&seat));
            Alarm::set(deadline.0, move || {
                seats.leave(&seat);
                seat.timed_out.store(true, Ordering::Relaxed);
                seat.woken.notify_one();
            })
        });
        let woken = seat.woken.wait(guard);
        drop(alarm);
        let timed_out = WaitTimeoutResult(seat.timed_out.load(Ordering::Relaxed));
        woken.map(|guard| (guard, timed_out)).map_err(|error| PoisonError::new((error.into_inner(), timed_out)))
    }

    pub(crate) fn notify_one(&self) {
        let drawn = self.seats.change(|seats| match seats.len() {
            0 => None,
            1 => seats.pop_front(),
            count => seats.remove(clock::draw(count)),
        });
        match drawn {
            Some(seat) => seat.woken.notify_one(),
            None => switch(),
        }
    }

    pub(crate) fn notify_all(&self) {
        let all = self.seats.change(std::mem::take);
        all.iter().for_each(|seat| seat.woken.notify_one());
        switch();
    }
}

/// A thread, to be woken. The scheduler's own `park` wakes for nothing now and then, for ever if need be.
#[derive(Clone, Debug)]
pub(crate) struct Thread {
    id: ThreadId,
    token: Arc<Token>,
}

#[derive(Default, Debug)]
struct Token {
    available: shuttle::sync::Mutex<bool>,
    changed: Condvar,
}

shuttle::thread_local! {
    static TOKEN: Arc<Token> = Arc::default();
}

impl Thread {
    pub(crate) fn id(&self) -> ThreadId {
        self.id
    }

    pub(crate) fn unpark(&self) {
        *self.token.available.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.token.changed.notify_one();
    }
}

pub(crate) fn current() -> Thread {
    Thread { id: shuttle::thread::current().id(), token: TOKEN.with(Arc::clone) }
}

pub(crate) fn park() {
    park_until(None);
}

pub(crate) fn park_timeout(timeout: Duration) {
    park_until(Instant::now().checked_add(timeout));
}

fn park_until(deadline: Option<Instant>) {
    let token = TOKEN.with(Arc::clone);
    let mut available = token.available.lock().unwrap_or_else(PoisonError::into_inner);
    while !*available && deadline.is_none_or(|deadline| deadline > Instant::now()) {
        available = token.changed.wait_until(available, deadline).unwrap_or_else(PoisonError::into_inner).0;
    }
    *available = false;
}

pub(crate) fn sleep(time: Duration) {
    let (nothing, never) = (shuttle::sync::Mutex::new(()), Condvar::default());
    let guard = nothing.lock().unwrap_or_else(PoisonError::into_inner);
    drop(never.wait_timeout_while(guard, time, |()| true));
}

/// A value that is set once. Each look at it is a scheduling point.
#[derive(Debug)]
pub(crate) struct OnceLock<T>(std::sync::OnceLock<T>);

impl<T> OnceLock<T> {
    pub(crate) fn new() -> OnceLock<T> {
        OnceLock(std::sync::OnceLock::new())
    }

    pub(crate) fn get(&self) -> Option<&T> {
        switch();
        self.0.get()
    }

    pub(crate) fn set(&self, value: T) -> Result<(), T> {
        switch();
        self.0.set(value)
    }

    /// What makes the value has no scheduling point: all threads of a schedule are one of the operating system's.
    pub(crate) fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        switch();
        self.0.get_or_init(make)
    }
}

/// A scheduling point, where no panic is on its way out.
fn switch() {
    if !std::thread::panicking() {
        shuttle::thread::sleep(Duration::ZERO);
    }
}
