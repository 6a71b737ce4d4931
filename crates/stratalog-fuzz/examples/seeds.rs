//! Writes `fuzz/seeds` anew: what the fuzz targets begin with, taken from the logs and batches in `tests/data` and from
//! a small log of our own. `cargo run -p stratalog-fuzz --example seeds`

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use stratalog::format::Batches;
use stratalog::format::digest::DigestFooter;
use stratalog::sim::SimStorage;
use stratalog::{
    Cleanup, Codec, CompactMode, Log, LogConfig, ManualClock, Record, RecordBatch, Timestamp, TopicConfig,
};
use stratalog_fuzz::{directory_seeds, operation_seeds};

/// Longer pieces teach a fuzzer nothing more.
const SEED_MAX: usize = 4096;
const BATCH_HEADER: usize = 61;

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut seeds = Seeds { root: root.join("fuzz/seeds"), known: BTreeSet::new() };
    for dir in ["tests/data/client-batches", "tests/data/kafka-golden", "tests/data/kafka-crash"] {
        files(&root.join(dir), &mut |path, bytes| seeds.of_file(path, bytes));
    }
    for (path, bytes) in own_files() {
        seeds.of_file(&path, &bytes);
    }
    directory_seeds().iter().for_each(|seed| seeds.put("hostile_directory", seed));
    operation_seeds().iter().for_each(|seed| seeds.put("operations", seed));
    println!("{} seeds in {}", seeds.known.len(), seeds.root.display());
}

struct Seeds {
    root: PathBuf,
    known: BTreeSet<(String, u32)>,
}

impl Seeds {
    fn of_file(&mut self, path: &Path, bytes: &[u8]) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // A swap or a deleted file holds what the file held.
        let kind = name.trim_end_matches(".swap").trim_end_matches(".deleted").rsplit('.').next().unwrap_or_default();
        match kind {
            "batch" | "log" => self.of_batches(bytes),
            "index" | "timeindex" | "txnindex" => self.put("indexes", &bytes[..bytes.len().min(240)]),
            "digest" => self.of_digest(bytes),
            "jsonl" | "kafka_cleanshutdown" | "tmp" | "lock" => {}
            "state" => bytes.chunks(bytes.len() / 2).for_each(|slot| {
                let used = slot.get(6..10).map_or(0, |len| u32::from_be_bytes(len.try_into().expect("four")) as usize);
                self.put("state", &slot[..used]);
            }),
            _ => self.put("small_files", bytes),
        }
    }

    /// Of each log the first batches, and what is in them.
    fn of_batches(&mut self, bytes: &[u8]) {
        for batch in
            Batches::new(bytes).map_while(Result::ok).filter(|batch| batch.as_bytes().len() <= SEED_MAX).take(3)
        {
            ["batch", "records", "filter"].iter().for_each(|target| self.put(target, batch.as_bytes()));
            self.put("compression", &batch.as_bytes()[BATCH_HEADER..]);
        }
        self.put("batch", &bytes[..bytes.len().min(SEED_MAX)]);
    }

    /// Its footer and its annex.
    fn of_digest(&mut self, bytes: &[u8]) {
        let Some((rest, footer)) = bytes.split_last_chunk() else { return };
        let Ok(decoded) = DigestFooter::decode(footer) else { return };
        self.put("digest", &[&footer[..], &rest[decoded.annex_position() as usize..]].concat());
    }

    /// Named by what is in it, as fuzzers do.
    fn put(&mut self, target: &str, bytes: &[u8]) {
        let hash = crc32fast::hash(bytes);
        if bytes.len() <= SEED_MAX && !bytes.is_empty() && self.known.insert((target.to_owned(), hash)) {
            let dir = self.root.join(target);
            fs::create_dir_all(&dir).expect("a directory can be made");
            fs::write(dir.join(format!("{hash:08x}")), bytes).expect("a file can be written");
        }
    }
}

fn files(dir: &Path, found: &mut impl FnMut(&Path, &[u8])) {
    let mut paths: Vec<_> = fs::read_dir(dir).expect("it is there").map(|entry| entry.expect("it is").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            files(&path, found);
        } else {
            found(&path, &fs::read(&path).expect("it can be read"));
        }
    }
}

/// The files of a small compacted log with batches in all codecs, always the same.
fn own_files() -> Vec<(PathBuf, Vec<u8>)> {
    let storage = SimStorage::new();
    storage.seed_random(1);
    let now = Timestamp::from_millis(1_700_000_000_000);
    let config = LogConfig::new().storage(Arc::new(storage.clone())).clock(Arc::new(ManualClock::new(now)));
    let config = config.min_free_bytes(0).maintenance_interval(None).sync_threads(0).open_threads(Some(1));
    let log = Log::open("/log", config).expect("an empty directory opens");
    let topic = TopicConfig::new().segment_bytes(1024).cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.0);
    log.create_topic("t", 1, topic.delete_retention(Duration::from_secs(60))).expect("it is not there yet");
    let partition = log.partition("t", 0).expect("it was just made");
    partition.set_leader_epoch(3).expect("there was none");
    for (n, codec) in
        [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd].iter().cycle().take(40).enumerate()
    {
        let mut batch = RecordBatch::builder().codec(*codec);
        for record in 0..3 {
            let (key, value) = (format!("key-{}", (n + record) % 9), format!("value-{n}-").repeat(6));
            let whole = if n % 7 == 6 { Record::tombstone(&key) } else { Record::new(&key, &value) };
            batch.push(&whole, now).expect("it is small");
        }
        partition.append(&batch.build().expect("it has records")).expect("there is room");
    }
    partition.compact(now, CompactMode::Full).expect("nothing is in its way");
    log.close().expect("nothing is in its way");
    let contents = |(path, _): (PathBuf, u64)| storage.contents(&path).ok().map(|bytes| (path, bytes));
    storage.files().into_iter().filter_map(contents).collect()
}
