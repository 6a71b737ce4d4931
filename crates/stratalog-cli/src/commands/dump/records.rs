//! The batches and records of a `.log` file.

use std::io::Write;

use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};
use stratalog::format::{ControlRecord, Marker, Scratch};
use stratalog::inspect::{self, Entry};
use stratalog::{Offset, RecordBatch, RecordView, TimestampType};

use super::{Dump, Place, Shown};
use crate::human::{self, Readable};
use crate::json::Base64;

/// What is told of a batch: spelled as the project's samples of Kafka's own reading are.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BatchFields<'a> {
    segment: &'a str,
    position: u64,
    batch_base_offset: u64,
    batch_last_offset: u64,
    batch_count: u32,
    magic: u8,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    leader_epoch: i32,
    transactional: bool,
    control: bool,
    compression: String,
    timestamp_type: &'static str,
    max_timestamp: i64,
    delete_horizon_ms: Option<i64>,
    crc: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RecordLine<'a> {
    topic: Option<&'a str>,
    partition: Option<u32>,
    offset: u64,
    timestamp: i64,
    key: Option<Base64<'a>>,
    value: Option<Base64<'a>>,
    headers: Headers<'a>,
    sequence: i32,
    #[serde(flatten)]
    batch: &'a BatchFields<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    control_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    coordinator_epoch: Option<i32>,
}

/// A batch without its records.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BatchLine<'a> {
    #[serde(skip_serializing_if = "is_false")]
    empty_batch: bool,
    #[serde(skip_serializing_if = "is_false")]
    batch: bool,
    topic: Option<&'a str>,
    partition: Option<u32>,
    #[serde(flatten)]
    fields: &'a BatchFields<'a>,
}

/// Headers as pairs.
struct Headers<'a>(&'a RecordView<'a>);

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut pairs = serializer.serialize_seq(Some(self.0.header_count()))?;
        for header in self.0.headers() {
            pairs.serialize_element(&(String::from_utf8_lossy(header.key), header.value.map(Base64)))?;
        }
        pairs.end()
    }
}

impl Dump<'_> {
    /// Shows a `.log` file.
    pub(super) fn log(&mut self, place: &Place<'_>, base: Offset) -> Result<(), Shown> {
        let mut scratch = Scratch::default();
        let mut end = base;
        for entry in inspect::batches(&self.storage, &place.file.path)? {
            match entry? {
                Entry::Batch { position, batch } => {
                    let header = batch.header();
                    if header.base_offset < end {
                        let what = format!("offset {} is not above those before it", header.base_offset);
                        self.damage(place, position, &what)?;
                    }
                    end = end.max(header.next_offset());
                    let inside = self.args.to.is_none_or(|to| header.base_offset.get() < to)
                        && self.args.from.is_none_or(|from| header.last_offset().get() >= from);
                    if inside {
                        self.batch(place, position, &batch, &mut scratch)?;
                    }
                }
                Entry::Zeros { position, len } if place.is_last => {
                    if !self.ui.json() {
                        writeln!(self.out, "  {len} bytes of zeros at {position}: reserved space")?;
                    }
                }
                Entry::Zeros { position, len } => self.damage(place, position, &format!("{len} zeros"))?,
                Entry::Damage { position, why, resumes_at } => {
                    let rest = match resumes_at {
                        Some(at) => format!("goes on at byte {at}"),
                        None => "no valid batch follows".to_owned(),
                    };
                    self.damage(place, position, &format!("{why}; {rest}"))?;
                }
            }
        }
        Ok(())
    }

    fn batch(
        &mut self,
        place: &Place<'_>,
        position: u64,
        batch: &RecordBatch,
        scratch: &mut Scratch,
    ) -> Result<(), Shown> {
        let fields = fields(place, position, batch);
        let header = batch.header();
        if !self.ui.json() {
            self.batch_heading(&fields, header.size)?;
        }
        if self.args.batches || header.count == 0 {
            if self.ui.json() {
                let line = BatchLine {
                    empty_batch: header.count == 0,
                    batch: header.count > 0,
                    topic: place.partition.map(|(topic, _)| topic),
                    partition: place.partition.map(|(_, id)| id),
                    fields: &fields,
                };
                self.line(&line)?;
            }
            return Ok(());
        }
        let control = match batch.view().control(scratch) {
            Ok(control) => control,
            Err(why) => {
                self.damage(place, position, &format!("a control record that cannot be read: {why}"))?;
                None
            }
        };
        let records = match batch.view().records(scratch) {
            Ok(records) => records,
            Err(why) => return Ok(self.damage(place, position, &why.to_string())?),
        };
        for record in records {
            match record {
                Ok(record) if !self.is_wanted(record.offset) => {}
                Ok(record) if self.ui.json() => self.record_line(place, &fields, &record, control)?,
                Ok(record) => self.record_text(&record, control)?,
                Err(why) => return Ok(self.damage(place, position, &why.to_string())?),
            }
        }
        Ok(())
    }

    fn record_line(
        &mut self,
        place: &Place<'_>,
        batch: &BatchFields<'_>,
        record: &RecordView<'_>,
        control: Option<ControlRecord>,
    ) -> Result<(), Shown> {
        let line = RecordLine {
            topic: place.partition.map(|(topic, _)| topic),
            partition: place.partition.map(|(_, id)| id),
            offset: record.offset.get(),
            timestamp: record.timestamp.as_millis(),
            key: record.key.map(Base64),
            value: record.value.map(Base64),
            headers: Headers(record),
            sequence: record.sequence,
            batch,
            control_type: control.map(|control| marker_name(control.marker)),
            coordinator_epoch: control.map(|control| control.coordinator_epoch),
        };
        self.line(&line)
    }

    fn batch_heading(&mut self, batch: &BatchFields<'_>, size: usize) -> Result<(), Shown> {
        let BatchFields { batch_base_offset: first, batch_last_offset: last, batch_count: count, .. } = batch;
        write!(
            self.out,
            "  batch {first}..={last} at byte {}: {}, {}, {}, crc {:#010x}",
            batch.position,
            human::count((*count).into(), "record", "records"),
            human::size(size as u64),
            batch.compression,
            batch.crc
        )?;
        write!(self.out, ", leader epoch {}", batch.leader_epoch)?;
        if batch.producer_id >= 0 {
            let (id, epoch, sequence) = (batch.producer_id, batch.producer_epoch, batch.base_sequence);
            write!(self.out, ", producer {id} epoch {epoch} sequence {sequence}")?;
        }
        if batch.timestamp_type != "CreateTime" {
            write!(self.out, ", {}", batch.timestamp_type)?;
        }
        if batch.transactional {
            write!(self.out, ", transactional")?;
        }
        if batch.control {
            write!(self.out, ", control")?;
        }
        if let Some(at) = batch.delete_horizon_ms {
            write!(self.out, ", tombstones stay until {}", human::time(stratalog::Timestamp::from_millis(at)))?;
        }
        Ok(writeln!(self.out)?)
    }

    fn record_text(&mut self, record: &RecordView<'_>, control: Option<ControlRecord>) -> Result<(), Shown> {
        let whole = self.args.whole;
        write!(self.out, "    {}  {}  ", record.offset, human::time(record.timestamp))?;
        if let Some(control) = control {
            let (name, epoch) = (marker_name(control.marker), control.coordinator_epoch);
            return Ok(writeln!(self.out, "{name} of coordinator epoch {epoch}")?);
        }
        let (key, value) = (Readable { bytes: record.key, whole }, Readable { bytes: record.value, whole });
        write!(self.out, "{key} = {value}")?;
        for header in record.headers() {
            let (key, value) = (Readable { bytes: Some(header.key), whole }, Readable { bytes: header.value, whole });
            write!(self.out, "  [{key}: {value}]")?;
        }
        Ok(writeln!(self.out)?)
    }

    /// One line of JSON.
    pub(super) fn line(&mut self, value: &impl Serialize) -> Result<(), Shown> {
        serde_json::to_writer(&mut self.out, value)?;
        Ok(self.out.write_all(b"\n")?)
    }
}

fn fields<'a>(place: &Place<'a>, position: u64, batch: &RecordBatch) -> BatchFields<'a> {
    let header = batch.header();
    let attributes = header.attributes;
    BatchFields {
        segment: &place.file.name,
        position,
        batch_base_offset: header.base_offset.get(),
        batch_last_offset: header.last_offset().get(),
        batch_count: header.count,
        magic: 2,
        producer_id: header.producer_id,
        producer_epoch: header.producer_epoch,
        base_sequence: header.base_sequence,
        leader_epoch: header.leader_epoch,
        transactional: attributes.is_transactional(),
        control: attributes.is_control(),
        compression: attributes.codec().map_or_else(|why| why.to_string(), |codec| codec.name().to_owned()),
        timestamp_type: match attributes.timestamp_type() {
            TimestampType::CreateTime => "CreateTime",
            TimestampType::LogAppendTime => "LogAppendTime",
        },
        max_timestamp: header.max_timestamp.as_millis(),
        delete_horizon_ms: header.delete_horizon().map(|at| at.as_millis()),
        crc: header.crc,
    }
}

fn marker_name(marker: Marker) -> String {
    match marker {
        Marker::Abort => "ABORT".to_owned(),
        Marker::Commit => "COMMIT".to_owned(),
        Marker::Other(other) => format!("OTHER_{other}"),
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
fn is_false(value: &bool) -> bool {
    !value
}
