//! Rows that need nobody beside.

use std::sync::Arc;

use stratalog::{Durability, Partition, RecordBatch};

use super::{Budget, batches, number, open, share, topic};
use crate::counting::{Counting, Kind};
use crate::data::{KEYS, Records, Stop};
use crate::engines::Engine;

/// Each append synced before it is acknowledged; syncs are counted where they go to the file system.
pub fn durable(budget: &mut Budget<'_>) {
    let records = Records::generate(20_000, KEYS, 100);
    let ready = batches(&records, 1);
    let mut alone = f64::NAN;
    for threads in [1, 8] {
        let storage = Counting::new();
        let synced = topic().durability(Durability::Sync);
        let (log, partition) = open(&budget.fresh(), synced, Some(Arc::clone(&storage) as _));
        for batch in &ready[..100] {
            partition.append(batch).expect("there is room");
        }
        storage.reset();
        let (done, took) = append_for(&partition, &ready, threads, budget);
        let totals = storage.totals();
        let syncs = totals[&Kind::Log].syncs as f64 / done;
        let others: u64 = totals.iter().filter(|(kind, _)| **kind != Kind::Log).map(|(_, amount)| amount.syncs).sum();
        drop(partition);
        log.close().expect("it is sound");
        let rate = done / took;
        let limit = share(rate, budget.limits.sync, "4 KiB and fdatasync, one thread");
        let beside = budget.against(rate, &format!("synced-{threads}/rate"), Engine::OkayWal);
        let (times, words) = beside.unwrap_or((f64::NAN, "okaywal did not take part".to_owned()));
        let ahead = times.is_nan() || times > 1.0;
        let counted =
            format!("{} rec/s, {syncs:.2} syncs of the log each and {others} of others, {words}", number(rate));
        if threads == 1 {
            alone = rate;
            let goal = "one fdatasync of a zero-filled file each, ahead of okaywal";
            let is_met = (0.99..1.01).contains(&syncs) && ahead;
            budget.push("durable", "durable append, 1 thread", goal, counted, Some(is_met), limit);
        } else {
            let measured = format!("{counted}; {:.1}x of one thread", rate / alone);
            let goal = ">= 3x of one thread, ahead of okaywal";
            let is_met = rate >= 3.0 * alone && ahead;
            budget.push("durable", "durable append, 8 threads", goal, measured, Some(is_met), limit);
        }
    }
}

fn append_for(partition: &Partition, ready: &[RecordBatch], threads: usize, budget: &Budget<'_>) -> (f64, f64) {
    let time = std::time::Duration::from_millis(if budget.scale == super::Scale::Quick { 300 } else { 2000 });
    let began = std::time::Instant::now();
    let stop = Stop::after(time);
    let append = || {
        let mut done = 0;
        for batch in ready.iter().cycle() {
            if stop.is_due() {
                break;
            }
            partition.append(batch).expect("there is room");
            done += 1;
        }
        done
    };
    let done: u32 = std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(append)).collect();
        all.into_iter().map(|thread| thread.join().expect("it ran")).sum()
    });
    (f64::from(done), began.elapsed().as_secs_f64())
}
