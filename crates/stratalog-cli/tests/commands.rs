//! What the commands do that check, mend and change, and what the tool says of itself.

mod common;

use std::fs;
use std::path::Path;

use self::common::{copy_dir, expect, files, json, listing, run, samples, text, with_log, write_log};

#[test]
fn verify_names_what_is_wrong_and_where() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path());
    assert!(expect(0, &["verify", text(dir.path())]).ends_with("all is well\n"));
    let path = dir.path().join("events-0/00000000000000000000.log");
    let mut bytes = fs::read(&path).unwrap();
    bytes[70] ^= 1;
    fs::write(&path, bytes).unwrap();
    let found = json(1, &["verify", text(dir.path())]);
    let finding = &found["partitions"][0]["findings"][0];
    assert_eq!((&finding["severity"], &finding["position"]), (&"data".into(), &0.into()));
    assert!(finding["path"].as_str().unwrap().ends_with("events-0/00000000000000000000.log"));
    assert_eq!(found["partitions"][1]["findings"], serde_json::json!([]));
}

#[test]
fn no_single_flipped_byte_panics_or_is_read_silently() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path());
    let kafka = samples("kafka-golden", "");
    let of = |name: &str| kafka.iter().find(|dir| dir.ends_with(name)).expect("it is in the repository").clone();
    for log in [dir.path().to_path_buf(), of("transactions"), of("cleaned-idempotent"), of("log-start-offset")] {
        let before = listing(&log);
        let found = json(0, &["verify", "--flip", "150", "--seed", "11", text(&log)]);
        let flip = &found["flip"];
        assert_eq!((&flip["panics"], &flip["silentWrongReads"]), (&0.into(), &0.into()), "{}: {flip}", log.display());
        assert_eq!(flip["flips"], 150);
        assert!(flip["reported"].as_u64() > Some(0), "{flip}");
        assert_eq!(listing(&log), before);
    }
    let once = json(0, &["verify", "--flip", "20", "--seed", "3", text(dir.path())]);
    assert_eq!(once, json(0, &["verify", "--flip", "20", "--seed", "3", text(dir.path())]));
}

#[test]
fn repair_shows_what_it_would_do_and_does_it_only_when_told() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path());
    let path = dir.path().join("events-0/00000000000000000072.log");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let before = listing(dir.path());
    for args in [&["repair"][..], &["repair", "--plan"]] {
        let shown = expect(1, &[args, &[text(dir.path())]].concat());
        assert!(shown.contains("aside") && shown.contains("Nothing was done"), "{shown}");
    }
    assert_eq!(listing(dir.path()), before);
    let of_log: u64 = files(dir.path())
        .iter()
        .filter(|f| f.to_str().unwrap().contains(".log"))
        .map(|f| fs::metadata(f).unwrap().len())
        .sum();
    let done = json(0, &["repair", "--yes", text(dir.path())]);
    assert!(!done["steps"].as_array().unwrap().is_empty());
    let kept: u64 = files(dir.path())
        .iter()
        .filter(|f| f.to_str().unwrap().contains(".log"))
        .map(|f| fs::metadata(f).unwrap().len())
        .sum();
    assert_eq!(kept, of_log, "no byte of a batch is deleted");
    expect(0, &["repair", text(dir.path())]);
    expect(0, &["verify", text(dir.path())]);
}

#[test]
fn repair_takes_a_directory_of_kafkas_over_only_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let crash =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/kafka-crash/bit-flip-middle-segment/before");
    copy_dir(&crash, dir.path());
    let before = listing(dir.path());
    let refused = run(&["repair", "--yes", text(dir.path())]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--take-over"));
    assert_eq!(listing(dir.path()), before);
    expect(0, &["repair", "--yes", "--take-over", text(dir.path())]);
    assert_eq!(json(0, &["info", text(dir.path())])["kind"], "stratalog");
    expect(0, &["verify", text(dir.path())]);
}

#[test]
fn compact_tells_of_before_and_after() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path());
    let done = json(0, &["compact", "--full", text(dir.path()), "prices"]);
    let changes = done["partitions"].as_array().unwrap();
    assert_eq!(changes.len(), 2);
    for change in changes {
        let bytes = |when: &str| change[when]["logBytes"].as_u64().unwrap();
        assert!(bytes("after") < bytes("before"), "{change}");
        assert_eq!(change["before"]["end"], change["after"]["end"]);
        assert!(change["done"]["segmentsRewritten"].as_u64() > Some(0));
        assert!(change["error"].is_null());
    }
    let again = expect(0, &["compact", text(dir.path())]);
    assert!(again.contains("prices-0: nothing to compact"), "{again}");
    let refused = run(&["compact", text(dir.path()), "events"]);
    assert_eq!(refused.status.code(), Some(2));
    expect(0, &["verify", text(dir.path())]);
}

#[test]
fn truncate_delete_records_and_retain_move_the_ends() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path());
    let done = json(0, &["truncate", "--to", "150", text(dir.path()), "events-0"]);
    assert_eq!(done["partitions"][0]["after"]["end"], 150);
    let done = json(0, &["delete-records", "--before", "80", text(dir.path()), "events"]);
    let change = &done["partitions"][0];
    assert_eq!((&change["after"]["logStart"], &change["done"]["segmentsRemoved"]), (&80.into(), &1.into()));
    let refused = run(&["delete-records", "--before", "1000", text(dir.path()), "events-0"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("1000"));
    let refused = run(&["truncate", "--to", "1", text(dir.path()), "prices"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("say which"));

    with_log(dir.path(), |log| {
        let topic = log.topic("events").unwrap();
        topic.set_config(topic.config().unwrap().retention_bytes(Some(1))).unwrap();
    });
    let done = json(0, &["retain", text(dir.path()), "events-0"]);
    assert_eq!(done["partitions"][0]["done"]["segmentsRemoved"], 1, "{done}");
    assert_eq!(json(0, &["info", text(dir.path())])["partitions"][0]["logStart"], 144);
    expect(0, &["verify", text(dir.path())]);
}

#[test]
fn every_command_has_a_help_text_with_examples() {
    let help = expect(0, &["--help"]);
    assert!(help.contains("Exit status"), "{help}");
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.len() >= 11, "{help}");
    for command in commands {
        let help = expect(0, &["help", command]);
        let examples = help.split("Examples:\n").nth(1).unwrap_or_default();
        assert!(examples.lines().next().is_some_and(|first| first.contains("stratalog ")), "{command}: {help}");
        // Sentences go on to the end of the line, however wide it is.
        let lines: Vec<&str> = examples.lines().collect();
        for pair in lines.windows(2).filter(|pair| !pair[0].ends_with(['.', ':']) && !pair[0].starts_with(' ')) {
            let next = pair[1].split(' ').next().unwrap_or_default();
            assert!(
                pair[0].is_empty() || next.is_empty() || pair[0].len() + 1 + next.len() > 98,
                "{command}: {}",
                pair[0]
            );
        }
    }
}

#[test]
fn what_is_refused_is_told_in_the_words_of_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path());
    let args = ["truncate", "--to", "1", text(dir.path()), "prices-0"];
    let refused = run(&args);
    assert_eq!(refused.status.code(), Some(2));
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert!(stderr.contains("--lossy") && !stderr.contains("truncate_lossy"), "{stderr}");
    let (absent, nowhere) = (["get", text(dir.path()), "prices", "absent"], ["cat", text(dir.path()), "absent"]);
    for args in [&args[..], &absent, &nowhere] {
        let output = run(&[&["--json"], args].concat());
        assert_ne!(output.status.code(), Some(0), "{args:?}");
        for line in String::from_utf8(output.stderr).unwrap().lines() {
            serde_json::from_str::<serde_json::Value>(line).expect(line);
        }
    }
}

#[test]
fn a_missing_segment_is_told_by_all_that_look() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path());
    let logs: Vec<_> = files(&dir.path().join("events-0"));
    let logs: Vec<_> = logs.iter().filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
    assert!(logs.len() > 2);
    fs::remove_file(logs[1]).unwrap();
    for command in ["info", "topics", "segments", "verify", "repair"] {
        let said = expect(1, &[command, text(dir.path())]);
        assert!(said.contains(" missing") || command == "repair", "{command}: {said}");
    }
}

#[test]
fn an_older_value_that_lies_below_damage_is_shown_with_the_status_of_damage() {
    let crash =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/kafka-crash/bit-flip-middle-segment/before");
    let output = run(&["get", text(&crash), "crash", "key-00000106"]);
    assert!(!output.stdout.is_empty());
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("damage"));
}

#[test]
fn tables_fit_eighty_columns() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path());
    for command in ["info", "topics", "segments"] {
        let shown = expect(0, &[command, text(dir.path())]);
        let body = shown.lines().skip(1);
        assert!(body.clone().all(|line| line.chars().count() <= 80), "{shown}");
    }
}

#[test]
fn shells_and_manuals_get_what_they_need() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(expect(0, &["completions", shell]).contains("delete-records"), "{shell}");
    }
    assert!(expect(0, &["man"]).contains(".TH stratalog 1"));
    let dir = tempfile::tempdir().unwrap();
    run(&["man", "--dir", text(dir.path())]);
    assert!(dir.path().join("stratalog-verify.1").exists(), "{:?}", files(dir.path()));
}

#[test]
fn bench_measures_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let place = tempfile::tempdir().unwrap();
    let html = dir.path().join("bench.html");
    let found = json(0, &["bench", "--size", "8", text(place.path()), "--html", text(&html)]);
    let rows = found["rows"].as_array().unwrap();
    assert_eq!((rows.len(), found["limits"].as_array().unwrap().len()), (7, 5));
    let page = std::fs::read_to_string(&html).unwrap();
    for row in rows {
        assert!(row["value"].as_f64() > Some(0.0) && row["ofLimit"].as_f64() > Some(0.0), "{row}");
        assert!(page.contains(row["name"].as_str().unwrap()), "{row}");
    }
    assert_eq!(common::listing(place.path()).len(), 0);
    expect(2, &["bench", "--size", "65536", "/dev/shm"]);
    expect(2, &["bench", text(&html)]);
    expect(2, &["bench", text(&dir.path().join("absent"))]);
}
