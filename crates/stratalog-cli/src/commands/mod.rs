//! One module for each command.

pub mod info;

use crate::cli::Command;
use crate::outcome::Outcome;
use crate::ui::Ui;

/// Runs a command.
pub fn run(command: Command, ui: &Ui) -> Outcome {
    match command {
        Command::Info(args) => info::run(&args, ui),
    }
}
