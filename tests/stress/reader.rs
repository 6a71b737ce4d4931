//! Threads that read: some as the log grows, some at random places, to hold the bytes.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use stratalog::format::Scratch;
use stratalog::{Error, ErrorKind, FetchOptions, Isolation, Offset, Partition, Reader};

use super::draw::{KEPT, PARTITIONS, Rng, VALUE_MAX};
use super::journal::Entry;
use super::world::World;

/// The batches that a reader passed in a row, without a truncation meanwhile.
pub struct Run {
    pub partition: usize,
    from: u64,
    to: u64,
    /// The time of the shared counter when it came to the last one.
    ended: u64,
    bases: Vec<u64>,
}

impl Run {
    fn at(partition: usize, from: u64) -> Run {
        Run { partition, from, to: from, ended: 0, bases: Vec::new() }
    }

    /// Checks that it missed nothing. Batches that came later, in the place of truncated ones, are not asked for.
    pub fn check(&self, must: &[Entry], what: &str) {
        let mut seen = self.bases.iter().peekable();
        let first = must.partition_point(|entry| entry.base < self.from);
        let within = must[first..].iter().take_while(|entry| entry.next <= self.to);
        for entry in within.filter(|entry| entry.began <= self.ended) {
            while seen.next_if(|base| **base < entry.base).is_some() {}
            let came = seen.peek() == Some(&&entry.base);
            assert!(came, "LOST: a reader of {what} from {} to {} missed {entry:?}", self.from, self.to);
        }
    }
}

/// Reads a partition as it grows, until the phase ends and everything is read. Returns its runs.
pub fn tail(world: &World, partition: &Partition, at: usize, slot: usize, mut rng: Rng) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut scratch = Scratch::default();
    while let Some(mut reader) = begin(partition, &mut rng) {
        let place = &world.places[at];
        let mut run = Run::at(at, reader.offset().get());
        let mut cuts = place.cuts.load(Ordering::Acquire);
        let error = loop {
            place.tails[slot].store(reader.offset().get(), Ordering::Release);
            let read = next(world, &mut reader, &mut scratch, at);
            let now = place.cuts.load(Ordering::Acquire);
            if now != cuts || cuts % 2 == 1 {
                // The last batch may be from before the truncation or from after it.
                cuts = now;
                runs.push(std::mem::replace(&mut run, Run::at(at, reader.offset().get())));
            } else if let Ok(Some((base, next))) = read {
                run.bases.push(base);
                run.to = next;
                run.ended = world.now.load(Ordering::SeqCst);
            }
            match read {
                Ok(Some(_)) => {}
                Ok(None) => match wait(world, &reader, partition) {
                    Ok(true) => {}
                    Ok(false) => break None,
                    Err(error) => break Some(error),
                },
                Err(error) => break Some(error),
            }
        };
        runs.push(run);
        match error {
            Some(error) if is_closed(world, &error) => break,
            Some(error) => assert!(is_of_a_cut(&error), "LOST: reading {:?}: {error:?}", PARTITIONS[at]),
            None => break,
        }
    }
    world.places[at].tails[slot].store(u64::MAX, Ordering::Release);
    runs
}

/// The place of the next batch, if there is one.
fn next(world: &World, reader: &mut Reader, scratch: &mut Scratch, at: usize) -> Result<Option<(u64, u64)>, Error> {
    let Some(batch) = reader.next_batch()? else { return Ok(None) };
    let (base, next) = (batch.header().base_offset.get(), batch.header().next_offset().get());
    let mut bytes = 0;
    let seen = world.draw.identify_batch(&batch, scratch, &mut bytes);
    assert!(seen.is_ok(), "LOST: {:?} at [{base}, {next}): {seen:?}", PARTITIONS[at]);
    world.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
    Ok(Some((base, next)))
}

/// Waits for more; `false` once nothing comes any more.
fn wait(world: &World, reader: &Reader, partition: &Partition) -> Result<bool, Error> {
    let ends = world.readers_end.load(Ordering::Acquire);
    if ends && reader.offset() >= partition.offsets().end {
        return Ok(false);
    }
    let began = Instant::now();
    let limit = Duration::from_secs(if ends { 10 } else { 60 });
    reader.wait(if ends { limit } else { Duration::from_millis(300) })?;
    let slept = began.elapsed();
    assert!(!ends || slept < limit, "LOST: {reader:?} sleeps, the log ends at {}", partition.offsets().end);
    Ok(true)
}

fn begin(partition: &Partition, rng: &mut Rng) -> Option<Reader> {
    loop {
        let offsets = partition.offsets();
        let from = if rng.one_in(2) { offsets.start } else { offsets.end };
        match partition.reader(from) {
            Ok(reader) => return Some(reader),
            Err(error) if *error.kind() == ErrorKind::Closed => return None,
            // It was truncated meanwhile.
            Err(error) => assert!(is_of_a_cut(&error), "LOST: {error:?}"),
        }
    }
}

/// Fetches here and there, and holds some of it.
pub fn browse(world: &World, partitions: &[Partition], mut rng: Rng) {
    while !world.readers_end.load(Ordering::Acquire) {
        if !fetch_and_hold(world, partitions, &mut rng) {
            return;
        }
        if rng.one_in(40) {
            world.held.check(world, 8, &mut rng);
        }
        thread::sleep(Duration::from_micros(rng.below(3000)));
    }
}

/// `false` when the log is closed.
pub fn fetch_and_hold(world: &World, partitions: &[Partition], rng: &mut Rng) -> bool {
    let at = rng.below(PARTITIONS.len() as u64) as usize;
    let partition = &partitions[at];
    let offsets = partition.offsets();
    let len = offsets.end.since(offsets.start);
    // Often near the end, in the mapped part of the active segment.
    let back = if rng.one_in(2) { rng.below(len.min(5000) + 1) } else { rng.below(len + 1) };
    let from = Offset::new(offsets.end.get() - back);
    let isolation = rng.pick(&[Isolation::End, Isolation::End, Isolation::Durable, Isolation::Committed]);
    let options = FetchOptions { max_bytes: rng.of_any_size(VALUE_MAX), isolation, check_crc: rng.one_in(2) };
    match partition.fetch(from, options) {
        Ok(fetch) => {
            let chunks: Vec<Bytes> = fetch.chunks().cloned().collect();
            let mut bytes = 0;
            let checked = world.draw.identify_all(&chunks, &mut bytes);
            assert!(checked.is_ok(), "LOST: a fetch of {:?} at {from}: {checked:?}", PARTITIONS[at]);
            world.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
            if rng.one_in(if fetch.len() > 1 << 16 { 3 } else { 30 }) {
                let what = format!("a fetch of {} bytes of {:?} at {from}", fetch.len(), PARTITIONS[at]);
                world.held.hold(fetch, what, rng);
            }
            true
        }
        Err(error) if is_closed(world, &error) => false,
        Err(error) => {
            assert!(is_of_a_cut(&error), "LOST: a fetch of {:?} at {from}: {error:?}", PARTITIONS[at]);
            true
        }
    }
}

fn is_closed(world: &World, error: &Error) -> bool {
    *error.kind() == ErrorKind::Closed && world.closing.load(Ordering::Acquire)
}

/// Whether a truncation explains it: the offset is not there any more.
fn is_of_a_cut(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::OffsetOutOfRange { .. } | ErrorKind::Truncated)
}

/// The partitions that are read as they grow, each with the reader's slot.
pub fn tails(rng: &mut Rng, everywhere: bool) -> Vec<(usize, usize)> {
    let all = (0..PARTITIONS.len()).flat_map(|at| [(at, 0), (at, 1)]);
    all.filter(|(at, _)| everywhere && *at < KEPT || rng.one_in(4)).collect()
}
