//! A follower that copies a leader's batches, and cuts what the next leader does not have. `cargo run --example replica`

use stratalog::{FetchOptions, Log, LogConfig, Offset, Partition, Record, Result, Start, TopicConfig, WatermarkMode};

/// Copies whole batches, with their offsets and leader epochs, until the follower ends where the leader does.
fn follow(follower: &Partition, leader: &Partition) -> Result<()> {
    loop {
        let fetch = leader.fetch(follower.offsets().end, FetchOptions::default())?;
        if fetch.is_empty() {
            return Ok(());
        }
        for chunk in fetch.chunks() {
            follower.append_at(chunk)?;
        }
    }
}

/// Cuts the follower back to where it and the leader have the same: the end of the last epoch that both know.
fn cut_what_diverges(follower: &Partition, leader: &Partition, epoch: i32) -> Result<()> {
    if let Some((_, end)) = leader.end_offset_for_epoch(epoch) {
        follower.truncate(end.min(follower.offsets().end))?;
    }
    Ok(())
}

fn values(partition: &Partition) -> Result<Vec<String>> {
    let mut reader = partition.reader(Start::Earliest)?;
    let mut values = Vec::new();
    while let Some(record) = reader.next_record()? {
        values.push(String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned());
    }
    Ok(values)
}

fn main() -> Result<()> {
    let dirs = [tempfile::tempdir(), tempfile::tempdir()].map(|dir| dir.expect("there is room for a directory"));
    let [a, b] = [0, 1].map(|n| -> Result<(Log, Partition)> {
        let log = Log::open(dirs[n].path(), LogConfig::new())?;
        let topic = log.topic_or_create("t", 1, TopicConfig::new().watermark(WatermarkMode::Managed))?;
        Ok((log, topic.partition(0).expect("it has one")))
    });
    let ((log_a, a), (log_b, b)) = (a?, b?);

    // Epoch 1: A leads, B follows, and A has one record that nobody has yet when it fails.
    a.set_leader_epoch(1)?;
    a.append_records([Record::keyless("one"), Record::keyless("two")])?;
    follow(&b, &a)?;
    for replica in [&a, &b] {
        replica.set_high_watermark(Offset::new(2))?;
    }
    a.append_records([Record::keyless("only A has this")])?;

    // Epoch 2: B leads. A comes back, cuts what B does not have, and follows.
    b.set_leader_epoch(2)?;
    b.append_records([Record::keyless("three")])?;
    cut_what_diverges(&a, &b, 1)?;
    follow(&a, &b)?;

    assert_eq!(values(&a)?, ["one", "two", "three"]);
    assert_eq!(values(&a)?, values(&b)?);
    println!("both have {:?}", values(&a)?);
    log_a.close()?;
    log_b.close()
}
