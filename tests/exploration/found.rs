//! What an opened log holds, and whether that is what it may and must hold.

use std::collections::BTreeMap;
use std::time::Duration;

use stratalog::format::{Marker, Scratch};
use stratalog::{Cleanup, FetchOptions, Isolation, Log, Offset, Partition, Severity, Timestamp, WatermarkMode};

use super::model::{Model, Part, Rec, There, TopicModel};

/// How long tombstones stay in the topics of the workloads.
pub const DELETE_RETENTION: Duration = Duration::from_secs(60);

/// One partition as it was found.
#[derive(Debug, Default)]
pub struct FoundPart {
    pub start: u64,
    pub end: u64,
    /// The high watermark, where the owner manages it.
    pub watermark: Option<u64>,
    pub records: Vec<(u64, Rec)>,
    /// Base and end of each batch.
    pub batches: Vec<(u64, u64)>,
    /// Leader epochs, and where the first batch of each begins.
    epochs: Vec<(i32, u64)>,
    /// Records of aborted transactions, and of open ones.
    aborted: Vec<u64>,
    open: Vec<u64>,
}

/// All partitions of a topic.
pub type FoundTopic = Vec<FoundPart>;

/// How the log came to be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum After {
    /// All that was acknowledged is in the page cache.
    Kill,
    PowerCut,
}

/// What is there, or why it must not be so.
pub fn look(log: &Log, model: &Model, after: After, now: Timestamp) -> Result<BTreeMap<String, FoundTopic>, String> {
    let report = log.recovery_report();
    if let Some((topic, id, error)) = report.failed.first() {
        return Err(format!("I1: {topic}-{id} cannot be opened: {error}"));
    }
    let mut found = BTreeMap::new();
    for (name, topic) in &model.topics {
        let there = log.topic(name);
        match (topic.there, &there) {
            (There::Yes, None) => return Err(format!("I1: topic {name} is gone")),
            (There::No, Some(_)) => return Err(format!("I2: topic {name} was deleted, or never made, and is there")),
            _ => {}
        }
        if let Some(there) = there {
            let parts = look_at_topic(&there, topic, after, now).map_err(|why| format!("{name}: {why}"))?;
            found.insert((*name).to_owned(), parts);
        }
    }
    if let Some(unknown) = log.topics().iter().find(|topic| !model.topics.contains_key(topic.name())) {
        return Err(format!("I2: topic {} was never made", unknown.name()));
    }
    Ok(found)
}

fn look_at_topic(
    there: &stratalog::Topic,
    model: &TopicModel,
    after: After,
    now: Timestamp,
) -> Result<FoundTopic, String> {
    let partitions = there.partitions();
    if !(model.partitions..=model.partitions_max.max(model.partitions)).contains(&partitions.len()) {
        return Err(format!("I1: {} partitions, not {}", partitions.len(), model.partitions));
    }
    let config = there.config().map_err(|e| e.to_string())?;
    let mark = config.segment_index_bytes;
    if !model.marks.contains(&mark) {
        return Err(format!("I1: the configuration is marked {mark}, not any of {:?}", model.marks));
    }
    let none = Part::default();
    let mut found = Vec::new();
    for (id, partition) in partitions.iter().enumerate() {
        let part = model.parts.get(id).unwrap_or(&none);
        found.push(look_at_partition(partition, part, after, now).map_err(|why| format!("{id}: {why}"))?);
    }
    Ok(found)
}

fn look_at_partition(partition: &Partition, model: &Part, after: After, now: Timestamp) -> Result<FoundPart, String> {
    if let Some(error) = partition.stats().error {
        return Err(format!("I1: refused: {error}"));
    }
    let found = read(partition).map_err(|e| format!("I1: reading fails: {e}"))?;
    let offsets = partition.offsets();
    if offsets.durable != offsets.end {
        return Err(format!("I8: what recovery shows is durable, but {offsets:?}"));
    }
    check_ends(&found, model, after)?;
    let compacted = partition.config().cleanup != Cleanup::Delete;
    let was_reset = model.reset == Some(found.start) && found.end == found.start;
    if !was_reset {
        check_records(&found, model, compacted)?;
        if compacted {
            check_latest(&found, model, now)?;
        } else {
            check_epochs(partition, &found)?;
        }
    }
    check_transactions(partition, &found, offsets.last_stable.get())?;
    let report = partition.verify().map_err(|e| format!("I10: verify: {e}"))?;
    match report.findings.iter().find(|finding| finding.severity == Severity::Data) {
        Some(finding) => Err(format!("I10: verify: {finding:?}")),
        None => Ok(found),
    }
}

/// Reads everything, batch by batch.
fn read(partition: &Partition) -> stratalog::Result<FoundPart> {
    let offsets = partition.offsets();
    let managed = partition.config().watermark == WatermarkMode::Managed;
    let mut found = FoundPart {
        start: offsets.start.get(),
        end: offsets.end.get(),
        watermark: managed.then(|| offsets.high_watermark.get()),
        ..FoundPart::default()
    };
    let mut open: BTreeMap<i64, Vec<u64>> = BTreeMap::new();
    let mut scratch = Scratch::default();
    let mut reader = partition.reader(offsets.start)?;
    while let Some(batch) = reader.next_batch()? {
        let header = *batch.header();
        found.batches.push((header.base_offset.get(), header.next_offset().get()));
        if header.leader_epoch > found.epochs.last().map_or(-1, |(epoch, _)| *epoch) {
            found.epochs.push((header.leader_epoch, header.base_offset.get()));
        }
        if let Some(control) = batch.control(&mut scratch)? {
            let ended = open.remove(&header.producer_id).unwrap_or_default();
            if control.marker == Marker::Abort {
                found.aborted.extend(ended);
            }
            continue;
        }
        if header.attributes.is_control() {
            continue;
        }
        for record in batch.records(&mut scratch)? {
            let record = record?;
            if record.offset < offsets.start {
                continue;
            }
            let key = record.key.and_then(|key| key.get(1)).map_or(0, |digit| digit.wrapping_sub(b'0'));
            let value = record.value.map(|value| String::from_utf8_lossy(value).into_owned());
            found.records.push((record.offset.get(), Rec { key, value, at: record.timestamp }));
            if header.attributes.is_transactional() {
                open.entry(header.producer_id).or_default().push(record.offset.get());
            }
        }
    }
    found.open = open.into_values().flatten().collect();
    found.aborted.sort_unstable();
    found.open.sort_unstable();
    Ok(found)
}

fn check_ends(found: &FoundPart, model: &Part, after: After) -> Result<(), String> {
    let FoundPart { start, end, .. } = *found;
    if model.reset == Some(start) && end == start || model.cut == Some(end) {
        return Ok(());
    }
    let least = if after == After::Kill && model.cut.is_none() { model.end } else { model.durable };
    if end < least {
        return Err(format!("I1: ends at {end}, but {least} was acknowledged"));
    }
    if end > model.end_max {
        return Err(format!("I2: ends at {end}, but nothing was appended from {} on", model.end_max));
    }
    if start < model.start || start > model.start_max {
        return Err(format!("I1: starts at {start}, not in {}..={}", model.start, model.start_max));
    }
    if let Some(watermark) = found.watermark.filter(|watermark| *watermark > model.watermark.max(start)) {
        return Err(format!("I6: the high watermark is {watermark}, never set beyond {}", model.watermark));
    }
    Ok(())
}

fn check_records(found: &FoundPart, model: &Part, compacted: bool) -> Result<(), String> {
    let mut last = None;
    for (offset, record) in &found.records {
        if last.is_some_and(|last| last >= *offset) {
            return Err(format!("I2: {offset} after {last:?}"));
        }
        last = Some(*offset);
        let any = model.slots.get(offset).map_or(&[][..], |slot| &slot.any);
        if !any.contains(record) {
            return Err(format!("I2: {offset} holds {record:?}, but appended there was {any:?}"));
        }
    }
    if compacted {
        return Ok(());
    }
    let mut there = found.records.iter().map(|(offset, _)| *offset).peekable();
    for (offset, slot) in model.slots.range(found.start..found.end.max(found.start)) {
        while there.next_if(|found| found < offset).is_some() {}
        if slot.required && there.peek() != Some(offset) {
            return Err(format!("I15: {offset} is missing within {}..{}: {:?}", found.start, found.end, slot.any));
        }
    }
    Ok(())
}

/// Of a compacted log each key's latest committed record is there, and what a deletion deleted is not.
fn check_latest(found: &FoundPart, model: &Part, now: Timestamp) -> Result<(), String> {
    let mut latest: BTreeMap<u8, (u64, &Rec)> = BTreeMap::new();
    let at = |offset: u64| found.records.binary_search_by_key(&offset, |(at, _)| *at).ok();
    for (offset, slot) in model.slots.range(found.start..found.end.max(found.start)) {
        let there = at(*offset).map(|at| &found.records[at].1);
        let Some(record) = there.or(slot.any.last().filter(|_| slot.required)) else { continue };
        let settled = match model.outcome(*offset, found.end) {
            None => continue,
            Some(committed) => committed,
        };
        if settled {
            latest.insert(record.key, (*offset, record));
        }
    }
    for (key, (offset, record)) in latest {
        if at(offset).is_some() {
            continue;
        }
        if record.value.is_some() {
            let there: Vec<(u64, u8)> = found.records.iter().map(|(at, record)| (*at, record.key)).collect();
            return Err(format!(
                "I5: the latest record of key {key}, at {offset}, is gone from {}..{}: {there:?}",
                found.start, found.end
            ));
        }
        let age = now.millis_since(record.at);
        if age < DELETE_RETENTION.as_millis() as i64 {
            let there: Vec<(u64, u8)> = found.records.iter().map(|(at, record)| (*at, record.key)).collect();
            return Err(format!(
                "I5: the tombstone of key {key} at {offset} went after {age} ms from {}..{}: {there:?}",
                found.start, found.end
            ));
        }
        let older = found.records.iter().find(|(older, found)| {
            *older < offset && found.key == key && model.outcome(*older, u64::MAX) == Some(true)
        });
        if let Some((older, _)) = older {
            return Err(format!("I5: key {key} was deleted at {offset}, and is back at {older}"));
        }
    }
    Ok(())
}

/// Where each leader epoch ends is what the batches say.
fn check_epochs(partition: &Partition, found: &FoundPart) -> Result<(), String> {
    for (at, (epoch, _)) in found.epochs.iter().enumerate() {
        let end = found.epochs.get(at + 1).map_or(found.end, |(_, next)| *next);
        let told = partition.end_offset_for_epoch(*epoch);
        if told != Some((*epoch, Offset::new(end))) {
            return Err(format!("I1: epoch {epoch} ends at {end}, not at {told:?}"));
        }
    }
    Ok(())
}

/// Who reads what is committed sees neither open transactions nor aborted ones.
fn check_transactions(partition: &Partition, found: &FoundPart, stable: u64) -> Result<(), String> {
    if let Some(open) = found.open.first().filter(|open| **open < stable) {
        return Err(format!("I6: the transaction with {open} is open, but stable is {stable}"));
    }
    if found.aborted.is_empty() && found.open.is_empty() {
        return Ok(());
    }
    let options = FetchOptions { isolation: Isolation::Committed, ..FetchOptions::default() };
    let read = || -> stratalog::Result<Vec<u64>> {
        let mut reader = partition.reader_with(partition.offsets().start, options)?;
        let mut read = Vec::new();
        while let Some(record) = reader.next_record()? {
            read.push(record.offset.get());
        }
        Ok(read)
    };
    let read = read().map_err(|e| format!("I6: reading what is committed fails: {e}"))?;
    // A batch that reaches beyond what is stable is not shown in part.
    let whole = found.batches.iter().map(|(_, next)| *next).take_while(|next| *next <= stable).last().unwrap_or(0);
    let offsets = found.records.iter().map(|(offset, _)| *offset).filter(|offset| *offset < whole);
    let expected: Vec<u64> = offsets.filter(|offset| found.aborted.binary_search(offset).is_err()).collect();
    if read != expected {
        return Err(format!("I6: committed are {expected:?}, but read were {read:?}"));
    }
    Ok(())
}

impl Part {
    /// Whether the record at an offset counts, in a log that ends at `end`; `None` while its transaction is open.
    pub fn outcome(&self, offset: u64, end: u64) -> Option<bool> {
        let Some(producer) = self.writers.get(&offset) else { return Some(true) };
        let marker = self.markers.range(offset..end).find(|(_, (ended, _))| ended == producer);
        marker.map(|(_, (_, abort))| !abort)
    }

    /// What was found counts from now on.
    pub fn settle(&mut self, found: &FoundPart) {
        let FoundPart { start, end, .. } = *found;
        if self.reset == Some(start) && end == start {
            return self.reset_done(start);
        }
        self.slots.retain(|offset, _| *offset < end);
        for (offset, record) in &found.records {
            let slot = self.slots.entry(*offset).or_default();
            (slot.any, slot.required) = (vec![record.clone()], true);
        }
        let there = |offset: &u64| found.records.binary_search_by_key(offset, |(at, _)| *at).is_ok();
        self.slots.retain(|offset, slot| slot.required || there(offset));
        self.batches.retain(|_, next| *next <= end);
        self.batches.extend(found.batches.iter().copied());
        self.epoch = self.epoch.max(found.epochs.last().map_or(-1, |(epoch, _)| *epoch));
        self.markers.retain(|offset, _| *offset < end);
        self.writers.retain(|offset, _| *offset < end);
        (self.end, self.end_max, self.durable) = (end, end, end);
        (self.start, self.start_max) = (start, start);
        (self.cut, self.reset) = (None, None);
        self.watermark = self.watermark.min(end).max(found.watermark.unwrap_or(start));
    }
}
