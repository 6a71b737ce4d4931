//! redb: a B-tree store with a transaction for each call. As a log its keys are the numbers of the records.

use std::path::Path;
use std::sync::Mutex;

use redb::{Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};

use super::{Mode, Points, Seen, Store, in_calls};
use crate::data::{Run, Stop};

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const LATEST: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("latest");

pub struct Opened {
    db: Database,
    mode: Mode,
    next: Mutex<u64>,
}

impl Opened {
    pub fn open(dir: &Path, mode: Mode) -> Opened {
        let db = Database::create(dir.join("peers.redb")).expect("it opens");
        let transaction = db.begin_write().expect("it is open");
        let last = {
            let table = transaction.open_table(LOG).expect("it opens");
            table.last().expect("it is sound").map_or(0, |(key, _)| key.value() + 1)
        };
        transaction.commit().expect("there is room");
        Opened { db, mode, next: Mutex::new(last) }
    }

    fn change(&self, durability: Durability, change: impl FnOnce(&redb::WriteTransaction)) {
        let mut transaction = self.db.begin_write().expect("it is open");
        transaction.set_durability(durability).expect("it is possible");
        change(&transaction);
        transaction.commit().expect("there is room");
    }
}

impl Store for Opened {
    fn append(&self, _lane: u64, records: Run<'_>, per_call: usize, stop: Stop) -> usize {
        let durability = if self.mode == Mode::Synced { Durability::Immediate } else { Durability::None };
        in_calls(records, per_call, stop, |run| {
            self.change(durability, |transaction| {
                let mut next = self.next.lock().expect("nobody panicked");
                let mut table = transaction.open_table(LOG).expect("it opens");
                for entry in run.iter() {
                    table.insert(*next, entry.payload).expect("there is room");
                    *next += 1;
                }
            });
        })
    }

    fn scan(&self) -> Option<Seen> {
        let mut seen = Seen::default();
        let transaction = self.db.begin_read().expect("it is open");
        let table = transaction.open_table(LOG).expect("it opens");
        for entry in table.iter().expect("it is sound") {
            seen.add(entry.expect("it is sound").1.value().len());
        }
        Some(seen)
    }

    fn points(&self) -> Option<Points<'_>> {
        let transaction = self.db.begin_read().expect("it is open");
        let table = transaction.open_table(LOG).expect("it opens");
        Some(Box::new(move |number| table.get(number).expect("it is sound").expect("it is there").value().len()))
    }

    fn put_and_compact(&mut self, records: Run<'_>, per_call: usize) {
        in_calls(records, per_call, Stop::never(), |run| {
            self.change(Durability::None, |transaction| {
                let mut table = transaction.open_table(LATEST).expect("it opens");
                for entry in run.iter() {
                    match entry.value() {
                        Some(value) => drop(table.insert(entry.key(), value).expect("there is room")),
                        None => drop(table.remove(entry.key()).expect("there is room")),
                    }
                }
            });
        });
        // It takes the place of garbage again; its own compaction shrinks the file and syncs.
        if self.mode == Mode::LatestSynced {
            self.change(Durability::Immediate, |_| {});
            self.db.compact().expect("there is room");
        }
    }

    fn live_keys(&self) -> usize {
        let transaction = self.db.begin_read().expect("it is open");
        let table = transaction.open_table(LATEST).expect("it opens");
        table.len().expect("it is sound") as usize
    }

    fn close(self: Box<Self>) {
        if self.mode != Mode::Synced {
            self.change(Durability::Immediate, |_| {});
        }
    }
}
