//! The log: one data directory, owned by one process. Lock, topics, budgets, threads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::budget::{SpaceWatch, SyncQueue, Unsynced};
use crate::catalog::{Catalog, TopicEntry};
use crate::compaction::Memory;
use crate::config::{LogConfig, TopicConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::format::file_name::{self, LOCK};
use crate::kafka_dir::{self, PartitionEnds};
use crate::maintenance::{self, PassReport};
use crate::offset::{Offset, Timestamp};
use crate::opening::{self, Opened};
use crate::partition::Partition;
use crate::recovery::PartitionReport;
use crate::shared::Budgets;
use crate::stats::LogStats;
use crate::storage::handles::Handles;
use crate::storage::{FileSystem, LockGuard, Storage, open_files_limit};
use crate::tail::{self, Registration};
use crate::topic::Topic;

/// One data directory with topics in it, owned by one process.
///
/// Cloning it is cheap, and all clones are the same log. [`close`](Self::close) it to leave nothing to recover; dropping
/// the last clone stops its threads and does no I/O, which is what a killed process would leave: nothing that was
/// acknowledged is lost, and the next open scans the tails.
#[derive(Clone)]
pub struct Log {
    inner: Arc<LogInner>,
}

/// What opening a log found and did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// One for each partition, in order.
    pub partitions: Vec<PartitionReport>,
    /// Partitions whose directory could not be opened at all.
    pub failed: Vec<(String, u32, Error)>,
    /// The directory was Kafka's, and has been taken over.
    pub taken_over: bool,
    /// How long it took.
    pub took: Duration,
}

/// How much a call of [`Log::maintain`] may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Budget {
    /// Stops before the next partition once this much time has passed. Default: no limit.
    pub time: Option<Duration>,
}

/// What a call of [`Log::maintain`] did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct MaintenanceReport {
    /// A report for each partition that was looked at, with topic and number.
    pub passes: Vec<(String, u32, PassReport)>,
    /// When the next partition has something to do.
    pub next_deadline: Option<Timestamp>,
    /// Whether the budget ran out before all partitions were looked at.
    pub unfinished: bool,
}

pub(crate) struct LogInner {
    dir: PathBuf,
    config: LogConfig,
    budgets: Arc<Budgets>,
    read_only: bool,
    closed: AtomicBool,
    report: RecoveryReport,
    /// Taken before a partition's locks: creating, deleting, configuring go one at a time.
    catalog: Mutex<Catalog>,
    topics: RwLock<BTreeMap<String, Topic>>,
    /// The partition with which the next pass begins, so that none starves.
    next_pass: Mutex<(String, u32)>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stop: Arc<Stop>,
    lock: Mutex<Option<Box<dyn LockGuard>>>,
    me: Weak<LogInner>,
}

/// Tells the maintenance thread to end.
#[derive(Default)]
struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Log {
    /// Opens the log in a directory, which is made when it is absent. A directory that Kafka wrote is taken over.
    ///
    /// Damage in a partition is no error here: that partition takes no writes, can be read up to the damage, and
    /// [`recovery_report`](Self::recovery_report) tells of it.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when it is in use, [`ErrorKind::NotALog`] for a directory with something else in it (it is
    /// not touched), [`ErrorKind::UnsupportedVersion`] for one that a newer version wrote, [`ErrorKind::InvalidConfig`].
    pub fn open(dir: impl AsRef<Path>, config: LogConfig) -> Result<Log> {
        Log::open_as(dir.as_ref(), config, false)
    }

    /// Opens the log in a directory for reading only. Nothing is written and nothing is locked: it works beside a running
    /// owner, and on a medium that cannot be written. What it shows is what it finds now: whole, valid batches.
    pub fn open_read_only(dir: impl AsRef<Path>) -> Result<Log> {
        Log::open_read_only_with(dir, LogConfig::default())
    }

    /// [`open_read_only`](Self::open_read_only) with a configuration.
    pub fn open_read_only_with(dir: impl AsRef<Path>, config: LogConfig) -> Result<Log> {
        Log::open_as(dir.as_ref(), config, true)
    }

    fn open_as(dir: &Path, config: LogConfig, read_only: bool) -> Result<Log> {
        let began = Instant::now();
        config.validate()?;
        let storage: Arc<dyn Storage> = config.storage.clone().unwrap_or_else(|| Arc::new(FileSystem::new()));
        let mut lock = None;
        if !read_only {
            opening::check_directory(&*storage, dir)?;
            let path = dir.join(LOCK);
            lock = Some(storage.lock(&path).map_err(|e| Error::io(e, &path))?);
        }
        let budgets = Arc::new(budgets(&config, &storage, dir));
        let Opened { catalog, partitions, mut report } = opening::open_all(dir, &config, &budgets, read_only)?;
        report.took = began.elapsed();
        let inner = Arc::new_cyclic(|me| LogInner {
            dir: dir.to_path_buf(),
            budgets,
            read_only,
            closed: AtomicBool::new(false),
            report,
            catalog: Mutex::new(catalog),
            topics: RwLock::new(BTreeMap::new()),
            next_pass: Mutex::new((String::new(), 0)),
            threads: Mutex::new(Vec::new()),
            stop: Arc::new(Stop::default()),
            lock: Mutex::new(lock),
            me: Weak::clone(me),
            config,
        });
        for shared in partitions {
            inner.register(shared);
        }
        if !read_only {
            inner.start_threads();
        }
        Ok(Log { inner })
    }

    /// Makes a topic with partitions `0..partitions`; durable when this returns.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`], [`ErrorKind::InvalidName`], [`ErrorKind::InvalidConfig`].
    pub fn create_topic(&self, name: &str, partitions: u32, config: TopicConfig) -> Result<Topic> {
        self.inner.create(name, &(0..partitions).collect::<Vec<_>>(), config, false)?;
        self.topic(name).ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Makes a single partition of a topic, which is made when it is absent: a broker may have only some of a topic's
    /// partitions. The configuration counts when the topic is made; else the topic's own does.
    pub fn create_partition(&self, topic: &str, id: u32, config: TopicConfig) -> Result<Partition> {
        self.inner.create(topic, &[id], config, true)?;
        self.partition(topic, id).ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// The topic of that name.
    pub fn topic(&self, name: &str) -> Option<Topic> {
        self.inner.topics().get(name).cloned()
    }

    /// All topics, by name.
    pub fn topics(&self) -> Vec<Topic> {
        self.inner.topics().values().cloned().collect()
    }

    /// One partition of a topic.
    pub fn partition(&self, topic: &str, id: u32) -> Option<Partition> {
        self.topic(topic)?.partition(id)
    }

    /// Deletes a topic. Once this returns no crash brings it back; its handles answer [`ErrorKind::Closed`].
    pub fn delete_topic(&self, name: &str) -> Result<()> {
        self.inner.delete(name)
    }

    /// One pass over all partitions: rolls by age, retention, compaction, removal of what nobody reads any more. For
    /// owners with a scheduler of their own; else a thread of the log does it.
    pub fn maintain(&self, now: Timestamp, budget: Budget) -> Result<MaintenanceReport> {
        self.inner.check_open()?;
        Ok(self.inner.maintain(now, budget))
    }

    /// Waits until one of the partitions has the record at its offset, or for `timeout`; returns the places in `what` of
    /// those that have.
    pub fn wait_any(&self, what: &[(Partition, Offset)], timeout: Duration) -> Result<Vec<usize>> {
        self.inner.check_open()?;
        let look = || {
            let ready: Vec<usize> =
                what.iter().enumerate().filter(|(_, (p, offset))| p.shared.end() > *offset).map(|(at, _)| at).collect();
            Ok((!ready.is_empty()).then_some(ready))
        };
        if let Some(ready) = look()? {
            return Ok(ready);
        }
        let registrations: Vec<Registration> =
            what.iter().map(|(p, offset)| p.shared.tails.end.register((*offset + 1).get())).collect();
        // A time that the clock cannot tell never comes.
        let deadline = Instant::now().checked_add(timeout);
        Ok(tail::wait_any(&registrations, deadline, look)?.unwrap_or_default())
    }

    /// What opening found and did.
    pub fn recovery_report(&self) -> &RecoveryReport {
        &self.inner.report
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Counters of the whole log.
    pub fn stats(&self) -> LogStats {
        let budgets = &self.inner.budgets;
        let partitions = self.inner.partitions();
        LogStats {
            partitions: partitions.len(),
            open_files: budgets.handles.open_files(),
            mapped_bytes: budgets.handles.mapped_bytes(),
            unsynced_bytes: budgets.unsynced.bytes(),
            backpressure_waits: budgets.unsynced.waits(),
            failed_partitions: partitions.iter().filter(|p| p.shared.health.reason().is_some()).count(),
        }
    }

    /// Makes everything durable and leaves nothing to recover; Kafka can open the directory afterwards. All clones, topics
    /// and partitions then answer [`ErrorKind::Closed`]; bytes that were fetched live on.
    ///
    /// # Errors
    /// Those of partitions that could not be closed in good order; the others are closed all the same.
    pub fn close(self) -> Result<()> {
        self.inner.close()
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

fn budgets(config: &LogConfig, storage: &Arc<dyn Storage>, dir: &Path) -> Budgets {
    let open_max = config.max_open_files.unwrap_or_else(|| (open_files_limit() / 2).clamp(8, 1024) as usize);
    Budgets {
        storage: Arc::clone(storage),
        handles: Handles::new(open_max, config.max_mapped_bytes),
        unsynced: Unsynced::new(config.max_unsynced_bytes, config.backpressure),
        space: SpaceWatch::new(Arc::clone(storage), dir.to_path_buf(), config.min_free_bytes),
        sync_queue: SyncQueue::default(),
        checkpoint_bytes: config.checkpoint_bytes,
        compaction_memory: Memory::new(config.compaction_memory, open_max / 4 + 1),
        hasher: OnceLock::new(),
    }
}

impl LogInner {
    fn register(&self, shared: Arc<crate::shared::Shared>) {
        let name = Arc::clone(&shared.topic);
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let topic = topics.entry(name.to_string()).or_insert_with(|| Topic::new(name, self.me.clone()));
        topic.insert(Partition { shared, clock: Arc::clone(&self.config.clock) });
    }

    fn topics(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Topic>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn partitions(&self) -> Vec<Partition> {
        self.topics().values().flat_map(Topic::partitions).collect()
    }

    fn lock_catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(ErrorKind::Closed.into()) } else { Ok(()) }
    }

    fn check_writable(&self) -> Result<()> {
        self.check_open()?;
        if self.read_only { Err(ErrorKind::ReadOnly.into()) } else { Ok(()) }
    }

    fn create(&self, name: &str, ids: &[u32], config: TopicConfig, join: bool) -> Result<()> {
        self.check_writable()?;
        file_name::check_topic(name).map_err(|why| ErrorKind::InvalidName(why.as_str().into()))?;
        config.validate()?;
        if ids.is_empty() || ids.iter().any(|id| *id > i32::MAX as u32) {
            return Err(ErrorKind::InvalidConfig("a topic has partitions, numbered up to 2^31 - 1".into()).into());
        }
        let mut catalog = self.lock_catalog();
        let mut changed = catalog.clone();
        let exists = changed.topics.contains_key(name);
        // A deleted one is in the way until its files are gone.
        if exists
            && (!join
                || changed.topics[name].deleted
                || ids.iter().any(|id| changed.topics[name].partitions.contains(id)))
        {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let storage = &*self.budgets.storage;
        let id = opening::new_topic_id(storage)?;
        let entry = changed.topics.entry(name.to_owned()).or_insert_with(|| TopicEntry::new(id, config));
        entry.partitions.extend(ids);
        for id in ids {
            opening::make_partition(&self.budgets, &self.dir, name, *id, entry.id)?;
        }
        storage.sync_dir(&self.dir).map_err(|e| Error::io(e, &self.dir))?;
        // The commit: what was made before it is swept away by the next open.
        changed.store(storage, &self.dir)?;
        let config = Arc::new(changed.topics[name].config.clone());
        *catalog = changed;
        for id in ids {
            let request = opening::request(&self.config, &self.budgets, &self.dir, name, *id, &config);
            let (shared, _) = crate::recovery::open(request)?;
            self.register(shared);
        }
        Ok(())
    }

    pub(crate) fn add_partitions(&self, name: &str, count: u32) -> Result<()> {
        let (config, ids) = {
            let catalog = self.lock_catalog();
            let entry = catalog.topics.get(name).ok_or(ErrorKind::NotFound)?;
            let ids: Vec<u32> = (0..count).filter(|id| !entry.partitions.contains(id)).collect();
            (entry.config.clone(), ids)
        };
        if ids.is_empty() { Ok(()) } else { self.create(name, &ids, config, true) }
    }

    pub(crate) fn topic_config(&self, name: &str) -> Result<TopicConfig> {
        let catalog = self.lock_catalog();
        catalog.topics.get(name).map(|entry| entry.config.clone()).ok_or_else(|| ErrorKind::NotFound.into())
    }

    pub(crate) fn set_topic_config(&self, name: &str, config: TopicConfig) -> Result<()> {
        self.check_writable()?;
        config.validate()?;
        let mut catalog = self.lock_catalog();
        let mut changed = catalog.clone();
        let entry = changed.topics.get_mut(name).ok_or(ErrorKind::NotFound)?;
        entry.config = config.clone();
        entry.adopted = false;
        changed.store(&*self.budgets.storage, &self.dir)?;
        *catalog = changed;
        let config = Arc::new(config);
        let topic = self.topics().get(name).cloned();
        for partition in topic.map(|topic| topic.partitions()).unwrap_or_default() {
            partition.shared.set_config(Arc::clone(&config));
        }
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.check_writable()?;
        let mut catalog = self.lock_catalog();
        let mut changed = catalog.clone();
        changed.topics.get_mut(name).ok_or(ErrorKind::NotFound)?.deleted = true;
        let storage = &*self.budgets.storage;
        // The commit: the next open finishes what a crash leaves from here on.
        changed.store(storage, &self.dir)?;
        // Kept from here on: a topic that is stored again without its mark would come back.
        catalog.clone_from(&changed);
        let topic = self.topics.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        for partition in topic.map(|topic| topic.partitions()).unwrap_or_default() {
            partition.shared.abandon();
        }
        opening::remove_deleted(storage, &self.dir, &mut changed)?;
        changed.store(storage, &self.dir)?;
        *catalog = changed;
        Ok(())
    }

    fn maintain(&self, now: Timestamp, budget: Budget) -> MaintenanceReport {
        let began = Instant::now();
        if self.config.sync_threads == 0 {
            while let Some(partition) = self.budgets.sync_queue.take_due() {
                partition.sync_now();
            }
        }
        let mut report = MaintenanceReport::default();
        let mut next = self.next_pass.lock().unwrap_or_else(PoisonError::into_inner);
        let partitions = self.partitions();
        let first = partitions.partition_point(|p| (p.topic(), p.id()) < (next.0.as_str(), next.1));
        let adopted = self.adopted_topics();
        for partition in partitions[first..].iter().chain(&partitions[..first]) {
            if budget.time.is_some_and(|time| began.elapsed() >= time) {
                *next = (partition.topic().to_owned(), partition.id());
                report.unfinished = true;
                break;
            }
            if adopted.iter().any(|name| name == partition.topic()) {
                continue;
            }
            let pass = maintenance::pass(&partition.shared, now);
            report.next_deadline = report.next_deadline.into_iter().chain(pass.next_deadline).min();
            report.passes.push((partition.topic().to_owned(), partition.id(), pass));
        }
        report
    }

    /// Topics that were taken over and have no configuration yet.
    fn adopted_topics(&self) -> Vec<String> {
        self.lock_catalog().topics.iter().filter(|(_, entry)| entry.adopted).map(|(name, _)| name.clone()).collect()
    }

    fn start_threads(&self) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for at in 0..self.config.sync_threads {
            let budgets = Arc::clone(&self.budgets);
            let run = move || {
                while let Some(partition) = budgets.sync_queue.next() {
                    partition.sync_now();
                }
            };
            threads.push(spawn(&format!("stratalog-sync-{at}"), run));
        }
        if let Some(interval) = self.config.maintenance_interval {
            let (log, stop) = (self.me.clone(), Arc::clone(&self.stop));
            let run = move || {
                while !stop.wait(interval) {
                    let Some(log) = log.upgrade() else { return };
                    log.maintain(log.config.clock.now(), Budget::default());
                }
            };
            threads.push(spawn("stratalog-maintenance", run));
        }
    }

    fn stop_threads(&self) {
        self.stop.stop();
        self.budgets.sync_queue.close();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // The last clone may be the one that the maintenance thread holds for a pass.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }

    fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Err(ErrorKind::Closed.into());
        }
        self.stop_threads();
        let mut first_error = None;
        let mut ends = Vec::new();
        let mut damaged: Vec<(String, u32)> =
            self.report.failed.iter().map(|(topic, id, _)| (topic.clone(), *id)).collect();
        for partition in self.partitions() {
            let shared = &partition.shared;
            let unwell = shared.health.reason().is_some();
            match shared.close() {
                Ok(()) if unwell => damaged.push((partition.topic().to_owned(), partition.id())),
                Ok(()) => ends.push(PartitionEnds {
                    topic: partition.topic().to_owned(),
                    partition: partition.id(),
                    log_start: shared.ends.log_start(),
                    end: shared.end(),
                    high_watermark: shared.high_watermark(),
                    cleaned_to: None,
                }),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        if !self.read_only && first_error.is_none() {
            first_error = kafka_dir::hand_back(&*self.budgets.storage, &self.dir, &ends, &damaged).err();
        }
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
        first_error.map_or(Ok(()), Err)
    }
}

impl Drop for LogInner {
    fn drop(&mut self) {
        self.stop_threads();
    }
}

impl Stop {
    /// Waits for `interval`, or less when told to stop; whether it was.
    fn wait(&self, interval: Duration) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let (stopped, _) = self
            .changed
            .wait_timeout_while(stopped, interval, |stopped| !*stopped)
            .unwrap_or_else(PoisonError::into_inner);
        *stopped
    }

    fn stop(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    thread::Builder::new().name(name.to_owned()).spawn(run).expect("the process can start threads")
}
