//! Copies a log while it is written, by reading it: `cargo run --example backup`. A second run copies only what is new.

use std::path::Path;
use std::thread;

use stratalog::{FetchOptions, Isolation, Log, LogConfig, Record, Result, TopicConfig};

/// Copies every partition, up to what is durable, with its offsets. Returns how many bytes were copied.
fn backup(log: &Log, to: &Path) -> Result<usize> {
    let copy = Log::open(to, LogConfig::new())?;
    let options = FetchOptions { isolation: Isolation::Durable, check_crc: true, ..FetchOptions::default() };
    let mut bytes = 0;
    for topic in log.topics() {
        let config = topic.config()?;
        for from in topic.partitions() {
            let into = match copy.partition(topic.name(), from.id()) {
                Some(partition) => partition,
                None => copy.create_partition(topic.name(), from.id(), config.clone())?,
            };
            // The log has deleted everything that the copy holds: the copy starts where the log starts.
            if into.offsets().end < from.offsets().start {
                into.reset_to(from.offsets().start)?;
            }
            loop {
                let fetch = from.fetch(into.offsets().end, options)?;
                if fetch.is_empty() {
                    break;
                }
                for chunk in fetch.chunks() {
                    into.append_at(chunk)?;
                    bytes += chunk.len();
                }
            }
        }
    }
    // Keys are routed by the declared number of partitions.
    for (topic, count) in log.topics().iter().filter_map(|topic| Some((topic, topic.partition_count()?))) {
        copy.topic(topic.name()).map_or(Ok(()), |copied| copied.declare_partitions(count))?;
    }
    copy.close()?;
    Ok(bytes)
}

fn main() -> Result<()> {
    let dirs = [tempfile::tempdir(), tempfile::tempdir()].map(|dir| dir.expect("there is room for a directory"));
    let log = Log::open(dirs[0].path(), LogConfig::new())?;
    let topic = log.topic_or_create("events", 2, TopicConfig::new())?;
    let writer = thread::spawn({
        let topic = topic.clone();
        move || (0..20_000).try_for_each(|n: u32| topic.append((n.to_string().as_str(), "value")).map(drop))
    });
    println!("{} bytes while it is written", backup(&log, dirs[1].path())?);
    writer.join().expect("the writer ends")?;
    topic.append(Record::new("last", "value"))?;
    topic.partitions().iter().try_for_each(|partition| partition.flush().map(drop))?;
    println!("{} bytes more", backup(&log, dirs[1].path())?);

    let copy = Log::open_read_only(dirs[1].path())?;
    for partition in topic.partitions() {
        let copied = copy.partition("events", partition.id()).expect("it was copied");
        assert_eq!(copied.offsets().end, partition.offsets().end);
        assert!(copied.verify()?.findings.is_empty());
    }
    println!("the copy is whole");
    log.close()
}
