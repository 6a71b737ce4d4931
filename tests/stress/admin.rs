//! The thread that truncates, rolls, configures, compacts and closes while others append and read.

use std::sync::atomic::Ordering;

use stratalog::{CompactMode, Durability, ErrorKind, FetchOptions, Log, Offset, Partition, Record, Topic, TopicConfig};

use super::child::{ADMIN, topic};
use super::draw::{KEPT, PARTITIONS, Rng};
use super::journal::{Entry, Generation, Journal, Kind};
use super::reader::fetch_and_hold;
use super::world::{World, say};

/// Of a partition.
const BYTES_MAX: u64 = 12 << 20;

pub struct Admin<'a> {
    world: &'a World,
    log: Option<Log>,
    partitions: &'a [Partition],
    journal: Journal,
    number: u32,
    /// The end of the records of each partition that are from before this generation. Behind it transactions may be
    /// open, and their beginnings are not given up.
    known: Vec<Offset>,
    rng: Rng,
}

impl<'a> Admin<'a> {
    pub fn new(
        world: &'a World,
        generation: &Generation,
        log: Log,
        partitions: &'a [Partition],
        seed: u64,
    ) -> Admin<'a> {
        let number = generation.writer(ADMIN);
        let known = partitions.iter().map(|partition| partition.offsets().end).collect();
        let (journal, rng) = (Journal::open(generation, number), Rng::of(&[seed]));
        Admin { world, log: Some(log), partitions, journal, number, known, rng }
    }

    pub fn topic(&self) -> Topic {
        self.log().topic("kept").unwrap()
    }

    fn log(&self) -> &Log {
        self.log.as_ref().expect("the log is open during a phase")
    }

    /// Does one thing that is drawn. While readers and writers go in step, nothing that stops them.
    pub fn act(&mut self, in_step: bool) {
        let at = self.rng.below(PARTITIONS.len() as u64) as usize;
        match self.rng.below(20) {
            0..5 if !in_step => {
                let deep = self.rng.one_in(5);
                self.truncate(at, deep);
            }
            5 if !in_step && self.rng.one_in(3) => self.reset(at),
            6 if !in_step => self.delete_before(at),
            7..9 => {
                self.partitions[at].roll().unwrap();
                say(&format!("{:?} is rolled", PARTITIONS[at]));
            }
            9 => {
                let durable = self.partitions[at].flush().unwrap();
                say(&format!("{:?} is durable up to {durable}", PARTITIONS[at]));
            }
            10..12 => self.configure(),
            12..14 => self.compact(),
            14 => self.make_again(),
            15 => drop(self.log().maintain(self.world.wall(), Default::default()).unwrap()),
            16 => drop(self.partitions[at].pause_maintenance()),
            17 => self.world.held.check(self.world, 3, &mut self.rng),
            _ => drop(fetch_and_hold(self.world, self.partitions, &mut self.rng)),
        }
    }

    /// Takes records away, and notes the new end.
    fn take(
        &mut self,
        at: usize,
        (begun, ended): (Kind, Kind),
        to: Offset,
        take: impl Fn(&Partition) -> stratalog::Result<Offset>,
    ) -> Option<Offset> {
        let began = self.world.tick();
        let entry = Entry { began, ..Entry::new(begun, at, self.number, to.get()) };
        self.journal.write(entry);
        let cuts = &self.world.places[at].cuts;
        cuts.fetch_add(1, Ordering::SeqCst);
        say(&format!("{begun:?} of {:?} to {to}", PARTITIONS[at]));
        let taken = take(&self.partitions[at]);
        cuts.fetch_add(1, Ordering::SeqCst);
        say(&format!("{taken:?}"));
        let ended_at = self.world.tick();
        match taken {
            Ok(end) => {
                self.journal.write(Entry { kind: ended, base: end.get(), ended: ended_at, ..entry });
                Some(end)
            }
            Err(error) => {
                let is_relied_on = matches!(error.kind(), ErrorKind::TruncateBelowCompacted { .. });
                assert!(is_relied_on && at >= KEPT, "LOST: {begun:?} of {:?} to {to}: {error:?}", PARTITIONS[at]);
                self.journal.write(Entry { kind: Kind::Refused, ended: ended_at, ..entry });
                None
            }
        }
    }

    /// Cuts a little off the end, or, where it is deep, anything.
    pub fn truncate(&mut self, at: usize, deep: bool) {
        let offsets = self.partitions[at].offsets();
        let len = offsets.end.since(offsets.start);
        let back = match self.rng.one_in(2) {
            _ if deep => self.rng.below(len + 1),
            true => self.rng.of_any_size(1000) as u64,
            false => self.rng.below(len / 8 + 1),
        };
        if back >= len {
            return;
        }
        let to = Offset::new(offsets.end.get() - back);
        let cut = (Kind::CutBegun, Kind::Cut);
        let mut end = self.take(at, cut, to, |partition| partition.truncate(to));
        if end.is_none() && self.rng.one_in(4) {
            end = self.take(at, (Kind::LossyBegun, Kind::Lossy), to, |partition| partition.truncate_lossy(to));
        }
        let Some(end) = end else { return };
        self.known[at] = self.known[at].min(end);
        if end <= offsets.start {
            // Transactions that began before the start are not known to the model any more.
            self.reset_to(at, end);
        }
        if self.rng.one_in(2) {
            self.world.held.check(self.world, 2, &mut self.rng);
        }
    }

    fn reset(&mut self, at: usize) {
        let offsets = self.partitions[at].offsets();
        let to = match self.rng.below(3) {
            0 => offsets.end,
            1 => offsets.end + self.rng.below(1 << 33),
            _ => Offset::new(offsets.start.get() + self.rng.below(offsets.end.since(offsets.start) + 1)),
        };
        self.reset_to(at, to);
        self.world.held.check(self.world, 2, &mut self.rng);
    }

    fn reset_to(&mut self, at: usize, to: Offset) {
        let reset = (Kind::ResetBegun, Kind::Reset);
        self.take(at, reset, to, |partition| partition.reset_to(to).map(|()| to));
        self.known[at] = Offset::ZERO;
    }

    fn delete_before(&mut self, at: usize) {
        let offsets = self.partitions[at].offsets();
        if self.known[at] > offsets.start {
            let to = offsets.start + self.rng.below(self.known[at].since(offsets.start) + 1);
            self.begin_at(at, to);
        }
    }

    /// Gives up the records of large logs, which would take all the time.
    pub fn shrink(&mut self) {
        for at in 0..PARTITIONS.len() {
            if self.partitions[at].stats().bytes > BYTES_MAX {
                self.partitions[at].roll().unwrap();
                self.begin_at(at, self.known[at]);
            }
        }
    }

    fn begin_at(&mut self, at: usize, to: Offset) {
        let began = self.world.tick();
        let entry = Entry { began, ..Entry::new(Kind::StartBegun, at, self.number, to.get()) };
        self.journal.write(entry);
        say(&format!("{:?} is to begin at {to}", PARTITIONS[at]));
        self.partitions[at].delete_before(to).unwrap();
        self.journal.write(Entry { kind: Kind::Start, ended: self.world.tick(), ..entry });
        if self.rng.one_in(2) {
            let removed = self.partitions[at].retain(self.world.wall()).unwrap();
            say(&format!("{removed} segments are removed"));
        }
    }

    fn configure(&mut self) {
        let compacted = self.rng.one_in(3);
        let name = if compacted { "compacted" } else { "kept" };
        let config = topic(&mut self.rng, compacted)
            .append_windows(!self.rng.one_in(3))
            .mapped_reads(!self.rng.one_in(4))
            .index_interval_bytes(self.rng.pick(&[4096, 4096, 100]));
        let config = match self.rng.below(4) {
            0 => config.durability(Durability::Sync),
            1 => config.durability(Durability::Buffered {
                interval: std::time::Duration::from_millis(5),
                bytes: self.rng.of_any_size(1 << 20) as u64,
            }),
            _ => config,
        };
        say(&format!(
            "{name}: segments of {}, windows {}, mapped {}, {:?}",
            config.segment_bytes, config.append_windows, config.mapped_reads, config.durability
        ));
        self.log().topic(name).unwrap().set_config(config).unwrap();
    }

    fn compact(&mut self) {
        let at = KEPT + self.rng.below((PARTITIONS.len() - KEPT) as u64) as usize;
        let mode = self.rng.pick(&[CompactMode::Due, CompactMode::Full]);
        let report = self.partitions[at].compact(self.world.wall(), mode).unwrap();
        assert!(report.damaged.is_empty(), "LOST: {:?}: {:?}", PARTITIONS[at], report.damaged);
    }

    /// Makes a topic, fills it, deletes it and makes it again: its files may have the numbers of those that are gone.
    fn make_again(&mut self) {
        const NAME: &str = "again";
        let log = self.log().clone();
        if log.topic(NAME).is_some() {
            log.delete_topic(NAME).unwrap();
        }
        let made = log.create_topic(NAME, 1, TopicConfig::new()).unwrap().partition(0).unwrap();
        let count = self.rng.between(1, 4000);
        let size = self.rng.of_any_size(2000);
        let byte = |n: usize| vec![1 + (n % 255) as u8; size];
        for n in 0..count {
            made.append_records([Record::keyless(&byte(n))]).unwrap();
        }
        let mut reader = made.reader(Offset::ZERO).unwrap();
        for n in 0..count {
            let record = reader.next_record().unwrap_or_else(|error| panic!("LOST: {NAME} at {n}: {error:?}"));
            assert_eq!(record.and_then(|record| record.value), Some(&byte(n)[..]), "LOST: {NAME} at {n}");
        }
        let from = Offset::new(self.rng.below(count as u64));
        let fetch = made.fetch(from, FetchOptions::default()).unwrap();
        self.world.held.hold(fetch, format!("a fetch of a deleted topic at {from}"), &mut self.rng);
    }

    /// Closes or drops the log while others work on it.
    pub fn close_under_way(&mut self) {
        self.world.closing.store(true, Ordering::SeqCst);
        let log = self.log.take().expect("it is closed once");
        if self.rng.one_in(2) {
            say("dropping the log under way");
            drop(log)
        } else {
            say("closing the log under way");
            log.close().unwrap()
        }
    }

    /// Fetches some records to hold while the log is opened again.
    pub fn hold(&mut self) {
        for _ in 0..2 * PARTITIONS.len() {
            fetch_and_hold(self.world, self.partitions, &mut self.rng);
        }
    }

    /// The log, unless it is to be opened again.
    pub fn end(mut self, how: u64) -> Option<Log> {
        self.journal.write(Entry::new(Kind::Ended, 0, self.number, 0));
        let log = self.log.take()?;
        self.world.closing.store(true, Ordering::SeqCst);
        match how {
            1 => {
                say("dropping the log");
                drop(log);
            }
            2 => {
                say("closing the log");
                log.close().unwrap();
            }
            _ => {
                say("going on with the log");
                return Some(log);
            }
        }
        None
    }
}
