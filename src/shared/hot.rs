//! What the hot paths ask of the configuration, without its lock.

use crate::config::{Cleanup, Durability, TopicConfig, WatermarkMode};
use crate::format::Codec;
use crate::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use super::Shared;

/// What the hot paths ask of the configuration. Each value stands for itself: an append beside a change sees the old or
/// the new one, and one after it the new one.
#[derive(Debug, Default)]
pub(super) struct Hot {
    /// Whether the owner manages the high watermark. It moves that, so it changes between two changes of the first
    /// unstable offset, as the mark does (Release, Acquire: see [`Ends`](super::Ends)).
    pub(super) managed: AtomicBool,
    checks_records: AtomicBool,
    syncs_appends: AtomicBool,
    codec: AtomicU8,
}

impl Hot {
    pub(super) fn new(config: &TopicConfig) -> Hot {
        let hot = Hot::default();
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

impl Shared {
    /// Whether a batch's records have to be looked at before it is appended.
    #[inline]
    pub(crate) fn checks_records(&self) -> bool {
        self.hot.checks_records.load(Ordering::Relaxed)
    }

    /// Whether an append is acknowledged after a sync.
    #[inline]
    pub(crate) fn syncs_appends(&self) -> bool {
        self.hot.syncs_appends.load(Ordering::Relaxed)
    }

    /// How batches that are built here are compressed.
    #[inline]
    pub(crate) fn codec(&self) -> Codec {
        Codec::from_id(self.hot.codec.load(Ordering::Relaxed)).unwrap_or_default()
    }
}
