//! Tests a program against power cuts and failing disks: `cargo run --features sim --example fault_injection`

use std::sync::Arc;

use stratalog::sim::{Crash, Order, SimStorage};
use stratalog::{ErrorKind, Log, LogConfig, Record, Result, TopicConfig};

fn open(storage: &SimStorage) -> Result<Log> {
    // The simulation has no real time: the owner syncs.
    Log::open("/log", LogConfig::new().storage(Arc::new(storage.clone())).sync_threads(0).maintenance_interval(None))
}

fn main() -> Result<()> {
    let storage = SimStorage::new();
    let log = open(&storage)?;
    let orders = log.topic_or_create("orders", 1, TopicConfig::new())?.partition(0).expect("it has one");
    orders.append_records([Record::keyless("durable")])?;
    let durable = orders.flush()?;
    orders.append_records([Record::keyless("in the page cache")])?;

    // The same disk, as each of a thousand power cuts at this moment may leave it.
    let mut ends = [0; 2];
    for seed in 0..1000 {
        let left = storage.crash(&Crash { order: Order::Strict, seed });
        let log = open(&left)?;
        let end = log.partition("orders", 0).expect("the topic is durable").offsets().end;
        assert!(end >= durable, "what was flushed is there");
        ends[usize::from(end > durable)] += 1;
    }
    println!("of 1000 power cuts {} left the second record, {} did not", ends[1], ends[0]);

    // A killed process loses nothing: the page cache outlives it.
    let killed = open(&storage.kill())?;
    assert_eq!(killed.partition("orders", 0).expect("it is there").offsets().end, orders.offsets().end);

    // A full disk refuses the append, and leaves no trace of it.
    storage.set_free_space(Some(0));
    let large = vec![0; 1 << 19];
    let refused = orders.append_records([Record::keyless(&large)]).unwrap_err();
    assert_eq!(*refused.kind(), ErrorKind::DiskFull);
    storage.set_free_space(None);
    orders.append_records([Record::keyless(&large)])?;
    println!("refused: {refused}");
    log.close()
}
