//! Runs operations against a log, and keeps the model of what they promise.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stratalog::format::{BatchBuilder, Marker, end_marker};
use stratalog::sim::{Call, Calls, SimStorage};
use stratalog::storage::Storage;
use stratalog::{
    Budget, CompactMode, Durability, Error, ErrorKind, Fetch, FetchOptions, Log, LogConfig, ManualClock, Offset,
    Partition, Record, RecordBatch, Timestamp, TopicConfig,
};

use super::found::{After, FoundTopic, look};
use super::model::{Model, Part, Rec, There};
use super::workload::{Kind, Op};

pub const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const DIR: &str = "/log";
const MAIN: &str = "t";
const OTHER: &str = "u";
const MARK: u32 = 1 << 20;
/// The settings that a topic was made with.
const FIRST_MARK: u8 = 255;

/// The model as it is at this moment, cheap to hold on to.
pub type SharedModel = Arc<Mutex<Arc<Model>>>;

/// What the engine is given.
#[derive(Clone, Copy)]
pub struct Rig<'a> {
    /// Its disk.
    pub wrap: &'a dyn Fn(SimStorage) -> Arc<dyn Storage>,
    /// How far ahead the clock of its maintenance is.
    pub clock_ahead: Duration,
}

impl Rig<'_> {
    /// Nothing stands between the engine and the simulated storage.
    pub const PLAIN: Rig<'static> = Rig { wrap: &|storage| Arc::new(storage), clock_ahead: Duration::ZERO };
}

pub struct World<'a> {
    kind: Kind,
    rig: Rig<'a>,
    storage: SimStorage,
    pub model: SharedModel,
    clock: Arc<ManualClock>,
    log: Option<Log>,
    /// Sizes of the records that a crash took, by partition.
    lost: BTreeMap<(String, usize), Vec<usize>>,
    /// What somebody fetched and keeps, with the bytes as they were.
    held: VecDeque<(Fetch, Vec<u8>)>,
    /// Which partition the next operation is for.
    turn: usize,
    /// A fault was set: operations may fail.
    faulty: bool,
    /// Calls that a fault made fail.
    pub failed: u64,
    /// Operations that told of an error.
    pub errors: Vec<Error>,
}

/// Why a run ended.
#[derive(Debug)]
pub enum Ended {
    /// The machine stopped, or a fault left nothing to go on with.
    Early,
    /// A promise was broken.
    Violation(String),
}

type Step<T> = Result<T, Stop>;

/// Why an operation did not succeed.
enum Stop {
    Failed(Error),
    Violation(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

impl From<ErrorKind> for Stop {
    fn from(kind: ErrorKind) -> Stop {
        Stop::Failed(kind.into())
    }
}

impl<'a> World<'a> {
    /// A world in which nothing has happened, or what the model says.
    pub fn new(kind: Kind, rig: Rig<'a>, storage: SimStorage, model: Arc<Model>) -> World<'a> {
        let now = Timestamp::from_millis(NOW.as_millis() + model.elapsed);
        World {
            kind,
            rig,
            storage,
            model: Arc::new(Mutex::new(model)),
            clock: Arc::new(ManualClock::new(now)),
            log: None,
            lost: BTreeMap::new(),
            held: VecDeque::new(),
            turn: 0,
            faulty: false,
            failed: 0,
            errors: Vec::new(),
        }
    }

    fn config(&self) -> LogConfig {
        LogConfig::new()
            .storage((self.rig.wrap)(self.storage.clone()))
            .clock(self.clock.clone())
            .min_free_bytes(0)
            .maintenance_interval(None)
            .checkpoint_bytes(4096)
            .sync_threads(0)
            .open_threads(Some(1))
            .max_open_files(Some(64))
            .compaction_memory(1 << 16)
    }

    fn topic_config(&self, mark: u8) -> TopicConfig {
        self.kind.topic().segment_index_bytes(MARK + u32::from(mark))
    }

    /// Opens the log, and makes its topic where it is not known yet.
    pub fn start(&mut self) -> Result<(), Ended> {
        self.open()
            .and_then(|log| {
                self.log = Some(log);
                if self.snapshot().topics.is_empty() { self.create(MAIN, 1) } else { Ok(()) }
            })
            .map_err(|stop| self.ended(stop))
    }

    /// Runs operations. With faults an operation may fail, and the world goes on.
    pub fn run(&mut self, ops: &[Op]) -> Result<(), Ended> {
        for op in ops {
            if let Err(stop) = self.step(*op) {
                match stop {
                    Stop::Failed(error) if self.faulty && !self.storage.is_stopped() => {
                        self.errors.push(error.clone());
                        self.go_on(&error)?;
                    }
                    stop => return Err(self.ended(stop)),
                }
            }
            self.note_durable();
            self.check_held()?;
        }
        Ok(())
    }

    /// What somebody keeps is as it was, and the storage saw nothing that a real mapping would not bear.
    fn check_held(&self) -> Result<(), Ended> {
        if let Some(why) = self.storage.take_violations().into_iter().next() {
            return Err(Ended::Violation(format!("I11: {why}")));
        }
        match self.held.iter().find(|(fetch, bytes)| fetch.chunks().flatten().ne(bytes)) {
            Some((fetch, _)) => Err(Ended::Violation(format!("I2: bytes from {} on changed", fetch.from()))),
            None => Ok(()),
        }
    }

    /// Opens the log after a crash, checks what is there, and takes it for granted from here on.
    pub fn recover(&mut self, after: After) -> Result<(), Ended> {
        let powerless = after == After::PowerCut || self.snapshot().powerless;
        let after = if powerless { After::PowerCut } else { After::Kill };
        self.edit(|model| model.powerless = powerless);
        let opened = self.open().and_then(|log| {
            if self.faulty {
                // What is looked at next is what opening under faults has left.
                self.clear_fault();
            }
            let found = look(&log, &self.snapshot(), after, self.clock_now()).map_err(Stop::Violation)?;
            self.check_kept(&log)?;
            self.log = Some(log);
            self.note_lost(&found);
            self.settle(&found);
            Ok(())
        });
        opened.map_err(|stop| self.ended(stop))?;
        self.check_held()
    }

    /// A record as long as the one that a crash took, where it took one: what is left of it must not show.
    pub fn refill(&mut self) -> Result<(), Ended> {
        let mut refill = || -> Step<()> {
            self.create(MAIN, 1)?;
            for (name, id) in self.parts() {
                let partition = self.partition(name, id)?;
                let sizes = self.lost.get(&(name.to_owned(), id)).filter(|sizes| !sizes.is_empty()).cloned();
                self.append(name, id, &partition, &sizes.unwrap_or_else(|| vec![20]), None)?;
                self.flush(name, id, &partition)?;
            }
            Ok(())
        };
        refill().map_err(|stop| self.ended(stop))
    }

    /// Has the state before each operation handed to `observer`.
    pub fn observe(&mut self, observer: impl Fn(SimStorage) + Send + Sync + 'static) {
        self.storage = self.storage.observed(observer);
    }

    /// Where each partition begins and ends, to be printed.
    pub fn ends(&self) -> String {
        let model = self.snapshot();
        let parts = self.parts().into_iter().map(|(name, id)| {
            let part = &model.topics[name].parts[id];
            format!("{name}-{id} {}..{}", part.start, part.end)
        });
        parts.collect::<Vec<_>>().join(", ")
    }

    pub fn snapshot(&self) -> Arc<Model> {
        Arc::clone(&self.model.lock().unwrap())
    }

    fn ended(&self, stop: Stop) -> Ended {
        match stop {
            Stop::Violation(why) => Ended::Violation(why),
            Stop::Failed(_) if self.storage.is_stopped() => Ended::Early,
            Stop::Failed(error) => Ended::Violation(format!("failed without need: {error}")),
        }
    }

    fn clock_now(&self) -> Timestamp {
        stratalog::Clock::now(&*self.clock)
    }

    fn maintenance_clock(&self) -> Timestamp {
        // It jumps ahead and back.
        let ahead = if self.turn.is_multiple_of(2) { self.rig.clock_ahead.as_millis() as i64 } else { 0 };
        Timestamp::from_millis(self.clock_now().as_millis() + ahead)
    }

    fn edit<T>(&self, change: impl FnOnce(&mut Model) -> T) -> T {
        change(Arc::make_mut(&mut self.model.lock().unwrap()))
    }

    /// A change after which an image that was good may be bad.
    fn promise<T>(&self, change: impl FnOnce(&mut Model) -> T) -> T {
        self.edit(|model| {
            model.version += 1;
            change(model)
        })
    }

    fn part<T>(&self, name: &'static str, id: usize, change: impl FnOnce(&mut Part) -> T) -> T {
        self.edit(|model| change(model.part(name, id)))
    }

    fn promise_part<T>(&self, name: &'static str, id: usize, change: impl FnOnce(&mut Part) -> T) -> T {
        self.promise(|model| change(model.part(name, id)))
    }

    fn open(&self) -> Step<Log> {
        let log = Log::open(DIR, self.config())?;
        // Nobody else was there.
        if log.recovery_report().taken_over {
            return Err(Stop::Violation("a directory of ours was taken for Kafka's".to_owned()));
        }
        Ok(log)
    }

    fn log(&self) -> Step<&Log> {
        self.log.as_ref().ok_or_else(|| ErrorKind::Closed.into())
    }

    fn parts(&self) -> Vec<(&'static str, usize)> {
        let model = self.snapshot();
        let there = model.topics.iter().filter(|(_, topic)| topic.there == There::Yes);
        there.flat_map(|(name, topic)| (0..topic.partitions).map(|id| (*name, id))).collect()
    }

    fn partition(&self, name: &str, id: usize) -> Step<Partition> {
        Ok(self.log()?.partition(name, id as u32).ok_or(ErrorKind::NotFound)?)
    }

    /// What recovery cut off is kept aside.
    fn check_kept(&self, log: &Log) -> Step<()> {
        for part in &log.recovery_report().partitions {
            let Some(cut) = &part.cut else { continue };
            let path = format!("{DIR}/{}-{}/{}", part.topic, part.partition, cut.kept_in);
            let kept = self.storage.contents(path.as_ref()).map_or(0, |bytes| bytes.len() as u64);
            if kept != cut.bytes {
                return Err(Stop::Violation(format!("I4: {} bytes were cut, and {kept} kept in {path}", cut.bytes)));
            }
        }
        Ok(())
    }

    fn note_lost(&mut self, found: &BTreeMap<String, FoundTopic>) {
        let model = self.snapshot();
        for (name, parts) in found {
            for (id, part) in parts.iter().enumerate() {
                self.lost.insert((name.clone(), id), model.lost(name, id, part.end));
            }
        }
    }

    fn settle(&self, found: &BTreeMap<String, FoundTopic>) {
        self.promise(|model| {
            model.powerless = false;
            for (name, topic) in &mut model.topics {
                let Some(parts) = found.get(*name) else {
                    *topic = Default::default();
                    continue;
                };
                topic.there = There::Yes;
                (topic.partitions, topic.partitions_max) = (parts.len(), parts.len());
                topic.parts.resize_with(parts.len(), Part::default);
                topic.parts.iter_mut().zip(parts).for_each(|(part, found)| part.settle(found));
            }
        });
        // Which of the settings counts is read once more: a crash must not bring back another one.
        for name in found.keys() {
            let mark = self.log.as_ref().and_then(|log| log.topic(name)?.config().ok()).map(|c| c.segment_index_bytes);
            self.edit(|model| {
                if let (Some(topic), Some(mark)) = (model.topics.get_mut(name.as_str()), mark) {
                    topic.marks = vec![mark];
                }
            });
        }
    }

    /// What the log itself says is durable is promised.
    fn note_durable(&self) {
        for (name, id) in self.parts() {
            let Ok(partition) = self.partition(name, id) else { continue };
            let durable = partition.offsets().durable.get();
            let known = self.snapshot().topics[name].parts.get(id).map_or(0, |part| part.durable);
            if durable > known {
                self.promise_part(name, id, |part| part.synced(durable.min(part.end)));
            }
        }
    }

    /// After an operation that a fault made fail: on a full disk things go on, else the log is opened anew.
    fn go_on(&mut self, error: &Error) -> Result<(), Ended> {
        let healthy = self
            .parts()
            .iter()
            .all(|(name, id)| self.partition(name, *id).is_ok_and(|partition| partition.stats().error.is_none()));
        let settled = self.snapshot().topics.values().all(|topic| {
            topic.there == There::Yes && topic.parts.iter().all(|part| part.cut.is_none() && part.reset.is_none())
        });
        if healthy && settled && *error.kind() == ErrorKind::DiskFull {
            for (name, id) in self.parts() {
                let Ok(partition) = self.partition(name, id) else { continue };
                let end = partition.offsets().end.get();
                let known = self.snapshot().topics[name].parts[id].end;
                if end != known {
                    return Err(Ended::Violation(format!("I9: a failed append left the end at {end}, not {known}")));
                }
            }
            return Ok(());
        }
        self.reopen()
    }

    /// The process goes and another one comes, in the same boot; where a fault keeps it from opening, once it is over.
    fn reopen(&mut self) -> Result<(), Ended> {
        self.log = None;
        if self.faulty {
            match self.recover(After::Kill) {
                Ok(()) => return Ok(()),
                Err(Ended::Early) => return Err(Ended::Early),
                // It must not say that what it promised is gone: a fault is no damage.
                Err(Ended::Violation(why)) if !why.starts_with("failed without need") && !why.contains("I1: ") => {
                    return Err(Ended::Violation(why));
                }
                Err(Ended::Violation(_)) => {
                    self.errors.push(ErrorKind::Closed.into());
                    self.log = None;
                }
            }
            self.clear_fault();
            self.storage.set_free_space(None);
        }
        self.recover(After::Kill)
    }

    fn clear_fault(&mut self) {
        self.failed += self.storage.failed();
        self.storage.set_fault(None);
    }

    fn step(&mut self, op: Op) -> Step<()> {
        self.turn += 1;
        match op {
            Op::Close => return self.close(),
            Op::Kill => return self.reopen().map_err(Stop::from),
            Op::CreateTopic => return self.create(OTHER, 1),
            Op::DeleteTopic => return self.delete(OTHER),
            Op::AddPartition => return self.add_partition(),
            Op::Configure { mark } => return self.configure(mark),
            Op::Intrude => return self.intrude(),
            Op::Fault(injection) => {
                self.faulty = true;
                self.storage.inject(injection);
            }
            Op::NoFault => self.clear_fault(),
            Op::Room(bytes) => {
                self.faulty |= bytes.is_some();
                self.storage.set_free_space(bytes.map(u64::from));
            }
            Op::Tick { seconds } => {
                self.clock.advance(Duration::from_secs(seconds.into()));
                self.edit(|model| model.elapsed += i64::from(seconds) * 1000);
            }
            Op::Maintain => return self.maintain(),
            Op::Preallocate => {
                self.log()?.preallocate();
            }
            Op::LetGo => {
                self.held.pop_front();
            }
            Op::Mappings { append, read } => {
                let Some(topic) = self.log()?.topic(MAIN) else { return Ok(()) };
                topic.set_config(topic.config()?.append_windows(append).mapped_reads(read))?;
            }
            op => return self.part_step(op),
        }
        Ok(())
    }

    fn part_step(&mut self, op: Op) -> Step<()> {
        let parts = self.parts();
        let Some((name, id)) = parts.get(self.turn % parts.len().max(1)).copied() else { return Ok(()) };
        let partition = self.partition(name, id)?;
        match op {
            Op::Append { records, size } => {
                let sizes: Vec<usize> = (0..records).map(|n| usize::from(size) + usize::from(n) * 7).collect();
                self.append(name, id, &partition, &sizes, None)
            }
            Op::AppendIf { size, stale } => self.append(name, id, &partition, &[size.into()], Some(stale)),
            Op::AppendGap { gap, size } => self.append_gap(name, id, &partition, gap.into(), size.into()),
            Op::AppendMany { batches, size } => self.append_many(name, id, &partition, batches.into(), size.into()),
            Op::Tombstone { key } => self.tombstone(name, id, &partition, key),
            Op::Transaction { producer, size } => self.transaction(name, id, &partition, producer, size.into()),
            Op::EndTransaction { producer, abort } => self.end_transaction(name, id, &partition, producer, abort),
            Op::Hold => {
                let options = FetchOptions { max_bytes: 2000, ..FetchOptions::default() };
                let fetch = partition.fetch(partition.offsets().start, options)?;
                let bytes = fetch.chunks().flatten().copied().collect();
                self.held.push_back((fetch, bytes));
                if self.held.len() > 3 {
                    self.held.pop_front();
                }
                Ok(())
            }
            Op::Flush => self.flush(name, id, &partition),
            Op::Roll => Ok(partition.roll()?),
            Op::DeleteBefore { percent } => self.delete_before(name, id, &partition, percent.into()),
            Op::Truncate { back, lossy } => self.truncate(name, id, &partition, back.into(), lossy),
            Op::Reset { ahead } => self.reset(name, id, &partition, ahead.into()),
            Op::Compact => self.compact(&partition),
            Op::Watermark { back } => self.watermark(name, id, &partition, back.into()),
            Op::Epoch => self.epoch(name, id, &partition),
            _ => Ok(()),
        }
    }

    fn record(&mut self, size: usize) -> Rec {
        let counter = self.edit(|model| {
            model.counter += 1;
            model.counter
        });
        let value = format!("{counter:08}-{}", "x".repeat(size));
        Rec { key: (counter * 7 % 5) as u8, value: Some(value), at: self.clock_now() }
    }

    fn append(
        &mut self,
        name: &'static str,
        id: usize,
        partition: &Partition,
        sizes: &[usize],
        condition: Option<bool>,
    ) -> Step<()> {
        let end = self.part(name, id, |part| part.end);
        let records: Vec<(u64, Rec)> = (end..).zip(sizes.iter().map(|size| self.record(*size))).collect();
        let batch = build(&records, RecordBatch::builder(), self.clock_now());
        let next = batch.header().next_offset().get() + end;
        self.put((name, id), partition, &records, (end, next), || match condition {
            None => partition.append(&batch),
            Some(false) => partition.append_if(Offset::new(end), &batch),
            Some(true) => partition.append_if(Offset::new(end + 1), &batch),
        })
    }

    /// Appends, and keeps the model: what may be there before the call, what must be there after it.
    fn put(
        &self,
        (name, id): (&'static str, usize),
        partition: &Partition,
        records: &[(u64, Rec)],
        (base, next): (u64, u64),
        append: impl FnOnce() -> stratalog::Result<stratalog::Appended>,
    ) -> Step<()> {
        self.part(name, id, |part| part.expect(records, next));
        let synced = partition.config().durability == Durability::Sync;
        let busy = || (self.storage.calls(Calls::Only(Call::Sync)), partition.stats().rolls);
        let before = busy();
        let appended = match append() {
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedOffset { .. }) => return Ok(()),
            Err(error) => {
                // The sync after the write found no room: it is in the log, and was not acknowledged.
                let is_in = synced && *error.kind() == ErrorKind::DiskFull && partition.offsets().end.get() == next;
                if is_in {
                    self.part(name, id, |part| part.appended(records, base, next));
                }
                return Err(error.into());
            }
            Ok(appended) => appended,
        };
        if appended.base_offset.get() != base || appended.next_offset.get() != next {
            return Err(Stop::Violation(format!("I3: appended at {appended:?}, not at {base}..{next}")));
        }
        let after = busy();
        if !synced && before.1 == after.1 && before.0 != after.0 {
            return Err(Stop::Violation("I13: an append waited for a sync that nobody asked for".to_owned()));
        }
        self.part(name, id, |part| part.appended(records, base, next));
        if synced {
            self.promise_part(name, id, |part| part.synced(next));
        }
        Ok(())
    }

    fn append_gap(&mut self, name: &'static str, id: usize, partition: &Partition, gap: u64, size: usize) -> Step<()> {
        let first = self.part(name, id, |part| part.end) + gap;
        let second = first + 2 + gap / 2;
        let mut all = Vec::new();
        let mut bytes = Vec::new();
        for at in [first, second] {
            let records = vec![(at, self.record(size))];
            let builder = RecordBatch::builder().base_offset(Offset::new(at));
            bytes.extend_from_slice(build(&records, builder, self.clock_now()).as_bytes());
            all.extend(records);
        }
        self.put((name, id), partition, &all, (first, second + 1), || partition.append_at(&bytes))?;
        self.part(name, id, |part| {
            part.batches.remove(&first);
            part.batches.extend([(first, first + 1), (second, second + 1)]);
        });
        Ok(())
    }

    /// As a leader sends them; with transactions, where there are any.
    fn append_many(
        &mut self,
        name: &'static str,
        id: usize,
        partition: &Partition,
        count: u64,
        size: usize,
    ) -> Step<()> {
        let (end, sequence) = self.part(name, id, |part| {
            part.sequence += count as i32;
            (part.end, part.sequence - count as i32)
        });
        let transactions = self.kind == Kind::Transactions;
        let (mut all, mut bytes, mut markers) = (Vec::new(), Vec::new(), Vec::new());
        for at in end..end + count {
            if transactions && at % 3 == 2 {
                let marker = if at % 2 == 0 { Marker::Abort } else { Marker::Commit };
                let mut batch = end_marker(marker, 0, 0, 0, self.clock_now()).expect("a marker").as_bytes().to_vec();
                stratalog::format::patch_offset(&mut batch, Offset::new(at));
                bytes.extend(batch);
                markers.push((at, (0, marker == Marker::Abort)));
                continue;
            }
            let records = vec![(at, self.record(size))];
            let mut builder = RecordBatch::builder().base_offset(Offset::new(at));
            if transactions && at % 3 == 1 {
                builder = builder.producer(0, 0, sequence + (at - end) as i32).transactional(true);
            }
            bytes.extend_from_slice(build(&records, builder, self.clock_now()).as_bytes());
            all.extend(records);
        }
        self.put((name, id), partition, &all, (end, end + count), || partition.append_at(&bytes))?;
        self.part(name, id, |part| {
            part.batches.extend((end..end + count).map(|at| (at, at + 1)));
            part.markers.extend(markers);
        });
        Ok(())
    }

    fn tombstone(&mut self, name: &'static str, id: usize, partition: &Partition, key: u8) -> Step<()> {
        let end = self.part(name, id, |part| part.end);
        let records = [(end, Rec { key, value: None, at: self.clock_now() })];
        let batch = build(&records, RecordBatch::builder(), self.clock_now());
        self.put((name, id), partition, &records, (end, end + 1), || partition.append(&batch))
    }

    fn transaction(
        &mut self,
        name: &'static str,
        id: usize,
        partition: &Partition,
        producer: u8,
        size: usize,
    ) -> Step<()> {
        let (end, sequence) = self.part(name, id, |part| {
            part.sequence += 1;
            (part.end, part.sequence)
        });
        let records = [(end, self.record(size))];
        let builder = RecordBatch::builder().producer(producer.into(), 0, sequence).transactional(true);
        let batch = build(&records, builder, self.clock_now());
        self.part(name, id, |part| part.writers.insert(end, producer));
        self.put((name, id), partition, &records, (end, end + 1), || partition.append(&batch))
    }

    fn end_transaction(
        &mut self,
        name: &'static str,
        id: usize,
        partition: &Partition,
        producer: u8,
        abort: bool,
    ) -> Step<()> {
        let marker = if abort { Marker::Abort } else { Marker::Commit };
        let batch = end_marker(marker, producer.into(), 0, 0, self.clock_now()).expect("a marker can be built");
        let end = self.part(name, id, |part| {
            part.markers.insert(part.end, (producer, abort));
            part.end
        });
        self.put((name, id), partition, &[], (end, end + 1), || partition.append(&batch))
    }

    fn flush(&self, name: &'static str, id: usize, partition: &Partition) -> Step<()> {
        let durable = partition.flush()?.get();
        let end = self.part(name, id, |part| part.end);
        if durable != end {
            return Err(Stop::Violation(format!("I1: flushed up to {durable}, not {end}")));
        }
        self.promise_part(name, id, |part| part.synced(durable));
        Ok(())
    }

    fn delete_before(&self, name: &'static str, id: usize, partition: &Partition, percent: u64) -> Step<()> {
        let offsets = partition.offsets();
        let (start, top) = (offsets.start.get(), offsets.high_watermark.get());
        let to = start + top.saturating_sub(start) * percent / 100;
        self.part(name, id, |part| part.start_max = part.start_max.max(to));
        partition.delete_before(Offset::new(to))?;
        self.promise_part(name, id, |part| part.start = part.start.max(to));
        Ok(())
    }

    fn truncate(&self, name: &'static str, id: usize, partition: &Partition, back: u64, lossy: bool) -> Step<()> {
        let compacted = self.kind.is_compacted();
        let (start, to, cut) = self.part(name, id, |part| {
            let to = part.end.saturating_sub(back).max(part.start);
            (part.start, to, part.end_after_cut(to))
        });
        self.part(name, id, |part| {
            part.cut = Some(cut);
            if compacted {
                // Compaction leaves gaps: where the last batch below ends is not known.
                part.durable = part.durable.min(start);
            }
            if compacted && lossy {
                // What justified a removal may go now, and what was removed does not come back.
                part.slots.values_mut().for_each(|slot| {
                    slot.once |= std::mem::take(&mut slot.required);
                });
            }
        });
        let offset = Offset::new(to);
        let done = if lossy { partition.truncate_lossy(offset) } else { partition.truncate(offset) };
        let end = match done {
            Err(error) if matches!(error.kind(), ErrorKind::TruncateBelowCompacted { .. }) => {
                self.part(name, id, |part| part.cut = None);
                return Ok(());
            }
            done => done?.get(),
        };
        if !compacted && end != cut {
            return Err(Stop::Violation(format!("I15: truncated to {end}, not {cut}")));
        }
        self.promise_part(name, id, |part| if end < part.end { part.cut_done(end) } else { part.cut = None });
        Ok(())
    }

    fn reset(&self, name: &'static str, id: usize, partition: &Partition, ahead: u64) -> Step<()> {
        let to = self.part(name, id, |part| {
            let to = (part.end + ahead).saturating_sub(60);
            part.reset = Some(to);
            to
        });
        partition.reset_to(Offset::new(to))?;
        self.promise_part(name, id, |part| part.reset_done(to));
        Ok(())
    }

    fn compact(&self, partition: &Partition) -> Step<()> {
        if !self.kind.is_compacted() {
            return Ok(());
        }
        let report = partition.compact(self.maintenance_clock(), CompactMode::Full)?;
        match report.damaged.first() {
            Some(damage) if !self.faulty => Err(Stop::Violation(format!("I4: compaction finds damage: {damage}"))),
            _ => Ok(()),
        }
    }

    fn maintain(&self) -> Step<()> {
        let parts = self.parts();
        for (name, id) in &parts {
            self.part(name, *id, |part| part.start_max = part.end);
        }
        let report = self.log()?.maintain(self.maintenance_clock(), Budget::default())?;
        for (name, id) in parts {
            let start = self.partition(name, id)?.offsets().start.get();
            self.promise_part(name, id, |part| {
                (part.start, part.start_max) = (part.start.max(start), part.start.max(start));
            });
        }
        match report.passes.into_iter().find_map(|(.., pass)| pass.errors.into_iter().next()) {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    fn watermark(&self, name: &'static str, id: usize, partition: &Partition, back: u64) -> Step<()> {
        let offsets = partition.offsets();
        if self.kind != Kind::Managed {
            return Ok(());
        }
        let to = offsets.end.get().saturating_sub(back).max(offsets.high_watermark.get()).max(offsets.start.get());
        self.part(name, id, |part| part.watermark = part.watermark.max(to));
        Ok(partition.set_high_watermark(Offset::new(to))?)
    }

    fn epoch(&mut self, name: &'static str, id: usize, partition: &Partition) -> Step<()> {
        let epoch = self.part(name, id, |part| {
            part.epoch += 1;
            part.epoch
        });
        if let Err(error) = partition.set_leader_epoch(epoch) {
            // One of which no record is left may have survived.
            return if matches!(error.kind(), ErrorKind::InvalidConfig(_)) { Ok(()) } else { Err(error.into()) };
        }
        self.append(name, id, partition, &[9], None)
    }

    fn close(&mut self) -> Step<()> {
        let parts = self.parts();
        if let Some(log) = self.log.take() {
            log.close()?;
            // Nothing is left to lose.
            for (name, id) in parts {
                self.promise_part(name, id, |part| part.synced(part.end));
            }
        }
        self.reopen()?;
        let scanned: u64 = self.log()?.recovery_report().partitions.iter().map(|part| part.scanned_bytes).sum();
        if scanned > 0 && !self.faulty {
            return Err(Stop::Violation(format!("I12: {scanned} bytes are scanned after a clean close")));
        }
        Ok(())
    }

    fn create(&mut self, name: &'static str, partitions: usize) -> Step<()> {
        if self.snapshot().topics.get(name).is_some_and(|topic| topic.there == There::Yes) {
            return Ok(());
        }
        self.edit(|model| {
            let topic = model.topic(name);
            topic.there = There::Maybe;
            (topic.partitions, topic.partitions_max) = (partitions, partitions);
            topic.parts = vec![Part::default(); partitions];
            topic.marks = vec![MARK + u32::from(FIRST_MARK)];
        });
        self.log()?.create_topic(name, partitions as u32, self.topic_config(FIRST_MARK))?;
        self.promise(|model| model.topic(name).there = There::Yes);
        Ok(())
    }

    fn delete(&mut self, name: &'static str) -> Step<()> {
        if self.snapshot().topics.get(name).is_none_or(|topic| topic.there != There::Yes) {
            return Ok(());
        }
        self.edit(|model| model.topic(name).there = There::Maybe);
        self.log()?.delete_topic(name)?;
        self.promise(|model| *model.topic(name) = Default::default());
        Ok(())
    }

    fn add_partition(&mut self) -> Step<()> {
        self.create(MAIN, 1)?;
        let count = self.edit(|model| {
            let topic = model.topic(MAIN);
            topic.partitions_max = (topic.partitions + 1).min(3);
            topic.parts.resize_with(topic.partitions_max, Part::default);
            topic.partitions_max
        });
        let topic = self.log()?.topic(MAIN).ok_or(ErrorKind::NotFound)?;
        topic.add_partitions(count as u32)?;
        self.promise(|model| model.topic(MAIN).partitions = count);
        Ok(())
    }

    fn configure(&mut self, mark: u8) -> Step<()> {
        self.create(MAIN, 1)?;
        let config = self.topic_config(mark);
        let mark = config.segment_index_bytes;
        self.edit(|model| model.topic(MAIN).marks.push(mark));
        self.log()?.topic(MAIN).ok_or(ErrorKind::NotFound)?.set_config(config)?;
        self.promise(|model| model.topic(MAIN).marks = vec![mark]);
        Ok(())
    }

    fn intrude(&self) -> Step<()> {
        match Log::open(DIR, self.config()) {
            Ok(_) => Err(Stop::Violation("I14: a second owner got in".to_owned())),
            Err(error) if *error.kind() == ErrorKind::Locked => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl From<Ended> for Stop {
    fn from(ended: Ended) -> Stop {
        match ended {
            Ended::Violation(why) => Stop::Violation(why),
            // The storage has stopped: whatever fails now says so.
            Ended::Early => Stop::Failed(ErrorKind::Closed.into()),
        }
    }
}

fn build(records: &[(u64, Rec)], mut builder: BatchBuilder, now: Timestamp) -> RecordBatch {
    for (_, record) in records {
        let key = format!("k{}", record.key);
        let value = record.value.as_ref().map(String::as_bytes);
        let record = match value {
            Some(value) => Record::new(&key, value),
            None => Record::tombstone(&key),
        };
        builder.push(&record.at(now), now).expect("a small record fits");
    }
    builder.build().expect("a batch has records")
}
