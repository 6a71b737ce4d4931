//! The log: one data directory, owned by one process. Lock, topics, budgets, threads.

mod admin;
mod background;
mod directory;
mod inner;
mod kafka_checkpoints;
mod limits;
mod maintain;
pub(crate) mod open;
mod partition;
mod partitioner;
mod signals;
mod topic;
mod topic_state;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::config::{LogConfig, TopicConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::format::file_name::LOCK;
use crate::offset::{Offset, Timestamp};
use crate::partition::LogStats;
use crate::partition::waiters::{self, Registration};
use crate::recovery::RecoveryReport;
use crate::storage::{FileSystem, Storage};
use crate::sync::atomic::AtomicBool;
use crate::sync::{Arc, Instant, Mutex, RwLock, Weak};

pub use self::maintain::{Budget, MaintenanceReport};
pub use self::partition::Partition;
pub use self::partitioner::partition_for_key;
pub use self::topic::Topic;

use self::admin::{Creation, check_count};
use self::inner::LogInner;
use self::limits::resources;
use self::open::Opened;
use self::signals::Stop;

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
            directory::check_directory(&*storage, dir)?;
            let path = dir.join(LOCK);
            lock = Some(storage.lock(&path).map_err(|e| Error::io(e, &path))?);
        }
        let resources = Arc::new(resources(&config, &storage, dir));
        let Opened { catalog, partitions, mut report } = open::open_all(dir, &config, &resources, read_only)?;
        report.took = began.elapsed();
        let inner = Arc::new_cyclic(|me| LogInner {
            dir: dir.to_path_buf(),
            process: std::process::id(),
            resources,
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
        for core in partitions {
            inner.register(core);
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

    /// The topic of that name, made as [`create_topic`](Self::create_topic) makes it when it is absent. One that is there
    /// keeps its partitions and its configuration.
    ///
    /// ```
    /// # fn main() -> stratalog::Result<()> {
    /// use stratalog::{Log, LogConfig, TopicConfig};
    ///
    /// let dir = tempfile::tempdir().unwrap();
    /// for run in 0..2 {
    ///     let log = Log::open(dir.path(), LogConfig::new())?;
    ///     let topic = log.topic_or_create("orders", 3, TopicConfig::new())?;
    ///     assert_eq!(topic.append(("key", "value"))?.1.base_offset.get(), run);
    ///     log.close()?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`create_topic`](Self::create_topic), but [`ErrorKind::AlreadyExists`].
    pub fn topic_or_create(&self, name: &str, partitions: u32, config: TopicConfig) -> Result<Topic> {
        loop {
            if let Some(topic) = self.topic(name) {
                return Ok(topic);
            }
            match self.create_topic(name, partitions, config.clone()) {
                // Another thread was faster.
                Err(error) if *error.kind() == ErrorKind::AlreadyExists && self.topic(name).is_some() => {}
                created => return created,
            }
        }
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
        self.inner.topics().get(name).map(|topic| Topic::new(Arc::clone(topic), Arc::downgrade(&self.inner)))
    }

    /// All topics, by name.
    pub fn topics(&self) -> Vec<Topic> {
        self.inner.topics().values().map(|topic| Topic::new(Arc::clone(topic), Arc::downgrade(&self.inner))).collect()
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
        self.inner.check_open().is_ok() && self.inner.resources.preallocator.run_one()
    }

    /// Waits until one of the partitions has the record at its offset, or for `timeout`; returns the places in `what`
    /// of those that have.
    pub fn wait_any(&self, what: &[(Partition, Offset)], timeout: Duration) -> Result<Vec<usize>> {
        self.inner.check_open()?;
        let look = || {
            let ready: Vec<usize> =
                what.iter().enumerate().filter(|(_, (p, offset))| p.core.end() > *offset).map(|(at, _)| at).collect();
            Ok((!ready.is_empty()).then_some(ready))
        };
        if let Some(ready) = look()? {
            return Ok(ready);
        }
        let registrations: Vec<Registration> =
            what.iter().map(|(p, offset)| p.core.waiters.end.register((*offset + 1).get())).collect();
        // A time that the clock cannot tell never comes.
        let deadline = Instant::now().checked_add(timeout);
        Ok(waiters::wait_any(&registrations, deadline, look)?.unwrap_or_default())
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
        let resources = &self.inner.resources;
        let partitions = self.inner.partitions();
        LogStats {
            partitions: partitions.len(),
            open_files: resources.file_cache.open_files(),
            mapped_bytes: resources.file_cache.mapped_bytes(),
            unsynced_bytes: resources.unsynced.bytes(),
            backpressure_waits: resources.unsynced.waits(),
            failed_partitions: partitions.iter().filter(|p| p.core.health.reason().is_some()).count(),
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
