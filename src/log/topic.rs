//! A topic: a named group of partitions with one configuration. It routes records to partitions by key.

use crate::config::TopicConfig;
use crate::error::{ErrorKind, Result};
use crate::format::Record;
use crate::partition::Appended;
use crate::sync::{Arc, Weak};

use super::inner::LogInner;
use super::partition::Partition;
use super::partitioner::partition_for_key;
use super::topic_state::TopicInner;

/// A named group of partitions. Cloning is cheap, and all clones are the same topic.
///
/// ```
/// # use stratalog::{Log, LogConfig, TopicConfig};
/// # fn main() -> stratalog::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let log = Log::open(dir.path(), LogConfig::new())?;
/// let topic = log.topic_or_create("events", 4, TopicConfig::new())?;
/// let (partition, _) = topic.append(("ada", "London"))?;
/// let (again, appended) = topic.append(("ada", "Paris"))?;
/// assert_eq!(again, partition); // one key, one partition
/// assert_eq!(appended.base_offset.get(), 1);
/// # log.close()
/// # }
/// ```
#[derive(Clone)]
pub struct Topic {
    inner: Arc<TopicInner>,
    log: Weak<LogInner>,
}

impl Topic {
    pub(super) fn new(inner: Arc<TopicInner>, log: Weak<LogInner>) -> Topic {
        Topic { inner, log }
    }

    /// Returns the name of the topic.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Returns the partition of that number, if this log has it.
    pub fn partition(&self, id: u32) -> Option<Partition> {
        self.inner.partition(id)
    }

    /// Returns all partitions of the topic that this log has, in order.
    pub fn partitions(&self) -> Vec<Partition> {
        self.inner.partitions()
    }

    /// Returns how many partitions the topic has, including those that this log does not have, as declared by
    /// [`create_topic`](crate::Log::create_topic), [`add_partitions`](Self::add_partitions) or
    /// [`declare_partitions`](Self::declare_partitions). `None` until one of them is called: for a topic whose
    /// partitions were created one by one, or taken over.
    pub fn partition_count(&self) -> Option<u32> {
        self.inner.declared()
    }

    /// Declares how many partitions the topic has, in this log or elsewhere. Keys are routed by this number. Creates no
    /// partition. Durable when this returns. A key may be routed to a different partition from then on, as in Kafka.
    ///
    /// ```
    /// # use stratalog::{ErrorKind, Log, LogConfig, TopicConfig};
    /// # fn main() -> stratalog::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// log.create_partition("events", 1, TopicConfig::new())?;
    /// let topic = log.topic("events").unwrap();
    /// let error = topic.partition_for(b"ada").unwrap_err();
    /// assert!(matches!(error.kind(), ErrorKind::InvalidConfig(_)));
    /// topic.declare_partitions(2)?;
    /// assert_eq!(topic.partition_for(b"ada")?.id(), 1);
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] if `count` is below the number declared before, or not above the highest partition
    /// number in this log.
    pub fn declare_partitions(&self, count: u32) -> Result<()> {
        self.log()?.declare_partitions(self.name(), count)
    }

    /// Returns the partition for records with this key. Routes by Kafka's default partitioner over the
    /// [declared number](Self::partition_count) of partitions, never over the partitions that happen to be in this log.
    ///
    /// ```
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// # fn main() -> stratalog::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// let topic = log.topic_or_create("events", 4, TopicConfig::new())?;
    /// let partition = topic.partition_for(b"ada")?;
    /// let (id, _) = topic.append(("ada", "London"))?;
    /// assert_eq!(id, partition.id());
    /// assert_eq!(partition.offsets().end.get(), 1);
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if this log does not have that partition; [`ErrorKind::InvalidConfig`] if the number of
    /// partitions was never declared.
    pub fn partition_for(&self, key: &[u8]) -> Result<Partition> {
        let count = self.partition_count().ok_or_else(|| {
            ErrorKind::InvalidConfig("keys are routed once the topic's number of partitions is declared".into())
        })?;
        self.partition(partition_for_key(key, count)).ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Appends a record to the partition of its key, as [`partition_for`](Self::partition_for) returns it. Records
    /// without a key go to the partitions of this log in turn.
    ///
    /// ```
    /// # use stratalog::{Log, LogConfig, Record, TopicConfig};
    /// # fn main() -> stratalog::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// let topic = log.topic_or_create("events", 2, TopicConfig::new())?;
    /// let (london, _) = topic.append(("ada", "London"))?;
    /// let (deleted, _) = topic.append(Record::tombstone("ada"))?;
    /// assert_eq!(london, deleted); // the same key
    /// let (one, _) = topic.append("no key")?;
    /// let (two, _) = topic.append("no key")?;
    /// assert_ne!(one, two); // in turn
    /// # log.close()
    /// # }
    /// ```
    pub fn append<'a>(&self, record: impl Into<Record<'a>>) -> Result<(u32, Appended)> {
        let record = record.into();
        let partition = match record.key {
            Some(key) => self.partition_for(key)?,
            None => self.inner.next_partition()?,
        };
        let appended = partition.append_records([record])?;
        Ok((partition.id(), appended))
    }

    /// Returns the configuration of the topic.
    pub fn config(&self) -> Result<TopicConfig> {
        self.log()?.topic_config(self.name())
    }

    /// Changes the configuration for all partitions of the topic. Durable when this returns.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// # fn main() -> stratalog::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// let topic = log.topic_or_create("events", 1, TopicConfig::new())?;
    /// let day = Some(Duration::from_secs(24 * 3600));
    /// topic.set_config(topic.config()?.retention_age(day))?;
    /// assert_eq!(topic.partition(0).unwrap().config().retention_age, day);
    /// # log.close()
    /// # }
    /// ```
    pub fn set_config(&self, config: TopicConfig) -> Result<()> {
        self.log()?.set_topic_config(self.name(), config)
    }

    /// Creates the missing partitions below `count`, at most a million, and declares `count` as the number of
    /// partitions. A key may be routed to a different partition from then on, as in Kafka.
    ///
    /// ```
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// # fn main() -> stratalog::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// let topic = log.topic_or_create("events", 1, TopicConfig::new())?;
    /// topic.add_partitions(3)?;
    /// assert_eq!(topic.partitions().len(), 3);
    /// assert_eq!(topic.partition_count(), Some(3));
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] if `count` is below the current number.
    pub fn add_partitions(&self, count: u32) -> Result<()> {
        self.log()?.add_partitions(self.name(), count)
    }

    fn log(&self) -> Result<Arc<LogInner>> {
        // A new topic may have the name of this one after its deletion.
        self.log.upgrade().filter(|log| log.has(&self.inner)).ok_or_else(|| ErrorKind::Closed.into())
    }
}

impl std::fmt::Debug for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topic").field("name", &self.inner.name).finish_non_exhaustive()
    }
}
