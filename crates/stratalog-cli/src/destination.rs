//! Where records are put: a topic of a log, which may be made for it.

use std::path::PathBuf;

use serde::Serialize;
use stratalog::{Cleanup, Log, Partition, Record, TopicConfig, partition_for_key};

use crate::human;
use crate::outcome::Failure;
use crate::target::{self, Writable, WriteArgs};
use crate::text::parse::Block;
use crate::ui::Ui;

/// About how large batches are made, unless the topic wants them smaller.
const BATCH_BYTES: usize = 128 << 10;
/// The most that a record takes in a batch, beside its key, value and headers.
const RECORD_OVERHEAD: usize = 40;
/// The same of a header.
const HEADER_OVERHEAD: usize = 10;
/// More than the header of a batch takes.
const BATCH_OVERHEAD: usize = 100;

#[derive(clap::Args, Debug)]
pub struct DestinationArgs {
    /// The log directory.
    dir: PathBuf,
    /// A topic, or one partition of it, as orders-0. Records of a topic go where their keys belong.
    #[arg(value_name = "TOPIC[-P]")]
    what: String,
    /// Make the topic with so many partitions, and the log, where they are absent.
    #[arg(long, value_name = "PARTITIONS", num_args = 0..=1, default_missing_value = "1", require_equals = true)]
    create: Option<u32>,
    /// A setting of the topic that is made, as cleanup.policy=compact; once for each.
    #[arg(long, value_name = "KEY=VALUE", requires = "create")]
    config: Vec<String>,
    #[command(flatten)]
    write: WriteArgs,
}

/// Open partitions that take records.
pub struct Destination {
    pub writable: Writable,
    pub topic: String,
    partitions: Vec<Partition>,
    /// How many partitions keys are spread over; `None` where all go to one.
    spread: Option<u32>,
    next_keyless: usize,
    needs_keys: bool,
    batch_bytes: usize,
    /// For each partition the records of a block that go there.
    routed: Vec<Vec<u32>>,
    written: Vec<Option<Written>>,
    pub records: u64,
}

/// What went into a partition.
#[derive(Serialize, Clone, Copy, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Written {
    pub partition: u32,
    pub first_offset: u64,
    /// One past the last one.
    pub end: u64,
}

impl DestinationArgs {
    /// Opens the log, and makes what is to be made.
    pub fn open(&self, ui: &Ui) -> Result<Destination, Failure> {
        let writable = self.open_log(ui)?;
        let log = &writable.log;
        let (topic, partitions, spread) = match self.find(log) {
            Some(found) => found,
            None => {
                let Some(count) = self.create else {
                    let message = format!("no topic is named {:?}; --create makes it", self.what);
                    return Err(Failure::misuse(message));
                };
                let topic = log.create_topic(&self.what, count, self.topic_config()?)?;
                let count_text = human::count(u64::from(count), "partition", "partitions");
                ui.note(&format!("made the topic {} with {count_text}", self.what));
                (self.what.clone(), topic.partitions(), Some(count))
            }
        };
        if let Some(error) = partitions.iter().find_map(|partition| partition.stats().error) {
            return Err(Failure::from(error));
        }
        let config = partitions.first().map(Partition::config).unwrap_or_default();
        Ok(Destination {
            topic,
            spread,
            next_keyless: 0,
            needs_keys: config.cleanup != Cleanup::Delete,
            batch_bytes: BATCH_BYTES.min(config.max_batch_bytes),
            routed: vec![Vec::new(); partitions.len()],
            written: vec![None; partitions.len()],
            partitions,
            records: 0,
            writable,
        })
    }

    fn open_log(&self, ui: &Ui) -> Result<Writable, Failure> {
        if self.create.is_some() {
            self.topic_config()?;
            if !self.dir.exists() {
                return Ok(Writable { log: Log::open(&self.dir, target::config())?, is_well: true });
            }
        }
        let directory = target::directory(&self.dir)?;
        match self.write.open(&directory, ui)? {
            Some(writable) => Ok(writable),
            None if self.create.is_some() => {
                Ok(Writable { log: Log::open(&directory.path, target::config())?, is_well: true })
            }
            None => Err(Failure::misuse(format!("{}: an empty directory; --create makes a log", self.dir.display()))),
        }
    }

    fn topic_config(&self) -> Result<TopicConfig, Failure> {
        let pair = |setting: &'_ String| match setting.split_once('=') {
            Some((key, value)) => Ok((key.trim().to_owned(), value.trim().to_owned())),
            None => Err(Failure::misuse(format!("--config {setting}: no = is in it"))),
        };
        let pairs: Vec<(String, String)> = self.config.iter().map(pair).collect::<Result<_, _>>()?;
        Ok(TopicConfig::from_pairs(pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())))?)
    }

    /// The topic of that name, or else the partition.
    fn find(&self, log: &Log) -> Option<(String, Vec<Partition>, Option<u32>)> {
        if let Some(topic) = log.topic(&self.what) {
            let partitions = topic.partitions();
            let count = partitions.last().map_or(0, |last| last.id() + 1);
            return Some((self.what.clone(), partitions, Some(count)));
        }
        let (topic, id) = self.what.rsplit_once('-')?;
        let partition = log.partition(topic, id.parse().ok()?)?;
        Some((topic.to_owned(), vec![partition], None))
    }
}

impl Destination {
    /// Appends the records of a block, batch by batch. After an error the whole batches before it are in.
    pub fn append(&mut self, block: &Block) -> Result<(), Failure> {
        let headers = block.headers();
        let mut unfit = None;
        self.routed.iter_mut().for_each(Vec::clear);
        for at in 0..block.len() {
            let record = block.record(at, &headers);
            match self.route(&record) {
                Ok(to) => self.routed[to].push(at as u32),
                Err(why) => {
                    unfit = Some(format!("line {}: {why}", block.line(at)));
                    break;
                }
            }
        }
        let routed = std::mem::take(&mut self.routed);
        let mut appended = Ok(());
        for (to, records) in routed.iter().enumerate() {
            appended = self.append_to(to, block, &headers, records);
            if appended.is_err() {
                break;
            }
        }
        self.routed = routed;
        appended?;
        unfit.map_or(Ok(()), |why| Err(Failure::misuse(why)))
    }

    /// Appends one record.
    pub fn append_one(&mut self, record: &Record<'_>) -> Result<Written, Failure> {
        let to = self.route(record).map_err(|why| Failure::misuse(format!("the record: {why}")))?;
        let partition = &self.partitions[to];
        let appended = partition.append_records([*record])?;
        let (first_offset, end) = (appended.base_offset.get(), appended.next_offset.get());
        Ok(Written { partition: partition.id(), first_offset, end })
    }

    /// What went where.
    pub fn written(&self) -> Vec<Written> {
        self.written.iter().flatten().copied().collect()
    }

    fn route(&mut self, record: &Record<'_>) -> Result<usize, &'static str> {
        match (record.key, self.spread) {
            (None, _) if self.needs_keys => Err("it has no key, and the topic is compacted"),
            (_, None | Some(1)) => Ok(0),
            (Some(key), Some(count)) => {
                let id = partition_for_key(key, count);
                let found = self.partitions.binary_search_by_key(&id, Partition::id);
                found.map_err(|_| "the partition that its key belongs to is not here")
            }
            (None, Some(_)) => {
                self.next_keyless = (self.next_keyless + 1) % self.partitions.len();
                Ok(self.next_keyless)
            }
        }
    }

    fn append_to(
        &mut self,
        to: usize,
        block: &Block,
        headers: &[stratalog::Header<'_>],
        mut records: &[u32],
    ) -> Result<(), Failure> {
        while !records.is_empty() {
            let mut size = BATCH_OVERHEAD;
            let fits = |at: &&u32| {
                let add = size_of(&block.record(**at as usize, headers));
                let fits = size == BATCH_OVERHEAD || size + add <= self.batch_bytes;
                size += add;
                fits
            };
            let count = records.iter().take_while(fits).count();
            let (batch, rest) = records.split_at(count);
            let partition = &self.partitions[to];
            let appended = partition.append_records(batch.iter().map(|at| block.record(*at as usize, headers)));
            let appended = appended.map_err(|error| {
                let lines = (block.line(batch[0] as usize), block.line(batch[count - 1] as usize));
                let failure = Failure::from(error);
                let message = if lines.0 == lines.1 {
                    format!("line {}: {failure}", lines.0)
                } else {
                    format!("lines {} to {}: {failure}", lines.0, lines.1)
                };
                if failure.status() == crate::outcome::Status::Damage {
                    Failure::damage(message)
                } else {
                    Failure::misuse(message)
                }
            })?;
            let (first, end) = (appended.base_offset.get(), appended.next_offset.get());
            let id = partition.id();
            let written = self.written[to].get_or_insert(Written { partition: id, first_offset: first, end });
            written.end = end;
            self.records += count as u64;
            records = rest;
        }
        Ok(())
    }
}

/// The most that a record takes in a batch.
#[inline]
fn size_of(record: &Record<'_>) -> usize {
    let headers: usize =
        record.headers.iter().map(|h| h.key.len() + h.value.map_or(0, <[u8]>::len) + HEADER_OVERHEAD).sum();
    record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len) + headers + RECORD_OVERHEAD
}
