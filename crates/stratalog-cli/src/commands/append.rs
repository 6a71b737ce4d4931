//! `stratalog append`: a record from the command line, or a line each from standard input.

use serde::Serialize;
use stratalog::{Header, Record, Timestamp};

use super::export::human_time;
use super::import;
use crate::destination::{Destination, DestinationArgs};
use crate::outcome::{Failure, Outcome, Status};
use crate::text::{self, FormatArgs, Kind};
use crate::ui::Ui;

pub const EXAMPLES: &str = "\
Examples:
  stratalog append /var/lib/orders orders --key order-1 --value placed
  stratalog append /var/lib/orders orders --key order-1 --tombstone
  echo 'order-2: placed' | stratalog append /var/lib/orders orders --key-separator ': '

With neither --value nor --tombstone every line of standard input is a record, as for import. What was appended is \
durable when the command ends. No other process may have the log open.";

#[derive(clap::Args, Debug)]
#[command(after_long_help = text::with_formats(EXAMPLES))]
pub struct Args {
    #[command(flatten)]
    to: DestinationArgs,
    /// The record's key; none when it is left out.
    #[arg(long)]
    key: Option<String>,
    /// The record's value.
    #[arg(long, conflicts_with = "tombstone")]
    value: Option<String>,
    /// A record that deletes its key.
    #[arg(long, requires = "key")]
    tombstone: bool,
    /// A header of the record; once for each.
    #[arg(long, value_name = "NAME=VALUE")]
    header: Vec<String>,
    /// The record's time: milliseconds since 1970, or a time as 2026-01-31T12:00:00Z. Default: now.
    #[arg(long, value_name = "TIME", value_parser = human_time)]
    at: Option<i64>,
    #[command(flatten)]
    format: FormatArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Appended {
    topic: String,
    partition: u32,
    offset: u64,
}

pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let format = args.format.format(None, Kind::Lines)?;
    if args.value.is_none() && !args.tombstone {
        if args.key.is_some() || !args.header.is_empty() || args.at.is_some() {
            return Err(Failure::misuse("--key, --header and --at need a --value, or --tombstone"));
        }
        return import::import(&args.to, None, format, ui);
    }
    let pair = |header: &'_ String| match header.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(Failure::misuse(format!("--header {header}: no = is in it"))),
    };
    let headers: Vec<(String, String)> = args.header.iter().map(pair).collect::<Result<_, _>>()?;
    let headers: Vec<Header<'_>> = headers.iter().map(|(name, value)| Header::new(name, value)).collect();
    let record = Record {
        key: args.key.as_ref().map(String::as_bytes),
        value: args.value.as_ref().map(String::as_bytes),
        headers: &headers,
        timestamp: args.at.map(Timestamp::from_millis),
    };
    let mut destination = args.to.open(ui)?;
    let written = destination.append_one(&record);
    let Destination { writable, topic, .. } = destination;
    let closed = writable.log.close();
    let written = written?;
    closed?;
    let appended = Appended { topic, partition: written.partition, offset: written.first_offset };
    ui.show(&appended, |appended| format!("{}-{}: offset {}", appended.topic, appended.partition, appended.offset))?;
    Ok(if writable.is_well { Status::Well } else { Status::Damage })
}
