//! How fast `import` and `export` move a change stream, beside a plain copy of the same file.
//!
//! ```sh
//! cargo bench -p stratalog-cli --bench moving                       # a generated stream
//! cargo bench -p stratalog-cli --bench moving -- --stream FILE.tsv.gz --lines 5000000 --rounds 5
//! ```
//!
//! The stream is repeated to that many lines. Each figure is the median of the rounds, with the least and the most;
//! each round has a directory of its own, below `--dir` (the system's temporary one when it is left out). `import` ends
//! when all is durable, so a copy that is synced stands beside it; `export` syncs nothing, as `cp`.
//! Every round is checked: what comes out is what went in, byte for byte.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use flate2::read::MultiGzDecoder;

const TOOL: &str = env!("CARGO_BIN_EXE_stratalog");

struct Args {
    stream: Option<PathBuf>,
    lines: u64,
    rounds: usize,
    dir: PathBuf,
}

fn main() {
    let args = args();
    let scratch = tempfile::Builder::new().prefix("stratalog-moving-").tempdir_in(&args.dir).unwrap();
    let (tsv, out) = (scratch.path().join("in.tsv"), scratch.path().join("out.tsv"));
    let log = scratch.path().join("log");
    let bytes = write_stream(&args, &tsv);
    println!("{} lines, {:.1} MiB, median of {} (least to most)", args.lines, bytes as f64 / 1048576.0, args.rounds);
    let mut seconds: [Vec<f64>; 4] = Default::default();
    for _ in 0..args.rounds {
        seconds[0].push(clock(|| tool(&["import", "--create"], &log, &tsv)));
        seconds[1].push(clock(|| tool(&["export"], &log, &out)));
        assert!(is_same(&tsv, &out), "what came out is not what went in");
        fs::remove_file(&out).unwrap();
        seconds[2].push(clock(|| run(Command::new("cp").args([&tsv, &out]))));
        fs::remove_file(&out).unwrap();
        seconds[3].push(clock(|| {
            run(Command::new("cp").args([&tsv, &out]));
            File::open(&out).and_then(|file| file.sync_all()).unwrap();
        }));
        fs::remove_file(&out).unwrap();
        fs::remove_dir_all(&log).unwrap();
    }
    for (what, seconds) in ["import", "export", "cp", "cp, synced"].into_iter().zip(&mut seconds) {
        show(what, seconds, args.lines, bytes);
    }
}

fn args() -> Args {
    let mut args = Args { stream: None, lines: 5_000_000, rounds: 5, dir: std::env::temp_dir() };
    let mut given = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(name) = given.next() {
        let value = given.next().unwrap_or_else(|| panic!("{name} needs a value"));
        match name.as_str() {
            "--stream" => args.stream = Some(value.into()),
            "--lines" => args.lines = value.parse().expect("--lines is a number"),
            "--rounds" => args.rounds = value.parse().expect("--rounds is a number"),
            "--dir" => args.dir = value.into(),
            _ => panic!("{name}: --stream, --lines, --rounds and --dir are known"),
        }
    }
    assert!(args.lines > 0 && args.rounds > 0, "nothing would be measured");
    args
}

/// Writes the stream as often as it takes; returns how long it is.
fn write_stream(args: &Args, into: &Path) -> u64 {
    let mut once = Vec::new();
    match &args.stream {
        Some(path) if path.extension().is_some_and(|extension| extension == "gz") => {
            MultiGzDecoder::new(File::open(path).unwrap()).read_to_end(&mut once).unwrap();
        }
        Some(path) => once = fs::read(path).unwrap(),
        None => (0..100_000).for_each(|n| generated(&mut once, n)),
    }
    let lines = once.split_inclusive(|byte| *byte == b'\n').cycle().take(args.lines as usize);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(into).unwrap());
    lines.for_each(|line| file.write_all(line).unwrap());
    let file = file.into_inner().unwrap();
    // Its own way to the disk is not to be in the first round.
    file.sync_all().unwrap();
    file.metadata().unwrap().len()
}

/// A line like those of a tree of files under version control: some keys change often, one in eight is a deletion.
fn generated(out: &mut Vec<u8>, n: u64) {
    let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let key = mixed * mixed % 9_973;
    write!(out, "{}\tsource/module-{}/file-{key}.txt\t", 1_600_000_000_000 + 1000 * n, key % 97).unwrap();
    if !mixed.is_multiple_of(8) {
        write!(out, "100644 {:020x}{:020x}", mixed, n).unwrap();
    }
    out.push(b'\n');
}

fn tool(command: &[&str], log: &Path, file: &Path) {
    run(Command::new(TOOL).args(command).arg(log).arg("history").arg(file));
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn clock(act: impl FnOnce()) -> f64 {
    let began = Instant::now();
    act();
    began.elapsed().as_secs_f64()
}

fn is_same(one: &Path, other: &Path) -> bool {
    let (mut one, mut other) = (File::open(one).unwrap(), File::open(other).unwrap());
    let (mut left, mut right) = (Vec::new(), Vec::new());
    loop {
        left.clear();
        right.clear();
        Read::by_ref(&mut one).take(1 << 22).read_to_end(&mut left).unwrap();
        Read::by_ref(&mut other).take(1 << 22).read_to_end(&mut right).unwrap();
        if left != right || left.is_empty() {
            return left == right;
        }
    }
}

fn show(what: &str, seconds: &mut [f64], lines: u64, bytes: u64) {
    seconds.sort_by(f64::total_cmp);
    let (least, median, most) = (seconds[0], seconds[seconds.len() / 2], seconds[seconds.len() - 1]);
    let mib = bytes as f64 / median / 1048576.0;
    let rate = lines as f64 / median;
    println!("{what:<12}{median:7.2} s ({least:.2} to {most:.2}){rate:12.0} records/s{mib:8.0} MiB/s");
}
