//! Appending: check, assign offsets, write, publish, account. The thread that holds the appender combines small appends
//! that arrive at the same time.

use bytes::Bytes;

use crate::config::{Cleanup, TopicConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{self, BATCH_HEADER_LEN, BatchHeader, BatchView, Batches, FormatError, Scratch, TimestampType};
use crate::offset::{Offset, Timestamp};
use crate::partition::active::{Active, SPAN_MAX};
use crate::partition::append_queue::{Appended, Queued};
use crate::partition::core::PartitionCore;
use crate::sync::{Arc, MutexGuard, OnceLock};

/// Batches up to this size are combined into one write.
const COMBINE_BATCH: usize = 32 << 10;
/// The largest combined write.
const COMBINE_MAX: usize = 1 << 20;

/// One batch to append: whole, its CRC checked.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) header: &'a BatchHeader,
}

/// Appends one batch at the end.
pub(crate) fn append(
    core: &PartitionCore,
    input: Input<'_>,
    expected: Option<Offset>,
    now: Timestamp,
) -> Result<Appended> {
    let size = input.header.size as u64;
    admit(core, size)?;
    if core.checks_records() {
        check_records(input, &core.config(), now)?;
    }
    if input.header.count == 0 {
        return Err(Error::from(FormatError::BadCount));
    }
    let active = match (core.try_lock_active(), expected) {
        (Some(active), _) => active,
        (None, Some(_)) => core.lock_active(),
        (None, None) => return append_combined(core, input, now),
    };
    let appended = append_locked(core, active, input, expected, now);
    core.announce();
    appended
}

/// Appends batches that already have their offsets, including gaps. Everything is checked before anything is written.
/// All batches become visible at once, however many segments they need.
pub(crate) fn append_at(core: &PartitionCore, bytes: &[u8], now: Timestamp) -> Result<Appended> {
    admit(core, bytes.len() as u64)?;
    let headers = check_given(bytes, core.config().max_batch_bytes)?;
    let (Some(first), Some(last)) = (headers.first(), headers.last()) else {
        return Err(Error::from(FormatError::Truncated { needed: BATCH_HEADER_LEN, available: bytes.len() }));
    };
    let mut active = core.lock_active();
    core.check_writable()?;
    check_gaps(&headers, active.segment().end())?;
    let written = active.write_in_parts(core, bytes, &headers, now);
    if written.is_ok() {
        core.accepted(bytes.len() as u64, active.config());
    }
    drop(active);
    core.announce();
    written.map(|()| Appended { base_offset: first.base_offset, next_offset: last.next_offset(), append_time: None })
}

/// Checks the gaps. A batch may begin a new segment, which gets the end before the batch as its base offset. So the
/// batch must be within a segment's reach from there.
fn check_gaps(headers: &[BatchHeader], mut end: Offset) -> Result<()> {
    for header in headers {
        let given = header.base_offset;
        if given < end || header.last_offset().since(end) > SPAN_MAX {
            return Err(ErrorKind::UnexpectedOffset { given, end }.into());
        }
        end = header.next_offset();
    }
    Ok(())
}

/// Does what every append waits for, or fails on, before it takes a lock.
#[inline]
fn admit(core: &PartitionCore, size: u64) -> Result<()> {
    core.check_writable()?;
    // It does not matter which partition's bytes use up the budget: all partitions are synced now.
    core.resources.unsynced.admit(size, &core.resources.sync_queue)?;
    core.resources.space.admit()
}

fn append_locked(
    core: &PartitionCore,
    mut active: MutexGuard<'_, Active>,
    input: Input<'_>,
    expected: Option<Offset>,
    now: Timestamp,
) -> Result<Appended> {
    let active = &mut *active;
    // The partition may have been closed or poisoned meanwhile. Nothing may be written after that.
    core.check_writable()?;
    let end = active.segment().end();
    if let Some(given) = expected.filter(|given| *given != end) {
        return Err(ErrorKind::UnexpectedOffset { given, end }.into());
    }
    check_size(input.header.size, active.config())?;
    check_reach(input.header, end)?;
    active.make_room(core, input.header, end, now)?;
    let appended = write_one(core, active, input, end, now)?;
    core.accepted(input.header.size as u64, active.config());
    if core.append_queue.has_waiting() {
        drain(core, active);
    }
    Ok(appended)
}

fn write_one(
    core: &PartitionCore,
    active: &mut Active,
    input: Input<'_>,
    at: Offset,
    now: Timestamp,
) -> Result<Appended> {
    let append_time = (active.config().timestamp_type == TimestampType::LogAppendTime).then_some(now);
    let mut header = placed(input.header, at, active.leader_epoch());
    if append_time.is_some() {
        let mut buffer = std::mem::take(&mut active.buffer);
        buffer.clear();
        push_patched(&mut buffer, input.bytes, &mut header, append_time);
        let written = active.write(core, [&buffer, &[]], &[header], now);
        active.buffer = buffer;
        written?;
    } else {
        let (head, records) = input.bytes.split_at(BATCH_HEADER_LEN);
        let mut head: [u8; BATCH_HEADER_LEN] = head.try_into().expect("a batch has a header");
        format::patch_offset(&mut head, at);
        format::patch_leader_epoch(&mut head, header.leader_epoch);
        active.write(core, [&head, records], &[header], now)?;
    }
    Ok(Appended { base_offset: at, next_offset: header.next_offset(), append_time })
}

/// Queues an append for the thread that holds the appender, and waits for that thread's answer or for the appender.
fn append_combined(core: &PartitionCore, input: Input<'_>, now: Timestamp) -> Result<Appended> {
    let bytes = Bytes::copy_from_slice(input.bytes);
    let queued = Queued { bytes, header: *input.header, now, result: OnceLock::new() };
    let appended = core.append_queue.combine(queued, || core.lock_active(), |active| drain(core, active));
    core.announce();
    appended
}

/// Appends everything queued, in as few writes as possible.
fn drain(core: &PartitionCore, active: &mut Active) {
    let batch = core.append_queue.take();
    let mut rest = batch.as_slice();
    while !rest.is_empty() {
        let count = drain_run(core, active, rest);
        rest = &rest[count..];
    }
}

/// Appends a run from the front of the queue with one write. Returns how many appends it took.
fn drain_run(core: &PartitionCore, active: &mut Active, queue: &[Arc<Queued>]) -> usize {
    let first = &queue[0];
    let alone = |result| {
        first.result.set(result).expect("each is answered once");
        1
    };
    let end = active.segment().end();
    let ready = core
        .check_writable()
        .and_then(|()| check_size(first.header.size, active.config()))
        .and_then(|()| check_reach(&first.header, end))
        .and_then(|()| active.make_room(core, &first.header, end, first.now));
    if let Err(error) = ready {
        return alone(Err(error));
    }
    let own_time = active.config().timestamp_type == TimestampType::LogAppendTime;
    let mut at = end;
    let mut headers = Vec::with_capacity(queue.len());
    let mut buffer = std::mem::take(&mut active.buffer);
    buffer.clear();
    for queued in queue {
        let small = queued.header.size <= COMBINE_BATCH && buffer.len() + queued.header.size <= COMBINE_MAX;
        let fits = check_size(queued.header.size, active.config()).is_ok()
            && check_reach(&queued.header, at).is_ok()
            && active.fits(buffer.len(), &queued.header, at, queued.now);
        let goes_along = small && fits;
        if !headers.is_empty() && !goes_along {
            break;
        }
        let mut header = placed(&queued.header, at, active.leader_epoch());
        push_patched(&mut buffer, &queued.bytes, &mut header, own_time.then_some(queued.now));
        at = header.next_offset();
        headers.push(header);
    }
    let written = active.write(core, [&buffer, &[]], &headers, first.now);
    if written.is_ok() {
        core.accepted(buffer.len() as u64, active.config());
    }
    active.buffer = buffer;
    for (queued, header) in queue.iter().zip(&headers) {
        let appended = Appended {
            base_offset: header.base_offset,
            next_offset: header.next_offset(),
            append_time: own_time.then_some(queued.now),
        };
        queued.result.set(written.clone().map(|()| appended)).expect("each is answered once");
    }
    headers.len()
}

/// Returns the header that a batch has at this offset.
fn placed(header: &BatchHeader, at: Offset, leader_epoch: i32) -> BatchHeader {
    BatchHeader { base_offset: at, leader_epoch, ..*header }
}

/// Copies a batch behind `buffer`, with the offset and epoch of `header`, and the log's own time where it sets that.
fn push_patched(buffer: &mut Vec<u8>, bytes: &[u8], header: &mut BatchHeader, append_time: Option<Timestamp>) {
    let start = buffer.len();
    buffer.extend_from_slice(bytes);
    let batch = &mut buffer[start..];
    format::patch_offset(batch, header.base_offset);
    format::patch_leader_epoch(batch, header.leader_epoch);
    if let Some(now) = append_time {
        format::patch_append_time(batch, now);
        header.attributes = header.attributes.with_timestamp_type(TimestampType::LogAppendTime);
        header.max_timestamp = now;
    }
}

fn check_size(size: usize, config: &TopicConfig) -> Result<()> {
    let max = config.max_batch_bytes;
    if size > max { Err(ErrorKind::BatchTooLarge { size, max }.into()) } else { Ok(()) }
}

/// The largest offset is never assigned: the log end is behind every batch.
fn check_reach(header: &BatchHeader, end: Offset) -> Result<()> {
    if u64::from(header.last_offset_delta) < Offset::MAX.since(end) {
        Ok(())
    } else {
        Err(ErrorKind::UnexpectedOffset { given: end, end }.into())
    }
}

/// Checks what only the records tell: each has a key if the topic is compacted, and a timestamp within the bounds.
fn check_records(input: Input<'_>, config: &TopicConfig, now: Timestamp) -> Result<()> {
    if input.header.attributes.is_control() {
        return Ok(());
    }
    let mut scratch = Scratch::default();
    let keyed = config.cleanup != Cleanup::Delete;
    let own_times = config.timestamp_type == TimestampType::CreateTime;
    let earliest = config.timestamp_before_max.map(|before| now.minus(before));
    let latest = config.timestamp_after_max.map(|after| now.plus(after));
    for record in BatchView::parse(input.bytes)?.records(&mut scratch)? {
        let record = record?;
        if keyed && record.key.is_none() {
            return Err(ErrorKind::MissingKey.into());
        }
        let timestamp = record.timestamp;
        if own_times && (earliest.is_some_and(|e| timestamp < e) || latest.is_some_and(|l| timestamp > l)) {
            return Err(ErrorKind::TimestampOutOfBounds { timestamp, now }.into());
        }
    }
    Ok(())
}

/// Checks batches with given offsets: whole, undamaged, in order.
fn check_given(bytes: &[u8], max: usize) -> Result<Vec<BatchHeader>> {
    let mut headers: Vec<BatchHeader> = Vec::new();
    for batch in Batches::new(bytes) {
        let batch = batch?;
        batch.check_crc()?;
        let header = *batch.header();
        if header.size > max {
            return Err(ErrorKind::BatchTooLarge { size: header.size, max }.into());
        }
        if let Some(last) = headers.last().filter(|last| header.base_offset < last.next_offset()) {
            return Err(ErrorKind::UnexpectedOffset { given: header.base_offset, end: last.next_offset() }.into());
        }
        headers.push(header);
    }
    Ok(headers)
}
