//! A topic: a named group of partitions with one configuration. Routes records.

use crate::config::TopicConfig;
use crate::error::{ErrorKind, Result};
use crate::format::Record;
use crate::partition::Appended;
use crate::sync::{Arc, Weak};

use super::inner::LogInner;
use super::partition::Partition;
use super::partitioner::partition_for_key;
use super::topic_state::TopicInner;

/// A named group of partitions. Cloning it is cheap, and all clones are the same topic.
#[derive(Clone)]
pub struct Topic {
    inner: Arc<TopicInner>,
    log: Weak<LogInner>,
}

impl Topic {
    pub(super) fn new(inner: Arc<TopicInner>, log: Weak<LogInner>) -> Topic {
        Topic { inner, log }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The partition of that number, when it is here.
    pub fn partition(&self, id: u32) -> Option<Partition> {
        self.inner.partition(id)
    }

    /// All partitions that are here, in order.
    pub fn partitions(&self) -> Vec<Partition> {
        self.inner.partitions()
    }

    /// How many partitions the topic has, those that are not here included, as
    /// [`create_topic`](crate::Log::create_topic), [`add_partitions`](Self::add_partitions) or
    /// [`declare_partitions`](Self::declare_partitions) said. `None` while nobody has: for a topic whose partitions
    /// were made one by one, or taken over.
    pub fn partition_count(&self) -> Option<u32> {
        self.inner.declared()
    }

    /// Says how many partitions the topic has, wherever they are: what keys are routed by. Makes none of them. Durable
    /// when this returns. Keys may go elsewhere from then on, as in Kafka.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] for fewer than were declared before, or than the highest number that is here tells.
    pub fn declare_partitions(&self, count: u32) -> Result<()> {
        self.log()?.declare_partitions(self.name(), count)
    }

    /// The partition that records with this key go to: Kafka's default partitioner over the
    /// [declared number](Self::partition_count) of partitions, never over those that happen to be here.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when that partition is not here; [`ErrorKind::InvalidConfig`] when nobody has declared
    /// how many there are.
    pub fn partition_for(&self, key: &[u8]) -> Result<Partition> {
        let count = self.partition_count().ok_or_else(|| {
            ErrorKind::InvalidConfig("keys are routed once the topic's number of partitions is declared".into())
        })?;
        self.partition(partition_for_key(key, count)).ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Appends a record to the partition of its key, as [`partition_for`](Self::partition_for) tells it; one without
    /// key to each partition that is here in turn.
    pub fn append<'a>(&self, record: impl Into<Record<'a>>) -> Result<(u32, Appended)> {
        let record = record.into();
        let partition = match record.key {
            Some(key) => self.partition_for(key)?,
            None => self.inner.next_partition()?,
        };
        let appended = partition.append_records([record])?;
        Ok((partition.id(), appended))
    }

    /// Its configuration.
    pub fn config(&self) -> Result<TopicConfig> {
        self.log()?.topic_config(self.name())
    }

    /// Changes its configuration, for all partitions; durable when this returns.
    pub fn set_config(&self, config: TopicConfig) -> Result<()> {
        self.log()?.set_topic_config(self.name(), config)
    }

    /// Makes the partitions below `count`, at most a million, that are not here, and declares that there are so many.
    /// Keys may go elsewhere from then on, as in Kafka.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] for fewer than there are.
    pub fn add_partitions(&self, count: u32) -> Result<()> {
        self.log()?.add_partitions(self.name(), count)
    }

    fn log(&self) -> Result<Arc<LogInner>> {
        // Another topic may have the name of one that was deleted.
        self.log.upgrade().filter(|log| log.has(&self.inner)).ok_or_else(|| ErrorKind::Closed.into())
    }
}

impl std::fmt::Debug for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topic").field("name", &self.inner.name).finish_non_exhaustive()
    }
}
