//! Whose a log directory is: ours as we or a crash left it, a copy of that, or Kafka's since.
//!
//! "Open" is durable in our own file, `stratalog.use`, before Kafka's marker of a clean shutdown is removed, and "closed"
//! is written when the marker is there. Kafka removes the marker when it starts, too. So:
//!
//! | marker | our file | whose |
//! |---|---|---|
//! | ours | | ours: nobody opened the directory since, or our open ended before it wrote anything |
//! | Kafka's | | Kafka's, closed in good order |
//! | gone | open | ours, after a crash; Kafka's, if its checkpoint files are others than those that we know |
//! | gone | closed | a copy without the marker, if all segments are as `state` has them; else Kafka's, which was killed |
//! | gone | closing | ours, after a crash while the checkpoint files were written |
//! | gone | is not there | ours, after a crash; Kafka's, if its checkpoint files are ahead of a `state` |
//!
//! An index that is preallocated is Kafka's as well. Inodes and times tell nothing: those of a copy are others.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use crate::error::{Error, Result};
use crate::format::file_name::{
    self, CLEAN_SHUTDOWN, CLEANER_CHECKPOINT, LOG_START_CHECKPOINT, ParsedName, RECOVERY_POINT_CHECKPOINT,
    REPLICATION_CHECKPOINT, SegmentFileKind, Suffix, USE,
};
use crate::format::state::decode_slot;
use crate::format::{OffsetCheckpoint, OffsetIndexEntry, Phase, State, Usage, checkpoint};
use crate::offset::Offset;
use crate::segment::boundary::{Boundary, Looked};
use crate::storage::{FileInfo, FileKind, OpenMode, Storage, small_file};

/// A larger checkpoint file is none of Kafka's.
const CHECKPOINT_MAX: u64 = 256 << 20;
/// A larger `state` is none of ours.
pub(crate) const STATE_MAX: u64 = 1 << 30;
/// So often the files are looked at whose owner keeps changing them.
const LOOKS: u32 = 1000;
/// What we write into the marker of a clean shutdown. Kafka goes by its presence alone; we, by this, know that nobody
/// opened the directory since.
pub(crate) const OUR_SHUTDOWN: &[u8] = b"{\"version\":0,\"brokerEpoch\":-1,\"closedBy\":\"stratalog\"}";

/// One of Kafka's checkpoint files.
pub(crate) type Checkpoint = HashMap<(String, u32), Offset>;

/// What the files beside the partitions say of who had the directory last.
#[derive(Debug, Default)]
pub(crate) struct Signs {
    pub(crate) shutdown: Shutdown,
    /// What our own file says; `None` where it is not there, or not sound.
    pub(crate) usage: Option<Usage>,
    has_usage: bool,
    pub(crate) log_start: Checkpoint,
    pub(crate) recovery_point: Checkpoint,
    pub(crate) high_watermark: Checkpoint,
    pub(crate) cleaned_to: Checkpoint,
    /// The CRC-32 of the checkpoint files; `None` where one is not there, or damaged.
    pub(crate) checkpoints_crc: Option<u32>,
    /// Whether the file of recovery points is there and sound: it names every partition that Kafka had.
    lists_partitions: bool,
}

/// What the marker of a clean shutdown says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Shutdown {
    /// There is none: the last one to have the directory open did not close it.
    #[default]
    Unclean,
    /// We closed it, and nobody opened it since.
    Ours,
    /// Kafka closed it.
    Kafka,
}

/// Who had a directory of ours last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Last {
    /// We did.
    Ours,
    /// Kafka did since: what `state` says of segments is what was, not what is.
    Kafka {
        /// Whether it closed the directory in good order.
        clean: bool,
    },
}

impl Signs {
    /// Reads the files. Damaged checkpoint files count as empty, as in Kafka: that costs a scan, never data.
    pub(crate) fn load(storage: &dyn Storage, dir: &Path) -> Result<Signs> {
        let usage = || small_file::read(storage, &dir.join(USE), CHECKPOINT_MAX);
        let mut before = usage()?;
        let mut looks = 1;
        loop {
            let signs = Signs::look(storage, dir)?;
            let after = usage()?;
            // An owner that opens or closes the log meanwhile says so there: what was read may be of either time.
            if after == before || looks == LOOKS {
                let has_usage = after.is_some();
                let usage = after.and_then(|bytes| Usage::decode(&bytes).ok());
                return Ok(Signs { usage, has_usage, ..signs });
            }
            (before, looks) = (after, looks + 1);
        }
    }

    /// All but what our own file says.
    fn look(storage: &dyn Storage, dir: &Path) -> Result<Signs> {
        let marker = small_file::read(storage, &dir.join(CLEAN_SHUTDOWN), CHECKPOINT_MAX)?;
        let mut signs = Signs {
            shutdown: match marker {
                None => Shutdown::Unclean,
                Some(bytes) if bytes == OUR_SHUTDOWN => Shutdown::Ours,
                Some(_) => Shutdown::Kafka,
            },
            ..Signs::default()
        };
        let mut all = Some(Vec::new());
        for (name, into) in [
            (LOG_START_CHECKPOINT, &mut signs.log_start),
            (RECOVERY_POINT_CHECKPOINT, &mut signs.recovery_point),
            (REPLICATION_CHECKPOINT, &mut signs.high_watermark),
            (CLEANER_CHECKPOINT, &mut signs.cleaned_to),
        ] {
            let Some(bytes) = small_file::read(storage, &dir.join(name), CHECKPOINT_MAX)? else {
                all = None;
                continue;
            };
            let entries = checkpoint::parse_offsets(&bytes);
            signs.lists_partitions |= name == RECOVERY_POINT_CHECKPOINT && entries.is_ok();
            // A damaged one tells nothing of who wrote it.
            all = all.filter(|_| entries.is_ok()).map(|all| [&all[..], &bytes].concat());
            *into = by_partition(entries.unwrap_or_default());
        }
        signs.checkpoints_crc = all.map(|all| crc32fast::hash(&all));
        Ok(signs)
    }

    /// Whether Kafka has let go of a partition whose directory is gone: what it has, it names.
    pub(crate) fn has_let_go_of(&self, topic: &str, partition: u32) -> bool {
        self.lists_partitions && !self.recovery_point.contains_key(&(topic.to_owned(), partition))
    }

    /// Who had the directory last, which is ours. `partitions` are those that are there, and whether the catalog knows
    /// them.
    pub(crate) fn last(&self, storage: &dyn Storage, dir: &Path, partitions: &[(&str, u32, bool)]) -> Result<Last> {
        let killed = Last::Kafka { clean: false };
        match self.shutdown {
            Shutdown::Ours => return Ok(Last::Ours),
            Shutdown::Kafka => return Ok(Last::Kafka { clean: true }),
            Shutdown::Unclean => {}
        }
        if let Some(Usage { phase: Phase::Open | Phase::Closed, checkpoints }) = self.usage
            && self.checkpoints_crc.is_some_and(|crc| checkpoints != Some(crc))
        {
            return Ok(killed);
        }
        let phase = self.usage.map(|usage| usage.phase);
        if phase == Some(Phase::Open) {
            return Ok(Last::Ours);
        }
        for (topic, id, is_known) in partitions {
            let dir = dir.join(file_name::partition_dir(topic, *id));
            let is_kafkas = match (phase, newest_state(storage, &dir)?) {
                (Some(Phase::Closed), Some(state)) => has_changed(storage, &dir, &state)?,
                // Ours have a `state` before they have a record.
                (Some(Phase::Closed), None) => !is_known && logs(storage, &dir)?.iter().any(|(_, info)| info.len > 0),
                (None, Some(state)) if !self.has_usage => self.is_ahead(topic, *id, &state),
                _ => false,
            };
            if is_kafkas || is_held_by_kafka(storage, &dir)? {
                return Ok(killed);
            }
        }
        Ok(Last::Ours)
    }

    /// Whether the checkpoint files know of something that `state` does not: what we write at close is what it says.
    fn is_ahead(&self, topic: &str, id: u32, state: &State) -> bool {
        let key = (topic.to_owned(), id);
        let recovery_point = self.recovery_point.get(&key);
        self.cleaned_to.contains_key(&key) || recovery_point.is_some_and(|point| *point > state.durable_end)
    }
}

/// The offsets of a checkpoint file.
fn by_partition(entries: Vec<OffsetCheckpoint>) -> Checkpoint {
    entries.into_iter().map(|entry| ((entry.topic, entry.partition), entry.offset)).collect()
}

/// The CRC-32 of Kafka's checkpoint files, given in this order: log starts, recovery points, high watermarks, cleaned.
pub(crate) fn checkpoints_crc(files: &[String; 4]) -> u32 {
    crc32fast::hash(files.concat().as_bytes())
}

/// The newest sound slot of a partition's `state`. One that cannot be read tells nothing here; whoever opens the
/// partition says so.
fn newest_state(storage: &dyn Storage, dir: &Path) -> Result<Option<State>> {
    let Some(bytes) = small_file::read(storage, &dir.join(file_name::STATE), STATE_MAX)? else { return Ok(None) };
    let half = bytes.len() / 2;
    let slots = [bytes.get(..half), bytes.get(bytes.len() - half..)];
    let sound = slots.into_iter().flatten().filter_map(|slot| decode_slot(slot).ok());
    Ok(sound.max_by_key(|(sequence, _)| *sequence).map(|(_, state)| state))
}

/// The `.log` files of a partition, in order of their bases.
fn logs(storage: &dyn Storage, dir: &Path) -> Result<Vec<(Offset, FileInfo)>> {
    let mut logs = Vec::new();
    for entry in storage.list(dir).map_err(|e| Error::io(e, dir))? {
        if let Some(ParsedName::Segment { base, kind: SegmentFileKind::Log, suffix: Suffix::None }) =
            file_name::parse(&entry.name)
            && entry.kind == FileKind::File
        {
            let path = dir.join(&entry.name);
            logs.push((base, storage.info(&path).map_err(|e| Error::io(e, &path))?));
        }
    }
    logs.sort_unstable_by_key(|(base, _)| *base);
    Ok(logs)
}

/// Whether Kafka had a partition open that we have closed: a segment is longer or shorter than its `state` has it, or
/// new, or the last batch of the active one ends at another offset. One that is missing tells nothing, and damage is no
/// other's doing.
fn has_changed(storage: &dyn Storage, dir: &Path, state: &State) -> Result<bool> {
    let logs = logs(storage, dir)?;
    let recorded = |base: Offset| state.segments.iter().find(|segment| segment.base == base);
    // Where the last one is on record, all are.
    let is_whole = recorded(state.active_base).is_some();
    for (base, info) in &logs {
        let len = match recorded(*base) {
            Some(segment) => segment.len,
            None if *base == state.active_base => state.durable_position,
            None if *base < state.active_base && !is_whole => continue,
            None => return Ok(true),
        };
        if info.len != len {
            return Ok(true);
        }
    }
    let Some((base, info)) = logs.last().filter(|(base, info)| *base == state.active_base && info.len > 0) else {
        return Ok(false);
    };
    let path = dir.join(file_name::segment_file(*base, SegmentFileKind::Log, Suffix::None));
    let file = storage.open(&path, OpenMode::Read).map_err(|e| Error::io(e, &path))?;
    let looked = Looked { storage, dir, file: &*file, base: *base, len: info.len };
    let boundary = looked.boundary(info.len, state.durable_end).map_err(|e| e.at_path(&path))?;
    Ok(boundary == Boundary::Elsewhere)
}

/// Whether the index of the last segment ends in zeros: Kafka makes it as long as it may become, and trims it when it
/// closes the log. We leave no zeros in one.
fn is_held_by_kafka(storage: &dyn Storage, dir: &Path) -> Result<bool> {
    let logs = logs(storage, dir)?;
    let Some((base, _)) = logs.last() else { return Ok(false) };
    let path = dir.join(file_name::segment_file(*base, SegmentFileKind::OffsetIndex, Suffix::None));
    let at = |e| Error::io(e, &path);
    let index = match storage.open(&path, OpenMode::Read) {
        Ok(index) => index,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(at(e)),
    };
    let mut entry = [u8::MAX; OffsetIndexEntry::LEN];
    let Some(last) = index.info().map_err(at)?.len.checked_sub(entry.len() as u64) else { return Ok(false) };
    index.read_at(&mut entry, last).map_err(at)?;
    Ok(entry == [0; OffsetIndexEntry::LEN])
}
