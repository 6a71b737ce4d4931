//! Fetched bytes and regions of files that are held. They keep their content through every operation on the log, by any
//! handle of it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use stratalog::{Fetch, FileRegion};

use super::draw::Rng;
use super::world::World;

/// So much is held, at most.
const BYTES_MAX: usize = 96 << 20;
const ITEMS_MAX: usize = 64;

/// Everything that is held.
#[derive(Default)]
pub struct Held(Mutex<Vec<Item>>);

struct Item {
    what: String,
    chunks: Vec<Bytes>,
    sum: u32,
    /// With the sum over its bytes.
    region: Option<(FileRegion, u32)>,
}

impl Held {
    /// Holds the fetched bytes, their place in the file, or both.
    pub fn hold(&self, fetch: Fetch, what: String, rng: &mut Rng) {
        let chunks: Vec<Bytes> = fetch.chunks().cloned().collect();
        let Some(first) = chunks.first() else { return };
        let region = fetch.region().filter(|_| rng.one_in(3)).map(|region| (region.clone(), crc32fast::hash(first)));
        drop(fetch);
        let keeps = region.is_none() || rng.one_in(2);
        let chunks = if keeps { chunks } else { Vec::new() };
        let item = Item { what, sum: sum(&chunks), chunks, region };
        let mut items = self.0.lock().unwrap();
        items.push(item);
        while items.len() > ITEMS_MAX || items.iter().map(Item::len).sum::<usize>() > BYTES_MAX {
            let at = rng.below(items.len() as u64) as usize;
            items.swap_remove(at);
        }
    }

    /// Compares all, or some.
    pub fn check(&self, world: &World, one_in: u64, rng: &mut Rng) {
        let items = self.0.lock().unwrap();
        for item in items.iter().filter(|_| rng.one_in(one_in)) {
            assert_eq!(sum(&item.chunks), item.sum, "LOST: {} has changed", item.what);
            world.counts.held.fetch_add(1, Ordering::Relaxed);
            if let Some((region, sum)) = &item.region {
                let file = File::from(region.descriptor().unwrap().try_clone_to_owned().unwrap());
                let mut bytes = vec![0; region.len() as usize];
                let read = file.read_exact_at(&mut bytes, region.position());
                assert!(read.is_ok(), "LOST: the file of {} was cut: {read:?}", item.what);
                assert_eq!(crc32fast::hash(&bytes), *sum, "LOST: the file of {} has changed", item.what);
                world.counts.regions.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Lets go of some.
    pub fn drop_some(&self, rng: &mut Rng) {
        self.0.lock().unwrap().retain(|_| !rng.one_in(4));
    }
}

impl Item {
    fn len(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }
}

fn sum(chunks: &[Bytes]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    chunks.iter().for_each(|chunk| hasher.update(chunk));
    hasher.finalize()
}
