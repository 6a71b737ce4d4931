//! `stratalog`: looks inside log directories, checks, repairs, moves and measures them.

mod change;
mod cli;
mod commands;
mod copying;
mod demo;
mod destination;
mod follow;
mod human;
mod json;
mod outcome;
mod shown;
mod summary;
mod target;
mod text;
mod ui;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::ui::Ui;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ui = Ui::new(cli.json);
    match commands::run(cli.command, &ui) {
        Ok(status) => status.into(),
        Err(failure) => {
            ui.failure(&failure);
            failure.status().into()
        }
    }
}
