//! What is compared, behind one trait: each engine is used as its documentation says, by the fastest of its ways that
//! keeps the guarantee.

mod bare;
mod commit_log;
mod fjall;
mod okaywal;
mod raft_engine;
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod stratalog;
mod walrus;

use std::path::Path;

use crate::data::{Run, Stop};

/// How a store is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// An append is acknowledged without a sync.
    Buffered,
    /// An append is acknowledged after a sync.
    Synced,
    /// The latest value of each key; nothing is synced that can be left unsynced.
    Latest,
    /// The latest value of each key; all is synced once it is written and compacted.
    LatestSynced,
}

impl Mode {
    pub fn is_latest(self) -> bool {
        matches!(self, Mode::Latest | Mode::LatestSynced)
    }
}

/// What a scan saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    pub records: u64,
    /// Of payload.
    pub bytes: u64,
}

impl Seen {
    pub fn add(&mut self, payload: usize) {
        self.records += 1;
        self.bytes += payload as u64;
    }
}

/// Reads records by number.
pub type Points<'a> = Box<dyn FnMut(u64) -> usize + 'a>;

/// A store that is open.
pub trait Store: Send + Sync {
    /// Appends records, so many a call, until there are no more or it is time to stop: how many were appended. Callers
    /// on several threads have a lane each.
    fn append(&self, lane: u64, records: Run<'_>, per_call: usize, stop: Stop) -> usize;

    /// Reads all in order. `None`: it cannot.
    fn scan(&self) -> Option<Seen>;

    /// What reads the record of a number and returns its size, with all at hand that one who reads many keeps open.
    /// `None`: it cannot.
    fn points(&self) -> Option<Points<'_>>;

    /// Puts what is there in the form in which it stays, if that is another than the one it was appended in.
    fn settle(&self) {}

    /// Sets and removes keys, so many a call, and compacts; under [`Mode::LatestSynced`] all is durable then.
    fn put_and_compact(&mut self, _records: Run<'_>, _per_call: usize) {
        unreachable!("only those are asked that keep the latest value of each key")
    }

    /// How many keys have a value.
    fn live_keys(&self) -> usize {
        unreachable!("only those are asked that keep the latest value of each key")
    }

    /// Leaves it as a program would that ends in good order.
    fn close(self: Box<Self>);
}

/// What is compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Engine {
    Stratalog,
    CommitLog,
    OkayWal,
    Walrus,
    Raft,
    Fjall,
    Redb,
    #[cfg(feature = "rocksdb")]
    RocksDb,
    /// No engine: one file behind a buffer of 1 MiB, a CRC-32C for each call.
    Bare,
}

use Engine::{Bare, CommitLog, Fjall, OkayWal, Raft, Redb, Stratalog, Walrus};

impl Engine {
    pub const ALL: &[Engine] = &[
        Stratalog,
        CommitLog,
        OkayWal,
        Walrus,
        Raft,
        Fjall,
        Redb,
        #[cfg(feature = "rocksdb")]
        Engine::RocksDb,
        Bare,
    ];

    /// The name of its package.
    pub fn name(self) -> &'static str {
        match self {
            Stratalog => "stratalog",
            CommitLog => "commitlog",
            OkayWal => "okaywal",
            Walrus => "walrus-rust",
            Raft => "raft-engine",
            Fjall => "fjall",
            Redb => "redb",
            #[cfg(feature = "rocksdb")]
            Engine::RocksDb => "rocksdb",
            Bare => "bare file",
        }
    }

    pub fn named(name: &str) -> Option<Engine> {
        Engine::ALL.iter().copied().find(|engine| engine.name() == name)
    }

    /// As it is locked.
    pub fn version(self) -> &'static str {
        if self == Bare {
            return "";
        }
        let lock = include_str!("../../Cargo.lock");
        let (_, rest) = lock.split_once(&format!("name = \"{}\"\nversion = \"", self.name())).expect("it is locked");
        rest.split('"').next().unwrap_or_default()
    }

    /// Whether what was acknowledged without a sync outlives a kill of the process.
    pub fn outlives_kill(self) -> bool {
        !matches!(self, OkayWal | Redb | Bare)
    }

    /// What it syncs when, in the buffered rows and in the synced ones.
    pub fn syncs(self) -> &'static str {
        match self {
            Stratalog => "buffered: when a segment is sealed; synced: fdatasync before the call returns, shared",
            CommitLog => "never",
            OkayWal => "buffered: fdatasync at each commit, here of 10,000 records; synced: each commit, shared",
            Walrus => "buffered: `NoFsync`, msync of full blocks; synced: `SyncEach`",
            Raft => "buffered: when a file is full; synced: `write(_, true)`, shared",
            Fjall => "buffered: `PersistMode::Buffer`, tables when flushed; synced: `PersistMode::SyncData`",
            Redb => "buffered: `Durability::None`; synced: `Durability::Immediate`",
            #[cfg(feature = "rocksdb")]
            Engine::RocksDb => "buffered: WAL in the page cache, tables when flushed; synced: `WriteOptions::set_sync`",
            Bare => "buffered: nothing; synced: fdatasync of a growing file",
        }
    }

    /// Whether it can sync each append, scan, read by number, and keep the latest value of each key.
    pub fn can_sync(self) -> bool {
        self != CommitLog
    }

    pub fn keeps_latest(self) -> bool {
        match self {
            Stratalog | Raft | Fjall | Redb => true,
            #[cfg(feature = "rocksdb")]
            Engine::RocksDb => true,
            _ => false,
        }
    }

    pub fn open(self, dir: &Path, mode: Mode) -> Box<dyn Store> {
        match self {
            Stratalog => Box::new(stratalog::Opened::open(dir, mode)),
            CommitLog => Box::new(commit_log::Opened::open(dir)),
            OkayWal => Box::new(okaywal::Opened::open(dir, mode)),
            Walrus => Box::new(walrus::Opened::open(dir, mode)),
            Raft => Box::new(raft_engine::Opened::open(dir, mode)),
            Fjall => Box::new(fjall::Opened::open(dir, mode)),
            Redb => Box::new(redb::Opened::open(dir, mode)),
            #[cfg(feature = "rocksdb")]
            Engine::RocksDb => Box::new(rocksdb::Opened::open(dir, mode)),
            Bare => Box::new(bare::Opened::open(dir, mode)),
        }
    }
}

/// Makes a call for so many records at a time, until there are no more or it is time to stop: how many it were.
fn in_calls(records: Run<'_>, per_call: usize, stop: Stop, mut call: impl FnMut(Run<'_>)) -> usize {
    let mut done = 0;
    for run in records.chunks(per_call) {
        if stop.is_due() {
            break;
        }
        call(run);
        done += run.len();
    }
    done
}
