//! One module for each command.

pub mod append;
pub mod bench;
pub mod cat;
pub mod compact;
pub mod completions;
pub mod delete_records;
pub mod demo;
pub mod dump;
pub mod export;
pub mod export_kafka;
pub mod flip;
pub mod get;
pub mod import;
pub mod import_kafka;
pub mod info;
pub mod inspect;
pub mod repair;
pub mod retain;
pub mod segments;
pub mod tail;
pub mod topics;
pub mod truncate;
pub mod verify;

use clap::CommandFactory;

use crate::cli::{Cli, Command};
use crate::outcome::Outcome;
use crate::ui::Ui;

/// Runs a command.
pub fn run(command: Command, ui: &Ui) -> Outcome {
    match command {
        Command::Info(args) => info::run(&args, ui),
        Command::Topics(args) => topics::run(&args, ui),
        Command::Segments(args) => segments::run(&args, ui),
        Command::Dump(args) => dump::run(&args, ui),
        Command::Verify(args) => verify::run(&args, ui),
        Command::Repair(args) => repair::run(&args, ui),
        Command::Compact(args) => compact::run(&args, ui),
        Command::Retain(args) => retain::run(&args, ui),
        Command::Truncate(args) => truncate::run(&args, ui),
        Command::DeleteRecords(args) => delete_records::run(&args, ui),
        Command::Completions(args) => completions::run(&args, Cli::command(), ui),
        Command::Man(args) => completions::man(&args, Cli::command(), ui),
        Command::Import(args) => import::run(&args, ui),
        Command::Export(args) => export::run(&args, ui),
        Command::Append(args) => append::run(&args, ui),
        Command::Cat(args) => cat::run(&args, ui),
        Command::Tail(args) => tail::run(&args, ui),
        Command::Get(args) => get::run(&args, ui),
        Command::ImportKafka(args) => import_kafka::run(&args, ui),
        Command::ExportKafka(args) => export_kafka::run(&args, ui),
        Command::Inspect(args) => inspect::run(&args, ui),
        Command::Bench(args) => bench::run(&args, ui),
        Command::Demo(args) => demo::run(&args, ui),
    }
}
