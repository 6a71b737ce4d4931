//! The `stratalog.topics` file: which topics and partitions there are, with their configurations. Replacing it is the
//! commit point of creating, deleting and configuring.
//!
//! Text, in lines of `word value`: a magic line with the version; for each topic `topic`, `id`, `partition` (one line
//! each), `unfinished` and `set key value`; last a line with the CRC-32 of all before it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use crate::config::{Cleanup, Durability, TopicConfig, WatermarkMode};
use crate::error::{Error, ErrorKind, Result};
use crate::format::file_name::{self, TOPICS};
use crate::format::{Codec, TimestampType, TopicId};
use crate::storage::{Storage, files};

/// The file begins with its own name.
const MAGIC: &str = TOPICS;
const VERSION: u32 = 1;
/// A larger file is none of ours.
const LEN_MAX: u64 = 1 << 30;

/// All topics.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) topics: BTreeMap<String, TopicEntry>,
    /// The directory is being taken over: a crash meanwhile has that begun anew.
    pub(crate) taking_over: bool,
    /// Who had it before closed it in good order.
    pub(crate) taking_over_clean: bool,
}

/// One topic.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct TopicEntry {
    pub(crate) id: TopicId,
    /// The partitions that are here.
    pub(crate) partitions: BTreeSet<u32>,
    pub(crate) config: TopicConfig,
    /// It is deleted; its directories may still be there.
    pub(crate) deleted: bool,
    /// It was taken over and has no configuration yet: it is neither retained nor compacted.
    pub(crate) adopted: bool,
    /// Partitions whose taking over stopped at damage, and whether who had them before closed them in good order: the
    /// next open begins it anew.
    pub(crate) taking_over: BTreeMap<u32, bool>,
}

impl Catalog {
    /// Reads the file; `None` when there is none.
    pub(crate) fn load(storage: &dyn Storage, dir: &Path) -> Result<Option<Catalog>> {
        let path = dir.join(TOPICS);
        let Some(bytes) = files::read(storage, &path, LEN_MAX)? else { return Ok(None) };
        Catalog::parse(&bytes).map(Some).map_err(|error| error.at_path(&path))
    }

    /// Replaces the file: durable when this returns; after an error the old one holds.
    pub(crate) fn store(&self, storage: &dyn Storage, dir: &Path) -> Result<()> {
        let temporary = dir.join(file_name::temporary(TOPICS));
        files::replace(storage, dir, &dir.join(TOPICS), &temporary, self.encode().as_bytes())
    }

    fn encode(&self) -> String {
        let mut text = format!("{MAGIC} {VERSION}\n");
        if self.taking_over {
            text.push_str(if self.taking_over_clean { "taking-over clean\n" } else { "taking-over unclean\n" });
        }
        for (name, topic) in &self.topics {
            let _ = writeln!(text, "topic {name}\nid {:032x}", topic.id.bits());
            if topic.deleted {
                text.push_str("deleted\n");
            }
            if topic.adopted {
                text.push_str("adopted\n");
            }
            for partition in &topic.partitions {
                let _ = writeln!(text, "partition {partition}");
            }
            for (partition, clean) in &topic.taking_over {
                let _ = writeln!(text, "unfinished {partition} {}", if *clean { "clean" } else { "unclean" });
            }
            for (key, value) in pairs(&topic.config) {
                let _ = writeln!(text, "set {key} {value}");
            }
        }
        let _ = writeln!(text, "crc {:08x}", crc32fast::hash(text.as_bytes()));
        text
    }

    fn parse(bytes: &[u8]) -> Result<Catalog> {
        let damaged = |what: &'static str| Error::from(ErrorKind::Corrupt(what.into()));
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("not text"))?;
        let (body, _) = text.trim_end_matches('\n').rsplit_once('\n').ok_or_else(|| damaged("no lines"))?;
        let body = bytes.get(..body.len() + 1).unwrap_or_default();
        let sealed = format!("crc {:08x}\n", crc32fast::hash(body));
        if bytes.get(body.len()..) != Some(sealed.as_bytes()) {
            return Err(damaged("the checksum does not match"));
        }
        let mut lines = std::str::from_utf8(body).map_err(|_| damaged("not text"))?.lines();
        let version = lines.next().and_then(|line| line.strip_prefix(MAGIC)).and_then(|v| v.trim().parse::<u32>().ok());
        match version {
            None => return Err(damaged("the magic is wrong")),
            Some(VERSION) => {}
            Some(found) => return Err(ErrorKind::UnsupportedVersion { found, supported: VERSION }.into()),
        }
        let mut catalog = Catalog::default();
        let mut current: Option<String> = None;
        for line in lines {
            let (word, value) = line.split_once(' ').unwrap_or((line, ""));
            if word == "topic" {
                file_name::check_topic(value).map_err(|_| damaged("a bad topic name"))?;
                catalog.topics.insert(value.to_owned(), TopicEntry::new(TopicId::new(0), TopicConfig::default()));
                current = Some(value.to_owned());
                continue;
            }
            if word == "taking-over" {
                (catalog.taking_over, catalog.taking_over_clean) = (true, value == "clean");
                continue;
            }
            let topic = current.as_ref().and_then(|name| catalog.topics.get_mut(name));
            let topic = topic.ok_or_else(|| damaged("a line outside of a topic"))?;
            topic.take_line(word, value).ok_or_else(|| damaged("a line that cannot be read"))?;
        }
        Ok(catalog)
    }
}

impl TopicEntry {
    pub(crate) fn new(id: TopicId, config: TopicConfig) -> TopicEntry {
        TopicEntry {
            id,
            partitions: BTreeSet::new(),
            config,
            deleted: false,
            adopted: false,
            taking_over: BTreeMap::new(),
        }
    }

    /// The configuration as keys and values, under Kafka's names where it has them.
    pub(crate) fn config_pairs(&self) -> Vec<(&'static str, String)> {
        pairs(&self.config)
    }

    fn take_line(&mut self, word: &str, value: &str) -> Option<()> {
        match word {
            "id" => self.id = TopicId::new(u128::from_str_radix(value, 16).ok()?),
            "deleted" => self.deleted = true,
            "adopted" => self.adopted = true,
            "partition" => {
                self.partitions.insert(value.parse().ok()?);
            }
            "unfinished" => {
                let (partition, how) = value.split_once(' ')?;
                self.taking_over.insert(partition.parse().ok()?, how == "clean");
            }
            "set" => {
                let (key, value) = value.split_once(' ')?;
                set_pair(&mut self.config, key, value)?;
            }
            _ => return None,
        }
        Some(())
    }
}

/// The configuration as keys and values, under Kafka's names where it has them.
fn pairs(config: &TopicConfig) -> Vec<(&'static str, String)> {
    let millis = |d: Duration| d.as_millis().to_string();
    let optional = |d: Option<Duration>| d.map_or_else(|| "-1".to_owned(), millis);
    let (sync, interval, bytes) = match config.durability {
        Durability::Buffered { interval, bytes } => ("buffered", interval, bytes),
        Durability::Sync => ("sync", Duration::ZERO, 0),
    };
    vec![
        ("segment.bytes", config.segment_bytes.to_string()),
        ("segment.ms", millis(config.segment_age)),
        ("segment.index.bytes", config.segment_index_bytes.to_string()),
        ("index.interval.bytes", config.index_interval_bytes.to_string()),
        ("cleanup.policy", cleanup_name(config.cleanup).to_owned()),
        ("retention.ms", optional(config.retention_age)),
        ("retention.bytes", config.retention_bytes.map_or_else(|| "-1".to_owned(), |bytes| bytes.to_string())),
        ("max.message.bytes", config.max_batch_bytes.to_string()),
        ("durability", sync.to_owned()),
        ("flush.ms", millis(interval)),
        ("flush.bytes", bytes.to_string()),
        ("message.timestamp.type", timestamp_type_name(config.timestamp_type).to_owned()),
        ("message.timestamp.before.max.ms", optional(config.timestamp_before_max)),
        ("message.timestamp.after.max.ms", optional(config.timestamp_after_max)),
        ("compression.type", config.compression.name().to_owned()),
        ("high.watermark", watermark_name(config.watermark).to_owned()),
        ("min.cleanable.dirty.ratio", config.min_cleanable_dirty_ratio.to_string()),
        ("min.compaction.lag.ms", millis(config.min_compaction_lag)),
        ("max.compaction.lag.ms", optional(config.max_compaction_lag)),
        ("delete.retention.ms", millis(config.delete_retention)),
        ("reader.hold.max.ms", millis(config.reader_hold_max)),
        ("producer.id.expiration.ms", millis(config.producer_expiration)),
        ("producers.max", config.max_producers.to_string()),
        ("mapped.reads", config.mapped_reads.to_string()),
        ("append.windows", config.append_windows.to_string()),
    ]
}

fn set_pair(config: &mut TopicConfig, key: &str, value: &str) -> Option<()> {
    let millis = || value.parse().ok().map(Duration::from_millis);
    let optional = || if value == "-1" { Some(None) } else { millis().map(Some) };
    match key {
        "segment.bytes" => config.segment_bytes = value.parse().ok()?,
        "segment.ms" => config.segment_age = millis()?,
        "segment.index.bytes" => config.segment_index_bytes = value.parse().ok()?,
        "index.interval.bytes" => config.index_interval_bytes = value.parse().ok()?,
        "cleanup.policy" => config.cleanup = by_name(CLEANUPS, cleanup_name, value)?,
        "retention.ms" => config.retention_age = optional()?,
        "retention.bytes" => config.retention_bytes = if value == "-1" { None } else { Some(value.parse().ok()?) },
        "max.message.bytes" => config.max_batch_bytes = value.parse().ok()?,
        "durability" => {
            config.durability = match value {
                "buffered" => Durability::Buffered { interval: Duration::ZERO, bytes: 0 },
                "sync" => Durability::Sync,
                _ => return None,
            }
        }
        "flush.ms" => {
            if let Durability::Buffered { interval, .. } = &mut config.durability {
                *interval = millis()?;
            }
        }
        "flush.bytes" => {
            if let Durability::Buffered { bytes, .. } = &mut config.durability {
                *bytes = value.parse().ok()?;
            }
        }
        "message.timestamp.type" => config.timestamp_type = by_name(TIMESTAMP_TYPES, timestamp_type_name, value)?,
        "message.timestamp.before.max.ms" => config.timestamp_before_max = optional()?,
        "message.timestamp.after.max.ms" => config.timestamp_after_max = optional()?,
        "compression.type" => config.compression = by_name(CODECS, Codec::name, value)?,
        "high.watermark" => config.watermark = by_name(WATERMARKS, watermark_name, value)?,
        "min.cleanable.dirty.ratio" => config.min_cleanable_dirty_ratio = value.parse().ok()?,
        "min.compaction.lag.ms" => config.min_compaction_lag = millis()?,
        "max.compaction.lag.ms" => config.max_compaction_lag = optional()?,
        "delete.retention.ms" => config.delete_retention = millis()?,
        "reader.hold.max.ms" => config.reader_hold_max = millis()?,
        "producer.id.expiration.ms" => config.producer_expiration = millis()?,
        "producers.max" => config.max_producers = value.parse().ok()?,
        "mapped.reads" => config.mapped_reads = value.parse().ok()?,
        "append.windows" => config.append_windows = value.parse().ok()?,
        _ => return None,
    }
    Some(())
}

const CLEANUPS: &[Cleanup] = &[Cleanup::Delete, Cleanup::Compact, Cleanup::CompactDelete];
const TIMESTAMP_TYPES: &[TimestampType] = &[TimestampType::CreateTime, TimestampType::LogAppendTime];
const WATERMARKS: &[WatermarkMode] = &[WatermarkMode::LogEnd, WatermarkMode::Managed];
const CODECS: &[Codec] = &[Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

fn by_name<T: Copy>(all: &[T], name: impl Fn(T) -> &'static str, value: &str) -> Option<T> {
    all.iter().copied().find(|each| name(*each) == value)
}

fn cleanup_name(cleanup: Cleanup) -> &'static str {
    match cleanup {
        Cleanup::Delete => "delete",
        Cleanup::Compact => "compact",
        Cleanup::CompactDelete => "compact,delete",
    }
}

fn timestamp_type_name(timestamp_type: TimestampType) -> &'static str {
    match timestamp_type {
        TimestampType::CreateTime => "CreateTime",
        TimestampType::LogAppendTime => "LogAppendTime",
    }
}

fn watermark_name(watermark: WatermarkMode) -> &'static str {
    match watermark {
        WatermarkMode::LogEnd => "log-end",
        WatermarkMode::Managed => "managed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog {
        let config = TopicConfig::default()
            .cleanup(Cleanup::CompactDelete)
            .durability(Durability::Sync)
            .retention_age(Some(Duration::from_millis(17)))
            .retention_bytes(Some(1 << 40))
            .timestamp_type(TimestampType::LogAppendTime)
            .watermark(WatermarkMode::Managed)
            .compression(Codec::Zstd)
            .min_cleanable_dirty_ratio(0.1)
            .max_compaction_lag(Some(Duration::from_secs(9)))
            .mapped_reads(false);
        let mut catalog = Catalog::default();
        let mut one = TopicEntry::new(TopicId::new(7), config);
        one.partitions = [0, 3, 17].into();
        one.taking_over = [(3, false), (17, true)].into();
        let mut two = TopicEntry::new(TopicId::new(u128::MAX), TopicConfig::default());
        (two.deleted, two.adopted) = (true, true);
        catalog.topics = [("one".to_owned(), one), ("two-2".to_owned(), two)].into();
        catalog
    }

    #[test]
    fn a_catalog_survives_a_round_trip() {
        assert_eq!(Catalog::parse(catalog().encode().as_bytes()).unwrap(), catalog());
        assert_eq!(Catalog::parse(Catalog::default().encode().as_bytes()).unwrap(), Catalog::default());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_an_error() {
        let bytes = catalog().encode().into_bytes();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Catalog::parse(&bad).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Catalog::parse(&bytes[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn a_newer_version_is_refused_by_name() {
        let text = format!("{MAGIC} 2\n");
        let text = format!("{text}crc {:08x}\n", crc32fast::hash(text.as_bytes()));
        let error = Catalog::parse(text.as_bytes()).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::UnsupportedVersion { found: 2, supported: VERSION });
    }
}
