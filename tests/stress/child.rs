//! The life of a child: it opens the log that the one before it left, holds it against the model, works on it in some
//! phases, and ends: in good order, or killed by its parent at any time.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use stratalog::{Cleanup, Log, LogConfig, Partition, TopicConfig};

use super::admin::Admin;
use super::check::check;
use super::draw::{KEPT, PARTITIONS, Rng};
use super::journal::{Generation, Journal};
use super::reader::{Run, browse, tail, tails};
use super::world::{World, say};
use super::writer::Writer;

/// The orders of a child.
pub struct Orders {
    pub dir: PathBuf,
    pub seed: u64,
    pub round: u64,
    /// The longest time of a phase.
    pub phase: Duration,
}

/// The bytes that the threads of a phase append together.
const BYTES_MAX: u64 = 40 << 20;
/// The thread that truncates, and so on, is the last one.
pub const ADMIN: u32 = 15;

pub fn run(orders: &Orders) {
    // A thread that finds something ends the process.
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        tell(info);
        std::process::exit(101);
    }));
    let mut rng = Rng::of(&[orders.seed, 3, orders.round]);
    let (logs, journals) = (orders.dir.join("log"), orders.dir.join("journal"));
    fs::create_dir_all(&journals).unwrap();
    let world = World::new(orders.seed);
    let mut log = open(&logs, &mut rng);
    let mut generation = match Generation::last(&journals) {
        Some(generation) => generation,
        None => {
            create(&log, &mut rng);
            Generation::begin(&journals, 0, std::iter::empty())
        }
    };
    // Killed before both topics were there.
    PARTITIONS.iter().for_each(|(topic, id)| assert!(log.partition(topic, *id).is_some(), "LOST: {topic}-{id}"));
    generation = check(&world, &log, &journals, &generation, &[], rng.one_in(8));
    for _ in 0..rng.between(1, 4) {
        say("working");
        let (left, runs) = phase(&world, log, &generation, orders.phase, &mut rng);
        say("checking");
        log = left.unwrap_or_else(|| {
            world.counts.reopened.fetch_add(1, Ordering::Relaxed);
            open(&logs, &mut rng)
        });
        world.held.check(&world, 1, &mut rng);
        generation = check(&world, &log, &journals, &generation, &runs, rng.one_in(8));
        if rng.one_in(3) {
            world.held.drop_some(&mut rng);
        }
    }
    match rng.below(3) {
        0 => drop(log),
        1 => log.close().unwrap(),
        // As if it were killed now.
        _ => std::process::exit(0),
    }
}

fn open(dir: &Path, rng: &mut Rng) -> Log {
    let mut config = LogConfig::new();
    // Half of the time all is as it is by default.
    if rng.one_in(2) {
        config = config.max_open_files(rng.pick(&[None, Some(8), Some(12)]));
        config = config.maintenance_interval(Some(rng.pick(&[Duration::from_millis(20), Duration::from_millis(300)])));
        config = config.checkpoint_bytes(rng.pick(&[4096, 1 << 20, 64 << 20]));
        config = config.max_mapped_bytes(rng.pick(&[1 << 20, 16 << 20, 64 << 30]));
        config = config.max_unsynced_bytes(rng.pick(&[8 << 20, 256 << 20]));
    }
    let LogConfig { max_open_files, maintenance_interval, checkpoint_bytes, max_mapped_bytes, .. } = &config;
    say(&format!(
        "opening: {max_open_files:?} files, maintenance every {maintenance_interval:?}, checkpoints every \
         {checkpoint_bytes} bytes, {max_mapped_bytes} bytes mapped"
    ));
    Log::open(dir, config).unwrap_or_else(|error| panic!("LOST: the log does not open: {error:?}"))
}

/// A drawn configuration; batches may be larger than any that is appended.
pub fn topic(rng: &mut Rng, compacted: bool) -> TopicConfig {
    let config = TopicConfig::new().max_batch_bytes(16 << 20);
    match compacted {
        false => config.segment_bytes(rng.pick(&[1 << 30, 1 << 30, 64 << 20, 8 << 20, 256 << 10])),
        true => config
            .cleanup(Cleanup::Compact)
            .segment_bytes(rng.pick(&[8 << 20, 1 << 20, 64 << 10]))
            .delete_retention(rng.pick(&[Duration::ZERO, Duration::from_secs(3600)])),
    }
}

fn create(log: &Log, rng: &mut Rng) {
    let partitions = |topic| PARTITIONS.iter().filter(|(name, _)| *name == topic).count() as u32;
    log.create_topic("kept", partitions("kept"), topic(rng, false)).unwrap();
    log.create_topic("compacted", partitions("compacted"), topic(rng, true)).unwrap();
}

/// One phase of work. Returns the log, unless it was closed or dropped, and the runs of its readers.
fn phase(world: &World, log: Log, generation: &Generation, limit: Duration, rng: &mut Rng) -> (Option<Log>, Vec<Run>) {
    let partitions: Vec<Partition> = PARTITIONS.iter().map(|(name, id)| log.partition(name, *id).unwrap()).collect();
    world.begin();
    let in_step = rng.one_in(6);
    let mut admin = Admin::new(world, generation, log, &partitions, rng.next());
    if rng.one_in(2) {
        admin.shrink();
    }
    if rng.one_in(2) {
        // Before anything else: bytes are held from before the log was opened again.
        admin.truncate(rng.below(KEPT as u64) as usize, true);
    }
    let time = Duration::from_millis(rng.between(30, limit.as_millis() as usize) as u64);
    let writers = if in_step { KEPT } else { rng.between(1, 4) };
    let mut left = None;
    say(&format!("{writers} writers for {time:?}, in step: {in_step}"));
    let runs = thread::scope(|scope| {
        let partitions = &partitions[..];
        let tails: Vec<_> = tails(rng, in_step).into_iter().collect();
        let readers: Vec<_> = tails
            .into_iter()
            .map(|(at, slot)| {
                let rng = Rng::of(&[rng.next()]);
                scope.spawn(move || tail(world, &partitions[at], at, slot, rng))
            })
            .collect();
        let browsers = Rng::of(&[rng.next()]);
        let browser = scope.spawn(move || browse(world, partitions, browsers));
        let writers: Vec<_> = (0..writers)
            .map(|at| {
                let number = generation.writer(at as u32);
                let writer = Writer {
                    world,
                    number,
                    journal: Journal::open(generation, number),
                    topic: admin.topic(),
                    partitions,
                    bytes: BYTES_MAX / writers as u64,
                    in_step: in_step.then_some(at),
                };
                scope.spawn(move || writer.run())
            })
            .collect();
        let until = Instant::now() + time;
        while Instant::now() < until && !writers.iter().all(|writer| writer.is_finished()) {
            thread::sleep(Duration::from_micros(rng.below(6_000)));
            admin.act(in_step);
        }
        let how = rng.below(4);
        if how == 0 {
            admin.close_under_way();
        }
        world.writers_end.store(true, Ordering::Release);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        world.readers_end.store(true, Ordering::Release);
        browser.join().unwrap();
        let runs = readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect();
        if how > 0 {
            admin.hold();
        }
        left = admin.end(how);
        runs
    });
    (left, runs)
}
