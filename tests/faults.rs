//! Each call of workloads of every kind fails once, in each way that an operating system has: nothing panics, no
//! promise is broken then or after a power cut, and whoever asked is told.
#![cfg(feature = "sim")]

mod exploration;

use std::collections::BTreeMap;
use std::sync::Arc;

use exploration::explore::quietly;
use exploration::found::After;
use exploration::workload::{KINDS, Kind, Op};
use exploration::world::{Ended, Rig, World};
use stratalog::sim::{Call, Calls, Failure, Image, Injection, Kept, SimStorage};

/// What came of a run with one failure.
struct Run {
    failed: bool,
    told: bool,
}

fn run(kind: Kind, ops: &[Op], injection: Injection) -> Result<Run, String> {
    let storage = SimStorage::new();
    storage.seed_random(7);
    let mut world = World::new(kind, Rig::PLAIN, storage.clone(), Arc::default());
    let violation = |ended| match ended {
        Ended::Violation(why) => why,
        Ended::Early => "it gave up".to_owned(),
    };
    world.start().map_err(violation)?;
    world.run(&[Op::Fault(injection)]).map_err(violation)?;
    world.run(ops).map_err(violation)?;
    // What failed behind the back of an operation is told by the next one.
    world.run(&[Op::NoFault, Op::Flush]).map_err(violation)?;
    let (failed, told) = (world.failed > 0, !world.errors.is_empty());
    world.run(&[Op::Kill, Op::Append { records: 1, size: 20 }, Op::Flush]).map_err(violation)?;
    let model = world.snapshot();
    drop(world);
    let lost = storage.image(&Image { names: Kept::Prefix(0), data: Kept::Prefix(0) });
    lost.set_free_space(None);
    World::new(kind, Rig::PLAIN, lost, model).recover(After::PowerCut).map_err(violation)?;
    Ok(Run { failed, told })
}

/// Every n of one kind of call; how many failed, and how many of those nobody was told of.
fn sweep(kind: Kind, seed: u64, calls: Calls, failure: Failure) -> (u64, u64) {
    let ops = kind.ops(seed, 12, false);
    let (mut failures, mut silent) = (0, 0);
    for after in 0.. {
        let injection = Injection { calls, after, failure, forever: false, seed: 0 };
        match quietly(|| run(kind, &ops, injection)) {
            Ok(Run { failed: false, .. }) => break,
            Ok(Run { told, .. }) => {
                failures += 1;
                silent += u64::from(!told);
            }
            Err(why) => panic!("{kind:?}, {injection:?}: {why}\n{ops:?}"),
        }
    }
    (failures, silent)
}

#[test]
fn every_nth_call_may_fail() {
    let mut counts: BTreeMap<(Call, bool), (u64, u64)> = BTreeMap::new();
    let mut total = 0;
    for (at, kind) in KINDS.into_iter().enumerate() {
        for failure in Failure::ALL {
            for call in Call::ALL {
                let (failures, silent) = sweep(kind, at as u64 + 100, Calls::Only(call), failure);
                let count = counts.entry((call, failure == Failure::NoSpace)).or_default();
                *count = (count.0 + failures, count.1 + silent);
                total += failures;
            }
        }
    }
    println!("{total} runs of {} workloads with one failed call each: 0 violations", KINDS.len());
    for ((call, full), (failures, silent)) in &counts {
        let how = if *full { "for a full disk" } else { "otherwise" };
        println!("  {call:?}: {failures} failed {how}, {silent} of them did no harm and were not told of");
    }
    // On a full disk indexes and checkpoints wait for room; nothing else that changes the disk fails without a word.
    for call in [Call::Write, Call::Sync, Call::SyncDir, Call::Rename, Call::Create] {
        assert_eq!(counts[&(call, false)].1, 0, "{call:?}: each failure is told");
    }
}

#[test]
fn a_fault_that_stays_ends_in_errors_and_no_violation() {
    let mut runs = 0;
    for (at, kind) in KINDS.into_iter().enumerate() {
        let ops = kind.ops(at as u64 + 100, 12, false);
        for failure in Failure::ALL {
            for after in (0..120).step_by(5) {
                let injection = Injection { calls: Calls::Changing, after, failure, forever: true, seed: after };
                if let Err(why) = quietly(|| run(kind, &ops, injection)) {
                    panic!("{kind:?}, {injection:?}: {why}\n{ops:?}");
                }
                runs += 1;
            }
        }
    }
    println!("{runs} runs with calls that fail for ever: 0 violations");
}
