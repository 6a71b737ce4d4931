//! The state that all handles of one topic share.

use std::collections::BTreeMap;

use crate::error::{ErrorKind, Result};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Arc, RwLock};

use super::partition::Partition;
use super::partitioner::RoundRobin;

/// The partitions of a topic in this log, and the declared number of partitions in total.
pub(crate) struct TopicInner {
    pub(super) name: Arc<str>,
    partitions: RwLock<BTreeMap<u32, Partition>>,
    /// 0 until it is declared. Stored (Release) after the partitions exist.
    declared: AtomicU32,
    turn: RoundRobin,
}

impl TopicInner {
    pub(super) fn new(name: Arc<str>) -> TopicInner {
        let partitions = RwLock::new(BTreeMap::new());
        TopicInner { name, partitions, declared: AtomicU32::new(0), turn: RoundRobin::default() }
    }

    pub(super) fn set_declared(&self, count: Option<u32>) {
        self.declared.store(count.unwrap_or(0), Ordering::Release);
    }

    pub(super) fn declared(&self) -> Option<u32> {
        Some(self.declared.load(Ordering::Acquire)).filter(|count| *count > 0)
    }

    pub(super) fn insert(&self, partition: Partition) {
        self.partitions.write().insert(partition.id(), partition);
    }

    pub(super) fn remove(&self, id: u32) -> Option<Partition> {
        self.partitions.write().remove(&id)
    }

    pub(super) fn partition(&self, id: u32) -> Option<Partition> {
        self.partitions.read().get(&id).cloned()
    }

    pub(super) fn partitions(&self) -> Vec<Partition> {
        self.partitions.read().values().cloned().collect()
    }

    /// Returns the partitions of this log in turn.
    pub(super) fn next_partition(&self) -> Result<Partition> {
        let partitions = self.partitions.read();
        if partitions.is_empty() {
            return Err(ErrorKind::NotFound.into());
        }
        let at = self.turn.next(partitions.len() as u32);
        Ok(partitions.values().nth(at as usize).cloned().expect("the turn is below the count"))
    }
}
