//! One module for each command.

pub mod dump;
pub mod info;
pub mod segments;
pub mod topics;

use crate::cli::Command;
use crate::outcome::Outcome;
use crate::ui::Ui;

/// Runs a command.
pub fn run(command: Command, ui: &Ui) -> Outcome {
    match command {
        Command::Info(args) => info::run(&args, ui),
        Command::Topics(args) => topics::run(&args, ui),
        Command::Segments(args) => segments::run(&args, ui),
        Command::Dump(args) => dump::run(&args, ui),
    }
}
