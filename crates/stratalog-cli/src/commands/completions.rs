//! `stratalog completions` and `stratalog man`: what shells and readers of manuals need.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use clap_complete::Shell;

use crate::outcome::{Failure, Outcome, Status};
use crate::ui::Ui;

pub const EXAMPLES: &str = "\
Examples:
  stratalog completions bash > ~/.local/share/bash-completion/completions/stratalog
  stratalog completions zsh > ~/.zfunc/_stratalog
  stratalog completions fish > ~/.config/fish/completions/stratalog.fish";

pub const MAN_EXAMPLES: &str = "\
Examples:
  stratalog man | man -l -
  stratalog man --dir /usr/local/share/man/man1";

#[derive(clap::Args, Debug)]
pub struct Args {
    shell: Shell,
}

#[derive(clap::Args, Debug)]
pub struct ManArgs {
    /// Write a page for each command into this directory, instead of the one of the tool to the output.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Writes a script for the shell that completes `tool`.
pub fn run(args: &Args, mut tool: clap::Command, ui: &Ui) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut tool, "stratalog", &mut script);
    let mut out = ui.stdout();
    out.write_all(&script)?;
    out.flush()?;
    Ok(Status::Well)
}

/// Writes the manual of `tool`.
pub fn man(args: &ManArgs, tool: clap::Command, ui: &Ui) -> Outcome {
    let Some(dir) = &args.dir else {
        let mut out = ui.stdout();
        clap_mangen::Man::new(tool).render(&mut out)?;
        out.flush()?;
        return Ok(Status::Well);
    };
    let failed = |error| Failure::misuse(format!("{}: {error}", dir.display()));
    fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(tool, dir).map_err(failed)?;
    Ok(Status::Well)
}
