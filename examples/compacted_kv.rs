//! A table that lives in a compacted topic: the latest record of each key is its value, a tombstone deletes it.
//! `cargo run --example compacted_kv`

use std::collections::BTreeMap;
use std::path::Path;

use stratalog::{Cleanup, CompactMode, Log, LogConfig, Partition, Record, Result, Start, Timestamp, TopicConfig};

/// A table in memory, and the log that it is rebuilt from.
struct Table {
    log: Log,
    partition: Partition,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Table {
    fn open(dir: &Path) -> Result<Table> {
        let log = Log::open(dir, LogConfig::new())?;
        let config = TopicConfig::new().cleanup(Cleanup::Compact).segment_bytes(16 << 10);
        let partition = log.topic_or_create("table", 1, config)?.partition(0).expect("it has one");
        let mut rows = BTreeMap::new();
        let mut reader = partition.reader(Start::Earliest)?;
        while let Some(record) = reader.next_record()? {
            let key = record.key.expect("a compacted topic has keys").to_vec();
            match record.value {
                Some(value) => rows.insert(key, value.to_vec()),
                None => rows.remove(&key),
            };
        }
        Ok(Table { log, partition, rows })
    }

    fn put(&mut self, key: &str, value: &str) -> Result<()> {
        self.partition.append_records([Record::new(key, value)])?;
        self.rows.insert(key.into(), value.into());
        Ok(())
    }

    fn delete(&mut self, key: &str) -> Result<()> {
        self.partition.append_records([Record::tombstone(key)])?;
        self.rows.remove(key.as_bytes());
        Ok(())
    }
}

fn main() -> Result<()> {
    let dir = tempfile::tempdir().expect("there is room for a directory");
    let mut table = Table::open(dir.path())?;
    for n in 0..5000 {
        table.put(&format!("key-{}", n % 50), &format!("value-{n}"))?;
    }
    table.delete("key-7")?;
    let before = table.rows.clone();

    // The threads of the log compact as well; here it is asked for, of all segments but the one that is appended to.
    table.partition.roll()?;
    table.partition.flush()?;
    let report = table.partition.compact(Timestamp::now(), CompactMode::Full)?;
    println!("{} bytes freed, {} segments written", report.bytes_freed, report.segments_written);
    table.log.close()?;

    let table = Table::open(dir.path())?;
    assert_eq!(table.rows, before);
    println!("{} rows after the table was opened again", table.rows.len());
    table.log.close()
}
