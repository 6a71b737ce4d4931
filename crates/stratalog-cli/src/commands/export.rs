//! `stratalog export`: records become text.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;
use stratalog::{FetchOptions, Isolation, Log, Offset, Partition, PartitionReport, Timestamp};

use crate::human;
use crate::outcome::{Failure, Outcome, Status};
use crate::target;
use crate::text::sink::Sink;
use crate::text::{self, Format, FormatArgs, Kind};
use crate::ui::Ui;

pub const EXAMPLES: &str = "\
Examples:
  stratalog export /var/lib/orders orders changes.tsv.gz
  stratalog export --format json /var/lib/orders orders-0 | zstd > orders-0.jsonl.zst
  stratalog export --from 1000 --to 2000 --format json --text /var/lib/orders orders-0

Partition by partition, in the order of their offsets. What a format cannot hold is refused, and a file that is not \
whole is removed; --format json holds everything but offsets, which an import gives anew. Nothing is locked or \
written: it works beside a running owner, and shows what is there when it begins.";

#[derive(clap::Args, Debug)]
#[command(after_long_help = text::with_formats(EXAMPLES))]
pub struct Args {
    #[command(flatten)]
    from: FromArgs,
    /// What to write; standard output when it is left out, or is -.
    file: Option<PathBuf>,
    #[command(flatten)]
    format: FormatArgs,
    /// Write over a file that is there.
    #[arg(long)]
    force: bool,
}

/// Which records are read.
#[derive(clap::Args, Debug)]
pub struct FromArgs {
    /// The log directory.
    pub dir: PathBuf,
    /// A topic, or one partition of it, as orders-0.
    #[arg(value_name = "TOPIC[-P]")]
    pub what: String,
    /// The first offset.
    #[arg(long, value_name = "OFFSET")]
    pub from: Option<u64>,
    /// The offset to stop before.
    #[arg(long, value_name = "OFFSET")]
    pub to: Option<u64>,
    /// The first record that is as late as this: milliseconds since 1970, or a time as 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = human_time, conflicts_with = "from")]
    pub since: Option<i64>,
    /// Leave out what belongs to transactions that were aborted or are open.
    #[arg(long)]
    pub committed: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Exported {
    file: PathBuf,
    records: u64,
    seconds: f64,
    records_per_second: f64,
}

/// A log that is open for reading, and the partitions that are meant.
pub struct Opened {
    /// It has to outlive what is read of it.
    _log: Log,
    pub partitions: Vec<Partition>,
    pub is_well: bool,
}

impl FromArgs {
    /// Opens the log for reading; `None` for an empty directory. Damage is told of.
    pub fn open(&self, ui: &Ui) -> Result<Option<Opened>, Failure> {
        let directory = target::directory(&self.dir)?;
        if directory.is_empty() {
            ui.note(&format!("{}: an empty directory", self.dir.display()));
            return Ok(None);
        }
        let selected = target::partitions(&directory, Some(&self.what))?;
        let log = Log::open_read_only_with(&directory.path, target::config())?;
        let partitions = target::open_partitions(&log, &selected);
        let mut is_well = partitions.len() == selected.len();
        for partition in &partitions {
            if let Some(error) = partition.stats().error {
                is_well = false;
                ui.damage(&format!("{}-{}: {error}", partition.topic(), partition.id()));
            }
            let is_its =
                |report: &&PartitionReport| report.topic == partition.topic() && report.partition == partition.id();
            if let Some(cut) = log.recovery_report().partitions.iter().find(is_its).and_then(|r| r.cut.as_ref()) {
                is_well = false;
                let (topic, id) = (partition.topic(), partition.id());
                ui.damage(&format!(
                    "{topic}-{id}: {} bytes of {} behind offset {} are torn",
                    cut.bytes, cut.file, cut.offset
                ));
            }
        }
        if partitions.is_empty() {
            return Err(Failure::damage(format!("{}: cannot be opened", self.what)));
        }
        Ok(Some(Opened { _log: log, partitions, is_well }))
    }

    pub fn options(&self) -> FetchOptions {
        let isolation = if self.committed { Isolation::Committed } else { Isolation::End };
        FetchOptions { max_bytes: 4 << 20, isolation, ..FetchOptions::default() }
    }

    /// The offsets of a partition that are meant.
    pub fn range(&self, partition: &Partition) -> Result<(Offset, Offset), Failure> {
        let offsets = partition.offsets();
        let start = match (self.from, self.since) {
            (Some(from), _) => Offset::new(from).clamp(offsets.start, offsets.end),
            (None, Some(since)) => partition.offset_for(Timestamp::from_millis(since))?.unwrap_or(offsets.end),
            (None, None) => offsets.start,
        };
        Ok((start, self.to.map_or(offsets.end, Offset::new).min(offsets.end)))
    }
}

pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let file = text::file(args.file.as_ref());
    let format = args.format.format(file, Kind::Json)?;
    let began = Instant::now();
    let opened = args.from.open(ui)?;
    let mut sink = Sink::open(file, args.force)?;
    let (mut records, mut is_well) = (0, true);
    if let Some(opened) = &opened {
        is_well = opened.is_well;
        let ranges = opened.partitions.iter().map(|partition| args.from.range(partition));
        let ranges: Vec<(Offset, Offset)> = ranges.collect::<Result<_, _>>()?;
        let bar = ui.count(ranges.iter().map(|(from, to)| to.since(*from)).sum(), "exporting");
        for (partition, range) in opened.partitions.iter().zip(ranges) {
            records += copy(args, partition, range, &format, &mut sink, &bar)?;
        }
        bar.finish_and_clear();
    }
    sink.finish()?;
    if let Some(file) = file {
        let seconds = began.elapsed().as_secs_f64();
        let records_per_second = records as f64 / seconds;
        let exported = Exported { file: file.to_path_buf(), records, seconds, records_per_second };
        ui.show(&exported, |exported| {
            let records = human::count(exported.records, "record", "records");
            format!("{records} in {:.2} s, {:.0}/s", exported.seconds, exported.records_per_second)
        })?;
    }
    Ok(if is_well { Status::Well } else { Status::Damage })
}

fn copy(
    args: &Args,
    partition: &Partition,
    (from, to): (Offset, Offset),
    format: &Format,
    sink: &mut Sink,
    bar: &indicatif::ProgressBar,
) -> Result<u64, Failure> {
    let place = (partition.topic(), partition.id());
    let mut reader = partition.reader_with(from, args.from.options())?;
    let mut records = 0;
    while let Some(record) = reader.next_record()? {
        if record.offset >= to {
            break;
        }
        if let Err(unfit) = format.write(&mut sink.buffer, place, &record) {
            return Err(Failure::misuse(format!("{}-{}, offset {}: {unfit}", place.0, place.1, record.offset)));
        }
        records += 1;
        if records % 4096 == 0 {
            bar.inc(4096);
        }
        sink.advance()?;
    }
    Ok(records)
}

/// Milliseconds since 1970, or a time.
pub fn human_time(text: &str) -> Result<i64, String> {
    if let Ok(millis) = text.parse() {
        return Ok(millis);
    }
    let time: jiff::Timestamp = text.parse().map_err(|error| format!("{error}"))?;
    Ok(time.as_millisecond())
}
