//! `stratalog import`: text becomes records.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use crate::destination::{Destination, DestinationArgs, Written};
use crate::human;
use crate::outcome::{Failure, Outcome, Status};
use crate::text::source::{Source, bad_line};
use crate::text::{self, Format, FormatArgs, Kind};
use crate::ui::Ui;

pub const EXAMPLES: &str = "\
Examples:
  stratalog import --create /var/lib/orders orders changes.tsv.gz
  stratalog import --create=4 --config cleanup.policy=compact /var/lib/orders orders changes.jsonl
  stratalog cat --json /mnt/old orders | stratalog import --format json /var/lib/orders orders
  printf 'k1=v1\\nk2=NULL\\n' | stratalog import --key-separator = --null NULL /var/lib/orders orders

All that went in is durable when it ends. A line that is no record ends it with status 2: the records before it are \
in, and are counted in what it says; what is behind it is not.";

#[derive(clap::Args, Debug)]
#[command(after_long_help = text::with_formats(EXAMPLES))]
pub struct Args {
    #[command(flatten)]
    to: DestinationArgs,
    /// What to read; standard input when it is left out, or is -.
    file: Option<PathBuf>,
    #[command(flatten)]
    format: FormatArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Imported {
    topic: String,
    records: u64,
    partitions: Vec<Written>,
    seconds: f64,
    records_per_second: f64,
}

pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let file = text::file(args.file.as_ref());
    let format = args.format.format(file, Kind::Lines)?;
    if let Some(file) = file {
        // Nothing is made for a file that is not there.
        std::fs::metadata(file).map_err(|error| Failure::misuse(format!("{}: {error}", file.display())))?;
    }
    import(&args.to, args.file.as_ref(), format, ui)
}

/// Imports a file, or standard input.
pub fn import(to: &DestinationArgs, file: Option<&PathBuf>, format: Format, ui: &Ui) -> Outcome {
    let began = Instant::now();
    let mut source = Source::open(text::file(file), format)?;
    let mut destination = to.open(ui)?;
    let done = copy(&mut source, &mut destination, ui);
    let is_well = destination.writable.is_well;
    let (topic, records, partitions) = (destination.topic.clone(), destination.records, destination.written());
    let Destination { writable, .. } = destination;
    let closed = writable.log.close();
    if let Err(failure) = done {
        let went_in = human::count(records, "record", "records");
        let status = failure.status();
        let message = format!("{failure}; {went_in} went in before");
        return Err(if status == Status::Damage { Failure::damage(message) } else { Failure::misuse(message) });
    }
    closed?;
    let seconds = began.elapsed().as_secs_f64();
    let imported = Imported { topic, records, partitions, seconds, records_per_second: records as f64 / seconds };
    ui.show(&imported, |imported| {
        let mut text = format!(
            "{} in {:.2} s, {:.0}/s\n",
            human::count(imported.records, "record", "records"),
            imported.seconds,
            imported.records_per_second
        );
        for written in &imported.partitions {
            text += &format!(
                "{}-{}: offsets {} to {}\n",
                imported.topic,
                written.partition,
                written.first_offset,
                written.end - 1
            );
        }
        text
    })?;
    Ok(if is_well { Status::Well } else { Status::Damage })
}

fn copy(source: &mut Source, destination: &mut Destination, ui: &Ui) -> Result<(), Failure> {
    let bar = match source.len {
        Some(len) => ui.bytes(len, "importing"),
        None => indicatif::ProgressBar::hidden(),
    };
    while let Some(block) = source.next()? {
        destination.append(&block)?;
        if let Some(bad) = &block.error {
            return Err(Failure::misuse(bad_line(bad)));
        }
        bar.set_position(block.source_bytes);
        source.done(block);
    }
    bar.finish_and_clear();
    Ok(())
}
