//! `stratalog get`: the latest value of a key.

use std::io::Write;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use stratalog::inspect::{self, FileEntry};
use stratalog::storage::FileSystem;
use stratalog::{FetchOptions, Offset, Partition, partition_for_key};

use super::export::FromArgs;
use crate::outcome::{Failure, Outcome, Status};
use crate::shown;
use crate::text::Format;
use crate::ui::Ui;

pub const EXAMPLES: &str = "\
Examples:
  stratalog get /var/lib/orders orders order-1
  stratalog get --base64 /var/lib/orders orders AAAAAQ==
  stratalog get --json /var/lib/orders orders order-1

Exit status: 0 and the value and a line break on standard output; 1 when no record has the key, or when the latest one \
deletes it (with --json the record is shown then, its value null).
The partition that the key belongs to is searched first, then the others, each from its newest segment to its oldest: \
of a compacted topic little is read for a key that changed lately, and everything for one that is absent.";

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The log directory.
    dir: PathBuf,
    /// A topic, or one partition of it, as orders-0.
    #[arg(value_name = "TOPIC[-P]")]
    what: String,
    /// The key.
    key: String,
    /// The key is given in base64.
    #[arg(long)]
    base64: bool,
    /// Write nothing but the value: no line break behind it.
    #[arg(long)]
    raw: bool,
    /// Leave out what belongs to transactions that were aborted or are open.
    #[arg(long)]
    committed: bool,
}

/// The latest record of the key: its offset, its value, and the record as JSON.
struct Found {
    offset: Offset,
    value: Option<Vec<u8>>,
    json: Vec<u8>,
}

pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let key = match args.base64 {
        true => STANDARD.decode(&args.key).map_err(|_| Failure::misuse(format!("{}: not base64", args.key)))?,
        false => args.key.clone().into_bytes(),
    };
    let from = FromArgs {
        dir: args.dir.clone(),
        what: args.what.clone(),
        from: None,
        to: None,
        since: None,
        committed: args.committed,
    };
    let mut opened = from.open(ui)?;
    if let Some(opened) = &mut opened {
        let count = opened.partitions.last().map_or(1, |last| last.id() + 1);
        let home = partition_for_key(&key, count);
        opened.partitions.sort_by_key(|partition| (partition.id() != home, partition.id()));
        for partition in &opened.partitions {
            if let Some(found) = search(args, &from, partition, &key)? {
                let shown = show(args, partition, &found, ui)?;
                // Below damage the latest record of the key may be an older one.
                return Ok(if opened.is_well { shown } else { Status::Damage });
            }
        }
    }
    ui.note(&format!("{}: no record has this key", args.what));
    Ok(Status::Damage)
}

fn show(args: &Args, partition: &Partition, found: &Found, ui: &Ui) -> Outcome {
    let mut out = ui.stdout();
    if ui.json() {
        out.write_all(&found.json)?;
    } else if let Some(value) = &found.value {
        out.write_all(value)?;
        if !args.raw {
            out.write_all(b"\n")?;
        }
    }
    out.flush()?;
    if found.value.is_some() {
        return Ok(Status::Well);
    }
    ui.note(&format!("{}-{}: deleted at offset {}", partition.topic(), partition.id(), found.offset));
    Ok(Status::Damage)
}

/// Searches segment by segment, the newest first.
fn search(args: &Args, from: &FromArgs, partition: &Partition, key: &[u8]) -> Result<Option<Found>, Failure> {
    let offsets = partition.offsets();
    let dir = crate::target::resolve(&args.dir)?.join(format!("{}-{}", partition.topic(), partition.id()));
    let files = inspect::files(&FileSystem::new(), &dir)?;
    let bases = files.iter().filter(|file| file.is_log()).filter_map(FileEntry::segment).map(|(base, ..)| base);
    let mut bases: Vec<Offset> = bases.filter(|base| *base > offsets.start && *base < offsets.end).collect();
    bases.insert(0, offsets.start);
    let mut end = offsets.end;
    for base in bases.into_iter().rev() {
        let options = FetchOptions { max_bytes: 4 << 20, ..from.options() };
        if let Some(found) = search_between(partition, (base, end), options, key)? {
            return Ok(Some(found));
        }
        end = base;
    }
    Ok(None)
}

fn search_between(
    partition: &Partition,
    (from, to): (Offset, Offset),
    options: FetchOptions,
    key: &[u8],
) -> Result<Option<Found>, Failure> {
    let mut reader = partition.reader_with(from, options)?;
    let mut found: Option<Found> = None;
    while let Some(record) = reader.next_record()?
        && record.offset < to
    {
        if record.key == Some(key) {
            let mut json = Vec::new();
            let written = Format::Json { text: false }.write(&mut json, shown::place(partition), &record);
            written.map_err(|unfit| Failure::misuse(unfit.to_string()))?;
            found = Some(Found { offset: record.offset, value: record.value.map(<[u8]>::to_vec), json });
        }
    }
    Ok(found)
}
