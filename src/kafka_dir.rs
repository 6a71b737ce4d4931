//! The files that Kafka keeps in a log directory beside the partitions: read when one is taken over, written at close
//! so that a directory can go back.

use std::collections::HashMap;
use std::path::Path;

use crate::error::Result;
use crate::format::OffsetCheckpoint;
use crate::format::checkpoint;
use crate::format::file_name::{
    self, CLEAN_SHUTDOWN, CLEANER_CHECKPOINT, LOG_START_CHECKPOINT, RECOVERY_POINT_CHECKPOINT, REPLICATION_CHECKPOINT,
};
use crate::offset::Offset;
use crate::recovery::KafkaCheckpoints;
use crate::storage::{Storage, files};

/// A larger checkpoint file is none of Kafka's.
const CHECKPOINT_MAX: u64 = 256 << 20;
/// What we write into the marker of a clean shutdown. Kafka goes by its presence alone; we, by this, know that nobody
/// opened the directory since.
const OUR_SHUTDOWN: &[u8] = b"{\"version\":0,\"brokerEpoch\":-1,\"closedBy\":\"stratalog\"}";

/// The checkpoint files of a log directory.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    log_start: HashMap<(String, u32), Offset>,
    recovery_point: HashMap<(String, u32), Offset>,
    high_watermark: HashMap<(String, u32), Offset>,
    cleaned_to: HashMap<(String, u32), Offset>,
    pub(crate) shutdown: Shutdown,
    /// Any of the files is there.
    pub(crate) present: bool,
}

/// What the marker of a clean shutdown says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Shutdown {
    /// There is none: whoever had the directory open did not close it.
    #[default]
    Unclean,
    /// We closed it, and nobody opened it since.
    Ours,
    /// Kafka closed it.
    Kafka,
}

/// What is written for one partition at close.
#[derive(Clone, Debug)]
pub(crate) struct PartitionEnds {
    pub(crate) topic: String,
    pub(crate) partition: u32,
    pub(crate) log_start: Offset,
    pub(crate) end: Offset,
    pub(crate) high_watermark: Offset,
    pub(crate) cleaned_to: Option<Offset>,
}

impl Checkpoints {
    /// Reads the files; damaged ones count as empty, as in Kafka: that costs a scan, never data.
    pub(crate) fn load(storage: &dyn Storage, dir: &Path) -> Result<Checkpoints> {
        let mut present = false;
        let mut read = |name: &str| -> Result<HashMap<(String, u32), Offset>> {
            let bytes = files::read(storage, &dir.join(name), CHECKPOINT_MAX)?;
            present |= bytes.is_some();
            let entries = bytes.and_then(|bytes| checkpoint::parse_offsets(&bytes).ok()).unwrap_or_default();
            Ok(entries.into_iter().map(|entry| ((entry.topic, entry.partition), entry.offset)).collect())
        };
        let mut checkpoints = Checkpoints {
            log_start: read(LOG_START_CHECKPOINT)?,
            recovery_point: read(RECOVERY_POINT_CHECKPOINT)?,
            high_watermark: read(REPLICATION_CHECKPOINT)?,
            cleaned_to: read(CLEANER_CHECKPOINT)?,
            ..Checkpoints::default()
        };
        let marker = files::read(storage, &dir.join(CLEAN_SHUTDOWN), CHECKPOINT_MAX)?;
        checkpoints.present = present || marker.is_some();
        checkpoints.shutdown = match marker {
            None => Shutdown::Unclean,
            Some(bytes) if bytes == OUR_SHUTDOWN => Shutdown::Ours,
            Some(_) => Shutdown::Kafka,
        };
        Ok(checkpoints)
    }

    /// The entries of one file.
    fn file(&self, name: &str) -> &HashMap<(String, u32), Offset> {
        match name {
            LOG_START_CHECKPOINT => &self.log_start,
            RECOVERY_POINT_CHECKPOINT => &self.recovery_point,
            REPLICATION_CHECKPOINT => &self.high_watermark,
            CLEANER_CHECKPOINT => &self.cleaned_to,
            _ => unreachable!("no checkpoint file of Kafka's"),
        }
    }

    /// What they say of one partition.
    pub(crate) fn of(&self, topic: &str, partition: u32) -> KafkaCheckpoints {
        let key = (topic.to_owned(), partition);
        KafkaCheckpoints {
            log_start: self.log_start.get(&key).copied(),
            recovery_point: self.recovery_point.get(&key).copied(),
            high_watermark: self.high_watermark.get(&key).copied(),
            cleaned_to: self.cleaned_to.get(&key).copied(),
            clean: self.shutdown != Shutdown::Unclean,
        }
    }
}

/// Takes the marker of a clean shutdown away, before the first write: a crash from now on is one. The caller syncs the
/// directory.
pub(crate) fn begin(storage: &dyn Storage, dir: &Path) -> Result<()> {
    files::remove(storage, &dir.join(CLEAN_SHUTDOWN))
}

/// Writes the checkpoint files, and the marker last: all of them are on disk before it is.
///
/// What they say of `damaged` partitions stays, since it still holds, and there is no marker then: who opens the
/// directory next has to look at them.
pub(crate) fn hand_back(
    storage: &dyn Storage,
    dir: &Path,
    partitions: &[PartitionEnds],
    damaged: &[(String, u32)],
) -> Result<()> {
    let before = Checkpoints::load(storage, dir)?;
    let entry = |topic: &str, partition, offset: Option<Offset>| {
        offset.map(|offset| OffsetCheckpoint { topic: topic.to_owned(), partition, offset })
    };
    let write = |name: &str, offset: &dyn Fn(&PartitionEnds) -> Option<Offset>| {
        let kept = before.file(name);
        let kept = damaged.iter().filter_map(|key| entry(&key.0, key.1, kept.get(key).copied()));
        let entries: Vec<OffsetCheckpoint> =
            partitions.iter().filter_map(|p| entry(&p.topic, p.partition, offset(p))).chain(kept).collect();
        let text = checkpoint::write_offsets(&entries);
        files::replace(storage, dir, &dir.join(name), &dir.join(file_name::temporary(name)), text.as_bytes())
    };
    write(LOG_START_CHECKPOINT, &|p| Some(p.log_start))?;
    write(RECOVERY_POINT_CHECKPOINT, &|p| Some(p.end))?;
    write(REPLICATION_CHECKPOINT, &|p| Some(p.high_watermark))?;
    write(CLEANER_CHECKPOINT, &|p| p.cleaned_to)?;
    if !damaged.is_empty() {
        return Ok(());
    }
    files::replace(
        storage,
        dir,
        &dir.join(CLEAN_SHUTDOWN),
        &dir.join(file_name::temporary(CLEAN_SHUTDOWN)),
        OUR_SHUTDOWN,
    )
}
