//! The `state` of a partition: the two ends of its chain of segments, and data worth keeping between opens.
//!
//! The file has two slots of the same size, written in turn. The slot with the higher sequence number counts. Replacing
//! a slot in place needs no free space, and a crash in the middle leaves the other slot intact.
//!
//! A slot is the magic `STLS`, a version (u16), the number of bytes used in the slot (u32), a sequence number (u64),
//! the fields of [`State`] in order, and a CRC-32 over everything before it. Zeros follow. Every version shares the
//! layout from the magic to the sequence number and the checksum at the end.

use std::ops::Range;

use super::FormatError;
use super::fields::{Fields, optional_offset_bytes};
use crate::offset::{Offset, Timestamp};

const MAGIC: [u8; 4] = *b"STLS";
const VERSION: u16 = 1;
/// Magic, version, length, sequence.
const ENVELOPE_LEN: usize = 18;
const CRC_LEN: usize = 4;
/// Seven offsets and positions, the pending operation, the plan, and two counts.
const CORE_LEN: usize = 7 * 8 + 9 + PLANNED_LEN + 2 * 4;
/// A flag, two offsets, a flag and a time, and the checksum of the rules.
const PLANNED_LEN: usize = 1 + 2 * 8 + 9 + 4;
const GAP_LEN: usize = 16;
const SEGMENT_LEN: usize = 9 * 8 + 9 + 3 * SUM_LEN;
/// One for each segment, after all segments.
const MODIFIED_LEN: usize = 8;
const SUM_LEN: usize = 9;

/// The state of a partition that must not be lost. The segments are only a cache, because they can be recovered by
/// reading the files.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// The first readable offset.
    pub log_start: Offset,
    /// The base of the last segment, the one that is written to.
    pub active_base: Offset,
    /// A lower bound of the durable end: everything below it is on disk.
    pub durable_end: Offset,
    /// The position of `durable_end` in the active segment; also a lower bound.
    pub durable_position: u64,
    /// A lower bound of the high watermark.
    pub high_watermark: Offset,
    /// The highest offset of a record that caused older ones to be removed.
    pub max_winner_offset: Option<Offset>,
    /// The offset of the producer snapshot that belongs to `durable_end`; `None` if there were no producers then.
    pub producers_at: Option<Offset>,
    /// An operation that was begun and must be finished before anything else.
    pub pending: Pending,
    /// How far compaction has planned; `None` if it must plan again. A cache.
    pub planned: Option<Planned>,
    /// Offset ranges that are known to be missing from a directory that was taken over.
    pub adopted_gaps: Vec<Range<Offset>>,
    /// The segments in order; of the active one, its durable part. Some or all may be missing.
    pub segments: Vec<SegmentState>,
}

/// How far compaction has planned, with nothing to do until something changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Planned {
    /// The end of the last segment that a plan covered.
    pub to: Offset,
    /// The end of the last segment that a count covered. Dead records below were counted; those of later segments are
    /// estimated.
    pub counted_to: Offset,
    /// When there is more to do, even if no record comes.
    pub due: Option<Timestamp>,
    /// The checksum of the configuration that the plan is based on.
    pub rules: u32,
}

/// An operation that was begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Pending {
    /// None.
    #[default]
    None,
    /// The log is being truncated to this end.
    Truncate(Offset),
    /// The log is being restarted, empty, at this offset.
    Reset(Offset),
}

/// The number of entries of an index file and their CRC-32. An index that does not match is rebuilt.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct IndexSum {
    /// The number of entries.
    pub entries: u32,
    /// CRC-32 (IEEE) over their bytes.
    pub crc: u32,
}

impl IndexSum {
    /// The sum of these bytes, which hold `entries` entries.
    pub fn of(bytes: &[u8], entries: u32) -> IndexSum {
        IndexSum { entries, crc: crc32fast::hash(bytes) }
    }

    /// The sum after `bytes`, with `entries` more entries, are appended.
    pub fn and(self, bytes: &[u8], entries: u32) -> IndexSum {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.crc);
        hasher.update(bytes);
        IndexSum { entries: self.entries.saturating_add(entries), crc: hasher.finalize() }
    }

    fn encode(sum: Option<IndexSum>, out: &mut Vec<u8>) {
        out.push(sum.is_some().into());
        let sum = sum.unwrap_or_default();
        out.extend_from_slice(&sum.entries.to_be_bytes());
        out.extend_from_slice(&sum.crc.to_be_bytes());
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Option<IndexSum>, FormatError> {
        match (fields.u8()?, IndexSum { entries: fields.u32()?, crc: fields.u32()? }) {
            (0, _) => Ok(None),
            (1, sum) => Ok(Some(sum)),
            _ => Err(FormatError::Malformed("index sum")),
        }
    }
}

/// The recorded properties of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentState {
    /// Its base offset.
    pub base: Offset,
    /// One past its last offset.
    pub end: Offset,
    /// The size of its log file, in bytes.
    pub len: u64,
    /// The identity of its log file (the inode).
    pub id: u64,
    /// The modification time of its log file, in nanoseconds since 1970; [`MODIFIED_UNKNOWN`](Self::MODIFIED_UNKNOWN)
    /// if that is unknown. If length, identity and this time match the file, it is the described file, and its digest
    /// is the described one too.
    pub modified: i64,
    /// The largest timestamp of its records.
    pub max_timestamp: Timestamp,
    /// When its first batch was appended.
    pub first_append_at: Timestamp,
    /// When it was sealed.
    pub sealed_at: Timestamp,
    /// When its tombstones may be removed.
    pub tombstone_horizon: Option<Timestamp>,
    /// The number of records superseded by newer ones, as of the last plan.
    pub dead_records: u64,
    /// Their bytes.
    pub dead_bytes: u64,
    /// Its `.index`; `None` if unknown.
    pub offsets: Option<IndexSum>,
    /// Its `.timeindex`.
    pub times: Option<IndexSum>,
    /// Its `.txnindex`.
    pub aborted: Option<IndexSum>,
}

impl State {
    /// The size of a slot that holds everything, in bytes.
    pub fn needed_size(&self) -> usize {
        self.core_size() + self.segments.len() * (SEGMENT_LEN + MODIFIED_LEN)
    }

    /// Encodes a slot of exactly `slot_size` bytes, with zeros at its end. Segments that do not fit are left out, the
    /// last ones first. Returns `None` if even the rest does not fit.
    pub fn encode(&self, sequence: u64, slot_size: usize) -> Option<Vec<u8>> {
        let room = slot_size.checked_sub(self.core_size())?;
        let fitting = self.segments.len().min(room / (SEGMENT_LEN + MODIFIED_LEN));
        let segments = self.segments.get(..fitting).unwrap_or_default();
        let used = u32::try_from(self.core_size() + segments.len() * (SEGMENT_LEN + MODIFIED_LEN)).ok()?;

        let mut out = Vec::with_capacity(slot_size);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&used.to_be_bytes());
        out.extend_from_slice(&sequence.to_be_bytes());
        self.encode_core(&mut out);
        out.extend_from_slice(&(segments.len() as u32).to_be_bytes());
        segments.iter().for_each(|segment| segment.encode(&mut out));
        segments.iter().for_each(|segment| out.extend_from_slice(&segment.modified.to_be_bytes()));
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_be_bytes());
        assert_eq!(out.len(), used as usize, "the sizes add up");
        out.resize(slot_size, 0);
        Some(out)
    }

    fn core_size(&self) -> usize {
        ENVELOPE_LEN + CORE_LEN + self.adopted_gaps.len() * GAP_LEN + CRC_LEN
    }

    fn encode_core(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.log_start.as_i64().to_be_bytes());
        out.extend_from_slice(&self.active_base.as_i64().to_be_bytes());
        out.extend_from_slice(&self.durable_end.as_i64().to_be_bytes());
        out.extend_from_slice(&self.durable_position.to_be_bytes());
        out.extend_from_slice(&self.high_watermark.as_i64().to_be_bytes());
        out.extend_from_slice(&optional_offset_bytes(self.max_winner_offset));
        out.extend_from_slice(&optional_offset_bytes(self.producers_at));
        let (kind, to) = match self.pending {
            Pending::None => (0, Offset::ZERO),
            Pending::Truncate(to) => (1, to),
            Pending::Reset(to) => (2, to),
        };
        out.push(kind);
        out.extend_from_slice(&to.as_i64().to_be_bytes());
        Planned::encode(self.planned, out);
        out.extend_from_slice(&(self.adopted_gaps.len() as u32).to_be_bytes());
        for gap in &self.adopted_gaps {
            assert!(gap.start < gap.end, "a gap has offsets");
            out.extend_from_slice(&gap.start.as_i64().to_be_bytes());
            out.extend_from_slice(&gap.end.as_i64().to_be_bytes());
        }
    }

    fn decode(fields: &mut Fields<'_>) -> Result<State, FormatError> {
        let mut state = State {
            log_start: fields.offset()?,
            active_base: fields.offset()?,
            durable_end: fields.offset()?,
            durable_position: fields.u64()?,
            high_watermark: fields.offset()?,
            max_winner_offset: fields.optional_offset()?,
            producers_at: fields.optional_offset()?,
            pending: decode_pending(fields)?,
            planned: Planned::decode(fields)?,
            ..State::default()
        };
        let gaps = fields.count(GAP_LEN)?;
        state.adopted_gaps = (0..gaps).map(|_| decode_gap(fields)).collect::<Result<_, _>>()?;
        let segments = fields.count(SEGMENT_LEN)?;
        state.segments = (0..segments).map(|_| SegmentState::decode(fields)).collect::<Result<_, _>>()?;
        // A `state` without modification times ends here.
        if fields.end().is_err() {
            state.segments.iter_mut().try_for_each(|segment| fields.i64().map(|at| segment.modified = at))?;
        }
        fields.end()?;
        Ok(state)
    }
}

impl Planned {
    fn encode(planned: Option<Planned>, out: &mut Vec<u8>) {
        let none = Planned { to: Offset::ZERO, counted_to: Offset::ZERO, due: None, rules: 0 };
        out.push(planned.is_some().into());
        let Planned { to, counted_to, due, rules } = planned.unwrap_or(none);
        out.extend_from_slice(&to.as_i64().to_be_bytes());
        out.extend_from_slice(&counted_to.as_i64().to_be_bytes());
        out.push(due.is_some().into());
        out.extend_from_slice(&due.unwrap_or(Timestamp::NONE).as_millis().to_be_bytes());
        out.extend_from_slice(&rules.to_be_bytes());
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Option<Planned>, FormatError> {
        let flag = |flag| match flag {
            0 | 1 => Ok(flag == 1),
            _ => Err(FormatError::Malformed("plan")),
        };
        let is_some = flag(fields.u8()?)?;
        let (to, counted_to) = (fields.offset()?, fields.offset()?);
        let has_due = flag(fields.u8()?)?;
        let (due, rules) = (fields.timestamp()?, fields.u32()?);
        Ok(is_some.then_some(Planned { to, counted_to, due: has_due.then_some(due), rules }))
    }
}

impl SegmentState {
    /// Stands for an unknown modification time. No file has this one.
    pub const MODIFIED_UNKNOWN: i64 = i64::MIN;

    fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.base <= self.end, "a segment ends at or behind its base");
        out.extend_from_slice(&self.base.as_i64().to_be_bytes());
        out.extend_from_slice(&self.end.as_i64().to_be_bytes());
        out.extend_from_slice(&self.len.to_be_bytes());
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&self.max_timestamp.as_millis().to_be_bytes());
        out.extend_from_slice(&self.first_append_at.as_millis().to_be_bytes());
        out.extend_from_slice(&self.sealed_at.as_millis().to_be_bytes());
        out.push(self.tombstone_horizon.is_some().into());
        out.extend_from_slice(&self.tombstone_horizon.unwrap_or(Timestamp::NONE).as_millis().to_be_bytes());
        out.extend_from_slice(&self.dead_records.to_be_bytes());
        out.extend_from_slice(&self.dead_bytes.to_be_bytes());
        for sum in [self.offsets, self.times, self.aborted] {
            IndexSum::encode(sum, out);
        }
    }

    fn decode(fields: &mut Fields<'_>) -> Result<SegmentState, FormatError> {
        let segment = SegmentState {
            base: fields.offset()?,
            end: fields.offset()?,
            len: fields.u64()?,
            id: fields.u64()?,
            modified: SegmentState::MODIFIED_UNKNOWN,
            max_timestamp: fields.timestamp()?,
            first_append_at: fields.timestamp()?,
            sealed_at: fields.timestamp()?,
            tombstone_horizon: match (fields.u8()?, fields.timestamp()?) {
                (0, _) => None,
                (1, horizon) => Some(horizon),
                _ => return Err(FormatError::Malformed("tombstone horizon")),
            },
            dead_records: fields.u64()?,
            dead_bytes: fields.u64()?,
            offsets: IndexSum::decode(fields)?,
            times: IndexSum::decode(fields)?,
            aborted: IndexSum::decode(fields)?,
        };
        if segment.base <= segment.end { Ok(segment) } else { Err(FormatError::BadOffset) }
    }
}

/// Decodes a slot: its sequence number and content. [`FormatError::BadVersion`] is returned only for a sound slot.
pub fn decode_slot(bytes: &[u8]) -> Result<(u64, State), FormatError> {
    let mut fields = Fields(bytes);
    if fields.array()? != MAGIC {
        return Err(FormatError::BadMagic);
    }
    let version = fields.u16()?;
    let used = fields.u32()? as usize;
    let sequence = fields.u64()?;
    let content_len = used.checked_sub(ENVELOPE_LEN + CRC_LEN).ok_or(FormatError::BadLength)?;
    let mut content = Fields(fields.take(content_len)?);
    let stored = fields.u32()?;
    let computed = crc32fast::hash(bytes.get(..used - CRC_LEN).unwrap_or_default());
    if stored != computed {
        return Err(FormatError::BadCrc { stored, computed });
    }
    if version != VERSION {
        return Err(FormatError::BadVersion { found: version.into(), supported: VERSION.into() });
    }
    Ok((sequence, State::decode(&mut content)?))
}

/// Picks the slot that counts: the sound one with the higher sequence number.
///
/// Fails if neither is sound. Also fails if one is sound but of a newer version, because the other may be out of date.
pub fn pick(slot_a: &[u8], slot_b: &[u8]) -> Result<(u64, State), FormatError> {
    match (decode_slot(slot_a), decode_slot(slot_b)) {
        (Err(error @ FormatError::BadVersion { .. }), _) | (_, Err(error @ FormatError::BadVersion { .. })) => {
            Err(error)
        }
        (Ok(a), Ok(b)) => Ok(if a.0 >= b.0 { a } else { b }),
        (Ok(sound), Err(_)) | (Err(_), Ok(sound)) => Ok(sound),
        (Err(error), Err(_)) => Err(error),
    }
}

fn decode_pending(fields: &mut Fields<'_>) -> Result<Pending, FormatError> {
    match (fields.u8()?, fields.offset()?) {
        (0, _) => Ok(Pending::None),
        (1, to) => Ok(Pending::Truncate(to)),
        (2, to) => Ok(Pending::Reset(to)),
        _ => Err(FormatError::Malformed("pending operation")),
    }
}

fn decode_gap(fields: &mut Fields<'_>) -> Result<Range<Offset>, FormatError> {
    let gap = fields.offset()?..fields.offset()?;
    if gap.start < gap.end { Ok(gap) } else { Err(FormatError::BadOffset) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(i: u64) -> SegmentState {
        SegmentState {
            base: Offset::new(i * 100),
            end: Offset::new(i * 100 + 100),
            len: 4096 + i,
            id: u64::MAX - i,
            modified: -1 - i as i64,
            max_timestamp: Timestamp::from_millis(5),
            first_append_at: Timestamp::NONE,
            sealed_at: Timestamp::from_millis(7),
            tombstone_horizon: i.is_multiple_of(2).then_some(Timestamp::from_millis(-1)),
            dead_records: 3,
            dead_bytes: 300,
            offsets: Some(IndexSum { entries: 4, crc: 9 }),
            times: None,
            aborted: Some(IndexSum::default()),
        }
    }

    fn state(segments: u64) -> State {
        State {
            log_start: Offset::new(1),
            active_base: Offset::new(2),
            durable_end: Offset::new(3),
            durable_position: u64::MAX,
            high_watermark: Offset::new(4),
            max_winner_offset: Some(Offset::MAX),
            producers_at: Some(Offset::ZERO),
            pending: Pending::Truncate(Offset::new(5)),
            planned: Some(Planned {
                to: Offset::new(3),
                counted_to: Offset::new(2),
                due: Some(Timestamp::from_millis(-6)),
                rules: u32::MAX,
            }),
            adopted_gaps: vec![Offset::new(10)..Offset::new(20), Offset::new(30)..Offset::new(31)],
            segments: (0..segments).map(segment).collect(),
        }
    }

    #[test]
    fn a_state_survives_a_round_trip() {
        let others = [
            State::default(),
            State { pending: Pending::Reset(Offset::MAX), max_winner_offset: None, planned: None, ..state(0) },
            state(1),
            state(7),
        ];
        for state in others {
            for slack in [0, 1, 88, 4096] {
                let slot = state.encode(42, state.needed_size() + slack).unwrap();
                assert_eq!(slot.len(), state.needed_size() + slack);
                assert_eq!(decode_slot(&slot), Ok((42, state.clone())));
            }
        }
    }

    #[test]
    fn segments_that_do_not_fit_are_left_out_from_the_end() {
        let full = state(3);
        for missing in 1..=3 {
            let size = full.needed_size() - (SEGMENT_LEN + MODIFIED_LEN) * (missing - 1) - 1;
            let (_, read) = decode_slot(&full.encode(1, size).unwrap()).unwrap();
            assert_eq!(read, state(3 - missing as u64));
        }
        let core = state(0).needed_size();
        assert!(full.encode(1, core).is_some());
        assert_eq!(full.encode(1, core - 1), None);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_a_slot_is_an_error() {
        let state = state(2);
        let slot = state.encode(42, state.needed_size()).unwrap();
        for bit in 0..slot.len() * 8 {
            let mut bad = slot.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let error = decode_slot(&bad).unwrap_err();
            assert!(!matches!(error, FormatError::BadVersion { .. }), "bit {bit}");
        }
        for len in 0..slot.len() {
            assert!(decode_slot(&slot[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn counts_larger_than_the_slot_allocate_nothing() {
        for at in [ENVELOPE_LEN + CORE_LEN - 8, ENVELOPE_LEN + CORE_LEN - 4] {
            let slot = resealed(State::default().encode(1, State::default().needed_size()).unwrap(), at, 0xff);
            assert_eq!(decode_slot(&slot), Err(FormatError::BadCount));
        }
    }

    #[test]
    fn the_newer_sound_slot_counts() {
        let size = state(2).needed_size();
        let (old, new) = (state(1).encode(4, size).unwrap(), state(2).encode(5, size).unwrap());
        assert_eq!(pick(&old, &new), Ok((5, state(2))));
        assert_eq!(pick(&new, &old), Ok((5, state(2))));
        let mut torn = new.clone();
        torn[size / 2..].fill(0);
        assert_eq!(pick(&old, &torn), Ok((4, state(1))));
        assert_eq!(pick(&torn, &old), Ok((4, state(1))));
        assert_eq!(pick(&vec![0; size], &old), Ok((4, state(1))));
        assert_eq!(pick(&[], &[]).unwrap_err(), FormatError::Truncated { needed: 4, available: 0 });
        assert_eq!(pick(&vec![0; size], &torn), Err(FormatError::BadMagic));
    }

    #[test]
    fn a_sound_slot_of_a_newer_version_is_not_passed_over_for_an_older_one() {
        let size = state(1).needed_size();
        let old = state(1).encode(4, size).unwrap();
        let newer = resealed(state(1).encode(5, size).unwrap(), 5, 2);
        let refused = Err(FormatError::BadVersion { found: 2, supported: 1 });
        assert_eq!(pick(&old, &newer), refused);
        assert_eq!(pick(&newer, &old), refused);
    }

    #[test]
    fn a_slot_that_tells_of_no_segment_when_it_was_changed_is_read() {
        let mut written = state(2);
        let mut slot = written.encode(5, written.needed_size()).unwrap();
        slot.truncate(slot.len() - 2 * MODIFIED_LEN);
        let used = (slot.len() as u32).to_be_bytes();
        slot[6..10].copy_from_slice(&used);
        written.segments.iter_mut().for_each(|segment| segment.modified = SegmentState::MODIFIED_UNKNOWN);
        assert_eq!(decode_slot(&resealed(slot, 5, 1)), Ok((5, written)));
    }

    /// The slot with one byte changed and the checksum recomputed.
    fn resealed(mut slot: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
        slot[at] = byte;
        let checked = slot.len() - CRC_LEN;
        let crc = crc32fast::hash(&slot[..checked]);
        slot[checked..].copy_from_slice(&crc.to_be_bytes());
        slot
    }
}
