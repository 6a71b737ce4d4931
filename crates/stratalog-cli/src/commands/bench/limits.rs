//! What the machine can do at most.

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::time::Instant;

use crc_fast::CrcAlgorithm;

use super::{Bounds, Limit, Unit, median};

const MEMORY: &str = "memory copied";
const CHECKSUM: &str = "CRC-32C of 1 KiB";
pub const WRITE: &str = "file written by 64 KiB";
pub const READ: &str = "file read by 1 MiB";
pub const SYNC: &str = "fdatasync of 4 KiB in zeros";
/// Each is a step of the bar.
pub const STEPS: u64 = 5;

const ROUNDS: usize = 5;
/// More than any cache holds.
const COPIED: usize = 64 << 20;
const SYNCS: usize = 200;
/// A slow disk is not asked for longer.
const SYNC_SECONDS: f64 = 3.0;

pub fn measure(bounds: &Bounds<'_>) -> io::Result<Vec<Limit>> {
    let path = bounds.dir.join("limits");
    let mut limits = Vec::new();
    let mut take = |name, value, unit| {
        limits.push(Limit { name, value, unit });
        bounds.bar.inc(1);
    };
    take(MEMORY, memory(), Unit::Rate);
    take(CHECKSUM, checksum(), Unit::Rate);
    take(WRITE, write(&path, bounds.bytes)?, Unit::Rate);
    take(READ, read(&path, bounds.bytes)?, Unit::Rate);
    take(SYNC, sync(&path)?, Unit::Time);
    std::fs::remove_file(&path)?;
    Ok(limits)
}

/// What a limit is.
pub fn of(limits: &[Limit], name: &str) -> f64 {
    limits.iter().find(|limit| limit.name == name).map_or(f64::NAN, |limit| limit.value)
}

fn memory() -> f64 {
    let (from, mut to) = (vec![1_u8; COPIED], vec![2_u8; COPIED]);
    rate(COPIED as u64, || {
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
        Ok(())
    })
    .unwrap_or(f64::NAN)
}

fn checksum() -> f64 {
    let bytes = vec![7_u8; 1 << 20];
    rate(16 << 20, || {
        for _ in 0..16 {
            for piece in black_box(&bytes).chunks(1024) {
                black_box(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, piece));
            }
        }
        Ok(())
    })
    .unwrap_or(f64::NAN)
}

fn write(path: &Path, bytes: u64) -> io::Result<f64> {
    let piece = vec![3_u8; 64 << 10];
    rate(bytes, || {
        let mut file = File::create(path)?;
        (0..bytes / piece.len() as u64).try_for_each(|_| file.write_all(&piece))
    })
}

fn read(path: &Path, bytes: u64) -> io::Result<f64> {
    let mut piece = vec![0_u8; 1 << 20];
    let mut file = File::open(path)?;
    rate(bytes, || {
        file.rewind()?;
        while file.read(&mut piece)? > 0 {}
        Ok(())
    })
}

fn sync(path: &Path) -> io::Result<f64> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(&vec![0; SYNCS * 4096])?;
    file.sync_all()?;
    file.rewind()?;
    let mut rounds = Vec::new();
    let began = Instant::now();
    for n in 0..SYNCS {
        let piece = [n as u8; 4096];
        let round = Instant::now();
        file.write_all(&piece)?;
        file.sync_data()?;
        rounds.push(round.elapsed().as_secs_f64());
        if began.elapsed().as_secs_f64() > SYNC_SECONDS {
            break;
        }
    }
    Ok(median(rounds))
}

/// Bytes a second, the median of some rounds.
fn rate(bytes: u64, mut act: impl FnMut() -> io::Result<()>) -> io::Result<f64> {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        act()?;
        rounds.push(began.elapsed().as_secs_f64());
    }
    Ok(bytes as f64 / median(rounds))
}
