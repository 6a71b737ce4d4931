//! Power cuts at every operation of workloads of every kind, on the simulated storage: what was acknowledged as durable
//! is there afterwards, nothing else is, and the log goes on.
#![cfg(feature = "sim")]

mod exploration;

use exploration::explore::{Counts, Seen, case, explore, shrink};
use exploration::world::Rig;
use stratalog::sim::{Breadth, Order};

/// A size of this run, as the environment has it.
fn size(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn what_was_durable_survives_a_power_cut_at_every_operation() {
    let from = size("STRATALOG_CRASH_FROM", 0);
    let cases = size("STRATALOG_CRASH_CASES", 16);
    let ops = size("STRATALOG_CRASH_OPS", 20) as usize;
    let breadth = Breadth {
        order: Order::Strict,
        tears: size("STRATALOG_CRASH_TEARS", 1),
        drawn: size("STRATALOG_CRASH_DRAWN", 4),
        seed: 0,
        last: size("STRATALOG_CRASH_LAST", 6) as usize,
    };
    let depth = size("STRATALOG_CRASH_DEPTH", 3) as u32;
    let mut total = Counts::default();
    for seed in from..from + cases {
        let mut seen = Seen::default();
        for order in [Order::Strict, Order::Journaled] {
            let case = case(seed, order, ops, breadth, depth);
            match explore(&case, Rig::PLAIN, &mut seen) {
                Ok(counts) => {
                    println!("seed {seed} {:?} {order:?}: {counts:?}", case.kind);
                    total += counts;
                }
                Err(failure) => panic!("seed {seed}, {order:?}: {}", shrink(&case, Rig::PLAIN, failure, 200)),
            }
        }
    }
    let Counts { points, images, distinct, recovered } = total;
    println!(
        "crash states: {recovered} recovered, {distinct} distinct of {images} images at {points} points, \
         seeds {from}..{}, both orders, 0 violations",
        from + cases
    );
}
