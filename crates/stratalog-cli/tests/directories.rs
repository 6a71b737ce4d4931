//! Every command on directories of every kind: a clear answer, the documented status, no panic, nothing written.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use stratalog::{Log, LogConfig, Record};

use self::common::{Random, copy_dir, expect, files, json, listing, run, run_by, samples, text, write_log};

/// Those that only look.
const LOOKING: &[&[&str]] = &[
    &["info"],
    &["info", "--deep"],
    &["topics"],
    &["segments"],
    &["segments", "--quick"],
    &["dump"],
    &["dump", "--all"],
    &["verify"],
    &["repair"],
    &["repair", "--plan"],
];

/// Those that write.
const WRITING: &[&[&str]] = &[&["repair", "--yes"], &["compact"], &["compact", "--full"], &["retain"]];

fn on<'a>(command: &[&'a str], dir: &'a Path) -> Vec<&'a str> {
    let mut args = command.to_vec();
    args.push(text(dir));
    args
}

/// Runs what only looks, as text and as JSON, and sees that nothing was written.
fn look(dir: &Path, expected: impl Fn(&[&str]) -> i32) {
    let before = listing(dir);
    for command in LOOKING {
        let args = on(command, dir);
        expect(expected(command), &args);
        let output = run(&[&["--json"], &args[..]].concat());
        assert_eq!(output.status.code(), Some(expected(command)), "{args:?}");
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            serde_json::from_str::<serde_json::Value>(line).expect("each line is one value");
        }
    }
    let page = tempfile::NamedTempFile::new().unwrap();
    expect(expected(&["inspect"]), &["inspect", text(dir), "--html", text(page.path())]);
    let output = run(&["--json", "inspect", text(dir)]);
    assert_eq!(output.status.code(), Some(expected(&["inspect"])));
    serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("it is one value");
    assert_eq!(listing(dir), before, "{}", dir.display());
}

#[test]
fn a_sound_directory_of_ours_is_well() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path());
    look(dir.path(), |_| 0);
    let found = json(0, &["segments", text(dir.path()), "prices-1"]);
    let segments = found["segments"].as_array().unwrap();
    assert!(segments.len() > 3 && segments.iter().all(|segment| segment["partition"] == 1));
    assert!(segments.iter().any(|segment| segment["dirty"] == false && segment["tombstones"].as_u64() > Some(0)));
    let ends = |s: &serde_json::Value| (s["base"].as_u64().unwrap(), s["end"].as_u64().unwrap());
    assert!(segments.windows(2).all(|pair| ends(&pair[0]).1 == ends(&pair[1]).0));
    let info = json(0, &["info", "--deep", text(dir.path())]);
    assert_eq!(info["kind"], "stratalog");
    assert_eq!(info["partitions"][0]["end"], 200);
    assert_eq!(info["totals"]["segments"], 3 + 2 * segments.len());
    let topics = json(0, &["topics", text(dir.path())]);
    assert_eq!(topics["topics"][1]["config"]["cleanup.policy"], "compact");
    expect(2, &["segments", text(dir.path()), "nothing"]);
}

#[test]
fn what_only_looks_works_beside_a_running_owner_and_what_writes_says_that_it_cannot() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path());
    let log = Log::open(dir.path(), LogConfig::new().min_free_bytes(0).maintenance_interval(None)).unwrap();
    log.partition("events", 0).unwrap().append_records([Record::new("key", "of the owner")]).unwrap();
    look(dir.path(), |_| 0);
    assert!(expect(0, &["dump", text(dir.path())]).contains("of the owner"));
    for command in
        [&["compact"][..], &["retain"], &["truncate", "--to", "1", "--"], &["delete-records", "--before", "1", "--"]]
    {
        let mut args = on(command, dir.path());
        if command.len() > 1 {
            args.push("events-0");
        }
        let output = run(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("in use"), "{args:?}");
    }
    assert_eq!(log.partition("events", 0).unwrap().offsets().end.get(), 201);
}

#[test]
fn kafkas_directories_are_well() {
    for dir in samples("kafka-golden", "") {
        look(&dir, |_| 0);
        let before = listing(&dir);
        for command in WRITING.iter().filter(|command| command[0] != "repair") {
            // Nothing is taken over that nobody asked for.
            expect(2, &on(command, &dir));
        }
        expect(0, &on(&["repair", "--yes"], &dir));
        assert_eq!(listing(&dir), before);
    }
}

#[test]
fn what_kafka_had_since_is_well_and_nothing_of_it_is_put_aside() {
    for sample in samples("kafka-since", "") {
        for without_marker in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let log = dir.path().join("log");
            copy_dir(&sample, &log);
            let marker = log.join(".kafka_cleanshutdown");
            if without_marker && fs::remove_file(&marker).is_err() {
                continue;
            }
            look(&log, |_| 0);
            assert_eq!(json(0, &["info", text(&log)])["kafkaSince"], true, "{}", sample.display());
            assert!(expect(0, &["repair", "--yes", text(&log)]).contains("nothing to repair"));
            let record = ["append", "--key", "key", "--value", "value"];
            let topics = json(0, &["topics", text(&log)]);
            let topic =
                topics["topics"].as_array().unwrap().iter().rev().find(|topic| topic["name"] != "gone").unwrap();
            let topic = topic["name"].as_str().unwrap();
            let shown = expect(0, &["cat", text(&log), topic]).lines().count();
            expect(0, &[&record[..], &[text(&log), topic]].concat());
            assert_eq!(expect(0, &["cat", text(&log), topic]).lines().count(), shown + 1);
            look(&log, |_| 0);
            assert_eq!(json(0, &["info", text(&log)])["kafkaSince"], false);
            assert!(!files(&log).iter().any(|file| text(file).ends_with(".broken")));
        }
    }
}

#[test]
fn what_crashes_leave_has_the_documented_status() {
    for dir in samples("kafka-crash", "before") {
        let name = dir.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
        let damaged = ["bit-flip-middle-segment", "torn-tail", "garbage-tail"].contains(&name.as_str());
        look(&dir, |_| i32::from(damaged));
        for command in [&["cat", text(&dir), "crash-0"][..], &["tail", text(&dir), "crash-0"]] {
            expect(i32::from(damaged), command);
        }
    }
}

#[test]
fn an_empty_directory_is_well_and_stays_empty() {
    let dir = tempfile::tempdir().unwrap();
    let before = listing(dir.path());
    for command in LOOKING.iter().chain(WRITING) {
        let output = run(&on(command, dir.path()));
        assert_eq!(output.status.code(), Some(0), "{command:?}");
    }
    let into = dir.path().join("into");
    let (from, into) = (text(dir.path()), text(&into));
    for command in [
        &["truncate", "--to", "0", from, "t-0"][..],
        &["delete-records", "--before", "0", from, "t-0"],
        &["compact", from, "t-0"],
        &["retain", from, "t-0"],
        &["segments", from, "t-0"],
        &["export-kafka", from, into],
        &["import-kafka", from, into],
    ] {
        json(0, command);
        assert!(!expect(0, command).is_empty(), "{command:?}");
    }
    for command in ["cat", "tail", "export"] {
        let output = run(&[command, from, "t-0"]);
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&output.stderr).contains("an empty directory"), "{command}");
    }
    assert_eq!(listing(dir.path()), before);
}

#[test]
fn what_is_no_log_directory_is_wrong_use() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("notes.txt");
    fs::write(&file, "hello").unwrap();
    let absent = dir.path().join("absent");
    let nothing = dir.path().join("nothing");
    fs::create_dir(&nothing).unwrap();
    fs::write(nothing.join("notes.txt"), "hello").unwrap();
    for path in [&file, &absent, &nothing] {
        for command in LOOKING.iter().chain(WRITING) {
            expect(2, &on(command, path));
        }
        expect(2, &["inspect", text(path), "--html", text(&dir.path().join("page.html"))]);
    }
    assert!(!absent.exists());
    let log = dir.path().join("log");
    write_log(&log);
    let output = run(&["info", text(&log.join("prices-0"))]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the directory of one partition; its log is"));
    expect(2, &["info"]);
    expect(2, &["no-such-command"]);
}

#[cfg(unix)]
#[test]
fn a_directory_without_permission_is_wrong_use() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    mode(dir.path(), 0o755);
    let log = dir.path().join("log");
    write_log(&log);
    for path in listing(&log).keys() {
        mode(path, if path.is_dir() { 0o755 } else { 0o644 });
    }
    let copy = dir.path().join("stratalog");
    fs::copy(env!("CARGO_BIN_EXE_stratalog"), &copy).unwrap();
    let mut tool = vec![text(&copy)];
    mode(&log, 0o000);
    if fs::read_dir(&log).is_ok() {
        // Root may read everything.
        tool = vec!["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", text(&copy)];
    }
    let works = Command::new(tool[0]).args(&tool[1..]).arg("--version").output().is_ok_and(|o| o.status.success());
    if works {
        // The log as a whole, then only what one partition holds, then a single file.
        let file = log.join("events-0/00000000000000000000.log");
        for (closed, open) in [(log.clone(), 0o755), (log.join("events-0"), 0o755), (file, 0o644)] {
            mode(&closed, 0o000);
            for command in LOOKING.iter().chain(WRITING).filter(|command| !command.contains(&"--all")) {
                let args = on(command, &log);
                let output = run_by(&tool, &args);
                let stderr = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
                assert!(stderr.contains("ermission"), "{args:?}: {stderr}");
            }
            mode(&closed, open);
        }
    } else {
        eprintln!("SKIPPED: root may read everything, and setpriv does not work");
        mode(&log, 0o755);
    }
    let circle = dir.path().join("circle");
    std::os::unix::fs::symlink(&circle, &circle).unwrap();
    for command in LOOKING.iter().chain(WRITING) {
        expect(2, &on(command, &circle));
    }
}

#[cfg(unix)]
#[test]
fn a_link_to_a_directory_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    write_log(&log);
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&log, &link).unwrap();
    expect(0, &["info", text(&link)]);
    expect(0, &["compact", text(&link)]);
}

#[test]
fn directories_that_were_cut_or_flipped_at_random_get_a_clear_answer() {
    let dir = tempfile::tempdir().unwrap();
    let sound = dir.path().join("sound");
    write_log(&sound);
    let kafka = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/kafka-golden/transactions");
    for seed in 0..24 {
        let mut random = Random(seed);
        let damaged = dir.path().join(format!("damaged-{seed}"));
        copy_dir(if seed % 3 == 0 { &kafka } else { &sound }, &damaged);
        for _ in 0..=random.below(3) {
            let files = files(&damaged);
            let file = &files[random.below(files.len() as u64) as usize];
            let mut bytes = fs::read(file).unwrap();
            let at = random.below(bytes.len() as u64 + 1) as usize;
            match random.below(3) {
                0 => bytes.truncate(at),
                1 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 0x55),
                _ => fs::remove_file(file).unwrap(),
            }
            if file.exists() {
                fs::write(file, bytes).unwrap();
            }
        }
        let before = listing(&damaged);
        for command in LOOKING {
            let output = run(&on(command, &damaged));
            let said = !output.stdout.is_empty() || !output.stderr.is_empty();
            assert!(said || command[0] == "dump", "seed {seed}, {command:?}");
        }
        assert_eq!(listing(&damaged), before, "seed {seed}");
        for command in WRITING {
            run(&[&on(command, &damaged)[..], &["--take-over"]].concat());
        }
        // Damaged or mended, it can be looked at.
        let verified = run(&["--json", "verify", text(&damaged)]);
        let status = verified.status.code();
        assert!(
            status == Some(2)
                || serde_json::from_slice::<serde_json::Value>(&verified.stdout).is_ok()
                || !verified.stderr.is_empty()
        );
    }
}
