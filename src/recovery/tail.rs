//! The tail: everything above the durable watermark. It is scanned, cut where it is torn, written again and synced. So
//! everything that recovery exposes is durable before the first reader sees it.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::config::{RecoveryMode, WatermarkMode};
use crate::error::{Error, ErrorKind, Result};
use crate::format::file_name::{self, SegmentFileKind, Suffix, segment_file};
use crate::format::{FormatError, checkpoint};
use crate::offset::{Offset, Timestamp};
use crate::partition::state_file::Found as FoundState;
use crate::replay::leader_epochs::LeaderEpochs;
use crate::replay::{Nobody, Replay};
use crate::segment::index::{Indexer, Recent, SegmentIndex};
use crate::segment::listing::{Doubt, Files, LogFile};
use crate::segment::replace;
use crate::segment::scan::Check;
use crate::segment::walk::{Stop, Walk, valid_batch_follows, walk};
use crate::segment::{PartitionDir, Segment};
use crate::storage::{File, OpenMode, small_file};

use super::aside::unused_broken_name;
use super::opening::{Opening, segment};
use super::report::Cut;

/// A larger checkpoint of leader epochs is not read.
const EPOCHS_MAX: u64 = 64 << 20;
/// Batches are written again once this many bytes have been scanned, while they are still in the processor's cache.
const REWRITTEN_AT_ONCE: usize = 256 << 10;
/// Writeback starts once this many bytes have been written, so that the disk works while the processor reads on.
const BEGUN_AT_ONCE: u64 = 1 << 20;

/// The chain with its tail scanned.
pub(super) struct Tail {
    pub(super) segments: Vec<Arc<Segment>>,
    pub(super) replay: Replay,
    /// Whether the checkpoint of leader epochs holds epochs that start behind the end.
    pub(super) lost_epochs: bool,
    /// The error of a disk that is too full to keep torn bytes aside. They stay where they are, and nothing is appended
    /// behind them.
    pub(super) no_room: Option<Error>,
}

/// The start of the scan.
struct Start {
    /// The index of the segment in the chain.
    at: usize,
    position: u64,
    /// The offset at `position`.
    offset: Offset,
}

impl Tail {
    pub(super) fn end(&self) -> Offset {
        self.segments.last().map_or(Offset::ZERO, |last| last.end())
    }

    pub(super) fn scan(opening: &mut Opening, mut files: Files) -> Result<Tail> {
        let dir = Arc::clone(&opening.request.dir);
        if opening.request.read_only
            && let [log] = &files.logs[..]
            && log.id == 0
        {
            // The file may not exist yet: the crash came before the pending reset had created it.
            let replay = Replay::new(LeaderEpochs::default());
            return Ok(Tail {
                segments: vec![segment(&dir, log, None, false)],
                replay,
                lost_epochs: false,
                no_room: None,
            });
        }
        let start = opening.scan_start(&files.logs);
        let replay = Replay::new(load_epochs(&dir)?);
        let mut tail = Tail { segments: Vec::new(), replay, lost_epochs: false, no_room: None };
        let in_place = start.at > 0 || start.position > 0 || files.logs.len() == 1;
        let nobody = match opening.known_state().filter(|state| state.producers_at.is_none()) {
            Some(state) if in_place && state.durable_end == start.offset => Nobody::Then,
            Some(_) => Nobody::Later,
            None => Nobody::Never,
        };
        tail.replay.producers_before(&dir, &files.logs, &files.snapshots, start.offset, opening.settled(), nobody)?;
        for log in &files.logs[..start.at] {
            let known = opening.known_segment(log);
            let sealed = segment(&dir, log, known, true);
            opening.stamp(&sealed);
            tail.segments.push(sealed);
        }
        let mut at = start.at;
        while at < files.logs.len() {
            let (position, offset) =
                if at == start.at { (start.position, start.offset) } else { (0, files.logs[at].base) };
            let goes_on = tail.scan_segment(opening, &mut files.logs, at, position, offset)?;
            at += 1;
            if !goes_on {
                break;
            }
        }
        tail.lost_epochs = tail.replay.epochs.truncate_from_end(tail.end());
        let config = &opening.request.config;
        tail.replay.producers.set_max(config.max_producers);
        let (now, expiration) = (opening.request.now, config.producer_expiration);
        tail.replay.producers.remove_expired(now, expiration, opening.settled());
        if !opening.request.read_only {
            for log in files.logs.drain(at..).rev() {
                opening.put_aside(log.base, Suffix::None)?;
            }
        }
        Ok(tail)
    }

    /// Scans one segment from `position`. Returns whether the next file continues the chain.
    fn scan_segment(
        &mut self,
        opening: &mut Opening,
        logs: &mut [LogFile],
        at: usize,
        position: u64,
        offset: Offset,
    ) -> Result<bool> {
        let dir = Arc::clone(&opening.request.dir);
        let mut log = logs[at];
        let next = logs.get(at + 1).copied();
        let path = dir.segment_path(log.base, SegmentFileKind::Log, log.suffix);
        let mode = if opening.request.read_only { OpenMode::Read } else { OpenMode::Write };
        let file = dir.storage.open(&path, mode).map_err(|e| Error::io(e, &path))?;
        let known = opening.known_segment(&log).filter(|_| position > 0 || log.known).copied();
        let max_timestamp = known.map_or(Timestamp::NONE, |known| known.max_timestamp);
        let interval = u64::from(opening.request.config.index_interval_bytes);
        let mut indexer = if position == 0 {
            Indexer::new(log.base, interval)
        } else {
            Indexer::resume(log.base, interval, max_timestamp, offset)
        };
        let (mut offsets, mut times, mut aborted) = (Vec::new(), Vec::new(), Vec::new());
        let durable = opening.durable_until(&log);
        let mut rewriter = Rewriter::new(&*file, position);
        let walk = walk(&*file, log.base, (position, log.len), offset, Check::Crc, |found| {
            if durable.is_some_and(|(at, end)| found.position < at && found.batch.header().next_offset() > end) {
                return Err(Error::corrupt(&path, found.position, FormatError::BadOffset.to_string()));
            }
            if let Some((entry, time)) = indexer.note(found.batch.header(), found.position) {
                offsets.push(entry);
                times.extend(time);
            }
            aborted.extend(self.replay.note(&found.batch));
            if !opening.request.read_only {
                rewriter.take(found.batch.as_bytes()).map_err(|e| Error::io(e, &path))?;
            }
            Ok(())
        })
        .map_err(|e| e.at_path(&path))?;
        opening.report.scanned_bytes += walk.position - position;
        opening.check_kafkas_end(&path, &walk, next.is_some())?;

        let torn = matches!(walk.stop, Stop::Bad(_));
        let goes_on = !torn && next.is_some_and(|next| next.base == walk.end || opening.request.adopt);
        if torn {
            self.no_room = opening.keep_torn_tail(&*file, &log, &walk, next.is_some())?;
        }
        self.truncate_and_sync(opening, rewriter, &mut log, position..walk.position, goes_on)?;
        let sealed = goes_on;
        if sealed && !opening.request.read_only {
            self.keep_producers(&dir, walk.end)?;
        }
        // For the active segment too: a resumed writer knows only the largest timestamp, not which batch has it.
        times.extend(indexer.finish());
        let log = LogFile { end: walk.end, valid: walk.position, ..log };
        let made = segment(&dir, &log, known.as_ref(), sealed);
        made.update_meta(|facts| facts.max_timestamp = indexer.max_timestamp());
        made.update_index(|index| {
            if position == 0 {
                *index = SegmentIndex::empty();
            }
            *index.recent_mut() = Recent { offsets, times, aborted };
            index.shrink();
        });
        opening.stamp(&made);
        self.segments.push(made);
        Ok(goes_on)
    }

    /// Writes the snapshot that the roll to `base` would have left. The process may have been killed before it wrote
    /// that snapshot, or before the name was durable, and an existing one may belong to a tail that was lost. Opening
    /// needs no room: on a full disk, an older snapshot and the batches after it give the same producers.
    fn keep_producers(&self, dir: &PartitionDir, base: Offset) -> Result<()> {
        let producers = &self.replay.producers;
        if producers.is_empty() {
            return Ok(());
        }
        match dir.put_snapshot(base, &producers.to_snapshot()) {
            Err(error) if *error.kind() == ErrorKind::DiskFull => Ok(()),
            written => written,
        }
    }

    /// Makes the scanned part of a segment durable, and nothing else. If this process still holds bytes of the part
    /// that is cut off, the rest moves to another file. Does nothing if there was no room to keep torn bytes aside.
    fn truncate_and_sync(
        &mut self,
        opening: &Opening,
        rewriter: Rewriter<'_>,
        log: &mut LogFile,
        scanned: Range<u64>,
        goes_on: bool,
    ) -> Result<()> {
        if opening.request.read_only || self.no_room.is_some() {
            return Ok(());
        }
        let (dir, file, end) = (&opening.request.dir, rewriter.file, scanned.end);
        let path = dir.segment_path(log.base, SegmentFileKind::Log, Suffix::None);
        let at = |e| Error::io(e, &path);
        let clean = opening.request.kafka.clean && !goes_on;
        settle(dir, rewriter, log, scanned, clean).map_err(at)?;
        if log.len <= end || file.held() <= end {
            return Ok(());
        }
        match replace::cut(dir, file, log.base, end) {
            Err(error) if *error.kind() == ErrorKind::DiskFull => {
                self.no_room = Some(error);
                return Ok(());
            }
            cut => cut?,
        };
        dir.sync_dir()?;
        let info = dir.storage.info(&path).map_err(at)?;
        (log.id, log.modified) = (info.id, info.modified);
        Ok(())
    }
}

impl Opening {
    fn scan_start(&self, logs: &[LogFile]) -> Start {
        let salvage = self.request.mode == RecoveryMode::Salvage;
        let begin = |at: usize| Start { at, position: 0, offset: logs[at].base };
        match &self.state {
            // The last segment is read all the same, because its index will be continued.
            _ if self.request.adopt && self.request.kafka.clean && !salvage => begin(logs.len() - 1),
            _ if self.request.adopt => {
                let point = self.request.kafka.recovery_point.filter(|_| !salvage).unwrap_or_default();
                begin(logs.partition_point(|log| log.base <= point).saturating_sub(1))
            }
            FoundState::Good(state) if !salvage => {
                let at = logs
                    .iter()
                    .position(|log| log.base == state.active_base)
                    .expect("the plan found the active segment");
                if state.durable_position > 0 && self.known_segment(&logs[at]).is_none() {
                    return begin(at);
                }
                // The plan finds files that are shorter than on record. A segment that was truncated to nothing starts
                // again at its base.
                Start { at, position: state.durable_position, offset: state.durable_end.max(logs[at].base) }
            }
            _ => begin(0),
        }
    }

    /// Returns the offset below which the log is replicated: no transaction that ended there is ever taken back.
    fn settled(&self) -> Offset {
        match (self.request.config.watermark, self.known_state()) {
            (WatermarkMode::LogEnd, _) => Offset::MAX,
            (WatermarkMode::Managed, Some(state)) => state.high_watermark,
            (WatermarkMode::Managed, None) => self.request.kafka.high_watermark.unwrap_or_default(),
        }
    }

    fn known_segment(&self, log: &LogFile) -> Option<&crate::format::SegmentState> {
        let state = self.known_state()?;
        let known = state.segments.iter().find(|known| known.base == log.base)?;
        let is_active = log.base == state.active_base && known.id == log.id && log.doubt != Some(Doubt::Elsewhere);
        (log.known || is_active).then_some(known)
    }

    /// Sets the wall times that retention and rolls use, if a segment has none.
    fn stamp(&self, segment: &Segment) {
        let now = self.request.now;
        segment.update_meta(|facts| {
            if facts.first_append_at == Timestamp::NONE && !segment.is_empty() {
                facts.first_append_at = now;
            }
            if facts.sealed_at == Timestamp::NONE && segment.is_sealed() {
                facts.sealed_at = now;
            }
        });
    }

    /// Returns the position and the offset up to which the batches of a segment are known to be durable.
    fn durable_until(&self, log: &LogFile) -> Option<(u64, Offset)> {
        let state = self.known_state().filter(|state| state.active_base == log.base)?;
        (log.doubt != Some(Doubt::Elsewhere)).then_some((state.durable_position, state.durable_end))
    }

    /// Checks the end of a log of Kafka's. After a shutdown in good order its recovery point is the log end. After any
    /// other shutdown the log reaches at least that point.
    fn check_kafkas_end(&self, path: &Path, walk: &Walk, more_files: bool) -> Result<()> {
        let kafka = &self.request.kafka;
        let salvage = self.request.mode == RecoveryMode::Salvage;
        if !self.request.adopt || more_files || salvage || matches!(walk.stop, Stop::Bad(_)) {
            return Ok(());
        }
        // Without a recovery point, Kafka has recorded none since we had the log.
        let ours = self.earlier_state().map(|state| state.durable_end);
        match kafka.recovery_point.or(ours) {
            Some(end) if kafka.clean && kafka.recovery_point.is_some() && end != walk.end => {
                let what = format!("the log ends at {}, but was closed in good order at {end}", walk.end);
                Err(Error::corrupt(path, walk.last.unwrap_or(walk.position), what))
            }
            Some(end) if end > walk.end => {
                Err(Error::from(ErrorKind::MissingSegment(walk.end..end)).at_path(&self.request.dir.path))
            }
            _ => Ok(()),
        }
    }

    /// Keeps the bytes from the first bad batch on aside and cuts them off, if a crash can have left them. A read-only
    /// open only reports them. Returns the error of a full disk if there is no room to keep them.
    fn keep_torn_tail(
        &mut self,
        file: &dyn File,
        log: &LogFile,
        walk: &Walk,
        more_files: bool,
    ) -> Result<Option<Error>> {
        let dir = Arc::clone(&self.request.dir);
        let path = dir.segment_path(log.base, SegmentFileKind::Log, log.suffix);
        let Stop::Bad(why) = &walk.stop else { return Ok(None) };
        let torn = match &self.state {
            // Kafka's recovery point is the durable watermark. Only the last file can have a torn tail above it, and
            // after a shutdown in good order there is none.
            _ if self.request.adopt => !more_files && !self.request.kafka.clean && walk.end >= self.kept_below(),
            FoundState::Good(state) if log.base == state.active_base => match log.doubt {
                None => walk.position >= state.durable_position,
                Some(Doubt::Elsewhere) => walk.end >= state.durable_end,
                // The end of the durable part is unknown: what looks torn may be in the middle of a batch.
                Some(Doubt::Damage(at)) if self.request.mode != RecoveryMode::Salvage => {
                    let at = at.min(walk.position);
                    return Err(Error::corrupt(&path, at, "no batch, below the end of what is durable"));
                }
                Some(Doubt::Damage(_)) => false,
            },
            FoundState::Good(_) => true,
            // Without a durable watermark, a batch is surely torn only if the file ends within it.
            FoundState::Missing | FoundState::Bad => !more_files && matches!(why, FormatError::Truncated { .. }),
        };
        let may_cut = match self.request.mode {
            RecoveryMode::Strict => false,
            RecoveryMode::CutTornTail => torn,
            RecoveryMode::Salvage => true,
        };
        if !may_cut {
            return Err(Error::corrupt(&path, walk.position, why.to_string()));
        }
        self.salvaged |= !torn;
        let valid_batches_followed = valid_batch_follows(file, walk.position, log.len).map_err(|e| e.at_path(&path))?;
        let kept_in = match self.request.read_only {
            true => String::new(),
            false => match keep_aside(&dir, file, log, walk.position) {
                Err(error) if *error.kind() == ErrorKind::DiskFull => return Ok(Some(error)),
                kept => kept?,
            },
        };
        self.report.cut = Some(Cut {
            file: segment_file(log.base, SegmentFileKind::Log, Suffix::None),
            position: walk.position,
            bytes: log.len - walk.position,
            offset: walk.end,
            valid_batches_followed,
            kept_in,
        });
        Ok(None)
    }
}

/// Copies `[position, len)` of a segment durably into a new file.
fn keep_aside(dir: &PartitionDir, file: &dyn File, log: &LogFile, position: u64) -> Result<String> {
    let (name, path) = unused_broken_name(dir, log.base)?;
    let at = |e| Error::io(e, &path);
    let kept = dir.storage.open(&path, OpenMode::CreateNew).map_err(at)?;
    let copied = small_file::copy(file, position..log.len, |bytes, from| kept.write_at(bytes, from - position))
        .and_then(|()| kept.sync());
    if let Err(error) = copied {
        small_file::remove(&*dir.storage, &path)?;
        return Err(at(error));
    }
    dir.sync_dir()?;
    Ok(name)
}

/// Writes the batches of a scan again, exactly as they were checked: an earlier sync may have failed and left bytes in
/// the page cache that the disk does not have (I8). Writeback starts early, before the sync that waits for it.
struct Rewriter<'f> {
    file: &'f dyn File,
    /// Bytes below this position are written.
    done: u64,
    /// Bytes below this position are in writeback.
    begun: u64,
    /// The batches from `done` on.
    buffer: Vec<u8>,
}

impl Rewriter<'_> {
    fn new(file: &dyn File, from: u64) -> Rewriter<'_> {
        Rewriter { file, done: from, begun: from, buffer: Vec::new() }
    }

    fn take(&mut self, batch: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(batch);
        if self.buffer.len() < REWRITTEN_AT_ONCE {
            return Ok(());
        }
        self.flush()?;
        if self.done - self.begun >= BEGUN_AT_ONCE {
            self.file.write_out(self.begun..self.done, self.begun..self.begun)?;
            self.begun = self.done;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.file.write_at(&self.buffer, self.done)?;
        self.done += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// Truncates the file to its batches, unless bytes behind them are held. Writes the remaining batches above the durable
/// watermark again, and syncs them. A file without changes is synced all the same, unless it was closed in good order:
/// the process that truncated it, or began the next file, may have been killed before the sync.
fn settle(
    dir: &PartitionDir,
    mut rewriter: Rewriter<'_>,
    log: &mut LogFile,
    scanned: Range<u64>,
    clean: bool,
) -> io::Result<()> {
    if log.len == scanned.end && scanned.is_empty() && clean {
        return Ok(());
    }
    if log.len > scanned.end && rewriter.file.held() <= scanned.end {
        rewriter.file.set_len(scanned.end)?;
    }
    rewriter.flush()?;
    rewriter.file.sync()?;
    log.modified = rewriter.file.info()?.modified;
    // The name of the file may be newer than the last sync of the directory.
    if scanned.start == 0 { dir.storage.sync_dir(&dir.path) } else { Ok(()) }
}

/// Loads the recorded leader epochs. A file that cannot be read counts as empty, and batches fill it again.
fn load_epochs(dir: &PartitionDir) -> Result<LeaderEpochs> {
    let bytes = small_file::read(&*dir.storage, &dir.file_path(file_name::LEADER_EPOCHS), EPOCHS_MAX)?;
    let entries = bytes.and_then(|bytes| checkpoint::parse_epochs(&bytes).ok()).unwrap_or_default();
    Ok(LeaderEpochs::from_checkpoint(&entries))
}
