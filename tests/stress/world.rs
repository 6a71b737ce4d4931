//! The state that the threads of a child share.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use stratalog::{Clock, SystemClock, Timestamp};

use super::draw::{Draw, PARTITIONS};
use super::held::Held;

pub struct World {
    pub draw: Draw,
    /// A counter that orders events.
    pub now: AtomicU64,
    pub places: [Place; PARTITIONS.len()],
    pub counts: Counts,
    pub held: Held,
    /// Writers and readers end.
    pub writers_end: AtomicBool,
    pub readers_end: AtomicBool,
    /// The log is closed while they work.
    pub closing: AtomicBool,
}

/// A partition.
#[derive(Default)]
pub struct Place {
    /// Odd while records are taken away.
    pub cuts: AtomicU64,
    /// The offsets of its tailing readers.
    pub tails: [AtomicU64; 2],
}

/// Counts since they were told last.
#[derive(Default)]
pub struct Counts {
    /// Bytes of values that were compared.
    pub bytes: AtomicU64,
    /// Times that held bytes, and regions of files, were compared.
    pub held: AtomicU64,
    pub regions: AtomicU64,
    pub waits: AtomicU64,
    pub reopened: AtomicU64,
}

impl World {
    pub fn new(seed: u64) -> World {
        World {
            draw: Draw::new(seed),
            now: AtomicU64::new(1),
            places: Default::default(),
            counts: Counts::default(),
            held: Held::default(),
            writers_end: AtomicBool::new(false),
            readers_end: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        }
    }

    /// Begins a phase: all flags are down, and there are no readers yet.
    pub fn begin(&self) {
        for flag in [&self.writers_end, &self.readers_end, &self.closing] {
            flag.store(false, Ordering::SeqCst);
        }
        self.places.iter().flat_map(|place| &place.tails).for_each(|tail| tail.store(u64::MAX, Ordering::SeqCst));
    }

    /// The next time of the shared counter.
    pub fn tick(&self) -> u64 {
        self.now.fetch_add(1, Ordering::SeqCst)
    }

    pub fn wall(&self) -> Timestamp {
        SystemClock.now()
    }

    /// Tells the parent the counts, with these.
    pub fn tell(&self, more: &[(&str, u64)]) {
        let Counts { bytes, held, regions, waits, reopened } = &self.counts;
        let own = [("bytes", bytes), ("held", held), ("regions", regions), ("waits", waits), ("reopened", reopened)];
        let own = own.into_iter().map(|(name, count)| (name, count.swap(0, Ordering::Relaxed)));
        for (name, count) in own.chain(more.iter().copied()) {
            say(&format!("{name} {count}"));
        }
    }
}

/// A line to the parent, whole in the pipe before anything else is done.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // A parent that has gone needs no line.
    let _ = out.write_all(format!("\n{line}\n").as_bytes()).and_then(|()| out.flush());
}
