//! `stratalog topics`: the topics of a log, with their settings.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;
use stratalog::TopicConfig;
use stratalog::inspect::{self, Depth, Directory};
use stratalog::storage::FileSystem;

use super::info;
use crate::human;
use crate::outcome::{Failure, Outcome, Status};
use crate::summary::{self, PartitionSummary, Totals};
use crate::target;
use crate::ui::{self, Ui};

pub const EXAMPLES: &str = "\
Examples:
  stratalog topics /var/lib/orders
  stratalog topics --json /var/lib/orders | jq '.topics[].config[\"cleanup.policy\"]'

Settings are shown where they differ from the default; with --json all of them. Nothing is locked or written.";

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The log directory.
    dir: PathBuf,
    /// Show all settings, not only those that differ from the default.
    #[arg(long)]
    all: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Topics {
    topics: Vec<Topic>,
    damage: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Topic {
    name: String,
    id: Option<String>,
    partitions: Vec<u32>,
    #[serde(flatten)]
    totals: Totals,
    /// Under Kafka's keys where it has them. Empty for a topic that has none on record.
    config: BTreeMap<&'static str, String>,
    deleted: bool,
    /// It was taken over and has no configuration yet.
    adopted: bool,
    damage: Vec<String>,
}

pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let directory = target::directory(&args.dir)?;
    let topics = look(&directory)?;
    ui.show(&topics, |topics| text(topics, args.all))?;
    let is_well = topics.damage.is_empty() && topics.topics.iter().all(|topic| topic.damage.is_empty());
    Ok(if is_well { Status::Well } else { Status::Damage })
}

fn look(directory: &Directory) -> Result<Topics, Failure> {
    let mut topics: BTreeMap<String, Topic> = BTreeMap::new();
    let blank = |name: &str| Topic {
        name: name.to_owned(),
        id: None,
        partitions: Vec::new(),
        totals: Totals::default(),
        config: BTreeMap::new(),
        deleted: false,
        adopted: false,
        damage: Vec::new(),
    };
    for known in directory.topics.iter().flatten().flatten() {
        let topic = Topic {
            id: Some(known.id.to_string()),
            config: known.config.iter().cloned().collect(),
            deleted: known.deleted,
            adopted: known.adopted,
            ..blank(&known.name)
        };
        topics.insert(known.name.clone(), topic);
    }
    for dir in &directory.partitions {
        let found: PartitionSummary = summary::partition(directory, dir, Depth::Known, |_| {})?;
        let topic = topics.entry(dir.topic.clone()).or_insert_with(|| blank(&dir.topic));
        if topic.id.is_none() {
            let id = inspect::topic_id(&FileSystem::new(), &dir.path).ok().flatten();
            topic.id = id.map(|id| id.to_string());
        }
        topic.partitions.push(dir.id);
        topic.totals.add(&found.totals);
        topic.damage.extend(found.damage.iter().map(|what| format!("{}-{}: {what}", dir.topic, dir.id)));
    }
    let mut damage: Vec<String> = directory.errors().iter().map(|error| error.to_string()).collect();
    damage.extend(info::missing(directory));
    Ok(Topics { topics: topics.into_values().collect(), damage })
}

fn text(found: &Topics, all: bool) -> String {
    let mut out = String::new();
    if found.topics.is_empty() {
        out.push_str("no topics\n");
    } else {
        let headings = ["TOPIC", "PARTITIONS", "RECORDS", "SIZE", "DIRTY", "GARBAGE", "CLEANUP"];
        let mut table = ui::table_of_numbers(headings, &[1, 2, 3, 4, 5]);
        for topic in &found.topics {
            table.add_row([
                topic.name.clone(),
                topic.partitions.len().to_string(),
                info::cell(topic.totals.records),
                human::size(topic.totals.bytes),
                human::size(topic.totals.dirty_bytes),
                human::optional(topic.totals.garbage_bytes, human::size),
                cleanup(topic),
            ]);
        }
        out.push_str(&ui::text_of(&table));
    }
    let defaults: BTreeMap<&str, String> = TopicConfig::default().to_pairs().into_iter().collect();
    for topic in &found.topics {
        let shown: Vec<_> =
            topic.config.iter().filter(|(key, value)| all || defaults.get(*key) != Some(*value)).collect();
        if shown.is_empty() {
            continue;
        }
        let _ = writeln!(out, "\n{}", topic.name);
        for (key, value) in shown {
            let _ = writeln!(out, "  {key} = {value}");
        }
    }
    let damage = found.damage.iter().chain(found.topics.iter().flat_map(|topic| &topic.damage));
    out.push_str(&info::damage_text(damage, &[]));
    out
}

fn cleanup(topic: &Topic) -> String {
    match (topic.deleted, topic.adopted) {
        (true, _) => "(deleted)".to_owned(),
        (_, true) => "(not set)".to_owned(),
        _ => topic.config.get("cleanup.policy").cloned().unwrap_or_else(|| human::NOTHING.to_owned()),
    }
}
