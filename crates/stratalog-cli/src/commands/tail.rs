//! `stratalog tail`: the last records, and those that come.

use std::collections::VecDeque;
use std::io::Write;
use std::time::Duration;

use stratalog::{Offset, Partition};

use super::export::FromArgs;
use crate::follow::Follower;
use crate::outcome::{Failure, Outcome, Status};
use crate::shown::{self, Shape, ShapeArgs};
use crate::text;
use crate::ui::Ui;

/// How long it waits where nothing has come.
const PAUSE: Duration = Duration::from_millis(100);
/// The most records that are looked through at once for the last ones.
const STEP_MAX: u64 = 1 << 20;

pub const EXAMPLES: &str = "\
Examples:
  stratalog tail /var/lib/orders orders
  stratalog tail -n 0 -f --json /var/lib/orders orders-0 | jq .offset

With -f it goes on as records come, beside the owner that appends them, until it is stopped or whoever reads its \
output goes away. It looks at the files ten times a second; it locks and writes nothing.";

#[derive(clap::Args, Debug)]
#[command(after_long_help = text::with_formats(EXAMPLES))]
pub struct Args {
    #[command(flatten)]
    from: FromArgs,
    /// How many of the last records of each partition; with --from or --since, all from there.
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 10)]
    lines: u64,
    /// Go on as records come.
    #[arg(short, long, conflicts_with_all = ["to", "committed"])]
    follow: bool,
    #[command(flatten)]
    shape: ShapeArgs,
}

pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let shape = args.shape.shape(ui)?;
    let Some(opened) = args.from.open(ui)? else { return Ok(Status::Well) };
    let mut out = ui.stdout();
    let mut followers = Vec::new();
    for partition in &opened.partitions {
        let lines = last(args, partition, &shape)?;
        for line in lines {
            out.write_all(&line)?;
        }
        followers.push(Follower::new(&args.from.dir, partition)?);
    }
    out.flush()?;
    let is_well = opened.is_well;
    drop(opened);
    if args.follow {
        follow(&mut followers, &shape, &mut out)?;
    }
    Ok(if is_well { Status::Well } else { Status::Damage })
}

/// The last records of a partition, as lines.
fn last(args: &Args, partition: &Partition, shape: &Shape) -> Result<VecDeque<Vec<u8>>, Failure> {
    let (start, end) = args.from.range(partition)?;
    let all = args.from.from.is_some() || args.from.since.is_some();
    let count = if all { u64::MAX } else { args.lines };
    // Where compaction has left gaps there are fewer records than offsets: it goes back further then.
    let mut step = if all { u64::MAX } else { count.max(1) };
    let mut lines = VecDeque::new();
    let mut to = end;
    while to > start && (lines.len() as u64) < count {
        let from = Offset::new(to.get().saturating_sub(step)).max(start);
        let mut found = read(args, partition, (from, to), count - lines.len() as u64, shape)?;
        found.append(&mut lines);
        lines = found;
        to = from;
        step = step.saturating_mul(2).min(STEP_MAX.max(count));
    }
    Ok(lines)
}

/// The last `count` records between two offsets, as lines.
fn read(
    args: &Args,
    partition: &Partition,
    (from, to): (Offset, Offset),
    count: u64,
    shape: &Shape,
) -> Result<VecDeque<Vec<u8>>, Failure> {
    let mut lines = VecDeque::new();
    let mut reader = partition.reader_with(from, args.from.options())?;
    while let Some(record) = reader.next_record()?
        && record.offset < to
    {
        let mut line = Vec::new();
        shape.write(&mut line, shown::place(partition), &record)?;
        lines.push_back(line);
        if lines.len() as u64 > count {
            lines.pop_front();
        }
    }
    Ok(lines)
}

fn follow(followers: &mut [Follower], shape: &Shape, out: &mut impl Write) -> Result<(), Failure> {
    let mut line = Vec::new();
    loop {
        let mut has_come = false;
        for follower in followers.iter_mut() {
            has_come |= follower.poll(|place, record| {
                line.clear();
                shape.write(&mut line, place, record)?;
                Ok(out.write_all(&line)?)
            })?;
        }
        if has_come {
            out.flush()?;
        } else {
            std::thread::sleep(PAUSE);
        }
    }
}
