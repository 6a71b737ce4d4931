//! `stratalog info`: what a log directory holds.

use std::path::PathBuf;

use serde::Serialize;
use stratalog::inspect::{self, Kind};

use crate::outcome::{Failure, Outcome, Status};
use crate::ui::Ui;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The log directory.
    dir: PathBuf,
}

#[derive(Serialize)]
struct Info {
    path: PathBuf,
    kind: &'static str,
    closed_cleanly: bool,
    partitions: usize,
}

pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let directory = inspect::open(&args.dir)?;
    let kind = match directory.kind {
        Kind::Ours => "stratalog",
        Kind::Kafka => "kafka",
        Kind::Neither if directory.unknown.is_empty() => "empty",
        Kind::Neither => return Err(Failure::misuse(format!("{}: not a log directory", args.dir.display()))),
    };
    let info = Info {
        path: directory.path,
        kind,
        closed_cleanly: directory.closed_cleanly,
        partitions: directory.partitions.len(),
    };
    ui.show(&info, |info| {
        format!(
            "{}: {}, {} partitions, closed cleanly: {}",
            info.path.display(),
            info.kind,
            info.partitions,
            info.closed_cleanly
        )
    })?;
    Ok(Status::Well)
}
