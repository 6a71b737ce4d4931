//! Runs operations on a log and on the model.

use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use stratalog::format::Batches;
use stratalog::storage::Storage;
use stratalog::{
    Budget, Clock, Codec, Error, ErrorKind, FetchOptions, Header, Isolation, Log, LogConfig, ManualClock, Partition,
    Record, RecordBatch,
};

use crate::model::{Batch, Model, Rec, decode, offset, rec, time};

/// How a topic is configured.
#[derive(Clone, Debug)]
pub struct TopicSetup {
    pub segment_bytes: u64,
    pub index_interval: u32,
    pub codec: Codec,
    pub retention_ms: Option<u64>,
    pub retention_bytes: Option<u64>,
    pub sync: bool,
    pub mapped: bool,
    pub windows: bool,
    pub log_time: bool,
}

/// How a run begins.
#[derive(Clone, Debug)]
pub struct Setup {
    pub topic: TopicSetup,
    pub sync_threads: usize,
}

/// One operation; `on` is the partition. Places are taken modulo what there is.
#[derive(Clone, Debug)]
pub enum Op {
    Records {
        on: u8,
        count: u8,
        size: u16,
    },
    Batch {
        on: u8,
        codec: Codec,
        count: u8,
        size: u16,
    },
    /// Each with the gap before it, its records, and offsets without a record at its end.
    At {
        on: u8,
        batches: Vec<(u8, u8, u8)>,
    },
    /// Expects an end that is off by this.
    If {
        on: u8,
        off: i8,
    },
    Roll {
        on: u8,
    },
    Flush {
        on: u8,
    },
    Truncate {
        on: u8,
        to: u16,
    },
    Reset {
        on: u8,
        to: u16,
    },
    DeleteBefore {
        on: u8,
        to: u16,
    },
    Maintain,
    Advance {
        ms: u16,
    },
    Configure(TopicSetup),
    Fetch {
        on: u8,
        from: u16,
        max: u16,
        durable: bool,
    },
    OffsetFor {
        on: u8,
        at: u16,
    },
    Reopen,
    Kill,
}

/// A log and the models of its partitions.
pub struct Run {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    clock: Arc<ManualClock>,
    sync_threads: usize,
    topic: TopicSetup,
    log: Option<Log>,
    models: [Model; 2],
    written: u64,
}

const NOW: i64 = 1_700_000_000_000;

type Checked<T = ()> = Result<T, TestCaseError>;

fn failed(what: &'static str) -> impl Fn(Error) -> TestCaseError {
    move |error| TestCaseError::fail(format!("{what}: {error:?}"))
}

impl Run {
    pub fn new(storage: Arc<dyn Storage>, dir: PathBuf, setup: &Setup) -> Checked<Run> {
        let mut run = Run {
            storage,
            dir,
            clock: Arc::new(ManualClock::new(time(NOW))),
            sync_threads: setup.sync_threads,
            topic: setup.topic.clone(),
            log: None,
            models: Default::default(),
            written: 0,
        };
        run.open()?;
        run.log().create_topic("t", 2, crate::topic_config(&run.topic)).map_err(failed("create"))?;
        Ok(run)
    }

    /// Runs all of them, with a look at everything after each.
    pub fn all(mut self, ops: &[Op]) -> Checked {
        for (at, op) in ops.iter().enumerate() {
            let step = self.step(op).and_then(|()| self.check());
            step.map_err(|error| TestCaseError::fail(format!("operation {at}, {op:?}: {error}")))?;
        }
        Ok(())
    }

    fn step(&mut self, op: &Op) -> Checked {
        match op {
            Op::Records { on, count, size } => self.append_records(*on, *count, *size),
            Op::Batch { on, codec, count, size } => self.append_batch(*on, *codec, *count, *size),
            Op::At { on, batches } => self.append_at(*on, batches),
            Op::If { on, off } => self.append_if(*on, *off),
            Op::Roll { on } => self.partition(*on).roll().map_err(failed("roll")),
            Op::Flush { on } => {
                let flushed = self.partition(*on).flush().map_err(failed("flush"))?;
                prop_assert_eq!(flushed.get(), self.model(*on).end);
                Ok(())
            }
            Op::Truncate { on, to } => {
                let model = self.model(*on);
                let to = place(*to, model.start, model.end + 3);
                let end = self.partition(*on).truncate(offset(to)).map_err(failed("truncate"))?;
                prop_assert_eq!(end.get(), self.model(*on).truncate(to), "truncated to {}", to);
                Ok(())
            }
            Op::Reset { on, to } => {
                let to = place(*to, 0, self.model(*on).end * 2 + 9);
                self.partition(*on).reset_to(offset(to)).map_err(failed("reset"))?;
                self.model(*on).reset(to);
                Ok(())
            }
            Op::DeleteBefore { on, to } => {
                let model = self.model(*on);
                let to = place(*to, 0, model.end);
                model.start = model.start.max(to);
                self.partition(*on).delete_before(offset(to)).map_err(failed("delete before"))
            }
            Op::Maintain => self.maintain(),
            Op::Advance { ms } => {
                self.clock.set(time(self.now() + i64::from(*ms)));
                Ok(())
            }
            Op::Configure(topic) => {
                self.topic = topic.clone();
                let config = crate::topic_config(topic);
                self.log().topic("t").unwrap().set_config(config).map_err(failed("configure"))
            }
            Op::Fetch { on, from, max, durable } => self.fetch(*on, *from, *max, *durable),
            Op::OffsetFor { on, at } => self.offset_for(*on, *at),
            Op::Reopen => {
                self.log.take().unwrap().close().map_err(failed("close"))?;
                self.open()
            }
            Op::Kill => {
                self.log = None;
                self.open()
            }
        }
    }

    fn open(&mut self) -> Checked {
        let config = LogConfig::new()
            .storage(Arc::clone(&self.storage))
            .clock(self.clock.clone())
            .min_free_bytes(0)
            .maintenance_interval(None)
            .checkpoint_bytes(4096)
            .open_threads(Some(1))
            .sync_threads(self.sync_threads);
        let log = Log::open(&self.dir, config).map_err(failed("open"))?;
        let report = log.recovery_report();
        prop_assert!(report.failed.is_empty(), "{:?}", report.failed);
        for partition in &report.partitions {
            prop_assert!(partition.cut.is_none(), "a cut where nothing was torn: {:?}", partition);
        }
        self.log = Some(log);
        Ok(())
    }

    fn append_records(&mut self, on: u8, count: u8, size: u16) -> Checked {
        let content = self.content(count, size, true);
        let headers: Vec<_> = content.iter().map(headers).collect();
        let records = content.iter().zip(&headers).map(|(rec, headers)| record(rec, headers));
        let appended = self.partition(on).append_records(records).map_err(failed("append records"))?;
        self.note(on, appended.base_offset.get(), appended.next_offset.get(), content)
    }

    fn append_batch(&mut self, on: u8, codec: Codec, count: u8, size: u16) -> Checked {
        let content = self.content(count, size, false);
        let batch = batch(codec, 0, &content, 0);
        let appended = self.partition(on).append(&batch).map_err(failed("append"))?;
        self.note(on, appended.base_offset.get(), appended.next_offset.get(), content)
    }

    fn append_if(&mut self, on: u8, off: i8) -> Checked {
        let content = self.content(1, 20, false);
        let batch = batch(Codec::None, 0, &content, 0);
        let end = self.model(on).end;
        let expected = end.saturating_add_signed(i64::from(off));
        match self.partition(on).append_if(offset(expected), &batch) {
            Ok(appended) => {
                prop_assert_eq!(expected, end);
                self.note(on, appended.base_offset.get(), appended.next_offset.get(), content)
            }
            Err(error) => {
                let (given, end) = (offset(expected), offset(end));
                prop_assert!(given != end);
                prop_assert_eq!(error.kind(), &ErrorKind::UnexpectedOffset { given, end });
                Ok(())
            }
        }
    }

    fn append_at(&mut self, on: u8, batches: &[(u8, u8, u8)]) -> Checked {
        let (mut bytes, mut given, mut at) = (Vec::new(), Vec::new(), self.model(on).end);
        for (gap, count, trailing) in batches {
            at += u64::from(*gap);
            let mut content = self.content(*count, 100, false);
            let built = batch(Codec::None, at, &content, *trailing);
            bytes.extend_from_slice(built.as_bytes());
            content.iter_mut().zip(at..).for_each(|(record, offset)| record.offset = offset);
            let next = at + u64::from(*count) + u64::from(*trailing);
            given.push(Batch { base: at, next, size: built.as_bytes().len() as u64, records: content });
            at = next;
        }
        let appended = self.partition(on).append_at(&bytes).map_err(failed("append at"))?;
        prop_assert_eq!((appended.base_offset.get(), appended.next_offset.get()), (given[0].base, at));
        given.into_iter().for_each(|batch| self.model(on).push(batch));
        Ok(())
    }

    fn maintain(&mut self) -> Checked {
        let now = self.now();
        let mut left = Vec::new();
        for on in 0..2 {
            let bases = self.segments(on)?;
            let (age, bytes) = (self.topic.retention_ms, self.topic.retention_bytes);
            let (start, bases) = self.model(on).retain(&bases, now, age, bytes);
            self.model(on).start = start;
            left.push(bases);
        }
        let report = self.log().maintain(time(now), Budget::default()).map_err(failed("maintain"))?;
        for (_, _, pass) in report.passes {
            prop_assert!(pass.errors.is_empty(), "{:?}", pass.errors);
        }
        for (on, left) in (0..).zip(left) {
            prop_assert_eq!(self.segments(on)?, left, "the segments of partition {}", on);
        }
        Ok(())
    }

    fn fetch(&mut self, on: u8, from: u16, max: u16, durable: bool) -> Checked {
        let (start, end) = (self.model(on).start, self.model(on).end);
        let from = place(from, start.saturating_sub(1), end + 1);
        let isolation = if durable { Isolation::Durable } else { Isolation::End };
        let options = FetchOptions { max_bytes: usize::from(max), check_crc: true, isolation };
        let fetch = match self.partition(on).fetch(offset(from), options) {
            Err(error) => {
                let (start, end) = (offset(start), offset(end));
                let expected = ErrorKind::OffsetOutOfRange { requested: offset(from), start, end };
                prop_assert_eq!(error.kind(), &expected);
                prop_assert!(offset(from) < start || offset(from) > end);
                return Ok(());
            }
            Ok(fetch) => fetch,
        };
        let limit = if durable { fetch.offsets.durable.get() } else { end };
        let (expected, next) = self.model(on).fetch(from, limit, u64::from(max));
        let found: Vec<Batch> = fetch.batches().map(|batch| decode(&batch.unwrap())).collect();
        prop_assert_eq!(found.iter().collect::<Vec<_>>(), expected, "fetched from {}", from);
        prop_assert_eq!(fetch.next_offset.get(), next);
        Ok(())
    }

    fn offset_for(&mut self, on: u8, at: u16) -> Checked {
        let at = NOW - 600 + i64::from(at % 6000);
        let found = self.partition(on).offset_for(time(at)).map_err(failed("offset for"))?;
        prop_assert_eq!(found.map(|found| found.get()), self.model(on).offset_for(at), "at {}", at);
        Ok(())
    }

    /// Takes one batch that was appended into the model.
    fn note(&mut self, on: u8, base: u64, next: u64, mut records: Vec<Rec>) -> Checked {
        prop_assert_eq!((base, next), (self.model(on).end, self.model(on).end + records.len() as u64));
        let options = FetchOptions { max_bytes: 1, ..FetchOptions::default() };
        let fetch = self.partition(on).fetch(offset(base), options).map_err(failed("fetch"))?;
        let now = self.now();
        for (record, offset) in records.iter_mut().zip(base..) {
            record.offset = offset;
            if self.topic.log_time || record.timestamp < 0 {
                record.timestamp = now;
            }
        }
        self.model(on).push(Batch { base, next, size: fetch.len() as u64, records });
        Ok(())
    }

    /// Offsets and contents are the model's.
    fn check(&self) -> Checked {
        for (on, model) in (0..).zip(&self.models) {
            let partition = self.partition(on);
            let offsets = partition.offsets();
            prop_assert_eq!((offsets.start.get(), offsets.end.get()), (model.start, model.end), "partition {}", on);
            prop_assert_eq!((offsets.high_watermark, offsets.last_stable), (offsets.end, offsets.end));
            prop_assert!(offsets.durable <= offsets.end);
            let mut reader = partition.reader(offsets.start).map_err(failed("reader"))?;
            let mut found = Vec::new();
            while let Some(record) = reader.next_record().map_err(failed("read"))? {
                found.push(rec(&record));
            }
            prop_assert_eq!(found, model.records(0), "partition {}", on);
            let first = self.segments(on)?[0];
            let kept = model.batches.iter().filter(|batch| batch.base >= first);
            prop_assert_eq!(partition.stats().bytes, kept.map(|batch| batch.size).sum::<u64>(), "partition {}", on);
        }
        Ok(())
    }

    /// The bases of a partition's segments, as the directory has them.
    fn segments(&self, on: u8) -> Checked<Vec<u64>> {
        let entries =
            self.storage.list(&self.dir.join(format!("t-{on}"))).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let mut bases: Vec<u64> =
            entries.iter().filter_map(|entry| entry.name.strip_suffix(".log")?.parse().ok()).collect();
        bases.sort_unstable();
        Ok(bases)
    }

    fn log(&self) -> &Log {
        self.log.as_ref().expect("it is open")
    }

    fn partition(&self, on: u8) -> Partition {
        self.log().partition("t", u32::from(on)).expect("it was made")
    }

    fn model(&mut self, on: u8) -> &mut Model {
        &mut self.models[usize::from(on)]
    }

    fn now(&self) -> i64 {
        self.clock.now().as_millis()
    }

    /// Records that differ from all before: some without key or value, some with headers, some older than now.
    fn content(&mut self, count: u8, size: u16, untimed: bool) -> Vec<Rec> {
        let now = self.now();
        let one = |n: u64| Rec {
            offset: 0,
            timestamp: if untimed && n.is_multiple_of(3) { -1 } else { now - (n * 37 % 500) as i64 },
            key: (!n.is_multiple_of(4)).then(|| format!("key-{}", n % 5).into_bytes()),
            value: (!n.is_multiple_of(5)).then(|| format!("{n}-").into_bytes().repeat(1 + usize::from(size) / 4)),
            headers: (0..n % 3).map(|h| (vec![b'h'; h as usize], (h == 1).then(|| vec![7; 3]))).collect(),
        };
        let content = (self.written..self.written + u64::from(count)).map(one).collect();
        self.written += u64::from(count);
        content
    }
}

fn place(at: u16, low: u64, high: u64) -> u64 {
    low + u64::from(at) % (high - low + 1)
}

fn headers(rec: &Rec) -> Vec<Header<'_>> {
    rec.headers.iter().map(|(key, value)| Header { key, value: value.as_deref() }).collect()
}

fn record<'a>(rec: &'a Rec, headers: &'a [Header<'a>]) -> Record<'a> {
    let mut record = Record::keyless("").with_headers(headers);
    (record.key, record.value) = (rec.key.as_deref(), rec.value.as_deref());
    if rec.timestamp >= 0 { record.at(time(rec.timestamp)) } else { record }
}

/// A batch at this offset, with offsets that have no record behind its last one.
fn batch(codec: Codec, base: u64, content: &[Rec], trailing: u8) -> RecordBatch {
    let mut builder = RecordBatch::builder().codec(codec).base_offset(offset(base));
    for rec in content {
        builder.push(&record(rec, &headers(rec)), time(NOW)).unwrap();
    }
    let last = content.len() as u32 - 1 + u32::from(trailing);
    let built = builder.last_offset_delta(last).build().unwrap();
    assert_eq!(Batches::new(built.as_bytes()).count(), 1);
    built
}
