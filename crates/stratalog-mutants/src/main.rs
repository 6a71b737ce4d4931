//! Mutation testing of the engine: a random sample of small changes of its code, each of which some test has to notice.
//!
//! All mutants of the sample are built at once, each behind a switch, in a copy of the tree. Every test runs once without
//! a mutant, and tells which switches it reaches; then each mutant is looked for by the tests that reach it, the fastest
//! first, until one fails.

mod cases;
mod find;
mod hunt;
mod rewrite;
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use find::Mutant;
use hunt::{Hunt, Outcome};
use tree::{Result, Tree};

/// Mutants that no test can tell from the code, with the reason each.
const EQUIVALENT: &str = "tests/data/mutants-equivalent.tsv";

/// Which share of the viable mutants is caught by the tests.
#[derive(Parser)]
struct Options {
    /// The seed of the sample.
    #[arg(long)]
    seed: u64,
    /// How many mutants are drawn.
    #[arg(long, default_value_t = 400)]
    count: usize,
    /// The project.
    #[arg(long, default_value = ".")]
    project: PathBuf,
    /// The copy that is built, beside the project so that what tests read there is found; the default is the project's
    /// path with `-mutants` at its end.
    #[arg(long)]
    work: Option<PathBuf>,
    /// The file of outcomes; a run that was interrupted goes on by it. The default lies in the copy.
    #[arg(long)]
    notes: Option<PathBuf>,
    /// How many tests run at once.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// How many seconds are spent on one mutant at most.
    #[arg(long, default_value_t = 3600)]
    limit: u64,
    /// Only print the sample.
    #[arg(long)]
    list: bool,
    /// Only build the copy, with the sample in it.
    #[arg(long)]
    build: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let project = fs::canonicalize(&options.project)?;
    let mut beside = project.clone().into_os_string();
    beside.push("-mutants");
    let root = options.work.clone().unwrap_or_else(|| beside.into());
    let tree = Tree { root, project };
    let all = tree.mutants()?;
    let sample = sample(&all, options.seed, options.count);
    eprintln!("{} places and changes, of which {} are drawn with seed {}", all.len(), sample.len(), options.seed);
    if options.list {
        for (id, mutant) in &sample {
            println!("{id}\t{}:{}\t{}\t{}", mutant.file, mutant.line, mutant.operator, mutant.told);
        }
        return Ok(());
    }
    fs::create_dir_all(&tree.root)?;
    tree.copy(&sample)?;
    let kept = tree.root.join(format!("unviable-{}.txt", options.seed));
    let unviable = tree.plant(&sample, &kept, |what| eprintln!("{what}"))?;
    let binaries = tree.binaries()?;
    eprintln!("{} test binaries, {} mutants do not compile", binaries.len(), unviable.len());
    if options.build {
        return Ok(());
    }
    let viable: Vec<_> = sample.iter().filter(|(id, _)| !unviable.contains(id)).cloned().collect();
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template("{wide_bar} {pos}/{len} {eta}")?);
    let limit = Duration::from_secs(options.limit);
    let hunt = Hunt { root: &tree.root, workers: options.workers, limit, bar: &bar };
    let file = tree.root.join("target/observed.tsv");
    let cases = match cases::kept(&file, &binaries) {
        Some(cases) => cases,
        None => {
            let (cases, others) = hunt.observe(&binaries)?;
            for other in &others {
                eprintln!("left out, as it does not pass in the copy: {other}");
            }
            cases::keep(&file, &binaries, &cases)?;
            cases
        }
    };
    eprintln!("{} tests, {:.0} s of them", cases.len(), cases.iter().map(|case| case.took.as_secs_f64()).sum::<f64>());
    bar.reset();
    let notes = options.notes.clone().unwrap_or_else(|| tree.root.join(format!("mutants-{}.tsv", options.seed)));
    let outcomes = hunt.hunt(&viable, &cases, &notes)?;
    bar.finish_and_clear();
    tell(options, &tree.project, &sample, unviable.len(), &outcomes)
}

/// The mutants that are drawn, in the order of their places, with numbers from 1 on.
fn sample(all: &[Mutant], seed: u64, count: usize) -> Vec<(u32, Mutant)> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut drawn = random.choose_multiple(all.iter().enumerate(), count);
    drawn.sort_by_key(|(at, _)| *at);
    (1..).zip(drawn.into_iter().map(|(_, mutant)| mutant.clone())).collect()
}

fn tell(
    options: &Options,
    project: &Path,
    sample: &[(u32, Mutant)],
    unviable: usize,
    outcomes: &[Outcome],
) -> Result<()> {
    let equivalent = equivalent(project)?;
    let mutant = |id: u32| sample.iter().find(|(other, _)| *other == id).map(|(_, mutant)| mutant);
    let is_caught = |outcome: &&Outcome| outcome.what == "caught" || outcome.what == "too late";
    let (mut without_effect, mut missed) = (0, Vec::new());
    for outcome in outcomes.iter().filter(|outcome| !is_caught(outcome)) {
        let Some(mutant) = mutant(outcome.id) else { continue };
        let key = (mutant.file.clone(), mutant.function.clone(), mutant.told.clone());
        match equivalent.get(&key) {
            Some(_) => without_effect += 1,
            None => missed.push((outcome, mutant)),
        }
    }
    let caught = outcomes.iter().filter(is_caught).count();
    let counted = outcomes.len() - without_effect;
    let percent = caught as f64 * 100.0 / counted.max(1) as f64;
    if options.json {
        let missed: Vec<String> = missed.iter().map(|(_, m)| format!("{}:{} {}", m.file, m.line, m.told)).collect();
        let result = serde_json::json!({
            "seed": options.seed, "drawn": sample.len(), "unviable": unviable, "viable": outcomes.len(),
            "caught": caught, "without_effect": without_effect, "missed": missed, "percent": percent,
        });
        println!("{result}");
        return Ok(());
    }
    for (outcome, mutant) in &missed {
        println!("{}: {}:{}: {}: {}", outcome.what, mutant.file, mutant.line, mutant.function, mutant.told);
    }
    println!(
        "{} drawn with seed {}, {unviable} do not compile; of {} that do, {without_effect} change nothing but speed, {caught} \
         are caught, {} are missed: {percent:.1} % of those that count",
        sample.len(),
        options.seed,
        outcomes.len(),
        missed.len(),
    );
    Ok(())
}

/// File, function and change of a mutant.
type Key = (String, String, String);

/// The mutants that no test can tell from the code; each line has the reason as well.
fn equivalent(project: &Path) -> Result<BTreeMap<Key, String>> {
    let path = project.join(EQUIVALENT);
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let mut all = BTreeMap::new();
    for (at, line) in fs::read_to_string(&path)?.lines().enumerate() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [file, function, told, why] = fields[..] else {
            return Err(format!("{}: line {}: four fields are expected", path.display(), at + 1).into());
        };
        all.insert((file.to_owned(), function.to_owned(), told.to_owned()), why.to_owned());
    }
    Ok(all)
}
