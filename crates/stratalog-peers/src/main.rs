//! stratalog beside what a user would pick instead: the same work, one run, one machine. The limits of the machine are
//! measured beside, so that each figure is also told as a share of its limit.

#[path = "../../../benches/counting/mod.rs"]
mod counting;

mod budget;
mod clocked;
mod data;
mod engines;
mod grid;
mod limits;
mod machine;
mod report;
mod session;
mod worker;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use budget::Row;
use engines::Engine;
use machine::Machine;
use session::{Outcome, Scale};
use worker::{Amount, Part};

/// Compares stratalog with what a user would pick instead, on this machine, and prints tables.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Args {
    /// Within two minutes; the figures are rough.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// With larger logs, and 5,000,000 updates of 500,000 keys: an hour.
    #[arg(long)]
    full: bool,
    /// Also measures each row of the budget: goal, figure, whether it is met, the share of the machine's limit.
    #[arg(long)]
    budget: bool,
    /// Only these rows of the budget, without the comparison; rows beside other crates need `--engines` too.
    #[arg(long, value_delimiter = ',', requires = "budget")]
    only: Vec<String>,
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
    /// What a row of the budget needs a process of its own for.
    #[command(hide = true)]
    BudgetWorker { what: String, dir: PathBuf, memory: usize },
}

fn main() -> ExitCode {
    let mut args = Args::parse();
    match args.child.take() {
        Some(Worker::Worker { engine, part, dir, amount }) => {
            worker::run(Engine::named(&engine).expect("the parent knows it"), part, &dir, amount);
            return ExitCode::SUCCESS;
        }
        Some(Worker::BudgetWorker { what, dir, memory }) => {
            budget::run_child(&what, &dir, memory);
            return ExitCode::SUCCESS;
        }
        None => {}
    }
    let Some(engines) = chosen(&args) else { return ExitCode::FAILURE };
    let beside = || Path::new(&std::env::args_os().next().unwrap_or_default()).parent().map(Path::to_path_buf);
    let parent = args.dir.clone().or_else(beside).unwrap_or_default();
    match tempfile::Builder::new().prefix("stratalog-peers-").tempdir_in(&parent) {
        Ok(dir) => measure(&args, &engines, dir.path()),
        Err(error) => {
            eprintln!("{}: {error}", parent.display());
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args, engines: &[Engine], dir: &Path) -> ExitCode {
    let scale = match (args.quick, args.full) {
        (true, _) => Scale::Quick,
        (_, true) => Scale::Full,
        _ => Scale::Default,
    };
    let compares = args.only.is_empty() || !args.engines.is_empty();
    let outcome = if compares { session::run(scale, engines, dir) } else { Outcome::empty(scale) };
    let rows = if args.budget { budget::run(scale, dir, &outcome, &args.only) } else { Vec::new() };
    let machine = machine::Machine::look(dir);
    if compares {
        report::print(&outcome, &machine);
    }
    if args.budget {
        println!("\n{}\n", budget::grid(&rows).text());
    }
    let written = match &args.out {
        Some(out) => write(out, compares, &outcome, &machine, &rows),
        None => Ok(()),
    };
    if let Err(error) = written {
        eprintln!("the report cannot be written: {error}");
        return ExitCode::FAILURE;
    }
    if outcome.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn write(out: &Path, compares: bool, outcome: &Outcome, machine: &Machine, rows: &[Row]) -> std::io::Result<()> {
    if compares {
        report::write(outcome, machine, out)?;
    }
    if rows.is_empty() { Ok(()) } else { report::write_budget(rows, machine, out) }
}

/// The engines that take part, unless a name is unknown.
fn chosen(args: &Args) -> Option<Vec<Engine>> {
    if let Some(unknown) = args.only.iter().find(|name| budget::names().all(|known| known != name.as_str())) {
        eprintln!("{unknown} is not one of {}", budget::names().collect::<Vec<_>>().join(", "));
        return None;
    }
    let names = &args.engines;
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
