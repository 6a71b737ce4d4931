//! What Kafka's listings say of batches and records.
#![allow(dead_code)]

use serde_json::{Value, json};
use stratalog::format::{BatchView, Marker, RecordView, Scratch, TimestampType};

/// What Kafka's listing says of a batch: a line for each record, or one for a batch without any.
pub fn describe(batch: &BatchView<'_>, out: &mut Vec<Value>) {
    let mut scratch = Scratch::default();
    batch.check_crc().unwrap();
    let described = describe_header(batch);
    if batch.header().count == 0 {
        let mut described = described;
        described["emptyBatch"] = true.into();
        out.push(described);
        return;
    }
    for record in batch.records(&mut scratch).unwrap() {
        out.push(describe_record(&record.unwrap(), &described));
    }
}

/// The part that all lines of a batch have in common.
pub fn describe_header(batch: &BatchView<'_>) -> Value {
    let header = batch.header();
    let mut out = json!({
        "batchBaseOffset": header.base_offset.get(),
        "batchLastOffset": header.last_offset().get(),
        "batchCount": header.count,
        "magic": 2,
        "producerId": header.producer_id,
        "producerEpoch": header.producer_epoch,
        "baseSequence": header.base_sequence,
        "leaderEpoch": header.leader_epoch,
        "transactional": header.attributes.is_transactional(),
        "control": header.attributes.is_control(),
        "compression": header.attributes.codec().unwrap().name(),
        "timestampType": match header.attributes.timestamp_type() {
            TimestampType::CreateTime => "CreateTime",
            TimestampType::LogAppendTime => "LogAppendTime",
        },
        "maxTimestamp": header.max_timestamp.as_millis(),
        "deleteHorizonMs": header.delete_horizon().map(|horizon| horizon.as_millis()),
        "crc": header.crc,
    });
    if let Some(control) = batch.control(&mut Scratch::default()).unwrap() {
        out["coordinatorEpoch"] = control.coordinator_epoch.into();
        out["controlType"] = match control.marker {
            Marker::Abort => "ABORT".into(),
            Marker::Commit => "COMMIT".into(),
            Marker::Other(_) => Value::Null,
        };
    }
    out
}

/// A line for a record of a batch that was described.
pub fn describe_record(record: &RecordView<'_>, batch: &Value) -> Value {
    let mut out = batch.clone();
    out["offset"] = record.offset.get().into();
    out["timestamp"] = record.timestamp.as_millis().into();
    out["key"] = record.key.map(base64).into();
    out["value"] = record.value.map(base64).into();
    out["sequence"] = record.sequence.into();
    out["headers"] =
        record.headers().map(|header| json!([String::from_utf8_lossy(header.key), header.value.map(base64)])).collect();
    out
}

/// In the usual alphabet, padded.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let digit = char::from(DIGITS[bits >> (18 - 6 * i) & 63]);
            out.push(if i > chunk.len() { '=' } else { digit });
        }
    }
    out
}
