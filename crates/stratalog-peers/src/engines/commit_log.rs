//! commitlog: messages of bytes, in segments with an index of all messages. Appending takes it for itself.

use std::path::Path;
use std::sync::Mutex;

use commitlog::message::{MessageBuf, MessageSet};
use commitlog::{CommitLog, LogOptions, ReadLimit};

use super::{Points, Seen, Store, in_calls};
use crate::data::{Run, Stop};

pub struct Opened(Mutex<CommitLog>);

impl Opened {
    pub fn open(dir: &Path) -> Opened {
        Opened(Mutex::new(CommitLog::new(LogOptions::new(dir)).expect("it opens")))
    }
}

impl Store for Opened {
    fn append(&self, _lane: u64, records: Run<'_>, per_call: usize, stop: Stop) -> usize {
        let mut log = self.0.lock().expect("nobody panicked");
        let mut messages = MessageBuf::default();
        in_calls(records, per_call, stop, |run| {
            messages.clear();
            run.iter().for_each(|entry| messages.push(entry.payload).expect("it fits"));
            log.append(&mut messages).expect("there is room");
        })
    }

    fn scan(&self) -> Option<Seen> {
        let log = self.0.lock().expect("nobody panicked");
        let mut seen = Seen::default();
        let mut next = 0;
        loop {
            let messages = log.read(next, ReadLimit::max_bytes(1 << 20)).expect("it is sound");
            let mut any = false;
            for message in messages.iter() {
                seen.add(message.payload().len());
                next = message.offset() + 1;
                any = true;
            }
            if !any {
                return Some(seen);
            }
        }
    }

    fn points(&self) -> Option<Points<'_>> {
        let log = self.0.lock().expect("nobody panicked");
        Some(Box::new(move |number| {
            let messages = log.read(number, ReadLimit::max_bytes(2 << 10)).expect("it is sound");
            messages.iter().next().expect("it is there").payload().len()
        }))
    }

    fn close(self: Box<Self>) {
        self.0.into_inner().expect("nobody panicked").flush().expect("the disk works");
    }
}
