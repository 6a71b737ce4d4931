//! The log: one data directory, owned by one process. Lock, topics, budgets, threads.

mod limits;
mod threads;
mod topics;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::catalog::Catalog;
use crate::config::{LogConfig, TopicConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::format::file_name::LOCK;
use crate::kafka_dir::{self, PartitionEnds};
use crate::maintenance::schedule::Schedule;
use crate::maintenance::{self, PassReport};
use crate::offset::{Offset, Timestamp};
use crate::opening::{self, Opened};
use crate::partition::Partition;
use crate::recovery::PartitionReport;
use crate::shared::{Budgets, Shared};
use crate::stats::LogStats;
use crate::storage::{FileSystem, LockGuard, Storage};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::thread::JoinHandle;
use crate::sync::{Arc, Instant, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use crate::tail::{self, Registration, Wakes};
use crate::topic::Topic;

use self::limits::budgets;
use self::threads::Stop;
use self::topics::{Creation, check_count};

/// One data directory with topics in it, owned by one process.
///
/// Cloning it is cheap, and all clones are the same log. [`close`](Self::close) it to leave nothing to recover;
/// dropping the last clone stops its threads and does no I/O, which is what a killed process would leave: nothing that
/// was acknowledged is lost, and the next open scans the tails. Its topics and partitions answer [`ErrorKind::Closed`]
/// from then on, since another may own the directory.
///
/// A forked child has no part in it, since its threads are not there: dropping it in the child does nothing, closing it
/// answers [`ErrorKind::Closed`], and nothing else of it may be used there.
#[derive(Clone)]
pub struct Log {
    inner: Arc<LogInner>,
    _owner: Arc<OwnerHandle>,
}

/// Shared by all clones of a [`Log`], and by nobody else: the log ends with the last of them, whoever still holds a
/// partition, or works for it in the background.
struct OwnerHandle(Arc<LogInner>);

/// What opening a log found and did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// One for each partition, in order.
    pub partitions: Vec<PartitionReport>,
    /// Partitions whose directory could not be opened at all.
    pub failed: Vec<(String, u32, Error)>,
    /// The directory was Kafka's, or Kafka had it since it was closed here, and has been taken over.
    pub taken_over: bool,
    /// Partitions that Kafka has removed while it had the directory: they are not on record any more.
    pub removed: Vec<(String, u32)>,
    /// How long it took.
    pub took: Duration,
}

/// How much a call of [`Log::maintain`] may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Budget {
    /// Once this much time has passed nothing more is begun; a compaction stops where it can go on later, and one step
    /// of one is done in any case. Default: no limit.
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
    /// Whether the budget ran out before everything was done.
    pub unfinished: bool,
}

pub(crate) struct LogInner {
    dir: PathBuf,
    /// The one that has opened it: a forked child has all of this but the threads.
    process: u32,
    config: LogConfig,
    budgets: Arc<Budgets>,
    read_only: bool,
    /// Set before a close takes the catalog's lock. Changes of the catalog read it under that lock.
    closed: AtomicBool,
    report: RecoveryReport,
    /// Taken before a partition's locks: creating, deleting, configuring go one at a time.
    catalog: Mutex<Catalog>,
    topics: RwLock<BTreeMap<String, Topic>>,
    schedule: Arc<Schedule>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stop: Arc<Stop>,
    lock: Mutex<Option<Box<dyn LockGuard>>>,
    me: Weak<LogInner>,
}

impl Log {
    /// Opens the log in a directory, which is made when it is absent. A directory that Kafka wrote is taken over, and so
    /// is one that Kafka had since it was closed here, or in which its broker was killed: configurations stay.
    ///
    /// Damage in a partition is no error here: that partition takes no writes, can be read up to the damage, and
    /// [`recovery_report`](Self::recovery_report) tells of it.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when it is in use, [`ErrorKind::NotALog`] for a directory with something else in it (it is
    /// not touched), [`ErrorKind::UnsupportedVersion`] for one that a newer version wrote,
    /// [`ErrorKind::InvalidConfig`].
    pub fn open(dir: impl AsRef<Path>, config: LogConfig) -> Result<Log> {
        Log::open_as(dir.as_ref(), config, false)
    }

    /// Opens the log in a directory for reading only. Nothing is written and nothing is locked: it works beside a
    /// running owner, and on a medium that cannot be written. What it shows is what it finds now: whole, valid
    /// batches. What the owner removes or replaces after that is [`ErrorKind::Outdated`] when it is read: open
    /// again.
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
            process: std::process::id(),
            budgets,
            read_only,
            closed: AtomicBool::new(false),
            report,
            catalog: Mutex::new(catalog),
            topics: RwLock::new(BTreeMap::new()),
            schedule: Arc::default(),
            threads: Mutex::new(Vec::new()),
            stop: Arc::new(Stop::default()),
            lock: Mutex::new(lock),
            me: Weak::clone(me),
            config,
        });
        for shared in partitions {
            inner.register(shared);
        }
        for (name, entry) in &inner.lock_catalog().topics {
            inner.topics().get(name).into_iter().for_each(|topic| topic.set_declared(entry.declared));
        }
        if !read_only {
            inner.start_threads();
        }
        let owner = Arc::new(OwnerHandle(Arc::clone(&inner)));
        Ok(Log { inner, _owner: owner })
    }

    /// Makes a topic with partitions `0..partitions`, at most a million, which is also the declared number by which its
    /// keys are routed; durable when this returns.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`], [`ErrorKind::InvalidName`], [`ErrorKind::InvalidConfig`].
    pub fn create_topic(&self, name: &str, partitions: u32, config: TopicConfig) -> Result<Topic> {
        check_count(partitions)?;
        self.inner.create(name, &(0..partitions).collect::<Vec<_>>(), config, Creation::Topic)?;
        self.topic(name).ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Makes a single partition of a topic, which is made when it is absent: a broker may have only some of a topic's
    /// partitions. The configuration counts when the topic is made; else the topic's own does.
    ///
    /// How many partitions the topic has is not known by that: keys are routed once
    /// [`Topic::declare_partitions`] has said it.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`], [`ErrorKind::InvalidName`]; [`ErrorKind::InvalidConfig`] for a number from the
    /// declared one on.
    pub fn create_partition(&self, topic: &str, id: u32, config: TopicConfig) -> Result<Partition> {
        self.inner.create(topic, &[id], config, Creation::Partition)?;
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

    /// Deletes one partition of a topic, as a broker does that hands it to another. Once this returns no crash brings it
    /// back; its handles answer [`ErrorKind::Closed`]. The declared number stays, and with it where keys go; with its
    /// last partition the topic goes too.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when it is not here.
    pub fn delete_partition(&self, topic: &str, id: u32) -> Result<()> {
        self.inner.delete_partition(topic, id)
    }

    /// One pass over all partitions: rolls by age, retention, removal of what nobody reads any more; then compaction,
    /// one partition after the other, those first whose deadlines have passed. A call with a budget goes on where
    /// the last one stopped, and passes over none. For owners with a scheduler of their own; else threads of the
    /// log do it.
    pub fn maintain(&self, now: Timestamp, budget: Budget) -> Result<MaintenanceReport> {
        self.inner.check_open()?;
        Ok(self.inner.maintain(now, budget))
    }

    /// Reserves one of the spaces that appends have ordered ahead of their time; whether there was one. For owners that
    /// run no threads (`sync_threads(0)`): [`maintain`](Self::maintain) reserves all of them, this one at a time. An
    /// append that comes first reserves its space itself.
    pub fn preallocate(&self) -> bool {
        self.inner.check_open().is_ok() && self.inner.budgets.preallocator.run_one()
    }

    /// Waits until one of the partitions has the record at its offset, or for `timeout`; returns the places in `what`
    /// of those that have.
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

    /// Makes everything durable and leaves nothing to recover; Kafka can open the directory afterwards. All clones,
    /// topics and partitions then answer [`ErrorKind::Closed`]; bytes that were fetched live on.
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

impl LogInner {
    fn register(&self, shared: Arc<Shared>) {
        let name = Arc::clone(&shared.topic);
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let topic = topics.entry(name.to_string()).or_insert_with(|| Topic::new(name, self.me.clone()));
        topic.insert(Partition { shared, clock: Arc::clone(&self.config.clock) });
    }

    fn topics(&self) -> crate::sync::RwLockReadGuard<'_, BTreeMap<String, Topic>> {
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

    fn maintain(&self, now: Timestamp, budget: Budget) -> MaintenanceReport {
        let end = budget.time.and_then(|time| Instant::now().checked_add(time));
        if self.config.sync_threads == 0 {
            while let Some(partition) = self.budgets.sync_queue.take_due() {
                partition.sync_now();
            }
            while self.budgets.preallocator.run_one() {}
        }
        let all = self.begin_upkeep();
        let mut passes: Vec<PassReport> = all.iter().map(|shared| maintenance::upkeep(shared, now)).collect();
        let mut done = vec![false; all.len()];
        let place = |shared: &Shared| all.iter().position(|other| std::ptr::eq(&**other, shared));
        let (mut unfinished, mut done_one) = (false, false);
        loop {
            let passes_over = |shared: &Shared| place(shared).is_some_and(|at| done[at]);
            if end.is_some_and(|end| Instant::now() >= end) && done_one {
                unfinished = self.schedule.waits(&all, now, &passes_over);
                break;
            }
            let Some(turn) = self.schedule.next(&all, now, &passes_over) else { break };
            done_one = true;
            let at = place(turn.shared()).expect("the turn is one of theirs");
            let (compacted, rest) = turn.take(now, end);
            let pass = &mut passes[at];
            pass.segments_removed += rest.segments_removed;
            pass.errors.extend(rest.errors);
            match compacted {
                Ok(Some(report)) => {
                    done[at] = !report.unfinished;
                    match &mut pass.compaction {
                        Some(earlier) => earlier.absorb(report),
                        none => *none = Some(report),
                    }
                }
                Ok(None) => done[at] = true,
                Err(error) => {
                    pass.errors.push(error);
                    done[at] = true;
                }
            }
        }
        let next_deadline = |(shared, pass): (&Arc<Shared>, &mut PassReport)| {
            if pass.compaction.is_none() && pass.errors.is_empty() {
                pass.compaction = maintenance::idle(shared, now);
            }
            let compaction = pass.compaction.as_ref().and_then(|report| report.next_deadline);
            pass.next_deadline = pass.next_deadline.into_iter().chain(compaction).min();
            pass.next_deadline
        };
        let next_deadline = all.iter().zip(&mut passes).filter_map(next_deadline).min();
        let named = all.iter().zip(passes).map(|(shared, pass)| (shared.topic.to_string(), shared.id, pass)).collect();
        MaintenanceReport { passes: named, next_deadline, unfinished }
    }

    /// Begins a round of maintenance: gives back the memory that no read uses, and tells which partitions to look at.
    fn begin_upkeep(&self) -> Arc<[Arc<Shared>]> {
        self.budgets.handles.buffers().clear();
        self.maintained()
    }

    /// The partitions that are maintained: not those of topics that were taken over and have no configuration yet.
    fn maintained(&self) -> Arc<[Arc<Shared>]> {
        let adopted = self.adopted_topics();
        let partitions = self.partitions().into_iter().map(|partition| partition.shared);
        partitions.filter(|shared| !adopted.iter().any(|name| **name == *shared.topic)).collect()
    }

    /// Topics that were taken over and have no configuration yet.
    fn adopted_topics(&self) -> Vec<String> {
        self.lock_catalog().topics.iter().filter(|(_, entry)| entry.adopted).map(|(name, _)| name.clone()).collect()
    }

    /// Ends the threads, and what they do, without waiting for all of it; the catalog is not changed any more. `None`
    /// when that was done before.
    fn begin_end(&self) -> Option<MutexGuard<'_, Catalog>> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return None;
        }
        self.partitions().iter().for_each(|partition| partition.shared.cancel_pass());
        self.stop_threads();
        Some(self.lock_catalog())
    }

    /// What the end of the process would leave, but that whoever holds a partition is told.
    fn abandon(&self) {
        let Some(catalog) = self.begin_end() else { return };
        let partitions = self.partitions();
        let ended = partitions.iter().map(|partition| partition.shared.abandon()).fold(Wakes::default(), Wakes::and);
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
        drop(catalog);
        ended.call();
    }

    /// Whether this is a child of the process that has opened the log.
    fn is_forked(&self) -> bool {
        self.process != std::process::id()
    }

    fn close(&self) -> Result<()> {
        if self.is_forked() {
            return Err(ErrorKind::Closed.into());
        }
        let catalog = self.begin_end().ok_or(ErrorKind::Closed)?;
        let (closed, ended) = self.close_partitions();
        drop(catalog);
        ended.call();
        closed
    }

    fn close_partitions(&self) -> (Result<()>, Wakes) {
        let (mut first_error, mut ended) = (None, Wakes::default());
        let mut ends = Vec::new();
        let mut damaged: Vec<(String, u32)> =
            self.report.failed.iter().map(|(topic, id, _)| (topic.clone(), *id)).collect();
        for partition in self.partitions() {
            let shared = &partition.shared;
            let unwell = shared.health.reason().is_some();
            let (closed, wakes) = shared.close();
            ended = ended.and(wakes);
            match closed {
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
        (first_error.map_or(Ok(()), Err), ended)
    }
}

impl Drop for OwnerHandle {
    fn drop(&mut self) {
        if self.0.is_forked() {
            // There are no threads to end, and what they held when the process forked is held for ever: nothing is
            // touched, nor freed, which would close files and wait for locks.
            std::mem::forget(Arc::clone(&self.0));
        } else {
            self.0.abandon();
        }
    }
}
