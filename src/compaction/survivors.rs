//! The records that remain of the rewritten segments.
//!
//! One merge of all digests finds the latest record of every key. For each such record in a group to be rewritten, two
//! things are kept. Its offset goes to a [set](super::offset_set) that is read in ascending order during the rewrite.
//! Its entry goes to one stream per group. The entries arrive in hash order, so this stream is the digest of the
//! group's output. Both use fixed memory, and anything beyond goes to temporary files. No log data is read or hashed
//! for this.

use std::ops::{Range, RangeInclusive};

use super::merge::{Found, Merge, Source, offset};
use super::offset_set::{OffsetMemory, OffsetReader, OffsetSet};
use super::spill::{Pages, Streams, TempFiles};
use super::tombstones::{TombstoneRule, Verdict};
use crate::compaction::plan::SegmentSummary;
use crate::error::Result;
use crate::format::digest::DigestEntry;
use crate::offset::Offset;
use crate::segment::digest_file::DigestWriter;

/// The number of entries in a page of a group's stream.
const PAGE_ITEMS: usize = 170;
/// The least number of pages in memory for a group.
const PAGES_PER_GROUP: usize = 2;
/// The least number of groups that the pages suffice for, because one merge serves them all.
const GROUPS_MIN: usize = 128;
/// Marks a segment outside all groups.
const NONE: u32 = u32::MAX;

/// How the search for survivors divides its memory, besides the memory of the merge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SurvivorMemory {
    offsets: OffsetMemory,
    entries: Pages,
}

impl SurvivorMemory {
    /// Uses about `bytes`, but enough for some pages: not less than 1 MiB.
    pub(crate) fn new(bytes: usize) -> SurvivorMemory {
        let count = (bytes / 2 / (PAGE_ITEMS * DigestEntry::LEN)).max(GROUPS_MIN * PAGES_PER_GROUP);
        SurvivorMemory {
            offsets: OffsetMemory::new(bytes / 2),
            entries: Pages { items: PAGE_ITEMS, count: count.min(u32::MAX as usize / 2) },
        }
    }

    /// The number of groups that one merge can serve.
    fn groups(&self) -> usize {
        self.entries.count / PAGES_PER_GROUP
    }
}

/// The outcome for a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct GroupSurvivors {
    /// The offsets of its segments.
    pub(crate) offsets: Range<Offset>,
    /// The number of records that stay.
    pub(crate) records: u64,
    /// The number of tombstones that are removed because their horizon has passed.
    pub(crate) dropped_tombstones: u64,
    /// The highest offset of those tombstones.
    pub(crate) highest_dropped_tombstone: Option<Offset>,
    /// No record is removed because of one above this offset. `None` for a group that loses nothing. An aborted record
    /// is removed because of its marker, which is not considered here.
    pub(crate) highest_winner: Option<Offset>,
}

/// The survivors of some groups.
pub(crate) struct Survivors<'t> {
    temp: TempFiles<'t>,
    groups: Vec<GroupSurvivors>,
    /// The first position of each group.
    starts: Vec<u64>,
    offsets: OffsetReader,
    entries: Streams<{ DigestEntry::LEN }>,
    /// The survivors of the batch requested last.
    batch: Vec<u32>,
}

impl<'t> Survivors<'t> {
    /// Finds the survivors of as many of the first groups as one merge can serve.
    ///
    /// The merge covers all segments below the bound that have a digest, given in the same order. Each group is a run
    /// of them. The groups are all that will be rewritten, in ascending order, and each is durable before the next one
    /// is published. A tombstone is removed if all older records of its key lie in these groups, so that they are gone
    /// by then.
    pub(crate) fn find(
        merge: Merge<'_>,
        segments: &[&SegmentSummary],
        groups: &[Range<Offset>],
        rule: &TombstoneRule,
        memory: &SurvivorMemory,
        temp: TempFiles<'t>,
    ) -> Result<Survivors<'t>> {
        let groups = &groups[..groups.len().min(memory.groups())];
        let mut search = Search::new(merge.sources(), segments, groups, rule, memory, temp);
        merge.run(|records| records.chunk_by(Found::is_same_key).try_for_each(|records| search.visit(records)))?;
        search.finish(memory)
    }

    /// The groups that the merge served.
    pub(crate) fn groups(&self) -> &[GroupSurvivors] {
        &self.groups
    }

    /// Returns the surviving records of a batch: their offsets relative to the batch's first, in ascending order.
    /// Groups, and the batches of each, must be requested in ascending order and at most once.
    pub(crate) fn of_batch(&mut self, group: usize, batch: RangeInclusive<Offset>) -> Result<&[u32]> {
        let (first, last) = batch.into_inner();
        let offsets = &self.groups[group].offsets;
        assert!(offsets.start <= first && first <= last && last < offsets.end, "the batch is in the group");
        let position = self.starts[group] + first.since(offsets.start);
        let positions = position..position + last.since(first) + 1;
        self.batch.clear();
        self.offsets.visit(positions, &self.temp, |kept| self.batch.push((kept - position) as u32))?;
        Ok(&self.batch)
    }

    /// Writes the digest entries of a group's output. If the output is more than one segment, writes those of the
    /// segment with these offsets. The caller writes the rest of the digest.
    pub(crate) fn write_entries(
        &mut self,
        group: usize,
        offsets: &Range<Offset>,
        digest: &mut DigestWriter,
    ) -> Result<()> {
        let all = self.groups[group].offsets.clone();
        let mut entries: Vec<DigestEntry> = Vec::new();
        self.entries.read(group, |bytes| {
            entries.clear();
            entries.extend(DigestEntry::decode_all(bytes));
            if all != *offsets {
                let offset = |entry: &DigestEntry| all.start + u64::from(entry.delta());
                entries.retain(|entry| offsets.contains(&offset(entry)));
                entries
                    .iter_mut()
                    .for_each(|entry| *entry = entry.with_delta(offset(entry).since(offsets.start) as u32));
            }
            digest.push(&entries)
        })
    }
}

/// A search for survivors in progress.
struct Search<'a, 't> {
    sources: &'a [Source],
    segments: &'a [&'a SegmentSummary],
    rule: &'a TombstoneRule,
    temp: TempFiles<'t>,
    groups: Vec<GroupSurvivors>,
    starts: Vec<u64>,
    places: Vec<Place>,
    offsets: OffsetSet,
    entries: Streams<{ DigestEntry::LEN }>,
}

/// The position of a merged segment among the groups.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The index of its group, or [`NONE`].
    group: u32,
    /// The distance from the group's base to its base.
    above: u32,
    /// The position of its base.
    position: u64,
    /// One more than the highest offset, so far, of a record that supersedes one in this segment.
    relies_on: u64,
}

impl<'a, 't> Search<'a, 't> {
    fn new(
        sources: &'a [Source],
        segments: &'a [&'a SegmentSummary],
        groups: &[Range<Offset>],
        rule: &'a TombstoneRule,
        memory: &SurvivorMemory,
        temp: TempFiles<'t>,
    ) -> Search<'a, 't> {
        assert_eq!(sources.len(), segments.len(), "each digest is one of a segment");
        assert!(groups.windows(2).all(|pair| pair[0].end <= pair[1].start), "groups come in order");
        let mut end = 0;
        let mut starts = Vec::with_capacity(groups.len());
        for group in groups {
            starts.push(end);
            end += group.end.since(group.start);
        }
        let place = |segment: &&SegmentSummary| {
            let group = groups.partition_point(|group| group.end <= segment.base);
            let found = groups.get(group).filter(|group| group.start <= segment.base && segment.end <= group.end);
            let above = found.map_or(0, |found| segment.base.since(found.start));
            let group_number = if found.is_some() { group as u32 } else { NONE };
            let position = starts.get(group).map_or(0, |start| start + above);
            Place { group: group_number, above: above as u32, position, relies_on: 0 }
        };
        Search {
            sources,
            segments,
            rule,
            temp,
            groups: groups.iter().map(GroupSurvivors::new).collect(),
            places: segments.iter().map(place).collect(),
            starts,
            offsets: OffsetSet::new(end, &memory.offsets),
            entries: Streams::new(groups.len(), memory.entries),
        }
    }

    /// Processes the records of one key.
    #[inline]
    fn visit(&mut self, records: &[Found]) -> Result<()> {
        let Some((latest, older)) = records.split_last() else { return Ok(()) };
        let next_offset = offset(self.sources, latest).get() + 1;
        for record in older {
            let place = &mut self.places[record.source as usize];
            place.relies_on = place.relies_on.max(next_offset);
        }
        let Place { group, above, position, .. } = self.places[latest.source as usize];
        if group == NONE || latest.tombstone && self.drops_tombstone(latest, older) {
            return Ok(());
        }
        self.offsets.insert(position + u64::from(latest.delta), &self.temp)?;
        latest.entry(above + latest.delta).encode_to(self.entries.push(group as usize, &self.temp)?);
        Ok(())
    }

    /// Whether a tombstone that is the latest record of its key is removed.
    #[cold]
    fn drops_tombstone(&mut self, latest: &Found, older: &[Found]) -> bool {
        let offset = offset(self.sources, latest);
        let verdict = self.rule.verdict(offset, &self.segments[latest.source as usize].horizons);
        let goes_with_older = older.iter().all(|record| self.places[record.source as usize].group != NONE);
        let goes = verdict == Verdict::MayGo && goes_with_older;
        if goes {
            let place = &mut self.places[latest.source as usize];
            place.relies_on = place.relies_on.max(offset.get() + 1);
            let group = &mut self.groups[place.group as usize];
            group.dropped_tombstones += 1;
            group.highest_dropped_tombstone = group.highest_dropped_tombstone.max(Some(offset));
        }
        goes
    }

    fn finish(mut self, memory: &SurvivorMemory) -> Result<Survivors<'t>> {
        for (segment, place) in self.segments.iter().zip(&self.places) {
            let Some(group) = self.groups.get_mut(place.group as usize) else { continue };
            // The digest does not tell which of its own records supersedes another, so assume the highest.
            let loses_inside = segment.counts.is_none_or(|counts| counts.records > counts.keys);
            let inside = if loses_inside { segment.end.get() } else { 0 };
            let highest = place.relies_on.max(inside).checked_sub(1).map(Offset::new);
            group.highest_winner = group.highest_winner.max(highest);
        }
        for (number, group) in self.groups.iter_mut().enumerate() {
            group.records = self.entries.len(number);
        }
        self.entries.complete(&self.temp)?;
        let offsets = self.offsets.complete(memory.offsets, &self.temp)?;
        let Search { temp, groups, starts, entries, .. } = self;
        Ok(Survivors { temp, groups, starts, offsets, entries, batch: Vec::new() })
    }
}

impl GroupSurvivors {
    fn new(offsets: &Range<Offset>) -> GroupSurvivors {
        GroupSurvivors {
            offsets: offsets.clone(),
            records: 0,
            dropped_tombstones: 0,
            highest_dropped_tombstone: None,
            highest_winner: None,
        }
    }
}

#[cfg(test)]
mod tests;
