//! Directories that Kafka itself wrote, each with a listing of its records as Kafka decodes them. A few lie beside the
//! tests; all are read where the larger collection is at hand.

#[path = "kafka_samples/describe.rs"]
mod describe;

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use stratalog::Offset;
use stratalog::format::file_name::{self, ParsedName, SegmentFileKind};
use stratalog::format::{
    AbortedTxn, BatchBuilder, BatchHeader, BatchView, Batches, Codec, Header, OffsetIndexEntry, Record, Scratch,
    TimeIndexEntry, TimestampType, checkpoint, empty_batch, end_marker, partition_metadata, patch_leader_epoch,
    patch_offset, snapshot,
};

/// The directories: those beside the tests, and the larger collection where it is at hand.
fn golden_dirs() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut dirs = subdirs(&root.join("tests/data/kafka-golden"));
    assert_eq!(dirs.len(), 11);
    let shared = std::env::var_os("STRATALOG_SAMPLES").map_or_else(|| root.join("../shared"), PathBuf::from);
    let shared = shared.join("kafka-golden");
    if shared.is_dir() {
        dirs.extend(subdirs(&shared));
    } else {
        eprintln!("SKIPPED: the larger collection of Kafka's directories is not at {}", shared.display());
    }
    dirs
}

fn subdirs(dir: &Path) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    dirs.retain(|path| path.is_dir());
    dirs.sort();
    dirs
}

/// The files of the one partition in a directory, sorted, as name and content.
fn partition_files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let partition = subdirs(dir).pop().unwrap();
    let read = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
    let mut files: Vec<_> = fs::read_dir(partition).unwrap().map(|entry| read(entry.unwrap())).collect();
    files.sort();
    files
}

fn files_of_kind(dir: &Path, wanted: SegmentFileKind) -> Vec<(String, Vec<u8>)> {
    let mut files = partition_files(dir);
    files
        .retain(|(name, _)| matches!(file_name::parse(name), Some(ParsedName::Segment { kind, .. }) if kind == wanted));
    files
}

/// Calls `f` with every batch of every directory whose codec this build has, and a name for messages.
fn for_each_batch(mut f: impl FnMut(&BatchView<'_>, &str)) {
    for dir in golden_dirs() {
        for (name, bytes) in files_of_kind(&dir, SegmentFileKind::Log) {
            for batch in Batches::new(&bytes) {
                let batch = batch.unwrap();
                if batch.header().attributes.codec().unwrap().is_supported() {
                    f(&batch, &format!("{}/{name} at {}", dir.display(), batch.header().base_offset));
                }
            }
        }
    }
}

#[test]
fn every_record_is_what_kafka_says_it_is() {
    let mut scratch = Scratch::default();
    for dir in golden_dirs() {
        let expected = fs::read_to_string(dir.join("expected.jsonl")).unwrap();
        let mut expected: VecDeque<Value> = expected.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for (name, bytes) in files_of_kind(&dir, SegmentFileKind::Log) {
            let mut batches = Batches::new(&bytes);
            loop {
                let position = batches.position();
                let Some(batch) = batches.next() else { break };
                let batch = batch.unwrap();
                batch.check_crc().unwrap();
                let mut in_batch = describe::describe_header(&batch);
                (in_batch["segment"], in_batch["position"]) = (name.clone().into(), position.into());
                if batch.header().count == 0 {
                    in_batch["emptyBatch"] = true.into();
                    assert_eq!(expected.pop_front(), Some(in_batch));
                    continue;
                }
                if !batch.header().attributes.codec().unwrap().is_supported() {
                    expected.drain(..batch.header().count as usize);
                    continue;
                }
                for record in batch.records(&mut scratch).unwrap() {
                    let record = describe::describe_record(&record.unwrap(), &in_batch);
                    assert_eq!(expected.pop_front(), Some(record), "{}", dir.display());
                }
            }
            assert_eq!(batches.position(), bytes.len());
        }
        assert!(expected.is_empty(), "{}", dir.display());
    }
}

#[test]
fn an_uncompressed_batch_is_rebuilt_byte_for_byte_even_when_compacted() {
    let (mut rebuilt, mut compacted) = (0, 0);
    for_each_batch(|batch, name| {
        let header = batch.header();
        // The builder sets no delete horizon, and makes no batch without records.
        let plain = header.attributes.codec() == Ok(Codec::None) && header.delete_horizon().is_none();
        // Kafka bases the deltas of a batch with append time on what the producer had sent.
        if !plain || header.count == 0 || header.attributes.timestamp_type() == TimestampType::LogAppendTime {
            return;
        }
        assert_eq!(rebuild(batch), batch.as_bytes(), "{name}");
        rebuilt += 1;
        compacted += u32::from(header.count <= header.last_offset_delta);
    });
    assert!(rebuilt > 20);
    assert!(compacted > 0 || golden_dirs().len() == 11);
}

fn rebuild(batch: &BatchView<'_>) -> Vec<u8> {
    let header = batch.header();
    let mut builder = BatchBuilder::new()
        .timestamp_type(header.attributes.timestamp_type())
        .producer(header.producer_id, header.producer_epoch, header.base_sequence)
        .transactional(header.attributes.is_transactional())
        .control(header.attributes.is_control())
        .leader_epoch(header.leader_epoch)
        .base_offset(header.base_offset)
        .last_offset_delta(header.last_offset_delta);
    for record in batch.records(&mut Scratch::default()).unwrap() {
        let record = record.unwrap();
        let headers: Vec<Header<'_>> = record.headers().collect();
        let delta = record.offset.since(header.base_offset) as u32;
        let record =
            Record { key: record.key, value: record.value, headers: &headers, timestamp: Some(record.timestamp) };
        builder.push_at(delta, &record, header.max_timestamp).unwrap();
    }
    builder.finish().unwrap().to_vec()
}

#[test]
fn a_transaction_marker_is_made_as_kafka_makes_it() {
    let mut markers = 0;
    for_each_batch(|batch, name| {
        let header = batch.header();
        let Some(control) = batch.control(&mut Scratch::default()).unwrap() else { return };
        let (id, epoch) = (header.producer_id, header.producer_epoch);
        let made = end_marker(control.marker, id, epoch, control.coordinator_epoch, control.timestamp).unwrap();
        assert_eq!(patched(made.as_bytes(), header), batch.as_bytes(), "{name}");
        markers += 1;
    });
    assert!(markers >= 4);
}

/// What the log changes in a batch that it appends.
fn patched(batch: &[u8], header: &BatchHeader) -> Vec<u8> {
    let mut bytes = batch.to_vec();
    patch_offset(&mut bytes, header.base_offset);
    patch_leader_epoch(&mut bytes, header.leader_epoch);
    bytes
}

#[test]
fn an_emptied_batch_is_what_kafka_leaves_of_it() {
    let mut empty = 0;
    for_each_batch(|batch, name| {
        if batch.header().count == 0 {
            let mut out = Vec::new();
            empty_batch(batch.header(), true, &mut out);
            assert_eq!(out, batch.as_bytes(), "{name}");
            empty += 1;
        }
    });
    assert!(empty > 0);
}

#[test]
fn every_file_beside_the_log_is_read_and_written_back_byte_for_byte() {
    for dir in golden_dirs() {
        for (name, bytes) in partition_files(&dir) {
            let parsed = file_name::parse(&name).unwrap_or_else(|| panic!("{name} is unknown"));
            let written = match parsed {
                ParsedName::Segment { kind: SegmentFileKind::Log, .. } => continue,
                ParsedName::Segment { base, kind, suffix } => {
                    assert_eq!(file_name::segment_file(base, kind, suffix), name);
                    rewrite_segment_file(kind, &bytes)
                }
                ParsedName::LeaderEpochs => {
                    checkpoint::write_epochs(&checkpoint::parse_epochs(&bytes).unwrap()).into_bytes()
                }
                ParsedName::PartitionMetadata => {
                    partition_metadata::write(partition_metadata::parse(&bytes).unwrap()).into_bytes()
                }
                other => panic!("Kafka writes no {other:?}"),
            };
            assert_eq!(written, bytes, "{}/{name}", dir.display());
        }
        let checkpoints = [
            file_name::RECOVERY_POINT_CHECKPOINT,
            file_name::LOG_START_CHECKPOINT,
            file_name::REPLICATION_CHECKPOINT,
            file_name::CLEANER_CHECKPOINT,
        ];
        for name in checkpoints {
            let Ok(bytes) = fs::read(dir.join(name)) else { continue };
            let entries = checkpoint::parse_offsets(&bytes).unwrap();
            assert_eq!(entries.len(), 1);
            assert!(dir.ends_with(&entries[0].topic));
            assert_eq!(checkpoint::write_offsets(&entries).into_bytes(), bytes, "{}/{name}", dir.display());
        }
    }
}

fn rewrite_segment_file(kind: SegmentFileKind, bytes: &[u8]) -> Vec<u8> {
    match kind {
        SegmentFileKind::Snapshot => snapshot::encode(&snapshot::decode(bytes).unwrap()),
        SegmentFileKind::TxnIndex => {
            bytes.chunks(AbortedTxn::LEN).flat_map(|entry| AbortedTxn::decode(entry).unwrap().encode()).collect()
        }
        SegmentFileKind::OffsetIndex => bytes
            .chunks(OffsetIndexEntry::LEN)
            .flat_map(|entry| OffsetIndexEntry::decode(entry).unwrap().encode())
            .collect(),
        SegmentFileKind::TimeIndex => bytes
            .chunks(TimeIndexEntry::LEN)
            .flat_map(|entry| TimeIndexEntry::decode(entry).unwrap().encode())
            .collect(),
        SegmentFileKind::Log | SegmentFileKind::Digest => unreachable!("not read here"),
    }
}

#[test]
fn the_snapshot_and_index_of_transactions_say_what_happened() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/kafka-golden/transactions");
    let (_, bytes) = files_of_kind(&dir, SegmentFileKind::TxnIndex).pop().unwrap();
    let aborted: Vec<_> = bytes.chunks(AbortedTxn::LEN).map(|entry| AbortedTxn::decode(entry).unwrap()).collect();
    let txn = |producer_id, first, last, stable| AbortedTxn {
        producer_id,
        first_offset: Offset::new(first),
        last_offset: Offset::new(last),
        last_stable_offset: Offset::new(stable),
    };
    assert_eq!(aborted, [txn(2, 3, 8, 9), txn(1, 11, 12, 13)]);

    let (_, bytes) = files_of_kind(&dir, SegmentFileKind::Snapshot).pop().unwrap();
    let producers = snapshot::decode(&bytes).unwrap();
    let summary: Vec<_> = producers.iter().map(|p| (p.producer_id, p.epoch, p.last_sequence, p.last_offset)).collect();
    assert_eq!(summary, [(1, 0, 2, Some(Offset::new(11))), (2, 5, 3, Some(Offset::new(9)))]);
    assert!(producers.iter().all(|p| p.coordinator_epoch == 7 && p.current_txn_first_offset.is_none()));
}
