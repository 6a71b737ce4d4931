//! raft-engine: entries by number in regions, with their index in memory; each lane has a region of its own. The latest
//! value of each key is put into a region's key space.

use std::path::Path;
use std::sync::Mutex;

use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};
use raft_proto::eraftpb::Entry;

use super::{Mode, Points, Seen, Store, in_calls};
use crate::data::{Run, Stop};

/// The region of the first lane.
const REGION: u64 = 1;
const PER_READ: u64 = 1000;

pub struct Opened {
    engine: Engine,
    mode: Mode,
    /// The next number of each lane.
    next: Mutex<[u64; 64]>,
}

#[derive(Clone)]
struct Plain;

impl MessageExt for Plain {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

impl Opened {
    pub fn open(dir: &Path, mode: Mode) -> Opened {
        let config = Config {
            dir: dir.to_str().expect("it is plain").to_owned(),
            // The others do not compress either.
            batch_compression_threshold: ReadableSize(0),
            ..Config::default()
        };
        let engine = Engine::open(config).expect("it opens");
        let next = std::array::from_fn(|lane| engine.last_index(REGION + lane as u64).map_or(1, |last| last + 1));
        Opened { engine, mode, next: Mutex::new(next) }
    }
}

impl Store for Opened {
    fn append(&self, lane: u64, records: Run<'_>, per_call: usize, stop: Stop) -> usize {
        let mut next = self.next.lock().expect("nobody panicked")[lane as usize];
        let mut batch = LogBatch::with_capacity(per_call);
        let mut entries = Vec::with_capacity(per_call);
        let done = in_calls(records, per_call, stop, |run| {
            entries.clear();
            for record in run.iter() {
                entries.push(Entry { index: next, data: record.payload.to_vec().into(), ..Entry::default() });
                next += 1;
            }
            batch.add_entries::<Plain>(REGION + lane, &entries).expect("it fits");
            self.engine.write(&mut batch, self.mode == Mode::Synced).expect("there is room");
        });
        self.next.lock().expect("nobody panicked")[lane as usize] = next;
        done
    }

    fn scan(&self) -> Option<Seen> {
        let mut seen = Seen::default();
        let mut entries = Vec::new();
        let end = self.engine.last_index(REGION).map_or(1, |last| last + 1);
        let mut next = self.engine.first_index(REGION).unwrap_or(1);
        while next < end {
            let to = end.min(next + PER_READ);
            entries.clear();
            self.engine.fetch_entries_to::<Plain>(REGION, next, to, None, &mut entries).expect("it is sound");
            entries.iter().for_each(|entry| seen.add(entry.data.len()));
            next = to;
        }
        Some(seen)
    }

    fn points(&self) -> Option<Points<'_>> {
        Some(Box::new(|number| {
            let entry = self.engine.get_entry::<Plain>(REGION, number + 1).expect("it is sound");
            entry.expect("it is there").data.len()
        }))
    }

    fn put_and_compact(&mut self, records: Run<'_>, per_call: usize) {
        let mut batch = LogBatch::with_capacity(per_call);
        in_calls(records, per_call, Stop::never(), |run| {
            for record in run.iter() {
                match record.value() {
                    Some(value) => batch.put(REGION, record.key().to_vec(), value.to_vec()).expect("it fits"),
                    None => batch.delete(REGION, record.key().to_vec()),
                }
            }
            self.engine.write(&mut batch, false).expect("there is room");
        });
        self.engine.purge_expired_files().expect("it is sound");
        if self.mode == Mode::LatestSynced {
            self.engine.sync().expect("the disk works");
        }
    }

    fn live_keys(&self) -> usize {
        let mut live = 0;
        let count = |_: &[u8], _: &[u8]| {
            live += 1;
            true
        };
        self.engine.scan_raw_messages(REGION, None, None, false, count).expect("it is sound");
        live
    }

    fn close(self: Box<Self>) {
        self.engine.sync().expect("the disk works");
    }
}
