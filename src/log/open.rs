//! Opening a log directory: whose it is, its catalog, and its partitions in parallel.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::catalog::ownership::{Last, Shutdown, Signs};
use crate::catalog::{Catalog, TopicEntry};
use crate::config::{LogConfig, TopicConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::format::file_name::{self, META};
use crate::format::{KeyHasher, Meta};
use crate::partition::core::PartitionCore;
use crate::partition::resources::Resources;
use crate::recovery::{self, KafkaCheckpoints, PartitionReport, RecoveryReport, Request};
use crate::storage::{Storage, small_file};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex, thread};

use super::directory::{
    Content, Found, content, is_log, load_meta, new_topic_id, partition_dirs, random, remove_deleted, remove_dir,
    topic_id,
};
use super::kafka_checkpoints;

/// Opening threads for each processor. After a kill they mostly wait for the disk.
const OPENERS: usize = 4;

/// The result of opening a directory.
pub(crate) struct Opened {
    pub(crate) catalog: Catalog,
    pub(crate) partitions: Vec<Arc<PartitionCore>>,
    pub(crate) report: RecoveryReport,
}

/// Opens everything in a directory. Only this function decides who used the directory last.
pub(crate) fn open_all(dir: &Path, config: &LogConfig, resources: &Arc<Resources>, read_only: bool) -> Result<Opened> {
    let storage = &*resources.storage;
    if read_only && !is_log(storage, dir)? {
        return Err(Error::from(ErrorKind::NotALog).at_path(dir));
    }
    let meta = load_meta(storage, dir)?;
    let signs = Signs::load(storage, dir)?;
    let mut catalog = Catalog::load(storage, dir)?.unwrap_or_default();
    let mut found = partition_dirs(storage, dir)?;
    let foreign = meta.is_none() && !found.is_empty();
    // Deleted partitions are removed before anything is opened, and deleted topics leave the catalog.
    found.retain(|found| !catalog.topics.get(&found.topic).is_some_and(|entry| entry.has_deleted(found.id)));
    let names: Vec<(&str, u32)> = found.iter().map(|found| (found.topic.as_str(), found.id)).collect();
    let last = if foreign { Last::Ours } else { kafka_checkpoints::last(storage, dir, &signs, &catalog, &names)? };
    let adopt = foreign || last != Last::Ours || catalog.taking_over;
    // A takeover that had begun keeps its clean flag, unless Kafka has used the directory since.
    let begun_clean = catalog.taking_over_clean && last == Last::Ours;
    let clean = signs.shutdown != Shutdown::Unclean || begun_clean;
    if !read_only {
        let meta = prepare(dir, storage, &mut catalog, meta, (adopt, clean), &signs)?;
        let hasher = resources.hasher.set(KeyHasher::new(&meta.hash_secret));
        assert!(hasher.is_ok(), "a log is opened once");
    }
    let removed = match adopt && !foreign {
        true => kafka_checkpoints::follow(storage, dir, &signs, &mut catalog, &names)?,
        false => Vec::new(),
    };
    let found = settle_catalog(storage, dir, config, &mut catalog, found, read_only)?;
    let configs = catalog.topics.iter().map(|(topic, entry)| (topic.as_str(), Arc::new(entry.config.clone())));
    let configs: BTreeMap<&str, Arc<TopicConfig>> = configs.collect();
    let requests = found.iter().map(|found| {
        let entry = &catalog.topics[&found.topic];
        let topic_config = &configs[found.topic.as_str()];
        // If the takeover of a partition stopped at damage, it is repeated for this partition alone.
        let unfinished = entry.taking_over.get(&found.id).copied().filter(|_| !adopt);
        let clean = unfinished.unwrap_or(clean);
        let adopt = adopt || unfinished.is_some();
        let kafka = KafkaCheckpoints { clean, ..kafka_checkpoints::checkpoints_of(&signs, &found.topic, found.id) };
        Request { adopt, kafka, read_only, ..request(config, resources, dir, &found.topic, found.id, topic_config) }
    });
    let requests: Vec<Request> = requests.collect();
    let adopted: Vec<(String, u32, bool)> =
        requests.iter().filter(|r| r.adopt).map(|r| (r.topic.to_string(), r.id, r.kafka.clean)).collect();
    let (partitions, mut report) = open_partitions(requests, config)?;
    note_unfinished(&mut catalog, adopted, &report);
    note_missing(&catalog, &found, &mut report);
    (report.taken_over, report.removed) = (adopt, removed);
    if !read_only {
        (catalog.taking_over, catalog.taking_over_clean) = (false, false);
        if Catalog::load(storage, dir)?.as_ref() != Some(&catalog) {
            catalog.store(storage, dir)?;
        }
    }
    Ok(Opened { catalog, partitions, report })
}

/// Returns the request to open a partition that is known to be ours.
pub(crate) fn request(
    config: &LogConfig,
    resources: &Arc<Resources>,
    dir: &Path,
    topic: &str,
    id: u32,
    topic_config: &Arc<TopicConfig>,
) -> Request {
    let path = dir.join(file_name::partition_dir(topic, id));
    Request {
        topic: topic.into(),
        id,
        dir: resources.partition_dir(path),
        resources: Arc::clone(resources),
        config: Arc::clone(topic_config),
        mode: config.recovery,
        allow_gaps: config.allow_gaps,
        adopt: false,
        kafka: KafkaCheckpoints::default(),
        read_only: false,
        now: config.clock.now(),
    }
}

/// Makes the first writes. From here on the directory is ours, and a crash is one of ours.
fn prepare(
    dir: &Path,
    storage: &dyn Storage,
    catalog: &mut Catalog,
    meta: Option<Meta>,
    adopt: (bool, bool),
    signs: &Signs,
) -> Result<Meta> {
    // If a crash interrupts the takeover, the next open repeats it.
    (catalog.taking_over, catalog.taking_over_clean) = adopt;
    if catalog.taking_over {
        catalog.store(storage, dir)?;
    }
    let known = meta.is_some();
    let meta = match meta {
        Some(meta) => meta,
        None => Meta { log_id: random(storage)?, hash_secret: random(storage)? },
    };
    if !known {
        small_file::replace(storage, dir, &dir.join(META), &dir.join(file_name::temporary(META)), &meta.encode())?;
    }
    kafka_checkpoints::begin(storage, dir, signs)?;
    // The sync makes the removal of the marker durable. It also makes the catalog durable before anything is removed
    // because of it.
    storage.sync_dir(dir).map_err(|e| Error::io(e, dir))?;
    remove_deleted(storage, dir, catalog)?;
    Ok(meta)
}

/// Removes leftovers, and adds directories that the catalog does not know to it.
fn settle_catalog(
    storage: &dyn Storage,
    dir: &Path,
    config: &LogConfig,
    catalog: &mut Catalog,
    found: Vec<Found>,
    read_only: bool,
) -> Result<Vec<Found>> {
    let mut settled = Vec::new();
    for found in found {
        let known = catalog.topics.get(&found.topic).is_some_and(|entry| entry.partitions.contains(&found.id));
        if !known {
            let path = dir.join(file_name::partition_dir(&found.topic, found.id));
            match content(storage, &path)? {
                Content::Foreign => continue,
                Content::Unfinished => {
                    if !read_only {
                        remove_dir(storage, &path)?;
                    }
                    continue;
                }
                Content::Partition => {}
            }
            let id = match topic_id(storage, &path) {
                Some(id) => id,
                None => new_topic_id(storage)?,
            };
            let adopted = || TopicEntry { adopted: true, ..TopicEntry::new(id, config.topic_defaults.clone()) };
            let entry = catalog.topics.entry(found.topic.clone()).or_insert_with(adopted);
            entry.partitions.insert(found.id);
        }
        settled.push(found);
    }
    Ok(settled)
}

type OpenResult = Result<(Arc<PartitionCore>, PartitionReport)>;

/// Opens partitions on several threads.
fn open_partitions(requests: Vec<Request>, config: &LogConfig) -> Result<(Vec<Arc<PartitionCore>>, RecoveryReport)> {
    let several = || match requests.len() {
        0 | 1 => 1,
        _ => std::thread::available_parallelism().map_or(1, |processors| OPENERS * usize::from(processors)),
    };
    let threads = config.open_threads.unwrap_or_else(several);
    let names: Vec<(String, u32)> = requests.iter().map(|request| (request.topic.to_string(), request.id)).collect();
    let requests: Vec<Mutex<Option<Request>>> = requests.into_iter().map(|request| Mutex::new(Some(request))).collect();
    let results: Vec<Mutex<Option<OpenResult>>> = requests.iter().map(|_| Mutex::new(None)).collect();
    // Relaxed is enough: each number goes to one thread, and locks guard requests and results.
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let (Some(request), Some(result)) = (requests.get(at), results.get(at)) else { return };
            let request = request.lock().take();
            *result.lock() = request.map(recovery::open);
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads.min(requests.len()) {
            scope.spawn(work);
        }
        work();
    });
    let mut partitions = Vec::new();
    let mut report = RecoveryReport { partitions: Vec::with_capacity(results.len()), ..RecoveryReport::default() };
    for (result, (topic, id)) in results.into_iter().zip(names) {
        match result.into_inner().expect("each partition was opened") {
            Ok((core, opened)) => {
                partitions.push(core);
                report.partitions.push(opened);
            }
            Err(error) => report.failed.push((topic, id, error)),
        }
    }
    Ok((partitions, report))
}

/// Records which partitions are now taken over, and which are not because of damage.
fn note_unfinished(catalog: &mut Catalog, adopted: Vec<(String, u32, bool)>, report: &RecoveryReport) {
    let sound = |p: &&PartitionReport| p.error.is_none();
    let opened: BTreeSet<(&str, u32)> =
        report.partitions.iter().filter(sound).map(|p| (p.topic.as_str(), p.partition)).collect();
    for (topic, id, clean) in adopted {
        let Some(entry) = catalog.topics.get_mut(&topic) else { continue };
        if opened.contains(&(topic.as_str(), id)) {
            entry.taking_over.remove(&id);
        } else {
            entry.taking_over.insert(id, clean);
        }
    }
}

/// Reports partitions that the catalog lists but that have no directory.
fn note_missing(catalog: &Catalog, found: &[Found], report: &mut RecoveryReport) {
    let found: BTreeSet<(&str, u32)> = found.iter().map(|found| (found.topic.as_str(), found.id)).collect();
    for (name, entry) in catalog.topics.iter().filter(|(_, entry)| !entry.deleted) {
        for id in entry.partitions.iter().filter(|id| !found.contains(&(name.as_str(), **id))) {
            report.failed.push((name.clone(), *id, ErrorKind::NotFound.into()));
        }
    }
}
