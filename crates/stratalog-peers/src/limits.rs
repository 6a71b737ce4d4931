//! What the machine can do, measured in the same run: the figures stand beside these.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use stratalog::storage::{FileSystem, OpenMode, Storage};

use crate::data::Random;

/// Bytes a second, unless said otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of 64 MiB: from and to memory, not a cache.
    pub memcpy: f64,
    /// At 1 KiB, by the crate crc32c, as Kafka's figures were scaled; ours is another.
    pub crc: f64,
    /// Into the page cache, 64 KiB a call, of a growing file.
    pub write: f64,
    /// 64 MiB over what a file has, and a fdatasync.
    pub write_and_sync: f64,
    /// From the page cache, 1 MiB a call.
    pub read: f64,
    /// Each byte of a mapped file, in order.
    pub mapped: f64,
    /// 136 bytes of a mapped file, at random: calls a second.
    pub random: f64,
    /// 4 KiB and a fdatasync, in a file that was filled with zeros before: calls a second.
    pub sync: f64,
}

/// The machine on which Kafka was measured.
pub const KAFKAS: Limits = Limits {
    memcpy: 12e9,
    crc: 14e9,
    write: 3.2e9,
    // It was not measured there.
    write_and_sync: f64::NAN,
    read: 7.8e9,
    mapped: 14e9,
    random: 1e9 / 390.0,
    sync: 1e6 / 108.0,
};

impl Limits {
    pub fn measure(dir: &Path) -> Limits {
        let path = dir.join("limits");
        let limits = Limits {
            memcpy: memcpy(),
            crc: crc(),
            write: write(&path),
            write_and_sync: write_and_sync(&path),
            read: read(&path),
            mapped: mapped(&path),
            random: random(&path),
            sync: sync(dir),
        };
        std::fs::remove_file(path).expect("it was just written");
        limits
    }

    /// The medians of several measurements.
    pub fn medians(all: &[Limits]) -> Limits {
        let of = |get: fn(&Limits) -> f64| {
            let mut values: Vec<f64> = all.iter().map(get).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        Limits {
            memcpy: of(|l| l.memcpy),
            crc: of(|l| l.crc),
            write: of(|l| l.write),
            write_and_sync: of(|l| l.write_and_sync),
            read: of(|l| l.read),
            mapped: of(|l| l.mapped),
            random: of(|l| l.random),
            sync: of(|l| l.sync),
        }
    }

    /// Checking what is mapped: one after the other.
    pub fn mapped_and_checked(&self) -> f64 {
        1.0 / (1.0 / self.mapped + 1.0 / self.crc)
    }

    /// Reading and checking, one after the other.
    pub fn read_and_checked(&self) -> f64 {
        1.0 / (1.0 / self.read + 1.0 / self.crc)
    }

    /// Each with its name and unit.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let gb = |bytes: f64| if bytes.is_nan() { "-".to_owned() } else { format!("{:.1} GB/s", bytes / 1e9) };
        vec![
            ("memcpy of 64 MiB", gb(self.memcpy)),
            ("CRC-32C at 1 KiB (crate crc32c)", gb(self.crc)),
            ("write into the page cache, 64 KiB a call", gb(self.write)),
            ("64 MiB written over a file, and fdatasync", gb(self.write_and_sync)),
            ("read from the page cache, 1 MiB a call", gb(self.read)),
            ("reading through a mapping, in order", gb(self.mapped)),
            ("136 bytes at random through a mapping", format!("{:.0} ns", 1e9 / self.random)),
            ("4 KiB and fdatasync, zero-filled file", format!("{:.0} us", 1e6 / self.sync)),
        ]
    }
}

const SIZE: usize = 64 << 20;

/// Units a second, the median of five.
fn rate(units: f64, mut work: impl FnMut()) -> f64 {
    prepared_rate(units, || (), |()| work())
}

/// The same, of work on something that is made anew each time, beside the clock.
fn prepared_rate<T>(units: f64, mut prepare: impl FnMut() -> T, mut work: impl FnMut(T)) -> f64 {
    let once = |_| {
        let prepared = prepare();
        let began = Instant::now();
        work(prepared);
        units / began.elapsed().as_secs_f64()
    };
    let mut rates: Vec<f64> = (0..5).map(once).collect();
    rates.sort_by(f64::total_cmp);
    rates[2]
}

fn memcpy() -> f64 {
    let from = vec![7u8; SIZE];
    let mut to = vec![1u8; SIZE];
    rate(SIZE as f64, || black_box(&mut to).copy_from_slice(black_box(&from)))
}

fn crc() -> f64 {
    let bytes = [7u8; 1 << 10];
    const CALLS: usize = 1 << 16;
    rate((CALLS << 10) as f64, || {
        (0..CALLS).for_each(|_| {
            black_box(crc32c::crc32c(black_box(&bytes)));
        })
    })
}

fn write(path: &Path) -> f64 {
    let bytes = vec![7u8; 64 << 10];
    // What was there is cut off before: that takes longer than to write it.
    let create = || File::create(path).expect("there is room");
    prepared_rate(SIZE as f64, create, |file| {
        (0..SIZE).step_by(64 << 10).for_each(|at| file.write_all_at(&bytes, at as u64).expect("there is room"));
    })
}

fn write_and_sync(path: &Path) -> f64 {
    let file = File::options().write(true).open(path).expect("it was just written");
    let bytes = vec![7u8; 1 << 20];
    rate(SIZE as f64, || {
        (0..SIZE).step_by(1 << 20).for_each(|at| file.write_all_at(&bytes, at as u64).expect("there is room"));
        file.sync_data().expect("the disk works");
    })
}

fn read(path: &Path) -> f64 {
    let file = File::open(path).expect("it was just written");
    let mut bytes = vec![1u8; 1 << 20];
    rate(SIZE as f64, || {
        (0..SIZE).step_by(1 << 20).for_each(|at| file.read_exact_at(&mut bytes, at as u64).expect("it is there"));
    })
}

fn map(path: &Path) -> bytes::Bytes {
    let file = FileSystem::new().open(path, OpenMode::Read).expect("it was just written");
    file.map(SIZE as u64).expect("it can be mapped").expect("it can be mapped")
}

fn mapped(path: &Path) -> f64 {
    let bytes = map(path);
    let sum = || {
        let words = bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().expect("8 bytes")));
        black_box(words.fold(0, u64::wrapping_add));
    };
    sum();
    rate(SIZE as f64, sum)
}

fn random(path: &Path) -> f64 {
    let bytes = map(path);
    black_box(bytes.iter().step_by(4096).map(|byte| u64::from(*byte)).sum::<u64>());
    let mut random = Random::new(3);
    let mut to = [0; 136];
    const CALLS: usize = 200_000;
    rate(CALLS as f64, || {
        for _ in 0..CALLS {
            let at = (random.next() % (SIZE as u64 - 136)) as usize;
            black_box(&mut to).copy_from_slice(&bytes[at..at + 136]);
        }
    })
}

fn sync(dir: &Path) -> f64 {
    const CALLS: u64 = 50;
    let path = dir.join("limits-sync");
    let file = File::create(&path).expect("there is room");
    file.write_all_at(&vec![0; 4 << 20], 0).expect("there is room");
    file.sync_all().expect("the disk works");
    let mut at = 0;
    let rate = rate(CALLS as f64, || {
        for _ in 0..CALLS {
            file.write_all_at(&[7; 4096], at).expect("there is room");
            file.sync_data().expect("the disk works");
            at = (at + 4096) % (4 << 20);
        }
    });
    std::fs::remove_file(path).expect("it was just written");
    rate
}
