//! Tests the tester: bugs of two threads, of mappings and of held bytes cannot be planted at the storage seam, so each of
//! these is a change of the engine's own code, in `tests/data/planted-in-code.txt`, with the proof that must find it.
//!
//! Every run checks that the list fits the code. With `STRATALOG_PLANTED_IN_CODE` the tree is copied into that directory,
//! and the bugs are planted one by one, each built and looked for; `STRATALOG_PLANTED_ONLY` chooses those whose names
//! contain it, or that this kind of proof is for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

const DIR: &str = "STRATALOG_PLANTED_IN_CODE";
const ONLY: &str = "STRATALOG_PLANTED_ONLY";
/// What the copy needs to build.
const COPIED: [&str; 9] =
    ["Cargo.toml", "Cargo.lock", "clippy.toml", "README.md", "src", "tests", "benches", "examples", "crates"];
/// What a proof may be.
const PROOFS: [(&str, &[&str]); 4] = [
    ("test", &["test", "--features", "sim"]),
    ("loom", &["test", "--release", "--target-dir", "target/loom", "--lib"]),
    ("schedules", &["test", "--release", "--target-dir", "target/shuttle", "--features", "sim", "--test", "schedules"]),
    ("stress", &["test", "--release", "--test", "stress"]),
];

#[derive(Debug)]
struct Planted {
    name: String,
    file: String,
    /// Which proof, and what is passed to it.
    proof: Vec<String>,
    before: String,
    after: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The blocks of the list: `# name`, `file: ...`, `proof: ...`, the code as it is, `=>`, and what is planted.
fn list() -> Vec<Planted> {
    let text = fs::read_to_string(root().join("tests/data/planted-in-code.txt")).unwrap();
    text.split("\n# ")
        .skip(1)
        .map(|block| {
            let (name, rest) = block.split_once("\nfile: ").expect("a file");
            let (file, rest) = rest.split_once("\nproof: ").expect("a proof");
            let (proof, rest) = rest.split_once('\n').expect("code");
            let (before, after) = rest.split_once("\n=>\n").expect("what is planted");
            Planted {
                name: name.to_owned(),
                file: file.to_owned(),
                proof: proof.split(' ').map(str::to_owned).collect(),
                before: before.trim_end_matches('\n').to_owned(),
                after: after.trim_end_matches('\n').to_owned(),
            }
        })
        .collect()
}

#[test]
fn the_list_fits_the_code() {
    let list = list();
    assert!(list.len() >= 20, "{} bugs", list.len());
    for bug in &list {
        let code = fs::read_to_string(root().join(&bug.file)).unwrap();
        assert_eq!(code.matches(&bug.before).count(), 1, "{}: its place in {}", bug.name, bug.file);
        assert_ne!(bug.before, bug.after, "{}", bug.name);
        assert!(PROOFS.iter().any(|(name, _)| *name == bug.proof[0]), "{}: {:?}", bug.name, bug.proof);
    }
}

#[test]
fn every_bug_planted_in_the_code_is_found() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else {
        println!("SKIPPED: bugs are planted in a copy of the code where {DIR} names a directory for it");
        return;
    };
    copy_tree(&dir);
    let only = std::env::var(ONLY).unwrap_or_default();
    let list = list();
    let (mut found, mut missed) = (0, Vec::new());
    for bug in list.iter().filter(|bug| bug.name.contains(&only) || bug.proof[0] == only) {
        let began = Instant::now();
        let path = dir.join(&bug.file);
        let code = fs::read_to_string(&path).unwrap();
        fs::write(&path, code.replacen(&bug.before, &bug.after, 1)).unwrap();
        let output = prove(&dir, bug);
        fs::write(&path, code).unwrap();
        let seconds = began.elapsed().as_secs_f64();
        match verdict(&output) {
            Some(why) => {
                found += 1;
                println!("{seconds:5.1} s: {}: {why}", bug.name);
            }
            None => {
                println!("{seconds:5.1} s: MISSED: {}", bug.name);
                missed.push(&bug.name);
            }
        }
    }
    assert!(missed.is_empty(), "missed: {missed:?}");
    println!("{found} bugs planted in the code, all found");
}

/// Runs the proof over the planted bug.
fn prove(dir: &Path, bug: &Planted) -> Output {
    let (kind, args) = PROOFS.iter().find(|(name, _)| *name == bug.proof[0]).expect("it is one of these");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(dir).args(*args).args(&bug.proof[1..]).env("RUST_BACKTRACE", "0");
    cargo.env_remove(DIR).env_remove("CARGO_TARGET_DIR");
    match *kind {
        "loom" => cargo.env("RUSTFLAGS", "--cfg loom"),
        "schedules" => cargo.env("RUSTFLAGS", "--cfg shuttle").env("STRATALOG_SCHEDULES", "5000"),
        "stress" => cargo.env("STRATALOG_STRESS_SECONDS", "60"),
        _ => &mut cargo,
    };
    cargo.output().expect("cargo runs")
}

/// Where the proof has failed, its first complaint. A bug that does not build proves nothing.
fn verdict(output: &Output) -> Option<String> {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains("could not compile"), "it does not build: {text}");
    if output.status.success() {
        return None;
    }
    let mut lines = text.lines().skip_while(|line| !line.contains("panicked at"));
    let why = lines.nth(1).unwrap_or("it failed without a panic");
    Some(why.chars().take(120).collect())
}

fn copy_tree(to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in COPIED {
        let from = root().join(name);
        let copied = Command::new("cp").arg("-r").arg("-T").arg(&from).arg(to.join(name)).status().unwrap();
        assert!(copied.success(), "{from:?} is copied");
    }
}
