//! `stratalog repair`: what recovery refuses to do by itself, because it gives up records that were acknowledged.

use std::path::PathBuf;

use serde::Serialize;
use stratalog::RecoveryReport;
use stratalog::inspect::Kind;
use stratalog::repair::{self, Options, RepairPlan, Step};

use crate::outcome::{Failure, Outcome, Status};
use crate::target::{self, WriteArgs};
use crate::ui::Ui;

pub const EXAMPLES: &str = "\
Examples:
  stratalog repair /var/lib/orders            show what would be done
  stratalog repair --yes /var/lib/orders      do it

Nothing is done without --yes. No byte is deleted: what is in the way is put aside in the same directory, under names \
that end in .broken. Records behind damage are given up all the same, so copy the directory first. The exit status is \
1 while there is something to repair, and 0 once it is done.";

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The log directory. No process may have it open when it is repaired.
    dir: PathBuf,
    /// Show what would be done, and do nothing; as without --yes.
    #[arg(long, conflicts_with = "yes")]
    plan: bool,
    /// Do it.
    #[arg(long)]
    yes: bool,
    /// Take gaps between segments for ones that a compaction left: what follows them is kept in place.
    #[arg(long)]
    allow_gaps: bool,
    #[command(flatten)]
    write: WriteArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Repair {
    path: PathBuf,
    steps: Vec<StepSummary>,
    /// What was done; absent where nothing was.
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<Vec<Done>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StepSummary {
    /// `cut`, `putAside`, `raiseStart`, `lowerEnd` or `rewriteState`.
    what: &'static str,
    path: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    /// Whole, valid batches that are given up with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    batches: Option<u64>,
    /// From the first to the second offset.
    #[serde(skip_serializing_if = "Option::is_none")]
    offsets: Option<[u64; 2]>,
    text: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    topic: String,
    partition: u32,
    end: u64,
    /// Files that were put aside, under their new names.
    kept_in: Vec<String>,
    /// Why the partition takes no writes even now.
    error: Option<String>,
}

pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let directory = target::directory(&args.dir)?;
    let mut result = Repair { path: directory.path.clone(), steps: Vec::new(), done: None };
    if directory.kind == Kind::Neither {
        ui.show(&result, text)?;
        return Ok(Status::Well);
    }
    if let Some(error) = directory.errors().first() {
        let message = format!("{error}; a repair needs the files of the log itself: restore this one from a backup");
        return Err(Failure::damage(message));
    }
    let mut options = Options::default();
    options.allow_gaps = args.allow_gaps;
    let plan = repair::plan(&directory.path, &options)?;
    result.steps = plan.steps.iter().map(StepSummary::new).collect();
    let mut status = if plan.is_empty() { Status::Well } else { Status::Damage };
    if args.yes && !plan.is_empty() {
        args.write.check_kafka(&directory)?;
        let done = carry_out(&plan)?;
        status = if done.iter().all(|done| done.error.is_none()) { Status::Well } else { Status::Damage };
        result.done = Some(done);
    }
    ui.show(&result, text)?;
    Ok(status)
}

fn carry_out(plan: &RepairPlan) -> Result<Vec<Done>, Failure> {
    let report: RecoveryReport = repair::run(plan, target::config())?;
    let mut done: Vec<Done> = report
        .partitions
        .iter()
        .map(|partition| Done {
            topic: partition.topic.clone(),
            partition: partition.partition,
            end: partition.end.get(),
            kept_in: partition.cut.iter().map(|cut| cut.kept_in.clone()).chain(partition.put_aside.clone()).collect(),
            error: partition.error.as_ref().map(ToString::to_string),
        })
        .collect();
    done.extend(report.failed.iter().map(|(topic, partition, error)| Done {
        topic: topic.clone(),
        partition: *partition,
        end: 0,
        kept_in: Vec::new(),
        error: Some(error.to_string()),
    }));
    Ok(done)
}

impl StepSummary {
    fn new(step: &Step) -> StepSummary {
        let text = step.to_string();
        let blank = |what, path: &PathBuf| StepSummary {
            what,
            path: path.clone(),
            position: None,
            bytes: None,
            batches: None,
            offsets: None,
            text,
        };
        let range = |range: &std::ops::Range<stratalog::Offset>| Some([range.start.get(), range.end.get()]);
        match step {
            Step::Cut { path, position, bytes, batches, .. } => StepSummary {
                position: Some(*position),
                bytes: Some(*bytes),
                batches: Some(*batches),
                ..blank("cut", path)
            },
            Step::PutAside { path, offsets, batches } => {
                StepSummary { batches: Some(*batches), offsets: range(offsets), ..blank("putAside", path) }
            }
            Step::RaiseStart { path, offsets } => StepSummary { offsets: range(offsets), ..blank("raiseStart", path) },
            Step::LowerEnd { path, offsets } => StepSummary { offsets: range(offsets), ..blank("lowerEnd", path) },
            Step::RewriteState { path } => blank("rewriteState", path),
            _ => blank("other", &PathBuf::new()),
        }
    }
}

fn text(repair: &Repair) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    if repair.steps.is_empty() {
        line(format!("{}: nothing to repair", repair.path.display()));
    }
    for step in &repair.steps {
        line(step.text.clone());
    }
    match &repair.done {
        None if repair.steps.is_empty() => {}
        None => line("\nNothing was done. Copy the directory, then say --yes to have it done.".to_owned()),
        Some(done) => {
            line("\nDone:".to_owned());
            for partition in done {
                let name = format!("{}-{}", partition.topic, partition.partition);
                match &partition.error {
                    Some(error) => line(format!("  {name}: still damaged: {error}")),
                    None => line(format!("  {name}: ends at {}", partition.end)),
                }
                partition.kept_in.iter().for_each(|file| line(format!("    kept {file}")));
            }
        }
    }
    out
}
