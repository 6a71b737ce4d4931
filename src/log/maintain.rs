//! Maintenance of all partitions of a log, in rounds.

use std::time::Duration;

use crate::maintenance::{self, PassReport};
use crate::offset::Timestamp;
use crate::partition::core::PartitionCore;
use crate::sync::{Arc, Instant};

use super::inner::LogInner;

/// Limits one call of [`Log::maintain`](crate::Log::maintain).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Budget {
    /// After this much time nothing more is begun. A running compaction stops at a point from which it can continue
    /// later. At least one compaction step runs in any case. Default: no limit.
    pub time: Option<Duration>,
}

/// What a call of [`Log::maintain`](crate::Log::maintain) did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct MaintenanceReport {
    /// One report for each partition visited, with its topic and number.
    pub passes: Vec<(String, u32, PassReport)>,
    /// The earliest time at which a partition has something to do.
    pub next_deadline: Option<Timestamp>,
    /// Whether the budget ran out before everything was done.
    pub unfinished: bool,
}

impl LogInner {
    pub(super) fn maintain(&self, now: Timestamp, budget: Budget) -> MaintenanceReport {
        let end = budget.time.and_then(|time| Instant::now().checked_add(time));
        if self.config.sync_threads == 0 {
            while let Some(partition) = self.resources.sync_queue.take_due() {
                partition.sync_now();
            }
            while self.resources.preallocator.run_one() {}
        }
        let all = self.begin_round();
        let mut passes: Vec<PassReport> = all.iter().map(|core| maintenance::run(core, now)).collect();
        let mut done = vec![false; all.len()];
        let place = |core: &PartitionCore| all.iter().position(|other| std::ptr::eq(&**other, core));
        let (mut unfinished, mut done_one) = (false, false);
        loop {
            let passes_over = |core: &PartitionCore| place(core).is_some_and(|at| done[at]);
            if end.is_some_and(|end| Instant::now() >= end) && done_one {
                unfinished = self.schedule.waits(&all, now, &passes_over);
                break;
            }
            let Some(turn) = self.schedule.next(&all, now, &passes_over) else { break };
            done_one = true;
            let at = place(turn.core()).expect("the turn is one of theirs");
            let (compacted, rest) = turn.take(now, end);
            let pass = &mut passes[at];
            pass.segments_removed += rest.segments_removed;
            pass.errors.extend(rest.errors);
            match compacted {
                Ok(Some(report)) => {
                    done[at] = !report.unfinished;
                    match &mut pass.compaction {
                        Some(earlier) => earlier.absorb(report),
                        none => *none = Some(report),
                    }
                }
                Ok(None) => done[at] = true,
                Err(error) => {
                    pass.errors.push(error);
                    done[at] = true;
                }
            }
        }
        let next_deadline = |(core, pass): (&Arc<PartitionCore>, &mut PassReport)| {
            if pass.compaction.is_none() && pass.errors.is_empty() {
                pass.compaction = maintenance::idle(core, now);
            }
            let compaction = pass.compaction.as_ref().and_then(|report| report.next_deadline);
            pass.next_deadline = pass.next_deadline.into_iter().chain(compaction).min();
            pass.next_deadline
        };
        let next_deadline = all.iter().zip(&mut passes).filter_map(next_deadline).min();
        let named = all.iter().zip(passes).map(|(core, pass)| (core.topic.to_string(), core.id, pass)).collect();
        MaintenanceReport { passes: named, next_deadline, unfinished }
    }

    /// Begins a round of maintenance: frees the buffers that no read uses, and returns the partitions to visit.
    pub(super) fn begin_round(&self) -> Arc<[Arc<PartitionCore>]> {
        self.resources.file_cache.buffers().clear();
        self.maintained()
    }

    /// Returns the partitions to maintain: all but those of topics that were taken over and have no configuration yet.
    pub(super) fn maintained(&self) -> Arc<[Arc<PartitionCore>]> {
        let adopted = self.adopted_topics();
        let partitions = self.partitions().into_iter().map(|partition| partition.core);
        partitions.filter(|core| !adopted.iter().any(|name| **name == *core.topic)).collect()
    }

    /// Returns the topics that were taken over and have no configuration yet.
    pub(super) fn adopted_topics(&self) -> Vec<String> {
        self.lock_catalog().topics.iter().filter(|(_, entry)| entry.adopted).map(|(name, _)| name.clone()).collect()
    }
}
