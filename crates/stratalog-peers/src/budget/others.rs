//! Rows beside the other crates: their figures are those of the comparison in this run.

use stratalog::Offset;

use super::{Budget, batches, kafka, number, open, seconds, share, topic};
use crate::data::{KEYS, Random, Records};
use crate::engines::Engine;

fn ours(budget: &Budget<'_>, figure: &str) -> Option<f64> {
    budget.outcome.median(figure, Engine::Stratalog)
}

pub fn append_batches(budget: &mut Budget<'_>) {
    let figure = "append-100-100B/rate";
    let Some(ours) = ours(budget, figure) else { return };
    let written = share(ours * (12.0 + 95.0), budget.outcome.limits().write, "64 KiB writes");
    for (engine, goal) in [(Engine::CommitLog, 2.5), (Engine::Bare, 0.6)] {
        let Some((times, words)) = budget.against(ours, figure, engine) else { continue };
        let work = format!("append in batches of 100 x 100 B, built by us, beside {}", engine.name());
        let measured = format!("{} rec/s = {words}", number(ours));
        budget.push("append-batch", work, format!(">= {goal}x"), measured, Some(times >= goal), written.clone());
    }
}

pub fn latest(budget: &mut Budget<'_>) {
    let updates = number(budget.scale.latest() as f64);
    for (figure, how, goal) in
        [("latest/rate", "nothing synced", 20.0), ("latest-synced/rate", "synced on both sides", 10.0)]
    {
        let Some(ours) = ours(budget, figure) else { continue };
        let others = Engine::ALL.iter().filter(|engine| **engine != Engine::Stratalog);
        let compared = others.filter_map(|engine| budget.against(ours, figure, *engine));
        let Some((times, words)) = compared.min_by(|a, b| a.0.total_cmp(&b.0)) else { continue };
        let work = format!("latest value per key, {updates} updates of a tenth as many keys, write and compact, {how}");
        let measured = format!("{} updates/s = {words}", number(ours));
        let limit = share(ours * (12.0 + 95.0), budget.outcome.limits().write, "64 KiB writes");
        budget.push("latest", work, format!(">= {goal}x the fastest store"), measured, Some(times >= goal), limit);
    }
}

/// A reader that goes to a record decodes its batch up to it, and checks the whole batch.
pub fn points(budget: &mut Budget<'_>) {
    let records = Records::generate(budget.count(100), KEYS, 100);
    for (per_batch, figure) in [(1, "append-1-100B/point_settled"), (100, "append-100-100B/point_settled")] {
        let (log, partition) = open(&budget.fresh(), topic(), None);
        for batch in batches(&records, per_batch) {
            partition.append(&batch).expect("there is room");
        }
        partition.roll().expect("it can be sealed");
        let mut random = Random::new(7);
        let mut reader = partition.reader(Offset::ZERO).expect("it is open");
        let mut read = |calls: u64| {
            for _ in 0..calls {
                let offset = Offset::new(random.next() % records.len() as u64);
                reader.seek(offset);
                let record = reader.next_record().expect("it is sound").expect("it is there");
                assert_eq!(record.offset, offset);
            }
        };
        const CALLS: u64 = 200_000;
        read(CALLS);
        let rate = CALLS as f64 / budget.median(|| seconds(|| read(CALLS)));
        let others = Engine::ALL.iter().filter(|engine| **engine != Engine::Stratalog);
        let best = others.filter_map(|engine| budget.against(rate, figure, *engine)).min_by(|a, b| a.0.total_cmp(&b.0));
        let (times, words) = best.unwrap_or((f64::NAN, "not compared".to_owned()));
        let micros = 1e6 / rate;
        let measured = format!("{micros:.2} us, {words}");
        let is_met = micros <= 1.0 && (times.is_nan() || times > 1.0);
        let work = format!("read by offset at random, {} records of 100 B in batches of {per_batch}", records.len());
        let limit = share(rate, budget.limits.random, "copying 136 B at random");
        budget.push("point", work, "<= 1 us, ahead of each crate", measured, Some(is_met), limit);
        drop((reader, partition));
        log.close().expect("it is sound");
    }
}

pub fn read_all(budget: &mut Budget<'_>) {
    let records = Records::generate(budget.count(100), KEYS, 100);
    let (log, partition) = open(&budget.fresh(), topic(), None);
    for batch in batches(&records, 100) {
        partition.append(&batch).expect("there is room");
    }
    for is_sealed in [false, true] {
        if is_sealed {
            partition.roll().expect("it can be sealed");
        }
        let took = budget.median(|| seconds(|| assert_eq!(kafka::read_records(&partition), records.len())));
        let rate = records.len() as f64 / took;
        let beside = budget.against(
            rate,
            if is_sealed { "append-100-100B/scan_settled" } else { "append-100-100B/scan" },
            Engine::CommitLog,
        );
        let (times, words) = beside.unwrap_or((f64::NAN, "commitlog did not take part".to_owned()));
        let is_met = rate >= 30e6 && (times.is_nan() || times >= 1.5);
        let of = if is_sealed { "a sealed segment" } else { "the active segment" };
        let limit = share(partition.stats().bytes as f64 / took, budget.limits.mapped_and_checked(), "mapping and CRC");
        let measured = format!("{} rec/s, {words}", number(rate));
        let goal = ">= 1.5x commitlog, >= 30 M rec/s";
        budget.push("read-all", format!("read all, decoded, CRC checked, {of}"), goal, measured, Some(is_met), limit);
    }
    drop(partition);
    log.close().expect("it is sound");
}
