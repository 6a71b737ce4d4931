//! `stratalog demo`: the demo of the library.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::demo;
use crate::outcome::{Failure, Outcome, Status};
use crate::ui::Ui;

/// The hidden flag of the writer that is killed.
const WRITER: &str = "--writer";

pub const EXAMPLES: &str = "\
Examples:
  stratalog demo
  stratalog demo --git ~/src/linux
  stratalog demo --tsv changes.tsv.gz

A child process appends half of the changes to four partitions and is killed; the log is opened again, takes the other \
half, and is compacted. What it holds is compared with the truth before and after: with git's own tree, where the \
changes are a repository's, as those of the directory it is run in. All of it happens in a temporary directory. \
Exit status: 0 when all is equal, else 1.";

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Replay the history of a git repository: which file had which content, change by change.
    #[arg(long, value_name = "DIR", conflicts_with = "tsv")]
    git: Option<String>,
    /// Replay lines of timestamp TAB key TAB value.
    #[arg(long, value_name = "FILE")]
    tsv: Option<String>,
    /// Append so many changes to the log in this directory, then wait to be killed.
    #[arg(long, hide = true, num_args = 2.., allow_hyphen_values = true)]
    writer: Vec<String>,
}

pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let failure = |error: demo::Error| match error.downcast::<io::Error>() {
        Ok(error) => Failure::from(*error),
        Err(error) => Failure::misuse(error.to_string()),
    };
    if let [count, dir, source @ ..] = args.writer.as_slice() {
        let count = count.parse().map_err(|_| Failure::misuse("--writer: no number"))?;
        demo::writer(count, &PathBuf::from(dir), source).map_err(failure)?;
        return Ok(Status::Well);
    }
    let source: Vec<String> = match (&args.git, &args.tsv) {
        (Some(dir), _) => vec!["--git".to_owned(), dir.clone()],
        (None, Some(file)) => vec!["--tsv".to_owned(), file.clone()],
        (None, None) => Vec::new(),
    };
    let writer = || {
        let mut writer = Command::new(std::env::current_exe()?);
        writer.args(["demo", WRITER]);
        Ok(writer)
    };
    let mut silent = io::sink();
    let mut stdout = ui.stdout();
    let out: &mut dyn Write = if ui.json() { &mut silent } else { &mut stdout };
    let report = demo::run(&source, out, writer).map_err(failure)?;
    if ui.json() {
        let millis = |took: Duration| took.as_secs_f64() * 1e3;
        serde_json::to_writer(
            &mut stdout,
            &json!({
                "records": report.records,
                "acknowledgedBeforeKill": report.kept.iter().map(|kept| kept.0).collect::<Vec<_>>(),
                "foundAfterKill": report.kept.iter().map(|kept| kept.1).collect::<Vec<_>>(),
                "segments": report.segments,
                "bytes": report.bytes,
                "bytesCompacted": report.bytes_compacted,
                "wroteMs": millis(report.wrote),
                "recoveryScannedBytes": report.recovery_scanned,
                "recoveryMs": millis(report.recovery),
                "compactionMs": millis(report.compaction),
                "recordsLeft": report.records_left,
                "live": report.live,
                "liveExpected": report.live_expected,
                "equalBeforeCompaction": report.equal,
                "equalAfterCompaction": report.exact,
            }),
        )?;
        writeln!(stdout)?;
    }
    stdout.flush()?;
    Ok(if report.is_well() { Status::Well } else { Status::Damage })
}
