//! `stratalog cat`: shows records.

use std::io::Write;

use super::export::FromArgs;
use crate::outcome::{Outcome, Status};
use crate::shown::{self, ShapeArgs};
use crate::text;
use crate::ui::Ui;

/// About how many bytes are written at a time.
const BLOCK: usize = 1 << 16;

pub const EXAMPLES: &str = "\
Examples:
  stratalog cat /var/lib/orders orders
  stratalog cat --from 1000 -n 5 /var/lib/orders orders-0
  stratalog cat --since 2026-01-31T12:00:00Z --json /var/lib/orders orders | jq .offset

Each line has the partition and offset, the time, the key and the value. With --json or --format, records are written \
as by export. Nothing is locked or written: it works beside a running owner.";

#[derive(clap::Args, Debug)]
#[command(after_long_help = text::with_formats(EXAMPLES))]
pub struct Args {
    #[command(flatten)]
    from: FromArgs,
    /// Show at most so many records.
    #[arg(short = 'n', long, value_name = "COUNT")]
    max: Option<u64>,
    #[command(flatten)]
    shape: ShapeArgs,
}

pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let shape = args.shape.shape(ui)?;
    let Some(opened) = args.from.open(ui)? else { return Ok(Status::Well) };
    let mut left = args.max.unwrap_or(u64::MAX);
    let mut out = ui.stdout();
    let mut buffer = Vec::new();
    for partition in &opened.partitions {
        let (from, to) = args.from.range(partition)?;
        let mut reader = partition.reader_with(from, args.from.options())?;
        while left > 0
            && let Some(record) = reader.next_record()?
            && record.offset < to
        {
            let shown = shape.write(&mut buffer, shown::place(partition), &record);
            left -= 1;
            if buffer.len() > BLOCK || shown.is_err() {
                out.write_all(&buffer)?;
                buffer.clear();
            }
            shown?;
        }
    }
    out.write_all(&buffer)?;
    out.flush()?;
    Ok(if opened.is_well { Status::Well } else { Status::Damage })
}
