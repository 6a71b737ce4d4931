//! Opening a partition: look, decide ([`plan`]), act, look again; then scan the tail, cut what is torn, make durable
//! what is left, report.

pub(crate) mod plan;
mod tail;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::active::Active;
use crate::config::{RecoveryMode, TopicConfig};
use crate::epochs::Epochs;
use crate::error::{Error, ErrorKind, Result};
use crate::format::file_name::{self, SegmentFileKind, Suffix, segment_file};
use crate::format::{Pending, SegmentState, State};
use crate::offset::{Offset, Timestamp};
use crate::pending::{self, Holders};
use crate::replay::Replay;
use crate::segment::index::{SegmentIndex, Sums};
use crate::segment::{Facts, Place, Segment};
use crate::shared::{Budgets, Parts, Shared, store_whole_index};
use crate::state::{Found as FoundState, StateStore};
use crate::storage::{OpenMode, files};
use crate::survey::{self, Files, LogFile, look};
use crate::view::{View, ViewCell};

use self::plan::{Known, Origin, Refusal, Seen, Step, plan};
use self::tail::Tail;

/// What recovery knows of a partition before it looks at its files.
pub(crate) struct Request {
    pub(crate) topic: Arc<str>,
    pub(crate) id: u32,
    pub(crate) place: Arc<Place>,
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) config: Arc<TopicConfig>,
    pub(crate) mode: RecoveryMode,
    pub(crate) allow_gaps: bool,
    /// Whether the directory is to be taken over: Kafka's, and never ours or Kafka's since.
    pub(crate) adopt: bool,
    pub(crate) kafka: KafkaCheckpoints,
    pub(crate) read_only: bool,
    pub(crate) now: Timestamp,
}

/// What the checkpoint files of a log directory say of one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct KafkaCheckpoints {
    pub(crate) log_start: Option<Offset>,
    pub(crate) recovery_point: Option<Offset>,
    pub(crate) high_watermark: Option<Offset>,
    pub(crate) cleaned_to: Option<Offset>,
    /// Closed in good order.
    pub(crate) clean: bool,
}

/// What opening one partition found and did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PartitionReport {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The log end after recovery.
    pub end: Offset,
    /// Bytes that were scanned because they were not known to be durable.
    pub scanned_bytes: u64,
    /// What was cut from the tail, if anything; of a log that is open for reading only, what is left out.
    pub cut: Option<Cut>,
    /// Files put aside whole, under their new names.
    pub put_aside: Vec<String>,
    /// Compactions that a crash interrupted after their commit, and that were completed.
    pub swaps_finished: usize,
    /// Whether a truncation or reset that a crash interrupted was completed.
    pub redone: bool,
    /// Gaps between segments that were there when the directory was taken over.
    pub adopted_gaps: Vec<Range<Offset>>,
    /// Why the partition takes no writes: damage that recovery did not touch.
    pub error: Option<Error>,
    /// How long it took.
    pub took: Duration,
}

/// Bytes that recovery cut off the end of a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Cut {
    /// The segment's file name.
    pub file: String,
    /// Where the bytes began.
    pub position: u64,
    /// How many.
    pub bytes: u64,
    /// The log end offset from there on.
    pub offset: Offset,
    /// Whether whole, valid batches were among them: more was lost than one torn write.
    pub valid_batches_followed: bool,
    /// The file that they are kept in; empty where nothing was cut because the log is open for reading only.
    pub kept_in: String,
}

/// A partition being opened.
struct Opening {
    request: Request,
    /// Until the partition is put together.
    store: Option<StateStore>,
    state: FoundState,
    report: PartitionReport,
    /// What a salvage moved out of the way changes the durable ends.
    salvaged: bool,
}

/// Opens a partition. Damage is no error here: the partition is then open for what can be read, takes no writes, and
/// says so in the report.
pub(crate) fn open(request: Request) -> Result<(Arc<Shared>, PartitionReport)> {
    let began = Instant::now();
    let (state, store) = StateStore::load(&request.place)?;
    let report = PartitionReport {
        topic: request.topic.to_string(),
        partition: request.id,
        end: Offset::ZERO,
        scanned_bytes: 0,
        cut: None,
        put_aside: Vec::new(),
        swaps_finished: 0,
        redone: false,
        adopted_gaps: Vec::new(),
        error: None,
        took: Duration::ZERO,
    };
    let mut opening = Opening { request, store: Some(store), state, report, salvaged: false };
    let opened = match opening.settle() {
        Ok((files, log_start, gaps)) => opening.finish(files, log_start, gaps),
        Err(error) if error.is_corruption() => opening.degrade(error),
        Err(error) => Err(error),
    };
    let (shared, mut report) = opened?;
    report.end = shared.end();
    report.error = shared.health.reason();
    report.took = began.elapsed();
    Ok((shared, report))
}

impl Opening {
    fn store(&self) -> &StateStore {
        self.store.as_ref().expect("the partition is not put together yet")
    }

    /// Carries out steps until the chain can be opened.
    fn settle(&mut self) -> Result<(Files, Offset, Vec<Range<Offset>>)> {
        loop {
            let mut files = look(&self.request.place, self.known_state(), self.is_clean_kafka())?;
            if self.request.read_only {
                return self.settle_in_memory(files);
            }
            match plan(&self.seen(&files)) {
                Ok(Step::Open { log_start, adopted_gaps }) => {
                    let believed = self.known_state().filter(|_| !self.salvaged);
                    survey::remove_stale_caches(&self.request.place, &files, believed)?;
                    return Ok((files, log_start, adopted_gaps));
                }
                Ok(step) => self.act(&mut files, step)?,
                Err(refusal) if self.request.mode == RecoveryMode::Salvage => self.salvage(&files, refusal)?,
                Err(refusal) => return Err(self.refused(refusal)),
            }
        }
    }

    fn seen(&self, files: &Files) -> Seen {
        let kafka = &self.request.kafka;
        let origin = match &self.state {
            _ if self.request.adopt => Origin::Kafka { log_start: kafka.log_start, cleaned_to: kafka.cleaned_to },
            FoundState::Good(state) => Origin::State(Known {
                log_start: state.log_start,
                active_base: state.active_base,
                durable_end: state.durable_end,
                pending: state.pending,
                adopted_gaps: state.adopted_gaps.clone(),
            }),
            FoundState::Missing | FoundState::Bad => Origin::Lost { log_start: kafka.log_start },
        };
        Seen {
            origin,
            logs: files.logs.iter().map(LogFile::seen).collect(),
            swaps: files.swaps.clone(),
            lowest_cleaned: files.lowest_cleaned,
            deleted: files.deleted.clone(),
            leftovers: !files.leftovers.is_empty(),
            allow_gaps: self.request.allow_gaps,
        }
    }

    /// The `state`, where it is to be believed.
    fn known_state(&self) -> Option<&State> {
        match &self.state {
            FoundState::Good(state) if !self.request.adopt => Some(state),
            _ => None,
        }
    }

    fn is_clean_kafka(&self) -> bool {
        self.request.adopt && self.request.kafka.clean
    }

    fn act(&mut self, files: &mut Files, step: Step) -> Result<()> {
        let place = Arc::clone(&self.request.place);
        self.store().settle()?;
        match step {
            Step::Redo(pending) => {
                self.report.redone = true;
                pending::redo(&place, self.store(), pending, Holders::Nobody)?;
                self.state = FoundState::Good(self.store().get());
                Ok(())
            }
            Step::DropSwap(base) => self.put_aside(base, Suffix::Swap),
            Step::FinishSwap { swap, replaced } => {
                self.report.swaps_finished += 1;
                crate::swap::finish(&place, swap, &replaced)
            }
            Step::RemoveLeftovers => {
                for name in &files.leftovers {
                    files::remove(&*place.storage, &place.path(name))?;
                }
                place.sync_dir()
            }
            Step::RemoveHead(bases) => {
                bases.iter().try_for_each(|base| crate::swap::remove_segment_files(&place, *base))?;
                place.sync_dir()
            }
            Step::Create(base) => {
                let path = place.segment_path(base, SegmentFileKind::Log, Suffix::None);
                place.storage.open(&path, OpenMode::CreateNew).map_err(|e| Error::io(e, &path))?;
                place.sync_dir()
            }
            Step::Open { .. } => unreachable!("opening is not a step that is carried out here"),
        }
    }

    /// Renames a `.log` out of the way; its indexes go, they are caches.
    fn put_aside(&mut self, base: Offset, suffix: Suffix) -> Result<()> {
        let place = &self.request.place;
        let from = place.segment_path(base, SegmentFileKind::Log, suffix);
        let (name, to) = unused_broken_name(place, base)?;
        place.storage.rename(&from, &to).map_err(|e| Error::io(e, &from))?;
        for kind in SegmentFileKind::ALL.into_iter().filter(|kind| *kind != SegmentFileKind::Log) {
            files::remove(&*place.storage, &place.segment_path(base, kind, suffix))?;
        }
        self.report.put_aside.push(name);
        place.sync_dir()
    }

    /// Goes on past damage, because the caller asked for it: what is in the way is put aside.
    fn salvage(&mut self, files: &Files, refusal: Refusal) -> Result<()> {
        let error = self.refused(refusal.clone());
        let from = match refusal {
            Refusal::BrokenSwap(base) => return self.put_aside(base, Suffix::Swap),
            Refusal::Missing(range) | Refusal::Overlap(range) => range.start,
        };
        self.salvaged = true;
        let in_the_way: Vec<Offset> = files.logs.iter().map(|log| log.base).filter(|base| *base >= from).collect();
        let head_is_missing = files.logs.first().is_none_or(|first| first.base > from);
        if head_is_missing || in_the_way.is_empty() {
            let start = files.logs.first().map_or(from, |first| first.base);
            let end = files.logs.last().map_or(start, |last| last.end);
            let base = files.logs.last().map_or(start, |last| last.base);
            self.rewrite_ends(start.max(self.store().get().log_start), base, end)?;
            if files.logs.is_empty() {
                return Err(error);
            }
            return Ok(());
        }
        in_the_way.iter().rev().try_for_each(|base| self.put_aside(*base, Suffix::None))?;
        let Some(last) = files.logs.iter().rev().find(|log| log.base < from) else { return Err(error) };
        self.rewrite_ends(self.store().get().log_start, last.base, last.end)
    }

    /// Has `state` tell of what is left after a salvage.
    fn rewrite_ends(&mut self, log_start: Offset, active_base: Offset, end: Offset) -> Result<()> {
        if self.request.adopt {
            return Ok(());
        }
        self.store().update(|state| {
            state.log_start = log_start;
            state.active_base = active_base;
            state.durable_end = state.durable_end.min(end);
            state.durable_position = 0;
            state.pending = Pending::None;
        })?;
        self.state = FoundState::Good(self.store().get());
        Ok(())
    }

    fn refused(&self, refusal: Refusal) -> Error {
        let dir = &self.request.place.dir;
        match refusal {
            Refusal::Missing(range) => Error::from(ErrorKind::MissingSegment(range)).at_path(dir),
            Refusal::Overlap(range) => Error::from(ErrorKind::Overlap(range)).at_path(dir),
            Refusal::BrokenSwap(base) => {
                let path = self.request.place.segment_path(base, SegmentFileKind::Log, Suffix::Swap);
                Error::corrupt(
                    &path,
                    0,
                    "a committed compaction whose output cannot be read, or does not hold what it replaces",
                )
            }
        }
    }

    /// Scans the tail, puts the partition together, and records what has changed.
    fn finish(
        mut self,
        files: Files,
        log_start: Offset,
        gaps: Vec<Range<Offset>>,
    ) -> Result<(Arc<Shared>, PartitionReport)> {
        if !self.request.read_only {
            self.settle_seen()?;
        }
        let tail = match Tail::scan(&mut self, files.clone()) {
            Ok(tail) => tail,
            Err(error) if error.is_corruption() => return self.degrade(error),
            Err(error) => return Err(error),
        };
        let log_start = log_start.min(tail.end());
        self.report.adopted_gaps = gaps.clone();
        let no_room = tail.no_room.clone();
        let shared = self.assemble(tail, log_start);
        if let Some(error) = no_room {
            shared.refuse(error);
        }
        if !self.request.read_only && shared.health.reason().is_none() {
            self.record(&shared, &gaps)?;
        }
        for segment in shared.view.load().sealed() {
            let durable = shared.durability.end();
            assert!(segment.end() <= durable, "what is sealed at open is durable");
        }
        Ok((shared, self.report))
    }

    /// Makes what was read durable before anything is served or done on its word: who wrote it, and gave files their
    /// names, may have been killed before the sync.
    fn settle_seen(&self) -> Result<()> {
        if self.known_state().is_some() {
            self.store().settle_seen()?;
        }
        if self.request.kafka.clean { Ok(()) } else { self.request.place.sync_dir() }
    }

    /// Writes `state` where the structure has changed: not for a tail that was only scanned.
    fn record(&self, shared: &Shared, gaps: &[Range<Offset>]) -> Result<()> {
        let view = shared.view.load();
        let old = shared.state();
        let settled = matches!(self.state, FoundState::Good(_))
            && !self.request.adopt
            && !self.salvaged
            && old.adopted_gaps == gaps
            // One above the end would hide what is appended below it from the next open.
            && old.log_start <= view.end();
        if settled && old.active_base == view.active().base() {
            return Ok(());
        }
        let active = Arc::clone(view.active());
        let producers = shared.lock_active().snapshot(active.end());
        for sealed in view.sealed() {
            let made_anew = self.request.adopt && sealed.sums().offsets.is_none() && !sealed.index_files_end_well();
            if made_anew || !sealed.index_is_stored() {
                store_whole_index(sealed)?;
            }
        }
        match shared.store_recovered(&active, &producers) {
            // Opening needs no room: the old `state` still leads to all of this.
            Err(error) if *error.kind() == ErrorKind::DiskFull && settled => return Ok(()),
            stored => stored?,
        }
        shared.update_state(|state| {
            state.adopted_gaps = gaps.to_vec();
            state.active_base = active.base();
            state.durable_end = active.end();
            state.durable_position = active.len();
            state.producers_at = producers.snapshot.as_ref().map(|_| producers.at);
            state.pending = Pending::None;
        })?;
        // One above what was cut would be taken for the state before the batches that come to lie there.
        shared.remove_old_snapshots();
        // Kafka's leftovers have explained the gaps; now those are on record.
        let leftovers = look(&self.request.place, Some(&shared.state()), false)?.leftovers;
        for name in &leftovers {
            files::remove(&*self.request.place.storage, &self.request.place.path(name))?;
        }
        Ok(())
    }

    fn assemble(&mut self, tail: Tail, log_start: Offset) -> Arc<Shared> {
        let request = &self.request;
        let end = tail.end();
        let high_watermark = match &self.state {
            FoundState::Good(state) if !request.adopt => state.high_watermark,
            _ => request.kafka.high_watermark.unwrap_or(log_start),
        };
        let segments = tail.segments;
        let active_segment = Arc::clone(segments.last().expect("a chain has a segment"));
        let active = Active::new(active_segment, Arc::clone(&request.config), tail.replay.producers, -1);
        Shared::new(Parts {
            topic: Arc::clone(&request.topic),
            id: request.id,
            place: Arc::clone(&request.place),
            budgets: Arc::clone(&request.budgets),
            config: Arc::clone(&request.config),
            view: ViewCell::new(View::new(segments)),
            log_start,
            durable_end: end,
            high_watermark: high_watermark.min(end),
            active,
            epochs: tail.replay.epochs,
            state: self.store.take().expect("a partition is put together once"),
            read_only: request.read_only,
        })
    }

    /// Opens what lies below the damage, for reading only.
    fn degrade(mut self, error: Error) -> Result<(Arc<Shared>, PartitionReport)> {
        let log_start = match self.known_state() {
            Some(state) => state.log_start,
            None => self.request.kafka.log_start.unwrap_or_default(),
        };
        let segments = self.readable_prefix(log_start, &error)?;
        let replay = Replay::new(Epochs::default());
        let tail = Tail { segments, replay, no_room: None };
        let start = tail.segments.first().map_or(log_start, |first| first.base()).max(log_start).min(tail.end());
        let shared = self.assemble(tail, start);
        shared.refuse(error);
        Ok((shared, self.report))
    }

    /// The segments below the damage; the one that holds it ends there.
    fn readable_prefix(&self, log_start: Offset, error: &Error) -> Result<Vec<Arc<Segment>>> {
        let place = &self.request.place;
        let mut segments: Vec<Arc<Segment>> = Vec::new();
        let logs = self.bare_logs()?;
        for (at, log) in logs.iter().enumerate() {
            let path = place.segment_path(log.base, SegmentFileKind::Log, log.suffix);
            if segments.last().is_some_and(|last| last.end() != log.base) {
                break;
            }
            let file = place.storage.open(&path, OpenMode::Read).map_err(|e| Error::io(e, &path))?;
            let damaged = error.path() == Some(path.as_path());
            let len = if damaged { error.position().unwrap_or(0).min(log.len) } else { log.len };
            // A batch that reaches into the next file has left its place.
            let next = logs.get(at + 1).map_or(Offset::MAX, |next| next.base);
            let mut sound = (log.base, 0);
            let walk =
                survey::walk(&*file, log.base, (0, len), log.base, crate::segment::scan::Check::Header, |found| {
                    let header = found.batch.header();
                    if header.next_offset() <= next {
                        sound = (header.next_offset(), found.position + header.size as u64);
                    }
                    Ok(())
                })?;
            let whole = matches!(walk.stop, survey::Stop::End) && sound.1 == walk.position && !damaged;
            let log = LogFile { end: sound.0, valid: sound.1, ..*log };
            segments.push(segment(place, &log, None, whole));
            if !whole {
                break;
            }
        }
        match segments.pop() {
            // Nothing can be read: an empty end stands for the log, so that it can be asked about.
            None => {
                let log = LogFile {
                    base: log_start,
                    len: 0,
                    id: 0,
                    end: log_start,
                    valid: 0,
                    known: false,
                    suffix: Suffix::None,
                };
                segments.push(segment(place, &log, None, false));
            }
            // The last one is the end of what can be read; it is never written.
            Some(last) => {
                let log = LogFile {
                    base: last.base(),
                    len: last.len(),
                    id: last.facts().id,
                    end: last.end(),
                    valid: last.len(),
                    known: false,
                    suffix: Suffix::None,
                };
                segments.push(segment(place, &log, None, false));
            }
        }
        Ok(segments)
    }

    /// The `.log` files, whatever is in them.
    fn bare_logs(&self) -> Result<Vec<LogFile>> {
        let place = &self.request.place;
        let mut logs = Vec::new();
        for entry in place.storage.list(&place.dir).map_err(|e| Error::io(e, &place.dir))? {
            if let Some(file_name::ParsedName::Segment { base, kind: SegmentFileKind::Log, suffix: Suffix::None }) =
                file_name::parse(&entry.name)
            {
                let path = place.path(&entry.name);
                let info = place.storage.info(&path).map_err(|e| Error::io(e, &path))?;
                logs.push(LogFile {
                    base,
                    len: info.len,
                    id: info.id,
                    end: base,
                    valid: 0,
                    known: false,
                    suffix: Suffix::None,
                });
            }
        }
        logs.sort_by_key(|log| log.base);
        Ok(logs)
    }

    /// What a read-only open makes of the directory, without a change to it.
    fn settle_in_memory(&mut self, mut files: Files) -> Result<(Files, Offset, Vec<Range<Offset>>)> {
        loop {
            let mut seen = self.seen(&files);
            if let Origin::State(known) = &mut seen.origin {
                if let Pending::Truncate(to) | Pending::Reset(to) = known.pending {
                    files.logs.retain(|log| log.base < to || log.base == to && log.len == 0);
                    known.durable_end = known.durable_end.min(files.logs.last().map_or(to, |last| last.end));
                }
                known.pending = Pending::None;
                known.active_base =
                    known.active_base.min(files.logs.last().map_or(known.active_base, |last| last.base));
            }
            seen.leftovers = false;
            seen.logs = files.logs.iter().map(LogFile::seen).collect();
            match plan(&seen) {
                Ok(Step::FinishSwap { swap, replaced }) => {
                    files.swaps.retain(|seen| seen.base != swap);
                    files.logs.retain(|log| !replaced.contains(&log.base));
                    let path = self.request.place.segment_path(swap, SegmentFileKind::Log, Suffix::Swap);
                    let info = self.request.place.storage.info(&path).map_err(|e| Error::io(e, &path))?;
                    let end =
                        seen.swaps.iter().find(|seen| seen.base == swap).and_then(|seen| seen.end).unwrap_or(swap);
                    files.logs.push(LogFile {
                        base: swap,
                        len: info.len,
                        id: info.id,
                        end,
                        valid: info.len,
                        known: false,
                        suffix: Suffix::Swap,
                    });
                    files.logs.sort_by_key(|log| log.base);
                }
                Ok(Step::DropSwap(base)) => files.swaps.retain(|seen| seen.base != base),
                Ok(Step::RemoveHead(bases)) => files.logs.retain(|log| !bases.contains(&log.base)),
                Ok(Step::Open { log_start, adopted_gaps }) => return Ok((files, log_start, adopted_gaps)),
                Ok(Step::Create(base)) => return Err(self.refused(Refusal::Missing(base..base + 1))),
                Ok(Step::Redo(_) | Step::RemoveLeftovers) => unreachable!("nothing pending, no leftovers"),
                Err(refusal) => return Err(self.refused(refusal)),
            }
        }
    }
}

/// A segment as it was found.
fn segment(place: &Arc<Place>, log: &LogFile, known: Option<&SegmentState>, sealed: bool) -> Arc<Segment> {
    let facts = match known {
        Some(known) => Facts {
            id: log.id,
            max_timestamp: known.max_timestamp,
            first_append_at: known.first_append_at,
            sealed_at: known.sealed_at,
            tombstone_horizon: known.tombstone_horizon,
            dead_records: known.dead_records,
            dead_bytes: known.dead_bytes,
        },
        None => Facts::new(log.id),
    };
    let sums = known.map_or(Sums::default(), |k| Sums { offsets: k.offsets, times: k.times, aborted: k.aborted });
    let segment = Segment::new(place, log.base, (log.valid, log.end), sealed, facts, SegmentIndex::of(sums));
    if log.suffix != Suffix::None {
        segment.rename(log.suffix, || Ok(())).expect("nothing is renamed on disk");
    }
    segment
}

/// A name for bytes that are put aside, which no file has.
fn unused_broken_name(place: &Place, base: Offset) -> Result<(String, std::path::PathBuf)> {
    let plain = segment_file(base, SegmentFileKind::Log, Suffix::Broken);
    let numbered = (1..).map(|n| file_name::numbered_segment_file(base, SegmentFileKind::Log, Suffix::Broken, n));
    for name in std::iter::once(plain).chain(numbered) {
        let path = place.path(&name);
        match place.storage.info(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok((name, path)),
            Err(e) => return Err(Error::io(e, &path)),
            Ok(_) => {}
        }
    }
    unreachable!("there are more numbers than files")
}
