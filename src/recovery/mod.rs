//! Opening a partition: look at the directory, decide ([`plan`]), act, look again. Then scan the tail, cut the torn
//! part, make the rest durable, and report.

mod aside;
mod opening;
pub(crate) mod plan;
mod read_only;
mod report;
mod tail;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::config::RecoveryMode;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Pending;
use crate::format::file_name::{SegmentFileKind, Suffix};
use crate::offset::Offset;
use crate::partition::active::Active;
use crate::partition::core::PartitionCore;
use crate::partition::lifecycle::Parts;
use crate::partition::persist::store_whole_index;
use crate::partition::redo::{self, Holders};
use crate::partition::state_file::{Found as FoundState, StateFile};
use crate::segment::list::{SegmentList, SegmentListCell};
use crate::segment::listing::{self, Ends, Files, LogFile, list_partition};
use crate::storage::{OpenMode, small_file};
use crate::sync::Instant;
use crate::sync::atomic::Ordering;

use self::opening::Opening;
pub(crate) use self::opening::{KafkaCheckpoints, Request};
pub(crate) use self::plan::Gaps;
use self::plan::{Step, plan};
use self::tail::Tail;

pub use self::report::{Cut, PartitionReport, RecoveryReport};

/// Opens a partition. Damage is not an error here: the partition is then open for everything that can be read, takes no
/// writes, and the report holds the error.
pub(crate) fn open(request: Request) -> Result<(Arc<PartitionCore>, PartitionReport)> {
    request.dir.mapped_reads.store(request.config.mapped_reads, Ordering::Relaxed);
    if request.read_only { read_only::open(&request, open_as_found) } else { open_as_found(request) }
}

fn open_as_found(request: Request) -> Result<(Arc<PartitionCore>, PartitionReport)> {
    let began = Instant::now();
    let (state, store) = StateFile::load(&request.dir)?;
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
    let (core, mut report) = opened?;
    report.end = core.end();
    report.error = core.health.reason();
    report.took = began.elapsed();
    Ok((core, report))
}

impl Opening {
    /// Carries out steps until the chain can be opened.
    fn settle(&mut self) -> Result<(Files, Offset, Vec<Range<Offset>>)> {
        loop {
            if self.request.read_only {
                let files = self.look_beside()?;
                return self.settle_in_memory(files);
            }
            let mut files = list_partition(&self.request.dir, self.known_state(), self.ends())?;
            match plan(&self.seen(&files)) {
                Ok(Step::Open { log_start, adopted_gaps }) => {
                    let believed = self.known_state().filter(|_| !self.salvaged);
                    listing::remove_stale_caches(&self.request.dir, &files, believed)?;
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

    fn act(&mut self, files: &mut Files, step: Step) -> Result<()> {
        let dir = Arc::clone(&self.request.dir);
        self.store().settle()?;
        match step {
            Step::Redo(pending) => {
                self.report.redone = true;
                redo::redo(&dir, self.store(), pending, Holders::Nobody)?;
                self.state = FoundState::Good(self.store().read()?);
                Ok(())
            }
            Step::DropSwap(base) => self.put_aside(base, Suffix::Swap),
            Step::FinishSwap { swap, replaced } => {
                self.report.swaps_finished += 1;
                crate::segment::replace::finish(&dir, swap, &replaced)
            }
            Step::RemoveLeftovers => {
                for name in &files.leftovers {
                    small_file::remove(&*dir.storage, &dir.file_path(name))?;
                }
                dir.sync_dir()
            }
            Step::RemoveHead(bases) => {
                bases.iter().try_for_each(|base| crate::segment::replace::remove_segment_files(&dir, *base))?;
                dir.sync_dir()
            }
            Step::Create(base) => {
                let path = dir.segment_path(base, SegmentFileKind::Log, Suffix::None);
                dir.storage.open(&path, OpenMode::CreateNew).map_err(|e| Error::io(e, &path))?;
                dir.sync_dir()
            }
            Step::Open { .. } => unreachable!("opening is not a step that is carried out here"),
        }
    }

    /// Scans the tail, constructs the partition, and records what has changed.
    fn finish(
        mut self,
        files: Files,
        log_start: Offset,
        gaps: Vec<Range<Offset>>,
    ) -> Result<(Arc<PartitionCore>, PartitionReport)> {
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
        let core = self.assemble(tail, log_start);
        // Otherwise, after a crash, batches appended in place of the lost tail would get the epochs that were lost with
        // it.
        let no_room = no_room.or(if lost_epochs { unless_full(core.store_epochs())? } else { None });
        if let Some(error) = no_room {
            core.refuse(error);
        }
        if !self.request.read_only && core.health.reason().is_none() {
            self.record(&core, &gaps)?;
        }
        for segment in core.view.load().sealed() {
            let durable = core.group_commit.end();
            assert!(segment.end() <= durable, "what is sealed at open is durable");
        }
        Ok((core, self.report))
    }

    /// Makes everything that was read durable before it is served or acted on: the process that wrote it, or named the
    /// files, may have been killed before the sync.
    fn settle_seen(&self) -> Result<()> {
        if self.known_state().is_some() {
            self.store().settle_seen()?;
        }
        if self.request.kafka.clean { Ok(()) } else { self.request.dir.sync_dir() }
    }

    /// Writes `state` if the structure has changed. A scan of the tail alone does not need this.
    fn record(&self, core: &PartitionCore, gaps: &[Range<Offset>]) -> Result<()> {
        let view = core.view.load();
        let old = core.state();
        let settled = matches!(self.state, FoundState::Good(_))
            && !self.request.adopt
            && !self.salvaged
            && old.adopted_gaps == gaps
            // A log start above the end would hide batches appended below it from the next open.
            && old.log_start <= view.end();
        if settled && old.active_base == view.active().base() {
            // Otherwise every open of a copied directory would read its segments again. Opening needs no room.
            let known = if self.recognized { Ok(()) } else { core.update_state(|_| ()) };
            return unless_full(known).map(|_| ());
        }
        let active = Arc::clone(view.active());
        let producers = core.lock_active().snapshot(active.end());
        for sealed in view.sealed() {
            let made_anew = self.request.adopt && sealed.sums().offsets.is_none() && !sealed.index_files_end_well();
            if made_anew || !sealed.index_is_stored() {
                store_whole_index(sealed)?;
            }
        }
        match core.store_recovered(&active, &producers) {
            // Opening needs no room: recovery from the old `state` still finds all of this.
            Err(error) if *error.kind() == ErrorKind::DiskFull && settled => return Ok(()),
            stored => stored?,
        }
        core.update_state(|state| {
            state.adopted_gaps = gaps.to_vec();
            state.log_start = core.ends.log_start();
            state.active_base = active.base();
            state.durable_end = active.end();
            state.durable_position = active.len();
            state.producers_at = producers.snapshot.as_ref().map(|_| producers.at);
            state.pending = Pending::None;
            if self.request.adopt {
                // Kafka's cleaner may have removed records because of any record that is there.
                state.max_winner_offset =
                    state.max_winner_offset.max(active.end().get().checked_sub(1).map(Offset::new));
            }
        })?;
        // A snapshot above the cut would later pass for the state before batches that are appended there.
        core.remove_old_snapshots();
        // Kafka's leftovers explained the gaps. The gaps are on record now, so the leftovers can go.
        let leftovers = list_partition(&self.request.dir, Some(&core.whole_state()?), Ends::Walked)?.leftovers;
        for name in &leftovers {
            small_file::remove(&*self.request.dir.storage, &self.request.dir.file_path(name))?;
        }
        Ok(())
    }

    fn assemble(&mut self, tail: Tail, log_start: Offset) -> Arc<PartitionCore> {
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
        PartitionCore::new(Parts {
            topic: Arc::clone(&request.topic),
            id: request.id,
            dir: Arc::clone(&request.dir),
            resources: Arc::clone(&request.resources),
            config: Arc::clone(&request.config),
            view: SegmentListCell::new(SegmentList::new(segments)),
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

/// Returns the error of a full disk as a value. Every other error is passed on.
fn unless_full(stored: Result<()>) -> Result<Option<Error>> {
    match stored {
        Err(error) if *error.kind() == ErrorKind::DiskFull => Ok(Some(error)),
        stored => stored.map(|()| None),
    }
}
