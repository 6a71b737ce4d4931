//! The content that a partition must have, by the acknowledgements.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::draw::{Draw, Id, KEPT, PARTITIONS, Seen};
use super::journal::{Entry, Generation, Kind};

/// The most attempts of a killed writer that were refused since its last acknowledgement.
const UNDER_WAY: usize = 64;

/// Everything, by partition.
pub struct Model {
    pub partitions: Vec<Of>,
    /// The last attempt of each writer that is known to have ended, and its last batch.
    writers: HashMap<u32, (u64, u16)>,
    /// The last time of the shared counter.
    pub now: u64,
    /// Records and truncations since the generation began.
    pub appended: u64,
    pub cuts: u64,
}

/// Of one partition.
#[derive(Default)]
pub struct Of {
    /// Batches that have to be there, by their base offsets.
    pub must: Vec<Entry>,
    /// Those that a truncation may have taken, or not.
    may: Vec<Entry>,
    /// Those that one has taken, by their base offsets.
    gone: Vec<Entry>,
    /// Where the log may begin: more than one place after a kill.
    pub starts: Vec<u64>,
    /// Keys with their latest record below this are not known any more.
    pub excused: u64,
}

/// Something that takes records away.
#[derive(Clone, Copy)]
struct Taken {
    to: u64,
    began: u64,
    ended: u64,
}

impl Model {
    pub fn load(generation: &Generation) -> Model {
        let (base, since) = generation.load();
        let mut model = Model { partitions: Vec::new(), writers: HashMap::new(), now: 0, appended: 0, cuts: 0 };
        for entry in &since {
            model.now = model.now.max(entry.ended).max(entry.began);
            let last = model.writers.entry(entry.writer).or_default();
            match entry.kind {
                Kind::Ended => *last = (u64::MAX, u16::MAX),
                Kind::Cut | Kind::Lossy | Kind::Reset => model.cuts += 1,
                _ if entry.is_batch() => *last = (*last).max((entry.n, entry.batch)),
                _ => {}
            }
            model.appended += if entry.has_records() { entry.next - entry.base } else { 0 };
        }
        for partition in 0..PARTITIONS.len() {
            let of = |entries: &[Entry]| -> Vec<Entry> {
                entries.iter().filter(|entry| entry.partition == partition).copied().collect()
            };
            model.partitions.push(Of::new(partition, of(&base), of(&since)));
        }
        model
    }

    /// Whether the process may have been killed while a writer appended a record that deletes a key.
    pub fn may_delete(&self, key: u64, partition: usize, draw: &Draw) -> bool {
        let attempts = |(writer, (n, _)): (&u32, &(u64, u16))| {
            let of = *writer;
            std::iter::successors(Some(*n), move |n| Some(draw.after(of, *n))).take(UNDER_WAY).map(move |n| (of, n))
        };
        let killed = self.writers.iter().filter(|(_, (n, _))| *n < u64::MAX);
        let mut plans = killed.flat_map(attempts).map(|(writer, n)| draw.plan(writer, n));
        plans.any(|plan| plan.partition == partition && plan.batches.iter().any(|batch| batch.deletes(key)))
    }

    /// Whether a batch without acknowledgement may be there: its writer was killed in that attempt.
    pub fn may_be_under_way(&self, generation: &Generation, writer: u32, n: u64, batch: u16) -> bool {
        let last = self.writers.get(&writer).copied();
        generation.has(writer) && last.is_none_or(|last| (n, batch) > last)
    }
}

impl Of {
    fn new(partition: usize, base: Vec<Entry>, since: Vec<Entry>) -> Of {
        let (batches, acts): (Vec<Entry>, Vec<Entry>) = base.into_iter().chain(since).partition(Entry::is_batch);
        let taken = taken(&acts);
        let mut of = Of { starts: starts(&acts), ..Of::default() };
        for entry in &batches {
            let by = |cut: &&Taken| cut.to < entry.next && cut.ended > entry.began;
            match taken.iter().filter(by).map(|cut| cut.began > entry.ended).max() {
                None => of.must.push(*entry),
                Some(false) => of.may.push(*entry),
                Some(true) => of.gone.push(*entry),
            }
        }
        of.must.sort_unstable_by_key(|entry| entry.base);
        let twice = of.must.windows(2).find(|pair| pair[0].next > pair[1].base);
        assert!(twice.is_none(), "LOST: offsets of {:?} were given twice: {twice:?}", PARTITIONS[partition]);
        let excused = acts.iter().filter(|entry| matches!(entry.kind, Kind::Excused | Kind::Lossy));
        of.excused = excused.map(|entry| entry.base).max().unwrap_or(0);
        if acts.iter().any(|entry| entry.kind == Kind::LossyBegun && !has_ended(&acts, entry)) {
            of.excused = u64::MAX;
        }
        of
    }

    /// The batch that begins at an offset, if it is known: one that has to be there, or one that may be.
    pub fn at(&self, base: u64, seen: Option<Seen>, draw: &Draw) -> Option<Entry> {
        let must = self.must.binary_search_by_key(&base, |entry| entry.base).ok().map(|at| self.must[at]);
        let may = self.may.iter().filter(|entry| entry.base == base).copied();
        must.into_iter().chain(may).find(|entry| entry.is(seen, draw))
    }

    /// Why a batch cannot be there.
    pub fn why_not(&self, base: u64) -> String {
        let at = |entries: &[Entry]| entries.iter().filter(|entry| entry.base == base).copied().collect::<Vec<_>>();
        let (must, may, gone) = (at(&self.must), at(&self.may), at(&self.gone));
        format!("there has to be {must:?}, may be {may:?}, and cannot be {gone:?}")
    }

    /// Whether a tombstone of a key may have been behind an offset, and have gone with the record that it deleted.
    pub fn may_delete(&self, key: u64, behind: u64, draw: &Draw) -> bool {
        let deletes = |entry: &Entry| draw.plan(entry.writer, entry.n).batches[usize::from(entry.batch)].deletes(key);
        self.may.iter().any(|entry| entry.next > behind && entry.has_records() && deletes(entry))
    }

    /// All records of a key: the offset, the attempt, the length of the value, and the time of the append.
    pub fn history(&self, key: u64, draw: &Draw) -> String {
        let mut lines = String::new();
        for (what, entries) in [("there", &self.must), ("maybe", &self.may), ("gone", &self.gone)] {
            for entry in entries.iter().filter(|entry| entry.has_records()) {
                let batch = &draw.plan(entry.writer, entry.n).batches[usize::from(entry.batch)];
                for (at, item) in batch.items.iter().enumerate().filter(|(_, item)| item.key == Some(key)) {
                    let (offset, Entry { writer, n, began, ended, .. }) = (entry.base + at as u64, entry);
                    lines += &format!("\n{what} {offset}: {writer}/{n}, {:?}, [{began}, {ended}]", item.len);
                }
            }
        }
        format!("excused below {}{lines}", self.excused)
    }

    /// The entries of the next generation: these batches, of a log that had these offsets.
    pub fn entries(&self, partition: usize, found: Vec<Entry>, offsets: Range<u64>, excused: u64) -> Vec<Entry> {
        let Range { start, end } = offsets;
        let mut entries = vec![Entry::new(Kind::Start, partition, 0, start)];
        entries.push(Entry::new(Kind::Excused, partition, 0, excused));
        // Records that a compaction took stay known: by them the others are not the latest. Those at the end or above it
        // went with a truncation that a kill interrupted: it ends where what a compaction left below it does.
        let compacted = partition >= KEPT;
        let is_kept = |entry: &&Entry| match compacted {
            true => entry.base < end,
            false => entry.next <= start && entry.kind != Kind::Appended,
        };
        let unread = self.must.iter().filter(is_kept).map(|entry| (entry.base, *entry));
        let all: BTreeMap<u64, Entry> = unread.chain(found.into_iter().map(|entry| (entry.base, entry))).collect();
        entries.extend(all.into_values().map(|entry| Entry { began: 0, ended: 0, ..entry }));
        entries
    }

    /// Batches below the log start. Transactions may have begun there.
    pub fn below(&self, start: u64) -> impl Iterator<Item = &Entry> {
        self.must.iter().take_while(move |entry| entry.next <= start)
    }
}

impl Entry {
    /// Whether it is the batch that was read. A compaction may have left no record of it.
    fn is(&self, seen: Option<Seen>, draw: &Draw) -> bool {
        let Some(Seen { id, .. }) = seen else { return self.kind == Kind::Marker || self.partition >= KEPT };
        let first = || draw.plan(self.writer, self.n).batches.get(usize::from(self.batch)).map(|batch| batch.first);
        self.has_records() && (self.writer, self.n) == (id.writer, id.n) && first() == Some(id.index)
    }
}

fn has_ended(all: &[Entry], begun: &Entry) -> bool {
    all.iter().any(|entry| entry.ended > 0 && entry.began == begun.began && entry.writer == begun.writer)
}

/// The truncations; one without end, since the process was killed, may be done or not, and ends when it is opened.
fn taken(acts: &[Entry]) -> Vec<Taken> {
    let mut taken = Vec::new();
    for entry in acts {
        let Entry { base, began, ended, .. } = *entry;
        match entry.kind {
            Kind::Cut | Kind::Lossy => taken.push(Taken { to: base, began, ended }),
            Kind::Reset => taken.push(Taken { to: 0, began, ended }),
            // Records from before it began may be gone, and may be there.
            Kind::CutBegun | Kind::LossyBegun if !has_ended(acts, entry) => {
                taken.push(Taken { to: base, began: 0, ended: u64::MAX });
            }
            Kind::ResetBegun if !has_ended(acts, entry) => taken.push(Taken { to: 0, began: 0, ended: u64::MAX }),
            _ => {}
        }
    }
    taken
}

/// Where the log may begin.
fn starts(acts: &[Entry]) -> Vec<u64> {
    let mut acts = acts.to_vec();
    acts.sort_unstable_by_key(|entry| (entry.began, entry.ended));
    let mut starts = vec![0];
    for entry in &acts {
        let last = starts[starts.len() - 1];
        match entry.kind {
            Kind::Start => starts = vec![last.max(entry.base)],
            Kind::Reset => starts = vec![entry.base],
            Kind::StartBegun if !has_ended(&acts, entry) => starts.push(last.max(entry.base)),
            Kind::ResetBegun if !has_ended(&acts, entry) => starts.push(entry.base),
            _ => {}
        }
    }
    starts
}

/// The latest record of each key of a compacted partition, and its offset.
pub fn latest(draw: &Draw, batches: &[Entry], start: u64) -> BTreeMap<u64, (u64, Id)> {
    let mut latest = BTreeMap::new();
    for entry in batches.iter().filter(|entry| entry.has_records() && entry.next > start) {
        let plan = draw.plan(entry.writer, entry.n);
        let batch = &plan.batches[usize::from(entry.batch)];
        for (at, item) in batch.items.iter().enumerate() {
            let offset = entry.base + at as u64;
            let Some(key) = item.key.filter(|_| offset >= start) else { continue };
            let id = Id { writer: entry.writer, n: entry.n, index: batch.first + at as u32 };
            match item.len {
                Some(_) => latest.insert(key, (offset, id)),
                None => latest.remove(&key),
            };
        }
    }
    latest
}
