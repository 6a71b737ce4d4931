//! A topic's configuration as text: one key and one value for each setting, under Kafka's names where it has them.

use std::time::Duration;

use super::{Cleanup, Durability, TopicConfig, WatermarkMode};
use crate::error::{ErrorKind, Result};
use crate::format::{Codec, TimestampType};

/// No limit.
const NONE: &str = "-1";

impl TopicConfig {
    /// Every setting as key and value, under Kafka's keys (`segment.bytes`) where it has them. Times are in whole
    /// milliseconds, rounded up; `-1` stands for `None`. [`from_pairs`](TopicConfig::from_pairs) reads them.
    pub fn to_pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs = vec![
            ("segment.bytes", self.segment_bytes.to_string()),
            ("segment.ms", millis(self.segment_age)),
            ("segment.index.bytes", self.segment_index_bytes.to_string()),
            ("index.interval.bytes", self.index_interval_bytes.to_string()),
            ("cleanup.policy", cleanup_name(self.cleanup).to_owned()),
            ("retention.ms", optional_millis(self.retention_age)),
            ("retention.bytes", self.retention_bytes.map_or_else(|| NONE.to_owned(), |bytes| bytes.to_string())),
            ("max.message.bytes", self.max_batch_bytes.to_string()),
            ("message.timestamp.type", timestamp_type_name(self.timestamp_type).to_owned()),
            ("message.timestamp.before.max.ms", optional_millis(self.timestamp_before_max)),
            ("message.timestamp.after.max.ms", optional_millis(self.timestamp_after_max)),
            ("compression.type", self.compression.name().to_owned()),
            ("high.watermark", watermark_name(self.watermark).to_owned()),
            ("min.cleanable.dirty.ratio", self.min_cleanable_dirty_ratio.to_string()),
            ("min.compaction.lag.ms", millis(self.min_compaction_lag)),
            ("max.compaction.lag.ms", optional_millis(self.max_compaction_lag)),
            ("delete.retention.ms", millis(self.delete_retention)),
            ("reader.hold.max.ms", millis(self.reader_hold_max)),
            ("producer.id.expiration.ms", millis(self.producer_expiration)),
            ("producers.max", self.max_producers.to_string()),
            ("mapped.reads", self.mapped_reads.to_string()),
            ("append.windows", self.append_windows.to_string()),
        ];
        match self.durability {
            Durability::Sync => pairs.push(("durability", "sync".to_owned())),
            Durability::Buffered { interval, bytes } => pairs.extend([
                ("durability", "buffered".to_owned()),
                ("flush.ms", millis(interval)),
                ("flush.bytes", bytes.to_string()),
            ]),
        }
        pairs
    }

    /// The defaults with these settings, checked as by [`validate`](TopicConfig::validate). Their order does not
    /// matter; of one key that comes twice the last counts.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] names a key that is unknown or has a value that it cannot have.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<TopicConfig> {
        let mut config = TopicConfig::default();
        for (key, value) in pairs {
            config.set(key, value)?;
        }
        config.validate()?;
        Ok(config)
    }

    /// Sets one setting by its key. Not checked against its bounds.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match self.try_set(key, value) {
            Some(true) => Ok(()),
            Some(false) => Err(ErrorKind::InvalidConfig(format!("no setting is named {key:?}").into()).into()),
            None => Err(ErrorKind::InvalidConfig(format!("{key} cannot be {value:?}").into()).into()),
        }
    }

    /// Whether the key is known; `None` when its value is wrong.
    fn try_set(&mut self, key: &str, value: &str) -> Option<bool> {
        let millis = || value.parse().ok().map(Duration::from_millis);
        let optional_millis = || if value == NONE { Some(None) } else { millis().map(Some) };
        match key {
            "segment.bytes" => self.segment_bytes = value.parse().ok()?,
            "segment.ms" => self.segment_age = millis()?,
            "segment.index.bytes" => self.segment_index_bytes = value.parse().ok()?,
            "index.interval.bytes" => self.index_interval_bytes = value.parse().ok()?,
            "cleanup.policy" => self.cleanup = by_name(CLEANUPS, cleanup_name, value)?,
            "retention.ms" => self.retention_age = optional_millis()?,
            "retention.bytes" => self.retention_bytes = if value == NONE { None } else { Some(value.parse().ok()?) },
            "max.message.bytes" => self.max_batch_bytes = value.parse().ok()?,
            "durability" | "flush.ms" | "flush.bytes" => self.set_durability(key, value)?,
            "message.timestamp.type" => self.timestamp_type = by_name(TIMESTAMP_TYPES, timestamp_type_name, value)?,
            "message.timestamp.before.max.ms" => self.timestamp_before_max = optional_millis()?,
            "message.timestamp.after.max.ms" => self.timestamp_after_max = optional_millis()?,
            "compression.type" => self.compression = by_name(CODECS, Codec::name, value)?,
            "high.watermark" => self.watermark = by_name(WATERMARKS, watermark_name, value)?,
            "min.cleanable.dirty.ratio" => self.min_cleanable_dirty_ratio = value.parse().ok()?,
            "min.compaction.lag.ms" => self.min_compaction_lag = millis()?,
            "max.compaction.lag.ms" => self.max_compaction_lag = optional_millis()?,
            "delete.retention.ms" => self.delete_retention = millis()?,
            "reader.hold.max.ms" => self.reader_hold_max = millis()?,
            "producer.id.expiration.ms" => self.producer_expiration = millis()?,
            "producers.max" => self.max_producers = value.parse().ok()?,
            "mapped.reads" => self.mapped_reads = value.parse().ok()?,
            "append.windows" => self.append_windows = value.parse().ok()?,
            _ => return Some(false),
        }
        Some(true)
    }

    /// What belongs to buffered appends has no meaning, and no effect, where appends are synced: so the order of the
    /// three keys does not matter.
    fn set_durability(&mut self, key: &str, value: &str) -> Option<()> {
        match (key, value, &mut self.durability) {
            ("durability", "sync", durability) => *durability = Durability::Sync,
            ("durability", "buffered", durability @ Durability::Sync) => {
                *durability = TopicConfig::default().durability
            }
            ("durability", "buffered", Durability::Buffered { .. }) => {}
            ("durability", ..) => return None,
            ("flush.ms", value, durability) => {
                let given = Duration::from_millis(value.parse().ok()?);
                if let Durability::Buffered { interval, .. } = durability {
                    *interval = given;
                }
            }
            (_, value, durability) => {
                let given = value.parse().ok()?;
                if let Durability::Buffered { bytes, .. } = durability {
                    *bytes = given;
                }
            }
        }
        Some(())
    }
}

/// Whole milliseconds, rounded up so that a short time does not become none; at most what a signed number holds, which
/// nobody outlives.
fn millis(duration: Duration) -> String {
    duration.as_nanos().div_ceil(1_000_000).min(i64::MAX as u128).to_string()
}

fn optional_millis(duration: Option<Duration>) -> String {
    duration.map_or_else(|| NONE.to_owned(), millis)
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
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::error::Result;

    fn whole_millis() -> impl Strategy<Value = Duration> {
        prop_oneof![0..5000_u64, 0..=i64::MAX as u64].prop_map(Duration::from_millis)
    }

    prop_compose! {
        // Every field is named, so that a new one does not go untested.
        fn config()(
            (segment_bytes, segment_index_bytes, index_interval_bytes) in any::<(u64, u32, u32)>(),
            (max_batch_bytes, max_producers, bytes) in any::<(usize, usize, u64)>(),
            (mapped_reads, append_windows, sync) in any::<(bool, bool, bool)>(),
            (cleanup, timestamp_type) in (select(CLEANUPS), select(TIMESTAMP_TYPES)),
            (watermark, compression) in (select(WATERMARKS), select(CODECS)),
            (retention_bytes, min_cleanable_dirty_ratio) in (option::of(any::<u64>()), 0.0..=1.0_f64),
            times in vec(whole_millis(), 6),
            optional in vec(option::of(whole_millis()), 4),
        ) -> TopicConfig {
            TopicConfig {
                segment_bytes, segment_index_bytes, index_interval_bytes, max_batch_bytes, max_producers, mapped_reads,
                append_windows, cleanup, timestamp_type, watermark, compression, retention_bytes,
                min_cleanable_dirty_ratio,
                segment_age: times[0],
                min_compaction_lag: times[1],
                delete_retention: times[2],
                reader_hold_max: times[3],
                producer_expiration: times[4],
                durability: if sync { Durability::Sync } else { Durability::Buffered { interval: times[5], bytes } },
                retention_age: optional[0],
                timestamp_before_max: optional[1],
                timestamp_after_max: optional[2],
                max_compaction_lag: optional[3],
            }
        }
    }

    fn read<'a>(pairs: impl Iterator<Item = &'a (&'static str, String)>) -> Result<TopicConfig> {
        let mut read = TopicConfig::default();
        for (key, value) in pairs {
            read.set(key, value)?;
        }
        Ok(read)
    }

    proptest! {
        #[test]
        fn every_setting_survives_as_text_in_any_order(config in config()) {
            let pairs = config.to_pairs();
            prop_assert_eq!(read(pairs.iter()).unwrap(), config.clone());
            prop_assert_eq!(read(pairs.iter().rev()).unwrap(), config);
        }
    }

    #[test]
    fn times_too_short_or_too_long_for_milliseconds_stay_readable() {
        let config = TopicConfig::default()
            .segment_age(Duration::from_nanos(1))
            .retention_age(Some(Duration::MAX))
            .delete_retention(Duration::from_micros(1001));
        let pairs = config.to_pairs();
        let read = TopicConfig::from_pairs(pairs.iter().map(|(key, value)| (*key, value.as_str()))).unwrap();
        assert_eq!(read.segment_age, Duration::from_millis(1));
        assert_eq!(read.retention_age, Some(Duration::from_millis(i64::MAX as u64)));
        assert_eq!(read.delete_retention, Duration::from_millis(2));
    }

    #[test]
    fn unknown_keys_and_impossible_values_are_told() {
        for (key, value, told) in [
            ("segment.byte", "1", "segment.byte"),
            ("segment.bytes", "-1", "segment.bytes"),
            ("segment.bytes", "5", "segment_bytes"),
            ("cleanup.policy", "shred", "shred"),
            ("durability", "never", "never"),
            ("flush.ms", "soon", "flush.ms"),
            ("min.cleanable.dirty.ratio", "NaN", "min_cleanable_dirty_ratio"),
        ] {
            let error = TopicConfig::from_pairs([(key, value)]).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::InvalidConfig(why) if why.contains(told)), "{error}");
        }
    }

    #[test]
    fn what_belongs_to_buffered_appends_changes_nothing_where_they_are_synced() {
        for pairs in [[("durability", "sync"), ("flush.ms", "7")], [("flush.ms", "7"), ("durability", "sync")]] {
            assert_eq!(TopicConfig::from_pairs(pairs).unwrap().durability, Durability::Sync);
        }
    }
}
