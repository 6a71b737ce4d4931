//! rocksdb: an LSM store. As a log its keys are the numbers of the records.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rocksdb::{DB, IteratorMode, Options, WriteBatch, WriteOptions};

use super::{Mode, Points, Seen, Store, in_calls};
use crate::data::{Run, Stop};

pub struct Opened {
    db: DB,
    mode: Mode,
    next: AtomicU64,
}

impl Opened {
    pub fn open(dir: &Path, mode: Mode) -> Opened {
        let mut options = Options::default();
        options.create_if_missing(true);
        let db = DB::open(&options, dir).expect("it opens");
        let last = if mode.is_latest() { None } else { db.iterator(IteratorMode::End).next() };
        let number = |key: &[u8]| u64::from_be_bytes(key.try_into().expect("a number"));
        let next = last.map_or(0, |last| number(&last.expect("it is sound").0) + 1);
        Opened { db, mode, next: AtomicU64::new(next) }
    }

    fn write(&self, batch: WriteBatch) {
        let mut options = WriteOptions::default();
        options.set_sync(self.mode == Mode::Synced);
        self.db.write_opt(batch, &options).expect("there is room");
    }
}

impl Store for Opened {
    fn append(&self, _lane: u64, records: Run<'_>, per_call: usize, stop: Stop) -> usize {
        in_calls(records, per_call, stop, |run| {
            let first = self.next.fetch_add(run.len() as u64, Ordering::Relaxed);
            let mut batch = WriteBatch::default();
            for (number, entry) in (first..).zip(run.iter()) {
                batch.put(number.to_be_bytes(), entry.payload);
            }
            self.write(batch);
        })
    }

    fn scan(&self) -> Option<Seen> {
        let mut seen = Seen::default();
        let mut iterator = self.db.raw_iterator();
        iterator.seek_to_first();
        while let Some(value) = iterator.value() {
            seen.add(value.len());
            iterator.next();
        }
        Some(seen)
    }

    fn points(&self) -> Option<Points<'_>> {
        Some(Box::new(|number| {
            self.db.get_pinned(number.to_be_bytes()).expect("it is sound").expect("it is there").len()
        }))
    }

    fn put_and_compact(&mut self, records: Run<'_>, per_call: usize) {
        in_calls(records, per_call, Stop::never(), |run| {
            let mut batch = WriteBatch::default();
            for entry in run.iter() {
                match entry.value() {
                    Some(value) => batch.put(entry.key(), value),
                    None => batch.delete(entry.key()),
                }
            }
            self.write(batch);
        });
        self.db.compact_range(None::<&[u8]>, None::<&[u8]>);
        if self.mode == Mode::LatestSynced {
            self.db.flush_wal(true).expect("the disk works");
        }
    }

    fn live_keys(&self) -> usize {
        self.db.iterator(IteratorMode::Start).count()
    }

    fn close(self: Box<Self>) {
        self.db.flush_wal(true).expect("the disk works");
    }
}
