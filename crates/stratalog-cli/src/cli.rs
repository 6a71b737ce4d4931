//! What can be said on the command line.

use clap::{Parser, Subcommand};

use crate::commands::{dump, info, segments, topics};

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
    #[command(after_help = info::EXAMPLES)]
    Info(info::Args),
    /// Lists the topics of a log, with sizes and settings.
    #[command(after_help = topics::EXAMPLES)]
    Topics(topics::Args),
    /// Lists the segments of partitions, each with what is in it.
    #[command(after_help = segments::EXAMPLES)]
    Segments(segments::Args),
    /// Shows batches, records and the entries of every other file, as they are.
    #[command(after_help = dump::EXAMPLES)]
    Dump(dump::Args),
}
