//! Replays a change stream into a log, kills its own writer half way, goes on, compacts, and compares the result with
//! the truth.
//!
//! `cargo run --release --example demo [-- --git DIR | --tsv FILE]`

#[path = "demo.rs"]
mod demo;

use std::path::Path;
use std::process::{Command, ExitCode};

/// The hidden first argument of the writer that is killed.
const WRITER: &str = "--writer-until";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.as_slice() {
        [flag, count, dir, source @ ..] if flag == WRITER => write(count, dir, source).map(|()| true),
        source => {
            let writer = || {
                let mut writer = Command::new(std::env::current_exe()?);
                writer.arg(WRITER);
                Ok(writer)
            };
            demo::run(source, &mut std::io::stdout(), writer).map(|report| report.is_well())
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(count: &str, dir: &str, source: &[String]) -> Result<(), demo::Error> {
    demo::writer(count.parse()?, Path::new(dir), source)
}
