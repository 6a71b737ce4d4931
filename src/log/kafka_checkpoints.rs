//! The files that Kafka keeps in a log directory beside the partitions. They are read when a directory is taken over,
//! and written at close so that Kafka can use the directory again. Beside them is a file of our own, which says whether
//! the log is open ([`ownership`]).

use std::path::Path;

use crate::catalog::Catalog;
use crate::catalog::ownership::{self, Checkpoint, Last, OUR_SHUTDOWN, STATE_MAX, Shutdown, Signs};
use crate::error::{Error, ErrorKind, Result};
use crate::format::file_name::{
    self, CLEAN_SHUTDOWN, CLEANER_CHECKPOINT, LOG_START_CHECKPOINT, RECOVERY_POINT_CHECKPOINT, REPLICATION_CHECKPOINT,
    STATE, USE,
};
use crate::format::{OffsetCheckpoint, Phase, Usage, checkpoint};
use crate::offset::Offset;
use crate::recovery::KafkaCheckpoints;
use crate::storage::{OpenMode, Storage, small_file};

use super::directory;

/// The values written for one partition at close.
#[derive(Clone, Debug)]
pub(crate) struct PartitionEnds {
    pub(crate) topic: String,
    pub(crate) partition: u32,
    pub(crate) log_start: Offset,
    pub(crate) end: Offset,
    pub(crate) high_watermark: Offset,
    pub(crate) cleaned_to: Option<Offset>,
}

/// Returns what the checkpoint files say about one partition.
pub(crate) fn checkpoints_of(signs: &Signs, topic: &str, partition: u32) -> KafkaCheckpoints {
    let key = (topic.to_owned(), partition);
    KafkaCheckpoints {
        log_start: signs.log_start.get(&key).copied(),
        recovery_point: signs.recovery_point.get(&key).copied(),
        high_watermark: signs.high_watermark.get(&key).copied(),
        cleaned_to: signs.cleaned_to.get(&key).copied(),
        clean: signs.shutdown != Shutdown::Unclean,
    }
}

/// Returns who used a directory of ours last. `found` are the partitions on disk.
pub(crate) fn last(
    storage: &dyn Storage,
    dir: &Path,
    signs: &Signs,
    catalog: &Catalog,
    found: &[(&str, u32)],
) -> Result<Last> {
    let is_known = |name: &str, id: u32| catalog.topics.get(name).is_some_and(|topic| topic.partitions.contains(&id));
    let partitions: Vec<_> = found.iter().map(|(name, id)| (*name, *id, is_known(name, *id))).collect();
    signs.last(storage, dir, &partitions)
}

/// Updates the catalog with what Kafka has done to topics meanwhile. Partitions that Kafka removed leave the catalog. A
/// topic that Kafka created again under an old name counts as a new one, without a configuration. Returns the removed
/// partitions.
pub(crate) fn follow(
    storage: &dyn Storage,
    dir: &Path,
    signs: &Signs,
    catalog: &mut Catalog,
    found: &[(&str, u32)],
) -> Result<Vec<(String, u32)>> {
    let mut removed = Vec::new();
    for (name, entry) in catalog.topics.iter_mut().filter(|(_, entry)| !entry.deleted) {
        let is_gone = |id: &u32| !found.contains(&(name, *id)) && signs.has_let_go_of(name, *id);
        let gone: Vec<u32> = entry.partitions.iter().copied().filter(is_gone).collect();
        for id in gone {
            entry.partitions.remove(&id);
            entry.taking_over.remove(&id);
            removed.push((name.clone(), id));
        }
    }
    catalog.topics.retain(|name, entry| !entry.partitions.is_empty() || !removed.iter().any(|(gone, _)| gone == name));
    for (name, id) in found {
        let Some(entry) = catalog.topics.get(*name).filter(|entry| entry.partitions.contains(id)) else { continue };
        let path = dir.join(file_name::partition_dir(name, *id));
        let is_another = directory::topic_id(storage, &path).is_some_and(|id| id != entry.id);
        if is_another && small_file::read(storage, &path.join(STATE), STATE_MAX)?.is_none() {
            catalog.topics.remove(*name);
        }
    }
    Ok(removed)
}

/// Records durably that the log is open, and removes the clean-shutdown marker, before the first write. A crash from
/// now on is one of ours. The caller syncs the directory.
pub(crate) fn begin(storage: &dyn Storage, dir: &Path, signs: &Signs) -> Result<()> {
    let open = Usage { phase: Phase::Open, checkpoints: signs.checkpoints_crc };
    let is_known = |usage: Usage| usage.phase != Phase::Closing && usage.checkpoints == open.checkpoints;
    if !signs.usage.is_some_and(is_known) {
        // A power cut may undo the renames of a killed process. The files from before them would then be another
        // owner's.
        storage.sync_dir(dir).map_err(|e| Error::io(e, dir))?;
    }
    match signs.usage {
        Some(usage) if usage.checkpoints == open.checkpoints => overwrite_usage(storage, dir, &open)?,
        known => match replace_usage(storage, dir, &open) {
            // Opening must work without free space. Without the file, or after a crash during a close, the other files
            // tell as much as they can.
            Err(error) if *error.kind() == ErrorKind::DiskFull && known.is_none_or(|k| k.phase == Phase::Closing) => {}
            replaced => replaced?,
        },
    }
    small_file::remove(storage, &dir.join(CLEAN_SHUTDOWN))
}

/// Writes the checkpoint files, then the clean-shutdown marker, and last records that the log is closed. Each is on
/// disk before the next.
///
/// The checkpoints of `damaged` partitions stay as they are, since they still hold. If there are any, no marker is
/// written: the next process that opens the directory must check those partitions.
pub(crate) fn hand_back(
    storage: &dyn Storage,
    dir: &Path,
    partitions: &[PartitionEnds],
    damaged: &[(String, u32)],
) -> Result<()> {
    let before = Signs::load(storage, dir)?;
    let entry = |topic: &str, partition, offset: Option<Offset>| {
        offset.map(|offset| OffsetCheckpoint { topic: topic.to_owned(), partition, offset })
    };
    let text = |kept: &Checkpoint, offset: &dyn Fn(&PartitionEnds) -> Option<Offset>| {
        let kept = damaged.iter().filter_map(|key| entry(&key.0, key.1, kept.get(key).copied()));
        let entries: Vec<OffsetCheckpoint> =
            partitions.iter().filter_map(|p| entry(&p.topic, p.partition, offset(p))).chain(kept).collect();
        checkpoint::write_offsets(&entries)
    };
    let texts = [
        text(&before.log_start, &|p| Some(p.log_start)),
        text(&before.recovery_point, &|p| Some(p.end)),
        text(&before.high_watermark, &|p| Some(p.high_watermark)),
        text(&before.cleaned_to, &|p| p.cleaned_to),
    ];
    let mut usage = Usage { phase: Phase::Closing, checkpoints: Some(ownership::checkpoints_crc(&texts)) };
    replace_usage(storage, dir, &usage)?;
    let replace = |name: &str, bytes: &[u8]| {
        small_file::replace(storage, dir, &dir.join(name), &dir.join(file_name::temporary(name)), bytes)
    };
    let names = [LOG_START_CHECKPOINT, RECOVERY_POINT_CHECKPOINT, REPLICATION_CHECKPOINT, CLEANER_CHECKPOINT];
    names.iter().zip(&texts).try_for_each(|(name, text)| replace(name, text.as_bytes()))?;
    usage.phase = Phase::Open;
    if damaged.is_empty() {
        replace(CLEAN_SHUTDOWN, OUR_SHUTDOWN)?;
        usage.phase = Phase::Closed;
    }
    overwrite_usage(storage, dir, &usage)
}

fn replace_usage(storage: &dyn Storage, dir: &Path, usage: &Usage) -> Result<()> {
    small_file::replace(storage, dir, &dir.join(USE), &dir.join(file_name::temporary(USE)), usage.encode().as_bytes())
}

/// Changes only the phase in the file: one byte, in place. The checksum of the checkpoint files in it stays.
fn overwrite_usage(storage: &dyn Storage, dir: &Path, usage: &Usage) -> Result<()> {
    let path = dir.join(USE);
    let at = |e| Error::io(e, &path);
    let file = storage.open(&path, OpenMode::Write).map_err(at)?;
    file.write_at(usage.encode().as_bytes(), 0).map_err(at)?;
    file.sync().map_err(at)
}
