//! Control records: the markers that end transactions.

use byteorder::{BigEndian, ByteOrder};

use super::FormatError;
use super::batch::{BatchView, RecordBatch};
use super::builder::BatchBuilder;
use super::compression::Scratch;
use super::record::{Record, RecordView};
use crate::offset::{Offset, Timestamp};

/// The type of a control record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Marker {
    /// The producer's transaction is aborted. Readers of committed records must not see its records.
    Abort,
    /// The producer's transaction is committed.
    Commit,
    /// A control record of another type, such as those of Raft; it ends no transaction.
    Other(i16),
}

/// A control record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlRecord {
    /// Its type.
    pub marker: Marker,
    /// The epoch of the transaction coordinator that wrote it; -1 for other types of control record.
    pub coordinator_epoch: i32,
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: Timestamp,
}

impl ControlRecord {
    /// Parses the single record of a control batch. Versions newer than 0 may add bytes at the end, as in Kafka.
    pub(super) fn parse(record: &RecordView<'_>) -> Result<ControlRecord, FormatError> {
        let key = record.key.and_then(|key| key.first_chunk::<4>()).ok_or(FormatError::BadRecord("control key"))?;
        let marker = match BigEndian::read_i16(&key[2..]) {
            0 => Marker::Abort,
            1 => Marker::Commit,
            other => Marker::Other(other),
        };
        if BigEndian::read_i16(&key[..2]) < 0 {
            return Err(FormatError::BadRecord("control version"));
        }
        let coordinator_epoch = match marker {
            Marker::Other(_) => -1,
            Marker::Abort | Marker::Commit => {
                let value = record.value.and_then(|value| value.first_chunk::<6>());
                BigEndian::read_i32(&value.ok_or(FormatError::BadRecord("control value"))?[2..])
            }
        };
        Ok(ControlRecord { marker, coordinator_epoch, offset: record.offset, timestamp: record.timestamp })
    }
}

/// Builds the batch that ends a producer's transaction. [`Marker::Other`] is refused.
pub fn end_marker(
    marker: Marker,
    producer_id: i64,
    producer_epoch: i16,
    coordinator_epoch: i32,
    timestamp: Timestamp,
) -> Result<RecordBatch, FormatError> {
    let mut key = [0; 4];
    match marker {
        Marker::Abort => BigEndian::write_i16(&mut key[2..], 0),
        Marker::Commit => BigEndian::write_i16(&mut key[2..], 1),
        Marker::Other(_) => return Err(FormatError::BadRecord("control type")),
    }
    let mut value = [0; 6];
    BigEndian::write_i32(&mut value[2..], coordinator_epoch);
    let mut builder = BatchBuilder::new().producer(producer_id, producer_epoch, -1).transactional(true).control(true);
    builder.push(&Record::new(&key, &value), timestamp)?;
    builder.build()
}

impl BatchView<'_> {
    /// The control record of a control batch. `None` for any other batch, and for one that was emptied.
    pub fn control(&self, scratch: &mut Scratch) -> Result<Option<ControlRecord>, FormatError> {
        if !self.header().attributes.is_control() {
            return Ok(None);
        }
        match self.records(scratch)?.next() {
            Some(record) => ControlRecord::parse(&record?).map(Some),
            None => Ok(None),
        }
    }
}

/// Whether a control record is a marker that ends a transaction.
pub(crate) fn ends_transaction(control: ControlRecord) -> bool {
    match control.marker {
        Marker::Abort | Marker::Commit => true,
        Marker::Other(_) => false,
    }
}
