//! Signals for the maintenance threads: a new tick, or stop.

use std::time::Duration;

use crate::sync::{Condvar, Mutex, MutexGuard};

/// Tells the maintenance threads what to do next.
#[derive(Default)]
pub(super) struct Stop {
    state: Mutex<Signals>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default)]
struct Signals {
    stopped: bool,
    /// Counts the rounds over all partitions. After each round there may be something to compact.
    ticks: u64,
}

impl Stop {
    /// Waits for `interval`, or until told to stop. Returns whether it was told to stop.
    pub(super) fn wait(&self, interval: Duration) -> bool {
        let state = self.lock();
        let waited = self.changed.wait_timeout_while(state, interval, |state| !state.stopped);
        waited.0.stopped
    }

    /// Waits for a tick after `seen`. Returns `None` when told to stop.
    pub(super) fn wait_for_tick(&self, seen: u64) -> Option<u64> {
        let state = self.lock();
        let state = self.changed.wait_while(state, |state| !state.stopped && state.ticks == seen);
        let state = *state;
        (!state.stopped).then_some(state.ticks)
    }

    pub(super) fn tick(&self) {
        self.lock().ticks += 1;
        self.changed.notify_all();
    }

    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    fn lock(&self) -> MutexGuard<'_, Signals> {
        self.state.lock()
    }
}
