//! `stratalog export-kafka`: a log of ours becomes a log directory of Kafka's.

use std::path::PathBuf;

use serde::Serialize;
use stratalog::TopicConfig;
use stratalog::format::file_name::{
    CLEAN_SHUTDOWN, META_PROPERTIES, OFFSET_CHECKPOINTS, ParsedName, SegmentFileKind, Suffix,
};
use stratalog::inspect::{self, Directory, FileEntry, Kind};

use crate::copying::{self, Copy};
use crate::human;
use crate::outcome::{Failure, Outcome, Status};
use crate::target::{self, WriteArgs};
use crate::ui::Ui;

/// What Kafka writes into the marker of a clean shutdown.
const MARKER: &str = "{\"version\":0,\"brokerEpoch\":-1}";

pub const EXAMPLES: &str = "\
Examples:
  stratalog export-kafka /var/lib/orders /var/lib/kafka

The log is closed in good order and copied, with the checkpoint files and the marker of a clean shutdown; the new \
directory holds nothing but Kafka's files. A broker that is to use it wants its own meta.properties there, and its \
cluster has to know the topics by the ids in partition.metadata; their configurations, which Kafka keeps elsewhere, \
are shown for that. No other process may have the log open. (Kafka can also open a closed log of ours where it is, and \
leaves what is ours alone.)";

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The log directory.
    dir: PathBuf,
    /// The directory to make; it is absent, or empty.
    into: PathBuf,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Exported {
    path: PathBuf,
    copied_bytes: u64,
    topics: Vec<Topic>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Topic {
    name: String,
    partitions: Vec<u32>,
    /// Where it is not the default.
    config: Vec<(&'static str, String)>,
}

pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let directory = target::directory(&args.dir)?;
    match directory.kind {
        Kind::Kafka => return Err(Failure::misuse(format!("{}: Kafka's already", args.dir.display()))),
        Kind::Neither => {
            let nothing = Exported { path: args.into.clone(), copied_bytes: 0, topics: Vec::new() };
            ui.show(&nothing, |_| format!("{}: empty, nothing was made", args.dir.display()))?;
            return Ok(Status::Well);
        }
        Kind::Ours => {}
    }
    // Whoever wrote to it may not have closed it: then it is recovered first.
    if let Some(writable) = WriteArgs::default().open(&directory, ui)? {
        writable.log.close()?;
        if !writable.is_well {
            let message = format!("{}: damaged; stratalog repair comes first", args.dir.display());
            return Err(Failure::damage(message));
        }
    }
    let guard = copying::lock(&directory)?;
    let directory = inspect::open(&directory.path)?;
    if !directory.closed_cleanly {
        return Err(Failure::misuse(format!("{}: opened by somebody else meanwhile", args.dir.display())));
    }
    let mut copy = Copy::into(&args.into)?;
    for name in OFFSET_CHECKPOINTS.into_iter().chain([META_PROPERTIES]) {
        copy.add(&directory, name);
    }
    copy.add_partitions(&directory, is_kafkas)?;
    copy.run(ui)?;
    copy.seal(CLEAN_SHUTDOWN, MARKER)?;
    drop(guard);
    let exported =
        Exported { path: copy.path().to_path_buf(), copied_bytes: copy.bytes(), topics: topics(&directory)? };
    copy.finish();
    ui.show(&exported, text)?;
    Ok(Status::Well)
}

/// Whether a file of a partition is one that Kafka knows.
fn is_kafkas(file: &FileEntry) -> bool {
    match file.parsed {
        Some(ParsedName::Segment { kind, suffix: Suffix::None, .. }) => kind != SegmentFileKind::Digest,
        Some(ParsedName::LeaderEpochs | ParsedName::PartitionMetadata) => true,
        _ => false,
    }
}

fn topics(directory: &Directory) -> Result<Vec<Topic>, Failure> {
    let topics = match &directory.topics {
        Some(Ok(topics)) => topics,
        Some(Err(error)) => return Err(Failure::from(error.clone())),
        None => return Ok(Vec::new()),
    };
    let defaults = TopicConfig::default().to_pairs();
    let topic = |topic: &inspect::TopicInfo| Topic {
        name: topic.name.clone(),
        partitions: topic.partitions.clone(),
        config: topic.config.iter().filter(|pair| !defaults.contains(pair)).cloned().collect(),
    };
    Ok(topics.iter().filter(|topic| !topic.deleted).map(topic).collect())
}

fn text(exported: &Exported) -> String {
    let mut text = format!("{}: {}\n", exported.path.display(), human::size(exported.copied_bytes));
    for topic in &exported.topics {
        text += &format!("{}: {}", topic.name, human::count(topic.partitions.len() as u64, "partition", "partitions"));
        let config: Vec<String> = topic.config.iter().map(|(key, value)| format!("{key}={value}")).collect();
        if !config.is_empty() {
            text += &format!(", {}", config.join(","));
        }
        text.push('\n');
    }
    text
}
