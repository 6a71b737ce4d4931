//! fjall: an LSM store. As a log its keys are the numbers of the records.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{Mode, Points, Seen, Store, in_calls};
use crate::data::{Run, Stop};

pub struct Opened {
    db: Database,
    keyspace: Keyspace,
    mode: Mode,
    next: AtomicU64,
}

impl Opened {
    pub fn open(dir: &Path, mode: Mode) -> Opened {
        let db = Database::builder(dir).open().expect("it opens");
        let keyspace = db.keyspace("peers", KeyspaceCreateOptions::default).expect("it opens");
        let last = keyspace.last_key_value().filter(|_| !mode.is_latest());
        let number = |key: &[u8]| u64::from_be_bytes(key.try_into().expect("a number"));
        let next = last.map_or(0, |last| number(&last.key().expect("it is sound")) + 1);
        Opened { db, keyspace, mode, next: AtomicU64::new(next) }
    }
}

impl Store for Opened {
    fn append(&self, _lane: u64, records: Run<'_>, per_call: usize, stop: Stop) -> usize {
        let synced = self.mode == Mode::Synced;
        in_calls(records, per_call, stop, |run| {
            let first = self.next.fetch_add(run.len() as u64, Ordering::Relaxed);
            if per_call == 1 && !synced {
                let entry = run.iter().next().expect("there is one");
                return self.keyspace.insert(first.to_be_bytes(), entry.payload).expect("there is room");
            }
            let mode = if synced { PersistMode::SyncData } else { PersistMode::Buffer };
            let mut batch = self.db.batch().durability(Some(mode));
            for (number, entry) in (first..).zip(run.iter()) {
                batch.insert(&self.keyspace, number.to_be_bytes(), entry.payload);
            }
            batch.commit().expect("there is room");
        })
    }

    fn scan(&self) -> Option<Seen> {
        let mut seen = Seen::default();
        for guard in self.keyspace.iter() {
            let (_, value) = guard.into_inner().expect("it is sound");
            seen.add(value.len());
        }
        Some(seen)
    }

    fn points(&self) -> Option<Points<'_>> {
        Some(Box::new(|number| {
            self.keyspace.get(number.to_be_bytes()).expect("it is sound").expect("it is there").len()
        }))
    }

    fn put_and_compact(&mut self, records: Run<'_>, per_call: usize) {
        in_calls(records, per_call, Stop::never(), |run| {
            let mut batch = self.db.batch();
            for entry in run.iter() {
                match entry.value() {
                    Some(value) => batch.insert(&self.keyspace, entry.key(), value),
                    None => batch.remove(&self.keyspace, entry.key()),
                }
            }
            batch.commit().expect("there is room");
        });
        self.keyspace.rotate_memtable_and_wait().expect("there is room");
        self.keyspace.major_compact().expect("there is room");
        if self.mode == Mode::LatestSynced {
            self.db.persist(PersistMode::SyncAll).expect("the disk works");
        }
    }

    fn live_keys(&self) -> usize {
        self.keyspace.len().expect("it is sound")
    }

    fn close(self: Box<Self>) {
        self.db.persist(PersistMode::SyncAll).expect("the disk works");
    }
}
