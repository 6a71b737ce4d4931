//! The state that all clones of a log share, and the end of a log.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::catalog::Catalog;
use crate::config::LogConfig;
use crate::error::{ErrorKind, Result};
use crate::maintenance::schedule::Schedule;
use crate::partition::core::PartitionCore;
use crate::partition::resources::Resources;
use crate::partition::waiters::Wakes;
use crate::recovery::RecoveryReport;
use crate::storage::LockGuard;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::thread::JoinHandle;
use crate::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, Weak};

use super::kafka_checkpoints::{self, PartitionEnds};
use super::partition::Partition;
use super::signals::Stop;
use super::topic_state::TopicInner;

pub(crate) struct LogInner {
    pub(super) dir: PathBuf,
    /// The process that opened the log. A forked child has a copy of everything here, but not the threads.
    pub(super) process: u32,
    pub(super) config: LogConfig,
    pub(super) resources: Arc<Resources>,
    pub(super) read_only: bool,
    /// Set before a close takes the catalog's lock. Changes of the catalog read it under that lock.
    pub(super) closed: AtomicBool,
    pub(super) report: RecoveryReport,
    /// Taken before a partition's locks: creating, deleting, configuring go one at a time.
    pub(super) catalog: Mutex<Catalog>,
    pub(super) topics: RwLock<BTreeMap<String, Arc<TopicInner>>>,
    pub(super) schedule: Arc<Schedule>,
    pub(super) threads: Mutex<Vec<JoinHandle<()>>>,
    pub(super) stop: Arc<Stop>,
    pub(super) lock: Mutex<Option<Box<dyn LockGuard>>>,
    pub(super) me: Weak<LogInner>,
}

impl LogInner {
    pub(super) fn register(&self, core: Arc<PartitionCore>) {
        let name = Arc::clone(&core.topic);
        let mut topics = self.topics.write();
        let topic = topics.entry(name.to_string()).or_insert_with(|| Arc::new(TopicInner::new(name)));
        topic.insert(Partition { core, clock: Arc::clone(&self.config.clock) });
    }

    pub(super) fn topics(&self) -> RwLockReadGuard<'_, BTreeMap<String, Arc<TopicInner>>> {
        self.topics.read()
    }

    pub(super) fn partitions(&self) -> Vec<Partition> {
        self.topics().values().flat_map(|topic| topic.partitions()).collect()
    }

    pub(super) fn lock_catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock()
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(ErrorKind::Closed.into()) } else { Ok(()) }
    }

    pub(super) fn check_writable(&self) -> Result<()> {
        self.check_open()?;
        if self.read_only { Err(ErrorKind::ReadOnly.into()) } else { Ok(()) }
    }

    /// Stops the threads, and cancels running passes without waiting for all of their work. The catalog does not change
    /// any more. Returns `None` if the end had begun before.
    pub(super) fn begin_end(&self) -> Option<MutexGuard<'_, Catalog>> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return None;
        }
        self.partitions().iter().for_each(|partition| partition.core.cancel_pass());
        self.stop_threads();
        Some(self.lock_catalog())
    }

    /// Leaves the directory as the end of the process would, but tells every holder of a partition.
    pub(super) fn abandon(&self) {
        let Some(catalog) = self.begin_end() else { return };
        let partitions = self.partitions();
        let ended = partitions.iter().map(|partition| partition.core.abandon()).fold(Wakes::default(), Wakes::and);
        *self.lock.lock() = None;
        drop(catalog);
        ended.call();
    }

    /// Returns whether this process is a forked child of the one that opened the log.
    pub(super) fn is_forked(&self) -> bool {
        self.process != std::process::id()
    }

    pub(super) fn close(&self) -> Result<()> {
        if self.is_forked() {
            return Err(ErrorKind::Closed.into());
        }
        let catalog = self.begin_end().ok_or(ErrorKind::Closed)?;
        let (closed, ended) = self.close_partitions();
        drop(catalog);
        ended.call();
        closed
    }

    pub(super) fn close_partitions(&self) -> (Result<()>, Wakes) {
        let (mut first_error, mut ended) = (None, Wakes::default());
        let mut ends = Vec::new();
        let mut damaged: Vec<(String, u32)> =
            self.report.failed.iter().map(|(topic, id, _)| (topic.clone(), *id)).collect();
        for partition in self.partitions() {
            let core = &partition.core;
            let unwell = core.health.reason().is_some();
            let (closed, wakes) = core.close();
            ended = ended.and(wakes);
            match closed {
                Ok(()) if unwell => damaged.push((partition.topic().to_owned(), partition.id())),
                Ok(()) => ends.push(PartitionEnds {
                    topic: partition.topic().to_owned(),
                    partition: partition.id(),
                    log_start: core.ends.log_start(),
                    end: core.end(),
                    high_watermark: core.high_watermark(),
                    cleaned_to: None,
                }),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        if !self.read_only && first_error.is_none() {
            first_error = kafka_checkpoints::hand_back(&*self.resources.storage, &self.dir, &ends, &damaged).err();
        }
        *self.lock.lock() = None;
        (first_error.map_or(Ok(()), Err), ended)
    }
}
