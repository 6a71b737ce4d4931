//! A log without threads: the owner says when to sync, to roll, to retain and to compact. `cargo run --example own_scheduler`

use std::sync::Arc;
use std::time::Duration;

use stratalog::{Budget, Cleanup, Log, LogConfig, ManualClock, Record, Result, Timestamp, TopicConfig};

fn main() -> Result<()> {
    let dir = tempfile::tempdir().expect("there is room for a directory");
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
    let config = LogConfig::new().sync_threads(0).maintenance_interval(None).clock(clock.clone());
    let log = Log::open(dir.path(), config)?;
    let topic = TopicConfig::new().cleanup(Cleanup::Compact).segment_age(Duration::from_secs(60));
    let prices = log.topic_or_create("prices", 1, topic)?.partition(0).expect("it has one");

    for minute in 0..10 {
        for _ in 0..1000 {
            prices.append_records([Record::new("EURUSD", &format!("1.{minute}"))])?;
        }
        clock.advance(Duration::from_secs(61));
        // Nothing runs but in here, and it stops soon after its time is up.
        let budget = Budget { time: Some(Duration::from_millis(5)) };
        let report = log.maintain(clock_now(&clock), budget)?;
        let rolled = report.passes.iter().filter(|(_, _, pass)| pass.rolled).count();
        println!("minute {minute}: {rolled} rolled, unfinished: {}", report.unfinished);
    }
    while log.maintain(clock_now(&clock), Budget::default())?.unfinished {}
    let stats = prices.stats();
    println!("{} segments, {} bytes", stats.segments, stats.bytes);
    assert!(prices.offsets().durable == prices.offsets().end, "maintenance synced what it sealed");
    log.close()
}

fn clock_now(clock: &ManualClock) -> Timestamp {
    stratalog::Clock::now(clock)
}
