//! Threads that append, in all ways.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use stratalog::format::{Marker, end_marker};
use stratalog::{Appended, BatchBuilder, Durability, ErrorKind, Offset, Partition, RecordBatch, Result, Topic};

use super::draw::{How, Plan, Planned};
use super::journal::{Entry, Journal, Kind};
use super::world::World;

/// A reader that stands still for this time, with records behind its offset, has missed its wake-up.
const AWAKE_WITHIN: Duration = Duration::from_secs(10);

pub struct Writer<'a> {
    pub world: &'a World,
    pub number: u32,
    pub journal: Journal,
    pub topic: Topic,
    pub partitions: &'a [Partition],
    /// How many bytes it may append.
    pub bytes: u64,
    /// It alone appends to this partition; after each append it waits until the readers of the partition have it.
    pub in_step: Option<usize>,
}

/// The log was closed.
struct Closed;

type Done<T = ()> = std::result::Result<T, Closed>;

impl Writer<'_> {
    /// Appends one attempt after the other until the time is up.
    pub fn run(mut self) {
        let mut n = 0;
        // Then an append that is told that the log was closed may be in it: it waited for its sync.
        let synced =
            |writer: &Self| writer.partitions.iter().any(|partition| partition.config().durability == Durability::Sync);
        while !self.world.writers_end.load(Ordering::Acquire) && self.bytes > 0 {
            let mut plan = self.world.draw.plan(self.number, n);
            if let Some(partition) = self.in_step {
                plan.partition = partition;
            }
            self.bytes = self.bytes.saturating_sub(plan.size());
            let before = synced(&self);
            if let Err(Closed) = self.attempt(&plan) {
                if before || synced(&self) {
                    return;
                }
                break;
            }
            n = self.world.draw.after(self.number, n);
        }
        self.journal.write(Entry { n, ..Entry::new(Kind::Ended, 0, self.number, 0) });
    }

    fn attempt(&mut self, plan: &Plan) -> Done {
        let partition = &self.partitions[plan.partition];
        let end = partition.offsets().end;
        match plan.how {
            How::Topic if self.in_step.is_none() => self.routed(plan),
            How::Topic | How::Records => self.records(plan),
            How::Batch => {
                let batch = self.batch(plan, &plan.batches[0]);
                self.append(plan, Kind::Appended, 0, || partition.append(&batch))
            }
            How::If => {
                let batch = self.batch(plan, &plan.batches[0]);
                self.append(plan, Kind::Appended, 0, || partition.append_if(end, &batch))
            }
            How::At => self.given(plan, end),
            How::Transaction => self.transaction(plan),
        }
    }

    fn records(&mut self, plan: &Plan) -> Done {
        let partition = &self.partitions[plan.partition];
        let parts = self.world.draw.parts(plan, &plan.batches[0]);
        let headers: Vec<_> = parts.iter().map(|part| part.header()).collect();
        let records = || parts.iter().zip(&headers).map(|(part, headers)| part.record(headers));
        self.append(plan, Kind::Appended, 0, || partition.append_records(records()))
    }

    /// By its key, wherever that leads.
    fn routed(&mut self, plan: &Plan) -> Done {
        let parts = self.world.draw.parts(plan, &plan.batches[0]);
        let headers = parts[0].header();
        let began = self.world.tick();
        let outcome = self.topic.append(parts[0].record(&headers));
        let Some((id, appended)) = self.outcome(outcome)? else { return Ok(()) };
        self.note(plan, id as usize, (Kind::Appended, 0), (appended.base_offset, appended.next_offset), began);
        Ok(())
    }

    fn given(&mut self, plan: &Plan, end: Offset) -> Done {
        let (bytes, places) = plan.given(&self.world.draw, end, self.world.wall());
        let began = self.world.tick();
        let outcome = self.partitions[plan.partition].append_at(&bytes);
        let Some(appended) = self.outcome(outcome)? else { return Ok(()) };
        assert_eq!((appended.base_offset, appended.next_offset), (places[0].0, places[places.len() - 1].1));
        for (batch, place) in places.into_iter().enumerate() {
            self.note(plan, plan.partition, (Kind::Appended, batch), place, began);
        }
        self.wait_for_readers(plan.partition, appended.next_offset);
        Ok(())
    }

    fn transaction(&mut self, plan: &Plan) -> Done {
        let partition = &self.partitions[plan.partition];
        for (at, planned) in plan.batches.iter().enumerate() {
            let batch = self.batch(plan, planned);
            self.append(plan, Kind::Transactional, at, || partition.append(&batch))?;
        }
        let marker = if plan.commit { Marker::Commit } else { Marker::Abort };
        let marker = end_marker(marker, i64::from(plan.writer), 0, 0, self.world.wall()).unwrap();
        self.append(plan, Kind::Marker, plan.batches.len(), || partition.append(&marker))
    }

    fn batch(&self, plan: &Plan, planned: &Planned) -> RecordBatch {
        let mut builder = BatchBuilder::new().codec(plan.codec);
        if plan.how == How::Transaction {
            let sequence = (plan.n as i32 & 0xffff) * 64 + planned.first as i32;
            builder = builder.producer(i64::from(plan.writer), 0, sequence).transactional(true);
        }
        self.world.draw.push(&mut builder, plan, planned, self.world.wall());
        builder.build().expect("a batch of records")
    }

    fn append(&mut self, plan: &Plan, kind: Kind, batch: usize, append: impl Fn() -> Result<Appended>) -> Done {
        let began = self.world.tick();
        let Some(appended) = self.outcome(append())? else { return Ok(()) };
        self.note(plan, plan.partition, (kind, batch), (appended.base_offset, appended.next_offset), began);
        self.wait_for_readers(plan.partition, appended.next_offset);
        Ok(())
    }

    /// The appended batch; none where another writer was faster.
    fn outcome<T>(&self, outcome: Result<T>) -> Done<Option<T>> {
        match outcome {
            Ok(appended) => Ok(Some(appended)),
            Err(error) => match error.kind() {
                ErrorKind::UnexpectedOffset { .. } | ErrorKind::Backpressure { .. } => Ok(None),
                ErrorKind::Closed if self.world.closing.load(Ordering::Acquire) => Err(Closed),
                _ => panic!("LOST: an append fails: {error:?}"),
            },
        }
    }

    /// Notes an acknowledged batch.
    fn note(
        &mut self,
        plan: &Plan,
        partition: usize,
        (kind, batch): (Kind, usize),
        (base, next): (Offset, Offset),
        began: u64,
    ) {
        let (writer, n, batch) = (plan.writer, plan.n, batch as u16);
        let ended = self.world.tick();
        let (base, next) = (base.get(), next.get());
        self.journal.write(Entry { kind, partition, batch, writer, n, base, next, began, ended });
    }

    /// Waits until the readers have passed the batch. No other thread appends: a reader that does not come has missed it.
    fn wait_for_readers(&self, partition: usize, next: Offset) {
        if self.in_step.is_none() {
            return;
        }
        let place = &self.world.places[partition];
        let cuts = place.cuts.load(Ordering::Acquire);
        let began = Instant::now();
        for tail in &place.tails {
            while tail.load(Ordering::Acquire) < next.get() {
                let is_over = self.world.closing.load(Ordering::Acquire) || place.cuts.load(Ordering::Acquire) != cuts;
                if is_over || self.world.writers_end.load(Ordering::Acquire) {
                    return;
                }
                let stands = tail.load(Ordering::Acquire);
                assert!(began.elapsed() < AWAKE_WITHIN, "LOST: a reader sleeps at {stands}, the log ends at {next}");
                thread::yield_now();
            }
        }
        self.world.counts.waits.fetch_add(1, Ordering::Relaxed);
    }
}
