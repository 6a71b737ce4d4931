//! Creating, configuring and deleting topics. Each change commits with the catalog, one at a time.

use crate::catalog::{Catalog, TopicEntry};
use crate::config::TopicConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::format::file_name;
use crate::partition::waiters::Wakes;
use crate::sync::{Arc, MutexGuard};

use super::inner::LogInner;
use super::partition::Partition;
use super::topic_state::TopicInner;
use super::{directory, open};

/// The most partitions that a topic gets in one call: each is a directory.
const PARTITIONS_MAX: u32 = 1_000_000;

/// What a call creates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Creation {
    /// A topic with all its partitions.
    Topic,
    /// One partition of a topic.
    Partition,
    /// The partitions that a topic lacks to reach this count.
    More(u32),
}

impl LogInner {
    pub(super) fn create(&self, name: &str, ids: &[u32], config: TopicConfig, creation: Creation) -> Result<()> {
        file_name::check_topic(name).map_err(|why| ErrorKind::InvalidName(why.as_str().into()))?;
        config.validate()?;
        if ids.is_empty() || ids.iter().any(|id| *id > i32::MAX as u32) {
            return Err(ErrorKind::InvalidConfig("a topic has partitions, numbered up to 2^31 - 1".into()).into());
        }
        let mut catalog = self.lock_catalog();
        self.check_writable()?;
        let mut changed = catalog.clone();
        let exists = changed.topics.contains_key(name);
        // A deleted topic or partition blocks its name until its files are gone.
        if exists
            && (creation == Creation::Topic
                || ids.iter().any(|id| {
                    let topic = &changed.topics[name];
                    topic.partitions.contains(id) || topic.has_deleted(*id)
                }))
        {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let storage = &*self.resources.storage;
        let id = directory::new_topic_id(storage)?;
        let entry = changed.topics.entry(name.to_owned()).or_insert_with(|| TopicEntry::new(id, config));
        entry.partitions.extend(ids);
        match (creation, entry.declared) {
            (Creation::Topic, _) => entry.declared = Some(ids.len() as u32),
            (Creation::More(count), _) => entry.declared = Some(count),
            (Creation::Partition, Some(declared)) if ids.iter().any(|id| *id >= declared) => {
                return Err(invalid(format!("the topic has {declared} partitions, as was declared")));
            }
            (Creation::Partition, _) => {}
        }
        let declared = entry.declared;
        for id in ids {
            directory::make_partition(&self.resources, &self.dir, name, *id, entry.id)?;
        }
        storage.sync_dir(&self.dir).map_err(|e| Error::io(e, &self.dir))?;
        // The commit. If a crash comes before it, the next open removes what was created.
        changed.store(storage, &self.dir)?;
        let config = Arc::new(changed.topics[name].config.clone());
        *catalog = changed;
        for id in ids {
            let request = open::request(&self.config, &self.resources, &self.dir, name, *id, &config);
            let (core, _) = crate::recovery::open(request)?;
            self.register(core);
        }
        // No record is routed to a partition before the partition exists.
        self.topics().get(name).into_iter().for_each(|topic| topic.set_declared(declared));
        Ok(())
    }

    pub(crate) fn add_partitions(&self, name: &str, count: u32) -> Result<()> {
        check_count(count)?;
        let (config, ids) = {
            let catalog = self.lock_catalog();
            let entry = catalog.topics.get(name).ok_or(ErrorKind::NotFound)?;
            check_grows(entry, count)?;
            let ids: Vec<u32> = (0..count).filter(|id| !entry.partitions.contains(id)).collect();
            (entry.config.clone(), ids)
        };
        if ids.is_empty() {
            self.declare_partitions(name, count)
        } else {
            self.create(name, &ids, config, Creation::More(count))
        }
    }

    pub(crate) fn declare_partitions(&self, name: &str, count: u32) -> Result<()> {
        let mut catalog = self.lock_catalog();
        self.check_writable()?;
        let mut changed = catalog.clone();
        let entry = changed.topics.get_mut(name).ok_or(ErrorKind::NotFound)?;
        check_grows(entry, count)?;
        if entry.declared.replace(count) != Some(count) {
            changed.store(&*self.resources.storage, &self.dir)?;
            *catalog = changed;
        }
        self.topics().get(name).into_iter().for_each(|topic| topic.set_declared(Some(count)));
        Ok(())
    }

    /// Returns whether this topic still exists under its name: it is not a deleted one.
    pub(crate) fn has(&self, topic: &Arc<TopicInner>) -> bool {
        self.topics().get(&*topic.name).is_some_and(|current| Arc::ptr_eq(current, topic))
    }

    pub(crate) fn topic_config(&self, name: &str) -> Result<TopicConfig> {
        self.check_open()?;
        let catalog = self.lock_catalog();
        catalog.topics.get(name).map(|entry| entry.config.clone()).ok_or_else(|| ErrorKind::NotFound.into())
    }

    pub(crate) fn set_topic_config(&self, name: &str, config: TopicConfig) -> Result<()> {
        config.validate()?;
        let mut catalog = self.lock_catalog();
        self.check_writable()?;
        let mut changed = catalog.clone();
        let entry = changed.topics.get_mut(name).ok_or(ErrorKind::NotFound)?;
        entry.config = config.clone();
        entry.adopted = false;
        changed.store(&*self.resources.storage, &self.dir)?;
        *catalog = changed;
        let config = Arc::new(config);
        let topic = self.topics().get(name).cloned();
        let partitions = topic.map(|topic| topic.partitions()).unwrap_or_default();
        for partition in &partitions {
            partition.core.set_config(Arc::clone(&config));
        }
        drop(catalog);
        partitions.iter().for_each(|partition| partition.core.tell());
        Ok(())
    }

    pub(super) fn delete(&self, name: &str) -> Result<()> {
        let catalog = self.lock_catalog();
        self.check_writable()?;
        let mut changed = catalog.clone();
        changed.topics.get_mut(name).ok_or(ErrorKind::NotFound)?.deleted = true;
        self.commit_deletion(catalog, changed, || {
            let topic = self.topics.write().remove(name);
            topic.map(|topic| topic.partitions()).unwrap_or_default()
        })
    }

    pub(super) fn delete_partition(&self, name: &str, id: u32) -> Result<()> {
        let catalog = self.lock_catalog();
        self.check_writable()?;
        let mut changed = catalog.clone();
        let entry = changed.topics.get_mut(name).ok_or(ErrorKind::NotFound)?;
        if !entry.partitions.contains(&id) {
            return Err(ErrorKind::NotFound.into());
        }
        let is_last = entry.partitions.len() == 1;
        if is_last {
            entry.deleted = true;
        } else {
            entry.partitions.remove(&id);
            entry.taking_over.remove(&id);
            entry.leaving.insert(id);
        }
        self.commit_deletion(catalog, changed, || {
            let mut topics = self.topics.write();
            let topic = if is_last { topics.remove(name) } else { topics.get(name).cloned() };
            topic.and_then(|topic| topic.remove(id)).into_iter().collect()
        })
    }

    /// Stores a catalog with the deletion marks, then ends these partitions and removes their files.
    fn commit_deletion(
        &self,
        mut catalog: MutexGuard<'_, Catalog>,
        mut changed: Catalog,
        take_out: impl FnOnce() -> Vec<Partition>,
    ) -> Result<()> {
        let storage = &*self.resources.storage;
        // The commit. After a crash from here on the next open completes the deletion.
        changed.store(storage, &self.dir)?;
        // The marks are kept in memory from here on: a catalog stored again without a mark would bring the topic back.
        catalog.clone_from(&changed);
        let ended = take_out().iter().map(|partition| partition.core.abandon()).fold(Wakes::default(), Wakes::and);
        let removed = directory::remove_deleted(storage, &self.dir, &mut changed);
        let removed = removed.and_then(|()| changed.store(storage, &self.dir)).map(|()| *catalog = changed);
        drop(catalog);
        ended.call();
        removed
    }
}

pub(super) fn check_count(partitions: u32) -> Result<()> {
    if (1..=PARTITIONS_MAX).contains(&partitions) {
        Ok(())
    } else {
        Err(invalid(format!("a topic gets 1 to {PARTITIONS_MAX} partitions at a time")))
    }
}

/// Checks that the count loses no partition: neither one of this log nor a declared one.
fn check_grows(entry: &TopicEntry, count: u32) -> Result<()> {
    let least = entry.partitions.last().map_or(1, |last| last + 1).max(entry.declared.unwrap_or(1));
    if (least..=1 << 31).contains(&count) {
        Ok(())
    } else {
        Err(invalid(format!("the topic has at least {least} partitions, and can have 2^31")))
    }
}

fn invalid(why: String) -> Error {
    ErrorKind::InvalidConfig(why.into()).into()
}
