//! The files beside the records: indexes, snapshots, digests, checkpoints, `state`.

use std::io::Write;

use serde::Serialize;
use serde_json::{Value, json};
use stratalog::format::file_name::SegmentFileKind;
use stratalog::format::{Phase, State};
use stratalog::inspect::{self, Content};
use stratalog::{Offset, Timestamp};

use super::{Dump, Place, Shown};
use crate::human;
use crate::outcome::Status;

/// A line about a file.
#[derive(Serialize)]
struct Line<'a> {
    file: &'a str,
    kind: &'static str,
    topic: Option<&'a str>,
    partition: Option<u32>,
    #[serde(flatten)]
    fields: Value,
}

impl Dump<'_> {
    /// Shows a file that is not a `.log`.
    pub(super) fn entries(&mut self, place: &Place<'_>, content: Content) -> Result<(), Shown> {
        let path = &place.file.path;
        match content {
            Content::Segment { kind, base, .. } => return self.segment_file(place, kind, base),
            Content::State => return self.state(place),
            Content::LeaderEpochs => {
                for entry in inspect::epoch_checkpoint(&self.storage, path)? {
                    self.show(place, "leaderEpoch", json!({ "epoch": entry.epoch, "start": entry.start.get() }))?;
                }
            }
            Content::PartitionMetadata => {
                let id = inspect::metadata(&self.storage, path)?;
                self.show(place, "partitionMetadata", json!({ "topicId": id.to_string() }))?;
            }
            Content::OffsetCheckpoint => {
                for entry in inspect::offset_checkpoint(&self.storage, path)? {
                    let of = format!("{}-{}", entry.topic, entry.partition);
                    self.show(place, "checkpoint", json!({ "of": of, "offset": entry.offset.get() }))?;
                }
            }
            Content::Meta => {
                // The secret that keys are hashed with stays one.
                let id = inspect::meta(&self.storage, path)?.log_id;
                let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
                self.show(place, "meta", json!({ "logId": id }))?;
            }
            Content::Usage => {
                let usage = inspect::usage(&self.storage, path)?;
                let phase = match usage.phase {
                    Phase::Open => "open",
                    Phase::Closed => "closed",
                    Phase::Closing => "closing",
                };
                let checkpoints = usage.checkpoints.map(|crc| format!("{crc:08x}"));
                self.show(place, "usage", json!({ "log": phase, "checkpointsCrc": checkpoints }))?;
            }
            Content::Topics => {
                for topic in inspect::topics(&self.storage, path)? {
                    let config: serde_json::Map<_, _> =
                        topic.config.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
                    let fields = json!({
                        "name": topic.name, "id": topic.id.to_string(), "partitions": topic.partitions,
                        "deleted": topic.deleted, "adopted": topic.adopted, "config": config,
                    });
                    self.show(place, "topic", fields)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn segment_file(&mut self, place: &Place<'_>, kind: SegmentFileKind, base: Offset) -> Result<(), Shown> {
        let path = &place.file.path;
        match kind {
            SegmentFileKind::OffsetIndex => {
                for entry in inspect::offset_index(&self.storage, path)? {
                    let (at, entry) = entry?;
                    let offset = base + u64::from(entry.offset);
                    let fields = json!({ "at": at, "offset": offset.get(), "position": entry.position });
                    self.show(place, "offsetIndex", fields)?;
                }
            }
            SegmentFileKind::TimeIndex => {
                for entry in inspect::time_index(&self.storage, path)? {
                    let (at, entry) = entry?;
                    let offset = base + u64::from(entry.offset);
                    let fields = json!({ "at": at, "timestamp": entry.timestamp.as_millis(), "offset": offset.get() });
                    self.show(place, "timeIndex", fields)?;
                }
            }
            SegmentFileKind::TxnIndex => {
                for entry in inspect::aborted_transactions(&self.storage, path)? {
                    let (at, txn) = entry?;
                    let fields = json!({
                        "at": at, "producerId": txn.producer_id, "firstOffset": txn.first_offset.get(),
                        "lastOffset": txn.last_offset.get(), "lastStableOffset": txn.last_stable_offset.get(),
                    });
                    self.show(place, "abortedTransaction", fields)?;
                }
            }
            SegmentFileKind::Snapshot => {
                for producer in inspect::snapshot(&self.storage, path)? {
                    let fields = json!({
                        "producerId": producer.producer_id, "epoch": producer.epoch,
                        "lastSequence": producer.last_sequence, "lastOffset": producer.last_offset.map(Offset::get),
                        "offsetDelta": producer.offset_delta, "timestamp": producer.timestamp.as_millis(),
                        "coordinatorEpoch": producer.coordinator_epoch,
                        "currentTxnFirstOffset": producer.current_txn_first_offset.map(Offset::get),
                    });
                    self.show(place, "producer", fields)?;
                }
            }
            SegmentFileKind::Digest => self.digest(place)?,
            SegmentFileKind::Log => {}
        }
        Ok(())
    }

    fn digest(&mut self, place: &Place<'_>) -> Result<(), Shown> {
        let digest = inspect::digest(&self.storage, &place.file.path)?;
        let (subject, counts) = (digest.footer.subject, digest.footer.counts);
        let horizons: Vec<Value> =
            digest.annex.horizons.iter().map(|h| json!({ "end": h.end.get(), "atMs": h.at.as_millis() })).collect();
        let producers: Vec<Value> =
            digest.annex.producers.iter().map(|p| json!({ "id": p.id, "open": p.open, "leads": p.leads })).collect();
        let markers = digest.annex.markers.iter();
        let markers: Vec<Value> =
            markers.map(|m| json!({ "first": m.first.get(), "atMs": m.at.as_millis() })).collect();
        let fields = json!({
            "base": subject.base.get(), "end": subject.end.get(), "logBytes": subject.log_len,
            "batches": counts.batches, "records": counts.records, "recordBytes": counts.record_bytes,
            "keys": counts.keys, "keyBytes": counts.key_bytes, "tombstones": counts.tombstones,
            "controlBatches": counts.control_batches, "controlBytes": counts.control_bytes,
            "looseMarkers": counts.loose_markers, "horizons": horizons, "markers": markers, "producers": producers,
        });
        self.show(place, "digest", fields)?;
        if self.args.batches {
            return Ok(());
        }
        for entry in digest.entries() {
            let entry = entry?;
            let offset = subject.base + u64::from(entry.delta());
            if self.is_wanted(offset) {
                let fields = json!({
                    "hash": format!("{:?}", entry.hash()), "offset": offset.get(),
                    "tombstone": entry.is_tombstone(), "bytes": entry.record_bytes(),
                });
                self.show(place, "digestEntry", fields)?;
            }
        }
        Ok(())
    }

    fn state(&mut self, place: &Place<'_>) -> Result<(), Shown> {
        let file = inspect::state_file(&self.storage, &place.file.path)?;
        let newest = file.slots.iter().filter_map(|slot| slot.as_ref().ok()).map(|(sequence, _)| *sequence).max();
        for (number, slot) in file.slots.iter().enumerate() {
            match slot {
                Ok((sequence, state)) => {
                    let fields = state_fields(number, *sequence, Some(*sequence) == newest, state);
                    self.show(place, "state", fields)?;
                }
                // A crash leaves one slot torn: the other one counts then.
                Err(why) => self.show(place, "state", json!({ "slot": number, "error": why.to_string() }))?,
            }
        }
        if newest.is_none() {
            self.damage(place, 0, "neither slot can be read")?;
            self.status = self.status.max(Status::Damage);
        }
        Ok(())
    }

    fn show(&mut self, place: &Place<'_>, kind: &'static str, fields: Value) -> Result<(), Shown> {
        if self.ui.json() {
            let line = Line {
                file: &place.file.name,
                kind,
                topic: place.partition.map(|(topic, _)| topic),
                partition: place.partition.map(|(_, id)| id),
                fields,
            };
            return self.line(&line);
        }
        let Value::Object(fields) = fields else { return Ok(()) };
        self.text(&fields, 2)
    }

    /// Names and values on a line, what is nested below it.
    fn text(&mut self, fields: &serde_json::Map<String, Value>, indent: usize) -> Result<(), Shown> {
        let mut flat = Vec::new();
        for (name, value) in fields.iter().filter(|(_, value)| !is_nested(value)) {
            flat.push(format!("{} {}", spaced(name), plain(name, value)));
        }
        writeln!(self.out, "{:indent$}{}", "", flat.join(", "))?;
        for (name, value) in fields.iter().filter(|(_, value)| is_nested(value)) {
            match value {
                Value::Object(inner) => {
                    for (key, value) in inner {
                        writeln!(self.out, "{:indent$}  {key} = {}", "", plain(key, value))?;
                    }
                }
                Value::Array(items) => {
                    writeln!(self.out, "{:indent$}  {}", "", spaced(name))?;
                    for item in items {
                        match item {
                            Value::Object(inner) => self.text(inner, indent + 4)?,
                            item => writeln!(self.out, "{:indent$}    {}", "", plain(name, item))?,
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn state_fields(number: usize, sequence: u64, counts: bool, state: &State) -> Value {
    let time = |at: Timestamp| Some(at.as_millis()).filter(|_| at != Timestamp::NONE);
    let segments: Vec<Value> = state
        .segments
        .iter()
        .map(|s| {
            json!({
                "base": s.base.get(), "end": s.end.get(), "bytes": s.len, "maxTimestamp": time(s.max_timestamp),
                "firstAppendMs": time(s.first_append_at), "sealedMs": time(s.sealed_at),
                "tombstonesStayUntilMs": s.tombstone_horizon.and_then(time), "garbageRecords": s.dead_records,
                "garbageBytes": s.dead_bytes,
            })
        })
        .collect();
    let gaps: Vec<Value> = state.adopted_gaps.iter().map(|g| json!([g.start.get(), g.end.get()])).collect();
    json!({
        "slot": number, "sequence": sequence, "counts": counts, "logStart": state.log_start.get(),
        "activeBase": state.active_base.get(), "durableEnd": state.durable_end.get(),
        "durablePosition": state.durable_position, "highWatermark": state.high_watermark.get(),
        "maxWinnerOffset": state.max_winner_offset.map(Offset::get), "producersAt": state.producers_at.map(Offset::get),
        "pending": format!("{:?}", state.pending), "adoptedGaps": gaps, "segments": segments,
    })
}

/// `lastOffset` as `last offset`, `sealedMs` as `sealed`.
fn spaced(name: &str) -> String {
    let name = name.strip_suffix("Ms").unwrap_or(name);
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            out.push(' ');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

fn plain(name: &str, value: &Value) -> String {
    let is_time = name.ends_with("Ms") || name == "timestamp" || name == "maxTimestamp";
    match value {
        Value::Null => human::NOTHING.to_owned(),
        Value::Number(number) if is_time => {
            number.as_i64().map_or_else(|| number.to_string(), |ms| human::time(Timestamp::from_millis(ms)))
        }
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(|item| plain("", item)).collect::<Vec<_>>().join(" "),
        value => value.to_string(),
    }
}

/// Whether a value takes lines of its own.
fn is_nested(value: &Value) -> bool {
    match value {
        Value::Object(_) => true,
        Value::Array(items) => items.iter().any(|item| item.is_object()),
        _ => false,
    }
}
