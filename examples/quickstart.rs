//! Opens a log, appends, and reads everything: `cargo run --example quickstart -- DIR`. Run it twice on one directory, and
//! the second run finds the records of the first. Without a directory it runs twice on a temporary one.

use std::path::Path;

use stratalog::{Log, LogConfig, Record, Start, TopicConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if let Some(dir) = std::env::args().nth(1) {
        return run(Path::new(&dir));
    }
    let dir = tempfile::tempdir()?;
    run(dir.path())?;
    run(dir.path())
}

fn run(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let log = Log::open(dir, LogConfig::new())?;
    let visits = log.topic_or_create("visits", 1, TopicConfig::new())?;

    let (_, appended) = visits.append(Record::new("ada", "London"))?;
    println!("appended at offset {}", appended.base_offset);

    let partition = visits.partition(0).expect("the topic has one partition");
    for record in partition.reader(Start::Earliest)?.records() {
        let record = record?;
        let value = record.value.as_deref().map(String::from_utf8_lossy);
        println!("{}: {} {}", record.offset, record.timestamp, value.unwrap_or_default());
    }
    // Makes everything durable. Without it a killed process loses nothing, and a power cut at most a second.
    log.close()?;
    Ok(())
}
