//! Runs operations on a partition and on the model.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use stratalog::format::{Marker, end_marker};
use stratalog::storage::{FileSystem, Storage};
use stratalog::{
    Budget, Cleanup, Clock, Codec, CompactMode, CompactionReport, Durability, Error, ErrorKind, FetchOptions, Header,
    Isolation, Log, LogConfig, ManualClock, Offset, Partition, Pin, Reader, Record, RecordBatch, Timestamp,
    TimestampType, TopicConfig, WatermarkMode,
};

use crate::Counts;
use crate::model::{Checked, Entry, Latest, Model, Pass, decode, fold};

const NOW: i64 = 1_700_000_000_000;

/// Where the log is kept.
pub enum Medium {
    #[cfg(not(feature = "sim"))]
    Disk,
    #[cfg(feature = "sim")]
    Simulated(stratalog::sim::SimStorage),
}

/// How a run begins. Times are in milliseconds.
#[derive(Clone, Debug)]
pub struct Setup {
    pub segment_bytes: u64,
    pub compaction_memory: usize,
    pub keys: u16,
    pub ratio: f64,
    pub min_lag: u32,
    pub max_lag: Option<u32>,
    pub delete_retention: u32,
    pub reader_hold_max: u32,
    pub sync: bool,
    pub managed: bool,
    pub also_delete: bool,
    pub log_time: bool,
    pub mapped: bool,
}

/// A batch to append: its records by number of the key and size of the value; every fifth size is a tombstone.
#[derive(Clone, Debug)]
pub struct Append {
    /// None below 0, transactional below 10, else idempotent.
    pub producer: i8,
    pub codec: Codec,
    pub records: Vec<(u16, u16)>,
    /// With offsets of its own, so far behind the end.
    pub gap: Option<u8>,
    pub keyless: bool,
}

/// One operation. Places are taken modulo what there is.
#[derive(Clone, Debug)]
pub enum Op {
    Append(Append),
    End {
        producer: i8,
        commit: bool,
    },
    Roll,
    Flush,
    Compact {
        full: bool,
    },
    Maintain,
    Advance {
        seconds: u16,
    },
    OpenReader {
        at: u16,
    },
    Read {
        which: u16,
        records: u8,
    },
    DropReader {
        which: u16,
    },
    Register {
        at: u16,
    },
    MovePosition {
        records: u8,
    },
    Unregister,
    Pin {
        at: u16,
    },
    Unpin,
    SetHighWatermark {
        at: u16,
    },
    Truncate {
        at: u16,
    },
    DeleteBefore {
        at: u16,
    },
    Reopen,
    Kill,
    /// Only of the simulated storage; else a kill.
    PowerCut {
        seed: u8,
    },
}

/// Somebody who reads, and what he knows by now.
struct Follower<R> {
    reader: R,
    latest: Latest,
    /// Of a reader, who may have read on from what it had fetched, when it was opened.
    moved_at: i64,
}

/// A log and its model.
pub struct Run {
    medium: Medium,
    dir: PathBuf,
    clock: Arc<ManualClock>,
    setup: Setup,
    log: Option<Log>,
    model: Model,
    readers: Vec<Follower<Reader>>,
    position: Option<Follower<u64>>,
    pin: Option<Pin>,
    sequences: BTreeMap<i64, i32>,
    written: u64,
    counts: Counts,
}

fn failed(what: &'static str) -> impl Fn(Error) -> TestCaseError {
    move |error| TestCaseError::fail(format!("{what}: {error:?}"))
}

fn committed(max_bytes: usize) -> FetchOptions {
    FetchOptions { isolation: Isolation::Committed, max_bytes, ..FetchOptions::default() }
}

impl Run {
    pub fn new(medium: Medium, dir: PathBuf, setup: &Setup) -> Checked<Run> {
        let mut run = Run {
            medium,
            dir,
            clock: Arc::new(ManualClock::new(Timestamp::from_millis(NOW))),
            setup: setup.clone(),
            log: None,
            model: Model { high_watermark: setup.managed.then_some(0), ..Model::default() },
            readers: Vec::new(),
            position: None,
            pin: None,
            sequences: BTreeMap::new(),
            written: 0,
            counts: Counts::new(),
        };
        run.open()?;
        run.log().create_topic("t", 1, setup.topic()).map_err(failed("create"))?;
        Ok(run)
    }

    /// Runs all of them, with a look at everything after each.
    pub fn all(mut self, ops: &[Op]) -> Checked<Counts> {
        for (at, op) in ops.iter().enumerate() {
            let step = self.step(op).and_then(|()| self.check());
            step.map_err(|error| TestCaseError::fail(format!("operation {at}, {op:?}: {error}")))?;
        }
        self.finish()?;
        Ok(self.counts)
    }

    fn step(&mut self, op: &Op) -> Checked {
        match op {
            Op::Append(append) => self.append(append),
            Op::End { producer, commit } => self.end(i64::from(*producer), *commit),
            Op::Roll => self.partition().roll().map_err(failed("roll")),
            Op::Flush => self.partition().flush().map(drop).map_err(failed("flush")),
            Op::Compact { full } => self.compact(*full),
            Op::Maintain => self.maintain(),
            Op::Advance { seconds } => {
                self.clock.set(Timestamp::from_millis(self.now() + i64::from(*seconds) * 1000));
                Ok(())
            }
            Op::OpenReader { at } => self.open_reader(*at),
            Op::Read { which, records } if !self.readers.is_empty() => {
                let which = usize::from(*which) % self.readers.len();
                self.read(which, usize::from(*records))
            }
            Op::DropReader { which } if !self.readers.is_empty() => {
                drop(self.readers.remove(usize::from(*which) % self.readers.len()));
                Ok(())
            }
            Op::Register { at } => self.register(*at),
            Op::MovePosition { records } => self.move_position(usize::from(*records)),
            Op::Unregister => {
                prop_assert_eq!(self.partition().unregister_position("p"), self.position.take().is_some());
                Ok(())
            }
            Op::Pin { at } => {
                let at = place(*at, 0, self.model.end);
                self.pin = Some(self.partition().pin(Offset::new(at)));
                Ok(())
            }
            Op::Unpin => {
                self.pin = None;
                Ok(())
            }
            Op::SetHighWatermark { at } if self.setup.managed => {
                let low = self.model.high_watermark().max(self.model.start);
                let at = place(*at, low, self.model.end);
                self.partition().set_high_watermark(Offset::new(at)).map_err(failed("set high watermark"))?;
                self.model.high_watermark = Some(at);
                Ok(())
            }
            Op::Truncate { at } => self.truncate(*at),
            Op::DeleteBefore { at } => {
                let high = self.model.high_watermark().max(self.model.start);
                let at = place(*at, self.model.start, high);
                self.partition().delete_before(Offset::new(at)).map_err(failed("delete before"))?;
                self.model.start = at;
                Ok(())
            }
            Op::Reopen => {
                self.let_go();
                self.log.take().unwrap().close().map_err(failed("close"))?;
                self.open()
            }
            Op::Kill => {
                self.let_go();
                self.log = None;
                self.open()?;
                self.adopt_high_watermark()
            }
            Op::PowerCut { seed } => self.power_cut(*seed),
            Op::Read { .. } | Op::DropReader { .. } | Op::SetHighWatermark { .. } => Ok(()),
        }
    }

    fn open(&mut self) -> Checked {
        let config = LogConfig::new()
            .storage(self.storage())
            .clock(self.clock.clone())
            .min_free_bytes(0)
            .maintenance_interval(None)
            .checkpoint_bytes(4096)
            .open_threads(Some(1))
            .compaction_memory(self.setup.compaction_memory)
            .sync_threads(0);
        let log = Log::open(&self.dir, config).map_err(failed("open"))?;
        let report = log.recovery_report();
        prop_assert!(report.failed.is_empty(), "{:?}", report.failed);
        prop_assert!(report.partitions.iter().all(|partition| partition.error.is_none()), "{:?}", report);
        self.log = Some(log);
        Ok(())
    }

    #[cfg(not(feature = "sim"))]
    fn storage(&self) -> Arc<dyn Storage> {
        let Medium::Disk = self.medium;
        Arc::new(FileSystem::new())
    }

    #[cfg(feature = "sim")]
    fn storage(&self) -> Arc<dyn Storage> {
        let _ = FileSystem::new;
        let Medium::Simulated(storage) = &self.medium;
        Arc::new(storage.clone())
    }

    /// Readers and pins end with the process.
    fn let_go(&mut self) {
        self.readers.clear();
        (self.position, self.pin) = (None, None);
    }

    fn power_cut(&mut self, seed: u8) -> Checked {
        self.let_go();
        let durable = self.partition().offsets().durable.get();
        self.log = None;
        self.cut_power(seed);
        self.open()?;
        let end = self.partition().offsets().end.get();
        prop_assert!(
            end >= durable && end <= self.model.end,
            "{} after {}, {} were durable",
            end,
            self.model.end,
            durable
        );
        let boundary = end == 0 || end == self.model.start || self.model.entries.iter().any(|entry| entry.next == end);
        prop_assert!(boundary, "{} is inside a batch", end);
        self.model.cut(end);
        self.forget_sequences();
        self.adopt_high_watermark()
    }

    /// It is kept at checkpoints only.
    fn adopt_high_watermark(&mut self) -> Checked {
        if let Some(mark) = &mut self.model.high_watermark {
            let kept = self.log.as_ref().unwrap().partition("t", 0).unwrap().offsets().high_watermark.get();
            prop_assert!(kept <= *mark, "the high watermark has grown");
            *mark = kept;
        }
        Ok(())
    }

    #[cfg(not(feature = "sim"))]
    fn cut_power(&mut self, _seed: u8) {}

    #[cfg(feature = "sim")]
    fn cut_power(&mut self, seed: u8) {
        use stratalog::sim::{Crash, Order};
        let Medium::Simulated(storage) = &self.medium;
        let order = if seed.is_multiple_of(2) { Order::Strict } else { Order::Journaled };
        self.medium = Medium::Simulated(storage.crash(&Crash { order, seed: u64::from(seed / 2) }));
    }

    fn append(&mut self, append: &Append) -> Checked {
        let batch = self.batch(append);
        let keyless = append.keyless && append.gap.is_none();
        let appended = match append.gap {
            Some(_) => self.partition().append_at(batch.as_bytes()),
            None => self.partition().append(&batch),
        };
        if keyless {
            let refused = appended.expect_err("a record without a key");
            prop_assert_eq!(refused.kind(), &ErrorKind::MissingKey);
            return Ok(());
        }
        let appended = appended.map_err(failed("append"))?;
        if append.producer >= 0 {
            *self.sequences.entry(i64::from(append.producer)).or_default() += append.records.len() as i32;
        }
        self.note(appended.base_offset, appended.next_offset, None)
    }

    fn end(&mut self, producer: i64, commit: bool) -> Checked {
        let marker = if commit { Marker::Commit } else { Marker::Abort };
        let batch = end_marker(marker, producer, 0, 0, Timestamp::from_millis(self.now())).unwrap();
        let appended = self.partition().append(&batch).map_err(failed("end of a transaction"))?;
        self.note(appended.base_offset, appended.next_offset, Some(commit))
    }

    /// Takes the batch that was appended into the model.
    fn note(&mut self, base: Offset, next: Offset, marker: Option<bool>) -> Checked {
        prop_assert!(base.get() >= self.model.end);
        let options = FetchOptions { max_bytes: 1, ..FetchOptions::default() };
        let fetch = self.partition().fetch(base, options).map_err(failed("fetch"))?;
        let view = fetch.batches().next().expect("it was appended").map_err(failed("batch"))?;
        let header = *view.header();
        prop_assert_eq!((header.base_offset, header.next_offset()), (base, next));
        self.model.push(Entry {
            base: base.get(),
            next: next.get(),
            bytes: view.as_bytes().to_vec(),
            producer: header.producer_id,
            transactional: header.attributes.is_transactional(),
            marker,
            records: if marker.is_some() { Vec::new() } else { decode(&view) },
            appended_at: self.now(),
            seen_at: None,
        });
        Ok(())
    }

    fn compact(&mut self, full: bool) -> Checked {
        let mode = if full { CompactMode::Full } else { CompactMode::Due };
        let now = self.clock.now();
        let report = self.partition().compact(now, mode).map_err(failed("compact"))?;
        self.compacted(&report, full)
    }

    fn maintain(&mut self) -> Checked {
        let now = self.clock.now();
        let report = self.log().maintain(now, Budget::default()).map_err(failed("maintain"))?;
        for (_, _, pass) in &report.passes {
            prop_assert!(pass.errors.is_empty(), "{:?}", pass.errors);
            let start = self.partition().offsets().start.get();
            if self.setup.also_delete {
                prop_assert!(start >= self.model.start);
                self.model.start = start;
            }
            self.compacted(pass.compaction.as_ref().expect("the topic is compacted"), false)?;
        }
        Ok(())
    }

    /// Looks at what a compaction has removed.
    fn compacted(&mut self, report: &CompactionReport, full: bool) -> Checked {
        prop_assert!(report.damaged.is_empty(), "{:?}", report);
        let now = self.now();
        for entry in &mut self.model.entries {
            entry.seen_at.get_or_insert(now);
        }
        let offsets = self.partition().offsets();
        let durable = if full { self.model.end } else { offsets.durable.get() };
        let pinned = self.pin.as_ref().map_or(u64::MAX, |pin| pin.offset().get());
        let limit = durable.min(self.model.high_watermark());
        let pass = Pass {
            now,
            limit,
            min_lag: i64::from(self.setup.min_lag),
            delete_retention: i64::from(self.setup.delete_retention),
        };
        let present = self.present()?;
        self.model.check_removed(&present, &pass)?;
        let markers_gone = self.model.check_markers(now, i64::from(self.setup.delete_retention))?;
        self.count("removed markers", markers_gone as u64);
        let gone: Vec<u64> =
            self.model.present.difference(&present).copied().filter(|at| *at >= self.model.start).collect();
        prop_assert!(gone.iter().all(|at| *at < pinned), "{:?} went above the pin", gone);
        self.count("passes", 1);
        self.count("rewritten segments", report.segments_rewritten as u64);
        self.count("removed tombstones", report.tombstones_removed);
        self.count("removed records", gone.len() as u64);
        self.model.removed |= report.segments_rewritten > 0;
        self.model.present = present;
        if report.segments_rewritten > 0 {
            let verified = self.partition().verify().map_err(failed("verify"))?;
            prop_assert!(verified.findings.is_empty(), "{:?}", verified.findings);
        }
        Ok(())
    }

    fn open_reader(&mut self, at: u16) -> Checked {
        let at = self.readable(at);
        let latest = self.known_at(at)?;
        let max_bytes = [1, 700, 1 << 20][at as usize % 3];
        let reader = self.partition().reader_with(Offset::new(at), committed(max_bytes)).map_err(failed("reader"))?;
        self.readers.push(Follower { reader, latest, moved_at: self.now() });
        Ok(())
    }

    /// A place below which all can be read: not inside a batch that cannot.
    fn readable(&self, at: u16) -> u64 {
        let (start, stable) = (self.model.start, self.stable());
        let ends = self.model.entries.iter().map(|entry| entry.next).filter(|next| *next <= stable);
        place(at, start, ends.max().unwrap_or(start).max(start))
    }

    /// What somebody knows who has read everything below an offset.
    fn known_at(&self, at: u64) -> Checked<Latest> {
        let mut reader = self.reader_from_start()?;
        let mut latest = Latest::new();
        while let Some(record) = reader.next_record().map_err(failed("read"))? {
            if record.offset.get() >= at {
                break;
            }
            fold(&mut latest, &record);
        }
        Ok(latest)
    }

    /// Reads on; at the end the reader has to have the latest values.
    fn read(&mut self, which: usize, records: usize) -> Checked {
        let to = self.stable();
        let (start, now, hold) = (self.model.start, self.now(), i64::from(self.setup.reader_hold_max));
        let follower = &mut self.readers[which];
        for _ in 0..records {
            match follower.reader.next_record() {
                Ok(Some(record)) => {
                    prop_assert!(record.offset.get() < to);
                    fold(&mut follower.latest, &record);
                }
                Ok(None) => {
                    self.model.check_reader(&follower.latest, to)?;
                    self.count("finished readers", 1);
                    return Ok(());
                }
                Err(error) => {
                    let at = follower.reader.offset().get();
                    let rightly = match error.kind() {
                        ErrorKind::LostTombstones { .. } => now - follower.moved_at >= hold,
                        ErrorKind::OffsetOutOfRange { .. } => at < start,
                        _ => false,
                    };
                    prop_assert!(rightly, "a reader at {}: {:?}", at, error);
                    self.readers.remove(which);
                    self.count("lost readers", 1);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn register(&mut self, at: u16) -> Checked {
        if self.position.take().is_some() {
            self.partition().unregister_position("p");
        }
        let at = self.readable(at);
        let latest = self.known_at(at)?;
        self.partition().register_position("p", Offset::new(at)).map_err(failed("register"))?;
        self.position = Some(Follower { reader: at, latest, moved_at: self.now() });
        Ok(())
    }

    fn move_position(&mut self, records: usize) -> Checked {
        let Some(mut position) = self.position.take() else { return Ok(()) };
        if position.reader < self.model.start {
            self.partition().unregister_position("p");
            return Ok(());
        }
        let from = Offset::new(position.reader);
        let mut reader = self.partition().reader_with(from, committed(500)).map_err(failed("reader"))?;
        let mut at_end = false;
        for _ in 0..records {
            match reader.next_record().map_err(failed("read"))? {
                Some(record) => fold(&mut position.latest, &record),
                None => at_end = true,
            }
        }
        position.reader = reader.offset().get();
        drop(reader);
        match self.partition().register_position("p", Offset::new(position.reader)) {
            Ok(()) => {
                if at_end {
                    self.model.check_reader(&position.latest, self.stable())?;
                    self.count("finished positions", 1);
                }
                if position.reader != from.get() {
                    position.moved_at = self.now();
                }
                self.position = Some(position);
            }
            Err(error) => {
                prop_assert!(matches!(error.kind(), ErrorKind::LostTombstones { .. }), "{:?}", error);
                prop_assert!(self.now() - position.moved_at >= i64::from(self.setup.reader_hold_max));
                prop_assert!(self.partition().unregister_position("p"));
                self.count("lost positions", 1);
            }
        }
        Ok(())
    }

    fn truncate(&mut self, at: u16) -> Checked {
        // More often near the end, as replicas do.
        let (start, end) = (self.model.start, self.model.end);
        let at = place(at, if at.is_multiple_of(4) { start } else { end - (end - start) / 4 }, end);
        match self.partition().truncate(Offset::new(at)) {
            Ok(end) => {
                let end = end.get();
                prop_assert!(end <= at);
                self.let_go();
                self.partition().unregister_position("p");
                if end < self.model.start || self.partition().offsets().start.get() > self.model.start {
                    return Err(TestCaseError::fail("the start has moved"));
                }
                self.model.cut(end);
                self.forget_sequences();
                self.count("truncations", 1);
            }
            Err(error) => {
                let refused = matches!(error.kind(), ErrorKind::TruncateBelowCompacted { .. });
                prop_assert!(refused && self.model.removed, "truncation to {}: {:?}", at, error);
                self.count("refused truncations", 1);
            }
        }
        Ok(())
    }

    fn forget_sequences(&mut self) {
        self.sequences.clear();
        for entry in self.model.entries.iter().filter(|entry| entry.producer >= 0) {
            *self.sequences.entry(entry.producer).or_default() += entry.records.len() as i32;
        }
    }

    /// All is as in the model.
    fn check(&mut self) -> Checked {
        let offsets = self.partition().offsets();
        prop_assert_eq!((offsets.start.get(), offsets.end.get()), (self.model.start, self.model.end));
        prop_assert_eq!(offsets.high_watermark.get(), self.model.high_watermark());
        if self.model.start == 0 {
            prop_assert_eq!(offsets.last_stable.get(), self.stable(), "the last stable offset");
        }
        let present = self.present()?;
        let known: BTreeSet<u64> = self.model.present.range(self.model.start..).copied().collect();
        let present: BTreeSet<u64> = present.range(self.model.start..).copied().collect();
        prop_assert_eq!(present, known, "what is there changes by compaction only");
        self.model.check_no_marker_gone()?;
        let mut reader = self.reader_from_start()?;
        let mut latest = Latest::new();
        while let Some(record) = reader.next_record().map_err(failed("read"))? {
            fold(&mut latest, &record);
        }
        prop_assert_eq!(latest, self.model.latest(self.stable()));
        Ok(())
    }

    /// In the end everybody reads to the end, and the log closes and opens.
    fn finish(&mut self) -> Checked {
        while !self.readers.is_empty() {
            let count = self.readers.len();
            self.read(0, usize::MAX)?;
            if self.readers.len() == count {
                self.readers.remove(0);
            }
        }
        self.step(&Op::Reopen)?;
        self.check()?;
        let verified = self.partition().verify().map_err(failed("verify"))?;
        prop_assert!(verified.findings.is_empty(), "{:?}", verified.findings);
        Ok(())
    }

    /// Offsets of the records that are in the log, which are compared with those that were appended.
    fn present(&mut self) -> Checked<BTreeSet<u64>> {
        let mut reader = self.partition().reader(Offset::new(self.model.start)).map_err(failed("reader"))?;
        let mut batches = Vec::new();
        while let Some(batch) = reader.next_batch().map_err(failed("read"))? {
            batches.push(batch.as_bytes().to_vec());
        }
        self.model.check_batches(&batches)
    }

    fn reader_from_start(&self) -> Checked<Reader> {
        let from = Offset::new(self.model.start);
        self.partition().reader_with(from, committed(1 << 20)).map_err(failed("reader"))
    }

    fn stable(&self) -> u64 {
        self.partition().offsets().last_stable.get()
    }

    fn log(&self) -> &Log {
        self.log.as_ref().expect("it is open")
    }

    fn partition(&self) -> Partition {
        self.log().partition("t", 0).expect("it was made")
    }

    fn now(&self) -> i64 {
        self.clock.now().as_millis()
    }

    fn count(&mut self, what: &'static str, by: u64) {
        *self.counts.entry(what).or_default() += by;
    }

    /// Records that differ from all before, in a batch.
    fn batch(&mut self, append: &Append) -> RecordBatch {
        let now = self.now();
        let producer = i64::from(append.producer);
        let mut builder = RecordBatch::builder().codec(append.codec);
        if producer >= 0 {
            let sequence = self.sequences.get(&producer).copied().unwrap_or(0);
            builder = builder.producer(producer, 0, sequence).transactional(producer < 10);
        }
        if let Some(gap) = append.gap {
            builder = builder.base_offset(Offset::new(self.model.end + u64::from(gap)));
        }
        for (number, (key, size)) in append.records.iter().enumerate() {
            self.written += 1;
            let n = self.written;
            let key = key_of(*key % self.setup.keys);
            let value = (size % 5 != 0).then(|| format!("{n}-").into_bytes().repeat(1 + usize::from(*size) / 6));
            let headers = [Header { key: b"h", value: Some(&[7; 3]) }, Header { key: b"", value: None }];
            let mut record = Record::keyless("").with_headers(&headers[..n as usize % 3]);
            record.key = Some(&key).filter(|_| !(append.keyless && number == 0)).map(Vec::as_slice);
            record.value = value.as_deref();
            let at = Timestamp::from_millis(now + 5000 - (n * 371 % 30_000) as i64);
            builder.push(&record.at(at), Timestamp::from_millis(now)).unwrap();
        }
        builder.build().unwrap()
    }
}

impl Setup {
    fn topic(&self) -> TopicConfig {
        let millis = |ms: u32| Duration::from_millis(u64::from(ms));
        let buffered = Durability::Buffered { interval: Duration::from_secs(3600), bytes: 1 << 30 };
        TopicConfig::new()
            .segment_bytes(self.segment_bytes)
            .index_interval_bytes(128)
            .cleanup(if self.also_delete { Cleanup::CompactDelete } else { Cleanup::Compact })
            .retention_bytes(self.also_delete.then_some(6000))
            .min_cleanable_dirty_ratio(self.ratio)
            .min_compaction_lag(millis(self.min_lag))
            .max_compaction_lag(self.max_lag.map(millis))
            .delete_retention(millis(self.delete_retention))
            .reader_hold_max(millis(self.reader_hold_max))
            .durability(if self.sync { Durability::Sync } else { buffered })
            .watermark(if self.managed { WatermarkMode::Managed } else { WatermarkMode::LogEnd })
            .timestamp_type(if self.log_time { TimestampType::LogAppendTime } else { TimestampType::CreateTime })
            .mapped_reads(self.mapped)
    }
}

/// The empty key, a long one, and others.
fn key_of(number: u16) -> Vec<u8> {
    match number {
        0 => Vec::new(),
        4 => vec![b'k'; 300],
        number => format!("key-{number}").into_bytes(),
    }
}

fn place(at: u16, low: u64, high: u64) -> u64 {
    low + u64::from(at) % (high - low + 1)
}
