//! The configuration values that the hot paths read, without the lock of the configuration.

use crate::config::{Cleanup, Durability, TopicConfig, WatermarkMode};
use crate::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// The configuration values that the hot paths read. Each value is independent: an append concurrent with a change sees
/// the old value or the new one, and a later append sees the new one.
#[derive(Debug, Default)]
pub(super) struct ConfigCache {
    /// Whether the owner manages the high watermark. A change of this moves the high watermark, so it happens between
    /// two stores of the first unstable offset, as every move does (Release, Acquire: see
    /// [`Ends`](super::offsets::Ends)).
    pub(super) managed: AtomicBool,
    pub(super) checks_records: AtomicBool,
    pub(super) syncs_appends: AtomicBool,
    pub(super) codec: AtomicU8,
}

impl ConfigCache {
    pub(super) fn new(config: &TopicConfig) -> ConfigCache {
        let hot = ConfigCache::default();
        hot.set(config);
        hot
    }

    pub(super) fn set(&self, config: &TopicConfig) {
        let bounded = config.timestamp_before_max.is_some() || config.timestamp_after_max.is_some();
        self.managed.store(config.watermark == WatermarkMode::Managed, Ordering::Release);
        self.checks_records.store(bounded || config.cleanup != Cleanup::Delete, Ordering::Release);
        self.syncs_appends.store(config.durability == Durability::Sync, Ordering::Release);
        self.codec.store(config.compression.id(), Ordering::Release);
    }
}
