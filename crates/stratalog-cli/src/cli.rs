//! What can be said on the command line.

use clap::{Parser, Subcommand};

use crate::commands::info;

/// Looks inside log directories of stratalog and of Kafka, checks, repairs, moves and measures them.
///
/// Exit status: 0 all is well, 1 damage or a difference was found, 2 wrong use (no such directory, not a log directory,
/// no permission).
#[derive(Parser, Debug)]
#[command(name = "stratalog", version, arg_required_else_help = true)]
pub struct Cli {
    /// Print JSON for machines instead of text.
    #[arg(long, global = true)]
    pub json: bool,

    #[command(subcommand)]
    pub command: Command,
}

/// The commands, each with its arguments in its own module.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Shows what a log directory holds.
    Info(info::Args),
}
