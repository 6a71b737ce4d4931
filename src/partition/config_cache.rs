//! What the hot paths ask of the configuration, without its lock.

use crate::config::{Cleanup, Durability, TopicConfig, WatermarkMode};
use crate::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// What the hot paths ask of the configuration. Each value stands for itself: an append beside a change sees the old or
/// the new one, and one after it the new one.
#[derive(Debug, Default)]
pub(super) struct ConfigCache {
    /// Whether the owner manages the high watermark. It moves that, so it changes between two changes of the first
    /// unstable offset, as the mark does (Release, Acquire: see [`Ends`](super::offsets::Ends)).
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
