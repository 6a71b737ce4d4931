//! The files that a partition stores beside its logs: `state`, and everything that can be derived from the logs.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::file_name::{self, SegmentFileKind, Suffix};
use crate::format::{Pending, SegmentState, State};
use crate::offset::Offset;
use crate::partition::checkpoint::{Capture, Producers};
use crate::partition::redo::{self, Holders};
use crate::replay::leader_epochs::LeaderEpochs;
use crate::replay::producers::Producers as ProducerState;
use crate::replay::{Nobody, Replay};
use crate::segment::Segment;
use crate::segment::index::Sums;
use crate::segment::list::SegmentList;
use crate::segment::listing::{self, LogFile};
use crate::storage::small_file;

use super::core::PartitionCore;

/// How many times a segment is looked up again after it was renamed before it could be opened.
const RENAMED_TRIES: usize = 10;

impl PartitionCore {
    /// Returns the contents of the `state` file without the metadata of the segments.
    pub(crate) fn state(&self) -> State {
        self.state.get()
    }

    /// Returns the contents of the `state` file including the segments, which are read from the file for this.
    pub(crate) fn whole_state(&self) -> Result<State> {
        self.state.read()
    }

    /// The base of the active segment on record: see
    /// [`StateFile::active_base`](crate::partition::state_file::StateFile::active_base).
    pub(crate) fn recorded_active(&self) -> Offset {
        self.state.active_base()
    }

    /// Changes the `state` file durably, and refreshes the segment metadata cached in it.
    pub(crate) fn update_state(&self, change: impl FnOnce(&mut State)) -> Result<()> {
        self.state.update(|state| {
            // Computed here, where updates run one after the other, so that no update takes back what the previous one
            // wrote. The log start is on record before it is in memory, so it is not taken from memory.
            let view = self.view.load();
            // Not beyond what a power cut leaves: else what is appended there afterwards would count as replicated.
            state.high_watermark = self.high_watermark().min(self.group_commit.end()).max(state.log_start);
            state.planned = self.lock_compaction_state().planned();
            let checkpoint = (state.active_base, state.durable_position);
            change(state);
            let moved = checkpoint != (state.active_base, state.durable_position);
            state.segments = view.segments().iter().map(|segment| self.segment_state(segment, state, moved)).collect();
        })
    }

    /// Whether this partition is open for reading only and the owner has changed its files since.
    #[cold]
    pub(crate) fn is_outdated(&self) -> bool {
        let is_same = |segment: &Arc<Segment>| {
            let info = self.dir.storage.info(&segment.path());
            info.is_ok_and(|info| info.id == segment.meta().id && info.len >= segment.len())
        };
        self.read_only && (self.state.is_outdated() || !self.view.load().segments().iter().all(is_same))
    }

    /// Translates an error of a read: damage, or a missing file, may be the owner's doing. The error is then
    /// `Outdated`.
    #[cold]
    pub(crate) fn blame(&self, error: Error) -> Error {
        let may_be = error.is_corruption() || *error.kind() == ErrorKind::Io(io::ErrorKind::NotFound);
        if may_be && self.is_outdated() { Error::from(ErrorKind::Outdated).at_path(&self.dir.path) } else { error }
    }

    /// Makes the `state` that was read at open durable.
    pub(crate) fn settle_state(&self) -> Result<()> {
        self.state.settle()
    }

    /// Makes both copies of the `state` file durable.
    pub(crate) fn sync_state(&self) -> Result<()> {
        self.state.sync()
    }

    /// Carries out what `state` says is pending.
    pub(crate) fn redo(&self, pending: Pending, holders: Holders) -> Result<()> {
        redo::redo(&self.dir, &self.state, pending, holders)
    }

    /// Stores everything derived from a sealed segment beside it. All of it is durable except the names, which need a
    /// sync of the directory.
    pub(crate) fn store_sidecars(&self, segment: &Segment, producers: &Producers) -> Result<()> {
        self.store_snapshot(producers)?;
        self.store_epochs()?;
        store_whole_index(segment)
    }

    /// Stores what recovery derived from the active segment.
    pub(crate) fn store_recovered(&self, active: &Segment, producers: &Producers) -> Result<()> {
        self.store_snapshot(producers)?;
        self.store_epochs()?;
        store_whole_index(active)?;
        self.dir.sync_dir()
    }

    /// Stores what was derived from the active segment up to a checkpoint.
    pub(crate) fn store_checkpoint(&self, capture: &Capture) -> Result<()> {
        self.store_snapshot(&capture.producers)?;
        self.store_epochs()?;
        capture.segment.store_index(Some(capture.index_entries))?;
        capture.segment.update_meta(|facts| facts.max_timestamp = capture.max_timestamp);
        self.dir.sync_dir()
    }

    /// The path of the producer snapshot at an offset.
    pub(crate) fn snapshot_path(&self, at: Offset) -> PathBuf {
        self.dir.segment_path(at, SegmentFileKind::Snapshot, Suffix::None)
    }

    /// Rebuilds the aborted transactions of a segment whose index file is missing or unusable.
    pub(crate) fn rebuild_aborted(&self, view: &SegmentList, segment: &Segment) -> Result<()> {
        let find = |end| {
            let logs: Vec<LogFile> = view.segments().iter().map(|segment| LogFile::of(segment)).collect();
            let snapshots = listing::snapshots(&self.dir)?;
            let mut replay = Replay::new(LeaderEpochs::default());
            let base = segment.base();
            replay.producers_before(&self.dir, &logs, &snapshots, base, base, Nobody::Never)?;
            let mut aborted = Vec::new();
            replay.replay(&self.dir, &LogFile::of(segment), base, end, |entry| aborted.push(entry))?;
            Ok(aborted)
        };
        segment.find_aborted(|end| while_renamed(|| find(end)))
    }

    /// Replays the log up to its end and returns the producers, including every transaction that has ended at or above
    /// `settled`. The caller holds the appender's lock.
    pub(crate) fn replayed_producers(&self, settled: Offset) -> Result<ProducerState> {
        while_renamed(|| {
            let view = self.view.load();
            let logs: Vec<LogFile> = view.segments().iter().map(|segment| LogFile::of(segment)).collect();
            let snapshots = listing::snapshots(&self.dir)?;
            let mut replay = Replay::new(LeaderEpochs::default());
            replay.producers_before(&self.dir, &logs, &snapshots, view.end(), settled, Nobody::Never)?;
            Ok(replay.producers)
        })
    }

    fn store_snapshot(&self, producers: &Producers) -> Result<()> {
        let Some(bytes) = &producers.snapshot else { return Ok(()) };
        self.dir.put_snapshot(producers.at, bytes)
    }

    /// Stores the leader epochs if they have changed. They cover everything up to the log end, and so everything
    /// durable.
    pub(crate) fn store_epochs(&self) -> Result<()> {
        let Some(text) = self.lock_leader_epochs().take_changed() else { return Ok(()) };
        let path = self.dir.file_path(file_name::LEADER_EPOCHS);
        let temporary = self.dir.file_path(&file_name::temporary(file_name::LEADER_EPOCHS));
        small_file::replace(&*self.dir.storage, &self.dir.path, &path, &temporary, text.as_bytes())
            .inspect_err(|_| self.lock_leader_epochs().mark_changed())
    }

    /// Removes producer snapshots that no recovery needs: all but the ones at a segment's base and the one that `state`
    /// names.
    pub(crate) fn remove_old_snapshots(&self) {
        let keep = self.state.get().producers_at;
        let bases: Vec<Offset> = self.view.load().segments().iter().map(|segment| segment.base()).collect();
        // A leftover costs a little space. The next call tries again.
        let Ok(snapshots) = listing::snapshots(&self.dir) else { return };
        for at in snapshots.into_iter().filter(|at| Some(*at) != keep && bases.binary_search(at).is_err()) {
            let _ = small_file::remove(&*self.dir.storage, &self.snapshot_path(at));
        }
    }

    /// `moved`: the checkpoint differs from the one in the previous `state`, whose segments `state` still holds.
    fn segment_state(&self, segment: &Segment, state: &State, moved: bool) -> SegmentState {
        let facts = segment.meta();
        let active = segment.base() == state.active_base;
        // Entries that were rebuilt and not stored exist only in memory. The files must still not be trusted.
        let sums = if !active || state.durable_position == segment.len() {
            segment.whole_sums()
        } else if moved {
            segment.sums_below(state.durable_end)
        } else {
            // The files may be ahead already, stored for a checkpoint that is not on record yet. Recovery rebuilds the
            // entries behind the checkpoint, so only the entries before it are recorded.
            let same = |known: &&SegmentState| (known.base, known.id) == (segment.base(), facts.id);
            state.segments.iter().find(same).map_or(Sums::default(), Sums::from).still_in(&segment.sums())
        };
        // For the active segment only the durable part is recorded.
        let (end, len) = if active {
            (state.durable_end.max(segment.base()), state.durable_position)
        } else {
            (segment.end(), segment.len())
        };
        SegmentState {
            base: segment.base(),
            end,
            len,
            id: facts.id,
            modified: facts.modified,
            max_timestamp: facts.max_timestamp,
            first_append_at: facts.first_append_at,
            sealed_at: facts.sealed_at,
            tombstone_horizon: facts.horizon(),
            dead_records: facts.dead_records.into(),
            dead_bytes: facts.dead_bytes.into(),
            offsets: sums.offsets,
            times: sums.times,
            aborted: sums.aborted,
        }
    }
}

/// Reads segments by their current names. Retries when a compaction or a deletion has renamed one before it was opened:
/// the segments in memory know their new names.
fn while_renamed<T>(mut read: impl FnMut() -> Result<T>) -> Result<T> {
    let mut tries = RENAMED_TRIES;
    loop {
        tries -= 1;
        match read() {
            Err(error) if *error.kind() == ErrorKind::Io(io::ErrorKind::NotFound) && tries > 0 => {}
            read => return read,
        }
    }
}

/// Stores the whole index of a segment. The index is a cache: after a full disk `state` does not vouch for incomplete
/// files.
pub(crate) fn store_whole_index(segment: &Segment) -> Result<()> {
    match segment.store_index(None) {
        Err(error) if *error.kind() == ErrorKind::DiskFull => Ok(()),
        stored => stored,
    }
}
