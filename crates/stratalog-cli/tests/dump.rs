//! `dump`: what it shows is what Kafka itself reads, and damage does not end it.

mod common;

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;

use self::common::{expect, run, samples, text, write_log};

fn lines(output: &str) -> Vec<Value> {
    output.lines().map(|line| serde_json::from_str(line).expect("a line is one object")).collect()
}

#[test]
fn json_of_kafkas_logs_is_what_kafka_reads() {
    let directories = samples("kafka-golden", "");
    assert!(directories.len() >= 11, "{directories:?}");
    for dir in directories {
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        let expected = lines(&fs::read_to_string(dir.join("expected.jsonl")).unwrap());
        let mut found = lines(&expect(0, &["dump", "--json", text(&dir)]));
        for line in &mut found {
            let line = line.as_object_mut().unwrap();
            assert_eq!(line.shift_remove("topic"), Some(Value::from(name.as_str())));
            assert_eq!(line.shift_remove("partition"), Some(Value::from(0)));
        }
        assert_eq!(found.len(), expected.len(), "{name}");
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found, expected, "{name}");
        }
    }
}

#[test]
fn partitions_come_in_order_and_so_do_offsets() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path());
    let found = lines(&expect(0, &["--json", "dump", text(dir.path())]));
    let places: Vec<_> = found
        .iter()
        .filter(|line| line.get("offset").is_some())
        .map(|line| {
            let number = |name: &str| line[name].as_u64().unwrap();
            (line["topic"].as_str().unwrap().to_owned(), number("partition"), number("offset"))
        })
        .collect();
    assert!(places.is_sorted_by(|a, b| a < b));
    assert_eq!(places.iter().filter(|place| place.0 == "events").count(), 200);
    assert_eq!(places.last(), Some(&("prices".to_owned(), 1, 259)));
    let event = found.iter().find(|line| line["topic"] == "events" && line["offset"] == 1).unwrap();
    assert_eq!(event["headers"], serde_json::json!([["trace", "Nw=="], ["none", null]]));
    assert_eq!(event["key"], "dGV4dA==");
}

#[test]
fn text_shows_keys_and_values_so_that_they_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path());
    let events = dir.path().join("events-0");
    let found = expect(0, &["dump", "--from", "8", "--to", "10", text(&events)]);
    assert!(found.contains("    8  2023-11-14T22:13:20.004Z  null = 0x04ff00\n"), "{found}");
    assert!(
        found.contains("9  2023-11-14T22:13:20.004Z  \"text\" = \"line one\\nline two\"  [\"trace\": \"7\"]"),
        "{found}"
    );
    assert!(found.starts_with("events-0\n00000000000000000000.log\n  batch 8..=9 at byte "), "{found}");
    assert_eq!(found.lines().filter(|line| line.starts_with("    ")).count(), 2);
}

#[test]
fn every_file_of_a_log_can_be_dumped_by_its_path() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path());
    let mut directories = samples("kafka-golden", "");
    directories.push(dir.path().to_path_buf());
    let mut kinds = std::collections::BTreeSet::new();
    for file in directories.iter().flat_map(|dir| common::files(dir)) {
        let name = file.file_name().unwrap().to_str().unwrap();
        if matches!(name, "expected.jsonl" | ".lock" | ".kafka_cleanshutdown" | "meta.properties") {
            expect(2, &["dump", text(&file)]);
            continue;
        }
        assert_eq!(run(&["dump", text(&file)]).status.code(), Some(0), "{}", file.display());
        kinds.extend(
            lines(&expect_any(&["dump", "--json", text(&file)]))
                .iter()
                .map(|line| line["kind"].as_str().unwrap_or("record").to_owned()),
        );
    }
    for kind in [
        "record",
        "offsetIndex",
        "timeIndex",
        "abortedTransaction",
        "producer",
        "leaderEpoch",
        "partitionMetadata",
        "checkpoint",
        "state",
        "digest",
        "digestEntry",
        "meta",
        "usage",
        "topic",
    ] {
        assert!(kinds.contains(kind), "{kind} of {kinds:?}");
    }
    let all = expect(0, &["dump", "--all", text(dir.path())]);
    assert!(all.contains("segment bytes") || all.contains("segment.bytes = 2048"), "{all}");
    assert!(!all.contains("secret"));
}

fn expect_any(args: &[&str]) -> String {
    String::from_utf8(run(args).stdout).unwrap()
}

#[test]
fn damage_is_told_on_stderr_and_what_follows_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path());
    let path = dir.path().join("events-0/00000000000000000000.log");
    let whole = lines(&expect(0, &["dump", "--json", text(&path)])).len();
    let mut bytes = fs::read(&path).unwrap();
    bytes[70] ^= 1;
    let cut = bytes.len() - 3;
    bytes.truncate(cut);
    fs::write(&path, &bytes).unwrap();
    let output = run(&["dump", "--json", text(&path)]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(lines(&String::from_utf8(output.stdout).unwrap()).len(), whole - 4);
    let damage = lines(&String::from_utf8(output.stderr).unwrap());
    assert_eq!(damage.len(), 2, "{damage:?}");
    assert!(damage[0]["damage"].as_str().unwrap().contains("at byte 0: checksum"), "{damage:?}");
    assert!(damage[1]["damage"].as_str().unwrap().contains("no valid batch follows"), "{damage:?}");
}

#[test]
fn several_paths_are_shown_one_after_the_other_and_the_worst_status_counts() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path());
    let nothing = dir.path().join("nothing");
    let output = run(&["dump", text(&nothing), text(&dir.path().join("events-0"))]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"text\""));
    assert!(String::from_utf8_lossy(&output.stderr).contains("No such file"));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path());
    // Far more than a pipe holds.
    let paths = vec![text(dir.path()); 20];
    let mut child = Command::new(env!("CARGO_BIN_EXE_stratalog"))
        .args(["dump", "--json"])
        .args(paths)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}
