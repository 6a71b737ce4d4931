//! The clock of a schedule: it goes from one alarm to the next.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use shuttle::rand::Rng;

/// How often time passes in one schedule, at most: somebody waits for what never comes.
const PASSES_MAX: usize = 200;

// All tasks of a schedule run in one thread of the operating system.
thread_local! {
    pub(super) static TIME: RefCell<Time> = RefCell::default();
}

#[derive(Default)]
pub(super) struct Time {
    now: Duration,
    alarms: BTreeMap<(Duration, u64), Box<dyn FnOnce()>>,
    last_number: u64,
    passes: usize,
}

impl Time {
    /// Moves on to the next alarm.
    pub(super) fn pass(&mut self) -> Option<Box<dyn FnOnce()>> {
        self.passes += 1;
        let ((at, _), wake) = if self.passes <= PASSES_MAX { self.alarms.pop_first() } else { None }?;
        self.now = self.now.max(at);
        Some(wake)
    }

    pub(super) fn next(&self) -> Option<Duration> {
        self.alarms.keys().next().map(|(at, _)| at.saturating_sub(self.now))
    }
}

/// Has something done at a time, but once this is dropped.
pub(super) struct Alarm((Duration, u64));

impl Alarm {
    pub(super) fn set(at: Duration, ring: impl FnOnce() + 'static) -> Alarm {
        TIME.with_borrow_mut(|time| {
            time.last_number += 1;
            let place = (at, time.last_number);
            time.alarms.insert(place, Box::new(ring));
            Alarm(place)
        })
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        drop(TIME.with_borrow_mut(|time| time.alarms.remove(&self.0)));
    }
}

pub(super) fn now() -> Duration {
    TIME.with_borrow(|time| time.now)
}

/// A number below `count`, as the schedule has it.
pub fn draw(count: usize) -> usize {
    shuttle::rand::thread_rng().gen_range(0..count)
}
