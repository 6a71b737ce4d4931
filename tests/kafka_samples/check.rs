//! What Kafka writes of segments and their indexes, and relies on.

#![allow(dead_code)]

use std::fs;
use std::path::Path;

use stratalog::format::{BatchHeader, Batches, OffsetIndexEntry, TimeIndexEntry};

use super::files_ending;

/// One batch in a `.log`: its header and where it lies.
pub fn batches(bytes: &[u8]) -> Vec<(BatchHeader, usize)> {
    let mut found = Vec::new();
    let mut batches = Batches::new(bytes);
    loop {
        let position = batches.position();
        let Some(batch) = batches.next() else { break };
        let batch = batch.unwrap();
        batch.check_crc().unwrap();
        found.push((*batch.header(), position));
    }
    assert_eq!(batches.position(), bytes.len(), "no zeros, and no half batch");
    found
}

pub fn base_of(name: &str) -> u64 {
    assert_eq!(name.split_once('.').unwrap().0.len(), 20);
    name.split_once('.').unwrap().0.parse().unwrap()
}

/// Holds the files of a partition against what Kafka writes and relies on (docs/format.md, "Indexes").
pub fn check_files(dir: &Path, interval: usize, what: &str) {
    let logs = files_ending(dir, ".log");
    let mut end = base_of(&logs[0].0);
    for (name, bytes) in &logs {
        let base = base_of(name);
        assert_eq!(base, end, "{what}/{name}: the chain has no hole");
        let batches = check_segment(dir, name, bytes, interval, what);
        end = batches.last().map_or(base, |(header, _)| header.next_offset().get());
    }
}

/// One segment of them; returns its batches.
pub fn check_segment(dir: &Path, name: &str, bytes: &[u8], interval: usize, what: &str) -> Vec<(BatchHeader, usize)> {
    let (base, batches) = (base_of(name), batches(bytes));
    let read = |kind: &str| match fs::read(dir.join(name.replace(".log", kind))) {
        // Kafka makes those of an empty segment.
        Err(_) if bytes.is_empty() => Vec::new(),
        read => read.unwrap_or_else(|e| panic!("{what}/{name}, {kind}: {e}")),
    };
    check_offset_index(&read(".index"), &batches, base, interval, &format!("{what}/{name}"));
    check_time_index(&read(".timeindex"), &batches, base, &format!("{what}/{name}"));
    batches
}

pub fn check_offset_index(index: &[u8], batches: &[(BatchHeader, usize)], base: u64, interval: usize, what: &str) {
    assert!(index.len().is_multiple_of(OffsetIndexEntry::LEN), "{what}");
    let entries: Vec<OffsetIndexEntry> =
        index.chunks(OffsetIndexEntry::LEN).map(|entry| OffsetIndexEntry::decode(entry).unwrap()).collect();
    assert!(entries.is_sorted_by(|a, b| a.offset < b.offset && a.position < b.position), "{what}");
    for entry in &entries {
        let offset = base + u64::from(entry.offset);
        let (header, _) = batches.iter().find(|(_, at)| *at == entry.position as usize).expect("a batch begins there");
        assert!(entry.position > 0 && header.base_offset.get() <= offset, "{what}");
        let before = batches.iter().filter(|(_, at)| *at < entry.position as usize);
        assert!(before.into_iter().all(|(header, _)| header.last_offset().get() < offset), "{what}");
    }
    let ends: Vec<usize> = entries.iter().map(|entry| entry.position as usize).collect();
    let size = batches.last().map_or(0, |(header, at)| at + header.size);
    let largest = batches.iter().map(|(header, _)| header.size).max().unwrap_or(0);
    for pair in [&[0], ends.as_slice(), &[size]].concat().windows(2) {
        assert!(pair[1] - pair[0] <= interval + 2 * largest, "{what}: entries are too far apart");
    }
}

pub fn check_time_index(index: &[u8], batches: &[(BatchHeader, usize)], base: u64, what: &str) {
    assert!(index.len().is_multiple_of(TimeIndexEntry::LEN), "{what}");
    let entries: Vec<TimeIndexEntry> =
        index.chunks(TimeIndexEntry::LEN).map(|entry| TimeIndexEntry::decode(entry).unwrap()).collect();
    assert!(entries.is_sorted_by(|a, b| a.timestamp < b.timestamp && a.offset < b.offset), "{what}: {entries:?}");
    for entry in &entries {
        let offset = base + u64::from(entry.offset);
        let before = batches.iter().filter(|(header, _)| header.base_offset.get() < offset);
        assert!(before.into_iter().all(|(header, _)| header.max_timestamp <= entry.timestamp), "{what}");
    }
    // Kafka takes the last entry for the largest timestamp of the segment.
    let largest = batches.iter().map(|(header, _)| header.max_timestamp).max();
    assert_eq!(entries.last().map(|entry| entry.timestamp), largest, "{what}");
}
