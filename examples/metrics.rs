//! The counters of a log as Prometheus reads them: `cargo run --example metrics`

use std::fmt::Write;

use stratalog::{Log, LogConfig, Result, TopicConfig};

/// The text that a program serves at `/metrics`.
fn metrics(log: &Log) -> String {
    let mut text = String::new();
    let stats = log.stats();
    let mut whole = |name: &str, value: u64| writeln!(text, "stratalog_{name} {value}").expect("a string takes it");
    whole("partitions", stats.partitions as u64);
    whole("failed_partitions", stats.failed_partitions as u64);
    whole("open_files", stats.open_files as u64);
    whole("mapped_bytes", stats.mapped_bytes);
    whole("unsynced_bytes", stats.unsynced_bytes);
    whole("backpressure_waits_total", stats.backpressure_waits);
    for partition in log.topics().iter().flat_map(|topic| topic.partitions()) {
        let labels = format!("{{topic=\"{}\",partition=\"{}\"}}", partition.topic(), partition.id());
        let (stats, offsets) = (partition.stats(), partition.offsets());
        let values = [
            ("log_start_offset", offsets.start.get()),
            ("log_end_offset", offsets.end.get()),
            ("durable_offset", offsets.durable.get()),
            ("segments", stats.segments as u64),
            ("bytes", stats.bytes),
            ("dead_bytes", stats.compaction.dead_bytes),
            ("dirty_bytes", stats.compaction.dirty_bytes),
        ];
        for (name, value) in values {
            writeln!(text, "stratalog_partition_{name}{labels} {value}").expect("a string takes it");
        }
    }
    text
}

fn main() -> Result<()> {
    let dir = tempfile::tempdir().expect("there is room for a directory");
    let log = Log::open(dir.path(), LogConfig::new())?;
    let topic = log.topic_or_create("events", 2, TopicConfig::new())?;
    for n in 0..1000 {
        topic.append((n.to_string().as_str(), "value"))?;
    }
    let text = metrics(&log);
    assert!(text.contains("stratalog_partition_log_end_offset{topic=\"events\",partition=\"1\"}"));
    print!("{text}");
    log.close()
}
