//! Opening a partition: look, decide ([`plan`]), act, look again; then scan the tail, cut what is torn, make durable
//! what is left, report.

mod aside;
pub(crate) mod plan;
mod read_only;
mod report;
mod tail;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::active::Active;
use crate::config::{RecoveryMode, TopicConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::format::file_name::{SegmentFileKind, Suffix};
use crate::format::{Pending, SegmentState, State};
use crate::offset::{Offset, Timestamp};
use crate::pending::{self, Holders};
use crate::segment::index::{SegmentIndex, Sums};
use crate::segment::{Facts, Place, Segment};
use crate::shared::{Budgets, Parts, Shared, store_whole_index};
use crate::state::{Found as FoundState, StateStore};
use crate::storage::{OpenMode, files};
use crate::survey::{self, Ends, Files, LogFile, look};
use crate::sync::Instant;
use crate::sync::atomic::Ordering;
use crate::view::{View, ViewCell};

pub(crate) use self::plan::Gaps;
use self::plan::{Known, Origin, Seen, Step, plan};
use self::tail::Tail;

pub use self::report::{Cut, PartitionReport};

/// What recovery knows of a partition before it looks at its files.
#[derive(Clone)]
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

/// A partition being opened.
struct Opening {
    request: Request,
    /// Until the partition is put together.
    store: Option<StateStore>,
    state: FoundState,
    report: PartitionReport,
    /// What a salvage moved out of the way changes the durable ends.
    salvaged: bool,
    /// All sealed segments are those that `state` describes.
    recognized: bool,
}

/// Opens a partition. Damage is no error here: the partition is then open for what can be read, takes no writes, and
/// says so in the report.
pub(crate) fn open(request: Request) -> Result<(Arc<Shared>, PartitionReport)> {
    request.place.mapped_reads.store(request.config.mapped_reads, Ordering::Relaxed);
    if request.read_only { read_only::open(&request) } else { open_as_found(request) }
}

fn open_as_found(request: Request) -> Result<(Arc<Shared>, PartitionReport)> {
    let began = Instant::now();
    let (state, store) = StateStore::load(&request.place)?;
    let report = PartitionReport {
        topic: request.topic.to_string(),
        partition: request.id,
        end: Offset::ZERO,
        state_lost: !request.adopt && !matches!(state, FoundState::Good(_)),
        scanned_bytes: 0,
        cut: None,
        put_aside: Vec::new(),
        swaps_finished: 0,
        redone: false,
        adopted_gaps: Vec::new(),
        error: None,
        took: Duration::ZERO,
    };
    let mut opening = Opening { request, store: Some(store), state, report, salvaged: false, recognized: false };
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
            if self.request.read_only {
                let files = self.look_beside()?;
                return self.settle_in_memory(files);
            }
            let mut files = look(&self.request.place, self.known_state(), self.ends())?;
            match plan(&self.seen(&files)) {
                Ok(Step::Open { log_start, adopted_gaps }) => {
                    let believed = self.known_state().filter(|_| !self.salvaged);
                    survey::remove_stale_caches(&self.request.place, &files, believed)?;
                    let sealed = |log: &&LogFile| believed.is_some_and(|state| log.base < state.active_base);
                    self.recognized = files.logs.iter().filter(sealed).all(|log| log.known);
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
            _ if self.request.adopt => {
                let logs: Vec<(Offset, u64)> = files.logs.iter().map(|log| (log.base, log.len)).collect();
                let gaps = Gaps::of(kafka.cleaned_to, self.earlier_state(), &logs);
                Origin::Kafka { log_start: self.kafka_start(files), gaps }
            }
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

    /// The `state` from before Kafka had the directory, or from a taking over that a crash interrupted.
    fn earlier_state(&self) -> Option<&State> {
        match &self.state {
            FoundState::Good(state) if self.request.adopt => Some(state),
            _ => None,
        }
    }

    /// Where a log of Kafka's starts: what we have removed from view does not come back, unless Kafka has begun the log
    /// anew below it.
    fn kafka_start(&self, files: &Files) -> Option<Offset> {
        let end = files.logs.last().map_or(Offset::ZERO, |last| last.end);
        let ours = self.earlier_state().map(|state| state.log_start).filter(|start| *start <= end);
        self.request.kafka.log_start.max(ours)
    }

    /// Below it nothing of Kafka's is cut: what we knew to be durable, and what it did.
    fn kept_below(&self) -> Offset {
        let ours = self.earlier_state().map(|state| state.durable_end);
        ours.max(self.request.kafka.recovery_point).unwrap_or_default()
    }

    /// The `state`, where it is to be believed.
    fn known_state(&self) -> Option<&State> {
        match &self.state {
            FoundState::Good(state) if !self.request.adopt => Some(state),
            _ => None,
        }
    }

    fn ends(&self) -> Ends {
        match self.request.mode {
            RecoveryMode::Salvage if !self.request.read_only => Ends::Salvaged,
            _ if self.request.adopt && self.request.kafka.clean => Ends::Indexed,
            _ => Ends::Walked,
        }
    }

    fn act(&mut self, files: &mut Files, step: Step) -> Result<()> {
        let place = Arc::clone(&self.request.place);
        self.store().settle()?;
        match step {
            Step::Redo(pending) => {
                self.report.redone = true;
                pending::redo(&place, self.store(), pending, Holders::Nobody)?;
                self.state = FoundState::Good(self.store().read()?);
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
        let (no_room, lost_epochs) = (tail.no_room.clone(), tail.lost_epochs && !self.request.read_only);
        let shared = self.assemble(tail, log_start);
        // Else a crash would give the epochs that were lost with the tail to what is appended in its place.
        let no_room = no_room.or(if lost_epochs { unless_full(shared.store_epochs())? } else { None });
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
            // Else each open would find out anew what is in a copy. Opening needs no room.
            let known = if self.recognized { Ok(()) } else { shared.update_state(|_| ()) };
            return unless_full(known).map(|_| ());
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
            state.log_start = shared.ends.log_start();
            state.active_base = active.base();
            state.durable_end = active.end();
            state.durable_position = active.len();
            state.producers_at = producers.snapshot.as_ref().map(|_| producers.at);
            state.pending = Pending::None;
            if self.request.adopt {
                // Kafka's cleaner may have removed records because of any that are there.
                state.max_winner_offset =
                    state.max_winner_offset.max(active.end().get().checked_sub(1).map(Offset::new));
            }
        })?;
        // One above what was cut would be taken for the state before the batches that come to lie there.
        shared.remove_old_snapshots();
        // Kafka's leftovers have explained the gaps; now those are on record.
        let leftovers = look(&self.request.place, Some(&shared.whole_state()?), Ends::Walked)?.leftovers;
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
            _ => {
                let ours = self.earlier_state().map(|state| state.high_watermark);
                request.kafka.high_watermark.or(ours).unwrap_or(log_start)
            }
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
            is_kafkas: request.adopt,
        })
    }
}

/// The error of a disk that has no room; every other one is passed on.
fn unless_full(stored: Result<()>) -> Result<Option<Error>> {
    match stored {
        Err(error) if *error.kind() == ErrorKind::DiskFull => Ok(Some(error)),
        stored => stored.map(|()| None),
    }
}

/// A segment as it was found.
fn segment(place: &Arc<Place>, log: &LogFile, known: Option<&SegmentState>, sealed: bool) -> Arc<Segment> {
    let mut facts = Facts { modified: log.modified, ..Facts::new(log.id) };
    if let Some(known) = known {
        facts.max_timestamp = known.max_timestamp;
        facts.first_append_at = known.first_append_at;
        facts.sealed_at = known.sealed_at;
        facts.tombstone_horizon = known.tombstone_horizon.unwrap_or(Timestamp::NONE);
        facts.set_dead(known.dead_records, known.dead_bytes);
    }
    let sums = known.map_or(Sums::default(), Sums::from);
    let segment = Segment::new(place, log.base, (log.valid, log.end), sealed, facts, SegmentIndex::of(sums));
    if log.suffix != Suffix::None {
        segment.rename(log.suffix, || Ok(())).expect("nothing is renamed on disk");
    }
    segment
}
