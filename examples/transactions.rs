//! Transactions: readers of committed records see all of one or nothing. `cargo run --example transactions`

use stratalog::format::{Marker, end_marker};
use stratalog::{
    FetchOptions, Isolation, Log, LogConfig, Partition, Record, RecordBatch, Result, Start, Timestamp, TopicConfig,
};

/// One producer; its sequence numbers make a batch that is sent twice count once.
struct Producer {
    id: i64,
    epoch: i16,
    sequence: i32,
}

impl Producer {
    fn append(&mut self, partition: &Partition, values: &[&str]) -> Result<()> {
        let mut batch = RecordBatch::builder().producer(self.id, self.epoch, self.sequence).transactional(true);
        for value in values {
            batch.push(&Record::keyless(value), Timestamp::now())?;
        }
        partition.append(&batch.build()?)?;
        self.sequence += values.len() as i32;
        Ok(())
    }

    fn end(&self, partition: &Partition, marker: Marker) -> Result<()> {
        partition.append(&end_marker(marker, self.id, self.epoch, 0, Timestamp::now())?)?;
        Ok(())
    }
}

fn committed(partition: &Partition) -> Result<Vec<String>> {
    let options = FetchOptions { isolation: Isolation::Committed, ..FetchOptions::default() };
    let mut values = Vec::new();
    for record in partition.reader_with(Start::Earliest, options)?.records() {
        values.push(String::from_utf8_lossy(&record?.value.unwrap_or_default()).into_owned());
    }
    Ok(values)
}

fn main() -> Result<()> {
    let dir = tempfile::tempdir().expect("there is room for a directory");
    let log = Log::open(dir.path(), LogConfig::new())?;
    let payments = log.topic_or_create("payments", 1, TopicConfig::new())?.partition(0).expect("it has one");
    let mut producer = Producer { id: 1, epoch: 0, sequence: 0 };

    producer.append(&payments, &["debit ada 5", "credit bob 5"])?;
    assert!(committed(&payments)?.is_empty(), "the transaction is open");
    producer.end(&payments, Marker::Commit)?;
    assert_eq!(committed(&payments)?, ["debit ada 5", "credit bob 5"]);

    producer.append(&payments, &["debit ada 900"])?;
    producer.end(&payments, Marker::Abort)?;
    assert_eq!(committed(&payments)?.len(), 2, "what was aborted is left out");
    println!("committed: {:?}", committed(&payments)?);
    println!("last stable offset {}, log end {}", payments.offsets().last_stable, payments.offsets().end);
    log.close()
}
