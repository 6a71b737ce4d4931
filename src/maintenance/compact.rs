//! One compaction of a partition: digests, count, plan, survivors, then rewrite and swap group by group.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::compaction::state::Standing;
use crate::config::{Cleanup, TopicConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::format::digest::DigestAnnex;
use crate::format::file_name::SegmentFileKind;
use crate::offset::{Offset, Timestamp};
use crate::partition::core::PartitionCore;
use crate::partition::pins::TombstonePass;
use crate::partition::stats::CompactionReport;
use crate::partition::visibility;
use crate::replay::transactions::TransactionFilter;
use crate::segment::Segment;
use crate::segment::digest_file::DigestReader;
use crate::segment::list::SegmentList;
use crate::segment::replace;
use crate::storage::throttle::Throttled;
use crate::sync::Instant;

use super::damage::Met;
use super::eligibility::{eligible, idle, standing};
use crate::compaction::count::count_garbage;
use crate::compaction::merge::{Merge, Source};
use crate::compaction::plan::{
    Garbage, Group, MarkerSummary, MarkersDue, Plan, PlanRules, SegmentSummary, could_be, plan,
};
use crate::compaction::rewrite::{Input, Output, Rules, Temporaries, rewrite};
use crate::compaction::spill::TempFiles;
use crate::compaction::survivors::Survivors;
use crate::compaction::tombstones::{TombstoneRule, horizon, horizons_of, join_horizons};
use crate::compaction::{CompactMode, Order, build_digest};

/// Compacts what is due. The caller holds the maintenance lock. The compaction ends early once another thread waits for
/// that lock.
///
/// Damage that only the rewrite finds does not stop the rest: the damaged segment is left alone, and the remaining work
/// is planned again without it.
pub(crate) fn compact(core: &PartitionCore, order: &Order<'_>) -> Result<CompactionReport> {
    let config = core.config();
    if config.cleanup == Cleanup::Delete {
        return Err(ErrorKind::InvalidConfig("the topic is not compacted: its cleanup is `delete`".into()).into());
    }
    core.check_writable()?;
    if order.mode == CompactMode::Full {
        core.lock_active().roll(core, order.now)?;
    }
    core.finish_roll()?;
    if order.mode == CompactMode::Due
        && let Standing::Idle(next_deadline) = standing(core, order.now)
    {
        return Ok(idle(core, order.now, next_deadline));
    }
    let storage = core.throttled();
    let mut report = CompactionReport::default();
    let mut met = Met::of(core, order.mode);
    let done = loop {
        match attempt(core, order, (&config, &storage), &met, &mut report) {
            Err(error) if error.is_corruption() => met.note(core, error)?,
            Ok(()) if report.unfinished && !storage.is_cancelled() => match order.between {
                Some(between) => {
                    between();
                    report.unfinished = false;
                }
                None => break Ok(()),
            },
            done => break done,
        }
    };
    core.lock_compaction_state().damaged = met.into_logs();
    match done {
        // Another thread waits for the partition, so the pass ends unfinished. An interruption without a cancellation
        // is an error.
        Err(error) if *error.kind() == ErrorKind::Io(io::ErrorKind::Interrupted) && storage.is_cancelled() => {
            report.unfinished = true;
        }
        done => done?,
    }
    Ok(report)
}

/// Compacts what is due, except for the segments that are known to be damaged.
fn attempt(
    core: &PartitionCore,
    order: &Order<'_>,
    (config, storage): (&TopicConfig, &Throttled),
    met: &Met,
    report: &mut CompactionReport,
) -> Result<()> {
    let view = core.view.load();
    let eligible = eligible(core, &view, config, order.now);
    report.segments = eligible.len();
    report.damaged.clear();
    let Some(last) = eligible.last() else { return Ok(()) };
    let bound = last.end();
    let pins = core.pins.begin_pass(bound, order.now, config.reader_hold_max);
    report.held_by = pins.holder().map(|h| (h.name.clone().unwrap_or_else(|| "a reader".to_owned()), h.offset));

    let mut pass = Pass {
        core,
        order: *order,
        storage,
        config,
        bound,
        view: &view,
        segments: eligible,
        facts: Vec::new(),
        sources: Vec::new(),
        met,
        pins,
        temporaries: Temporaries::new(&core.dir, &core.temporaries),
        report: std::mem::take(report),
        began: Instant::now(),
    };
    let done = pass.look().and_then(|()| if pass.report.unfinished { Ok(()) } else { pass.run() });
    *report = pass.report;
    done
}

struct Pass<'a> {
    core: &'a PartitionCore,
    order: Order<'a>,
    storage: &'a Throttled,
    config: &'a TopicConfig,
    bound: Offset,
    view: &'a SegmentList,
    segments: &'a [Arc<Segment>],
    /// A summary of each segment.
    facts: Vec<SegmentSummary>,
    /// The digest of each segment. `None` if the segment is damaged.
    sources: Vec<Option<(Source, DigestAnnex)>>,
    met: &'a Met,
    pins: TombstonePass<'a>,
    temporaries: Temporaries<'a>,
    report: CompactionReport,
    began: Instant,
}

impl Pass<'_> {
    /// Finds or builds the digests, and sets a horizon for tombstones that no plan has seen yet.
    fn look(&mut self) -> Result<()> {
        let mut seen = false;
        let mut transactions = TransactionFilter::default();
        for segment in self.segments {
            let built = self.report.digests_built;
            let source = match self.met.log(segment.base()) {
                Some(error) => {
                    self.report.damaged.push(error.clone());
                    None
                }
                None => Some(self.digest(segment)?),
            };
            let tombstones = source.as_ref().map_or(0, |(source, _)| source.footer.counts.tombstones);
            let annex = source.as_ref().map_or(&[][..], |(_, annex)| &annex.horizons);
            if tombstones > 0 && annex.is_empty() && segment.meta().horizon().is_none() {
                let at = horizon(self.order.now, self.config.delete_retention);
                segment.update_meta(|facts| facts.tombstone_horizon = at);
                seen = true;
            }
            let markers = self.markers(segment, source.as_ref(), &mut transactions);
            let facts = segment.meta();
            self.facts.push(SegmentSummary {
                base: segment.base(),
                end: segment.end(),
                bytes: segment.len(),
                index_bytes: segment.index_bytes(),
                first_append_at: facts.first_append_at,
                counts: source.as_ref().map(|(source, _)| source.footer.counts),
                horizons: horizons_of(segment.end(), annex, facts.horizon()),
                markers,
            });
            self.sources.push(source);
            if self.report.digests_built > built && (self.order.is_over)(Duration::ZERO) {
                self.report.unfinished = true;
                break;
            }
        }
        self.core.lock_compaction_state().tombstones = Some(tombstones_of(&self.sources));
        // If they were lost, the horizons would start again: that is safe, but late.
        if seen { self.core.update_state(|_| ()).inspect_err(|e| self.core.fail_state(e)) } else { Ok(()) }
    }

    /// Returns what may be done with the markers of the next segment.
    fn markers(
        &self,
        segment: &Segment,
        source: Option<&(Source, DigestAnnex)>,
        transactions: &mut TransactionFilter,
    ) -> MarkerSummary {
        let Some((source, annex)) = source else {
            transactions.pass_unknown_segment();
            return MarkerSummary::default();
        };
        let has_leading = transactions.pass_segment(annex.producers.iter().copied());
        if !transactions.knows_all() {
            return MarkerSummary::default();
        }
        let without = has_leading || source.footer.counts.loose_markers > 0;
        let since = || self.core.lock_compaction_state().markers_since(segment, self.order.now);
        MarkerSummary { horizons: annex.markers.clone(), without_since: without.then(since) }
    }

    fn digest(&mut self, segment: &Segment) -> Result<(Source, DigestAnnex)> {
        let source = match build_digest::stored(segment, self.order.hasher)? {
            Some(source) => source,
            None => {
                let aborted = visibility::aborted_in(self.core, self.view, segment.base(), segment.end())?;
                self.report.digests_built += 1;
                self.report.bytes_read += segment.len();
                build_digest::build(segment, &aborted, &self.order, self.storage, &self.temporaries)?
            }
        };
        let annex = DigestReader::reopen(self.storage, &source.path, &source.footer)?.annex()?;
        Ok((source, annex))
    }

    fn run(&mut self) -> Result<()> {
        let now = self.order.now;
        let rest = self.core.lock_compaction_state().rest(&self.facts);
        if !rest.is_empty() {
            return self.carry_out(&rest);
        }
        let rules = self.rules();
        let (counted, due, passed) = self.counted();
        let may_estimate = self.order.mode == CompactMode::Due && counted.iter().any(Option::is_some);
        if may_estimate && !passed && due.is_none_or(|due| due > now) {
            let most = plan(&self.facts, &could_be(&self.facts, &counted, now), &rules);
            if most.groups.is_empty() {
                let due = due.into_iter().chain(most.next_deadline).min();
                self.core.lock_compaction_state().set_plan(self.config, self.bound, false, due);
                self.report.next_deadline = due;
                return Ok(());
            }
        }
        let garbage = self.count()?;
        let plan = plan(&self.facts, &garbage, &rules);
        self.remember(&garbage, &plan, &rules);
        self.report.next_deadline = plan.next_deadline;
        if plan.groups.is_empty() { Ok(()) } else { self.carry_out(&plan.groups) }
    }

    fn rules(&self) -> PlanRules {
        PlanRules {
            now: self.order.now,
            bound: self.bound,
            min_cleanable_dirty_ratio: self.config.min_cleanable_dirty_ratio,
            max_compaction_lag: self.config.max_compaction_lag,
            segment_bytes: self.config.segment_bytes,
            segment_index_bytes: u64::from(self.config.segment_index_bytes),
            floor: self.pins.floor(),
            delete_retention: self.config.delete_retention,
            held_until: self.pins.holder().map(|holder| holder.holds_until),
        }
    }

    /// Returns the last count of each segment, the time at which the last plan has more to do, and whether a reader
    /// that kept tombstones from being removed has passed them.
    fn counted(&self) -> (Vec<Option<Garbage>>, Option<Timestamp>, bool) {
        let counted = self.core.lock_compaction_state();
        let each = self.facts.iter().zip(self.segments);
        let garbage = each.map(|(facts, segment)| counted.garbage_of(facts, segment)).collect();
        (garbage, counted.due(), counted.is_passed(self.pins.floor()))
    }

    fn remember(&self, garbage: &[Garbage], plan: &Plan, rules: &PlanRules) {
        let each = || self.facts.iter().zip(garbage);
        for (segment, (known, garbage)) in self.segments.iter().zip(each()) {
            let inside = known.counts.map_or((0, 0), |c| (c.records - c.keys, c.record_bytes - c.key_bytes));
            segment.update_meta(|facts| {
                facts.set_dead(garbage.dead_records + inside.0, garbage.dead_bytes + inside.1);
            });
        }
        let is_held = |facts: &SegmentSummary, garbage: &Garbage| garbage.held > 0 || MarkersDue::of(facts, rules).held;
        let held_below = each().find(|(facts, garbage)| is_held(facts, garbage)).map(|(facts, _)| facts.end);
        let mut counted = self.core.lock_compaction_state();
        counted.set_garbage(each().map(|(facts, garbage)| ((facts.base, facts.end), *garbage)).collect(), held_below);
        counted.set_plan(self.config, self.bound, true, plan.next_deadline);
        counted.set_rest(&plan.groups);
    }

    fn rule(&self) -> TombstoneRule {
        let damaged = self.facts.iter().find(|facts| facts.counts.is_none());
        TombstoneRule { now: self.order.now, floor: self.pins.floor(), pinned_from: damaged.map(|facts| facts.base) }
    }

    /// Returns the existing digests, and the indexes of their segments.
    fn sources(&self) -> (Vec<Source>, Vec<usize>) {
        let sound =
            self.sources.iter().enumerate().filter_map(|(at, source)| source.as_ref().map(|(s, _)| (s.clone(), at)));
        sound.unzip()
    }

    fn count(&self) -> Result<Vec<Garbage>> {
        let (sources, numbers) = self.sources();
        let facts: Vec<&SegmentSummary> = numbers.iter().map(|at| &self.facts[*at]).collect();
        let merge = Merge::new(self.storage, &sources, self.order.memory.count());
        let counted = count_garbage(merge, &facts, &self.rule())?;
        let mut garbage = vec![Garbage::default(); self.facts.len()];
        numbers.iter().zip(counted).for_each(|(at, counted)| garbage[*at] = counted);
        Ok(garbage)
    }

    fn carry_out(&mut self, groups: &[Group]) -> Result<()> {
        let rule = self.rule();
        let (sources, numbers) = self.sources();
        let facts: Vec<&SegmentSummary> = numbers.iter().map(|at| &self.facts[*at]).collect();
        let ranges: Vec<Range<Offset>> = groups.iter().map(|group| group.base..group.end).collect();
        let storage = self.storage;
        let (budget, memory) = self.order.memory.survivors();
        let name = || self.temporaries.path(self.facts[0].base, SegmentFileKind::Digest);
        let merge = Merge::new(storage, &sources, budget);
        let temp = TempFiles::new(storage, &name);
        let mut survivors = Survivors::find(merge, &facts, &ranges, &rule, &memory, temp)?;
        let last_batches = self.core.lock_active().producers().last_batches(self.core.group_commit.end());
        let rules = Rules {
            index_interval: u64::from(self.config.index_interval_bytes),
            storage,
            hasher: self.order.hasher,
            memory: self.order.memory,
            tombstones: &rule,
            marker_horizon: horizon(self.order.now, self.config.delete_retention),
            last_batches: &last_batches,
            temporaries: &self.temporaries,
        };
        let mut report = std::mem::take(&mut self.report);
        let done = self.groups(groups, &rules, &mut survivors, &mut report);
        let done = if self.core.check_writable().is_ok() { done.and(self.record()) } else { done };
        report.unfinished |= survivors.groups().len() < groups.len();
        report.next_deadline = self.core.lock_compaction_state().due();
        self.report = report;
        done
    }

    /// Records the new segments in `state`. An open reads every segment that it does not find there, and trusts no
    /// digest of it.
    fn record(&self) -> Result<()> {
        self.core.update_state(|_| ()).inspect_err(|error| self.core.fail_state(error))
    }

    /// Rewrites and swaps one group after the other, from the lowest offset on.
    fn groups(
        &self,
        groups: &[Group],
        rules: &Rules<'_>,
        survivors: &mut Survivors<'_>,
        report: &mut CompactionReport,
    ) -> Result<()> {
        let mut filter = TransactionFilter::default();
        let (mut passed, prepared) = (0, self.began.elapsed());
        for (number, group) in groups.iter().enumerate().take(survivors.groups().len()) {
            if number > 0 && (self.order.is_over)(prepared) {
                report.unfinished = true;
                return Ok(());
            }
            (passed..group.segments.start).for_each(|at| self.pass_over(&mut filter, at));
            passed = group.segments.end;
            let inputs = self.inputs(group)?;
            let stretches = group
                .segments
                .clone()
                .map(|at| (self.facts[at].base..self.facts[at].end, &self.facts[at].horizons[..]));
            let horizons = join_horizons(stretches, self.order.now);
            self.check_room(group)?;
            let output = rewrite(rules, &inputs, number, survivors, &mut filter, horizons)?;
            let kept = &survivors.groups()[number];
            let winner = kept.highest_winner.max(output.highest_abort);
            report.bytes_read += output.bytes_read;
            report.bytes_written += output.segment.len;
            report.tombstones_removed += kept.dropped_tombstones;
            report.segments_rewritten += inputs.len();
            report.segments_written += 1;
            report.bytes_freed +=
                group.segments.clone().map(|at| self.facts[at].bytes).sum::<u64>().saturating_sub(output.segment.len);
            let olds = &self.segments[group.segments.clone()];
            report.lost += self.swap(olds, &output, winner, kept.highest_dropped_tombstone)?;
            output.markers_go.into_iter().for_each(|at| self.core.lock_compaction_state().lower_due(at));
        }
        (passed..self.segments.len()).for_each(|at| self.pass_over(&mut filter, at));
        Ok(())
    }

    /// Skips a segment that is not read. Its digest says what the filter must know of its transactions. It may have
    /// markers that are all that the rewrite has left of a transaction.
    fn pass_over(&self, filter: &mut TransactionFilter, at: usize) {
        match &self.sources[at] {
            Some((_, annex)) if filter.pass_segment(annex.producers.iter().copied()) => {
                let (base, retention) = (self.segments[at].base(), self.config.delete_retention);
                self.core.lock_compaction_state().note_markers(base, self.order.now, retention);
            }
            Some(_) => {}
            None => filter.pass_unknown_segment(),
        }
    }

    fn inputs(&self, group: &Group) -> Result<Vec<Input<'_>>> {
        group
            .segments
            .clone()
            .map(|at| {
                let segment = &self.segments[at];
                let aborted = visibility::aborted_in(self.core, self.view, segment.base(), segment.end())?;
                let entries = segment.aborted()?.unwrap_or_default();
                Ok(Input { segment, horizons: &self.facts[at].horizons, aborted, entries })
            })
            .collect()
    }

    /// Fails before a rewrite that would fill the disk.
    fn check_room(&self, group: &Group) -> Result<()> {
        let dir = &self.core.dir.path;
        let free = self.core.dir.storage.free_space(dir).map_err(|e| Error::io(e, dir))?;
        if free < group.expected_bytes { Err(Error::from(ErrorKind::DiskFull).at_path(dir)) } else { Ok(()) }
    }

    /// Returns the highest offset that must stay in the log after records were removed because of newer ones up to
    /// `winner`. The newer ones count only because of the markers of their transactions, which may lie far above.
    fn relied_on(&self, winner: Offset) -> Offset {
        let mut relied_on = winner;
        let mut open = BTreeSet::new();
        for (facts, source) in self.facts.iter().zip(&self.sources) {
            let below = facts.base <= winner;
            if !below && open.is_empty() {
                break;
            }
            let producers = source.as_ref().map_or(&[][..], |(_, annex)| &annex.producers);
            for producer in producers {
                match producer.open {
                    true if below => drop(open.insert(producer.id)),
                    true => {}
                    false => drop(open.remove(&producer.id)),
                }
                relied_on = relied_on.max(Offset::new(facts.end.get() - 1));
            }
        }
        if open.is_empty() {
            return relied_on;
        }
        // The marker lies above the bound, but below the durable end: a pass does not rely on anything that was not
        // durable when it began.
        let durable = self.core.group_commit.end();
        relied_on.max(Offset::new(durable.get().saturating_sub(1)))
    }

    /// Puts an output in the place of its inputs. Returns how many readers lost tombstones.
    fn swap(
        &self,
        olds: &[Arc<Segment>],
        output: &Output,
        winner: Option<Offset>,
        dropped: Option<Offset>,
    ) -> Result<usize> {
        let core = self.core;
        let winner = winner.map(|winner| self.relied_on(winner));
        if winner > core.state().max_winner_offset {
            core.update_state(|state| state.max_winner_offset = state.max_winner_offset.max(winner))
                .inspect_err(|error| core.fail_state(error))?;
        }
        let new = replace::replace(&core.dir, olds, &output.segment).inspect_err(|error| core.poison(error))?;
        let publish = || {
            core.view.update(|view| {
                let kept = view.segments().iter().filter(|segment| !olds.iter().any(|old| Arc::ptr_eq(old, segment)));
                let mut segments: Vec<Arc<Segment>> = kept.cloned().chain([new]).collect();
                segments.sort_by_key(|segment| segment.base());
                Some(SegmentList::new(segments))
            });
        };
        let lost = match dropped {
            Some(highest) => self.pins.publish(highest, publish).1.len(),
            None => {
                publish();
                0
            }
        };
        core.retire_segments(olds.to_vec());
        core.lock_compaction_state().replaced(olds, output.segment.base, output.segment.end);
        Ok(lost)
    }
}

fn tombstones_of(sources: &[Option<(Source, DigestAnnex)>]) -> u64 {
    sources.iter().flatten().map(|(source, _)| source.footer.counts.tombstones).sum()
}
