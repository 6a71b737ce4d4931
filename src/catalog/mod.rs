//! The `stratalog.topics` file: which topics and partitions there are, with their configurations. Replacing it is the
//! commit point of creating, deleting and configuring.
//!
//! Text, in lines of `word value`: a magic line with the version; for each topic `topic`, `id`, `partitions` (how
//! many), `partition` and `leaving` (one line each), `unfinished` and `set key value`; last a line with the CRC-32 of all
//! before it.

pub(crate) mod ownership;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use crate::config::TopicConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::format::TopicId;
use crate::format::file_name::{self, TOPICS};
use crate::storage::{Storage, small_file};

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
    /// Partitions that are deleted, while the topic stays; their directories may still be there.
    pub(crate) leaving: BTreeSet<u32>,
    /// How many partitions the topic has, here and elsewhere: what keys are routed by. `None` while nobody has said
    /// it.
    pub(crate) declared: Option<u32>,
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
        Catalog::read(storage, &dir.join(TOPICS))
    }

    /// Reads a file of any name; `None` when there is none.
    pub(crate) fn read(storage: &dyn Storage, path: &Path) -> Result<Option<Catalog>> {
        let Some(bytes) = small_file::read(storage, path, LEN_MAX)? else { return Ok(None) };
        Catalog::parse(&bytes).map(Some).map_err(|error| error.at_path(path))
    }

    /// Replaces the file: durable when this returns; after an error the old one holds.
    pub(crate) fn store(&self, storage: &dyn Storage, dir: &Path) -> Result<()> {
        let temporary = dir.join(file_name::temporary(TOPICS));
        small_file::replace(storage, dir, &dir.join(TOPICS), &temporary, self.encode().as_bytes())
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
            if let Some(declared) = topic.declared {
                let _ = writeln!(text, "partitions {declared}");
            }
            for partition in &topic.partitions {
                let _ = writeln!(text, "partition {partition}");
            }
            for partition in &topic.leaving {
                let _ = writeln!(text, "leaving {partition}");
            }
            for (partition, clean) in &topic.taking_over {
                let _ = writeln!(text, "unfinished {partition} {}", if *clean { "clean" } else { "unclean" });
            }
            for (key, value) in topic.config.to_pairs() {
                let _ = writeln!(text, "set {key} {value}");
            }
        }
        let _ = writeln!(text, "crc {:08x}", crc32fast::hash(text.as_bytes()));
        text
    }

    fn parse(bytes: &[u8]) -> Result<Catalog> {
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
                let entry = TopicEntry::new(TopicId::new(0), TopicConfig::default());
                if catalog.topics.insert(value.to_owned(), entry).is_some() {
                    return Err(damaged("a topic is there twice"));
                }
                current = Some(value.to_owned());
                continue;
            }
            if word == "taking-over" {
                (catalog.taking_over, catalog.taking_over_clean) = (true, value == "clean");
                continue;
            }
            let topic = current.as_ref().and_then(|name| catalog.topics.get_mut(name));
            let topic = topic.ok_or_else(|| damaged("a line outside of a topic"))?;
            topic.take_line(word, value)?;
        }
        Ok(catalog)
    }
}

impl TopicEntry {
    pub(crate) fn new(id: TopicId, config: TopicConfig) -> TopicEntry {
        TopicEntry {
            id,
            partitions: BTreeSet::new(),
            leaving: BTreeSet::new(),
            declared: None,
            config,
            deleted: false,
            adopted: false,
            taking_over: BTreeMap::new(),
        }
    }

    /// Whether this partition, or all of the topic, is deleted.
    pub(crate) fn has_deleted(&self, partition: u32) -> bool {
        self.deleted || self.leaving.contains(&partition)
    }

    fn take_line(&mut self, word: &str, value: &str) -> Result<()> {
        match (word, value) {
            ("id", id) => self.id = TopicId::new(u128::from_str_radix(id, 16).map_err(|_| unreadable())?),
            ("deleted", "") => self.deleted = true,
            ("adopted", "") => self.adopted = true,
            ("partitions", count) => self.declared = Some(count.parse().map_err(|_| unreadable())?),
            ("partition", id) => {
                self.partitions.insert(id.parse().map_err(|_| unreadable())?);
            }
            ("leaving", id) => {
                self.leaving.insert(id.parse().map_err(|_| unreadable())?);
            }
            ("unfinished", value) => {
                let (partition, how) = value.split_once(' ').ok_or_else(unreadable)?;
                self.taking_over.insert(partition.parse().map_err(|_| unreadable())?, how == "clean");
            }
            ("set", pair) => {
                let (key, value) = pair.split_once(' ').ok_or_else(unreadable)?;
                // Not checked against bounds: a value that this build does not take must not keep the log from opening.
                self.config.set(key, value)?;
            }
            _ => return Err(unreadable()),
        }
        Ok(())
    }
}

fn damaged(what: &'static str) -> Error {
    ErrorKind::Corrupt(what.into()).into()
}

fn unreadable() -> Error {
    damaged("a line that cannot be read")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Cleanup, Durability, WatermarkMode};
    use crate::format::{Codec, TimestampType};

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
        one.leaving = [5, 23].into();
        one.declared = Some(24);
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
    fn any_time_that_a_topic_may_be_given_is_readable_again() {
        let mut catalog = catalog();
        let config = TopicConfig::default().retention_age(Some(Duration::MAX)).segment_age(Duration::from_nanos(1));
        config.validate().unwrap();
        catalog.topics.get_mut("one").unwrap().config = config;
        let read = Catalog::parse(catalog.encode().as_bytes()).unwrap();
        read.topics["one"].config.validate().unwrap();
        assert_eq!(Catalog::parse(read.encode().as_bytes()).unwrap(), read);
    }

    #[test]
    fn sealed_lines_that_make_no_sense_are_errors() {
        for lines in ["partition 1", "topic a\ntopic a", "topic a\nset no.such 1", "topic a\nset", "topic ..", "word"] {
            let text = format!("{MAGIC} {VERSION}\n{lines}\n");
            let text = format!("{text}crc {:08x}\n", crc32fast::hash(text.as_bytes()));
            assert!(Catalog::parse(text.as_bytes()).is_err(), "{lines}");
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
