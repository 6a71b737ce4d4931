//! okaywal: chunks in entries; committing an entry syncs it. Records that need no sync of their own are committed 10,000
//! at a time. It is read in order by opening it.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Mutex;

use okaywal::{Configuration, Entry, EntryId, LogManager, LogPosition, ReadChunkResult, SegmentReader, WriteAheadLog};

use super::{Mode, Points, Seen, Store, in_calls};
use crate::data::{Run, Stop};

const PER_COMMIT: usize = 10_000;

pub struct Opened {
    log: WriteAheadLog,
    mode: Mode,
    /// Its user has to remember where each record is.
    positions: Mutex<Vec<LogPosition>>,
}

/// Reads what is recovered, and keeps all.
#[derive(Debug, Default)]
struct Manager;

impl LogManager for Manager {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        while let ReadChunkResult::Chunk(mut chunk) = entry.read_chunk()? {
            let payload = chunk.read_all()?;
            assert!(chunk.check_crc()? && !payload.is_empty());
        }
        Ok(())
    }

    fn checkpoint_to(&mut self, _: EntryId, _: &mut SegmentReader, _: &WriteAheadLog) -> io::Result<()> {
        Ok(())
    }
}

impl Opened {
    pub fn open(dir: &Path, mode: Mode) -> Opened {
        let config = Configuration::default_for(dir).preallocate_bytes(16 << 20).checkpoint_after_bytes(u64::MAX);
        Opened { log: config.open(Manager).expect("it opens"), mode, positions: Mutex::default() }
    }
}

impl Store for Opened {
    fn append(&self, _lane: u64, records: Run<'_>, per_call: usize, stop: Stop) -> usize {
        let per_commit = if self.mode == Mode::Synced { per_call } else { PER_COMMIT };
        let mut positions = Vec::new();
        let done = in_calls(records, per_commit, stop, |run| {
            let mut entry = self.log.begin_entry().expect("it is open");
            for record in run.iter() {
                positions.push(entry.write_chunk(record.payload).expect("there is room").position);
            }
            entry.commit().expect("the disk works");
        });
        self.positions.lock().expect("nobody panicked").append(&mut positions);
        done
    }

    fn scan(&self) -> Option<Seen> {
        None
    }

    fn points(&self) -> Option<Points<'_>> {
        let positions = self.positions.lock().expect("nobody panicked");
        Some(Box::new(move |number| {
            let mut chunk = self.log.read_at(positions[number as usize]).expect("it is there");
            let mut payload = Vec::with_capacity(chunk.chunk_length() as usize);
            chunk.read_to_end(&mut payload).expect("it can be read");
            assert!(chunk.crc_is_valid().expect("it can be read"));
            payload.len()
        }))
    }

    fn close(self: Box<Self>) {
        self.log.shutdown().expect("it ends");
    }
}
