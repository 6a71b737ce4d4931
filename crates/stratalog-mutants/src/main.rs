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

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use find::Mutant;
use hunt::{Hunt, Outcome};
use tree::{Result, Tree};

/// Mutants that change nothing but speed, each with the reason.
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
    let equivalent = equivalent(&tree.project, &all)?;
    fs::create_dir_all(&tree.root)?;
    tree.copy(&sample)?;
    // Later code has other mutants under the same numbers, and files of its own.
    let mark = mark(&sample);
    let kept = tree.root.join(format!("unviable-{mark}.txt"));
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
    let notes = options.notes.clone().unwrap_or_else(|| tree.root.join(format!("mutants-{mark}.tsv")));
    let outcomes = hunt.hunt(&viable, &cases, &notes)?;
    bar.finish_and_clear();
    tell(options, &equivalent, &sample, unviable.len(), &outcomes)
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
    equivalent: &BTreeMap<Key, String>,
    sample: &[(u32, Mutant)],
    unviable: usize,
    outcomes: &[Outcome],
) -> Result<()> {
    let mutant = |id: u32| sample.iter().find(|(other, _)| *other == id).map(|(_, mutant)| mutant);
    let (mut without_effect, mut missed) = (0, Vec::new());
    for outcome in outcomes.iter().filter(|outcome| !outcome.is_caught()) {
        let Some(mutant) = mutant(outcome.id) else { continue };
        match equivalent.get(&key(mutant)) {
            Some(_) => without_effect += 1,
            None => missed.push((outcome, mutant)),
        }
    }
    let caught = outcomes.iter().filter(|outcome| outcome.is_caught()).count();
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

fn key(mutant: &Mutant) -> Key {
    (mutant.file.clone(), mutant.function.clone(), mutant.told.clone())
}

/// A number for the sample: another one when the seed, the count or the mutated code changes.
fn mark(sample: &[(u32, Mutant)]) -> String {
    let mut hasher = DefaultHasher::new();
    for (id, mutant) in sample {
        (id, &mutant.file, mutant.place.start, mutant.place.end, &mutant.told).hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}

/// The equivalent mutants, each with its reason. An entry that fits no mutant of the code is an error.
fn equivalent(project: &Path, all: &[Mutant]) -> Result<BTreeMap<Key, String>> {
    let path = project.join(EQUIVALENT);
    let keys: BTreeSet<Key> = all.iter().map(key).collect();
    let mut found = BTreeMap::new();
    for (at, line) in fs::read_to_string(&path)?.lines().enumerate() {
        let place = format!("{}: line {}", path.display(), at + 1);
        let fields: Vec<&str> = line.split('\t').collect();
        let [file, function, told, why] = fields[..] else {
            return Err(format!("{place}: four fields are expected: file, function, change, reason").into());
        };
        let key = (file.to_owned(), function.to_owned(), told.to_owned());
        if !keys.contains(&key) {
            return Err(format!("{place}: the code has no such mutant: change the entry or remove it").into());
        }
        found.insert(key, why.to_owned());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_equivalent_mutants_fits_the_code() {
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let tree = Tree { root: PathBuf::new(), project };
        assert!(!equivalent(&tree.project, &tree.mutants().unwrap()).unwrap().is_empty());
    }

    #[test]
    fn a_sample_is_the_same_for_its_seed_and_code_only() {
        let all = find::mutants("a.rs", "fn f(a: u32) -> bool { g(a); a < 3 && a + 1 > 2 }").unwrap();
        let of = |seed, count| mark(&sample(&all, seed, count));
        assert_eq!(of(1, 5), of(1, 5));
        assert_ne!(of(1, 5), of(1, 4));
        let other = find::mutants("a.rs", "fn f(a: u32) -> bool { g(a); a < 3 && a + 1 > 22 }").unwrap();
        assert_ne!(mark(&sample(&all, 1, 9)), mark(&sample(&other, 1, 9)));
    }
}
