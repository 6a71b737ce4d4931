//! A topic: a named group of partitions with one configuration. Routes records.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use crate::combiner::Appended;
use crate::config::TopicConfig;
use crate::error::{ErrorKind, Result};
use crate::format::Record;
use crate::log::LogInner;
use crate::partition::Partition;
use crate::route::{RoundRobin, partition_for_key};

/// A named group of partitions. Cloning it is cheap, and all clones are the same topic.
#[derive(Clone)]
pub struct Topic {
    inner: Arc<TopicInner>,
}

pub(crate) struct TopicInner {
    name: Arc<str>,
    log: Weak<LogInner>,
    partitions: RwLock<BTreeMap<u32, Partition>>,
    turn: RoundRobin,
}

impl Topic {
    pub(crate) fn new(name: Arc<str>, log: Weak<LogInner>) -> Topic {
        let partitions = RwLock::new(BTreeMap::new());
        Topic { inner: Arc::new(TopicInner { name, log, partitions, turn: RoundRobin::default() }) }
    }

    pub(crate) fn insert(&self, partition: Partition) {
        self.inner.partitions.write().unwrap_or_else(PoisonError::into_inner).insert(partition.id(), partition);
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The partition of that number, when it is here.
    pub fn partition(&self, id: u32) -> Option<Partition> {
        self.inner.partitions.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// All partitions that are here, in order.
    pub fn partitions(&self) -> Vec<Partition> {
        self.inner.partitions.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The partition that records with this key go to: Kafka's default partitioner over as many partitions as the
    /// highest number tells.
    pub fn partition_for(&self, key: &[u8]) -> Result<Partition> {
        let partitions = self.inner.partitions.read().unwrap_or_else(PoisonError::into_inner);
        let count = partitions.last_key_value().map_or(0, |(last, _)| last + 1);
        if count == 0 {
            return Err(ErrorKind::NotFound.into());
        }
        // Where this process has only some of the partitions, the record may belong elsewhere.
        partitions.get(&partition_for_key(key, count)).cloned().ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Appends a record to the partition of its key; one without key to each partition in turn.
    pub fn append<'a>(&self, record: impl Into<Record<'a>>) -> Result<(u32, Appended)> {
        let record = record.into();
        let partition = match record.key {
            Some(key) => self.partition_for(key)?,
            None => self.next_partition()?,
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

    /// Adds partitions until there are `count`. Keys may go elsewhere from then on, as in Kafka.
    pub fn add_partitions(&self, count: u32) -> Result<()> {
        self.log()?.add_partitions(self.name(), count)
    }

    fn next_partition(&self) -> Result<Partition> {
        let partitions = self.inner.partitions.read().unwrap_or_else(PoisonError::into_inner);
        if partitions.is_empty() {
            return Err(ErrorKind::NotFound.into());
        }
        let at = self.inner.turn.next(partitions.len() as u32);
        Ok(partitions.values().nth(at as usize).cloned().expect("the turn is below the count"))
    }

    fn log(&self) -> Result<Arc<LogInner>> {
        self.inner.log.upgrade().ok_or_else(|| ErrorKind::Closed.into())
    }
}

impl std::fmt::Debug for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topic").field("name", &self.inner.name).finish_non_exhaustive()
    }
}
