//! The acknowledgements, in files that outlive a kill of the process. Each thread has a file, and writes each
//! acknowledgement to it before its next step.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Kept whole by a kill: pages are multiples of it.
const LEN: usize = 64;
/// The name of the file with which a generation begins; the others have the numbers of their writers.
const BASE: &str = "base";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The batch in `[base, next)` is the `batch`th of the attempt `n` of `writer`.
    Appended,
    /// The same of a batch in a transaction of the writer.
    Transactional,
    /// The control batch at `base` ends a transaction of `writer`.
    Marker,
    /// A truncation to `base` has begun, and has ended with the log end `base`.
    CutBegun,
    Cut,
    /// The same for a truncation that may go below the offset that compaction relied on.
    LossyBegun,
    Lossy,
    /// A reset to `base` has begun, and has ended.
    ResetBegun,
    Reset,
    /// The log is to begin at `base`, and does.
    StartBegun,
    Start,
    /// The operation that had begun was refused.
    Refused,
    /// The keys of a compacted partition with their latest record below `base` are not known any more.
    Excused,
    /// The writer has ended: it is known of everything whether it was appended.
    Ended,
}

const KINDS: [Kind; 14] = [
    Kind::Appended,
    Kind::Transactional,
    Kind::Marker,
    Kind::CutBegun,
    Kind::Cut,
    Kind::LossyBegun,
    Kind::Lossy,
    Kind::ResetBegun,
    Kind::Reset,
    Kind::StartBegun,
    Kind::Start,
    Kind::Refused,
    Kind::Excused,
    Kind::Ended,
];

/// One thing that was done. Times are those of a counter that all threads share: it was begun after `began` and ended
/// before `ended`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub kind: Kind,
    pub partition: usize,
    pub batch: u16,
    pub writer: u32,
    pub n: u64,
    pub base: u64,
    pub next: u64,
    pub began: u64,
    pub ended: u64,
}

impl Entry {
    pub fn new(kind: Kind, partition: usize, writer: u32, base: u64) -> Entry {
        Entry { kind, partition, batch: 0, writer, n: 0, base, next: base, began: 0, ended: 0 }
    }

    pub fn is_batch(&self) -> bool {
        self.has_records() || self.kind == Kind::Marker
    }

    pub fn has_records(&self) -> bool {
        matches!(self.kind, Kind::Appended | Kind::Transactional)
    }

    fn to_bytes(self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[0] = self.kind as u8;
        bytes[1] = self.partition as u8;
        bytes[2..4].copy_from_slice(&self.batch.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.writer.to_be_bytes());
        for (at, field) in [self.n, self.base, self.next, self.began, self.ended].into_iter().enumerate() {
            bytes[8 + at * 8..16 + at * 8].copy_from_slice(&field.to_be_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Entry {
        let field = |at: usize| u64::from_be_bytes(bytes[8 + at * 8..16 + at * 8].try_into().unwrap());
        Entry {
            kind: KINDS[usize::from(bytes[0])],
            partition: usize::from(bytes[1]),
            batch: u16::from_be_bytes(bytes[2..4].try_into().unwrap()),
            writer: u32::from_be_bytes(bytes[4..8].try_into().unwrap()),
            n: field(0),
            base: field(1),
            next: field(2),
            began: field(3),
            ended: field(4),
        }
    }
}

/// The file of one thread.
pub struct Journal(File);

impl Journal {
    /// Goes on with the file of a writer.
    pub fn open(generation: &Generation, writer: u32) -> Journal {
        let path = generation.dir.join(writer.to_string());
        Journal(OpenOptions::new().append(true).create(true).open(path).unwrap())
    }

    pub fn write(&mut self, entry: Entry) {
        self.0.write_all(&entry.to_bytes()).unwrap();
    }
}

/// The batches of the last check, and everything since then.
pub struct Generation {
    pub number: u64,
    dir: PathBuf,
}

impl Generation {
    /// The last one below `dir` that is whole.
    pub fn last(dir: &Path) -> Option<Generation> {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let number = names.filter_map(|name| name.parse().ok()).max()?;
        Some(Generation { number, dir: dir.join(number.to_string()) })
    }

    /// Begins a generation with these entries, and removes the one before.
    pub fn begin(dir: &Path, number: u64, entries: impl Iterator<Item = Entry>) -> Generation {
        let (whole, partial) = (dir.join(number.to_string()), dir.join(format!("{number}.partial")));
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir(&partial).unwrap();
        let bytes: Vec<u8> = entries.flat_map(Entry::to_bytes).collect();
        fs::write(partial.join(BASE), bytes).unwrap();
        fs::rename(&partial, &whole).unwrap();
        if let Some(before) = number.checked_sub(1) {
            let _ = fs::remove_dir_all(dir.join(before.to_string()));
        }
        Generation { number, dir: whole }
    }

    /// The entries that it began with, and those since.
    pub fn load(&self) -> (Vec<Entry>, Vec<Entry>) {
        let (mut base, mut since) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.dir).unwrap() {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            let entries = bytes.chunks_exact(LEN).map(Entry::from_bytes);
            if path.ends_with(BASE) { base.extend(entries) } else { since.extend(entries) }
        }
        (base, since)
    }

    /// The number of a thread of this generation.
    pub fn writer(&self, thread: u32) -> u32 {
        u32::try_from(self.number).unwrap() * WRITERS + thread
    }

    /// Whether a writer is of this generation, or of a later one.
    pub fn has(&self, writer: u32) -> bool {
        u64::from(writer / WRITERS) >= self.number
    }
}

/// The number of threads that may write in a generation.
const WRITERS: u32 = 16;
