//! Retention: deletes whole segments from the head of the log, by age, by size, and below the log start offset.

use std::sync::Arc;

use crate::config::{Cleanup, TopicConfig};
use crate::error::{ErrorKind, Result};
use crate::offset::{Offset, Timestamp};
use crate::partition::core::PartitionCore;
use crate::segment::Segment;
use crate::segment::list::SegmentList;
use crate::segment::replace;

/// A segment, as retention sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Aged {
    pub(crate) end: Offset,
    pub(crate) bytes: u64,
    /// The time of its newest record, but no later than its seal. So a timestamp in the future does not keep the
    /// segment.
    pub(crate) newest: Timestamp,
}

/// The decision of one pass: what to delete.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Plan {
    /// The new log start offset, if it moves.
    pub(crate) log_start: Option<Offset>,
    /// Whether even the active segment has expired. It is sealed first, and deleted by the next pass.
    pub(crate) roll: bool,
    /// When the next segment expires.
    pub(crate) next: Option<Timestamp>,
}

/// The result of a pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Retained {
    /// The number of deleted segments.
    pub(crate) removed: usize,
    /// When the next segment expires by age.
    pub(crate) next: Option<Timestamp>,
}

/// Decides what to delete: a prefix of the sealed segments, none of which reaches above the high watermark.
pub(crate) fn plan(
    sealed: &[Aged],
    active: Aged,
    high_watermark: Offset,
    config: &TopicConfig,
    now: Timestamp,
) -> Plan {
    if config.cleanup == Cleanup::Compact {
        return Plan::default();
    }
    let age = config.retention_age;
    let expired = |segment: &Aged| age.is_some_and(|age| now > segment.newest.plus(age));
    let expires = |segment: &Aged| age.map(|age| segment.newest.plus(age).plus_millis(1));
    let mut total: u64 = sealed.iter().map(|segment| segment.bytes).sum::<u64>() + active.bytes;
    let mut log_start = None;
    let mut all = true;
    let mut next = None;
    for segment in sealed {
        let over = config.retention_bytes.is_some_and(|limit| total - segment.bytes >= limit);
        if segment.end > high_watermark || !(over || expired(segment)) {
            all = false;
            next = expires(segment);
            break;
        }
        total -= segment.bytes;
        log_start = Some(segment.end);
    }
    if all && active.bytes > 0 {
        next = expires(&active);
    }
    Plan { log_start, roll: all && active.bytes > 0 && active.end <= high_watermark && expired(&active), next }
}

/// Runs one pass over a partition.
pub(crate) fn run(core: &PartitionCore, now: Timestamp) -> Result<Retained> {
    let config = core.config();
    let view = core.view.load();
    let mut next = None;
    let limited = config.retention_age.is_some() || config.retention_bytes.is_some();
    if limited {
        let mut sealed = Vec::with_capacity(view.sealed().len());
        for segment in view.sealed() {
            sealed.push(aged(segment, Timestamp::NONE, now)?);
        }
        // The indexes of the active segment lag behind its records.
        let written = core.lock_active().max_timestamp();
        let active = aged(view.active(), written, now)?;
        let plan = plan(&sealed, active, core.high_watermark(), &config, now);
        next = plan.next;
        if plan.roll {
            core.lock_active().roll(core, now)?;
            // The sealed segment is deleted in this pass if it already lies below the log start. A full disk does not
            // stop the deletion of others.
            match core.finish_roll() {
                Err(error) if *error.kind() == ErrorKind::DiskFull => {}
                finished => finished?,
            }
        }
        if let Some(log_start) = plan.log_start {
            make_durable(core, log_start)?;
            move_log_start(core, log_start)?;
        }
    }
    Ok(Retained { removed: drop_head(core)?, next })
}

/// Deletes everything below `offset`, durably when this returns.
pub(crate) fn delete_before(core: &PartitionCore, offset: Offset) -> Result<()> {
    let given_up = give_up(core, offset);
    core.tell();
    given_up
}

fn give_up(core: &PartitionCore, offset: Offset) -> Result<()> {
    check_given_up(core, offset)?;
    // Before the lock is taken, so that no thread waits for this sync.
    make_durable(core, offset)?;
    // With the lock held, no truncation can cut the log below its new start.
    let _pass = core.lock_maintenance();
    check_given_up(core, offset)?;
    make_durable(core, offset)?;
    move_log_start(core, offset)
}

fn check_given_up(core: &PartitionCore, offset: Offset) -> Result<()> {
    core.check_writable()?;
    let high_watermark = core.high_watermark();
    if offset > high_watermark {
        let start = core.ends.log_start();
        return Err(ErrorKind::OffsetOutOfRange { requested: offset, start, end: high_watermark }.into());
    }
    Ok(())
}

/// Makes everything below `offset` durable. The log start may not pass records that a crash can take back. Otherwise
/// the log would end below its start after the crash, and new records would be appended below it, too.
fn make_durable(core: &PartitionCore, offset: Offset) -> Result<()> {
    if core.group_commit.end() >= offset {
        return Ok(());
    }
    match core.sync_quietly(offset) {
        // The records are durable. Only a file beside them found no room.
        Err(_) if core.group_commit.end() >= offset && !core.health.is_poisoned() => Ok(()),
        synced => synced,
    }
}

/// Moves the log start forward, durably before any reader sees it.
fn move_log_start(core: &PartitionCore, offset: Offset) -> Result<()> {
    let moved = core.update_state(|state| state.log_start = state.log_start.max(offset));
    moved.inspect_err(|error| core.fail_state(error))?;
    core.ends.raise_log_start(offset);
    core.lock_leader_epochs().truncate_from_start(offset);
    Ok(())
}

/// Removes the segments below the log start from the segment list and retires them. A segment whose roll is not on
/// record stays until it is, because recovery would report it as missing.
fn drop_head(core: &PartitionCore) -> Result<usize> {
    let below = core.ends.log_start().min(core.recorded_active());
    let mut dropped: Vec<Arc<Segment>> = Vec::new();
    core.view.update(|view| {
        let count = view.sealed().iter().take_while(|segment| segment.end() <= below).count();
        if count == 0 {
            return None;
        }
        dropped = view.sealed()[..count].to_vec();
        Some(SegmentList::new(view.segments()[count..].to_vec()))
    });
    for segment in &dropped {
        replace::mark_deleted(segment)?;
    }
    let count = dropped.len();
    core.retire_segments(dropped);
    Ok(count)
}

/// Summarizes a segment for retention. `written` is the largest timestamp that was written, in addition to the ones
/// that the segment knows.
fn aged(segment: &Segment, written: Timestamp, now: Timestamp) -> Result<Aged> {
    if segment.meta().sealed_at > now {
        // The clock was ahead when the segment was sealed. Its age counts from now on.
        segment.update_meta(|facts| facts.sealed_at = now);
    }
    let facts = segment.meta();
    let known_at = if segment.is_sealed() && facts.sealed_at != Timestamp::NONE { facts.sealed_at } else { now };
    let newest = if segment.is_empty() { known_at } else { segment.max_timestamp()?.max(written) };
    // The age of records without a timestamp counts from the seal.
    let newest = if newest == Timestamp::NONE { known_at } else { newest.min(known_at) };
    Ok(Aged { end: segment.end(), bytes: segment.len(), newest })
}
