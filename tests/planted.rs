//! Tests the tester: the exploration of crashes must find bugs that are planted between the engine and its storage.
//! `planted_bugs/list.rs` lists them; each breaks one promise, by one way that other engines broke it.
#![cfg(feature = "sim")]

mod exploration;
mod planted_bugs;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use exploration::explore::{Seen, case, explore};
use exploration::workload::KINDS;
use exploration::world::Rig;
use planted_bugs::list::{PLANTED, Planted};
use planted_bugs::storage::{Bug, PlantedStorage};
use stratalog::sim::{Breadth, Order, SimStorage};
use stratalog::storage::Storage;

const LONGEST: Duration = Duration::from_secs(60);
const ALL_TOGETHER: Duration = Duration::from_secs(600);

#[test]
fn every_planted_bug_is_found() {
    let only = std::env::var("STRATALOG_PLANTED").ok();
    let began = Instant::now();
    let mut missed = Vec::new();
    // Unoptimised, those that take many workloads are left to the optimised run.
    let chosen =
        |bug: &&Planted| only.as_deref().map_or(!(cfg!(debug_assertions) && bug.takes_long()), |name| name == bug.name);
    let mut found = 0;
    for bug in PLANTED.iter().filter(chosen) {
        let began = Instant::now();
        match find(bug) {
            Some((seed, why)) => {
                found += 1;
                println!("{:5.1} s, seed {seed}: {}: {why}", began.elapsed().as_secs_f64(), bug.name);
            }
            None => missed.push(bug.name),
        }
    }
    assert!(missed.is_empty(), "{} planted bugs were missed: {missed:?}", missed.len());
    assert!(began.elapsed() < ALL_TOGETHER, "{:?}", began.elapsed());
    println!(
        "{found} of {} planted bugs looked for, all found, in {:.1} s",
        PLANTED.len(),
        began.elapsed().as_secs_f64()
    );
}

/// The first violation that a planted bug leads to, looked for in the workloads in which it can show.
fn find(bug: &Planted) -> Option<(u64, String)> {
    let breadth = Breadth { order: Order::Strict, tears: 1, drawn: 4, seed: 0, last: 6 };
    let wrap = |storage: SimStorage| Arc::new(PlantedStorage::new(storage, bug.bug)) as Arc<dyn Storage>;
    let clock_ahead = Duration::from_secs(if bug.bug == Bug::ClockAhead { 86_400 } else { 0 });
    let rig = Rig { wrap: &wrap, clock_ahead };
    let began = Instant::now();
    for round in 0.. {
        for kind in bug.kinds {
            let place = KINDS.iter().position(|other| other == kind).unwrap_or_default() as u64;
            // Of a kind every other workload has a fault.
            let round = if bug.needs_fault() { 2 * round + 1 } else { round };
            let seed = round * KINDS.len() as u64 + place;
            let case = case(seed, Order::Strict, 20, breadth, 3);
            if let Err(failure) = explore(&case, rig, &mut Seen::default()) {
                return Some((seed, failure.why.chars().take(140).collect()));
            }
            if began.elapsed() > LONGEST {
                return None;
            }
        }
    }
    None
}

#[test]
fn the_list_names_every_promise_and_enough_known_problems() {
    assert!(PLANTED.len() >= 30);
    for promise in ["I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9", "I10", "I11", "I12", "I13", "I14", "I15"] {
        assert!(PLANTED.iter().any(|bug| bug.breaks == promise), "{promise}");
    }
    let known: HashSet<u32> = PLANTED.iter().flat_map(|bug| bug.pains).copied().collect();
    assert!(known.len() >= 15, "{known:?}");
}
