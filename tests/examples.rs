//! Every example runs to its end, and says what it is to say.

use std::path::Path;
use std::process::Command;

/// Runs an example that Cargo built beside this test, or builds it; returns what it printed.
fn run(name: &str) -> String {
    let exe = std::env::current_exe().unwrap();
    let profile = exe.parent().and_then(Path::parent).expect("tests lie in target/<profile>/deps");
    let example = profile.join("examples").join(name);
    if !example.is_file() {
        // `cargo test --test examples` builds no examples, and `cargo test` only those of the default features.
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--features", "async,sim", "--example", name, "--target-dir"]);
        build.arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success(), "{name} is built");
    }
    let output = Command::new(example).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{name}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn every_example_runs_and_says_what_it_found() {
    let said = [
        ("quickstart", "1: "),
        ("tail_async", "5 events"),
        ("compacted_kv", "49 rows after the table was opened again"),
        ("transactions", "committed: [\"debit ada 5\", \"credit bob 5\"]"),
        ("replica", "both have [\"one\", \"two\", \"three\"]"),
        ("own_scheduler", "minute 9: "),
        ("fault_injection", "of 1000 power cuts"),
        ("metrics", "stratalog_partitions 2"),
        ("take_over_kafka", "taken over: true"),
        ("backup", "the copy is whole"),
    ];
    for (name, expected) in said {
        let text = run(name);
        assert!(text.contains(expected), "{name} says {text}");
    }
    let files = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")).unwrap();
    let is_file = |entry: &std::io::Result<std::fs::DirEntry>| entry.as_ref().unwrap().path().extension().is_some();
    assert_eq!(files.filter(is_file).count(), said.len(), "every example is run");
}

#[test]
fn examples_are_short() {
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let lines = std::fs::read_to_string(&path).unwrap().lines().count();
            assert!(lines <= 80, "{}: {lines} lines", path.display());
        }
    }
}
