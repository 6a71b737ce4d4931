//! stratalog beside what a user would pick instead: the same work, one run, one machine. The limits of the machine are
//! measured beside, so that each figure is also told as a share of its limit.

#[path = "../../../benches/counting/mod.rs"]
mod counting;

mod clocked;
mod data;
mod engines;
mod limits;
mod machine;
mod report;
mod session;
mod worker;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use engines::Engine;
use session::Scale;
use worker::{Amount, Part};

/// Compares stratalog with what a user would pick instead, on this machine, and prints tables.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Args {
    /// Within two minutes; the figures are rough.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// With larger logs, more rounds, and 5,000,000 updates of 500,000 keys: an hour.
    #[arg(long)]
    full: bool,
    /// Only these engines, by the names of their packages. This one always takes part.
    #[arg(long, value_delimiter = ',')]
    engines: Vec<String>,
    /// Also writes `benchmarks.svg`, and the tables into `benchmarks.md`, between their markers, in this directory.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Where data is kept meanwhile: a directory on the disk that is to be measured. Default: beside this program.
    #[arg(long)]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    child: Option<Worker>,
}

#[derive(Subcommand)]
enum Worker {
    /// One part with one engine: what the program runs itself for.
    #[command(hide = true)]
    Worker {
        engine: String,
        part: Part,
        dir: PathBuf,
        #[command(flatten)]
        amount: Amount,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(Worker::Worker { engine, part, dir, amount }) = args.child {
        worker::run(Engine::named(&engine).expect("the parent knows it"), part, &dir, amount);
        return ExitCode::SUCCESS;
    }
    let scale = match (args.quick, args.full) {
        (true, _) => Scale::Quick,
        (_, true) => Scale::Full,
        _ => Scale::Default,
    };
    let Some(engines) = chosen(&args.engines) else { return ExitCode::FAILURE };
    let beside = || Path::new(&std::env::args_os().next().unwrap_or_default()).parent().map(Path::to_path_buf);
    let parent = args.dir.or_else(beside).unwrap_or_default();
    let dir = match tempfile::Builder::new().prefix("stratalog-peers-").tempdir_in(&parent) {
        Ok(dir) => dir,
        Err(error) => {
            eprintln!("{}: {error}", parent.display());
            return ExitCode::FAILURE;
        }
    };
    let outcome = session::run(scale, &engines, dir.path());
    let machine = machine::Machine::look(dir.path());
    report::print(&outcome, &machine);
    if let Some(out) = &args.out
        && let Err(error) = report::write(&outcome, &machine, out)
    {
        eprintln!("{}: {error}", out.display());
        return ExitCode::FAILURE;
    }
    if outcome.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn chosen(names: &[String]) -> Option<Vec<Engine>> {
    if let Some(unknown) = names.iter().find(|name| Engine::named(name).is_none()) {
        let known: Vec<&str> = Engine::ALL.iter().map(|engine| engine.name()).collect();
        eprintln!("{unknown} is not one of {}", known.join(", "));
        return None;
    }
    let wanted = |engine: &&Engine| {
        names.is_empty() || **engine == Engine::Stratalog || names.iter().any(|name| name == engine.name())
    };
    Some(Engine::ALL.iter().filter(wanted).copied().collect())
}
