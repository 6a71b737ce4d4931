//! One compaction of a partition: digests, count, plan, survivors, then group by group rewrite and swap.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use crate::config::{Cleanup, TopicConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::format::digest::{DigestAnnex, KeyHasher};
use crate::format::file_name::SegmentFileKind;
use crate::isolation;
use crate::offset::{Offset, Timestamp};
use crate::pins::TombstonePass;
use crate::segment::Segment;
use crate::segment::digest::DigestReader;
use crate::shared::Shared;
use crate::swap;
use crate::transactions::TransactionFilter;
use crate::view::View;

use super::count::count_garbage;
use super::damage::Met;
use super::merge::{Merge, Source};
use super::plan::{Garbage, Group, Plan, PlanRules, SegmentFacts, could_be, plan};
use super::rewrite::{Input, Output, Rules, Temporaries, rewrite};
use super::spill::TempFiles;
use super::survivors::Survivors;
use super::tombstones::{TombstoneRule, horizon, horizons_of, join_horizons};
use super::{Memory, build};

/// What a compaction is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CompactMode {
    /// What is due by the topic's configuration.
    #[default]
    Due,
    /// The same, but the active segment is sealed first, so that everything appended so far can be compacted.
    Full,
}

/// What a compaction did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CompactionReport {
    /// Segments below the bound of the compaction.
    pub segments: usize,
    /// Digests that were built, each by one read of its segment.
    pub digests_built: usize,
    /// Segments that were rewritten.
    pub segments_rewritten: usize,
    /// Segments that took their place.
    pub segments_written: usize,
    /// Bytes of log data that were read for digests and rewrites.
    pub bytes_read: u64,
    /// Bytes of log data that were written.
    pub bytes_written: u64,
    /// Bytes that the log is smaller for it.
    pub bytes_freed: u64,
    /// Tombstones that were removed because their time was over.
    pub tombstones_removed: u64,
    /// Segments that are damaged and were left alone, and why.
    pub damaged: Vec<Error>,
    /// Who keeps tombstones from going: the name of a position, or "a reader", and where it stands.
    pub held_by: Option<(String, Offset)>,
    /// Readers and positions that lost tombstones because they stood still for too long.
    pub lost: usize,
    /// When there is more to do, if no record comes.
    pub next_deadline: Option<Timestamp>,
    /// Whether it stopped before its end, because somebody else needed the partition or the groups were too many.
    pub unfinished: bool,
}

/// What compaction remembers of a partition between passes. Losing it costs a count.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    /// By base and end of the segment.
    garbage: BTreeMap<(Offset, Offset), Garbage>,
    /// When the plan of the last count has more to do.
    deadline: Option<Timestamp>,
    /// Where somebody stood who held tombstones then: once he has moved on they may go, whatever the deadline.
    held_at: Option<Offset>,
}

impl CompactionReport {
    /// Whether nothing was rewritten: nothing is left to do for now.
    pub fn is_idle(&self) -> bool {
        self.segments_rewritten == 0
    }
}

/// Compacts what is due. The caller holds the maintenance lock.
///
/// Damage that only the rewrite meets does not stop the others: the segment is left alone, and what is left to do is
/// planned anew without it.
pub(crate) fn compact(
    shared: &Shared,
    hasher: &KeyHasher,
    memory: &Memory,
    now: Timestamp,
    mode: CompactMode,
) -> Result<CompactionReport> {
    let config = shared.config();
    if config.cleanup == Cleanup::Delete {
        return Err(ErrorKind::InvalidConfig("the topic is not compacted: its cleanup is `delete`".into()).into());
    }
    shared.check_writable()?;
    if mode == CompactMode::Full {
        shared.lock_active().roll(shared, now)?;
    }
    shared.durability.finish_roll(shared)?;
    let mut report = CompactionReport::default();
    let mut met = Met::default();
    loop {
        match attempt(shared, hasher, memory, &config, (now, mode), &met, &mut report) {
            Err(error) if error.is_corruption() => met.note(shared, error)?,
            done => return done.map(|()| report),
        }
    }
}

/// Compacts what is due beside the damage that is known.
fn attempt(
    shared: &Shared,
    hasher: &KeyHasher,
    memory: &Memory,
    config: &TopicConfig,
    (now, mode): (Timestamp, CompactMode),
    met: &Met,
    report: &mut CompactionReport,
) -> Result<()> {
    let view = shared.view.load();
    let eligible = eligible(shared, &view, config, now);
    report.segments = eligible.len();
    report.damaged.clear();
    let Some(last) = eligible.last() else { return Ok(()) };
    let bound = last.end();
    let pins = shared.pins.begin_pass(bound, now, config.reader_hold_max);
    report.held_by = pins.holder().map(|h| (h.name.clone().unwrap_or_else(|| "a reader".to_owned()), h.offset));

    let temporaries = Temporaries::new(&shared.place, &shared.temporaries);
    let mut pass = Pass {
        shared,
        hasher,
        memory,
        config,
        now,
        bound,
        view: &view,
        segments: eligible,
        facts: Vec::new(),
        sources: Vec::new(),
        met,
        pins,
        temporaries,
        report: std::mem::take(report),
    };
    let done = pass.look().and_then(|()| pass.run(mode));
    *report = pass.report;
    done
}

/// The sealed segments that may be compacted: those that end below everything that must not be relied on yet.
fn eligible<'v>(shared: &Shared, view: &'v View, config: &TopicConfig, now: Timestamp) -> &'v [Arc<Segment>] {
    let offsets = isolation::offsets(shared);
    let pinned = shared.pins.owner_bound().unwrap_or(Offset::MAX);
    let undecided = shared.lock_active().first_undecided(shared).unwrap_or(Offset::MAX);
    let bound = offsets.durable.min(offsets.high_watermark).min(offsets.last_stable).min(undecided).min(pinned);
    let lag = i64::try_from(config.min_compaction_lag.as_millis()).unwrap_or(i64::MAX);
    let may = |segment: &&Arc<Segment>| segment.end() <= bound && segment.facts().sealed_at.plus_millis(lag) <= now;
    let count = view.sealed().iter().take_while(may).count();
    &view.sealed()[..count]
}

struct Pass<'a> {
    shared: &'a Shared,
    hasher: &'a KeyHasher,
    memory: &'a Memory,
    config: &'a TopicConfig,
    now: Timestamp,
    bound: Offset,
    view: &'a View,
    segments: &'a [Arc<Segment>],
    /// What is known of each segment.
    facts: Vec<SegmentFacts>,
    /// The digest of each; `None` of a damaged one.
    sources: Vec<Option<(Source, DigestAnnex)>>,
    met: &'a Met,
    pins: TombstonePass<'a>,
    temporaries: Temporaries<'a>,
    report: CompactionReport,
}

impl Pass<'_> {
    /// Finds or builds the digests, and sets the horizons of tombstones that no plan has seen.
    fn look(&mut self) -> Result<()> {
        let mut seen = false;
        for segment in self.segments {
            let source = match self.met.log(segment.base()) {
                Some(error) => {
                    self.report.damaged.push(error.clone());
                    None
                }
                None => Some(self.digest(segment)?),
            };
            let tombstones = source.as_ref().map_or(0, |(source, _)| source.footer.counts.tombstones);
            let annex = source.as_ref().map_or(&[][..], |(_, annex)| &annex.horizons);
            if tombstones > 0 && annex.is_empty() && segment.facts().tombstone_horizon.is_none() {
                let at = horizon(self.now, self.config.delete_retention);
                segment.update_facts(|facts| facts.tombstone_horizon = Some(at));
                seen = true;
            }
            let facts = segment.facts();
            self.facts.push(SegmentFacts {
                base: segment.base(),
                end: segment.end(),
                bytes: segment.len(),
                index_bytes: segment.index_bytes(),
                first_append_at: facts.first_append_at,
                counts: source.as_ref().map(|(source, _)| source.footer.counts),
                horizons: horizons_of(segment.end(), annex, facts.tombstone_horizon),
            });
            self.sources.push(source);
        }
        // Lost, the horizons would begin anew: that is safe, but late.
        if seen { self.shared.update_state(|_| ()).inspect_err(|e| self.shared.fail_state(e)) } else { Ok(()) }
    }

    fn digest(&mut self, segment: &Segment) -> Result<(Source, DigestAnnex)> {
        let source = match build::stored(segment, self.hasher)? {
            Some(source) => source,
            None => {
                let aborted = isolation::aborted_in(self.shared, self.view, segment.base(), segment.end())?;
                self.report.digests_built += 1;
                self.report.bytes_read += segment.len();
                build::build(segment, &aborted, self.hasher, self.memory, &self.temporaries)?
            }
        };
        let annex = DigestReader::reopen(&*self.shared.place.storage, &source.path, &source.footer)?.annex()?;
        Ok((source, annex))
    }

    fn run(&mut self, mode: CompactMode) -> Result<()> {
        let rules = PlanRules {
            now: self.now,
            bound: self.bound,
            min_cleanable_dirty_ratio: self.config.min_cleanable_dirty_ratio,
            max_compaction_lag: self.config.max_compaction_lag,
            segment_bytes: self.config.segment_bytes,
            segment_index_bytes: u64::from(self.config.segment_index_bytes),
            held_until: self.pins.holder().map(|holder| holder.holds_until),
        };
        let counted = self.counted();
        if mode == CompactMode::Due && counted.iter().any(Option::is_some) {
            let most = plan(&self.facts, &could_be(&self.facts, &counted, self.now), &rules);
            let (deadline, held_at) = {
                let counted = self.shared.lock_counted();
                (counted.deadline, counted.held_at)
            };
            let waits = deadline.is_none_or(|deadline| deadline > self.now)
                && held_at.is_none_or(|held_at| self.pins.floor() <= held_at);
            if most.groups.is_empty() && waits {
                self.report.next_deadline = deadline.into_iter().chain(most.next_deadline).min();
                return Ok(());
            }
        }
        let garbage = self.count()?;
        let plan = plan(&self.facts, &garbage, &rules);
        self.remember(&garbage, &plan);
        self.report.next_deadline = plan.next_deadline;
        if plan.groups.is_empty() { Ok(()) } else { self.carry_out(&plan) }
    }

    /// What the last count said of each segment.
    fn counted(&self) -> Vec<Option<Garbage>> {
        let counted = self.shared.lock_counted();
        self.facts.iter().map(|facts| counted.garbage.get(&(facts.base, facts.end)).copied()).collect()
    }

    fn remember(&self, garbage: &[Garbage], plan: &Plan) {
        let mut counted = self.shared.lock_counted();
        counted.garbage = self.facts.iter().zip(garbage).map(|(f, g)| ((f.base, f.end), *g)).collect();
        counted.deadline = plan.next_deadline;
        let held = garbage.iter().any(|garbage| garbage.held > 0);
        counted.held_at = self.pins.holder().map(|holder| holder.offset).filter(|_| held);
        for (segment, garbage) in self.segments.iter().zip(garbage) {
            segment.update_facts(|facts| {
                (facts.dead_records, facts.dead_bytes) = (garbage.dead_records, garbage.dead_bytes)
            });
        }
    }

    fn rule(&self) -> TombstoneRule {
        let damaged = self.facts.iter().find(|facts| facts.counts.is_none());
        TombstoneRule { now: self.now, floor: self.pins.floor(), pinned_from: damaged.map(|facts| facts.base) }
    }

    /// The digests that there are, and the numbers of their segments.
    fn sources(&self) -> (Vec<Source>, Vec<usize>) {
        let sound =
            self.sources.iter().enumerate().filter_map(|(at, source)| source.as_ref().map(|(s, _)| (s.clone(), at)));
        sound.unzip()
    }

    fn count(&self) -> Result<Vec<Garbage>> {
        let (sources, numbers) = self.sources();
        let facts: Vec<&SegmentFacts> = numbers.iter().map(|at| &self.facts[*at]).collect();
        let merge = Merge::new(&*self.shared.place.storage, &sources, self.memory.count());
        let counted = count_garbage(merge, &facts, &self.rule())?;
        let mut garbage = vec![Garbage::default(); self.facts.len()];
        numbers.iter().zip(counted).for_each(|(at, counted)| garbage[*at] = counted);
        Ok(garbage)
    }

    fn carry_out(&mut self, plan: &Plan) -> Result<()> {
        let rule = self.rule();
        let (sources, numbers) = self.sources();
        let facts: Vec<&SegmentFacts> = numbers.iter().map(|at| &self.facts[*at]).collect();
        let groups: Vec<Range<Offset>> = plan.groups.iter().map(|group| group.base..group.end).collect();
        let storage = &*self.shared.place.storage;
        let (budget, memory) = self.memory.survivors();
        let name = || self.temporaries.path(self.facts[0].base, SegmentFileKind::Digest);
        let merge = Merge::new(storage, &sources, budget);
        let temp = TempFiles::new(storage, &name);
        let mut survivors = Survivors::find(merge, &facts, &groups, &rule, &memory, temp)?;
        let last_batches = self.shared.lock_active().producers().last_batches();
        let rules = Rules {
            shared: self.shared,
            hasher: self.hasher,
            memory: self.memory,
            tombstones: &rule,
            last_batches: &last_batches,
            temporaries: &self.temporaries,
        };
        let mut report = std::mem::take(&mut self.report);
        let done = self.groups(plan, &rules, &mut survivors, &mut report);
        let done = if self.shared.check_writable().is_ok() { done.and(self.record()) } else { done };
        report.unfinished |= survivors.groups().len() < plan.groups.len();
        self.report = report;
        match done {
            Err(error) if *error.kind() == ErrorKind::Io(std::io::ErrorKind::Interrupted) => {
                self.report.unfinished = true;
                Ok(())
            }
            done => done,
        }
    }

    /// Has `state` know the new segments: what an open does not find there it reads, and believes no digest of.
    fn record(&self) -> Result<()> {
        self.shared.update_state(|_| ()).inspect_err(|error| self.shared.fail_state(error))
    }

    /// Rewrites and swaps in one group after the other, from the lowest offset on.
    fn groups(
        &self,
        plan: &Plan,
        rules: &Rules<'_>,
        survivors: &mut Survivors<'_>,
        report: &mut CompactionReport,
    ) -> Result<()> {
        let mut filter = TransactionFilter::default();
        let mut passed = 0;
        for (number, group) in plan.groups.iter().enumerate().take(survivors.groups().len()) {
            for at in passed..group.segments.start {
                self.pass_over(&mut filter, at);
            }
            passed = group.segments.end;
            let inputs = self.inputs(group)?;
            let stretches = group
                .segments
                .clone()
                .map(|at| (self.facts[at].base..self.facts[at].end, &self.facts[at].horizons[..]));
            let horizons = join_horizons(stretches, self.now);
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
        }
        Ok(())
    }

    /// A segment that is not read: what its digest says of transactions counts.
    fn pass_over(&self, filter: &mut TransactionFilter, at: usize) {
        match &self.sources[at] {
            Some((_, annex)) => filter.pass_segment(annex.producers.iter().copied()),
            None => filter.pass_unknown_segment(),
        }
    }

    fn inputs(&self, group: &Group) -> Result<Vec<Input<'_>>> {
        group
            .segments
            .clone()
            .map(|at| {
                let segment = &self.segments[at];
                let aborted = isolation::aborted_in(self.shared, self.view, segment.base(), segment.end())?;
                let entries = segment.aborted()?.unwrap_or_default();
                Ok(Input { segment, horizons: &self.facts[at].horizons, aborted, entries })
            })
            .collect()
    }

    /// A rewrite that would fill the disk is not begun.
    fn check_room(&self, group: &Group) -> Result<()> {
        let dir = &self.shared.place.dir;
        let free = self.shared.place.storage.free_space(dir).map_err(|e| Error::io(e, dir))?;
        if free < group.expected_bytes { Err(Error::from(ErrorKind::DiskFull).at_path(dir)) } else { Ok(()) }
    }

    /// The highest offset that has to stay where records went because of others up to `winner`: these count because of the
    /// markers of their transactions, which may lie far above.
    fn relied_on(&self, winner: Offset) -> Offset {
        let mut relied_on = winner;
        let mut open = BTreeSet::new();
        for (facts, source) in self.facts.iter().zip(&self.sources) {
            let below = facts.base <= winner;
            if !below && open.is_empty() {
                break;
            }
            let producers = source.as_ref().map_or(&[][..], |(_, annex)| &annex.producers);
            for (producer, is_open) in producers {
                match is_open {
                    true if below => drop(open.insert(*producer)),
                    true => {}
                    false => drop(open.remove(producer)),
                }
                relied_on = relied_on.max(Offset::new(facts.end.get() - 1));
            }
        }
        if open.is_empty() {
            return relied_on;
        }
        // The marker lies above the bound, but what was not durable when the pass began was not counted on.
        let durable = self.shared.durability.end();
        relied_on.max(Offset::new(durable.get().saturating_sub(1)))
    }

    /// Puts an output in the place of its inputs; returns how many readers lost tombstones.
    fn swap(
        &self,
        olds: &[Arc<Segment>],
        output: &Output,
        winner: Option<Offset>,
        dropped: Option<Offset>,
    ) -> Result<usize> {
        let shared = self.shared;
        let winner = winner.map(|winner| self.relied_on(winner));
        if winner > shared.state().max_winner_offset {
            shared
                .update_state(|state| state.max_winner_offset = state.max_winner_offset.max(winner))
                .inspect_err(|error| shared.fail_state(error))?;
        }
        let new = swap::replace(&shared.place, olds, &output.segment).inspect_err(|error| shared.poison(error))?;
        let publish = || {
            shared.view.update(|view| {
                let kept = view.segments().iter().filter(|segment| !olds.iter().any(|old| Arc::ptr_eq(old, segment)));
                let mut segments: Vec<Arc<Segment>> = kept.cloned().chain([new]).collect();
                segments.sort_by_key(|segment| segment.base());
                Some(View::new(segments))
            });
        };
        let lost = match dropped {
            Some(highest) => self.pins.publish(highest, publish).1.len(),
            None => {
                publish();
                0
            }
        };
        shared.bury(olds.to_vec());
        let mut counted = shared.lock_counted();
        for old in olds {
            counted.garbage.remove(&(old.base(), old.end()));
        }
        counted.garbage.insert((output.segment.base, output.segment.end), Garbage::default());
        Ok(lost)
    }
}
