//! Records in and out: text files, single records, Kafka's directories.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{copy_dir, expect, json, run, samples, text, write_log};
use flate2::read::GzDecoder;
use serde_json::Value;

/// The change stream beside the project, or one of our own: timestamps, keys, values, deletions.
fn stream() -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let places = ["../shared", "../../shared"].map(|shared| root.join(shared).join("real/kafka-history.tsv.gz"));
    if let Some(file) = places.iter().find_map(|place| fs::File::open(place).ok()) {
        let mut bytes = Vec::new();
        GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
        return bytes;
    }
    eprintln!("SKIPPED: the real change stream is not at hand, a generated one is moved");
    let line = |n: u64| match n % 7 {
        3 => format!("{}\tpath/{}\t\n", 1_600_000_000_000 + n, n % 991),
        _ => format!("{}\tpath/{}\t100644 {:040x}\n", 1_600_000_000_000 + n, n % 991, n * n),
    };
    (0..20_000).map(line).collect::<String>().into_bytes()
}

#[test]
fn a_change_stream_goes_in_and_comes_out_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (log, tsv, out) = (dir.path().join("log"), dir.path().join("in.tsv"), dir.path().join("out.tsv"));
    let stream = stream();
    fs::write(&tsv, &stream).unwrap();
    expect(0, &["import", "--create", text(&log), "history", text(&tsv)]);
    expect(0, &["export", text(&log), "history", text(&out)]);
    assert!(fs::read(&out).unwrap() == stream, "what came out is not what went in");
    expect(0, &["verify", text(&log)]);
    // And as JSON lines, on the way through another log.
    let lines = dir.path().join("lines.json");
    expect(0, &["export", "--format", "json", text(&log), "history", text(&lines)]);
    let second = dir.path().join("second");
    expect(0, &["import", "--create", "--format", "json", text(&second), "history", text(&lines)]);
    expect(0, &["export", "--force", text(&second), "history", text(&out)]);
    assert!(fs::read(&out).unwrap() == stream, "JSON lines hold everything");
}

#[test]
fn what_tab_separated_values_cannot_hold_is_refused_and_json_lines_are_named() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path());
    let out = dir.path().join("out.tsv");
    let refused = run(&["export", text(dir.path()), "events-0", text(&out)]);
    assert_eq!(refused.status.code(), Some(2));
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(why.contains("json"), "{why}");
    let json_out = dir.path().join("out.json");
    expect(0, &["export", text(dir.path()), "events-0", text(&json_out)]);
    let records: Vec<Value> =
        fs::read_to_string(&json_out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 200);
    assert!(records[0]["key"].is_null() && records[1]["headers"][0][0] == "trace");
}

#[test]
fn records_are_appended_shown_found_and_deleted_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let log = text(dir.path());
    let place = [log, "users"];
    let append = |args: &[&str]| expect(0, &[&["append"], &place[..], args].concat());
    append(&["--create", "--key", "ada", "--value", "London", "--header", "by=test", "--at", "1700000000000"]);
    append(&["--key", "ada", "--value", "Paris"]);
    append(&["--key", "bob", "--value", "Rome"]);
    assert_eq!(expect(0, &["get", log, "users", "ada"]), "Paris\n");
    assert_eq!(expect(0, &["get", "--raw", log, "users", "bob"]), "Rome");
    append(&["--key", "ada", "--tombstone"]);
    expect(1, &["get", log, "users", "ada"]);
    expect(1, &["get", log, "users", "nobody"]);
    assert!(json(1, &["get", log, "users", "ada"])["value"].is_null());
    let shown = expect(0, &["cat", log, "users"]);
    assert!(shown.contains("London") && shown.contains("Rome"), "{shown}");
    let last = expect(0, &["tail", "-n", "2", log, "users"]);
    assert!(last.contains("Rome") && !last.contains("London"), "{last}");
    let first: Value = serde_json::from_str(expect(0, &["--json", "cat", "-n", "1", log, "users"]).trim()).unwrap();
    assert_eq!((&first["offset"], &first["timestamp"]), (&0.into(), &1_700_000_000_000_i64.into()));
    expect(2, &["append", log, "nothing-0", "--value", "x"]);
    expect(2, &["cat", log, "nothing-0"]);
}

#[test]
fn lines_come_from_standard_input() {
    let dir = tempfile::tempdir().unwrap();
    let mut tool = Command::new(env!("CARGO_BIN_EXE_stratalog"));
    tool.args(["append", "--create", text(dir.path()), "words", "--key-separator", ":", "--null", "-"]);
    let mut child = tool.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"a:1\nb:two words\na:-\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(expect(0, &["get", text(dir.path()), "words", "b"]), "two words\n");
    expect(1, &["get", text(dir.path()), "words", "a"]);
    let out =
        expect(0, &["export", "--format", "lines", "--key-separator", ":", "--null", "-", text(dir.path()), "words"]);
    assert_eq!(out, "a:1\nb:two words\na:-\n");
}

/// Records of all partitions, as JSON lines.
fn records(dir: &Path) -> Vec<Value> {
    let shown = run(&["--json", "dump", text(dir)]);
    let lines = String::from_utf8(shown.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn kafkas_directories_are_taken_over_and_handed_back() {
    let mut tried = 0;
    for sample in samples("kafka-golden", "") {
        let dir = tempfile::tempdir().unwrap();
        let kafka = dir.path().join("kafka");
        copy_dir(&sample, &kafka);
        fs::remove_file(kafka.join("expected.jsonl")).ok();
        let before = records(&kafka);
        let (ours, back): (PathBuf, PathBuf) = (dir.path().join("ours"), dir.path().join("back"));
        expect(0, &["import-kafka", text(&kafka), text(&ours)]);
        expect(0, &["verify", text(&ours)]);
        assert_eq!(records(&kafka), before, "{}: Kafka's own is left alone", sample.display());
        assert_eq!(records(&ours), before, "{}", sample.display());
        expect(0, &["export-kafka", text(&ours), text(&back)]);
        assert_eq!(records(&back), before, "{}", sample.display());
        let names: Vec<_> = common::files(&back).into_iter().map(|path| path.display().to_string()).collect();
        assert!(!names.iter().any(|name| name.contains("stratalog.") || name.ends_with("/state")), "{names:?}");
        tried += 1;
    }
    assert!(tried >= 11, "{tried}");
}
