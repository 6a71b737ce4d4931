//! Compares the content of a log with the model, between phases.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;

use stratalog::format::{BatchView, Marker, Scratch, end_marker};
use stratalog::{FetchOptions, Isolation, Log, Offset, Partition};

use super::draw::{Id, KEPT, PARTITIONS, Seen};
use super::journal::{Entry, Generation, Kind};
use super::model::{Model, Of, latest};
use super::reader::Run;
use super::world::World;

/// A batch that was read.
struct Found {
    entry: Entry,
    /// Whether it belongs to an aborted transaction.
    aborted: bool,
}

/// The content of a partition.
#[derive(Default)]
struct Shown {
    start: u64,
    found: Vec<Found>,
    /// Of a compacted one: the latest record of each key.
    latest: BTreeMap<u64, (u64, Id)>,
    /// The first offset of each open transaction, by its producer.
    open: BTreeMap<i64, u64>,
    /// Where the last batch ends, and where the log says that it ends.
    last: u64,
    end: u64,
    bytes: u64,
}

/// Checks everything since the generation began, aborts open transactions, and begins the next generation. `full`: with
/// `verify` of the log itself.
pub fn check(world: &World, log: &Log, dir: &Path, generation: &Generation, runs: &[Run], full: bool) -> Generation {
    let model = Model::load(generation);
    world.now.fetch_max(model.now + 1, Ordering::SeqCst);
    let mut entries = Vec::new();
    for (at, (topic, id)) in PARTITIONS.iter().enumerate() {
        let what = format!("{topic}-{id}");
        let partition = log.partition(topic, *id).unwrap_or_else(|| panic!("LOST: {what} is not there"));
        let refused = partition.stats().error;
        assert!(refused.is_none(), "LOST: {what} takes no writes: {refused:?}");
        let of = &model.partitions[at];
        let shown = read_all(world, &partition, at, &model, generation);
        world.counts.bytes.fetch_add(shown.bytes, Ordering::Relaxed);
        shown.check_start(of, &what);
        let mut excused = of.excused.min(shown.end);
        if at < KEPT {
            shown.check_all(of, &what);
            shown.check_committed(&partition, &what);
        } else if !shown.check_latest(&model, at, world, &what) {
            excused = shown.end;
        }
        let of_it = || runs.iter().filter(|run| run.partition == at);
        of_it().filter(|_| at < KEPT).for_each(|run| run.check(&of.must, &what));
        if full {
            let findings = partition.verify().unwrap().findings;
            assert!(findings.is_empty(), "LOST: {what}: {findings:?}");
        }
        let offsets = shown.start..shown.end;
        entries.extend(of.entries(at, shown.end_transactions(world, &partition, at), offsets, excused));
    }
    world.tell(&[("records", model.appended), ("truncations", model.cuts)]);
    Generation::begin(dir, generation.number + 1, entries.into_iter())
}

fn read_all(world: &World, partition: &Partition, at: usize, model: &Model, generation: &Generation) -> Shown {
    let offsets = partition.offsets();
    let (start, end) = (offsets.start.get(), offsets.end.get());
    let mut shown = Shown { start, end, ..Shown::default() };
    let of = &model.partitions[at];
    of.below(start).for_each(|entry| shown.note_transaction(entry, i64::from(entry.writer), None));
    let mut reader = partition.reader(offsets.start).unwrap();
    let mut scratch = Scratch::default();
    loop {
        let place = reader.offset();
        let batch = match reader.next_batch() {
            Ok(Some(batch)) => batch,
            Ok(None) => break,
            Err(error) => panic!("LOST: {}-{} at {place}: {error:?}", partition.topic(), partition.id()),
        };
        shown.take(world, &batch, (at, of), &mut scratch, |id, batch| {
            model.may_be_under_way(generation, id.writer, id.n, batch)
        });
    }
    assert_eq!(reader.offset(), offsets.end, "LOST: reading {}-{} ends early", partition.topic(), partition.id());
    shown
}

impl Shown {
    /// Takes note of a batch, which has to be known, or to be one that was under way when the process was killed.
    fn take(
        &mut self,
        world: &World,
        batch: &BatchView<'_>,
        (at, of): (usize, &Of),
        scratch: &mut Scratch,
        under_way: impl Fn(Id, u16) -> bool,
    ) {
        let header = *batch.header();
        let (base, next) = (header.base_offset.get(), header.next_offset().get());
        let what = || format!("the batch of {:?} at [{base}, {next})", PARTITIONS[at]);
        let seen = world.draw.identify_batch(batch, scratch, &mut self.bytes);
        let seen = seen.unwrap_or_else(|why| panic!("LOST: {}: {why}", what()));
        self.last = next;
        if at >= KEPT {
            self.note_latest(world, batch, scratch);
            if seen.is_none() {
                // A batch that a compaction emptied.
                return;
            }
        }
        let producer = header.producer_id;
        let entry = of.at(base, seen, &world.draw).unwrap_or_else(|| match seen {
            Some(Seen { id, .. }) => {
                let plan = world.draw.plan(id.writer, id.n);
                let number = plan.batch_of(id.index).filter(|number| under_way(id, *number as u16));
                let batch = number.unwrap_or_else(|| panic!("LOST: {} is {id:?}; {}", what(), of.why_not(base))) as u16;
                let kind = if header.attributes.is_transactional() { Kind::Transactional } else { Kind::Appended };
                Entry { batch, n: id.n, next, ..Entry::new(kind, at, id.writer, base) }
            }
            None => {
                assert!(self.open.contains_key(&producer), "LOST: {} ends no transaction", what());
                Entry { next, ..Entry::new(Kind::Marker, at, producer as u32, base) }
            }
        });
        assert_eq!(entry.next, next, "LOST: {} ends elsewhere", what());
        if let Some(Seen { id, count }) = seen.filter(|_| at < KEPT) {
            let items = world.draw.plan(id.writer, id.n).batches[usize::from(entry.batch)].items.len();
            assert_eq!(count as usize, items, "LOST: records of {}", what());
        }
        let marker = batch.control(scratch).unwrap().map(|control| control.marker == Marker::Commit);
        self.note_transaction(&entry, producer, marker);
        self.found.push(Found { entry, aborted: false });
    }

    /// Follows the transactions. A marker below the log start ends a transaction below it.
    fn note_transaction(&mut self, entry: &Entry, producer: i64, commits: Option<bool>) {
        match entry.kind {
            Kind::Transactional => {
                self.open.entry(producer).or_insert(entry.base);
            }
            Kind::Marker => {
                let first = self.open.remove(&producer);
                let of_it = |found: &&mut Found| {
                    let entry = &found.entry;
                    let is_later = first.is_some_and(|first| first <= entry.base);
                    is_later && entry.kind == Kind::Transactional && i64::from(entry.writer) == producer
                };
                if commits == Some(false) {
                    self.found
                        .iter_mut()
                        .rev()
                        .take_while(|found| Some(found.entry.base) >= first)
                        .filter(of_it)
                        .for_each(|found| found.aborted = true);
                }
            }
            _ => {}
        }
    }

    fn note_latest(&mut self, world: &World, batch: &BatchView<'_>, scratch: &mut Scratch) {
        let mut plan = None;
        for record in batch.records(scratch).unwrap() {
            let record = record.unwrap();
            let id = world.draw.identify(&record, &mut plan).expect("it was identified before");
            let item = plan.as_ref().and_then(|plan| plan.item(id.index)).expect("it was identified before");
            if record.offset.get() < self.start {
                continue;
            }
            match (item.key, item.len) {
                (Some(key), Some(_)) => self.latest.insert(key, (record.offset.get(), id)),
                (Some(key), None) => self.latest.remove(&key),
                (None, _) => None,
            };
        }
    }

    fn check_start(&self, of: &Of, what: &str) {
        assert!(of.starts.contains(&self.start), "LOST: {what} begins at {} instead of {:?}", self.start, of.starts);
        assert_eq!(self.end, self.last.max(self.start), "LOST: the end of {what}");
    }

    /// Every batch that has to be there is.
    fn check_all(&self, of: &Of, what: &str) {
        let mut found = self.found.iter().map(|found| found.entry.base).peekable();
        let must = of.must.iter().filter(|entry| entry.next > self.start);
        let is_missing = |entry: &&Entry| {
            while found.next_if(|base| *base < entry.base).is_some() {}
            found.peek() != Some(&entry.base)
        };
        let missing: Vec<&Entry> = must.filter(is_missing).collect();
        let (count, all) = (missing.len(), of.must.len());
        assert!(count == 0, "LOST: {count} of {all} acknowledged batches of {what}, the first is {:?}", missing[0]);
    }

    /// Readers of committed records see all of these, and nothing else.
    fn check_committed(&self, partition: &Partition, what: &str) {
        let stable = self.open.values().copied().min().unwrap_or(self.end).max(self.start);
        assert_eq!(partition.offsets().last_stable.get(), stable, "LOST: {what}: open are {:?}", self.open);
        if self.found.iter().all(|found| found.entry.kind == Kind::Appended) {
            return;
        }
        let options = FetchOptions { isolation: Isolation::Committed, ..FetchOptions::default() };
        let mut reader = partition.reader_with(Offset::new(self.start), options).unwrap();
        let committed = self.found.iter().filter(|found| found.entry.has_records() && !found.aborted);
        let offsets = committed.flat_map(|found| found.entry.base.max(self.start)..found.entry.next);
        for offset in offsets.take_while(|offset| *offset < stable) {
            let read = reader.next_record().unwrap_or_else(|error| panic!("LOST: {what} at {offset}: {error:?}"));
            let read = read.map(|record| record.offset.get());
            assert_eq!(read, Some(offset), "LOST: what is committed of {what}");
        }
        let more = reader.next_record().unwrap().map(|record| record.offset);
        assert!(more.is_none(), "LOST: {what} shows {more:?}, which is not committed");
    }

    /// Each key has its latest value (I5). `false` where one key cannot be told: a tombstone that may have been there can
    /// be gone together with the record that it deleted.
    fn check_latest(&self, model: &Model, at: usize, world: &World, what: &str) -> bool {
        let (of, draw) = (&model.partitions[at], &world.draw);
        let mut batches: BTreeMap<u64, Entry> = of.must.iter().map(|entry| (entry.base, *entry)).collect();
        batches.extend(self.found.iter().map(|found| (found.entry.base, found.entry)));
        let batches: Vec<Entry> = batches.into_values().collect();
        let must = latest(draw, &batches, self.start);
        let known = |(_, (offset, _)): &(&u64, &(u64, Id))| *offset >= of.excused;
        let mut told = true;
        for key in must.iter().chain(&self.latest).filter(known).map(|(key, _)| key) {
            let (should, is) = (must.get(key), self.latest.get(key));
            if let (Some((offset, _)), None) = (should, is)
                && (of.may_delete(*key, *offset, draw) || model.may_delete(*key, at, draw))
            {
                told = false;
                continue;
            }
            let history = || of.history(*key, draw);
            assert!(should == is, "LOST: key {key} of {what} is {is:?} instead of {should:?}; {}", history());
        }
        told
    }

    /// Aborts open transactions; returns the batches with these markers.
    fn end_transactions(self, world: &World, partition: &Partition, at: usize) -> Vec<Entry> {
        let mut entries: Vec<Entry> = self.found.into_iter().map(|found| found.entry).collect();
        for producer in self.open.into_keys() {
            let marker = end_marker(Marker::Abort, producer, 0, 0, world.wall()).unwrap();
            let appended = partition.append(&marker).unwrap();
            let (base, next) = (appended.base_offset.get(), appended.next_offset.get());
            entries.push(Entry { n: u64::MAX, next, ..Entry::new(Kind::Marker, at, producer as u32, base) });
        }
        entries
    }
}
