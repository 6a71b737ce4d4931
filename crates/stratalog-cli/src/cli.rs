//! What can be said on the command line.

use clap::{Parser, Subcommand};

use crate::commands::{
    append, bench, cat, compact, completions, delete_records, demo, dump, export, export_kafka, get, import,
    import_kafka, info, inspect, repair, retain, segments, tail, topics, truncate, verify,
};

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
    /// Makes a page to look at: segments, shares, indexes, growth.
    #[command(after_help = inspect::EXAMPLES)]
    Inspect(inspect::Args),
    /// Shows batches, records and the entries of every other file, as they are.
    #[command(after_help = dump::EXAMPLES)]
    Dump(dump::Args),
    /// Checks every byte of a log, and changes none.
    #[command(after_help = verify::EXAMPLES)]
    Verify(verify::Args),
    /// Shows how a damaged log would be mended, and mends it when told to.
    #[command(after_help = repair::EXAMPLES)]
    Repair(repair::Args),
    /// Compacts now. Writes.
    #[command(after_help = compact::EXAMPLES)]
    Compact(compact::Args),
    /// Applies retention now. Writes.
    #[command(after_help = retain::EXAMPLES)]
    Retain(retain::Args),
    /// Removes the records at and above an offset. Writes.
    #[command(after_help = truncate::EXAMPLES)]
    Truncate(truncate::Args),
    /// Gives up the records below an offset. Writes.
    #[command(after_help = delete_records::EXAMPLES)]
    DeleteRecords(delete_records::Args),
    /// Prints a script by which a shell completes commands.
    #[command(after_help = completions::EXAMPLES)]
    Completions(completions::Args),
    /// Prints the manual.
    #[command(after_help = completions::MAN_EXAMPLES)]
    Man(completions::ManArgs),
    /// Puts records of a text file into a topic. Writes.
    #[command(after_help = import::EXAMPLES)]
    Import(import::Args),
    /// Writes the records of a topic as text.
    #[command(after_help = export::EXAMPLES)]
    Export(export::Args),
    /// Appends a record, or a line each from standard input. Writes.
    #[command(after_help = append::EXAMPLES)]
    Append(append::Args),
    /// Shows records.
    #[command(after_help = cat::EXAMPLES)]
    Cat(cat::Args),
    /// Shows the last records, and with -f those that come.
    #[command(after_help = tail::EXAMPLES)]
    Tail(tail::Args),
    /// Shows the latest value of a key.
    #[command(after_help = get::EXAMPLES)]
    Get(get::Args),
    /// Takes a log directory over that Kafka wrote. Writes.
    #[command(after_help = import_kafka::EXAMPLES)]
    ImportKafka(import_kafka::Args),
    /// Hands a log to Kafka, as a directory with nothing but Kafka's files.
    #[command(after_help = export_kafka::EXAMPLES)]
    ExportKafka(export_kafka::Args),
    /// Measures the engine on a disk. Writes.
    #[command(after_help = bench::EXAMPLES)]
    Bench(bench::Args),
    /// Replays a change stream with a kill and a compaction, and checks the result.
    #[command(after_help = demo::EXAMPLES)]
    Demo(demo::Args),
}
