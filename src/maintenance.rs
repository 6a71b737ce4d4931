//! One pass over a partition: roll what is old enough, retain, reap. The log's thread loops over it, or its owner does.

use crate::error::{Error, Result};
use crate::offset::Timestamp;
use crate::retention;
use crate::shared::Shared;

/// What a pass over one partition did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PassReport {
    /// The active segment was sealed for its age.
    pub rolled: bool,
    /// Segments that retention removed.
    pub segments_removed: usize,
    /// When the next pass has something to do; `None` when only new records make work.
    pub next_deadline: Option<Timestamp>,
    /// What went wrong; the other parts of the pass went on.
    pub errors: Vec<Error>,
}

/// Runs a pass. No part of it depends on another one's success.
pub(crate) fn pass(shared: &Shared, now: Timestamp) -> PassReport {
    let mut report = PassReport::default();
    if shared.check_writable().is_err() {
        return report;
    }
    let _pass = shared.lock_pass();
    let mut note = |result: Result<()>| {
        if let Err(error) = result {
            report.errors.push(error);
        }
    };
    let mut rolled = false;
    note(roll_if_due(shared, now).map(|done| rolled = done));
    note(shared.release_idle(now));
    let mut removed = 0;
    note(retention::run(shared, now).map(|count| removed = count));
    note(shared.reap().map(|_| ()));
    report.rolled = rolled;
    report.segments_removed = removed;
    report.next_deadline = shared.lock_active().roll_due();
    shared.counters.segments_removed.add(removed as u64);
    report
}

fn roll_if_due(shared: &Shared, now: Timestamp) -> Result<bool> {
    let mut active = shared.lock_active();
    if active.roll_due().is_none_or(|due| due > now) {
        return Ok(false);
    }
    active.roll(shared, now).map(|()| true)
}
