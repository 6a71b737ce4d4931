//! A partition being opened: what recovery knows of it, and which part of that it may trust.

use std::sync::Arc;

use crate::config::{RecoveryMode, TopicConfig};
use crate::format::file_name::Suffix;
use crate::format::{SegmentState, State};
use crate::offset::{Offset, Timestamp};
use crate::partition::resources::Resources;
use crate::partition::state_file::{Found as FoundState, StateFile};
use crate::segment::index::{SegmentIndex, Sums};
use crate::segment::listing::{Ends, Files, LogFile};
use crate::segment::{PartitionDir, Segment, SegmentMeta};

use super::plan::{Gaps, Known, Origin, Seen};
use super::report::PartitionReport;

/// The facts about a partition that recovery has before it looks at the files.
#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) topic: Arc<str>,
    pub(crate) id: u32,
    pub(crate) dir: Arc<PartitionDir>,
    pub(crate) resources: Arc<Resources>,
    pub(crate) config: Arc<TopicConfig>,
    pub(crate) mode: RecoveryMode,
    pub(crate) allow_gaps: bool,
    /// Whether to take over the directory: it is Kafka's and never was ours, or it has become Kafka's again since.
    pub(crate) adopt: bool,
    pub(crate) kafka: KafkaCheckpoints,
    pub(crate) read_only: bool,
    pub(crate) now: Timestamp,
}

/// The entries of one partition in the checkpoint files of a log directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct KafkaCheckpoints {
    pub(crate) log_start: Option<Offset>,
    pub(crate) recovery_point: Option<Offset>,
    pub(crate) high_watermark: Option<Offset>,
    pub(crate) cleaned_to: Option<Offset>,
    /// Whether the log directory was closed in good order.
    pub(crate) clean: bool,
}

/// A partition being opened.
pub(super) struct Opening {
    pub(super) request: Request,
    /// `None` once the partition is constructed.
    pub(super) store: Option<StateFile>,
    pub(super) state: FoundState,
    pub(super) report: PartitionReport,
    /// Whether a salvage has put something aside, which changes the durable ends.
    pub(super) salvaged: bool,
    /// Whether all sealed segments match their description in `state`.
    pub(super) recognized: bool,
}

impl Opening {
    pub(super) fn store(&self) -> &StateFile {
        self.store.as_ref().expect("the partition is not put together yet")
    }

    pub(super) fn seen(&self, files: &Files) -> Seen {
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

    /// The `state` from before Kafka had the directory, or from an adoption that a crash interrupted.
    pub(super) fn earlier_state(&self) -> Option<&State> {
        match &self.state {
            FoundState::Good(state) if self.request.adopt => Some(state),
            _ => None,
        }
    }

    /// Returns the log start of a log of Kafka's. Records that we have removed from view do not come back, unless Kafka
    /// has restarted the log below them.
    pub(super) fn kafka_start(&self, files: &Files) -> Option<Offset> {
        let end = files.logs.last().map_or(Offset::ZERO, |last| last.end);
        let ours = self.earlier_state().map(|state| state.log_start).filter(|start| *start <= end);
        self.request.kafka.log_start.max(ours)
    }

    /// Returns the offset below which nothing of Kafka's is cut: the part that we knew to be durable, or that Kafka
    /// did.
    pub(super) fn kept_below(&self) -> Offset {
        let ours = self.earlier_state().map(|state| state.durable_end);
        ours.max(self.request.kafka.recovery_point).unwrap_or_default()
    }

    /// The `state`, if it can be trusted.
    pub(super) fn known_state(&self) -> Option<&State> {
        match &self.state {
            FoundState::Good(state) if !self.request.adopt => Some(state),
            _ => None,
        }
    }

    pub(super) fn ends(&self) -> Ends {
        match self.request.mode {
            RecoveryMode::Salvage if !self.request.read_only => Ends::Salvaged,
            _ if self.request.adopt && self.request.kafka.clean => Ends::Indexed,
            _ => Ends::Walked,
        }
    }
}

/// Creates a segment from the file that was found.
pub(super) fn segment(
    dir: &Arc<PartitionDir>,
    log: &LogFile,
    known: Option<&SegmentState>,
    sealed: bool,
) -> Arc<Segment> {
    let mut facts = SegmentMeta { modified: log.modified, ..SegmentMeta::new(log.id) };
    if let Some(known) = known {
        facts.max_timestamp = known.max_timestamp;
        facts.first_append_at = known.first_append_at;
        facts.sealed_at = known.sealed_at;
        facts.tombstone_horizon = known.tombstone_horizon.unwrap_or(Timestamp::NONE);
        facts.set_dead(known.dead_records, known.dead_bytes);
    }
    let sums = known.map_or(Sums::default(), Sums::from);
    let segment = Segment::new(dir, log.base, (log.valid, log.end), sealed, facts, SegmentIndex::of(sums));
    if log.suffix != Suffix::None {
        segment.rename(log.suffix, || Ok(())).expect("nothing is renamed on disk");
    }
    segment
}
