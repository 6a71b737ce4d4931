//! walrus-rust: entries of topics in blocks; read from the front on, not by number. Its directory is one of the process.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use walrus_rust::{FsyncSchedule, ReadConsistency, Walrus};

use super::{Mode, Points, Seen, Store, in_calls};
use crate::data::{Run, Stop};

const TOPIC: &str = "peers";

pub struct Opened {
    walrus: Walrus,
    /// What was read is gone: it is read once.
    was_read: AtomicBool,
}

impl Opened {
    /// The directory must be what the environment says: see `worker`.
    pub fn open(dir: &Path, mode: Mode) -> Opened {
        let told = std::env::var_os("WALRUS_DATA_DIR").expect("the worker sets it");
        assert_eq!(Path::new(&told), dir.parent().expect("it is below the worker's"));
        let name = dir.file_name().expect("it has a name").to_str().expect("it is plain");
        let schedule = if mode == Mode::Synced { FsyncSchedule::SyncEach } else { FsyncSchedule::NoFsync };
        let consistency = ReadConsistency::AtLeastOnce { persist_every: u32::MAX };
        let walrus = Walrus::with_consistency_and_schedule_for_key(name, consistency, schedule).expect("it opens");
        Opened { walrus, was_read: AtomicBool::new(false) }
    }
}

impl Store for Opened {
    fn append(&self, _lane: u64, records: Run<'_>, per_call: usize, stop: Stop) -> usize {
        if per_call == 1 {
            return in_calls(records, 1, stop, |run| {
                run.iter().for_each(|entry| self.walrus.append_for_topic(TOPIC, entry.payload).expect("there is room"));
            });
        }
        let mut batch = Vec::with_capacity(per_call);
        let mut done = 0;
        for run in records.chunks(per_call) {
            if stop.is_due() {
                break;
            }
            batch.clear();
            batch.extend(run.iter().map(|entry| entry.payload));
            self.walrus.batch_append_for_topic(TOPIC, &batch).expect("there is room");
            done += run.len();
        }
        done
    }

    fn scan(&self) -> Option<Seen> {
        if self.was_read.swap(true, Ordering::Relaxed) {
            return None;
        }
        let mut seen = Seen::default();
        loop {
            let entries = self.walrus.batch_read_for_topic(TOPIC, 1 << 20, true).expect("it is sound");
            if entries.is_empty() {
                return Some(seen);
            }
            entries.iter().for_each(|entry| seen.add(entry.data.len()));
        }
    }

    fn points(&self) -> Option<Points<'_>> {
        None
    }

    fn close(self: Box<Self>) {}
}
