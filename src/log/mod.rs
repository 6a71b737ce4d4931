//! The log: one data directory, owned by one process. It has the lock, the topics, the budgets and the threads.

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
/// Cloning is cheap, and all clones are the same log. [`close`](Self::close) leaves nothing to recover. Dropping the
/// last clone stops the threads and does no I/O. It leaves what a killed process would leave: no acknowledged record is
/// lost, and the next open scans the tails. Topics and partitions of the log then return [`ErrorKind::Closed`], because
/// another process may own the directory.
///
/// A forked child must not use the log, because its threads do not exist there. In the child, dropping the log does
/// nothing, and closing it returns [`ErrorKind::Closed`]. The child may call nothing else.
///
/// ```
/// # use stratalog::{ErrorKind, Log, LogConfig, TopicConfig};
/// # fn main() -> stratalog::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// let log = Log::open(dir.path(), LogConfig::new())?;
/// let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
/// events.append_records(["one", "two"])?;
/// let clone = log.clone(); // the same log
/// assert_eq!(clone.partition("events", 0).unwrap().offsets().end.get(), 2);
/// log.close()?;
/// assert_eq!(*events.append_records(["three"]).unwrap_err().kind(), ErrorKind::Closed);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Log {
    inner: Arc<LogInner>,
    _owner: Arc<OwnerHandle>,
}

/// Shared by the clones of a [`Log`] only. The log ends when the last clone is dropped, even if partition handles still
/// exist or background threads still work.
struct OwnerHandle(Arc<LogInner>);

impl Log {
    /// Opens the log in a directory, and creates the directory if it is absent. A directory that Kafka wrote is taken
    /// over. So is a log that Kafka has used since it was closed here, even if Kafka's broker was killed: topic
    /// configurations stay.
    ///
    /// Damage in a partition is no error of this call. The partition then takes no writes and can be read up to the
    /// damage, and [`recovery_report`](Self::recovery_report) lists it.
    ///
    /// ```
    /// # use stratalog::{ErrorKind, Log, LogConfig, TopicConfig};
    /// # fn main() -> stratalog::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let log = Log::open(dir.path(), LogConfig::new())?;
    /// let second = Log::open(dir.path(), LogConfig::new());
    /// assert_eq!(*second.unwrap_err().kind(), ErrorKind::Locked);
    /// log.close()?;
    /// let log = Log::open(dir.path(), LogConfig::new())?;
    /// assert!(log.recovery_report().partitions.iter().all(|partition| partition.error.is_none()));
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] if the directory is in use, [`ErrorKind::NotALog`] if it holds something else (it is not
    /// touched), [`ErrorKind::UnsupportedVersion`] if a newer version wrote it, [`ErrorKind::InvalidConfig`].
    pub fn open(dir: impl AsRef<Path>, config: LogConfig) -> Result<Log> {
        Log::open_as(dir.as_ref(), config, false)
    }

    /// Opens the log in a directory for reading only. Nothing is written and nothing is locked, so this works beside a
    /// running owner, and on a read-only medium. The log shows the whole, valid batches that exist at the open. A read
    /// of data that the owner has removed or replaced since then fails with [`ErrorKind::Outdated`]: open the log
    /// again.
    ///
    /// ```
    /// # use stratalog::{ErrorKind, Log, LogConfig, TopicConfig};
    /// # fn main() -> stratalog::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// events.append_records(["one"])?;
    /// let beside = Log::open_read_only(dir.path())?; // the owner goes on
    /// let seen = beside.partition("events", 0).unwrap();
    /// assert_eq!(seen.offsets().end.get(), 1);
    /// assert_eq!(*seen.append_records(["two"]).unwrap_err().kind(), ErrorKind::ReadOnly);
    /// # log.close()
    /// # }
    /// ```
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

    /// Creates a topic with partitions `0..partitions`, at most a million. This count is also the declared number of
    /// partitions, which routes the keys. The topic is durable when this returns.
    ///
    /// ```
    /// # use stratalog::{ErrorKind, Log, LogConfig, TopicConfig};
    /// # fn main() -> stratalog::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// let topic = log.create_topic("events", 3, TopicConfig::new())?;
    /// assert_eq!(topic.partition_count(), Some(3));
    /// let again = log.create_topic("events", 3, TopicConfig::new());
    /// assert_eq!(*again.unwrap_err().kind(), ErrorKind::AlreadyExists);
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`], [`ErrorKind::InvalidName`], [`ErrorKind::InvalidConfig`].
    pub fn create_topic(&self, name: &str, partitions: u32, config: TopicConfig) -> Result<Topic> {
        check_count(partitions)?;
        self.inner.create(name, &(0..partitions).collect::<Vec<_>>(), config, Creation::Topic)?;
        self.topic(name).ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Returns the topic of that name, and creates it with [`create_topic`](Self::create_topic) if it is absent. An
    /// existing topic keeps its partitions and its configuration.
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
    /// The errors of [`create_topic`](Self::create_topic), except [`ErrorKind::AlreadyExists`].
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

    /// Creates a single partition of a topic, and the topic if it is absent: a broker may have only some of a topic's
    /// partitions. The configuration applies only if the topic is created here. An existing topic keeps its own.
    ///
    /// This does not declare how many partitions the topic has. Keys are routed only after
    /// [`Topic::declare_partitions`].
    ///
    /// ```
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// # fn main() -> stratalog::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// let events = log.create_partition("events", 1, TopicConfig::new())?; // partition 0 is on another broker
    /// events.append_records(["one"])?;
    /// let topic = log.topic("events").unwrap();
    /// assert_eq!(topic.partitions().len(), 1);
    /// assert_eq!(topic.partition_count(), None);
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`], [`ErrorKind::InvalidName`]; [`ErrorKind::InvalidConfig`] if `id` is not below the
    /// declared number of partitions.
    pub fn create_partition(&self, topic: &str, id: u32, config: TopicConfig) -> Result<Partition> {
        self.inner.create(topic, &[id], config, Creation::Partition)?;
        self.partition(topic, id).ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Returns the topic of that name.
    pub fn topic(&self, name: &str) -> Option<Topic> {
        self.inner.topics().get(name).map(|topic| Topic::new(Arc::clone(topic), Arc::downgrade(&self.inner)))
    }

    /// Returns all topics, ordered by name.
    pub fn topics(&self) -> Vec<Topic> {
        self.inner.topics().values().map(|topic| Topic::new(Arc::clone(topic), Arc::downgrade(&self.inner))).collect()
    }

    /// Returns one partition of a topic.
    pub fn partition(&self, topic: &str, id: u32) -> Option<Partition> {
        self.topic(topic)?.partition(id)
    }

    /// Deletes a topic. Once this returns, no crash brings it back, and its handles return [`ErrorKind::Closed`].
    ///
    /// ```
    /// # use stratalog::{ErrorKind, Log, LogConfig, TopicConfig};
    /// # fn main() -> stratalog::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// log.delete_topic("events")?;
    /// assert!(log.topic("events").is_none());
    /// assert_eq!(*events.append_records(["one"]).unwrap_err().kind(), ErrorKind::Closed);
    /// # log.close()
    /// # }
    /// ```
    pub fn delete_topic(&self, name: &str) -> Result<()> {
        self.inner.delete(name)
    }

    /// Deletes one partition of a topic, for example when a broker hands it to another. Once this returns, no crash
    /// brings it back, and its handles return [`ErrorKind::Closed`]. The declared number of partitions stays, so keys
    /// are routed as before. Deleting the last partition deletes the topic too.
    ///
    /// ```
    /// # use stratalog::{ErrorKind, Log, LogConfig, TopicConfig};
    /// # fn main() -> stratalog::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// let topic = log.topic_or_create("events", 2, TopicConfig::new())?;
    /// log.delete_partition("events", 1)?;
    /// assert!(topic.partition(1).is_none());
    /// assert_eq!(topic.partition_count(), Some(2));
    /// // The key belongs to partition 1 as before, which is not here any more.
    /// assert_eq!(*topic.partition_for(b"ada").unwrap_err().kind(), ErrorKind::NotFound);
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if this log does not have the partition.
    pub fn delete_partition(&self, topic: &str, id: u32) -> Result<()> {
        self.inner.delete_partition(topic, id)
    }

    /// Runs one maintenance pass over all partitions: rolls by age, retention, and removal of retired segments that
    /// nobody reads any more. Then it compacts one partition after the other, those with a passed deadline first. A
    /// call with a budget resumes where the last call stopped, skipping no partition. For owners with their own
    /// scheduler; otherwise the log's threads do this.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use stratalog::{Budget, Log, LogConfig, Timestamp, TopicConfig};
    /// # fn main() -> stratalog::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let log = Log::open(dir.path(), LogConfig::new().sync_threads(0).maintenance_interval(None))?;
    /// let config = TopicConfig::new().segment_age(Duration::from_secs(60));
    /// let events = log.topic_or_create("events", 1, config)?.partition(0).unwrap();
    /// events.append_records(["one"])?;
    /// let later = Timestamp::now().plus(Duration::from_secs(90));
    /// let report = log.maintain(later, Budget::default())?;
    /// assert!(report.passes[0].2.rolled);
    /// assert_eq!(events.offsets().durable, events.offsets().end);
    /// # log.close()
    /// # }
    /// ```
    pub fn maintain(&self, now: Timestamp, budget: Budget) -> Result<MaintenanceReport> {
        self.inner.check_open()?;
        Ok(self.inner.maintain(now, budget))
    }

    /// Makes one of the space reservations that appends have requested in advance. Returns whether there was one. For
    /// owners that run no threads (`sync_threads(0)`): [`maintain`](Self::maintain) makes all of them, this call one at
    /// a time. An append that needs the space earlier reserves it itself.
    ///
    /// ```
    /// # use stratalog::{Log, LogConfig, TopicConfig};
    /// # fn main() -> stratalog::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let log = Log::open(dir.path(), LogConfig::new().sync_threads(0))?;
    /// let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// events.append_records(["one"])?;
    /// while log.preallocate() {} // until nothing is requested any more
    /// assert!(!log.preallocate());
    /// # log.close()
    /// # }
    /// ```
    pub fn preallocate(&self) -> bool {
        self.inner.check_open().is_ok() && self.inner.resources.preallocator.run_one()
    }

    /// Waits until at least one of the partitions has the record at its offset, at most for `timeout`. Returns the
    /// indexes in `what` of the partitions that have it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use stratalog::{Log, LogConfig, Offset, TopicConfig};
    /// # fn main() -> stratalog::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// let topic = log.topic_or_create("events", 2, TopicConfig::new())?;
    /// let what = [0, 1].map(|id| (topic.partition(id).unwrap(), Offset::ZERO));
    /// assert!(log.wait_any(&what, Duration::from_millis(1))?.is_empty());
    /// topic.partition(1).unwrap().append_records(["one"])?;
    /// assert_eq!(log.wait_any(&what, Duration::from_secs(60))?, [1]);
    /// # log.close()
    /// # }
    /// ```
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
        // A deadline that the clock cannot represent never comes.
        let deadline = Instant::now().checked_add(timeout);
        Ok(waiters::wait_any(&registrations, deadline, look)?.unwrap_or_default())
    }

    /// Returns what the open found and did.
    pub fn recovery_report(&self) -> &RecoveryReport {
        &self.inner.report
    }

    /// Returns the directory of the log.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Returns the counters of the whole log.
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

    /// Makes everything durable and leaves nothing to recover. Kafka can open the directory afterwards. All clones,
    /// topics and partitions then return [`ErrorKind::Closed`]. Bytes already fetched stay valid.
    ///
    /// ```
    /// # use stratalog::{ErrorKind, Log, LogConfig, TopicConfig};
    /// # fn main() -> stratalog::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let log = Log::open(dir.path(), LogConfig::new())?;
    /// # let events = log.topic_or_create("events", 1, TopicConfig::new())?.partition(0).unwrap();
    /// events.append_records(["one"])?;
    /// log.close()?;
    /// assert_eq!(*events.append_records(["two"]).unwrap_err().kind(), ErrorKind::Closed);
    /// let log = Log::open(dir.path(), LogConfig::new())?;
    /// assert_eq!(log.recovery_report().partitions[0].scanned_bytes, 0); // nothing to recover
    /// # log.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// The first error of a partition that could not be closed cleanly. The other partitions are still closed.
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
            // The child has no threads to end, and locks that they held at the fork stay held for ever. Nothing is
            // touched and nothing is freed, because freeing would close files and wait for locks.
            std::mem::forget(Arc::clone(&self.0));
        } else {
            self.0.abandon();
        }
    }
}
