//! Workloads: lists of operations, drawn from a seed, that any operation may be left out of.

use std::time::Duration;

use stratalog::sim::{Call, Calls, Failure, Injection};
use stratalog::storage::Sizes;
use stratalog::{Cleanup, Durability, TopicConfig, WatermarkMode};

/// What a workload is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Appends of all forms, flushed now and then; rolls, truncations, new starts.
    Buffered,
    /// Each append is synced.
    Synced,
    /// Transactions.
    Transactions,
    /// Retention by age, by size and by log start.
    Retained,
    /// Compaction with tombstones.
    Compacted,
    /// A managed high watermark and leader epochs, transactions too.
    Managed,
    /// Topics come, go and change.
    Catalog,
    /// Compaction and retention of transactions.
    CompactedTransactions,
}

pub const KINDS: [Kind; 8] = [
    Kind::Buffered,
    Kind::Synced,
    Kind::Transactions,
    Kind::Retained,
    Kind::Compacted,
    Kind::Managed,
    Kind::Catalog,
    Kind::CompactedTransactions,
];

/// One operation. Numbers are taken modulo what there is when it runs.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Op {
    Append {
        records: u8,
        size: u16,
    },
    /// Batches with offsets of their own, this far apart.
    AppendGap {
        gap: u8,
        size: u8,
    },
    /// Batches with offsets of their own, more than one segment takes.
    AppendMany {
        batches: u8,
        size: u8,
    },
    /// On condition of the end; wrong where `stale`.
    AppendIf {
        size: u8,
        stale: bool,
    },
    Tombstone {
        key: u8,
    },
    Transaction {
        producer: u8,
        size: u8,
    },
    EndTransaction {
        producer: u8,
        abort: bool,
    },
    Flush,
    Roll,
    Maintain,
    DeleteBefore {
        percent: u8,
    },
    Truncate {
        back: u8,
        lossy: bool,
    },
    Reset {
        ahead: u8,
    },
    Compact,
    Watermark {
        back: u8,
    },
    Epoch,
    Tick {
        seconds: u16,
    },
    Close,
    /// The process goes, and another one opens the log in the same boot.
    Kill,
    CreateTopic,
    DeleteTopic,
    AddPartition,
    Configure {
        mark: u8,
    },
    /// Another process tries to open the log.
    Intrude,
    /// The preallocating thread does a piece.
    Preallocate,
    /// Somebody fetches, and keeps what is fetched.
    Hold,
    /// The oldest of what somebody keeps is let go.
    LetGo,
    /// How appends and reads use mappings from now on.
    Mappings {
        append: bool,
        read: bool,
    },
    Fault(Injection),
    NoFault,
    Room(Option<u16>),
}

/// Small enough for every workload to come to windows, zeros, and spaces ordered ahead.
pub const SIZES: Sizes = Sizes {
    window_min: 256,
    window_max: 512,
    mapped_write_max: 300,
    zeroed_write_max: 2000,
    zeroed_piece: 256,
    ahead_write_max: 1000,
    windows_ahead: 2,
    writes_before_window: 1,
    map_growth_min: 256,
};

/// Draws numbers, the same for the same seed.
#[derive(Clone)]
pub struct Draw(pub u64);

impl Draw {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn byte(&mut self, bound: u64) -> u8 {
        self.below(bound) as u8
    }
}

impl Kind {
    pub fn of(seed: u64) -> Kind {
        KINDS[(seed % KINDS.len() as u64) as usize]
    }

    pub fn is_compacted(self) -> bool {
        matches!(self, Kind::Compacted | Kind::CompactedTransactions)
    }

    pub fn topic(self) -> TopicConfig {
        let config = TopicConfig::new().segment_bytes(1024).index_interval_bytes(128);
        let buffered = config.durability(Durability::Buffered { interval: Duration::from_secs(3600), bytes: 1 << 30 });
        match self {
            Kind::Buffered | Kind::Catalog => buffered,
            // Large enough for a checkpoint within a segment.
            Kind::Transactions => buffered.segment_bytes(4096),
            Kind::Synced => buffered.durability(Durability::Sync),
            Kind::Retained => {
                let limited = buffered.retention_bytes(Some(1400)).retention_age(Some(Duration::from_secs(20)));
                limited.segment_age(Duration::from_secs(100))
            }
            Kind::Compacted => compacted(buffered).cleanup(Cleanup::Compact),
            Kind::Managed => buffered.segment_bytes(4096).watermark(WatermarkMode::Managed),
            Kind::CompactedTransactions => {
                compacted(buffered).cleanup(Cleanup::CompactDelete).retention_bytes(Some(4000))
            }
        }
    }

    /// The operations of a workload.
    pub fn ops(self, seed: u64, count: usize, faulty: bool) -> Vec<Op> {
        let mut draw = Draw(seed ^ 0xC0FF_EE00);
        let mut ops: Vec<Op> = (0..count).map(|_| self.op(&mut draw)).collect();
        if faulty {
            let at = draw.below(count as u64 / 2) as usize;
            let (on, off) = fault(&mut draw);
            // What a failed sync left in the page cache only is opened in the same boot, acknowledged, and then the
            // power goes: what the fault meets is appended and synced, and a sync follows once it is over.
            let size = draw.byte(90).into();
            let met = [on, Op::Append { records: 2, size }, Op::Flush, Op::Append { records: 1, size }, Op::Flush];
            ops.splice(at..at, met);
            let last = (at + met.len() + draw.below(4) as usize).min(ops.len());
            ops.splice(last..last, [off, Op::Kill, Op::Flush]);
        }
        ops
    }

    /// One operation of every form that matters to this kind.
    pub fn all(self) -> Vec<Op> {
        let common = [
            Op::Append { records: 1, size: 20 },
            Op::Append { records: 3, size: 250 },
            Op::Flush,
            Op::Roll,
            Op::Maintain,
            Op::Preallocate,
            Op::Close,
            Op::Kill,
        ];
        let transactions = [
            Op::Transaction { producer: 0, size: 30 },
            Op::EndTransaction { producer: 0, abort: false },
            Op::EndTransaction { producer: 0, abort: true },
        ];
        let cut = Op::Truncate { back: 2, lossy: false };
        let mut all = common.to_vec();
        match self {
            Kind::Buffered | Kind::Synced => all.extend([
                Op::AppendGap { gap: 3, size: 40 },
                Op::AppendMany { batches: 13, size: 120 },
                Op::AppendIf { size: 30, stale: true },
                Op::DeleteBefore { percent: 100 },
                Op::Reset { ahead: 50 },
                cut,
            ]),
            Kind::Transactions => {
                all.extend(transactions.into_iter().chain([Op::AppendMany { batches: 25, size: 200 }, cut]));
            }
            Kind::Retained => all.extend([
                Op::DeleteBefore { percent: 50 },
                Op::DeleteBefore { percent: 100 },
                Op::Tick { seconds: 30 },
                Op::Tick { seconds: 110 },
                cut,
            ]),
            Kind::Compacted => all.extend([
                Op::Tombstone { key: 1 },
                Op::Compact,
                Op::Tick { seconds: 70 },
                Op::Truncate { back: 2, lossy: true },
            ]),
            Kind::Managed => all.extend([
                Op::Watermark { back: 0 },
                Op::Watermark { back: 2 },
                Op::Epoch,
                Op::Transaction { producer: 0, size: 30 },
                Op::EndTransaction { producer: 0, abort: false },
                cut,
            ]),
            Kind::Catalog => {
                all.extend([
                    Op::CreateTopic,
                    Op::DeleteTopic,
                    Op::AddPartition,
                    Op::Configure { mark: 7 },
                    Op::Intrude,
                ]);
            }
            Kind::CompactedTransactions => {
                let more = [Op::Compact, Op::Tick { seconds: 70 }, Op::DeleteBefore { percent: 100 }];
                all.extend(transactions.into_iter().chain(more));
            }
        }
        all
    }

    fn op(self, draw: &mut Draw) -> Op {
        // Now and then longer than a segment, and than a lookup reads at first.
        let size = if draw.below(20) == 0 { 5000 } else { draw.byte(120).into() };
        let common = [
            Op::Append { records: 1 + draw.byte(3), size },
            Op::Append { records: 1, size: draw.byte(60).into() },
            Op::Append { records: 1, size: 20 },
            Op::Flush,
            Op::Roll,
            Op::Maintain,
            Op::Preallocate,
            Op::Preallocate,
            match draw.below(4) {
                0 => Op::LetGo,
                1 => Op::Mappings { append: draw.below(3) > 0, read: draw.below(3) > 0 },
                _ => Op::Hold,
            },
        ];
        let own = self.own(draw);
        if draw.below(11) < 6 { common[draw.below(9) as usize] } else { own[draw.below(6) as usize] }
    }

    /// Operations of this kind alone.
    fn own(self, draw: &mut Draw) -> [Op; 6] {
        match self {
            Kind::Buffered | Kind::Synced => [
                given(draw),
                Op::AppendIf { size: draw.byte(80), stale: draw.below(4) == 0 },
                Op::Truncate { back: draw.byte(12), lossy: false },
                if draw.below(3) == 0 {
                    Op::Reset { ahead: draw.byte(200) }
                } else {
                    Op::Append { records: 1, size: 99 }
                },
                if draw.below(2) == 0 { Op::Close } else { Op::Kill },
                Op::DeleteBefore { percent: part(draw) },
            ],
            Kind::Transactions => [
                Op::Transaction { producer: draw.byte(3), size: draw.byte(90) },
                part_or_many(draw),
                Op::EndTransaction { producer: draw.byte(3), abort: draw.below(2) == 0 },
                Op::EndTransaction { producer: draw.byte(3), abort: draw.below(2) == 0 },
                Op::Truncate { back: draw.byte(12), lossy: draw.below(2) == 0 },
                if draw.below(2) == 0 { Op::Close } else { Op::Kill },
            ],
            Kind::Retained => [
                Op::Append { records: 2, size: 100 },
                Op::Append { records: 2, size: 90 },
                Op::DeleteBefore { percent: part(draw) },
                Op::Maintain,
                Op::Tick { seconds: draw.below(120) as u16 },
                match draw.below(3) {
                    0 => Op::Close,
                    1 => Op::Truncate { back: draw.byte(9), lossy: false },
                    _ => Op::Kill,
                },
            ],
            Kind::Compacted => [
                Op::Tombstone { key: draw.byte(5) },
                Op::Compact,
                Op::Compact,
                Op::Tick { seconds: draw.below(90) as u16 },
                Op::Append { records: 3, size: draw.byte(100).into() },
                match draw.below(3) {
                    0 => Op::Close,
                    1 => Op::Truncate { back: draw.byte(6), lossy: draw.below(2) == 0 },
                    _ => Op::Kill,
                },
            ],
            Kind::Managed => [
                Op::Watermark { back: draw.byte(6) },
                Op::Epoch,
                Op::Transaction { producer: draw.byte(2), size: draw.byte(60) },
                Op::EndTransaction { producer: draw.byte(2), abort: draw.below(2) == 0 },
                Op::Truncate { back: draw.byte(9), lossy: false },
                if draw.below(2) == 0 { Op::Close } else { Op::Kill },
            ],
            Kind::Catalog => [
                Op::CreateTopic,
                Op::DeleteTopic,
                Op::AddPartition,
                Op::Configure { mark: draw.byte(200) },
                if draw.below(2) == 0 { Op::Close } else { Op::Kill },
                Op::Intrude,
            ],
            Kind::CompactedTransactions => [
                Op::Transaction { producer: draw.byte(2), size: draw.byte(80) },
                Op::EndTransaction { producer: draw.byte(2), abort: draw.below(2) == 0 },
                Op::Compact,
                Op::Compact,
                Op::Tick { seconds: draw.below(90) as u16 },
                if draw.below(2) == 0 { Op::DeleteBefore { percent: part(draw) } } else { Op::Kill },
            ],
        }
    }
}

/// Batches with given offsets: two with gaps, or many.
fn given(draw: &mut Draw) -> Op {
    if draw.below(2) == 0 {
        Op::AppendGap { gap: draw.byte(9), size: draw.byte(90) }
    } else {
        Op::AppendMany { batches: 1 + draw.byte(15), size: draw.byte(250) }
    }
}

/// A part of a transaction, or many of them at once.
fn part_or_many(draw: &mut Draw) -> Op {
    if draw.below(2) == 0 {
        Op::Transaction { producer: draw.byte(3), size: draw.byte(90) }
    } else {
        Op::AppendMany { batches: 1 + draw.byte(30), size: draw.byte(250) }
    }
}

/// How much to delete: often all.
fn part(draw: &mut Draw) -> u8 {
    if draw.below(3) == 0 { 100 } else { draw.byte(100) }
}

fn compacted(config: TopicConfig) -> TopicConfig {
    config.min_cleanable_dirty_ratio(0.0).delete_retention(Duration::from_secs(60))
}

fn fault(draw: &mut Draw) -> (Op, Op) {
    if draw.below(4) == 0 {
        return (Op::Room(Some(draw.below(6000) as u16)), Op::Room(None));
    }
    let calls = [
        Call::Sync,
        Call::Sync,
        Call::Sync,
        Call::Sync,
        Call::Write,
        Call::SyncDir,
        Call::SyncDir,
        Call::Rename,
        Call::Create,
        Call::SetLen,
        Call::Map,
        Call::Reserve,
    ];
    let injection = Injection {
        calls: Calls::Only(calls[draw.below(calls.len() as u64) as usize]),
        after: draw.below(6),
        failure: Failure::ALL[draw.below(5) as usize],
        forever: draw.below(3) == 0,
        seed: draw.below(3),
    };
    (Op::Fault(injection), Op::NoFault)
}
