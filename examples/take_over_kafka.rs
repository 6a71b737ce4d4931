//! Takes over a log directory that Kafka wrote, appends, and hands it back: `cargo run --example take_over_kafka -- DIR`.
//! The broker must be stopped. Without a directory a copy of one that a broker wrote is used.

use std::fs;
use std::path::Path;

use stratalog::{Log, LogConfig, Record, Start};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if let Some(dir) = std::env::args().nth(1) {
        return take_over(Path::new(&dir));
    }
    let dir = tempfile::tempdir()?;
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/kafka-golden/headers");
    copy(&golden, dir.path())?;
    take_over(dir.path())
}

fn take_over(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let log = Log::open(dir, LogConfig::new())?;
    let report = log.recovery_report();
    println!("taken over: {}, {} partitions", report.taken_over, report.partitions.len());
    for partition in log.topics().iter().flat_map(|topic| topic.partitions()) {
        let mut records = 0;
        let mut reader = partition.reader(Start::Earliest)?;
        while reader.next_record()?.is_some() {
            records += 1;
        }
        let appended = partition.append_records([Record::new("from", "stratalog")])?;
        println!("{}-{}: {records} records, one more at {}", partition.topic(), partition.id(), appended.base_offset);
    }
    // Writes the checkpoint files that Kafka looks for: a broker can open the directory from here on.
    log.close()?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()))?;
        } else {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
